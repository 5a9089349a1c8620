//! What an id promises: the same content the same id, any other content another.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::shards;

fn blob(seed: &str) -> Blob {
    Blob {
        sha256: Digest::of(seed.as_bytes()),
        size: seed.len() as u64,
    }
}

fn full() -> VersionManifest {
    VersionManifest {
        schema: SCHEMA,
        name: "minilm".into(),
        version: "1.2.0".into(),
        description: "Sentence embeddings.\nGrüße.".into(),
        license: Some("Apache-2.0".into()),
        task: Some("text-embedding".into()),
        deterministic: None,
        component: blob("component"),
        weights: BTreeMap::from([("model".into(), blob("weights"))]),
        assets: BTreeMap::from([
            ("tokenizer.json".into(), blob("tokenizer")),
            ("vocab".into(), blob("vocab")),
        ]),
        limits: Limits {
            timeout_ms: Some(1000),
            memory_bytes: Some(1 << 20),
            ..Limits::default()
        },
        cases: vec![blob("case one"), blob("case two")],
        readme: Some(blob("# Readme")),
    }
}

/// Writes a value as JSON with the keys in another order and other spacing.
fn scrambled(value: &Value, seed: u64, out: &mut String) {
    let space = ["", " ", "\n\t", "  \r\n"][(seed % 4) as usize];
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            let turn = (seed as usize) % entries.len().max(1);
            entries.rotate_left(turn);
            if seed.is_multiple_of(3) {
                entries.reverse();
            }
            out.push('{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                let comma = if i > 0 { "," } else { "" };
                out.push_str(&format!("{comma}{space}{}{space}:{space}", Value::from(key.as_str())));
                scrambled(value, seed.rotate_left(7) ^ i as u64, out);
            }
            out.push_str(&format!("{space}}}"));
        }
        Value::Array(items) => {
            out.push('[');
            for (i, value) in items.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { space });
                scrambled(value, seed.rotate_left(5), out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

proptest! {
    #[test]
    fn order_and_spacing_do_not_change_the_id(seed in any::<u64>()) {
        let manifest = full();
        let mut text = String::new();
        scrambled(&serde_json::to_value(&manifest).unwrap(), seed, &mut text);
        let read = VersionManifest::from_json(&text).unwrap();
        prop_assert_eq!(read.id(), manifest.id());
        prop_assert_eq!(read, manifest);
    }

    #[test]
    fn no_text_makes_reading_panic(text in "\\PC{0,200}") {
        let _ = VersionManifest::from_json(&text);
    }
}

#[test]
fn every_field_changes_the_id() {
    let id = full().id();
    let changes: Vec<fn(&mut VersionManifest)> = vec![
        |m| m.name.push('x'),
        |m| m.version = "1.2.1".into(),
        |m| m.description.push('!'),
        |m| m.license = None,
        |m| m.task = None,
        |m| m.component.sha256 = Digest::of(b"other"),
        |m| m.component.size += 1,
        |m| _ = m.weights.remove("model"),
        |m| _ = m.weights.insert("model".into(), blob("other weights")),
        |m| _ = m.weights.insert("lora".into(), blob("weights")),
        |m| _ = m.assets.remove("vocab"),
        |m| m.limits.timeout_ms = Some(1001),
        |m| m.limits.memory_bytes = None,
        |m| m.limits.tensor_bytes = Some(1),
        |m| m.limits.output_bytes = Some(1),
        |m| m.limits.file_bytes = Some(1),
        |m| m.limits.log_bytes = Some(1),
        |m| m.cases.truncate(1),
        |m| m.cases.reverse(),
        |m| m.readme = None,
        |m| m.schema = 2,
    ];
    let mut ids = std::collections::HashSet::from([id]);
    for (i, change) in changes.iter().enumerate() {
        let mut manifest = full();
        change(&mut manifest);
        assert!(ids.insert(manifest.id()), "change {i} did not give a new id");
    }
}

#[test]
fn the_canonical_form_is_the_published_one() {
    let manifest = VersionManifest {
        description: String::new(),
        license: None,
        task: None,
        deterministic: None,
        weights: BTreeMap::new(),
        assets: BTreeMap::new(),
        limits: Limits::default(),
        cases: Vec::new(),
        readme: None,
        ..full()
    };
    let component = Digest::of(b"component");
    let text = format!(
        r#"{{"component":{{"sha256":"{component}","size":9}},"limits":{{}},"name":"minilm","schema":1,"version":"1.2.0"}}"#
    );
    assert_eq!(manifest.canonical_json(), text);
    assert_eq!(manifest.id(), Digest::of(text.as_bytes()));
    assert_eq!(VersionManifest::from_json(&text).unwrap(), manifest);
}

#[test]
fn what_is_not_a_version_manifest_is_refused_by_name() {
    type Change = fn(&mut Value);
    let table: &[(&str, Change, &str)] = &[
        (
            "unknown field",
            |v| v["colour"] = json!("red"),
            "unknown field `colour`, expected one of `schema`, `name`, `version`, `description`, `license`, `task`, `deterministic`, \
             `component`, `weights`, `assets`, `limits`, `cases`, `readme`",
        ),
        (
            "unknown field in a blob",
            |v| v["component"]["url"] = json!("x"),
            "unknown field `url`, expected `sha256` or `size`",
        ),
        (
            "unknown limit",
            |v| v["limits"]["cpus"] = json!(1),
            "unknown field `cpus`, expected one of `timeout_ms`, `memory_bytes`, `tensor_bytes`, `output_bytes`, `file_bytes`, `log_bytes`",
        ),
        (
            "later schema",
            |v| v["schema"] = json!(2),
            "schema: this build reads schema 1, not 2; use the release of Maquette that wrote it",
        ),
        (
            "bad name",
            |v| v["name"] = json!("Mini LM"),
            "name: `Mini LM` is not a name; a name has 1 to 64 characters of a-z, 0-9, `-`, `_` and `.`, and starts and ends with a \
             letter or digit",
        ),
        (
            "path as name",
            |v| v["name"] = json!("../up"),
            "name: `../up` is not a name; a name has 1 to 64 characters of a-z, 0-9, `-`, `_` and `.`, and starts and ends with a letter \
             or digit",
        ),
        (
            "bad version",
            |v| v["version"] = json!("1.2"),
            "version: `1.2` is not a semantic version (unexpected end of input while parsing minor version number); write three numbers, \
             such as `1.0.0`",
        ),
        (
            "no component",
            |v| drop(v.as_object_mut().unwrap().remove("component")),
            "missing field `component`",
        ),
        (
            "empty component",
            |v| v["component"]["size"] = json!(0),
            "component.size: a size of 0 bytes is not between 1 and 67108864",
        ),
        (
            "huge component",
            |v| v["component"]["size"] = json!(1u64 << 40),
            "component.size: a size of 1099511627776 bytes is not between 1 and 67108864",
        ),
        (
            "negative size",
            |v| v["component"]["size"] = json!(-1),
            "invalid value: integer `-1`, expected u64",
        ),
        (
            "fractional size",
            |v| v["component"]["size"] = json!(1.5),
            "invalid type: floating point `1.5`, expected u64",
        ),
        (
            "upper-case digest",
            |v| v["component"]["sha256"] = json!("A".repeat(64)),
            "`AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA` is not a sha256: write 64 lower-case hexadecimal digits",
        ),
        (
            "zero limit",
            |v| v["limits"]["timeout_ms"] = json!(0),
            "limits.timeout_ms: 0 is not above 0 and below 2^53",
        ),
        (
            "inexact limit",
            |v| v["limits"]["memory_bytes"] = json!(1u64 << 53),
            "limits.memory_bytes: 9007199254740992 is not above 0 and below 2^53",
        ),
        (
            "bad asset name",
            |v| v["assets"]["a/b"] = v["component"].clone(),
            "weights, assets: `a/b` is not a name; a name has 1 to 64 characters of a-z, 0-9, `-`, `_` and `.`, and starts and ends with \
             a letter or digit",
        ),
        (
            "huge case",
            |v| v["cases"][0]["size"] = json!(MAX_TEXT + 1),
            "cases[0].size: a size of 16777217 bytes is not between 1 and 16777216",
        ),
        (
            "two sizes",
            |v| v["cases"][0]["sha256"] = v["component"]["sha256"].clone(),
            "cases[0].size: the blob 6985ca1f4daa5a584a28eae043a239cb96689af1337ea13afb63e00c2bf512fa is listed with two sizes; the \
             same bytes have the same length",
        ),
        (
            "long text",
            |v| v["description"] = json!("x".repeat(5000)),
            "description: more than 4096 characters; put the rest into the README",
        ),
        (
            "control",
            |v| v["license"] = json!("\u{1b}[31m"),
            "license: it has control characters; write plain text",
        ),
        (
            "too many assets",
            |v| {
                v["assets"] = (0..300)
                    .map(|i| (format!("a{i}"), v["component"].clone()))
                    .collect::<serde_json::Map<_, _>>()
                    .into()
            },
            "assets: 300 entries, at most 256 are allowed",
        ),
    ];
    for (name, change, expected) in table {
        let mut value = serde_json::to_value(full()).unwrap();
        change(&mut value);
        let error = VersionManifest::from_json(&value.to_string()).unwrap_err().to_string();
        // What serde finds has a place before it and what to send instead behind it.
        let found = match error.strip_prefix("manifest line 1 column ") {
            Some(rest) => {
                let (_, found) = rest.split_once(": ").unwrap();
                found
                    .strip_suffix("; send a version's manifest as `maquette publish` writes it")
                    .unwrap()
            }
            None => &error,
        };
        assert_eq!(found, *expected, "{name}");
    }
}

#[test]
fn a_key_that_comes_twice_is_refused() {
    let json = full().canonical_json();
    let twice = json.replacen(
        "\"assets\":{",
        &format!("\"assets\":{{\"vocab\":{},", json!(blob("x"))),
        1,
    );
    let error = VersionManifest::from_json(&twice).unwrap_err().to_string();
    assert!(error.contains("`vocab` comes twice"), "{error}");
    let twice = json.replacen("{", "{\"schema\":1,", 1);
    let error = VersionManifest::from_json(&twice).unwrap_err().to_string();
    assert!(error.contains("duplicate field `schema`"), "{error}");
}

#[test]
fn a_document_over_a_mebibyte_is_refused() {
    let error = VersionManifest::from_json(&" ".repeat(MAX_JSON + 1))
        .unwrap_err()
        .to_string();
    assert!(error.contains("at most 1048576 are read"), "{error}");
}

#[test]
fn each_blob_is_listed_once() {
    let mut manifest = full();
    manifest.assets.insert("copy".into(), blob("weights"));
    let digests: Vec<_> = manifest.digests().collect();
    assert_eq!(digests.len(), 7);
    assert_eq!(digests[0], manifest.component.sha256);
    let bytes: u64 = [
        "component",
        "weights",
        "tokenizer",
        "vocab",
        "case one",
        "case two",
        "# Readme",
    ]
    .iter()
    .map(|s| s.len() as u64)
    .sum();
    assert_eq!(manifest.total_bytes(), bytes);
}

#[test]
fn shards_are_blobs_of_their_own_and_change_no_other_id() {
    let whole = full();
    let mut sharded = whole.clone();
    sharded.weights.insert("model#00002".into(), blob("more weights"));
    let read = VersionManifest::from_json(&sharded.canonical_json()).unwrap();
    assert_eq!(read, sharded);
    assert_ne!(sharded.id(), whole.id());
    assert!(sharded.digests().any(|digest| digest == Digest::of(b"more weights")));
    // The document of a version of whole files has nothing about shards in it.
    assert!(!whole.canonical_json().contains("shard") && !whole.canonical_json().contains('#'));
    let many = shards::MAX_SHARDS;
    for names in [
        vec!["model#00003".to_owned()],
        vec!["other#00002".to_owned()],
        vec!["model#2".to_owned()],
        vec!["model#00001".to_owned()],
        vec!["#00002".to_owned()],
        (2..=many)
            .map(|n| shards::name("model", n))
            .chain(["other".to_owned()])
            .collect(),
    ] {
        let mut wrong = whole.clone();
        wrong.weights.extend(names.iter().map(|name| (name.clone(), blob("x"))));
        assert!(wrong.check().is_err(), "{names:?}");
    }
    let mut asset = whole;
    asset.assets.insert("vocab#00002".into(), blob("x"));
    assert!(asset.check().is_err(), "assets have no shards");
}
