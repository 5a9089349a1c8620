//! What each op of the table does on a CPU, with candle's kernels. Types have been checked and paid for.

use candle_core::{D, DType as Candle, Device, Tensor, WithDType};
use maquette_ops::{Attr, DType, Error, Op, OpSpec, Type, attr_axis, attr_float, normalise};
use smallvec::SmallVec;

use crate::gelu::Function;
use crate::tensor::{candle_dtype, dims, said};

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Candle(e) => Self::internal(said(&e)),
            Failure::Ours(e) => e,
        }
    }
}

enum Failure {
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
pub(crate) fn run(spec: &OpSpec, inputs: &[&Tensor], attrs: &[Attr], out: &Type<u32>) -> Result<Tensor, Error> {
    Ok(Kernel {
        spec,
        inputs,
        attrs,
        out,
    }
    .run()?)
}

struct Kernel<'a> {
    spec: &'a OpSpec,
    inputs: &'a [&'a Tensor],
    attrs: &'a [Attr],
    out: &'a Type<u32>,
}

impl Kernel<'_> {
    fn run(&self) -> Result<Tensor> {
        if self.out.elements() == 0 {
            // Nothing to compute, and kernels differ in what they make of it.
            return Ok(Tensor::zeros(
                dims(&self.out.shape),
                candle_dtype(self.out.dtype),
                &Device::Cpu,
            )?);
        }
        let x = self.inputs.first().copied();
        match (self.spec.op, x) {
            (Op::Full, _) => self.full(self.float(1)?),
            (Op::Arange, _) => self.arange(),
            (op, Some(x)) => self.with_input(op, x),
            (_, None) => Err(Error::internal("an op without inputs").into()),
        }
    }

    fn with_input(&self, op: Op, x: &Tensor) -> Result<Tensor> {
        Ok(match op {
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
            | Op::Ge => self.binary(op, x, self.input(1)?)?,
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
            Op::GeluErf if x.dtype() == Candle::F32 => x.contiguous()?.apply_op1_no_bwd(&Function::Gelu)?,
            Op::Erf if x.dtype() == Candle::F32 => x.contiguous()?.apply_op1_no_bwd(&Function::Erf)?,
            Op::GeluErf => x.gelu_erf()?,
            Op::Erf => x.erf()?,
            Op::Floor => x.floor()?,
            Op::Ceil => x.ceil()?,
            Op::Round => x.round()?,
            Op::Sign => x.sign()?,
            Op::Cast => x.to_dtype(candle_dtype(self.out.dtype))?,
            Op::Sum | Op::Mean | Op::Max | Op::Min => self.reduce(op, x)?,
            Op::Argmax => self.shaped(x.argmax(self.axis(0, x.rank())?)?)?,
            Op::Argmin => self.shaped(x.argmin(self.axis(0, x.rank())?)?)?,
            Op::Reshape => x.reshape(dims(&self.out.shape))?,
            Op::Transpose => x.transpose(self.axis(0, x.rank())?, self.axis(1, x.rank())?)?,
            Op::Permute => x.permute(self.axes(x.rank())?)?,
            Op::Narrow => {
                let axis = self.axis(0, x.rank())?;
                x.narrow(axis, self.size(1)?, self.out.shape[axis] as usize)?
            }
            Op::BroadcastTo => x.broadcast_as(dims(&self.out.shape))?,
            Op::Squeeze => x.squeeze(self.axis(0, x.rank())?)?,
            Op::Unsqueeze => x.unsqueeze(self.axis(0, x.rank() + 1)?)?,
            Op::Cat => {
                let axis = self.axis(0, x.rank())?;
                // An empty part adds nothing, and candle's copy of it would be refused.
                let parts: Vec<_> = self.inputs.iter().filter(|part| part.elem_count() > 0).collect();
                Tensor::cat(&parts, axis)?
            }
            Op::Stack => Tensor::stack(self.inputs, self.axis(0, x.rank() + 1)?)?,
            Op::Pad => self.pad(x)?,
            Op::Matmul => self.matmul(x, self.input(1)?)?,
            Op::Linear => self.linear(x, self.input(1)?, self.inputs.get(2).copied())?,
            Op::Embedding => self.embedding(x)?,
            Op::IndexSelect => {
                let axis = self.axis(0, x.rank())?;
                let ids = self.checked_ids(self.input(1)?, x.dim(axis)?)?;
                x.contiguous()?.index_select(&ids, axis)?
            }
            Op::Softmax => in_f32(x, |x| {
                let axis = self.axis(0, x.rank())?;
                if axis + 1 == x.rank() {
                    return Ok(candle_nn::ops::softmax_last_dim(&x.contiguous()?)?);
                }
                Ok(candle_nn::ops::softmax(x, axis)?)
            })?,
            Op::LogSoftmax => in_f32(x, |x| Ok(candle_nn::ops::log_softmax(x, self.axis(0, x.rank())?)?))?,
            Op::LayerNorm => in_f32(x, |x| {
                let weight = self.input(1)?.to_dtype(Candle::F32)?.contiguous()?;
                let bias = match self.inputs.get(2) {
                    Some(bias) => bias.to_dtype(Candle::F32)?.contiguous()?,
                    None => weight.zeros_like()?,
                };
                Ok(candle_nn::ops::layer_norm(
                    &x.contiguous()?,
                    &weight,
                    &bias,
                    self.float(0)? as f32,
                )?)
            })?,
            Op::RmsNorm => in_f32(x, |x| {
                let weight = self.input(1)?.to_dtype(Candle::F32)?.contiguous()?;
                Ok(candle_nn::ops::rms_norm(
                    &x.contiguous()?,
                    &weight,
                    self.float(0)? as f32,
                )?)
            })?,
            Op::Full | Op::Arange => return Err(Error::internal("an op that takes no input was given one").into()),
        })
    }

    fn binary(&self, op: Op, a: &Tensor, b: &Tensor) -> Result<Tensor> {
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

    fn reduce(&self, op: Op, x: &Tensor) -> Result<Tensor> {
        let rank = x.rank();
        let named = self.axes(rank)?;
        let axes: Vec<usize> = if named.is_empty() { (0..rank).collect() } else { named };
        if x.elem_count() == 0 {
            // Only sums and means get here: of nothing they are 0 and not-a-number.
            return self.full(if op == Op::Sum { 0.0 } else { f64::NAN });
        }
        let reduced = match op {
            Op::Sum => in_f32(x, |x| Ok(x.sum_keepdim(&*axes)?))?,
            Op::Mean => in_f32(x, |x| Ok(x.mean_keepdim(&*axes)?))?,
            _ => {
                let mut x = x.clone();
                for axis in axes {
                    x = if op == Op::Max {
                        x.max_keepdim(axis)?
                    } else {
                        x.min_keepdim(axis)?
                    };
                }
                x
            }
        };
        self.shaped(reduced)
    }

    fn pad(&self, x: &Tensor) -> Result<Tensor> {
        let axis = self.axis(0, x.rank())?;
        let (left, right) = (self.size(1)?, self.size(2)?);
        let side = |len: usize| -> Result<Tensor> {
            let mut shape = x.dims().to_vec();
            shape[axis] = len;
            scalar(self.float(3)?, self.out.dtype)?
                .broadcast_as(shape)
                .map_err(Failure::Candle)
        };
        let (left, right) = (
            if left > 0 { Some(side(left)?) } else { None },
            if right > 0 { Some(side(right)?) } else { None },
        );
        let middle = (x.elem_count() > 0).then(|| x.clone());
        let parts: Vec<Tensor> = [left, middle, right].into_iter().flatten().collect();
        Ok(Tensor::cat(&parts, axis)?)
    }

    fn matmul(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        if a.elem_count() == 0 {
            // The inner dimension is empty: every sum is 0.
            return self.full(0.0);
        }
        let product = if a.rank() == b.rank() && a.dims()[..a.rank() - 2] == b.dims()[..b.rank() - 2] {
            // candle takes transposed operands as they are, but no other strides.
            matrix_ready(a)?.matmul(&matrix_ready(b)?)?
        } else {
            a.contiguous()?.broadcast_matmul(&b.contiguous()?)?
        };
        self.shaped(product)
    }

    fn linear(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let width = x.dim(D::Minus1)?;
        let product = match x.elem_count().checked_div(width) {
            Some(rows) => {
                let product = x.reshape((rows, width))?.matmul(&matrix_ready(&weight.t()?)?)?;
                product.reshape(dims(&self.out.shape))?
            }
            // The inner dimension is empty: every sum is 0.
            None => self.full(0.0)?,
        };
        match bias {
            Some(bias) => Ok(product.broadcast_add(bias)?),
            None => Ok(product),
        }
    }

    fn embedding(&self, table: &Tensor) -> Result<Tensor> {
        let ids = self.checked_ids(&self.input(1)?.flatten_all()?, table.dim(0)?)?;
        let rows = if table.is_contiguous() {
            table.index_select(&ids, 0)?
        } else {
            // Row by row: copying the whole table together would take memory that nobody paid for.
            let ids = ids.to_dtype(Candle::U32)?.to_vec1::<u32>()?;
            let rows = ids
                .iter()
                .map(|id| table.narrow(0, *id as usize, 1))
                .collect::<candle_core::Result<Vec<_>>>()?;
            Tensor::cat(&rows, 0)?
        };
        Ok(rows.reshape(dims(&self.out.shape))?)
    }

    /// Ids that are known to be in range, in a type and layout that candle takes.
    fn checked_ids(&self, ids: &Tensor, rows: usize) -> Result<Tensor> {
        let ids = ids.contiguous()?;
        let wide = ids.to_dtype(Candle::I64)?.to_vec1::<i64>()?;
        match wide
            .iter()
            .position(|id| usize::try_from(*id).map_or(true, |id| id >= rows))
        {
            None => Ok(ids),
            Some(at) => Err(Error::invalid_input(format!("id {} at place {at} is not below {rows}", wide[at])).into()),
        }
    }

    /// One number under the output's shape, without taking its memory.
    fn full(&self, value: f64) -> Result<Tensor> {
        Ok(scalar(value, self.out.dtype)?.broadcast_as(dims(&self.out.shape))?)
    }

    fn arange(&self) -> Result<Tensor> {
        let (start, step) = (self.float(1)?, self.float(2)?);
        let len = self.out.shape.first().copied().unwrap_or(0);
        let values = (0..len).map(|i| f64::from(i).mul_add(step, start));
        Ok(match self.out.dtype {
            DType::I64 => Tensor::from_iter(values.map(|v| v as i64), &Device::Cpu)?,
            DType::U32 => Tensor::from_iter(values.map(|v| v as u32), &Device::Cpu)?,
            DType::U8 => Tensor::from_iter(values.map(|v| v as u8), &Device::Cpu)?,
            dtype => Tensor::from_iter(values.map(|v| v as f32), &Device::Cpu)?.to_dtype(candle_dtype(dtype))?,
        })
    }

    fn shaped(&self, tensor: Tensor) -> Result<Tensor> {
        let same = tensor
            .dims()
            .iter()
            .zip(&self.out.shape)
            .all(|(a, b)| *a == *b as usize);
        if tensor.rank() == self.out.shape.len() && same {
            return Ok(tensor);
        }
        Ok(tensor.reshape(dims(&self.out.shape))?)
    }

    fn input(&self, at: usize) -> Result<&Tensor> {
        self.inputs
            .get(at)
            .copied()
            .ok_or_else(|| Error::internal("an input is missing").into())
    }

    fn float(&self, at: usize) -> Result<f64> {
        attr_float(self.spec, self.attrs, at).ok_or_else(|| Error::internal("an attribute is missing").into())
    }

    fn axis(&self, at: usize, rank: usize) -> Result<usize> {
        let axis = attr_axis(self.spec, self.attrs, at).ok_or_else(|| Error::internal("an axis is missing"))?;
        Ok(normalise(axis, rank)?)
    }

    fn axes(&self, rank: usize) -> Result<Vec<usize>> {
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

/// Half floats widened for an op that adds up many of them.
fn in_f32(x: &Tensor, op: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    match x.dtype() {
        Candle::F16 | Candle::BF16 => Ok(op(&x.to_dtype(Candle::F32)?)?.to_dtype(x.dtype())?),
        _ => op(x),
    }
}

/// A matrix, or a batch of them, as candle's matmul takes it: contiguous, or the transpose of such.
fn matrix_ready(x: &Tensor) -> Result<Tensor> {
    let strides: SmallVec<[usize; 8]> = x.stride().iter().copied().collect();
    let rank = x.rank();
    let (rows, columns) = (x.dims()[rank - 2], x.dims()[rank - 1]);
    let inner = (strides[rank - 2], strides[rank - 1]);
    let plain = inner == (columns, 1) || inner == (1, rows);
    let mut expected = rows * columns;
    let batched = (0..rank - 2).rev().all(|axis| {
        let fine = strides[axis] == expected || x.dims()[axis] == 1;
        expected *= x.dims()[axis];
        fine
    });
    if plain && batched {
        Ok(x.clone())
    } else {
        Ok(x.contiguous()?)
    }
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
