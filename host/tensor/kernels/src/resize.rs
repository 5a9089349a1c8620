//! Images `[n, c, h, w]` at another size: the nearest element, or what lies between the four around.

use crate::parallel;
use crate::parts::Parts;
use crate::simd::multiversion;
use crate::stop::spend;

/// Columns of an image that are held at once; a power of 2.
const SPAN: usize = 2048;

/// What a resize is about: the input's `[n, c, h, w]` and the output's height and width.
#[derive(Clone, Copy, Debug)]
pub struct Resize2d {
    /// The input's `[n, c, h, w]`.
    pub input: [usize; 4],
    /// The output's height and width.
    pub size: [usize; 2],
}

impl Resize2d {
    fn check(&self, x: &[f32], out: &[f32]) {
        let [n, c, h, w] = self.input;
        let [oh, ow] = self.size;
        assert_eq!(x.len(), n * c * h * w, "the input is {n} x {c} x {h} x {w}");
        assert_eq!(out.len(), n * c * oh * ow, "the output is {n} x {c} x {oh} x {ow}");
        assert!(h > 0 && w > 0, "the image is empty");
    }
}

/// The element of `from` that element `i` of `to` is nearest to: `i * from / to`, or `(i + 1/2) * from / to`, rounded down.
fn nearest(i: usize, from: usize, to: usize, exact: bool) -> usize {
    match exact {
        false => i * from / to,
        true => ((2 * i + 1) * from / (2 * to)).min(from - 1),
    }
}

/// Each element of out `[n, c, oh, ow]` is one of x: that at `i * h / oh`, rounded down, or at `(i + 1/2) * h / oh` if `exact`; columns
/// alike. Allocates 8 bytes for each column of the output.
///
/// # Panics
/// If a slice has not as many elements as that takes, or the image is empty.
pub fn resize_nearest2d(sizes: &Resize2d, exact: bool, x: &[f32], out: &mut [f32]) {
    sizes.check(x, out);
    if out.is_empty() {
        return;
    }
    let [n, c, h, w] = sizes.input;
    let [oh, ow] = sizes.size;
    let columns: Vec<usize> = (0..ow).map(|j| nearest(j, w, ow, exact)).collect();
    let work = out.len() as u64 / 2;
    let planes = Parts::new(out, oh * ow);
    parallel(n * c, work, |plane| {
        // SAFETY: each task takes its own plane.
        let out = unsafe { planes.take(plane) };
        let image = &x[plane * h * w..][..h * w];
        let mut before = None;
        for i in 0..oh {
            let row = nearest(i, h, oh, exact);
            spend(ow as u64 / 2);
            let (done, rest) = out.split_at_mut(i * ow);
            let to = &mut rest[..ow];
            if before == Some(row) {
                to.copy_from_slice(&done[(i - 1) * ow..]);
                continue;
            }
            before = Some(row);
            let from = &image[row * w..][..w];
            match ow == w {
                true => to.copy_from_slice(from),
                false => to.iter_mut().zip(&columns).for_each(|(to, j)| *to = from[*j]),
            }
        }
    });
}

/// Where an element lies between two of the input: the first, from there to the second, and how far along.
#[derive(Clone, Copy, Debug)]
struct Between {
    first: u32,
    step: u32,
    along: f32,
}

impl Between {
    fn new(i: usize, from: usize, to: usize, align_corners: bool) -> Self {
        let at = match align_corners {
            true if to > 1 => i as f64 * (from - 1) as f64 / (to - 1) as f64,
            true => 0.0,
            false => ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0),
        };
        let first = (at as usize).min(from - 1);
        Self {
            first: first as u32,
            step: u32::from(first + 1 < from),
            along: (at - first as f64) as f32,
        }
    }
}

/// Each element of out `[n, c, oh, ow]` lies between four of x: row i at `(i + 1/2) * h / oh - 1/2`, not below 0, or at
/// `i * (h - 1) / (oh - 1)` if corners are aligned; columns alike. Allocates 12 bytes for each column of the output.
///
/// # Panics
/// If a slice has not as many elements as that takes, or the image is empty.
pub fn resize_bilinear2d(sizes: &Resize2d, align_corners: bool, x: &[f32], out: &mut [f32]) {
    sizes.check(x, out);
    if out.is_empty() {
        return;
    }
    let [n, c, h, w] = sizes.input;
    let [oh, ow] = sizes.size;
    let columns: Vec<Between> = (0..ow).map(|j| Between::new(j, w, ow, align_corners)).collect();
    // Columns whose elements are held together; each alone where most elements between are not needed.
    let together = match w <= SPAN {
        _ if w > 4 * ow => 1,
        true => ow,
        // At least one, as two neighbours fit.
        false => (((SPAN - 2) as u64 * ow as u64 / w as u64) as usize)
            .saturating_sub(1)
            .max(1),
    };
    let work = (out.len() + n * c * oh * w.min(2 * ow)) as u64 / 2;
    let planes = Parts::new(out, oh * ow);
    parallel(n * c, work, |plane| {
        // SAFETY: each task takes its own plane.
        let out = unsafe { planes.take(plane) };
        let image = &x[plane * h * w..][..h * w];
        let mut held = [0.0_f32; SPAN];
        for (i, out) in out.chunks_exact_mut(ow).enumerate() {
            let row = Between::new(i, h, oh, align_corners);
            spend((ow + w.min(2 * ow)) as u64 / 2);
            let upper = &image[row.first as usize * w..][..w];
            let lower = &image[(row.first + row.step) as usize * w..][..w];
            for (out, columns) in out.chunks_mut(together).zip(columns.chunks(together)) {
                let (Some(first), Some(last)) = (columns.first(), columns.last()) else {
                    continue;
                };
                let range = first.first as usize..(last.first + last.step) as usize + 1;
                let held_range = &mut held[..range.len()];
                blend(&upper[range.clone()], &lower[range], row.along, held_range);
                between(&held, columns, first.first, out);
            }
        }
    });
}

multiversion! {
    fn blend(upper: &[f32], lower: &[f32], along: f32, to: &mut [f32]) {
        for ((to, a), b) in to.iter_mut().zip(upper).zip(lower) {
            *to = (b - a).mul_add(along, *a);
        }
    }
}

multiversion! {
    fn between(held: &[f32; SPAN], columns: &[Between], base: u32, out: &mut [f32]) {
        for (to, column) in out.iter_mut().zip(columns) {
            let at = (column.first - base) as usize;
            // The remainder changes nothing: it tells the compiler that the places are inside.
            let (a, b) = (held[at % SPAN], held[(at + column.step as usize) % SPAN]);
            *to = (b - a).mul_add(column.along, a);
        }
    }
}
