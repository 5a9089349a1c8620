//! Tensors on NVIDIA GPUs: a thread with one stream a device, and ops composed of candle's kernels, one file a family.
//!
//! Nothing here but `open.rs` knows CUDA: the ops are written over candle's own notion of a device, so that the very code is held
//! against the float64 reference on a processor ([`Device::Composed`](crate::Device::Composed)). What it has to take care of is that
//! CUDA kernels are not checked as candle's CPU kernels are: indices are proven before a kernel sees them (`bounds.rs`), empty tensors
//! never reach one, and operands are made dense where kernels take them to be.

mod attention;
mod bounds;
mod call;
mod convolution;
mod cost;
mod elementwise;
mod executor;
mod images;
mod indexing;
mod made;
mod norms;
mod open;
mod products;
mod recurrent;
mod reduce;
mod shapes;
mod signals;
mod slot;
mod time;

pub(crate) use bounds::of_bytes as range_of_bytes;
pub(crate) use cost::cost;
pub(crate) use executor::{Client, Executor, Turn, upload};
pub(crate) use open::check;
#[cfg(feature = "cuda")]
pub(crate) use open::stored_elements;
pub(crate) use slot::{Remote, Slot, Value};

use candle_core::{Device, Tensor};
use maquette_ops::{Attr, Code, Error, Op, OpSpec, Type};

use crate::kernels::Failure;
use crate::tensor::said;
use call::{Call, Result};

/// Refuses an op that cannot be run on a device.
pub(crate) fn supported(spec: &OpSpec) -> Result<(), Error> {
    if spec.has_cuda() {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "{} has no implementation for GPUs yet: serve this model with `--device cpu`, or make it of other ops; `maquette ops` shows \
         which have one",
        spec.name
    )))
}

/// Runs an op on a device. Its types have been checked and paid for.
pub(crate) fn run(
    spec: &OpSpec,
    inputs: &[&Value],
    attrs: &[Attr],
    out: &Type<u32>,
    turn: &Turn<'_>,
) -> Result<Value, Error> {
    supported(spec)?;
    let nanos = time::predicted(spec, inputs, attrs, out);
    time::allowed(nanos)?;
    turn.launch(nanos)?;
    let call = Call {
        spec,
        inputs,
        attrs,
        out,
        turn,
        device: turn.device,
    };
    let tensor = dispatch(&call).map_err(|failure| told(failure, turn.device))?;
    debug_assert_eq!(tensor.dims(), call.shape(), "{}", spec.name);
    debug_assert_eq!(tensor.dtype(), call.dtype(), "{}", spec.name);
    let range = bounds::of_output(&call);
    Ok(Value { tensor, range })
}

/// What `cached_attention/1` returns and leaves in its layer: keys and values, of which the first `len` places were there before.
pub(crate) fn cached_attention(
    spec: &OpSpec,
    inputs: &[&Value],
    attrs: &[Attr],
    out: &Type<u32>,
    turn: &Turn<'_>,
    (before, len): (Option<[&Value; 2]>, usize),
) -> Result<[Value; 3], Error> {
    let nanos = time::cached_attention(spec, inputs, attrs, out, len);
    time::allowed(nanos)?;
    turn.launch(nanos)?;
    let call = Call {
        spec,
        inputs,
        attrs,
        out,
        turn,
        device: turn.device,
    };
    let tensors = attention::cached(&call, before.map(|[keys, values]| [&keys.tensor, &values.tensor]), len);
    let tensors = tensors.map_err(|failure| told(failure, turn.device))?;
    Ok(tensors.map(|tensor| Value { tensor, range: None }))
}

/// Why an op failed. A device whose memory is all in use is no fault of the host; what the process keeps of it unused is given back, so
/// that others fit.
fn told(failure: Failure, device: &Device) -> Error {
    let error = match failure {
        Failure::Ours(error) => return error,
        Failure::Candle(error) => failed("on the device", &error),
    };
    if error.code == Code::Quota {
        open::release(device);
    }
    error
}

/// What the driver says of an op, an upload or a download that failed.
pub(crate) fn failed(what: &str, error: &candle_core::Error) -> Error {
    let said = said(error);
    // As CUDA's driver and cuBLAS call it.
    if said.contains("OUT_OF_MEMORY") || said.contains("ALLOC_FAILED") {
        return Error::quota(format!(
            "{what}: the device's memory is all in use ({said}): use smaller batches, or try again when other calls are done"
        ));
    }
    Error::internal(format!("{what}: {said}"))
}

fn dispatch(call: &Call<'_>) -> Result<Tensor> {
    if call.out.elements() == 0 {
        return call.zeros();
    }
    match call.spec.op {
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::Maximum | Op::Minimum => elementwise::binary(call),
        Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge => elementwise::binary(call),
        Op::Where => elementwise::select(call),
        Op::Rem | Op::Pow => elementwise::float_pair(call),
        Op::Affine | Op::Clamp | Op::Powf | Op::Neg | Op::Abs | Op::Exp | Op::Log | Op::Sqrt | Op::Rsqrt | Op::Sqr => {
            elementwise::unary(call)
        }
        Op::Recip | Op::Sin | Op::Cos | Op::Tanh | Op::Sigmoid | Op::Silu | Op::Relu | Op::Gelu | Op::GeluErf => {
            elementwise::unary(call)
        }
        Op::Erf | Op::Floor | Op::Ceil | Op::Round | Op::Sign | Op::Log1p | Op::Expm1 => elementwise::unary(call),
        Op::LeakyRelu | Op::Elu | Op::HardSigmoid | Op::HardSwish | Op::Mish | Op::Softplus => elementwise::unary(call),
        Op::Cast => elementwise::convert(call),
        Op::Prelu | Op::Snake => elementwise::by_channel(call),
        Op::Glu => elementwise::glu(call),
        Op::Sum | Op::Mean | Op::Max | Op::Min | Op::Logsumexp | Op::Var => reduce::over_axes(call),
        Op::Argmax | Op::Argmin => reduce::position(call),
        Op::Softmax | Op::LogSoftmax | Op::L2Normalize => reduce::along(call),
        Op::Cumsum | Op::Cumprod => reduce::cumulative(call),
        Op::Reshape | Op::Transpose | Op::Permute | Op::Narrow | Op::BroadcastTo | Op::Squeeze | Op::Unsqueeze => {
            shapes::view(call)
        }
        Op::Cat | Op::Stack | Op::Pad => shapes::join(call),
        Op::Flip | Op::Roll | Op::Repeat | Op::RepeatInterleave | Op::PadReflect | Op::PadReplicate => {
            shapes::rearrange(call)
        }
        Op::ResizeNearest1d => shapes::rearrange(call),
        Op::Tril | Op::Triu => shapes::triangle(call),
        Op::PixelShuffle | Op::PixelUnshuffle => shapes::shuffle(call),
        Op::Matmul => products::matmul(call),
        Op::Linear => products::linear(call),
        Op::Embedding | Op::IndexSelect | Op::Gather | Op::Scatter | Op::ScatterAdd | Op::IndexAdd | Op::OneHot => {
            indexing::by_ids(call)
        }
        Op::LayerNorm | Op::RmsNorm | Op::GroupNorm | Op::BatchNorm => norms::normalise(call),
        Op::Rope => attention::rope(call),
        Op::Attention => attention::attention(call),
        Op::Conv1d | Op::ConvTranspose1d | Op::Conv2d | Op::ConvTranspose2d => convolution::convolve(call),
        Op::MaxPool2d | Op::AvgPool2d | Op::AdaptiveAvgPool2d => images::pool(call),
        Op::ResizeNearest2d | Op::ResizeBilinear2d | Op::ResizeLinear1d => images::resize(call),
        Op::Lstm | Op::Gru => recurrent::recurrent(call),
        Op::Stft => signals::stft(call),
        Op::Full | Op::Arange | Op::Randn | Op::RandUniform => made::made(call),
        Op::Sample => made::sample(call),
        Op::CachedAttention => {
            let why = "only a program can append to a cache: record one with `compile`";
            Err(Error::unsupported(why).into())
        }
        Op::Argsort | Op::Topk | Op::Istft | Op::Atan2 => {
            Err(Error::internal("an op that the table says has no implementation").into())
        }
    }
}
