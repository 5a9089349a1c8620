//! BERT's normalizer and pre-tokenizer. Source: `BertNormalizer` and `BertPreTokenizer` of the crate `tokenizers`, after
//! `BasicTokenizer` in google-research/bert.

use serde_json::Value;
use unicode_categories::UnicodeCategories as _;
use unicode_normalization::UnicodeNormalization as _;

/// Text to words: cleaned, Chinese characters apart, accents stripped, lower case, split at spaces and punctuation.
#[derive(Debug)]
pub(super) struct Normalizer {
    clean: bool,
    chinese: bool,
    strip_accents: bool,
    lowercase: bool,
}

impl Normalizer {
    pub(super) fn from_json(json: &Value) -> Self {
        let flag = |name: &str, default: bool| json[name].as_bool().unwrap_or(default);
        let lowercase = flag("lowercase", true);
        Self {
            clean: flag("clean_text", true),
            chinese: flag("handle_chinese_chars", true),
            // Unless said otherwise, accents go where case goes.
            strip_accents: flag("strip_accents", lowercase),
            lowercase,
        }
    }

    /// Calls `each` with every word, until it returns false.
    pub(super) fn words(&self, text: &str, mut each: impl FnMut(&str) -> bool) {
        let mut word = String::new();
        // Decomposition depends on neighbours, so it runs over the whole text, but lazily.
        let prepared = text.chars().flat_map(|c| self.prepare(c));
        let mut go_on = true;
        let mut take = |c: char| {
            if is_space(c) {
                go_on = word.is_empty() || each(&word);
                word.clear();
            } else if is_punctuation(c) {
                go_on = (word.is_empty() || each(&word)) && each(c.encode_utf8(&mut [0; 4]));
                word.clear();
            } else {
                word.push(c);
            }
            go_on
        };
        let lowered = |c: char| {
            let lower = self.lowercase.then(|| c.to_lowercase());
            let same = (!self.lowercase).then_some(c);
            lower.into_iter().flatten().chain(same)
        };
        let finished = if self.strip_accents {
            let mut letters = prepared.nfd().filter(|c| !c.is_mark_nonspacing()).flat_map(lowered);
            letters.all(&mut take)
        } else {
            prepared.flat_map(lowered).all(&mut take)
        };
        if finished && !word.is_empty() {
            each(&word);
        }
    }

    /// A character cleaned and, if it is Chinese, set apart by spaces.
    fn prepare(&self, c: char) -> impl Iterator<Item = char> + use<> {
        let dropped = self.clean && (c == '\0' || c == '\u{fffd}' || is_control(c));
        let c = if self.clean && is_space(c) { ' ' } else { c };
        let apart = self.chinese && is_chinese(c);
        let side = (apart && !dropped).then_some(' ');
        side.into_iter().chain((!dropped).then_some(c)).chain(side)
    }
}

fn is_space(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r') || c.is_whitespace()
}

/// By the tables of the reference: what Unicode assigned after them is neither control nor punctuation.
fn is_control(c: char) -> bool {
    !matches!(c, '\t' | '\n' | '\r') && c.is_other()
}

fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || c.is_punctuation()
}

/// The CJK Unified Ideographs blocks, which BERT treats character by character.
fn is_chinese(c: char) -> bool {
    matches!(
        u32::from(c),
        0x4E00..=0x9FFF
            | 0x3400..=0x4DBF
            | 0x20000..=0x2A6DF
            | 0x2A700..=0x2B73F
            | 0x2B740..=0x2B81F
            | 0x2B920..=0x2CEAF
            | 0xF900..=0xFAFF
            | 0x2F800..=0x2FA1F
    )
}
