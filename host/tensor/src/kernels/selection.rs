//! Ops that pick, order and move elements of any dtype, and the draw of a token.

use candle_core::Tensor;
use maquette_kernels::philox::{philox4x32_10, uniform};
use maquette_kernels::sample::{Refused, Scratch, Settings, sample};
use maquette_kernels::scan::Scan;
use maquette_kernels::select::{Places, gather, index_add, rearrange, scatter, triangle};
use maquette_kernels::sort::{argsort, topk};
use maquette_kernels::{groups, resize1d};
use maquette_ops::{DType, Error, Op, attr_int};

use super::slices::{Dense, around, tensor, with_elements, with_integers};
use super::{Kernel, Result, pieces, rows};
use crate::tensor::{candle_dtype, dims};

/// The last word of a draw's counter: numbers of the same seed for anything else have another.
const SAMPLING: u32 = u32::from_be_bytes(*b"draw");

impl Kernel<'_> {
    /// An integer of either sign.
    fn signed(&self, at: usize) -> Result<i64> {
        attr_int(self.spec, self.attrs, at).ok_or_else(|| Error::internal("an integer is missing").into())
    }

    /// The second input's ids, each below a number of rows.
    fn ids(&self, rows: usize) -> Result<Vec<u32>> {
        let ids = self.input(1)?;
        let mut found = Vec::with_capacity(ids.elem_count());
        rows::each_row(ids, rows, |row| found.push(row as u32))?;
        Ok(found)
    }

    pub(super) fn selection(&self, op: Op, x: &Tensor) -> Result<Tensor> {
        let shape = dims(&self.out.shape);
        match op {
            Op::Sample => self.sample(x),
            Op::Argsort => {
                let (around, descending) = (around(x.dims(), self.axis(0, x.rank())?), self.flag(1)?);
                let mut out = vec![0_u32; x.elem_count()];
                with_elements!(Dense::of(x)?, x => {
                    argsort(x, around, descending, &mut out);
                    tensor(out, &shape)
                })
            }
            Op::Topk => {
                let axis = self.axis(1, x.rank())?;
                let (around, largest) = (around(x.dims(), axis), self.flag(2)?);
                let mut out = vec![0_u32; self.out.elements() as usize];
                with_elements!(Dense::of(x)?, x => {
                    topk(x, around, shape[axis], largest, &mut out);
                    tensor(out, &shape)
                })
            }
            Op::Gather => {
                let dim = self.axis(0, x.rank())?;
                let ids = self.ids(x.dims()[dim])?;
                let places = Places {
                    x: x.dims(),
                    ids: &shape,
                    dim,
                };
                with_elements!(Dense::of(x)?, x => {
                    let mut out = vec![x[0]; ids.len()];
                    gather(x, &ids, places, &mut out);
                    tensor(out, &shape)
                })
            }
            Op::Scatter => {
                let dim = self.axis(0, x.rank())?;
                let ids = self.ids(x.dims()[dim])?;
                let src = Dense::of(self.input(2)?)?;
                let kind = Kind::Scatter(Places {
                    x: x.dims(),
                    ids: self.input(1)?.dims(),
                    dim,
                });
                Put { ids: &ids, kind }.copy_of(&Dense::of(x)?, &src, &shape)
            }
            Op::ScatterAdd | Op::IndexAdd => self.add(op, x),
            Op::PadReflect
            | Op::PadReplicate
            | Op::ResizeNearest1d
            | Op::Flip
            | Op::Roll
            | Op::Repeat
            | Op::RepeatInterleave => self.rearranged(op, x, &shape),
            Op::Tril | Op::Triu => {
                let diagonal = self.signed(0)?;
                let matrix = [shape[shape.len() - 2], shape[shape.len() - 1]];
                with_elements!(Dense::of(x)?, x => {
                    let zero = zero_of(x);
                    let mut out = vec![zero; x.len()];
                    triangle(x, matrix, diagonal, op == Op::Tril, zero, &mut out);
                    tensor(out, &shape)
                })
            }
            Op::OneHot => self.one_hot(x, &shape),
            _ => Err(Error::internal("not an op of selection").into()),
        }
    }

    fn sample(&self, logits: &Tensor) -> Result<Tensor> {
        let vocabulary = logits.dims().last().copied().unwrap_or(0);
        let count = self.out.elements() as usize;
        let previous = if self.inputs.len() > 1 {
            self.ids(vocabulary)?
        } else {
            Vec::new()
        };
        let each = previous.len() / count;
        let settings = Settings {
            temperature: self.float(0)?,
            top_k: usize::try_from(self.signed(1)?).unwrap_or(usize::MAX),
            top_p: self.float(2)?,
            min_p: self.float(3)?,
            repetition_penalty: self.float(4)?,
        };
        let (seed, step) = (self.signed(5)? as u64, self.signed(6)? as u64);
        let dense = Dense::wide(logits)?;
        let read = dense.read();
        let logits = read.f32()?;
        let draw = |row: usize, scratch: &mut Scratch| {
            let words = philox4x32_10(
                [step as u32, (step >> 32) as u32, row as u32, SAMPLING],
                [seed as u32, (seed >> 32) as u32],
            );
            let (logits, previous) = (
                &logits[row * vocabulary..][..vocabulary],
                &previous[row * each..][..each],
            );
            sample(logits, previous, &settings, uniform(words[0], words[1]), scratch)
        };
        // Rows that cannot be drawn from are marked: no id is as large.
        const REFUSED: u32 = u32::MAX;
        let mut out = vec![0_u32; count];
        groups::groups(&mut out, 1, (count * vocabulary) as u64 * 4, |first, part| {
            let mut scratch = Scratch::default();
            for (i, to) in part.iter_mut().enumerate() {
                *to = draw(first + i, &mut scratch).unwrap_or(REFUSED);
            }
        });
        if let Some(row) = out.iter().position(|id| *id == REFUSED) {
            let why = match draw(row, &mut Scratch::default()) {
                Err(Refused::NotANumber) => "a logit is not a number",
                _ => "every logit is minus infinity",
            };
            return Err(Error::invalid_input(format!("row {row}: {why}")).into());
        }
        tensor(out, &dims(&self.out.shape))
    }

    /// `scatter_add` and `index_add`.
    fn add(&self, op: Op, x: &Tensor) -> Result<Tensor> {
        let dim = self.axis(0, x.rank())?;
        let ids = self.ids(x.dims()[dim])?;
        let kind = if op == Op::ScatterAdd {
            Kind::ScatterAdd(Places {
                x: x.dims(),
                ids: self.input(1)?.dims(),
                dim,
            })
        } else {
            Kind::IndexAdd(around(x.dims(), dim))
        };
        let (src, dtype) = (self.input(2)?, candle_dtype(self.out.dtype));
        let put = Put { ids: &ids, kind };
        let shape = dims(&self.out.shape);
        if !self.out.dtype.is_float() {
            return put.copy_of(&Dense::of(x)?, &Dense::of(src)?, &shape);
        }
        let sums = put.copy_of(&Dense::wide(x)?, &Dense::wide(src)?, &shape)?;
        Ok(if self.out.dtype == DType::F32 {
            sums
        } else {
            pieces::cast(&sums, dtype)?
        })
    }

    fn rearranged(&self, op: Op, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
        let mut own = x.dims().to_vec();
        let mut maps: Vec<Option<Vec<u32>>> = vec![None; shape.len()];
        // Exactly as long as the dimension.
        let map = |len: usize, f: &dyn Fn(usize) -> usize| Some((0..len).map(|i| f(i) as u32).collect::<Vec<u32>>());
        match op {
            Op::PadReflect | Op::PadReplicate => {
                let axis = self.axis(0, x.rank())?;
                let (left, len) = (self.size(1)?, own[axis]);
                maps[axis] = map(shape[axis], &|i| match (i.checked_sub(left), op) {
                    (None, Op::PadReflect) => left - i,
                    (None, _) => 0,
                    (Some(at), _) if at < len => at,
                    (Some(at), Op::PadReflect) => 2 * (len - 1) - at,
                    _ => len - 1,
                });
            }
            Op::ResizeNearest1d => {
                let (len, size, corners) = (own[2], shape[2], self.flag(1)?);
                maps[2] = map(size, &|i| resize1d::nearest(i, len, size, corners));
            }
            Op::Flip => {
                let mut axes = self.axes(x.rank())?;
                if axes.is_empty() {
                    axes = (0..x.rank()).collect();
                }
                for axis in axes {
                    maps[axis] = map(shape[axis], &|i| shape[axis] - 1 - i);
                }
            }
            Op::Roll => {
                let axis = self.axis(0, x.rank())?;
                let len = shape[axis];
                let shift = self.signed(1)?.rem_euclid(len as i64) as usize;
                maps[axis] = map(len, &|i| (i + len - shift) % len);
            }
            Op::Repeat => {
                for _ in own.len()..shape.len() {
                    own.insert(0, 1);
                }
                for (axis, (len, whole)) in own.iter().zip(shape).enumerate() {
                    if len != whole {
                        maps[axis] = map(*whole, &|i| i % len);
                    }
                }
            }
            _ => {
                let axis = self.axis(0, x.rank())?;
                let times = self.size(1)?;
                maps[axis] = map(shape[axis], &|i| i / times);
            }
        }
        with_elements!(Dense::of(x)?, x => {
            let mut out = vec![x[0]; shape.iter().product()];
            rearrange(x, &own, &maps, &mut out, shape);
            tensor(out, shape)
        })
    }

    fn one_hot(&self, ids: &Tensor, shape: &[usize]) -> Result<Tensor> {
        let depth = shape[shape.len() - 1];
        let mut places = Vec::with_capacity(ids.elem_count());
        rows::each_row(ids, depth, |row| places.push(row as u32))?;
        fn typed<T: candle_core::WithDType>(places: &[u32], depth: usize, shape: &[usize]) -> Result<Tensor> {
            let (zero, one) = (T::from_f64(0.0), T::from_f64(1.0));
            let mut out = vec![zero; places.len() * depth];
            for (row, place) in out.chunks_exact_mut(depth).zip(places) {
                row[*place as usize] = one;
            }
            tensor(out, shape)
        }
        match self.out.dtype {
            DType::F32 => typed::<f32>(&places, depth, shape),
            DType::F16 => typed::<half::f16>(&places, depth, shape),
            DType::BF16 => typed::<half::bf16>(&places, depth, shape),
            DType::U8 => typed::<u8>(&places, depth, shape),
            DType::U32 => typed::<u32>(&places, depth, shape),
            DType::I64 => typed::<i64>(&places, depth, shape),
        }
    }

    /// Sums and products up to each element.
    pub(super) fn cumulative(&self, op: Op, x: &Tensor) -> Result<Tensor> {
        fn typed<T: Scan + candle_core::WithDType>(
            x: &[T],
            around: [usize; 3],
            product: bool,
            shape: &[usize],
        ) -> Result<Tensor> {
            let mut out = vec![x[0]; x.len()];
            maquette_kernels::scan::cumulative(x, around, product, &mut out);
            tensor(out, shape)
        }
        let (around, shape) = (around(x.dims(), self.axis(0, x.rank())?), dims(&self.out.shape));
        let product = op == Op::Cumprod;
        if self.out.dtype.is_int() {
            return with_integers!(Dense::of(x)?, x => typed(x, around, product, &shape));
        }
        let dense = Dense::wide(x)?;
        let read = dense.read();
        let x = read.f32()?;
        self.floats(|out| {
            maquette_kernels::scan::cumulative(x, around, product, out);
            Ok(())
        })
    }
}

/// 0 of a slice's type.
fn zero_of<T: candle_core::WithDType>(_: &[T]) -> T {
    T::from_f64(0.0)
}

/// Elements to be put into a tensor.
struct Put<'a> {
    ids: &'a [u32],
    kind: Kind<'a>,
}

#[derive(Clone, Copy)]
enum Kind<'a> {
    Scatter(Places<'a>),
    ScatterAdd(Places<'a>),
    IndexAdd([usize; 3]),
}

/// The sum of two elements; integers wrap around.
trait Sum: Copy {
    fn sum(self, other: Self) -> Self;
}

macro_rules! sums {
    ($($ty:ty, $sum:expr;)*) => {$(
        impl Sum for $ty {
            fn sum(self, other: Self) -> Self {
                let sum: fn($ty, $ty) -> $ty = $sum;
                sum(self, other)
            }
        }
    )*};
}
sums! {
    f32, |a, b| a + b;
    half::f16, |a, b| half::f16::from_f32(a.to_f32() + b.to_f32());
    half::bf16, |a, b| half::bf16::from_f32(a.to_f32() + b.to_f32());
    u8, u8::wrapping_add;
    u32, u32::wrapping_add;
    i64, i64::wrapping_add;
}

impl Put<'_> {
    /// A copy of x with the source put into it.
    fn copy_of(&self, x: &Dense, src: &Dense, shape: &[usize]) -> Result<Tensor> {
        let src = src.read();
        with_elements!(x, x => {
            let mut out = x.to_vec();
            self.run(&mut out, src.like(x)?);
            tensor(out, shape)
        })
    }

    fn run<T: Sum>(&self, out: &mut [T], src: &[T]) {
        let add = |to: &mut T, from: T| *to = to.sum(from);
        match self.kind {
            Kind::Scatter(places) => scatter(out, self.ids, src, places, |to, from| *to = from),
            Kind::ScatterAdd(places) => scatter(out, self.ids, src, places, add),
            Kind::IndexAdd(around) => index_add(out, around, self.ids, src, add),
        }
    }
}
