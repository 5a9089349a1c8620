//! Weights that are only looked rows up in: they stay in their file, and the system's page cache keeps what is used of them.

use std::sync::Arc;

use bytemuck::Pod;
use candle_core::{Device, WithDType};
use half::{bf16, f16};
use maquette_ops::program::WeightRef;
use maquette_ops::{DType, Error, Type};

use crate::kernels::rows::each_row;
use crate::tensor::{dims, said};
use crate::weight_file::WeightFile;

/// A matrix of weights in its file.
#[derive(Debug)]
pub(super) struct Table {
    file: Arc<WeightFile>,
    name: String,
    pub(super) ty: Type<u32>,
}

impl Table {
    /// The weight as a table, if its rows are stored as they are used. Rows must be all that the program needs of it.
    pub(super) fn of(file: &Arc<WeightFile>, weight: &WeightRef) -> Result<Option<Self>, Error> {
        let ty = Type::new(weight.dtype, weight.shape.iter().copied());
        if ty.shape.len() != 2 || !file.has_rows(&weight.name, weight.dtype)? {
            return Ok(None);
        }
        Ok(Some(Self {
            file: Arc::clone(file),
            name: weight.name.clone(),
            ty,
        }))
    }

    /// What `embedding/1` returns.
    pub(super) fn rows(&self, ids: &candle_core::Tensor, ty: &Type<u32>) -> Result<candle_core::Tensor, Error> {
        let rows = match ty.dtype {
            DType::F32 if let Some(rows) = self.widened(ids, ty).transpose() => rows,
            DType::F32 => self.typed::<f32>(ids, ty),
            DType::F16 => self.typed::<f16>(ids, ty),
            DType::BF16 => self.typed::<bf16>(ids, ty),
            DType::U8 => self.typed::<u8>(ids, ty),
            DType::U32 => self.typed::<u32>(ids, ty),
            DType::I64 => self.typed::<i64>(ids, ty),
        };
        rows.map_err(|mut error| {
            error.message = format!("embedding/1: {}", error.message);
            error
        })
    }

    /// The rows as f32, if they are stored as something else.
    fn widened(&self, ids: &candle_core::Tensor, ty: &Type<u32>) -> Result<Option<candle_core::Tensor>, Error> {
        let width = self.ty.shape[1] as usize;
        let Some(read) = self.file.wide_rows(&self.name, width)? else {
            return Ok(None);
        };
        let mut out = vec![0.0_f32; ids.elem_count() * width];
        let mut lines = out.chunks_exact_mut(width.max(1));
        each_row(ids, self.ty.shape[0] as usize, |row| {
            if let Some(line) = lines.next() {
                read(row, line);
            }
        })?;
        let tensor = candle_core::Tensor::from_vec(out, dims(&ty.shape), &Device::Cpu);
        tensor.map(Some).map_err(|e| Error::internal(said(&e)))
    }

    fn typed<T: Pod + WithDType>(
        &self,
        ids: &candle_core::Tensor,
        ty: &Type<u32>,
    ) -> Result<candle_core::Tensor, Error> {
        let stored = self.file.stored(&self.name)?;
        let width = self.ty.shape[1] as usize;
        let bytes = width * size_of::<T>();
        let mut out = vec![T::zeroed(); ids.elem_count() * width];
        let mut lines = bytemuck::cast_slice_mut::<T, u8>(&mut out).chunks_exact_mut(bytes.max(1));
        each_row(ids, self.ty.shape[0] as usize, |row| {
            if let Some(line) = lines.next() {
                line.copy_from_slice(&stored[row * bytes..(row + 1) * bytes]);
            }
        })?;
        candle_core::Tensor::from_vec(out, dims(&ty.shape), &Device::Cpu).map_err(|e| Error::internal(said(&e)))
    }
}
