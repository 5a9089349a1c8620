//! Another sample rate: a polyphase filter of a sinc in a Kaiser window. Source: Crochiere & Rabiner, "Multirate Digital Signal
//! Processing" (1983); J. O. Smith, "Digital Audio Resampling Home Page".

use super::kaiser::kaiser;
use crate::{Error, Result};

/// The rates that are taken, in Hz.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=384_000;
/// Zero crossings of the sinc on each side. With `BETA`, the way from passing to stopping takes a tenth of the lower rate's half.
const CROSSINGS: f64 = 64.0;
/// Stops to 100 dB (Kaiser's formula, 0.1102 × (dB − 8.7)).
const BETA: f64 = 10.06;
/// Where half of the amplitude is left, as a part of the lower rate's half: the stop band begins at 1.
const CUTOFF: f64 = 0.95;
/// The most values in the table of all phases, 4 MiB; what needs more is interpolated.
const MAX_TABLE: usize = 1 << 20;
/// Phases between which is interpolated: the error of doing so, (π / phases)² / 8, is −118 dB.
const PHASES: usize = 1024;

/// From one rate to another.
pub(super) struct Filter {
    /// Output samples for every `step` input samples, without common divisor.
    phases: u64,
    step: u64,
    /// Rows of `taps` coefficients: one for each phase or, if those are too many, for `PHASES + 1` delays between 0 and 1.
    table: Vec<f32>,
    taps: usize,
    exact: bool,
}

impl Filter {
    pub(super) fn new(from: u32, to: u32) -> Result<Self> {
        for rate in [from, to] {
            if !RATES.contains(&rate) {
                let (least, most) = (RATES.start(), RATES.end());
                return Err(Error::invalid_input(format!(
                    "audio: cannot resample from {from} Hz to {to} Hz: rates are {least} to {most} Hz"
                )));
            }
        }
        let divisor = gcd(from, to);
        let (phases, step) = (u64::from(to / divisor), u64::from(from / divisor));
        // Zero crossings for each input sample: the sinc is wider when the output has the lower rate.
        let width = CUTOFF * (f64::from(to) / f64::from(from)).min(1.0);
        let half = (CROSSINGS / width).ceil() as usize;
        let taps = 2 * half;
        let exact = phases as usize * taps <= MAX_TABLE;
        let (rows, delays) = if exact {
            (phases as usize, phases as f64)
        } else {
            (PHASES + 1, PHASES as f64)
        };
        let mut table = Vec::with_capacity(rows * taps);
        let mut row = vec![0.0; taps];
        for i in 0..rows {
            let delay = i as f64 / delays;
            for (tap, value) in row.iter_mut().enumerate() {
                // How far the input sample is from the output sample, in input samples.
                let x = tap as f64 + 1.0 - half as f64 - delay;
                *value = sinc(x * width) * kaiser(x / (half as f64), BETA);
            }
            // A constant stays exactly what it is.
            let sum: f64 = row.iter().sum();
            table.extend(row.iter().map(|value| (value / sum) as f32));
        }
        Ok(Self {
            phases,
            step,
            table,
            taps,
            exact,
        })
    }

    pub(super) fn apply(&self, samples: &[f32]) -> Vec<f32> {
        let half = self.taps / 2;
        // Silence around it, so that every output has all of its inputs.
        let mut padded = vec![0.0; samples.len() + 2 * half];
        padded[half..half + samples.len()].copy_from_slice(samples);
        let count = (samples.len() as u64 * self.phases).div_ceil(self.step);
        (0..count).map(|i| self.at(i, &padded)).collect()
    }

    fn at(&self, i: u64, padded: &[f32]) -> f32 {
        let (whole, phase) = (i * self.step / self.phases, i * self.step % self.phases);
        // The taps begin `half - 1` before the sample, the padding `half`.
        let start = whole as usize + 1;
        let inputs = &padded[start..start + self.taps];
        let row = |row: usize| dot(inputs, &self.table[row * self.taps..(row + 1) * self.taps]);
        if self.exact {
            return row(phase as usize);
        }
        let delay = phase as f64 / self.phases as f64 * PHASES as f64;
        let (low, part) = (delay as usize, delay.fract() as f32);
        row(low) * (1.0 - part) + row(low + 1) * part
    }
}

/// In sixteen sums, so that the compiler may use vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<16>();
    let (b_chunks, b_rest) = b.as_chunks::<16>();
    let mut sums = [0.0f32; 16];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x.abs() < 1e-12 { 1.0 } else { x.sin() / x }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
