//! Byte-pair encoding: neighbours merge, the best pair first. Source: "Neural Machine Translation of Rare Words with Subword Units"
//! (Sennrich et al., 2016); with scores as SentencePiece has it (Kudo and Richardson, 2018).
//!
//! A heap holds the pairs, so that a word of n characters takes n log n steps, whatever is in it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::alphabet;
use super::vocab::Vocab;
use crate::{Error, Result};

/// No token, and no neighbour.
const NONE: u32 = u32::MAX;

/// What merges, and in which order.
#[derive(Debug)]
pub(super) enum Ranks {
    /// Listed pairs, the first the best.
    Pairs(Pairs),
    /// Any pair whose text is a token: the place of each id in the order of scores, [`NONE`] for those that never come of merging.
    Scores(Vec<u32>),
}

/// What words are divided into first.
#[derive(Debug)]
pub(super) enum Symbols {
    /// Bytes, in the alphabet of byte-level vocabularies: the id of each.
    Bytes(Box<[Option<u32>; 256]>),
    /// Characters.
    Chars,
}

/// A BPE model.
#[derive(Debug)]
pub(super) struct Bpe {
    pub(super) ranks: Ranks,
    pub(super) symbols: Symbols,
    /// The ids of the tokens `<0x00>` to `<0xFF>`, for characters that are no tokens.
    pub(super) fallback: Option<Box<[Option<u32>; 256]>>,
    pub(super) unknown: Option<u32>,
    /// Whether unknown characters in a row are one token.
    pub(super) fuse_unknown: bool,
    /// Whether a word that is a token stays whole, whatever the merges say; if so, but for these ids.
    pub(super) whole_words: Option<Vec<u32>>,
}

/// The merges, in the order of rank, and an index of them.
#[derive(Debug)]
pub(super) struct Pairs {
    merges: Vec<Merge>,
    /// Ranks at the place their pair hashes to, or after it. The length is a power of two.
    index: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Merge {
    left: u32,
    right: u32,
    merged: u32,
}

impl Pairs {
    /// Room for so many.
    pub(super) fn with_capacity(n: usize) -> Self {
        Self {
            merges: Vec::with_capacity(n),
            index: vec![NONE; (n * 2).next_power_of_two().max(2)],
        }
    }

    /// Adds the pair that comes next.
    ///
    /// # Errors
    /// If one of the two, or what they merge to, is no token.
    pub(super) fn push(&mut self, vocab: &Vocab, left: &str, right: &str) -> Result<()> {
        let id = |token: &[u8]| {
            vocab.id(token).ok_or_else(|| {
                Error::unsupported(format!(
                    "the merge {} ({left:?} and {right:?}) needs the token {:?}, which the vocabulary lacks",
                    self.merges.len(),
                    String::from_utf8_lossy(token)
                ))
            })
        };
        let merge = Merge {
            left: id(left.as_bytes())?,
            right: id(right.as_bytes())?,
            merged: id(&[left.as_bytes(), right.as_bytes()].concat())?,
        };
        let rank = self.merges.len() as u32;
        self.merges.push(merge);
        let (at, _) = self.find(merge.left, merge.right);
        if let Some(slot) = self.index.get_mut(at) {
            *slot = rank;
        }
        Ok(())
    }

    /// Where a pair is in the index, or would be, and its rank.
    fn find(&self, left: u32, right: u32) -> (usize, Option<u32>) {
        let key = (u64::from(left) << 32 | u64::from(right)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mask = self.index.len() - 1;
        let mut at = (key >> 32) as usize & mask;
        loop {
            let rank = self.index.get(at).copied().unwrap_or(NONE);
            match self.merges.get(rank as usize) {
                None => return (at, None),
                Some(merge) if merge.left == left && merge.right == right => return (at, Some(rank)),
                Some(_) => at = (at + 1) & mask,
            }
        }
    }

    /// The rank of a pair, and what it merges to.
    fn get(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let rank = self.find(left, right).1?;
        Some((rank, self.merges.get(rank as usize)?.merged))
    }
}

/// A part of a word, in a list of neighbours. A part that went into the one before it has [`GONE`] for `start`.
#[derive(Clone, Copy, Debug)]
struct Symbol {
    id: u32,
    start: u32,
    before: u32,
    after: u32,
}

const GONE: u32 = u32::MAX;

/// What is used again from word to word.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    symbols: Vec<Symbol>,
    /// Rank and position, and what it merges to.
    queue: BinaryHeap<Reverse<(u64, u32)>>,
}

impl Scratch {
    fn push(&mut self, id: u32, start: usize) {
        let here = self.symbols.len() as u32;
        let before = here.checked_sub(1).unwrap_or(NONE);
        if let Some(last) = self.symbols.last_mut() {
            last.after = here;
        }
        self.symbols.push(Symbol {
            id,
            start: start as u32,
            before,
            after: NONE,
        });
    }

    fn get(&self, at: u32) -> Option<Symbol> {
        self.symbols
            .get(at as usize)
            .copied()
            .filter(|symbol| symbol.start != GONE)
    }
}

/// The ids of the tokens for single bytes.
pub(super) fn byte_tokens(vocab: &Vocab) -> Box<[Option<u32>; 256]> {
    let mut ids = Box::new([None; 256]);
    for (byte, id) in ids.iter_mut().enumerate() {
        *id = vocab.id(format!("<{byte:#04X}>").as_bytes());
    }
    ids
}

impl Symbols {
    /// Bytes, by what the vocabulary has for them.
    pub(super) fn bytes(vocab: &Vocab) -> Self {
        let mut ids = Box::new([None; 256]);
        for (id, byte) in ids.iter_mut().zip(0..=255) {
            *id = vocab.id(alphabet::write(&[byte]).as_bytes());
        }
        Self::Bytes(ids)
    }
}

impl Bpe {
    /// Appends the tokens of a word.
    pub(super) fn encode(&self, vocab: &Vocab, word: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        if let Some(id) = self.whole(vocab, word) {
            ids.push(id);
            return;
        }
        scratch.symbols.clear();
        scratch.queue.clear();
        self.divide(vocab, word, scratch);
        self.merge(vocab, word.as_bytes(), scratch);
        let left = scratch.symbols.iter().filter(|symbol| symbol.start != GONE);
        if let Ranks::Pairs(_) = self.ranks {
            ids.extend(left.map(|symbol| symbol.id));
            return;
        }
        // With scores, characters that are no tokens may still have become part of one: what is left of them falls back now.
        for (symbol, end) in left.map(|symbol| (symbol, end(symbol, &scratch.symbols, word.len()))) {
            if symbol.id != NONE {
                ids.push(symbol.id);
                continue;
            }
            let bytes = word.as_bytes().get(symbol.start as usize..end).unwrap_or_default();
            match self.fall_back(bytes) {
                Some(tokens) => ids.extend(tokens),
                None => ids.extend(self.unknown),
            }
        }
    }

    fn whole(&self, vocab: &Vocab, word: &str) -> Option<u32> {
        let except = self.whole_words.as_ref()?;
        let id = match self.symbols {
            Symbols::Bytes(_) => vocab.id(alphabet::write(word.as_bytes()).as_bytes()),
            Symbols::Chars => vocab.id(word.as_bytes()),
        };
        id.filter(|id| except.binary_search(id).is_err())
    }

    fn fall_back(&self, bytes: &[u8]) -> Option<Vec<u32>> {
        let fallback = self.fallback.as_ref()?;
        bytes.iter().map(|byte| fallback[usize::from(*byte)]).collect()
    }

    fn divide(&self, vocab: &Vocab, word: &str, scratch: &mut Scratch) {
        if let Ranks::Scores(ranks) = &self.ranks {
            for (start, c) in word.char_indices() {
                let id = vocab.id(c.encode_utf8(&mut [0; 4]).as_bytes());
                let id = id.filter(|id| ranks.get(*id as usize).is_some_and(|rank| *rank != NONE));
                scratch.push(id.unwrap_or(NONE), start);
            }
            return;
        }
        // Unknown ones wait for whether more follow.
        let mut unknown: Option<(u32, usize)> = None;
        let mut symbol = |start: usize, text: &str, id: Option<u32>| {
            if let Some(id) = id {
                if let Some((id, start)) = unknown.take() {
                    scratch.push(id, start);
                }
                scratch.push(id, start);
            } else if let Some(bytes) = self.fall_back(text.as_bytes()) {
                for id in bytes {
                    scratch.push(id, start);
                }
            } else if let Some(id) = self.unknown {
                match unknown {
                    Some(_) if self.fuse_unknown => {}
                    Some((id, start)) => scratch.push(id, start),
                    None => {}
                }
                if unknown.is_none() || !self.fuse_unknown {
                    unknown = Some((id, start));
                }
            }
        };
        match &self.symbols {
            Symbols::Bytes(ids) => {
                for (start, byte) in word.bytes().enumerate() {
                    match ids[usize::from(byte)] {
                        Some(id) => symbol(start, "", Some(id)),
                        None => symbol(start, alphabet::char_of(byte).encode_utf8(&mut [0; 4]), None),
                    }
                }
            }
            Symbols::Chars => {
                for (start, c) in word.char_indices() {
                    let mut utf8 = [0; 4];
                    let c = &*c.encode_utf8(&mut utf8);
                    symbol(start, c, vocab.id(c.as_bytes()));
                }
            }
        }
        if let Some((id, start)) = unknown {
            scratch.push(id, start);
        }
    }

    /// The rank of two neighbours and what they merge to, if they do.
    fn pair(&self, vocab: &Vocab, word: &[u8], symbols: &[Symbol], left: Symbol, right: Symbol) -> Option<(u32, u32)> {
        match &self.ranks {
            Ranks::Pairs(pairs) => pairs.get(left.id, right.id),
            Ranks::Scores(ranks) => {
                let end = end(&right, symbols, word.len());
                let id = vocab.id(word.get(left.start as usize..end)?)?;
                let rank = *ranks.get(id as usize)?;
                (rank != NONE).then_some((rank, id))
            }
        }
    }

    fn merge(&self, vocab: &Vocab, word: &[u8], scratch: &mut Scratch) {
        for at in 1..scratch.symbols.len() as u32 {
            self.queue(vocab, word, scratch, at - 1, at);
        }
        while let Some(Reverse((key, merged))) = scratch.queue.pop() {
            let at = key as u32;
            // What the queue says may be of the past: the pair must still be there.
            let Some(left) = scratch.get(at) else {
                continue;
            };
            let Some(right) = scratch.get(left.after) else {
                continue;
            };
            let now = self.pair(vocab, word, &scratch.symbols, left, right);
            if now.is_none_or(|(_, id)| id != merged) {
                continue;
            }
            if let Some(gone) = scratch.symbols.get_mut(left.after as usize) {
                gone.start = GONE;
            }
            if let Some(symbol) = scratch.symbols.get_mut(at as usize) {
                symbol.id = merged;
                symbol.after = right.after;
            }
            if let Some(next) = scratch.symbols.get_mut(right.after as usize) {
                next.before = at;
            }
            self.queue(vocab, word, scratch, left.before, at);
            self.queue(vocab, word, scratch, at, right.after);
        }
    }

    /// Queues a pair, if both are there and merge.
    fn queue(&self, vocab: &Vocab, word: &[u8], scratch: &mut Scratch, left_at: u32, right_at: u32) {
        let (Some(left), Some(right)) = (scratch.get(left_at), scratch.get(right_at)) else {
            return;
        };
        if let Some((rank, merged)) = self.pair(vocab, word, &scratch.symbols, left, right) {
            // The best rank first, and of equals the leftmost.
            let key = u64::from(rank) << 32 | u64::from(left_at);
            scratch.queue.push(Reverse((key, merged)));
        }
    }
}

/// Where the text of a symbol ends.
fn end(symbol: &Symbol, symbols: &[Symbol], len: usize) -> usize {
    symbols
        .get(symbol.after as usize)
        .map_or(len, |next| next.start as usize)
}
