//! A vocabulary: tokens by id and ids by token, in one arena and two arrays.

use crate::{Error, Result};

/// Larger ids than any vocabulary has: what keeps a broken file from taking all memory.
const MAX_ID: u32 = 1 << 24;
const EMPTY: u32 = u32::MAX;

/// Tokens as their file writes them, by id. An id may be unused.
#[derive(Debug, Default)]
pub(super) struct Vocab {
    arena: Vec<u8>,
    /// Where in the arena the token of each id starts; one more at the end.
    starts: Vec<u32>,
    /// Ids at the place their token hashes to, or after it. The length is a power of two.
    index: Vec<u32>,
    longest: usize,
}

/// Tokens in the order of a file, on the way to a [`Vocab`].
#[derive(Debug, Default)]
pub(super) struct VocabBuilder {
    arena: Vec<u8>,
    /// Id, start and length.
    tokens: Vec<(u32, u32, u32)>,
}

impl VocabBuilder {
    /// Adds a token.
    ///
    /// # Errors
    /// If the id is no sensible one, or the vocabulary too large.
    pub(super) fn push(&mut self, token: &str, id: u64) -> Result<()> {
        let small = u32::try_from(id).ok().filter(|id| *id < MAX_ID);
        let id = small.ok_or_else(|| {
            Error::unsupported(format!("the id of the token {token:?} is {id}; ids go up to {MAX_ID}"))
        })?;
        let start = u32::try_from(self.arena.len());
        let (Ok(start), Ok(len)) = (start, u32::try_from(token.len())) else {
            return Err(Error::unsupported("the tokens of the vocabulary take over 4 GiB"));
        };
        self.arena.extend_from_slice(token.as_bytes());
        self.tokens.push((id, start, len));
        Ok(())
    }

    /// The tokens so far.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The vocabulary. Of a token with several ids the largest counts, of an id with several tokens the last.
    pub(super) fn finish(mut self) -> Vocab {
        // Where a token starts tells which of an id came last. Unstable sorts are much the smaller code.
        self.tokens.sort_unstable_by_key(|(id, start, _)| (*id, *start));
        let ids = self.tokens.last().map_or(0, |(id, ..)| *id as usize + 1);
        let mut vocab = Vocab {
            arena: Vec::with_capacity(self.arena.len()),
            starts: Vec::with_capacity(ids + 1),
            index: vec![EMPTY; (self.tokens.len() * 2).next_power_of_two().max(2)],
            longest: 0,
        };
        for (n, (id, start, len)) in self.tokens.iter().enumerate() {
            if self.tokens.get(n + 1).is_some_and(|next| next.0 == *id) {
                continue;
            }
            vocab.starts.resize(*id as usize + 1, vocab.arena.len() as u32);
            let start = *start as usize;
            let token = self.arena.get(start..start + *len as usize).unwrap_or_default();
            vocab.arena.extend_from_slice(token);
            vocab.longest = vocab.longest.max(token.len());
        }
        vocab.starts.push(vocab.arena.len() as u32);
        for id in 0..ids as u32 {
            vocab.insert(id);
        }
        vocab
    }
}

impl Vocab {
    fn insert(&mut self, id: u32) {
        let Some(token) = self.token(id) else {
            return;
        };
        let mut at = self.place(token);
        loop {
            match self.index.get(at).copied() {
                Some(EMPTY) | None => break,
                Some(other) if self.token(other) == Some(token) => break,
                Some(_) => at = (at + 1) & (self.index.len() - 1),
            }
        }
        if let Some(slot) = self.index.get_mut(at) {
            *slot = id;
        }
    }

    fn place(&self, token: &[u8]) -> usize {
        let hash = token.iter().fold(SEED, |hash, byte| step(hash, *byte));
        self.slot(hash)
    }

    fn slot(&self, hash: u64) -> usize {
        // The high bits are the better ones.
        (hash ^ (hash >> 32)) as usize & (self.index.len() - 1)
    }

    /// The id of a token as its file writes it.
    pub(super) fn id(&self, token: &[u8]) -> Option<u32> {
        if token.is_empty() || token.len() > self.longest {
            return None;
        }
        self.id_at(self.place(token), token)
    }

    fn id_at(&self, mut at: usize, token: &[u8]) -> Option<u32> {
        loop {
            let id = *self.index.get(at)?;
            if id == EMPTY {
                return None;
            }
            if self.token(id) == Some(token) {
                return Some(id);
            }
            at = (at + 1) & (self.index.len() - 1);
        }
    }

    /// Calls `each` with the id and the length of every token that the bytes start with, the shortest first.
    pub(super) fn prefixes(&self, bytes: &[u8], mut each: impl FnMut(u32, usize)) {
        let mut hash = SEED;
        for (n, byte) in bytes.iter().take(self.longest).enumerate() {
            hash = step(hash, *byte);
            if let Some(id) = self.id_at(self.slot(hash), &bytes[..=n]) {
                each(id, n + 1);
            }
        }
    }

    /// The token of an id, as its file writes it.
    pub(super) fn token(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let (start, end) = (*self.starts.get(id)?, *self.starts.get(id + 1)?);
        self.arena
            .get(start as usize..end as usize)
            .filter(|token| !token.is_empty())
    }

    /// One more than the largest id.
    pub(super) fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// The length of the longest token, in bytes.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }
}

/// FNV-1a.
const SEED: u64 = 0xcbf2_9ce4_8422_2325;

fn step(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
}
