//! Convolutions of images `[n, c, h, w]`, and what all kernels of them share: sizes, and a right side packed for the matrix product.
//!
//! A convolution is the product of the kernels, a matrix `[o, c / groups * kh * kw]`, and a matrix whose column `(i, j)` has what
//! the kernel sees there (Chellapilla et al., 2006). That matrix is never whole: a block of it at a time, a few columns wide, is
//! written to where the cache keeps it, and multiplied. Where each kernel sees one channel, there is nothing to multiply: those
//! convolutions have a kernel of their own.

use crate::gemm::{MR, NR, Shared, tile, tiles};
use crate::scratch::{SCRATCH, with_scratch};
use crate::simd::multiversion;
use crate::stop::spend;
use crate::{depthwise, parallel, team};

pub use crate::conv_transpose::{ConvTranspose2d, conv_transpose2d};

/// Columns of one block.
pub(crate) const PANELS: usize = 4;

/// Rows of a panel: what a block takes is [`SCRATCH`].
pub(crate) const DEPTH: usize = SCRATCH / PANELS / NR;

/// Multiply-adds of one core in a nanosecond, about.
pub(crate) const RATE: u64 = 32;

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Conv2d {
    /// The input's `[n, c, h, w]`.
    pub input: [usize; 4],
    /// How many kernels there are.
    pub outputs: usize,
    /// The kernel's height and width.
    pub kernel: [usize; 2],
    /// From one place of the kernel to the next, down and across.
    pub stride: [usize; 2],
    /// Zeros above, below, left, right.
    pub padding: [usize; 4],
    /// From one element of the kernel to the next, down and across.
    pub dilation: [usize; 2],
    /// Parts that channels and kernels are divided into; each kernel sees the channels of its own.
    pub groups: usize,
}

impl Conv2d {
    /// The height and width of the output.
    ///
    /// # Panics
    /// If the kernel does not fit the padded image, or a stride is 0.
    pub fn size(&self) -> [usize; 2] {
        let [_, _, h, w] = self.input;
        let [top, bottom, left, right] = self.padding;
        let along = |axis: usize, padded: usize| {
            let span = (self.kernel[axis] - 1) * self.dilation[axis] + 1;
            assert!(span <= padded, "a kernel over {span} elements of {padded}");
            (padded - span) / self.stride[axis] + 1
        };
        [along(0, h + top + bottom), along(1, w + left + right)]
    }

    /// Whether the kernel is one element that moves over each of the image: the input is the right side as it lies.
    fn is_product(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0; 4]
    }
}

/// `out[n, o] = bias[o] + sum over the group's channels of x[n, c] * weight[o, c]`: x `[n, c, h, w]`, weight
/// `[o, c / groups, kh, kw]`, bias `[o]`, out `[n, o, ..]` with the rows and columns that [`Conv2d::size`] says; all row-major.
/// Allocates nothing but the 128 KiB that each thread keeps.
///
/// # Panics
/// If a slice has not as many elements as that takes, or groups do not divide channels and kernels.
pub fn conv2d(sizes: &Conv2d, x: &[f32], weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let [n, c, h, w] = sizes.input;
    let [oh, ow] = sizes.size();
    let (o, groups) = (sizes.outputs, sizes.groups);
    assert!(
        c.is_multiple_of(groups) && o.is_multiple_of(groups),
        "{groups} groups of {c} channels and {o} kernels"
    );
    let (cg, og) = (c / groups, o / groups);
    let depth = cg * sizes.kernel[0] * sizes.kernel[1];
    assert_eq!(x.len(), n * c * h * w, "the input is {n} x {c} x {h} x {w}");
    assert_eq!(weight.len(), o * depth, "the weight is {o} x {depth}");
    assert_eq!(out.len(), n * o * oh * ow, "the output is {n} x {o} x {oh} x {ow}");
    assert!(bias.is_none_or(|bias| bias.len() == o), "the bias has {o} elements");
    if out.is_empty() {
        return;
    }
    if cg == 1 && og <= 4 && depthwise::fits(sizes) {
        return depthwise::depthwise(sizes, x, weight, bias, out);
    }
    let pixels = oh * ow;
    let chunks = pixels.div_ceil(PANELS * NR);
    let blocks = n * groups * chunks;
    // Few blocks of columns are shared out by rows as well, each part of some tiles.
    let parts = match blocks >= 4 * team::team().threads() {
        true => 1,
        false => (4 * team::team().threads()).div_ceil(blocks).min(og.div_ceil(2 * MR)),
    };
    let work = (n * o * pixels * depth.max(4)) as u64 / RATE;
    let target = Shared(out.as_mut_ptr());
    parallel(blocks * parts, work, |task| {
        let (block, part) = (task / parts, task % parts);
        let (image, chunk) = (block / chunks, block % chunks);
        let (item, group) = (image / groups, image % groups);
        let channels = &x[(item * c + group * cg) * h * w..][..cg * h * w];
        let first = group * og + part * og / parts;
        let last = group * og + (part + 1) * og / parts;
        let from = chunk * PANELS * NR;
        let columns = from..pixels.min(from + PANELS * NR);
        // SAFETY: the rows `first..last` of the item's output have `pixels` elements each, and no other task has these columns of
        // them.
        unsafe {
            let rows = Shared(target.at((item * o + first) * pixels));
            let weight = &weight[first * depth..last * depth];
            let bias = bias.map(|bias| &bias[first..last]);
            multiply(sizes, channels, weight, bias, depth, columns, rows, pixels);
        }
    });
}

/// The columns `columns` of the product of some kernels, `depth` elements each, and what they see; `out` is where the first row's
/// first column belongs, and `pixels` the columns of a row.
///
/// # Safety
/// Those rows and columns of `out` must be good for writing, by nobody else.
#[allow(
    clippy::too_many_arguments,
    reason = "a product's operands and what part of it is computed"
)]
unsafe fn multiply(
    sizes: &Conv2d,
    channels: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    depth: usize,
    columns: std::ops::Range<usize>,
    out: Shared,
    pixels: usize,
) {
    let rows = weight.len() / depth;
    // Few kernels use each element of the right side but a few times: it is read where it lies.
    let direct = sizes.is_product() && rows <= 2 * MR;
    for row in 0..rows {
        let value = bias.map_or(0.0, |bias| bias[row]);
        // SAFETY: as the caller promises.
        let piece = unsafe { std::slice::from_raw_parts_mut(out.at(row * pixels + columns.start), columns.len()) };
        piece.fill(value);
    }
    // A row of a panel may be written past its end: into the next one, which is written afterwards, or what there is more.
    with_scratch(NR, |scratch| {
        for bottom in (0..depth).step_by(DEPTH) {
            let height = DEPTH.min(depth - bottom);
            let panels = columns.clone().step_by(NR).enumerate();
            for (i, column) in panels.clone() {
                if !direct || column + NR > columns.end {
                    let window = Window::new(sizes, column..columns.end.min(column + NR));
                    pack(&window, sizes, channels, bottom, height, &mut scratch[i * DEPTH * NR..]);
                }
            }
            for (row, tall) in tiles(rows) {
                spend((tall * height * columns.len()) as u64 / RATE);
                let left = weight[row * depth + bottom..].as_ptr();
                for (i, column) in panels.clone() {
                    let width = NR.min(columns.end - column);
                    if width == NR {
                        let (right, stride) = match direct {
                            true => (channels[bottom * pixels + column..].as_ptr(), pixels),
                            false => (scratch[i * DEPTH * NR..].as_ptr(), NR),
                        };
                        // SAFETY: the tile's rows and columns are inside the operands, and inside what the caller gave.
                        unsafe {
                            let to = out.at(row * pixels + column);
                            tile(tall, height, left, depth, right, stride, to, pixels, true);
                        }
                        continue;
                    }
                    let mut spare = [0.0_f32; MR * NR];
                    let right = scratch[i * DEPTH * NR..].as_ptr();
                    // SAFETY: as above, into `spare`, which has room for a whole tile.
                    unsafe { tile(tall, height, left, depth, right, NR, spare.as_mut_ptr(), NR, false) };
                    for (r, sums) in spare.chunks_exact(NR).take(tall).enumerate() {
                        // SAFETY: as the caller promises.
                        let to = unsafe { out.at((row + r) * pixels + column) };
                        // SAFETY: the columns past the last are left out.
                        let to = unsafe { std::slice::from_raw_parts_mut(to, width) };
                        to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
                    }
                }
            }
        }
    });
}

/// Columns of the right side that lie in one row of the output.
#[derive(Clone, Copy)]
struct Piece {
    /// Where the kernel's first element is, in rows and columns of the padded image.
    row: usize,
    column: usize,
    /// The first of the panel's columns, and how many there are.
    at: usize,
    len: usize,
}

/// Columns of the right side, at most [`NR`], as pieces.
struct Window {
    pieces: [Piece; NR],
    count: usize,
}

impl Window {
    fn new(sizes: &Conv2d, columns: std::ops::Range<usize>) -> Self {
        // A kernel of one element sees the image as one long row.
        let ow = if sizes.is_product() {
            columns.end
        } else {
            sizes.size()[1]
        };
        let nothing = Piece {
            row: 0,
            column: 0,
            at: 0,
            len: 0,
        };
        let mut window = Self {
            pieces: [nothing; NR],
            count: 0,
        };
        let mut next = columns.start;
        while next < columns.end {
            let (i, j) = (next / ow, next % ow);
            let len = (ow - j).min(columns.end - next);
            window.pieces[window.count] = Piece {
                row: i * sizes.stride[0],
                column: j * sizes.stride[1],
                at: next - columns.start,
                len,
            };
            window.count += 1;
            next += len;
        }
        window
    }

    /// Writes the rows `bottom..bottom + height` of these columns, [`NR`] elements each; what is past the columns is left as it is.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
    fn write(&self, sizes: &Conv2d, channels: &[f32], bottom: usize, height: usize, panel: &mut [f32]) {
        let [_, _, h, w] = match sizes.is_product() {
            true => [1, 1, 1, sizes.input[2] * sizes.input[3]],
            false => sizes.input,
        };
        let [kh, kw] = sizes.kernel;
        let (mut channel, mut a, mut b) = (bottom / (kh * kw), bottom / kw % kh, bottom % kw);
        for row in 0..height {
            let image = &channels[channel * h * w..][..h * w];
            for piece in &self.pieces[..self.count] {
                let to = &mut panel[row * NR + piece.at..][..NR];
                let i = (piece.row + a * sizes.dilation[0]).wrapping_sub(sizes.padding[0]);
                if i >= h {
                    to.fill(0.0);
                    continue;
                }
                let column = piece.column + b * sizes.dilation[1];
                take(
                    image,
                    i * w,
                    w,
                    column,
                    sizes.padding[2],
                    sizes.stride[1],
                    &mut to[..NR],
                    piece.len,
                );
            }
            b += 1;
            if b == kw {
                b = 0;
                a += 1;
                if a == kh {
                    a = 0;
                    channel += 1;
                }
            }
        }
    }
}

multiversion! {
    fn pack(window: &Window, sizes: &Conv2d, channels: &[f32], bottom: usize, height: usize, panel: &mut [f32]) {
        window.write(sizes, channels, bottom, height, panel);
    }
}

/// The elements `column`, `column + stride`, .. of a row of a padded image, `len` of them, into the first of `to`; the others are
/// written as well, with anything.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
#[allow(clippy::too_many_arguments, reason = "a row, its padding, and where in it")]
fn take(
    image: &[f32],
    start: usize,
    width: usize,
    column: usize,
    left: usize,
    stride: usize,
    to: &mut [f32],
    len: usize,
) {
    if stride == 1 {
        // Elements before and after the row's are zeros.
        let before = left.saturating_sub(column).min(len);
        let skipped = column.saturating_sub(left);
        let inside = width.saturating_sub(skipped).min(len - before);
        let from = (start + skipped).wrapping_sub(before);
        if let Some(whole) = image.get(from..from.wrapping_add(NR)) {
            // Longer than needed, but of a length that the compiler knows.
            to.copy_from_slice(whole);
        } else if inside > 0 {
            to[before..before + inside].copy_from_slice(&image[start + skipped..][..inside]);
        }
        // Most pieces are inside: a call that fills nothing would cost as much as they do.
        if before > 0 {
            to[..before].fill(0.0);
        }
        if before + inside < len {
            to[before + inside..len].fill(0.0);
        }
        return;
    }
    let row = &image[start..start + width];
    let inside = column >= left && column + (len - 1) * stride < left + width;
    if inside && stride == 2 {
        let pairs = row[column - left..].chunks(2).map(|pair| pair[0]);
        to[..len].iter_mut().zip(pairs).for_each(|(to, x)| *to = x);
        return;
    }
    for (k, to) in to[..len].iter_mut().enumerate() {
        let at = (column + k * stride).wrapping_sub(left);
        *to = row.get(at).copied().unwrap_or(0.0);
    }
}
