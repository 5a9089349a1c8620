//! One element from one, two or three: arithmetic, comparisons, functions and activations.

use candle_core::{DType as Candle, Tensor};
use maquette_ops::{Error, Op};

use super::bounds;
use super::call::{Call, Result, cast, in_f32, scalar, wide};

pub(super) fn binary(call: &Call<'_>) -> Result<Tensor> {
    let (a, b) = (call.input(0)?, call.input(1)?);
    Ok(match call.spec.op {
        Op::Add => a.broadcast_add(b)?,
        Op::Sub => a.broadcast_sub(b)?,
        Op::Mul => a.broadcast_mul(b)?,
        Op::Div => a.broadcast_div(b)?,
        Op::Maximum => a.broadcast_maximum(b)?,
        Op::Minimum => a.broadcast_minimum(b)?,
        Op::Eq => a.broadcast_eq(b)?,
        Op::Ne => a.broadcast_ne(b)?,
        Op::Lt => a.broadcast_lt(b)?,
        Op::Le => a.broadcast_le(b)?,
        Op::Gt => a.broadcast_gt(b)?,
        _ => a.broadcast_ge(b)?,
    })
}

/// The same values as another dtype. A GPU's conversions to wider integers saturate by themselves; those to bytes do not.
pub(super) fn convert(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    match call.dtype() {
        Candle::U8 if x.dtype().is_float() => cast(&wide(x)?.clamp(0.0, 255.0)?, Candle::U8),
        dtype => cast(x, dtype),
    }
}

pub(super) fn select(call: &Call<'_>) -> Result<Tensor> {
    let shape = call.shape();
    let condition = call.input(0)?.broadcast_as(&*shape)?;
    let (a, b) = (
        call.input(1)?.broadcast_as(&*shape)?,
        call.input(2)?.broadcast_as(&*shape)?,
    );
    Ok(condition.where_cond(&a, &b)?)
}

/// `rem` and `pow`, in f64 for floats: quotients and logarithms need more digits than their operands have.
pub(super) fn float_pair(call: &Call<'_>) -> Result<Tensor> {
    let (a, b) = (call.input(0)?, call.input(1)?);
    if call.out.dtype.is_int() {
        bounds::nonzero(b, call.range(1))?;
        let (a, b) = (a.broadcast_as(call.shape())?, b.broadcast_as(call.shape())?);
        let rest = a.sub(&a.div(&b)?.mul(&b)?)?;
        if rest.dtype() != Candle::I64 {
            return Ok(rest);
        }
        // Division rounds toward zero: a rest of the other sign than the divisor is one divisor off.
        return Ok(off(&rest, &b)?.where_cond(&rest.add(&b)?, &rest)?);
    }
    let double = |x: &Tensor| -> Result<Tensor> { Ok(wide(x)?.to_dtype(Candle::F64)?.broadcast_as(call.shape())?) };
    let (a, b) = (double(a)?, double(b)?);
    let value = match call.spec.op {
        Op::Rem => {
            let rest = a.sub(&a.div(&b)?.floor()?.mul(&b)?)?;
            off(&rest, &b)?.where_cond(&rest.add(&b)?, &rest)?
        }
        _ => power(&a, &b)?,
    };
    cast(&value.to_dtype(Candle::F32)?, call.dtype())
}

/// Where a rest has another sign than its divisor.
fn off(rest: &Tensor, divisor: &Tensor) -> Result<Tensor> {
    let zero = rest.zeros_like()?;
    let other = rest.lt(&zero)?.ne(&divisor.lt(&zero)?)?;
    Ok(other.mul(&rest.ne(&zero)?)?)
}

/// `a^b`: the logarithm of the absolute value, and the sign of an odd power.
fn power(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let zero = b.zeros_like()?;
    let one = b.ones_like()?;
    let size = b.mul(&a.abs()?.log()?)?.exp()?;
    let size = b.eq(&zero)?.where_cond(&one, &size)?;
    let half = b.affine(0.5, 0.0)?;
    let odd = half.floor()?.ne(&half)?;
    let whole = b.floor()?.eq(b)?;
    let negative = odd.where_cond(&size.neg()?, &size)?;
    let none = scalar(f64::NAN, Candle::F32, b.device())?.to_dtype(Candle::F64)?;
    let negative = whole.where_cond(&negative, &none.broadcast_as(b.shape())?)?;
    Ok(a.lt(&a.zeros_like()?)?.where_cond(&negative, &size)?)
}

pub(super) fn unary(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    Ok(match call.spec.op {
        Op::Affine => x.affine(call.float(0)?, call.float(1)?)?,
        Op::Clamp => x.clamp(call.float(0)?, call.float(1)?)?,
        Op::Powf => x.powf(call.float(0)?)?,
        Op::Neg => x.neg()?,
        Op::Abs => x.abs()?,
        Op::Exp => x.exp()?,
        Op::Log => x.log()?,
        Op::Sqrt => x.sqrt()?,
        Op::Rsqrt => x.sqrt()?.recip()?,
        Op::Sqr => x.sqr()?,
        Op::Recip => x.recip()?,
        Op::Sin => x.sin()?,
        Op::Cos => x.cos()?,
        Op::Tanh => x.tanh()?,
        Op::Sigmoid => candle_nn::ops::sigmoid(x)?,
        Op::Silu => x.silu()?,
        Op::Relu => x.relu()?,
        Op::Gelu => x.gelu()?,
        Op::GeluErf => x.gelu_erf()?,
        Op::Erf => x.erf()?,
        Op::Floor => x.floor()?,
        Op::Ceil => x.ceil()?,
        Op::Round => x.round()?,
        Op::Sign => x.sign()?,
        op => return in_f32(x, |x| wide_unary(call, op, x)),
    })
}

/// What takes several kernels, in f32.
fn wide_unary(call: &Call<'_>, op: Op, x: &Tensor) -> Result<Tensor> {
    Ok(match op {
        Op::Log1p => log1p(x)?,
        Op::Expm1 => expm1(x)?,
        Op::LeakyRelu => above(x, &x.affine(call.float(0)?, 0.0)?)?,
        Op::Elu => {
            let below = expm1(x)?.affine(call.float(0)?, 0.0)?;
            above(x, &below)?
        }
        Op::HardSigmoid => hard_sigmoid(x)?,
        Op::HardSwish => x.mul(&hard_sigmoid(x)?)?,
        Op::Softplus => softplus(x)?,
        Op::Mish => x.mul(&softplus(x)?.tanh()?)?,
        _ => return Err(Error::internal("not a function of one element").into()),
    })
}

/// x where it is above 0, else something else: what is no number stays none.
fn above(x: &Tensor, below: &Tensor) -> Result<Tensor> {
    Ok(x.gt(0.0)?.where_cond(x, below)?)
}

fn hard_sigmoid(x: &Tensor) -> Result<Tensor> {
    Ok(x.affine(1.0, 3.0)?.clamp(0.0, 6.0)?.affine(1.0 / 6.0, 0.0)?)
}

/// `max(x, 0) + log(1 + exp(-|x|))`.
fn softplus(x: &Tensor) -> Result<Tensor> {
    Ok(x.relu()?.add(&log1p(&x.abs()?.neg()?.exp()?)?)?)
}

/// `log(1 + x)`: the rounding of `1 + x` is put right by how far it moved x (Higham, Accuracy and Stability of Numerical Algorithms, 1.14).
fn log1p(x: &Tensor) -> Result<Tensor> {
    let sum = x.affine(1.0, 1.0)?;
    let log = sum.log()?;
    let near = log.mul(&x.div(&sum.affine(1.0, -1.0)?)?)?;
    let near = sum.eq(1.0)?.where_cond(x, &near)?;
    Ok(x.gt(1.0)?.where_cond(&log, &near)?)
}

/// `exp(x) - 1`, put right near 0 in the same way.
fn expm1(x: &Tensor) -> Result<Tensor> {
    let power = x.exp()?;
    let far = power.affine(1.0, -1.0)?;
    let near = far.mul(&x.div(&power.log()?)?)?;
    let near = power.eq(1.0)?.where_cond(x, &near)?;
    Ok(x.abs()?.gt(0.5)?.where_cond(&far, &near)?)
}

/// A vector with one element a channel under the shape `[1, c, 1, ..]`; one element stays one.
pub(super) fn channels(vector: &Tensor, rank: usize) -> Result<Tensor> {
    let mut shape = vec![1; rank];
    if let Some(channel) = shape.get_mut(1) {
        *channel = vector.elem_count();
    }
    Ok(wide(vector)?.reshape(shape)?)
}

pub(super) fn by_channel(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let by = channels(call.input(1)?, x.rank())?;
    in_f32(x, |x| match call.spec.op {
        Op::Prelu => above(x, &x.broadcast_mul(&by)?),
        _ => {
            let wave = x.broadcast_mul(&by)?.sin()?.sqr()?;
            Ok(x.add(&wave.broadcast_div(&by)?)?)
        }
    })
}

pub(super) fn glu(call: &Call<'_>) -> Result<Tensor> {
    let x = call.input(0)?;
    let axis = call.axis(0, x.rank())?;
    in_f32(x, |x| {
        let half = x.dims()[axis] / 2;
        let (a, b) = (x.narrow(axis, 0, half)?, x.narrow(axis, half, half)?);
        Ok(a.mul(&candle_nn::ops::sigmoid(&b.contiguous()?)?)?)
    })
}
