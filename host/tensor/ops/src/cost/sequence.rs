//! What the ops on signals, sequences and selections cost.

use smallvec::SmallVec;

use super::{Form, Operand};
use crate::MAX_RANK;
use crate::attrs::{attr_axis, attr_float, attr_int, normalise};
use crate::dtype::DType;
use crate::table::{Op, OpSpec};
use crate::types::{Attr, Type};

/// Tasks at most of a kernel whose tasks take memory of their own.
const WORKERS: u64 = 32;

/// Columns of a panel of the matrix kernel, and the bytes of a row of it.
const PANEL: (u64, u64) = (32, 128);

/// Rows of a convolution's panel, and panels, that a task has in memory at once; its output channels at least.
const WINDOWS: (u64, u64, u64) = (1024, 4, 48);

/// Rows of a transposed convolution that a task computes at once, about.
const ROWS: u64 = 96;

/// Transforms that a task computes at once.
const LANES: u64 = 8;

/// Bytes of a dense copy, if the kernel needs one: elements as they are.
fn dense(x: &Operand<'_>) -> u64 {
    if x.form == Form::Dense { 0 } else { x.ty.bytes() }
}

/// Bytes of a dense copy in f32, if the kernel needs one.
fn wide(x: &Operand<'_>) -> u64 {
    match x.ty.dtype {
        DType::F16 | DType::BF16 => x.ty.elements().saturating_mul(4),
        _ => dense(x),
    }
}

/// Bytes of the output in f32, where it is narrowed afterwards.
fn narrowed(output: &Type<u32>) -> u64 {
    match output.dtype {
        DType::F16 | DType::BF16 => output.elements().saturating_mul(4),
        _ => 0,
    }
}

fn sum(bytes: impl IntoIterator<Item = u64>) -> u64 {
    bytes.into_iter().fold(0, u64::saturating_add)
}

fn product(numbers: &[u64]) -> u64 {
    numbers.iter().fold(1, |product, n| product.saturating_mul(*n))
}

impl OpSpec {
    /// Floating-point operations and bytes of temporaries, if it is one of these ops.
    pub(super) fn sequence_cost(
        &self,
        inputs: &[Operand<'_>],
        attrs: &[Attr],
        output: &Type<u32>,
    ) -> Option<(u64, u64)> {
        let x = inputs.first()?;
        let out = output.elements();
        let elements = x.ty.elements();
        let dim = |input: &Operand<'_>, axis: usize| input.ty.shape.get(axis).map_or(0, |dim| u64::from(*dim));
        let axis = |at: usize| {
            let rank = x.ty.shape.len();
            attr_axis(self, attrs, at)
                .and_then(|axis| normalise(axis, rank).ok())
                .unwrap_or(0)
        };
        let int = |at: usize| attr_int(self, attrs, at).unwrap_or(0).unsigned_abs();
        let all_wide = || sum(inputs.iter().map(wide)).saturating_add(narrowed(output));
        // Packed ranks: a key and an index.
        let packed = if x.ty.dtype == DType::I64 { 16 } else { 8 };
        // Ids are checked, and kept as u32.
        let ids = || inputs.get(1).map_or(0, |ids| ids.ty.elements().saturating_mul(4));
        Some(match self.op {
            Op::Sample => {
                let vocabulary = x.ty.shape.last().map_or(0, |v| u64::from(*v));
                let sorts = int(1) > 0 || attr_float(self, attrs, 2).is_some_and(|p| p < 1.0);
                let each = vocabulary
                    .saturating_mul(if sorts { 24 } else { 8 })
                    .saturating_add(vocabulary.div_ceil(64) * 8);
                let copies = wide(x).saturating_add(ids());
                (
                    elements.saturating_mul(20),
                    each.saturating_mul(out.min(WORKERS)).saturating_add(copies),
                )
            }
            Op::Argsort => (
                elements.saturating_mul(20),
                dense(x).saturating_add(elements.saturating_mul(packed)),
            ),
            Op::Topk => {
                let at = axis(1);
                let len = dim(x, at);
                let k = output.shape.get(at).map_or(0, |k| u64::from(*k));
                let room = len.min(2 * k + 256).saturating_mul(packed);
                let lanes = out / k.max(1);
                let tasks = room.saturating_mul(lanes.min(WORKERS));
                let kept = out.saturating_mul(packed);
                (elements.saturating_mul(2), sum([dense(x), tasks, kept]))
            }
            Op::Gather => (0, dense(x).saturating_add(ids())),
            Op::Scatter | Op::ScatterAdd | Op::IndexAdd => {
                let src = inputs.get(2)?;
                if self.op == Op::Scatter {
                    return Some((0, sum([dense(x), dense(src), ids()])));
                }
                let added = src.ty.elements();
                // Half floats are added to a copy in f32.
                (added, sum([wide(x), wide(src), narrowed(output), ids()]))
            }
            Op::Conv1d => {
                let weight = inputs.get(1)?;
                let (outputs, each, kernel) = (dim(weight, 0), dim(weight, 1), dim(weight, 2));
                let depth = each.saturating_mul(kernel);
                let to = outputs / int(4).max(1);
                let thin = to < 4 || depth < 4;
                let panels = dim_of(output, 2).div_ceil(PANEL.0);
                let width = panels.clamp(1, WINDOWS.1);
                let tasks = product(&[dim(x, 0), int(4), panels.div_ceil(width), to.div_ceil(WINDOWS.2)]);
                let windows = product(&[tasks.min(WORKERS), depth.min(WINDOWS.0), width, PANEL.1]);
                let temporaries = if thin { 0 } else { windows };
                (product(&[2, out, depth]), all_wide().saturating_add(temporaries))
            }
            Op::ConvTranspose1d => {
                let weight = inputs.get(1)?;
                let (to, kernel, groups) = (dim(weight, 1), dim(weight, 2), int(4).max(1));
                let from = dim(x, 1) / groups;
                let channels = (ROWS / kernel.max(1)).clamp(1, to.max(1));
                let tasks = product(&[dim(x, 0), groups, to.div_ceil(channels)]).min(WORKERS);
                let worker = from.min(WINDOWS.0).saturating_add(channels.saturating_mul(kernel));
                let rows = weight.ty.elements().saturating_mul(4);
                let temporaries = rows.saturating_add(product(&[tasks, worker, PANEL.1]));
                let temporaries = if from < 4 { 0 } else { temporaries };
                (
                    product(&[2, elements, to, kernel]),
                    all_wide().saturating_add(temporaries),
                )
            }
            Op::Cumsum | Op::Cumprod => (out, wide(x).saturating_add(narrowed(output))),
            Op::PadReflect
            | Op::PadReplicate
            | Op::ResizeNearest1d
            | Op::Flip
            | Op::Roll
            | Op::Repeat
            | Op::RepeatInterleave => {
                // A map of each dimension.
                let maps = output.shape.iter().map(|dim| u64::from(*dim) * 4);
                (0, sum(maps).saturating_add(dense(x)))
            }
            Op::Lstm | Op::Gru => {
                let gates = if self.op == Op::Lstm { 4 } else { 3 };
                let (batch, steps, width) = (dim(x, 0), dim(x, 1), dim(x, 2));
                let hidden = inputs.get(2).map_or(0, |w| dim(w, 1));
                let rows = gates * hidden;
                let packed = |k: u64| product(&[rows.div_ceil(PANEL.0), PANEL.1, k]);
                let from_x = product(&[batch, steps, rows, 4]);
                let step = product(&[batch, rows + 2 * hidden, 4]);
                // The input's weights are gone before the states' are packed.
                let weights = packed(width).max(packed(hidden));
                let flops = product(&[2, batch, steps, rows, width + hidden]).saturating_add(out.saturating_mul(50));
                (flops, sum([from_x, step, weights, all_wide()]))
            }
            Op::ResizeLinear1d => (
                out.saturating_mul(3),
                sum([wide(x), narrowed(output), dim_of(output, 2).saturating_mul(12)]),
            ),
            Op::Stft | Op::Istft => {
                let n_fft = int(0);
                let stft = self.op == Op::Stft;
                let frames = if stft { dim_of(output, 2) } else { dim(x, 2) };
                let tasks = if stft {
                    dim(x, 0).saturating_mul(frames.div_ceil(LANES))
                } else {
                    dim(x, 0)
                };
                let task = transform_bytes(n_fft).saturating_mul(tasks.min(WORKERS));
                let window = n_fft * 4;
                let squares = if stft { 0 } else { out / dim(x, 0).max(1) * 4 };
                let logarithm = u64::from(n_fft.max(2).ilog2());
                let flops = product(&[dim(x, 0), frames, n_fft, logarithm, 3]);
                (
                    flops,
                    sum([task, plan_bytes(n_fft), window, squares, sum(inputs.iter().map(wide))]),
                )
            }
            Op::Tril | Op::Triu => (0, dense(x)),
            Op::OneHot => (0, elements.saturating_mul(4)),
            Op::Logsumexp | Op::Var => {
                let each = if self.op == Op::Logsumexp { 12 } else { 4 };
                (
                    elements.saturating_mul(each),
                    self.rows_bytes(x, attrs).saturating_add(narrowed(output)),
                )
            }
            Op::L2Normalize => (out.saturating_mul(4), all_wide()),
            Op::Rem => (out.saturating_mul(4), all_wide()),
            Op::Pow | Op::Atan2 => (out.saturating_mul(30), all_wide()),
            Op::Log1p | Op::Expm1 => (out.saturating_mul(15), all_wide()),
            Op::Snake => (out.saturating_mul(14), all_wide()),
            Op::Glu => (out.saturating_mul(14), all_wide()),
            _ => return None,
        })
    }

    /// Bytes of x in f32 with the dimensions that are reduced moved to its end.
    fn rows_bytes(&self, x: &Operand<'_>, attrs: &[Attr]) -> u64 {
        let rank = x.ty.shape.len();
        let axes: SmallVec<[usize; MAX_RANK]> = match attrs.first() {
            Some(Attr::Ints(ints)) => ints.iter().filter_map(|axis| normalise(*axis, rank).ok()).collect(),
            Some(Attr::Int(int)) => normalise(*int, rank).ok().into_iter().collect(),
            _ => SmallVec::new(),
        };
        // Moving dimensions of 1 moves nothing, but then a copy is not far.
        let kept = rank - axes.len();
        let last = axes.is_empty() || axes.iter().all(|axis| *axis >= kept);
        if last {
            wide(x)
        } else {
            x.ty.elements().saturating_mul(4)
        }
    }
}

fn dim_of(ty: &Type<u32>, axis: usize) -> u64 {
    ty.shape.get(axis).map_or(0, |dim| u64::from(*dim))
}

/// The length of the complex transform behind a real one, and the length of the convolution that computes it where it has a large
/// prime factor.
fn transform(n_fft: u64) -> (u64, Option<u64>) {
    /// Larger prime factors take a convolution.
    const LARGEST: u64 = 31;
    let n = if n_fft.is_multiple_of(2) { n_fft / 2 } else { n_fft };
    let mut rest = n.max(1);
    for factor in 2..=LARGEST {
        while rest.is_multiple_of(factor) {
            rest /= factor;
        }
    }
    (n, (rest > 1).then(|| (2 * n).next_power_of_two()))
}

/// Bytes that one task of a transform takes.
fn transform_bytes(n_fft: u64) -> u64 {
    let (n, convolution) = transform(n_fft);
    // Two complex arrays for several transforms each, another for the convolution; and a frame of each.
    let work = convolution.map_or(2 * n, |m| 2 * m + n);
    (work * 8 + n_fft * 4) * LANES
}

/// Bytes of the factors that all tasks share.
fn plan_bytes(n_fft: u64) -> u64 {
    let (n, convolution) = transform(n_fft);
    // Roots of unity for the transform, and those that make a real one of it; a chirp and its transform.
    (n + n_fft / 2 + 1 + convolution.map_or(0, |m| 2 * m + n)) * 8
}
