//! What the tensor tests share: random tensors in any layout, and the same values as plain float64.
#![allow(dead_code, unreachable_pub, reason = "not every test file uses everything")]

pub mod example;

use std::sync::Arc;

use half::{bf16, f16};
use maquette_tensor::ops::{Attr, DType, lookup};
use maquette_tensor::{Budget, Control, Device, Runtime, RuntimeConfig, Scope, Tensor};

pub fn scope(limit: u64) -> (Scope, Arc<Budget>) {
    scope_on(&runtime(Device::Cpu), limit)
}

/// The device that tests of devices run on: the one that MAQUETTE_TEST_DEVICE names, such as `cuda:0`; else the processor by the same
/// code.
pub fn device() -> Device {
    std::env::var("MAQUETTE_TEST_DEVICE").map_or(Device::Composed, |name| {
        name.parse().unwrap_or_else(|e| panic!("MAQUETTE_TEST_DEVICE: {e}"))
    })
}

pub fn runtime(device: Device) -> Arc<Runtime> {
    Runtime::on(device, RuntimeConfig::default()).unwrap_or_else(|e| panic!("{e}"))
}

pub fn scope_on(runtime: &Arc<Runtime>, limit: u64) -> (Scope, Arc<Budget>) {
    let budget = Budget::new(limit);
    (
        Scope::new(Arc::clone(runtime), Arc::clone(&budget), Control::default()),
        budget,
    )
}

/// xorshift64*: enough for tests, the same on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    /// A number in a range.
    pub fn within(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * ((self.next() >> 11) as f64 / (1_u64 << 53) as f64)
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    pub fn shape(&mut self, rank: usize) -> Vec<usize> {
        (0..rank).map(|_| 1 + self.below(4)).collect()
    }
}

/// Values in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Plain {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Plain {
    /// Computes each value from its place.
    pub fn from_fn(shape: &[usize], mut value: impl FnMut(&[usize]) -> f64) -> Self {
        let mut at = vec![0; shape.len()];
        let mut data = Vec::new();
        for _ in 0..shape.iter().product() {
            data.push(value(&at));
            for axis in (0..shape.len()).rev() {
                at[axis] += 1;
                if at[axis] < shape[axis] {
                    break;
                }
                at[axis] = 0;
            }
        }
        Self {
            shape: shape.to_vec(),
            data,
        }
    }

    pub fn at(&self, place: &[usize]) -> f64 {
        self.data[place.iter().zip(&self.shape).fold(0, |at, (i, n)| at * n + i)]
    }

    /// The value that a broadcast of this has at a place.
    pub fn broadcast_at(&self, place: &[usize]) -> f64 {
        let skip = place.len() - self.shape.len();
        let own: Vec<_> = place[skip..]
            .iter()
            .zip(&self.shape)
            .map(|(i, n)| if *n == 1 { 0 } else { *i })
            .collect();
        self.at(&own)
    }

    pub fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self {
            shape: self.shape.clone(),
            data: self.data.iter().map(|x| f(*x)).collect(),
        }
    }
}

/// A value as the dtype holds it.
pub fn rounded(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(value as f32),
        DType::F16 => f16::from_f64(value).to_f64(),
        DType::BF16 => bf16::from_f64(value).to_f64(),
        _ => value.round(),
    }
}

pub fn encode(values: &[f64], dtype: DType) -> Vec<u8> {
    let each = values.iter().flat_map(|value| match dtype {
        DType::F32 => (*value as f32).to_le_bytes().to_vec(),
        DType::F16 => f16::from_f64(*value).to_le_bytes().to_vec(),
        DType::BF16 => bf16::from_f64(*value).to_le_bytes().to_vec(),
        DType::U8 => vec![*value as u8],
        DType::U32 => (*value as u32).to_le_bytes().to_vec(),
        DType::I64 => (*value as i64).to_le_bytes().to_vec(),
    });
    each.collect()
}

pub fn decode(bytes: &[u8], dtype: DType) -> Vec<f64> {
    let each = bytes.chunks_exact(dtype.size()).map(|b| match dtype {
        DType::F32 => f64::from(f32::from_le_bytes(b.try_into().unwrap())),
        DType::F16 => f16::from_le_bytes(b.try_into().unwrap()).to_f64(),
        DType::BF16 => bf16::from_le_bytes(b.try_into().unwrap()).to_f64(),
        DType::U8 => f64::from(b[0]),
        DType::U32 => f64::from(u32::from_le_bytes(b.try_into().unwrap())),
        DType::I64 => i64::from_le_bytes(b.try_into().unwrap()) as f64,
    });
    each.collect()
}

pub fn apply(scope: &Scope, op: &str, inputs: &[&Tensor], attrs: &[Attr]) -> Tensor {
    scope
        .apply(lookup(op).unwrap(), inputs, attrs)
        .unwrap_or_else(|e| panic!("{e}"))
}

pub fn upload(scope: &Scope, plain: &Plain, dtype: DType) -> Tensor {
    let shape: Vec<u32> = plain.shape.iter().map(|n| *n as u32).collect();
    scope.from_bytes(dtype, &shape, &encode(&plain.data, dtype)).unwrap()
}

pub fn read(scope: &Scope, tensor: &Tensor) -> Plain {
    let shape = tensor.shape().iter().map(|n| *n as usize).collect();
    Plain {
        shape,
        data: decode(&scope.read(tensor).unwrap(), tensor.dtype()),
    }
}

/// The same values as a tensor whose memory is laid out in one of many ways: contiguous, transposed, a part of something
/// larger, or broadcast.
pub fn in_some_layout(scope: &Scope, random: &mut Random, plain: &Plain, dtype: DType) -> Tensor {
    let rank = plain.shape.len();
    match random.below(4) {
        1 if rank >= 2 => {
            let (a, b) = (random.below(rank), random.below(rank));
            let mut shape = plain.shape.clone();
            shape.swap(a, b);
            let swapped = Plain::from_fn(&shape, |place| {
                let mut place = place.to_vec();
                place.swap(a, b);
                plain.at(&place)
            });
            let attrs = [Attr::Int(a as i64), Attr::Int(b as i64)];
            apply(scope, "transpose/1", &[&upload(scope, &swapped, dtype)], &attrs)
        }
        2 if rank >= 1 => {
            let axis = random.below(rank);
            let (before, after) = (random.below(3), random.below(3));
            let mut shape = plain.shape.clone();
            shape[axis] += before + after;
            let larger = Plain::from_fn(&shape, |place| {
                let mut place = place.to_vec();
                match place[axis].checked_sub(before) {
                    Some(at) if at < plain.shape[axis] => {
                        place[axis] = at;
                        plain.at(&place)
                    }
                    _ => 1.0,
                }
            });
            let attrs = [
                Attr::Int(axis as i64),
                Attr::Int(before as i64),
                Attr::Int(plain.shape[axis] as i64),
            ];
            apply(scope, "narrow/1", &[&upload(scope, &larger, dtype)], &attrs)
        }
        _ => upload(scope, plain, dtype),
    }
}
