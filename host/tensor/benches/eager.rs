//! What one eager op costs over the same call of candle, on tensors so small that nothing else counts.
//!
//! `cargo bench -p maquette-tensor --bench eager`; the aim is at most 100 ns between `candle` and `op table` of each pair.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor as Candle};
use criterion::{Criterion, criterion_group, criterion_main};
use maquette_tensor::ops::{Attr, DType, lookup};
use maquette_tensor::{Budget, Control, Runtime, RuntimeConfig, Scope};

fn eager(c: &mut Criterion) {
    let runtime = Runtime::cpu(RuntimeConfig::default()).unwrap();
    let control = Control {
        deadline: Some(Instant::now() + Duration::from_secs(3600)),
        ..Control::default()
    };
    let scope = Scope::new(Arc::clone(&runtime), Budget::new(1 << 30), control);
    let values: Vec<f32> = (0..8).map(|i| i as f32).collect();
    let native = Candle::from_slice(&values, (2, 4), &Device::Cpu).unwrap();
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let ours = scope.from_bytes(DType::F32, &[2, 4], &bytes).unwrap();

    let op = |name: &str| lookup(name).unwrap();
    let (add, exp, transpose, softmax) = (op("add/1"), op("exp/1"), op("transpose/1"), op("softmax/1"));
    let axes = [Attr::Int(0), Attr::Int(1)];

    let mut group = c.benchmark_group("add of a few elements");
    group.bench_function("candle", |b| {
        b.iter(|| black_box(&native).add(black_box(&native)).unwrap())
    });
    group.bench_function("op table", |b| {
        b.iter(|| scope.apply(add, &[black_box(&ours), black_box(&ours)], &[]).unwrap())
    });
    group.finish();

    let mut group = c.benchmark_group("exp");
    group.bench_function("candle", |b| b.iter(|| black_box(&native).exp().unwrap()));
    group.bench_function("op table", |b| {
        b.iter(|| scope.apply(exp, &[black_box(&ours)], &[]).unwrap())
    });
    group.finish();

    let mut group = c.benchmark_group("transpose");
    group.bench_function("candle", |b| b.iter(|| black_box(&native).transpose(0, 1).unwrap()));
    group.bench_function("op table", |b| {
        b.iter(|| scope.apply(transpose, &[black_box(&ours)], black_box(&axes)).unwrap())
    });
    group.finish();

    let mut group = c.benchmark_group("softmax");
    group.bench_function("candle", |b| {
        b.iter(|| candle_nn::ops::softmax_last_dim(black_box(&native)).unwrap())
    });
    group.bench_function("op table", |b| {
        b.iter(|| scope.apply(softmax, &[black_box(&ours)], &[]).unwrap())
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = eager
}
criterion_main!(benches);
