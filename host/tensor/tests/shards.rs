//! Weights in several files are one: every tensor is found in whichever shard it is in, is in memory once, and what two shards have is
//! refused by name. Loading is told apart from computing.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{read, scope};
use maquette_tensor::ops::program::{Description, Input, Node, WeightRef};
use maquette_tensor::ops::{Code, DType, Dim};
use proptest::prelude::*;

/// A safetensors file of matrices `[rows, 2]`, whose elements count up from `first`, with one entry of metadata.
fn safetensors(tensors: &[(&str, u32, f32)], note: (&str, &str)) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), serde_json::json!({ note.0: note.1 }));
    let mut data: Vec<u8> = Vec::new();
    for (name, rows, first) in tensors {
        let start = data.len();
        let values = (0..rows * 2).map(|i| first + i as f32);
        data.extend(values.flat_map(f32::to_le_bytes));
        let info = serde_json::json!({"dtype": "F32", "shape": [rows, 2], "data_offsets": [start, data.len()]});
        header.insert((*name).to_owned(), info);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn every_tensor_is_found_whichever_shard_it_is_in_and_is_in_memory_once() {
    let folder = tempfile::tempdir().unwrap();
    let a = write(
        folder.path(),
        "a",
        &safetensors(&[("table", 4, 0.0), ("x", 1, 1.0)], ("format", "pt")),
    );
    let b = write(
        folder.path(),
        "b",
        &safetensors(&[("matrix", 3, 10.0)], ("format", "np")),
    );
    let c = write(folder.path(), "c", &safetensors(&[], ("last", "yes")));
    let (scope, _) = scope(1 << 20);
    let store = scope.runtime().weights();
    let joined = store.open_shards(&[("a", &a), ("b", &b), ("c", &c)]).unwrap();
    let names: Vec<_> = joined.tensors().iter().map(|info| info.name.as_str()).collect();
    assert_eq!(names, ["table", "x", "matrix"]);
    assert_eq!(*joined.info("matrix").unwrap().shape, [3, 2]);
    assert_eq!(
        (joined.metadata("format"), joined.metadata("last")),
        (Some("pt"), Some("yes"))
    );
    let error = joined.info("matrx").unwrap_err();
    assert!(error.message.contains("`matrix`"), "{}", error.message);

    // The same tensor through its own file is the same memory.
    let through = store.get(&joined, "matrix", None).unwrap();
    assert_eq!(read(&scope, &through).data, [10.0, 11.0, 12.0, 13.0, 14.0, 15.0]);
    let resident = store.resident_bytes();
    let alone = store.open("b", &b).unwrap();
    let _also = store.get(&alone, "matrix", None).unwrap();
    assert_eq!(store.resident_bytes(), resident);
    assert_eq!(resident, 24);

    // A program binds across them: a table from one, a matrix from another.
    let weight = |name: &str, rows: u32| WeightRef {
        file: "model".to_owned(),
        name: name.to_owned(),
        dtype: DType::F32,
        shape: vec![rows, 2],
    };
    let node = |op: &str, inputs: &[u32]| Node {
        op: op.to_owned(),
        inputs: inputs.to_vec(),
        attrs: Vec::new(),
        location: String::new(),
    };
    let description = Description {
        symbols: vec!["n".to_owned()],
        inputs: vec![Input {
            name: "ids".to_owned(),
            dtype: DType::U32,
            shape: vec![Dim::symbol(0)],
        }],
        weights: vec![weight("table", 4), weight("matrix", 3)],
        nodes: vec![node("embedding/1", &[1, 0]), node("linear/1", &[3, 2])],
        outputs: vec![4],
        ..Description::default()
    };
    let files = BTreeMap::from([("model".to_owned(), joined)]);
    let program = scope.compile(&description, &files).unwrap();
    let loaded = scope.stats();
    assert!(
        loaded.load > Duration::ZERO && loaded.compute == Duration::ZERO,
        "{loaded:?}"
    );
    let ids = scope.from_bytes(DType::U32, &[1], &3_u32.to_le_bytes()).unwrap();
    let outputs = program.run(&scope, &[&ids]).unwrap();
    assert_eq!(read(&scope, &outputs[0]).data, [137.0, 163.0, 189.0]);
    let ran = scope.stats();
    assert!(
        ran.load == loaded.load && ran.compute > Duration::ZERO,
        "running is not loading: {ran:?}"
    );
}

#[test]
fn what_two_shards_have_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let a = write(
        folder.path(),
        "a",
        &safetensors(&[("x", 1, 0.0), ("y", 1, 0.0)], ("", "")),
    );
    let b = write(folder.path(), "b", &safetensors(&[("z", 1, 0.0)], ("", "")));
    let c = write(folder.path(), "c", &safetensors(&[("y", 1, 0.0)], ("", "")));
    let (scope, _) = scope(1 << 20);
    let store = scope.runtime().weights();
    let refused = |shards: &[(&str, &Path)]| store.open_shards(shards).unwrap_err();
    let error = refused(&[("a", &a), ("b", &b), ("c", &c)]);
    assert_eq!(error.code, Code::InvalidInput);
    assert!(
        error.message.contains("`y` is in shard 1 and in shard 3"),
        "{}",
        error.message
    );
    assert!(refused(&[("a", &a), ("a", &a)]).message.contains("shard 2"));
    let broken = write(folder.path(), "d", b"\xff\xff\xff\xff\xff\xff\xff\xff{}");
    let error = refused(&[("a", &a), ("d", &broken)]);
    assert!(
        error.message.starts_with("shard 2: not a usable safetensors file"),
        "{}",
        error.message
    );
    let gone = folder.path().join("none");
    assert!(refused(&[("a", &a), ("e", &gone)]).message.starts_with("shard 2: "));
    assert!(
        store.open_shards(&[]).unwrap().tensors().is_empty(),
        "no shards are no tensors"
    );
}

proptest! {
    #[test]
    fn a_shard_of_any_bytes_is_refused_or_harmless(mut bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0_usize..200, at in 0_usize..200) {
        let folder = tempfile::tempdir().unwrap();
        let whole = safetensors(&[("x", 1, 0.0)], ("", ""));
        let a = write(folder.path(), "a", &whole);
        // Random bytes, and a good file cut or with a byte changed.
        let mut other = whole[..cut.min(whole.len())].to_vec();
        if let Some(byte) = other.get_mut(at) {
            *byte ^= bytes.first().copied().unwrap_or(1);
        }
        let (scope, _) = scope(1 << 20);
        let store = scope.runtime().weights();
        for (name, bytes) in [("random", std::mem::take(&mut bytes)), ("changed", other)] {
            let b = write(folder.path(), name, &bytes);
            if let Ok(joined) = store.open_shards(&[("a", &a), (name, &b)]) {
                for info in joined.tensors() {
                    drop(store.get(&joined, &info.name, None));
                }
            }
        }
    }
}
