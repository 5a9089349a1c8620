//! The Kaiser window. Source: Kaiser & Schafer, "On the use of the I0-sinh window for spectrum analysis" (1980).

/// Its value at `x` in −1 to 1; 0 outside. `beta` trades the width of the main lobe for the height of the others.
pub(super) fn kaiser(x: f64, beta: f64) -> f64 {
    if x.abs() > 1.0 {
        return 0.0;
    }
    bessel_i0(beta * (1.0 - x * x).sqrt()) / bessel_i0(beta)
}

/// The modified Bessel function of the first kind of order 0, by its power series; for `x` from 0 to some 20.
fn bessel_i0(x: f64) -> f64 {
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 1..100 {
        term *= (x / (2.0 * f64::from(k))).powi(2);
        sum += term;
        if term < sum * 1e-17 {
            break;
        }
    }
    sum
}
