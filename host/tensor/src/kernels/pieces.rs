//! Large tensors a piece at a time: what candle computes cannot be left before its end, so it is given little at once, and between two
//! pieces the kernel looks whether to stop.

use std::ops::Range;

use bytemuck::zeroed_vec;
use candle_core::{DType as Candle, Device, Tensor};
use half::{bf16, f16};
use maquette_kernels::{reduce, stop};
use maquette_ops::{Op, PIECE, Type};
use smallvec::SmallVec;

use super::slices::{Dense, tensor};
use super::{Kernel, Result, integers};
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
    // As fresh pages of the system: candle writes the zeros of half floats one by one.
    let len = shape.iter().product();
    match dtype {
        Candle::F16 => tensor(zeroed_vec::<f16>(len), shape),
        Candle::BF16 => tensor(zeroed_vec::<bf16>(len), shape),
        _ => Ok(Tensor::zeros(shape, dtype, &Device::Cpu)?),
    }
}

/// Calls a function with pieces of a tensor that together are all of it, in row-major order.
fn each(x: &Tensor, function: &mut dyn FnMut(&Tensor) -> Result<()>) -> Result<()> {
    match outermost(x.dims()).filter(|_| is_large(x.elem_count())) {
        Some(axis) => parts(x.dims()[axis], x.elem_count()).try_for_each(|part| each(&cut(x, axis, &part)?, function)),
        None => function(x),
    }
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
            return Some(self.reduced_in_pieces(op, x));
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

    /// A reduction for parts of a dimension that is kept; if there is none, to one number.
    fn reduced_in_pieces(&self, op: Op, x: &Tensor) -> Result<Tensor> {
        let rank = x.rank();
        let single = matches!(op, Op::Argmax | Op::Argmin);
        let axes: SmallVec<[usize; 8]> = if single {
            SmallVec::from_slice(&[self.axis(0, rank)?])
        } else {
            self.axes(rank)?
        };
        let kept = (0..rank).find(|axis| x.dims()[*axis] > 1 && !axes.is_empty() && !axes.contains(axis));
        let Some(kept) = kept else {
            return match op {
                Op::Sum | Op::Mean => self.sum(op, x),
                _ => self.extreme(op, x),
            };
        };
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
        Ok(to)
    }

    /// The sum or mean of all of a tensor.
    fn sum(&self, op: Op, x: &Tensor) -> Result<Tensor> {
        let to = dims(&self.out.shape);
        if self.out.dtype.is_int() {
            let axes: SmallVec<[usize; 8]> = (0..x.rank()).collect();
            let mut sum = empty(&to, x.dtype())?;
            each(x, &mut |piece| {
                let part = integers::sum(&piece.contiguous()?, &axes, &to)?;
                sum = integers::binary(Op::Add, &sum, &part, &to)?;
                Ok(())
            })?;
            return Ok(sum);
        }
        let mut sum = 0.0;
        each(x, &mut |piece| {
            sum += reduce::total(Dense::wide(piece)?.read().f32()?);
            Ok(())
        })?;
        let count = if op == Op::Mean { x.elem_count() as f64 } else { 1.0 };
        Ok(self.full(sum / count)?.force_contiguous()?)
    }

    /// The largest or smallest element of all of a tensor, or its place.
    fn extreme(&self, op: Op, x: &Tensor) -> Result<Tensor> {
        let (mut found, mut place, mut seen) = (None, 0, 0);
        each(x, &mut |piece| {
            let piece = piece.flatten_all()?;
            // What was found before stands first, so that of equals it stays, and what is not a number counts as it does in one go.
            let before = found.take().unwrap_or(piece.narrow(0, 0, 1)?);
            let line = Tensor::cat(&[&before, &piece], 0)?;
            let at = match op {
                Op::Max | Op::Argmax => line.argmax(0)?,
                _ => line.argmin(0)?,
            };
            let at = at.to_scalar::<u32>()?;
            if at > 0 {
                place = seen + at - 1;
            }
            seen += piece.elem_count() as u32;
            found = Some(line.narrow(0, at as usize, 1)?.force_contiguous()?);
            Ok(())
        })?;
        match (op, found) {
            (Op::Max | Op::Min, Some(found)) => self.shaped(found),
            _ => Ok(self.full(f64::from(place))?.force_contiguous()?),
        }
    }
}
