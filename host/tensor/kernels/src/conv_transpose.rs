//! The transpose of a convolution: the product of the kernels, transposed, and the image, whose elements are added to where they
//! belong. The product is never whole: a tile of it at a time is added up and done with.

use crate::conv::{DEPTH, PANELS, RATE};
use crate::gemm::{MR, NR, Shared, tile, tiles};
use crate::parallel;
use crate::scratch::with_scratch;
use crate::stop::spend;
use crate::team;

/// The sizes of a transposed convolution.
#[derive(Clone, Copy, Debug)]
pub struct ConvTranspose2d {
    /// The input's `[n, c, h, w]`.
    pub input: [usize; 4],
    /// Channels of the output.
    pub outputs: usize,
    /// The kernel's height and width.
    pub kernel: [usize; 2],
    /// From the place of one element's kernel to the next, down and across.
    pub stride: [usize; 2],
    /// Rows above and below, columns left and right, that are cut off.
    pub padding: [usize; 2],
    /// Rows below and columns right that are added.
    pub output_padding: [usize; 2],
    /// From one element of the kernel to the next, down and across.
    pub dilation: [usize; 2],
    /// Parts that channels are divided into.
    pub groups: usize,
}

impl ConvTranspose2d {
    /// The height and width of the output.
    ///
    /// # Panics
    /// If the padding leaves nothing.
    pub fn size(&self) -> [usize; 2] {
        [0, 1].map(|axis| {
            let end = (self.input[axis + 2] - 1) * self.stride[axis]
                + self.dilation[axis] * (self.kernel[axis] - 1)
                + self.output_padding[axis]
                + 1;
            assert!(end > 2 * self.padding[axis], "padding leaves nothing of {end}");
            end - 2 * self.padding[axis]
        })
    }
}

/// `out[n, o] = bias[o] + the sum over the group's channels of each x[n, c, i, j] times weight[c, o]` at
/// `(i, j) * stride - padding`: x `[n, c, h, w]`, weight `[c, o / groups, kh, kw]`, bias `[o]`, out `[n, o, ..]` with the rows and
/// columns that [`ConvTranspose2d::size`] says; all row-major. Allocates as many bytes as the weight takes.
///
/// # Panics
/// If a slice has not as many elements as that takes, the image is empty, or groups do not divide channels.
pub fn conv_transpose2d(sizes: &ConvTranspose2d, x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let [n, c, h, w] = sizes.input;
    let (o, groups) = (sizes.outputs, sizes.groups);
    assert!(
        c.is_multiple_of(groups) && o.is_multiple_of(groups),
        "{groups} groups of {c} and {o} channels"
    );
    let [oh, ow] = sizes.size();
    let (cg, og) = (c / groups, o / groups);
    let taps = sizes.kernel[0] * sizes.kernel[1];
    assert_eq!(x.len(), n * c * h * w, "the input is {n} x {c} x {h} x {w}");
    assert_eq!(weight.len(), c * og * taps, "the weight is {c} x {og} x {taps}");
    assert_eq!(out.len(), n * o * oh * ow, "the output is {n} x {o} x {oh} x {ow}");
    assert!(bias.is_none_or(|bias| bias.len() == o), "the bias has {o} elements");
    if out.is_empty() {
        return;
    }
    let kernels = transposed(weight, groups, cg, og * taps);
    let pixels = h * w;
    let work = (n * c * pixels * og * (taps + 2)) as u64 / RATE;
    // A task takes some channels of the output: it alone adds to them, in one order.
    let wanted = (4 * team::team().threads()).div_ceil(n * groups);
    let channels = og.div_ceil(wanted.min(og));
    let tasks = og.div_ceil(channels);
    let plane = oh * ow;
    let target = Shared(out.as_mut_ptr());
    parallel(n * groups * tasks, work, |task| {
        let (image, part) = (task / tasks, task % tasks);
        let (item, group) = (image / groups, image % groups);
        let first = part * channels;
        let last = og.min(first + channels);
        if first >= last {
            return;
        }
        let at = (item * o + group * og + first) * plane;
        // SAFETY: those channels are inside the output, and no other task has them.
        let outs = unsafe { std::slice::from_raw_parts_mut(target.at(at), (last - first) * plane) };
        for (out, channel) in outs.chunks_exact_mut(plane).zip(first..) {
            out.fill(bias.map_or(0.0, |bias| bias[group * og + channel]));
        }
        let image = &x[(item * c + group * cg) * pixels..][..cg * pixels];
        let kernels = &kernels[(group * og + first) * taps * cg..(group * og + last) * taps * cg];
        add(sizes, image, kernels, cg, outs);
    });
}

/// The kernels `[groups, cg, rest]` as `[groups, rest, cg]`.
fn transposed(weight: &[f32], groups: usize, cg: usize, rest: usize) -> Vec<f32> {
    const SIDE: usize = 32;
    let mut to = vec![0.0; weight.len()];
    for group in 0..groups {
        let from = &weight[group * cg * rest..][..cg * rest];
        let to = &mut to[group * cg * rest..][..cg * rest];
        for top in (0..rest).step_by(SIDE) {
            for i in 0..cg {
                let row = &from[i * rest + top..][..SIDE.min(rest - top)];
                for (j, value) in row.iter().enumerate() {
                    to[(top + j) * cg + i] = *value;
                }
            }
        }
    }
    to
}

/// Adds what some kernels, `depth` elements for each row of the product, make of an image to the channels that they belong to.
fn add(sizes: &ConvTranspose2d, image: &[f32], kernels: &[f32], depth: usize, outs: &mut [f32]) {
    let plane: usize = sizes.size().iter().product();
    let [_, _, h, w] = sizes.input;
    let pixels = h * w;
    let taps = sizes.kernel[0] * sizes.kernel[1];
    let rows = kernels.len() / depth;
    with_scratch(0, |scratch| {
        for from in (0..pixels).step_by(PANELS * NR) {
            let columns = from..pixels.min(from + PANELS * NR);
            for bottom in (0..depth).step_by(DEPTH) {
                let height = DEPTH.min(depth - bottom);
                let panels = columns.clone().step_by(NR).enumerate();
                for (i, column) in panels.clone() {
                    let width = NR.min(columns.end - column);
                    let panel = &mut scratch[i * DEPTH * NR..][..height * NR];
                    for (row, to) in panel.chunks_exact_mut(NR).enumerate() {
                        let from = &image[(bottom + row) * pixels + column..][..width];
                        to[..width].copy_from_slice(from);
                    }
                }
                for (row, tall) in tiles(rows) {
                    spend((tall * (height + 16) * columns.len()) as u64 / RATE);
                    let left = kernels[row * depth + bottom..].as_ptr();
                    for (i, column) in panels.clone() {
                        let mut sums = [0.0_f32; MR * NR];
                        let right = scratch[i * DEPTH * NR..].as_ptr();
                        // SAFETY: the kernels have `tall` rows from there on, the panel `height` of `NR` elements, and `sums` has
                        // room for a whole tile.
                        unsafe { tile(tall, height, left, depth, right, NR, sums.as_mut_ptr(), NR, false) };
                        let columns = column..columns.end.min(column + NR);
                        for (r, sums) in sums.chunks_exact(NR).take(tall).enumerate() {
                            let row = row + r;
                            let out = &mut outs[row / taps * plane..][..plane];
                            scatter(sizes, row % taps, columns.clone(), sums, out);
                        }
                    }
                }
            }
        }
    });
}

/// Adds what one element of a kernel makes of some elements of the image to a channel.
fn scatter(sizes: &ConvTranspose2d, tap: usize, columns: std::ops::Range<usize>, sums: &[f32], out: &mut [f32]) {
    let w = sizes.input[3];
    let [oh, ow] = sizes.size();
    let [down, across] = sizes.stride;
    let (a, b) = (
        tap / sizes.kernel[1] * sizes.dilation[0],
        tap % sizes.kernel[1] * sizes.dilation[1],
    );
    let mut next = columns.start;
    while next < columns.end {
        let (i, j) = (next / w, next % w);
        let len = (w - j).min(columns.end - next);
        let sums = &sums[next - columns.start..][..len];
        next += len;
        let row = (i * down + a).wrapping_sub(sizes.padding[0]);
        if row >= oh {
            continue;
        }
        let out = &mut out[row * ow..][..ow];
        // What is cut off on the left, and where the first that is not belongs.
        let place = j * across + b;
        let cut = sizes.padding[1].saturating_sub(place).div_ceil(across).min(len);
        let first = (place + cut * across).saturating_sub(sizes.padding[1]);
        let Some(out) = out.get_mut(first..) else { continue };
        if across == 1 {
            out.iter_mut().zip(&sums[cut..]).for_each(|(to, sum)| *to += sum);
        } else {
            let places = out.iter_mut().step_by(across);
            places.zip(&sums[cut..]).for_each(|(to, sum)| *to += sum);
        }
    }
}
