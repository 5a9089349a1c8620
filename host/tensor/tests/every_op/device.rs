//! The ops of devices: composed of candle's kernels, on the processor here, on a GPU where there is one.

use std::collections::BTreeMap;
use std::sync::Arc;

use maquette_tensor::ops::program::{Description, Input, Node};
use maquette_tensor::ops::{Attr, Code, DType, Dim, Op, OpId, OpSpec, table};
use maquette_tensor::{Device, Runtime, WeightFile};
use proptest::prelude::*;

use crate::common::{Random, device, runtime, scope_on, upload};
use crate::{check, example};

/// Every op that the table gives devices, once each, on examples that a seed decides: how far off it is in which dtype, or
/// why it fails.
fn each_op(runtime: &Arc<Runtime>, seed: u64) -> BTreeMap<&'static str, Result<(DType, f64), String>> {
    let (scope, budget) = scope_on(runtime, 1 << 30);
    let mut found = BTreeMap::new();
    let eager = |spec: &OpSpec| spec.has_cuda() && spec.op != Op::CachedAttention;
    for (i, spec) in table().iter().enumerate().filter(|(_, spec)| eager(spec)) {
        let mut random = Random(seed.wrapping_mul(i as u64 * 2 + 1) | 1);
        let example = example(&mut random, spec.op);
        let off = check(&scope, &mut random, OpId(i as u32), spec, &example);
        found.insert(
            spec.name,
            off.map(|off| (example.dtype, off)).map_err(|why| why.to_string()),
        );
    }
    // Jobs may still hold what they have read: a last read is behind them all.
    let one = upload(&scope, &crate::Plain::from_fn(&[1], |_| 1.0), DType::F32);
    scope.read(&one).unwrap();
    drop((one, scope));
    assert_eq!(budget.used(), 0, "everything was given back");
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_op_of_devices_agrees_with_a_float64_reference(seed in 1_u64..) {
        let runtime = runtime(Device::Composed);
        for round in 0..300 {
            let mut failed = each_op(&runtime, seed.wrapping_add(round * 7919));
            failed.retain(|_, off| off.is_err());
            prop_assert!(failed.is_empty(), "{failed:#?}");
        }
    }
}

#[test]
fn an_op_that_devices_do_not_have_is_refused_eagerly_and_in_programs_with_what_to_do() {
    let runtime = runtime(device());
    let (scope, _) = scope_on(&runtime, 1 << 20);
    let mut seen = 0;
    for (i, spec) in table().iter().enumerate().filter(|(_, spec)| !spec.has_cuda()) {
        seen += 1;
        let mut said = Vec::new();
        let mut random = Random(11);
        let example = example(&mut random, spec.op);
        let inputs: Vec<_> = example
            .inputs
            .iter()
            .map(|(plain, dtype)| upload(&scope, plain, *dtype))
            .collect();
        let error = scope
            .apply(OpId(i as u32), &inputs.iter().collect::<Vec<_>>(), &example.attrs)
            .unwrap_err();
        said.push(error);
        let inputs = example.inputs.iter().enumerate().map(|(at, (plain, dtype))| Input {
            name: format!("x{at}"),
            dtype: *dtype,
            shape: plain.shape.iter().map(|n| Dim::from(*n)).collect(),
        });
        let description = Description {
            symbols: vec![],
            inputs: inputs.collect(),
            weights: vec![],
            constants: vec![],
            caches: vec![],
            nodes: vec![Node {
                op: spec.name.to_owned(),
                inputs: (0..example.inputs.len() as u32).collect(),
                attrs: example.attrs.clone(),
                location: "model.rs:7".to_owned(),
            }],
            outputs: vec![example.inputs.len() as u32],
        };
        let error = scope
            .compile(&description, &BTreeMap::<String, Arc<WeightFile>>::new())
            .unwrap_err();
        assert!(error.message.contains("model.rs:7"), "{error}");
        said.push(error);
        for error in said {
            assert_eq!(error.code, Code::Unsupported, "{error}");
            assert!(
                error.message.contains(spec.name) && error.message.contains("--device cpu"),
                "{error}"
            );
        }
    }
    assert!(seen > 0);
}

#[test]
fn an_id_out_of_range_is_refused_by_the_first_read_and_does_no_harm() {
    let runtime = runtime(device());
    let (scope, _) = scope_on(&runtime, 1 << 20);
    let apply =
        |op: &str, inputs: &[&maquette_tensor::Tensor], attrs: &[Attr]| crate::common::apply(&scope, op, inputs, attrs);
    let table = upload(
        &scope,
        &crate::Plain::from_fn(&[4, 3], |p| (p[0] * 3 + p[1]) as f64),
        DType::F32,
    );
    for dtype in [DType::U8, DType::U32, DType::I64] {
        let ids = upload(&scope, &crate::Plain::from_fn(&[2], |p| [1.0, 4.0][p[0]]), dtype);
        // Known from the upload, and found on the device once arithmetic has hidden it.
        let hidden = apply(
            "add/1",
            &[&ids, &upload(&scope, &crate::Plain::from_fn(&[], |_| 0.0), dtype)],
            &[],
        );
        for ids in [&ids, &hidden] {
            let rows = [
                apply("embedding/1", &[&table, ids], &[]),
                apply("index_select/1", &[&table, ids], &[Attr::Int(0)]),
                apply("one_hot/1", &[ids], &[Attr::Int(4)]),
            ];
            for rows in rows {
                // What is made of it fails for the same reason.
                let sum = apply("sum/1", &[&rows], &[]);
                for bad in [&rows, &sum] {
                    let error = scope.read(bad).unwrap_err();
                    assert_eq!(error.code, Code::InvalidInput, "{error}");
                    assert!(error.message.contains("id 4 is not below 4"), "{error}");
                }
            }
        }
    }
    let fine = upload(&scope, &crate::Plain::from_fn(&[1], |_| 3.0), DType::U32);
    let row = apply("embedding/1", &[&table, &fine], &[]);
    assert_eq!(crate::common::read(&scope, &row).data, [9.0, 10.0, 11.0]);
}

#[test]
fn the_largest_byte_is_an_id_like_any_other() {
    let (scope, _) = scope_on(&runtime(device()), 1 << 20);
    let apply =
        |op: &str, inputs: &[&maquette_tensor::Tensor], attrs: &[Attr]| crate::common::apply(&scope, op, inputs, attrs);
    let table = upload(&scope, &crate::Plain::from_fn(&[256], |p| p[0] as f64), DType::F32);
    let ids = upload(
        &scope,
        &crate::Plain::from_fn(&[2], |p| [254.0, 255.0][p[0]]),
        DType::U8,
    );
    let src = upload(&scope, &crate::Plain::from_fn(&[2], |_| 1000.0), DType::F32);
    let read = |tensor: &maquette_tensor::Tensor| crate::common::read(&scope, tensor).data;
    let axis = [Attr::Int(0)];
    for op in ["embedding/1", "index_select/1", "gather/1"] {
        let table = match op {
            "embedding/1" => apply("unsqueeze/1", &[&table], &[Attr::Int(1)]),
            _ => table.clone(),
        };
        let attrs = if op == "embedding/1" { &[][..] } else { &axis };
        assert_eq!(read(&apply(op, &[&table, &ids], attrs)), [254.0, 255.0], "{op}");
    }
    for (op, expected) in [
        ("scatter/1", 1000.0),
        ("scatter_add/1", 1255.0),
        ("index_add/1", 1255.0),
    ] {
        assert_eq!(read(&apply(op, &[&table, &ids, &src], &axis))[255], expected, "{op}");
    }
}

/// `MAQUETTE_TEST_DEVICE=cuda:0 every_op --ignored --nocapture on_a_device`: tests/gpu/run does.
#[test]
#[ignore = "needs MAQUETTE_TEST_DEVICE, and the device that it names"]
fn every_op_on_a_device_printed() {
    assert!(
        std::env::var("MAQUETTE_TEST_DEVICE").is_ok(),
        "MAQUETTE_TEST_DEVICE must name a device, such as cuda:0"
    );
    let device = device();
    let runtime = runtime(device);
    let rounds = 100;
    // In f32, and in any dtype: half floats are off by their last digit.
    let mut worst: BTreeMap<&str, [f64; 2]> = BTreeMap::new();
    let mut failed: BTreeMap<&str, (u32, String)> = BTreeMap::new();
    for round in 0..rounds {
        for (name, off) in each_op(&runtime, 1 + round * 7919) {
            match off {
                Ok((dtype, off)) => {
                    let [single, any] = worst.entry(name).or_default();
                    *any = any.max(off);
                    if dtype == DType::F32 {
                        *single = single.max(off);
                    }
                }
                Err(why) => failed.entry(name).or_insert((0, why)).0 += 1,
            }
        }
    }
    println!("{:<24} {:<10} {:<10} {device}", "op", "max in f32", "and halves");
    for spec in table() {
        let said = match failed.get(spec.name) {
            _ if !spec.has_cuda() => "refused".to_owned(),
            _ if spec.op == Op::CachedAttention => "in programs only: tests/caches.rs".to_owned(),
            None => format!("pass ({rounds} examples)"),
            Some((count, why)) => format!("FAIL ({count} of {rounds}): {why}"),
        };
        let off = worst.get(spec.name).map_or([String::new(), String::new()], |off| {
            off.map(|off| format!("{off:.1e}"))
        });
        println!("{:<24} {:<10} {:<10} {said}", spec.name, off[0], off[1]);
    }
    assert!(failed.is_empty(), "{} ops fail on {device}", failed.len());
}
