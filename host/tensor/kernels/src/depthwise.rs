//! Convolutions whose kernels see one channel each: a direct sum over the kernel, of many columns at once.
//!
//! A part of the image is copied with its padding to where the cache keeps it, each row sorted by the column's remainder by the
//! stride; so whatever stride and dilation are, the elements that neighbouring outputs need lie side by side.

use crate::conv::Conv2d;
use crate::parallel;
use crate::parts::Parts;
use crate::scratch::{SCRATCH, with_scratch};
use crate::simd::multiversion;
use crate::stop::spend;

/// Floats that a part of the image takes, if that is possible: a first-level cache.
const NEAR: usize = 8 << 10;

/// Rows and columns of the output computed from one part of the image, and how the part lies in memory.
#[derive(Clone, Copy, Debug)]
struct Part {
    rows: usize,
    columns: usize,
    /// Columns computed at once.
    lanes: usize,
    /// Floats of the columns of one remainder.
    line: usize,
}

impl Part {
    /// Floats of a row of the image.
    fn row(&self, sizes: &Conv2d) -> usize {
        self.line * sizes.stride[1]
    }

    /// Rows of the image.
    fn height(&self, sizes: &Conv2d) -> usize {
        (self.rows - 1) * sizes.stride[0] + (sizes.kernel[0] - 1) * sizes.dilation[0] + 1
    }

    fn new(sizes: &Conv2d) -> Option<Self> {
        let [oh, ow] = sizes.size();
        let lanes = match ow {
            0..=16 => 16,
            17..=32 => 32,
            _ => 64,
        };
        let reach = (sizes.kernel[1] - 1).checked_mul(sizes.dilation[1])? / sizes.stride[1] + 1;
        let part = |rows: usize, columns: usize| Self {
            rows,
            columns,
            lanes,
            line: columns.next_multiple_of(lanes) + reach,
        };
        let floats = |part: &Self| part.row(sizes).saturating_mul(part.height(sizes));
        let narrow = ow.min(4 * lanes);
        // As many rows as stay near; at least one, of as many columns as fit at all.
        let candidates = [32, 16, 8, 4, 2, 1].into_iter().map(|rows| part(rows.min(oh), narrow));
        let near = candidates.clone().find(|part| floats(part) <= NEAR);
        let far = || {
            candidates
                .chain([part(1, ow.min(lanes))])
                .find(|part| floats(part) <= SCRATCH)
        };
        near.or_else(far)
    }
}

/// Whether a part of the image fits the memory that there is for it.
pub(crate) fn fits(sizes: &Conv2d) -> bool {
    Part::new(sizes).is_some()
}

/// As [`conv2d`](crate::conv::conv2d), which has checked the slices, where groups are channels.
pub(crate) fn depthwise(sizes: &Conv2d, x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let Some(part) = Part::new(sizes) else {
        return;
    };
    let [_, _, h, w] = sizes.input;
    let [oh, ow] = sizes.size();
    let (o, each) = (sizes.outputs, sizes.outputs / sizes.groups);
    let taps = sizes.kernel[0] * sizes.kernel[1];
    let work = (out.len() * (taps + 4)) as u64 / 12;
    let planes = Parts::new(out, oh * ow);
    parallel(out_planes(sizes), work, |plane| {
        // SAFETY: each task takes its own plane.
        let out = unsafe { planes.take(plane) };
        let (item, kernel) = (plane / o, plane % o);
        let image = &x[(item * sizes.input[1] + kernel / each) * h * w..][..h * w];
        let weight = &weight[kernel * taps..][..taps];
        let bias = bias.map_or(0.0, |bias| bias[kernel]);
        with_scratch(0, |scratch| {
            for top in (0..oh).step_by(part.rows) {
                for left in (0..ow).step_by(part.columns) {
                    copy(sizes, part, image, top, left, scratch);
                    let rows = part.rows.min(oh - top);
                    let columns = part.columns.min(ow - left);
                    spend((rows * columns * (taps + 4)) as u64 / 12);
                    let out = &mut out[top * ow + left..];
                    match part.lanes {
                        16 => sums16(sizes, part, scratch, weight, bias, [rows, columns, ow], out),
                        32 => sums32(sizes, part, scratch, weight, bias, [rows, columns, ow], out),
                        _ => sums64(sizes, part, scratch, weight, bias, [rows, columns, ow], out),
                    }
                }
            }
        });
    });
}

fn out_planes(sizes: &Conv2d) -> usize {
    sizes.input[0] * sizes.outputs
}

/// Copies what the outputs from row `top` and column `left` on need.
fn copy(sizes: &Conv2d, part: Part, image: &[f32], top: usize, left: usize, to: &mut [f32]) {
    let [_, _, h, w] = sizes.input;
    let stride = sizes.stride[1];
    let (row, line) = (part.row(sizes), part.line);
    // Zeros everywhere first: for narrow rows that is faster than to their left and right.
    to[..part.height(sizes) * row].fill(0.0);
    for i in 0..part.height(sizes) {
        let to = &mut to[i * row..][..row];
        let at = (top * sizes.stride[0] + i).wrapping_sub(sizes.padding[0]);
        if at >= h {
            continue;
        }
        let from = &image[at * w..][..w];
        for (remainder, to) in to.chunks_exact_mut(line).enumerate() {
            // Element k is column `first + k * stride` of the padded image.
            let first = left * stride + remainder;
            let before = sizes.padding[2].saturating_sub(first).div_ceil(stride).min(line);
            let start = (first + before * stride).saturating_sub(sizes.padding[2]);
            let inside = match w.checked_sub(start) {
                Some(rest) => rest.div_ceil(stride).min(line - before),
                None => 0,
            };
            if inside == 0 {
                continue;
            }
            if stride == 1 {
                to[before..before + inside].copy_from_slice(&from[start..start + inside]);
            } else if stride == 2 {
                halve(&from[start..], &mut to[before..before + inside]);
            } else {
                let values = from[start..].iter().step_by(stride);
                to[before..before + inside]
                    .iter_mut()
                    .zip(values)
                    .for_each(|(to, x)| *to = *x);
            }
        }
    }
}

multiversion! {
    /// Every second element.
    fn halve(from: &[f32], to: &mut [f32]) {
        let len = to.len();
        let pairs = from[..from.len().min(2 * len)].chunks_exact(2);
        let odd = pairs.remainder().first().copied();
        for (to, pair) in to.iter_mut().zip(pairs) {
            *to = pair[0];
        }
        if let (Some(last), Some(x)) = (to.last_mut(), odd) {
            *last = x;
        }
    }
}

/// Some rows and columns of the output, whose rows are `ow` elements: `ROWS` of them at a time, so that there are enough sums for none
/// to wait for the one before.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
fn sums<const LANES: usize, const ROWS: usize>(
    sizes: &Conv2d,
    part: Part,
    seen: &[f32],
    weight: &[f32],
    bias: f32,
    [rows, columns, ow]: [usize; 3],
    out: &mut [f32],
) {
    let down = sizes.stride[0] * part.row(sizes);
    let mut row = 0;
    while row + ROWS <= rows {
        sum::<LANES, ROWS>(
            sizes,
            part,
            &seen[row * down..],
            weight,
            bias,
            [columns, ow],
            &mut out[row * ow..],
        );
        row += ROWS;
    }
    while row < rows {
        sum::<LANES, 1>(
            sizes,
            part,
            &seen[row * down..],
            weight,
            bias,
            [columns, ow],
            &mut out[row * ow..],
        );
        row += 1;
    }
}

/// Rows of the output: `seen` begins with the first row of the image that the first of them sees.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
fn sum<const LANES: usize, const ROWS: usize>(
    sizes: &Conv2d,
    part: Part,
    seen: &[f32],
    weight: &[f32],
    bias: f32,
    [columns, ow]: [usize; 2],
    out: &mut [f32],
) {
    let stride = sizes.stride[1];
    let (row, line) = (part.row(sizes), part.line);
    let down = sizes.stride[0] * row;
    for from in (0..columns).step_by(LANES) {
        let mut sums = [[bias; LANES]; ROWS];
        for (a, weights) in weight.chunks_exact(sizes.kernel[1]).enumerate() {
            let seen = &seen[a * sizes.dilation[0] * row..];
            for (b, weight) in weights.iter().enumerate() {
                let at = b * sizes.dilation[1];
                let place = match stride {
                    1 => at,
                    _ => at % stride * line + at / stride,
                };
                for (r, sums) in sums.iter_mut().enumerate() {
                    let values = &seen[r * down + place + from..][..LANES];
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum = value.mul_add(*weight, *sum);
                    }
                }
            }
        }
        let len = LANES.min(columns - from);
        for (r, sums) in sums.iter().enumerate() {
            out[r * ow + from..][..len].copy_from_slice(&sums[..len]);
        }
    }
}

macro_rules! version {
    ($name:ident $lanes:literal $rows:literal) => {
        multiversion! {
            fn $name(
                sizes: &Conv2d, part: Part, seen: &[f32], weight: &[f32], bias: f32, size: [usize; 3], out: &mut [f32],
            ) {
                sums::<$lanes, $rows>(sizes, part, seen, weight, bias, size, out);
            }
        }
    };
}
version!(sums16 16 4);
version!(sums32 32 2);
version!(sums64 64 1);
