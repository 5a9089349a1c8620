//! Our matrix products against the crate `gemm`, which candle uses, in one run: the fastest of many rounds, taken in turn.
//! `cargo bench -p maquette-kernels --bench products`
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use maquette_kernels::gemm::{Epilogue, Packed, product};

fn main() {
    let threads = maquette_kernels::team::team().threads();
    println!(
        "{threads} threads; microseconds, GFLOP/s, and how many times as fast as `gemm` with the weight as it lies"
    );
    let shapes = [
        (1, 384, 384),
        (1, 576, 1536),
        (16, 384, 384),
        (16, 384, 1536),
        (16, 1536, 384),
        (128, 384, 384),
        (128, 384, 1536),
        (128, 1536, 384),
        (512, 576, 1536),
        (4096, 384, 384),
        (4096, 384, 1536),
        (4096, 1536, 384),
    ];
    for (m, k, n) in shapes {
        let x = vec![0.5_f32; m * k];
        let w = vec![0.25_f32; n * k];
        let packed = Packed::from_rows(&w, n, k);
        let (mut ours, mut theirs) = (vec![0.0_f32; m * n], vec![0.0_f32; m * n]);
        let work = 2.0 * (m * n * k) as f64;
        let rounds = ((3e10 / work) as usize).clamp(10, 3000);
        let mut best = [Duration::MAX; 2];
        maquette_kernels::team::engaged(|| {
            for _ in 0..rounds {
                let start = Instant::now();
                product(black_box(&x), m, &packed, black_box(&mut ours), &Epilogue::default());
                best[0] = best[0].min(start.elapsed());
            }
        });
        for _ in 0..rounds {
            let start = Instant::now();
            // SAFETY: the slices have as many elements as the shapes and strides say.
            unsafe {
                gemm::gemm(
                    m,
                    n,
                    k,
                    black_box(&mut theirs).as_mut_ptr(),
                    1,
                    n as isize,
                    false,
                    black_box(&x).as_ptr(),
                    1,
                    k as isize,
                    w.as_ptr(),
                    k as isize,
                    1,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    gemm::Parallelism::Rayon(threads),
                );
            }
            best[1] = best[1].min(start.elapsed());
        }
        assert!((ours[m * n - 1] - theirs[m * n - 1]).abs() < 1e-2);
        let [a, b] = best.map(|d| d.as_secs_f64());
        println!(
            "{m:5} x {k:4} x {n:4}: {:9.1} {:7.1}   gemm {:9.1} {:7.1}   {:.2}",
            a * 1e6,
            work / a / 1e9,
            b * 1e6,
            work / b / 1e9,
            b / a
        );
    }
}
