//! Long sound in windows.

use std::ops::Range;

/// Cuts `samples` samples into windows of `window` samples, each starting `window - overlap` after the one before; the last one may
/// be shorter. No samples, no windows.
///
/// A `window` of 0 counts as 1, and an `overlap` that would stop the windows from advancing as `window - 1`.
pub fn segments(samples: usize, window: usize, overlap: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let window = window.max(1);
    let step = window - overlap.min(window - 1);
    // Nothing new is in a window that starts within the last overlap.
    let count = match samples.checked_sub(window) {
        None => usize::from(samples > 0),
        Some(rest) => 1 + rest.div_ceil(step),
    };
    (0..count).map(move |i| i * step..(i * step).saturating_add(window).min(samples))
}
