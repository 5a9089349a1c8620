//! Convolutions and their transposes in one and two dimensions, in f32: a transpose is a convolution of x with zeros between its
//! elements by the kernels turned around.

use candle_core::{DType as Candle, Tensor};
use maquette_ops::{Error, Op};

use super::call::{Call, Result, countable, in_f32, scalar, shaped, wide};
use super::elementwise::channels;
use super::shapes::{pad, pick};

/// How kernels move over an image, `[y, x]` each.
struct Moves {
    stride: [usize; 2],
    dilation: [usize; 2],
    groups: usize,
}

pub(super) fn convolve(call: &Call<'_>) -> Result<Tensor> {
    let weight = wide(call.input(1)?)?.contiguous()?;
    in_f32(call.input(0)?, |x| {
        // A signal is an image with one row.
        let image = |x: &Tensor| -> Result<Tensor> {
            if x.rank() == 3 {
                Ok(x.unsqueeze(2)?)
            } else {
                Ok(x.clone())
            }
        };
        let (x4, w4) = (image(x)?, image(&weight)?);
        let y = match call.spec.op {
            Op::Conv1d | Op::Conv2d => forward(call, &x4, &w4)?,
            _ => transposed(call, &x4, &w4)?,
        };
        let y = shaped(&y, call.shape())?;
        Ok(match call.optional(2) {
            Some(bias) => y.broadcast_add(&channels(bias, y.rank())?)?,
            None => y,
        })
    })
}

fn forward(call: &Call<'_>, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (moves, [top, bottom, left, right]) = if call.spec.op == Op::Conv1d {
        let (stride, dilation) = (call.int(0)?, call.int(3)?);
        let moves = Moves {
            stride: [stride; 2],
            dilation: [dilation; 2],
            groups: call.int(4)?,
        };
        (moves, [0, 0, call.int(1)?, call.int(2)?])
    } else {
        let moves = Moves {
            stride: call.pair(0)?,
            dilation: call.pair(2)?,
            groups: call.int(3)?,
        };
        (moves, call.padding(1)?)
    };
    let zero = scalar(0.0, Candle::F32, call.device)?;
    let x = pad(&pad(x, 2, [top, bottom], &zero)?, 3, [left, right], &zero)?;
    correlate(call, &x, weight, &moves)
}

/// x with its edges on, by the kernels.
fn correlate(call: &Call<'_>, x: &Tensor, weight: &Tensor, moves: &Moves) -> Result<Tensor> {
    let Moves {
        stride,
        dilation,
        groups,
    } = *moves;
    if weight.elem_count() == 0 || x.elem_count() == 0 {
        // Without channels, every sum is empty.
        return Ok(Tensor::zeros(images(call)?, Candle::F32, call.device)?);
    }
    // What each kernel's element sees, beside it.
    let (n, c, h, w) = x.dims4()?;
    let (o, _, kh, kw) = weight.dims4()?;
    let out = |len: usize, k: usize, at: usize| (len - dilation[at] * (k - 1) - 1) / stride[at] + 1;
    let (oh, ow) = (out(h, kh, 0), out(w, kw, 1));
    countable(&[n, c, kh, kw, oh, ow])?;
    if groups == 1 && stride[0] == stride[1] && dilation[0] == dilation[1] {
        return Ok(x.contiguous()?.conv2d(weight, 0, stride[0], dilation[0], 1)?);
    }
    // One product a group.
    let rows = pick(call, x, 2, kh * oh, |i| (i / oh) * dilation[0] + (i % oh) * stride[0])?;
    let all = pick(call, &rows, 3, kw * ow, |i| {
        (i / ow) * dilation[1] + (i % ow) * stride[1]
    })?;
    let seen = all.reshape(vec![n * c, kh, oh, kw, ow])?.permute(vec![0, 1, 3, 2, 4])?;
    let seen = seen
        .force_contiguous()?
        .reshape((n, groups, c / groups * kh * kw, oh * ow))?;
    let kernels = weight.reshape((1, groups, o / groups, c / groups * kh * kw))?;
    let product = kernels.broadcast_matmul(&seen)?;
    shaped(&product, (n, o, oh, ow))
}

/// The output's shape as that of images.
fn images(call: &Call<'_>) -> Result<Vec<usize>> {
    let mut shape = call.shape();
    if shape.len() == 3 {
        shape.insert(2, 1);
    }
    Ok(shape)
}

fn transposed(call: &Call<'_>, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (stride, padding, more, dilation, groups) = if call.spec.op == Op::ConvTranspose1d {
        let row = |at: usize, other: usize| -> Result<[usize; 2]> { Ok([other, call.int(at)?]) };
        (row(0, 1)?, row(1, 0)?, row(2, 0)?, row(3, 1)?, call.int(4)?)
    } else {
        (call.pair(0)?, call.pair(1)?, call.pair(2)?, call.pair(3)?, call.int(4)?)
    };
    if weight.elem_count() == 0 || x.elem_count() == 0 {
        return Ok(Tensor::zeros(images(call)?, Candle::F32, call.device)?);
    }
    let (c, o, kh, kw) = weight.dims4()?;
    let kernels = weight.reshape(vec![groups, c / groups, o, kh, kw])?.transpose(1, 2)?;
    let kernels = kernels.force_contiguous()?.reshape((groups * o, c / groups, kh, kw))?;
    let kernels = pick(call, &kernels, 2, kh, |i| kh - 1 - i)?;
    let kernels = pick(call, &kernels, 3, kw, |i| kw - 1 - i)?;
    let mut wide = x.contiguous()?;
    for (at, k) in [kh, kw].into_iter().enumerate() {
        let axis = at + 2;
        wide = spread(&wide, axis, stride[at])?;
        let reach = dilation[at] * (k - 1);
        wide = edge(
            &wide,
            axis,
            reach as i64 - padding[at] as i64,
            reach as i64 + more[at] as i64 - padding[at] as i64,
        )?;
    }
    let moves = Moves {
        stride: [1, 1],
        dilation,
        groups,
    };
    correlate(call, &wide, &kernels, &moves)
}

/// `step - 1` zeros between the elements of an axis.
fn spread(x: &Tensor, axis: usize, step: usize) -> Result<Tensor> {
    if step == 1 {
        return Ok(x.clone());
    }
    let mut shape = x.dims().to_vec();
    let len = shape[axis];
    let zero = scalar(0.0, x.dtype(), x.device())?;
    let apart = pad(&x.unsqueeze(axis + 1)?, axis + 1, [0, step - 1], &zero)?;
    shape[axis] = len * step;
    Ok(apart.reshape(shape)?.narrow(axis, 0, (len - 1) * step + 1)?)
}

/// Zeros put on both ends of an axis, or elements taken off where there are less than none.
fn edge(x: &Tensor, axis: usize, left: i64, right: i64) -> Result<Tensor> {
    let cut = |side: i64| usize::try_from(-side).unwrap_or(0);
    let add = |side: i64| usize::try_from(side).unwrap_or(0);
    let zero = scalar(0.0, x.dtype(), x.device())?;
    let x = pad(x, axis, [add(left), add(right)], &zero)?;
    let len = x.dims()[axis].checked_sub(cut(left) + cut(right));
    let len = len.ok_or_else(|| Error::internal("more is taken off an image than it has"))?;
    Ok(x.narrow(axis, cut(left), len)?.contiguous()?)
}
