//! Loading weights: it can be left in the middle and goes on where it was, and what is converted part by part is what it is as a whole.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{read, runtime};
use half::{bf16, f16};
use maquette_tensor::ops::program::{Description, Input, Node, WeightRef};
use maquette_tensor::ops::{Code, DType, Dim};
use maquette_tensor::{Budget, Control, Device, Scope, alone_while, gate};
use safetensors::tensor::{Dtype, TensorView};

/// A file of tensors: name, type, shape, bytes.
fn write(path: &Path, tensors: &[(String, Dtype, Vec<usize>, Vec<u8>)]) {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// How many weights the program has, and the size of each: `[OUT, IN]`.
const WEIGHTS: u32 = 24;
const OUT: u32 = 64;
const IN: u32 = 2048;

/// A product of `x` `[n, IN]` with each weight.
fn products() -> Description {
    let numbered = |i| WeightRef {
        file: "model".into(),
        name: format!("w{i:02}"),
        dtype: DType::F32,
        shape: vec![OUT, IN],
    };
    let product = |i| Node {
        op: "linear/1".into(),
        inputs: vec![0, 1 + i],
        attrs: vec![],
        location: String::new(),
    };
    Description {
        symbols: vec!["n".into()],
        inputs: vec![Input {
            name: "x".into(),
            dtype: DType::F32,
            shape: vec![Dim::symbol(0), Dim::from(IN)],
        }],
        weights: (0..WEIGHTS).map(numbered).collect(),
        nodes: (0..WEIGHTS).map(product).collect(),
        outputs: (0..WEIGHTS).map(|i| 1 + WEIGHTS + i).collect(),
        ..Description::default()
    }
}

#[test]
fn loading_is_left_when_the_call_has_to_stop_and_the_next_call_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let size = (OUT * IN) as usize;
    let tensor = |i: u32| {
        let dtype = if i.is_multiple_of(2) { Dtype::F32 } else { Dtype::BF16 };
        let bytes = vec![0; size * dtype.bitsize() / 8];
        (format!("w{i:02}"), dtype, vec![OUT as usize, IN as usize], bytes)
    };
    write(&path, &(0..WEIGHTS).map(tensor).collect::<Vec<_>>());
    let runtime = runtime(Device::Cpu);
    let files = BTreeMap::from([("model".to_owned(), runtime.weights().open("digest", &path).unwrap())]);
    let cancelled = Arc::new(AtomicBool::new(false));
    let control = Control {
        cancelled: Arc::clone(&cancelled),
        ..Control::default()
    };
    let scope = Scope::new(Arc::clone(&runtime), Budget::new(1 << 30), control);
    // As a call that makes way for others: it works alone, and passes its gate.
    alone_while(Arc::new(AtomicBool::new(true)));
    // Its gate is passed between weights, and cancels it in the middle of them.
    let passed = Rc::new(Cell::new(0));
    let (at_gate, cancels) = (Rc::clone(&passed), Arc::clone(&cancelled));
    gate::wait_at(Box::new(move |_| {
        at_gate.set(at_gate.get() + 1);
        if at_gate.get() == WEIGHTS / 2 {
            cancels.store(true, Ordering::Relaxed);
        }
        Duration::ZERO
    }));
    let error = scope.compile(&products(), &files).unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (Code::Cancelled, "the call was cancelled")
    );
    let all = u64::from(WEIGHTS) * u64::from(OUT) * u64::from(IN) * 4;
    let loaded = runtime.weights().resident_bytes();
    assert!(loaded > 0 && loaded < all, "{loaded} of {all} bytes");
    cancelled.store(false, Ordering::Relaxed);
    let before = passed.get();
    scope.compile(&products(), &files).unwrap();
    assert_eq!(runtime.weights().resident_bytes(), all);
    assert!(passed.get() >= before + WEIGHTS, "{} passes", passed.get());
}

/// More elements than are converted at once, and not a whole number of times as many.
const MANY: usize = 3 * (64 << 10) + 77;

#[test]
fn a_weight_that_is_converted_in_parts_is_what_it_is_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    // Numbers that every type has.
    let value = |i: usize| (i * 31 + i / 77) % 120;
    let bytes = |each: &dyn Fn(usize) -> Vec<u8>| (0..MANY).flat_map(|i| each(value(i))).collect::<Vec<u8>>();
    let stored: Vec<(Dtype, Vec<u8>)> = vec![
        (Dtype::F64, bytes(&|x| (x as f64).to_le_bytes().to_vec())),
        (Dtype::F32, bytes(&|x| (x as f32).to_le_bytes().to_vec())),
        (Dtype::F16, bytes(&|x| f16::from_f64(x as f64).to_le_bytes().to_vec())),
        (Dtype::BF16, bytes(&|x| bf16::from_f64(x as f64).to_le_bytes().to_vec())),
        (Dtype::U8, bytes(&|x| vec![x as u8])),
        (Dtype::I8, bytes(&|x| vec![x as u8])),
        (Dtype::I16, bytes(&|x| (x as i16).to_le_bytes().to_vec())),
        (Dtype::U16, bytes(&|x| (x as u16).to_le_bytes().to_vec())),
        (Dtype::I32, bytes(&|x| (x as i32).to_le_bytes().to_vec())),
        (Dtype::U32, bytes(&|x| (x as u32).to_le_bytes().to_vec())),
        (Dtype::I64, bytes(&|x| (x as i64).to_le_bytes().to_vec())),
    ];
    let tensors: Vec<_> = stored
        .into_iter()
        .map(|(dtype, bytes)| (format!("{dtype:?}"), dtype, vec![MANY], bytes))
        .collect();
    write(&path, &tensors);
    let runtime = runtime(Device::Cpu);
    let file = runtime.weights().open("digest", &path).unwrap();
    let scope = Scope::new(Arc::clone(&runtime), Budget::new(1 << 30), Control::default());
    let expected: Vec<f64> = (0..MANY).map(|i| value(i) as f64).collect();
    let dtypes = [DType::F32, DType::F16, DType::BF16, DType::U8, DType::U32, DType::I64];
    for (name, ..) in &tensors {
        for dtype in dtypes {
            let weight = scope.weight(&file, name, Some(dtype)).unwrap();
            assert_eq!((weight.dtype(), weight.shape()), (dtype, &[MANY as u32][..]));
            let read = read(&scope, &weight).data;
            assert!(read == expected, "{name} as {dtype}");
        }
        // As the nearest type that tensors have.
        assert!(
            read(&scope, &scope.weight(&file, name, None).unwrap()).data == expected,
            "{name}"
        );
    }
}
