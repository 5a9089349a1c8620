//! Decoders of Llama's family, recorded by the SDK from their configurations and run by the host, give the logits that
//! `transformers` gives in float64 (tests/peers/tiny_llama.py), for a prompt however it is cut, and for each step after it.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use maquette::nn::{Decoder, DecoderConfig};
use maquette::{DType, Weights};
use maquette_tensor::{Budget, Control, KvCache, Runtime, RuntimeConfig, Scope};
use serde_json::Value;

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/peers/golden")
        .join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The formula of tests/peers/tiny_llama.py.
fn weight(name: &str, len: usize) -> Vec<f32> {
    let hash = name.bytes().fold(2_166_136_261_u32, |h, byte| {
        (h ^ u32::from(byte)).wrapping_mul(16_777_619)
    });
    let value = |i: u32| {
        let mut x = i.wrapping_mul(2_654_435_761) ^ hash;
        x ^= x >> 16;
        x = x.wrapping_mul(0x85eb_ca6b);
        x ^= x >> 13;
        x = x.wrapping_mul(0xc2b2_ae35);
        x ^= x >> 16;
        let u = (x >> 8) as f32 / (1 << 24) as f32 - 0.5;
        match name {
            _ if name.ends_with("norm.weight") => 1.0 + u / 2.0,
            "model.embed_tokens.weight" => u,
            _ => u / 2.0,
        }
    };
    (0..len as u32).map(value).collect()
}

/// A safetensors file with the weights that a golden was made with.
fn weights(golden: &Value, folder: &Path) -> PathBuf {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, shape) in golden["shapes"].as_object().unwrap() {
        let len: u64 = shape.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product();
        let start = data.len();
        data.extend(weight(name, len as usize).iter().flat_map(|x| x.to_le_bytes()));
        header.insert(
            name.clone(),
            serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    let path = folder.join("model.safetensors");
    std::fs::write(&path, file).unwrap();
    path
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|x| x as u32).collect()
}

struct Run {
    scope: Scope,
    program: Arc<maquette_tensor::Program>,
    cache: KvCache,
}

impl Run {
    fn logits(&self, ids: &[u32]) -> Vec<f32> {
        let upload = |values: &[u32]| {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            self.scope
                .from_bytes(DType::U32, &[values.len() as u32], &bytes)
                .unwrap()
        };
        let positions: Vec<u32> = (self.cache.len()..).take(ids.len()).collect();
        let inputs = [upload(ids), upload(&positions)];
        let outputs = self
            .program
            .run_with(&self.scope, &[&inputs[0], &inputs[1]], &[&self.cache])
            .unwrap();
        let bytes = self.scope.read(&outputs[0]).unwrap();
        bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|x| f32::from_le_bytes(*x))
            .collect()
    }
}

fn agree(found: &[f32], expected: &Value, what: &str) {
    let expected = numbers(expected);
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
        assert!((f64::from(*a) - b).abs() < 1e-4, "{what}, logit {i}: {a}, expected {b}");
    }
}

fn check(kind: &str) {
    let config = golden(&format!("tiny_{kind}.config.json"));
    let golden = golden(&format!("tiny_{kind}.json"));
    let folder = tempfile::tempdir().unwrap();
    let path = weights(&golden, folder.path());
    let config = DecoderConfig::from_json(&config).unwrap();
    let decoder = Decoder::load(config.clone(), &Weights::of_file("model")).unwrap();

    let runtime = Runtime::cpu(RuntimeConfig::default()).unwrap();
    let file = runtime.weights().open(kind, &path).unwrap();
    let files = BTreeMap::from([("model".to_owned(), file)]);
    let start = || {
        let budget = Budget::new(1 << 26);
        let scope = Scope::new(Arc::clone(&runtime), Arc::clone(&budget), Control::default());
        let program = scope.compile(decoder.program().description(), &files).unwrap();
        let cache = KvCache::new(&budget, config.cache(), 400).unwrap();
        Run { scope, program, cache }
    };
    let prompt = ids(&golden["prompt"]);
    let position = |i: usize| &golden[&format!("prompt_logits_{i}")];
    // One token at a time; all at once; in two pieces.
    let run = start();
    for (i, id) in prompt.iter().enumerate() {
        agree(&run.logits(&[*id]), position(i), &format!("{kind}, position {i}"));
    }
    for cut in 1..prompt.len() {
        let run = start();
        agree(
            &run.logits(&prompt[..cut]),
            position(cut - 1),
            &format!("{kind}, the first {cut}"),
        );
        agree(
            &run.logits(&prompt[cut..]),
            position(prompt.len() - 1),
            &format!("{kind}, cut at {cut}"),
        );
    }
    // Long enough for what long runs do otherwise: several blocks of rows, memory used again.
    let long: Vec<u32> = (0..300).map(|i| i * 7 % 96).collect();
    let (whole, steps) = (start(), start());
    let whole = whole.logits(&long);
    let mut last = Vec::new();
    for id in &long {
        last = steps.logits(&[*id]);
    }
    for (a, b) in whole.iter().zip(&last) {
        assert!((a - b).abs() < 1e-3, "{kind}, 300 places: {a} at once, {b} one by one");
    }
    let greedy = ids(&golden["greedy"]);
    let run = start();
    run.logits(&prompt);
    for (n, id) in greedy.iter().enumerate().take(4) {
        let expected = &golden[&format!("decode_logits_{n}")];
        agree(&run.logits(&[*id]), expected, &format!("{kind}, step {n}"));
    }
}

#[test]
fn llama_gives_the_logits_of_transformers() {
    check("llama");
}

#[test]
fn mistral_with_its_sliding_window_gives_the_logits_of_transformers() {
    check("mistral");
}

#[test]
fn qwen2_with_its_biases_gives_the_logits_of_transformers() {
    check("qwen2");
}

#[test]
fn qwen3_with_its_normalised_heads_gives_the_logits_of_transformers() {
    check("qwen3");
}
