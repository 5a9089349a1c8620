//! Every op of the table agrees with a float64 reference written here as plain loops, on random shapes, dtypes and layouts; and
//! its rule says the same of numbers and of symbols. On a device (`cuda.rs`) every op that the table gives it does, too; the rest are
//! refused. With MAQUETTE_TEST_DEVICE=cuda:0 the last test prints a table of the ops on a GPU.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;
#[path = "every_op/device.rs"]
mod device;
#[path = "every_op/sequence.rs"]
mod sequence;
#[path = "every_op/vision.rs"]
mod vision;

use common::{Plain, Random, decode, in_some_layout, rounded, scope};
use maquette_tensor::ops::{Attr, DType, Dim, Op, OpId, OpSpec, Type, table};
use maquette_tensor::{Scope, Tensor};
use proptest::prelude::*;

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const ALL: [DType; 6] = DType::ALL;

/// One application: inputs with their dtypes, attributes, and what must come out.
struct Example {
    inputs: Vec<(Plain, DType)>,
    attrs: Vec<Attr>,
    dtype: DType,
    expected: Plain,
    /// How many values are added up for one: errors grow with it.
    depth: usize,
}

fn values(random: &mut Random, shape: &[usize], dtype: DType, low: f64, high: f64) -> Plain {
    Plain::from_fn(shape, |_| rounded(random.within(low, high), dtype))
}

fn example(random: &mut Random, op: Op) -> Example {
    let rank = random.below(4);
    let shape = random.shape(rank);
    let with_rank = |random: &mut Random, least: usize| {
        let rank = least + random.below(3);
        random.shape(rank)
    };
    let simple = |inputs: Vec<(Plain, DType)>, attrs: Vec<Attr>, dtype: DType, expected: Plain| Example {
        inputs,
        attrs,
        dtype,
        expected,
        depth: 1,
    };
    let float = random.pick(&FLOATS);
    let any = random.pick(&ALL);
    let unary = |random: &mut Random, low: f64, high: f64, f: &dyn Fn(f64) -> f64| {
        let x = values(random, &shape, float, low, high);
        let expected = x.map(f);
        simple(vec![(x, float)], vec![], float, expected)
    };
    match op {
        Op::Add
        | Op::Sub
        | Op::Mul
        | Op::Div
        | Op::Maximum
        | Op::Minimum
        | Op::Eq
        | Op::Ne
        | Op::Lt
        | Op::Le
        | Op::Gt
        | Op::Ge => {
            let dtype = if op == Op::Div { float } else { any };
            // Shapes that broadcast: some dimensions of b are 1 or missing.
            let mut b_shape: Vec<usize> = shape
                .iter()
                .map(|n| if random.below(3) == 0 { 1 } else { *n })
                .collect();
            b_shape.drain(..random.below(b_shape.len() + 1));
            // No integer overflows: differences stay positive, products below 255.
            let (a, b) = (
                values(random, &shape, dtype, 8.0, 15.0),
                values(random, &b_shape, dtype, 1.0, 7.9),
            );
            let mut pair = [(a, dtype), (b, dtype)];
            if op != Op::Sub && random.below(2) == 0 {
                pair.reverse();
            }
            let as_number = |b: bool| f64::from(u8::from(b));
            let f = |a: f64, b: f64| match op {
                Op::Add => a + b,
                Op::Sub => a - b,
                Op::Mul => a * b,
                Op::Div => a / b,
                Op::Maximum => a.max(b),
                Op::Minimum => a.min(b),
                Op::Eq => as_number(a == b),
                Op::Ne => as_number(a != b),
                Op::Lt => as_number(a < b),
                Op::Le => as_number(a <= b),
                Op::Gt => as_number(a > b),
                _ => as_number(a >= b),
            };
            let expected = Plain::from_fn(&shape, |p| f(pair[0].0.broadcast_at(p), pair[1].0.broadcast_at(p)));
            let compares = matches!(op, Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge);
            simple(
                pair.to_vec(),
                vec![],
                if compares { DType::U8 } else { dtype },
                expected,
            )
        }
        Op::Where => {
            let index = random.pick(&[DType::U8, DType::U32, DType::I64]);
            let condition = values(random, &shape, index, 0.0, 1.0);
            let (a, b) = (
                values(random, &shape, any, 0.0, 9.0),
                values(random, &[], any, 0.0, 9.0),
            );
            let expected = Plain::from_fn(&shape, |p| if condition.at(p) != 0.0 { a.at(p) } else { b.at(&[]) });
            simple(vec![(condition, index), (a, any), (b, any)], vec![], any, expected)
        }
        Op::Affine => {
            let mut e = unary(random, -3.0, 3.0, &|x| x * 1.5 - 0.25);
            e.attrs = vec![Attr::Float(1.5), Attr::Float(-0.25)];
            e
        }
        Op::Clamp => {
            let mut e = unary(random, -3.0, 3.0, &|x| x.clamp(-1.0, 0.5));
            e.attrs = vec![Attr::Int(-1), Attr::Float(0.5)];
            e
        }
        Op::Powf => {
            let mut e = unary(random, 0.1, 3.0, &|x| x.powf(1.5));
            e.attrs = vec![Attr::Float(1.5)];
            e
        }
        Op::Neg => unary(random, -3.0, 3.0, &|x| -x),
        Op::Abs => unary(random, -3.0, 3.0, &f64::abs),
        Op::Exp => unary(random, -3.0, 3.0, &f64::exp),
        Op::Log => unary(random, 0.1, 9.0, &f64::ln),
        Op::Sqrt => unary(random, 0.0, 9.0, &f64::sqrt),
        Op::Rsqrt => unary(random, 0.1, 9.0, &|x| 1.0 / x.sqrt()),
        Op::Sqr => unary(random, -3.0, 3.0, &|x| x * x),
        Op::Recip => unary(random, 0.1, 9.0, &f64::recip),
        Op::Sin => unary(random, -3.0, 3.0, &f64::sin),
        Op::Cos => unary(random, -3.0, 3.0, &f64::cos),
        Op::Tanh => unary(random, -3.0, 3.0, &f64::tanh),
        Op::Sigmoid => unary(random, -3.0, 3.0, &|x| 1.0 / (1.0 + (-x).exp())),
        Op::Silu => unary(random, -3.0, 3.0, &|x| x / (1.0 + (-x).exp())),
        Op::Relu => unary(random, -3.0, 3.0, &|x| x.max(0.0)),
        Op::Gelu => unary(random, -3.0, 3.0, &|x| {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
        }),
        Op::GeluErf => unary(random, -3.0, 3.0, &|x| {
            0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2))
        }),
        Op::Erf => unary(random, -3.0, 3.0, &libm::erf),
        Op::Floor => unary(random, -3.0, 3.0, &f64::floor),
        Op::Ceil => unary(random, -3.0, 3.0, &f64::ceil),
        Op::Round => unary(random, -3.0, 3.0, &f64::round),
        Op::Sign => unary(random, -3.0, 3.0, &|x| if x == 0.0 { 0.0 } else { x.signum() }),
        Op::Cast => {
            let to = random.pick(&ALL);
            let x = values(random, &shape, any, 0.0, 200.0);
            let expected = x.map(|x| if to.is_int() { x.trunc() } else { rounded(x, to) });
            simple(vec![(x, any)], vec![Attr::DType(to)], to, expected)
        }
        Op::Sum | Op::Mean | Op::Max | Op::Min => {
            let dtype = if op == Op::Mean { float } else { any };
            let shape = with_rank(random, 1);
            let axes: Vec<usize> = (0..shape.len()).filter(|_| random.below(2) == 0).collect();
            let keep = random.below(2) == 0;
            let x = values(random, &shape, dtype, 0.0, if op == Op::Sum { 3.0 } else { 100.0 });
            let all: Vec<usize> = if axes.is_empty() {
                (0..shape.len()).collect()
            } else {
                axes.clone()
            };
            let kept: Vec<usize> = shape
                .iter()
                .enumerate()
                .map(|(i, n)| if all.contains(&i) { 1 } else { *n })
                .collect();
            let within = Plain::from_fn(&all.iter().map(|a| shape[*a]).collect::<Vec<_>>(), |_| 0.0);
            let mut expected = Plain::from_fn(&kept, |p| {
                let mut found = Vec::new();
                Plain::from_fn(&within.shape, |inner| {
                    let mut place = p.to_vec();
                    all.iter().zip(inner).for_each(|(axis, at)| place[*axis] = *at);
                    found.push(x.at(&place));
                    0.0
                });
                match op {
                    Op::Sum => found.iter().sum(),
                    Op::Mean => found.iter().sum::<f64>() / found.len() as f64,
                    Op::Max => found.iter().copied().fold(f64::MIN, f64::max),
                    _ => found.iter().copied().fold(f64::MAX, f64::min),
                }
            });
            if !keep {
                expected.shape = shape
                    .iter()
                    .enumerate()
                    .filter(|(i, _)| !all.contains(i))
                    .map(|(_, n)| *n)
                    .collect();
            }
            let depth = within.data.len();
            let attrs = vec![
                Attr::Ints(
                    axes.iter()
                        .map(|a| *a as i64 - if keep { shape.len() as i64 } else { 0 })
                        .collect(),
                ),
                Attr::Flag(keep),
            ];
            Example {
                inputs: vec![(x, dtype)],
                attrs,
                dtype,
                expected,
                depth,
            }
        }
        Op::Argmax | Op::Argmin => {
            let shape = with_rank(random, 1);
            let axis = random.below(shape.len());
            let x = values(random, &shape, any, 0.0, 5.0);
            let mut expected_shape = shape.clone();
            expected_shape.remove(axis);
            let expected = Plain::from_fn(&expected_shape, |p| {
                let at = |i: usize| {
                    let mut place = p.to_vec();
                    place.insert(axis, i);
                    x.at(&place)
                };
                let better = |a: f64, b: f64| if op == Op::Argmax { a > b } else { a < b };
                (1..shape[axis]).fold(0, |best, i| if better(at(i), at(best)) { i } else { best }) as f64
            });
            simple(vec![(x, any)], vec![Attr::Int(axis as i64)], DType::U32, expected)
        }
        Op::Reshape => {
            let x = values(random, &shape, any, 0.0, 9.0);
            let n = x.data.len();
            let divisors: Vec<usize> = (1..=n).filter(|d| n.is_multiple_of(*d)).collect();
            let rows = random.pick(&divisors);
            let expected = Plain {
                shape: vec![rows, 1, n / rows],
                data: x.data.clone(),
            };
            let last = if random.below(2) == 0 { -1 } else { (n / rows) as i64 };
            simple(
                vec![(x, any)],
                vec![Attr::Ints(vec![rows as i64, 1, last])],
                any,
                expected,
            )
        }
        Op::Transpose | Op::Permute => {
            let shape = with_rank(random, 2);
            let x = values(random, &shape, any, 0.0, 9.0);
            let mut order: Vec<usize> = (0..shape.len()).collect();
            let (a, b) = (random.below(shape.len()), random.below(shape.len()));
            order.swap(a, b);
            let to: Vec<usize> = order.iter().map(|i| shape[*i]).collect();
            let expected = Plain::from_fn(&to, |p| {
                let mut place = vec![0; p.len()];
                order.iter().zip(p).for_each(|(axis, at)| place[*axis] = *at);
                x.at(&place)
            });
            let attrs = match op {
                Op::Transpose => vec![Attr::Int(a as i64), Attr::Int(b as i64 - shape.len() as i64)],
                _ => vec![Attr::Ints(order.iter().map(|i| *i as i64).collect())],
            };
            simple(vec![(x, any)], attrs, any, expected)
        }
        Op::Narrow => {
            let shape = with_rank(random, 1);
            let axis = random.below(shape.len());
            let x = values(random, &shape, any, 0.0, 9.0);
            let start = random.below(shape[axis] + 1);
            let len = random.below(shape[axis] - start + 1);
            let mut to = shape.clone();
            to[axis] = len;
            let expected = Plain::from_fn(&to, |p| {
                let mut place = p.to_vec();
                place[axis] += start;
                x.at(&place)
            });
            let attrs = vec![
                Attr::Int(axis as i64),
                Attr::Int(start as i64),
                Attr::Ints(vec![len as i64]),
            ];
            simple(vec![(x, any)], attrs, any, expected)
        }
        Op::BroadcastTo => {
            let from: Vec<usize> = shape
                .iter()
                .map(|n| if random.below(2) == 0 { 1 } else { *n })
                .collect();
            let x = values(random, &from, any, 0.0, 9.0);
            let to: Vec<usize> = std::iter::once(2).chain(shape.iter().copied()).collect();
            let expected = Plain::from_fn(&to, |p| x.broadcast_at(p));
            simple(
                vec![(x, any)],
                vec![Attr::Ints(to.iter().map(|n| *n as i64).collect())],
                any,
                expected,
            )
        }
        Op::Squeeze | Op::Unsqueeze => {
            let axis = random.below(shape.len() + 1);
            let mut longer = shape.clone();
            longer.insert(axis, 1);
            let (from, to) = if op == Op::Squeeze {
                (&longer, &shape)
            } else {
                (&shape, &longer)
            };
            let x = values(random, from, any, 0.0, 9.0);
            let expected = Plain {
                shape: to.clone(),
                data: x.data.clone(),
            };
            simple(
                vec![(x, any)],
                vec![Attr::Int(axis as i64 - longer.len() as i64)],
                any,
                expected,
            )
        }
        Op::Cat => {
            let shape = with_rank(random, 1);
            let axis = random.below(shape.len());
            let parts: Vec<Plain> = (0..1 + random.below(3))
                .map(|_| {
                    let mut part = shape.clone();
                    part[axis] = random.below(4);
                    values(random, &part, any, 0.0, 9.0)
                })
                .collect();
            let mut to = shape.clone();
            to[axis] = parts.iter().map(|p| p.shape[axis]).sum();
            let expected = Plain::from_fn(&to, |p| {
                let mut place = p.to_vec();
                for part in &parts {
                    if place[axis] < part.shape[axis] {
                        return part.at(&place);
                    }
                    place[axis] -= part.shape[axis];
                }
                f64::NAN
            });
            simple(
                parts.into_iter().map(|p| (p, any)).collect(),
                vec![Attr::Int(axis as i64)],
                any,
                expected,
            )
        }
        Op::Stack => {
            let parts: Vec<Plain> = (0..1 + random.below(3))
                .map(|_| values(random, &shape, any, 0.0, 9.0))
                .collect();
            let axis = random.below(shape.len() + 1);
            let mut to = shape.clone();
            to.insert(axis, parts.len());
            let expected = Plain::from_fn(&to, |p| {
                let mut place = p.to_vec();
                let part = place.remove(axis);
                parts[part].at(&place)
            });
            simple(
                parts.into_iter().map(|p| (p, any)).collect(),
                vec![Attr::Int(axis as i64)],
                any,
                expected,
            )
        }
        Op::Pad => {
            let shape = with_rank(random, 1);
            let axis = random.below(shape.len());
            let x = values(random, &shape, any, 0.0, 9.0);
            let (left, right) = (random.below(3), random.below(3));
            let mut to = shape.clone();
            to[axis] += left + right;
            let expected = Plain::from_fn(&to, |p| {
                let mut place = p.to_vec();
                match place[axis].checked_sub(left) {
                    Some(at) if at < shape[axis] => {
                        place[axis] = at;
                        x.at(&place)
                    }
                    _ => 5.0,
                }
            });
            let attrs = vec![
                Attr::Int(axis as i64),
                Attr::Int(left as i64),
                Attr::Int(right as i64),
                Attr::Float(5.0),
            ];
            simple(vec![(x, any)], attrs, any, expected)
        }
        Op::Matmul => {
            let (m, k, n) = (1 + random.below(5), random.below(6), 1 + random.below(5));
            let batch_rank = random.below(3);
            let batch = random.shape(batch_rank);
            let thin: Vec<usize> = batch
                .iter()
                .map(|d| if random.below(3) == 0 { 1 } else { *d })
                .collect();
            let a = values(random, &[&batch[..], &[m, k]].concat(), float, -1.0, 1.0);
            let missing = random.below(thin.len() + 1);
            let b = values(random, &[&thin[missing..], &[k, n]].concat(), float, -1.0, 1.0);
            let expected = Plain::from_fn(&[&batch[..], &[m, n]].concat(), |p| {
                let (lead, row, column) = (&p[..p.len() - 2], p[p.len() - 2], p[p.len() - 1]);
                let b_place = |i: usize| [lead, &[i, column]].concat();
                (0..k)
                    .map(|i| a.at(&[lead, &[row, i]].concat()) * b.broadcast_at_matrix(&b_place(i)))
                    .sum()
            });
            Example {
                inputs: vec![(a, float), (b, float)],
                attrs: vec![],
                dtype: float,
                expected,
                depth: k.max(1),
            }
        }
        Op::Linear => {
            let lead = {
                let r = random.below(3);
                random.shape(r)
            };
            let (k, n) = (random.below(6), 1 + random.below(5));
            let x = values(random, &[&lead[..], &[k]].concat(), float, -1.0, 1.0);
            let w = values(random, &[n, k], float, -1.0, 1.0);
            let b = values(random, &[n], float, -1.0, 1.0);
            let biased = random.below(2) == 0;
            let expected = Plain::from_fn(&[&lead[..], &[n]].concat(), |p| {
                let (lead, o) = p.split_at(p.len() - 1);
                let dot: f64 = (0..k).map(|i| x.at(&[lead, &[i]].concat()) * w.at(&[o[0], i])).sum();
                if biased { rounded(dot, float) + b.at(o) } else { dot }
            });
            let mut inputs = vec![(x, float), (w, float)];
            if biased {
                inputs.push((b, float));
            }
            Example {
                inputs,
                attrs: vec![],
                dtype: float,
                expected,
                depth: k.max(1),
            }
        }
        Op::Embedding => {
            let index = random.pick(&[DType::U8, DType::U32, DType::I64]);
            let (rows, width) = (1 + random.below(5), 1 + random.below(4));
            let w = values(random, &[rows, width], any, 0.0, 9.0);
            let ids = Plain::from_fn(&shape, |_| random.below(rows) as f64);
            let expected = Plain::from_fn(&[&shape[..], &[width]].concat(), |p| {
                let (place, column) = p.split_at(p.len() - 1);
                w.at(&[ids.at(place) as usize, column[0]])
            });
            simple(vec![(w, any), (ids, index)], vec![], any, expected)
        }
        Op::IndexSelect => {
            let shape = with_rank(random, 1);
            let axis = random.below(shape.len());
            let x = values(random, &shape, any, 0.0, 9.0);
            let count = random.below(4);
            let ids = Plain::from_fn(&[count], |_| random.below(shape[axis]) as f64);
            let mut to = shape.clone();
            to[axis] = count;
            let expected = Plain::from_fn(&to, |p| {
                let mut place = p.to_vec();
                place[axis] = ids.at(&[p[axis]]) as usize;
                x.at(&place)
            });
            simple(
                vec![(x, any), (ids, DType::U32)],
                vec![Attr::Int(axis as i64)],
                any,
                expected,
            )
        }
        Op::Softmax | Op::LogSoftmax => {
            let shape = with_rank(random, 1);
            let axis = random.below(shape.len());
            let x = values(random, &shape, float, -3.0, 3.0);
            let expected = Plain::from_fn(&shape, |p| {
                let sum: f64 = (0..shape[axis])
                    .map(|i| {
                        let mut place = p.to_vec();
                        place[axis] = i;
                        x.at(&place).exp()
                    })
                    .sum();
                let probability = x.at(p).exp() / sum;
                if op == Op::Softmax {
                    probability
                } else {
                    probability.ln()
                }
            });
            Example {
                inputs: vec![(x, float)],
                attrs: vec![Attr::Int(axis as i64)],
                dtype: float,
                expected,
                depth: shape[axis],
            }
        }
        Op::LayerNorm | Op::RmsNorm => {
            let lead = {
                let r = random.below(3);
                random.shape(r)
            };
            let width = 2 + random.below(6);
            let x = values(random, &[&lead[..], &[width]].concat(), float, -3.0, 3.0);
            let (w, b) = (
                values(random, &[width], float, 0.5, 2.0),
                values(random, &[width], float, -1.0, 1.0),
            );
            let biased = op == Op::LayerNorm && random.below(2) == 0;
            let eps = 0.1;
            let expected = Plain::from_fn(&x.shape, |p| {
                let (lead, at) = p.split_at(p.len() - 1);
                let row: Vec<f64> = (0..width).map(|i| x.at(&[lead, &[i]].concat())).collect();
                let mean = if op == Op::LayerNorm {
                    row.iter().sum::<f64>() / width as f64
                } else {
                    0.0
                };
                let square = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                (row[at[0]] - mean) / (square + eps).sqrt() * w.at(at) + if biased { b.at(at) } else { 0.0 }
            });
            let mut inputs = vec![(x, float), (w, float)];
            if biased {
                inputs.push((b, float));
            }
            Example {
                inputs,
                attrs: vec![Attr::Float(eps)],
                dtype: float,
                expected,
                depth: width,
            }
        }
        Op::Conv2d
        | Op::ConvTranspose2d
        | Op::MaxPool2d
        | Op::AvgPool2d
        | Op::AdaptiveAvgPool2d
        | Op::ResizeNearest2d
        | Op::ResizeBilinear2d
        | Op::GroupNorm
        | Op::BatchNorm
        | Op::Prelu
        | Op::LeakyRelu
        | Op::Elu
        | Op::HardSigmoid
        | Op::HardSwish
        | Op::Mish
        | Op::Softplus
        | Op::PixelShuffle
        | Op::PixelUnshuffle
        | Op::Randn
        | Op::RandUniform => vision::example(random, op),
        Op::Full => {
            let expected = Plain::from_fn(&shape, |_| 7.0);
            let attrs = vec![
                Attr::Ints(shape.iter().map(|n| *n as i64).collect()),
                Attr::Float(7.0),
                Attr::DType(any),
            ];
            simple(vec![], attrs, any, expected)
        }
        Op::Arange => {
            let len = random.below(9);
            let expected = Plain::from_fn(&[len], |p| 2.0 + 3.0 * p[0] as f64);
            simple(
                vec![],
                vec![Attr::Int(len as i64), Attr::Float(2.0), Attr::Int(3), Attr::DType(any)],
                any,
                expected,
            )
        }
        Op::Rope => {
            let (b, t, heads, width) = (
                1 + random.below(2),
                random.below(4),
                1 + random.below(3),
                2 * (1 + random.below(4)),
            );
            let x = values(random, &[b, t, heads, width], float, -2.0, 2.0);
            let index = random.pick(&[DType::U32, DType::I64, DType::U8]);
            let each = random.below(2) == 0;
            let positions = values(random, &[b, t][usize::from(!each)..], index, 0.0, 200.0);
            let given = random.below(2) == 0;
            let n = if given { 1 + random.below(width / 2) } else { width / 2 };
            let frequencies = values(random, &[n], DType::F32, 0.01, 1.0);
            let interleaved = random.below(2) == 0;
            let expected = Plain::from_fn(&x.shape, |p| {
                let i = p[3];
                if i >= 2 * n {
                    return x.at(p);
                }
                let (pair, other, sign) = match (interleaved, if interleaved { i % 2 == 0 } else { i < n }) {
                    (true, true) => (i / 2, i + 1, -1.0),
                    (true, false) => (i / 2, i - 1, 1.0),
                    (false, true) => (i, i + n, -1.0),
                    (false, false) => (i - n, i - n, 1.0),
                };
                let frequency = if given {
                    frequencies.at(&[pair])
                } else {
                    500_f64.powf(-2.0 * pair as f64 / width as f64)
                };
                let angle = frequency
                    * if each {
                        positions.at(&p[..2])
                    } else {
                        positions.at(&p[1..2])
                    };
                x.at(p) * angle.cos() + sign * x.at(&[p[0], p[1], p[2], other]) * angle.sin()
            });
            let mut inputs = vec![(x, float), (positions, index)];
            if given {
                inputs.push((frequencies, DType::F32));
            }
            Example {
                inputs,
                attrs: vec![Attr::Int(500), Attr::Flag(interleaved)],
                dtype: float,
                expected,
                depth: 2,
            }
        }
        Op::Attention => {
            let (b, t, s) = (1 + random.below(2), random.below(5), random.below(6));
            let (kv_heads, group) = (1 + random.below(2), 1 + random.below(2));
            let (d, e) = (1 + random.below(5), 1 + random.below(5));
            let heads = kv_heads * group;
            let q = values(random, &[b, t, heads, d], float, -2.0, 2.0);
            let k = values(random, &[b, s, kv_heads, d], float, -2.0, 2.0);
            let v = values(random, &[b, s, kv_heads, e], float, -2.0, 2.0);
            let biased = random.below(2) == 0;
            let bias_shape = [[b, heads, t, s], [1, 1, t, s], [b, 1, 1, s], [1, 1, 1, 1]][random.below(4)];
            let bias = values(random, &bias_shape, float, -2.0, 2.0);
            let causal = random.below(2) == 0;
            let window = random.below(3);
            let cap = if random.below(2) == 0 { 0.0 } else { 3.0 };
            let scale = if random.below(2) == 0 { 0.0 } else { 0.5 };
            let expected = Plain::from_fn(&[b, t, heads, e], |p| {
                let factor = if scale == 0.0 { 1.0 / (d as f64).sqrt() } else { scale };
                let end = if causal { (s + p[1] + 1).saturating_sub(t) } else { s };
                let start = if causal && window > 0 {
                    end.saturating_sub(window)
                } else {
                    0
                };
                let weight = |j: usize| {
                    let dot: f64 = (0..d)
                        .map(|i| q.at(&[p[0], p[1], p[2], i]) * k.at(&[p[0], j, p[2] / group, i]))
                        .sum();
                    let score = if cap > 0.0 {
                        cap * (dot * factor / cap).tanh()
                    } else {
                        dot * factor
                    };
                    (score
                        + if biased {
                            bias.broadcast_at(&[p[0], p[2], p[1], j])
                        } else {
                            0.0
                        })
                    .exp()
                };
                let total: f64 = (start..end).map(weight).sum();
                let sum: f64 = (start..end)
                    .map(|j| weight(j) * v.at(&[p[0], j, p[2] / group, p[3]]))
                    .sum();
                if total > 0.0 { sum / total } else { 0.0 }
            });
            let mut inputs = vec![(q, float), (k, float), (v, float)];
            if biased {
                inputs.push((bias, float));
            }
            Example {
                inputs,
                attrs: vec![
                    Attr::Float(scale),
                    Attr::Flag(causal),
                    Attr::Int(if causal { window as i64 } else { 0 }),
                    Attr::Float(cap),
                ],
                dtype: float,
                expected,
                depth: 4,
            }
        }
        // Only in programs: tests/caches.rs.
        Op::CachedAttention => simple(vec![], vec![], float, Plain::from_fn(&[0], |_| 0.0)),
        Op::Sample
        | Op::Argsort
        | Op::Topk
        | Op::Gather
        | Op::Scatter
        | Op::ScatterAdd
        | Op::IndexAdd
        | Op::Conv1d
        | Op::ConvTranspose1d
        | Op::Cumsum
        | Op::Cumprod
        | Op::PadReflect
        | Op::PadReplicate
        | Op::Lstm
        | Op::Gru
        | Op::ResizeLinear1d
        | Op::ResizeNearest1d
        | Op::Stft
        | Op::Istft
        | Op::Tril
        | Op::Triu
        | Op::Flip
        | Op::Roll
        | Op::Repeat
        | Op::RepeatInterleave
        | Op::OneHot
        | Op::Logsumexp
        | Op::Var
        | Op::L2Normalize
        | Op::Rem
        | Op::Pow
        | Op::Atan2
        | Op::Log1p
        | Op::Expm1
        | Op::Snake
        | Op::Glu => sequence::example(random, op),
    }
}

impl Plain {
    /// [`Plain::broadcast_at`] where the last two dimensions do not broadcast.
    fn broadcast_at_matrix(&self, place: &[usize]) -> f64 {
        let skip = place.len() - self.shape.len();
        let last = self.shape.len() - 2;
        let own: Vec<_> = place[skip..]
            .iter()
            .zip(&self.shape)
            .enumerate()
            .map(|(axis, (i, n))| if axis < last && *n == 1 { 0 } else { *i })
            .collect();
        self.at(&own)
    }
}

/// How far a result may be off: half a unit of the dtype for each rounding on the way.
fn tolerance(dtype: DType, depth: usize) -> f64 {
    let unit = match dtype {
        DType::F32 => 2e-6,
        DType::F16 => 2e-3,
        DType::BF16 => 1.6e-2,
        _ => return 0.0,
    };
    unit * (1.0 + depth as f64)
}

/// Runs an example, and returns how far off its worst element is, relative where it is above 1.
fn check(scope: &Scope, random: &mut Random, id: OpId, spec: &OpSpec, example: &Example) -> Result<f64, TestCaseError> {
    let tensors: Vec<Tensor> = example
        .inputs
        .iter()
        .map(|(plain, dtype)| in_some_layout(scope, random, plain, *dtype))
        .collect();
    let refs: Vec<&Tensor> = tensors.iter().collect();
    let output = scope.apply(id, &refs, &example.attrs);
    let output = output.map_err(|e| TestCaseError::fail(format!("{e} ({:?})", example.attrs)))?;
    prop_assert_eq!(output.dtype(), example.dtype, "{}", spec.name);
    // On a device what a kernel says comes with the first read.
    let bytes = scope.read(&output);
    let bytes = bytes.map_err(|e| TestCaseError::fail(format!("{e} ({:?})", example.attrs)))?;
    let found = Plain {
        shape: output.shape().iter().map(|n| *n as usize).collect(),
        data: decode(&bytes, output.dtype()),
    };
    prop_assert_eq!(
        &found.shape,
        &example.expected.shape,
        "{} {:?}",
        spec.name,
        example.attrs
    );
    let allowed = tolerance(example.dtype, example.depth);
    let mut worst = 0.0_f64;
    for (i, (a, b)) in found.data.iter().zip(&example.expected.data).enumerate() {
        let error = if a == b { 0.0 } else { (a - b).abs() / (1.0 + b.abs()) };
        let close = error <= allowed;
        worst = error.max(worst);
        let inputs = || {
            example
                .inputs
                .iter()
                .map(|(p, d)| format!("{d} {p:?}"))
                .collect::<Vec<_>>()
        };
        prop_assert!(
            close,
            "{} {:?} at {i}: {a}, expected {b}, of {:?}",
            spec.name,
            example.attrs,
            inputs()
        );
    }
    Ok(worst)
}

/// The rule, asked with symbols in place of numbers, must give the same type once the symbols have those numbers.
fn check_rule(spec: &OpSpec, example: &Example) -> Result<(), TestCaseError> {
    let mut symbols: Vec<u32> = Vec::new();
    let mut symbol = |n: usize| {
        if n <= 1 {
            return Dim::from(n);
        }
        let at = symbols.iter().position(|s| *s == n as u32).unwrap_or_else(|| {
            symbols.push(n as u32);
            symbols.len() - 1
        });
        Dim::symbol(at as u32)
    };
    let types: Vec<Type<Dim>> = example
        .inputs
        .iter()
        .map(|(p, d)| Type::new(*d, p.shape.iter().map(|n| symbol(*n))))
        .collect();
    // Attributes are numbers here, so a rule may rightly refuse to mix them with symbols.
    let Ok(output) = spec.infer(&types, &example.attrs) else {
        return Ok(());
    };
    let shape: Vec<usize> = output
        .shape
        .iter()
        .map(|d| d.eval(&symbols).unwrap() as usize)
        .collect();
    prop_assert_eq!(output.dtype, example.dtype);
    prop_assert_eq!(&shape, &example.expected.shape, "{}", spec.name);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_op_agrees_with_a_float64_reference(seed in 1_u64..) {
        let (scope, budget) = scope(1 << 30);
        for (i, spec) in table().iter().enumerate() {
            if spec.op == Op::CachedAttention {
                continue;
            }
            let mut random = Random(seed.wrapping_mul(i as u64 * 2 + 1) | 1);
            let example = example(&mut random, spec.op);
            check(&scope, &mut random, OpId(i as u32), spec, &example)?;
            check_rule(spec, &example)?;
        }
        drop(scope);
        prop_assert_eq!(budget.used(), 0, "everything was given back");
    }
}
