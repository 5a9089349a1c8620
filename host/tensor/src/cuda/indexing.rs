//! Elements taken from, or put to, the places that ids name. Every id is proven first.

use candle_core::{DType as Candle, Tensor};
use maquette_ops::{Error, Op};

use super::bounds::check;
use super::call::{Call, Result, cast, shaped, wide};
use super::shapes::cat;

/// The ids of an input, dense, each proven to be below a number of rows. Kernels take the largest number that a dtype holds for "none
/// here", and 255 is a row of many a table: bytes become integers of 32 bits, where no table has as many rows.
fn ids(call: &Call<'_>, at: usize, rows: usize) -> Result<Tensor> {
    let ids = call.input(at)?;
    check(ids, call.range(at), rows)?;
    Ok(match ids.dtype() {
        Candle::U8 => cast(ids, Candle::U32)?,
        _ => ids.contiguous()?,
    })
}

pub(super) fn by_ids(call: &Call<'_>) -> Result<Tensor> {
    match call.spec.op {
        Op::Embedding => {
            let table = call.input(0)?;
            let ids = ids(call, 1, table.dims()[0])?.flatten_all()?;
            shaped(&table.contiguous()?.index_select(&ids, 0)?, call.shape())
        }
        Op::IndexSelect => {
            let x = call.input(0)?;
            let axis = call.axis(0, x.rank())?;
            Ok(x.contiguous()?.index_select(&ids(call, 1, x.dims()[axis])?, axis)?)
        }
        Op::Gather => {
            let x = call.input(0)?;
            let axis = call.axis(0, x.rank())?;
            let ids = ids(call, 1, x.dims()[axis])?;
            // The kernel counts on equal dimensions beside the axis.
            let x = beside(x, ids.dims(), axis)?;
            Ok(x.contiguous()?.gather(&ids, axis)?)
        }
        Op::Scatter | Op::ScatterAdd => scatter(call),
        Op::IndexAdd => {
            let (x, src) = (call.input(0)?, call.input(2)?);
            let axis = call.axis(0, x.rank())?;
            let ids = ids(call, 1, x.dims()[axis])?;
            if src.elem_count() == 0 {
                return Ok(x.force_contiguous()?);
            }
            // candle's kernel writes to a copy of x at the place where x begins in its own memory: it has to begin there at 0.
            let (x, src) = (wide(x)?.force_contiguous()?, wide(src)?.contiguous()?);
            cast(&x.index_add(&ids, &src, axis)?, call.dtype())
        }
        Op::OneHot => {
            let ids = call.input(0)?;
            let depth = call.shape().last().copied().unwrap_or(0);
            check(ids, call.range(0), depth)?;
            let places = call.indices((0..depth as u32).collect())?;
            let ids = cast(ids, Candle::U32)?.unsqueeze(ids.rank())?;
            cast(&ids.broadcast_eq(&places)?, call.dtype())
        }
        _ => Err(Error::internal("not an op with ids").into()),
    }
}

/// The first part of x that is as large as `dims` beside an axis.
fn beside(x: &Tensor, dims: &[usize], axis: usize) -> Result<Tensor> {
    let mut part = x.clone();
    for (other, dim) in dims.iter().enumerate() {
        if other != axis {
            part = part.narrow(other, 0, *dim)?;
        }
    }
    Ok(part)
}

/// The part of x beside which the ids stand is changed; what lies beyond it is put back around it.
fn scatter(call: &Call<'_>) -> Result<Tensor> {
    let (x, src) = (call.input(0)?, call.input(2)?);
    let axis = call.axis(0, x.rank())?;
    let ids = ids(call, 1, x.dims()[axis])?;
    if ids.elem_count() == 0 {
        return Ok(x.force_contiguous()?);
    }
    let (x, src) = match call.spec.op {
        Op::Scatter => (x.clone(), src.contiguous()?),
        _ => (wide(x)?, wide(src)?.contiguous()?),
    };
    let part = beside(&x, ids.dims(), axis)?.contiguous()?;
    let mut done = match call.spec.op {
        Op::Scatter => part.scatter(&ids, &src, axis)?,
        _ => part.scatter_add(&ids, &src, axis)?,
    };
    for other in 0..x.rank() {
        let (len, whole) = (done.dims()[other], x.dims()[other]);
        if len < whole {
            let mut beyond = x.narrow(other, len, whole - len)?;
            for later in other + 1..x.rank() {
                beyond = beyond.narrow(later, 0, done.dims()[later])?;
            }
            done = cat(&[done, beyond], other)?;
        }
    }
    cast(&done, call.dtype())
}
