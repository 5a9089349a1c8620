//! The next token of a language model, drawn from its logits.

use crate::simd::multiversion;
use crate::sort::{Rank, first};
use crate::stop::spend;

/// Logits between two looks whether to stop.
const PART: usize = 64 << 10;

/// Parts of a long row, each with the place of its first element, and counted before it is taken.
fn parts<T>(all: &[T]) -> impl Iterator<Item = (usize, &[T])> {
    let parts = all.chunks(PART).inspect(|part| spend(2 * part.len() as u64));
    parts.enumerate().map(|(i, part)| (i * PART, part))
}

/// How a token is drawn; the op table says what each does, and in which order.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// At least 0; 0 takes the largest logit.
    pub temperature: f64,
    /// How many of the largest logits are kept; 0 for all.
    pub top_k: usize,
    /// Above 0, at most 1.
    pub top_p: f64,
    /// At least 0, below 1.
    pub min_p: f64,
    /// Above 0.
    pub repetition_penalty: f64,
}

/// Why nothing is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A logit is not a number.
    NotANumber,
    /// Every logit is minus infinity.
    Nothing,
}

/// Memory that [`sample`] keeps between calls.
#[derive(Debug, Default)]
pub struct Scratch {
    weights: Vec<f64>,
    seen: Vec<u64>,
    kept: Vec<u128>,
}

/// `e^x` of a number that is at most 0, within 2 units in the last place; 0 below -708. The same on every machine, which the
/// standard library's is not.
#[inline(always)]
#[allow(
    clippy::inline_always,
    reason = "what is not inlined is not compiled for the caller's instruction set"
)]
fn exp(x: f64) -> f64 {
    // ln 2 in two parts (Cody and Waite).
    const HIGH: f64 = 6.931_471_803_691_238e-1;
    const LOW: f64 = 1.908_214_929_270_587_7e-10;
    // Adding it leaves the nearest integer in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let clamped = x.max(-708.0);
    let shifted = clamped.mul_add(std::f64::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-HIGH, clamped);
    let r = n.mul_add(-LOW, r);
    // Taylor's series: r is at most 0.35.
    let mut p = 1.0 / 6_227_020_800.0;
    for factorial in [
        479_001_600.0,
        39_916_800.0,
        3_628_800.0,
        362_880.0,
        40_320.0,
        5_040.0,
        720.0,
        120.0,
        24.0,
        6.0,
        2.0,
        1.0,
        1.0,
    ] {
        p = r.mul_add(p, 1.0 / factorial);
    }
    let value = p * f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if x < -708.0 { 0.0 } else { value }
}

multiversion! {
    /// Scores as weights relative to the largest.
    fn weigh(scores: &mut [f64], largest: f64, temperature: f64) {
        for score in scores {
            let weight = exp((*score - largest) / temperature);
            // Infinity less infinity is not a number.
            *score = if *score == largest { 1.0 } else { weight };
        }
    }
}

/// An id drawn from logits, not empty, given ids that occurred before, all below the number of logits, and a random number from 0
/// up to but without 1: the first id whose weight and those before it add up to more than that part of all. Allocates 8 bytes a
/// logit, a bit a logit if there is a penalty, and 16 bytes a logit at most if `top_k` or `top_p` are on; all kept in `scratch`.
///
/// # Errors
/// If no id can be drawn from these logits.
///
/// # Panics
/// If an id is past the logits, or there are none.
pub fn sample(
    logits: &[f32],
    previous: &[u32],
    settings: &Settings,
    random: f64,
    scratch: &mut Scratch,
) -> Result<u32, Refused> {
    assert!(!logits.is_empty(), "there are no logits");
    let Scratch { weights, seen, kept } = scratch;
    if parts(logits).any(|(_, part)| part.iter().any(|x| x.is_nan())) {
        return Err(Refused::NotANumber);
    }
    weights.clear();
    weights.reserve_exact(logits.len());
    for (_, part) in parts(logits) {
        weights.extend(part.iter().map(|x| f64::from(*x)));
    }
    let penalty = settings.repetition_penalty;
    if penalty != 1.0 && !previous.is_empty() {
        seen.clear();
        seen.resize(logits.len().div_ceil(64), 0);
        for id in previous {
            let (word, bit) = (*id as usize / 64, 1 << (id % 64));
            if seen[word] & bit == 0 {
                seen[word] |= bit;
                let score = &mut weights[*id as usize];
                *score = if *score > 0.0 {
                    *score / penalty
                } else {
                    *score * penalty
                };
            }
        }
    }
    let mut best = 0;
    for (from, part) in parts(weights) {
        for (i, score) in part.iter().enumerate() {
            if *score > weights[best] {
                best = from + i;
            }
        }
    }
    let largest = weights[best];
    if largest == f64::NEG_INFINITY {
        return Err(Refused::Nothing);
    }
    if settings.temperature == 0.0 {
        return Ok(best as u32);
    }
    if settings.top_k > 0 && settings.top_k < weights.len() {
        first(weights.iter().copied(), settings.top_k, true, kept);
        if let Some(last) = kept.last().copied() {
            put_behind(weights, last, f64::NEG_INFINITY);
        }
    }
    for part in weights.chunks_mut(PART) {
        spend(4 * part.len() as u64);
        weigh(part, largest, settings.temperature);
    }
    if settings.top_p < 1.0 {
        nucleus(weights, settings.top_p, kept);
    }
    // The largest weight is 1.
    let least = settings.min_p;
    let weight = |weight: &f64| if *weight >= least { *weight } else { 0.0 };
    let target = random * total(weights, weight);
    let mut sum = 0.0;
    let mut drawn = best;
    'drawing: for (from, part) in parts(weights) {
        for (i, w) in part.iter().map(weight).enumerate() {
            sum += w;
            if w > 0.0 {
                drawn = from + i;
                if sum > target {
                    break 'drawing;
                }
            }
        }
    }
    Ok(drawn as u32)
}

/// The sum of weights, one after the other.
fn total(weights: &[f64], weight: impl Fn(&f64) -> f64) -> f64 {
    parts(weights).fold(0.0, |sum, (_, part)| {
        part.iter().map(&weight).fold(sum, |sum, w| sum + w)
    })
}

/// Sets what ranks behind a score.
fn put_behind(scores: &mut [f64], last: u128, value: f64) {
    for (i, part) in scores.chunks_mut(PART).enumerate() {
        spend(2 * part.len() as u64);
        for (j, score) in part.iter_mut().enumerate() {
            if score.pack(true, (i * PART + j) as u32) > last {
                *score = value;
            }
        }
    }
}

/// Leaves the fewest largest weights that add up to a part of all, the lower index of equals first.
fn nucleus(weights: &mut [f64], part: f64, kept: &mut Vec<u128>) {
    let wanted = part * total(weights, |weight| *weight);
    // Most often a few are enough.
    let mut count = 64;
    loop {
        count = weights.len().min(count * 8);
        first(weights.iter().copied(), count, true, kept);
        let mut sum = 0.0;
        for packed in kept.iter() {
            sum += weights[f64::index(*packed) as usize];
            if sum >= wanted {
                let last = *packed;
                put_behind(weights, last, 0.0);
                return;
            }
        }
        if count == weights.len() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::philox::{philox4x32_10, uniform};

    const PLAIN: Settings = Settings {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
    };

    /// What may be drawn and how likely, in float64, by sorting.
    fn probabilities(logits: &[f32], previous: &[u32], s: &Settings) -> Vec<f64> {
        let mut scores: Vec<f64> = logits.iter().map(|x| f64::from(*x)).collect();
        for (id, score) in scores.iter_mut().enumerate() {
            if previous.contains(&(id as u32)) {
                let p = s.repetition_penalty;
                *score = if *score > 0.0 { *score / p } else { *score * p };
            }
        }
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*b].partial_cmp(&scores[*a]).unwrap());
        if s.top_k > 0 {
            order.truncate(s.top_k);
        }
        let most = scores[order[0]];
        let weights: Vec<f64> = scores.iter().map(|x| ((x - most) / s.temperature).exp()).collect();
        let total: f64 = order.iter().map(|i| weights[*i]).sum();
        let mut sum = 0.0;
        let mut set = Vec::new();
        for i in order {
            set.push(i);
            sum += weights[i] / total;
            if sum >= s.top_p {
                break;
            }
        }
        let most = weights[set[0]];
        set.retain(|i| weights[*i] >= s.min_p * most);
        let total: f64 = set.iter().map(|i| weights[*i]).sum();
        (0..scores.len())
            .map(|i| if set.contains(&i) { weights[i] / total } else { 0.0 })
            .collect()
    }

    fn number(seed: u32, at: u32) -> f64 {
        let words = philox4x32_10([at, 0, 0, 0], [seed, 7]);
        uniform(words[0], words[1])
    }

    #[test]
    fn exp_is_exact_enough() {
        let mut worst = 0.0_f64;
        for i in 0..=700_000 {
            let x = -f64::from(i) / 1000.0;
            worst = worst.max((exp(x) / x.exp() - 1.0).abs());
        }
        assert!(worst < 6e-16, "{worst}");
        assert_eq!((exp(0.0), exp(-800.0), exp(f64::NEG_INFINITY)), (1.0, 0.0, 0.0));
    }

    #[test]
    fn each_draw_is_where_the_reference_has_it() {
        let mut scratch = Scratch::default();
        for case in 0..4000 {
            let random = |at| number(case, at);
            let v = 1 + (random(0) * 40.0) as usize * if case % 50 == 0 { 60 } else { 1 };
            // Some logits are alike, some are impossible.
            let logits: Vec<f32> = (0..v)
                .map(|i| match random(100 + i as u32) {
                    r if r < 0.1 => f32::NEG_INFINITY,
                    r if r < 0.3 => 1.5,
                    r => (r * 12.0 - 6.0) as f32,
                })
                .collect();
            let previous: Vec<u32> = (0..5).map(|i| (random(10 + i) * v as f64) as u32).collect();
            let on = |at, value: f64, off: f64| if random(at) < 0.5 { value } else { off };
            let settings = Settings {
                temperature: on(20, 0.1 + 2.0 * random(21), 1.0),
                top_k: on(22, 1.0 + random(23) * 50.0, 0.0) as usize,
                top_p: on(24, 0.01 + 0.98 * random(25), 1.0),
                min_p: on(26, 0.5 * random(27), 0.0),
                repetition_penalty: on(28, 0.5 + random(29), 1.0),
            };
            let u = random(30);
            let drawn = sample(&logits, &previous, &settings, u, &mut scratch);
            if logits.iter().all(|x| *x == f32::NEG_INFINITY) {
                assert_eq!(drawn, Err(Refused::Nothing));
                continue;
            }
            let drawn = drawn.unwrap() as usize;
            let expected = probabilities(&logits, &previous, &settings);
            let before: f64 = expected[..drawn].iter().sum();
            assert!(expected[drawn] > 0.0, "{case}: {settings:?} {logits:?} drew {drawn}");
            let slack = 1e-12;
            assert!(
                before <= u + slack && u <= before + expected[drawn] + slack,
                "{case}: {settings:?} drew {drawn}"
            );
        }
    }

    #[test]
    fn draws_are_as_frequent_as_they_are_likely() {
        // Chi-square with 9 degrees of freedom: above 33.7 once in 10,000 times. The seeds are fixed.
        let logits: Vec<f32> = (0..10).map(|i| (i * 7 % 10) as f32 / 4.0).collect();
        for (seed, settings) in [
            (1, PLAIN),
            (
                2,
                Settings {
                    temperature: 0.7,
                    ..PLAIN
                },
            ),
            (
                3,
                Settings {
                    temperature: 3.0,
                    repetition_penalty: 1.3,
                    ..PLAIN
                },
            ),
        ] {
            let expected = probabilities(&logits, &[3, 3, 9], &settings);
            let draws = 200_000_u32;
            let mut counts = [0_u32; 10];
            let mut scratch = Scratch::default();
            for step in 0..draws {
                counts[sample(&logits, &[3, 3, 9], &settings, number(seed, step), &mut scratch).unwrap() as usize] += 1;
            }
            let square: f64 = counts
                .iter()
                .zip(&expected)
                .map(|(count, p)| {
                    let mean = p * f64::from(draws);
                    (f64::from(*count) - mean).powi(2) / mean
                })
                .sum();
            assert!(square < 33.7, "seed {seed}: {square}");
        }
    }

    #[test]
    fn edges() {
        let mut scratch = Scratch::default();
        let mut draw = |logits: &[f32], settings: Settings, u| sample(logits, &[], &settings, u, &mut scratch);
        let greedy = Settings {
            temperature: 0.0,
            ..PLAIN
        };
        assert_eq!(draw(&[1.0, 3.0, 3.0], greedy, 0.9), Ok(1), "the first of equals");
        assert_eq!(draw(&[1.0, f32::NAN], PLAIN, 0.5), Err(Refused::NotANumber));
        assert_eq!(draw(&[f32::NEG_INFINITY; 3], greedy, 0.5), Err(Refused::Nothing));
        assert_eq!(draw(&[0.0, f32::INFINITY, 5.0], PLAIN, 0.999), Ok(1));
        let last = 1.0 - f64::EPSILON / 2.0;
        assert_eq!(draw(&[0.0, 0.0, f32::NEG_INFINITY], PLAIN, last), Ok(1));
        assert_eq!(
            draw(&[1.0, 2.0, 2.0], Settings { top_p: 1e-9, ..PLAIN }, last),
            Ok(1),
            "at least one"
        );
    }
}
