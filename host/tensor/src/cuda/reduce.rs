//! Many elements to few along dimensions: sums, extremes, their places, softmax, and sums up to each element.

use candle_core::{DType as Candle, Tensor};
use maquette_ops::{Error, Op};

use super::call::{Call, Result, cast, in_f32, shaped, wide};

/// Sums and extremes over several axes.
pub(super) fn over_axes(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let op = call.spec.op;
    if x.elem_count() == 0 {
        // Of nothing: sums are 0, the logarithm of no exponentials is minus infinity, the others are not numbers.
        return Ok(call
            .full(match op {
                Op::Sum => 0.0,
                Op::Logsumexp => f64::NEG_INFINITY,
                _ => f64::NAN,
            })?
            .force_contiguous()?);
    }
    let axes = call.axes(x.rank())?;
    let count: usize = axes.iter().map(|axis| x.dims()[*axis]).product();
    let x = x.contiguous()?;
    let reduced = match op {
        Op::Sum if call.out.dtype.is_int() => sum(&x, &axes)?,
        Op::Sum => in_f32(&x, |x| sum(x, &axes))?,
        Op::Mean => in_f32(&x, |x| mean(x, &axes, count))?,
        Op::Max => extreme(&x, &axes, true)?,
        Op::Min => extreme(&x, &axes, false)?,
        Op::Logsumexp => in_f32(&x, |x| {
            let largest = finite(&extreme(x, &axes, true)?)?;
            let sum = sum(&x.broadcast_sub(&largest)?.exp()?, &axes)?;
            Ok(sum.log()?.add(&largest)?)
        })?,
        _ => {
            let less = usize::from(call.flag(2)?);
            in_f32(&x, |x| {
                let squares = x.broadcast_sub(&mean(x, &axes, count)?)?.sqr()?;
                // Of one element, unbiased: 0 / 0.
                let divisor = call.device_scalar((count - less) as f64)?;
                Ok(sum(&squares, &axes)?.broadcast_div(&divisor)?)
            })?
        }
    };
    shaped(&reduced, call.shape())
}

impl Call<'_> {
    fn device_scalar(&self, value: f64) -> Result<Tensor> {
        super::call::scalar(value, Candle::F32, self.device)
    }
}

/// The sum over axes, which stay with a length of 1.
pub(super) fn sum(x: &Tensor, axes: &[usize]) -> Result<Tensor> {
    match in_pieces(x, axes) {
        None => Ok(x.sum_keepdim(axes)?),
        Some((pieces, shape)) => shaped(&x.reshape(pieces)?.sum_keepdim(2)?.sum_keepdim(1)?, shape),
    }
}

/// What is dense and long and ends in the axes, as `[few, pieces, elements]`, and the shape of the result. A sum is one block's of threads
/// on a GPU: few long ones would leave most of it idle.
fn in_pieces(x: &Tensor, axes: &[usize]) -> Option<((usize, usize, usize), Vec<usize>)> {
    const LONG: usize = 1 << 15;
    let first = axes.iter().min().copied()?;
    if first + axes.len() != x.rank() || !x.is_contiguous() {
        return None;
    }
    let len: usize = x.dims()[first..].iter().product();
    let pieces = 1 << len.trailing_zeros().min(10);
    let few = x.elem_count().checked_div(len)?;
    let mut shape = x.dims().to_vec();
    shape[first..].fill(1);
    (len >= LONG && few < 256 && pieces > 1).then_some(((few, pieces, len / pieces), shape))
}

fn mean(x: &Tensor, axes: &[usize], count: usize) -> Result<Tensor> {
    Ok(sum(x, axes)?.affine(1.0 / count as f64, 0.0)?)
}

/// The largest or the smallest over axes, which stay with a length of 1.
pub(super) fn extreme(x: &Tensor, axes: &[usize], largest: bool) -> Result<Tensor> {
    let mut x = x.contiguous()?;
    for axis in axes {
        x = if largest {
            x.max_keepdim(*axis)?
        } else {
            x.min_keepdim(*axis)?
        };
    }
    Ok(x)
}

/// The numbers themselves, but 0 for infinities: what is subtracted before an exponential.
pub(super) fn finite(x: &Tensor) -> Result<Tensor> {
    Ok(x.abs()?.eq(f64::INFINITY)?.where_cond(&x.zeros_like()?, x)?)
}

/// The first place of the largest or smallest element. candle's own kernel on a GPU takes any of several equals.
pub(super) fn position(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let axis = call.axis(0, x.rank())?;
    let len = x.dims()[axis];
    let x = x.contiguous()?;
    let found = extreme(&x, &[axis], call.spec.op == Op::Argmax)?;
    let mut along = vec![1; x.rank()];
    along[axis] = len;
    let places = call.indices((0..len as u32).collect())?.reshape(along)?;
    // Where nothing equals it, it is not a number: the last place then.
    let last = super::call::scalar(len as f64 - 1.0, Candle::U32, call.device)?;
    let here = x.broadcast_eq(&found)?;
    let places = here.where_cond(&places.broadcast_as(x.shape())?, &last.broadcast_as(x.shape())?)?;
    shaped(&extreme(&places, &[axis], false)?, call.shape())
}

/// Softmax, its logarithm, and unit length, along one axis.
pub(super) fn along(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let axis = call.axis(0, x.rank())?;
    in_f32(x, |x| match call.spec.op {
        Op::Softmax if axis + 1 == x.rank() => Ok(candle_nn::ops::softmax_last_dim(x)?),
        Op::Softmax => Ok(candle_nn::ops::softmax(x, axis)?),
        Op::LogSoftmax => Ok(candle_nn::ops::log_softmax(x, axis)?),
        _ => {
            let length = sum(&x.sqr()?, &[axis])?.sqrt()?;
            let least = call.device_scalar(call.float(1)?)?;
            Ok(x.broadcast_div(&length.broadcast_maximum(&least)?)?)
        }
    })
}

/// Sums or products up to each element, by doubling: after step k each element holds those of the `2^k` before it.
pub(super) fn cumulative(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let axis = call.axis(0, x.rank())?;
    let len = x.dims()[axis];
    let product = call.spec.op == Op::Cumprod;
    let mut sums = wide(x)?.force_contiguous()?;
    let mut step = 1;
    while step < len {
        let mut shape = sums.dims().to_vec();
        shape[axis] = step;
        let neutral = super::call::scalar(f64::from(u8::from(product)), sums.dtype(), call.device)?;
        let first = neutral.broadcast_as(shape)?.contiguous()?;
        let before = Tensor::cat(&[&first, &sums.narrow(axis, 0, len - step)?.contiguous()?], axis)?;
        sums = if product {
            sums.mul(&before)?
        } else {
            sums.add(&before)?
        };
        step *= 2;
    }
    if sums.dims() != call.shape() {
        return Err(Error::internal("a scan of another shape").into());
    }
    cast(&sums, call.dtype())
}
