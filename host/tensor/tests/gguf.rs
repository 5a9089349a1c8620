//! GGUF files: every format widens to what candle makes of it, products with quantized weights are those of the widened ones, and a
//! file that lies is refused with what is wrong, whatever is in it.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor as CandleTensor};
use common::{Plain, read, scope, upload};
use maquette_tensor::ops::program::{Description, Input, Node, WeightRef};
use maquette_tensor::ops::{Code, DType, Dim};
use proptest::prelude::*;

/// Formats by ggml's numbers.
const FORMATS: [(GgmlDType, u32); 14] = [
    (GgmlDType::F32, 0),
    (GgmlDType::F16, 1),
    (GgmlDType::BF16, 30),
    (GgmlDType::Q4_0, 2),
    (GgmlDType::Q4_1, 3),
    (GgmlDType::Q5_0, 6),
    (GgmlDType::Q5_1, 7),
    (GgmlDType::Q8_0, 8),
    (GgmlDType::Q2K, 10),
    (GgmlDType::Q3K, 11),
    (GgmlDType::Q4K, 12),
    (GgmlDType::Q5K, 13),
    (GgmlDType::Q6K, 14),
    (GgmlDType::Q8K, 15),
];

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A file with some metadata and these tensors `(name, shape, type number, bytes)`.
fn file(tensors: &[(&str, Vec<u64>, u32, Vec<u8>)], alignment: Option<u32>) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((3 + u64::from(alignment.is_some())).to_le_bytes());
    text(&mut out, "general.architecture");
    out.extend(8_u32.to_le_bytes());
    text(&mut out, "llama");
    text(&mut out, "tokens");
    out.extend(9_u32.to_le_bytes());
    out.extend(8_u32.to_le_bytes());
    out.extend(2_u64.to_le_bytes());
    text(&mut out, "a");
    text(&mut out, "\"b");
    text(&mut out, "eps");
    out.extend(6_u32.to_le_bytes());
    out.extend(0.5_f32.to_le_bytes());
    if let Some(alignment) = alignment {
        text(&mut out, "general.alignment");
        out.extend(4_u32.to_le_bytes());
        out.extend(alignment.to_le_bytes());
    }
    let mut data = Vec::new();
    for (name, shape, kind, bytes) in tensors {
        text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|dim| out.extend(dim.to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend((data.len() as u64).to_le_bytes());
        data.extend(bytes);
        data.resize(data.len().next_multiple_of(32), 0);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn values(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 7919 % 1013) as f32 / 506.0 - 1.0) * 0.3)
        .collect()
}

#[test]
fn every_format_is_what_candle_makes_of_it_and_multiplies_so() {
    let folder = tempfile::tempdir().unwrap();
    let (n, k) = (40, 512);
    for (format, kind) in FORMATS {
        let wide = CandleTensor::from_vec(values(n * k), (n, k), &Device::Cpu).unwrap();
        let quantized = QTensor::quantize(&wide, format).unwrap();
        let bytes = quantized.data().unwrap().into_owned();
        let again = QStorage::from_data(bytes.clone().into(), &Device::Cpu, format).unwrap();
        let expected = QTensor::new(again, (n, k)).unwrap().dequantize(&Device::Cpu).unwrap();
        let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();

        let path = write(
            folder.path(),
            &format!("{kind}.gguf"),
            &file(&[("w", vec![n as u64, k as u64], kind, bytes)], None),
        );
        let (scope, _) = scope(1 << 26);
        let weights = scope.runtime().weights().open(&format!("{kind}"), &path).unwrap();
        assert_eq!(weights.metadata("general.architecture"), Some("llama"));
        assert_eq!(weights.metadata("tokens"), Some(r#"["a","\"b"]"#));
        assert_eq!(weights.metadata("eps"), Some("0.5"));
        let tensor = scope.runtime().weights().get(&weights, "w", Some(DType::F32)).unwrap();
        let found = read(&scope, &tensor);
        for (a, b) in found.data.iter().zip(&expected) {
            assert!(
                (a - f64::from(*b)).abs() <= 1e-6 * (1.0 + b.abs()) as f64,
                "{format:?}: {a}, candle {b}"
            );
        }

        // The same through a program, which keeps it in few bits: rows, and a product.
        let description = Description {
            symbols: vec!["m".into()],
            inputs: vec![
                Input {
                    name: "x".into(),
                    dtype: DType::F32,
                    shape: vec![Dim::symbol(0), Dim::from(k)],
                },
                Input {
                    name: "ids".into(),
                    dtype: DType::U32,
                    shape: vec![Dim::from(2_u32)],
                },
            ],
            weights: vec![WeightRef {
                file: "f".into(),
                name: "w".into(),
                dtype: DType::F32,
                shape: vec![n as u32, k as u32],
            }],
            nodes: [("linear/1", vec![0, 2]), ("embedding/1", vec![2, 1])]
                .map(|(op, inputs)| Node {
                    op: op.into(),
                    inputs,
                    attrs: vec![],
                    location: String::new(),
                })
                .into(),
            outputs: vec![3, 4],
            ..Description::default()
        };
        let program = scope
            .compile(&description, &BTreeMap::from([("f".to_owned(), weights)]))
            .unwrap();
        let x = Plain::from_fn(&[3, k], |p| ((p[0] * k + p[1]) as f64 * 0.37).sin());
        let ids = Plain {
            shape: vec![2],
            data: vec![39.0, 7.0],
        };
        let outputs = program
            .run(
                &scope,
                &[&upload(&scope, &x, DType::F32), &upload(&scope, &ids, DType::U32)],
            )
            .unwrap();
        let product = read(&scope, &outputs[0]);
        for i in 0..3 {
            for j in 0..n {
                let sum: f64 = (0..k)
                    .map(|p| f64::from(x.at(&[i, p]) as f32) * f64::from(expected[j * k + p]))
                    .sum();
                assert!(
                    (product.at(&[i, j]) - sum).abs() < 2e-3,
                    "{format:?}: {} {sum}",
                    product.at(&[i, j])
                );
            }
        }
        let rows = read(&scope, &outputs[1]);
        for p in 0..k {
            assert!((rows.at(&[0, p]) - f64::from(expected[39 * k + p])).abs() < 1e-6);
            assert!((rows.at(&[1, p]) - f64::from(expected[7 * k + p])).abs() < 1e-6);
        }
    }
}

fn small() -> Vec<u8> {
    file(
        &[
            ("a", vec![2, 32], 8, vec![1; 68]),
            ("b", vec![3], 0, vec![2; 12]),
            ("c", vec![], 27, vec![3; 8]),
        ],
        Some(32),
    )
}

fn opened(bytes: &[u8]) -> Result<usize, (Code, String)> {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "f.gguf", bytes);
    let (scope, _) = scope(1 << 20);
    let store = scope.runtime().weights();
    let file = store.open("f", &path).map_err(|e| (e.code, e.message))?;
    for info in file.tensors() {
        // Reading whatever it says is there must not fail either.
        let _ = store.get(&file, &info.name, Some(DType::F32));
    }
    Ok(file.tensors().len())
}

#[test]
fn files_that_lie_are_refused_with_what_is_wrong() {
    assert_eq!(opened(&small()), Ok(3));
    let refused = |bytes: &[u8], says: &str| {
        let (code, message) = opened(bytes).unwrap_err();
        assert_eq!(code, Code::InvalidInput, "{message}");
        assert!(message.contains(says), "{says}: {message}");
    };
    let tensor = |shape: Vec<u64>, kind: u32, bytes: usize| file(&[("w", shape, kind, vec![0; bytes])], None);
    refused(&file(&[], Some(0)), "alignment is 0");
    refused(&file(&[], Some(24)), "alignment is 24");
    refused(&tensor(vec![1 << 40, 1 << 40], 0, 8), "does not fit the file");
    refused(&tensor(vec![u64::MAX, 2], 0, 8), "does not fit the file");
    refused(&tensor(vec![64], 0, 8), "does not fit the file");
    refused(&tensor(vec![2, 33], 8, 68), "does not fit the file");
    refused(&tensor(vec![32], 99, 68), "type number is 99");
    refused(&tensor(vec![1; 9], 0, 4), "9 dimensions");
    refused(&tensor(vec![1 << 33, 0], 0, 0), "32 bits");
    refused(
        &file(&[("w", vec![1], 0, vec![0; 4]), ("w", vec![1], 0, vec![0; 4])], None),
        "twice",
    );
    let mut many = small();
    many[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&many, "at most 65536");
    let mut old = small();
    old[4] = 1;
    refused(&old, "version 1");
    // An offset past the end, and one that is no multiple of the alignment.
    let whole = tensor(vec![1], 0, 4);
    let at = whole.windows(8).rposition(|w| w == 0_u64.to_le_bytes()).unwrap();
    let at = (0..=at)
        .rev()
        .find(|at| whole[*at - 4..*at] == 0_u32.to_le_bytes() && whole[*at - 12..*at - 4] == 1_u64.to_le_bytes());
    let mut far = whole.clone();
    far[at.unwrap()..][..8].copy_from_slice(&(1_u64 << 60).to_le_bytes());
    refused(&far, "does not fit the file");
    far[at.unwrap()..][..8].copy_from_slice(&7_u64.to_le_bytes());
    refused(&far, "no multiple");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = small();
    for len in 4..whole.len() - 32 {
        assert!(opened(&whole[..len]).is_err(), "cut at {len}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_host_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let mut bytes = small();
        for (at, value) in changes {
            let at = 4 + at.index(bytes.len() - 4);
            bytes[at] = value;
        }
        let _ = opened(&bytes);
    }
}
