//! Rotary position embedding. Source: Su et al., "RoFormer" (2021).

use crate::parallel;
use crate::parts::Parts;
use crate::stop::spend;

/// Which elements of a vector are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// `i` and `i + n`, the two halves (GPT-NeoX, Hugging Face).
    Halves,
    /// `2 i` and `2 i + 1`, neighbours (RoFormer, GGUF's llama).
    Neighbours,
}

/// The angles' cosines and sines: `[positions, frequencies]` each. In float64 until the end: positions are large and angles wrap.
pub fn angles(positions: impl Iterator<Item = f64>, frequencies: &[f64]) -> (Vec<f32>, Vec<f32>) {
    positions
        .flat_map(|position| frequencies.iter().map(move |frequency| position * frequency))
        .map(|angle| {
            let (sin, cos) = angle.sin_cos();
            (cos as f32, sin as f32)
        })
        .unzip()
}

/// The frequencies `base^(-2 i / width)` for `i` below `width / 2`.
pub fn frequencies(base: f64, width: usize) -> Vec<f64> {
    (0..width / 2)
        .map(|i| base.powf(-2.0 * i as f64 / width as f64))
        .collect()
}

/// Turns the first `2 n` elements of each vector of `x` `[times, heads, width]`, row-major, by the angles of its time, where `cos` and
/// `sin` are `[periods, n]` and time `t` has the angles of row `t % periods`. The other elements are copied.
///
/// # Panics
/// If the slices have other sizes.
#[allow(clippy::too_many_arguments, reason = "a tensor, its sizes, a table and where to")]
pub fn rope(x: &[f32], heads: usize, width: usize, cos: &[f32], sin: &[f32], n: usize, pairs: Pairs, out: &mut [f32]) {
    assert!(
        2 * n <= width && cos.len() == sin.len() && x.len() == out.len(),
        "{n} angles for vectors of {width}"
    );
    let row = heads * width;
    if row == 0 || x.is_empty() {
        return;
    }
    assert!(x.len().is_multiple_of(row), "{} elements in rows of {row}", x.len());
    if n == 0 {
        out.copy_from_slice(x);
        return;
    }
    let periods = cos.len() / n;
    assert!(periods > 0, "no angles");
    let parts = Parts::new(out, row);
    parallel(x.len() / row, x.len() as u64 / 2, |time| {
        // SAFETY: each task takes its own part.
        let out = unsafe { parts.take(time) };
        let at = time % periods * n;
        let (cos, sin) = (&cos[at..at + n], &sin[at..at + n]);
        for (x, out) in x[time * row..][..row]
            .chunks_exact(width)
            .zip(out.chunks_exact_mut(width))
        {
            spend(width as u64 / 2);
            match pairs {
                Pairs::Halves => {
                    for i in 0..n {
                        let (a, b) = (x[i], x[n + i]);
                        out[i] = a * cos[i] - b * sin[i];
                        out[n + i] = b * cos[i] + a * sin[i];
                    }
                }
                Pairs::Neighbours => {
                    for i in 0..n {
                        let (a, b) = (x[2 * i], x[2 * i + 1]);
                        out[2 * i] = a * cos[i] - b * sin[i];
                        out[2 * i + 1] = b * cos[i] + a * sin[i];
                    }
                }
            }
            out[2 * n..].copy_from_slice(&x[2 * n..]);
        }
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn vectors_are_turned_by_their_positions_and_keep_their_length() {
        let (heads, width, times) = (2, 10, 3);
        let x: Vec<f32> = (0..heads * width * times).map(|i| (i as f32 * 0.37).sin()).collect();
        let n = 4;
        let frequencies = frequencies(100.0, 2 * n);
        let (cos, sin) = angles([5.0, 6.0, 1000.0].into_iter(), &frequencies);
        for pairs in [Pairs::Halves, Pairs::Neighbours] {
            let mut out = vec![0.0; x.len()];
            rope(&x, heads, width, &cos, &sin, n, pairs, &mut out);
            for (t, position) in [5.0_f64, 6.0, 1000.0].into_iter().enumerate() {
                for h in 0..heads {
                    let at = (t * heads + h) * width;
                    for i in 0..n {
                        let (j, k) = if pairs == Pairs::Halves {
                            (i, n + i)
                        } else {
                            (2 * i, 2 * i + 1)
                        };
                        let angle = position * 100.0_f64.powf(-(i as f64) / n as f64);
                        let (a, b) = (f64::from(x[at + j]), f64::from(x[at + k]));
                        assert!((f64::from(out[at + j]) - (a * angle.cos() - b * angle.sin())).abs() < 1e-6);
                        assert!((f64::from(out[at + k]) - (b * angle.cos() + a * angle.sin())).abs() < 1e-6);
                    }
                    assert_eq!(out[at + 2 * n..at + width], x[at + 2 * n..at + width]);
                }
            }
        }
    }
}
