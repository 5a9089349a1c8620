//! Recurrent layers, step by step, in f32: the inputs' share of all gates is one product, the states' one a step.

use candle_core::{DType as Candle, Tensor};
use maquette_ops::Op;

use super::call::{Call, Result, cast, shaped, wide};
use super::products::along_last;
use super::shapes::cat;

/// Nanoseconds that a device takes for the kernels of a step beside its products.
const STEP: u64 = 50_000;

pub(super) fn recurrent(call: &Call<'_>) -> Result<Tensor> {
    let x = wide(call.input(0)?)?.contiguous()?;
    let (batch, steps, width) = x.dims3()?;
    let lstm = call.spec.op == Op::Lstm;
    let w_hh = wide(call.input(2)?)?.contiguous()?;
    let hidden = w_hh.dims()[1];
    let gates = w_hh.dims()[0];
    let optional = |at: usize| call.optional(at).map(wide).transpose();
    let state = |at: usize| -> Result<Tensor> {
        match optional(at)? {
            Some(state) => Ok(state.contiguous()?),
            None => Ok(Tensor::zeros((batch, hidden), Candle::F32, call.device)?),
        }
    };
    let mut from_x = match width {
        0 => Tensor::zeros((batch, steps, gates), Candle::F32, call.device)?,
        _ => along_last(&x, &wide(call.input(1)?)?.contiguous()?)?,
    };
    if let Some(bias) = optional(3)? {
        from_x = from_x.broadcast_add(&bias)?;
    }
    let b_hh = optional(4)?;
    let mut h = state(5)?;
    let mut c = if lstm { state(6)? } else { h.clone() };
    let mut outputs = Vec::with_capacity(steps);
    let backwards = call.flag(0)?;
    let part =
        |gates: &Tensor, at: usize| -> Result<Tensor> { Ok(gates.narrow(1, at * hidden, hidden)?.contiguous()?) };
    let sigmoid = |x: &Tensor| -> Result<Tensor> { Ok(candle_nn::ops::sigmoid(x)?) };
    for step in 0..steps {
        let at = if backwards { steps - 1 - step } else { step };
        call.turn.launch(STEP)?;
        let from_x = from_x.narrow(1, at, 1)?.squeeze(1)?;
        let mut from_h = along_last(&h, &w_hh)?;
        if let Some(bias) = &b_hh {
            from_h = from_h.broadcast_add(bias)?;
        }
        if lstm {
            let gates = from_x.add(&from_h)?;
            let (i, f) = (sigmoid(&part(&gates, 0)?)?, sigmoid(&part(&gates, 1)?)?);
            let (g, o) = (part(&gates, 2)?.tanh()?, sigmoid(&part(&gates, 3)?)?);
            c = f.mul(&c)?.add(&i.mul(&g)?)?;
            h = o.mul(&c.tanh()?)?;
            outputs.push(cat(&[h.unsqueeze(1)?, c.unsqueeze(1)?], 1)?.unsqueeze(1)?);
        } else {
            let both = |at: usize| -> Result<Tensor> { sigmoid(&part(&from_x, at)?.add(&part(&from_h, at)?)?) };
            let (r, z) = (both(0)?, both(1)?);
            let n = part(&from_x, 2)?.add(&r.mul(&part(&from_h, 2)?)?)?.tanh()?;
            // (1 - z) n + z h
            h = n.add(&z.mul(&h.sub(&n)?)?)?;
            outputs.push(h.unsqueeze(1)?);
        }
    }
    if backwards {
        outputs.reverse();
    }
    cast(&shaped(&cat(&outputs, 1)?, call.shape())?, call.dtype())
}
