//! Programs and weights on a device give what they give on the processor, within the same budgets, and end when a call does. With
//! MAQUETTE_TEST_DEVICE=cuda:0 the device is a GPU.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{Plain, apply, device, encode, read, runtime, scope_on, upload};
use maquette_tensor::ops::program::{Constant, Description, Input, Node, WeightRef};
use maquette_tensor::ops::{Attr, Code, DType, Dim, lookup};
use maquette_tensor::{Budget, Control, Device, Runtime, RuntimeConfig, Scope, WeightFile};

fn node(op: &str, inputs: &[u32], attrs: &[Attr]) -> Node {
    Node {
        op: op.to_owned(),
        inputs: inputs.to_vec(),
        attrs: attrs.to_vec(),
        location: "src/lib.rs:7:9".to_owned(),
    }
}

/// A table `[6, 4]` and a matrix `[3, 4]`.
fn weights(runtime: &Arc<Runtime>, folder: &std::path::Path) -> BTreeMap<String, Arc<WeightFile>> {
    let data = encode(&(0..36).map(|i| f64::from(i % 7) - 3.0).collect::<Vec<_>>(), DType::F32);
    let header = r#"{"table":{"dtype":"F32","shape":[6,4],"data_offsets":[0,96]},"dense":{"dtype":"F32","shape":[3,4],"data_offsets":[96,144]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&data);
    let path = folder.join("model.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let file = runtime.weights().open("digest-of-the-model", &path).unwrap();
    BTreeMap::from([("model".to_owned(), file)])
}

/// Rows of the table through the matrix, softmax, plus a folded constant; the ids' number is a symbol. Value 4 is the folded one.
fn description() -> Description {
    let weight = |name: &str, rows: u32| WeightRef {
        file: "model".into(),
        name: name.into(),
        dtype: DType::F32,
        shape: vec![rows, 4],
    };
    Description {
        symbols: vec!["n".into()],
        inputs: vec![Input {
            name: "ids".into(),
            dtype: DType::U32,
            shape: vec![Dim::symbol(0)],
        }],
        weights: vec![weight("table", 6), weight("dense", 3)],
        constants: vec![Constant {
            dtype: DType::F32,
            shape: vec![3],
            data: encode(&[1.0, 2.0, 3.0], DType::F32),
        }],
        caches: vec![],
        nodes: vec![
            node("exp/1", &[3], &[]),
            node("embedding/1", &[1, 0], &[]),
            node("linear/1", &[5, 2, 4], &[]),
            node("gelu_erf/1", &[6], &[]),
            node("softmax/1", &[7], &[]),
            node("narrow/1", &[8], &[Attr::Int(1), Attr::Int(1), Attr::Ints(vec![2])]),
        ],
        outputs: vec![8, 9, 8, 2, 0, 4],
    }
}

fn ids(scope: &Scope, ids: &[f64]) -> maquette_tensor::Tensor {
    let plain = Plain {
        shape: vec![ids.len()],
        data: ids.to_vec(),
    };
    upload(scope, &plain, DType::U32)
}

#[test]
fn a_program_says_on_a_device_what_it_says_on_the_processor() {
    let folder = tempfile::tempdir().unwrap();
    let run = |on: Device, with: &[f64]| -> Vec<Plain> {
        let runtime = runtime(on);
        let files = weights(&runtime, folder.path());
        let (scope, budget) = scope_on(&runtime, 1 << 20);
        let program = scope.compile(&description(), &files).unwrap();
        let mut found = Vec::new();
        for _ in 0..2 {
            let outputs = program.run(&scope, &[&ids(&scope, with)]).unwrap();
            found.extend(outputs.iter().map(|output| read(&scope, output)));
        }
        assert_eq!(scope.stats().program_runs, 2);
        assert!(scope.stats().compute > Duration::ZERO);
        assert_eq!(budget.used(), 0, "everything was given back");
        found
    };
    for with in [&[0.0, 5.0, 2.0][..], &[3.0], &[]] {
        let (here, there) = (run(Device::Cpu, with), run(device(), with));
        assert_eq!(here.len(), there.len());
        for (here, there) in here.iter().zip(&there) {
            assert_eq!(here.shape, there.shape);
            let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-5;
            assert!(here.data.iter().zip(&there.data).all(close), "{here:?} {there:?}");
        }
    }
}

#[test]
fn a_weight_is_on_a_device_once_counted_once_and_leaves_when_others_need_its_room() {
    let folder = tempfile::tempdir().unwrap();
    let config = RuntimeConfig {
        weight_budget: 100,
        ..RuntimeConfig::default()
    };
    let runtime = Runtime::on(device(), config).unwrap();
    let files = weights(&runtime, folder.path());
    let (scope, budget) = scope_on(&runtime, 1 << 20);
    let store = runtime.weights();
    let table = store.get(&files["model"], "table", None).unwrap();
    let again = store.get(&files["model"], "table", None).unwrap();
    assert_eq!(
        (store.resident_bytes(), budget.used()),
        (96, 0),
        "the calls do not pay for it"
    );
    let view = apply(&scope, "transpose/1", &[&again], &[Attr::Int(0), Attr::Int(1)]);
    drop((table, again));
    let refused = store.get(&files["model"], "dense", None).unwrap_err();
    assert_eq!(refused.code, Code::Quota, "a view of the other is in use");
    assert_eq!(read(&scope, &view).at(&[1, 0]), -2.0);
    drop(view);
    assert_eq!(
        read(&scope, &store.get(&files["model"], "dense", None).unwrap()).shape,
        [3, 4]
    );
    assert_eq!(store.resident_bytes(), 48);
    assert!(scope.compile(&description(), &files).unwrap_err().code == Code::Quota);
}

#[test]
fn what_fails_in_a_program_on_a_device_is_told_by_the_first_read_with_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = runtime(device());
    let files = weights(&runtime, folder.path());
    let (scope, budget) = scope_on(&runtime, 1 << 20);
    let program = scope.compile(&description(), &files).unwrap();
    let outputs = program.run(&scope, &[&ids(&scope, &[1.0, 6.0])]).unwrap();
    let error = scope.read(&outputs[1]).unwrap_err();
    assert_eq!(error.code, Code::InvalidInput);
    assert!(
        error.message.contains("id 6 is not below 6") && error.message.contains("src/lib.rs:7:9"),
        "{error}"
    );
    drop(outputs);
    assert_eq!(budget.used(), 0);
    // A shape is refused at once, as on the processor.
    let wrong = upload(&scope, &Plain::from_fn(&[1, 1], |_| 0.0), DType::U32);
    assert_eq!(program.run(&scope, &[&wrong]).unwrap_err().code, Code::Shape);
}

#[test]
fn a_budget_holds_on_a_device_and_a_lane_that_is_ahead_waits_for_what_comes_back() {
    let runtime = runtime(device());
    let (scope, budget) = scope_on(&runtime, 100_000);
    let x = upload(&scope, &Plain::from_fn(&[1000], |_| 2.0), DType::F32);
    // Each takes a good part of the budget for a moment; sent without waiting they would exceed it together.
    let mut y = x.clone();
    for _ in 0..50 {
        y = apply(&scope, "layer_norm/1", &[&y, &x], &[]);
    }
    assert!(read(&scope, &y).data.iter().all(|value| value.abs() < 1e-3));
    assert!(budget.peak() <= 100_000);
    let large = Plain::from_fn(&[30_000], |_| 0.0);
    let shape = [30_000];
    let error = scope
        .from_bytes(DType::F32, &shape, &encode(&large.data, DType::F32))
        .unwrap_err();
    assert_eq!(error.code, Code::Quota);
    drop((x, y));
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_call_that_is_over_gets_no_answer_from_a_device() {
    let runtime = runtime(device());
    let budget = Budget::new(1 << 20);
    let control = Control {
        deadline: Some(Instant::now() + Duration::from_secs(3600)),
        ..Control::default()
    };
    let cancelled = Arc::clone(&control.cancelled);
    let scope = Scope::new(Arc::clone(&runtime), Arc::clone(&budget), control);
    let x = upload(&scope, &Plain::from_fn(&[3], |p| p[0] as f64), DType::F32);
    assert_eq!(read(&scope, &x).data, [0.0, 1.0, 2.0]);
    cancelled.store(true, Ordering::Relaxed);
    assert_eq!(scope.read(&x).unwrap_err().code, Code::Cancelled);
    let late = Control {
        deadline: Some(Instant::now()),
        ..Control::default()
    };
    let late = Scope::new(runtime, budget, late);
    assert_eq!(late.read(&x).unwrap_err().code, Code::Timeout);
}

#[test]
fn a_part_of_a_view_is_read_in_order_from_a_device() {
    let (scope, _) = scope_on(&runtime(device()), 1 << 20);
    let x = upload(
        &scope,
        &Plain::from_fn(&[2, 3], |p| (p[0] * 3 + p[1]) as f64),
        DType::I64,
    );
    let turned = apply(&scope, "transpose/1", &[&x], &[Attr::Int(0), Attr::Int(1)]);
    let part = scope.read_range(&turned, 1, 3).unwrap();
    assert_eq!(common::decode(&part, DType::I64), [3.0, 1.0, 4.0]);
    assert!(scope.read_range(&turned, 6, 0).unwrap().is_empty());
    assert_eq!(scope.read_range(&turned, 6, 1).unwrap_err().code, Code::Shape);
}

#[test]
fn floats_saturate_on_the_way_to_integers_on_a_device() {
    let (scope, _) = scope_on(&runtime(device()), 1 << 20);
    let x = Plain {
        shape: vec![4],
        data: vec![-7.0, 3.9, 300.0, 1e12],
    };
    let x = upload(&scope, &x, DType::F32);
    for (dtype, expected) in [
        (DType::U8, [0.0, 3.0, 255.0, 255.0]),
        (DType::U32, [0.0, 3.0, 300.0, 4_294_967_295.0]),
        (DType::I64, [-7.0, 3.0, 300.0, 999_999_995_904.0]),
    ] {
        let y = apply(&scope, "cast/1", &[&x], &[Attr::DType(dtype)]);
        assert_eq!(read(&scope, &y).data, expected);
    }
}

#[test]
fn long_sums_and_normalisations_are_right_on_a_device() {
    let (scope, _) = scope_on(&runtime(device()), 1 << 28);
    // 2^17 elements of each of three rows, and a length that cannot be halved.
    for (rows, len) in [(3, 1 << 17), (2, 98_305)] {
        let x = Plain::from_fn(&[rows, len], |p| {
            (p[0] + 1) as f64 + ((p[1] * 7919) % 13) as f64 / 8.0 - 0.75
        });
        let there = upload(&scope, &x, DType::F32);
        let exact: Vec<f64> = x.data.chunks(len).map(|row| row.iter().sum()).collect();
        let sums = read(&scope, &apply(&scope, "sum/1", &[&there], &[Attr::Ints(vec![1])])).data;
        let whole = read(&scope, &apply(&scope, "sum/1", &[&there], &[])).data[0];
        let close = |found: f64, exact: f64| (found - exact).abs() <= 1e-5 * exact.abs();
        assert!(close(whole, exact.iter().sum()), "{whole} {exact:?}");
        assert!(
            sums.iter().zip(&exact).all(|(a, b)| close(*a, *b)),
            "{sums:?} {exact:?}"
        );
        let y = read(
            &scope,
            &apply(&scope, "group_norm/1", &[&there], &[Attr::Int(1), Attr::Float(1e-6)]),
        )
        .data;
        for row in y.chunks(len) {
            let mean = row.iter().sum::<f64>() / len as f64;
            let variance = row.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / len as f64;
            assert!(mean.abs() < 1e-4 && (variance - 1.0).abs() < 1e-4, "{mean} {variance}");
        }
    }
}

#[test]
fn what_is_empty_gives_on_a_device_what_it_gives_on_the_processor() {
    let pair = |y: i64, x: i64| Attr::Ints(vec![y, x]);
    type Case = (&'static str, Vec<Vec<usize>>, Vec<Attr>);
    let cases: Vec<Case> = vec![
        (
            "conv2d/1",
            vec![vec![1, 0, 2, 2], vec![2, 0, 1, 1], vec![2]],
            vec![Attr::Unset, Attr::Int(1)],
        ),
        (
            "conv2d/1",
            vec![vec![1, 1, 0, 0], vec![2, 1, 1, 1]],
            vec![Attr::Unset, Attr::Int(1)],
        ),
        (
            "conv1d/1",
            vec![vec![1, 2, 0], vec![3, 2, 2]],
            vec![Attr::Int(1), Attr::Int(2), Attr::Int(2)],
        ),
        ("conv_transpose1d/1", vec![vec![1, 0, 3], vec![0, 2, 2]], vec![]),
        (
            "avg_pool2d/1",
            vec![vec![1, 1, 0, 2]],
            vec![Attr::Int(3), Attr::Int(1), Attr::Int(2)],
        ),
        ("matmul/1", vec![vec![2, 0], vec![0, 3]], vec![]),
        ("linear/1", vec![vec![2, 0], vec![3, 0], vec![3]], vec![]),
        (
            "attention/1",
            vec![vec![1, 2, 1, 3], vec![1, 0, 1, 3], vec![1, 0, 1, 2]],
            vec![],
        ),
        (
            "attention/1",
            vec![vec![1, 2, 1, 0], vec![1, 4, 1, 0], vec![1, 4, 1, 2]],
            vec![],
        ),
        ("sum/1", vec![vec![2, 0]], vec![Attr::Ints(vec![1])]),
        ("mean/1", vec![vec![0, 2]], vec![Attr::Ints(vec![0])]),
        ("logsumexp/1", vec![vec![2, 0]], vec![Attr::Ints(vec![1])]),
        ("max/1", vec![vec![2, 0]], vec![Attr::Ints(vec![1])]),
        ("cat/1", vec![vec![2, 0], vec![2, 0]], vec![Attr::Int(1)]),
        (
            "pad/1",
            vec![vec![2, 0]],
            vec![Attr::Int(1), Attr::Int(1), Attr::Int(2), Attr::Float(4.0)],
        ),
        (
            "pad/1",
            vec![vec![0, 0]],
            vec![Attr::Int(1), Attr::Int(1), Attr::Int(2)],
        ),
        ("lstm/1", vec![vec![2, 3, 0], vec![8, 0], vec![8, 2]], vec![]),
        ("softmax/1", vec![vec![0, 3]], vec![]),
        ("resize_nearest2d/1", vec![vec![1, 1, 0, 2]], vec![pair(2, 2)]),
        ("transpose/1", vec![vec![0, 3]], vec![Attr::Int(0), Attr::Int(1)]),
    ];
    for (op, shapes, attrs) in cases {
        let said = [Device::Cpu, device()].map(|on| {
            let (scope, _) = scope_on(&runtime(on), 1 << 20);
            let inputs = shapes
                .iter()
                .map(|shape| upload(&scope, &Plain::from_fn(shape, |_| 1.0), DType::F32));
            let inputs: Vec<_> = inputs.collect();
            let refs: Vec<_> = inputs.iter().collect();
            let output = scope.apply(lookup(op).unwrap(), &refs, &attrs);
            let bytes = output
                .and_then(|output| scope.read(&output))
                .map_err(|error| error.code);
            bytes.map(|bytes| format!("{:?}", common::decode(&bytes, DType::F32)))
        });
        assert_eq!(said[0], said[1], "{op} {shapes:?}");
    }
}

#[test]
fn what_is_no_number_or_infinite_gives_on_a_device_what_it_gives_on_the_processor() {
    let special = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        0.0,
        -0.0,
        1e38,
        -1e38,
        88.0,
        -90.0,
        1e-30,
        2.5,
        -2.5,
        1.0,
        -1.0,
        0.5,
        -7.0,
    ];
    let n = special.len();
    let column = Plain::from_fn(&[n, 1], |p| special[p[0]]);
    let row = Plain::from_fn(&[1, n], |p| special[p[1]]);
    // Rows of one special element among plain ones.
    let among = Plain::from_fn(&[n, 5], |p| if p[1] == 3 { special[p[0]] } else { p[1] as f64 - 1.5 });
    let image = Plain::from_fn(
        &[1, n, 1, 5],
        |p| if p[3] == 3 { special[p[1]] } else { p[3] as f64 - 1.5 },
    );
    let along = |axis: i64| Attr::Ints(vec![axis]);
    let mut cases: Vec<(&str, Vec<&Plain>, Vec<Attr>)> = Vec::new();
    for op in [
        "eq/1", "ne/1", "lt/1", "le/1", "gt/1", "ge/1", "add/1", "mul/1", "div/1",
    ] {
        cases.push((op, vec![&column, &row], vec![]));
    }
    for op in [
        "neg/1",
        "abs/1",
        "exp/1",
        "log/1",
        "sqrt/1",
        "rsqrt/1",
        "recip/1",
        "tanh/1",
        "sigmoid/1",
        "silu/1",
        "gelu/1",
        "erf/1",
        "floor/1",
        "ceil/1",
        "round/1",
        "sign/1",
        "log1p/1",
        "expm1/1",
        "softplus/1",
        "elu/1",
        "leaky_relu/1",
    ] {
        cases.push((op, vec![&column], vec![]));
    }
    // Whether a number or none is the larger of the two, nobody promises but for windows.
    for op in ["sum/1", "mean/1", "logsumexp/1"] {
        cases.push((op, vec![&among], vec![along(1)]));
    }
    for op in ["softmax/1", "log_softmax/1", "cumsum/1"] {
        cases.push((op, vec![&among], vec![Attr::Int(1)]));
    }
    for op in ["max_pool2d/1", "avg_pool2d/1"] {
        cases.push((op, vec![&image], vec![Attr::Ints(vec![1, 2]), Attr::Ints(vec![1, 1])]));
    }
    let runtimes = [Device::Cpu, device()].map(runtime);
    let mut differ = Vec::new();
    for (op, inputs, attrs) in cases {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let [here, there] = [0, 1].map(|at| {
                let (scope, _) = scope_on(&runtimes[at], 1 << 24);
                let inputs: Vec<_> = inputs.iter().map(|plain| upload(&scope, plain, dtype)).collect();
                let refs: Vec<_> = inputs.iter().collect();
                read(&scope, &apply(&scope, op, &refs, &attrs)).data
            });
            let same = |a: f64, b: f64| {
                a == b
                    || (a.is_nan() && b.is_nan())
                    || (a - b).abs() <= 1e-2 * a.abs().max(if dtype == DType::F32 { 1e-5 } else { 1e-2 })
            };
            let places = here
                .iter()
                .zip(&there)
                .enumerate()
                .filter(|(_, (a, b))| !same(**a, **b));
            let told: Vec<String> = places
                .map(|(at, (a, b))| format!("at {at}: {a} here, {b} there"))
                .take(4)
                .collect();
            if !told.is_empty() {
                differ.push(format!("{op} of {dtype}: {}", told.join("; ")));
            }
        }
    }
    assert!(differ.is_empty(), "{differ:#?}");
}
