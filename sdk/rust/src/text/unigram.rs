//! Unigram: the division into tokens whose probabilities have the largest product. Source: "Subword Regularization" (Kudo, 2018), as
//! `Unigram` of the crate `tokenizers` has it.

use super::bpe::byte_tokens;
use super::vocab::Vocab;
use crate::{Error, Result};

/// Unknown characters are this much less likely than the least likely token. In natural logarithms.
const PENALTY: f64 = 10.0;

#[derive(Debug)]
pub(super) struct Unigram {
    /// Logarithms of probabilities, by id.
    scores: Vec<f64>,
    unknown: Option<u32>,
    /// The score of an unknown character.
    unknown_score: f64,
    fallback: Option<Box<[Option<u32>; 256]>>,
    /// The ids that no text becomes: special tokens.
    never: Vec<u32>,
}

/// The best division of what is before a place in a word.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    /// Where its last token starts.
    start: usize,
    /// Nothing if unknown.
    id: Option<u32>,
}

impl Unigram {
    /// From scores by id; `never` is in order.
    ///
    /// # Errors
    /// If the token for unknown characters is none.
    pub(super) fn new(
        vocab: &Vocab,
        scores: Vec<f64>,
        unknown: Option<u64>,
        fallback: bool,
        never: Vec<u32>,
    ) -> Result<Self> {
        let least = scores.iter().copied().fold(f64::INFINITY, f64::min);
        let unknown = unknown.map(|id| {
            let known = u32::try_from(id).ok().filter(|id| vocab.token(*id).is_some());
            known.ok_or_else(|| Error::unsupported(format!("tokenizer.json: the vocabulary lacks the unk_id {id}")))
        });
        Ok(Self {
            scores,
            unknown: unknown.transpose()?,
            unknown_score: least - PENALTY,
            fallback: fallback.then(|| byte_tokens(vocab)),
            never,
        })
    }

    /// Appends the tokens of a word.
    pub(super) fn encode(&self, vocab: &Vocab, word: &str, ids: &mut Vec<u32>) {
        let mut best: Vec<Option<Best>> = vec![None; word.len() + 1];
        for (start, c) in word.char_indices() {
            let before = best[start].map_or(0.0, |best| best.score);
            let mut offer = |end: usize, id: Option<u32>, score: f64| {
                let score = before + score;
                if best[end].is_none_or(|best| score > best.score) {
                    best[end] = Some(Best { score, start, id });
                }
            };
            let mut single = false;
            let bytes = word.as_bytes();
            vocab.prefixes(&bytes[start..], |id, len| {
                let score = self.scores.get(id as usize);
                if let Some(score) = score.filter(|_| self.never.binary_search(&id).is_err()) {
                    single |= len == c.len_utf8();
                    offer(start + len, Some(id), *score);
                }
            });
            if !single {
                offer(start + c.len_utf8(), None, self.unknown_score);
            }
        }
        // From the end to the start; unknown characters in a row are one.
        let mut tokens: Vec<(usize, usize, Option<u32>)> = Vec::new();
        let mut end = word.len();
        while let Some(last) = best[end].filter(|_| end > 0) {
            let id = last.id.filter(|id| Some(*id) != self.unknown);
            match tokens.last_mut() {
                Some((start, _, None)) if id.is_none() => *start = last.start,
                _ => tokens.push((last.start, end, id)),
            }
            end = last.start;
        }
        for (start, end, id) in tokens.into_iter().rev() {
            if id.is_some() {
                ids.extend(id);
                continue;
            }
            // Several unknown characters may be a token together, to which no division led.
            let text = &word.as_bytes()[start..end];
            let whole = vocab.id(text).filter(|id| self.never.binary_search(id).is_err());
            let bytes = self.fallback.as_ref().and_then(|fallback| {
                let bytes = text.iter().map(|byte| fallback[usize::from(*byte)]);
                bytes.collect::<Option<Vec<u32>>>()
            });
            match (whole, bytes) {
                (Some(id), _) => ids.push(id),
                (None, Some(bytes)) => ids.extend(bytes),
                (None, None) => ids.extend(self.unknown),
            }
        }
    }
}
