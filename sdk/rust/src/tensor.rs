//! Tensors: handles to elements in the host, or values of a program that is being recorded, under one type and candle's names.

mod image;
mod selection;
mod sequence;

use std::cell::OnceCell;
use std::rc::Rc;

use maquette_ops::{Attr, DType, Dim, Op, Type};

pub use image::{Conv2d, ConvTranspose2d};
pub use sequence::{Frames, Recurrent};

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
    /// If there are not two.
    pub fn dims2(&self) -> Result<(Dim, Dim)> {
        match self.dims() {
            [a, b] => Ok((a.clone(), b.clone())),
            dims => Err(Error::new(
                maquette_ops::Code::Shape,
                format_args!("expected two dimensions, got {}", maquette_ops::show(dims)),
            )),
        }
    }

    /// The three dimensions of a batch of matrices.
    ///
    /// # Errors
    /// If there are not three.
    pub fn dims3(&self) -> Result<(Dim, Dim, Dim)> {
        match self.dims() {
            [a, b, c] => Ok((a.clone(), b.clone(), c.clone())),
            dims => Err(Error::new(
                maquette_ops::Code::Shape,
                format_args!("expected three dimensions, got {}", maquette_ops::show(dims)),
            )),
        }
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
        let dims = fill(shape.into_shape(), None)?;
        apply(
            Op::Full,
            &[],
            vec![Attr::Dims(dims), Attr::Float(value), Attr::DType(dtype)],
        )
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
        let len = fill(vec![len.into_dim()], None)?;
        apply(
            Op::Arange,
            &[],
            vec![Attr::Dims(len), Attr::Unset, Attr::Unset, Attr::DType(dtype)],
        )
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

/// Dimensions with what is left filled in.
fn fill(shape: Vec<Option<Dim>>, elements: Option<&Dim>) -> Result<Vec<Dim>> {
    let known = || {
        shape
            .iter()
            .flatten()
            .fold(Dim::from(1_usize), |product, dim| &product * dim)
    };
    let holes = shape.iter().filter(|dim| dim.is_none()).count();
    let rest = match (holes, elements) {
        (0, _) => None,
        (1, Some(elements)) => {
            let known = known();
            Some(elements.try_div(&known).ok_or_else(|| {
                Error::new(
                    maquette_ops::Code::Shape,
                    format_args!("{elements} elements do not divide by {known}"),
                )
            })?)
        }
        (1, None) => {
            return Err(Error::internal(
                "`()` stands for what is left, but nothing is given here",
            ));
        }
        _ => return Err(Error::internal("`()` may stand for one dimension only")),
    };
    Ok(shape
        .into_iter()
        .map(|dim| dim.unwrap_or_else(|| rest.clone().unwrap_or_default()))
        .collect())
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident => $op:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// `dtype` unless the elements are floats; `quota`.
            #[track_caller]
            pub fn $name(&self) -> Result<Self> {
                apply(Op::$op, &[self], Vec::new())
            }
        )*}
    };
}
unary! {
    /// `-x`.
    neg => Neg;
    /// The absolute value.
    abs => Abs;
    /// e to the power of `x`.
    exp => Exp;
    /// The natural logarithm.
    log => Log;
    /// The square root.
    sqrt => Sqrt;
    /// 1 over the square root.
    rsqrt => Rsqrt;
    /// `x * x`.
    sqr => Sqr;
    /// `1 / x`.
    recip => Recip;
    /// The sine.
    sin => Sin;
    /// The cosine.
    cos => Cos;
    /// The hyperbolic tangent.
    tanh => Tanh;
    /// `1 / (1 + exp(-x))`.
    sigmoid => Sigmoid;
    /// `clamp(x + 3, 0, 6) / 6`.
    hard_sigmoid => HardSigmoid;
    /// `x * clamp(x + 3, 0, 6) / 6`.
    hard_swish => HardSwish;
    /// `x * tanh(softplus(x))`.
    mish => Mish;
    /// `log(1 + exp(x))`.
    softplus => Softplus;
    /// `log(1 + x)`, exact near 0.
    log1p => Log1p;
    /// `exp(x) - 1`, exact near 0.
    expm1 => Expm1;
    /// `x * sigmoid(x)`.
    silu => Silu;
    /// `max(x, 0)`.
    relu => Relu;
    /// GELU in its tanh approximation.
    gelu => Gelu;
    /// GELU, exact.
    gelu_erf => GeluErf;
    /// The error function.
    erf => Erf;
    /// The largest integer not above `x`.
    floor => Floor;
    /// The smallest integer not below `x`.
    ceil => Ceil;
    /// The nearest integer, halves away from zero.
    round => Round;
    /// -1, 0 or 1.
    sign => Sign;
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident => $op:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// `shape` if they do not broadcast, `dtype` if they differ in it; `quota`.
            #[track_caller]
            pub fn $name(&self, other: &Self) -> Result<Self> {
                apply(Op::$op, &[self, other], Vec::new())
            }
        )*}
    };
}
binary! {
    /// `a - b * floor(a / b)`: the remainder has the sign of `b`.
    rem => Rem;
    /// `a` to the power of `b`.
    pow => Pow;
    /// The angle of the point with ordinate `a` and abscissa `b`, in radians.
    atan2 => Atan2;
    /// `self + other`, broadcasting.
    broadcast_add => Add;
    /// `self - other`, broadcasting.
    broadcast_sub => Sub;
    /// `self * other`, broadcasting.
    broadcast_mul => Mul;
    /// `self / other`, broadcasting; floats only.
    broadcast_div => Div;
    /// The larger of each two elements, broadcasting.
    maximum => Maximum;
    /// The smaller of each two elements, broadcasting.
    minimum => Minimum;
    /// 1 where equal, as u8; broadcasting.
    eq => Eq;
    /// 1 where not equal, as u8; broadcasting.
    ne => Ne;
    /// 1 where less, as u8; broadcasting.
    lt => Lt;
    /// 1 where less or equal, as u8; broadcasting.
    le => Le;
    /// 1 where greater, as u8; broadcasting.
    gt => Gt;
    /// 1 where greater or equal, as u8; broadcasting.
    ge => Ge;
    /// The matrix product of the last two dimensions; those before them broadcast.
    matmul => Matmul;
}

macro_rules! reduce {
    ($($(#[$doc:meta])* $name:ident, $keep:ident => $op:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// `shape` if there is no such dimension; `quota`.
            #[track_caller]
            pub fn $name(&self, dim: i64) -> Result<Self> {
                apply(Op::$op, &[self], vec![Attr::Ints(vec![dim]), Attr::Flag(false)])
            }

            $(#[$doc])*
            /// The dimension stays, as 1.
            ///
            /// # Errors
            /// `shape` if there is no such dimension; `quota`.
            #[track_caller]
            pub fn $keep(&self, dim: i64) -> Result<Self> {
                apply(Op::$op, &[self], vec![Attr::Ints(vec![dim]), Attr::Flag(true)])
            }
        )*}
    };
}
reduce! {
    /// The sum over a dimension; negative ones count from the end.
    sum, sum_keepdim => Sum;
    /// The mean over a dimension; negative ones count from the end.
    mean, mean_keepdim => Mean;
    /// The largest element over a dimension; negative ones count from the end.
    max, max_keepdim => Max;
    /// The smallest element over a dimension; negative ones count from the end.
    min, min_keepdim => Min;
}

/// Errors of each of these are as for the op in the table (`maquette ops`).
#[allow(clippy::missing_errors_doc)]
impl Tensor {
    /// The sum of all elements.
    #[track_caller]
    pub fn sum_all(&self) -> Result<Self> {
        apply(Op::Sum, &[self], Vec::new())
    }

    /// The mean of all elements.
    #[track_caller]
    pub fn mean_all(&self) -> Result<Self> {
        apply(Op::Mean, &[self], Vec::new())
    }

    /// The place of the largest element along a dimension, as u32.
    #[track_caller]
    pub fn argmax(&self, dim: i64) -> Result<Self> {
        apply(Op::Argmax, &[self], vec![Attr::Int(dim)])
    }

    /// The place of the smallest element along a dimension, as u32.
    #[track_caller]
    pub fn argmin(&self, dim: i64) -> Result<Self> {
        apply(Op::Argmin, &[self], vec![Attr::Int(dim)])
    }

    /// `x * mul + add`.
    #[track_caller]
    pub fn affine(&self, mul: f64, add: f64) -> Result<Self> {
        apply(Op::Affine, &[self], vec![Attr::Float(mul), Attr::Float(add)])
    }

    /// `x` held between two numbers.
    #[track_caller]
    pub fn clamp(&self, min: f64, max: f64) -> Result<Self> {
        apply(Op::Clamp, &[self], vec![Attr::Float(min), Attr::Float(max)])
    }

    /// `x` to the power of a number.
    #[track_caller]
    pub fn powf(&self, exponent: f64) -> Result<Self> {
        apply(Op::Powf, &[self], vec![Attr::Float(exponent)])
    }

    /// The same values as another type.
    #[track_caller]
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        if self.dtype() == dtype {
            return Ok(self.clone());
        }
        apply(Op::Cast, &[self], vec![Attr::DType(dtype)])
    }

    /// `on_true` where this is not 0, else `on_false`; broadcasting.
    #[track_caller]
    pub fn where_cond(&self, on_true: &Self, on_false: &Self) -> Result<Self> {
        apply(Op::Where, &[self, on_true, on_false], Vec::new())
    }

    /// The same elements under another shape; `()` stands for what is left.
    #[track_caller]
    pub fn reshape(&self, shape: impl IntoShape) -> Result<Self> {
        let shape = shape.into_shape();
        let elements = || {
            self.dims()
                .iter()
                .fold(Dim::from(1_usize), |product, dim| &product * dim)
        };
        let dims = if shape.iter().any(Option::is_none) {
            fill(shape, Some(&elements()))?
        } else {
            fill(shape, None)?
        };
        apply(Op::Reshape, &[self], vec![Attr::Dims(dims)])
    }

    /// Every dimension made one.
    #[track_caller]
    pub fn flatten_all(&self) -> Result<Self> {
        self.reshape(((),))
    }

    /// Two dimensions exchanged.
    #[track_caller]
    pub fn transpose(&self, dim1: i64, dim2: i64) -> Result<Self> {
        apply(Op::Transpose, &[self], vec![Attr::Int(dim1), Attr::Int(dim2)])
    }

    /// The last two dimensions exchanged.
    #[track_caller]
    pub fn t(&self) -> Result<Self> {
        self.transpose(-2, -1)
    }

    /// Dimensions in another order.
    #[track_caller]
    pub fn permute(&self, dims: &[i64]) -> Result<Self> {
        apply(Op::Permute, &[self], vec![Attr::Ints(dims.to_vec())])
    }

    /// Part of a dimension.
    #[track_caller]
    pub fn narrow(&self, dim: i64, start: impl IntoDim, len: impl IntoDim) -> Result<Self> {
        let size = |size: Option<Dim>| fill(vec![size], None).map(Attr::Dims);
        apply(
            Op::Narrow,
            &[self],
            vec![Attr::Int(dim), size(start.into_dim())?, size(len.into_dim())?],
        )
    }

    /// Dimensions of 1, and missing ones on the left, repeated to a shape.
    #[track_caller]
    pub fn broadcast_as(&self, shape: impl IntoShape) -> Result<Self> {
        apply(
            Op::BroadcastTo,
            &[self],
            vec![Attr::Dims(fill(shape.into_shape(), None)?)],
        )
    }

    /// A dimension of 1 taken away.
    #[track_caller]
    pub fn squeeze(&self, dim: i64) -> Result<Self> {
        apply(Op::Squeeze, &[self], vec![Attr::Int(dim)])
    }

    /// A dimension of 1 put in.
    #[track_caller]
    pub fn unsqueeze(&self, dim: i64) -> Result<Self> {
        apply(Op::Unsqueeze, &[self], vec![Attr::Int(dim)])
    }

    /// Tensors one after the other along a dimension.
    #[track_caller]
    pub fn cat(tensors: &[&Self], dim: i64) -> Result<Self> {
        apply(Op::Cat, tensors, vec![Attr::Int(dim)])
    }

    /// Tensors along a new dimension.
    #[track_caller]
    pub fn stack(tensors: &[&Self], dim: i64) -> Result<Self> {
        apply(Op::Stack, tensors, vec![Attr::Int(dim)])
    }

    /// A dimension made longer at both ends, filled with zeros.
    #[track_caller]
    pub fn pad_with_zeros(&self, dim: i64, left: usize, right: usize) -> Result<Self> {
        apply(
            Op::Pad,
            &[self],
            vec![Attr::Int(dim), Attr::Int(left as i64), Attr::Int(right as i64)],
        )
    }

    /// `x * weight^T + bias`.
    #[track_caller]
    pub fn linear(&self, weight: &Self, bias: Option<&Self>) -> Result<Self> {
        match bias {
            Some(bias) => apply(Op::Linear, &[self, weight, bias], Vec::new()),
            None => apply(Op::Linear, &[self, weight], Vec::new()),
        }
    }

    /// The rows of this matrix that ids name.
    #[track_caller]
    pub fn embedding(&self, ids: &Self) -> Result<Self> {
        apply(Op::Embedding, &[self, ids], Vec::new())
    }

    /// The places along a dimension that ids name.
    #[track_caller]
    pub fn index_select(&self, ids: &Self, dim: i64) -> Result<Self> {
        apply(Op::IndexSelect, &[self, ids], vec![Attr::Int(dim)])
    }

    /// The softmax along a dimension.
    #[track_caller]
    pub fn softmax(&self, dim: i64) -> Result<Self> {
        apply(Op::Softmax, &[self], vec![Attr::Int(dim)])
    }

    /// The logarithm of the softmax along a dimension.
    #[track_caller]
    pub fn log_softmax(&self, dim: i64) -> Result<Self> {
        apply(Op::LogSoftmax, &[self], vec![Attr::Int(dim)])
    }

    /// The last dimension normalised to mean 0 and deviation 1, times weight plus bias.
    #[track_caller]
    pub fn layer_norm(&self, weight: &Self, bias: Option<&Self>, eps: f64) -> Result<Self> {
        match bias {
            Some(bias) => apply(Op::LayerNorm, &[self, weight, bias], vec![Attr::Float(eps)]),
            None => apply(Op::LayerNorm, &[self, weight], vec![Attr::Float(eps)]),
        }
    }

    /// The last dimension divided by its root mean square, times weight.
    #[track_caller]
    pub fn rms_norm(&self, weight: &Self, eps: f64) -> Result<Self> {
        apply(Op::RmsNorm, &[self, weight], vec![Attr::Float(eps)])
    }
}

/// How attention is computed; the default is plain.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attend {
    /// What scores are multiplied by; `1 / sqrt(width)` if not given.
    pub scale: Option<f64>,
    /// Whether a query sees only keys up to its own place; the last query is at the last key.
    pub causal: bool,
    /// How many keys up to its own place a query sees at most; all if not given.
    pub window: Option<usize>,
    /// Scores become `cap * tanh(score / cap)`, if given.
    pub cap: Option<f64>,
}

/// Errors of each of these are as for the op in the table (`maquette ops`).
#[allow(clippy::missing_errors_doc)]
impl Tensor {
    /// Rotary embedding of `[b, t, heads, width]` at positions `[t]` or `[b, t]`, by frequencies `base^(-2i / width)`. Pairs are the
    /// two halves, or, interleaved, neighbours.
    #[track_caller]
    pub fn rope(&self, positions: &Self, base: f64, interleaved: bool) -> Result<Self> {
        apply(
            Op::Rope,
            &[self, positions],
            vec![Attr::Float(base), Attr::Flag(interleaved)],
        )
    }

    /// Rotary embedding by given frequencies `[n]`, of the first `2n` elements of each vector.
    #[track_caller]
    pub fn rope_with(&self, positions: &Self, frequencies: &Self, interleaved: bool) -> Result<Self> {
        apply(
            Op::Rope,
            &[self, positions, frequencies],
            vec![Attr::Unset, Attr::Flag(interleaved)],
        )
    }

    /// Attention of queries `[b, t, heads, d]` over keys `[b, s, kv heads, d]` and values `[b, s, kv heads, e]`: `[b, t, heads, e]`.
    /// `bias` broadcasts to the scores `[b, heads, t, s]`.
    #[track_caller]
    pub fn attention(&self, keys: &Self, values: &Self, bias: Option<&Self>, how: Attend) -> Result<Self> {
        let attrs = vec![
            Attr::Float(how.scale.unwrap_or(0.0)),
            Attr::Flag(how.causal),
            Attr::Int(how.window.unwrap_or(0) as i64),
            Attr::Float(how.cap.unwrap_or(0.0)),
        ];
        match bias {
            Some(bias) => apply(Op::Attention, &[self, keys, values, bias], attrs),
            None => apply(Op::Attention, &[self, keys, values], attrs),
        }
    }

    /// Appends keys and values `[1, t, kv heads, _]` to a layer of a cache, and attends causally to all that it holds. Only while
    /// recording.
    #[track_caller]
    pub fn cached_attention(
        &self,
        keys: &Self,
        values: &Self,
        cache: crate::CacheSlot,
        layer: usize,
        how: Attend,
    ) -> Result<Self> {
        let attrs = vec![
            Attr::Int(cache.0 as i64),
            Attr::Int(layer as i64),
            Attr::Float(how.scale.unwrap_or(0.0)),
            Attr::Int(how.window.unwrap_or(0) as i64),
            Attr::Float(how.cap.unwrap_or(0.0)),
        ];
        apply(Op::CachedAttention, &[self, keys, values], attrs)
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $name:ident;)*) => {$(
        impl std::ops::$trait<&Tensor> for &Tensor {
            type Output = Result<Tensor>;
            #[track_caller]
            fn $method(self, other: &Tensor) -> Result<Tensor> {
                self.$name(other)
            }
        }
    )*};
}
operators! {
    Add add broadcast_add;
    Sub sub broadcast_sub;
    Mul mul broadcast_mul;
    Div div broadcast_div;
}

impl std::ops::Mul<f64> for &Tensor {
    type Output = Result<Tensor>;
    #[track_caller]
    fn mul(self, factor: f64) -> Result<Tensor> {
        self.affine(factor, 0.0)
    }
}

impl std::ops::Add<f64> for &Tensor {
    type Output = Result<Tensor>;
    #[track_caller]
    fn add(self, summand: f64) -> Result<Tensor> {
        self.affine(1.0, summand)
    }
}
