//! Our WordPiece tokenizer gives the ids that the crate `tokenizers` gives, for any text.
#![cfg(feature = "text")]
#![allow(clippy::unwrap_used, missing_docs)]

use maquette::text::{Specials, Tokenizer};
use proptest::prelude::*;

/// A small vocabulary in the form of a BERT's: letters, some pieces, punctuation, accents that survive, Chinese.
fn file() -> String {
    let mut vocab: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        .map(str::to_owned)
        .to_vec();
    for c in ('a'..='z').chain('0'..='9') {
        vocab.push(c.to_string());
        vocab.push(format!("##{c}"));
    }
    let words = [
        "the", "##ing", "hello", "world", "un", "##able", "ß", "##ß", "你", "好", "!", ".", ",", "-", "'", "“", "é",
        "##é", "ə",
    ];
    vocab.extend(words.map(str::to_owned));
    let vocab: serde_json::Map<_, _> = vocab.into_iter().enumerate().map(|(i, t)| (t, i.into())).collect();
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab}
    })
    .to_string()
}

fn both(text: &str) -> (Vec<u32>, Vec<u32>) {
    thread_local! {
        static BOTH: (Tokenizer, tokenizers::Tokenizer) =
            (Tokenizer::from_json(file().as_bytes()).unwrap(), tokenizers::Tokenizer::from_bytes(file()).unwrap());
    }
    BOTH.with(|(ours, theirs)| (ours.encode(text), theirs.encode(text, true).unwrap().get_ids().to_vec()))
}

#[test]
fn known_texts_have_the_reference_s_ids() {
    for text in [
        "",
        " ",
        "Hello, world!",
        "the unable-ing\tthing",
        "你好world",
        "naïve CAFÉ É",
        "a\u{0}b\u{fffd}c\u{200d}d\u{ad}",
        "x\u{301}\u{327}y",
        "ﬃ ß İ ǅ ə",
        "“quotes” — dash…",
        "a\u{3000}b\u{a0}c\r\nd",
        "\u{1f600}hello\u{1f600}",
        "가각힣",
        "ｆｕｌｌ",
        &"a".repeat(100),
        &"a".repeat(101),
        "\u{e000}\u{fdd0}",
        "𝐇ello",
        "٣٤",
        "क्षि",
    ] {
        let (ours, theirs) = both(text);
        assert_eq!(ours, theirs, "{text:?}");
    }
}

#[test]
fn truncation_keeps_the_special_tokens() {
    let tokenizer = Tokenizer::from_json(file().as_bytes()).unwrap();
    let whole = tokenizer.encode("hello world the hello");
    let cut = tokenizer.encode_truncated("hello world the hello", 4);
    assert_eq!(cut, [whole[0], whole[1], whole[2], *whole.last().unwrap()]);
}

#[test]
fn another_kind_of_tokenizer_is_refused_by_name() {
    let file = file().replace("BertPreTokenizer", "ByteLevel");
    let error = Tokenizer::from_json(file.as_bytes()).unwrap_err();
    assert!(error.message().contains("the pre_tokenizer is `ByteLevel`"), "{error}");
}

#[test]
fn decoded_texts_are_the_reference_s() {
    for decoder in [
        serde_json::json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        serde_json::json!({"type": "WordPiece", "prefix": "##", "cleanup": false}),
        serde_json::Value::Null,
    ] {
        let mut file: serde_json::Value = serde_json::from_str(&file()).unwrap();
        file["decoder"] = decoder;
        let cls = serde_json::json!({"id": 2, "content": "[CLS]", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true});
        file["added_tokens"] = vec![cls].into();
        let file = file.to_string();
        let ours = Tokenizer::from_json(file.as_bytes()).unwrap();
        let theirs = tokenizers::Tokenizer::from_bytes(&file).unwrap();
        for text in [
            "",
            "hello, unable world! it's 'a' do not.",
            "你好 x ß",
            "[CLS] the [MASK]",
        ] {
            for parse in [Specials::Text, Specials::Parse] {
                let mut theirs = theirs.clone();
                theirs.set_encode_special_tokens(parse == Specials::Text);
                let ids = ours.encode_with(text, parse);
                assert_eq!(ids, theirs.encode(text, false).unwrap().get_ids(), "{text:?}");
            }
            let ids = ours.encode(text);
            for skip in [true, false] {
                assert_eq!(ours.decode(&ids, skip), theirs.decode(&ids, skip).unwrap(), "{text:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_has_the_reference_s_ids(text in "\\PC{0,40}|[a-z \u{300}-\u{36f}'.,!-]{0,60}|.{0,20}") {
        let (ours, theirs) = both(&text);
        prop_assert_eq!(ours, theirs, "{:?}", text);
    }
}
