//! Matrix products.

use candle_core::{D, Tensor};
use maquette_ops::Form;
use smallvec::SmallVec;

use super::call::{Call, Result, countable, shaped};

/// The operand in a form that the kernel takes.
pub(super) fn ready(x: &Tensor) -> Result<Tensor> {
    let shape: SmallVec<[u32; 8]> = x.dims().iter().map(|dim| *dim as u32).collect();
    match Form::of(&shape, x.stride()) {
        Form::Strided => Ok(x.contiguous()?),
        _ => Ok(x.clone()),
    }
}

pub(super) fn matmul(call: &Call<'_>) -> Result<Tensor> {
    let (a, b) = (call.input(0)?, call.input(1)?);
    if a.elem_count() == 0 || b.elem_count() == 0 {
        // The inner dimension is empty: every sum is 0.
        return call.zeros();
    }
    let batch = |x: &Tensor| -> SmallVec<[usize; 8]> { x.dims()[..x.rank() - 2].into() };
    let product = if a.rank() == b.rank() && batch(a) == batch(b) {
        ready(a)?.matmul(&ready(b)?)?
    } else if b.rank() == 2 {
        // Many matrices by one: the rows of all of them are one matrix.
        let columns = a.dim(D::Minus1)?;
        a.reshape((a.elem_count() / columns, columns))?.matmul(&ready(b)?)?
    } else {
        for x in [a, b] {
            let matrix = &x.dims()[x.rank() - 2..];
            countable(&[batch_of(call), matrix[0], matrix[1]])?;
        }
        a.contiguous()?.broadcast_matmul(&b.contiguous()?)?
    };
    shaped(&product, call.shape())
}

/// How many matrices the output is.
fn batch_of(call: &Call<'_>) -> usize {
    call.shape().iter().rev().skip(2).product()
}

pub(super) fn linear(call: &Call<'_>) -> Result<Tensor> {
    let (x, weight) = (call.input(0)?, call.input(1)?);
    let width = x.dim(D::Minus1)?;
    let product = match width {
        0 => call.zeros()?,
        _ => {
            let rows = x.elem_count() / width;
            shaped(&x.reshape((rows, width))?.matmul(&ready(&weight.t()?)?)?, call.shape())?
        }
    };
    Ok(match call.optional(2) {
        Some(bias) => product.broadcast_add(bias)?,
        None => product,
    })
}

/// `x m^T` for the last dimension of x and a matrix `[out, in]`.
pub(super) fn along_last(x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    let (out, width) = matrix.dims2()?;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = out;
    }
    let rows = x.contiguous()?.reshape((x.elem_count() / width, width))?;
    shaped(&rows.matmul(&matrix.t()?)?, shape)
}
