//! Integer arithmetic that wraps around. candle's panics on overflow in a debug build, and a panic inside its thread pool makes
//! the pool unusable for the rest of the process.

use candle_core::cpu_backend::binary_map;
use candle_core::{CpuStorage, Device, Layout, Storage, Tensor};
use maquette_ops::{Error, Op};
use smallvec::SmallVec;

use super::Result;

trait Integer: Copy + candle_core::WithDType {
    const ZERO: Self;
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
}

macro_rules! integer {
    ($($type:ty),*) => {
        $(impl Integer for $type {
            const ZERO: Self = 0;
            fn plus(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            fn minus(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            fn times(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
        })*
    };
}
integer!(u8, u32, i64);

/// `a op b`, both broadcast to a shape.
pub(super) fn binary(op: Op, a: &Tensor, b: &Tensor, shape: &[usize]) -> Result<Tensor> {
    fn typed<T: Integer>(op: Op, a: &[T], la: &Layout, b: &[T], lb: &Layout) -> Result<Tensor> {
        let values = match op {
            Op::Add => binary_map(la, lb, a, b, T::plus),
            Op::Sub => binary_map(la, lb, a, b, T::minus),
            _ => binary_map(la, lb, a, b, T::times),
        };
        Ok(Tensor::from_vec(values, la.shape(), &Device::Cpu)?)
    }
    let (a, b) = (a.broadcast_as(shape)?, b.broadcast_as(shape)?);
    let ((sa, la), (sb, lb)) = (a.storage_and_layout(), b.storage_and_layout());
    match (&*sa, &*sb) {
        (Storage::Cpu(CpuStorage::U8(a)), Storage::Cpu(CpuStorage::U8(b))) => typed(op, a, la, b, lb),
        (Storage::Cpu(CpuStorage::U32(a)), Storage::Cpu(CpuStorage::U32(b))) => typed(op, a, la, b, lb),
        (Storage::Cpu(CpuStorage::I64(a)), Storage::Cpu(CpuStorage::I64(b))) => typed(op, a, la, b, lb),
        _ => Err(Error::internal("not integers").into()),
    }
}

/// The sum over some axes.
pub(super) fn sum(x: &Tensor, axes: &[usize], shape: &[usize]) -> Result<Tensor> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::U8(v)) => summed(v, layout, axes, shape),
        Storage::Cpu(CpuStorage::U32(v)) => summed(v, layout, axes, shape),
        Storage::Cpu(CpuStorage::I64(v)) => summed(v, layout, axes, shape),
        _ => Err(Error::internal("not integers").into()),
    }
}

fn summed<T: Integer>(values: &[T], layout: &Layout, axes: &[usize], shape: &[usize]) -> Result<Tensor> {
    // For each axis: its length, its stride in the input, its stride in the output (0 where it is summed over).
    let mut walk: SmallVec<[(usize, usize, usize); 8]> = SmallVec::new();
    let mut out_stride = 1;
    for (axis, (len, stride)) in layout.dims().iter().zip(layout.stride()).enumerate().rev() {
        let summed = axes.contains(&axis);
        walk.insert(0, (*len, *stride, if summed { 0 } else { out_stride }));
        out_stride *= if summed { 1 } else { *len };
    }
    if let (1, Some((from, to))) = (out_stride, layout.contiguous_offsets()) {
        let sum = values[from..to].iter().fold(T::ZERO, |sum, x| sum.plus(*x));
        return Ok(Tensor::from_vec(vec![sum], shape, &Device::Cpu)?);
    }
    let mut sums = vec![T::ZERO; out_stride];
    let (mut from, mut to) = (layout.start_offset(), 0);
    let mut place: SmallVec<[usize; 8]> = SmallVec::from_elem(0, walk.len());
    'elements: loop {
        sums[to] = sums[to].plus(values[from]);
        for (at, (len, stride, out)) in place.iter_mut().zip(&walk).rev() {
            *at += 1;
            from += stride;
            to += out;
            if *at < *len {
                continue 'elements;
            }
            from -= len * stride;
            to -= len * out;
            *at = 0;
        }
        break;
    }
    Ok(Tensor::from_vec(sums, shape, &Device::Cpu)?)
}
