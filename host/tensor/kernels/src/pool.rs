//! Pools of images `[n, c, h, w]`: the largest element or the mean of windows, and the means of bins.

use crate::parallel;
use crate::parts::Parts;
use crate::simd::multiversion;
use crate::stop::spend;

/// Columns of an image that are reduced at once.
const SPAN: usize = 1024;

/// What a window is reduced to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// The largest element; not-a-number if there is one.
    Max,
    /// The sum divided by the elements of the window, padding included.
    Mean,
    /// The sum divided by the elements of the window that are the image's.
    MeanInside,
}

/// The sizes of a pool.
#[derive(Clone, Copy, Debug)]
pub struct Pool2d {
    /// The input's `[n, c, h, w]`.
    pub input: [usize; 4],
    /// The window's height and width.
    pub kernel: [usize; 2],
    /// From one window to the next, down and across.
    pub stride: [usize; 2],
    /// Rows above and below, columns left and right, that are added; less than the kernel.
    pub padding: [usize; 2],
}

impl Pool2d {
    /// The height and width of the output.
    ///
    /// # Panics
    /// If a window does not fit the padded image, or a stride is 0.
    pub fn size(&self) -> [usize; 2] {
        [0, 1].map(|axis| {
            let padded = self.input[axis + 2] + 2 * self.padding[axis];
            assert!(
                self.kernel[axis] <= padded,
                "a window of {} in {padded}",
                self.kernel[axis]
            );
            (padded - self.kernel[axis]) / self.stride[axis] + 1
        })
    }

    /// The elements of the image that window `at` sees along a dimension.
    fn inside(&self, axis: usize, at: usize) -> (usize, usize) {
        let (start, size) = (at * self.stride[axis], self.input[axis + 2]);
        let padding = self.padding[axis];
        let end = (start + self.kernel[axis]).saturating_sub(padding).min(size);
        (start.saturating_sub(padding), end)
    }
}

/// Each window of x `[n, c, h, w]` reduced to an element of out `[n, c, ..]`, with the rows and columns that [`Pool2d::size`] says.
/// Allocates nothing.
///
/// # Panics
/// If a slice has not as many elements as that takes.
pub fn pool2d(sizes: &Pool2d, reduce: Reduce, x: &[f32], out: &mut [f32]) {
    let [n, c, h, w] = sizes.input;
    let [oh, ow] = sizes.size();
    assert_eq!(x.len(), n * c * h * w, "the input is {n} x {c} x {h} x {w}");
    assert_eq!(out.len(), n * c * oh * ow, "the output is {n} x {c} x {oh} x {ow}");
    if out.is_empty() {
        return;
    }
    let [kh, kw] = sizes.kernel;
    let work = out.len() as u64 * (2 + kh.min(h) * sizes.stride[1].min(kw) / 4 + kw.min(w)) as u64;
    let planes = Parts::new(out, oh * ow);
    parallel(n * c, work, |plane| {
        // SAFETY: each task takes its own plane.
        let out = unsafe { planes.take(plane) };
        let image = &x[plane * h * w..][..h * w];
        let mut columns = [0.0_f32; SPAN];
        for (i, out) in out.chunks_exact_mut(ow).enumerate() {
            row(sizes, reduce, image, i, &mut columns, out);
        }
    });
}

/// A row of the output; `columns` is memory to work with.
fn row(sizes: &Pool2d, reduce: Reduce, image: &[f32], i: usize, columns: &mut [f32; SPAN], out: &mut [f32]) {
    let w = sizes.input[3];
    let (kernel, stride) = (sizes.kernel[1], sizes.stride[1]);
    let (top, bottom) = sizes.inside(0, i);
    let rows = &image[top * w..bottom * w];
    // Windows whose columns are reduced together, if a window is not too wide for that.
    let together = match SPAN.checked_sub(kernel) {
        Some(rest) => rest / stride + 1,
        None => 0,
    };
    if together == 0 {
        for (j, out) in out.iter_mut().enumerate() {
            let (left, right) = sizes.inside(1, j);
            spend(((bottom - top) * (right - left)) as u64 / 4);
            let windows = rows.chunks_exact(w).map(|row| reduced(&row[left..right], reduce));
            *out = windows.fold(neutral(reduce), |a, b| combined(a, b, reduce));
        }
    } else {
        for (block, out) in out.chunks_mut(together).enumerate() {
            let start = block * together * stride;
            let len = (out.len() - 1) * stride + kernel;
            let before = sizes.padding[1].saturating_sub(start).min(len);
            let first = start.saturating_sub(sizes.padding[1]);
            let inside = w.saturating_sub(first).min(len - before);
            columns[..len].fill(neutral(reduce));
            let middle = &mut columns[before..before + inside];
            spend((out.len() * (2 + kernel)) as u64 / 8);
            for row in rows.chunks_exact(w) {
                spend(inside as u64 / 8);
                combine(middle, &row[first.min(w)..][..inside], reduce);
            }
            windows(&columns[..len], kernel, stride, reduce, out);
        }
    }
    match reduce {
        Reduce::Max => {}
        Reduce::Mean => {
            let factor = 1.0 / (sizes.kernel[0] as f32 * kernel as f32);
            out.iter_mut().for_each(|out| *out *= factor);
        }
        Reduce::MeanInside => {
            for (j, out) in out.iter_mut().enumerate() {
                let (left, right) = sizes.inside(1, j);
                *out /= (bottom - top) as f32 * (right - left) as f32;
            }
        }
    }
}

/// What changes nothing.
fn neutral(reduce: Reduce) -> f32 {
    if reduce == Reduce::Max { f32::NEG_INFINITY } else { 0.0 }
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
fn combined(a: f32, b: f32, reduce: Reduce) -> f32 {
    if reduce == Reduce::Max { larger(a, b) } else { a + b }
}

fn reduced(row: &[f32], reduce: Reduce) -> f32 {
    row.iter().fold(neutral(reduce), |a, b| combined(a, *b, reduce))
}

multiversion! {
    fn combine(to: &mut [f32], row: &[f32], reduce: Reduce) {
        let pairs = to.iter_mut().zip(row);
        match reduce {
            Reduce::Max => pairs.for_each(|(to, x)| *to = larger(*to, *x)),
            _ => pairs.for_each(|(to, x)| *to += x),
        }
    }
}

multiversion! {
    fn windows(columns: &[f32], kernel: usize, stride: usize, reduce: Reduce, out: &mut [f32]) {
        let neutral = neutral(reduce);
        out.fill(neutral);
        for offset in 0..kernel {
            let columns = &columns[offset..];
            match (stride, reduce) {
                (1, Reduce::Max) => out.iter_mut().zip(columns).for_each(|(to, x)| *to = larger(*to, *x)),
                (1, _) => out.iter_mut().zip(columns).for_each(|(to, x)| *to += x),
                (2, Reduce::Max) => {
                    // The last pair may be cut short: its second element is not needed.
                    let pairs = columns.chunks(2).map(|pair| pair[0]);
                    out.iter_mut().zip(pairs).for_each(|(to, x)| *to = larger(*to, x));
                }
                (_, Reduce::Max) => {
                    let values = columns.iter().step_by(stride);
                    out.iter_mut().zip(values).for_each(|(to, x)| *to = larger(*to, *x));
                }
                _ => {
                    let values = columns.iter().step_by(stride);
                    out.iter_mut().zip(values).for_each(|(to, x)| *to += x);
                }
            }
        }
    }
}

/// Out `[n, c, oh, ow]` is the means of `oh * ow` bins of x `[n, c, h, w]`: bin i of the rows is from `i * h / oh`, rounded down, to
/// `(i + 1) * h / oh`, rounded up; columns alike. Allocates nothing.
///
/// # Panics
/// If a slice has not as many elements as that takes, or the image is empty.
pub fn adaptive_avg_pool2d(input: [usize; 4], [oh, ow]: [usize; 2], x: &[f32], out: &mut [f32]) {
    let [n, c, h, w] = input;
    assert_eq!(x.len(), n * c * h * w, "the input is {n} x {c} x {h} x {w}");
    assert_eq!(out.len(), n * c * oh * ow, "the output is {n} x {c} x {oh} x {ow}");
    assert!(h > 0 && w > 0, "the image is empty");
    if out.is_empty() {
        return;
    }
    let bin = |i: usize, from: usize, to: usize| (i * from / to, ((i + 1) * from).div_ceil(to));
    let planes = Parts::new(out, oh * ow);
    parallel(n * c, (x.len() / 4 + n * c * oh * ow * 4) as u64, |plane| {
        // SAFETY: each task takes its own plane.
        let out = unsafe { planes.take(plane) };
        let image = &x[plane * h * w..][..h * w];
        let mut before = None;
        for i in 0..oh {
            let rows = bin(i, h, oh);
            let (done, out) = out[..(i + 1) * ow].split_at_mut(i * ow);
            // Bins of less than an element are alike: summing each anew could take long for little.
            if before.replace(rows) == Some(rows) {
                out.copy_from_slice(&done[(i - 1) * ow..]);
                continue;
            }
            let (top, bottom) = rows;
            let rows = &image[top * w..bottom * w];
            let mut last = (0, 0, 0.0);
            for (j, out) in out.iter_mut().enumerate() {
                let (left, right) = bin(j, w, ow);
                if (left, right) != (last.0, last.1) {
                    spend(((bottom - top) * (right - left)) as u64 / 4);
                    let sum: f32 = match (left, right) == (0, w) {
                        true => total(rows),
                        false => rows.chunks_exact(w).map(|row| total(&row[left..right])).sum(),
                    };
                    last = (left, right, sum / ((bottom - top) as f32 * (right - left) as f32));
                }
                *out = last.2;
            }
        }
    });
}

multiversion! {
    fn total(row: &[f32]) -> f32 {
        // In parts, so that errors stay small however long it is.
        row.chunks(4096).map(|part| {
            let mut sums = [0.0_f32; 16];
            let mut chunks = part.chunks_exact(16);
            for chunk in &mut chunks {
                sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x);
            }
            sums.iter().sum::<f32>() + chunks.remainder().iter().sum::<f32>()
        }).sum()
    }
}
