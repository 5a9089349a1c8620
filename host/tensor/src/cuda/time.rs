//! How long a GPU will be busy with an op: a prediction rather too large than too small, made before anything is launched. Kernels
//! cannot be stopped, so what is launched ahead is bounded by it, and what would take too long at once is refused.

use candle_core::DType as Candle;
use maquette_ops::{Attr, DType, Error, Form, Op, OpSpec, Operand, Type, attr_axis, attr_int, attr_pair, normalise};
use smallvec::SmallVec;

use super::cost::cost;
use super::slot::Value;

/// The longest that one op may take, in nanoseconds: others wait for so long, and so does the end of the call.
const LONGEST: u64 = 1_000_000_000;

/// What a GPU does in a nanosecond. The slowest of those that are meant (compute capability 8.0 and above) do about this; `gpu.rs` among
/// the tests prints what one does.
mod each_nano {
    /// Bytes moved.
    pub(super) const BYTES: u64 = 1_000;
    /// Operations on floats of 32 bits.
    pub(super) const SINGLE: u64 = 10_000;
    /// Operations of products of half floats.
    pub(super) const HALF: u64 = 60_000;
    /// Elements that many threads look at one by one.
    pub(super) const SEEN: u64 = 100;
}

/// Nanoseconds of the kernels of an op whatever they do.
const KERNELS: u64 = 10_000;

/// Nanoseconds that a thread takes to look at an element, the next one after it.
const LOOK: u64 = 150;

/// Nanoseconds of a thread to change an element in memory, the next one after it.
const CHANGE: u64 = 250;

/// Nanoseconds that the host takes to make an element of a matrix, and to draw a number.
const MAKE: u64 = 50;
const DRAW: u64 = 10;

/// Threads that run at once, and how many of them are a block's at most.
const THREADS: u64 = 200_000;
const BLOCK: u64 = 1_024;

/// Refuses what would take too long.
pub(super) fn allowed(nanos: u64) -> Result<(), Error> {
    if nanos <= LONGEST {
        return Ok(());
    }
    Err(Error::quota(format!(
        "the GPU would need about {:.1} s for this at once, and {} s are allowed, because nobody could stop it: use smaller shapes, or more ops",
        nanos as f64 / 1e9,
        LONGEST / 1_000_000_000
    )))
}

/// Nanoseconds of an op on these inputs.
pub(super) fn predicted(spec: &OpSpec, inputs: &[&Value], attrs: &[Attr], out: &Type<u32>) -> u64 {
    let types = types(inputs);
    let operands: SmallVec<[Operand<'_>; 4]> = inputs
        .iter()
        .zip(&types)
        .map(|(value, ty)| Operand {
            ty,
            form: Form::of(&ty.shape, value.tensor.stride()),
        })
        .collect();
    let cost = cost(spec, &operands, attrs, out);
    if cost.shares || out.elements() == 0 {
        return 0;
    }
    let bytes = types.iter().map(Type::bytes).fold(out.bytes(), u64::saturating_add);
    let moved = bytes.saturating_add(cost.temporary_bytes.saturating_mul(2)) / each_nano::BYTES;
    let half = matches!(spec.op, Op::Matmul | Op::Linear) && out.dtype != DType::F32;
    let computed = cost.flops / if half { each_nano::HALF } else { each_nano::SINGLE };
    KERNELS
        .saturating_add(moved)
        .saturating_add(computed)
        .saturating_add(one_after_the_other(spec, &types, attrs, out))
}

/// Nanoseconds of attention to a cache that holds `len` places before.
pub(super) fn cached_attention(spec: &OpSpec, inputs: &[&Value], attrs: &[Attr], out: &Type<u32>, len: usize) -> u64 {
    let types = types(inputs);
    let shape = |at: usize| types.get(at).map_or(&[][..], |ty| ty.shape.as_slice());
    let ([_, t, heads, width], [_, new, kv_heads, _]) = (shape(0), shape(1)) else {
        return 0;
    };
    let end = u64::from(*new).saturating_add(len as u64);
    let scores = u64::from(*t).saturating_mul(u64::from(*heads)).saturating_mul(end);
    // Keys and values are written anew, and read in another order.
    let kept = end
        .saturating_mul(u64::from(*kv_heads))
        .saturating_mul(u64::from(*width));
    let moved = scores
        .saturating_mul(4 * 20)
        .saturating_add(kept.saturating_mul(4 * 12));
    let products = scores.saturating_mul(u64::from(*width)).saturating_mul(4);
    predicted(spec, inputs, attrs, out)
        .saturating_add(moved / each_nano::BYTES)
        .saturating_add(products / each_nano::SINGLE)
        .saturating_add(rows(scores / end.max(1), end).saturating_mul(2))
}

fn types(inputs: &[&Value]) -> SmallVec<[Type<u32>; 4]> {
    let types = inputs.iter().map(|value| {
        let dtype = match value.tensor.dtype() {
            Candle::F16 => DType::F16,
            Candle::BF16 => DType::BF16,
            Candle::U8 => DType::U8,
            Candle::U32 => DType::U32,
            Candle::I64 => DType::I64,
            _ => DType::F32,
        };
        Type::new(dtype, value.tensor.dims().iter().map(|dim| *dim as u32))
    });
    types.collect()
}

/// Blocks of threads that reduce `len` elements each, `rows` of them.
fn rows(rows: u64, len: u64) -> u64 {
    let block = len.next_power_of_two().clamp(32, BLOCK);
    let together = (THREADS / block).max(1);
    let each = 2_000_u64.saturating_add(len.div_ceil(block).saturating_mul(LOOK));
    rows.div_ceil(together).saturating_mul(each)
}

/// What kernels with few threads, or threads that look at many elements, take beyond what they move; and what the host makes first.
fn one_after_the_other(spec: &OpSpec, inputs: &[Type<u32>], attrs: &[Attr], out: &Type<u32>) -> u64 {
    let Some(x) = inputs.first() else {
        return match spec.op {
            Op::Full => 0,
            _ => out.elements().saturating_mul(DRAW),
        };
    };
    let rank = x.shape.len();
    let axis = |at: usize| attr_axis(spec, attrs, at).and_then(|axis| normalise(axis, rank).ok());
    let along = |at: usize| axis(at).map_or(1, |axis| u64::from(x.shape[axis]).max(1));
    let last = || x.shape.last().map_or(1, |dim| u64::from(*dim).max(1));
    let all = x.elements();
    let size = |at: usize| out.shape.get(at).map_or(1, |dim| u64::from(*dim));
    let of = |input: usize, at: usize| {
        let shape = inputs.get(input).map(|ty| &ty.shape);
        shape.and_then(|shape| shape.get(at)).map_or(1, |dim| u64::from(*dim))
    };
    match spec.op {
        Op::Sum | Op::Mean | Op::Max | Op::Min | Op::Logsumexp | Op::Var => {
            let count = all / out.elements().max(1);
            rows(out.elements(), count).saturating_mul(2)
        }
        Op::Argmax | Op::Argmin | Op::LogSoftmax | Op::L2Normalize => rows(all / along(0), along(0)).saturating_mul(2),
        // A row is 32 threads'.
        Op::Softmax => {
            let len = along(0);
            let narrow = (all / len)
                .div_ceil(THREADS / 64)
                .saturating_mul(len.div_ceil(32))
                .saturating_mul(3 * LOOK);
            narrow.max(rows(all / len, len).saturating_mul(2))
        }
        Op::LayerNorm | Op::RmsNorm => rows(all / last(), last()).saturating_mul(2),
        Op::GroupNorm => {
            let groups = attr_int(spec, attrs, 0)
                .map_or(1, i64::unsigned_abs)
                .saturating_mul(of(0, 0))
                .max(1);
            rows(groups, all / groups).saturating_mul(2)
        }
        Op::Attention => {
            let each = of(0, 0).saturating_mul(of(0, 1)).saturating_mul(of(0, 2));
            rows(each, of(1, 1).max(1)).saturating_mul(2)
        }
        Op::Cumsum | Op::Cumprod => {
            let passes = u64::from(along(0).max(2).ilog2()) + 1;
            let bytes = all.saturating_mul(4 * 8);
            passes.saturating_mul(KERNELS.saturating_add(bytes / each_nano::BYTES))
        }
        Op::MaxPool2d | Op::AvgPool2d => {
            let [y, x] = attr_pair(spec, attrs, 0).unwrap_or([1; 2]).map(i64::unsigned_abs);
            // The largest is looked for twice: among what is no number, too.
            let times = if spec.op == Op::MaxPool2d { 2 } else { 1 };
            let window = y.saturating_mul(x).saturating_mul(times);
            let seen = out.elements().saturating_mul(window) / each_nano::SEEN;
            seen.max(window.saturating_mul(LOOK))
        }
        // Beside the axis there is a thread an element, which takes the ids in their order.
        Op::Scatter | Op::ScatterAdd | Op::IndexAdd => {
            let ids = inputs.get(1).map_or(0, Type::elements);
            let (each, beside) = match spec.op {
                Op::IndexAdd => (ids, all / along(0)),
                _ => {
                    let each = axis(0).map_or(1, |axis| of(1, axis).max(1));
                    (each, ids / each)
                }
            };
            beside.div_ceil(THREADS).saturating_mul(each).saturating_mul(CHANGE)
        }
        Op::Stft => {
            let n_fft = attr_int(spec, attrs, 0).map_or(1, i64::unsigned_abs);
            size(1).saturating_mul(2).saturating_mul(n_fft).saturating_mul(MAKE)
        }
        Op::AdaptiveAvgPool2d | Op::ResizeBilinear2d | Op::ResizeLinear1d => {
            let made = (2..rank).map(|axis| size(axis).saturating_mul(u64::from(x.shape[axis])));
            let products = made.clone().map(|matrix| matrix.saturating_mul(all / last()));
            made.fold(0, u64::saturating_add)
                .saturating_mul(MAKE)
                .saturating_add(products.fold(0, u64::saturating_add) / each_nano::SINGLE)
        }
        Op::Sample => all.saturating_mul(DRAW),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::{Device, Tensor};
    use maquette_ops::{lookup, spec};

    /// Nanoseconds of an op on zeros of these shapes, which take no memory.
    fn nanos(op: &str, shapes: &[&[usize]], attrs: &[Attr]) -> u64 {
        let spec = spec(lookup(op).unwrap()).unwrap();
        let values: Vec<Value> = shapes
            .iter()
            .enumerate()
            .map(|(at, shape)| {
                let ids = at == 1 && spec.inputs[1].name == "ids";
                let dtype = if ids { Candle::U32 } else { Candle::F32 };
                let zero = Tensor::zeros((), dtype, &Device::Cpu).unwrap();
                let tensor = zero.broadcast_as(*shape).unwrap();
                Value { tensor, range: None }
            })
            .collect();
        let refs: Vec<&Value> = values.iter().collect();
        let types = types(&refs);
        let out = spec.infer(&types, attrs).unwrap();
        predicted(spec, &refs, attrs, &out)
    }

    #[test]
    fn what_is_small_is_quick_and_what_has_few_threads_is_not() {
        let micro = 1_000;
        let milli = 1_000 * micro;
        assert!(nanos("add/1", &[&[8], &[8]], &[]) <= 20 * micro);
        assert!(nanos("matmul/1", &[&[128, 384], &[384, 384]], &[]) < 100 * micro);
        assert!(nanos("matmul/1", &[&[8192, 8192], &[8192, 8192]], &[]) > 20 * milli);
        assert!(nanos("exp/1", &[&[1 << 28]], &[]) > milli);
        // Ids are one thread's where nothing lies beside them, and many threads' where much does.
        let axis = [Attr::Int(0)];
        let alone = nanos("index_add/1", &[&[10], &[1 << 16], &[1 << 16]], &axis);
        let beside = nanos("index_add/1", &[&[10, 1024], &[64], &[64, 1024]], &axis);
        assert!(alone > 10 * milli && beside < milli, "{alone} {beside}");
        let window = [Attr::Ints(vec![2048, 2048])];
        assert!(nanos("max_pool2d/1", &[&[1, 1, 2048, 2048]], &window) > 100 * milli);
        assert_eq!(nanos("transpose/1", &[&[8, 9]], &[Attr::Int(0), Attr::Int(1)]), 0);
    }

    #[test]
    fn more_never_takes_less() {
        for op in [
            "exp/1",
            "sum/1",
            "softmax/1",
            "argmax/1",
            "cumsum/1",
            "flip/1",
            "log_softmax/1",
        ] {
            let times = (0..28).map(|log| {
                let attrs = match op {
                    "sum/1" => vec![Attr::Ints(vec![1])],
                    "flip/1" => vec![Attr::Ints(vec![0])],
                    "exp/1" => vec![],
                    _ => vec![Attr::Int(1)],
                };
                nanos(op, &[&[4, 1 << log]], &attrs)
            });
            let times: Vec<u64> = times.collect();
            assert!(times.is_sorted(), "{op}: {times:?}");
        }
    }

    #[test]
    fn what_takes_too_long_at_once_is_refused_with_what_to_do() {
        assert!(allowed(LONGEST).is_ok());
        let error = allowed(12 * LONGEST + LONGEST / 2).unwrap_err();
        assert_eq!(error.code, maquette_ops::Code::Quota);
        assert!(
            error.message.contains("12.5 s") && error.message.contains("smaller shapes"),
            "{error}"
        );
    }
}
