//! Added tokens: those found in a text before it is divided into words. Among them are the special ones.

use super::Specials;

/// What a file says of an added token.
#[derive(Clone, Debug, Default)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    /// What is looked for. If `normalized`, what the normalizer makes of the token.
    pub(super) text: String,
    /// It means something to the model, and is left out where texts are shown.
    pub(super) special: bool,
    /// `text` is not what the vocabulary has.
    pub(super) changed: bool,
    /// It is looked for after normalization, not before.
    pub(super) normalized: bool,
    /// It takes the spaces before it, or after it, along.
    pub(super) strip: (bool, bool),
    /// It does not count inside of a word.
    pub(super) single_word: bool,
}

/// The added tokens of a vocabulary.
#[derive(Debug, Default)]
pub(super) struct Added {
    /// By `normalized`, then by text.
    tokens: Vec<AddedToken>,
    /// Where the normalized ones start.
    normalized: usize,
    /// In order.
    special: Vec<u32>,
    /// Texts that the vocabulary has otherwise, in the order of ids.
    changed: Vec<(u32, String)>,
}

/// Which tokens count.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look<'n> {
    pub(super) specials: Specials,
    /// Those that do not count where special ones do not, either.
    pub(super) never: &'n [u32],
}

impl Look<'_> {
    fn counts(self, token: &AddedToken) -> bool {
        self.specials == Specials::Parse || !(token.special || self.never.contains(&token.id))
    }
}

/// Where a token is in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) id: u32,
}

impl Added {
    pub(super) fn new(mut tokens: Vec<AddedToken>) -> Self {
        tokens.retain(|token| !token.text.is_empty());
        tokens.sort_unstable_by(|a, b| (a.normalized, a.text.as_bytes()).cmp(&(b.normalized, b.text.as_bytes())));
        let special = tokens.iter().filter(|token| token.special);
        let mut special: Vec<u32> = special.map(|token| token.id).collect();
        special.sort_unstable();
        let changed = tokens.iter().filter(|token| token.changed);
        let mut changed: Vec<(u32, String)> = changed.map(|token| (token.id, token.text.clone())).collect();
        changed.sort_unstable();
        Self {
            normalized: tokens.partition_point(|token| !token.normalized),
            tokens,
            special,
            changed,
        }
    }

    /// Whether a token is special.
    pub(super) fn is_special(&self, id: u32) -> bool {
        self.special.binary_search(&id).is_ok()
    }

    /// The ids of all special tokens, in order.
    pub(super) fn special(&self) -> &[u32] {
        &self.special
    }

    /// What decoders read instead of the token in the vocabulary.
    pub(super) fn decoded(&self, id: u32) -> Option<&str> {
        let at = self.changed.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.changed.get(at).map(|(_, text)| text.as_str())
    }

    /// Finds tokens in a text, and tells where it was before `text` was taken from it: `offset`. `normalized` says which are looked for.
    pub(super) fn find(&self, text: &str, normalized: bool, look: Look<'_>, offset: usize, hits: &mut Vec<Hit>) {
        let (before, after) = self.tokens.split_at(self.normalized);
        let tokens = if normalized { after } else { before };
        if tokens.is_empty() {
            return;
        }
        let mut first = [false; 256];
        for token in tokens {
            if let Some(byte) = token.text.bytes().next() {
                first[usize::from(byte)] = true;
            }
        }
        let bytes = text.as_bytes();
        let (mut done, mut at) = (0, 0);
        while at < bytes.len() {
            let token = if first[usize::from(bytes[at])] {
                longest(tokens, &bytes[at..])
            } else {
                None
            };
            let Some(token) = token else {
                at += 1;
                continue;
            };
            let (mut start, mut end) = (at, at + token.text.len());
            // Even if it does not count, the search goes on after it.
            at = end;
            if !look.counts(token) {
                continue;
            }
            if token.single_word && (text[..start].ends_with(is_word) || text[end..].starts_with(is_word)) {
                continue;
            }
            if token.strip.0 {
                start = text[..start].trim_end().len();
            }
            if token.strip.1 {
                end = text.len() - text[end..].trim_start().len();
            }
            // The token before may have taken along what is here.
            start = start.max(done);
            done = end.max(done);
            hits.push(Hit {
                start: offset + start,
                end: offset + done,
                id: token.id,
            });
        }
    }
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'t> {
    Text(&'t str),
    Token(u32),
}

/// A text in parts: tokens where they were found, and what is between them.
pub(super) fn parts<'t>(text: &'t str, hits: &[Hit]) -> impl Iterator<Item = Part<'t>> {
    let mut done = 0;
    let found = hits.iter().flat_map(move |hit| {
        let between = text.get(std::mem::replace(&mut done, hit.end)..hit.start);
        [between.map(Part::Text), Some(Part::Token(hit.id))]
    });
    let rest = text.get(hits.last().map_or(0, |hit| hit.end)..);
    found
        .chain([rest.map(Part::Text)])
        .flatten()
        .filter(|part| *part != Part::Text(""))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The longest token that the bytes start with. The tokens are in order.
fn longest<'a>(mut tokens: &'a [AddedToken], bytes: &[u8]) -> Option<&'a AddedToken> {
    let mut found = None;
    for (n, byte) in bytes.iter().enumerate() {
        // All of these have the same first n bytes. The shorter ones come first.
        let from = tokens.partition_point(|token| token.text.as_bytes().get(n) < Some(byte));
        let to = tokens.partition_point(|token| token.text.as_bytes().get(n) <= Some(byte));
        tokens = tokens.get(from..to).unwrap_or_default();
        let Some(token) = tokens.first() else {
            break;
        };
        if token.text.len() == n + 1 {
            found = Some(token);
        }
    }
    found
}
