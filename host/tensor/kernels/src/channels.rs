//! Functions of images `[n, c, ..]` whose parameters are one a channel: group norm, batch norm, PReLU.

use crate::parallel;
use crate::parts::Parts;
use crate::simd::multiversion;
use crate::stop::spend;

/// Elements that are added up in f32 before their sum is added to others in f64.
const PART: usize = 4096;

/// Elements of one task, about.
const TASK: usize = 16 << 10;

/// Calls a function with the number of each row, of `width` elements, and with the row of `x` and of `out`.
fn each_row(x: &[f32], width: usize, out: &mut [f32], row: impl Fn(usize, &[f32], &mut [f32]) + Sync) {
    assert_eq!(x.len(), out.len(), "as many elements out as in");
    if out.is_empty() {
        return;
    }
    let rows = (TASK / width).max(1);
    let work = x.len() as u64 / 4;
    let parts = Parts::new(out, rows * width);
    parallel(x.len().div_ceil(rows * width), work, |task| {
        // SAFETY: each task takes its own part.
        let out = unsafe { parts.take(task) };
        let x = &x[task * rows * width..][..out.len()];
        for (i, (x, out)) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
            for (x, out) in x.chunks(TASK).zip(out.chunks_mut(TASK)) {
                spend(x.len() as u64 / 4);
                row(task * rows + i, x, out);
            }
        }
    });
}

/// x `[n, c, width]`, the mean of each group of channels of each item taken away, divided by `sqrt(variance + eps)`, times weight `[c]`
/// plus bias `[c]`. Allocates 16 bytes for each channel of each item.
///
/// Source: Wu and He, "Group Normalization" (2018). Means and sums of squares are those of channels, merged as by Chan et al. (1979).
///
/// # Panics
/// If a slice has not as many elements as that takes, or groups do not divide channels.
#[allow(clippy::too_many_arguments, reason = "sizes, and three slices")]
pub fn group_norm(
    [n, c, width]: [usize; 3],
    groups: usize,
    eps: f32,
    x: &[f32],
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    assert_eq!(x.len(), n * c * width, "the input is {n} x {c} x {width}");
    assert!(c.is_multiple_of(groups), "{groups} groups of {c} channels");
    assert!(
        weight.is_none_or(|weight| weight.len() == c) && bias.is_none_or(|bias| bias.len() == c),
        "parameters have {c} elements"
    );
    if out.is_empty() {
        return;
    }
    let mut moments = vec![(0.0_f64, 0.0_f64); n * c];
    let rows = (TASK / width).max(1);
    let parts = Parts::new(&mut moments, rows);
    parallel((n * c).div_ceil(rows), x.len() as u64 / 6, |task| {
        // SAFETY: each task takes its own part.
        let moments = unsafe { parts.take(task) };
        let x = &x[task * rows * width..][..moments.len() * width];
        for (moments, x) in moments.iter_mut().zip(x.chunks_exact(width)) {
            *moments = moments_of(x);
        }
    });
    // Each channel's moments become its group's mean and factor.
    let each = c / groups;
    for group in moments.chunks_exact_mut(each) {
        let mean = group.iter().map(|(mean, _)| mean).sum::<f64>() / each as f64;
        let squares: f64 = group
            .iter()
            .map(|(own, squares)| squares + width as f64 * (own - mean) * (own - mean))
            .sum();
        let variance = squares / (each * width) as f64;
        group.fill((mean, 1.0 / (variance + f64::from(eps)).sqrt()));
    }
    each_row(x, width, out, |row, x, out| {
        let (mean, factor) = moments[row];
        let channel = row % c;
        let factor = factor as f32 * weight.map_or(1.0, |weight| weight[channel]);
        scale(x, mean as f32, factor, bias.map_or(0.0, |bias| bias[channel]), out);
    });
}

multiversion! {
    /// The mean, and the sum of the squares of differences from it.
    fn moments_of(x: &[f32]) -> (f64, f64) {
        let mean = x.chunks(PART).map(|part| f64::from(sum(part, |x| x))).sum::<f64>() / x.len() as f64;
        let middle = mean as f32;
        let squares = x.chunks(PART).map(|part| f64::from(sum(part, |x| (x - middle) * (x - middle)))).sum();
        (mean, squares)
    }
}

/// The sum of a function of elements, in 32 parts, so that it is vectorised.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
fn sum(x: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0_f32; 32];
    let mut chunks = x.chunks_exact(32);
    for chunk in &mut chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += of(*x));
    }
    sums.iter().sum::<f32>() + chunks.remainder().iter().map(|x| of(*x)).sum::<f32>()
}

multiversion! {
    fn scale(x: &[f32], mean: f32, factor: f32, bias: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = (x - mean).mul_add(factor, bias);
        }
    }
}

/// What training has left of each channel, and what scales it; `[c]` each.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The mean.
    pub mean: &'a [f32],
    /// The variance.
    pub var: &'a [f32],
    /// Multiplied with what is normalised.
    pub weight: &'a [f32],
    /// Added at the end.
    pub bias: &'a [f32],
}

/// `(x - mean) / sqrt(var + eps) * weight + bias` for x `[n, c, width]`. Allocates nothing.
///
/// Source: Ioffe and Szegedy, "Batch Normalization" (2015), in inference.
///
/// # Panics
/// If a slice has not as many elements as that takes.
pub fn batch_norm([n, c, width]: [usize; 3], eps: f32, x: &[f32], by: &Batch<'_>, out: &mut [f32]) {
    assert_eq!(x.len(), n * c * width, "the input is {n} x {c} x {width}");
    for parameter in [by.mean, by.var, by.weight, by.bias] {
        assert_eq!(parameter.len(), c, "parameters have {c} elements");
    }
    each_row(x, width, out, |row, x, out| {
        let channel = row % c;
        let factor = by.weight[channel] / (by.var[channel] + eps).sqrt();
        scale(x, by.mean[channel], factor, by.bias[channel], out);
    });
}

/// x `[n, c, width]` where it is not negative, else `weight * x`, for a weight `[c]` or `[1]`. Allocates nothing.
///
/// Source: He et al., "Delving Deep into Rectifiers" (2015).
///
/// # Panics
/// If a slice has not as many elements as that takes.
pub fn prelu([n, c, width]: [usize; 3], x: &[f32], weight: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), n * c * width, "the input is {n} x {c} x {width}");
    assert!(
        weight.len() == c || weight.len() == 1,
        "the weight has {c} elements, or one"
    );
    each_row(x, width, out, |row, x, out| {
        let slope = weight[row % c % weight.len()];
        crate::activation::leaky(x, slope, out);
    });
}
