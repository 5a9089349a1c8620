//! Normalisations: the means and variances of rows and of channels, in f32.

use candle_core::{DType as Candle, Tensor};
use maquette_ops::Op;

use super::call::{Call, Result, in_f32, shaped, wide};
use super::elementwise::channels;
use super::reduce::sum;

pub(super) fn normalise(call: &Call<'_>) -> Result<Tensor> {
    in_f32(call.input(0)?, |x| match call.spec.op {
        Op::RmsNorm => {
            let weight = wide(call.input(1)?)?.contiguous()?;
            Ok(candle_nn::ops::rms_norm(x, &weight, call.float(0)? as f32)?)
        }
        Op::LayerNorm => {
            let weight = wide(call.input(1)?)?.contiguous()?;
            let bias = match call.optional(2) {
                Some(bias) => wide(bias)?.contiguous()?,
                None => Tensor::zeros(weight.shape(), Candle::F32, call.device)?,
            };
            // candle's kernel finds the variance in one pass, and a large mean would cost it every digit: it is taken away before.
            let width = weight.elem_count();
            let rows = x.reshape((x.elem_count() / width, width))?;
            let rows = centred(&rows, width)?;
            shaped(
                &candle_nn::ops::layer_norm(&rows, &weight, &bias, call.float(0)? as f32)?,
                x.shape(),
            )
        }
        Op::GroupNorm => {
            let groups = call.int(0)? * x.dims()[0];
            let width = x.elem_count() / groups;
            let rows = standard(&x.reshape((groups, width))?, width, call.float(1)?)?;
            let mut y = shaped(&rows, x.shape())?;
            if let Some(weight) = call.optional(1) {
                y = y.broadcast_mul(&channels(weight, x.rank())?)?;
            }
            if let Some(bias) = call.optional(2) {
                y = y.broadcast_add(&channels(bias, x.rank())?)?;
            }
            Ok(y)
        }
        _ => {
            let by = |at: usize| channels(call.input(at)?, x.rank());
            let scale = by(3)?.div(&by(2)?.affine(1.0, call.float(0)?)?.sqrt()?)?;
            let y = x.broadcast_sub(&by(1)?)?.broadcast_mul(&scale)?;
            Ok(y.broadcast_add(&by(4)?)?)
        }
    })
}

/// Rows with their mean taken away and divided by `sqrt(variance + eps)`, in two passes: in one, a large mean would cost every digit.
fn standard(rows: &Tensor, width: usize, eps: f64) -> Result<Tensor> {
    let centred = centred(rows, width)?;
    let deviation = sum(&centred.sqr()?, &[1])?.affine(1.0 / width as f64, eps)?.sqrt()?;
    Ok(centred.broadcast_div(&deviation)?)
}

/// Rows with their mean taken away.
fn centred(rows: &Tensor, width: usize) -> Result<Tensor> {
    Ok(rows.broadcast_sub(&sum(rows, &[1])?.affine(1.0 / width as f64, 0.0)?)?)
}
