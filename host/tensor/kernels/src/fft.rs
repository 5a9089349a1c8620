//! Fourier transforms of any length, of several signals at once: each number is an array of one for each signal, so that every step
//! is a loop over them.
//!
//! The method is Stockham's, with a step for each prime factor (4 counts as one); where a factor is large, the transform is a
//! convolution with a chirp (Bluestein, 1970). Roots of unity are computed in f64.

#![allow(
    clippy::inline_always,
    reason = "what is not inlined is not compiled for the caller's instruction set"
)]

use crate::simd::multiversion;

/// Signals that are transformed at once.
pub const LANES: usize = 8;

/// The largest factor that has a step of its own.
const LARGEST: usize = 31;

/// A real number of each signal.
pub type Lanes = [f32; LANES];

/// A complex number of each signal.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Complex {
    /// Real parts.
    pub re: Lanes,
    /// Imaginary parts.
    pub im: Lanes,
}

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> Lanes {
    let mut out = [0.0; LANES];
    for (i, x) in out.iter_mut().enumerate() {
        *x = f(i);
    }
    out
}

impl Complex {
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        Self {
            re: each(|i| self.re[i] + other.re[i]),
            im: each(|i| self.im[i] + other.im[i]),
        }
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        Self {
            re: each(|i| self.re[i] - other.re[i]),
            im: each(|i| self.im[i] - other.im[i]),
        }
    }

    /// Times a number that all signals share.
    #[inline(always)]
    fn times(self, [re, im]: [f32; 2]) -> Self {
        Self {
            re: each(|i| self.re[i] * re - self.im[i] * im),
            im: each(|i| self.re[i] * im + self.im[i] * re),
        }
    }

    #[inline(always)]
    fn scaled(self, by: f32) -> Self {
        Self {
            re: each(|i| self.re[i] * by),
            im: each(|i| self.im[i] * by),
        }
    }

    /// Times -i.
    #[inline(always)]
    fn turned(self) -> Self {
        Self {
            re: self.im,
            im: each(|i| -self.re[i]),
        }
    }

    #[inline(always)]
    fn conjugate(self) -> Self {
        Self {
            re: self.re,
            im: each(|i| -self.im[i]),
        }
    }

    #[inline(always)]
    fn swapped(self) -> Self {
        Self {
            re: self.im,
            im: self.re,
        }
    }
}

/// `e^(-2 pi i k / n)`.
fn root(k: usize, n: usize) -> [f32; 2] {
    let angle = -2.0 * std::f64::consts::PI * (k % n) as f64 / n as f64;
    [angle.cos() as f32, angle.sin() as f32]
}

/// A complex transform of one length.
#[derive(Clone, Debug)]
struct Plan {
    n: usize,
    factors: Vec<usize>,
    roots: Vec<[f32; 2]>,
    chirp: Option<Box<Chirp>>,
}

/// A transform as a convolution.
#[derive(Clone, Debug)]
struct Chirp {
    plan: Plan,
    /// `e^(-pi i k^2 / n)`.
    chirp: Vec<[f32; 2]>,
    /// The transform of its conjugate, divided by the length of the convolution.
    filter: Vec<[f32; 2]>,
}

impl Plan {
    fn new(n: usize) -> Self {
        let (mut factors, mut rest) = (Vec::new(), n);
        for factor in std::iter::once(4).chain(2..=LARGEST) {
            while rest > 1 && rest.is_multiple_of(factor) {
                factors.push(factor);
                rest /= factor;
            }
        }
        if rest > 1 {
            return Self {
                n,
                factors: Vec::new(),
                roots: Vec::new(),
                chirp: Some(Box::new(Chirp::new(n))),
            };
        }
        Self {
            n,
            factors,
            roots: (0..n).map(|k| root(k, n)).collect(),
            chirp: None,
        }
    }

    /// Complex numbers that [`Plan::run`] needs beside its data.
    fn scratch(&self) -> usize {
        self.chirp.as_ref().map_or(self.n, |chirp| 2 * chirp.plan.n)
    }

    /// Transforms in place.
    fn run(&self, data: &mut [Complex], scratch: &mut [Complex]) {
        match &self.chirp {
            Some(chirp) => chirp.run(data, scratch),
            None => stockham(data, &mut scratch[..self.n], &self.factors, &self.roots),
        }
    }
}

impl Chirp {
    fn new(n: usize) -> Self {
        let m = (2 * n).next_power_of_two();
        let plan = Plan::new(m);
        // k^2 modulo 2n, so that the angle stays exact.
        let chirp: Vec<_> = (0..n).map(|k| root(k * k % (2 * n), 2 * n)).collect();
        let mut data = vec![Complex::default(); 2 * m];
        let (filter, scratch) = data.split_at_mut(m);
        for (k, [re, im]) in chirp.iter().enumerate() {
            let number = Complex {
                re: [*re; LANES],
                im: [-im; LANES],
            };
            filter[k] = number;
            filter[(m - k) % m] = number;
        }
        plan.run(filter, scratch);
        let filter = filter
            .iter()
            .map(|c| [c.re[0] / m as f32, c.im[0] / m as f32])
            .collect();
        Self { plan, chirp, filter }
    }

    fn run(&self, data: &mut [Complex], scratch: &mut [Complex]) {
        let m = self.plan.n;
        let (wide, scratch) = scratch.split_at_mut(m);
        let scratch = &mut scratch[..m];
        for (to, (x, chirp)) in wide.iter_mut().zip(data.iter().zip(&self.chirp)) {
            *to = x.times(*chirp);
        }
        wide[data.len()..].fill(Complex::default());
        self.plan.run(wide, scratch);
        // Backwards is forwards with the parts exchanged.
        for (x, filter) in wide.iter_mut().zip(&self.filter) {
            *x = x.times(*filter).swapped();
        }
        self.plan.run(wide, scratch);
        for (to, (x, chirp)) in data.iter_mut().zip(wide.iter().zip(&self.chirp)) {
            *to = x.swapped().times(*chirp);
        }
    }
}

multiversion! {
    /// Transforms `data` in place; `other` is as long.
    fn stockham(data: &mut [Complex], other: &mut [Complex], factors: &[usize], roots: &[[f32; 2]]) {
        let n = data.len();
        let (mut from, mut to) = (&mut *data, &mut *other);
        let mut stride = 1;
        for radix in factors {
            let blocks = n / stride / radix;
            match radix {
                2 => step::<2>(from, to, stride, blocks, roots, |[a, b]| [a.plus(b), a.minus(b)]),
                3 => step::<3>(from, to, stride, blocks, roots, three),
                4 => step::<4>(from, to, stride, blocks, roots, four),
                5 => step::<5>(from, to, stride, blocks, roots, five),
                _ => any_step(from, to, stride, blocks, *radix, roots),
            }
            std::mem::swap(&mut from, &mut to);
            stride *= radix;
        }
        if factors.len() % 2 == 1 {
            // What was computed last lies in `other`, now called `from`.
            to.copy_from_slice(from);
        }
    }
}

/// A step of a fixed radix: `blocks` butterflies, each for `stride` numbers.
#[inline(always)]
fn step<const R: usize>(
    from: &[Complex],
    to: &mut [Complex],
    stride: usize,
    blocks: usize,
    roots: &[[f32; 2]],
    butterfly: impl Fn([Complex; R]) -> [Complex; R],
) {
    for p in 0..blocks {
        let mut turns = [[1.0, 0.0]; R];
        for (k, turn) in turns.iter_mut().enumerate() {
            *turn = roots[p * k * stride];
        }
        for q in 0..stride {
            let mut x = [Complex::default(); R];
            for (j, x) in x.iter_mut().enumerate() {
                *x = from[q + stride * (p + blocks * j)];
            }
            for (k, y) in butterfly(x).into_iter().enumerate() {
                to[q + stride * (R * p + k)] = if p == 0 { y } else { y.times(turns[k]) };
            }
        }
    }
}

#[inline(always)]
fn three([a, b, c]: [Complex; 3]) -> [Complex; 3] {
    // The sine of 60 degrees.
    const SIN: f32 = 0.866_025_4;
    let (sum, difference) = (b.plus(c), b.minus(c).turned().scaled(SIN));
    let middle = a.minus(sum.scaled(0.5));
    [a.plus(sum), middle.plus(difference), middle.minus(difference)]
}

#[inline(always)]
fn four([a, b, c, d]: [Complex; 4]) -> [Complex; 4] {
    let (ac, bd) = (a.plus(c), b.plus(d));
    let (a_c, b_d) = (a.minus(c), b.minus(d).turned());
    [ac.plus(bd), a_c.plus(b_d), ac.minus(bd), a_c.minus(b_d)]
}

#[inline(always)]
fn five([a, b, c, d, e]: [Complex; 5]) -> [Complex; 5] {
    // Cosines and sines of 72 and 144 degrees.
    const C1: f32 = 0.309_017;
    const C2: f32 = -0.809_017;
    const S1: f32 = 0.951_056_5;
    const S2: f32 = 0.587_785_25;
    let (be, cd) = (b.plus(e), c.plus(d));
    let (b_e, c_d) = (b.minus(e).turned(), c.minus(d).turned());
    let first = a.plus(be.scaled(C1)).plus(cd.scaled(C2));
    let second = a.plus(be.scaled(C2)).plus(cd.scaled(C1));
    let (up, down) = (
        b_e.scaled(S1).plus(c_d.scaled(S2)),
        b_e.scaled(S2).minus(c_d.scaled(S1)),
    );
    [
        a.plus(be).plus(cd),
        first.plus(up),
        second.plus(down),
        second.minus(down),
        first.minus(up),
    ]
}

/// A step of any radix up to [`LARGEST`].
#[inline(always)]
fn any_step(from: &[Complex], to: &mut [Complex], stride: usize, blocks: usize, radix: usize, roots: &[[f32; 2]]) {
    let unit = roots.len() / radix;
    for p in 0..blocks {
        for q in 0..stride {
            for k in 0..radix {
                let mut sum = from[q + stride * p];
                for j in 1..radix {
                    sum = sum.plus(from[q + stride * (p + blocks * j)].times(roots[j * k % radix * unit]));
                }
                to[q + stride * (radix * p + k)] = sum.times(roots[p * k * stride]);
            }
        }
    }
}

/// The transform of real signals of one length, and back.
#[derive(Clone, Debug)]
pub struct RealFft {
    len: usize,
    plan: Plan,
    /// Roots that make a transform of `len` of one of half that, if it is even.
    halves: Vec<[f32; 2]>,
}

impl RealFft {
    /// For signals of `len` elements.
    ///
    /// # Panics
    /// If `len` is 0.
    pub fn new(len: usize) -> Self {
        assert!(len > 0, "a transform of nothing");
        if len.is_multiple_of(2) {
            let halves = (0..=len / 2).map(|k| root(k, len)).collect();
            Self {
                len,
                plan: Plan::new(len / 2),
                halves,
            }
        } else {
            Self {
                len,
                plan: Plan::new(len),
                halves: Vec::new(),
            }
        }
    }

    /// Memory that [`forward`](Self::forward) and [`inverse`](Self::inverse) need.
    pub fn scratch(&self) -> Vec<Complex> {
        vec![Complex::default(); self.plan.n + self.plan.scratch()]
    }

    /// Calls `bin(k, X[k])` for k up to and with `len / 2`, where `X[k] = sum of x[j] * e^(-2 pi i j k / len)`.
    ///
    /// # Panics
    /// If `x` has not `len` elements, or `scratch` is not of this transform.
    pub fn forward(&self, x: &[Lanes], scratch: &mut [Complex], mut bin: impl FnMut(usize, Complex)) {
        assert_eq!(x.len(), self.len, "a signal");
        let n = self.plan.n;
        let (data, scratch) = scratch.split_at_mut(n);
        if self.halves.is_empty() {
            for (to, x) in data.iter_mut().zip(x) {
                *to = Complex {
                    re: *x,
                    im: [0.0; LANES],
                };
            }
            self.plan.run(data, scratch);
            data[..=n / 2].iter().enumerate().for_each(|(k, x)| bin(k, *x));
            return;
        }
        // Even elements as real parts, odd ones as imaginary parts.
        for (to, pair) in data.iter_mut().zip(x.as_chunks::<2>().0) {
            *to = Complex {
                re: pair[0],
                im: pair[1],
            };
        }
        self.plan.run(data, scratch);
        for (k, root) in self.halves.iter().enumerate() {
            let (a, b) = (data[k % n], data[(n - k) % n].conjugate());
            let odd = a.minus(b).turned().times(*root);
            bin(k, a.plus(b).plus(odd).scaled(0.5));
        }
    }

    /// The signal, times `len`, whose transform is `bin(k)`; the imaginary parts of bin 0, and of the last if `len` is even, do not
    /// count.
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn inverse(&self, bin: impl Fn(usize) -> Complex, scratch: &mut [Complex], x: &mut [Lanes]) {
        assert_eq!(x.len(), self.len, "a signal");
        let n = self.plan.n;
        let (data, scratch) = scratch.split_at_mut(n);
        let real = |k: usize| Complex {
            im: [0.0; LANES],
            ..bin(k)
        };
        if self.halves.is_empty() {
            // Backwards is forwards with the parts exchanged.
            data[0] = real(0).swapped();
            for k in 1..=n / 2 {
                let value = bin(k);
                data[k] = value.swapped();
                data[n - k] = value.conjugate().swapped();
            }
            self.plan.run(data, scratch);
            x.iter_mut().zip(data).for_each(|(x, y)| *x = y.im);
            return;
        }
        let at = |k: usize| if k == 0 || k == n { real(k) } else { bin(k) };
        for (k, to) in data.iter_mut().enumerate() {
            let (a, b) = (at(k), at(n - k).conjugate());
            let [re, im] = self.halves[k];
            // Even elements plus i times odd ones; turned thrice is i times.
            let odd = a.minus(b).times([re, -im]).turned().scaled(-1.0);
            *to = a.plus(b).plus(odd).swapped();
        }
        self.plan.run(data, scratch);
        for (pair, y) in x.as_chunks_mut::<2>().0.iter_mut().zip(data) {
            *pair = [y.im, y.re];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(len: usize) -> Vec<Lanes> {
        let mut state = 5_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 24) - 0.5
        };
        (0..len).map(|_| std::array::from_fn(|_| next() as f32)).collect()
    }

    /// The transform of one signal at some bins, in float64.
    fn exact(x: &[Lanes], lane: usize, k: usize) -> [f64; 2] {
        let n = x.len();
        x.iter().enumerate().fold([0.0, 0.0], |[re, im], (j, x)| {
            let angle = -2.0 * std::f64::consts::PI * (j * k % n) as f64 / n as f64;
            [
                re + f64::from(x[lane]) * angle.cos(),
                im + f64::from(x[lane]) * angle.sin(),
            ]
        })
    }

    #[test]
    fn transforms_agree_with_float64_and_come_back() {
        let lens = (1..=130).chain([
            160,
            200,
            256,
            400,
            441,
            480,
            512,
            997,
            1000,
            1021,
            1024,
            1058,
            2003,
            2048,
            3 * 37,
            4 * 41,
            31 * 31,
            2 * 31 * 29,
            16_381,
            32_749,
            65_521,
            65_535,
            65_536,
        ]);
        for len in lens {
            let fft = RealFft::new(len);
            let x = signal(len);
            let mut scratch = fft.scratch();
            let mut bins = vec![Complex::default(); len / 2 + 1];
            fft.forward(&x, &mut scratch, |k, value| bins[k] = value);
            let norm = (len as f64).sqrt();
            // Of long ones, some bins.
            for k in (0..bins.len()).step_by(1 + bins.len() / 300) {
                for lane in [0, LANES - 1] {
                    let [re, im] = exact(&x, lane, k);
                    let off = (f64::from(bins[k].re[lane]) - re).hypot(f64::from(bins[k].im[lane]) - im);
                    assert!(off < 1.5e-6 * norm, "{len} at {k}: {off}");
                }
            }
            let mut back = vec![[0.0; LANES]; len];
            fft.inverse(|k| bins[k], &mut scratch, &mut back);
            for (x, y) in x.iter().flatten().zip(back.iter().flatten()) {
                assert!(
                    (x - y / len as f32).abs() < 2e-6,
                    "{len}: {x} came back as {}",
                    y / len as f32
                );
            }
        }
    }
}
