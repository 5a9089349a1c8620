//! Linear, embedding and normalisation layers. Sources: PyTorch's `torch.nn.Linear`, `Embedding`, `LayerNorm`, `RMSNorm`.

use crate::{Result, Tensor, Weights};

/// `x * weight^T + bias`. Source: `torch.nn.Linear`.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// With `weight` `[output, input]` and `bias` `[output]`.
    ///
    /// # Errors
    /// None that a model need handle.
    pub fn load(input: usize, output: usize, weights: &Weights) -> Result<Self> {
        Ok(Self {
            bias: Some(weights.get("bias", (output,))?),
            ..Self::load_no_bias(input, output, weights)?
        })
    }

    /// With `weight` `[output, input]` alone.
    ///
    /// # Errors
    /// None that a model need handle.
    pub fn load_no_bias(input: usize, output: usize, weights: &Weights) -> Result<Self> {
        Ok(Self {
            weight: weights.get("weight", (output, input))?,
            bias: None,
        })
    }

    /// `[.., input]` to `[.., output]`.
    ///
    /// # Errors
    /// `shape` if the last dimension is another.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.linear(&self.weight, self.bias.as_ref())
    }
}

/// Rows of a table by id. Source: `torch.nn.Embedding`.
pub struct Embedding {
    weight: Tensor,
}

impl Embedding {
    /// With `weight` `[rows, width]`.
    ///
    /// # Errors
    /// None that a model need handle.
    pub fn load(rows: usize, width: usize, weights: &Weights) -> Result<Self> {
        Ok(Self {
            weight: weights.get("weight", (rows, width))?,
        })
    }

    /// The table itself.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// `[..]` ids to `[.., width]`.
    ///
    /// # Errors
    /// `invalid-input` if an id is past the rows.
    #[track_caller]
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        self.weight.embedding(ids)
    }
}

/// The last dimension normalised to mean 0 and deviation 1. Source: `torch.nn.LayerNorm` (Ba et al., 2016).
pub struct LayerNorm {
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f64,
}

impl LayerNorm {
    /// With `weight` and `bias` `[width]`.
    ///
    /// # Errors
    /// None that a model need handle.
    pub fn load(width: usize, eps: f64, weights: &Weights) -> Result<Self> {
        Ok(Self {
            weight: weights.get("weight", (width,))?,
            bias: Some(weights.get("bias", (width,))?),
            eps,
        })
    }

    /// `[.., width]` to the same.
    ///
    /// # Errors
    /// `shape` if the last dimension is another.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.layer_norm(&self.weight, self.bias.as_ref(), self.eps)
    }
}

/// The last dimension divided by its root mean square. Source: `torch.nn.RMSNorm` (Zhang and Sennrich, 2019).
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// With `weight` `[width]`.
    ///
    /// # Errors
    /// None that a model need handle.
    pub fn load(width: usize, eps: f64, weights: &Weights) -> Result<Self> {
        Ok(Self {
            weight: weights.get("weight", (width,))?,
            eps,
        })
    }

    /// `[.., width]` to the same.
    ///
    /// # Errors
    /// `shape` if the last dimension is another.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.rms_norm(&self.weight, self.eps)
    }
}

/// Activation functions by the names that model configurations use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// GELU, exact: what `gelu` means in a BERT's configuration.
    Gelu,
    /// GELU in its tanh approximation: `gelu_new`, `gelu_pytorch_tanh`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x * sigmoid(x)`, also called swish.
    Silu,
}

impl Activation {
    /// The function.
    ///
    /// # Errors
    /// `dtype` unless the elements are floats.
    #[track_caller]
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => x.gelu_erf(),
            Self::GeluTanh => x.gelu(),
            Self::Relu => x.relu(),
            Self::Silu => x.silu(),
        }
    }
}
