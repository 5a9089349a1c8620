//! Every fuzz target over its corpus and over mutations of it, always the same ones. `tests/fuzz/run` looks for more.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;

use maquette_fuzz::mutate::{Random, mutate};
use maquette_fuzz::{MAX_INPUT, TARGETS};

/// Inputs of a target beside its corpus.
const MUTATIONS: usize = 3000;

/// Inputs of the target whose inputs are compiled.
const COMPONENTS: usize = 400;

fn holds(name: &str) {
    holds_for(name, MUTATIONS);
}

fn holds_for(name: &str, mutations: usize) {
    let (_, target) = TARGETS.iter().find(|(target, _)| *target == name).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(!seeds.is_empty(), "{} is empty", folder.display());
    for (path, seed) in paths.iter().zip(&seeds) {
        tried(*target, seed, &path.display().to_string());
    }
    let mut random = Random::new(0x006d_6171_7565_7474);
    for i in 0..mutations {
        let seed = &seeds[random.below(seeds.len())];
        let other = &seeds[random.below(seeds.len())];
        let input = mutate(seed, other, &mut random, MAX_INPUT);
        tried(*target, &input, &format!("mutation {i}"));
    }
}

/// Runs a target, and keeps what it fails on where `tests/fuzz/run` and a person can take it from.
fn tried(target: fn(&[u8]), input: &[u8], what: &str) {
    let outcome = std::panic::catch_unwind(|| target(input));
    if outcome.is_err() {
        let kept = std::env::temp_dir().join("maquette-fuzz-failure");
        let _ = std::fs::write(&kept, input);
        panic!("{what} breaks the promise; the input is in {}", kept.display());
    }
}

#[test]
fn no_op_on_any_tensors_makes_the_host_fail() {
    holds("ops");
}

#[test]
fn no_program_and_no_input_of_one_makes_the_host_fail() {
    holds("programs");
}

#[test]
fn no_safetensors_file_makes_the_host_fail() {
    holds("safetensors");
}

#[test]
fn no_gguf_file_makes_the_host_fail() {
    holds("gguf");
}

#[test]
fn no_manifest_case_or_source_makes_the_host_fail() {
    holds("manifests");
}

#[test]
fn no_body_of_publishing_makes_the_host_fail() {
    holds("publishing");
}

#[test]
fn no_form_makes_the_host_fail() {
    holds("uploads");
}

#[test]
fn every_event_of_a_stream_is_read_as_it_was_meant() {
    holds("streams");
}

#[test]
fn no_request_for_a_prediction_makes_the_host_fail() {
    holds("requests");
}

#[test]
fn no_component_makes_the_host_fail() {
    holds_for("components", COMPONENTS);
}

#[test]
fn no_url_leads_inside() {
    holds("urls");
}
