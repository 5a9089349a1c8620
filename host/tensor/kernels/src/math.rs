//! Functions of one f32, written so that a loop over them is compiled to vectors. Errors are held against float64 below.

#![allow(
    clippy::inline_always,
    reason = "what is not inlined is not compiled for the caller's instruction set"
)]

/// `e^x` within 2 units in the last place; 0 below -87.3, infinity above 88.7. Cody and Waite's reduction, and the polynomial of
/// degree 6 that Cephes' `expf` has.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, the first exact when multiplied by a small integer.
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    // Adding it leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.336_54, 88.722_83);
    let shifted = clamped.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-HIGH, clamped);
    let r = n.mul_add(-LOW, r);
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_6e-1);
    p = p.mul_add(r, 0.5);
    p = (p * r).mul_add(r, r) + 1.0;
    // In two steps: 2^128 is no float.
    let n = n as i32;
    let half = n >> 1;
    let first = f32::from_bits(((half + 127) << 23) as u32);
    let second = f32::from_bits(((n - half + 127) << 23) as u32);
    let value = p * first * second;
    // Not-a-number passes through: comparisons with it are false.
    let value = if x > 88.722_83 { f32::INFINITY } else { value };
    let value = if x < -87.336_54 { 0.0 } else { value };
    if x.is_nan() { x } else { value }
}

/// [`exp`] of what is not positive, for softmax: 0 below -87.3; anything above 0 gives nonsense.
#[inline(always)]
pub fn exp_of_negative(x: f32) -> f32 {
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0;
    // Written so that not-a-number passes through.
    let clamped = if x < -87.336_54 { -87.336_54 } else { x };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-HIGH, clamped);
    let r = n.mul_add(-LOW, r);
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_6e-1);
    p = p.mul_add(r, 0.5);
    p = (p * r).mul_add(r, r) + 1.0;
    // The integer stands in the low bits of what was shifted.
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.336_54 { 0.0 } else { p * scale }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// The hyperbolic tangent within 4e-7.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let small = x.abs() < 0.05;
    // Near 0 the difference of exponentials cancels: the series to the fifth order.
    let s = x * x;
    let series = x * (s * (s * (2.0 / 15.0) - 1.0 / 3.0) + 1.0);
    let e = exp(2.0 * x.clamp(-20.0, 20.0));
    let wide = 1.0 - 2.0 / (e + 1.0);
    let value = if small { series } else { wide };
    if x.is_nan() { x } else { value }
}

/// erf as a rational function, within 5e-7 of it. Source: the coefficients of Eigen's and XLA's `erf` for floats.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let value = x.clamp(-4.0, 4.0);
    let s = value * value;
    let mut p = -2.726_142_3e-10_f32;
    p = p.mul_add(s, 2.770_681_5e-8);
    p = p.mul_add(s, -2.101_024e-6);
    p = p.mul_add(s, -5.692_506_4e-5);
    p = p.mul_add(s, -7.349_906_5e-4);
    p = p.mul_add(s, -2.954_6e-3);
    p = p.mul_add(s, -1.609_603_3e-2);
    let mut q = -1.456_607_2e-5_f32;
    q = q.mul_add(s, -2.133_740_5e-4);
    q = q.mul_add(s, -1.682_827e-3);
    q = q.mul_add(s, -7.373_329e-3);
    q = q.mul_add(s, -1.426_473_9e-2);
    value * p / q
}

/// `x * Phi(x)`.
#[inline(always)]
pub fn gelu_erf(x: f32) -> f32 {
    let y = 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    // Below, the last bit of the error function times x would be more than what there is: less than 6e-9.
    if x < -6.0 { 0.0 * x } else { y }
}

/// GELU in its tanh approximation: `x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))`.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    const SCALE: f32 = 1.595_769;
    x * sigmoid(SCALE * x * (0.044_715 * x).mul_add(x, 1.0))
}

/// The natural logarithm of a positive, normal number within 2e-7 or, far from 1, two units in the last place; Cephes' `logf`.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    // The exponent and a fraction from sqrt(1/2) to sqrt(2).
    let bits = x.to_bits().wrapping_sub(0x3f35_04f3);
    let exponent = (bits as i32 >> 23) as f32;
    let m = f32::from_bits((bits & 0x007f_ffff).wrapping_add(0x3f35_04f3)) - 1.0;
    let s = m * m;
    let mut p = 7.037_683_6e-2_f32;
    p = p.mul_add(m, -1.151_461e-1);
    p = p.mul_add(m, 1.167_699_9e-1);
    p = p.mul_add(m, -1.242_014_1e-1);
    p = p.mul_add(m, 1.424_932_3e-1);
    p = p.mul_add(m, -1.666_805_7e-1);
    p = p.mul_add(m, 2.000_071_5e-1);
    p = p.mul_add(m, -2.499_999_4e-1);
    p = p.mul_add(m, 3.333_333e-1);
    let rest = (p * m).mul_add(s, exponent * -2.121_944_4e-4) - 0.5 * s;
    exponent.mul_add(0.693_359_4, m + rest)
}

/// The sine and the cosine of `turns * 2 pi`, for turns from 0 to 1, within 2e-7: the nearest quarter, and Taylor's series.
#[inline(always)]
pub fn sin_cos_of_turns(turns: f32) -> (f32, f32) {
    // Both the quarter and what is left are exact.
    let quarter = (turns * 4.0 + 0.5) as u32;
    let x = (turns - quarter as f32 * 0.25) * std::f32::consts::TAU;
    let s = x * x;
    let mut sin = -1.984_127e-4_f32;
    sin = sin.mul_add(s, 8.333_333e-3);
    sin = sin.mul_add(s, -1.666_666_7e-1);
    let sin = (sin * s).mul_add(x, x);
    let mut cos = 2.480_158_8e-5_f32;
    cos = cos.mul_add(s, -1.388_888_9e-3);
    cos = cos.mul_add(s, 4.166_666_7e-2);
    cos = cos.mul_add(s, -0.5);
    let cos = cos.mul_add(s, 1.0);
    let (a, b) = if quarter & 1 == 0 { (sin, cos) } else { (cos, sin) };
    let a = if quarter & 2 == 0 { a } else { -a };
    let b = if (quarter + 1) & 2 == 0 { b } else { -b };
    (a, b)
}

/// `e^x - 1` for x up to 0.
#[inline(always)]
pub fn exp_m1(x: f32) -> f32 {
    let mut p = 1.984_127e-4_f32;
    p = p.mul_add(x, 1.388_888_9e-3);
    p = p.mul_add(x, 8.333_333e-3);
    p = p.mul_add(x, 4.166_666_7e-2);
    p = p.mul_add(x, 1.666_666_7e-1);
    p = p.mul_add(x, 0.5);
    let series = (p * x).mul_add(x, x);
    let value = exp(x) - 1.0;
    // Near 0 the difference cancels.
    if x > -0.35 { series } else { value }
}

/// `log(1 + e^x)`: `max(x, 0) + log(1 + e^-|x|)`.
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    let e = exp(-x.abs());
    let sum = 1.0 + e;
    // What was lost in the sum is made up for (Goldberg, 1991).
    let exact = ln(sum) * e / (sum - 1.0);
    let log = if sum == 1.0 { e } else { exact };
    let positive = if x < 0.0 { 0.0 } else { x };
    if x.is_nan() { x } else { positive + log }
}

/// `x * tanh(softplus(x))`: with `e = e^x` it is `x (e^2 + 2 e) / (e^2 + 2 e + 2)`.
#[inline(always)]
pub fn mish(x: f32) -> f32 {
    let e = exp(if x > 20.0 { 20.0 } else { x });
    let n = e * (e + 2.0);
    // Nothing is left at minus infinity.
    let low = if x < -100.0 { -100.0 } else { x };
    low * (n / (n + 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(function: fn(f32) -> f32, exact: fn(f64) -> f64, relative: bool, range: (f32, f32)) -> f64 {
        let steps = 400_000;
        let mut worst = 0.0_f64;
        for i in 0..=steps {
            let x = range.0 + (range.1 - range.0) * (i as f32 / steps as f32);
            let (got, want) = (f64::from(function(x)), exact(f64::from(x)));
            let scale = if relative { want.abs().max(1e-37) } else { 1.0 };
            worst = worst.max((got - want).abs() / scale);
        }
        worst
    }

    #[test]
    fn functions_are_within_their_errors() {
        assert!(worst(exp, f64::exp, true, (-87.0, 88.5)) < 2.5e-7);
        assert!(gelu_erf(-1e38) == 0.0 && gelu_erf(-7.0).abs() < 1e-8 && gelu_erf(f32::NEG_INFINITY).is_nan());
        assert!(worst(exp_of_negative, f64::exp, true, (-87.0, 0.0)) < 2.5e-7);
        assert!(worst(tanh, f64::tanh, false, (-30.0, 30.0)) < 4e-7);
        assert!(worst(tanh, f64::tanh, true, (1e-3, 1.0)) < 3e-6);
        assert!(worst(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), false, (-80.0, 80.0)) < 2e-7);
        assert!(worst(erf, libm::erf, false, (-6.0, 6.0)) < 5e-7);
        let phi = |x: f64| 0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2));
        assert!(worst(gelu_erf, phi, false, (-8.0, 8.0)) < 2e-6);
    }

    #[test]
    fn functions_of_vision_are_within_their_errors() {
        assert!(worst(ln, f64::ln, false, (1e-7, 2.0)) < 1e-6);
        assert!(worst(ln, f64::ln, true, (1.1, 1e6)) < 3e-7);
        let sin = |x: f32| sin_cos_of_turns(x).0;
        let cos = |x: f32| sin_cos_of_turns(x).1;
        assert!(worst(sin, |x| (x * std::f64::consts::TAU).sin(), false, (0.0, 1.0)) < 4e-7);
        assert!(worst(cos, |x| (x * std::f64::consts::TAU).cos(), false, (0.0, 1.0)) < 4e-7);
        assert!(worst(exp_m1, f64::exp_m1, true, (-30.0, -1e-6)) < 5e-7);
        assert!(worst(softplus, |x| x.exp().ln_1p(), true, (-80.0, 80.0)) < 5e-7);
        assert!(worst(mish, |x| x * x.exp().ln_1p().tanh(), true, (-80.0, 80.0)) < 1e-6);
    }

    #[test]
    fn the_ends_are_what_they_must_be() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!((exp_of_negative(0.0), exp_of_negative(f32::NEG_INFINITY)), (1.0, 0.0));
        assert!(exp_of_negative(f32::NAN).is_nan());
        for function in [exp, sigmoid, silu, tanh, erf, gelu_erf, gelu, softplus, mish, exp_m1] {
            assert!(function(f32::NAN).is_nan());
        }
        assert_eq!(
            (softplus(f32::NEG_INFINITY), softplus(f32::INFINITY)),
            (0.0, f32::INFINITY)
        );
        assert_eq!((mish(f32::NEG_INFINITY), mish(f32::INFINITY)), (0.0, f32::INFINITY));
        assert_eq!((exp_m1(f32::NEG_INFINITY), exp_m1(0.0)), (-1.0, 0.0));
        assert_eq!((tanh(100.0), tanh(-100.0), tanh(0.0)), (1.0, -1.0, 0.0));
    }
}
