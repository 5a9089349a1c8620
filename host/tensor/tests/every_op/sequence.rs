//! float64 references of the ops on signals, sequences and selections.

use maquette_tensor::ops::{Attr, DType, Op};

use super::{ALL, Example, FLOATS, values};
use crate::common::{Plain, Random, rounded};

const INDEX: [DType; 3] = [DType::U8, DType::U32, DType::I64];

fn simple(inputs: Vec<(Plain, DType)>, attrs: Vec<Attr>, dtype: DType, expected: Plain) -> Example {
    Example {
        inputs,
        attrs,
        dtype,
        expected,
        depth: 1,
    }
}

/// The place with one coordinate changed.
fn with(place: &[usize], axis: usize, at: usize) -> Vec<usize> {
    let mut place = place.to_vec();
    place[axis] = at;
    place
}

/// An axis, sometimes counted from the end.
fn axis_attr(random: &mut Random, axis: usize, rank: usize) -> Attr {
    Attr::Int(axis as i64 - if random.below(2) == 0 { rank as i64 } else { 0 })
}

fn int(value: usize) -> Attr {
    Attr::Int(value as i64)
}

pub(super) fn example(random: &mut Random, op: Op) -> Example {
    let rank = 1 + random.below(3);
    let shape = random.shape(rank);
    let axis = random.below(rank);
    let along = axis_attr(random, axis, rank);
    let float = random.pick(&FLOATS);
    let any = random.pick(&ALL);
    match op {
        Op::Sample => sample(random, float),
        Op::Argsort | Op::Topk => {
            let mut shape = shape;
            shape[axis] = 1 + random.below(12);
            let x = values(random, &shape, any, 0.0, 5.0);
            let down = random.below(2) == 0;
            let k = if op == Op::Topk {
                random.below(shape[axis] + 1)
            } else {
                shape[axis]
            };
            let mut to = shape.clone();
            to[axis] = k;
            let expected = Plain::from_fn(&to, |p| {
                let at = |i: usize| x.at(&with(p, axis, i));
                let mut order: Vec<usize> = (0..shape[axis]).collect();
                order.sort_by(|a, b| {
                    let ascending = at(*a).partial_cmp(&at(*b)).unwrap();
                    if down { ascending.reverse() } else { ascending }
                });
                order[p[axis]] as f64
            });
            let attrs = match op {
                Op::Topk => vec![int(k), along, Attr::Flag(down)],
                _ => vec![along, Attr::Flag(down)],
            };
            simple(vec![(x, any)], attrs, DType::U32, expected)
        }
        Op::Gather | Op::Scatter | Op::ScatterAdd => {
            let x = values(random, &shape, any, 0.0, 9.0);
            let mut to: Vec<usize> = shape.iter().map(|n| random.below(*n + 1)).collect();
            to[axis] = random.below(6);
            let index = random.pick(&INDEX);
            let ids = Plain::from_fn(&to, |_| random.below(shape[axis]) as f64);
            if op == Op::Gather {
                let expected = Plain::from_fn(&to, |p| x.at(&with(p, axis, ids.at(p) as usize)));
                return simple(vec![(x, any), (ids, index)], vec![along], any, expected);
            }
            let src = values(random, &to, any, 0.0, 9.0);
            let mut expected = x.clone();
            let place = |p: &[usize]| p.iter().zip(&shape).fold(0, |at, (i, n)| at * n + i);
            Plain::from_fn(&to, |p| {
                let to = &mut expected.data[place(&with(p, axis, ids.at(p) as usize))];
                *to = if op == Op::ScatterAdd {
                    *to + src.at(p)
                } else {
                    src.at(p)
                };
                0.0
            });
            simple(vec![(x, any), (ids, index), (src, any)], vec![along], any, expected)
        }
        Op::IndexAdd => {
            let x = values(random, &shape, any, 0.0, 9.0);
            let count = random.below(5);
            let ids = Plain::from_fn(&[count], |_| random.below(shape[axis]) as f64);
            let mut to = shape.clone();
            to[axis] = count;
            let src = values(random, &to, any, 0.0, 9.0);
            let expected = Plain::from_fn(&shape, |p| {
                let added = (0..count).filter(|i| ids.at(&[*i]) as usize == p[axis]);
                x.at(p) + added.map(|i| src.at(&with(p, axis, i))).sum::<f64>()
            });
            let index = random.pick(&INDEX);
            simple(vec![(x, any), (ids, index), (src, any)], vec![along], any, expected)
        }
        Op::Conv1d => conv1d(random, float),
        Op::ConvTranspose1d => conv_transpose1d(random, float),
        Op::Cumsum | Op::Cumprod => {
            let sums = op == Op::Cumsum;
            let x = values(random, &shape, any, 0.0, if sums { 9.0 } else { 2.4 });
            let expected = Plain::from_fn(&shape, |p| {
                let before = (0..=p[axis]).map(|i| x.at(&with(p, axis, i)));
                if sums { before.sum() } else { before.product() }
            });
            simple(vec![(x, any)], vec![along], any, expected)
        }
        Op::PadReflect | Op::PadReplicate => {
            let x = values(random, &shape, any, 0.0, 9.0);
            let len = shape[axis] as i64;
            let most = if op == Op::PadReflect { shape[axis] } else { 5 };
            let (left, right) = (random.below(most), random.below(most));
            let mut to = shape.clone();
            to[axis] += left + right;
            let expected = Plain::from_fn(&to, |p| {
                let at = p[axis] as i64 - left as i64;
                let at = match op {
                    Op::PadReplicate => at.clamp(0, len - 1),
                    _ if at < 0 => -at,
                    _ if at >= len => 2 * (len - 1) - at,
                    _ => at,
                };
                x.at(&with(p, axis, at as usize))
            });
            simple(vec![(x, any)], vec![along, int(left), int(right)], any, expected)
        }
        Op::Lstm | Op::Gru => recurrent(random, op, float),
        Op::ResizeLinear1d | Op::ResizeNearest1d => {
            let linear = op == Op::ResizeLinear1d;
            let dtype = if linear { float } else { any };
            let shape = [1 + random.below(3), 1 + random.below(3), 1 + random.below(9)];
            let (len, size) = (shape[2], random.below(20));
            let corners = random.below(2) == 0;
            let x = values(random, &shape, dtype, 0.0, 9.0);
            let expected = Plain::from_fn(&[shape[0], shape[1], size], |p| {
                let i = p[2] as f64;
                let at = |i: f64| x.at(&[p[0], p[1], i.clamp(0.0, len as f64 - 1.0) as usize]);
                let ends = if size > 1 {
                    i * (len - 1) as f64 / (size - 1) as f64
                } else {
                    0.0
                };
                match (linear, corners) {
                    (true, _) => {
                        let place = if corners {
                            ends
                        } else {
                            ((i + 0.5) * len as f64 / size as f64 - 0.5).max(0.0)
                        };
                        at(place.floor()) * (1.0 - place.fract()) + at(place.floor() + 1.0) * place.fract()
                    }
                    (false, true) => at((ends + 0.5 + 1e-9).floor()),
                    (false, false) => at(((p[2] * len) / size) as f64),
                }
            });
            simple(vec![(x, dtype)], vec![int(size), Attr::Flag(corners)], dtype, expected)
        }
        Op::Stft => stft(random),
        Op::Istft => istft(random),
        Op::Tril | Op::Triu => {
            let shape = [&shape[..rank - 1], &[1 + random.below(5), 1 + random.below(5)]].concat();
            let x = values(random, &shape, any, 1.0, 9.0);
            let diagonal = random.below(9) as i64 - 4;
            let expected = Plain::from_fn(&shape, |p| {
                let across = p[p.len() - 1] as i64 - p[p.len() - 2] as i64;
                let kept = if op == Op::Tril {
                    across <= diagonal
                } else {
                    across >= diagonal
                };
                if kept { x.at(p) } else { 0.0 }
            });
            simple(vec![(x, any)], vec![Attr::Int(diagonal)], any, expected)
        }
        Op::Flip => {
            let x = values(random, &shape, any, 0.0, 9.0);
            let axes: Vec<usize> = (0..rank).filter(|_| random.below(2) == 0).collect();
            let expected = Plain::from_fn(&shape, |p| {
                let turned = |i: usize| axes.is_empty() || axes.contains(&i);
                let place: Vec<usize> = p
                    .iter()
                    .enumerate()
                    .map(|(i, at)| if turned(i) { shape[i] - 1 - at } else { *at })
                    .collect();
                x.at(&place)
            });
            let attr = Attr::Ints(axes.iter().map(|a| *a as i64).collect());
            simple(vec![(x, any)], vec![attr], any, expected)
        }
        Op::Roll => {
            let x = values(random, &shape, any, 0.0, 9.0);
            let shift = random.below(21) as i64 - 10;
            let expected = Plain::from_fn(&shape, |p| {
                let from = (p[axis] as i64 - shift).rem_euclid(shape[axis] as i64);
                x.at(&with(p, axis, from as usize))
            });
            simple(vec![(x, any)], vec![along, Attr::Int(shift)], any, expected)
        }
        Op::Repeat => {
            let x = values(random, &shape, any, 0.0, 9.0);
            let added = random.below(3);
            let repeats: Vec<usize> = (0..rank + added).map(|_| random.below(4)).collect();
            let to: Vec<usize> = repeats
                .iter()
                .enumerate()
                .map(|(i, n)| if i < added { *n } else { n * shape[i - added] })
                .collect();
            let expected = Plain::from_fn(&to, |p| {
                let place: Vec<usize> = p[added..].iter().zip(&shape).map(|(at, n)| at % n).collect();
                x.at(&place)
            });
            let attr = Attr::Ints(repeats.iter().map(|n| *n as i64).collect());
            simple(vec![(x, any)], vec![attr], any, expected)
        }
        Op::RepeatInterleave => {
            let x = values(random, &shape, any, 0.0, 9.0);
            let times = random.below(4);
            let mut to = shape.clone();
            to[axis] *= times;
            let expected = Plain::from_fn(&to, |p| x.at(&with(p, axis, p[axis] / times)));
            simple(vec![(x, any)], vec![along, int(times)], any, expected)
        }
        Op::OneHot => {
            let depth = 1 + random.below(5);
            let ids = Plain::from_fn(&shape, |_| random.below(depth) as f64);
            let expected = Plain::from_fn(&[&shape[..], &[depth]].concat(), |p| {
                f64::from(u8::from(ids.at(&p[..rank]) as usize == p[rank]))
            });
            let index = random.pick(&INDEX);
            simple(vec![(ids, index)], vec![int(depth), Attr::DType(any)], any, expected)
        }
        Op::Logsumexp | Op::Var => reduction(random, op, &shape, float),
        Op::L2Normalize => {
            let x = values(random, &shape, float, -3.0, 3.0);
            let expected = Plain::from_fn(&shape, |p| {
                let sum: f64 = (0..shape[axis]).map(|i| x.at(&with(p, axis, i)).powi(2)).sum();
                x.at(p) / sum.sqrt().max(0.5)
            });
            simple(vec![(x, float)], vec![along, Attr::Float(0.5)], float, expected)
        }
        Op::Rem | Op::Pow | Op::Atan2 => {
            let dtype = if op == Op::Rem { any } else { float };
            let mut thin: Vec<usize> = shape
                .iter()
                .map(|n| if random.below(3) == 0 { 1 } else { *n })
                .collect();
            thin.drain(..random.below(thin.len() + 1));
            let negative = dtype.is_float() || dtype == DType::I64;
            // Quarters: exact in every dtype, and a remainder is no less exact.
            let mut quarters = |shape: &[usize], low: f64, high: f64| {
                Plain::from_fn(shape, |_| {
                    let x = random.within(low, high);
                    let x = if dtype.is_float() {
                        (x * 4.0).round() / 4.0
                    } else {
                        x.round()
                    };
                    if negative && random.below(2) == 0 { -x } else { x }
                })
            };
            let (a, b) = (quarters(&shape, 1.0, 9.0), quarters(&thin, 1.0, 4.0));
            let b = if op == Op::Pow { b.map(f64::round) } else { b };
            let expected = Plain::from_fn(&shape, |p| {
                let (a, b) = (a.at(p), b.broadcast_at(p));
                match op {
                    Op::Rem => a - b * (a / b).floor(),
                    Op::Pow => a.powf(b),
                    _ => a.atan2(b),
                }
            });
            simple(vec![(a, dtype), (b, dtype)], vec![], dtype, expected)
        }
        Op::Log1p | Op::Expm1 => {
            let x = values(random, &shape, float, -0.9, 3.0);
            let expected = x.map(if op == Op::Log1p { f64::ln_1p } else { f64::exp_m1 });
            simple(vec![(x, float)], vec![], float, expected)
        }
        Op::Snake => {
            let shape = [1 + random.below(3), 1 + random.below(3), 1 + random.below(5)];
            let x = values(random, &shape, float, -3.0, 3.0);
            let alpha = values(random, &[shape[1]], float, 0.2, 2.0);
            let expected = Plain::from_fn(&shape, |p| {
                let (x, alpha) = (x.at(p), alpha.at(&p[1..2]));
                x + (alpha * x).sin().powi(2) / alpha
            });
            simple(vec![(x, float), (alpha, float)], vec![], float, expected)
        }
        Op::Glu => {
            let mut from = shape.clone();
            from[axis] *= 2;
            let x = values(random, &from, float, -3.0, 3.0);
            let expected = Plain::from_fn(&shape, |p| {
                let gate = x.at(&with(p, axis, p[axis] + shape[axis]));
                x.at(p) / (1.0 + (-gate).exp())
            });
            simple(vec![(x, float)], vec![along], float, expected)
        }
        other => unreachable!("{other:?} is tested elsewhere"),
    }
}

/// A draw that is certain: the temperature is 0, or one id alone is left. How often others are drawn is tested with the kernel.
fn sample(random: &mut Random, float: DType) -> Example {
    let (rows, v, n) = (1 + random.below(3), 2 + random.below(9), random.below(4));
    let flat = random.below(3) == 0;
    let lead: &[usize] = if flat { &[] } else { &[rows] };
    // All different in every dtype: no two are as likely, penalty or not.
    let mut places: Vec<usize> = (0..v).collect();
    let logits = Plain::from_fn(&[lead, &[v]].concat(), |p| {
        if p[p.len() - 1] == 0 {
            for i in (1..v).rev() {
                places.swap(i, random.below(i + 1));
            }
        }
        places[p[p.len() - 1]] as f64 - 3.5
    });
    let previous = Plain::from_fn(&[lead, &[n]].concat(), |_| random.below(v) as f64);
    let penalty = random.pick(&[1.0, 1.5]);
    let given = penalty != 1.0 || random.below(2) == 0;
    let certain = random.below(3);
    let expected = Plain::from_fn(lead, |p| {
        let score = |id: usize| {
            let x = logits.at(&[p, &[id]].concat());
            let seen = given && (0..n).any(|i| previous.at(&[p, &[i]].concat()) as usize == id);
            match (seen, x > 0.0) {
                (true, true) => x / penalty,
                (true, false) => x * penalty,
                _ => x,
            }
        };
        (1..v).fold(0, |best, id| if score(id) > score(best) { id } else { best }) as f64
    });
    let attrs = vec![
        Attr::Float(if certain == 0 { 0.0 } else { 0.8 }),
        Attr::Int(i64::from(certain == 1)),
        Attr::Float(if certain == 2 { 1e-6 } else { 1.0 }),
        Attr::Unset,
        Attr::Float(penalty),
        Attr::Int(random.next() as i64),
        Attr::Int(random.next() as i64),
    ];
    let mut inputs = vec![(logits, float)];
    if given {
        inputs.push((previous, random.pick(&INDEX)));
    }
    simple(inputs, attrs, DType::U32, expected)
}

fn conv1d(random: &mut Random, float: DType) -> Example {
    // Sometimes large enough for panels of more than one tile, and for several of them.
    let large = random.below(20) == 0;
    let most = if large { 40 } else { 3 };
    let groups = 1 + random.below(if large { 1 } else { 3 });
    let (n, each, to) = (1 + random.below(2), 1 + random.below(most), 1 + random.below(most));
    let (kernel, stride, dilation) = (1 + random.below(5), 1 + random.below(3), 1 + random.below(3));
    let (left, right) = (random.below(4), random.below(4));
    let reach = dilation * (kernel - 1);
    let len = (1 + reach + random.below(if large { 90 } else { 9 }))
        .saturating_sub(left + right)
        .max(usize::from(left + right == 0));
    let len = if len + left + right <= reach { reach + 1 } else { len };
    let (inputs, outputs) = (groups * each, groups * to);
    let out = (len + left + right - reach - 1) / stride + 1;
    let x = values(random, &[n, inputs, len], float, -1.0, 1.0);
    let w = values(random, &[outputs, each, kernel], float, -1.0, 1.0);
    let b = values(random, &[outputs], float, -1.0, 1.0);
    let biased = random.below(2) == 0;
    let expected = Plain::from_fn(&[n, outputs, out], |p| {
        let mut sum = if biased { b.at(&p[1..2]) } else { 0.0 };
        for c in 0..each {
            for t in 0..kernel {
                let at = (p[2] * stride + t * dilation).checked_sub(left).filter(|at| *at < len);
                if let Some(at) = at {
                    sum += x.at(&[p[0], p[1] / to * each + c, at]) * w.at(&[p[1], c, t]);
                }
            }
        }
        sum
    });
    let mut list = vec![(x, float), (w, float)];
    if biased {
        list.push((b, float));
    }
    Example {
        inputs: list,
        attrs: vec![int(stride), int(left), int(right), int(dilation), int(groups)],
        dtype: float,
        expected,
        depth: each * kernel,
    }
}

fn conv_transpose1d(random: &mut Random, float: DType) -> Example {
    let large = random.below(20) == 0;
    let most = if large { 40 } else { 5 };
    let groups = 1 + random.below(if large { 1 } else { 3 });
    let (n, each, to) = (1 + random.below(2), 1 + random.below(most), 1 + random.below(most));
    let (kernel, stride, dilation) = (1 + random.below(5), 1 + random.below(4), 1 + random.below(3));
    let len = 1 + random.below(if large { 70 } else { 8 });
    let extra = random.below(stride.max(dilation));
    let whole = (len - 1) * stride + dilation * (kernel - 1) + extra + 1;
    let padding = random.below((whole / 2 + 1).min(4));
    let out = whole - 2 * padding;
    let (inputs, outputs) = (groups * each, groups * to);
    let x = values(random, &[n, inputs, len], float, -1.0, 1.0);
    let w = values(random, &[inputs, to, kernel], float, -1.0, 1.0);
    let b = values(random, &[outputs], float, -1.0, 1.0);
    let biased = random.below(2) == 0;
    let expected = Plain::from_fn(&[n, outputs, out], |p| {
        let mut sum = if biased { b.at(&p[1..2]) } else { 0.0 };
        for c in p[1] / to * each..(p[1] / to + 1) * each {
            for i in 0..len {
                for t in 0..kernel {
                    if i * stride + t * dilation == p[2] + padding {
                        sum += x.at(&[p[0], c, i]) * w.at(&[c, p[1] % to, t]);
                    }
                }
            }
        }
        sum
    });
    let mut list = vec![(x, float), (w, float)];
    if biased {
        list.push((b, float));
    }
    Example {
        inputs: list,
        attrs: vec![int(stride), int(padding), int(extra), int(dilation), int(groups)],
        dtype: float,
        expected,
        depth: each * kernel,
    }
}

fn recurrent(random: &mut Random, op: Op, float: DType) -> Example {
    let lstm = op == Op::Lstm;
    let gates = if lstm { 4 } else { 3 };
    let (b, t, i) = (1 + random.below(3), random.below(5), random.below(4));
    let h = if random.below(20) == 0 {
        1 + random.below(40)
    } else {
        1 + random.below(3)
    };
    let shapes = [
        vec![b, t, i],
        vec![gates * h, i],
        vec![gates * h, h],
        vec![gates * h],
        vec![gates * h],
        vec![b, h],
        vec![b, h],
    ];
    let count = 3 + random.below(if lstm { 5 } else { 4 });
    let inputs: Vec<(Plain, DType)> = shapes[..count]
        .iter()
        .map(|s| (values(random, s, float, -1.0, 1.0), float))
        .collect();
    let reverse = random.below(2) == 0;
    let at = |input: usize, place: &[usize]| inputs.get(input).map_or(0.0, |(plain, _)| plain.at(place));
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let shape = if lstm { vec![b, t, 2, h] } else { vec![b, t, h] };
    let mut expected = Plain::from_fn(&shape, |_| 0.0);
    for n in 0..b {
        let mut state: Vec<f64> = (0..h).map(|j| at(5, &[n, j])).collect();
        let mut cell: Vec<f64> = (0..h).map(|j| at(6, &[n, j])).collect();
        for step in 0..t {
            let step = if reverse { t - 1 - step } else { step };
            let from_x =
                |row: usize| at(3, &[row]) + (0..i).map(|k| at(0, &[n, step, k]) * at(1, &[row, k])).sum::<f64>();
            let from_h = |row: usize| at(4, &[row]) + (0..h).map(|k| state[k] * at(2, &[row, k])).sum::<f64>();
            let mut next = state.clone();
            for j in 0..h {
                let gate = |g: usize| from_x(g * h + j) + from_h(g * h + j);
                if lstm {
                    cell[j] = sigmoid(gate(1)) * cell[j] + sigmoid(gate(0)) * gate(2).tanh();
                    next[j] = sigmoid(gate(3)) * cell[j].tanh();
                } else {
                    let (r, z) = (sigmoid(gate(0)), sigmoid(gate(1)));
                    let new = (from_x(2 * h + j) + r * from_h(2 * h + j)).tanh();
                    next[j] = (1.0 - z) * new + z * state[j];
                }
            }
            state = next;
            for j in 0..h {
                if lstm {
                    let at = (n * t + step) * 2 * h;
                    (expected.data[at + j], expected.data[at + h + j]) = (state[j], cell[j]);
                } else {
                    expected.data[(n * t + step) * h + j] = state[j];
                }
            }
        }
    }
    Example {
        inputs,
        attrs: vec![Attr::Flag(reverse)],
        dtype: float,
        expected,
        depth: (i + h) * t.max(1),
    }
}

/// The element that a centered frame sees at a place before the signal, in it, or behind it.
fn mirrored(at: i64, len: usize) -> usize {
    let last = len as i64 - 1;
    (if at < 0 {
        -at
    } else if at > last {
        2 * last - at
    } else {
        at
    }) as usize
}

/// A window in the middle of a frame.
fn framed(window: &Plain, n_fft: usize, i: usize) -> f64 {
    let len = window.data.len();
    i.checked_sub((n_fft - len) / 2)
        .and_then(|i| window.data.get(i))
        .copied()
        .unwrap_or(0.0)
}

fn stft(random: &mut Random) -> Example {
    let n_fft = 1 + random.below(40);
    let (n, hop) = (1 + random.below(2), 1 + random.below(9));
    let (center, normalized) = (random.below(2) == 0, random.below(2) == 0);
    let len = n_fft + random.below(60);
    let len = if center {
        (n_fft / 2 + 1).max(len - n_fft / 2)
    } else {
        len
    };
    let margin = if center { n_fft / 2 } else { 0 };
    let frames = (len + 2 * margin - n_fft) / hop + 1;
    let x = values(random, &[n, len], DType::F32, -1.0, 1.0);
    let width = 1 + random.below(n_fft);
    let window = values(random, &[width], DType::F32, 0.1, 1.0);
    let scale = if normalized { (n_fft as f64).sqrt().recip() } else { 1.0 };
    let expected = Plain::from_fn(&[n, n_fft / 2 + 1, frames, 2], |p| {
        let parts = (0..n_fft).map(|i| {
            let at = mirrored((p[2] * hop + i) as i64 - margin as i64, len);
            let angle = -2.0 * std::f64::consts::PI * (p[1] * i) as f64 / n_fft as f64;
            x.at(&[p[0], at]) * framed(&window, n_fft, i) * if p[3] == 0 { angle.cos() } else { angle.sin() }
        });
        parts.sum::<f64>() * scale
    });
    Example {
        inputs: vec![(x, DType::F32), (window, DType::F32)],
        attrs: vec![int(n_fft), int(hop), Attr::Flag(center), Attr::Flag(normalized)],
        dtype: DType::F32,
        expected,
        depth: n_fft / 4,
    }
}

fn istft(random: &mut Random) -> Example {
    let n_fft = 2 + random.below(30);
    let (n, hop, frames) = (1 + random.below(2), 1 + random.below(n_fft / 2), 1 + random.below(11));
    let (center, normalized) = (random.below(2) == 0, random.below(2) == 0);
    let margin = if center { n_fft / 2 } else { 0 };
    let whole = n_fft + hop * (frames - 1) - margin;
    let len = 1 + random.below(whole + 5);
    let bins = n_fft / 2 + 1;
    let x = values(random, &[n, bins, frames, 2], DType::F32, -1.0, 1.0);
    let window = values(random, &[n_fft], DType::F32, 0.3, 1.0);
    let scale = if normalized {
        (n_fft as f64).sqrt().recip()
    } else {
        1.0 / n_fft as f64
    };
    let expected = Plain::from_fn(&[n, len], |p| {
        let (mut sum, mut squares) = (0.0, 0.0);
        for frame in 0..frames {
            let Some(i) = (p[1] + margin).checked_sub(frame * hop).filter(|i| *i < n_fft) else {
                continue;
            };
            let mut value = 0.0;
            for k in 0..bins {
                let angle = 2.0 * std::f64::consts::PI * (k * i) as f64 / n_fft as f64;
                let (re, im) = (x.at(&[p[0], k, frame, 0]), x.at(&[p[0], k, frame, 1]));
                // The other half of the bins are the conjugates; the first has none, nor the last of an even number.
                let alone = k == 0 || 2 * k == n_fft;
                value += if alone {
                    re * angle.cos()
                } else {
                    2.0 * (re * angle.cos() - im * angle.sin())
                };
            }
            let w = framed(&window, n_fft, i);
            sum += value * scale * w;
            squares += w * w;
        }
        if squares > 0.0 { sum / squares } else { 0.0 }
    });
    Example {
        inputs: vec![(x, DType::F32), (window, DType::F32)],
        attrs: vec![
            int(n_fft),
            int(hop),
            int(len),
            Attr::Flag(center),
            Attr::Flag(normalized),
        ],
        dtype: DType::F32,
        expected,
        depth: n_fft,
    }
}

fn reduction(random: &mut Random, op: Op, shape: &[usize], float: DType) -> Example {
    let axes: Vec<usize> = (0..shape.len()).filter(|_| random.below(2) == 0).collect();
    let gone = |axis: usize| axes.is_empty() || axes.contains(&axis);
    let (keep, unbiased) = (random.below(2) == 0, random.below(2) == 0);
    let count: usize = shape
        .iter()
        .enumerate()
        .filter(|(i, _)| gone(*i))
        .map(|(_, n)| n)
        .product();
    // The unbiased variance of one element is not a number.
    let unbiased = unbiased && count > 1;
    let x = values(random, shape, float, -3.0, 3.0);
    let kept: Vec<usize> = shape
        .iter()
        .enumerate()
        .map(|(i, n)| if gone(i) { 1 } else { *n })
        .collect();
    let mut expected = Plain::from_fn(&kept, |p| {
        let mut found = Vec::new();
        Plain::from_fn(shape, |q| {
            if (0..q.len()).all(|i| gone(i) || q[i] == p[i]) {
                found.push(x.at(q));
            }
            0.0
        });
        if op == Op::Logsumexp {
            return found.iter().map(|x| x.exp()).sum::<f64>().ln();
        }
        let mean = found.iter().sum::<f64>() / count as f64;
        found.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (count as f64 - f64::from(u8::from(unbiased)))
    });
    if !keep {
        expected.shape = shape
            .iter()
            .enumerate()
            .filter(|(i, _)| !gone(*i))
            .map(|(_, n)| *n)
            .collect();
    }
    let mut attrs = vec![Attr::Ints(axes.iter().map(|a| *a as i64).collect()), Attr::Flag(keep)];
    if op == Op::Var {
        attrs.push(Attr::Flag(unbiased));
    }
    let x = x.map(|x| rounded(x, float));
    Example {
        inputs: vec![(x, float)],
        attrs,
        dtype: float,
        expected,
        depth: count,
    }
}
