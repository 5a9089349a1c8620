//! Triangular filters on the mel scale. Source: librosa.filters.mel (after Slaney's Auditory Toolbox, 1998, and HTK).

use super::mel::{Norm, Scale};

/// The filters of all bands; each is zero outside a short range of frequencies.
#[derive(Clone, Debug)]
pub(super) struct Filters {
    /// For each band the first frequency, and the weights from there on.
    bands: Vec<(usize, Vec<f32>)>,
}

/// What filters are made of; frequencies in Hz.
pub(super) struct Shape {
    pub(super) rate: f64,
    pub(super) n_fft: usize,
    pub(super) n_mels: usize,
    pub(super) fmin: f64,
    pub(super) fmax: f64,
    pub(super) scale: Scale,
    pub(super) norm: Norm,
}

impl Filters {
    pub(super) fn new(shape: &Shape) -> Self {
        let (low, high) = (to_mel(shape.fmin, shape.scale), to_mel(shape.fmax, shape.scale));
        let edge = |i: usize| to_hz(low + (high - low) * i as f64 / (shape.n_mels + 1) as f64, shape.scale);
        let bins = shape.n_fft / 2 + 1;
        let band = |i: usize| {
            let (left, centre, right) = (edge(i), edge(i + 1), edge(i + 2));
            let norm = match shape.norm {
                Norm::Slaney => 2.0 / (right - left),
                Norm::None => 1.0,
            };
            let weight = |bin: usize| {
                let hz = bin as f64 * shape.rate / shape.n_fft as f64;
                let (up, down) = ((hz - left) / (centre - left), (right - hz) / (right - centre));
                (up.min(down).max(0.0) * norm) as f32
            };
            let start = (0..bins).find(|bin| weight(*bin) > 0.0).unwrap_or(0);
            (start, (start..bins).map(weight).take_while(|w| *w > 0.0).collect())
        };
        Self {
            bands: (0..shape.n_mels).map(band).collect(),
        }
    }

    pub(super) fn bands(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.bands.iter().map(|(start, weights)| (*start, weights.as_slice()))
    }
}

/// Slaney's scale: a line up to here, a logarithm above.
const KNEE_HZ: f64 = 1000.0;
const HZ_PER_MEL: f64 = 200.0 / 3.0;
const KNEE_MEL: f64 = KNEE_HZ / HZ_PER_MEL;

/// The step of Slaney's logarithm: 27 steps from 1 kHz to 6.4 kHz.
fn log_step() -> f64 {
    6.4f64.ln() / 27.0
}

fn to_mel(hz: f64, scale: Scale) -> f64 {
    match scale {
        Scale::Htk => 2595.0 * (1.0 + hz / 700.0).log10(),
        Scale::Slaney if hz < KNEE_HZ => hz / HZ_PER_MEL,
        Scale::Slaney => KNEE_MEL + (hz / KNEE_HZ).ln() / log_step(),
    }
}

fn to_hz(mel: f64, scale: Scale) -> f64 {
    match scale {
        Scale::Htk => 700.0 * (10f64.powf(mel / 2595.0) - 1.0),
        Scale::Slaney if mel < KNEE_MEL => mel * HZ_PER_MEL,
        Scale::Slaney => KNEE_HZ * ((mel - KNEE_MEL) * log_step()).exp(),
    }
}
