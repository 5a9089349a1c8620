//! What a value is: an element type and a shape, of numbers or of polynomials; and the attributes that ops take.

use std::fmt;

use smallvec::SmallVec;

use crate::dim::Dim;
use crate::dtype::DType;
use crate::error::Error;
use crate::extent::Extent;
use crate::{MAX_ELEMENTS, MAX_RANK};

/// Dimensions, outermost first; up to [`MAX_RANK`] of them without allocating.
pub type Shape<E> = SmallVec<[E; MAX_RANK]>;

/// An element type and a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type<E> {
    /// Of each element.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Shape<E>,
}

impl<E> Type<E> {
    /// A type of these.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = E>) -> Self {
        Self {
            dtype,
            shape: shape.into_iter().collect(),
        }
    }
}

impl Type<u32> {
    /// How many elements there are. Shapes that [`check_shape`] has passed never overflow; others saturate.
    #[inline]
    pub fn elements(&self) -> u64 {
        elements(&self.shape)
    }

    /// How many bytes they take.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.elements().saturating_mul(self.dtype.size() as u64)
    }
}

/// The product of dimensions, saturating.
#[inline]
pub(crate) fn elements(shape: &[u32]) -> u64 {
    shape
        .iter()
        .fold(1, |product: u64, dim| product.saturating_mul(u64::from(*dim)))
}

impl<E: fmt::Display> fmt::Display for Type<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, show(&self.shape))
    }
}

/// `[2, 3]`.
pub fn show<E: fmt::Display>(shape: &[E]) -> String {
    let dims: Vec<_> = shape.iter().map(ToString::to_string).collect();
    format!("[{}]", dims.join(", "))
}

/// The value of an attribute: the WIT's `attr`.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// The default.
    Unset,
    /// Yes or no.
    Flag(bool),
    /// An integer.
    Int(i64),
    /// A number.
    Float(f64),
    /// Integers: axes, or a shape.
    Ints(Vec<i64>),
    /// A shape over symbols.
    Dims(Vec<Dim>),
    /// An element type.
    DType(DType),
}
/// Checks a shape: rank, and the number of elements as far as it is known. Dimensions of 0 count as 1, so that strides and
/// products over such a shape cannot overflow either.
///
/// # Errors
/// `shape`.
pub fn check_shape<E: Extent>(shape: &[E]) -> Result<(), Error> {
    if shape.len() > MAX_RANK {
        return Err(Error::shape(format!(
            "a shape has {} dimensions; at most {MAX_RANK} are allowed",
            shape.len()
        )));
    }
    let known = shape.iter().filter_map(Extent::known);
    let product = known.fold(1_u64, |product, dim| product.saturating_mul(dim.max(1)));
    if product > MAX_ELEMENTS {
        return Err(Error::shape(format!(
            "{} has more than the {MAX_ELEMENTS} elements that are allowed",
            show(shape)
        )));
    }
    Ok(())
}
