//! Normalizers: what is done to a text before it is divided into words.

use std::borrow::Cow;

use serde_json::Value;
use unicode_normalization::UnicodeNormalization as _;

use super::file::{kind, list, text_of};
use crate::{Error, Result};

/// One step.
#[derive(Debug)]
pub(super) enum Normalize {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    Lowercase,
    /// Before a text that is not empty.
    Prepend(String),
    Replace(String, String),
    /// Spaces at the left, and at the right.
    Strip(bool, bool),
}

impl Normalize {
    /// The steps that a file describes. BERT's is none of them: it comes with the division into words.
    pub(super) fn from_json(json: &Value, steps: &mut Vec<Self>) -> Result<()> {
        let step = match kind(json) {
            "none" => return Ok(()),
            "Sequence" => {
                for step in list(json, "normalizers") {
                    Self::from_json(step, steps)?;
                }
                return Ok(());
            }
            "NFC" => Self::Nfc,
            "NFD" => Self::Nfd,
            "NFKC" => Self::Nfkc,
            "NFKD" => Self::Nfkd,
            "Lowercase" => Self::Lowercase,
            "Prepend" => Self::Prepend(text_of(json, "prepend").to_owned()),
            "Replace" => {
                let (from, to) = replacement(json, "normalizer")?;
                Self::Replace(from, to)
            }
            "Strip" => Self::Strip(
                json["strip_left"].as_bool().unwrap_or(true),
                json["strip_right"].as_bool().unwrap_or(true),
            ),
            other => {
                return Err(Error::unsupported(format!(
                    "tokenizer.json: the normalizer is `{other}`; this SDK knows BertNormalizer (with WordPiece), NFC, NFD, \
                     NFKC, NFKD, Lowercase, Prepend, Replace, Strip, and Sequence of them"
                )));
            }
        };
        steps.push(step);
        Ok(())
    }

    pub(super) fn apply<'t>(&self, text: Cow<'t, str>) -> Cow<'t, str> {
        // Most texts are ASCII, which composition leaves alone.
        let plain = text.is_ascii();
        match self {
            Self::Nfc | Self::Nfd | Self::Nfkc | Self::Nfkd if plain => text,
            Self::Nfc => text.nfc().collect::<String>().into(),
            Self::Nfd => text.nfd().collect::<String>().into(),
            Self::Nfkc => text.nfkc().collect::<String>().into(),
            Self::Nfkd => text.nfkd().collect::<String>().into(),
            // Character by character, unlike `str::to_lowercase`, which knows the final sigma.
            Self::Lowercase => text.chars().flat_map(char::to_lowercase).collect::<String>().into(),
            Self::Prepend(_) if text.is_empty() => text,
            Self::Prepend(prefix) => format!("{prefix}{text}").into(),
            Self::Replace(from, to) if text.contains(from.as_str()) => text.replace(from.as_str(), to).into(),
            Self::Replace(..) => text,
            Self::Strip(left, right) => {
                let cut = if *left { text.trim_start() } else { &text };
                let cut = if *right { cut.trim_end() } else { cut };
                if cut.len() == text.len() {
                    text
                } else {
                    cut.to_owned().into()
                }
            }
        }
    }
}

/// What `Replace` replaces, and by what.
pub(super) fn replacement(json: &Value, part: &str) -> Result<(String, String)> {
    match json["pattern"]["String"].as_str() {
        Some(from) if !from.is_empty() => Ok((from.to_owned(), text_of(json, "content").to_owned())),
        _ => Err(Error::unsupported(format!(
            "tokenizer.json: the {part} replaces the pattern {}; this SDK replaces strings that are not empty",
            json["pattern"]
        ))),
    }
}
