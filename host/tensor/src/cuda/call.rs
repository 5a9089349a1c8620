//! One application of an op on a device: its inputs, attributes and output type, as the families of ops read them.

use candle_core::{DType as Candle, Device, Shape, Tensor};
use maquette_ops::{
    Attr, Error, OpSpec, Type, attr_axis, attr_flag, attr_float, attr_int, attr_padding, attr_pair, normalise,
};
use smallvec::SmallVec;

use super::executor::Turn;
use super::slot::{Range, Value};
use crate::kernels::Failure;
use crate::tensor::{candle_dtype, dims};

pub(super) type Result<T, E = Failure> = std::result::Result<T, E>;

/// An op to be applied. Types have been checked and paid for.
pub(super) struct Call<'a> {
    pub(super) spec: &'a OpSpec,
    pub(super) inputs: &'a [&'a Value],
    pub(super) attrs: &'a [Attr],
    pub(super) out: &'a Type<u32>,
    pub(super) turn: &'a Turn<'a>,
    pub(super) device: &'a Device,
}

fn missing(what: &str) -> Failure {
    Error::internal(format!("{what} is missing")).into()
}

impl Call<'_> {
    pub(super) fn input(&self, at: usize) -> Result<&Tensor> {
        let input = self.inputs.get(at).map(|value| &value.tensor);
        input.ok_or_else(|| missing("an input"))
    }

    pub(super) fn optional(&self, at: usize) -> Option<&Tensor> {
        self.inputs.get(at).map(|value| &value.tensor)
    }

    /// What is known of an input's integers.
    pub(super) fn range(&self, at: usize) -> Range {
        self.inputs.get(at).and_then(|value| value.range)
    }

    pub(super) fn shape(&self) -> Vec<usize> {
        dims(&self.out.shape)
    }

    pub(super) fn dtype(&self) -> Candle {
        candle_dtype(self.out.dtype)
    }

    pub(super) fn float(&self, at: usize) -> Result<f64> {
        attr_float(self.spec, self.attrs, at).ok_or_else(|| missing("a number"))
    }

    pub(super) fn flag(&self, at: usize) -> Result<bool> {
        attr_flag(self.spec, self.attrs, at).ok_or_else(|| missing("a flag"))
    }

    /// An integer of either sign.
    pub(super) fn signed(&self, at: usize) -> Result<i64> {
        attr_int(self.spec, self.attrs, at).ok_or_else(|| missing("an integer"))
    }

    pub(super) fn int(&self, at: usize) -> Result<usize> {
        usize::try_from(self.signed(at)?).map_err(|_| missing("an integer"))
    }

    pub(super) fn pair(&self, at: usize) -> Result<[usize; 2]> {
        let pair = attr_pair(self.spec, self.attrs, at).ok_or_else(|| missing("a pair"))?;
        Ok(pair.map(|value| usize::try_from(value).unwrap_or(0)))
    }

    pub(super) fn padding(&self, at: usize) -> Result<[usize; 4]> {
        let all = attr_padding(self.spec, self.attrs, at).ok_or_else(|| missing("a padding"))?;
        Ok(all.map(|value| usize::try_from(value).unwrap_or(0)))
    }

    pub(super) fn axis(&self, at: usize, rank: usize) -> Result<usize> {
        let axis = attr_axis(self.spec, self.attrs, at).ok_or_else(|| missing("an axis"))?;
        Ok(normalise(axis, rank)?)
    }

    /// The axes that are named; all of them if none are.
    pub(super) fn axes(&self, rank: usize) -> Result<SmallVec<[usize; 8]>> {
        let given: &[i64] = match self.attrs.first() {
            Some(Attr::Ints(ints)) => ints,
            Some(Attr::Int(int)) => std::slice::from_ref(int),
            _ => &[],
        };
        if given.is_empty() {
            return Ok((0..rank).collect());
        }
        given.iter().map(|axis| Ok(normalise(*axis, rank)?)).collect()
    }

    pub(super) fn size(&self, at: usize) -> Result<usize> {
        let size = match self.attrs.get(at) {
            Some(Attr::Int(int)) => usize::try_from(*int).ok(),
            Some(Attr::Ints(ints)) => ints.first().and_then(|int| usize::try_from(*int).ok()),
            Some(Attr::Dims(dims)) => dims.first().and_then(|dim| dim.as_constant()).map(|dim| dim as usize),
            _ => None,
        };
        size.ok_or_else(|| missing("a size"))
    }

    /// One number on the device, of the output's dtype.
    pub(super) fn scalar(&self, value: f64) -> Result<Tensor> {
        scalar(value, self.dtype(), self.device)
    }

    /// One number under the output's shape, without taking its memory.
    pub(super) fn full(&self, value: f64) -> Result<Tensor> {
        Ok(self.scalar(value)?.broadcast_as(self.shape())?)
    }

    /// Zeros under the output's shape, in memory of their own.
    pub(super) fn zeros(&self) -> Result<Tensor> {
        if self.out.elements() == 0 {
            return nothing(&self.shape(), self.dtype(), self.device);
        }
        Ok(Tensor::zeros(self.shape(), self.dtype(), self.device)?)
    }

    /// Integers of the host on the device.
    pub(super) fn indices(&self, values: Vec<u32>) -> Result<Tensor> {
        let len = values.len();
        Ok(Tensor::from_vec(values, len, self.device)?)
    }

    /// A matrix of the host on the device, row by row.
    pub(super) fn matrix(&self, rows: usize, columns: usize, value: impl Fn(usize, usize) -> f64) -> Result<Tensor> {
        countable(&[rows, columns])?;
        let values = (0..rows * columns).map(|i| value(i / columns, i % columns) as f32);
        Ok(Tensor::from_vec(
            values.collect::<Vec<f32>>(),
            (rows, columns),
            self.device,
        )?)
    }
}

/// Refuses what kernels could not count: they do so in 32 bits, and would leave out what is beyond. Types keep to that, what an op makes
/// on its way need not.
pub(super) fn countable(shape: &[usize]) -> Result<()> {
    let elements = shape.iter().try_fold(1_usize, |all, dim| all.checked_mul(*dim));
    if elements.is_some_and(|all| all as u64 <= maquette_ops::MAX_ELEMENTS) {
        return Ok(());
    }
    Err(Error::quota(format!(
        "a tensor {shape:?} would be made on the way, and none may have more than {} elements: use smaller shapes",
        maquette_ops::MAX_ELEMENTS
    ))
    .into())
}

/// A tensor without elements: kernels would refuse to be launched for it, and drivers to allocate it.
pub(super) fn nothing(shape: &[usize], dtype: Candle, device: &Device) -> Result<Tensor> {
    let one = Tensor::zeros(1, dtype, device)?;
    Ok(one.narrow(0, 0, 0)?.reshape(shape)?)
}

/// One number as any dtype, rounded toward zero and saturating for integers.
pub(super) fn scalar(value: f64, dtype: Candle, device: &Device) -> Result<Tensor> {
    Ok(match dtype {
        Candle::F32 => Tensor::new(value as f32, device)?,
        Candle::F16 => Tensor::new(half::f16::from_f64(value), device)?,
        Candle::BF16 => Tensor::new(half::bf16::from_f64(value), device)?,
        Candle::U8 => Tensor::new(value as u8, device)?,
        Candle::U32 => Tensor::new(value as u32, device)?,
        Candle::I64 => Tensor::new(value as i64, device)?,
        _ => return Err(Error::internal("a dtype that no guest can have").into()),
    })
}

/// Half floats as f32, anything else as it is.
pub(super) fn wide(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        Candle::F16 | Candle::BF16 => cast(x, Candle::F32),
        _ => Ok(x.clone()),
    }
}

/// An op of floats in f32, dense; its result as what came in.
pub(super) fn in_f32(x: &Tensor, op: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let dense = wide(x)?.contiguous()?;
    cast(&op(&dense)?, x.dtype())
}

/// The same values as another dtype. Between half floats and 64-bit integers there is no kernel: f32 is between.
pub(super) fn cast(x: &Tensor, dtype: Candle) -> Result<Tensor> {
    if x.elem_count() == 0 && x.dtype() != dtype {
        return nothing(x.dims(), dtype, x.device());
    }
    let half = |dtype| matches!(dtype, Candle::F16 | Candle::BF16);
    if (half(x.dtype()) && dtype == Candle::I64) || (x.dtype() == Candle::I64 && half(dtype)) {
        return Ok(x.to_dtype(Candle::F32)?.to_dtype(dtype)?);
    }
    Ok(x.to_dtype(dtype)?)
}

/// The same elements under another shape.
pub(super) fn shaped(x: &Tensor, shape: impl Into<Shape>) -> Result<Tensor> {
    Ok(x.reshape(shape.into())?)
}
