//! Rotary embedding, and attention as products, a mask and a softmax, in f32.

use candle_core::{D, DType as Candle, Tensor};
use maquette_ops::{Error, attr_flag, attr_float, attr_int};

use super::call::{Call, Result, cast, countable, in_f32, scalar, shaped, wide};
use super::reduce::extreme;
use super::shapes::cat;

/// What sees what, and how scores are made of products.
pub(super) struct Options {
    scale: f64,
    cap: f64,
    causal: bool,
    window: usize,
}

impl Options {
    /// The attributes at these places (scale, window, cap); a scale of 0 stands for `1 / sqrt(width)`.
    pub(super) fn of(call: &Call<'_>, [scale, window, cap]: [usize; 3], causal: bool, width: usize) -> Result<Self> {
        let read = || {
            Some(Self {
                scale: match attr_float(call.spec, call.attrs, scale)? {
                    0.0 => 1.0 / (width.max(1) as f64).sqrt(),
                    scale => scale,
                },
                cap: attr_float(call.spec, call.attrs, cap)?,
                causal,
                window: usize::try_from(attr_int(call.spec, call.attrs, window)?).ok()?,
            })
        };
        Ok(read().ok_or_else(|| Error::internal("an attribute is missing"))?)
    }
}

pub(super) fn attention(call: &Call<'_>) -> Result<Tensor> {
    let (q, k, v) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let causal = attr_flag(call.spec, call.attrs, 1).unwrap_or(false);
    let options = Options::of(call, [0, 2, 3], causal, q.dim(D::Minus1)?)?;
    if v.elem_count() == 0 {
        // There is nothing to see.
        return call.zeros();
    }
    let bias = call.optional(3).map(wide).transpose()?;
    let y = attend(&wide(q)?, &wide(k)?, &wide(v)?, bias.as_ref(), &options)?;
    cast(&y, call.dtype())
}

/// Attention over what a layer of a cache holds, of which `len` places count, and what is appended to it; the new layer beside it.
pub(super) fn cached(call: &Call<'_>, before: Option<[&Tensor; 2]>, len: usize) -> Result<[Tensor; 3]> {
    let (q, k, v) = (call.input(0)?, wide(call.input(1)?)?, wide(call.input(2)?)?);
    let options = Options::of(call, [2, 3, 4], true, q.dim(D::Minus1)?)?;
    let behind = |before: Option<&Tensor>, new: Tensor| -> Result<Tensor> {
        match before {
            Some(before) if len > 0 => cat(&[before.narrow(1, 0, len)?, new], 1),
            _ => Ok(new.force_contiguous()?),
        }
    };
    let (keys, values) = (behind(before.map(|b| b[0]), k)?, behind(before.map(|b| b[1]), v)?);
    let y = match call.out.elements() {
        0 => call.zeros()?,
        _ => cast(&attend(&wide(q)?, &keys, &values, None, &options)?, call.dtype())?,
    };
    Ok([y, keys, values])
}

/// q `[b, t, heads, d]`, k `[b, s, kv heads, d]`, v `[b, s, kv heads, e]`, all f32: `[b, t, heads, e]`. The queries of the heads that
/// share keys are rows of one matrix, so keys are not repeated.
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, bias: Option<&Tensor>, options: &Options) -> Result<Tensor> {
    let (b, t, heads, d) = q.dims4()?;
    let (_, s, kv_heads, e) = v.dims4()?;
    let group = heads / kv_heads;
    countable(&[b, heads, t, s])?;
    let grouped = q
        .reshape(vec![b, t, kv_heads, group, d])?
        .permute(vec![0, 2, 3, 1, 4])?;
    let grouped = grouped.force_contiguous()?.reshape((b * kv_heads, group * t, d))?;
    let by_head = |x: &Tensor, width: usize| -> Result<Tensor> {
        let x = x.permute((0, 2, 1, 3))?.force_contiguous()?;
        Ok(x.reshape((b * kv_heads, s, width))?)
    };
    let (k, v) = (by_head(k, d)?, by_head(v, e)?);
    // The queries are fewer than the scores.
    let products = match d {
        0 => Tensor::zeros((b * kv_heads, group * t, s), Candle::F32, q.device())?,
        _ => grouped.affine(options.scale, 0.0)?.matmul(&k.transpose(1, 2)?)?,
    };
    let mut scores = products.reshape((b, heads, t, s))?;
    if options.cap > 0.0 {
        scores = scores
            .affine(1.0 / options.cap, 0.0)?
            .tanh()?
            .affine(options.cap, 0.0)?;
    }
    if let Some(bias) = bias {
        scores = scores.broadcast_add(bias)?;
    }
    // A single query is at the last key and sees all that the window holds.
    let hides = options.causal && (t > 1 || (1..s).contains(&options.window));
    if hides {
        let seen = seen(t, s, options.window, q)?;
        let hidden = scalar(f64::NEG_INFINITY, Candle::F32, q.device())?;
        scores = seen
            .broadcast_as(scores.shape())?
            .where_cond(&scores, &hidden.broadcast_as(scores.shape())?)?;
    }
    // What sees nothing is 0, not 0 / 0.
    let blind = match bias.is_some() || (options.causal && s < t) {
        true => Some(extreme(&scores, &[3], true)?.eq(f64::NEG_INFINITY)?),
        false => None,
    };
    let weights = candle_nn::ops::softmax_last_dim(&scores)?.reshape((b * kv_heads, group * t, s))?;
    let mut y = weights.matmul(&v)?;
    if let Some(blind) = blind {
        let blind = blind.reshape((b * kv_heads, group * t, 1))?.broadcast_as(y.shape())?;
        let zero = scalar(0.0, Candle::F32, q.device())?.broadcast_as(y.shape())?;
        y = blind.where_cond(&zero, &y)?;
    }
    let y = y.reshape(vec![b, kv_heads, group, t, e])?;
    let y = y.permute(vec![0, 3, 1, 2, 4])?.force_contiguous()?;
    shaped(&y, (b, t, heads, e))
}

/// 1 where a query `[t]` sees a key `[s]`: the last query is at the last key, and a window bounds how many are seen.
fn seen(t: usize, s: usize, window: usize, like: &Tensor) -> Result<Tensor> {
    let ends: Vec<i64> = (0..t).map(|i| (s + i + 1).saturating_sub(t) as i64).collect();
    let keys = Tensor::from_vec((0..s as i64).collect::<Vec<_>>(), (1, s), like.device())?;
    let end = Tensor::from_vec(ends.clone(), (t, 1), like.device())?;
    let seen = keys.broadcast_lt(&end)?;
    if window == 0 {
        return Ok(seen);
    }
    let window = i64::try_from(window).unwrap_or(i64::MAX);
    let starts: Vec<i64> = ends.iter().map(|end| end.saturating_sub(window).max(0)).collect();
    let start = Tensor::from_vec(starts, (t, 1), like.device())?;
    Ok(seen.mul(&keys.broadcast_ge(&start)?)?)
}

pub(super) fn rope(call: &Call<'_>) -> Result<Tensor> {
    let (_, _, heads, width) = call.input(0)?.dims4()?;
    let positions = call.input(1)?;
    let frequencies: Tensor = match call.optional(2) {
        Some(given) => wide(given)?.to_dtype(Candle::F64)?.contiguous()?,
        None => {
            let frequencies = maquette_kernels::rope::frequencies(call.float(0)?, width);
            let n = frequencies.len();
            Tensor::from_vec(frequencies, n, call.device)?
        }
    };
    let n = frequencies.elem_count();
    // Angles in f64: a place far out times a frequency has no digits to spare in f32.
    let angles = positions
        .to_dtype(Candle::F64)?
        .unsqueeze(positions.rank())?
        .broadcast_mul(&frequencies)?;
    let (cos, sin) = (
        angles.cos()?.to_dtype(Candle::F32)?,
        angles.sin()?.to_dtype(Candle::F32)?,
    );
    let neighbours = attr_flag(call.spec, call.attrs, 1).unwrap_or(false);
    in_f32(call.input(0)?, |x| {
        if !neighbours && 2 * n == width {
            return Ok(candle_nn::rotary_emb::rope_thd(
                x,
                &cos.contiguous()?,
                &sin.contiguous()?,
            )?);
        }
        // The same for every head.
        let (cos, sin) = (cos.unsqueeze(D::Minus2)?, sin.unsqueeze(D::Minus2)?);
        let (b, t, _, _) = x.dims4()?;
        let turned = x.narrow(3, 0, 2 * n)?;
        let (a, z) = if neighbours {
            let pairs = turned.contiguous()?.reshape(vec![b, t, heads, n, 2])?;
            (pairs.narrow(4, 0, 1)?.squeeze(4)?, pairs.narrow(4, 1, 1)?.squeeze(4)?)
        } else {
            (turned.narrow(3, 0, n)?, turned.narrow(3, n, n)?)
        };
        let first = a.broadcast_mul(&cos)?.sub(&z.broadcast_mul(&sin)?)?;
        let second = z.broadcast_mul(&cos)?.add(&a.broadcast_mul(&sin)?)?;
        let turned = if neighbours {
            cat(&[first.unsqueeze(4)?, second.unsqueeze(4)?], 4)?.reshape((b, t, heads, 2 * n))?
        } else {
            cat(&[first, second], 3)?
        };
        match width - 2 * n {
            0 => Ok(turned),
            rest => cat(&[turned, x.narrow(3, 2 * n, rest)?], 3),
        }
    })
}
