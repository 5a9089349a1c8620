//! MiniLM through the sandbox, in turns with the same forward written natively with candle-nn in this process: one text, and 32.

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{Device, Tensor};
use maquette_sandbox::Call;
use serde_json::{Value, json};

use super::figure::median;
use super::native::Bert;
use super::{Aim, Effort, Figure};
use crate::failure::{Failure, Result};
use crate::local::{self, Host, Model, on_big_stack};
use crate::ui::Ui;

/// Words that are one token each, so that a text's length in tokens is known.
const WORDS: [&str; 14] = [
    "the", "cat", "sat", "on", "a", "house", "and", "water", "was", "good", "for", "people", "in", "time",
];

/// Texts at once.
const BATCH: usize = 32;

/// The least cosine between the two embeddings of a text: they are the same model.
const SAME: f64 = 0.9999;

/// The model, ready to be called, and its native twin.
pub(crate) struct MiniLm {
    /// In the sandbox.
    pub(crate) model: Model,
    /// One text.
    pub(crate) single: Texts,
    batch: Texts,
    native: Bert,
}

/// Some texts, for both.
pub(crate) struct Texts {
    text: Value,
    ids: Vec<Vec<u32>>,
}

impl Texts {
    /// Texts of fourteen words each, no two alike.
    fn new(n: usize, id: &dyn Fn(&str) -> Result<u32>) -> Result<Self> {
        let mut texts = Vec::new();
        let mut ids = Vec::new();
        for i in 0..n {
            let words: Vec<&str> = (0..WORDS.len())
                .map(|j| WORDS[(i * 5 + j * (i % 3 + 1)) % WORDS.len()])
                .collect();
            let inner = words.iter().map(|w| id(w)).collect::<Result<Vec<_>>>()?;
            ids.push([vec![id("[CLS]")?], inner, vec![id("[SEP]")?]].concat());
            texts.push(words.join(" "));
        }
        let text = if n == 1 { json!(texts[0]) } else { json!(texts) };
        Ok(Self { text, ids })
    }

    /// The call's input.
    pub(crate) fn input(&self) -> String {
        let name = if self.text.is_string() { "text" } else { "texts" };
        json!({ name: self.text }).to_string()
    }
}

/// Finds, builds and opens the model; `None` if nobody named it and it is not where this repository has it.
pub(crate) fn find(dir: Option<&Path>, host: &Host, ui: &mut Ui) -> Result<Option<MiniLm>> {
    let dir = match dir {
        Some(dir) => dir.to_owned(),
        None => PathBuf::from("plugins/minilm"),
    };
    if !dir.join(maquette_package::manifest::FILE).is_file() {
        return Ok(None);
    }
    let store = local::store()?;
    let package = local::assemble(&dir, &store, ui)?;
    let parts = local::parts(&package.manifest, &store)?;
    let odd = |what: &str| Failure::usage(format!("the model {what}: it is not MiniLM")).at(dir.display());
    let weights = parts.weights.values().next().ok_or_else(|| odd("has no weights"))?;
    let native = Bert::open(&weights.path).map_err(|e| odd(&format!("has other weights ({e})")))?;
    let vocabulary = parts
        .assets
        .values()
        .find_map(|asset| vocabulary(&asset.path))
        .ok_or_else(|| odd("has no vocabulary"))?;
    let id = |word: &str| vocabulary(word).ok_or_else(|| odd(&format!("does not know the word `{word}`")));
    let (single, batch) = (Texts::new(1, &id)?, Texts::new(BATCH, &id)?);
    let model = host.open(parts)?;
    Ok(Some(MiniLm {
        model,
        single,
        batch,
        native,
    }))
}

/// Words to ids.
type Vocabulary = Box<dyn Fn(&str) -> Option<u32>>;

/// Reads a `tokenizer.json` or a `vocab.txt`; `None` if the file is neither.
fn vocabulary(path: &Path) -> Option<Vocabulary> {
    let text = std::fs::read_to_string(path).ok()?;
    if let Ok(tokenizer) = serde_json::from_str::<Value>(&text) {
        let vocabulary = tokenizer.pointer("/model/vocab")?.as_object()?.clone();
        return Some(Box::new(move |word| {
            u32::try_from(vocabulary.get(word)?.as_u64()?).ok()
        }));
    }
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines
        .iter()
        .any(|l| l == "[CLS]")
        .then(|| Box::new(move |word: &str| u32::try_from(lines.iter().position(|l| l == word)?).ok()) as Vocabulary)
}

/// Measures both sizes.
pub(crate) fn measure(minilm: &MiniLm, effort: Effort) -> Result<Vec<Figure>> {
    let mut figures = of(
        minilm,
        &minilm.single,
        ["minilm.single", "minilm.single_ms", "minilm.single_native_ms"],
        "one text",
        effort.rounds(60),
    )?;
    figures.extend(of(
        minilm,
        &minilm.batch,
        ["minilm.batch", "minilm.batch_ms", "minilm.batch_native_ms"],
        "32 texts",
        effort.rounds(15),
    )?);
    Ok(figures)
}

fn of(minilm: &MiniLm, texts: &Texts, ids: [&'static str; 3], what: &str, rounds: usize) -> Result<Vec<Figure>> {
    let input = texts.input();
    let flat: Vec<u32> = texts.ids.concat();
    let tokens = texts.ids.first().map_or(0, Vec::len);
    let candle = |e: candle_core::Error| Failure::environment(format!("candle: {e}"));
    let tensor = Tensor::from_vec(flat, (texts.ids.len(), tokens), &Device::Cpu).map_err(candle)?;
    let sandbox = || -> Result<(f64, String)> {
        let at = Instant::now();
        let call = Call {
            input: input.clone(),
            ..Call::default()
        };
        let output = minilm.model.guest().call(call).result.map_err(Failure::failed)?;
        Ok((at.elapsed().as_secs_f64() * 1e3, output.json))
    };
    let native = || -> Result<(f64, Vec<Vec<f32>>)> {
        let at = Instant::now();
        let embeddings = minilm.native.embed(&tensor).map_err(candle)?;
        Ok((at.elapsed().as_secs_f64() * 1e3, embeddings))
    };
    let (ours, theirs, cosine) = on_big_stack(|| -> Result<_> {
        // The first of each compiles and warms; they must be the same model.
        let cosine = least_cosine(&sandbox()?.1, &native()?.1)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            // Whoever comes second finds other caches, so they take turns at that too.
            if round % 2 == 0 {
                ours.push(sandbox()?.0);
                theirs.push(native()?.0);
            } else {
                theirs.push(native()?.0);
                ours.push(sandbox()?.0);
            }
        }
        Ok((ours, theirs, cosine))
    })??;
    if cosine < SAME {
        return Err(Failure::failed(format!(
            "the sandbox and native candle disagree: their cosine is {cosine:.6}"
        )));
    }
    let ratio = median(ours.iter().zip(&theirs).map(|(a, b)| b / a).collect());
    Ok(vec![
        Figure {
            id: ids[0],
            what: format!("MiniLM, {what}: throughput over native candle's"),
            value: ratio,
            unit: "x",
            aim: Aim::Least(0.97),
            how: format!("median of {rounds} pairs, {tokens} tokens a text, least cosine of the two {cosine:.6}"),
        },
        Figure {
            id: ids[1],
            what: "  through the sandbox".to_owned(),
            value: median(ours),
            unit: "ms",
            aim: Aim::None,
            how: "JSON and text in, JSON of 384 floats a text out: tokenizing and printing included".to_owned(),
        },
        Figure {
            id: ids[2],
            what: "  candle-nn in this process".to_owned(),
            value: median(theirs),
            unit: "ms",
            aim: Aim::None,
            how: "ids in, floats out, no padding mask, in turns with the above".to_owned(),
        },
    ])
}

/// The least cosine between the embeddings in a model's output, wherever they are in it, and these.
fn least_cosine(output: &str, expected: &[Vec<f32>]) -> Result<f64> {
    let output: Value =
        serde_json::from_str(output).map_err(|e| Failure::failed(format!("the output is not JSON: {e}")))?;
    let mut found = Vec::new();
    embeddings(&output, &mut found);
    if found.len() != expected.len() {
        return Err(Failure::failed(format!(
            "the model returned {} embeddings of {}",
            found.len(),
            expected.len()
        )));
    }
    let cosines = found.iter().zip(expected).map(|(a, b)| {
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        let b: Vec<f64> = b.iter().map(|v| f64::from(*v)).collect();
        dot(a, &b) / (dot(a, a) * dot(&b, &b)).sqrt()
    });
    Ok(cosines.fold(1.0, f64::min))
}

fn embeddings(value: &Value, found: &mut Vec<Vec<f64>>) {
    match value {
        Value::Array(items) if items.len() > 100 && items.iter().all(Value::is_number) => {
            found.push(items.iter().filter_map(Value::as_f64).collect());
        }
        Value::Array(items) => items.iter().for_each(|item| embeddings(item, found)),
        Value::Object(fields) => fields.values().for_each(|item| embeddings(item, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn texts_have_one_length_and_differ() {
        let id = |word: &str| Ok(u32::try_from(word.len()).unwrap());
        let texts = Texts::new(BATCH, &id).unwrap();
        assert!(texts.ids.iter().all(|ids| ids.len() == WORDS.len() + 2));
        let all: std::collections::BTreeSet<String> =
            texts.text.as_array().unwrap().iter().map(Value::to_string).collect();
        assert!(all.len() > BATCH / 2, "{}", all.len());
        assert!(Texts::new(1, &id).unwrap().text.is_string());
    }

    #[test]
    fn embeddings_are_found_wherever_they_are_and_compared() {
        let row: Vec<f32> = (0..384).map(|i| i as f32 / 384.0).collect();
        let mut other = row.clone();
        other[0] += 10.0;
        let output = json!({"embeddings": [row, row]}).to_string();
        assert!(least_cosine(&output, &[row.clone(), row.clone()]).unwrap() > 0.999_999);
        assert!(least_cosine(&output, &[row.clone(), other]).unwrap() < 0.9);
        assert!(least_cosine(&output, &[row]).is_err(), "their number is checked");
    }
}
