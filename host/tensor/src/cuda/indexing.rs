//! Elements taken from, or put to, the places that ids name. Every id is proven first.

use candle_core::{DType as Candle, Tensor};
use maquette_ops::{Error, Op};

use super::bounds::check;
use super::call::{Call, Result, cast, shaped, wide};
use super::shapes::cat;

pub(super) fn by_ids(call: &Call<'_>) -> Result<Tensor> {
    match call.spec.op {
        Op::Embedding => {
            let (table, ids) = (call.input(0)?, call.input(1)?);
            check(ids, call.range(1), table.dims()[0])?;
            let ids = ids.contiguous()?.flatten_all()?;
            shaped(&table.contiguous()?.index_select(&ids, 0)?, call.shape())
        }
        Op::IndexSelect => {
            let (x, ids) = (call.input(0)?, call.input(1)?);
            let axis = call.axis(0, x.rank())?;
            check(ids, call.range(1), x.dims()[axis])?;
            Ok(x.contiguous()?.index_select(&ids.contiguous()?, axis)?)
        }
        Op::Gather => {
            let (x, ids) = (call.input(0)?, call.input(1)?);
            let axis = call.axis(0, x.rank())?;
            check(ids, call.range(1), x.dims()[axis])?;
            // The kernel counts on equal dimensions beside the axis.
            let x = beside(x, ids.dims(), axis)?;
            Ok(x.contiguous()?.gather(&ids.contiguous()?, axis)?)
        }
        Op::Scatter | Op::ScatterAdd => scatter(call),
        Op::IndexAdd => {
            let (x, ids, src) = (call.input(0)?, call.input(1)?, call.input(2)?);
            let axis = call.axis(0, x.rank())?;
            check(ids, call.range(1), x.dims()[axis])?;
            if src.elem_count() == 0 {
                return Ok(x.force_contiguous()?);
            }
            let (x, src) = (wide(x)?.contiguous()?, wide(src)?.contiguous()?);
            cast(&x.index_add(&ids.contiguous()?, &src, axis)?, call.dtype())
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
    let (x, ids, src) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let axis = call.axis(0, x.rank())?;
    check(ids, call.range(1), x.dims()[axis])?;
    if ids.elem_count() == 0 {
        return Ok(x.force_contiguous()?);
    }
    let (x, src) = match call.spec.op {
        Op::Scatter => (x.clone(), src.contiguous()?),
        _ => (wide(x)?, wide(src)?.contiguous()?),
    };
    let (part, ids) = (beside(&x, ids.dims(), axis)?.contiguous()?, ids.contiguous()?);
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
