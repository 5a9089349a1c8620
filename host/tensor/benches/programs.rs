//! A BERT of MiniLM's dimensions as a program, over the same network called natively in candle, on the same made-up weights, in
//! turns: the fastest and the median of many rounds. With MAQUETTE_TEST_DEVICE=cuda:0 both are on that GPU, and a round ends when the GPU
//! is done.
//!
//! `cargo bench -p maquette-tensor --bench programs`
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/bert.rs"]
mod bert;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use maquette_tensor::ops::DType;
use maquette_tensor::{Budget, Control, Device, Runtime, RuntimeConfig, Scope};

/// Milliseconds of the fastest and of the median round.
fn summary(mut rounds: Vec<f64>) -> (f64, f64) {
    rounds.sort_by(f64::total_cmp);
    (rounds[0], rounds[rounds.len() / 2])
}

fn main() {
    let native_too = !std::env::args().any(|arg| arg == "--ours");
    let after = |option: &str| std::env::args().skip_while(|arg| arg != option).nth(1);
    let folder = tempfile::tempdir().unwrap();
    // Where peers can read them, too.
    let path = after("--weights").map_or_else(|| folder.path().join("weights.safetensors"), Into::into);
    bert::write_weights(&path);
    let device: Device = std::env::var("MAQUETTE_TEST_DEVICE").map_or(Device::Cpu, |name| name.parse().unwrap());
    let started = Instant::now();
    let runtime = Runtime::on(device, RuntimeConfig::default()).unwrap();
    let opened = started.elapsed();
    let scope = Scope::new(Arc::clone(&runtime), Budget::new(1 << 32), Control::default());
    let files = [("model".to_owned(), runtime.weights().open("bench", &path).unwrap())].into();
    let program = scope.compile(&bert::description(), &files).unwrap();
    let native_device = match device {
        Device::Cuda(ordinal) => candle_core::Device::new_cuda(ordinal as usize).unwrap(),
        Device::Cpu | Device::Composed => candle_core::Device::Cpu,
    };
    let native = bert::Native::load(&path, &native_device);
    println!(
        "{device}: opened in {opened:.2?}, program compiled {:.2?} after the start",
        started.elapsed()
    );
    println!(
        "batch x tokens: milliseconds (fastest, median) of the program and of native candle, and the ratio of the medians"
    );
    let shapes = [(1_usize, 16_usize, 300), (1, 128, 80), (32, 16, 30), (32, 128, 6)];
    // One shape alone, for a profile of it: `--shape 2`.
    let only = after("--shape").and_then(|at| at.parse::<usize>().ok());
    for (at, (batch, tokens, count)) in shapes.into_iter().enumerate() {
        if only.is_some_and(|only| only != at) {
            continue;
        }
        let count = if only.is_some() { 10 * count } else { count };
        let (ids, mask) = bert::batch(batch, tokens);
        let (a, b) = bert::candle_inputs(&ids, &mask, batch, tokens, &native_device);
        let shape = [batch as u32, tokens as u32];
        let ids = scope
            .from_bytes(DType::U32, &shape, bytemuck::cast_slice(&ids))
            .unwrap();
        let mask = scope
            .from_bytes(DType::F32, &shape, bytemuck::cast_slice(&mask))
            .unwrap();

        let expected = native.forward(&a, &b).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let first = Instant::now();
        let found = scope.read(&program.run(&scope, &[&ids, &mask]).unwrap()[0]).unwrap();
        let first = first.elapsed();
        let found: Vec<f32> = bytemuck::pod_collect_to_vec(&found);
        let worst = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(worst < 1e-4, "they differ by {worst}");

        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let start = Instant::now();
            let outputs = black_box(program.run(&scope, &[black_box(&ids), black_box(&mask)]).unwrap());
            if !device.is_cpu() {
                scope.read_range(&outputs[0], 0, 1).unwrap();
            }
            ours.push(start.elapsed().as_secs_f64() * 1e3);
            if native_too {
                let start = Instant::now();
                black_box(native.forward(black_box(&a), black_box(&b)));
                native_device.synchronize().unwrap();
                theirs.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        let ours = summary(ours);
        let size = found.iter().map(|x| f64::from(x.abs())).sum::<f64>() / found.len() as f64;
        println!(
            "{batch:2} x {tokens:3}: the first took {first:.2?}, outputs are {size:.6} on average; off candle's by {worst:.1e}"
        );
        if native_too {
            let theirs = summary(theirs);
            println!(
                "{batch:2} x {tokens:3}: {:8.2} {:8.2}   candle {:8.2} {:8.2}   {:.2}",
                ours.0,
                ours.1,
                theirs.0,
                theirs.1,
                theirs.1 / ours.1
            );
        } else {
            println!("{batch:2} x {tokens:3}: {:8.2} {:8.2}", ours.0, ours.1);
        }
    }
}
