//! A tokenizer out of the metadata of a GGUF file. Source: `docs/gguf.md` of ggml, and `llama-vocab.cpp` of llama.cpp.

use super::added::{Added, AddedToken};
use super::bpe::{Bpe, Pairs, Ranks, Symbols, byte_tokens};
use super::decode::Decode;
use super::pattern::Pattern;
use super::split::{Behavior, Split};
use super::vocab::{Vocab, VocabBuilder};
use super::{Model, Tokenizer};
use crate::{Error, Result};

/// What a GGUF file says of its tokenizer, in the keys `tokenizer.ggml.*`.
#[derive(Clone, Debug, Default)]
pub struct GgufVocab {
    /// `model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece).
    pub model: String,
    /// `pre`: how `gpt2` divides a text into words. Empty if absent.
    pub pre: String,
    /// `tokens`, by id.
    pub tokens: Vec<String>,
    /// `token_type`, by id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. Empty if absent: all are normal.
    pub token_types: Vec<i32>,
    /// `scores`, by id; what `llama` merges by.
    pub scores: Option<Vec<f32>>,
    /// `merges`, the best first; what `gpt2` merges by.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `add_bos_token`: whether a text starts with `bos`. If absent, it does with `llama` and with the `pre` of Llama 3.
    pub add_bos: Option<bool>,
    /// `add_space_prefix`: whether `llama` puts a space before a text. If absent, it does.
    pub add_space_prefix: Option<bool>,
}

const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// How SentencePiece writes a space.
const MARK: char = '▁';

impl GgufVocab {
    fn type_of(&self, id: usize) -> i32 {
        self.token_types.get(id).copied().unwrap_or(1)
    }
}

/// Builds the tokenizer.
pub(super) fn build(gguf: GgufVocab) -> Result<Tokenizer> {
    if !gguf.token_types.is_empty() && gguf.token_types.len() != gguf.tokens.len() {
        return Err(Error::unsupported(format!(
            "GGUF: tokenizer.ggml.token_type has {} entries, tokenizer.ggml.tokens {}; they should have the same number",
            gguf.token_types.len(),
            gguf.tokens.len()
        )));
    }
    let mut vocab = VocabBuilder::default();
    for (id, token) in gguf.tokens.iter().enumerate() {
        vocab.push(token, id as u64)?;
    }
    let vocab = vocab.finish();
    for (key, id) in [("bos", gguf.bos), ("eos", gguf.eos), ("unknown", gguf.unk)] {
        if let Some(id) = id.filter(|id| vocab.token(*id).is_none()) {
            return Err(Error::unsupported(format!(
                "GGUF: tokenizer.ggml.{key}_token_id is {id}, which is no token of the {} in tokenizer.ggml.tokens",
                gguf.tokens.len()
            )));
        }
    }
    let added = gguf.tokens.iter().enumerate().filter_map(|(id, text)| {
        let kind = gguf.type_of(id);
        matches!(kind, UNKNOWN | CONTROL | USER_DEFINED).then(|| AddedToken {
            id: id as u32,
            text: text.clone(),
            special: kind != USER_DEFINED,
            ..AddedToken::default()
        })
    });
    let added = Added::new(added.collect());
    let llama3 = matches!(gguf.pre.as_str(), "llama3" | "llama-v3" | "llama-bpe");
    let (split, model, decoder) = match gguf.model.as_str() {
        "gpt2" => {
            let bpe = byte_level(&gguf, &vocab, llama3.then(|| added.special().to_vec()))?;
            (words(&gguf.pre)?, bpe, vec![Decode::ByteLevel])
        }
        "llama" => sentencepiece(&gguf, &vocab)?,
        other => {
            return Err(Error::unsupported(format!(
                "GGUF: tokenizer.ggml.model is `{other}`; this SDK knows `gpt2` and `llama`"
            )));
        }
    };
    let add_bos = gguf.add_bos.unwrap_or(gguf.model == "llama" || llama3);
    Ok(Tokenizer {
        vocab,
        added,
        normalizer: Vec::new(),
        split,
        model,
        before: gguf.bos.filter(|_| add_bos).into_iter().collect(),
        after: Vec::new(),
        decoder,
        bos: gguf.bos,
        eos: gguf.eos,
    })
}

/// How a text is divided into words, by the name that llama.cpp gives it.
fn words(pre: &str) -> Result<Vec<Split>> {
    let gpt4 = |digits| Split::Pattern(Pattern::Gpt4 { digits });
    Ok(match pre {
        // Files of some age do not say; most of them are of GPT-2's kind.
        "" | "default" | "gpt-2" | "gpt2" | "phi-2" | "mpt" | "olmo" | "jais" | "trillion" | "granite-docling" => {
            vec![Split::Pattern(Pattern::Gpt2)]
        }
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => {
            vec![Split::Digits(Behavior::Isolated), Split::Pattern(Pattern::Gpt2)]
        }
        "llama3" | "llama-v3" | "llama-bpe" | "dbrx" | "smaug-bpe" => vec![gpt4(3)],
        "qwen2" | "stablelm2" | "deepseek-r1-qwen" | "megrez" => vec![gpt4(1)],
        other => {
            return Err(Error::unsupported(format!(
                "GGUF: tokenizer.ggml.pre is `{other}`; this SDK knows gpt-2, smollm, starcoder, refact, command-r, llama-bpe, \
                 dbrx, smaug-bpe, qwen2, stablelm2, deepseek-r1-qwen"
            )));
        }
    })
}

fn byte_level(gguf: &GgufVocab, vocab: &Vocab, whole_words: Option<Vec<u32>>) -> Result<Model> {
    let mut pairs = Pairs::with_capacity(gguf.merges.len());
    for (n, merge) in gguf.merges.iter().enumerate() {
        // A token may start with a space of its own, so the first byte does not count.
        let after = merge.chars().next().map_or(0, char::len_utf8);
        let pair = merge.get(after..).and_then(|rest| rest.split_once(' '));
        let (left, right) = pair.ok_or_else(|| {
            Error::unsupported(format!(
                "GGUF: tokenizer.ggml.merges[{n}] is {merge:?}, not two tokens with a space between them"
            ))
        })?;
        pairs.push(vocab, &merge[..after + left.len()], right)?;
    }
    Ok(Model::Bpe(Bpe {
        ranks: Ranks::Pairs(pairs),
        symbols: Symbols::bytes(vocab),
        fallback: None,
        unknown: None,
        fuse_unknown: false,
        whole_words,
    }))
}

fn sentencepiece(gguf: &GgufVocab, vocab: &Vocab) -> Result<(Vec<Split>, Model, Vec<Decode>)> {
    let scores = gguf.scores.as_ref().filter(|scores| scores.len() == gguf.tokens.len());
    let scores = scores.ok_or_else(|| {
        Error::unsupported(format!(
            "GGUF: tokenizer.ggml.scores has {} entries, tokenizer.ggml.tokens {}; the model `llama` needs as many",
            gguf.scores.as_ref().map_or(0, Vec::len),
            gguf.tokens.len()
        ))
    })?;
    // Equal scores have equal ranks: among them the leftmost goes first.
    let mut sorted: Vec<f32> = scores.clone();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let ranks = scores.iter().enumerate().map(|(id, score)| {
        // What stands for itself only never comes of a text's characters.
        if matches!(gguf.type_of(id), UNKNOWN | CONTROL | UNUSED | BYTE) {
            return u32::MAX;
        }
        sorted.partition_point(|other| other.total_cmp(score).is_gt()) as u32
    });
    let model = Model::Bpe(Bpe {
        ranks: Ranks::Scores(ranks.collect()),
        symbols: Symbols::Chars,
        fallback: Some(byte_tokens(vocab)),
        unknown: gguf.unk,
        fuse_unknown: false,
        whole_words: None,
    });
    let prefix = gguf.add_space_prefix.unwrap_or(true);
    let mut split = Vec::new();
    if prefix {
        split.push(Split::Space);
    }
    split.push(Split::Mark(MARK));
    let mut decoder = vec![Decode::Replace(MARK.to_string(), " ".to_owned()), Decode::ByteFallback];
    if prefix {
        decoder.push(Decode::Strip {
            content: ' ',
            start: 1,
            whole: true,
        });
    }
    Ok((split, model, decoder))
}
