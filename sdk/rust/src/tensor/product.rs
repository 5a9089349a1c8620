//! Ops that multiply matrices, and what attention is made of.

use maquette_ops::{Attr, Op};

use super::Tensor;
use super::attributes::{int, with_optional};
use crate::Result;
use crate::ops::apply;

/// Errors of each of these are as for the op in the table (`maquette ops`).
#[allow(clippy::missing_errors_doc)]
impl Tensor {
    /// The matrix product of the last two dimensions, `[.., m, k]` by `[.., k, n]`; those before them broadcast.
    #[track_caller]
    pub fn matmul(&self, other: &Self) -> Result<Self> {
        apply(Op::Matmul, &[self, other], Vec::new())
    }

    /// `x * weight^T + bias` for x `[.., in]`, weight `[out, in]`, bias `[out]`.
    #[track_caller]
    pub fn linear(&self, weight: &Self, bias: Option<&Self>) -> Result<Self> {
        with_optional(Op::Linear, &[self, weight], &[bias], Vec::new())
    }

    /// The rows of this matrix `[rows, width]` that `ids` `[..]` name: `[.., width]`.
    #[track_caller]
    pub fn embedding(&self, ids: &Self) -> Result<Self> {
        apply(Op::Embedding, &[self, ids], Vec::new())
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
            int(how.window.unwrap_or(0)),
            Attr::Float(how.cap.unwrap_or(0.0)),
        ];
        with_optional(Op::Attention, &[self, keys, values], &[bias], attrs)
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
            int(cache.0),
            int(layer),
            Attr::Float(how.scale.unwrap_or(0.0)),
            int(how.window.unwrap_or(0)),
            Attr::Float(how.cap.unwrap_or(0.0)),
        ];
        apply(Op::CachedAttention, &[self, keys, values], attrs)
    }
}
