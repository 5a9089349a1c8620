//! Ops on sequences and signals: convolutions, recurrent layers, running sums, resizing, Fourier transforms.

use maquette_ops::{Attr, Op};

use super::Tensor;
use super::attributes::{int, size, with_optional};
use crate::Result;
use crate::ops::apply;
use crate::shape::IntoDim;

/// How a convolution goes over a signal; the default is a stride and a dilation of 1, no padding, one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv1d {
    /// From one window to the next.
    pub stride: usize,
    /// Zeros to the left and to the right of the signal.
    pub padding: [usize; 2],
    /// From one element of the kernel to the next.
    pub dilation: usize,
    /// Groups of channels that do not see each other.
    pub groups: usize,
}

impl Default for Conv1d {
    fn default() -> Self {
        Self {
            stride: 1,
            padding: [0; 2],
            dilation: 1,
            groups: 1,
        }
    }
}

/// How a transposed convolution goes over a signal; the default is a stride and a dilation of 1, no padding, one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvTranspose1d {
    /// From one window to the next.
    pub stride: usize,
    /// Taken away from each end of the output.
    pub padding: usize,
    /// Added to the right end of the output.
    pub output_padding: usize,
    /// From one element of the kernel to the next.
    pub dilation: usize,
    /// Groups of channels that do not see each other.
    pub groups: usize,
}

impl Default for ConvTranspose1d {
    fn default() -> Self {
        Self {
            stride: 1,
            padding: 0,
            output_padding: 0,
            dilation: 1,
            groups: 1,
        }
    }
}

/// What a recurrent layer has beside its two weights; the default is nothing.
#[derive(Clone, Copy, Default)]
pub struct Recurrent<'a> {
    /// Biases of the inputs and of the states; zeros if not given.
    pub biases: Option<(&'a Tensor, &'a Tensor)>,
    /// The first state `[b, h]`; zeros if not given.
    pub state: Option<&'a Tensor>,
    /// An LSTM's first cell `[b, h]`; zeros if not given. Only with a state.
    pub cell: Option<&'a Tensor>,
    /// From the end to the start; steps keep their places.
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
    /// The convolution of `[n, c, l]` by `weight` `[o, c / groups, k]`, plus `bias` `[o]`.
    #[track_caller]
    pub fn conv1d(&self, weight: &Self, bias: Option<&Self>, how: Conv1d) -> Result<Self> {
        let [left, right] = how.padding;
        let attrs = [how.stride, left, right, how.dilation, how.groups].map(int).to_vec();
        with_optional(Op::Conv1d, &[self, weight], &[bias], attrs)
    }

    /// The transpose of a convolution, of `[n, c, l]` by `weight` `[c, o / groups, k]`, plus `bias` `[o]`.
    #[track_caller]
    pub fn conv_transpose1d(&self, weight: &Self, bias: Option<&Self>, how: ConvTranspose1d) -> Result<Self> {
        let attrs = [how.stride, how.padding, how.output_padding, how.dilation, how.groups];
        let attrs = attrs.map(int).to_vec();
        with_optional(Op::ConvTranspose1d, &[self, weight], &[bias], attrs)
    }

    /// A layer of long short-term memory over `[b, t, i]`, for `w_ih` `[4h, i]`, `w_hh` `[4h, h]`, biases `[4h]`: h and c of each
    /// step, `[b, t, 2, h]`. The gates stand in PyTorch's order.
    #[track_caller]
    pub fn lstm(&self, w_ih: &Self, w_hh: &Self, more: Recurrent<'_>) -> Result<Self> {
        self.recurrent(Op::Lstm, w_ih, w_hh, more)
    }

    /// A layer of gated recurrent units over `[b, t, i]`, for `w_ih` `[3h, i]`, `w_hh` `[3h, h]`, biases `[3h]`: h of each step,
    /// `[b, t, h]`. The gates stand in PyTorch's order.
    #[track_caller]
    pub fn gru(&self, w_ih: &Self, w_hh: &Self, more: Recurrent<'_>) -> Result<Self> {
        self.recurrent(Op::Gru, w_ih, w_hh, more)
    }

    #[track_caller]
    fn recurrent(&self, op: Op, w_ih: &Self, w_hh: &Self, more: Recurrent<'_>) -> Result<Self> {
        // Inputs go by place: before a state there must be biases.
        let zeros = match (more.biases, more.state) {
            (None, Some(_)) => Some(Self::zeros((w_hh.dim(0)?,), w_hh.dtype())?),
            _ => None,
        };
        let (a, b) = more.biases.unzip();
        let (a, b) = (a.or(zeros.as_ref()), b.or(zeros.as_ref()));
        let mut optional = vec![a, b, more.state];
        if op == Op::Lstm || more.cell.is_some() {
            optional.push(more.cell);
        }
        with_optional(op, &[self, w_ih, w_hh], &optional, vec![Attr::Flag(more.reverse)])
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

    /// The last dimension of `[n, c, l]` at another length, in between in proportion.
    #[track_caller]
    pub fn interpolate_linear1d(&self, size: impl IntoDim, align_corners: bool) -> Result<Self> {
        apply(
            Op::ResizeLinear1d,
            &[self],
            vec![self::size(size)?, Attr::Flag(align_corners)],
        )
    }

    /// The last dimension of `[n, c, l]` at another length by repeating or leaving out.
    #[track_caller]
    pub fn upsample_nearest1d(&self, size: impl IntoDim, align_corners: bool) -> Result<Self> {
        apply(
            Op::ResizeNearest1d,
            &[self],
            vec![self::size(size)?, Attr::Flag(align_corners)],
        )
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
    pub fn istft(&self, window: &Self, length: impl IntoDim, how: Frames) -> Result<Self> {
        let flags = [Attr::Flag(how.center), Attr::Flag(how.normalized)];
        let attrs = [int(how.n_fft), int(how.hop), size(length)?]
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
