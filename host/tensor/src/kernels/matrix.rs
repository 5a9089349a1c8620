//! Matrix products on candle's gemm, which takes dense and transposed operands as they are and nothing else.

use candle_core::{CpuStorage, DType as Candle, InplaceOp2, Layout, Tensor};
use maquette_ops::{Error, Form};
use rayon::prelude::*;
use smallvec::SmallVec;

use super::{Result, widened};

/// Elements that one thread takes at once; fewer are not worth a second thread.
const CHUNK: usize = 16 << 10;

/// The most dimensions that candle multiplies: it tells the strides of two before the matrices at most.
const MAX_RANK: usize = 4;

/// The product of the last two dimensions, the others broadcast. The elements are the product's, under
/// a shape that may differ.
pub(super) fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dtype() == Candle::BF16 {
        // There is no bf16 kernel, and candle would widen all the memory under a view.
        return Ok(product(&widened(a)?, &widened(b)?)?.to_dtype(Candle::BF16)?);
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
    Ok(a.contiguous()?.broadcast_matmul(&b.contiguous()?)?)
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
        Ok(x.broadcast_as(shape.as_slice())?.contiguous()?)
    };
    Ok((wide(a)?, wide(b)?))
}

/// `x * weight^T + bias`, as a matrix `[rows, out]`.
pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if x.dtype() == Candle::BF16 {
        let product = linear(&widened(x)?, &widened(weight)?, None)?.to_dtype(Candle::BF16)?;
        return Ok(bias.map_or_else(|| Ok(product.clone()), |bias| product.broadcast_add(bias))?);
    }
    let width = weight.dims()[1];
    let rows = x.elem_count() / width;
    let product = x.reshape((rows, width))?.matmul(&ready(&weight.t()?)?)?;
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
        Form::Strided => Ok(x.contiguous()?),
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
