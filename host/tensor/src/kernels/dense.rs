//! Our own kernels on dense f32: what candle is slow at.

use std::ops::Deref;

use candle_core::{CpuStorage, DType as Candle, Device, Storage, Tensor};
use maquette_kernels::map::{self, Binary, Unary};
use maquette_ops::Op;

use super::{Kernel, Result};
use crate::tensor::dims;

/// The elements of a dense f32 tensor.
struct Elements<G> {
    storage: G,
    start: usize,
    end: usize,
}

/// The elements, if the tensor is f32 and dense.
pub(crate) fn elements(x: &Tensor) -> Option<impl Deref<Target = [f32]> + '_> {
    let (storage, layout) = x.storage_and_layout();
    let (start, end) = layout.contiguous_offsets()?;
    matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))).then_some(Elements { storage, start, end })
}

impl<G: Deref<Target = Storage>> Deref for Elements<G> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(all)) => &all[self.start..self.end],
            _ => &[],
        }
    }
}

impl Kernel<'_> {
    /// Runs the op with a kernel of ours, if there is one for it and these inputs.
    pub(super) fn dense(&self, op: Op, x: &Tensor) -> Option<Result<Tensor>> {
        if x.dtype() != Candle::F32 || self.out.dtype != maquette_ops::DType::F32 {
            return None;
        }
        match op {
            Op::Add | Op::Sub | Op::Mul | Op::Div => self.dense_binary(op, x),
            _ => self.dense_unary(op, x),
        }
    }

    fn dense_unary(&self, op: Op, x: &Tensor) -> Option<Result<Tensor>> {
        let function = match op {
            Op::Exp => Unary::Exp,
            Op::Sigmoid => Unary::Sigmoid,
            Op::Silu => Unary::Silu,
            Op::Tanh => Unary::Tanh,
            Op::Relu => Unary::Relu,
            Op::Erf => Unary::Erf,
            Op::GeluErf => Unary::GeluErf,
            Op::Gelu => Unary::Gelu,
            Op::Sqr => Unary::Sqr,
            Op::Neg => Unary::Neg,
            _ => return None,
        };
        let x = elements(x)?;
        let mut out = self.buffers.take(x.len());
        map::unary(function, &x, &mut out);
        Some(self.dense_output(out))
    }

    fn dense_binary(&self, op: Op, a: &Tensor) -> Option<Result<Tensor>> {
        let function = match op {
            Op::Add => Binary::Add,
            Op::Sub => Binary::Sub,
            Op::Mul => Binary::Mul,
            _ => Binary::Div,
        };
        let b = self.inputs.get(1)?;
        let commutes = matches!(op, Op::Add | Op::Mul);
        let whole = |x: &Tensor| x.elem_count() as u64 == self.out.elements();
        let (a, b) = if whole(a) {
            (a, *b)
        } else if commutes && whole(b) {
            (*b, a)
        } else {
            return None;
        };
        // The shorter one must be the last dimensions of the longer, so that it repeats as a whole.
        let tail: Vec<usize> = b.dims().iter().copied().skip_while(|dim| *dim == 1).collect();
        if !a.dims().ends_with(&tail) {
            return None;
        }
        let (a, b) = (elements(a)?, elements(b)?);
        let mut out = self.buffers.take(a.len());
        map::binary(function, &a, &b, &mut out);
        Some(self.dense_output(out))
    }

    /// A tensor of the output's shape.
    fn dense_output(&self, elements: Vec<f32>) -> Result<Tensor> {
        Ok(Tensor::from_vec(elements, dims(&self.out.shape), &Device::Cpu)?)
    }
}
