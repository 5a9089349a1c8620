//! What an op costs on a device, where it is made of several kernels that each leave a tensor: more bytes than on a processor, and as
//! much work.

use maquette_ops::{Attr, Cost, DType, Form, Op, OpSpec, Operand, Type};

/// What the op costs for these inputs, whose output type is known. Temporaries are bounded from above: a test holds them against a
/// counting allocator.
pub(crate) fn cost(spec: &OpSpec, inputs: &[Operand<'_>], attrs: &[Attr], output: &Type<u32>) -> Cost {
    let mut cost = spec.cost(inputs, attrs, output);
    if !cost.shares && output.elements() > 0 {
        let own = match spec.op {
            // The host makes these, and then they are sent.
            Op::Sample | Op::Randn | Op::RandUniform | Op::Arange => cost.temporary_bytes,
            _ => 0,
        };
        cost.temporary_bytes = temporaries(spec, inputs, attrs, output).saturating_add(own);
    }
    cost
}

fn temporaries(spec: &OpSpec, inputs: &[Operand<'_>], attrs: &[Attr], output: &Type<u32>) -> u64 {
    // Everything is computed in f32 at least.
    let bytes = |ty: &Type<u32>| ty.elements().saturating_mul(ty.dtype.size().max(4) as u64);
    let ins = inputs.iter().map(|input| bytes(input.ty)).fold(0, u64::saturating_add);
    let out = bytes(output);
    let all = ins.saturating_add(out);
    let times = |n: u64, bytes: u64| bytes.saturating_mul(n);
    let dim = |input: usize, axis: usize| {
        let shape = inputs.get(input).map(|input| &input.ty.shape);
        shape.and_then(|shape| shape.get(axis)).map_or(1, |dim| u64::from(*dim))
    };
    let four = |counts: &[u64]| {
        counts
            .iter()
            .fold(4_u64, |product, count| product.saturating_mul(*count))
    };
    // Half floats are widened on the way, and what does not lie in order is copied; a product takes what is transposed as it is.
    let copies = |product: bool| {
        inputs.iter().fold(0_u64, |sum, input| {
            let half = matches!(input.ty.dtype, DType::F16 | DType::BF16);
            let fits = input.form == Form::Dense || (product && input.form == Form::Transposed);
            let wide = if half { bytes(input.ty) } else { 0 };
            sum.saturating_add(wide)
                .saturating_add(if fits { 0 } else { bytes(input.ty) })
        })
    };
    match spec.op {
        Op::Full => 0,
        // The weight and the table are large: they count only if they are copied.
        Op::Linear => copies(true).saturating_add(times(3, out)),
        Op::Embedding | Op::IndexSelect | Op::Gather | Op::Cat | Op::Stack | Op::Pad => {
            let ids = inputs.get(1).map_or(0, |ids| times(2, bytes(ids.ty)));
            let ids = if matches!(spec.op, Op::Cat | Op::Stack) { 0 } else { ids };
            copies(false).saturating_add(times(2, out)).saturating_add(ids)
        }
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Maximum | Op::Minimum => ins,
        Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge | Op::Where => ins,
        // In f64, broadcast.
        Op::Rem | Op::Pow => times(28, out),
        Op::Softplus | Op::Mish | Op::Log1p | Op::Expm1 | Op::Elu => times(10, out),
        Op::Matmul => {
            let batches = match inputs {
                [a, b] if b.ty.shape.len() > 2 && a.ty.shape.len() != b.ty.shape.len() => repeated(inputs, output),
                [a, b] if b.ty.shape.len() > 2 && a.ty.shape.first() != b.ty.shape.first() => repeated(inputs, output),
                [_, b] if b.ty.shape.len() > 3 => repeated(inputs, output),
                _ => 0,
            };
            copies(true)
                .saturating_add(times(3, out))
                .saturating_add(times(2, batches))
        }
        // Places beside each element, as integers of 32 bits.
        Op::Argmax | Op::Argmin => times(4, ins),
        Op::Attention => {
            let scores = four(&[dim(0, 0), dim(0, 2), dim(0, 1), dim(1, 1)]);
            times(3, all)
                .saturating_add(times(6, scores))
                .saturating_add(8 * dim(1, 1))
        }
        Op::Conv1d | Op::ConvTranspose1d | Op::Conv2d | Op::ConvTranspose2d => {
            let spread = spread(spec, attrs, inputs);
            let taps = inputs.get(1).map_or(1, |weight| {
                weight
                    .ty
                    .shape
                    .iter()
                    .skip(2)
                    .fold(1_u64, |taps, dim| taps.saturating_mul(u64::from(*dim)))
            });
            let places = output
                .shape
                .iter()
                .skip(2)
                .fold(1_u64, |all, dim| all.saturating_mul(u64::from(*dim)));
            let seen = four(&[dim(0, 0), dim(0, 1), taps, places]);
            let padded = edges(inputs, attrs, taps);
            times(4, all)
                .saturating_add(times(4, spread.saturating_add(padded)))
                .saturating_add(times(3, seen))
        }
        Op::AdaptiveAvgPool2d | Op::ResizeBilinear2d | Op::ResizeLinear1d => {
            let rank = output.shape.len();
            let matrices = (2..rank).map(|axis| four(&[dim(0, axis), u64::from(output.shape[axis])]));
            let matrices = matrices.fold(0, u64::saturating_add);
            // Between the axes: one of the old size, the other of the new.
            let between = four(&[
                dim(0, 0),
                dim(0, 1),
                dim(0, 2),
                output.shape.last().map_or(1, |dim| u64::from(*dim)),
            ]);
            times(3, all)
                .saturating_add(times(3, between))
                .saturating_add(times(2, matrices))
        }
        Op::MaxPool2d | Op::AvgPool2d => times(12, all),
        Op::Stft => {
            let (bins, frames) = (u64::from(output.shape[1]), u64::from(output.shape[2]));
            let n_fft = bins.saturating_mul(2);
            let cut = four(&[dim(0, 0), frames, n_fft]);
            let waves = four(&[bins, 2, n_fft]);
            times(4, all)
                .saturating_add(times(4, cut))
                .saturating_add(times(2, waves))
        }
        Op::Lstm | Op::Gru => {
            let gates = four(&[dim(0, 0), dim(0, 1), dim(1, 0)]);
            let step = four(&[dim(0, 0), dim(1, 0)]);
            times(3, all)
                .saturating_add(times(3, gates))
                .saturating_add(times(8, step))
        }
        Op::OneHot => times(2, all),
        Op::Rope => {
            let angles = dim(0, 0).saturating_mul(dim(0, 1)).saturating_mul(dim(0, 3));
            times(6, all).saturating_add(times(40, angles))
        }
        Op::Sample | Op::Randn | Op::RandUniform | Op::Arange => times(4, all),
        _ => times(5, all),
    }
    .saturating_add(SMALL)
}

/// Scalars and indices that every op may make.
const SMALL: u64 = 1 << 10;

/// Both operands of a product with their batches repeated.
fn repeated(inputs: &[Operand<'_>], output: &Type<u32>) -> u64 {
    let batch = output.shape.iter().rev().skip(2);
    let batch = batch.fold(1_u64, |all, dim| all.saturating_mul(u64::from(*dim)));
    inputs.iter().fold(0, |sum: u64, input| {
        let matrix = input.ty.shape.iter().rev().take(2);
        let matrix = matrix.fold(4_u64, |all, dim| all.saturating_mul(u64::from(*dim)));
        sum.saturating_add(matrix.saturating_mul(batch))
    })
}

/// An input with zeros between its elements.
fn spread(spec: &OpSpec, attrs: &[Attr], inputs: &[Operand<'_>]) -> u64 {
    let Some(x) = inputs.first() else { return 0 };
    let factor = match spec.op {
        Op::ConvTranspose1d => maquette_ops::attr_int(spec, attrs, 0).map_or(1, i64::unsigned_abs),
        Op::ConvTranspose2d => maquette_ops::attr_pair(spec, attrs, 0)
            .map_or(1, |[y, x]| y.unsigned_abs().saturating_mul(x.unsigned_abs())),
        _ => 1,
    };
    x.ty.elements().saturating_mul(4).saturating_mul(factor.max(1))
}

/// What edges add to an input at most: every attribute may be as much padding on every side, and kernels reach over it.
fn edges(inputs: &[Operand<'_>], attrs: &[Attr], taps: u64) -> u64 {
    let Some(x) = inputs.first() else { return 0 };
    let largest = attrs.iter().map(|attr| match attr {
        Attr::Int(int) => int.unsigned_abs(),
        Attr::Ints(ints) => ints.iter().map(|int| int.unsigned_abs()).max().unwrap_or(0),
        _ => 0,
    });
    let largest = largest.max().unwrap_or(0);
    let more = largest
        .saturating_mul(2)
        .saturating_add(largest.max(1).saturating_mul(taps).saturating_mul(2));
    let planes =
        x.ty.shape
            .iter()
            .take(2)
            .fold(4_u64, |all, dim| all.saturating_mul(u64::from(*dim)));
    let sizes = x.ty.shape.iter().skip(2);
    let padded = sizes.fold(planes, |all, dim| {
        all.saturating_mul(u64::from(*dim).saturating_add(more))
    });
    padded.saturating_sub(x.ty.elements().saturating_mul(4))
}
