//! Sound: files to samples, other rates, mel spectrograms.
//!
//! ```no_run
//! # fn main() -> maquette::Result<()> {
//! # let bytes: Vec<u8> = Vec::new();
//! use maquette::audio::{Audio, mel::Mel, segments};
//!
//! let audio = Audio::decode_up_to(&bytes, 3600.0)?.mono().resample(16_000)?;
//! let mel = Mel::whisper(80)?;
//! for part in segments(audio.samples.len(), 480_000, 0) {
//!     let (log_mel, frames) = mel.frames(&audio.samples[part], 480_000);
//! }
//! # Ok(()) }
//! ```

mod fft;
mod filters;
#[cfg(feature = "audio-flac")]
mod flac;
mod kaiser;
pub mod mel;
#[cfg(feature = "audio-mp3")]
mod mp3;
mod resample;
mod segments;
mod sniff;
mod wav;

pub use segments::segments;

use crate::{Error, Result};
use sniff::Container;

/// What [`Audio::decode`] takes at most, in seconds.
pub const MAX_SECONDS: f64 = 600.0;
/// The most samples of a second, all channels together: 8 channels at 48 kHz, 2 at 192 kHz.
pub const MAX_SAMPLES_PER_SECOND: u64 = 384_000;

/// Samples in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Audio {
    /// The samples of all channels in turn. Full scale is −1 to 1; decoded files may exceed that, but are always finite.
    pub samples: Vec<f32>,
    /// How many channels; at least 1.
    pub channels: u16,
    /// Samples of one channel in a second, in Hz.
    pub rate: u32,
}

impl Audio {
    /// Decodes a file of at most [`MAX_SECONDS`]. See [`Audio::decode_up_to`].
    ///
    /// # Errors
    /// As there.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Self::decode_up_to(bytes, MAX_SECONDS)
    }

    /// Decodes a file; what it is, is seen from its bytes.
    ///
    /// - WAV (RIFF and RF64): integers of 8, 16, 24 and 32 bits, floats of 32 and 64 bits, A-law, µ-law.
    /// - FLAC with the feature `audio-flac`, MP3 with `audio-mp3`.
    ///
    /// No more than `max_seconds` × [`MAX_SAMPLES_PER_SECOND`] samples are ever held, whatever the file says. A file without any
    /// samples is no error.
    ///
    /// # Errors
    /// `invalid-input` if the file is of another kind, damaged, longer than `max_seconds`, has more than
    /// [`MAX_SAMPLES_PER_SECOND`], or a sample that is no finite number.
    pub fn decode_up_to(bytes: &[u8], max_seconds: f64) -> Result<Self> {
        let limit = Limit { max_seconds };
        match sniff::sniff(bytes) {
            Container::Wav => wav::decode(bytes, limit),
            #[cfg(feature = "audio-flac")]
            Container::Flac(start) => flac::decode(&bytes[start..], limit),
            #[cfg(feature = "audio-mp3")]
            Container::Mp3 => mp3::decode(bytes, limit),
            Container::Unknown(what) => Err(Error::invalid_input(format!(
                "audio: this is {what}; send {}",
                sniff::KNOWN
            ))),
        }
    }

    /// How long it is, in seconds.
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.channels.max(1)) / f64::from(self.rate.max(1))
    }

    /// The mean of the channels.
    pub fn mono(self) -> Self {
        let channels = usize::from(self.channels.max(1));
        if channels == 1 {
            return self;
        }
        let scale = 1.0 / channels as f32;
        Self {
            samples: self
                .samples
                .chunks_exact(channels)
                .map(|frame| frame.iter().sum::<f32>() * scale)
                .collect(),
            channels: 1,
            rate: self.rate,
        }
    }

    /// At another rate: `ceil(frames × rate / self.rate)` frames, the first at the same time as before.
    ///
    /// A windowed sinc (Kaiser, 100 dB): below 0.9 of the lower rate's half, a tone keeps its amplitude and phase to −90 dB; above
    /// that half it is gone to −90 dB. Before and after the samples there is silence.
    ///
    /// # Errors
    /// `invalid-input` if one of the rates is outside 1 000 to 384 000 Hz.
    pub fn resample(self, rate: u32) -> Result<Self> {
        if rate == self.rate {
            return Ok(self);
        }
        let channels = usize::from(self.channels.max(1));
        let filter = resample::Filter::new(self.rate, rate)?;
        let samples = if channels == 1 {
            filter.apply(&self.samples)
        } else {
            let mut all = Vec::new();
            for channel in 0..channels {
                let one: Vec<f32> = self
                    .samples
                    .chunks_exact(channels)
                    .map(|frame| frame[channel])
                    .collect();
                let one = filter.apply(&one);
                all.resize(one.len() * channels, 0.0);
                for (frame, sample) in all.chunks_exact_mut(channels).zip(one) {
                    frame[channel] = sample;
                }
            }
            all
        };
        Ok(Self {
            samples,
            channels: self.channels,
            rate,
        })
    }
}

/// How much a file may hold.
#[derive(Clone, Copy)]
struct Limit {
    max_seconds: f64,
}

impl Limit {
    /// The most samples, all channels together, of a file of this rate and these channels.
    fn samples(self, kind: &str, rate: u32, channels: u16) -> Result<usize> {
        if rate == 0 || channels == 0 {
            return Err(Error::invalid_input(format!(
                "audio: the {kind} file says it has {channels} channels at {rate} Hz; it is damaged"
            )));
        }
        let each_second = u64::from(rate) * u64::from(channels);
        if each_second > MAX_SAMPLES_PER_SECOND {
            return Err(Error::invalid_input(format!(
                "audio: the {kind} file has {channels} channels at {rate} Hz, which is more than {MAX_SAMPLES_PER_SECOND} \
                 samples a second; convert it to fewer channels or a lower rate"
            )));
        }
        // A float's cast saturates; a cap that is no number lets nothing through.
        let frames = (self.max_seconds * f64::from(rate)) as u64;
        Ok(usize::try_from(frames.saturating_mul(u64::from(channels))).unwrap_or(usize::MAX))
    }

    fn exceeded(self, kind: &str) -> Error {
        Error::invalid_input(format!(
            "audio: the {kind} file is longer than {} seconds, which is the most this model takes; cut it",
            self.max_seconds
        ))
    }
}
