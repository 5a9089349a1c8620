//! The file `tokenizer.json`, read without a tree of its vocabulary: that would take many times the memory.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::vocab::VocabBuilder;
use crate::{Context as _, Result};

/// What the file says.
#[derive(Debug, Default)]
pub(super) struct File {
    /// All but the model.
    pub(super) parts: Value,
    /// The model, but for its vocabulary and merges.
    pub(super) model: Value,
    pub(super) vocab: VocabBuilder,
    /// Of Unigram models, by id.
    pub(super) scores: Vec<f64>,
    pub(super) merges: Merges,
}

/// Pairs of tokens, in one string.
#[derive(Debug, Default)]
pub(super) struct Merges {
    text: String,
    /// Where the two parts of each end.
    ends: Vec<(usize, usize)>,
}

impl Merges {
    pub(super) fn push(&mut self, left: &str, right: &str) {
        self.text.push_str(left);
        let middle = self.text.len();
        self.text.push_str(right);
        self.ends.push((middle, self.text.len()));
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        self.ends.iter().map(move |(middle, end)| {
            let pair = (&self.text[start..*middle], &self.text[*middle..*end]);
            start = *end;
            pair
        })
    }
}

impl File {
    /// Reads the file.
    ///
    /// # Errors
    /// If it is no JSON, or has a vocabulary that is none.
    pub(super) fn read(json: &[u8]) -> Result<Self> {
        let mut file = Self::default();
        let mut reader = serde_json::Deserializer::from_slice(json);
        Part::File(&mut file)
            .deserialize(&mut reader)
            .context("tokenizer.json")?;
        reader.end().context("tokenizer.json")?;
        Ok(file)
    }
}

/// The `type` of a part; `none` if it is null or absent.
pub(super) fn kind(json: &Value) -> &str {
    json["type"].as_str().unwrap_or("none")
}

/// The elements of a list; none if it is absent.
pub(super) fn list<'j>(json: &'j Value, name: &str) -> &'j [Value] {
    json[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A string; empty if it is absent.
pub(super) fn text_of<'j>(json: &'j Value, name: &str) -> &'j str {
    json[name].as_str().unwrap_or_default()
}

/// What is being read.
enum Part<'f> {
    File(&'f mut File),
    Model(&'f mut File),
    /// An object of ids by token; a list of tokens and scores with Unigram.
    Vocab(&'f mut VocabBuilder, &'f mut Vec<f64>),
    /// A list of strings `left right`, or of pairs.
    Merges(&'f mut Merges),
    Merge(&'f mut Merges),
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File(_) => "the object of a tokenizer",
            Self::Model(_) => "the object of a model",
            Self::Vocab(..) => "a vocabulary: an object of ids by token, or a list of tokens with scores",
            Self::Merges(_) => "a list of merges",
            Self::Merge(_) => "a merge: two tokens in a list, or in a string with one space between them",
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        match self {
            Self::File(file) => {
                let mut parts = Map::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "model" {
                        map.next_value_seed(Part::Model(file))?;
                    } else {
                        parts.insert(name, map.next_value()?);
                    }
                }
                file.parts = Value::Object(parts);
            }
            Self::Model(file) => {
                let mut rest = Map::new();
                while let Some(name) = map.next_key::<String>()? {
                    match name.as_str() {
                        "vocab" => map.next_value_seed(Part::Vocab(&mut file.vocab, &mut file.scores))?,
                        "merges" => map.next_value_seed(Part::Merges(&mut file.merges))?,
                        _ => {
                            rest.insert(name, map.next_value()?);
                        }
                    }
                }
                file.model = Value::Object(rest);
            }
            Self::Vocab(vocab, _) => {
                while let Some(token) = map.next_key::<String>()? {
                    let id = map.next_value()?;
                    vocab
                        .push(&token, id)
                        .map_err(|error| A::Error::custom(error.message()))?;
                }
            }
            Self::Merges(_) | Self::Merge(_) => {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return Err(A::Error::custom("the merges of the model are no list"));
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        match self {
            Self::Vocab(vocab, scores) => {
                while let Some((token, score)) = list.next_element::<(String, f64)>()? {
                    let id = vocab.len() as u64;
                    vocab
                        .push(&token, id)
                        .map_err(|error| A::Error::custom(error.message()))?;
                    scores.push(score);
                }
                Ok(())
            }
            Self::Merges(merges) => {
                while list.next_element_seed(Part::Merge(merges))?.is_some() {}
                Ok(())
            }
            Self::Merge(merges) => {
                let (Some(left), Some(right)) = (list.next_element::<String>()?, list.next_element::<String>()?) else {
                    return Err(A::Error::custom(format!(
                        "the merge {} has less than two tokens",
                        merges.len()
                    )));
                };
                merges.push(&left, &right);
                Ok(())
            }
            Self::File(_) | Self::Model(_) => Err(A::Error::custom("the file or its model is a list, no object")),
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        match self {
            Self::Merge(_) if text.starts_with("#version") => Ok(()),
            Self::Merge(merges) => {
                let pair = text.split_once(' ').filter(|(_, right)| !right.contains(' '));
                let (left, right) = pair.ok_or_else(|| {
                    E::custom(format!(
                        "the merge {} is {text:?}, not two tokens with a space between them",
                        merges.len()
                    ))
                })?;
                merges.push(left, right);
                Ok(())
            }
            other => Err(E::invalid_type(serde::de::Unexpected::Str(text), &other)),
        }
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        // null: absent.
        Ok(())
    }
}
