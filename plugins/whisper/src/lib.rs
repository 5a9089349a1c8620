//! Speech to text with Whisper. Source: "Robust Speech Recognition via Large-Scale Weak Supervision" (Radford et al., 2022).
//!
//! Which Whisper it is, the weights say: their sizes, and their names, which are Hugging Face's or CTranslate2's. One that knows many
//! languages tells which is spoken, and can translate into English.

mod decode;
mod model;
mod segment;
mod vocabulary;

use maquette::audio::{Audio, mel::Mel};
use maquette::prelude::*;
use maquette::text::Tokenizer;
use model::Whisper;
use vocabulary::Vocabulary;

/// Samples a second that the model hears.
const RATE: u32 = 16_000;
/// Samples of a window: 30 seconds.
const WINDOW: usize = 30 * RATE as usize;
/// Frames of a window.
const FRAMES: usize = 3000;
/// The longest recording: what keeps memory bounded.
const MAX_SECONDS: f64 = 3600.0;

/// A recording, and what is wanted of it.
#[derive(Input)]
struct Recording {
    /// The recording: wav, flac or mp3, up to an hour.
    audio: File,
    /// The language that is spoken, as a code such as `en`; the model finds out if it is not given.
    language: Option<String>,
    /// Whether to translate into English what is said in another language.
    #[input(default = false)]
    translate: bool,
    /// Whether to say when each segment was spoken.
    #[input(default = true)]
    timestamps: bool,
}

/// A piece of speech.
#[derive(Output)]
pub(crate) struct Segment {
    /// Seconds from the start of the recording.
    pub(crate) start: f64,
    /// Seconds from the start of the recording.
    pub(crate) end: f64,
    /// What was said.
    pub(crate) text: String,
}

/// What was said.
#[derive(Output)]
struct Transcript {
    /// All of it.
    text: String,
    /// Piece by piece.
    segments: Vec<Segment>,
    /// The language, as a code.
    language: String,
}

struct Speech {
    whisper: Whisper,
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
}

impl Model for Speech {
    type Input = Recording;
    type Output = Transcript;

    fn load(package: &Package) -> Result<Self> {
        let weights = package.weights("model")?;
        let whisper = Whisper::load(&weights)?;
        let config: maquette::Value = package.json("config.json")?;
        Ok(Self {
            vocabulary: Vocabulary::new(whisper.sizes().vocabulary, &config)?,
            tokenizer: package.tokenizer("tokenizer.json")?,
            whisper,
        })
    }

    fn predict(&self, input: Recording) -> Result<Transcript> {
        let audio = Audio::decode_up_to(&input.audio.bytes()?, MAX_SECONDS)?
            .mono()
            .resample(RATE)?;
        maquette::run::metric("audio_seconds", audio.seconds());
        let mel = Mel::whisper(self.whisper.sizes().bands)?;
        // Silence after it, so that the last window is a whole one.
        let (features, frames) = mel.frames(&audio.samples, audio.samples.len() + WINDOW);
        let content = frames.saturating_sub(FRAMES);
        let mut transcript = Transcript {
            text: String::new(),
            segments: Vec::new(),
            language: input.language.clone().unwrap_or_else(|| "en".to_owned()),
        };
        let mut prompt = None;
        let mut seek = 0;
        while seek < content {
            let size = FRAMES.min(content - seek);
            let mut window = Vec::with_capacity(self.whisper.sizes().bands * FRAMES);
            for band in features.chunks_exact(frames) {
                window.extend_from_slice(&band[seek..seek + FRAMES]);
            }
            let heard = self.whisper.encode(&window)?;
            if prompt.is_none() {
                let (ids, language) = self.prompt(&heard, &input)?;
                transcript.language = language;
                prompt = Some(ids);
            }
            let decoded = self.decode(&heard, prompt.as_deref().unwrap_or_default(), input.timestamps)?;
            let (segments, next) = segment::split(&decoded, &self.vocabulary, seek, size);
            for (start, end, ids) in segments {
                let text = self.tokenizer.decode(&ids, true);
                if !text.trim().is_empty() {
                    transcript.text += &text;
                    transcript.segments.push(Segment { start, end, text });
                }
            }
            seek += next;
            progress((seek as f64 / content as f64).min(1.0), "listening");
        }
        Ok(transcript)
    }
}

maquette::export!(Speech);
