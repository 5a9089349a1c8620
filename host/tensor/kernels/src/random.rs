//! Random numbers that depend on a seed and a place alone: Philox4x32-10, whose every block of four words is computed from its number.
//!
//! Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011). Anything that computes the same few integer
//! operations, on any device and in any order, has the same words.

use crate::math;
use crate::parallel;
use crate::parts::Parts;
use crate::philox::philox4x32_10 as philox;
use crate::simd::multiversion;

/// Elements that one task takes, a multiple of [`LANES`] blocks.
const TASK: usize = 8 << 10;

/// Blocks computed at once.
const LANES: usize = 16;

/// What a word is divided by once its low bits are gone.
const UNIT: f32 = 1.0 / 16_777_216.0;

/// How words become numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// From 0 up to, not including, 1: a word, shifted right by 8, divided by 2^24.
    Uniform,
    /// Mean 0, variance 1: words v and w, shifted right by 8, become `r cos t` and `r sin t` for `r = sqrt(-2 ln((v + 1) / 2^24))` and
    /// `t = 2 pi w / 2^24` (Box and Muller, 1958). None is beyond 5.77.
    Normal,
}

/// Fills a slice: elements `4 i` to `4 i + 3` from the block with the counter `(i, offset)`, 64 bits each, the low words first, and the
/// seed as key. Different offsets have numbers of their own. Allocates nothing.
pub fn random(distribution: Distribution, seed: u64, offset: u64, out: &mut [f32]) {
    let parts = Parts::new(out, TASK);
    let len = parts.len();
    parallel(len.div_ceil(TASK), len as u64 * 3, |task| {
        // SAFETY: each task takes its own part.
        let out = unsafe { parts.take(task) };
        fill(distribution, seed, offset, (task * TASK / 4) as u64, out);
    });
}

multiversion! {
    #[allow(clippy::needless_range_loop, reason = "a lane of several arrays at once")]
    fn fill(distribution: Distribution, seed: u64, offset: u64, first: u64, out: &mut [f32]) {
        let key = [seed as u32, (seed >> 32) as u32];
        let (low, high) = (offset as u32, (offset >> 32) as u32);
        for (i, out) in out.chunks_mut(4 * LANES).enumerate() {
            let mut words = [0_u32; 4 * LANES];
            for (lane, words) in words.chunks_exact_mut(4).enumerate() {
                let block = first + (i * LANES + lane) as u64;
                words.copy_from_slice(&philox([block as u32, (block >> 32) as u32, low, high], key));
            }
            let mut numbers = [0.0_f32; 4 * LANES];
            for (x, word) in numbers.iter_mut().zip(&words) {
                *x = (word >> 8) as f32 * UNIT;
            }
            if distribution == Distribution::Normal {
                for pair in numbers.chunks_exact_mut(2) {
                    let radius = (-2.0 * math::ln(pair[0] + UNIT)).sqrt();
                    let (sin, cos) = math::sin_cos_of_turns(pair[1]);
                    pair[0] = radius * cos;
                    pair[1] = radius * sin;
                }
            }
            let len = out.len();
            out.copy_from_slice(&numbers[..len]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_depend_on_their_place_alone() {
        for distribution in [Distribution::Uniform, Distribution::Normal] {
            let mut long = vec![0.0; 3 * TASK + 5];
            random(distribution, 7, 9, &mut long);
            for len in [1, 3, 64, 65, TASK, TASK + 1] {
                let mut short = vec![0.0; len];
                random(distribution, 7, 9, &mut short);
                assert_eq!(short, long[..len]);
            }
            let mut other = vec![0.0; 64];
            random(distribution, 7, 10, &mut other);
            assert_ne!(other, long[..64]);
        }
    }

    #[test]
    fn normal_numbers_are_normal() {
        let mut numbers = vec![0.0; 1 << 20];
        random(Distribution::Normal, 1, 0, &mut numbers);
        let count = numbers.len() as f64;
        let moment = |k: i32| numbers.iter().map(|x| f64::from(*x).powi(k)).sum::<f64>() / count;
        assert!(
            moment(1).abs() < 5e-3 && (moment(2) - 1.0).abs() < 1e-2,
            "{} {}",
            moment(1),
            moment(2)
        );
        assert!(
            moment(3).abs() < 2e-2 && (moment(4) - 3.0).abs() < 5e-2,
            "{} {}",
            moment(3),
            moment(4)
        );
        // The share beyond 2 is that of the normal distribution, 4.55 %.
        let beyond = numbers.iter().filter(|x| x.abs() > 2.0).count() as f64 / count;
        assert!((beyond - 0.0455).abs() < 1e-3, "{beyond}");
        random(Distribution::Uniform, 1, 0, &mut numbers);
        assert!(numbers.iter().all(|x| (0.0..1.0).contains(x)));
        let mean = numbers.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
        assert!((mean - 0.5).abs() < 2e-3, "{mean}");
    }
}
