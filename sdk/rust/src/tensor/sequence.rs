//! Ops on sequences and signals: convolutions, recurrent layers, running sums, padding, Fourier transforms.

use maquette_ops::{Attr, Op};

use super::Tensor;
use super::image::{int, with_optional};
use crate::Result;
use crate::ops::apply;

/// What a recurrent layer has beside its two weights.
#[derive(Clone, Copy, Default)]
pub struct Recurrent<'a> {
    /// Biases of the inputs and of the states.
    pub biases: Option<(&'a Tensor, &'a Tensor)>,
    /// The first state `[b, h]`; zeros if not given. Only with biases.
    pub state: Option<&'a Tensor>,
    /// An LSTM's first cell `[b, h]`; zeros if not given. Only with a state.
    pub cell: Option<&'a Tensor>,
    /// From the end to the start.
    pub reverse: bool,
}

/// How frames of a signal are cut.
#[derive(Clone, Copy, Debug)]
pub struct Frames {
    /// Elements of a frame.
    pub n_fft: usize,
    /// From one frame to the next.
    pub hop: usize,
    /// Whether frames stand around their places, the signal mirrored at its ends.
    pub center: bool,
    /// Whether transforms are divided by the square root of their length.
    pub normalized: bool,
}

/// Errors of each of these are as for the op in the table (`maquette ops`).
#[allow(clippy::missing_errors_doc)]
impl Tensor {
    /// The convolution of x `[n, c, l]` by `weight` `[o, c / groups, k]` with zeros at both ends, plus `bias` `[o]`.
    #[track_caller]
    pub fn conv1d(
        &self,
        weight: &Self,
        bias: Option<&Self>,
        padding: usize,
        stride: usize,
        dilation: usize,
        groups: usize,
    ) -> Result<Self> {
        let attrs = [stride, padding, padding, dilation, groups].map(int).to_vec();
        with_optional(Op::Conv1d, &[self, weight], &[bias], attrs)
    }

    /// The transpose of a convolution, of x `[n, c, l]` by `weight` `[c, o / groups, k]`, plus `bias` `[o]`.
    #[track_caller]
    #[allow(clippy::too_many_arguments, reason = "candle's, and the bias")]
    pub fn conv_transpose1d(
        &self,
        weight: &Self,
        bias: Option<&Self>,
        padding: usize,
        output_padding: usize,
        stride: usize,
        dilation: usize,
        groups: usize,
    ) -> Result<Self> {
        let attrs = [stride, padding, output_padding, dilation, groups].map(int).to_vec();
        with_optional(Op::ConvTranspose1d, &[self, weight], &[bias], attrs)
    }

    /// A layer of long short-term memory over `[b, t, i]`: h and c of each step, `[b, t, 2, h]`.
    #[track_caller]
    pub fn lstm(&self, w_ih: &Self, w_hh: &Self, more: Recurrent<'_>) -> Result<Self> {
        let (a, b) = more.biases.unzip();
        with_optional(
            Op::Lstm,
            &[self, w_ih, w_hh],
            &[a, b, more.state, more.cell],
            vec![Attr::Flag(more.reverse)],
        )
    }

    /// A layer of gated recurrent units over `[b, t, i]`: h of each step, `[b, t, h]`.
    #[track_caller]
    pub fn gru(&self, w_ih: &Self, w_hh: &Self, more: Recurrent<'_>) -> Result<Self> {
        let (a, b) = more.biases.unzip();
        with_optional(
            Op::Gru,
            &[self, w_ih, w_hh],
            &[a, b, more.state],
            vec![Attr::Flag(more.reverse)],
        )
    }

    /// The sum of the elements up to each along a dimension.
    #[track_caller]
    pub fn cumsum(&self, dim: i64) -> Result<Self> {
        apply(Op::Cumsum, &[self], vec![Attr::Int(dim)])
    }

    /// The product of the elements up to each along a dimension.
    #[track_caller]
    pub fn cumprod(&self, dim: i64) -> Result<Self> {
        apply(Op::Cumprod, &[self], vec![Attr::Int(dim)])
    }

    /// A dimension made longer at both ends by its mirror image.
    #[track_caller]
    pub fn pad_reflect(&self, dim: i64, left: usize, right: usize) -> Result<Self> {
        apply(Op::PadReflect, &[self], vec![Attr::Int(dim), int(left), int(right)])
    }

    /// A dimension made longer at both ends by its first and last element.
    #[track_caller]
    pub fn pad_with_same(&self, dim: i64, left: usize, right: usize) -> Result<Self> {
        apply(Op::PadReplicate, &[self], vec![Attr::Int(dim), int(left), int(right)])
    }

    /// The last dimension of `[n, c, l]` at another length, in between in proportion.
    #[track_caller]
    pub fn interpolate_linear1d(&self, size: usize, align_corners: bool) -> Result<Self> {
        apply(Op::ResizeLinear1d, &[self], vec![int(size), Attr::Flag(align_corners)])
    }

    /// The last dimension of `[n, c, l]` at another length by repeating or leaving out.
    #[track_caller]
    pub fn upsample_nearest1d(&self, size: usize) -> Result<Self> {
        apply(Op::ResizeNearest1d, &[self], vec![int(size)])
    }

    /// The Fourier transforms of windowed frames of signals `[n, l]`: `[n, n_fft / 2 + 1, frames, 2]`.
    #[track_caller]
    pub fn stft(&self, window: &Self, how: Frames) -> Result<Self> {
        let attrs = vec![
            int(how.n_fft),
            int(how.hop),
            Attr::Flag(how.center),
            Attr::Flag(how.normalized),
        ];
        apply(Op::Stft, &[self, window], attrs)
    }

    /// The signals `[n, length]` whose frames have these transforms.
    #[track_caller]
    pub fn istft(&self, window: &Self, length: usize, how: Frames) -> Result<Self> {
        let flags = [Attr::Flag(how.center), Attr::Flag(how.normalized)];
        let attrs = [int(how.n_fft), int(how.hop), int(length)]
            .into_iter()
            .chain(flags)
            .collect();
        apply(Op::Istft, &[self, window], attrs)
    }

    /// `x + sin(alpha x)^2 / alpha` for `[n, c, l]` and `alpha` `[c]`.
    #[track_caller]
    pub fn snake(&self, alpha: &Self) -> Result<Self> {
        apply(Op::Snake, &[self, alpha], Vec::new())
    }

    /// `a * sigmoid(b)` for the two halves of a dimension.
    #[track_caller]
    pub fn glu(&self, dim: i64) -> Result<Self> {
        apply(Op::Glu, &[self], vec![Attr::Int(dim)])
    }
}
