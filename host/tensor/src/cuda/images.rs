//! Pools and resizes: candle's pools where windows are regular, else a product with a matrix of shares for each axis. In f32.

use candle_core::{DType as Candle, Tensor};
use maquette_ops::Op;

use super::call::{Call, Result, in_f32, scalar};
use super::products::along_last;
use super::shapes::{pad, pick};

pub(super) fn pool(call: &Call<'_>) -> Result<Tensor> {
    in_f32(call.input(0)?, |x| match call.spec.op {
        Op::AdaptiveAvgPool2d => {
            let bins = |len: usize, size: usize| {
                call.matrix(size, len, |i, j| {
                    let (from, to) = (i * len / size, ((i + 1) * len).div_ceil(size));
                    if (from..to).contains(&j) {
                        1.0 / (to - from) as f64
                    } else {
                        0.0
                    }
                })
            };
            mix(call, x, bins)
        }
        op => {
            let kernel = call.pair(0)?;
            let given = call.pair(1)?;
            let stride = [0, 1].map(|at| if given[at] == 0 { kernel[at] } else { given[at] });
            let [py, px] = call.padding_pair()?;
            let around = |x: &Tensor, value: f64| -> Result<Tensor> {
                let value = scalar(value, Candle::F32, call.device)?;
                Ok(pad(&pad(x, 2, [py, py], &value)?, 3, [px, px], &value)?.contiguous()?)
            };
            let (kernel, stride) = ((kernel[0], kernel[1]), (stride[0], stride[1]));
            if op == Op::MaxPool2d {
                let largest = around(x, f64::NEG_INFINITY)?.max_pool2d_with_stride(kernel, stride)?;
                // Kernels pass over what is no number, and it is to win.
                let none = around(&x.ne(x)?.to_dtype(Candle::F32)?, 0.0)?.max_pool2d_with_stride(kernel, stride)?;
                let nan = scalar(f64::NAN, Candle::F32, call.device)?.broadcast_as(largest.shape())?;
                return Ok(none.gt(0.0)?.where_cond(&nan, &largest)?);
            }
            let means = around(x, 0.0)?.avg_pool2d_with_stride(kernel, stride)?;
            if call.flag(4)? || (py, px) == (0, 0) {
                return Ok(means);
            }
            // The share of each window that lies inside.
            let (_, _, h, w) = x.dims4()?;
            let ones = Tensor::ones((1, 1, h, w), Candle::F32, call.device)?;
            let inside = around(&ones, 0.0)?.avg_pool2d_with_stride(kernel, stride)?;
            Ok(means.broadcast_div(&inside)?)
        }
    })
}

impl Call<'_> {
    /// The padding of a pool, the same on both sides.
    fn padding_pair(&self) -> Result<[usize; 2]> {
        self.pair(2)
    }
}

pub(super) fn resize(call: &Call<'_>) -> Result<Tensor> {
    in_f32(call.input(0)?, |x| match call.spec.op {
        Op::ResizeNearest2d => {
            let exact = call.flag(1)?;
            let mut y = x.clone();
            for axis in [2, 3] {
                let (from, to) = (x.dims()[axis], call.shape()[axis]);
                y = pick(call, &y, axis, to, |i| match exact {
                    false => i * from / to,
                    true => ((2 * i + 1) * from / (2 * to)).min(from - 1),
                })?;
            }
            Ok(y)
        }
        _ => {
            let corners = call.flag(1)?;
            mix(call, x, |from, to| between(call, from, to, corners))
        }
    })
}

/// How much of each of `from` elements is in each of `to` that lie between them.
fn between(call: &Call<'_>, from: usize, to: usize, corners: bool) -> Result<Tensor> {
    call.matrix(to, from, |i, j| {
        let place = match (corners, to) {
            (true, 1) => 0.0,
            (true, _) => i as f64 * (from - 1) as f64 / (to - 1) as f64,
            (false, _) => ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0),
        };
        let first = (place as usize).min(from - 1);
        let share = place - first as f64;
        let second = (first + 1).min(from - 1);
        f64::from(u8::from(j == first)) * (1.0 - share) + f64::from(u8::from(j == second)) * share
    })
}

/// Every axis behind the channels multiplied by a matrix `[out, in]`.
fn mix(call: &Call<'_>, x: &Tensor, matrix: impl Fn(usize, usize) -> Result<Tensor>) -> Result<Tensor> {
    let last = x.rank() - 1;
    let mut y = x.clone();
    for axis in (2..x.rank()).rev() {
        let by = matrix(x.dims()[axis], call.shape()[axis])?;
        y = along_last(&y.transpose(axis, last)?, &by)?.transpose(axis, last)?;
    }
    Ok(y.contiguous()?)
}
