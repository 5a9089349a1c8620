//! What the op table adds to a candle call: rule, budget, clock and guard around an add of one element, beside candle's own add.
#![allow(clippy::unwrap_used, missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use maquette_tensor::ops::{DType, lookup};
use maquette_tensor::{Budget, Control, Runtime, RuntimeConfig, Scope};

fn eager(c: &mut Criterion) {
    let runtime = Runtime::cpu(RuntimeConfig::default()).unwrap();
    let scope = Scope::new(runtime, Budget::new(1 << 20), Control::default());
    let x = scope.from_bytes(DType::F32, &[1], &[0; 4]).unwrap();
    let add = lookup("add/1").unwrap();
    let mut group = c.benchmark_group("add of one element");
    group.bench_function("op table", |b| b.iter(|| scope.apply(add, &[&x, &x], &[]).unwrap()));
    group.bench_function("candle", |b| b.iter(|| (x.as_candle() + x.as_candle()).unwrap()));
    group.finish();
}

criterion_group!(benches, eager);
criterion_main!(benches);
