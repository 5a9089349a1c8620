//! Ops on signals and sequences, and functions of floats: half floats are computed in f32.

use candle_core::Tensor;
use maquette_kernels::spectrum::{Cut, Vanishes, istft, stft};
use maquette_kernels::{conv1d, elementwise, recurrent, reduce, resize1d};
use maquette_ops::{Error, Op};
use smallvec::SmallVec;

use super::slices::{Dense, Read, around, tensor, with_integers};
use super::{Kernel, Result};
use crate::tensor::dims;

impl Kernel<'_> {
    pub(super) fn sequence(&self, op: Op, x: &Tensor) -> Result<Tensor> {
        match op {
            Op::Cumsum | Op::Cumprod => return self.cumulative(op, x),
            Op::Rem if self.out.dtype.is_int() => return self.integer_rem(x),
            Op::Logsumexp | Op::Var => return self.row_sums(op, x),
            _ => {}
        }
        let inputs: SmallVec<[Dense; 8]> = self.inputs.iter().map(|x| Dense::wide(x)).collect::<Result<_>>()?;
        let reads: SmallVec<[Read<'_>; 8]> = inputs.iter().map(Dense::read).collect();
        let slices: SmallVec<[&[f32]; 8]> = reads.iter().map(Read::f32).collect::<Result<_>>()?;
        let (shape, from) = (dims(&self.out.shape), x.dims());
        let Some(&values) = slices.first() else {
            return Err(Error::internal("an input is missing").into());
        };
        let second = slices.get(1).copied().unwrap_or_default();
        let cut = |frames: usize| -> Result<Cut> {
            Ok(Cut {
                n_fft: self.int(0)?,
                hop: self.int(1)?,
                center: self.flag(if op == Op::Stft { 2 } else { 3 })?,
                normalized: self.flag(if op == Op::Stft { 3 } else { 4 })?,
                frames,
            })
        };
        // Attributes are read before memory is taken.
        type Fill<'a> = Box<dyn FnOnce(&mut [f32]) -> Result<(), Error> + 'a>;
        let fill: Fill<'_> = match op {
            Op::Conv1d | Op::ConvTranspose1d => {
                let transposed = op == Op::ConvTranspose1d;
                let sizes = conv1d::Sizes {
                    batch: from[0],
                    inputs: from[1],
                    outputs: shape[1],
                    len: from[2],
                    out: shape[2],
                    kernel: self.input(1)?.dims()[2],
                    stride: self.int(0)?,
                    left: self.int(1)?,
                    dilation: self.int(3)?,
                    groups: self.int(4)?,
                };
                let bias = slices.get(2).copied();
                Box::new(move |out| {
                    let kernel = if transposed {
                        conv1d::conv_transpose1d
                    } else {
                        conv1d::conv1d
                    };
                    kernel(values, second, bias, &sizes, out);
                    Ok(())
                })
            }
            Op::Lstm | Op::Gru => {
                let sizes = recurrent::Sizes {
                    batch: from[0],
                    steps: from[1],
                    width: from[2],
                    hidden: self.input(2)?.dims()[1],
                };
                let at = |at: usize| slices.get(at).copied();
                let weights = recurrent::Weights {
                    w_ih: second,
                    w_hh: at(2).unwrap_or_default(),
                    b_ih: at(3),
                    b_hh: at(4),
                };
                let (h0, c0, reverse) = (at(5), at(6), self.flag(0)?);
                Box::new(move |out| {
                    if op == Op::Lstm {
                        recurrent::lstm(values, &weights, h0, c0, &sizes, reverse, out);
                    } else {
                        recurrent::gru(values, &weights, h0, &sizes, reverse, out);
                    }
                    Ok(())
                })
            }
            Op::ResizeLinear1d => {
                let (len, size, corners) = (from[2], shape[2], self.flag(1)?);
                Box::new(move |out| {
                    resize1d::linear(values, len, size, corners, out);
                    Ok(())
                })
            }
            Op::Stft => {
                let (batch, cut) = (from[0], cut(shape[2])?);
                Box::new(move |out| {
                    stft(values, batch, second, &cut, out);
                    Ok(())
                })
            }
            Op::Istft => {
                let (batch, cut) = (from[0], cut(from[2])?);
                Box::new(move |out| {
                    istft(values, batch, second, &cut, out).map_err(|Vanishes(place)| {
                        Error::invalid_input(format!("the squared windows add up to nothing at element {place}"))
                    })
                })
            }
            Op::L2Normalize => {
                let (around, eps) = (around(from, self.axis(0, x.rank())?), self.float(1)?);
                Box::new(move |out| {
                    reduce::l2_normalize(values, around, eps, out);
                    Ok(())
                })
            }
            Op::Rem | Op::Pow | Op::Atan2 => {
                let (a, b) = ((values, from), (second, self.input(1)?.dims()));
                let shape = &shape;
                Box::new(move |out| {
                    match op {
                        Op::Rem => elementwise::zip(a, b, 8, remainder, out, shape),
                        Op::Pow => elementwise::zip(a, b, 15, f32::powf, out, shape),
                        _ => elementwise::zip(a, b, 15, f32::atan2, out, shape),
                    }
                    Ok(())
                })
            }
            Op::Log1p | Op::Expm1 => {
                let f = if op == Op::Log1p { f32::ln_1p } else { f32::exp_m1 };
                Box::new(move |out| {
                    elementwise::map(values, 8, f, out);
                    Ok(())
                })
            }
            Op::Snake => {
                let len = from[2];
                Box::new(move |out| {
                    elementwise::snake(values, second, len, out);
                    Ok(())
                })
            }
            Op::Glu => {
                let around = around(from, self.axis(0, x.rank())?);
                Box::new(move |out| {
                    elementwise::glu(values, around, out);
                    Ok(())
                })
            }
            _ => return Err(Error::internal("not an op on sequences").into()),
        };
        self.floats(fill)
    }

    /// Reductions of rows: the dimensions that go are moved to the end.
    fn row_sums(&self, op: Op, x: &Tensor) -> Result<Tensor> {
        let rank = x.rank();
        let mut axes = self.axes(rank)?;
        if axes.is_empty() {
            axes = (0..rank).collect();
        }
        if x.elem_count() == 0 {
            // The sum of no exponentials is 0; the variance of nothing is not a number.
            let value = if op == Op::Logsumexp {
                f64::NEG_INFINITY
            } else {
                f64::NAN
            };
            return Ok(self.full(value)?.force_contiguous()?);
        }
        let kept = (0..rank).filter(|axis| !axes.contains(axis));
        let mut last = axes.clone();
        last.sort_unstable();
        let order: SmallVec<[usize; 8]> = kept.chain(last).collect();
        let dense = Dense::wide(&x.permute(order.as_slice())?)?;
        let read = dense.read();
        let values = read.f32()?;
        let unbiased = op == Op::Var && self.flag(2)?;
        self.floats(|out| {
            match op {
                Op::Logsumexp => reduce::logsumexp(values, out),
                _ => reduce::variance(values, unbiased, out),
            }
            Ok(())
        })
    }

    fn integer_rem(&self, x: &Tensor) -> Result<Tensor> {
        let divisor = self.input(1)?;
        let (a, b) = (Dense::of(x)?, Dense::of(divisor)?);
        let (b, shape) = (b.read(), dims(&self.out.shape));
        with_integers!(&a, a => {
            let b = b.like(a)?;
            if b.iter().any(|b| b.is_zero()) {
                return Err(Error::invalid_input("a divisor is 0").into());
            }
            let mut out = vec![a[0]; shape.iter().product()];
            elementwise::zip((a, x.dims()), (b, divisor.dims()), 8, Integer::remainder, &mut out, &shape);
            tensor(out, &shape)
        })
    }
}

/// `a - b * floor(a / b)`; not a number if `b` is 0.
fn remainder(a: f32, b: f32) -> f32 {
    let rest = a % b;
    if rest != 0.0 && (rest < 0.0) != (b < 0.0) {
        rest + b
    } else {
        rest
    }
}

/// What a remainder takes.
trait Integer: Copy {
    fn is_zero(self) -> bool;
    /// `a - b * floor(a / b)`, for `b` that is not 0.
    fn remainder(self, b: Self) -> Self;
}

macro_rules! integers {
    ($($ty:ty)*) => {$(
        impl Integer for $ty {
            fn is_zero(self) -> bool {
                self == 0
            }
            #[allow(unused_comparisons, reason = "unsigned integers have no other sign")]
            fn remainder(self, b: Self) -> Self {
                // The smallest integer by -1 would overflow.
                let rest = self.wrapping_rem(b);
                if rest != 0 && (rest < 0) != (b < 0) { rest.wrapping_add(b) } else { rest }
            }
        }
    )*};
}
integers!(u8 u32 i64);
