//! Softmax and normalisations: along the last dimension with kernels of ours, half floats in f32.

use candle_core::{DType as Candle, Device, Tensor};
use maquette_kernels::norm;
use maquette_ops::{Error, Op};

use super::dense::elements;
use super::slices::{Dense, Read};
use super::{Kernel, Result, pieces};

/// Half floats widened for an op that adds up many of them.
pub(super) fn in_f32(x: &Tensor, op: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    match x.dtype() {
        Candle::F16 | Candle::BF16 => pieces::cast(&op(&pieces::cast(x, Candle::F32)?)?, x.dtype()),
        _ => op(x),
    }
}

impl Kernel<'_> {
    /// The elements of `x`, dense and f32, through a function into a tensor of the same shape.
    fn rows(&self, x: &Tensor, function: impl FnOnce(&[f32], &mut [f32])) -> Result<Tensor> {
        in_f32(x, |x| {
            let x = pieces::contiguous(x)?;
            let input = elements(&x).ok_or_else(|| Error::internal("rows that are not f32"))?;
            let mut out = self.buffers.take(input.len());
            function(&input, &mut out);
            Ok(Tensor::from_vec(out, x.shape(), &Device::Cpu)?)
        })
    }

    pub(super) fn softmax(&self, op: Op, x: &Tensor, axis: usize) -> Result<Tensor> {
        let last = x.rank() - 1;
        if axis != last {
            let turned = self.softmax(op, &x.transpose(axis, last)?, last)?;
            return pieces::contiguous(&turned.transpose(axis, last)?);
        }
        let width = x.dim(axis)?;
        self.rows(x, |x, out| match op {
            Op::Softmax => norm::softmax(x, width, out),
            _ => norm::log_softmax(x, width, out),
        })
    }

    pub(super) fn layer_norm(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, eps: f32) -> Result<Tensor> {
        let (weight, bias) = (Dense::wide(weight)?, bias.map(Dense::wide).transpose()?);
        let (weight, bias) = (weight.read(), bias.as_ref().map(Dense::read));
        let (weight, bias) = (weight.f32()?, bias.as_ref().map(Read::f32).transpose()?);
        self.rows(x, |x, out| norm::layer_norm(x, weight, bias, eps, out))
    }

    pub(super) fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        let weight = Dense::wide(weight)?;
        let weight = weight.read();
        let weight = weight.f32()?;
        self.rows(x, |x, out| norm::rms_norm(x, weight, eps, out))
    }
}
