//! Decoders: ids back to text, token by token.

use serde_json::Value;

use super::alphabet;
use super::file::{kind, list, text_of};
use super::normalize::replacement;
use super::split::{Prepend, mark_of, prepend_of};
use crate::{Error, Result};

/// One step for a token.
#[derive(Debug)]
pub(super) enum Decode {
    /// The alphabet of bytes.
    ByteLevel,
    /// Tokens `<0x00>` to `<0xFF>` are bytes.
    ByteFallback,
    Replace(String, String),
    /// Up to so many of a character at the start of the whole text (`whole`), or of every token.
    Strip {
        content: char,
        start: usize,
        whole: bool,
    },
    Metaspace {
        mark: char,
        strip: bool,
    },
    /// Words apart, pieces that continue one together.
    WordPiece {
        prefix: String,
        cleanup: bool,
    },
    /// Without a decoder: tokens with spaces between them.
    Join,
}

/// Where in a text its decoding is.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    started: bool,
    /// Characters already stripped off the start of the text.
    stripped: usize,
    /// Whether something that is not stripped came.
    kept: bool,
}

impl State {
    /// Not at the start of a text.
    pub(super) fn within() -> Self {
        Self {
            started: true,
            stripped: 0,
            kept: true,
        }
    }
}

impl Decode {
    /// The steps that a file describes.
    pub(super) fn from_json(json: &Value) -> Result<Vec<Self>> {
        if kind(json) == "none" {
            return Ok(vec![Self::Join]);
        }
        let mut steps = Vec::new();
        let mut fused = false;
        Self::add(json, &mut steps, &mut fused)?;
        Ok(steps)
    }

    fn add(json: &Value, steps: &mut Vec<Self>, fused: &mut bool) -> Result<()> {
        let kind = kind(json);
        if *fused && kind != "Strip" && kind != "Fuse" {
            return Err(Error::unsupported(format!(
                "tokenizer.json: the decoder has a {kind} after Fuse or ByteLevel, where this SDK knows Strip only"
            )));
        }
        let step = match kind {
            "Sequence" => {
                for step in list(json, "decoders") {
                    Self::add(step, steps, fused)?;
                }
                return Ok(());
            }
            "Fuse" => {
                *fused = true;
                return Ok(());
            }
            "ByteLevel" => {
                // It makes one text of all tokens, as Fuse does.
                *fused = true;
                Self::ByteLevel
            }
            "ByteFallback" => Self::ByteFallback,
            "Replace" => {
                let (from, to) = replacement(json, "decoder")?;
                Self::Replace(from, to)
            }
            "Strip" => {
                if json["stop"].as_u64().unwrap_or(0) > 0 {
                    return Err(Error::unsupported(
                        "tokenizer.json: the decoder's Strip has a `stop` over 0; this SDK strips the start only",
                    ));
                }
                Self::Strip {
                    content: text_of(json, "content").chars().next().unwrap_or(' '),
                    start: json["start"].as_u64().unwrap_or(0) as usize,
                    whole: *fused,
                }
            }
            "Metaspace" => Self::Metaspace {
                mark: mark_of(json),
                strip: prepend_of(json)? != Prepend::Never,
            },
            "WordPiece" => Self::WordPiece {
                prefix: json["prefix"].as_str().unwrap_or("##").to_owned(),
                cleanup: json["cleanup"].as_bool().unwrap_or(true),
            },
            other => {
                return Err(Error::unsupported(format!(
                    "tokenizer.json: the decoder is `{other}`; this SDK knows ByteLevel, ByteFallback, Fuse, Metaspace, Replace, \
                     Strip, WordPiece, and Sequence of them"
                )));
            }
        };
        steps.push(step);
        Ok(())
    }

    /// Appends the bytes of a token.
    pub(super) fn token(steps: &[Self], token: &str, state: &mut State, bytes: &mut Vec<u8>) {
        let first = !std::mem::replace(&mut state.started, true);
        let before = bytes.len();
        let mut text = token.to_owned();
        // A byte is no text, so nothing else is done to it but to strip the start of the whole.
        let mut done = false;
        for step in steps {
            match step {
                Self::Strip {
                    content,
                    start,
                    whole: true,
                } => {
                    if !done {
                        bytes.extend_from_slice(text.as_bytes());
                        done = true;
                    }
                    let mut utf8 = [0; 4];
                    let content = content.encode_utf8(&mut utf8).as_bytes();
                    while !state.kept && state.stripped < *start && bytes[before..].starts_with(content) {
                        bytes.drain(before..before + content.len());
                        state.stripped += 1;
                    }
                    state.kept |= bytes.len() > before;
                }
                _ if done => {}
                Self::ByteLevel => {
                    alphabet::read(&text, bytes);
                    done = true;
                }
                Self::ByteFallback => {
                    if let Some(byte) = byte_token(&text) {
                        bytes.push(byte);
                        done = true;
                    }
                }
                Self::Replace(from, to) => text = text.replace(from.as_str(), to),
                Self::Strip { content, start, .. } => {
                    let mut rest = text.as_str();
                    for _ in 0..*start {
                        rest = rest.strip_prefix(*content).unwrap_or(rest);
                    }
                    text = rest.to_owned();
                }
                Self::Metaspace { mark, strip } => {
                    text = text.replace(*mark, if first && *strip { "" } else { " " });
                }
                Self::WordPiece { prefix, cleanup } => {
                    if !first {
                        text = match text.strip_prefix(prefix.as_str()) {
                            Some(rest) => rest.to_owned(),
                            None => format!(" {text}"),
                        };
                    }
                    if *cleanup {
                        text = clean(text);
                    }
                }
                Self::Join if !first => text.insert(0, ' '),
                Self::Join => {}
            }
        }
        if !done {
            bytes.extend_from_slice(text.as_bytes());
        }
    }
}

/// The byte of a token like `<0x0A>`.
pub(super) fn byte_token(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}

/// English as it is written. Source: `cleanup` of the crate `tokenizers`.
fn clean(mut text: String) -> String {
    for (from, to) in [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ] {
        if text.contains(from) {
            text = text.replace(from, to);
        }
    }
    text
}
