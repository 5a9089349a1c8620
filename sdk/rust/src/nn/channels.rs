//! Layers that work channel by channel. Sources: PyTorch's `torch.nn.GroupNorm`, `BatchNorm2d`, `PReLU`.

use crate::{Result, Tensor, Weights};

/// Groups of channels normalised to mean 0 and deviation 1. Source: `torch.nn.GroupNorm` (Wu and He, 2018). With as many groups as
/// channels it is `torch.nn.InstanceNorm2d`.
pub struct GroupNorm {
    groups: usize,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    eps: f64,
}

impl GroupNorm {
    /// With `weight` and `bias` `[channels]`.
    ///
    /// # Errors
    /// None that a model need handle.
    pub fn load(groups: usize, channels: usize, eps: f64, weights: &Weights) -> Result<Self> {
        Ok(Self {
            weight: Some(weights.get("weight", (channels,))?),
            bias: Some(weights.get("bias", (channels,))?),
            ..Self::plain(groups, eps)
        })
    }

    /// Without weights: `affine=False`.
    pub fn plain(groups: usize, eps: f64) -> Self {
        Self {
            groups,
            weight: None,
            bias: None,
            eps,
        }
    }

    /// `[n, channels, ..]` to the same.
    ///
    /// # Errors
    /// `shape` if the channels are others, or the groups do not divide them.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.group_norm(self.groups, self.weight.as_ref(), self.bias.as_ref(), self.eps)
    }
}

/// Channels normalised by the mean and variance that training has left. Source: `torch.nn.BatchNorm2d` in inference (Ioffe and
/// Szegedy, 2015); `BatchNorm1d` and `BatchNorm3d` are the same.
pub struct BatchNorm2d {
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl BatchNorm2d {
    /// With `running_mean`, `running_var`, `weight` and `bias` `[channels]`.
    ///
    /// # Errors
    /// None that a model need handle.
    pub fn load(channels: usize, eps: f64, weights: &Weights) -> Result<Self> {
        let get = |name: &str| weights.get(name, (channels,));
        Ok(Self {
            mean: get("running_mean")?,
            var: get("running_var")?,
            weight: get("weight")?,
            bias: get("bias")?,
            eps,
        })
    }

    /// `[n, channels, ..]` to the same.
    ///
    /// # Errors
    /// `shape` if the channels are others.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.batch_norm(&self.mean, &self.var, &self.weight, &self.bias, self.eps)
    }
}

/// `x` where it is not negative, else times a weight. Source: `torch.nn.PReLU` (He et al., 2015).
pub struct Prelu {
    weight: Tensor,
}

impl Prelu {
    /// With `weight` `[count]`: one for all, or one a channel.
    ///
    /// # Errors
    /// None that a model need handle.
    pub fn load(count: usize, weights: &Weights) -> Result<Self> {
        Ok(Self {
            weight: weights.get("weight", (count,))?,
        })
    }

    /// `[n, channels, ..]` to the same.
    ///
    /// # Errors
    /// `shape` if there are more weights than one and not one a channel.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.prelu(&self.weight)
    }
}
