//! A tokenizer out of a `tokenizer.json`.

use std::borrow::Cow;

use serde_json::Value;

use super::added::{Added, AddedToken};
use super::bert;
use super::bpe::{Bpe, Pairs, Ranks, Symbols, byte_tokens};
use super::decode::Decode;
use super::file::{File, kind, list, text_of};
use super::normalize::Normalize;
use super::split::Split;
use super::unigram::Unigram;
use super::vocab::Vocab;
use super::wordpiece::WordPiece;
use super::{Model, Tokenizer};
use crate::{Error, Result};

/// Builds the tokenizer.
pub(super) fn build(json: &[u8]) -> Result<Tokenizer> {
    let mut file = File::read(json)?;
    let parts = std::mem::take(&mut file.parts);
    let mut normalizer = Vec::new();
    let mut split = Vec::new();
    let mut byte_level = false;
    if is_bert(&parts) {
        split.push(Split::Bert(bert::Normalizer::from_json(&parts["normalizer"])));
    } else if kind(&parts["normalizer"]) == "BertNormalizer" {
        return Err(Error::unsupported(format!(
            "tokenizer.json: the pre_tokenizer is `{}`; with BertNormalizer this SDK knows `BertPreTokenizer`",
            kind(&parts["pre_tokenizer"])
        )));
    } else {
        Normalize::from_json(&parts["normalizer"], &mut normalizer)?;
        byte_level = Split::from_json(&parts["pre_tokenizer"], &mut split)?;
    }
    let added = added_tokens(&parts, &normalizer, &mut file)?;
    let model = std::mem::take(&mut file.model);
    let merges = std::mem::take(&mut file.merges);
    let vocab = std::mem::take(&mut file.vocab).finish();
    let added = Added::new(added);
    // Files of some age do not name the kind of WordPiece models.
    let model = match model["type"].as_str().unwrap_or("WordPiece") {
        "WordPiece" => Model::WordPiece(WordPiece::from_json(&model, &vocab)?),
        "BPE" => {
            for affix in ["continuing_subword_prefix", "end_of_word_suffix"] {
                if !text_of(&model, affix).is_empty() {
                    return Err(Error::unsupported(format!(
                        "tokenizer.json: the model has the {affix} {}; this SDK knows BPE without one",
                        model[affix]
                    )));
                }
            }
            let mut pairs = Pairs::with_capacity(merges.len());
            for (left, right) in merges.iter() {
                pairs.push(&vocab, left, right)?;
            }
            let unknown = model["unk_token"].as_str().map(|token| {
                vocab.id(token.as_bytes()).ok_or_else(|| {
                    Error::unsupported(format!("tokenizer.json: the vocabulary lacks the unk_token {token:?}"))
                })
            });
            let flag = |name: &str| model[name].as_bool().unwrap_or(false);
            Model::Bpe(Bpe {
                ranks: Ranks::Pairs(pairs),
                symbols: if byte_level {
                    Symbols::bytes(&vocab)
                } else {
                    Symbols::Chars
                },
                fallback: flag("byte_fallback").then(|| byte_tokens(&vocab)),
                unknown: unknown.transpose()?,
                fuse_unknown: flag("fuse_unk"),
                whole_words: flag("ignore_merges").then(|| added.special().to_vec()),
            })
        }
        "Unigram" => Model::Unigram(Unigram::new(
            &vocab,
            std::mem::take(&mut file.scores),
            model["unk_id"].as_u64(),
            model["byte_fallback"].as_bool().unwrap_or(false),
            added.special().to_vec(),
        )?),
        other => {
            return Err(Error::unsupported(format!(
                "tokenizer.json: the model is `{other}`; this SDK knows `BPE`, `Unigram` and `WordPiece`"
            )));
        }
    };
    if byte_level && !matches!(model, Model::Bpe(_)) {
        return Err(Error::unsupported(
            "tokenizer.json: the pre_tokenizer is ByteLevel, but the model is no BPE",
        ));
    }
    let (before, after) = around(&parts["post_processor"], &vocab)?;
    Ok(Tokenizer {
        decoder: Decode::from_json(&parts["decoder"])?,
        vocab,
        added,
        normalizer,
        split,
        model,
        before,
        after,
        bos: None,
        eos: None,
    })
}

fn is_bert(parts: &Value) -> bool {
    kind(&parts["normalizer"]) == "BertNormalizer" && kind(&parts["pre_tokenizer"]) == "BertPreTokenizer"
}

/// The added tokens; those that the vocabulary lacks are put into it.
fn added_tokens(parts: &Value, normalizer: &[Normalize], file: &mut File) -> Result<Vec<AddedToken>> {
    let mut tokens = Vec::new();
    for token in list(parts, "added_tokens") {
        let flag = |name: &str| token[name].as_bool().unwrap_or(false);
        let content = text_of(token, "content");
        let id = token["id"]
            .as_u64()
            .ok_or_else(|| Error::unsupported(format!("tokenizer.json: the added token {content:?} has no id")))?;
        if content.is_empty() {
            continue;
        }
        file.vocab.push(content, id)?;
        let mut text = Cow::Borrowed(content);
        if flag("normalized") {
            text = normalizer.iter().fold(text, |text, step| step.apply(text));
        }
        tokens.push(AddedToken {
            // Checked by the vocabulary.
            id: id as u32,
            changed: text != content,
            text: text.into_owned(),
            special: flag("special"),
            normalized: flag("normalized"),
            strip: (flag("lstrip"), flag("rstrip")),
            single_word: flag("single_word"),
        });
    }
    Ok(tokens)
}

/// The tokens before and after every text.
fn around(json: &Value, vocab: &Vocab) -> Result<(Vec<u32>, Vec<u32>)> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    match kind(json) {
        "none" | "ByteLevel" => {}
        "Sequence" => {
            for processor in list(json, "processors") {
                let (first, last) = around(processor, vocab)?;
                before.splice(0..0, first);
                after.extend(last);
            }
        }
        "TemplateProcessing" => {
            let mut seen = false;
            for piece in list(json, "single") {
                if piece["Sequence"].is_object() {
                    seen = true;
                    continue;
                }
                let token = text_of(&piece["SpecialToken"], "id");
                let ids = list(&json["special_tokens"][token], "ids");
                for id in ids {
                    let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                    let id = id.filter(|id| vocab.token(*id).is_some());
                    let id = id.ok_or_else(|| lacks(token))?;
                    if seen { &mut after } else { &mut before }.push(id);
                }
                if ids.is_empty() {
                    return Err(lacks(token));
                }
            }
        }
        "BertProcessing" | "RobertaProcessing" => {
            let id = |name: &str| {
                let token = json[name][0].as_str().unwrap_or_default();
                vocab.id(token.as_bytes()).ok_or_else(|| lacks(token))
            };
            before.push(id("cls")?);
            after.push(id("sep")?);
        }
        other => {
            return Err(Error::unsupported(format!(
                "tokenizer.json: the post_processor `{other}` is not known to this SDK"
            )));
        }
    }
    Ok((before, after))
}

fn lacks(token: &str) -> Error {
    Error::unsupported(format!(
        "tokenizer.json: the post_processor puts {token:?} around texts, which the vocabulary lacks"
    ))
}
