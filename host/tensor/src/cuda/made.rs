//! Tensors made of nothing, and the draw of a token, which the host makes: random numbers are the same everywhere.

use candle_core::{Device, Tensor};
use maquette_ops::Op;
use smallvec::SmallVec;

use super::call::{Call, Result};
use crate::buffers::Buffers;
use crate::kernels;

pub(super) fn made(call: &Call<'_>) -> Result<Tensor> {
    match call.spec.op {
        Op::Full => call.full(call.float(1)?),
        _ => on_host(call, &[]),
    }
}

/// Waits for the logits, draws, and sends the ids back.
pub(super) fn sample(call: &Call<'_>) -> Result<Tensor> {
    let inputs = call
        .inputs
        .iter()
        .map(|value| value.tensor.contiguous()?.to_device(&Device::Cpu));
    let inputs: SmallVec<[Tensor; 2]> = inputs.collect::<candle_core::Result<_>>()?;
    on_host(call, &inputs)
}

fn on_host(call: &Call<'_>, inputs: &[Tensor]) -> Result<Tensor> {
    let inputs: SmallVec<[&Tensor; 2]> = inputs.iter().collect();
    let made = call
        .turn
        .stoppable(|| kernels::run(call.spec, &inputs, call.attrs, call.out, &Buffers::none()))?;
    Ok(made.to_device(call.device)?)
}
