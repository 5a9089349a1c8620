//! The Fourier transform of real signals of any length, several at once. Source: Stockham's autosort algorithm with mixed radices,
//! as in Van Loan, "Computational Frameworks for the Fast Fourier Transform" (1992), section 1.7.

use std::f64::consts::TAU;

/// How many signals are transformed at once, element by element side by side: what compilers make vectors of.
pub(super) const LANES: usize = 8;

/// One element of all signals.
pub(super) type Lanes = [f32; LANES];

/// The transform of real signals of `len` samples.
#[derive(Clone, Debug)]
pub(super) struct RealFft {
    len: usize,
    /// Even lengths are transformed as complex signals of half the length.
    complex: Complex,
    /// `exp(-iτk / len)` for k up to the middle; empty for odd lengths.
    twist: Vec<[f32; 2]>,
}

/// What a transform works in; kept from one to the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    re: Vec<Lanes>,
    im: Vec<Lanes>,
    other_re: Vec<Lanes>,
    other_im: Vec<Lanes>,
}

impl RealFft {
    /// `len` is at least 1.
    pub(super) fn new(len: usize) -> Self {
        let even = len.is_multiple_of(2);
        let half = if even { len / 2 } else { len };
        Self {
            len,
            complex: Complex::new(half),
            twist: if even {
                (0..=half).map(|k| turn(k, len)).collect()
            } else {
                Vec::new()
            },
        }
    }

    /// The squared magnitudes of the frequencies 0 to `len / 2` of the `len` elements that `signal(i)` gives.
    pub(super) fn power(&self, signal: impl Fn(usize) -> Lanes, scratch: &mut Scratch, out: &mut [Lanes]) {
        let even = !self.twist.is_empty();
        let n = self.complex.len;
        for part in [
            &mut scratch.re,
            &mut scratch.im,
            &mut scratch.other_re,
            &mut scratch.other_im,
        ] {
            part.resize(n, [0.0; LANES]);
        }
        for i in 0..n {
            if even {
                scratch.re[i] = signal(2 * i);
                scratch.im[i] = signal(2 * i + 1);
            } else {
                scratch.re[i] = signal(i);
                scratch.im[i] = [0.0; LANES];
            }
        }
        self.complex.run(scratch);
        let (re, im) = (&scratch.re, &scratch.im);
        for (k, power) in out.iter_mut().enumerate().take(self.len / 2 + 1) {
            if !even {
                for lane in 0..LANES {
                    power[lane] = re[k][lane].powi(2) + im[k][lane].powi(2);
                }
                continue;
            }
            // The transforms of the even and the odd samples are the symmetric and the antisymmetric part.
            let (a, b) = (k % n, (n - k) % n);
            let [cos, sin] = self.twist[k];
            for lane in 0..LANES {
                let (even_re, even_im) = ((re[a][lane] + re[b][lane]) * 0.5, (im[a][lane] - im[b][lane]) * 0.5);
                let (odd_re, odd_im) = ((im[a][lane] + im[b][lane]) * 0.5, (re[b][lane] - re[a][lane]) * 0.5);
                let x = even_re + odd_re * cos - odd_im * sin;
                let y = even_im + odd_re * sin + odd_im * cos;
                power[lane] = x * x + y * y;
            }
        }
    }
}

/// The transform of complex signals.
#[derive(Clone, Debug)]
struct Complex {
    len: usize,
    /// Each with `exp(-iτpj / n)` for its p and j, and `exp(-iτj / radix)`.
    stages: Vec<Stage>,
}

#[derive(Clone, Debug)]
struct Stage {
    radix: usize,
    twiddles: Vec<[f32; 2]>,
    roots: Vec<[f32; 2]>,
}

impl Complex {
    fn new(len: usize) -> Self {
        let mut stages = Vec::new();
        let mut n = len;
        let mut radix = 4;
        while n > 1 {
            while !n.is_multiple_of(radix) {
                radix = match radix {
                    4 => 2,
                    2 => 3,
                    // Nothing but a prime is left.
                    r if (r + 2) * (r + 2) > n => n,
                    r => r + 2,
                };
            }
            let rest = n / radix;
            stages.push(Stage {
                radix,
                twiddles: (0..rest)
                    .flat_map(|p| (0..radix).map(move |j| turn(p * j, n)))
                    .collect(),
                roots: (0..radix).map(|j| turn(j, radix)).collect(),
            });
            n = rest;
        }
        Self { len, stages }
    }

    /// Transforms `scratch.re` and `scratch.im` in place.
    fn run(&self, scratch: &mut Scratch) {
        let mut stride = 1;
        for stage in &self.stages {
            let rest = self.len / stride / stage.radix;
            for p in 0..rest {
                let twiddles = &stage.twiddles[p * stage.radix..(p + 1) * stage.radix];
                for q in 0..stride {
                    let from = |k: usize| q + stride * (p + rest * k);
                    let to = |j: usize| q + stride * (stage.radix * p + j);
                    match stage.radix {
                        2 => two(scratch, from, to, twiddles),
                        4 => four(scratch, from, to, twiddles),
                        _ => any(scratch, from, to, twiddles, &stage.roots),
                    }
                }
            }
            stride *= stage.radix;
            std::mem::swap(&mut scratch.re, &mut scratch.other_re);
            std::mem::swap(&mut scratch.im, &mut scratch.other_im);
        }
    }
}

fn two(s: &mut Scratch, from: impl Fn(usize) -> usize, to: impl Fn(usize) -> usize, w: &[[f32; 2]]) {
    let (ar, ai, br, bi) = (s.re[from(0)], s.im[from(0)], s.re[from(1)], s.im[from(1)]);
    let [cos, sin] = w[1];
    let (re, im) = (&mut s.other_re, &mut s.other_im);
    for lane in 0..LANES {
        let (x, y) = (ar[lane] - br[lane], ai[lane] - bi[lane]);
        re[to(0)][lane] = ar[lane] + br[lane];
        im[to(0)][lane] = ai[lane] + bi[lane];
        re[to(1)][lane] = x * cos - y * sin;
        im[to(1)][lane] = x * sin + y * cos;
    }
}

fn four(s: &mut Scratch, from: impl Fn(usize) -> usize, to: impl Fn(usize) -> usize, w: &[[f32; 2]]) {
    let [ar, br, cr, dr] = [0, 1, 2, 3].map(|k| s.re[from(k)]);
    let [ai, bi, ci, di] = [0, 1, 2, 3].map(|k| s.im[from(k)]);
    let mut re = [[0.0; LANES]; 4];
    let mut im = [[0.0; LANES]; 4];
    for l in 0..LANES {
        let (sum_r, sum_i, dif_r, dif_i) = (ar[l] + cr[l], ai[l] + ci[l], ar[l] - cr[l], ai[l] - ci[l]);
        let (tum_r, tum_i, tif_r, tif_i) = (br[l] + dr[l], bi[l] + di[l], br[l] - dr[l], bi[l] - di[l]);
        (re[0][l], im[0][l]) = (sum_r + tum_r, sum_i + tum_i);
        (re[1][l], im[1][l]) = times(dif_r + tif_i, dif_i - tif_r, w[1]);
        (re[2][l], im[2][l]) = times(sum_r - tum_r, sum_i - tum_i, w[2]);
        (re[3][l], im[3][l]) = times(dif_r - tif_i, dif_i + tif_r, w[3]);
    }
    for j in 0..4 {
        s.other_re[to(j)] = re[j];
        s.other_im[to(j)] = im[j];
    }
}

fn any(
    s: &mut Scratch,
    from: impl Fn(usize) -> usize,
    to: impl Fn(usize) -> usize,
    w: &[[f32; 2]],
    roots: &[[f32; 2]],
) {
    let radix = roots.len();
    for (j, twiddle) in w.iter().enumerate() {
        let (mut re, mut im) = (s.re[from(0)], s.im[from(0)]);
        let mut turn = 0;
        for k in 1..radix {
            turn += j;
            if turn >= radix {
                turn -= radix;
            }
            let (x, y) = (&s.re[from(k)], &s.im[from(k)]);
            for lane in 0..LANES {
                let (a, b) = times(x[lane], y[lane], roots[turn]);
                re[lane] += a;
                im[lane] += b;
            }
        }
        let (out_re, out_im) = (&mut s.other_re[to(j)], &mut s.other_im[to(j)]);
        for lane in 0..LANES {
            (out_re[lane], out_im[lane]) = times(re[lane], im[lane], *twiddle);
        }
    }
}

fn times(x: f32, y: f32, [cos, sin]: [f32; 2]) -> (f32, f32) {
    (x * cos - y * sin, x * sin + y * cos)
}

/// `exp(-iτk / n)`.
fn turn(k: usize, n: usize) -> [f32; 2] {
    let angle = -TAU * (k % n) as f64 / n as f64;
    [angle.cos() as f32, angle.sin() as f32]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the definition, in f64.
    #[test]
    fn every_length_gives_the_powers_of_the_definition() {
        let lengths = (1..=130).chain([200, 210, 251, 320, 400, 441, 512, 1000, 1021, 1024, 2048]);
        for len in lengths {
            let signal = |lane: usize, i: usize| {
                let x = (i * 7919 + lane * 104_729 + i * i * 31) % 20_011;
                x as f32 / 10_005.5 - 1.0
            };
            let mut out = vec![[0.0; LANES]; len / 2 + 1];
            let lanes = |i| std::array::from_fn(|lane| signal(lane, i));
            RealFft::new(len).power(lanes, &mut Scratch::default(), &mut out);
            for lane in [0, LANES - 1] {
                let energy: f64 = (0..len).map(|i| f64::from(signal(lane, i)).powi(2)).sum();
                for (k, power) in out.iter().enumerate() {
                    let (mut re, mut im) = (0.0, 0.0);
                    for i in 0..len {
                        let angle = -TAU * ((i * k) % len) as f64 / len as f64;
                        re += f64::from(signal(lane, i)) * angle.cos();
                        im += f64::from(signal(lane, i)) * angle.sin();
                    }
                    let expected = re * re + im * im;
                    // Of amplitudes: rounding grows with the energy, not with the one frequency.
                    let error = (f64::from(power[lane]).sqrt() - expected.sqrt()).abs();
                    let allowed = 2e-6 * (energy * len as f64).sqrt().max(1e-3);
                    assert!(error <= allowed, "length {len}, frequency {k}: {error} > {allowed}");
                }
            }
        }
    }
}
