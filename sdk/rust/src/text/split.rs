//! Pre-tokenizers: a text divided into the words that the model then works on one by one.

use serde_json::Value;

use super::bert;
use super::file::{kind, list, text_of};
use super::pattern::Pattern;
use crate::{Error, Result};

/// One step, over what the steps before it made.
#[derive(Debug)]
pub(super) enum Split {
    /// BERT's normalizer and its words in one.
    Bert(bert::Normalizer),
    /// The words of a pattern.
    Pattern(Pattern),
    /// Occurrences of a string.
    Text(String, Behavior),
    /// Numerals, one by one or in runs.
    Digits(Behavior),
    /// A space before what has none.
    PrefixSpace,
    /// A space before whatever there is.
    Space,
    /// A mark for every space.
    Mark(char),
    Metaspace {
        mark: char,
        prepend: Prepend,
        split: bool,
    },
}

/// Where `Metaspace` sets its mark before a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prepend {
    Always,
    /// Where the whole text starts.
    First,
    Never,
}

/// Where the separators go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behavior {
    Removed,
    Isolated,
    Contiguous,
    MergedWithPrevious,
    MergedWithNext,
}

/// What gets the words, until it returns false.
type Each<'e> = dyn FnMut(&str) -> bool + 'e;

impl Split {
    /// The steps that a file describes. True if the words are then written in the alphabet of bytes.
    pub(super) fn from_json(json: &Value, steps: &mut Vec<Self>) -> Result<bool> {
        let step = match kind(json) {
            "none" => return Ok(false),
            "Sequence" => {
                let mut byte_level = false;
                for step in list(json, "pretokenizers") {
                    if byte_level {
                        return Err(Error::unsupported(format!(
                            "tokenizer.json: the pre_tokenizer has a {} after ByteLevel; this SDK expects ByteLevel last",
                            kind(step)
                        )));
                    }
                    byte_level = Self::from_json(step, steps)?;
                }
                return Ok(byte_level);
            }
            "ByteLevel" => {
                if json["add_prefix_space"].as_bool().unwrap_or(true) {
                    steps.push(Self::PrefixSpace);
                }
                if json["use_regex"].as_bool().unwrap_or(true) {
                    steps.push(Self::Pattern(Pattern::Gpt2));
                }
                return Ok(true);
            }
            "Digits" => Self::Digits(if json["individual_digits"].as_bool().unwrap_or(false) {
                Behavior::Isolated
            } else {
                Behavior::Contiguous
            }),
            "Metaspace" => metaspace(json)?,
            "Split" => split(json)?,
            other => {
                return Err(Error::unsupported(format!(
                    "tokenizer.json: the pre_tokenizer is `{other}`; this SDK knows BertPreTokenizer (with BertNormalizer), \
                     ByteLevel, Digits, Metaspace, Split, and Sequence of them"
                )));
            }
        };
        steps.push(step);
        Ok(false)
    }

    /// Calls `each` with every word of a text, until it returns false. `first` says that the whole text starts here.
    pub(super) fn words(steps: &[Self], text: &str, first: bool, each: &mut Each<'_>) -> bool {
        let Some((step, steps)) = steps.split_first() else {
            return text.is_empty() || each(text);
        };
        match step {
            Self::Bert(normalizer) => {
                let mut go_on = true;
                normalizer.words(text, |word| {
                    go_on = each(word);
                    go_on
                });
                go_on
            }
            Self::Pattern(pattern) => {
                let mut start = 0;
                while start < text.len() {
                    // A pattern leaves nothing out; were it to, one character would go alone.
                    let one = text[start..].chars().next().map_or(1, char::len_utf8);
                    let end = start + pattern.word(&text[start..]).max(one);
                    if !Self::words(steps, &text[start..end], first && start == 0, each) {
                        return false;
                    }
                    start = end;
                }
                true
            }
            Self::Text(separator, behavior) => {
                let found = text.match_indices(separator.as_str());
                let found = found.map(|(start, found)| (start, start + found.len()));
                parts(steps, text, found, *behavior, first, each)
            }
            Self::Digits(behavior) => {
                let found = text.match_indices(char::is_numeric);
                let found = found.map(|(start, found)| (start, start + found.len()));
                parts(steps, text, found, *behavior, first, each)
            }
            Self::PrefixSpace if text.starts_with(' ') || text.is_empty() => Self::words(steps, text, first, each),
            Self::PrefixSpace => Self::words(steps, &format!(" {text}"), first, each),
            Self::Space => Self::words(steps, &format!(" {text}"), first, each),
            Self::Mark(mark) => Self::words(steps, &text.replace(' ', mark.encode_utf8(&mut [0; 4])), first, each),
            Self::Metaspace { mark, prepend, split } => {
                let mut marked = text.replace(' ', mark.encode_utf8(&mut [0; 4]));
                let wanted = match prepend {
                    Prepend::Always => true,
                    Prepend::First => first,
                    Prepend::Never => false,
                };
                if wanted && !marked.is_empty() && !marked.starts_with(*mark) {
                    marked.insert(0, *mark);
                }
                if !split {
                    return Self::words(steps, &marked, first, each);
                }
                let found = marked.match_indices(*mark);
                let found = found.map(|(start, found)| (start, start + found.len()));
                parts(steps, &marked, found, Behavior::MergedWithNext, first, each)
            }
        }
    }
}

/// Divides a text at what was found, and goes on with the parts.
fn parts(
    steps: &[Split],
    text: &str,
    found: impl Iterator<Item = (usize, usize)>,
    behavior: Behavior,
    first: bool,
    each: &mut Each<'_>,
) -> bool {
    // Start, end, whether it is a separator.
    let mut all = Vec::new();
    let mut done = 0;
    for (start, end) in found {
        if start > done {
            all.push((done, start, false));
        }
        all.push((start, end, true));
        done = end;
    }
    if done < text.len() {
        all.push((done, text.len(), false));
    }
    let mut out: Vec<(usize, usize)> = Vec::with_capacity(all.len());
    // Whether the last part was a separator: of several in a row, one goes with its neighbour.
    let mut last = false;
    match behavior {
        Behavior::Isolated => out.extend(all.iter().map(|part| (part.0, part.1))),
        Behavior::Removed => out.extend(all.iter().filter(|part| !part.2).map(|part| (part.0, part.1))),
        Behavior::Contiguous | Behavior::MergedWithPrevious => {
            for (start, end, separator) in all {
                let joins = match behavior {
                    Behavior::Contiguous => separator == last,
                    _ => separator && !last,
                };
                match out.last_mut() {
                    Some(part) if joins => part.1 = end,
                    _ => out.push((start, end)),
                }
                last = separator;
            }
        }
        Behavior::MergedWithNext => {
            for (start, end, separator) in all.into_iter().rev() {
                match out.last_mut() {
                    Some(part) if separator && !last => part.0 = start,
                    _ => out.push((start, end)),
                }
                last = separator;
            }
            out.reverse();
        }
    }
    out.into_iter()
        .all(|(start, end)| Split::words(steps, &text[start..end], first && start == 0, each))
}

fn metaspace(json: &Value) -> Result<Split> {
    Ok(Split::Metaspace {
        mark: mark_of(json),
        prepend: prepend_of(json)?,
        split: json["split"].as_bool().unwrap_or(true),
    })
}

/// The mark of a `Metaspace`.
pub(super) fn mark_of(json: &Value) -> char {
    text_of(json, "replacement").chars().next().unwrap_or('▁')
}

/// Where a `Metaspace` sets its mark.
pub(super) fn prepend_of(json: &Value) -> Result<Prepend> {
    if json["add_prefix_space"].as_bool() == Some(false) {
        return Ok(Prepend::Never);
    }
    match json["prepend_scheme"].as_str() {
        None | Some("always") => Ok(Prepend::Always),
        Some("first") => Ok(Prepend::First),
        Some("never") => Ok(Prepend::Never),
        Some(other) => Err(Error::unsupported(format!(
            "tokenizer.json: Metaspace has the prepend_scheme `{other}`; this SDK knows always, first, never"
        ))),
    }
}

fn split(json: &Value) -> Result<Split> {
    let invert = json["invert"].as_bool().unwrap_or(false);
    let behavior = match (json["behavior"].as_str().unwrap_or("none"), invert) {
        ("Isolated", false) => Behavior::Isolated,
        ("Removed", false) => Behavior::Removed,
        ("Contiguous", false) => Behavior::Contiguous,
        ("MergedWithPrevious", false) => Behavior::MergedWithPrevious,
        ("MergedWithNext", false) => Behavior::MergedWithNext,
        // What is between the words is removed, and there is nothing between them.
        ("Removed", true) if json["pattern"]["Regex"].is_string() => Behavior::Isolated,
        (other, _) => {
            return Err(Error::unsupported(format!(
                "tokenizer.json: a Split of the pre_tokenizer has the behavior `{other}` with invert {invert}, which is not \
                 known to this SDK"
            )));
        }
    };
    if let Some(text) = json["pattern"]["String"].as_str().filter(|text| !text.is_empty()) {
        return Ok(Split::Text(text.to_owned(), behavior));
    }
    let regex = json["pattern"]["Regex"].as_str().unwrap_or_default();
    match Pattern::from_regex(regex) {
        Some(pattern) if behavior == Behavior::Isolated => Ok(Split::Pattern(pattern)),
        Some(_) => Err(Error::unsupported(format!(
            "tokenizer.json: a Split of the pre_tokenizer by a regular expression has the behavior {}; this SDK knows Isolated",
            json["behavior"]
        ))),
        None => Err(Error::unsupported(format!(
            "tokenizer.json: the pre_tokenizer splits by the regular expression {regex:?}; this SDK knows those of GPT-2, \
             GPT-4, Llama 3 and Qwen 2, as they are written in the files of these models"
        ))),
    }
}
