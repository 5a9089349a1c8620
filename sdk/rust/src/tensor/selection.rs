//! Ops that sort, choose, place and repeat elements; statistics; random numbers.

use maquette_ops::{Attr, DType, Op};

use super::Tensor;
use super::image::{int, ints};
use crate::Result;
use crate::ops::apply;

/// Errors of each of these are as for the op in the table (`maquette ops`).
#[allow(clippy::missing_errors_doc)]
impl Tensor {
    /// The indices that sort a dimension, as u32; equals keep their order.
    #[track_caller]
    pub fn arg_sort(&self, dim: i64, descending: bool) -> Result<Self> {
        apply(Op::Argsort, &[self], vec![Attr::Int(dim), Attr::Flag(descending)])
    }

    /// A dimension in order: the elements, and the indices that they had.
    #[track_caller]
    pub fn sort(&self, dim: i64, descending: bool) -> Result<(Self, Self)> {
        let indices = self.arg_sort(dim, descending)?;
        Ok((self.gather(&indices, dim)?, indices))
    }

    /// The `k` largest elements along a dimension, the first of them first, and their indices.
    #[track_caller]
    pub fn topk(&self, k: usize, dim: i64) -> Result<(Self, Self)> {
        let indices = apply(Op::Topk, &[self], vec![int(k), Attr::Int(dim)])?;
        Ok((self.gather(&indices, dim)?, indices))
    }

    /// `out[.., i, ..] = x[.., ids[.., i, ..], ..]` along a dimension.
    #[track_caller]
    pub fn gather(&self, ids: &Self, dim: i64) -> Result<Self> {
        apply(Op::Gather, &[self, ids], vec![Attr::Int(dim)])
    }

    /// This with `src` put at `ids` along a dimension.
    #[track_caller]
    pub fn scatter(&self, ids: &Self, src: &Self, dim: i64) -> Result<Self> {
        apply(Op::Scatter, &[self, ids, src], vec![Attr::Int(dim)])
    }

    /// This with `src` added at `ids` along a dimension.
    #[track_caller]
    pub fn scatter_add(&self, ids: &Self, src: &Self, dim: i64) -> Result<Self> {
        apply(Op::ScatterAdd, &[self, ids, src], vec![Attr::Int(dim)])
    }

    /// This with place `i` of `src` added to place `ids[i]` along a dimension.
    #[track_caller]
    pub fn index_add(&self, ids: &Self, src: &Self, dim: i64) -> Result<Self> {
        apply(Op::IndexAdd, &[self, ids, src], vec![Attr::Int(dim)])
    }

    /// Matrices with zeros above a diagonal.
    #[track_caller]
    pub fn tril(&self, diagonal: i64) -> Result<Self> {
        apply(Op::Tril, &[self], vec![Attr::Int(diagonal)])
    }

    /// Matrices with zeros below a diagonal.
    #[track_caller]
    pub fn triu(&self, diagonal: i64) -> Result<Self> {
        apply(Op::Triu, &[self], vec![Attr::Int(diagonal)])
    }

    /// The order of elements turned around along dimensions.
    #[track_caller]
    pub fn flip(&self, dims: &[i64]) -> Result<Self> {
        apply(Op::Flip, &[self], vec![Attr::Ints(dims.to_vec())])
    }

    /// A dimension rotated.
    #[track_caller]
    pub fn roll(&self, shift: i64, dim: i64) -> Result<Self> {
        apply(Op::Roll, &[self], vec![Attr::Int(dim), Attr::Int(shift)])
    }

    /// The whole tensor repeated along each dimension.
    #[track_caller]
    pub fn repeat(&self, repeats: &[usize]) -> Result<Self> {
        apply(Op::Repeat, &[self], vec![ints(repeats)])
    }

    /// Each element along a dimension repeated.
    #[track_caller]
    pub fn repeat_interleave(&self, times: usize, dim: i64) -> Result<Self> {
        apply(Op::RepeatInterleave, &[self], vec![Attr::Int(dim), int(times)])
    }

    /// 1 at place `ids[..]` of a new last dimension of `depth`, else 0.
    #[track_caller]
    pub fn one_hot(&self, depth: usize, dtype: DType) -> Result<Self> {
        apply(Op::OneHot, &[self], vec![int(depth), Attr::DType(dtype)])
    }

    /// `log(sum(exp(x)))` over dimensions.
    #[track_caller]
    pub fn log_sum_exp(&self, dims: &[i64], keepdim: bool) -> Result<Self> {
        apply(
            Op::Logsumexp,
            &[self],
            vec![Attr::Ints(dims.to_vec()), Attr::Flag(keepdim)],
        )
    }

    /// The variance over dimensions; `unbiased` divides by one less than their elements.
    #[track_caller]
    pub fn var(&self, dims: &[i64], keepdim: bool, unbiased: bool) -> Result<Self> {
        let attrs = vec![Attr::Ints(dims.to_vec()), Attr::Flag(keepdim), Attr::Flag(unbiased)];
        apply(Op::Var, &[self], attrs)
    }

    /// `x / max(sqrt(sum(x^2)), eps)` along a dimension.
    #[track_caller]
    pub fn l2_normalize(&self, dim: i64, eps: f64) -> Result<Self> {
        apply(Op::L2Normalize, &[self], vec![Attr::Int(dim), Attr::Float(eps)])
    }

    /// Normally distributed f32s, the same for the same seed and offset.
    #[track_caller]
    pub fn randn(shape: &[usize], seed: u64, offset: u64) -> Result<Self> {
        apply(
            Op::Randn,
            &[],
            vec![ints(shape), Attr::Int(seed as i64), Attr::Int(offset as i64)],
        )
    }

    /// Uniformly distributed f32s from 0 to 1, the same for the same seed and offset.
    #[track_caller]
    pub fn rand(shape: &[usize], seed: u64, offset: u64) -> Result<Self> {
        apply(
            Op::RandUniform,
            &[],
            vec![ints(shape), Attr::Int(seed as i64), Attr::Int(offset as i64)],
        )
    }
}
