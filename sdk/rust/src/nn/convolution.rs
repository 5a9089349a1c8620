//! Convolutions over signals and images. Sources: PyTorch's `torch.nn.Conv1d`, `Conv2d`, `ConvTranspose1d`, `ConvTranspose2d`.

use crate::{Error, Result, Tensor, Weights};

/// Channels of each group.
fn part(channels: usize, groups: usize) -> Result<usize> {
    if groups > 0 && channels.is_multiple_of(groups) {
        return Ok(channels / groups);
    }
    Err(Error::invalid_input(format_args!(
        "{groups} groups do not divide {channels} channels"
    )))
}

/// A convolution over signals. Source: `torch.nn.Conv1d`.
pub struct Conv1d {
    weight: Tensor,
    bias: Option<Tensor>,
    how: crate::Conv1d,
}

impl Conv1d {
    /// From `input` to `output` channels, with `weight` `[output, input / groups, kernel]` and `bias` `[output]`.
    ///
    /// # Errors
    /// `invalid-input` if the groups do not divide the channels.
    pub fn load(input: usize, output: usize, kernel: usize, how: crate::Conv1d, weights: &Weights) -> Result<Self> {
        Ok(Self {
            bias: Some(weights.get("bias", (output,))?),
            ..Self::load_no_bias(input, output, kernel, how, weights)?
        })
    }

    /// The same with `weight` alone.
    ///
    /// # Errors
    /// `invalid-input` if the groups do not divide the channels.
    pub fn load_no_bias(
        input: usize,
        output: usize,
        kernel: usize,
        how: crate::Conv1d,
        weights: &Weights,
    ) -> Result<Self> {
        Ok(Self {
            weight: weights.get("weight", (output, part(input, how.groups)?, kernel))?,
            bias: None,
            how,
        })
    }

    /// `[n, input, l]` to `[n, output, l']`.
    ///
    /// # Errors
    /// `shape` if the channels are others, or the kernel does not fit.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.conv1d(&self.weight, self.bias.as_ref(), self.how)
    }
}

/// A convolution over images; the kernel is `[y, x]`. Source: `torch.nn.Conv2d`.
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    how: crate::Conv2d,
}

impl Conv2d {
    /// From `input` to `output` channels, with `weight` `[output, input / groups, kernel[0], kernel[1]]` and `bias` `[output]`.
    ///
    /// # Errors
    /// `invalid-input` if the groups do not divide the channels.
    pub fn load(
        input: usize,
        output: usize,
        kernel: [usize; 2],
        how: crate::Conv2d,
        weights: &Weights,
    ) -> Result<Self> {
        Ok(Self {
            bias: Some(weights.get("bias", (output,))?),
            ..Self::load_no_bias(input, output, kernel, how, weights)?
        })
    }

    /// The same with `weight` alone.
    ///
    /// # Errors
    /// `invalid-input` if the groups do not divide the channels.
    pub fn load_no_bias(
        input: usize,
        output: usize,
        kernel: [usize; 2],
        how: crate::Conv2d,
        weights: &Weights,
    ) -> Result<Self> {
        Ok(Self {
            weight: weights.get("weight", (output, part(input, how.groups)?, kernel[0], kernel[1]))?,
            bias: None,
            how,
        })
    }

    /// `[n, input, h, w]` to `[n, output, h', w']`.
    ///
    /// # Errors
    /// `shape` if the channels are others, or the kernel does not fit.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.conv2d(&self.weight, self.bias.as_ref(), self.how)
    }
}

/// The transpose of a convolution over signals, which makes them longer. Source: `torch.nn.ConvTranspose1d`.
pub struct ConvTranspose1d {
    weight: Tensor,
    bias: Option<Tensor>,
    how: crate::ConvTranspose1d,
}

impl ConvTranspose1d {
    /// From `input` to `output` channels, with `weight` `[input, output / groups, kernel]` and `bias` `[output]`.
    ///
    /// # Errors
    /// `invalid-input` if the groups do not divide the channels.
    pub fn load(
        input: usize,
        output: usize,
        kernel: usize,
        how: crate::ConvTranspose1d,
        weights: &Weights,
    ) -> Result<Self> {
        Ok(Self {
            bias: Some(weights.get("bias", (output,))?),
            ..Self::load_no_bias(input, output, kernel, how, weights)?
        })
    }

    /// The same with `weight` alone.
    ///
    /// # Errors
    /// `invalid-input` if the groups do not divide the channels.
    pub fn load_no_bias(
        input: usize,
        output: usize,
        kernel: usize,
        how: crate::ConvTranspose1d,
        weights: &Weights,
    ) -> Result<Self> {
        Ok(Self {
            weight: weights.get("weight", (input, part(output, how.groups)?, kernel))?,
            bias: None,
            how,
        })
    }

    /// `[n, input, l]` to `[n, output, l']`.
    ///
    /// # Errors
    /// `shape` if the channels are others, or the kernel does not fit.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.conv_transpose1d(&self.weight, self.bias.as_ref(), self.how)
    }
}

/// The transpose of a convolution over images, which makes them larger; the kernel is `[y, x]`. Source: `torch.nn.ConvTranspose2d`.
pub struct ConvTranspose2d {
    weight: Tensor,
    bias: Option<Tensor>,
    how: crate::ConvTranspose2d,
}

impl ConvTranspose2d {
    /// From `input` to `output` channels, with `weight` `[input, output / groups, kernel[0], kernel[1]]` and `bias` `[output]`.
    ///
    /// # Errors
    /// `invalid-input` if the groups do not divide the channels.
    pub fn load(
        input: usize,
        output: usize,
        kernel: [usize; 2],
        how: crate::ConvTranspose2d,
        weights: &Weights,
    ) -> Result<Self> {
        Ok(Self {
            bias: Some(weights.get("bias", (output,))?),
            ..Self::load_no_bias(input, output, kernel, how, weights)?
        })
    }

    /// The same with `weight` alone.
    ///
    /// # Errors
    /// `invalid-input` if the groups do not divide the channels.
    pub fn load_no_bias(
        input: usize,
        output: usize,
        kernel: [usize; 2],
        how: crate::ConvTranspose2d,
        weights: &Weights,
    ) -> Result<Self> {
        Ok(Self {
            weight: weights.get("weight", (input, part(output, how.groups)?, kernel[0], kernel[1]))?,
            bias: None,
            how,
        })
    }

    /// `[n, input, h, w]` to `[n, output, h', w']`.
    ///
    /// # Errors
    /// `shape` if the channels are others, or the kernel does not fit.
    #[track_caller]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.conv_transpose2d(&self.weight, self.bias.as_ref(), self.how)
    }
}
