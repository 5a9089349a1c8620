//! Softmax and normalisations: along the last dimension fused, half floats in f32.

use candle_core::{DType as Candle, Tensor};

use super::{Result, widened};

/// Half floats widened for an op that adds up many of them.
pub(super) fn in_f32(x: &Tensor, op: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    match x.dtype() {
        Candle::F16 | Candle::BF16 => Ok(op(&x.to_dtype(Candle::F32)?)?.to_dtype(x.dtype())?),
        _ => op(x),
    }
}

pub(super) fn softmax(x: &Tensor, axis: usize) -> Result<Tensor> {
    in_f32(x, |x| {
        if axis + 1 == x.rank() {
            return Ok(candle_nn::ops::softmax_last_dim(&x.contiguous()?)?);
        }
        Ok(candle_nn::ops::softmax(x, axis)?)
    })
}

pub(super) fn log_softmax(x: &Tensor, axis: usize) -> Result<Tensor> {
    in_f32(x, |x| Ok(candle_nn::ops::log_softmax(x, axis)?))
}

pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f32) -> Result<Tensor> {
    in_f32(x, |x| {
        let weight = widened(weight)?.contiguous()?;
        let bias = match bias {
            Some(bias) => widened(bias)?.contiguous()?,
            None => weight.zeros_like()?,
        };
        Ok(candle_nn::ops::layer_norm(&x.contiguous()?, &weight, &bias, eps)?)
    })
}

pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    in_f32(x, |x| {
        let weight = widened(weight)?.contiguous()?;
        Ok(candle_nn::ops::rms_norm(&x.contiguous()?, &weight, eps)?)
    })
}
