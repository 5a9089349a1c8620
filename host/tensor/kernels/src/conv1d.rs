//! Convolutions along one dimension, and their transposes, on f32.
//!
//! A convolution is a product of the weight and the signal's windows, of which a few panels at a time are written in the form that
//! the matrix kernel takes. Where each output depends on few inputs, as in depthwise convolutions, it is sums of shifted signals.

use crate::gemm::{MR, NR, Shared, tile, tiles};
use crate::groups::{WORKERS, groups};
use crate::parallel;
use crate::simd::multiversion;
use crate::stop::spend;

/// Rows of a panel of windows that are in memory at once.
const DEPTH: usize = 1024;

/// Panels that are in memory at once: each row of the weight is read once for all of them.
const PANELS: usize = 4;

/// Output channels of one task at least.
const CHANNELS: usize = 48;

/// Elements of a signal between two looks whether to stop.
const PART: usize = 64 << 10;

/// Multiply-adds of one core in a nanosecond, about: of the matrix kernel, and of a sum of shifted signals.
const RATES: (u64, u64) = (24, 4);

/// The sizes of a convolution, or of a transposed one.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Signals.
    pub batch: usize,
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Elements of an input channel.
    pub len: usize,
    /// Elements of an output channel.
    pub out: usize,
    /// Elements of the kernel.
    pub kernel: usize,
    /// At least 1.
    pub stride: usize,
    /// Zeros before the signal; of a transposed convolution, elements cut off.
    pub left: usize,
    /// At least 1.
    pub dilation: usize,
    /// Divides both numbers of channels.
    pub groups: usize,
}

impl Sizes {
    /// Input and output channels of a group.
    fn each(&self) -> (usize, usize) {
        (self.inputs / self.groups, self.outputs / self.groups)
    }

    fn check(&self, x: usize, weight: usize, transposed: bool, bias: Option<usize>, out: usize) {
        let Self {
            batch,
            inputs,
            outputs,
            len,
            groups,
            kernel,
            ..
        } = *self;
        assert!(
            groups > 0
                && inputs.is_multiple_of(groups)
                && outputs.is_multiple_of(groups)
                && self.stride > 0
                && self.dilation > 0,
            "{self:?}"
        );
        let (from, to) = self.each();
        let taps = if transposed { inputs * to } else { outputs * from };
        assert!(
            x == batch * inputs * len && weight == taps * kernel && out == batch * outputs * self.out,
            "{self:?} of {x} and {weight} elements to {out}"
        );
        assert!(
            bias.is_none_or(|bias| bias == outputs),
            "the bias has an element for each output channel"
        );
    }

    /// Whether outputs are computed as sums of shifted signals.
    fn is_thin(&self) -> bool {
        let (from, to) = self.each();
        to < 4 || from * self.kernel < 4
    }

    /// The outputs whose window begins so that tap `tap` meets an element of the signal, and the first such element.
    fn met(&self, tap: usize) -> (std::ops::Range<usize>, usize) {
        let shift = tap * self.dilation;
        // Output j meets element j * stride + shift - left.
        let first = self.left.saturating_sub(shift).div_ceil(self.stride);
        let end = (self.len + self.left)
            .saturating_sub(shift)
            .div_ceil(self.stride)
            .min(self.out);
        let from = (first * self.stride + shift).saturating_sub(self.left);
        (first.min(end)..end, from)
    }
}

/// `out[n, o, j] = bias[o] + sum of weight[o, c, t] * x[n, g + c, j * stride + t * dilation - left]`, for x `[batch, inputs, len]`,
/// weight `[outputs, inputs / groups, kernel]`, out `[batch, outputs, out]`; elements outside of the signal are zeros. Allocates at
/// most 512 KiB for each of at most 32 tasks, none for depthwise convolutions.
///
/// # Panics
/// If a slice has not as many elements as that takes.
pub fn conv1d(x: &[f32], weight: &[f32], bias: Option<&[f32]>, sizes: &Sizes, out: &mut [f32]) {
    sizes.check(x.len(), weight.len(), false, bias.map(<[f32]>::len), out.len());
    if out.is_empty() {
        return;
    }
    let (from, to) = sizes.each();
    let depth = from * sizes.kernel;
    if sizes.is_thin() {
        let work = (out.len() * depth) as u64 / RATES.1;
        groups(out, sizes.out, work, |first, part| {
            for (i, y) in part.chunks_exact_mut(sizes.out).enumerate() {
                let (n, o) = ((first + i) / sizes.outputs, (first + i) % sizes.outputs);
                let bias = bias.map_or(0.0, |bias| bias[o]);
                let signals = &x[(n * sizes.inputs + o / to * from) * sizes.len..][..from * sizes.len];
                shifted_sums(signals, &weight[o * depth..][..depth], bias, sizes, y);
            }
        });
        return;
    }
    let panels = sizes.out.div_ceil(NR);
    let width = panels.min(PANELS);
    let (blocks, parts) = (panels.div_ceil(width), to.div_ceil(CHANNELS));
    let tasks = sizes.batch * sizes.groups * blocks * parts;
    let workers = tasks.min(WORKERS);
    let work = (out.len() * depth) as u64 / RATES.0;
    let target = Shared(out.as_mut_ptr());
    parallel(workers, work, |worker| {
        let mut windows = vec![0.0_f32; depth.min(DEPTH) * width * NR];
        for task in (worker..tasks).step_by(workers) {
            let (rest, block) = (task / blocks, task % blocks);
            let (rest, part) = (rest / parts, rest % parts);
            let (n, group) = (rest / sizes.groups, rest % sizes.groups);
            let signals = &x[(n * sizes.inputs + group * from) * sizes.len..][..from * sizes.len];
            let weight = &weight[group * to * depth..][..to * depth];
            let columns = block * width * NR..sizes.out.min((block + 1) * width * NR);
            let (first, last) = (part * to / parts, (part + 1) * to / parts);
            for top in (0..depth.max(1)).step_by(DEPTH) {
                let rows = top..depth.min(top + DEPTH);
                for (panel, column) in columns.clone().step_by(NR).enumerate() {
                    let window = &mut windows[panel * rows.len() * NR..][..rows.len() * NR];
                    write_windows(
                        signals,
                        rows.clone(),
                        column..columns.end.min(column + NR),
                        sizes,
                        window,
                    );
                }
                for (row, height) in tiles(last - first) {
                    spend((height * rows.len() * columns.len()) as u64 / RATES.0);
                    let row = first + row;
                    let left = &weight[row * depth + rows.start..];
                    for (panel, column) in columns.clone().step_by(NR).enumerate() {
                        let right = &windows[panel * rows.len() * NR..][..rows.len() * NR];
                        let at = (n * sizes.outputs + group * to + row) * sizes.out + column;
                        let wide = NR.min(columns.end - column);
                        let mut sums = [0.0_f32; MR * NR];
                        if wide == NR && top > 0 {
                            // SAFETY: the tile's rows and columns are inside the output, and no other task has them; the rows of the
                            // weight reach `depth` apart.
                            unsafe {
                                tile(
                                    height,
                                    rows.len(),
                                    left.as_ptr(),
                                    depth,
                                    right.as_ptr(),
                                    NR,
                                    target.at(at),
                                    sizes.out,
                                    true,
                                );
                            }
                            continue;
                        }
                        // SAFETY: `sums` has room for a whole tile.
                        unsafe {
                            tile(
                                height,
                                rows.len(),
                                left.as_ptr(),
                                depth,
                                right.as_ptr(),
                                NR,
                                sums.as_mut_ptr(),
                                NR,
                                false,
                            );
                        }
                        for i in 0..height {
                            // SAFETY: as above; the columns past the last are left out.
                            let y = unsafe { std::slice::from_raw_parts_mut(target.at(at + i * sizes.out), wide) };
                            let sums = &sums[i * NR..][..wide];
                            if top > 0 {
                                y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum);
                            } else {
                                let bias = bias.map_or(0.0, |bias| bias[group * to + row + i]);
                                y.iter_mut().zip(sums).for_each(|(y, sum)| *y = sum + bias);
                            }
                        }
                    }
                }
            }
        }
    });
}

multiversion! {
    /// The bias and each tap times the part of a signal that it meets.
    fn shifted_sums(signals: &[f32], weight: &[f32], bias: f32, sizes: &Sizes, y: &mut [f32]) {
        // A part of the output at a time, which stays in the cache for all taps.
        const BLOCK: usize = 2048;
        for block in (0..y.len()).step_by(BLOCK) {
            let end = y.len().min(block + BLOCK);
            y[block..end].fill(bias);
            for (signal, taps) in signals.chunks_exact(sizes.len.max(1)).zip(weight.chunks_exact(sizes.kernel)) {
                spend(taps.len() as u64 * (8 + (end - block) as u64 / 8));
                for (tap, w) in taps.iter().enumerate() {
                    let (met, from) = sizes.met(tap);
                    let (start, stop) = (met.start.max(block), met.end.min(end));
                    if start >= stop {
                        continue;
                    }
                    let from = from + (start - met.start) * sizes.stride;
                    let y = &mut y[start..stop];
                    if sizes.stride == 1 {
                        y.iter_mut().zip(&signal[from..]).for_each(|(y, x)| *y = w.mul_add(*x, *y));
                    } else {
                        let x = signal[from..].iter().step_by(sizes.stride);
                        y.iter_mut().zip(x).for_each(|(y, x)| *y = w.mul_add(*x, *y));
                    }
                }
            }
        }
    }
}

/// Rows `(channel, tap)` of the windows of some outputs, as a panel.
fn write_windows(
    signals: &[f32],
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
    sizes: &Sizes,
    panel: &mut [f32],
) {
    for (row, to) in rows.zip(panel.chunks_exact_mut(NR)) {
        let (channel, tap) = (row / sizes.kernel, row % sizes.kernel);
        let signal = &signals[channel * sizes.len..][..sizes.len];
        let (met, from) = sizes.met(tap);
        let (start, stop) = (met.start.max(columns.start), met.end.min(columns.end));
        if start >= stop {
            to.fill(0.0);
            continue;
        }
        let from = from + (start - met.start) * sizes.stride;
        let (before, end) = (start - columns.start, stop - columns.start);
        to[..before].fill(0.0);
        to[end..].fill(0.0);
        if sizes.stride == 1 {
            to[before..end].copy_from_slice(&signal[from..from + end - before]);
        } else {
            let x = signal[from..].iter().step_by(sizes.stride);
            to[before..end].iter_mut().zip(x).for_each(|(to, x)| *to = *x);
        }
    }
}

/// Rows `(channel, tap)` of a transposed convolution that one task adds to the output, about.
const ROWS: usize = 96;

/// `out[n, o, i * stride + t * dilation - left] += x[n, c, i] * weight[c, o, t]`, from `bias[o]` on, for x `[batch, inputs, len]`,
/// weight `[inputs, outputs / groups, kernel]`, out `[batch, outputs, out]`; what falls outside is dropped. Allocates the weight's
/// size and, for each of at most 32 tasks, 128 bytes for each of up to 1,024 channels and for each of some 96 rows `(o, t)`, those of
/// an output channel at least; nothing if a group has fewer than 4 input channels.
///
/// # Panics
/// If a slice has not as many elements as that takes.
pub fn conv_transpose1d(x: &[f32], weight: &[f32], bias: Option<&[f32]>, sizes: &Sizes, out: &mut [f32]) {
    sizes.check(x.len(), weight.len(), true, bias.map(<[f32]>::len), out.len());
    if out.is_empty() {
        return;
    }
    let (from, to) = sizes.each();
    let (kernel, len) = (sizes.kernel, sizes.len);
    let work = (sizes.batch * sizes.inputs * len * to * kernel) as u64;
    if from < 4 {
        groups(out, sizes.out, work, |first, part| {
            for (i, y) in part.chunks_exact_mut(sizes.out).enumerate() {
                let (n, o) = ((first + i) / sizes.outputs, (first + i) % sizes.outputs);
                let (group, o_in) = (o / to, o % to);
                fill(y, bias.map_or(0.0, |bias| bias[o]));
                for c in group * from..(group + 1) * from {
                    let signal = &x[(n * sizes.inputs + c) * len..][..len];
                    for (tap, w) in weight[(c * to + o_in) * kernel..][..kernel].iter().enumerate() {
                        for (part, signal) in signal.chunks(PART).enumerate() {
                            spend(signal.len() as u64);
                            spread(signal, *w, part * PART, tap, sizes, y);
                        }
                    }
                }
            }
        });
        return;
    }
    // Rows (o, tap) of each group, for the matrix kernel: `[groups, to * kernel, from]`.
    let mut rows = vec![0.0_f32; weight.len()];
    groups(&mut rows, from, weight.len() as u64, |first, part| {
        for (i, row) in part.chunks_exact_mut(from).enumerate() {
            let (group, at) = ((first + i) / (to * kernel), (first + i) % (to * kernel));
            let column = weight[group * from * to * kernel + at..].iter().step_by(to * kernel);
            row.iter_mut().zip(column).for_each(|(to, w)| *to = *w);
        }
    });
    let channels = channels_each(to, kernel);
    let blocks = to.div_ceil(channels);
    let tasks = sizes.batch * sizes.groups * blocks;
    let workers = tasks.min(WORKERS);
    let target = Shared(out.as_mut_ptr());
    parallel(workers, work / RATES.0, |worker| {
        let mut panel = vec![0.0_f32; from.min(DEPTH) * NR];
        let mut sums = vec![0.0_f32; channels * kernel * NR];
        for task in (worker..tasks).step_by(workers) {
            let (rest, block) = (task / blocks, task % blocks);
            let (n, group) = (rest / sizes.groups, rest % sizes.groups);
            let (first, last) = (block * channels, to.min((block + 1) * channels));
            let rows = &rows[(group * to + first) * kernel * from..][..(last - first) * kernel * from];
            let count = (last - first) * kernel;
            let at = (n * sizes.outputs + group * to + first) * sizes.out;
            // SAFETY: these channels of the output belong to this task alone.
            let y = unsafe { std::slice::from_raw_parts_mut(target.at(at), (last - first) * sizes.out) };
            for (i, y) in y.chunks_exact_mut(sizes.out).enumerate() {
                fill(y, bias.map_or(0.0, |bias| bias[group * to + first + i]));
            }
            for column in (0..len).step_by(NR) {
                let wide = NR.min(len - column);
                for top in (0..from).step_by(DEPTH) {
                    let depth = DEPTH.min(from - top);
                    for (i, to) in panel.chunks_exact_mut(NR).take(depth).enumerate() {
                        let signal = &x[(n * sizes.inputs + group * from + top + i) * len + column..][..wide];
                        to[..wide].copy_from_slice(signal);
                        to[wide..].fill(0.0);
                    }
                    for (row, height) in tiles(count) {
                        spend((height * (depth + 16) * NR) as u64 / RATES.0);
                        let left = &rows[row * from + top..];
                        let sums = &mut sums[row * NR..][..height * NR];
                        // SAFETY: `left` has `height` rows `from` apart, `panel` `depth` rows, `sums` room for the tile.
                        unsafe {
                            tile(
                                height,
                                depth,
                                left.as_ptr(),
                                from,
                                panel.as_ptr(),
                                NR,
                                sums.as_mut_ptr(),
                                NR,
                                top > 0,
                            );
                        }
                    }
                }
                for (row, sums) in sums.chunks_exact(NR).take(count).enumerate() {
                    let y = &mut y[row / kernel * sizes.out..][..sizes.out];
                    spread(&sums[..wide], 1.0, column, row % kernel, sizes, y);
                }
            }
        }
    });
}

/// Writes one number everywhere; fresh memory takes its time.
fn fill(y: &mut [f32], value: f32) {
    for part in y.chunks_mut(PART) {
        spend(part.len() as u64 / 4);
        part.fill(value);
    }
}

/// Channels of a task: about [`ROWS`] rows.
fn channels_each(to: usize, kernel: usize) -> usize {
    (ROWS / kernel.max(1)).clamp(1, to.max(1))
}

/// Adds elements, the first of which is element `first` of a signal, times a weight, to the places where a tap puts them.
fn spread(signal: &[f32], weight: f32, first: usize, tap: usize, sizes: &Sizes, y: &mut [f32]) {
    let shift = first * sizes.stride + tap * sizes.dilation;
    let skipped = sizes.left.saturating_sub(shift).div_ceil(sizes.stride);
    let start = (shift + skipped * sizes.stride).saturating_sub(sizes.left);
    if skipped >= signal.len() || start >= y.len() {
        return;
    }
    let places = y[start..].iter_mut().step_by(sizes.stride);
    places.zip(&signal[skipped..]).for_each(|(y, x)| *y += weight * x);
}
