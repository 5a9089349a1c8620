//! The whole tokenizers of SmolLM2 and Whisper, and any text. They are no part of this repository: `tests/golden/make.py` writes
//! them into a folder.
//!
//! ```sh
//! MAQUETTE_TOKENIZERS=folder cargo test --release --test whole_tokenizers -- --ignored
//! ```
#![cfg(feature = "text")]
#![allow(clippy::unwrap_used, missing_docs)]

use maquette::text::{ChatTemplate, Message, Specials, TextStream, Tokenizer};
use proptest::prelude::*;

struct Both {
    ours: Tokenizer,
    theirs: tokenizers::Tokenizer,
}

fn load(name: &str) -> Both {
    let folder = std::env::var("MAQUETTE_TOKENIZERS").unwrap();
    let file = std::fs::read(format!("{folder}/{name}.json")).unwrap();
    Both {
        ours: Tokenizer::from_json(&file).unwrap(),
        theirs: tokenizers::Tokenizer::from_bytes(&file).unwrap(),
    }
}

fn check(both: &Both, text: &str) {
    let ids = both.theirs.encode(text, false).unwrap().get_ids().to_vec();
    assert_eq!(both.ours.encode_with(text, Specials::Parse), ids, "{text:?}");
    for skip in [true, false] {
        assert_eq!(both.ours.decode(&ids, skip), both.theirs.decode(&ids, skip).unwrap());
    }
}

fn check_any(both: &Both) {
    let config = ProptestConfig {
        cases: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let text =
        "\\PC{0,60}|[a-zA-Z0-9 '.,!\r\n\t-]{0,80}|.{0,40}|( ?[a-z]{1,8}){0,20}|(<\\|im_end\\|>| |<\\|en\\|>|a){0,8}";
    proptest!(config, |(text in text, ids in proptest::collection::vec(0_u32..52_000, 0..20))| {
        check(both, &text);
        let decoded = both.theirs.decode(&ids, true).unwrap();
        assert_eq!(both.ours.decode(&ids, true), decoded);
        let mut stream = TextStream::new(&both.ours);
        let mut streamed: String = ids.iter().filter_map(|id| stream.push(*id)).collect();
        streamed.push_str(&stream.finish());
        assert_eq!(streamed, decoded);
    });
    // And this file, with how long it takes.
    let text = include_str!("bpe.rs").repeat(20);
    let started = std::time::Instant::now();
    let ids = both.ours.encode(&text);
    let ours = started.elapsed();
    check(both, &text);
    println!("{} bytes, {} ids: {ours:?}", text.len(), ids.len());
}

#[test]
#[ignore = "needs MAQUETTE_TOKENIZERS"]
fn smollm2_is_the_reference_s() {
    let both = load("smollm2");
    check_any(&both);
    let template = ChatTemplate::from_jinja(include_str!("golden/smollm2.jinja")).unwrap();
    let question = [Message::user("What is the capital of France?")];
    let ids = template.encode(&both.ours, &question, true).unwrap();
    assert_eq!(ids.len(), 37);
    let prompt = template.render(&question, true).unwrap();
    assert_eq!(ids, both.theirs.encode(prompt, false).unwrap().get_ids());
}

#[test]
#[ignore = "needs MAQUETTE_TOKENIZERS"]
fn whisper_is_the_reference_s() {
    check_any(&load("whisper"));
}
