//! Large tensors a piece at a time: what candle computes cannot be left before its end, so it is given little at once, and between two
//! pieces the kernel looks whether to stop.

use std::ops::Range;

use candle_core::{DType as Candle, Device, Tensor};
use maquette_kernels::stop;
use maquette_ops::{Op, PIECE, Type};
use smallvec::SmallVec;

use super::{Kernel, Result};
use crate::tensor::{candle_dtype, dims};

/// The first dimension that there is more than one of.
fn outermost(shape: &[usize]) -> Option<usize> {
    shape.iter().position(|dim| *dim > 1)
}

/// Parts of a dimension of `len` with which a tensor of so many elements comes in pieces of about [`PIECE`].
pub(super) fn parts(len: usize, elements: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (len as u128 * PIECE as u128 / elements.max(1) as u128).clamp(1, len.max(1) as u128) as usize;
    (0..len)
        .step_by(step)
        .map(move |from| from..len.min(from + step))
        .inspect(|_| stop::look())
}

/// A part of a tensor along a dimension.
fn cut(x: &Tensor, axis: usize, part: &Range<usize>) -> Result<Tensor> {
    Ok(x.narrow(axis, part.start, part.len())?)
}

/// Whether a tensor is worth pieces.
pub(super) fn is_large(elements: usize) -> bool {
    elements > 2 * PIECE
}

/// Memory of its own for a tensor; what nobody has written yet is 0.
pub(super) fn empty(shape: &[usize], dtype: Candle) -> Result<Tensor> {
    Ok(Tensor::zeros(shape, dtype, &Device::Cpu)?)
}

/// Writes a function of a tensor, piece by piece, into a dense one of the same shape that nobody else has.
fn fill(to: &Tensor, x: &Tensor, function: &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<()> {
    match outermost(x.dims()).filter(|_| is_large(x.elem_count())) {
        Some(axis) => {
            for part in parts(x.dims()[axis], x.elem_count()) {
                fill(&cut(to, axis, &part)?, &cut(x, axis, &part)?, function)?;
            }
        }
        None => to.slice_set(&function(x)?, 0, 0)?,
    }
    Ok(())
}

/// A tensor in row-major order: itself if it is that already.
pub(crate) fn contiguous(x: &Tensor) -> Result<Tensor> {
    if x.is_contiguous() || !is_large(x.elem_count()) {
        return Ok(x.contiguous()?);
    }
    copied(x)
}

/// A copy in row-major order.
pub(crate) fn copied(x: &Tensor) -> Result<Tensor> {
    if !is_large(x.elem_count()) {
        return Ok(x.force_contiguous()?);
    }
    let to = empty(x.dims(), x.dtype())?;
    fill(&to, x, &|x| Ok(x.contiguous()?))?;
    Ok(to)
}

/// A tensor as another type: itself if it is that already.
pub(crate) fn cast(x: &Tensor, dtype: Candle) -> Result<Tensor> {
    if x.dtype() == dtype || !is_large(x.elem_count()) {
        return Ok(x.to_dtype(dtype)?);
    }
    let to = empty(x.dims(), dtype)?;
    fill(&to, x, &|x| Ok(x.to_dtype(dtype)?.contiguous()?))?;
    Ok(to)
}

/// Writes a tensor into a dense one along an axis, from a place on.
pub(super) fn put(to: &Tensor, x: &Tensor, axis: usize, at: usize) -> Result<()> {
    match outermost(x.dims()).filter(|_| is_large(x.elem_count())) {
        Some(outer) if outer < axis => {
            for part in parts(x.dims()[outer], x.elem_count()) {
                put(&cut(to, outer, &part)?, &cut(x, outer, &part)?, axis, at)?;
            }
            Ok(())
        }
        // Before the axis there are only dimensions of 1: that part of the target is dense.
        Some(_) => fill(&to.narrow(axis, at, x.dims()[axis])?, x, &|x| Ok(x.contiguous()?)),
        None => Ok(to.slice_set(&x.contiguous()?, axis, at)?),
    }
}

/// Whether each element of an op's output depends on the inputs' elements at its place alone.
fn is_elementwise(op: Op) -> bool {
    matches!(
        op,
        Op::Add
            | Op::Sub
            | Op::Mul
            | Op::Div
            | Op::Maximum
            | Op::Minimum
            | Op::Eq
            | Op::Ne
            | Op::Lt
            | Op::Le
            | Op::Gt
            | Op::Ge
            | Op::Where
            | Op::Affine
            | Op::Clamp
            | Op::Powf
            | Op::Neg
            | Op::Abs
            | Op::Exp
            | Op::Log
            | Op::Sqrt
            | Op::Rsqrt
            | Op::Sqr
            | Op::Recip
            | Op::Sin
            | Op::Cos
            | Op::Tanh
            | Op::Sigmoid
            | Op::Silu
            | Op::Relu
            | Op::Gelu
            | Op::GeluErf
            | Op::Erf
            | Op::Floor
            | Op::Ceil
            | Op::Round
            | Op::Sign
            | Op::Cast
    )
}

impl Kernel<'_> {
    /// Runs the op in pieces, if it is large and can be.
    pub(super) fn in_pieces(&self, op: Op, x: &Tensor) -> Option<Result<Tensor>> {
        let elements = self.out.elements() as usize;
        if is_elementwise(op) && is_large(elements) {
            let done = || {
                let to = empty(&dims(&self.out.shape), candle_dtype(self.out.dtype))?;
                self.fill(op, &to)?;
                Ok(to)
            };
            return Some(done());
        }
        let reduces = matches!(op, Op::Sum | Op::Mean | Op::Max | Op::Min | Op::Argmax | Op::Argmin);
        if reduces && is_large(x.elem_count()) {
            return self.reduced_in_pieces(op, x).transpose();
        }
        None
    }

    /// The same op, of some inputs, for a part of its output.
    fn part<'a>(&'a self, inputs: &'a [&'a Tensor], out: &'a Type<u32>) -> Kernel<'a> {
        Kernel {
            spec: self.spec,
            inputs,
            attrs: self.attrs,
            out,
            buffers: self.buffers,
        }
    }

    /// Writes an elementwise op's output into a dense tensor.
    fn fill(&self, op: Op, to: &Tensor) -> Result<()> {
        let shape = to.dims();
        let axis = outermost(shape).filter(|_| is_large(to.elem_count()));
        let Some(axis) = axis else {
            let [x, ..] = self.inputs else { return Ok(()) };
            return Ok(to.slice_set(&self.shaped(self.with_input(op, x)?)?.contiguous()?, 0, 0)?);
        };
        for part in parts(shape[axis], to.elem_count()) {
            let mut inputs: SmallVec<[Tensor; 3]> = SmallVec::new();
            for input in self.inputs {
                // Dimensions are matched from the last on; one that there is one of is repeated.
                let own = (axis + input.rank()).checked_sub(shape.len());
                let own = own.filter(|own| input.dims()[*own] == shape[axis]);
                inputs.push(own.map_or_else(|| Ok((*input).clone()), |own| cut(input, own, &part))?);
            }
            let inputs: SmallVec<[&Tensor; 3]> = inputs.iter().collect();
            let mut out = self.out.clone();
            out.shape[axis] = part.len() as u32;
            self.part(&inputs, &out).fill(op, &cut(to, axis, &part)?)?;
        }
        Ok(())
    }

    /// A reduction for parts of a dimension that is kept; nothing if there is none.
    fn reduced_in_pieces(&self, op: Op, x: &Tensor) -> Result<Option<Tensor>> {
        let rank = x.rank();
        let single = matches!(op, Op::Argmax | Op::Argmin);
        let axes: SmallVec<[usize; 8]> = if single {
            SmallVec::from_slice(&[self.axis(0, rank)?])
        } else {
            self.axes(rank)?
        };
        if axes.is_empty() {
            return Ok(None);
        }
        let kept = (0..rank).find(|axis| x.dims()[*axis] > 1 && !axes.contains(axis));
        let Some(kept) = kept else { return Ok(None) };
        let gone = if self.out.shape.len() == rank {
            0
        } else {
            axes.iter().filter(|axis| **axis < kept).count()
        };
        let to = empty(&dims(&self.out.shape), candle_dtype(self.out.dtype))?;
        for part in parts(x.dims()[kept], x.elem_count()) {
            let mut out = self.out.clone();
            out.shape[kept - gone] = part.len() as u32;
            let x = cut(x, kept, &part)?;
            // As large as it was if the whole is one place of this dimension: then it goes on with the next.
            let done = self.part(&[&x], &out).with_input(op, &x)?;
            to.slice_set(&done.contiguous()?, kept - gone, part.start)?;
        }
        Ok(Some(to))
    }
}
