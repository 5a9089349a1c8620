//! Tensors: handles to elements in the host, or values of a program that is being recorded, under one type and candle's names.

mod attributes;
mod elementwise;
mod image;
mod product;
mod reduce;
mod selection;
mod sequence;
mod shape;

use std::cell::OnceCell;
use std::rc::Rc;

use maquette_ops::{Attr, DType, Dim, Op, Type};

pub use image::{Conv2d, ConvTranspose2d};
pub use product::Attend;
pub use sequence::{Conv1d, ConvTranspose1d, Frames, Recurrent};

use attributes::{fill, shape, size};

use crate::bindings::maquette::model::{tensors, weights};
use crate::error::from_host;
use crate::ops::{apply, dtype_from_host, dtype_to_host, ours};
use crate::record;
use crate::shape::{IntoDim, IntoShape};
use crate::{Error, Result};

/// An immutable tensor. Cloning it is free; views (reshape, transpose, narrow, …) share their elements.
///
/// The same code works eagerly, op by op, and inside [`crate::compile`], where it is recorded; only reading ([`Tensor::to_vec`])
/// needs elements and so does not work there.
#[derive(Clone)]
pub struct Tensor(pub(crate) Rc<Inner>);

pub(crate) enum Inner {
    /// Elements in the host.
    Eager {
        handle: tensors::Tensor,
        ty: OnceCell<Type<Dim>>,
    },
    /// A tensor of a weight file: fetched when it is first used eagerly, bound by name in programs.
    Weight {
        file: String,
        name: String,
        ty: Type<Dim>,
        handle: OnceCell<tensors::Tensor>,
    },
    /// A value of the program that is being recorded.
    Recorded { program: u64, value: u32, ty: Type<Dim> },
}

/// What elements a tensor may be made of and read as.
pub trait Element: Copy {
    /// Its type.
    const DTYPE: DType;
    /// Appends its bytes, little-endian.
    fn put(self, bytes: &mut Vec<u8>);
    /// Reads it from as many bytes as it has.
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),*) => {$(
        impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
            fn put(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
            fn get(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$rust>()];
                array.copy_from_slice(bytes);
                <$rust>::from_le_bytes(array)
            }
        }
    )*};
}
elements!(f32 => F32, u8 => U8, u32 => U32, i64 => I64);

impl Tensor {
    pub(crate) fn eager(handle: tensors::Tensor) -> Self {
        Self(Rc::new(Inner::Eager {
            handle,
            ty: OnceCell::new(),
        }))
    }

    pub(crate) fn weight(file: &str, name: String, dtype: DType, shape: Vec<Dim>) -> Self {
        let ty = Type::new(dtype, shape);
        Self(Rc::new(Inner::Weight {
            file: file.to_owned(),
            name,
            ty,
            handle: OnceCell::new(),
        }))
    }

    pub(crate) fn recorded(program: u64, value: u32, ty: Type<Dim>) -> Self {
        Self(Rc::new(Inner::Recorded { program, value, ty }))
    }

    /// The handle in the host.
    pub(crate) fn handle(&self) -> Result<&tensors::Tensor> {
        match &*self.0 {
            Inner::Eager { handle, .. } => Ok(handle),
            Inner::Weight { file, name, ty, handle } => {
                if let Some(handle) = handle.get() {
                    return Ok(handle);
                }
                let fetched = weights::get(file, name, Some(dtype_to_host(ty.dtype))).map_err(from_host)?;
                Ok(handle.get_or_init(|| fetched))
            }
            Inner::Recorded { .. } => Err(Error::internal(
                "a tensor of a recorded program has no elements: return it from `compile`, and run the program",
            )),
        }
    }

    fn ty(&self) -> &Type<Dim> {
        match &*self.0 {
            Inner::Eager { handle, ty } => ty.get_or_init(|| {
                Type::new(
                    dtype_from_host(handle.dtype()),
                    handle.shape().into_iter().map(Dim::from),
                )
            }),
            Inner::Weight { ty, .. } | Inner::Recorded { ty, .. } => ty,
        }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.ty().dtype
    }

    /// The dimensions, outermost first; symbolic ones while recording.
    pub fn dims(&self) -> &[Dim] {
        &self.ty().shape
    }

    /// How many dimensions there are.
    pub fn rank(&self) -> usize {
        self.dims().len()
    }

    /// One dimension; negative places count from the end.
    ///
    /// # Errors
    /// If there is no such dimension.
    pub fn dim(&self, axis: i64) -> Result<Dim> {
        let axis = maquette_ops::normalise(axis, self.rank()).map_err(ours)?;
        Ok(self.dims()[axis].clone())
    }

    /// The two dimensions of a matrix.
    ///
    /// # Errors
    /// `shape` if there are not two.
    pub fn dims2(&self) -> Result<(Dim, Dim)> {
        self.so_many("two").map(|[a, b]| (a, b))
    }

    /// The three dimensions of a batch of matrices.
    ///
    /// # Errors
    /// `shape` if there are not three.
    pub fn dims3(&self) -> Result<(Dim, Dim, Dim)> {
        self.so_many("three").map(|[a, b, c]| (a, b, c))
    }

    /// The four dimensions of a batch of images, or of heads.
    ///
    /// # Errors
    /// `shape` if there are not four.
    pub fn dims4(&self) -> Result<(Dim, Dim, Dim, Dim)> {
        self.so_many("four").map(|[a, b, c, d]| (a, b, c, d))
    }

    fn so_many<const N: usize>(&self, number: &str) -> Result<[Dim; N]> {
        <[Dim; N]>::try_from(self.dims().to_vec()).map_err(|dims| {
            Error::new(
                maquette_ops::Code::Shape,
                format_args!("expected {number} dimensions, got {}", maquette_ops::show(&dims)),
            )
        })
    }

    /// A tensor of elements in row-major order. While recording it becomes a constant of the program.
    ///
    /// # Errors
    /// If there are not as many elements as the shape takes; `quota`.
    pub fn from_slice<T: Element>(data: &[T], shape: impl IntoShape) -> Result<Self> {
        let mut bytes = Vec::with_capacity(size_of_val(data));
        data.iter().for_each(|element| element.put(&mut bytes));
        Self::from_bytes(T::DTYPE, shape, &bytes)
    }

    /// A tensor of bytes: elements in row-major order, little-endian.
    ///
    /// # Errors
    /// If there are not as many bytes as the shape takes; `quota`.
    pub fn from_bytes(dtype: DType, shape: impl IntoShape, bytes: &[u8]) -> Result<Self> {
        let elements = Dim::from(bytes.len() / dtype.size());
        let dims = fill(shape.into_shape(), Some(&elements))?;
        let numbers: Option<Vec<u32>> = dims
            .iter()
            .map(|dim| dim.as_constant().and_then(|dim| u32::try_from(dim).ok()))
            .collect();
        let numbers = numbers.ok_or_else(|| Error::internal("elements need a shape of numbers, without symbols"))?;
        if let Some(result) = record::constant(dtype, &numbers, bytes) {
            return result;
        }
        tensors::Tensor::from_bytes(dtype_to_host(dtype), &numbers, bytes)
            .map(Self::eager)
            .map_err(from_host)
    }

    /// A tensor of one number.
    ///
    /// # Errors
    /// `quota`; or if the dtype cannot hold the number.
    #[track_caller]
    pub fn full(value: f64, shape: impl IntoShape, dtype: DType) -> Result<Self> {
        let attrs = vec![self::shape(shape)?, Attr::Float(value), Attr::DType(dtype)];
        apply(Op::Full, &[], attrs)
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// `quota`.
    #[track_caller]
    pub fn zeros(shape: impl IntoShape, dtype: DType) -> Result<Self> {
        Self::full(0.0, shape, dtype)
    }

    /// A tensor of ones.
    ///
    /// # Errors
    /// `quota`.
    #[track_caller]
    pub fn ones(shape: impl IntoShape, dtype: DType) -> Result<Self> {
        Self::full(1.0, shape, dtype)
    }

    /// `0, 1, …` up to a length.
    ///
    /// # Errors
    /// `quota`; or if the dtype cannot hold the numbers.
    #[track_caller]
    pub fn arange(len: impl IntoDim, dtype: DType) -> Result<Self> {
        Self::arange_step(0.0, 1.0, len, dtype)
    }

    /// `start, start + step, …` up to a length.
    ///
    /// # Errors
    /// `quota`; or if the dtype cannot hold the numbers.
    #[track_caller]
    pub fn arange_step(start: f64, step: f64, len: impl IntoDim, dtype: DType) -> Result<Self> {
        let attrs = vec![size(len)?, Attr::Float(start), Attr::Float(step), Attr::DType(dtype)];
        apply(Op::Arange, &[], attrs)
    }

    /// Normally distributed f32s of mean 0 and variance 1. The same seed and offset make the same numbers on every machine.
    ///
    /// # Errors
    /// `shape` if there would be too many; `quota`.
    #[track_caller]
    pub fn randn(shape: impl IntoShape, seed: u64, offset: u64) -> Result<Self> {
        random(Op::Randn, shape, seed, offset)
    }

    /// Uniformly distributed f32s from 0 up to, not including, 1. The same seed and offset make the same numbers on every machine.
    ///
    /// # Errors
    /// `shape` if there would be too many; `quota`.
    #[track_caller]
    pub fn rand_uniform(shape: impl IntoShape, seed: u64, offset: u64) -> Result<Self> {
        random(Op::RandUniform, shape, seed, offset)
    }

    /// Every element, row-major. This is where a model waits for the device.
    ///
    /// # Errors
    /// If the elements are of another type; while recording.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if self.dtype() != T::DTYPE {
            return Err(Error::new(
                maquette_ops::Code::DType,
                format_args!("the tensor is {}, not {}: use `to_dtype` first", self.dtype(), T::DTYPE),
            ));
        }
        let bytes = self.handle()?.read().map_err(from_host)?;
        Ok(bytes.chunks_exact(T::DTYPE.size()).map(T::get).collect())
    }

    /// The only element.
    ///
    /// # Errors
    /// If there is not exactly one, or it is of another type.
    pub fn to_scalar<T: Element>(&self) -> Result<T> {
        match self.to_vec()?.as_slice() {
            [one] => Ok(*one),
            many => Err(Error::new(
                maquette_ops::Code::Shape,
                format_args!("expected one element, got {}", many.len()),
            )),
        }
    }

    /// The rows of a matrix.
    ///
    /// # Errors
    /// If it is no matrix, or of another type.
    pub fn to_vec2<T: Element>(&self) -> Result<Vec<Vec<T>>> {
        let (_, columns) = self.dims2()?;
        let columns = columns.as_constant().unwrap_or(0).max(1) as usize;
        Ok(self.to_vec()?.chunks(columns).map(<[T]>::to_vec).collect())
    }
}

#[track_caller]
fn random(op: Op, shape: impl IntoShape, seed: u64, offset: u64) -> Result<Tensor> {
    // All bits of both count; their sign says nothing.
    let attrs = vec![self::shape(shape)?, Attr::Int(seed as i64), Attr::Int(offset as i64)];
    apply(op, &[], attrs)
}
