//! Matrix products on candle's gemm, which takes dense and transposed operands as they are and nothing else.

use candle_core::{CpuStorage, D, DType as Candle, InplaceOp2, Layout, Tensor};
use maquette_kernels::stop;
use maquette_ops::{Error, Form};
use rayon::prelude::*;
use smallvec::SmallVec;

use super::{Result, pieces, widened};

/// Elements that one thread takes at once; fewer are not worth a second thread.
const CHUNK: usize = 16 << 10;

/// Multiply-adds of a piece of a large product: a few milliseconds of candle's, which cannot be left before its end.
const PIECE: u64 = 1 << 26;

/// Rows, and columns, of a piece at least.
const SIDE: usize = 32;

/// The most dimensions that candle multiplies: it tells the strides of two before the matrices at most.
const MAX_RANK: usize = 4;

/// The product of the last two dimensions, the others broadcast. The elements are the product's, under
/// a shape that may differ.
pub(super) fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (rank, depth) = (a.rank().max(b.rank()), a.dim(D::Minus1)?);
    let dim = |x: &Tensor, at: usize| (at + x.rank()).checked_sub(rank).map_or(1, |at| x.dims()[at]);
    let mut shape: SmallVec<[usize; 8]> = (0..rank).map(|at| dim(a, at).max(dim(b, at))).collect();
    shape[rank - 2] = dim(a, rank - 2);
    shape[rank - 1] = dim(b, rank - 1);
    let work = shape
        .iter()
        .fold(depth as u64, |work, dim| work.saturating_mul(*dim as u64));
    if work <= PIECE {
        return whole(a, b);
    }
    let to = pieces::empty(&shape, a.dtype())?;
    in_pieces(&to, a, b, work)?;
    Ok(to)
}

/// Writes a large product into a dense tensor: matrices one by one, rows, then columns.
fn in_pieces(to: &Tensor, a: &Tensor, b: &Tensor, work: u64) -> Result<()> {
    stop::look();
    let rank = to.rank();
    let (rows, columns) = (rank - 2, rank - 1);
    let least = |axis: usize| if axis >= rows { SIDE } else { 1 };
    let axis = (0..rank).find(|axis| work > PIECE && to.dims()[*axis] > least(*axis));
    let Some(axis) = axis else {
        return Ok(to.slice_set(&whole(a, b)?.reshape(to.dims())?.contiguous()?, 0, 0)?);
    };
    let len = to.dims()[axis];
    let step = (u128::from(PIECE) * len as u128 / u128::from(work)).clamp(least(axis) as u128, len as u128) as usize;
    let cut = |x: &Tensor, from: usize, size: usize| -> Result<Tensor> {
        let own = (axis + x.rank()).checked_sub(rank).filter(|own| x.dims()[*own] == len);
        Ok(own.map_or_else(|| Ok(x.clone()), |own| x.narrow(own, from, size))?)
    };
    for from in (0..len).step_by(step) {
        let size = step.min(len - from);
        let work = (u128::from(work) * size as u128 / len as u128) as u64;
        if axis == columns {
            // Not dense in the target, and with these few rows small.
            stop::look();
            let piece = whole(a, &b.narrow(b.rank() - 1, from, size)?)?;
            let mut shape = to.dims().to_vec();
            shape[columns] = size;
            to.slice_set(&piece.reshape(shape)?.contiguous()?, columns, from)?;
        } else {
            let a = cut(a, from, size)?;
            let b = if axis == rows { b.clone() } else { cut(b, from, size)? };
            in_pieces(&to.narrow(axis, from, size)?, &a, &b, work)?;
        }
    }
    Ok(())
}

fn whole(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dtype() == Candle::BF16 {
        // There is no bf16 kernel, and candle would widen all the memory under a view.
        return pieces::cast(&product(&widened(a)?, &widened(b)?)?, Candle::BF16);
    }
    let batch = |x: &Tensor| -> SmallVec<[usize; 8]> { x.dims()[..x.rank() - 2].iter().copied().collect() };
    if a.rank() == b.rank() && batch(a) == batch(b) {
        return Ok(stacked(&ready(a)?)?.matmul(&stacked(&ready(b)?)?)?);
    }
    if b.rank() == 2 {
        // Many matrices by one: the rows of all of them are one matrix.
        let (rows, columns) = (a.dims()[a.rank() - 2], a.dims()[a.rank() - 1]);
        let many: usize = batch(a).iter().product();
        let product = a.reshape((many * rows, columns))?.matmul(&ready(b)?)?;
        let mut shape: SmallVec<[usize; 8]> = a.dims().into();
        shape[a.rank() - 1] = b.dims()[1];
        return Ok(product.reshape(shape.as_slice())?);
    }
    if a.rank().max(b.rank()) > MAX_RANK {
        let (a, b) = alike(a, b)?;
        return Ok(stacked(&a)?.matmul(&stacked(&b)?)?);
    }
    Ok(pieces::contiguous(a)?.broadcast_matmul(&pieces::contiguous(b)?)?)
}

/// Many matrices in one dimension, if there are more dimensions than the kernel takes. The operand must be dense or transposed.
fn stacked(x: &Tensor) -> Result<Tensor> {
    let [batch @ .., rows, columns] = x.dims() else {
        return Ok(x.clone());
    };
    if x.rank() <= MAX_RANK {
        return Ok(x.clone());
    }
    let many: usize = batch.iter().product();
    if x.is_contiguous() {
        return Ok(x.reshape((many, *rows, *columns))?);
    }
    // Its transpose is dense, so that nothing is copied.
    Ok(x.t()?.reshape((many, *columns, *rows))?.t()?)
}

/// Both operands with the dimensions before their last two broadcast, dense.
fn alike(a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
    let rank = a.rank().max(b.rank());
    let dim = |x: &Tensor, at: usize| (at + x.rank()).checked_sub(rank).map_or(1, |at| x.dims()[at]);
    let batch: SmallVec<[usize; 8]> = (0..rank - 2).map(|at| dim(a, at).max(dim(b, at))).collect();
    let wide = |x: &Tensor| -> Result<Tensor> {
        let mut shape = batch.clone();
        shape.extend_from_slice(&x.dims()[x.rank() - 2..]);
        pieces::contiguous(&x.broadcast_as(shape.as_slice())?)
    };
    Ok((wide(a)?, wide(b)?))
}

/// `x * weight^T + bias`, as a matrix `[rows, out]`.
pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if x.dtype() == Candle::BF16 {
        let product = pieces::cast(&linear(&widened(x)?, &widened(weight)?, None)?, Candle::BF16)?;
        return Ok(bias.map_or_else(|| Ok(product.clone()), |bias| product.broadcast_add(bias))?);
    }
    let width = weight.dims()[1];
    let rows = x.elem_count() / width;
    let product = product(&pieces::contiguous(x)?.reshape((rows, width))?, &weight.t()?)?;
    let Some(bias) = bias else { return Ok(product) };
    if product.dtype() != Candle::F32 {
        return Ok(product.broadcast_add(bias)?);
    }
    // Nobody else has seen the product yet.
    product.inplace_op2(bias, &AddToRows)?;
    Ok(product)
}

/// The operand in a form that the kernel takes.
fn ready(x: &Tensor) -> Result<Tensor> {
    let shape: SmallVec<[u32; 8]> = x.dims().iter().map(|dim| *dim as u32).collect();
    match Form::of(&shape, x.stride()) {
        Form::Strided => pieces::contiguous(x),
        _ => Ok(x.clone()),
    }
}

/// Adds a vector to each row of a dense matrix.
struct AddToRows;

impl InplaceOp2 for AddToRows {
    fn name(&self) -> &'static str {
        "add-to-rows"
    }

    fn cpu_fwd(
        &self,
        matrix: &mut CpuStorage,
        _: &Layout,
        vector: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<()> {
        let (CpuStorage::F32(matrix), CpuStorage::F32(vector)) = (matrix, vector) else {
            return Err(candle_core::Error::wrap(Error::internal("not f32")));
        };
        let stride = layout.stride()[0];
        let (start, width) = (layout.start_offset(), layout.dims()[0]);
        let add = |rows: &mut [f32]| {
            for row in rows.chunks_exact_mut(width) {
                if stride == 1 {
                    row.iter_mut()
                        .zip(&vector[start..start + width])
                        .for_each(|(x, b)| *x += b);
                } else {
                    row.iter_mut()
                        .enumerate()
                        .for_each(|(i, x)| *x += vector[start + i * stride]);
                }
            }
        };
        let chunk = CHUNK.div_ceil(width) * width;
        if matrix.len() <= 2 * chunk {
            add(matrix);
        } else {
            matrix.par_chunks_mut(chunk).for_each(add);
        }
        Ok(())
    }
}
