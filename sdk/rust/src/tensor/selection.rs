//! Ops that sort, choose, place and repeat elements.

use maquette_ops::{Attr, DType, Op};

use super::Tensor;
use super::attributes::{shape, size};
use crate::Result;
use crate::ops::apply;
use crate::shape::{IntoDim, IntoShape};

/// Errors of each of these are as for the op in the table (`maquette ops`).
#[allow(clippy::missing_errors_doc)]
impl Tensor {
    /// The indices that sort a dimension, as u32; equals keep their order, not-a-number comes last.
    #[track_caller]
    pub fn argsort(&self, dim: i64, descending: bool) -> Result<Self> {
        apply(Op::Argsort, &[self], vec![Attr::Int(dim), Attr::Flag(descending)])
    }

    /// A dimension in order: the elements, and the indices that they had.
    #[track_caller]
    pub fn sort(&self, dim: i64, descending: bool) -> Result<(Self, Self)> {
        let indices = self.argsort(dim, descending)?;
        Ok((self.gather(&indices, dim)?, indices))
    }

    /// The `k` largest (or smallest) elements along a dimension, the first of them first, and their indices.
    #[track_caller]
    pub fn topk(&self, k: impl IntoDim, dim: i64, largest: bool) -> Result<(Self, Self)> {
        let indices = apply(Op::Topk, &[self], vec![size(k)?, Attr::Int(dim), Attr::Flag(largest)])?;
        Ok((self.gather(&indices, dim)?, indices))
    }

    /// The places along a dimension that `ids` `[n]` name.
    #[track_caller]
    pub fn index_select(&self, ids: &Self, dim: i64) -> Result<Self> {
        apply(Op::IndexSelect, &[self, ids], vec![Attr::Int(dim)])
    }

    /// `out[.., i, ..] = x[.., ids[.., i, ..], ..]` along a dimension.
    #[track_caller]
    pub fn gather(&self, ids: &Self, dim: i64) -> Result<Self> {
        apply(Op::Gather, &[self, ids], vec![Attr::Int(dim)])
    }

    /// This with `src`, of the shape of `ids`, put at `ids` along a dimension; the last in row-major order wins.
    #[track_caller]
    pub fn scatter(&self, ids: &Self, src: &Self, dim: i64) -> Result<Self> {
        apply(Op::Scatter, &[self, ids, src], vec![Attr::Int(dim)])
    }

    /// This with `src`, of the shape of `ids`, added at `ids` along a dimension.
    #[track_caller]
    pub fn scatter_add(&self, ids: &Self, src: &Self, dim: i64) -> Result<Self> {
        apply(Op::ScatterAdd, &[self, ids, src], vec![Attr::Int(dim)])
    }

    /// This with place `i` of `src` added to place `ids[i]` along a dimension.
    #[track_caller]
    pub fn index_add(&self, ids: &Self, src: &Self, dim: i64) -> Result<Self> {
        apply(Op::IndexAdd, &[self, ids, src], vec![Attr::Int(dim)])
    }

    /// The matrices of the last two dimensions with zeros above a diagonal: `[i, j]` is kept if `j - i <= diagonal`.
    #[track_caller]
    pub fn tril(&self, diagonal: i64) -> Result<Self> {
        apply(Op::Tril, &[self], vec![Attr::Int(diagonal)])
    }

    /// The matrices of the last two dimensions with zeros below a diagonal: `[i, j]` is kept if `j - i >= diagonal`.
    #[track_caller]
    pub fn triu(&self, diagonal: i64) -> Result<Self> {
        apply(Op::Triu, &[self], vec![Attr::Int(diagonal)])
    }

    /// The order of elements turned around along dimensions; all, if none are named.
    #[track_caller]
    pub fn flip(&self, dims: &[i64]) -> Result<Self> {
        apply(Op::Flip, &[self], vec![Attr::Ints(dims.to_vec())])
    }

    /// A dimension rotated: element `i` moves to `(i + shift) mod len`.
    #[track_caller]
    pub fn roll(&self, shift: i64, dim: i64) -> Result<Self> {
        apply(Op::Roll, &[self], vec![Attr::Int(dim), Attr::Int(shift)])
    }

    /// The whole tensor repeated along each dimension as often as `repeats` says, which may have more dimensions, on the left.
    #[track_caller]
    pub fn repeat(&self, repeats: impl IntoShape) -> Result<Self> {
        apply(Op::Repeat, &[self], vec![shape(repeats)?])
    }

    /// Each element along a dimension repeated, the copies next to each other.
    #[track_caller]
    pub fn repeat_interleave(&self, times: impl IntoDim, dim: i64) -> Result<Self> {
        apply(Op::RepeatInterleave, &[self], vec![Attr::Int(dim), size(times)?])
    }

    /// 1 at place `ids[..]` of a new last dimension of `depth`, else 0.
    #[track_caller]
    pub fn one_hot(&self, depth: impl IntoDim, dtype: DType) -> Result<Self> {
        apply(Op::OneHot, &[self], vec![size(depth)?, Attr::DType(dtype)])
    }
}
