//! Numbers computed from all elements of a row: sums of exponentials, variances, norms. All sums are in f64.

use crate::groups::groups;
use crate::math::exp;
use crate::simd::multiversion;
use crate::stop::spend;

/// Elements of a long row between two looks whether to stop.
const PART: usize = 64 << 10;

/// `log(sum(exp(x)))` of each row of x `[rows, width]`, into `out` `[rows]`.
///
/// # Panics
/// If x is not a whole number of rows for each output, of at least an element.
pub fn logsumexp(x: &[f32], out: &mut [f32]) {
    each_row(x, out, 3, |row| {
        let largest = parts(row)
            .map(|part| part.iter().copied().fold(f32::NEG_INFINITY, f32::max))
            .fold(f32::NEG_INFINITY, f32::max);
        if parts(row).any(|part| part.iter().any(|x| x.is_nan())) {
            return f32::NAN;
        }
        if largest.is_infinite() {
            return largest;
        }
        (f64::from(largest) + by_parts(row, |part| exp_sum(part, largest)).ln()) as f32
    });
}

/// The variance of each row of x `[rows, width]`, into `out` `[rows]`: the sum of squared distances from the mean, divided by the
/// width, or by one less if it is `unbiased`. Of a single element that is not a number.
///
/// # Panics
/// If x is not a whole number of rows for each output, of at least an element.
pub fn variance(x: &[f32], unbiased: bool, out: &mut [f32]) {
    each_row(x, out, 3, |row| {
        let mean = total(row) / row.len() as f64;
        (total_of_squares(row, mean) / (row.len() as f64 - f64::from(u8::from(unbiased)))) as f32
    });
}

/// `x / max(sqrt(sum(x^2)), eps)` along `len` of x `[outer, len, inner]`, into `out` of that shape.
///
/// # Panics
/// If a slice has not as many elements as that takes.
pub fn l2_normalize(x: &[f32], [outer, len, inner]: [usize; 3], eps: f64, out: &mut [f32]) {
    // Columns that are added up at once.
    const COLUMNS: usize = 64;
    assert!(
        x.len() == outer * len * inner && out.len() == x.len(),
        "{outer} x {len} x {inner} elements"
    );
    if x.is_empty() {
        return;
    }
    let unit = len * inner;
    groups(out, unit, x.len() as u64, |first, part| {
        for (i, to) in part.chunks_exact_mut(unit).enumerate() {
            let from = &x[(first + i) * unit..][..unit];
            if inner == 1 {
                let factor = 1.0 / total_of_squares(from, 0.0).sqrt().max(eps);
                to.iter_mut()
                    .zip(from)
                    .for_each(|(y, x)| *y = (f64::from(*x) * factor) as f32);
                continue;
            }
            for column in (0..inner).step_by(COLUMNS) {
                let width = COLUMNS.min(inner - column);
                let mut sums = [0.0_f64; COLUMNS];
                for row in from.chunks_exact(inner) {
                    spend(2 * width as u64);
                    let pairs = sums.iter_mut().zip(&row[column..column + width]);
                    pairs.for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
                }
                sums.iter_mut().for_each(|sum| *sum = 1.0 / sum.sqrt().max(eps));
                for (to, from) in to.chunks_exact_mut(inner).zip(from.chunks_exact(inner)) {
                    let pairs = to[column..column + width].iter_mut().zip(&from[column..column + width]);
                    pairs
                        .zip(&sums)
                        .for_each(|((y, x), factor)| *y = (f64::from(*x) * factor) as f32);
                }
            }
        }
    });
}

fn each_row(x: &[f32], out: &mut [f32], nanoseconds: u64, row: impl Fn(&[f32]) -> f32 + Sync) {
    if out.is_empty() {
        return;
    }
    let width = x.len() / out.len();
    assert!(
        width > 0 && x.len() == out.len() * width,
        "{} elements in {} rows",
        x.len(),
        out.len()
    );
    groups(out, 1, x.len() as u64 * nanoseconds / 2, |first, part| {
        for (i, to) in part.iter_mut().enumerate() {
            *to = row(&x[(first + i) * width..][..width]);
        }
    });
}

/// Parts of a row, each counted before it is taken.
fn parts(row: &[f32]) -> impl Iterator<Item = &[f32]> {
    row.chunks(PART).inspect(|part| spend(part.len() as u64))
}

/// The sum over a row of what each part of it adds up to.
fn by_parts(row: &[f32], sum: impl Fn(&[f32]) -> f64) -> f64 {
    parts(row).map(sum).sum()
}

/// The sum of all elements.
pub fn total(x: &[f32]) -> f64 {
    by_parts(x, sum)
}

/// The sum of all squared distances from a number.
pub fn total_of_squares(x: &[f32], from: f64) -> f64 {
    by_parts(x, |part| squares(part, from))
}

/// Sums that are kept apart, so that the loop becomes vectors.
const LANES: usize = 16;

macro_rules! sums {
    ($(#[$doc:meta])* $name:ident($row:ident $(, $arg:ident: $ty:ty)*) |$x:ident| $term:expr) => {
        multiversion! {
            $(#[$doc])*
            fn $name($row: &[f32] $(, $arg: $ty)*) -> f64 {
                let mut sums = [0.0_f64; LANES];
                let (chunks, rest) = $row.as_chunks::<LANES>();
                for chunk in chunks {
                    for (sum, $x) in sums.iter_mut().zip(*chunk) {
                        *sum += $term;
                    }
                }
                for (sum, $x) in sums.iter_mut().zip(rest.iter().copied()) {
                    *sum += $term;
                }
                sums.iter().sum()
            }
        }
    };
}
sums!(sum(row) | x | f64::from(x));
sums!(
    /// The sum of squared distances from a number.
    squares(row, from: f64) |x| (f64::from(x) - from) * (f64::from(x) - from)
);
sums!(
    /// The sum of `e^(x - largest)`.
    exp_sum(row, largest: f32) |x| f64::from(exp(x - largest))
);
