//! A BERT of MiniLM's dimensions as a program, over the same network called natively in candle, on the same made-up weights.
//!
//! `cargo bench -p maquette-tensor --bench programs`; the aim is that `program` takes at most 1/0.97 of `native`'s time.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/bert.rs"]
mod bert;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use maquette_tensor::ops::DType;
use maquette_tensor::{Budget, Control, Runtime, RuntimeConfig, Scope};

fn programs(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    bert::write_weights(&path);
    let runtime = Runtime::cpu(RuntimeConfig::default()).unwrap();
    let scope = Scope::new(Arc::clone(&runtime), Budget::new(1 << 32), Control::default());
    let files = [("model".to_owned(), runtime.weights().open("bench", &path).unwrap())].into();
    let program = scope.compile(&bert::description(), &files).unwrap();
    let native = bert::Native::load(&path);

    let mut group = c.benchmark_group("bert");
    group.sample_size(20);
    for (batch, tokens) in [(1_usize, 16_usize), (1, 128), (32, 16), (32, 128)] {
        let (ids, mask) = bert::batch(batch, tokens);
        let (a, b) = bert::candle_inputs(&ids, &mask, batch, tokens);
        let shape = [batch as u32, tokens as u32];
        let ids = scope
            .from_bytes(DType::U32, &shape, bytemuck::cast_slice(&ids))
            .unwrap();
        let mask = scope
            .from_bytes(DType::F32, &shape, bytemuck::cast_slice(&mask))
            .unwrap();

        let expected = native.forward(&a, &b).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let found = scope.read(&program.run(&scope, &[&ids, &mask]).unwrap()[0]).unwrap();
        let found: Vec<f32> = bytemuck::pod_collect_to_vec(&found);
        let worst = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(worst < 1e-4, "they differ by {worst}");

        let id = |name| BenchmarkId::new(name, format!("{batch}x{tokens}"));
        group.bench_function(id("native"), |bench| {
            bench.iter(|| native.forward(black_box(&a), black_box(&b)))
        });
        group.bench_function(id("program"), |bench| {
            bench.iter(|| program.run(&scope, &[black_box(&ids), black_box(&mask)]).unwrap());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(4)).warm_up_time(Duration::from_secs(1));
    targets = programs
}
criterion_main!(benches);
