//! What each op of the table does on a CPU: candle's kernels where they are sound, ours where they are not. Types have been
//! checked and paid for; every output is dense and has memory of its own, unless the table says that it shares its input's.

mod attention;
mod dense;
mod integers;
mod join;
mod matrix;
mod norm;
pub(crate) mod pieces;
pub(crate) mod rows;
mod selection;
mod sequence;
mod slices;
mod vision;

pub(crate) use dense::elements;

use candle_core::{D, DType as Candle, Device, Tensor, WithDType};
use maquette_kernels::kv::Page;
use maquette_ops::{Attr, DType, Error, Op, OpSpec, Type, attr_axis, attr_float, normalise};
use smallvec::SmallVec;

use crate::buffers::Buffers;
use crate::tensor::{candle_dtype, dims, said};

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Candle(e) => Self::internal(said(&e)),
            Failure::Ours(e) => e,
        }
    }
}

/// Why a kernel failed.
#[derive(Debug)]
pub(crate) enum Failure {
    Candle(candle_core::Error),
    Ours(Error),
}

impl From<candle_core::Error> for Failure {
    fn from(e: candle_core::Error) -> Self {
        Self::Candle(e)
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Ours(e)
    }
}

type Result<T, E = Failure> = std::result::Result<T, E>;

/// Runs an op whose output type is `out`.
pub(crate) fn run(
    spec: &OpSpec,
    inputs: &[&Tensor],
    attrs: &[Attr],
    out: &Type<u32>,
    buffers: &Buffers,
) -> Result<Tensor, Error> {
    let kernel = Kernel {
        spec,
        inputs,
        attrs,
        out,
        buffers,
    };
    Ok(kernel.run()?)
}

/// Runs `cached_attention/1` on the pages of a layer, which hold `keys` places, those of the queries included.
pub(crate) fn cached_attention(
    spec: &OpSpec,
    inputs: &[&Tensor],
    attrs: &[Attr],
    out: &Type<u32>,
    buffers: &Buffers,
    (pages, keys): (&[&Page], usize),
) -> Result<Tensor, Error> {
    let kernel = Kernel {
        spec,
        inputs,
        attrs,
        out,
        buffers,
    };
    if out.elements() == 0 {
        return Ok(kernel.zeros()?);
    }
    Ok(kernel.cached_attention(pages, keys)?)
}

/// Calls a function with the place in time, the head, and the elements of each vector of `[1, time, heads, width]`.
pub(crate) fn each_vector(x: &Tensor, mut f: impl FnMut(usize, usize, &[f32])) -> Result<(), Error> {
    let (_, time, heads, width) = x.dims4().map_err(Failure::from)?;
    if x.elem_count() == 0 {
        return Ok(());
    }
    Ok(attention::with_rows(x, |rows| {
        for t in 0..time {
            for h in 0..heads {
                f(t, h, &rows.data[t * rows.time + h * rows.head..][..width]);
            }
        }
    })?)
}

struct Kernel<'a> {
    spec: &'a OpSpec,
    inputs: &'a [&'a Tensor],
    attrs: &'a [Attr],
    out: &'a Type<u32>,
    buffers: &'a Buffers,
}

impl Kernel<'_> {
    fn run(&self) -> Result<Tensor> {
        if self.out.elements() == 0 {
            // Nothing to compute, and kernels differ in what they make of it.
            let dtype = candle_dtype(self.out.dtype);
            return Ok(Tensor::zeros(dims(&self.out.shape), dtype, &Device::Cpu)?);
        }
        match (self.spec.op, self.inputs.first()) {
            (Op::Full, _) => self.full(self.float(1)?),
            (Op::Arange, _) => self.arange(),
            (Op::Randn | Op::RandUniform, _) => self.random(),
            (op, Some(x)) => self.with_input(op, x),
            (_, None) => Err(Error::internal("an op without inputs").into()),
        }
    }

    fn with_input(&self, op: Op, x: &Tensor) -> Result<Tensor> {
        if let Some(done) = self.dense(op, x) {
            return done;
        }
        if let Some(done) = self.in_pieces(op, x) {
            return done;
        }
        Ok(match op {
            Op::Add | Op::Sub | Op::Mul if self.out.dtype.is_int() => {
                integers::binary(op, x, self.input(1)?, &dims(&self.out.shape))?
            }
            Op::Add
            | Op::Sub
            | Op::Mul
            | Op::Div
            | Op::Maximum
            | Op::Minimum
            | Op::Eq
            | Op::Ne
            | Op::Lt
            | Op::Le
            | Op::Gt
            | Op::Ge => binary(op, x, self.input(1)?)?,
            Op::Where => {
                let shape = dims(&self.out.shape);
                let (a, b) = (
                    self.input(1)?.broadcast_as(&*shape)?,
                    self.input(2)?.broadcast_as(&*shape)?,
                );
                x.broadcast_as(&*shape)?.where_cond(&a, &b)?
            }
            Op::Affine => x.affine(self.float(0)?, self.float(1)?)?,
            Op::Clamp => x.clamp(self.float(0)?, self.float(1)?)?,
            Op::Powf => x.powf(self.float(0)?)?,
            Op::Neg => x.neg()?,
            Op::Abs => x.abs()?,
            Op::Exp => x.exp()?,
            Op::Log => x.log()?,
            Op::Sqrt => x.sqrt()?,
            Op::Rsqrt => x.sqrt()?.recip()?,
            Op::Sqr => x.sqr()?,
            Op::Recip => x.recip()?,
            Op::Sin => x.sin()?,
            Op::Cos => x.cos()?,
            Op::Tanh => x.tanh()?,
            Op::Sigmoid => candle_nn::ops::sigmoid(x)?,
            Op::Silu => x.silu()?,
            Op::Relu => x.relu()?,
            Op::Gelu => x.gelu()?,
            Op::GeluErf | Op::Erf if x.dtype() == Candle::F32 => {
                let x = pieces::contiguous(x)?;
                self.dense(op, &x)
                    .ok_or_else(|| Error::internal("a dense tensor that is none"))??
            }
            Op::GeluErf => x.gelu_erf()?,
            Op::Erf => x.erf()?,
            Op::Floor => x.floor()?,
            Op::Ceil => x.ceil()?,
            Op::Round => x.round()?,
            Op::Sign => x.sign()?,
            Op::Cast => pieces::cast(x, candle_dtype(self.out.dtype))?,
            Op::Sum | Op::Mean | Op::Max | Op::Min => self.reduce(op, x)?,
            Op::Argmax => self.shaped(dense(x)?.argmax(self.axis(0, x.rank())?)?)?,
            Op::Argmin => self.shaped(dense(x)?.argmin(self.axis(0, x.rank())?)?)?,
            Op::Reshape => pieces::contiguous(x)?.reshape(dims(&self.out.shape))?,
            Op::Transpose => x.transpose(self.axis(0, x.rank())?, self.axis(1, x.rank())?)?,
            Op::Permute => x.permute(self.axes(x.rank())?.as_slice())?,
            Op::Narrow => {
                let axis = self.axis(0, x.rank())?;
                x.narrow(axis, self.size(1)?, self.out.shape[axis] as usize)?
            }
            Op::BroadcastTo => x.broadcast_as(dims(&self.out.shape))?,
            Op::Squeeze => x.squeeze(self.axis(0, x.rank())?)?,
            Op::Unsqueeze => x.unsqueeze(self.axis(0, x.rank() + 1)?)?,
            Op::Cat => join::cat(self.inputs, self.axis(0, x.rank())?)?,
            Op::Stack => join::stack(self.inputs, self.axis(0, x.rank() + 1)?)?,
            Op::Pad => {
                let value = scalar(self.float(3)?, self.out.dtype)?;
                join::pad(x, self.axis(0, x.rank())?, self.size(1)?, self.size(2)?, &value)?
            }
            Op::Matmul => match x.elem_count() {
                // The inner dimension is empty: every sum is 0.
                0 => self.zeros()?,
                _ => self.shaped(matrix::product(x, self.input(1)?)?)?,
            },
            Op::Linear => match x.dim(D::Minus1)? {
                0 => {
                    let product = self.zeros()?;
                    self.inputs
                        .get(2)
                        .map_or(Ok(product.clone()), |bias| product.broadcast_add(bias))?
                }
                _ => self.shaped(matrix::linear(x, self.input(1)?, self.inputs.get(2).copied())?)?,
            },
            Op::Embedding => rows::embedding(x, self.input(1)?, &dims(&self.out.shape))?,
            Op::IndexSelect => {
                let (axis, ids) = (self.axis(0, x.rank())?, self.input(1)?);
                rows::check(ids, x.dim(axis)?)?;
                self.index_select(&pieces::contiguous(x)?, &ids.contiguous()?, axis)?
            }
            Op::Rope => self.rope(x)?,
            Op::Attention => self.attention(x)?,
            Op::CachedAttention => {
                return Err(
                    Error::unsupported("only a program can append to a cache: record one with `compile`").into(),
                );
            }
            Op::Softmax | Op::LogSoftmax => self.softmax(op, x, self.axis(0, x.rank())?)?,
            Op::LayerNorm => self.layer_norm(x, self.input(1)?, self.inputs.get(2).copied(), self.float(0)? as f32)?,
            Op::RmsNorm => self.rms_norm(x, self.input(1)?, self.float(0)? as f32)?,
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
            | Op::PixelUnshuffle => self.vision(op)?,
            Op::Full | Op::Arange | Op::Randn | Op::RandUniform => {
                return Err(Error::internal("an op that takes no input was given one").into());
            }
            Op::Sample
            | Op::Argsort
            | Op::Topk
            | Op::Gather
            | Op::Scatter
            | Op::ScatterAdd
            | Op::IndexAdd
            | Op::PadReflect
            | Op::PadReplicate
            | Op::ResizeNearest1d
            | Op::Tril
            | Op::Triu
            | Op::Flip
            | Op::Roll
            | Op::Repeat
            | Op::RepeatInterleave
            | Op::OneHot => self.selection(op, x)?,
            Op::Cumsum
            | Op::Cumprod
            | Op::Conv1d
            | Op::ConvTranspose1d
            | Op::Lstm
            | Op::Gru
            | Op::ResizeLinear1d
            | Op::Stft
            | Op::Istft
            | Op::Logsumexp
            | Op::Var
            | Op::L2Normalize
            | Op::Rem
            | Op::Pow
            | Op::Atan2
            | Op::Log1p
            | Op::Expm1
            | Op::Snake
            | Op::Glu => self.sequence(op, x)?,
        })
    }

    /// Slices of a dense tensor by checked ids, some at a time.
    fn index_select(&self, x: &Tensor, ids: &Tensor, axis: usize) -> Result<Tensor> {
        let elements = self.out.elements() as usize;
        if !pieces::is_large(elements) {
            return Ok(x.index_select(ids, axis)?);
        }
        let to = pieces::empty(&dims(&self.out.shape), x.dtype())?;
        for part in pieces::parts(ids.elem_count(), elements) {
            let some = x.index_select(&ids.narrow(0, part.start, part.len())?, axis)?;
            pieces::put(&to, &some, axis, part.start)?;
        }
        Ok(to)
    }

    fn reduce(&self, op: Op, x: &Tensor) -> Result<Tensor> {
        let rank = x.rank();
        let mut axes = self.axes(rank)?;
        if axes.is_empty() {
            axes = (0..rank).collect();
        }
        if x.elem_count() == 0 {
            // Only sums and means get here: of nothing they are 0 and not-a-number.
            return Ok(self
                .full(if op == Op::Sum { 0.0 } else { f64::NAN })?
                .force_contiguous()?);
        }
        let reduced = match op {
            Op::Sum if self.out.dtype.is_int() => return integers::sum(x, &axes, &dims(&self.out.shape)),
            Op::Sum => norm::in_f32(x, |x| Ok(pieces::contiguous(x)?.sum_keepdim(axes.as_slice())?))?,
            Op::Mean => norm::in_f32(x, |x| Ok(pieces::contiguous(x)?.mean_keepdim(axes.as_slice())?))?,
            _ => {
                let mut x = dense(x)?;
                for axis in axes {
                    x = match op {
                        Op::Max => x.max_keepdim(axis)?,
                        _ => x.min_keepdim(axis)?,
                    };
                }
                x
            }
        };
        self.shaped(reduced)
    }

    /// One number under the output's shape, without taking its memory.
    fn full(&self, value: f64) -> Result<Tensor> {
        Ok(scalar(value, self.out.dtype)?.broadcast_as(dims(&self.out.shape))?)
    }

    fn zeros(&self) -> Result<Tensor> {
        let dtype = candle_dtype(self.out.dtype);
        Ok(Tensor::zeros(dims(&self.out.shape), dtype, &Device::Cpu)?)
    }

    fn arange(&self) -> Result<Tensor> {
        let (start, step) = (self.float(1)?, self.float(2)?);
        let len = self.out.shape.first().copied().unwrap_or(0);
        let values = (0..len).map(|i| f64::from(i).mul_add(step, start));
        Ok(match self.out.dtype {
            DType::I64 => Tensor::from_iter(values.map(|v| v as i64), &Device::Cpu)?,
            DType::U32 => Tensor::from_iter(values.map(|v| v as u32), &Device::Cpu)?,
            DType::U8 => Tensor::from_iter(values.map(|v| v as u8), &Device::Cpu)?,
            DType::F32 => Tensor::from_iter(values.map(|v| v as f32), &Device::Cpu)?,
            DType::F16 => Tensor::from_iter(values.map(half::f16::from_f64), &Device::Cpu)?,
            DType::BF16 => Tensor::from_iter(values.map(half::bf16::from_f64), &Device::Cpu)?,
        })
    }

    /// The same elements under the output's shape.
    fn shaped(&self, tensor: Tensor) -> Result<Tensor> {
        let mut pairs = tensor.dims().iter().zip(&self.out.shape);
        if tensor.rank() == self.out.shape.len() && pairs.all(|(a, b)| *a == *b as usize) {
            return Ok(tensor);
        }
        Ok(tensor.reshape(dims(&self.out.shape))?)
    }

    fn input(&self, at: usize) -> Result<&Tensor> {
        let input = self.inputs.get(at).copied();
        input.ok_or_else(|| Error::internal("an input is missing").into())
    }

    fn float(&self, at: usize) -> Result<f64> {
        attr_float(self.spec, self.attrs, at).ok_or_else(|| Error::internal("an attribute is missing").into())
    }

    fn axis(&self, at: usize, rank: usize) -> Result<usize> {
        let axis = attr_axis(self.spec, self.attrs, at).ok_or_else(|| Error::internal("an axis is missing"))?;
        Ok(normalise(axis, rank)?)
    }

    fn axes(&self, rank: usize) -> Result<SmallVec<[usize; 8]>> {
        let given: &[i64] = match self.attrs.first() {
            Some(Attr::Ints(ints)) => ints,
            Some(Attr::Int(int)) => std::slice::from_ref(int),
            _ => &[],
        };
        given.iter().map(|axis| Ok(normalise(*axis, rank)?)).collect()
    }

    fn size(&self, at: usize) -> Result<usize> {
        let size = match self.attrs.get(at) {
            Some(Attr::Int(int)) => usize::try_from(*int).ok(),
            Some(Attr::Ints(ints)) => ints.first().and_then(|int| usize::try_from(*int).ok()),
            Some(Attr::Dims(dims)) => dims.first().and_then(|dim| dim.as_constant()).map(|dim| dim as usize),
            _ => None,
        };
        size.ok_or_else(|| Error::internal("a size is missing").into())
    }
}

/// A dense tensor with the strides of its shape: a broadcast leaves 0 for dimensions of 1, by which candle divides.
fn dense(x: &Tensor) -> Result<Tensor> {
    Ok(pieces::contiguous(x)?.reshape(x.dims())?)
}

fn binary(op: Op, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dims() == b.dims() {
        return Ok(match op {
            Op::Add => a.add(b)?,
            Op::Sub => a.sub(b)?,
            Op::Mul => a.mul(b)?,
            Op::Div => a.div(b)?,
            Op::Maximum => a.maximum(b)?,
            Op::Minimum => a.minimum(b)?,
            Op::Eq => a.eq(b)?,
            Op::Ne => a.ne(b)?,
            Op::Lt => a.lt(b)?,
            Op::Le => a.le(b)?,
            Op::Gt => a.gt(b)?,
            _ => a.ge(b)?,
        });
    }
    Ok(match op {
        Op::Add => a.broadcast_add(b)?,
        Op::Sub => a.broadcast_sub(b)?,
        Op::Mul => a.broadcast_mul(b)?,
        Op::Div => a.broadcast_div(b)?,
        Op::Maximum => a.broadcast_maximum(b)?,
        Op::Minimum => a.broadcast_minimum(b)?,
        Op::Eq => a.broadcast_eq(b)?,
        Op::Ne => a.broadcast_ne(b)?,
        Op::Lt => a.broadcast_lt(b)?,
        Op::Le => a.broadcast_le(b)?,
        Op::Gt => a.broadcast_gt(b)?,
        _ => a.broadcast_ge(b)?,
    })
}

fn scalar(value: f64, dtype: DType) -> Result<Tensor> {
    fn of<T: WithDType>(value: T) -> Result<Tensor> {
        Ok(Tensor::from_vec(vec![value], (), &Device::Cpu)?)
    }
    match dtype {
        DType::F32 => of(value as f32),
        DType::F16 => of(half::f16::from_f64(value)),
        DType::BF16 => of(half::bf16::from_f64(value)),
        DType::U8 => of(value as u8),
        DType::U32 => of(value as u32),
        DType::I64 => of(value as i64),
    }
}

/// Half floats as f32, anything else as it is.
fn widened(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        Candle::F16 | Candle::BF16 => pieces::cast(x, Candle::F32),
        _ => Ok(x.clone()),
    }
}
