//! A tensor's elements as one slice in row-major order, for kernels that take slices.

use candle_core::{CpuStorage, Device, Storage, StorageRef, Tensor, WithDType};
use maquette_ops::{DType, Error};

use super::{Kernel, Result, pieces, widened};
use crate::tensor::{candle_dtype, dims};

/// A tensor in row-major order.
pub(super) struct Dense(Tensor);

impl Dense {
    /// The elements as they are; copied if they lie otherwise.
    pub(super) fn of(x: &Tensor) -> Result<Self> {
        Ok(Self(pieces::contiguous(x)?))
    }

    /// Half floats widened to f32.
    pub(super) fn wide(x: &Tensor) -> Result<Self> {
        Ok(Self(pieces::contiguous(&widened(x)?)?))
    }

    pub(super) fn read(&self) -> Read<'_> {
        let (storage, layout) = self.0.storage_and_layout();
        let start = layout.start_offset();
        Read {
            storage,
            range: start..start + self.0.elem_count(),
        }
    }
}

/// The elements, while they are looked at.
pub(super) struct Read<'a> {
    pub(super) storage: StorageRef<'a>,
    pub(super) range: std::ops::Range<usize>,
}

impl Read<'_> {
    pub(super) fn f32(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(all)) => Ok(&all[self.range.clone()]),
            _ => Err(Error::internal("not f32").into()),
        }
    }

    /// The elements, of the type that others have.
    pub(super) fn like<T: WithDType>(&self, _: &[T]) -> Result<&[T]> {
        match &*self.storage {
            Storage::Cpu(storage) => Ok(&T::cpu_storage_as_slice(storage)?[self.range.clone()]),
            _ => Err(Error::internal("elements of another device").into()),
        }
    }
}

/// Evaluates an expression with the elements as `$x`, of whichever of the types they are.
macro_rules! with_types {
    ([$($type:ident),*], $otherwise:literal, $dense:expr, $x:ident => $body:expr) => {{
        use candle_core::{CpuStorage, Storage};
        let dense = $dense;
        let read = dense.read();
        let range = read.range.clone();
        match &*read.storage {
            $(Storage::Cpu(CpuStorage::$type(all)) => {
                let $x = &all[range];
                $body
            })*
            _ => Err(maquette_ops::Error::internal($otherwise).into()),
        }
    }};
}
pub(super) use with_types;

/// Evaluates an expression with the elements of any dtype as `$x`.
macro_rules! with_elements {
    ($dense:expr, $x:ident => $body:expr) => {
        $crate::kernels::slices::with_types!(
            [F32, F16, BF16, U8, U32, I64], "a dtype that no tensor has", $dense, $x => $body
        )
    };
}
pub(super) use with_elements;

/// Evaluates an expression with the elements of an integer dtype as `$x`.
macro_rules! with_integers {
    ($dense:expr, $x:ident => $body:expr) => {
        $crate::kernels::slices::with_types!([U8, U32, I64], "not integers", $dense, $x => $body)
    };
}
pub(super) use with_integers;

/// A tensor that takes over its elements.
pub(super) fn tensor<T: WithDType>(elements: Vec<T>, shape: &[usize]) -> Result<Tensor> {
    Ok(Tensor::from_vec(elements, shape, &Device::Cpu)?)
}

impl Kernel<'_> {
    /// An output whose elements `fill` writes, all of them, as f32.
    pub(super) fn floats(&self, fill: impl FnOnce(&mut [f32]) -> Result<(), Error>) -> Result<Tensor> {
        let (shape, len) = (dims(&self.out.shape), self.out.elements() as usize);
        if self.out.dtype == DType::F32 {
            let mut out = self.buffers.take(len);
            fill(&mut out)?;
            return tensor(out, &shape);
        }
        let mut out = vec![0.0_f32; len];
        fill(&mut out)?;
        pieces::cast(&tensor(out, &shape)?, candle_dtype(self.out.dtype))
    }
}

/// Dimensions before an axis, the axis, and those after it, each as one.
pub(super) fn around(shape: &[usize], axis: usize) -> [usize; 3] {
    [
        shape[..axis].iter().product(),
        shape[axis],
        shape[axis + 1..].iter().product(),
    ]
}
