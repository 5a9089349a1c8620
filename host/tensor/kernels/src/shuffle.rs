//! Channels of images moved into their rows and columns, and back.

use crate::parallel;
use crate::parts::Parts;

/// Out `[n, c, h * f, w * f]` has element `(i * f + a, j * f + b)` of channel k from element `(i, j)` of channel `k * f^2 + a * f + b` of
/// x `[n, c * f^2, h, w]`; `sizes` are the output's `[n, c]` and the input's `[h, w]`. Allocates nothing.
///
/// # Panics
/// If a slice has not as many elements as that takes.
pub fn pixel_shuffle<T: Copy + Send + Sync>(sizes: [usize; 4], f: usize, x: &[T], out: &mut [T]) {
    each_channel(sizes, f, x, out, |x, out| {
        let [_, _, h, w] = sizes;
        for (row, out) in out.chunks_exact_mut(w * f).enumerate() {
            let (i, a) = (row / f, row % f);
            for b in 0..f {
                let from = &x[((a * f + b) * h + i) * w..][..w];
                out[b..].iter_mut().step_by(f).zip(from).for_each(|(to, x)| *to = *x);
            }
        }
    });
}

/// The inverse of [`pixel_shuffle`]: x `[n, c, h * f, w * f]`, out `[n, c * f^2, h, w]`. Allocates nothing.
///
/// # Panics
/// If a slice has not as many elements as that takes.
pub fn pixel_unshuffle<T: Copy + Send + Sync>(sizes: [usize; 4], f: usize, x: &[T], out: &mut [T]) {
    each_channel(sizes, f, x, out, |x, out| {
        let [_, _, h, w] = sizes;
        for (row, x) in x.chunks_exact(w * f).enumerate() {
            let (i, a) = (row / f, row % f);
            for b in 0..f {
                let to = &mut out[((a * f + b) * h + i) * w..][..w];
                to.iter_mut().zip(x[b..].iter().step_by(f)).for_each(|(to, x)| *to = *x);
            }
        }
    });
}

/// Hands each channel, as it is with its elements in rows and columns, and its place in the output to a task.
fn each_channel<T: Copy + Send + Sync>(
    sizes: [usize; 4],
    f: usize,
    x: &[T],
    out: &mut [T],
    task: impl Fn(&[T], &mut [T]) + Sync,
) {
    let [n, c, h, w] = sizes;
    assert_eq!(
        x.len(),
        n * c * f * f * h * w,
        "{n} x {c} channels of {h} * {f} x {w} * {f} elements"
    );
    assert_eq!(out.len(), x.len(), "as many elements out as in");
    if out.is_empty() {
        return;
    }
    let planes = Parts::new(out, h * w * f * f);
    parallel(n * c, x.len() as u64 / 2, |plane| {
        // SAFETY: each task takes its own channel.
        let out = unsafe { planes.take(plane) };
        task(&x[plane * out.len()..][..out.len()], out);
    });
}
