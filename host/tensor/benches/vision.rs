//! Ops of images against candle's own, in one run: the fastest of many rounds, taken in turn.
//! `cargo bench -p maquette-tensor --bench vision`
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor as Candle};
use candle_nn::Module;
use maquette_tensor::ops::{Attr, DType, lookup};
use maquette_tensor::{Budget, Control, Runtime, RuntimeConfig, Scope, Tensor};

struct Bench {
    scope: Scope,
    /// Only what has this in its name is run.
    filter: Option<String>,
}

impl Bench {
    /// The same numbers as a tensor of ours and of candle.
    fn tensor(&self, shape: &[usize]) -> (Tensor, Candle) {
        let len = shape.iter().product::<usize>() as u32;
        let values: Vec<f32> = (0..len)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0)
            .collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let dims: Vec<u32> = shape.iter().map(|n| *n as u32).collect();
        let ours = self.scope.from_bytes(DType::F32, &dims, &bytes).unwrap();
        (ours, Candle::from_vec(values, shape, &Device::Cpu).unwrap())
    }

    /// Times an op, and candle's where it has one, which must say the same.
    fn compare(
        &self,
        what: &str,
        flops: f64,
        op: &str,
        inputs: &[&Tensor],
        attrs: &[Attr],
        theirs: Option<&dyn Fn() -> Candle>,
    ) {
        if self
            .filter
            .as_ref()
            .is_some_and(|filter| !what.contains(filter.as_str()))
        {
            return;
        }
        let random = op.starts_with("rand");
        let op = lookup(op).unwrap();
        if let Some(theirs) = theirs.filter(|_| !random) {
            let ours = self.scope.read(&self.scope.apply(op, inputs, attrs).unwrap()).unwrap();
            let ours = ours
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            let theirs = theirs().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(ours.len(), theirs.len(), "{what}");
            let apart = ours.zip(&theirs).map(|(a, b)| (a - b).abs() / (1.0 + b.abs()));
            assert!(apart.fold(0.0, f32::max) < 1e-3, "{what} is not what candle says");
        }
        let mut best = [Duration::MAX; 2];
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(2) {
            let start = Instant::now();
            black_box(self.scope.apply(op, inputs, attrs).unwrap());
            best[0] = best[0].min(start.elapsed());
            if let Some(theirs) = theirs {
                let start = Instant::now();
                black_box(theirs());
                best[1] = best[1].min(start.elapsed());
            }
        }
        let [a, b] = best.map(|d| d.as_secs_f64() * 1e6);
        let rate = flops / a / 1e3;
        match theirs {
            Some(_) => println!("{what:<44} {a:10.1} {rate:7.1} {b:10.1} {:7.2}", b / a),
            None => println!("{what:<44} {a:10.1} {rate:7.1} {:>10} {:>7}", "-", "-"),
        }
    }

    fn conv(&self, what: &str, x: [usize; 4], weight: [usize; 4], stride: usize, groups: usize) {
        let (bias, bias_theirs) = self.tensor(&[weight[0]]);
        let (image, image_theirs) = self.tensor(&x);
        let (kernel, kernel_theirs) = self.tensor(&weight);
        let padding = weight[2] / 2;
        let theirs = || {
            let y = image_theirs.conv2d(&kernel_theirs, padding, stride, 1, groups).unwrap();
            y.broadcast_add(&bias_theirs.reshape((1, (), 1, 1)).unwrap()).unwrap()
        };
        let attrs = [
            Attr::Int(stride as i64),
            Attr::Int(padding as i64),
            Attr::Unset,
            Attr::Int(groups as i64),
        ];
        let flops = 2.0 * (x[2] / stride * (x[3] / stride) * weight.iter().product::<usize>()) as f64;
        self.compare(
            what,
            flops,
            "conv2d/1",
            &[&image, &kernel, &bias],
            &attrs,
            Some(&theirs),
        );
    }
}

fn main() {
    let runtime = Runtime::cpu(RuntimeConfig::default()).unwrap();
    let bench = Bench {
        scope: Scope::new(runtime, Budget::new(1 << 32), Control::default()),
        filter: std::env::args().skip(1).find(|arg| !arg.starts_with('-')),
    };
    println!("microseconds and GFLOP/s, candle's microseconds, and how many times as fast as candle");
    bench.conv(
        "conv2d 3x3, 64 to 64 at 128x128",
        [1, 64, 128, 128],
        [64, 64, 3, 3],
        1,
        1,
    );
    bench.conv(
        "conv2d 3x3, 256 to 256 at 28x28",
        [1, 256, 28, 28],
        [256, 256, 3, 3],
        1,
        1,
    );
    bench.conv("conv2d 3x3, 512 to 512 at 7x7", [1, 512, 7, 7], [512, 512, 3, 3], 1, 1);
    bench.conv(
        "conv2d 7x7 by 2, 3 to 64 at 224x224",
        [1, 3, 224, 224],
        [64, 3, 7, 7],
        2,
        1,
    );
    bench.conv(
        "conv2d 3x3, 32 groups, 128 to 128 at 56x56",
        [1, 128, 56, 56],
        [128, 4, 3, 3],
        1,
        32,
    );
    bench.conv("depthwise 3x3, 96 at 112x112", [1, 96, 112, 112], [96, 1, 3, 3], 1, 96);
    bench.conv(
        "depthwise 3x3 by 2, 96 at 112x112",
        [1, 96, 112, 112],
        [96, 1, 3, 3],
        2,
        96,
    );
    bench.conv("depthwise 7x7, 384 at 14x14", [1, 384, 14, 14], [384, 1, 7, 7], 1, 384);
    bench.conv("conv2d 1x1, 96 to 24 at 56x56", [1, 96, 56, 56], [24, 96, 1, 1], 1, 1);
    bench.conv(
        "conv2d 1x1, 512 to 512 at 14x14",
        [1, 512, 14, 14],
        [512, 512, 1, 1],
        1,
        1,
    );

    let (x, x_theirs) = bench.tensor(&[1, 64, 64, 64]);
    let (w, w_theirs) = bench.tensor(&[64, 64, 4, 4]);
    let theirs = || x_theirs.conv_transpose2d(&w_theirs, 1, 0, 2, 1).unwrap();
    let flops = 2.0 * (64 * 64 * 64 * 64 * 16) as f64;
    let attrs = [Attr::Int(2), Attr::Int(1)];
    bench.compare(
        "conv_transpose2d 4x4 by 2, 64 to 64 at 64x64",
        flops,
        "conv_transpose2d/1",
        &[&x, &w],
        &attrs,
        Some(&theirs),
    );

    let (x, x_theirs) = bench.tensor(&[1, 128, 64, 64]);
    let (w, w_theirs) = bench.tensor(&[128]);
    let elements = (128 * 64 * 64) as f64;
    let norm = candle_nn::GroupNorm::new(w_theirs.clone(), w_theirs, 128, 32, 1e-5).unwrap();
    let attrs = [Attr::Int(32)];
    let theirs = || norm.forward(&x_theirs).unwrap();
    bench.compare(
        "group_norm, 32 of 128 at 64x64",
        elements * 8.0,
        "group_norm/1",
        &[&x, &w, &w],
        &attrs,
        Some(&theirs),
    );
    let size = [Attr::Ints(vec![128, 128])];
    let theirs = || x_theirs.upsample_bilinear2d(128, 128, false).unwrap();
    bench.compare(
        "resize_bilinear2d, 128 at 64 to 128",
        elements * 24.0,
        "resize_bilinear2d/1",
        &[&x],
        &size,
        Some(&theirs),
    );
    let theirs = || x_theirs.upsample_nearest2d(128, 128).unwrap();
    bench.compare(
        "resize_nearest2d, 128 at 64 to 128",
        0.0,
        "resize_nearest2d/1",
        &[&x],
        &size,
        Some(&theirs),
    );
    let theirs = || x_theirs.max_pool2d(2).unwrap();
    bench.compare(
        "max_pool2d 2x2, 128 at 64x64",
        elements,
        "max_pool2d/1",
        &[&x],
        &[Attr::Int(2)],
        Some(&theirs),
    );
    let theirs = || x_theirs.max_pool2d_with_stride(3, 1).unwrap();
    let attrs = [Attr::Int(3), Attr::Int(1)];
    bench.compare(
        "max_pool2d 3x3 by 1, 128 at 64x64",
        elements * 6.0,
        "max_pool2d/1",
        &[&x],
        &attrs,
        Some(&theirs),
    );
    let theirs = || candle_nn::ops::pixel_shuffle(&x_theirs, 2).unwrap();
    bench.compare(
        "pixel_shuffle by 2, 128 at 64x64",
        0.0,
        "pixel_shuffle/1",
        &[&x],
        &[Attr::Int(2)],
        Some(&theirs),
    );
    bench.compare("mish, 128 at 64x64", elements * 16.0, "mish/1", &[&x], &[], None);
    let theirs = || Candle::randn(0.0_f32, 1.0, (1, 128, 64, 64), &Device::Cpu).unwrap();
    let attrs = [Attr::Ints(vec![1, 128, 64, 64])];
    bench.compare(
        "randn, 128 at 64x64",
        elements * 40.0,
        "randn/1",
        &[],
        &attrs,
        Some(&theirs),
    );
}
