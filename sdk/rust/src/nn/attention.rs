//! Attention between the tokens of sequences. Source: "Attention Is All You Need" (Vaswani et al., 2017).

use super::Linear;
use crate::{Attend, DType, Error, Result, Tensor, Weights};

/// Added to the score of what must not be attended to; large enough that its softmax is 0, small enough for every float type.
const MASKED: f64 = -1.0e4;

/// What to add to attention scores `[batch, heads, queries, keys]` so that padding is left out, from a mask `[batch, keys]` that
/// is 1 for tokens and 0 for padding: `[batch, 1, 1, keys]`. It is of the mask's type, or f32 if that is no float type; attention
/// takes a bias of the type of its queries.
///
/// # Errors
/// `shape` if the mask is no matrix.
#[track_caller]
pub fn attention_bias(mask: &Tensor) -> Result<Tensor> {
    let mask = match mask.dtype() {
        DType::U8 | DType::U32 | DType::I64 => mask.to_dtype(DType::F32)?,
        DType::F32 | DType::F16 | DType::BF16 => mask.clone(),
    };
    mask.dims2()?;
    mask.affine(-MASKED, MASKED)?.unsqueeze(1)?.unsqueeze(1)
}

/// What an attention with several heads is made of; the default has biases everywhere, and every query sees every key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MultiHead {
    /// Elements of what keys and values are made of, where it is not as wide as the queries.
    pub context: Option<usize>,
    /// Whether the layers of queries, keys, values and the output have biases, in this order.
    pub biases: [bool; 4],
    /// Whether a query sees only keys up to its own place; the last query is at the last key.
    pub causal: bool,
}

impl Default for MultiHead {
    fn default() -> Self {
        Self {
            context: None,
            biases: [true; 4],
            causal: false,
        }
    }
}

/// The layers of queries, keys and values.
enum Inputs {
    /// Each has its own.
    Apart([Linear; 3]),
    /// One above the other: `[3 * width, width]`.
    Together { weight: Tensor, bias: Option<Tensor> },
}

/// Attention with several heads, of a sequence to itself or to another. Sources: `torch.nn.MultiheadAttention` with
/// `batch_first=True`; BERT's, Whisper's and CLIP's attention in transformers.
pub struct MultiHeadAttention {
    inputs: Inputs,
    output: Linear,
    width: usize,
    heads: usize,
    causal: bool,
}

impl MultiHeadAttention {
    /// From four linear layers, of queries, keys, values and the output, under the names given (a BERT's are `self.query`,
    /// `self.key`, `self.value`, `output.dense`): `weight` `[width, width]`, of keys and values `[width, context]`, `bias`
    /// `[width]`.
    ///
    /// # Errors
    /// `invalid-input` if the heads do not divide the width.
    pub fn load(width: usize, heads: usize, how: MultiHead, names: [&str; 4], weights: &Weights) -> Result<Self> {
        let linear = |at: usize, input: usize| {
            let weights = weights.pp(names[at]);
            match how.biases[at] {
                true => Linear::load(input, width, &weights),
                false => Linear::load_no_bias(input, width, &weights),
            }
        };
        let context = how.context.unwrap_or(width);
        let inputs = Inputs::Apart([linear(0, width)?, linear(1, context)?, linear(2, context)?]);
        Self::new(inputs, linear(3, width)?, width, heads, how.causal)
    }

    /// Under the names of `torch.nn.MultiheadAttention`: `in_proj_weight` `[3 * width, width]`, `in_proj_bias` `[3 * width]`,
    /// `out_proj.weight` `[width, width]`, `out_proj.bias` `[width]`.
    ///
    /// # Errors
    /// `invalid-input` if the heads do not divide the width.
    pub fn load_in_proj(width: usize, heads: usize, bias: bool, causal: bool, weights: &Weights) -> Result<Self> {
        let rows = 3 * width;
        let out = weights.pp("out_proj");
        let (in_bias, output) = match bias {
            true => (
                Some(weights.get("in_proj_bias", (rows,))?),
                Linear::load(width, width, &out)?,
            ),
            false => (None, Linear::load_no_bias(width, width, &out)?),
        };
        let inputs = Inputs::Together {
            weight: weights.get("in_proj_weight", (rows, width))?,
            bias: in_bias,
        };
        Self::new(inputs, output, width, heads, causal)
    }

    fn new(inputs: Inputs, output: Linear, width: usize, heads: usize, causal: bool) -> Result<Self> {
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(Error::invalid_input(format_args!(
                "{heads} heads do not divide a width of {width}"
            )));
        }
        Ok(Self {
            inputs,
            output,
            width,
            heads,
            causal,
        })
    }

    /// Attention of `x` `[batch, tokens, width]` to itself: the same shape. `bias` broadcasts to the scores
    /// `[batch, heads, tokens, tokens]` (see [`attention_bias`]).
    ///
    /// # Errors
    /// `shape` if the dimensions are others; `dtype` if the bias is of another type.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let Inputs::Together { weight, bias: in_bias } = &self.inputs else {
            return self.cross(x, x, bias);
        };
        let all = self.split(&x.linear(weight, in_bias.as_ref())?, 3 * self.heads)?;
        let [query, key, value] = [0, 1, 2].map(|which| all.narrow(2, which * self.heads, self.heads));
        self.mix(&query?, &key?, &value?, bias)
    }

    /// Attention of `x` `[batch, tokens, width]` to `context` `[batch, keys, context]`: `[batch, tokens, width]`. `bias` broadcasts
    /// to the scores `[batch, heads, tokens, keys]`.
    ///
    /// # Errors
    /// `shape` if the dimensions are others; `dtype` if the bias is of another type.
    #[track_caller]
    pub fn cross(&self, x: &Tensor, context: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let query = self.project(0, x)?;
        let key = self.project(1, context)?;
        let value = self.project(2, context)?;
        self.mix(&query, &key, &value, bias)
    }

    /// Queries (0), keys (1) or values (2) of `[batch, tokens, _]`, head by head.
    #[track_caller]
    fn project(&self, which: usize, x: &Tensor) -> Result<Tensor> {
        let projected = match &self.inputs {
            Inputs::Apart(layers) => layers[which].forward(x)?,
            Inputs::Together { weight, bias } => {
                let (start, rows) = (which * self.width, self.width);
                let bias = bias.as_ref().map(|bias| bias.narrow(0, start, rows)).transpose()?;
                x.linear(&weight.narrow(0, start, rows)?, bias.as_ref())?
            }
        };
        self.split(&projected, self.heads)
    }

    /// `[batch, tokens, _]` as `[batch, tokens, heads, width / heads]`.
    #[track_caller]
    fn split(&self, x: &Tensor, heads: usize) -> Result<Tensor> {
        let (batch, tokens, _) = x.dims3()?;
        x.reshape((batch, tokens, heads, self.width / self.heads))
    }

    #[track_caller]
    fn mix(&self, query: &Tensor, key: &Tensor, value: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let how = Attend {
            causal: self.causal,
            ..Attend::default()
        };
        let (batch, tokens, ..) = query.dims4()?;
        let mixed = query.attention(key, value, bias, how)?;
        self.output.forward(&mixed.reshape((batch, tokens, self.width))?)
    }
}

/// Self-attention with several heads and biases everywhere, as BERT and ViT have it.
pub struct SelfAttention(MultiHeadAttention);

impl SelfAttention {
    /// From four square linear layers, `width` to `width`, under the names given (a BERT's are `self.query`, `self.key`,
    /// `self.value`, `output.dense`).
    ///
    /// # Errors
    /// `invalid-input` if the heads do not divide the width.
    pub fn load(width: usize, heads: usize, names: [&str; 4], weights: &Weights) -> Result<Self> {
        MultiHeadAttention::load(width, heads, MultiHead::default(), names, weights).map(Self)
    }

    /// `[batch, tokens, width]` to the same; `bias` is added to the scores (see [`attention_bias`]).
    ///
    /// # Errors
    /// `shape` if the dimensions are others.
    #[track_caller]
    pub fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        self.0.forward(x, bias)
    }
}
