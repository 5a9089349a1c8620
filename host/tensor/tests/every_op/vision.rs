//! References of the ops of images, channels and random numbers.

use maquette_tensor::ops::{Attr, DType, Op};

use super::{ALL, Example, FLOATS, values};
use crate::common::{Plain, Random, rounded};

/// A kernel's way along the rows and columns.
struct Way {
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    /// Before and after the rows, before and after the columns.
    padding: [usize; 4],
}

impl Way {
    fn random(random: &mut Random) -> Self {
        let mut pair = |least: usize, n: usize| [least + random.below(n), least + random.below(n)];
        let (kernel, stride, dilation) = (pair(1, 3), pair(1, 3), pair(1, 2));
        let (y, x) = (pair(0, 3), pair(0, 3));
        Self {
            kernel,
            stride,
            dilation,
            padding: [y[0], y[1], x[0], x[1]],
        }
    }

    fn span(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilation[axis] + 1
    }

    /// An image that the kernel fits.
    fn image(&self, random: &mut Random) -> [usize; 2] {
        [0, 1].map(|axis| self.span(axis) + random.below(7))
    }

    fn size(&self, image: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|axis| {
            let padded = image[axis] + self.padding[2 * axis] + self.padding[2 * axis + 1];
            (padded - self.span(axis)) / self.stride[axis] + 1
        })
    }

    /// Where element `tap` of the kernel is for place `at` of the output, if that is inside the image.
    fn seen(&self, axis: usize, at: usize, tap: usize, size: usize) -> Option<usize> {
        let at = at * self.stride[axis] + tap * self.dilation[axis];
        at.checked_sub(self.padding[2 * axis]).filter(|at| *at < size)
    }
}

fn pair(of: [usize; 2]) -> Attr {
    match of {
        [a, b] if a == b => Attr::Int(a as i64),
        [a, b] => Attr::Ints(vec![a as i64, b as i64]),
    }
}

fn ints(of: &[usize]) -> Attr {
    Attr::Ints(of.iter().map(|n| *n as i64).collect())
}

pub(super) fn example(random: &mut Random, op: Op) -> Example {
    let float = random.pick(&FLOATS);
    match op {
        Op::Conv2d => conv2d(random, float),
        Op::ConvTranspose2d => conv_transpose2d(random, float),
        Op::MaxPool2d | Op::AvgPool2d => pool(random, op, float),
        Op::AdaptiveAvgPool2d | Op::ResizeNearest2d | Op::ResizeBilinear2d => sized(random, op, float),
        Op::GroupNorm => group_norm(random, float),
        Op::BatchNorm | Op::Prelu => by_channel(random, op, float),
        Op::PixelShuffle | Op::PixelUnshuffle => shuffle(random, op),
        Op::Randn | Op::RandUniform => numbers(random, op),
        _ => element(random, op, float),
    }
}

fn weights(
    random: &mut Random,
    x: Plain,
    weight: Plain,
    outputs: usize,
    float: DType,
) -> (Vec<(Plain, DType)>, Option<Plain>) {
    let bias = (random.below(2) == 0).then(|| values(random, &[outputs], float, -1.0, 1.0));
    let mut inputs = vec![(x, float), (weight, float)];
    inputs.extend(bias.clone().map(|bias| (bias, float)));
    (inputs, bias)
}

fn conv2d(random: &mut Random, float: DType) -> Example {
    let way = Way::random(random);
    let [h, w] = way.image(random);
    let n = 1 + random.below(2);
    // Each kernel of its own channel, groups, or all channels.
    let (groups, cg, og) = match random.below(3) {
        0 => (1 + random.below(4), 1, 1 + random.below(2)),
        1 => (1 + random.below(3), 1 + random.below(3), 1 + random.below(3)),
        _ => (1, 1 + random.below(6), 1 + random.below(6)),
    };
    let x = values(random, &[n, groups * cg, h, w], float, -1.0, 1.0);
    let weight = values(
        random,
        &[groups * og, cg, way.kernel[0], way.kernel[1]],
        float,
        -1.0,
        1.0,
    );
    let (inputs, bias) = weights(random, x.clone(), weight.clone(), groups * og, float);
    let [oh, ow] = way.size([h, w]);
    let expected = Plain::from_fn(&[n, groups * og, oh, ow], |p| {
        let mut sum = bias.as_ref().map_or(0.0, |bias| bias.at(&[p[1]]));
        for k in 0..cg {
            for a in 0..way.kernel[0] {
                for b in 0..way.kernel[1] {
                    if let (Some(i), Some(j)) = (way.seen(0, p[2], a, h), way.seen(1, p[3], b, w)) {
                        sum += x.at(&[p[0], p[1] / og * cg + k, i, j]) * weight.at(&[p[1], k, a, b]);
                    }
                }
            }
        }
        sum
    });
    Example {
        inputs,
        attrs: vec![
            pair(way.stride),
            ints(&way.padding),
            pair(way.dilation),
            Attr::Int(groups as i64),
        ],
        dtype: float,
        expected,
        depth: cg * way.kernel[0] * way.kernel[1],
    }
}

fn conv_transpose2d(random: &mut Random, float: DType) -> Example {
    let mut way = Way::random(random);
    // No more is cut off than there is.
    let cut = [0, 1].map(|axis| way.padding[2 * axis].min((way.span(axis) - 1) / 2));
    way.padding = [cut[0], cut[0], cut[1], cut[1]];
    let extra = [0, 1].map(|axis| random.below(way.stride[axis].max(way.dilation[axis])));
    let (h, w, n) = (1 + random.below(6), 1 + random.below(6), 1 + random.below(2));
    let (groups, cg, og) = (1 + random.below(3), 1 + random.below(4), 1 + random.below(3));
    let x = values(random, &[n, groups * cg, h, w], float, -1.0, 1.0);
    let weight = values(
        random,
        &[groups * cg, og, way.kernel[0], way.kernel[1]],
        float,
        -1.0,
        1.0,
    );
    let (inputs, bias) = weights(random, x.clone(), weight.clone(), groups * og, float);
    let size = [0, 1].map(|axis| ([h, w][axis] - 1) * way.stride[axis] + way.span(axis) + extra[axis] - 2 * cut[axis]);
    let expected = Plain::from_fn(&[n, groups * og, size[0], size[1]], |p| {
        let mut sum = bias.as_ref().map_or(0.0, |bias| bias.at(&[p[1]]));
        for k in 0..cg {
            for i in 0..h {
                for j in 0..w {
                    for a in 0..way.kernel[0] {
                        for b in 0..way.kernel[1] {
                            let row = i * way.stride[0] + a * way.dilation[0];
                            let column = j * way.stride[1] + b * way.dilation[1];
                            if row == p[2] + cut[0] && column == p[3] + cut[1] {
                                let channel = p[1] / og * cg + k;
                                sum += x.at(&[p[0], channel, i, j]) * weight.at(&[channel, p[1] % og, a, b]);
                            }
                        }
                    }
                }
            }
        }
        sum
    });
    Example {
        inputs,
        attrs: vec![
            pair(way.stride),
            pair(cut),
            pair(extra),
            pair(way.dilation),
            Attr::Int(groups as i64),
        ],
        dtype: float,
        expected,
        depth: cg * way.kernel[0] * way.kernel[1],
    }
}

fn pool(random: &mut Random, op: Op, float: DType) -> Example {
    let mut way = Way::random(random);
    way.dilation = [1, 1];
    let padding = [0, 1].map(|axis| random.below(way.kernel[axis]));
    way.padding = [padding[0], padding[0], padding[1], padding[1]];
    let [h, w] = way.image(random);
    let (n, c) = (1 + random.below(2), 1 + random.below(3));
    let x = values(random, &[n, c, h, w], float, -3.0, 3.0);
    let counted = random.below(2) == 0;
    let by_kernel = random.below(3) == 0;
    if by_kernel {
        way.stride = way.kernel;
    }
    let [oh, ow] = way.size([h, w]);
    let expected = Plain::from_fn(&[n, c, oh, ow], |p| {
        let mut seen = Vec::new();
        for a in 0..way.kernel[0] {
            for b in 0..way.kernel[1] {
                if let (Some(i), Some(j)) = (way.seen(0, p[2], a, h), way.seen(1, p[3], b, w)) {
                    seen.push(x.at(&[p[0], p[1], i, j]));
                }
            }
        }
        let count = if counted {
            way.kernel[0] * way.kernel[1]
        } else {
            seen.len()
        };
        match op {
            Op::MaxPool2d => seen.into_iter().fold(f64::MIN, f64::max),
            _ => seen.into_iter().sum::<f64>() / count as f64,
        }
    });
    let stride = if by_kernel { Attr::Unset } else { pair(way.stride) };
    let mut attrs = vec![pair(way.kernel), stride, pair(padding), Attr::Flag(false)];
    if op == Op::AvgPool2d {
        attrs.push(Attr::Flag(counted));
    }
    Example {
        inputs: vec![(x, float)],
        attrs,
        dtype: float,
        expected,
        depth: way.kernel[0] * way.kernel[1],
    }
}

fn sized(random: &mut Random, op: Op, float: DType) -> Example {
    let mut size = || [1 + random.below(9), 1 + random.below(9)];
    let ([h, w], [oh, ow]) = (size(), size());
    let (n, c) = (1 + random.below(2), 1 + random.below(3));
    let x = values(random, &[n, c, h, w], float, -3.0, 3.0);
    let flag = random.below(2) == 0;
    let expected = Plain::from_fn(&[n, c, oh, ow], |p| {
        let at = |i: usize, j: usize| x.at(&[p[0], p[1], i, j]);
        match op {
            Op::AdaptiveAvgPool2d => {
                let (top, bottom) = (p[2] * h / oh, ((p[2] + 1) * h).div_ceil(oh));
                let (left, right) = (p[3] * w / ow, ((p[3] + 1) * w).div_ceil(ow));
                let sum: f64 = (top..bottom)
                    .flat_map(|i| (left..right).map(move |j| (i, j)))
                    .map(|(i, j)| at(i, j))
                    .sum();
                sum / ((bottom - top) * (right - left)) as f64
            }
            Op::ResizeNearest2d => {
                let nearest = |i: usize, from: usize, to: usize| {
                    // Far enough from whole numbers to be rounded as exact numbers would be.
                    let shift = if flag { 0.5 } else { 1e-9 };
                    (((i as f64 + shift) * from as f64 / to as f64 + 1e-9) as usize).min(from - 1)
                };
                at(nearest(p[2], h, oh), nearest(p[3], w, ow))
            }
            _ => {
                let between = |i: usize, from: usize, to: usize| {
                    let at = match flag {
                        true => i as f64 * (from - 1) as f64 / (to.max(2) - 1) as f64,
                        false => ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0),
                    };
                    let first = at.floor();
                    (first as usize, (first as usize + 1).min(from - 1), at - first)
                };
                let ((a, b, y), (l, r, x)) = (between(p[2], h, oh), between(p[3], w, ow));
                (at(a, l) * (1.0 - x) + at(a, r) * x) * (1.0 - y) + (at(b, l) * (1.0 - x) + at(b, r) * x) * y
            }
        }
    });
    let mut attrs = vec![ints(&[oh, ow])];
    if op != Op::AdaptiveAvgPool2d {
        attrs.push(Attr::Flag(flag));
    }
    Example {
        inputs: vec![(x, float)],
        attrs,
        dtype: float,
        expected,
        depth: 4 + h * w / (oh * ow),
    }
}

/// `[n, c, ..]` with the number of channels.
fn channels(random: &mut Random, c: usize) -> Vec<usize> {
    let rank = random.below(3);
    [vec![1 + random.below(2), c], random.shape(rank)].concat()
}

fn group_norm(random: &mut Random, float: DType) -> Example {
    let (groups, each) = (1 + random.below(3), 1 + random.below(3));
    let c = groups * each;
    let shape = channels(random, c);
    let x = values(random, &shape, float, -3.0, 3.0);
    let (weight, bias) = (
        values(random, &[c], float, 0.5, 2.0),
        values(random, &[c], float, -1.0, 1.0),
    );
    let given = random.below(3);
    let eps = 0.1;
    let inside = x.data.len() / shape[0] / groups;
    let expected = Plain::from_fn(&shape, |p| {
        let first = (p[0] * groups + p[1] / each) * inside;
        let group = &x.data[first..first + inside];
        let mean = group.iter().sum::<f64>() / inside as f64;
        let variance = group.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / inside as f64;
        let scale = if given > 0 { weight.at(&[p[1]]) } else { 1.0 };
        (x.at(p) - mean) / (variance + eps).sqrt() * scale + if given > 1 { bias.at(&[p[1]]) } else { 0.0 }
    });
    let mut inputs = vec![(x, float), (weight, float), (bias, float)];
    inputs.truncate(1 + given);
    Example {
        inputs,
        attrs: vec![Attr::Int(groups as i64), Attr::Float(eps)],
        dtype: float,
        expected,
        depth: inside,
    }
}

fn by_channel(random: &mut Random, op: Op, float: DType) -> Example {
    let c = 1 + random.below(4);
    let shape = channels(random, c);
    let x = values(random, &shape, float, -3.0, 3.0);
    if op == Op::Prelu {
        let weight = values(random, &[random_one(c, shape.len())], float, -1.0, 1.0);
        let slope = |channel: usize| weight.at(&[channel % weight.data.len()]);
        let expected = Plain::from_fn(&shape, |p| if x.at(p) < 0.0 { slope(p[1]) * x.at(p) } else { x.at(p) });
        return one(vec![(x, float), (weight, float)], vec![], float, expected);
    }
    let mut parameter = |low, high| values(random, &[c], float, low, high);
    let (mean, var) = (parameter(-1.0, 1.0), parameter(0.0, 2.0));
    let (weight, bias) = (parameter(0.5, 2.0), parameter(-1.0, 1.0));
    let eps = 0.1;
    let expected = Plain::from_fn(&shape, |p| {
        let channel = &p[1..2];
        (x.at(p) - mean.at(channel)) / (var.at(channel) + eps).sqrt() * weight.at(channel) + bias.at(channel)
    });
    let inputs = [x, mean, var, weight, bias].map(|plain| (plain, float)).to_vec();
    Example {
        inputs,
        attrs: vec![Attr::Float(eps)],
        dtype: float,
        expected,
        depth: 4,
    }
}

/// One weight for all channels, or one each.
fn random_one(channels: usize, rank: usize) -> usize {
    if rank == 3 { 1 } else { channels }
}

fn one(inputs: Vec<(Plain, DType)>, attrs: Vec<Attr>, dtype: DType, expected: Plain) -> Example {
    Example {
        inputs,
        attrs,
        dtype,
        expected,
        depth: 1,
    }
}

fn element(random: &mut Random, op: Op, float: DType) -> Example {
    let rank = random.below(4);
    let shape = random.shape(rank);
    let x = values(random, &shape, float, -5.0, 5.0);
    let (attrs, function): (Vec<Attr>, fn(f64) -> f64) = match op {
        Op::LeakyRelu => (vec![Attr::Float(0.125)], |x| if x < 0.0 { 0.125 * x } else { x }),
        Op::Elu => (vec![Attr::Float(1.5)], |x| if x > 0.0 { x } else { 1.5 * x.exp_m1() }),
        Op::HardSigmoid => (vec![], |x| (x + 3.0).clamp(0.0, 6.0) / 6.0),
        Op::HardSwish => (vec![], |x| x * (x + 3.0).clamp(0.0, 6.0) / 6.0),
        Op::Mish => (vec![], |x| x * x.exp().ln_1p().tanh()),
        _ => (vec![], |x| x.exp().ln_1p()),
    };
    let expected = x.map(function);
    one(vec![(x, float)], attrs, float, expected)
}

fn shuffle(random: &mut Random, op: Op) -> Example {
    let any = random.pick(&ALL);
    let (n, c, h, w) = (
        1 + random.below(2),
        1 + random.below(3),
        1 + random.below(4),
        1 + random.below(4),
    );
    let f = 1 + random.below(3);
    let (packed, spread) = ([n, c * f * f, h, w], [n, c, h * f, w * f]);
    let at_packed = |p: &[usize]| [p[0], p[1] * f * f + p[2] % f * f + p[3] % f, p[2] / f, p[3] / f];
    let at_spread = |p: &[usize]| {
        let rest = p[1] % (f * f);
        [p[0], p[1] / (f * f), p[2] * f + rest / f, p[3] * f + rest % f]
    };
    let (x, expected) = if op == Op::PixelShuffle {
        let x = values(random, &packed, any, 0.0, 9.0);
        let expected = Plain::from_fn(&spread, |p| x.at(&at_packed(p)));
        (x, expected)
    } else {
        let x = values(random, &spread, any, 0.0, 9.0);
        let expected = Plain::from_fn(&packed, |p| x.at(&at_spread(p)));
        (x, expected)
    };
    one(vec![(x, any)], vec![Attr::Int(f as i64)], any, expected)
}

/// Philox4x32-10 as the paper has it.
fn philox(mut counter: [u64; 4], mut key: [u64; 2]) -> [u64; 4] {
    const WORD: u64 = 1 << 32;
    for _ in 0..10 {
        let (first, second) = (counter[0] * 0xD251_1F53, counter[2] * 0xCD9E_8D57);
        counter = [
            (second / WORD) ^ counter[1] ^ key[0],
            second % WORD,
            (first / WORD) ^ counter[3] ^ key[1],
            first % WORD,
        ];
        key = [(key[0] + 0x9E37_79B9) % WORD, (key[1] + 0xBB67_AE85) % WORD];
    }
    counter
}

fn numbers(random: &mut Random, op: Op) -> Example {
    let rank = random.below(4);
    let shape = random.shape(rank);
    let (seed, offset) = (random.next() as i64, random.next() as i64);
    let halves = |word: i64| [word as u64 & 0xffff_ffff, word as u64 >> 32];
    let mut place = 0;
    let expected = Plain::from_fn(&shape, |_| {
        let (block, word) = (place / 4, place % 4);
        place += 1;
        let [low, high] = halves(offset);
        let words = philox([block, 0, low, high], halves(seed)).map(|word| (word >> 8) as f64);
        let unit = f64::from(1 << 24);
        if op == Op::RandUniform {
            return words[word as usize] / unit;
        }
        let first = word as usize / 2 * 2;
        let radius = (-2.0 * ((words[first] + 1.0) / unit).ln()).sqrt();
        let angle = std::f64::consts::TAU * words[first + 1] / unit;
        radius * if word % 2 == 0 { angle.cos() } else { angle.sin() }
    });
    let expected = expected.map(|x| rounded(x, DType::F32));
    let attrs = vec![ints(&shape), Attr::Int(seed), Attr::Int(offset)];
    one(vec![], attrs, DType::F32, expected)
}
