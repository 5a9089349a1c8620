//! Decoders of Llama's family, recorded by the SDK from their configurations (`config.json`, or a GGUF file's header) and run by the
//! host, give the logits that `transformers` gives in float64 (tests/peers/tiny_llama.py), for a prompt however it is cut, and for
//! each step after it.
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
    let folder = tempfile::tempdir().unwrap();
    let config = DecoderConfig::from_json(&golden(&format!("tiny_{kind}.config.json"))).unwrap();
    let golden = golden(&format!("tiny_{kind}.json"));
    check_with(kind, &config, &golden, &weights(&golden, folder.path()));
}

/// Holds a decoder over a weight file against a golden.
fn check_with(kind: &str, config: &DecoderConfig, golden: &Value, path: &Path) {
    let decoder = Decoder::load(config.clone(), &Weights::of_file("model")).unwrap();
    let runtime = Runtime::cpu(RuntimeConfig::default()).unwrap();
    let file = runtime.weights().open(kind, path).unwrap();
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

#[test]
fn llama_3_with_its_scaled_frequencies_gives_the_logits_of_transformers() {
    check("llama3");
}

#[test]
fn linearly_scaled_frequencies_give_the_logits_of_transformers() {
    check("linear");
}

/// The same weights as a GGUF file, as llama.cpp's converter writes them: other names, the rows of queries and keys in the order that
/// turns neighbours, the scaling as a table of divisors or as a factor.
fn gguf(golden: &Value, config: &Value, metadata: &[(&str, f32)], divisors: Option<&Value>, folder: &Path) -> PathBuf {
    let number = |key: &str| config[key].as_u64().unwrap();
    let (heads, kv_heads) = (number("num_attention_heads"), number("num_key_value_heads"));
    let mut tensors: Vec<(String, Vec<u64>, Vec<f32>)> = Vec::new();
    for (name, shape) in golden["shapes"].as_object().unwrap() {
        let shape: Vec<u64> = shape.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
        let mut data = weight(name, shape.iter().product::<u64>() as usize);
        let heads = match name {
            _ if name.ends_with("q_proj.weight") => heads,
            _ if name.ends_with("k_proj.weight") => kv_heads,
            _ => 0,
        };
        if heads > 0 {
            let (rows, columns) = (shape[0] as usize, shape[1] as usize);
            let half = rows / heads as usize / 2;
            let from = |row: usize| {
                let (head, within) = (row / (2 * half), row % (2 * half));
                head * 2 * half + within % 2 * half + within / 2
            };
            data = (0..rows)
                .flat_map(|row| data[from(row) * columns..][..columns].to_vec())
                .collect();
        }
        let mut called = name.replace("model.layers.", "blk.");
        for (hugging_face, gguf) in [
            ("model.embed_tokens", "token_embd"),
            ("model.norm", "output_norm"),
            ("lm_head", "output"),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
        ] {
            called = called.replace(hugging_face, gguf);
        }
        tensors.push((called, shape, data));
    }
    if let Some(divisors) = divisors {
        let divisors: Vec<f32> = numbers(divisors).into_iter().map(|x| x as f32).collect();
        tensors.push(("rope_freqs.weight".to_owned(), vec![divisors.len() as u64], divisors));
    }
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let whole = [
        ("block_count", "num_hidden_layers"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("context_length", "max_position_embeddings"),
    ];
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((1 + whole.len() as u64 + metadata.len() as u64).to_le_bytes());
    text(&mut out, "general.architecture");
    out.extend(8_u32.to_le_bytes());
    text(&mut out, "llama");
    for (key, from) in whole {
        text(&mut out, &format!("llama.{key}"));
        out.extend(4_u32.to_le_bytes());
        out.extend((number(from) as u32).to_le_bytes());
    }
    for (key, value) in metadata {
        text(&mut out, &format!("llama.{key}"));
        out.extend(6_u32.to_le_bytes());
        out.extend(value.to_le_bytes());
    }
    let mut bytes: Vec<u8> = Vec::new();
    for (name, shape, data) in &tensors {
        text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|dim| out.extend(dim.to_le_bytes()));
        out.extend(0_u32.to_le_bytes());
        out.extend((bytes.len() as u64).to_le_bytes());
        bytes.extend(data.iter().flat_map(|x| x.to_le_bytes()));
        bytes.resize(bytes.len().next_multiple_of(32), 0);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(bytes);
    let path = folder.join("model.gguf");
    std::fs::write(&path, out).unwrap();
    path
}

/// What the SDK reads off a GGUF file's header.
fn gguf_config(path: &Path) -> DecoderConfig {
    let runtime = Runtime::cpu(RuntimeConfig::default()).unwrap();
    let file = runtime.weights().open("header", path).unwrap();
    let tensors: Vec<(String, Vec<u32>)> = file
        .tensors()
        .iter()
        .map(|info| (info.name.clone(), info.shape.to_vec()))
        .collect();
    DecoderConfig::from_gguf_header(&|key| Ok(file.metadata(key).map(str::to_owned)), &tensors).unwrap()
}

#[test]
fn a_gguf_file_with_a_table_of_frequencies_gives_the_logits_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    let (config, golden) = (golden("tiny_llama3.config.json"), golden("tiny_llama3.json"));
    let eps = [("attention.layer_norm_rms_epsilon", 1e-5)];
    let path = gguf(&golden, &config, &eps, Some(&golden["rope_divisors"]), folder.path());
    let config = gguf_config(&path);
    assert!(config.rope_table && config.interleaved);
    check_with("llama3.gguf", &config, &golden, &path);
}

#[test]
fn a_gguf_file_with_a_factor_gives_the_logits_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    let (config, golden) = (golden("tiny_linear.config.json"), golden("tiny_linear.json"));
    let metadata = [("attention.layer_norm_rms_epsilon", 1e-5), ("rope.scaling.factor", 4.0)];
    let path = gguf(&golden, &config, &metadata, None, folder.path());
    check_with("linear.gguf", &gguf_config(&path), &golden, &path);
}

#[test]
fn scaled_frequencies_make_a_difference_that_the_goldens_show() {
    let plain = golden("tiny_llama.json");
    for kind in ["llama3", "linear"] {
        let scaled = golden(&format!("tiny_{kind}.json"));
        let (a, b) = (
            numbers(&plain["prompt_logits_11"]),
            numbers(&scaled["prompt_logits_11"]),
        );
        let gap = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(gap > 0.01, "{kind}: {gap}");
    }
}
