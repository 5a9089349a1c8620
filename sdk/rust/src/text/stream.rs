//! Text out of tokens as they come.

use super::Tokenizer;
use super::decode::{Decode, State};

/// Turns tokens into text one by one, and never gives out half a character.
///
/// What [`push`](Self::push) and [`finish`](Self::finish) give is together what [`Tokenizer::decode`] gives for all of the tokens.
///
/// ```
/// # use maquette::text::{TextStream, Tokenizer};
/// fn show(tokenizer: &Tokenizer, ids: &[u32]) -> String {
///     let mut stream = TextStream::new(tokenizer);
///     let mut shown = String::new();
///     for id in ids {
///         shown.extend(stream.push(*id)); // or maquette::run::emit
///     }
///     shown + &stream.finish()
/// }
/// ```
#[derive(Clone, Debug)]
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    skip_special: bool,
    state: State,
    /// The start of a character whose end has not come yet, while no token is read.
    bytes: Vec<u8>,
}

impl<'t> TextStream<'t> {
    /// A stream that leaves special tokens out.
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        Self {
            tokenizer,
            skip_special: true,
            state: State::default(),
            bytes: Vec::new(),
        }
    }

    /// The same, with special tokens written out.
    #[must_use]
    pub fn with_special(mut self) -> Self {
        self.skip_special = false;
        self
    }

    /// The text that a token completes; nothing if it completes none. Bytes that are no UTF-8 become U+FFFD, ids that no token has
    /// nothing.
    pub fn push(&mut self, id: u32) -> Option<String> {
        if self.skip_special && self.tokenizer.is_special(id) {
            return None;
        }
        let token = self.tokenizer.decoded(id)?;
        Decode::token(&self.tokenizer.decoder, &token, &mut self.state, &mut self.bytes);
        let mut text = String::new();
        let mut rest = Vec::new();
        for chunk in self.bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if is_start(invalid) && ends_here(&self.bytes, invalid) {
                rest = invalid.to_vec();
            } else if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.bytes = rest;
        (!text.is_empty()).then_some(text)
    }

    /// What is left: U+FFFD for a character that never came to its end, or nothing.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Whether bytes are the start of a character, that more bytes may complete.
fn is_start(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// Whether a part of a slice is its end, by place and not by content.
fn ends_here(whole: &[u8], part: &[u8]) -> bool {
    whole.as_ptr_range().end == part.as_ptr_range().end
}
