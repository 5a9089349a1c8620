//! WordPiece: the longest pieces of the vocabulary, from the left. Source: "Google's Neural Machine Translation System"
//! (Wu et al., 2016), as google-research/bert has it.

use serde_json::Value;

use super::vocab::Vocab;
use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct WordPiece {
    unknown: u32,
    prefix: String,
    /// Longer words are unknown.
    max_chars: usize,
}

impl WordPiece {
    pub(super) fn from_json(json: &Value, vocab: &Vocab) -> Result<Self> {
        let unknown = json["unk_token"].as_str().unwrap_or("[UNK]");
        let unknown = vocab.id(unknown.as_bytes()).ok_or_else(|| {
            Error::unsupported(format!(
                "tokenizer.json: the vocabulary lacks {unknown:?}, the model's token for unknown words"
            ))
        })?;
        Ok(Self {
            unknown,
            prefix: json["continuing_subword_prefix"].as_str().unwrap_or("##").to_owned(),
            max_chars: json["max_input_chars_per_word"].as_u64().unwrap_or(100) as usize,
        })
    }

    /// Appends the pieces of a word; one unknown if it does not divide.
    pub(super) fn encode(&self, vocab: &Vocab, word: &str, ids: &mut Vec<u32>) {
        let before = ids.len();
        if word.chars().count() > self.max_chars {
            ids.push(self.unknown);
            return;
        }
        let mut piece = String::new();
        let mut start = 0;
        while start < word.len() {
            piece.clear();
            if start > 0 {
                piece.push_str(&self.prefix);
            }
            let prefix = piece.len();
            piece.push_str(&word[start..]);
            let mut end = piece.len().min(vocab.longest());
            while end > prefix && !piece.is_char_boundary(end) {
                end -= 1;
            }
            piece.truncate(end);
            let id = loop {
                if piece.len() <= prefix {
                    break None;
                }
                if let Some(id) = vocab.id(piece.as_bytes()) {
                    break Some(id);
                }
                piece.pop();
            };
            let Some(id) = id else {
                ids.truncate(before);
                ids.push(self.unknown);
                return;
            };
            ids.push(id);
            start += piece.len() - prefix;
        }
    }
}
