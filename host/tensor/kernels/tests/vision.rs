//! Kernels of images against float64, at sizes where blocks, tiles and pieces begin and end in the middle of something.
#![allow(clippy::unwrap_used, missing_docs)]

use maquette_kernels::channels::group_norm;
use maquette_kernels::conv::{Conv2d, ConvTranspose2d, conv_transpose2d, conv2d};
use maquette_kernels::pool::{Pool2d, Reduce, adaptive_avg_pool2d, pool2d};
use maquette_kernels::resize::{Resize2d, resize_bilinear2d, resize_nearest2d};
use proptest::prelude::*;

fn numbers(len: usize, seed: u32) -> Vec<f32> {
    (0..len as u32)
        .map(|i| {
            (i.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(97)) >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn close(found: &[f32], expected: &[f64], depth: usize) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let allowed = 4e-7 * (4.0 + depth as f64);
        prop_assert!(
            (f64::from(*found) - expected).abs() <= allowed,
            "{at}: {found}, expected {expected}"
        );
    }
    Ok(())
}

fn reference(sizes: &Conv2d, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let [n, c, h, w] = sizes.input;
    let [oh, ow] = sizes.size();
    let [kh, kw] = sizes.kernel;
    let (cg, og) = (c / sizes.groups, sizes.outputs / sizes.groups);
    let mut out = Vec::new();
    for (item, o) in (0..n).flat_map(|item| (0..sizes.outputs).map(move |o| (item, o))) {
        for (i, j) in (0..oh).flat_map(|i| (0..ow).map(move |j| (i, j))) {
            let mut sum = f64::from(bias[o]);
            for (k, a, b) in (0..cg).flat_map(|k| (0..kh).flat_map(move |a| (0..kw).map(move |b| (k, a, b)))) {
                let row = (i * sizes.stride[0] + a * sizes.dilation[0]).wrapping_sub(sizes.padding[0]);
                let column = (j * sizes.stride[1] + b * sizes.dilation[1]).wrapping_sub(sizes.padding[2]);
                if row < h && column < w {
                    let channel = item * c + o / og * cg + k;
                    let value = f64::from(x[(channel * h + row) * w + column]);
                    sum += value * f64::from(weight[((o * cg + k) * kh + a) * kw + b]);
                }
            }
            out.push(sum);
        }
    }
    out
}

fn check_conv(sizes: &Conv2d) -> Result<(), TestCaseError> {
    let [n, c, h, w] = sizes.input;
    let depth = c / sizes.groups * sizes.kernel[0] * sizes.kernel[1];
    let (x, weight, bias) = (
        numbers(n * c * h * w, 1),
        numbers(sizes.outputs * depth, 2),
        numbers(sizes.outputs, 3),
    );
    let [oh, ow] = sizes.size();
    let mut out = vec![f32::NAN; n * sizes.outputs * oh * ow];
    conv2d(sizes, &x, &weight, Some(&bias), &mut out);
    close(&out, &reference(sizes, &x, &weight, &bias), depth)
}

fn pair(range: std::ops::Range<usize>) -> impl Strategy<Value = [usize; 2]> {
    [range.clone(), range]
}

prop_compose! {
    fn convolution()(
        n in 1_usize..3, groups in 1_usize..4, cg in 1_usize..40, og in 1_usize..30, more in pair(0..60), kernel in pair(1..5),
        stride in pair(1..4), padding in [0_usize..6, 0..6, 0..6, 0..6], dilation in pair(1..4), thin in any::<bool>(),
    ) -> Conv2d {
        let (groups, cg, og) = if thin { (groups + cg, 1, 1 + og % 5) } else { (groups, cg, og) };
        let span = [0, 1].map(|axis| (kernel[axis] - 1) * dilation[axis] + 1);
        Conv2d {
            input: [n, groups * cg, span[0] + more[0] / 4, span[1] + more[1]],
            outputs: groups * og,
            kernel, stride, padding, dilation, groups,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_convolution_is_what_float64_says(sizes in convolution()) {
        check_conv(&sizes)?;
    }

    #[test]
    fn a_kernel_of_one_element_is_a_product(n in 1_usize..3, c in 1_usize..600, o in 1_usize..60, image in pair(1..15)) {
        check_conv(&Conv2d {
            input: [n, c, image[0], image[1]],
            outputs: o,
            kernel: [1, 1],
            stride: [1, 1],
            padding: [0; 4],
            dilation: [1, 1],
            groups: 1,
        })?;
    }

    /// `<conv(y), x> = <y, transpose(x)>` for every x and y, which says that the one is the transpose of the other.
    #[test]
    fn a_transposed_convolution_is_the_transpose(sizes in convolution()) {
        let mut sizes = sizes;
        for axis in [0, 1] {
            // What PyTorch's convention can say: the same padding on both sides, and no more than the kernel makes up for.
            let half = ((sizes.kernel[axis] - 1) * sizes.dilation[axis]) / 2;
            let cut = sizes.padding[2 * axis].min(half);
            sizes.padding[2 * axis] = cut;
            sizes.padding[2 * axis + 1] = cut;
        }
        let [n, c, h, w] = sizes.input;
        let [oh, ow] = sizes.size();
        let exact = [0, 1].map(|axis| {
            let span = (sizes.kernel[axis] - 1) * sizes.dilation[axis] + 1;
            ([oh, ow][axis] - 1) * sizes.stride[axis] + span - 2 * sizes.padding[2 * axis]
        });
        let extra = [h - exact[0], w - exact[1]];
        let depth = c / sizes.groups * sizes.kernel[0] * sizes.kernel[1];
        let (y, x) = (numbers(n * c * h * w, 1), numbers(n * sizes.outputs * oh * ow, 2));
        let weight = numbers(sizes.outputs * depth, 3);
        let mut forward = vec![0.0; x.len()];
        conv2d(&sizes, &y, &weight, None, &mut forward);
        let transposed = ConvTranspose2d {
            input: [n, sizes.outputs, oh, ow],
            outputs: c,
            kernel: sizes.kernel,
            stride: sizes.stride,
            padding: [sizes.padding[0], sizes.padding[2]],
            output_padding: extra,
            dilation: sizes.dilation,
            groups: sizes.groups,
        };
        prop_assert_eq!(transposed.size(), [h, w]);
        let mut back = vec![f32::NAN; y.len()];
        conv_transpose2d(&transposed, &x, &weight, None, &mut back);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let (left, right) = (dot(&forward, &x), dot(&y, &back));
        let size = forward.iter().zip(&x).map(|(a, b)| f64::from((a * b).abs())).sum::<f64>();
        prop_assert!((left - right).abs() <= 1e-5 * (1.0 + size), "{left} {right} of {size}");
    }

    #[test]
    fn wide_images_are_pooled_in_parts(w in 900_usize..2600, kernel in 1_usize..1100, stride in 1_usize..5, padding in 0_usize..4, max: bool) {
        let kernel = kernel.min(w).max(padding + 1);
        let sizes = Pool2d { input: [1, 2, 3, w], kernel: [2, kernel], stride: [1, stride], padding: [0, padding] };
        let x = numbers(6 * w, 1);
        let [oh, ow] = sizes.size();
        let mut out = vec![f32::NAN; 2 * oh * ow];
        let reduce = if max { Reduce::Max } else { Reduce::MeanInside };
        pool2d(&sizes, reduce, &x, &mut out);
        for c in 0..2 {
            for i in 0..oh {
                for j in (0..ow).step_by(37).chain([ow - 1]) {
                    let columns = (j * stride).saturating_sub(padding)..(j * stride + kernel - padding).min(w);
                    let seen: Vec<f64> = (0..2)
                        .flat_map(|a| columns.clone().map(move |column| (c * 3 + i + a) * w + column))
                        .map(|at| f64::from(x[at]))
                        .collect();
                    let expected = match max {
                        true => seen.iter().copied().fold(f64::MIN, f64::max),
                        false => seen.iter().sum::<f64>() / seen.len() as f64,
                    };
                    close(&[out[(c * oh + i) * ow + j]], &[expected], 8)?;
                }
            }
        }
    }

    #[test]
    fn wide_images_are_resized_in_parts(w in 1_usize..9000, ow in 1_usize..9000, align: bool) {
        let sizes = Resize2d { input: [1, 1, 2, w], size: [3, ow] };
        let x = numbers(2 * w, 1);
        let mut out = vec![f32::NAN; 3 * ow];
        resize_bilinear2d(&sizes, align, &x, &mut out);
        let between = |i: usize, from: usize, to: usize| {
            let at = match align {
                true => i as f64 * (from - 1) as f64 / (to.max(2) - 1) as f64,
                false => ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0),
            };
            (at as usize, (at as usize + 1).min(from - 1), at.fract())
        };
        let expected: Vec<f64> = (0..3 * ow)
            .map(|at| {
                let ((a, b, v), (l, r, u)) = (between(at / ow, 2, 3), between(at % ow, w, ow));
                let x = |i: usize, j: usize| f64::from(x[i * w + j]);
                (x(a, l) * (1.0 - u) + x(a, r) * u) * (1.0 - v) + (x(b, l) * (1.0 - u) + x(b, r) * u) * v
            })
            .collect();
        close(&out, &expected, 4)?;
        resize_nearest2d(&sizes, false, &x, &mut out);
        let expected: Vec<f64> = (0..3 * ow).map(|at| f64::from(x[at / ow * 2 / 3 * w + at % ow * w / ow])).collect();
        close(&out, &expected, 0)?;
    }

    #[test]
    fn groups_are_normalised_whatever_their_size(n in 1_usize..3, groups in 1_usize..5, each in 1_usize..5, width in 1_usize..9000, shift in -50.0_f32..50.0) {
        let c = groups * each;
        let x: Vec<f32> = numbers(n * c * width, 1).iter().map(|x| x + shift).collect();
        let mut out = vec![f32::NAN; x.len()];
        group_norm([n, c, width], groups, 1e-3, &x, None, None, &mut out);
        for (found, group) in out.chunks(each * width).zip(x.chunks(each * width)) {
            let count = group.len() as f64;
            let mean = group.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
            let variance = group.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count;
            let expected: Vec<f64> = group.iter().map(|x| (f64::from(*x) - mean) / (variance + 1e-3).sqrt()).collect();
            // The mean itself is rounded to f32 before it is taken away.
            close(found, &expected, 1000)?;
        }
    }
}

#[test]
fn a_pool_passes_on_what_is_not_a_number() {
    let sizes = Pool2d {
        input: [1, 1, 1, 5],
        kernel: [1, 2],
        stride: [1, 1],
        padding: [0, 0],
    };
    let mut out = [0.0; 4];
    pool2d(
        &sizes,
        Reduce::Max,
        &[1.0, f32::NAN, 2.0, 3.0, f32::NEG_INFINITY],
        &mut out,
    );
    assert!(out[0].is_nan() && out[1].is_nan() && out[2..] == [3.0, 3.0], "{out:?}");
}

#[test]
fn bins_cover_everything_once_where_they_divide() {
    let x = numbers(2 * 6 * 9, 1);
    let mut out = [0.0; 2 * 2 * 3];
    adaptive_avg_pool2d([1, 2, 6, 9], [2, 3], &x, &mut out);
    let sizes = Pool2d {
        input: [1, 2, 6, 9],
        kernel: [3, 3],
        stride: [3, 3],
        padding: [0, 0],
    };
    let mut pooled = [0.0; 2 * 2 * 3];
    pool2d(&sizes, Reduce::Mean, &x, &mut pooled);
    assert!(
        out.iter().zip(pooled).all(|(a, b)| (a - b).abs() < 1e-6),
        "{out:?} {pooled:?}"
    );
}

#[test]
fn bins_of_less_than_an_element_take_no_longer_than_others() {
    let x = numbers(1 << 18, 1);
    for (image, size) in [([1, 1 << 18], [1 << 18, 1]), ([1 << 18, 1], [1, 1 << 18])] {
        let mut out = vec![0.0; 1 << 18];
        // Hours, if each bin were summed anew.
        adaptive_avg_pool2d([1, 1, image[0], image[1]], size, &x, &mut out);
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64;
        close(&[out[0], out[(1 << 18) - 1]], &[mean, mean], 8).unwrap();
    }
}

#[test]
fn strides_and_dilations_may_be_larger_than_what_is_kept_near() {
    for (stride, dilation, w) in [(1000, 1, 5000), (1, 3000, 9100), (300, 700, 4000), (40_000, 1, 90_000)] {
        let sizes = Conv2d {
            input: [1, 2, 2, w],
            outputs: 2,
            kernel: [1, 3],
            stride: [1, stride],
            padding: [0, 0, 1, 1],
            dilation: [1, dilation],
            groups: 2,
        };
        check_conv(&sizes).unwrap();
    }
}
