//! Tokenizers, from the `tokenizer.json` that models come with.

mod bert;
mod wordpiece;

use serde_json::Value;

use crate::{Context as _, Error, Result};
use bert::Normalizer;
use wordpiece::WordPiece;

/// A tokenizer: text to ids.
///
/// Understands what BERT and its many relatives have: the normalizer `BertNormalizer`, the pre-tokenizer `BertPreTokenizer`, the
/// model `WordPiece`, and `[CLS] … [SEP]` around the text. Padding and truncation that the file may ask for are left to the model.
/// Special tokens written out in a text are text: a caller cannot inject them.
#[derive(Debug)]
pub struct Tokenizer {
    normalizer: Normalizer,
    model: WordPiece,
    start: Option<u32>,
    end: Option<u32>,
}

impl Tokenizer {
    /// From the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// If it is not JSON, or a tokenizer of a kind that is not known here; the message says which part.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let file: Value = serde_json::from_slice(json).context("tokenizer.json")?;
        let kind = |part: &str| file[part]["type"].as_str().unwrap_or("none").to_owned();
        let expect = |part: &str, known: &str| {
            let found = kind(part);
            if found == known {
                return Ok(());
            }
            Err(Error::unsupported(format!(
                "tokenizer.json: the {part} is `{found}`; this SDK knows `{known}`"
            )))
        };
        expect("normalizer", "BertNormalizer")?;
        expect("pre_tokenizer", "BertPreTokenizer")?;
        // Files of some age have no type here.
        if file["model"]["type"].is_string() {
            expect("model", "WordPiece")?;
        }
        let model = WordPiece::from_json(&file["model"])?;
        let (start, end) = match kind("post_processor").as_str() {
            "none" => (None, None),
            "TemplateProcessing" | "BertProcessing" => {
                let template = file["post_processor"].to_string();
                if !template.contains("\"[CLS]\"") || !template.contains("\"[SEP]\"") {
                    return Err(Error::unsupported(
                        "tokenizer.json: the post_processor puts other tokens than [CLS] and [SEP] around texts",
                    ));
                }
                let special = |token: &str| {
                    let id = model.id(token);
                    id.map(Some)
                        .ok_or_else(|| Error::unsupported(format!("tokenizer.json: the vocabulary lacks {token}")))
                };
                (special("[CLS]")?, special("[SEP]")?)
            }
            other => {
                return Err(Error::unsupported(format!(
                    "tokenizer.json: the post_processor `{other}` is not known to this SDK"
                )));
            }
        };
        Ok(Self {
            normalizer: Normalizer::from_json(&file["normalizer"]),
            model,
            start,
            end,
        })
    }

    /// The ids of a text, special tokens included.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_truncated(text, usize::MAX)
    }

    /// The ids of a text, cut to `max` with the special tokens kept. Stops reading once it has enough.
    pub fn encode_truncated(&self, text: &str, max: usize) -> Vec<u32> {
        let special = usize::from(self.start.is_some()) + usize::from(self.end.is_some());
        let room = max.saturating_sub(special);
        let mut ids: Vec<u32> = self.start.into_iter().collect();
        let limit = ids.len().saturating_add(room);
        self.normalizer.words(text, |word| {
            self.model.encode(word, &mut ids);
            ids.len() < limit
        });
        ids.truncate(limit);
        ids.extend(self.end);
        ids
    }

    /// The id of a token, if it is in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.model.id(token)
    }
}
