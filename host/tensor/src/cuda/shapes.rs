//! Elements seen in another order, put together, or taken from several places.

use candle_core::Tensor;
use maquette_kernels::resize1d;
use maquette_ops::{Error, Op};

use super::call::{Call, Result, countable, nothing, shaped};

/// Views, which share memory; a reshape of what does not lie in order copies.
pub(super) fn view(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let rank = x.rank();
    Ok(match call.spec.op {
        Op::Reshape => x.reshape(call.shape())?,
        Op::Transpose => x.transpose(call.axis(0, rank)?, call.axis(1, rank)?)?,
        Op::Permute => x.permute(call.axes(rank)?.as_slice())?,
        Op::Narrow => {
            let axis = call.axis(0, rank)?;
            x.narrow(axis, call.size(1)?, call.shape()[axis])?
        }
        Op::BroadcastTo => x.broadcast_as(call.shape())?,
        Op::Squeeze => x.squeeze(call.axis(0, rank)?)?,
        _ => x.unsqueeze(call.axis(0, rank + 1)?)?,
    })
}

/// Tensors one after the other along an axis; empty ones add nothing. A single one is returned as it is.
pub(super) fn cat(parts: &[Tensor], axis: usize) -> Result<Tensor> {
    if let [only] = parts {
        return Ok(only.clone());
    }
    let filled = parts.iter().filter(|part| part.elem_count() > 0);
    let filled = filled
        .map(Tensor::contiguous)
        .collect::<candle_core::Result<Vec<_>>>()?;
    match (filled.as_slice(), parts) {
        ([], [first, ..]) => {
            let mut shape = first.dims().to_vec();
            shape[axis] = parts.iter().map(|part| part.dims()[axis]).sum();
            nothing(&shape, first.dtype(), first.device())
        }
        ([only], _) => Ok(only.force_contiguous()?),
        ([first, ..], _) => {
            let mut shape = first.dims().to_vec();
            shape[axis] = filled.iter().map(|part| part.dims()[axis]).sum();
            countable(&shape)?;
            Ok(Tensor::cat(&filled, axis)?)
        }
        ([], []) => Err(Error::internal("nothing was given to put together").into()),
    }
}

pub(super) fn join(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    match call.spec.op {
        Op::Cat => {
            let parts: Vec<Tensor> = call.inputs.iter().map(|value| value.tensor.clone()).collect();
            cat(&parts, call.axis(0, x.rank())?)
        }
        Op::Stack => {
            let axis = call.axis(0, x.rank() + 1)?;
            let parts = call.inputs.iter().map(|value| value.tensor.unsqueeze(axis));
            cat(&parts.collect::<candle_core::Result<Vec<_>>>()?, axis)
        }
        _ => {
            let axis = call.axis(0, x.rank())?;
            pad(x, axis, [call.size(1)?, call.size(2)?], &call.scalar(call.float(3)?)?)
        }
    }
}

/// An axis made longer at both ends, filled with a scalar. Returned as it is if nothing is added.
pub(super) fn pad(x: &Tensor, axis: usize, [left, right]: [usize; 2], value: &Tensor) -> Result<Tensor> {
    let side = |len: usize| -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        shape[axis] = len;
        countable(&shape)?;
        Ok(value.broadcast_as(shape)?)
    };
    match (left, right) {
        (0, 0) => Ok(x.clone()),
        (_, 0) => cat(&[side(left)?, x.clone()], axis),
        (0, _) => cat(&[x.clone(), side(right)?], axis),
        _ => cat(&[side(left)?, x.clone(), side(right)?], axis),
    }
}

/// The places `map(0)`, `map(1)`, .. of an axis. They must be there.
pub(super) fn pick(
    call: &Call<'_>,
    x: &Tensor,
    axis: usize,
    len: usize,
    map: impl Fn(usize) -> usize,
) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    shape[axis] = len;
    countable(&shape)?;
    let ids = call.indices((0..len).map(|i| map(i) as u32).collect())?;
    Ok(x.contiguous()?.index_select(&ids, axis)?)
}

/// Ops that take each element from a place that its own place decides, axis by axis.
pub(super) fn rearrange(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let (rank, shape) = (x.rank(), call.shape());
    let done = match call.spec.op {
        Op::PadReflect | Op::PadReplicate => {
            let axis = call.axis(0, rank)?;
            let (left, len, mirror) = (call.size(1)?, x.dims()[axis], call.spec.op == Op::PadReflect);
            pick(call, x, axis, shape[axis], |i| match i.checked_sub(left) {
                None if mirror => left - i,
                None => 0,
                Some(at) if at < len => at,
                Some(at) if mirror => 2 * (len - 1) - at,
                Some(_) => len - 1,
            })?
        }
        Op::ResizeNearest1d => {
            let (len, size, corners) = (x.dims()[2], shape[2], call.flag(1)?);
            pick(call, x, 2, size, |i| resize1d::nearest(i, len, size, corners))?
        }
        Op::Flip => {
            let mut flipped = x.clone();
            for axis in call.axes(rank)? {
                let len = shape[axis];
                flipped = pick(call, &flipped, axis, len, |i| len - 1 - i)?;
            }
            flipped
        }
        Op::Roll => {
            let axis = call.axis(0, rank)?;
            let len = shape[axis];
            let shift = call.signed(1)?.rem_euclid(len as i64) as usize;
            pick(call, x, axis, len, |i| (i + len - shift) % len)?
        }
        Op::Repeat => {
            let mut own = vec![1; shape.len() - rank];
            own.extend(x.dims());
            let mut repeated = x.reshape(own.as_slice())?;
            for (axis, (len, whole)) in own.iter().zip(&shape).enumerate() {
                if len != whole {
                    repeated = pick(call, &repeated, axis, *whole, |i| i % len)?;
                }
            }
            repeated
        }
        Op::RepeatInterleave => {
            let axis = call.axis(0, rank)?;
            let times = call.size(1)?;
            pick(call, x, axis, shape[axis], |i| i / times)?
        }
        _ => return Err(Error::internal("not an op that rearranges").into()),
    };
    // Where nothing moved, a copy keeps the promise that the output has memory of its own.
    Ok(if done.id() == x.id() {
        done.force_contiguous()?
    } else {
        done
    })
}

/// `tril` and `triu`: what lies on the wrong side of a diagonal is 0.
pub(super) fn triangle(call: &Call<'_>) -> Result<Tensor> {
    let (x, shape) = (call.input(0)?, call.shape());
    let [.., rows, columns] = shape[..] else {
        return Err(Error::internal("a matrix without two dimensions").into());
    };
    // No matrix is as large as the diagonal is held to be.
    let diagonal = call.signed(0)?.clamp(-(1 << 33), 1 << 33);
    let column = Tensor::from_vec((0..columns as i64).collect::<Vec<_>>(), (1, columns), call.device)?;
    let row = (0..rows as i64).map(|i| i + diagonal);
    let row = Tensor::from_vec(row.collect::<Vec<_>>(), (rows, 1), call.device)?;
    let kept = match call.spec.op {
        Op::Tril => column.broadcast_le(&row)?,
        _ => column.broadcast_ge(&row)?,
    };
    Ok(kept
        .broadcast_as(&*shape)?
        .where_cond(&x.contiguous()?, &call.full(0.0)?)?)
}

/// Channels to places and back.
pub(super) fn shuffle(call: &Call<'_>) -> Result<Tensor> {
    let f = call.int(0)?;
    let (n, c, h, w) = call.input(0)?.dims4()?;
    let x = call.input(0)?.contiguous()?;
    let moved = match call.spec.op {
        Op::PixelShuffle => x
            .reshape(vec![n, c / (f * f), f, f, h, w])?
            .permute(vec![0, 1, 4, 2, 5, 3])?,
        _ => x
            .reshape(vec![n, c, h / f, f, w / f, f])?
            .permute(vec![0, 1, 3, 5, 2, 4])?,
    };
    shaped(&moved.force_contiguous()?, call.shape())
}
