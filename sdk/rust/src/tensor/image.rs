//! Ops on images and channels: convolutions, pools, resizing, normalisation by channel.

use maquette_ops::{Attr, Op};

use super::Tensor;
use super::attributes::{int, ints, shape, with_optional};
use crate::Result;
use crate::ops::apply;
use crate::shape::IntoShape;

/// How a convolution goes over an image. Pairs are `[y, x]`; the default is a stride and a dilation of 1, no padding, one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// From one window to the next.
    pub stride: [usize; 2],
    /// Zeros around the image: top, bottom, left, right.
    pub padding: [usize; 4],
    /// From one element of the kernel to the next.
    pub dilation: [usize; 2],
    /// Groups of channels that do not see each other.
    pub groups: usize,
}

impl Default for Conv2d {
    fn default() -> Self {
        Self {
            stride: [1; 2],
            padding: [0; 4],
            dilation: [1; 2],
            groups: 1,
        }
    }
}

/// How a transposed convolution goes over an image. Pairs are `[y, x]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvTranspose2d {
    /// From one window to the next.
    pub stride: [usize; 2],
    /// Taken away from each side of the output.
    pub padding: [usize; 2],
    /// Added to one side of the output.
    pub output_padding: [usize; 2],
    /// From one element of the kernel to the next.
    pub dilation: [usize; 2],
    /// Groups of channels that do not see each other.
    pub groups: usize,
}

impl Default for ConvTranspose2d {
    fn default() -> Self {
        Self {
            stride: [1; 2],
            padding: [0; 2],
            output_padding: [0; 2],
            dilation: [1; 2],
            groups: 1,
        }
    }
}

/// Errors of each of these are as for the op in the table (`maquette ops`).
#[allow(clippy::missing_errors_doc)]
impl Tensor {
    /// The convolution of `[n, c, h, w]` by `weight` `[o, c / groups, kh, kw]`, plus `bias` `[o]`.
    #[track_caller]
    pub fn conv2d(&self, weight: &Self, bias: Option<&Self>, how: Conv2d) -> Result<Self> {
        let attrs = vec![
            ints(&how.stride),
            ints(&how.padding),
            ints(&how.dilation),
            int(how.groups),
        ];
        with_optional(Op::Conv2d, &[self, weight], &[bias], attrs)
    }

    /// The transpose of a convolution, of `[n, c, h, w]` by `weight` `[c, o / groups, kh, kw]`, plus `bias` `[o]`.
    #[track_caller]
    pub fn conv_transpose2d(&self, weight: &Self, bias: Option<&Self>, how: ConvTranspose2d) -> Result<Self> {
        let attrs = vec![
            ints(&how.stride),
            ints(&how.padding),
            ints(&how.output_padding),
            ints(&how.dilation),
            int(how.groups),
        ];
        with_optional(Op::ConvTranspose2d, &[self, weight], &[bias], attrs)
    }

    /// The largest element of each window of `[n, c, h, w]`; padding never wins, and is less than the kernel. Pairs are `[y, x]`; a
    /// stride of 0 is the kernel's size.
    #[track_caller]
    pub fn max_pool2d(&self, kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> Result<Self> {
        apply(
            Op::MaxPool2d,
            &[self],
            vec![ints(&kernel), ints(&stride), ints(&padding)],
        )
    }

    /// The mean of each window of `[n, c, h, w]`; padding, less than the kernel, counts as zeros, or not at all without
    /// `count_include_pad`. Pairs are `[y, x]`; a stride of 0 is the kernel's size.
    #[track_caller]
    pub fn avg_pool2d(
        &self,
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
        count_include_pad: bool,
    ) -> Result<Self> {
        let attrs = vec![
            ints(&kernel),
            ints(&stride),
            ints(&padding),
            Attr::Flag(false),
            Attr::Flag(count_include_pad),
        ];
        apply(Op::AvgPool2d, &[self], attrs)
    }

    /// The means of `size` `(oh, ow)` bins of `[n, c, h, w]`.
    #[track_caller]
    pub fn adaptive_avg_pool2d(&self, size: impl IntoShape) -> Result<Self> {
        apply(Op::AdaptiveAvgPool2d, &[self], vec![shape(size)?])
    }

    /// `[n, c, h, w]` at another size `(oh, ow)` by repeating or leaving out; `exact` looks from the middle of each pixel.
    #[track_caller]
    pub fn upsample_nearest2d(&self, size: impl IntoShape, exact: bool) -> Result<Self> {
        apply(Op::ResizeNearest2d, &[self], vec![shape(size)?, Attr::Flag(exact)])
    }

    /// `[n, c, h, w]` at another size `(oh, ow)`, in between in proportion.
    #[track_caller]
    pub fn upsample_bilinear2d(&self, size: impl IntoShape, align_corners: bool) -> Result<Self> {
        apply(
            Op::ResizeBilinear2d,
            &[self],
            vec![shape(size)?, Attr::Flag(align_corners)],
        )
    }

    /// `[n, c, ..]` normalised in groups of channels, times `weight` plus `bias`, both `[c]`; a bias needs a weight.
    #[track_caller]
    pub fn group_norm(&self, groups: usize, weight: Option<&Self>, bias: Option<&Self>, eps: f64) -> Result<Self> {
        with_optional(
            Op::GroupNorm,
            &[self],
            &[weight, bias],
            vec![int(groups), Attr::Float(eps)],
        )
    }

    /// `[n, c, ..]` by the mean and variance `[c]` that training has left, times `weight` plus `bias` `[c]`.
    #[track_caller]
    pub fn batch_norm(&self, mean: &Self, var: &Self, weight: &Self, bias: &Self, eps: f64) -> Result<Self> {
        apply(Op::BatchNorm, &[self, mean, var, weight, bias], vec![Attr::Float(eps)])
    }

    /// `[n, c, ..]` where it is not negative, else times `weight`, `[1]` or `[c]`.
    #[track_caller]
    pub fn prelu(&self, weight: &Self) -> Result<Self> {
        apply(Op::Prelu, &[self, weight], Vec::new())
    }

    /// `[n, c * f^2, h, w]` to `[n, c, h * f, w * f]`.
    #[track_caller]
    pub fn pixel_shuffle(&self, factor: usize) -> Result<Self> {
        apply(Op::PixelShuffle, &[self], vec![int(factor)])
    }

    /// `[n, c, h * f, w * f]` to `[n, c * f^2, h, w]`.
    #[track_caller]
    pub fn pixel_unshuffle(&self, factor: usize) -> Result<Self> {
        apply(Op::PixelUnshuffle, &[self], vec![int(factor)])
    }
}
