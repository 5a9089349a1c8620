//! What only a GPU can show: it stays well when its memory is all in use, when it is flooded, and when a call ends that has sent it long
//! work. `MAQUETTE_TEST_DEVICE=cuda:0 cargo test --test gpu -- --ignored --nocapture --test-threads 1`; tests/gpu/run does.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{Plain, apply, device, read, runtime, scope_on, upload};
use maquette_tensor::ops::{Attr, Code, DType, lookup};
use maquette_tensor::{Budget, Control, Device, Runtime, Scope, Tensor};

/// The GPU that MAQUETTE_TEST_DEVICE names.
fn gpu() -> Arc<Runtime> {
    assert!(
        matches!(device(), Device::Cuda(_)),
        "MAQUETTE_TEST_DEVICE must name a GPU, such as cuda:0"
    );
    runtime(device())
}

/// A dense tensor of one value, made there.
fn filled(scope: &Scope, shape: &[i64], dtype: DType, value: f64) -> Tensor {
    let shape = Attr::Ints(shape.to_vec());
    let one = apply(scope, "full/1", &[], &[shape, Attr::Float(value), Attr::DType(dtype)]);
    // A sum is a tensor of its own; a `full` is one element, seen everywhere.
    let none = upload(scope, &Plain::from_fn(&[], |_| 0.0), dtype);
    apply(scope, "add/1", &[&one, &none], &[])
}

/// That another call gets right what it asks for.
fn well(runtime: &Arc<Runtime>) {
    let (scope, budget) = scope_on(runtime, 1 << 20);
    let x = upload(&scope, &Plain::from_fn(&[3], |p| p[0] as f64), DType::F32);
    let y = apply(
        &scope,
        "matmul/1",
        &[
            &apply(&scope, "unsqueeze/1", &[&x], &[Attr::Int(0)]),
            &apply(&scope, "unsqueeze/1", &[&x], &[Attr::Int(1)]),
        ],
        &[],
    );
    assert_eq!(read(&scope, &y).data, [5.0]);
    drop((x, y));
    assert_eq!(budget.used(), 0);
}

#[test]
#[ignore = "needs a GPU"]
fn a_gpu_whose_memory_is_all_in_use_refuses_and_goes_on() {
    let runtime = gpu();
    // More than any GPU has.
    let (scope, budget) = scope_on(&runtime, 1 << 40);
    let mut held = Vec::new();
    let error = loop {
        assert!(held.len() < 512, "a terabyte was given");
        let tensor = filled(&scope, &[(1 << 29) - 1], DType::F32, 1.0);
        match scope.read_range(&tensor, 0, 1) {
            Ok(_) => held.push(tensor),
            Err(error) => break error,
        }
    };
    println!("{} tensors of 2 GiB, then: {error}", held.len());
    assert_eq!(error.code, Code::Quota, "{error}");
    assert!(error.message.contains("memory is all in use"), "{error}");
    // Those who need little are served meanwhile, and all is there again afterwards.
    well(&runtime);
    let had = held.len();
    drop(held);
    scope
        .read_range(&upload(&scope, &Plain::from_fn(&[1], |_| 0.0), DType::F32), 0, 1)
        .unwrap();
    assert_eq!(budget.used(), 0);
    let again: Vec<Tensor> = (0..had)
        .map(|_| filled(&scope, &[(1 << 29) - 1], DType::F32, 1.0))
        .collect();
    for tensor in &again {
        assert_eq!(scope.read_range(tensor, 5, 1).unwrap(), 1_f32.to_le_bytes());
    }
    well(&runtime);
}

#[test]
#[ignore = "needs a GPU"]
fn a_flood_of_small_ops_is_done_in_order() {
    let runtime = gpu();
    let (scope, _) = scope_on(&runtime, 1 << 20);
    let one = upload(&scope, &Plain::from_fn(&[4], |_| 1.0), DType::F32);
    let mut x = one.clone();
    let ops = 10_000;
    let (started, spent) = (Instant::now(), scope.stats().compute);
    for _ in 1..ops {
        x = apply(&scope, "add/1", &[&x, &one], &[]);
    }
    let sent = started.elapsed();
    assert_eq!(read(&scope, &x).data, [f64::from(ops); 4]);
    println!(
        "{ops} adds: sent in {sent:?}, done in {:?}, {:?} of them the device's thread's",
        started.elapsed(),
        scope.stats().compute - spent
    );
    well(&runtime);
}

/// Ops that take long, each with what it is applied to and how often it may be sent.
fn long_ops(scope: &Scope) -> Vec<(&'static str, &'static str, Vec<Tensor>, Vec<Attr>)> {
    let f32 = |shape: &[i64]| filled(scope, shape, DType::F32, 0.01);
    let half = |shape: &[i64]| filled(scope, shape, DType::BF16, 0.01);
    let ids = |n: i64| filled(scope, &[n], DType::U32, 3.0);
    let pair = |a: i64, b: i64| Attr::Ints(vec![a, b]);
    vec![
        (
            "matmul/1",
            "f32 [8192, 8192] squared",
            vec![f32(&[8192, 8192]); 2],
            vec![],
        ),
        (
            "matmul/1",
            "bf16 [16384, 16384] squared",
            vec![half(&[16384, 16384]); 2],
            vec![],
        ),
        ("exp/1", "f32 [2^28]", vec![f32(&[1 << 28])], vec![]),
        ("sum/1", "f32 [2^28]", vec![f32(&[1 << 28])], vec![]),
        (
            "sum/1",
            "f32 [2^26, 4] along the last",
            vec![f32(&[1 << 26, 4])],
            vec![Attr::Ints(vec![1])],
        ),
        (
            "sum/1",
            "f32 [2^14, 2^14] along the first",
            vec![f32(&[1 << 14, 1 << 14])],
            vec![Attr::Ints(vec![0])],
        ),
        (
            "max/1",
            "f32 [2^23, 32] along the last",
            vec![f32(&[1 << 23, 32])],
            vec![Attr::Ints(vec![1])],
        ),
        (
            "argmax/1",
            "f32 [2^18, 2^10]",
            vec![f32(&[1 << 18, 1 << 10])],
            vec![Attr::Int(1)],
        ),
        ("softmax/1", "f32 [1, 2^20]", vec![f32(&[1, 1 << 20])], vec![]),
        ("softmax/1", "f32 [2^20, 2^8]", vec![f32(&[1 << 20, 1 << 8])], vec![]),
        (
            "layer_norm/1",
            "f32 [2^16, 2^12]",
            vec![f32(&[1 << 16, 1 << 12]), f32(&[1 << 12])],
            vec![],
        ),
        (
            "group_norm/1",
            "f32 [1, 32, 2^11, 2^11]",
            vec![f32(&[1, 32, 1 << 11, 1 << 11])],
            vec![Attr::Int(1)],
        ),
        ("cumsum/1", "f32 [2^26]", vec![f32(&[1 << 26])], vec![Attr::Int(0)]),
        (
            "index_add/1",
            "f32 [10] by 2^18 ids",
            vec![f32(&[10]), ids(1 << 18), f32(&[1 << 18])],
            vec![Attr::Int(0)],
        ),
        (
            "scatter/1",
            "f32 [10] by 2^18 ids",
            vec![f32(&[10]), ids(1 << 18), f32(&[1 << 18])],
            vec![Attr::Int(0)],
        ),
        (
            "scatter_add/1",
            "f32 [10] by 2^18 ids",
            vec![f32(&[10]), ids(1 << 18), f32(&[1 << 18])],
            vec![Attr::Int(0)],
        ),
        (
            "index_select/1",
            "f32 [2^10, 2^10] by 2^17 ids",
            vec![f32(&[1 << 10, 1 << 10]), ids(1 << 17)],
            vec![Attr::Int(0)],
        ),
        (
            "max_pool2d/1",
            "f32 [1, 1, 2^11, 2^11], windows of 2^9",
            vec![f32(&[1, 1, 1 << 11, 1 << 11])],
            vec![pair(512, 512), Attr::Int(8)],
        ),
        (
            "avg_pool2d/1",
            "f32 [1, 1, 2^12, 2^12], windows of 2^11",
            vec![f32(&[1, 1, 1 << 12, 1 << 12])],
            vec![pair(2048, 2048)],
        ),
        (
            "conv2d/1",
            "f32 [4, 128, 256, 256] by 128 of 3 x 3",
            vec![f32(&[4, 128, 256, 256]), f32(&[128, 128, 3, 3])],
            vec![],
        ),
        (
            "conv2d/1",
            "f32 [4, 256, 256, 256] by 256 groups of 3 x 3",
            vec![f32(&[4, 256, 256, 256]), f32(&[256, 1, 3, 3])],
            vec![Attr::Unset, Attr::Unset, Attr::Unset, Attr::Int(256)],
        ),
        (
            "attention/1",
            "f32 [1, 4096, 16, 64]",
            vec![f32(&[1, 4096, 16, 64]); 3],
            vec![],
        ),
        ("gelu_erf/1", "f32 [2^27]", vec![f32(&[1 << 27])], vec![]),
        ("pow/1", "f32 [2^24]", vec![f32(&[1 << 24]); 2], vec![]),
        (
            "lstm/1",
            "f32 [1, 20000, 8]",
            vec![f32(&[1, 20_000, 8]), f32(&[32, 8]), f32(&[32, 8])],
            vec![],
        ),
        (
            "stft/1",
            "f32 [1, 2^20], frames of 2^10",
            vec![f32(&[1, 1 << 20]), f32(&[1 << 10])],
            vec![Attr::Int(1024), Attr::Int(256)],
        ),
        (
            "resize_bilinear2d/1",
            "f32 [4, 64, 512, 512] to 2^10",
            vec![f32(&[4, 64, 512, 512])],
            vec![pair(1024, 1024)],
        ),
        (
            "flip/1",
            "f32 [2^14, 2^14]",
            vec![f32(&[1 << 14, 1 << 14])],
            vec![Attr::Ints(vec![0, 1])],
        ),
        (
            "permute/1",
            "f32 [2^14, 2^14] made dense",
            vec![f32(&[1 << 14, 1 << 14])],
            vec![pair(1, 0)],
        ),
        (
            "randn/1",
            "f32 [2^22]",
            vec![],
            vec![Attr::Ints(vec![1 << 22]), Attr::Int(7)],
        ),
    ]
}

/// Sends an op without waiting; a view is made dense.
fn send(scope: &Scope, op: &str, inputs: &[Tensor], attrs: &[Attr]) -> Result<Tensor, maquette_tensor::ops::Error> {
    let refs: Vec<&Tensor> = inputs.iter().collect();
    let output = scope.apply(lookup(op).unwrap(), &refs, attrs)?;
    match op {
        "permute/1" => scope.apply(lookup("reshape/1").unwrap(), &[&output], &[Attr::Ints(vec![-1])]),
        _ => Ok(output),
    }
}

#[test]
#[ignore = "needs a GPU"]
fn what_a_call_has_sent_keeps_a_gpu_busy_only_shortly_after_the_call() {
    let runtime = gpu();
    let (inputs_of, _) = scope_on(&runtime, 1 << 36);
    let mut worst = Duration::ZERO;
    println!(
        "{:<20} {:<48} {:>9} {:>9} {:>6} {:>9}",
        "op", "of", "first ms", "ms each", "sent", "left ms"
    );
    for (op, what, inputs, attrs) in long_ops(&inputs_of) {
        let budget = Budget::new(1 << 36);
        let control = Control::default();
        let cancelled = Arc::clone(&control.cancelled);
        let scope = Scope::new(Arc::clone(&runtime), budget, control);
        let timed = |scope: &Scope| -> Result<f64, maquette_tensor::ops::Error> {
            let started = Instant::now();
            let output = send(scope, op, &inputs, &attrs)?;
            scope.read_range(&output, 0, 1)?;
            Ok(started.elapsed().as_secs_f64() * 1e3)
        };
        let (first, second) = match timed(&scope).and_then(|first| Ok((first, timed(&scope)?))) {
            Ok(both) => both,
            Err(error) => {
                println!("{op:<20} {what:<48} {error}");
                assert_ne!(error.code, Code::Internal, "{op} {what}: {error}");
                continue;
            }
        };
        // As many as may be sent in a while, none of them waited for; then the call is over.
        let until = Instant::now() + Duration::from_millis(120);
        let mut sent = 0;
        while Instant::now() < until && sent < 2_000 {
            if send(&scope, op, &inputs, &attrs).is_err() {
                break;
            }
            sent += 1;
        }
        cancelled.store(true, Ordering::Relaxed);
        let started = Instant::now();
        well(&runtime);
        let left = started.elapsed();
        worst = worst.max(left);
        println!(
            "{op:<20} {what:<48} {first:>9.2} {second:>9.2} {sent:>6} {:>9.2}",
            left.as_secs_f64() * 1e3
        );
    }
    println!("the longest that a GPU was busy after the end of a call: {worst:?}");
    assert!(worst < Duration::from_secs(4), "{worst:?}");
}

#[test]
#[ignore = "needs a GPU"]
fn what_would_keep_a_gpu_busy_for_long_at_once_is_refused() {
    let runtime = gpu();
    let (scope, _) = scope_on(&runtime, 1 << 37);
    let f32 = |shape: &[i64]| filled(&scope, shape, DType::F32, 0.01);
    let ids = filled(&scope, &[1 << 24], DType::U32, 0.0);
    let cases: Vec<(&str, Vec<Tensor>, Vec<Attr>)> = vec![
        (
            "index_add/1",
            vec![f32(&[10]), ids.clone(), f32(&[1 << 24])],
            vec![Attr::Int(0)],
        ),
        (
            "scatter_add/1",
            vec![f32(&[10]), ids, f32(&[1 << 24])],
            vec![Attr::Int(0)],
        ),
        (
            "max_pool2d/1",
            vec![f32(&[1, 1, 1 << 13, 1 << 13])],
            vec![Attr::Ints(vec![1 << 12, 1 << 12]), Attr::Int(1)],
        ),
        ("softmax/1", vec![f32(&[1 << 28])], vec![]),
        ("matmul/1", vec![f32(&[40_000, 40_000]); 2], vec![]),
        ("randn/1", vec![], vec![Attr::Ints(vec![1 << 28]), Attr::Int(7)]),
    ];
    for (op, inputs, attrs) in cases {
        let started = Instant::now();
        let error = send(&scope, op, &inputs, &attrs)
            .and_then(|output| scope.read_range(&output, 0, 1))
            .unwrap_err();
        println!("{op}: {error} ({:?})", started.elapsed());
        assert_eq!(error.code, Code::Quota, "{op}: {error}");
    }
    well(&runtime);
}
