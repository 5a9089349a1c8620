//! Tokenizers, from the `tokenizer.json` or the GGUF that models come with, and chat templates.
//!
//! One type, [`Tokenizer`], serves all kinds; [`TextStream`] gives out text as tokens come, [`ChatTemplate`] makes a prompt out of
//! a conversation.

mod added;
mod alphabet;
mod bert;
mod bpe;
mod chat;
mod decode;
mod file;
mod gguf;
mod json;
mod letters;
mod normalize;
mod pattern;
mod split;
mod stream;
mod unigram;
mod vocab;
mod wordpiece;

use std::borrow::Cow;

use crate::Result;
use added::{Added, Hit, Look, Part, parts};
use bpe::{Bpe, Scratch};
pub use chat::{ChatTemplate, Message};
use decode::Decode;
pub use gguf::GgufVocab;
use normalize::Normalize;
use split::Split;
pub use stream::TextStream;
use unigram::Unigram;
use vocab::Vocab;
use wordpiece::WordPiece;

/// A tokenizer: text to ids, and back.
///
/// Understands WordPiece with what BERT and its relatives have around it, BPE, over bytes as GPT-2 has it and over characters as
/// SentencePiece has it, with what language models have around it, and Unigram without a precompiled normalizer. What it does not know it refuses by name. Padding and truncation
/// that the file may ask for are left to the model.
///
/// Special tokens written out in a text are text: a caller cannot inject them. [`Tokenizer::encode_with`] and
/// [`Specials::Parse`] are for texts of the model's own.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    added: Added,
    normalizer: Vec<Normalize>,
    split: Vec<Split>,
    model: Model,
    /// What is put around texts.
    before: Vec<u32>,
    after: Vec<u32>,
    decoder: Vec<Decode>,
    bos: Option<u32>,
    eos: Option<u32>,
}

#[derive(Debug)]
enum Model {
    WordPiece(WordPiece),
    Bpe(Bpe),
    Unigram(Unigram),
}

/// What special tokens that are written out in a text become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Specials {
    /// Text, as everything else. What callers send is to be read so.
    #[default]
    Text,
    /// Special tokens.
    Parse,
}

impl Tokenizer {
    /// From the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// If it is not JSON, or a tokenizer of a kind that is not known here; the message says which part.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        json::build(json)
    }

    /// From the metadata of a GGUF file.
    ///
    /// # Errors
    /// If it is a tokenizer of a kind that is not known here, or contradicts itself; the message says which key.
    pub fn from_gguf(vocab: GgufVocab) -> Result<Self> {
        gguf::build(vocab)
    }

    /// The ids of a text, with the special tokens that the model wants around texts.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        self.encode_truncated(text, usize::MAX)
    }

    /// The ids of a text, cut to `max` with the special tokens around it kept. Stops reading once it has enough.
    pub fn encode_truncated(&self, text: &str, max: usize) -> Vec<u32> {
        let room = max.saturating_sub(self.before.len() + self.after.len());
        let mut ids = self.before.clone();
        self.encode_into(text, Look::default(), room, &mut ids);
        ids.extend(&self.after);
        ids
    }

    /// The ids of a text, with nothing put around it. `specials` says what special tokens in it become.
    pub fn encode_with(&self, text: &str, specials: Specials) -> Vec<u32> {
        self.encode_pieces([(text, specials)])
    }

    /// The ids of a text in pieces, some of which are the model's own and some of which are not, with nothing put around it. The
    /// pieces are one text, words may lie across them; only added tokens may not.
    pub fn encode_pieces<'t>(&self, pieces: impl IntoIterator<Item = (&'t str, Specials)>) -> Vec<u32> {
        self.encode_pieces_but(pieces, &[])
    }

    /// The same, with some more added tokens that are text where special ones are.
    fn encode_pieces_but<'t>(&self, pieces: impl IntoIterator<Item = (&'t str, Specials)>, never: &[u32]) -> Vec<u32> {
        let mut text = String::new();
        let mut hits = Vec::new();
        let mut parsed = true;
        for (piece, specials) in pieces {
            self.added
                .find(piece, false, Look { specials, never }, text.len(), &mut hits);
            text.push_str(piece);
            parsed &= specials == Specials::Parse;
        }
        // After normalization it is no longer known what was in which piece.
        let specials = if parsed { Specials::Parse } else { Specials::Text };
        let mut ids = Vec::new();
        self.encode_parts(&text, &hits, Look { specials, never }, usize::MAX, &mut ids);
        ids
    }

    /// Appends up to `room` ids of a text.
    fn encode_into(&self, text: &str, look: Look<'_>, room: usize, ids: &mut Vec<u32>) {
        let mut hits = Vec::new();
        self.added.find(text, false, look, 0, &mut hits);
        self.encode_parts(text, &hits, look, room, ids);
    }

    /// Appends up to `room` ids of a text in which the tokens before normalization are found.
    fn encode_parts(&self, text: &str, hits: &[Hit], look: Look<'_>, room: usize, ids: &mut Vec<u32>) {
        let limit = ids.len().saturating_add(room);
        let mut scratch = Scratch::default();
        let mut first = true;
        for part in parts(text, hits) {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text(text) => self.encode_text(text, first, look, limit, &mut scratch, ids),
            }
            if ids.len() >= limit {
                break;
            }
            first = false;
        }
        ids.truncate(limit);
    }

    fn encode_text(
        &self,
        text: &str,
        first: bool,
        look: Look<'_>,
        limit: usize,
        scratch: &mut Scratch,
        ids: &mut Vec<u32>,
    ) {
        let mut text = Cow::Borrowed(text);
        for step in &self.normalizer {
            text = step.apply(text);
        }
        let mut hits = Vec::new();
        self.added.find(&text, true, look, 0, &mut hits);
        for (n, part) in parts(&text, &hits).enumerate() {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text(text) => {
                    Split::words(&self.split, text, first && n == 0, &mut |word| {
                        self.encode_word(word, scratch, ids);
                        ids.len() < limit
                    });
                }
            }
            if ids.len() >= limit {
                return;
            }
        }
    }

    fn encode_word(&self, word: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        match &self.model {
            Model::WordPiece(model) => model.encode(&self.vocab, word, ids),
            Model::Bpe(model) => model.encode(&self.vocab, word, scratch, ids),
            Model::Unigram(model) => model.encode(&self.vocab, word, ids),
        }
    }

    /// The text of ids, with or without special tokens. Bytes that are no UTF-8 become U+FFFD, ids that no token has nothing.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let stream = TextStream::new(self);
        let mut stream = if skip_special { stream } else { stream.with_special() };
        let mut text: String = ids.iter().filter_map(|id| stream.push(*id)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// What decoders read of a token.
    fn decoded(&self, id: u32) -> Option<Cow<'_, str>> {
        let normalized = self.added.decoded(id).map(Cow::Borrowed);
        normalized.or_else(|| self.vocab.token(id).map(String::from_utf8_lossy))
    }

    /// The id of a token as the vocabulary writes it (`Ġthe`, `##ing`, `▁the`), if it has it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.vocab.id(token.as_bytes())
    }

    /// The bytes that a token stands for within a text: it may be a part of a character. Nothing if no token has the id.
    pub fn token(&self, id: u32) -> Option<Vec<u8>> {
        let token = self.decoded(id)?;
        let mut bytes = Vec::new();
        // Within a text, so after something else.
        let mut state = decode::State::within();
        Decode::token(&self.decoder, &token, &mut state, &mut bytes);
        Some(bytes)
    }

    /// Whether a token is special: a mark for the model, no text.
    pub fn is_special(&self, id: u32) -> bool {
        self.added.is_special(id)
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The token that starts a text, if the GGUF says. A `tokenizer.json` does not: look its name up with [`Tokenizer::id`].
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text, if the GGUF says.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }
}
