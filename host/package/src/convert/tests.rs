//! A synthetic `model.bin`, what it becomes, and everything that may be wrong with one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn string(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u16 + 1).to_le_bytes().to_vec();
    out.extend(text.as_bytes());
    out.push(0);
    out
}

fn variable(name: &str, dims: &[u32], dtype: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = string(name);
    out.push(dims.len() as u8);
    out.extend(dims.iter().flat_map(|d| d.to_le_bytes()));
    out.push(dtype);
    out.extend((bytes.len() as u32).to_le_bytes());
    out.extend(bytes);
    out
}

fn model(version: u32, variables: &[Vec<u8>], aliases: &[(&str, &str)]) -> Vec<u8> {
    let mut out = version.to_le_bytes().to_vec();
    out.extend(string("WhisperSpec"));
    out.extend(3u32.to_le_bytes());
    out.extend((variables.len() as u32).to_le_bytes());
    out.extend(variables.concat());
    out.extend((aliases.len() as u32).to_le_bytes());
    for (alias, name) in aliases {
        out.extend(string(alias));
        out.extend(string(name));
    }
    out
}

/// Every type that is kept, one element of odd length, one of no elements.
fn good() -> Vec<u8> {
    let variables = [
        variable("pre_norm", &[], 1, &[1]),
        variable("w/half", &[1, 3], 4, &[1, 2, 3, 4, 5, 6]),
        variable("heads", &[], 2, &[6, 0]),
        variable("a \"b\"", &[2], 0, &[10, 11, 12, 13, 14, 15, 16, 17]),
        variable("bf", &[1], 5, &[21, 22]),
        variable("none", &[0, 4], 0, &[]),
        variable("ints", &[1], 3, &[31, 32, 33, 34]),
    ];
    model(6, &variables, &[("tied", "w/half")])
}

fn convert(bytes: &[u8]) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.bin");
    fs::write(&path, bytes).unwrap();
    let mut out = Vec::new();
    let mut moved = 0;
    Convert::Ctranslate2.run(&path, "model.bin", &path, &mut out, &mut |n| moved += n)?;
    Ok(out)
}

fn message(bytes: &[u8]) -> String {
    convert(bytes).unwrap_err().to_string()
}

#[test]
fn tensors_keep_their_names_shapes_types_and_bytes() {
    let out = convert(&good()).unwrap();
    let len = u64::from_le_bytes(out[..8].try_into().unwrap()) as usize;
    assert_eq!(len % 8, 0);
    let text = std::str::from_utf8(&out[8..8 + len]).unwrap();
    let header: Value = serde_json::from_str(text).unwrap();
    let data = &out[8 + len..];
    let metadata = json!({"alias.tied": "w/half", "ctranslate2.spec": "WhisperSpec", "ctranslate2.revision": "3"});
    assert_eq!(header["__metadata__"], metadata);
    let expected: [(&str, &str, Value, &[u8]); 7] = [
        ("a \"b\"", "F32", json!([2]), &[10, 11, 12, 13, 14, 15, 16, 17]),
        ("bf", "BF16", json!([1]), &[21, 22]),
        ("heads", "I16", json!([]), &[6, 0]),
        ("ints", "I32", json!([1]), &[31, 32, 33, 34]),
        ("none", "F32", json!([0, 4]), &[]),
        ("pre_norm", "I8", json!([]), &[1]),
        ("w/half", "F16", json!([1, 3]), &[1, 2, 3, 4, 5, 6]),
    ];
    let mut last = 0;
    for (name, dtype, shape, bytes) in expected {
        let tensor = &header[name];
        assert_eq!((&tensor["dtype"], &tensor["shape"]), (&json!(dtype), &shape), "{name}");
        let at = |i: usize| tensor["data_offsets"][i].as_u64().unwrap() as usize;
        assert_eq!(&data[at(0)..at(1)], bytes, "{name}");
        // In the order of the names, each at a place that suits its elements.
        let key = text.find(&format!("{}:", json!(name))).unwrap();
        assert!(key > last, "{name}");
        last = key;
        let width = bytes.len()
            / shape
                .as_array()
                .unwrap()
                .iter()
                .map(|d| d.as_u64().unwrap() as usize)
                .product::<usize>()
                .max(1);
        assert_eq!(at(0) % width.max(1), 0, "{name}");
    }
    assert_eq!(header.as_object().unwrap().len(), 8);
    assert_eq!(data.len(), 23);
    assert_eq!(convert(&good()).unwrap(), out);
    // The header is valid without any tensor.
    let empty = convert(&model(5, &[], &[])).unwrap();
    assert!(serde_json::from_slice::<Value>(&empty[8..]).unwrap()["__metadata__"].is_object());
}

#[test]
fn what_cannot_be_converted_is_named() {
    let one = |dims: &[u32], dtype, bytes: &[u8]| model(6, &[variable("a/b", dims, dtype, bytes)], &[]);
    let lying = |at: usize, value: u32| {
        let mut bytes = one(&[2], 0, &[0; 8]);
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let twice = variable("a/b", &[], 3, &[0; 4]);
    let count = 4 + 2 + 12 + 4;
    let cases = [
        (Vec::new(), "it ends or cannot be read at byte 0"),
        (
            b"PK\x03\x04 a zip file".to_vec(),
            "not with a CTranslate2 version that is read here, 5 or 6",
        ),
        (model(4, &[], &[]), "it begins with 4"),
        (one(&[4], 1, &[0; 4]), "`a/b` is quantized (i8)"),
        (one(&[1, 2], 2, &[0; 4]), "`a/b` is quantized (i16)"),
        (one(&[1], 9, &[0; 4]), "`a/b` has the type 9"),
        (
            one(&[3], 0, &[0; 8]),
            "`a/b` has the shape [3] and 8 bytes, which do not fit",
        ),
        (one(&[u32::MAX; 8], 0, &[0; 8]), "do not fit"),
        (one(&[1; 9], 0, &[0; 4]), "9 dimensions, more than 8"),
        (lying(count, u32::MAX), "4294967295 variables, more than 100000"),
        (lying(count, 2), "a variable's name at byte 50 is not text"),
        (lying(count + 4 + 2 + 4 + 1 + 4 + 1, 1 << 30), "do not fit"),
        (good()[..60].to_vec(), "ends or cannot be read"),
        (
            one(&[2], 0, &[0; 8])[..count + 4 + 2 + 4 + 1 + 4 + 1 + 4 + 3].to_vec(),
            "the file only 3 more: it is cut off",
        ),
        (model(6, &[twice.clone(), twice.clone()], &[]), "two variables `a/b`"),
        (
            model(6, std::slice::from_ref(&twice), &[("a/b", "a/b")]),
            "two variables `a/b`",
        ),
        (
            model(6, std::slice::from_ref(&twice), &[("c", "a/b"), ("c", "a/b")]),
            "two variables `c`",
        ),
        (
            model(6, &[twice], &[("c", "d")]),
            "the alias `c` stands for `d`, which is not there",
        ),
        (
            model(6, &[variable("__metadata__", &[], 3, &[0; 4])], &[]),
            "called `__metadata__`",
        ),
        (model(6, &[variable("", &[], 3, &[0; 4])], &[]), "is not text"),
        ([good(), vec![0]].concat(), "1 bytes follow"),
    ];
    for (bytes, what) in cases {
        let message = message(&bytes);
        assert!(message.starts_with("model.bin: it cannot be converted: "), "{message}");
        assert!(message.contains(what), "{what}: {message}");
    }
}

proptest! {
    /// Whatever comes: a file that reads back, or an error; no more bytes than came in, and the header.
    #[test]
    fn hostile_files_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
    ) {
        let mut bytes = good();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(out) = convert(&bytes) {
            let len = u64::from_le_bytes(out[..8].try_into().unwrap()) as usize;
            let header: Value = serde_json::from_slice(&out[8..8 + len]).unwrap();
            let ends = header.as_object().unwrap().values().filter_map(|t| t["data_offsets"][1].as_u64());
            prop_assert_eq!(ends.max(), Some((out.len() - 8 - len) as u64));
        }
    }
}

#[test]
fn only_known_conversions_are_read() {
    assert_eq!("ctranslate2".parse(), Ok(Convert::Ctranslate2));
    assert_eq!(
        "gguf".parse::<Convert>().unwrap_err(),
        "`convert` is \"gguf\"; there is \"ctranslate2\""
    );
}
