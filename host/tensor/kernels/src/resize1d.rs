//! Signals made longer or shorter by interpolation.

use crate::groups::groups;

/// The element of a signal of `len` that element `at` of one of `size` is nearest to: `floor(at * len / size)`, or the nearest to
/// `at * (len - 1) / (size - 1)`, halves up, if `corners` meet.
pub fn nearest(at: usize, len: usize, size: usize, corners: bool) -> usize {
    let (at, len, size) = (at as u128, len as u128, size as u128);
    match (corners, size) {
        (false, _) => (at * len / size) as usize,
        (true, 1) => 0,
        (true, _) => ((2 * at * (len - 1) + size - 1) / (2 * (size - 1))) as usize,
    }
}

/// Each signal of x `[signals, len]` interpolated to `size` elements, into out `[signals, size]`. Element `i` lies at
/// `max(0, (i + 0.5) * len / size - 0.5)`, or at `i * (len - 1) / (size - 1)` if `corners` meet. Allocates 12 bytes for each of `size`.
///
/// # Panics
/// If a slice has not as many elements as that takes, or `len` is 0.
pub fn linear(x: &[f32], len: usize, size: usize, corners: bool, out: &mut [f32]) {
    if out.is_empty() {
        return;
    }
    assert!(
        len > 0 && size > 0 && x.len() / len == out.len() / size,
        "{} of {len} to {size}",
        x.len()
    );
    // For each element: its two neighbours, and the weight of the second.
    let places: Vec<(u32, u32, f32)> = (0..size)
        .map(|i| {
            let place = match (corners, size) {
                (true, 1) => 0.0,
                (true, _) => i as f64 * (len - 1) as f64 / (size - 1) as f64,
                (false, _) => ((i as f64 + 0.5) * len as f64 / size as f64 - 0.5).max(0.0),
            };
            let first = (place as usize).min(len - 1);
            (
                first as u32,
                (first + 1).min(len - 1) as u32,
                (place - first as f64) as f32,
            )
        })
        .collect();
    groups(out, size, out.len() as u64, |first, part| {
        for (i, to) in part.chunks_exact_mut(size).enumerate() {
            let from = &x[(first + i) * len..][..len];
            for (y, (a, b, weight)) in to.iter_mut().zip(&places) {
                let (a, b) = (from[*a as usize], from[*b as usize]);
                *y = a * (1.0 - weight) + b * weight;
            }
        }
    });
}
