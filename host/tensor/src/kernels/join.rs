//! Tensors put together: `cat`, `stack`, `pad`.

use candle_core::Tensor;

use smallvec::SmallVec;

use super::{Result, pieces};

/// Tensors one after the other along an axis. A single one is returned as it is.
pub(super) fn cat(parts: &[&Tensor], axis: usize) -> Result<Tensor> {
    if let [only] = parts {
        return Ok((*only).clone());
    }
    // An empty part adds nothing, and candle's copy of it would be refused.
    let filled: SmallVec<[&Tensor; 8]> = parts.iter().copied().filter(|part| part.elem_count() > 0).collect();
    match filled.as_slice() {
        [only] => pieces::copied(only),
        _ if filled.iter().any(|part| pieces::is_large(part.elem_count())) => {
            let mut shape = filled[0].dims().to_vec();
            shape[axis] = filled.iter().map(|part| part.dims()[axis]).sum();
            let (whole, mut at) = (pieces::empty(&shape, filled[0].dtype())?, 0);
            for part in filled {
                pieces::put(&whole, part, axis, at)?;
                at += part.dims()[axis];
            }
            Ok(whole)
        }
        _ => {
            // Made dense first: what candle makes of other layouts is not.
            let dense: Vec<Tensor> = filled
                .iter()
                .map(|part| part.contiguous())
                .collect::<candle_core::Result<_>>()?;
            Ok(Tensor::cat(&dense, axis)?)
        }
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
