//! Ops over all of a dimension: sums, extremes, statistics, softmax, normalisation.

use maquette_ops::{Attr, Op};

use super::Tensor;
use super::attributes::with_optional;
use crate::Result;
use crate::ops::apply;

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

    /// The largest of all elements.
    #[track_caller]
    pub fn max_all(&self) -> Result<Self> {
        apply(Op::Max, &[self], Vec::new())
    }

    /// The smallest of all elements.
    #[track_caller]
    pub fn min_all(&self) -> Result<Self> {
        apply(Op::Min, &[self], Vec::new())
    }

    /// The place of the largest element along a dimension, as u32.
    #[track_caller]
    pub fn argmax(&self, dim: i64) -> Result<Self> {
        apply(Op::Argmax, &[self], vec![Attr::Int(dim)])
    }

    /// The place of the largest element along a dimension, as u32. The dimension stays, as 1.
    #[track_caller]
    pub fn argmax_keepdim(&self, dim: i64) -> Result<Self> {
        apply(Op::Argmax, &[self], vec![Attr::Int(dim), Attr::Flag(true)])
    }

    /// The place of the smallest element along a dimension, as u32.
    #[track_caller]
    pub fn argmin(&self, dim: i64) -> Result<Self> {
        apply(Op::Argmin, &[self], vec![Attr::Int(dim)])
    }

    /// The place of the smallest element along a dimension, as u32. The dimension stays, as 1.
    #[track_caller]
    pub fn argmin_keepdim(&self, dim: i64) -> Result<Self> {
        apply(Op::Argmin, &[self], vec![Attr::Int(dim), Attr::Flag(true)])
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
        with_optional(Op::LayerNorm, &[self, weight], &[bias], vec![Attr::Float(eps)])
    }

    /// The last dimension divided by its root mean square, times weight.
    #[track_caller]
    pub fn rms_norm(&self, weight: &Self, eps: f64) -> Result<Self> {
        apply(Op::RmsNorm, &[self, weight], vec![Attr::Float(eps)])
    }

    /// `log(sum(exp(x)))` over dimensions (all, if none are named), computed stably.
    #[track_caller]
    pub fn log_sum_exp(&self, dims: &[i64], keepdim: bool) -> Result<Self> {
        apply(
            Op::Logsumexp,
            &[self],
            vec![Attr::Ints(dims.to_vec()), Attr::Flag(keepdim)],
        )
    }

    /// The variance over dimensions (all, if none are named); `unbiased` divides by one less than their elements.
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
}
