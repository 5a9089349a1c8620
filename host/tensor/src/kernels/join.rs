//! Tensors put together: `cat`, `stack`, `pad`.

use candle_core::Tensor;

use super::Result;

/// Tensors one after the other along an axis. A single one is returned as it is.
pub(super) fn cat(parts: &[&Tensor], axis: usize) -> Result<Tensor> {
    if let [only] = parts {
        return Ok((*only).clone());
    }
    // An empty part adds nothing, and candle's copy of it would be refused.
    let mut filled = Vec::with_capacity(parts.len());
    for part in parts {
        if part.elem_count() > 0 {
            // Made dense first: what candle makes of other layouts is not.
            filled.push(part.contiguous()?);
        }
    }
    match filled.as_slice() {
        [only] => Ok(only.force_contiguous()?),
        _ => Ok(Tensor::cat(&filled, axis)?),
    }
}

/// Tensors of one shape along a new axis. A single one is returned under its new shape.
pub(super) fn stack(parts: &[&Tensor], axis: usize) -> Result<Tensor> {
    let parts: Vec<Tensor> = parts
        .iter()
        .map(|part| part.unsqueeze(axis))
        .collect::<candle_core::Result<_>>()?;
    cat(&parts.iter().collect::<Vec<_>>(), axis)
}

/// An axis made longer at both ends, filled with a scalar. Returned as it is if nothing is added.
pub(super) fn pad(x: &Tensor, axis: usize, left: usize, right: usize, value: &Tensor) -> Result<Tensor> {
    let side = |len: usize| -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        shape[axis] = len;
        Ok(value.broadcast_as(shape)?)
    };
    let sides = (side(left)?, side(right)?);
    match (left, right) {
        (0, 0) => Ok(x.clone()),
        (_, 0) => cat(&[&sides.0, x], axis),
        (0, _) => cat(&[x, &sides.1], axis),
        _ => cat(&[&sides.0, x, &sides.1], axis),
    }
}
