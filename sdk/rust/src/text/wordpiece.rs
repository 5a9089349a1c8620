//! WordPiece: the longest pieces of the vocabulary, from the left. Source: "Google's Neural Machine Translation System"
//! (Wu et al., 2016), as google-research/bert has it.

use std::collections::HashMap;

use serde_json::Value;

use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct WordPiece {
    vocabulary: HashMap<String, u32>,
    unknown: u32,
    prefix: String,
    /// Longer words are unknown.
    max_chars: usize,
    /// No piece is longer, so no longer one is looked for.
    max_piece_bytes: usize,
}

impl WordPiece {
    pub(super) fn from_json(json: &Value) -> Result<Self> {
        let broken = |what: &str| Error::unsupported(format!("tokenizer.json: the model has no {what}"));
        let entries = json["vocab"].as_object().ok_or_else(|| broken("vocab"))?;
        let mut vocabulary = HashMap::with_capacity(entries.len());
        for (token, id) in entries {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            vocabulary.insert(token.clone(), id.ok_or_else(|| broken("number for each token"))?);
        }
        let unknown = json["unk_token"].as_str().unwrap_or("[UNK]");
        let unknown = *vocabulary
            .get(unknown)
            .ok_or_else(|| broken("token for unknown words"))?;
        Ok(Self {
            unknown,
            prefix: json["continuing_subword_prefix"].as_str().unwrap_or("##").to_owned(),
            max_chars: json["max_input_chars_per_word"].as_u64().unwrap_or(100) as usize,
            max_piece_bytes: vocabulary.keys().map(String::len).max().unwrap_or(0),
            vocabulary,
        })
    }

    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.vocabulary.get(token).copied()
    }

    /// Appends the pieces of a word; one unknown if it does not divide.
    pub(super) fn encode(&self, word: &str, ids: &mut Vec<u32>) {
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
            let mut end = piece.len().min(self.max_piece_bytes);
            while end > prefix && !piece.is_char_boundary(end) {
                end -= 1;
            }
            piece.truncate(end);
            let id = loop {
                if piece.len() <= prefix {
                    break None;
                }
                if let Some(id) = self.id(&piece) {
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
