//! Softmax and normalisations of rows.

use crate::math;
use crate::parallel;
use crate::reduce;
use crate::simd::multiversion;
use crate::stop::spend;

/// Elements that one task takes, about.
const TASK: usize = 8 << 10;

/// Nanoseconds of a row, however short it is.
const ROW: u64 = 5;

/// Elements of a row that are gone through at once.
const LONG: usize = 256 << 10;

/// Calls a function with each row of `x` and of `out`, `width` elements each, on several threads if that is worth it.
fn each_row(x: &[f32], out: &mut [f32], width: usize, per_element: f32, row: impl Fn(&[f32], &mut [f32]) + Sync) {
    assert_eq!(x.len(), out.len(), "as many elements out as in");
    if width == 0 || x.is_empty() {
        return;
    }
    let rows = x.len() / width;
    let chunk = (TASK / width).max(1);
    let tasks = rows.div_ceil(chunk);
    let parts = crate::parts::Parts::new(out, chunk * width);
    let work = (x.len() as f32 * per_element) as u64 + ROW * rows as u64;
    parallel(tasks, work, |task| {
        // SAFETY: each task takes its own part.
        let out = unsafe { parts.take(task) };
        let x = &x[task * chunk * width..][..out.len()];
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            row(x, out);
        }
    });
}

/// `exp(x) / sum(exp(x))` of each row of `width` elements.
///
/// # Panics
/// If `out` is not as long as `x`.
pub fn softmax(x: &[f32], width: usize, out: &mut [f32]) {
    each_row(x, out, width, 0.5, |x, out| match x.len() <= LONG {
        true => softmax_row(x, out),
        false => softmax_long(x, out),
    });
}

/// A row that takes long, in parts: each could be stopped after.
fn softmax_long(x: &[f32], out: &mut [f32]) {
    let (_, total) = all_exps(x, out);
    for out in out.chunks_mut(LONG) {
        spend(out.len() as u64 / 2);
        scale(out, (1.0 / total) as f32);
    }
}

/// `x - log(sum(exp(x)))` of each row of `width` elements.
///
/// # Panics
/// If `out` is not as long as `x`.
pub fn log_softmax(x: &[f32], width: usize, out: &mut [f32]) {
    each_row(x, out, width, 0.6, |x, out| {
        let (most, total) = all_exps(x, out);
        let log = total.ln() as f32;
        for (x, out) in parts(x).zip(out.chunks_mut(LONG)) {
            shift(x, most, log, out);
        }
    });
}

/// Parts of a row, each counted before it is taken.
fn parts(x: &[f32]) -> impl Iterator<Item = &[f32]> {
    x.chunks(LONG).inspect(|part| spend(part.len() as u64 / 2))
}

/// `exp(x - largest)` of a row; the largest element and the sum.
fn all_exps(x: &[f32], out: &mut [f32]) -> (f32, f64) {
    let most = parts(x)
        .map(largest)
        .fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    let sums = parts(x).zip(out.chunks_mut(LONG));
    (most, sums.map(|(x, out)| f64::from(exps(x, most, out))).sum())
}

multiversion! {
    fn largest(x: &[f32]) -> f32 {
        x.iter().copied().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
    }
}

multiversion! {
    fn exps(x: &[f32], most: f32, out: &mut [f32]) -> f32 {
        out.iter_mut().zip(x).for_each(|(y, x)| *y = math::exp_of_negative(x - most));
        sum(out)
    }
}

multiversion! {
    fn scale(out: &mut [f32], factor: f32) {
        out.iter_mut().for_each(|y| *y *= factor);
    }
}

multiversion! {
    fn shift(x: &[f32], most: f32, log: f32, out: &mut [f32]) {
        out.iter_mut().zip(x).for_each(|(y, x)| *y = (x - most) - log);
    }
}

multiversion! {
    fn softmax_row(x: &[f32], out: &mut [f32]) {
        let most = x.iter().copied().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
        out.iter_mut().zip(x).for_each(|(y, x)| *y = math::exp_of_negative(x - most));
        let factor = 1.0 / sum(out);
        out.iter_mut().for_each(|y| *y *= factor);
    }
}

/// Each row with its mean taken away and divided by its standard deviation, times `weight` plus `bias`, `width` elements each.
///
/// # Panics
/// If `out` is not as long as `x`, or a parameter has not `width` elements.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    let width = weight.len();
    assert!(bias.is_none_or(|bias| bias.len() == width), "a bias of {width}");
    each_row(x, out, width, 0.4, |x, out| match x.len() <= LONG {
        true => layer_norm_row(x, weight, bias, eps, out),
        false => normalise_long(x, reduce::total(x) / x.len() as f64, weight, bias, eps, out),
    });
}

/// A long row, in parts, with a mean taken away and divided by the root of the mean squared distance from it.
fn normalise_long(x: &[f32], mean: f64, weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    let factor = 1.0 / (reduce::total_of_squares(x, mean) / x.len() as f64 + f64::from(eps)).sqrt();
    for (i, (x, out)) in parts(x).zip(out.chunks_mut(LONG)).enumerate() {
        let part = i * LONG..i * LONG + x.len();
        let (weight, bias) = (&weight[part.clone()], bias.map(|bias| &bias[part]));
        normalise_part(x, mean as f32, factor as f32, weight, bias, out);
    }
}

multiversion! {
    fn normalise_part(x: &[f32], mean: f32, factor: f32, weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
        normalise(x, mean, factor, weight, bias, out);
    }
}

/// Elements less their mean, times a factor and their weights, plus a bias.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
fn normalise(x: &[f32], mean: f32, factor: f32, weight: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    match bias {
        Some(bias) => {
            for (((y, x), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
                *y = ((x - mean) * factor).mul_add(*w, *b);
            }
        }
        None => {
            for ((y, x), w) in out.iter_mut().zip(x).zip(weight) {
                *y = (x - mean) * factor * w;
            }
        }
    }
}

multiversion! {
    fn layer_norm_row(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) {
        let count = x.len() as f32;
        let mean = sum(x) / count;
        let mut squares = [0.0_f32; 16];
        let mut chunks = x.chunks_exact(16);
        for chunk in &mut chunks {
            for (square, x) in squares.iter_mut().zip(chunk) {
                *square = (x - mean).mul_add(x - mean, *square);
            }
        }
        let rest: f32 = chunks.remainder().iter().map(|x| (x - mean) * (x - mean)).sum();
        let variance = (squares.iter().sum::<f32>() + rest) / count;
        let factor = 1.0 / (variance + eps).sqrt();
        normalise(x, mean, factor, weight, bias, out);
    }
}

/// Each row divided by its root mean square, times `weight`.
///
/// # Panics
/// If `out` is not as long as `x`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    each_row(x, out, weight.len(), 0.25, |x, out| match x.len() <= LONG {
        true => rms_norm_row(x, weight, eps, out),
        false => normalise_long(x, 0.0, weight, None, eps, out),
    });
}

multiversion! {
    fn rms_norm_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let mut squares = [0.0_f32; 16];
        let mut chunks = x.chunks_exact(16);
        for chunk in &mut chunks {
            for (square, x) in squares.iter_mut().zip(chunk) {
                *square = x.mul_add(*x, *square);
            }
        }
        let rest: f32 = chunks.remainder().iter().map(|x| x * x).sum();
        let factor = 1.0 / ((squares.iter().sum::<f32>() + rest) / x.len() as f32 + eps).sqrt();
        for ((y, x), w) in out.iter_mut().zip(x).zip(weight) {
            *y = x * factor * w;
        }
    }
}

/// The sum, in 16 parts, so that it is vectorised and its error stays small.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
fn sum(x: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 16];
    let mut chunks = x.chunks_exact(16);
    for chunk in &mut chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x;
        }
    }
    sums.iter().sum::<f32>() + chunks.remainder().iter().sum::<f32>()
}
