//! Attention between the tokens of a batch of sequences. Source: "Attention Is All You Need" (Vaswani et al., 2017).

use super::Linear;
use crate::{Attend, DType, Result, Tensor, Weights};

/// Added to the score of what must not be attended to; large enough that its softmax is 0, small enough for every float type.
const MASKED: f64 = -1.0e4;

/// What to add to attention scores `[batch, heads, queries, keys]` so that padding is left out, from a mask `[batch, keys]` that
/// is 1 for tokens and 0 for padding.
///
/// # Errors
/// `shape` if the mask is no matrix.
#[track_caller]
pub fn attention_bias(mask: &Tensor) -> Result<Tensor> {
    mask.to_dtype(DType::F32)?
        .affine(-MASKED, MASKED)?
        .unsqueeze(1)?
        .unsqueeze(1)
}

/// Self-attention with several heads and biases everywhere, as BERT and ViT have it.
pub struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: usize,
    head_width: usize,
}

impl SelfAttention {
    /// From four square linear layers, `width` to `width`, under the names given (a BERT's are `self.query`, `self.key`,
    /// `self.value`, `output.dense`).
    ///
    /// # Errors
    /// None that a model need handle.
    pub fn load(width: usize, heads: usize, names: [&str; 4], weights: &Weights) -> Result<Self> {
        let linear = |name: &str| Linear::load(width, width, &weights.pp(name));
        let [query, key, value, output] = names;
        Ok(Self {
            query: linear(query)?,
            key: linear(key)?,
            value: linear(value)?,
            output: linear(output)?,
            heads,
            head_width: width / heads.max(1),
        })
    }

    /// `[batch, tokens, width]` to the same; `bias` is added to the scores (see [`attention_bias`]).
    ///
    /// # Errors
    /// `shape` if the dimensions are others.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (batch, tokens, width) = x.dims3()?;
        let split = |x: Tensor| x.reshape((&batch, &tokens, self.heads, self.head_width));
        let query = split(self.query.forward(x)?)?;
        let key = split(self.key.forward(x)?)?;
        let value = split(self.value.forward(x)?)?;
        let mixed = query.attention(&key, &value, bias, Attend::default())?;
        self.output.forward(&mixed.reshape((&batch, &tokens, &width))?)
    }
}
