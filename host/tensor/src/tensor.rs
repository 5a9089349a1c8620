//! An immutable tensor: elements in the host, with whoever pays for them.

use std::sync::Arc;

use bytemuck::Pod;
use candle_core::{CpuStorage, Device, Storage};
use half::{bf16, f16};
use maquette_kernels::stop;
use maquette_ops::{Attr, DType, Error, Form, Op, OpSpec, Operand, Type, attr_axis, normalise};
use smallvec::SmallVec;

use crate::budget::Charge;
use crate::cuda::Remote;
use crate::kernels::pieces;
use crate::resident::Resident;

/// A handle to immutable elements; a clone or a view shares them.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub(crate) elements: Elements,
    pub(crate) ty: Type<u32>,
    pub(crate) owner: Owner,
}

/// Where a tensor's elements are.
#[derive(Clone, Debug)]
pub(crate) enum Elements {
    /// In the processor's memory.
    Here(candle_core::Tensor),
    /// On a device, if not yet, then once the jobs sent before have run. Boxed: handles of a processor's tensors stay small.
    There(Box<Remote>),
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
            form: Form::of(&self.ty.shape, self.strides()),
        }
    }

    /// How it lies in memory, counted in elements.
    #[inline]
    pub(crate) fn strides(&self) -> &[usize] {
        match &self.elements {
            Elements::Here(inner) => inner.stride(),
            Elements::There(remote) => &remote.strides,
        }
    }

    /// The candle tensor underneath, on a processor.
    #[inline]
    pub(crate) fn here(&self) -> Result<&candle_core::Tensor, Error> {
        match &self.elements {
            Elements::Here(inner) => Ok(inner),
            Elements::There(_) => Err(Error::internal("a tensor of another device was given")),
        }
    }

    /// The value on a device.
    pub(crate) fn there(&self) -> Result<&Remote, Error> {
        match &self.elements {
            Elements::There(remote) => Ok(remote),
            Elements::Here(_) => Err(Error::internal("a tensor of another device was given")),
        }
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
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => crate::cuda::stored_elements(storage),
        _ => usize::MAX,
    }
}

pub(crate) fn dims(shape: &[u32]) -> Vec<usize> {
    shape.iter().map(|dim| *dim as usize).collect()
}

/// A candle tensor of elements as they cross the boundary. The length must have been checked.
pub(crate) fn from_bytes(dtype: DType, shape: &[u32], bytes: &[u8]) -> Result<candle_core::Tensor, Error> {
    fn typed<T: Pod + candle_core::WithDType>(shape: &[u32], bytes: &[u8]) -> candle_core::Result<candle_core::Tensor> {
        candle_core::Tensor::from_vec(elements::<T>(bytes), dims(shape), &Device::Cpu)
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

/// Bytes that are copied at once, between two looks whether to stop or to make way for others.
const PART: usize = 256 << 10;

/// The elements that bytes stand for.
fn elements<T: Pod>(bytes: &[u8]) -> Vec<T> {
    let mut elements = bytemuck::zeroed_vec::<T>(bytes.len() / size_of::<T>());
    let to = bytemuck::cast_slice_mut::<T, u8>(&mut elements);
    for (number, (to, from)) in to.chunks_mut(PART).zip(bytes.chunks(PART)).enumerate() {
        if number > 0 {
            stop::look();
        }
        to.copy_from_slice(from);
    }
    elements
}

/// Elements `start .. start + count` in row-major order, as they cross the boundary. The range must have been checked.
pub(crate) fn to_bytes(tensor: &candle_core::Tensor, start: usize, count: usize) -> Result<Vec<u8>, Error> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let tensor = pieces::contiguous(tensor).map_err(Error::from)?;
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

/// The strides of a tensor in row-major order.
pub(crate) fn row_major(shape: &[u32]) -> SmallVec<[usize; 8]> {
    let mut strides = SmallVec::from_elem(1, shape.len());
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i].max(1) as usize;
    }
    strides
}

/// The strides of an output that lies in its first input's memory.
pub(crate) fn shared_strides(
    spec: &OpSpec,
    attrs: &[Attr],
    (input, from): (&Type<u32>, &[usize]),
    output: &Type<u32>,
) -> SmallVec<[usize; 8]> {
    if output.elements() == 0 || spec.op == Op::Reshape {
        return row_major(&output.shape);
    }
    let rank = input.shape.len();
    let axis = |at: usize, rank: usize| attr_axis(spec, attrs, at).and_then(|axis| normalise(axis, rank).ok());
    let mut strides = SmallVec::from_slice(from);
    match spec.op {
        Op::Transpose => {
            if let (Some(a), Some(b)) = (axis(0, rank), axis(1, rank)) {
                strides.swap(a, b);
            }
        }
        Op::Permute => {
            let order: &[i64] = match attrs.first() {
                Some(Attr::Ints(order)) => order,
                _ => &[],
            };
            let order = order.iter().filter_map(|axis| normalise(*axis, rank).ok());
            strides = order.map(|axis| from[axis]).collect();
        }
        Op::Squeeze => {
            if let Some(at) = axis(0, rank) {
                strides.remove(at);
            }
        }
        Op::Unsqueeze | Op::Stack => {
            if let Some(at) = axis(0, rank + 1) {
                strides.insert(at, 1);
            }
        }
        Op::BroadcastTo => {
            let added = output.shape.len() - rank;
            strides = SmallVec::from_elem(0, added);
            for (i, stride) in from.iter().enumerate() {
                let repeats = input.shape[i] != output.shape[added + i];
                strides.push(if repeats { 0 } else { *stride });
            }
        }
        _ => {}
    }
    strides
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use maquette_kernels::stop::{Signal, Stopped, under};

    use super::*;

    struct Up(bool);

    impl Signal for Up {
        fn is_up(&self) -> bool {
            self.0
        }
    }

    #[test]
    fn an_upload_is_whole_or_is_left_between_its_parts() {
        let bytes: Vec<u8> = (0..2 * PART + 40).map(|i| (i % 251) as u8).collect();
        let whole = under(&Up(false), || elements::<u32>(&bytes)).unwrap();
        assert_eq!(bytemuck::cast_slice::<u32, u8>(&whole), bytes);
        assert_eq!(under(&Up(true), || elements::<u32>(&bytes)), Err(Stopped));
    }
}
