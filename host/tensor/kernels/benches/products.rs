//! Our matrix products against the crate `gemm` on its own threads, as candle uses it, in one run: the fastest of many rounds.
//! `cargo bench -p maquette-kernels --bench products`
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use maquette_kernels::gemm::{Epilogue, Packed, product};
use maquette_kernels::matmul::{self, Matrices};

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
            theirs_on(threads, [m, k, n], black_box(&x), black_box(&w), [1, k], &mut theirs);
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
    println!("as they lie, many of each:");
    let shapes = [
        (1, [1, 576, 576]),
        (1, [16, 384, 384]),
        (1, [128, 128, 128]),
        (1, [256, 256, 256]),
        (1, [1024, 1024, 1024]),
        (12, [16, 32, 16]),
        (12, [128, 32, 128]),
        (384, [32, 32, 32]),
    ];
    for (many, shape) in shapes {
        let [m, k, n] = shape;
        let (x, w) = (vec![0.5_f32; many * m * k], vec![0.25_f32; many * n * k]);
        let (mut ours, mut theirs) = (vec![0.0_f32; many * m * n], vec![0.0_f32; many * m * n]);
        let starts = |len: usize| (0..many).map(|i| i * len).collect::<Vec<_>>();
        let (from, to) = (starts(m * k), starts(k * n));
        let work = 2.0 * (many * m * n * k) as f64;
        let rounds = ((3e10 / work) as usize).clamp(10, 3000);
        let mut best = [Duration::MAX; 2];
        for _ in 0..rounds {
            let start = Instant::now();
            let left = Matrices {
                elements: black_box(&x[..]),
                strides: [k, 1],
                starts: &from,
            };
            let right = Matrices {
                elements: black_box(&w[..]),
                strides: [n, 1],
                starts: &to,
            };
            matmul::product(&left, &right, shape, black_box(&mut ours));
            best[0] = best[0].min(start.elapsed());
        }
        for _ in 0..rounds {
            let start = Instant::now();
            for i in 0..many {
                let (x, w) = (black_box(&x[i * m * k..]), black_box(&w[i * k * n..]));
                theirs_on(threads, shape, x, w, [n, 1], &mut theirs[i * m * n..]);
            }
            best[1] = best[1].min(start.elapsed());
        }
        assert!((ours[many * m * n - 1] - theirs[many * m * n - 1]).abs() < 1e-2);
        let [a, b] = best.map(|d| d.as_secs_f64());
        println!(
            "{many:3} of {m:4} x {k:4} x {n:4}: {:9.1} {:7.1}   gemm {:9.1} {:7.1}   {:.2}",
            a * 1e6,
            work / a / 1e9,
            b * 1e6,
            work / b / 1e9,
            b / a
        );
    }
}

/// The product of dense matrices, the right one with these strides, by `gemm` on so many threads of rayon's.
fn theirs_on(threads: usize, [m, k, n]: [usize; 3], x: &[f32], w: &[f32], [down, along]: [usize; 2], out: &mut [f32]) {
    assert!(x.len() >= m * k && w.len() >= k * n && out.len() >= m * n);
    // SAFETY: the slices have as many elements as the shapes and strides say.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            x.as_ptr(),
            1,
            k as isize,
            w.as_ptr(),
            along as isize,
            down as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(threads),
        );
    }
}
