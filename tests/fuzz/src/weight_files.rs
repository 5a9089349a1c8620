//! Weight files: any bytes, opened as the runtime opens them, and whatever they are said to hold read in every way that there is.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use maquette_tensor::ops::program::{Description, Input, Node, WeightRef};
use maquette_tensor::ops::{Code, DType, Dim};
use maquette_tensor::{Budget, Control, Runtime, RuntimeConfig, Scope, WeightFile};

use crate::tensors::answered;

/// What weights of one input may take in memory, in bytes.
const WEIGHTS: u64 = 8 << 20;

/// Tensors of a file that are read.
const MAX_READ: usize = 32;

pub(crate) fn safetensors(data: &[u8]) {
    file(data);
}

pub(crate) fn gguf(data: &[u8]) {
    // What begins otherwise is the other reader's.
    if data.starts_with(b"GGUF") {
        file(data);
    } else {
        file(&[b"GGUF", data].concat());
    }
}

fn file(data: &[u8]) {
    let mut stored = tempfile::NamedTempFile::new().unwrap();
    stored.write_all(data).unwrap();
    let config = RuntimeConfig {
        weight_budget: WEIGHTS,
        program_capacity: 4,
        ..RuntimeConfig::default()
    };
    let runtime = Runtime::cpu(config).unwrap();
    let Some(file) = answered(runtime.weights().open("file", stored.path())) else {
        return;
    };
    let twice = [("file", stored.path()), ("again", stored.path())];
    let joined = runtime.weights().open_shards(&twice);
    assert_eq!(joined.is_err(), !file.tensors().is_empty(), "two tensors of one name");
    let scope = Scope::new(Arc::clone(&runtime), Budget::new(1 << 20), Control::default());
    for info in file.tensors().iter().take(MAX_READ) {
        for dtype in [None].into_iter().chain(DType::ALL.map(Some)) {
            let Some(tensor) = answered(scope.weight(&file, &info.name, dtype)) else {
                continue;
            };
            assert_eq!(tensor.shape(), &info.shape[..]);
            if let Some(bytes) = answered(scope.read(&tensor)) {
                assert_eq!(bytes.len() as u64, tensor.bytes());
            }
        }
        multiply(&scope, &file, &info.name, &info.shape);
        assert!(runtime.weights().resident_bytes() <= WEIGHTS);
    }
    assert!(
        file.metadata("general.alignment")
            .is_none_or(|text| text.len() <= data.len() * 8)
    );
}

/// A matrix is also multiplied by, and rows are looked up in it: those have readers of their own.
fn multiply(scope: &Scope, file: &Arc<WeightFile>, name: &str, shape: &[u32]) {
    let [rows, width] = *shape else { return };
    if rows.max(width) > 1 << 12 {
        return;
    }
    for (op, dtype, input, inputs) in [
        (
            "linear/1",
            DType::F32,
            vec![Dim::symbol(0), Dim::from(width)],
            vec![0, 1],
        ),
        ("embedding/1", DType::U32, vec![Dim::symbol(0)], vec![1, 0]),
    ] {
        let description = Description {
            symbols: vec!["n".to_owned()],
            inputs: vec![Input {
                name: "x".to_owned(),
                dtype,
                shape: input.clone(),
            }],
            weights: vec![WeightRef {
                file: "model".to_owned(),
                name: name.to_owned(),
                dtype: DType::F32,
                shape: shape.to_vec(),
            }],
            nodes: vec![Node {
                op: op.to_owned(),
                inputs,
                attrs: Vec::new(),
                location: String::new(),
            }],
            outputs: vec![2],
            ..Description::default()
        };
        let files = BTreeMap::from([("model".to_owned(), Arc::clone(file))]);
        let Some(program) = answered(scope.compile(&description, &files)) else {
            continue;
        };
        for n in [0, 1, 5] {
            let shape: Vec<u32> = input.iter().map(|dim| dim.eval(&[n]).unwrap()).collect();
            let count: usize = shape.iter().map(|dim| *dim as usize).product();
            let bytes = vec![0; count * dtype.size()];
            let x = match scope.from_bytes(dtype, &shape, &bytes) {
                Ok(x) => x,
                Err(error) => {
                    assert_eq!(error.code, Code::Quota);
                    continue;
                }
            };
            if let Some(outputs) = answered(program.run(scope, &[&x])) {
                outputs.iter().for_each(|output| drop(answered(scope.read(output))));
            }
        }
    }
}
