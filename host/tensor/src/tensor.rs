//! An immutable tensor: elements in the host, with whoever pays for them.

use std::sync::Arc;

use bytemuck::Pod;
use candle_core::{CpuStorage, Device, Storage};
use half::{bf16, f16};
use maquette_ops::{DType, Error, Form, Operand, Type};

use crate::budget::Charge;
use crate::resident::Resident;

/// A handle to immutable elements; a clone or a view shares them.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub(crate) inner: candle_core::Tensor,
    pub(crate) ty: Type<u32>,
    pub(crate) owner: Owner,
}

/// Who pays for a tensor's memory.
#[derive(Clone, Debug)]
pub(crate) enum Owner {
    /// A call's budget; views share the charge.
    Budget(#[expect(dead_code, reason = "held for its drop")] Arc<Charge>),
    /// The host: a weight.
    Resident(#[expect(dead_code, reason = "held for its drop")] Arc<Resident>),
    /// A program, as long as it lives.
    Program,
}

impl Tensor {
    /// Dimensions, outermost first.
    pub fn shape(&self) -> &[u32] {
        &self.ty.shape
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.ty.dtype
    }

    /// How many elements there are.
    pub fn elements(&self) -> u64 {
        self.ty.elements()
    }

    /// How many bytes they take, written out.
    pub fn bytes(&self) -> u64 {
        self.ty.bytes()
    }

    /// What an op's cost depends on.
    #[inline]
    pub(crate) fn operand(&self) -> Operand<'_> {
        Operand {
            ty: &self.ty,
            form: Form::of(&self.ty.shape, self.inner.stride()),
        }
    }

    /// The candle tensor underneath.
    pub fn as_candle(&self) -> &candle_core::Tensor {
        &self.inner
    }
}

/// What candle says, without the backtrace that it adds where the environment asks for one.
pub(crate) fn said(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => said(inner),
        candle_core::Error::Context { inner, .. } => said(inner),
        other => other.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

pub(crate) fn candle_dtype(dtype: DType) -> candle_core::DType {
    match dtype {
        DType::F32 => candle_core::DType::F32,
        DType::F16 => candle_core::DType::F16,
        DType::BF16 => candle_core::DType::BF16,
        DType::U8 => candle_core::DType::U8,
        DType::U32 => candle_core::DType::U32,
        DType::I64 => candle_core::DType::I64,
    }
}

/// How many elements lie in the memory under a tensor, seen or not.
pub(crate) fn stored_elements(tensor: &candle_core::Tensor) -> usize {
    let (storage, _) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(v)) => v.len(),
        Storage::Cpu(CpuStorage::F16(v)) => v.len(),
        Storage::Cpu(CpuStorage::BF16(v)) => v.len(),
        Storage::Cpu(CpuStorage::U8(v)) => v.len(),
        Storage::Cpu(CpuStorage::U32(v)) => v.len(),
        Storage::Cpu(CpuStorage::I64(v)) => v.len(),
        _ => usize::MAX,
    }
}

pub(crate) fn dims(shape: &[u32]) -> Vec<usize> {
    shape.iter().map(|dim| *dim as usize).collect()
}

/// A candle tensor of elements as they cross the boundary. The length must have been checked.
pub(crate) fn from_bytes(dtype: DType, shape: &[u32], bytes: &[u8]) -> Result<candle_core::Tensor, Error> {
    fn typed<T: Pod + candle_core::WithDType>(shape: &[u32], bytes: &[u8]) -> candle_core::Result<candle_core::Tensor> {
        candle_core::Tensor::from_vec(bytemuck::pod_collect_to_vec::<u8, T>(bytes), dims(shape), &Device::Cpu)
    }
    match dtype {
        DType::F32 => typed::<f32>(shape, bytes),
        DType::F16 => typed::<f16>(shape, bytes),
        DType::BF16 => typed::<bf16>(shape, bytes),
        DType::U8 => typed::<u8>(shape, bytes),
        DType::U32 => typed::<u32>(shape, bytes),
        DType::I64 => typed::<i64>(shape, bytes),
    }
    .map_err(|e| Error::internal(format!("uploading: {}", said(&e))))
}

/// Elements `start .. start + count` in row-major order, as they cross the boundary. The range must have been checked.
pub(crate) fn to_bytes(tensor: &candle_core::Tensor, start: usize, count: usize) -> Result<Vec<u8>, Error> {
    let fail = |e: candle_core::Error| Error::internal(format!("reading: {}", said(&e)));
    if count == 0 {
        return Ok(Vec::new());
    }
    let tensor = tensor.contiguous().map_err(fail)?;
    let (storage, layout) = tensor.storage_and_layout();
    let from = layout.start_offset() + start;
    let range = from..from + count;
    let Storage::Cpu(storage) = &*storage else {
        return Err(Error::internal("reading: the tensor is on another device"));
    };
    let bytes: &[u8] = match storage {
        CpuStorage::F32(v) => bytemuck::cast_slice(&v[range]),
        CpuStorage::F16(v) => bytemuck::cast_slice(&v[range]),
        CpuStorage::BF16(v) => bytemuck::cast_slice(&v[range]),
        CpuStorage::U8(v) => &v[range],
        CpuStorage::U32(v) => bytemuck::cast_slice(&v[range]),
        CpuStorage::I64(v) => bytemuck::cast_slice(&v[range]),
        _ => return Err(Error::internal("reading: a dtype that no guest can have")),
    };
    Ok(bytes.to_vec())
}
