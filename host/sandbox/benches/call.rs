//! A whole call of a trivial component in a fresh sandbox: store, limits, instance from the pool, JSON in, JSON out, report.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use criterion::Criterion;
use maquette_sandbox::{Call, Engine, EngineConfig, Guest, Limits, Part, Parts, STACK_BYTES, prepare};
use maquette_tensor::{Runtime, RuntimeConfig};

fn open(folder: &std::path::Path) -> Guest {
    let path = folder.join("echo.wasm");
    std::fs::write(&path, maquette_fixtures::echo()).unwrap();
    let component = Part {
        digest: "echo".to_owned(),
        path,
    };
    let parts = Parts {
        component,
        weights: BTreeMap::new(),
        assets: BTreeMap::new(),
        limits: Limits::default(),
    };
    let engine = Engine::new(EngineConfig {
        cache: folder.join("cache"),
        ..EngineConfig::default()
    })
    .unwrap();
    let prepared = prepare(&engine, &parts).unwrap();
    Guest::open(
        &engine,
        &Runtime::cpu(RuntimeConfig::default()).unwrap(),
        &parts,
        &prepared,
    )
    .unwrap()
}

fn call(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let guest = open(folder.path());
    c.bench_function("whole call, fresh sandbox", |b| {
        b.iter(|| {
            guest
                .call(Call {
                    input: r#"{"a":1}"#.to_owned(),
                    ..Call::default()
                })
                .result
                .unwrap()
        });
    });
}

fn main() {
    // Guests need more stack than a process's first thread may have.
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    let run = || {
        let mut criterion = Criterion::default().configure_from_args();
        call(&mut criterion);
        criterion.final_summary();
    };
    thread.spawn(run).unwrap().join().unwrap();
}
