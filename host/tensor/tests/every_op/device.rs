//! The ops of devices: composed of candle's kernels, on the processor here, on a GPU where there is one.

use std::collections::BTreeMap;
use std::sync::Arc;

use maquette_tensor::ops::program::{Description, Input, Node};
use maquette_tensor::ops::{Attr, Code, Dim, Op, OpId, OpSpec, table};
use maquette_tensor::{Device, Runtime, WeightFile};
use proptest::prelude::*;

use crate::common::{Random, runtime, scope_on, upload};
use crate::{check, example};

/// Every op that the table gives devices, once each, on examples that a seed decides; those that fail, with why.
fn failures(runtime: &Arc<Runtime>, seed: u64) -> BTreeMap<&'static str, String> {
    let (scope, budget) = scope_on(runtime, 1 << 30);
    let mut failed = BTreeMap::new();
    let eager = |spec: &OpSpec| spec.has_cuda() && spec.op != Op::CachedAttention;
    for (i, spec) in table().iter().enumerate().filter(|(_, spec)| eager(spec)) {
        let mut random = Random(seed.wrapping_mul(i as u64 * 2 + 1) | 1);
        let example = example(&mut random, spec.op);
        if let Err(why) = check(&scope, &mut random, OpId(i as u32), spec, &example) {
            failed.insert(spec.name, why.to_string());
        }
    }
    // Jobs may still hold what they have read: a last read is behind them all.
    let one = upload(&scope, &crate::Plain::from_fn(&[1], |_| 1.0), crate::DType::F32);
    scope.read(&one).unwrap();
    drop((one, scope));
    assert_eq!(budget.used(), 0, "everything was given back");
    failed
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_op_of_devices_agrees_with_a_float64_reference(seed in 1_u64..) {
        let runtime = runtime(Device::Composed);
        for round in 0..300 {
            let failed = failures(&runtime, seed.wrapping_add(round * 7919));
            prop_assert!(failed.is_empty(), "{failed:#?}");
        }
    }
}

#[test]
fn an_op_that_devices_do_not_have_is_refused_eagerly_and_in_programs_with_what_to_do() {
    let runtime = runtime(Device::Composed);
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
    let runtime = runtime(Device::Composed);
    let (scope, _) = scope_on(&runtime, 1 << 20);
    let apply =
        |op: &str, inputs: &[&maquette_tensor::Tensor], attrs: &[Attr]| crate::common::apply(&scope, op, inputs, attrs);
    let table = upload(
        &scope,
        &crate::Plain::from_fn(&[4, 3], |p| (p[0] * 3 + p[1]) as f64),
        crate::DType::F32,
    );
    for dtype in [crate::DType::U8, crate::DType::U32, crate::DType::I64] {
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
    let fine = upload(&scope, &crate::Plain::from_fn(&[1], |_| 3.0), crate::DType::U32);
    let row = apply("embedding/1", &[&table, &fine], &[]);
    assert_eq!(crate::common::read(&scope, &row).data, [9.0, 10.0, 11.0]);
}

/// `MAQUETTE_TEST_DEVICE=cuda:0 every_op --ignored --nocapture on_a_device`: tests/gpu/run does.
#[test]
#[ignore = "needs MAQUETTE_TEST_DEVICE, and the device that it names"]
fn every_op_on_a_device_printed() {
    let device = std::env::var("MAQUETTE_TEST_DEVICE").expect("MAQUETTE_TEST_DEVICE names a device, such as cuda:0");
    let runtime = runtime(device.parse().unwrap());
    let rounds = 100;
    let mut failed: BTreeMap<&str, (u32, String)> = BTreeMap::new();
    for round in 0..rounds {
        for (name, why) in failures(&runtime, 1 + round * 7919) {
            let entry = failed.entry(name).or_insert((0, why));
            entry.0 += 1;
        }
    }
    println!("{:<24} {device}", "op");
    for spec in table() {
        let said = match failed.get(spec.name) {
            _ if !spec.has_cuda() => "refused".to_owned(),
            _ if spec.op == Op::CachedAttention => "in programs only: tests/caches.rs".to_owned(),
            None => format!("pass ({rounds} examples)"),
            Some((count, why)) => format!("FAIL ({count} of {rounds}): {why}"),
        };
        println!("{:<24} {said}", spec.name);
    }
    assert!(failed.is_empty(), "{} ops fail on {device}", failed.len());
}
