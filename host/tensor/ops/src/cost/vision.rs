//! What the ops of images, channels and random numbers cost.

use super::{Form, Operand};
use crate::attrs::attr_pair;
use crate::table::{Op, OpSpec};
use crate::types::{Attr, Type};

/// Whether it is an op of this family.
pub(super) fn is_one(op: Op) -> bool {
    matches!(
        op,
        Op::Conv2d
            | Op::ConvTranspose2d
            | Op::MaxPool2d
            | Op::AvgPool2d
            | Op::AdaptiveAvgPool2d
            | Op::ResizeNearest2d
            | Op::ResizeBilinear2d
            | Op::GroupNorm
            | Op::BatchNorm
            | Op::Prelu
            | Op::LeakyRelu
            | Op::Elu
            | Op::HardSigmoid
            | Op::HardSwish
            | Op::Mish
            | Op::Softplus
            | Op::PixelShuffle
            | Op::PixelUnshuffle
            | Op::Randn
            | Op::RandUniform
    )
}

/// Floating-point operations.
pub(super) fn flops(spec: &OpSpec, inputs: &[Operand<'_>], attrs: &[Attr], output: &Type<u32>) -> u64 {
    let out = output.elements();
    let input = inputs.first().map_or(0, |x| x.ty.elements());
    // Twice the elements of a kernel that meet one element of the output, or of the input of a transposed convolution.
    let kernel = || {
        let shape = inputs.get(1).map_or(&[][..], |weight| &weight.ty.shape);
        shape
            .iter()
            .skip(1)
            .fold(2_u64, |all, dim| all.saturating_mul(u64::from(*dim)))
    };
    match spec.op {
        Op::Conv2d => out.saturating_mul(kernel()),
        Op::ConvTranspose2d => input.saturating_mul(kernel()).saturating_add(out),
        // The columns that a row of windows sees are reduced once, then each window is.
        Op::MaxPool2d | Op::AvgPool2d => {
            let [y, x] = attr_pair(spec, attrs, 0).unwrap_or([1; 2]).map(i64::unsigned_abs);
            let (images, [h, w], [oh, _]) = images(inputs, output);
            let columns = w.saturating_mul(y.min(h)).saturating_mul(oh).saturating_mul(images);
            columns.saturating_add(out.saturating_mul(x))
        }
        // Bins that differ overlap by an element on each side at most.
        Op::AdaptiveAvgPool2d => {
            let (images, [h, w], [oh, ow]) = images(inputs, output);
            let seen = |size: u64, bins: u64| size.saturating_add(bins.min(2 * size).saturating_mul(2));
            let sums = seen(h, oh).saturating_mul(seen(w, ow)).saturating_mul(images);
            sums.saturating_add(out)
        }
        Op::ResizeBilinear2d => out.saturating_mul(6),
        Op::GroupNorm => out.saturating_mul(8),
        Op::BatchNorm => out.saturating_mul(3),
        Op::Prelu | Op::LeakyRelu => out.saturating_mul(2),
        Op::HardSigmoid | Op::HardSwish => out.saturating_mul(4),
        Op::Elu => out.saturating_mul(12),
        Op::Mish => out.saturating_mul(16),
        Op::Softplus => out.saturating_mul(24),
        Op::Randn => out.saturating_mul(40),
        Op::RandUniform => out.saturating_mul(20),
        _ => 0,
    }
}

/// How many images there are, and the sizes of those of the input and of the output.
fn images(inputs: &[Operand<'_>], output: &Type<u32>) -> (u64, [u64; 2], [u64; 2]) {
    let size = |shape: &[u32]| match shape {
        [.., h, w] => [u64::from(*h), u64::from(*w)],
        _ => [1; 2],
    };
    let images = match output.shape.as_slice() {
        [n, c, ..] => u64::from(*n).saturating_mul(u64::from(*c)),
        _ => 1,
    };
    let input = inputs.first().map_or([1; 2], |x| size(&x.ty.shape));
    (images, input, size(&output.shape))
}

/// Bytes beside the output: half floats as f32, what is strided made dense, and what some kernels keep.
pub(super) fn temporaries(spec: &OpSpec, inputs: &[Operand<'_>], output: &Type<u32>) -> u64 {
    // Elements are moved as they are.
    let moves = matches!(spec.op, Op::PixelShuffle | Op::PixelUnshuffle);
    let half = output.dtype.is_float() && output.dtype.size() == 2 && !moves;
    let dense = |input: &Operand<'_>| match input.form {
        _ if half => input.ty.elements().saturating_mul(4),
        Form::Dense => 0,
        _ => input.ty.bytes(),
    };
    let result = if half { output.elements().saturating_mul(4) } else { 0 };
    let converted = inputs.iter().map(dense).fold(result, u64::saturating_add);
    let size = |axis: usize| output.shape.get(axis).map_or(0, |dim| u64::from(*dim));
    let kept = match spec.op {
        // The kernels transposed.
        Op::ConvTranspose2d => inputs.get(1).map_or(0, |weight| weight.ty.elements().saturating_mul(4)),
        // Where each column of the output lies.
        Op::ResizeNearest2d | Op::ResizeBilinear2d => size(3).saturating_mul(16),
        // The mean of each channel of each item, and the sum of squares around it.
        Op::GroupNorm => size(0).saturating_mul(size(1)).saturating_mul(16),
        _ => 0,
    };
    converted.saturating_add(kept)
}
