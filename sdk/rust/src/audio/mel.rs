//! Mel spectrograms: how much of each band of frequencies is heard when. Sources: openai/whisper `audio.py`,
//! librosa.feature.melspectrogram.

use std::f64::consts::TAU;

use super::fft::{LANES, RealFft, Scratch};
use super::filters::{Filters, Shape};
use crate::{Error, Result};

/// The longest transform.
const MAX_FFT: usize = 1 << 16;
/// The most bands.
const MAX_MELS: usize = 1024;
/// What Whisper's logarithm sees at least.
const WHISPER_FLOOR: f32 = 1e-10;

/// The mel scale's formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Linear up to 1 kHz, logarithmic above (librosa's `htk=False`).
    Slaney,
    /// `2595 log10(1 + hz / 700)` (librosa's `htk=True`).
    Htk,
}

/// What the filters are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// By half of their width in Hz (librosa's `norm='slaney'`).
    Slaney,
    /// Nothing: each has the peak 1 (`norm=None`).
    None,
}

/// What is taken for the samples before the first and after the last, where frames are centred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pad {
    /// Silence (librosa's `pad_mode='constant'`).
    Zero,
    /// The samples mirrored, without repeating the one at the end (`pad_mode='reflect'`).
    Reflect,
}

/// What becomes of a band's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Log {
    /// It is kept.
    None,
    /// Its natural logarithm, of no less than this.
    Ln(f32),
    /// Its logarithm to the base 10, of no less than this.
    Log10(f32),
    /// Whisper's: `log10` of no less than 1e-10, no less than the maximum − 8, then `(x + 4) / 4`.
    Whisper,
}

/// Settings of [`Mel`], with librosa's defaults. Set fields, then [`Settings::build`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// The samples' rate in Hz.
    pub rate: u32,
    /// Samples of a transform, 2 to 65 536.
    pub n_fft: usize,
    /// Samples of the Hann window (periodic), at most `n_fft`; it stands in the middle of the transform.
    pub win: usize,
    /// Samples from one frame to the next.
    pub hop: usize,
    /// Bands.
    pub n_mels: usize,
    /// Where the first band begins, in Hz.
    pub fmin: f32,
    /// Where the last band ends, in Hz; at most half of `rate`.
    pub fmax: f32,
    /// To which power magnitudes are raised: 2 for energy, 1 for amplitude.
    pub power: f32,
    /// The scale's formula.
    pub scale: Scale,
    /// What the filters are divided by.
    pub norm: Norm,
    /// Frame `t` has sample `t × hop` in its middle, rather than at its beginning.
    pub centre: Option<Pad>,
    /// Leaves the last frame out, as Whisper does.
    pub drop_last: bool,
    /// What becomes of the values.
    pub log: Log,
}

impl Settings {
    /// As `librosa.feature.melspectrogram(sr=rate)`: 2048 samples, hop 512, 128 bands from 0 Hz to half of the rate, energies.
    pub fn librosa(rate: u32) -> Self {
        Self {
            rate,
            n_fft: 2048,
            win: 2048,
            hop: 512,
            n_mels: 128,
            fmin: 0.0,
            fmax: rate as f32 / 2.0,
            power: 2.0,
            scale: Scale::Slaney,
            norm: Norm::Slaney,
            centre: Some(Pad::Zero),
            drop_last: false,
            log: Log::None,
        }
    }

    /// Computes window, filters and transform.
    ///
    /// # Errors
    /// `unsupported` if a setting is out of range; the message names it.
    pub fn build(self) -> Result<Mel> {
        let nyquist = self.rate as f32 / 2.0;
        let wrong = [
            (self.rate == 0, "rate is 0"),
            (!(2..=MAX_FFT).contains(&self.n_fft), "n_fft is not 2 to 65536"),
            (self.win == 0 || self.win > self.n_fft, "win is not 1 to n_fft"),
            (self.hop == 0, "hop is 0"),
            (!(1..=MAX_MELS).contains(&self.n_mels), "n_mels is not 1 to 1024"),
            (
                !(self.fmin >= 0.0 && self.fmin < self.fmax),
                "fmin is not between 0 and fmax",
            ),
            (self.fmax > nyquist, "fmax is more than half of the rate"),
            (!(self.power > 0.0 && self.power.is_finite()), "power is not positive"),
        ];
        if let Some((_, what)) = wrong.into_iter().find(|(wrong, _)| *wrong) {
            return Err(Error::unsupported(format!(
                "mel spectrogram: {what}; correct the settings"
            )));
        }
        let filters = Filters::new(&Shape {
            rate: f64::from(self.rate),
            n_fft: self.n_fft,
            n_mels: self.n_mels,
            fmin: f64::from(self.fmin),
            fmax: f64::from(self.fmax),
            scale: self.scale,
            norm: self.norm,
        });
        let mut window = vec![0.0; self.n_fft];
        let before = (self.n_fft - self.win) / 2;
        for (i, value) in window[before..before + self.win].iter_mut().enumerate() {
            *value = (0.5 - 0.5 * (TAU * i as f64 / self.win as f64).cos()) as f32;
        }
        Ok(Mel {
            fft: RealFft::new(self.n_fft),
            settings: self,
            window,
            filters,
        })
    }
}

/// Makes mel spectrograms; see [`Mel::frames`].
#[derive(Clone, Debug)]
pub struct Mel {
    settings: Settings,
    window: Vec<f32>,
    filters: Filters,
    fft: RealFft,
}

impl Mel {
    /// Whisper's: 16 kHz, 25 ms every 10 ms, `n_mels` bands (80, or 128 since large-v3).
    ///
    /// # Errors
    /// `unsupported` if `n_mels` is out of range.
    pub fn whisper(n_mels: usize) -> Result<Self> {
        Settings {
            n_fft: 400,
            win: 400,
            hop: 160,
            n_mels,
            centre: Some(Pad::Reflect),
            drop_last: true,
            log: Log::Whisper,
            ..Settings::librosa(16_000)
        }
        .build()
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The spectrogram, `n_mels` rows of as many frames as the second value says, and that number.
    ///
    /// With `pad_to_samples` not 0 the samples are first cut, or followed by silence, to be as many: Whisper wants 480 000 (30 s),
    /// which give 3 000 frames.
    pub fn frames(&self, samples: &[f32], pad_to_samples: usize) -> (Vec<f32>, usize) {
        let padded = self.pad(samples, pad_to_samples);
        let Settings { n_fft, hop, .. } = self.settings;
        let whole = match padded.len().checked_sub(n_fft) {
            Some(rest) => 1 + rest / hop,
            None => 0,
        };
        let count = whole - usize::from(self.settings.drop_last && whole > 0);
        let mut out = vec![0.0; self.settings.n_mels * count];
        let mut power = vec![[0.0; LANES]; n_fft / 2 + 1];
        let mut scratch = Scratch::default();
        for first in (0..count).step_by(LANES) {
            let lanes = LANES.min(count - first);
            let frames: [&[f32]; LANES] = std::array::from_fn(|lane| {
                // At the end the last frame again, in place of those that are not there.
                let start = (first + lane.min(lanes - 1)) * hop;
                &padded[start..start + n_fft]
            });
            self.fft.power(
                |i| frames.map(|frame| frame[i] * self.window[i]),
                &mut scratch,
                &mut power,
            );
            if self.settings.power != 2.0 {
                let exponent = self.settings.power / 2.0;
                power.iter_mut().flatten().for_each(|x| *x = x.powf(exponent));
            }
            for (row, (start, weights)) in out.chunks_exact_mut(count).zip(self.filters.bands()) {
                let mut sums = [0.0; LANES];
                for (weight, power) in weights.iter().zip(&power[start..]) {
                    for (sum, x) in sums.iter_mut().zip(power) {
                        *sum += weight * x;
                    }
                }
                row[first..first + lanes].copy_from_slice(&sums[..lanes]);
            }
        }
        apply(self.settings.log, &mut out);
        (out, count)
    }

    /// The samples with what comes before and after them.
    fn pad(&self, samples: &[f32], pad_to: usize) -> Vec<f32> {
        let len = if pad_to == 0 { samples.len() } else { pad_to };
        let samples = &samples[..samples.len().min(len)];
        let margin = if self.settings.centre.is_some() {
            self.settings.n_fft / 2
        } else {
            0
        };
        let mut padded = vec![0.0; len + 2 * margin];
        padded[margin..margin + samples.len()].copy_from_slice(samples);
        // Mirrored again and again, if there are fewer samples than the margin.
        if self.settings.centre == Some(Pad::Reflect) && len > 1 {
            let period = 2 * (len - 1);
            for i in 1..=margin {
                let at = i % period;
                let at = at.min(period - at);
                padded[margin - i] = padded[margin + at];
                padded[margin + len - 1 + i] = padded[margin + len - 1 - at];
            }
        }
        padded
    }
}

fn apply(log: Log, values: &mut [f32]) {
    match log {
        Log::None => {}
        Log::Ln(floor) => values.iter_mut().for_each(|x| *x = x.max(floor).ln()),
        Log::Log10(floor) => values.iter_mut().for_each(|x| *x = x.max(floor).log10()),
        Log::Whisper => {
            let mut most = f32::NEG_INFINITY;
            for x in values.iter_mut() {
                *x = x.max(WHISPER_FLOOR).log10();
                most = most.max(*x);
            }
            values.iter_mut().for_each(|x| *x = (x.max(most - 8.0) + 4.0) / 4.0);
        }
    }
}
