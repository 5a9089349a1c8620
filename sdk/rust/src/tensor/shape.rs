//! Ops that arrange elements anew: shapes, parts, tensors joined, padding.

use maquette_ops::{Attr, Dim, Op};

use super::Tensor;
use super::attributes::{fill, shape, size};
use crate::Result;
use crate::ops::apply;
use crate::shape::{IntoDim, IntoShape};

/// Errors of each of these are as for the op in the table (`maquette ops`).
#[allow(clippy::missing_errors_doc)]
impl Tensor {
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

    /// Part of a dimension, from `start` on, `len` long.
    #[track_caller]
    pub fn narrow(&self, dim: i64, start: impl IntoDim, len: impl IntoDim) -> Result<Self> {
        apply(Op::Narrow, &[self], vec![Attr::Int(dim), size(start)?, size(len)?])
    }

    /// Dimensions of 1, and missing ones on the left, repeated to a shape.
    #[track_caller]
    pub fn broadcast_as(&self, shape: impl IntoShape) -> Result<Self> {
        apply(Op::BroadcastTo, &[self], vec![self::shape(shape)?])
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

    /// A dimension made longer at both ends, filled with a number.
    #[track_caller]
    pub fn pad(&self, dim: i64, left: impl IntoDim, right: impl IntoDim, value: f64) -> Result<Self> {
        let attrs = vec![Attr::Int(dim), size(left)?, size(right)?, Attr::Float(value)];
        apply(Op::Pad, &[self], attrs)
    }

    /// A dimension made longer at both ends, filled with zeros.
    #[track_caller]
    pub fn pad_with_zeros(&self, dim: i64, left: impl IntoDim, right: impl IntoDim) -> Result<Self> {
        self.pad(dim, left, right, 0.0)
    }

    /// A dimension made longer at both ends by its mirror image without the edge itself; it is longer than either end.
    #[track_caller]
    pub fn pad_reflect(&self, dim: i64, left: impl IntoDim, right: impl IntoDim) -> Result<Self> {
        apply(Op::PadReflect, &[self], vec![Attr::Int(dim), size(left)?, size(right)?])
    }

    /// A dimension made longer at both ends by its first and last element.
    #[track_caller]
    pub fn pad_with_same(&self, dim: i64, left: impl IntoDim, right: impl IntoDim) -> Result<Self> {
        apply(
            Op::PadReplicate,
            &[self],
            vec![Attr::Int(dim), size(left)?, size(right)?],
        )
    }
}
