//! Functions of one or two elements, with broadcasting.

use crate::groups::groups;
use crate::math::{sigmoid, sin_cos_of_turns};
use crate::simd::multiversion;
use crate::stop::spend;

/// Elements of a long row between two looks whether to stop.
const PART: usize = 4096;

/// `f` of each element of `x`, into `out`; one takes about `nanoseconds`.
///
/// # Panics
/// If `out` has not as many elements as `x`.
pub fn map(x: &[f32], nanoseconds: u64, f: impl Fn(f32) -> f32 + Sync, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "the output is as large as x");
    groups(out, 1, x.len() as u64 * nanoseconds, |first, part| {
        part.iter_mut().zip(&x[first..]).for_each(|(y, x)| *y = f(*x));
    });
}

/// `f` of each pair of elements that `a` and `b`, of these shapes, have at a place of the output when they are broadcast to it; one
/// takes about `nanoseconds`.
///
/// # Panics
/// If a slice has not as many elements as its shape says, or a shape does not broadcast to the output's.
pub fn zip<T: Copy + Send + Sync>(
    (a, a_shape): (&[T], &[usize]),
    (b, b_shape): (&[T], &[usize]),
    nanoseconds: u64,
    f: impl Fn(T, T) -> T + Sync,
    out: &mut [T],
    shape: &[usize],
) {
    let elements = |shape: &[usize]| shape.iter().product::<usize>();
    assert!(
        a.len() == elements(a_shape) && b.len() == elements(b_shape) && out.len() == elements(shape),
        "{a_shape:?} and {b_shape:?} to {shape:?}"
    );
    let work = out.len() as u64 * nanoseconds;
    if a_shape == shape && b_shape == shape {
        groups(out, 1, work, |first, part| {
            let pairs = a[first..].iter().zip(&b[first..]);
            part.iter_mut().zip(pairs).for_each(|(y, (a, b))| *y = f(*a, *b));
        });
        return;
    }
    let (a_strides, b_strides) = (strides(a_shape, shape), strides(b_shape, shape));
    let Some((width, lead)) = shape.split_last() else {
        return;
    };
    let (a_step, b_step) = (a_strides[lead.len()], b_strides[lead.len()]);
    groups(out, (*width).max(1), work, |first, part| {
        for (i, row) in part.chunks_exact_mut(*width).enumerate() {
            let (mut rest, mut at, mut bt) = (first + i, 0, 0);
            for axis in (0..lead.len()).rev() {
                at += rest % lead[axis] * a_strides[axis];
                bt += rest % lead[axis] * b_strides[axis];
                rest /= lead[axis];
            }
            for (part, row) in row.chunks_mut(PART).enumerate() {
                spend(row.len() as u64 * nanoseconds);
                for (j, y) in row.iter_mut().enumerate() {
                    let j = part * PART + j;
                    *y = f(a[at + j * a_step], b[bt + j * b_step]);
                }
            }
        }
    });
}

/// The strides of a dense tensor seen under a shape that it broadcasts to: 0 where it repeats.
fn strides(own: &[usize], shape: &[usize]) -> Vec<usize> {
    assert!(own.len() <= shape.len(), "{own:?} does not broadcast to {shape:?}");
    let added = shape.len() - own.len();
    let mut strides = vec![0; shape.len()];
    let mut step = 1;
    for (i, dim) in own.iter().enumerate().rev() {
        assert!(
            *dim == shape[added + i] || *dim == 1,
            "{own:?} does not broadcast to {shape:?}"
        );
        if *dim > 1 {
            strides[added + i] = step;
        }
        step *= dim;
    }
    strides
}

/// `x + sin(alpha x)^2 / alpha` for x `[n, channels, len]` and alpha `[channels]`, into `out` of the shape of x; `x` where alpha is 0.
///
/// # Panics
/// If a slice has not as many elements as that takes.
pub fn snake(x: &[f32], alpha: &[f32], len: usize, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "the output is as large as x");
    if x.is_empty() {
        return;
    }
    assert!(
        x.len().is_multiple_of(alpha.len() * len),
        "{} elements, {} channels of {len}",
        x.len(),
        alpha.len()
    );
    groups(out, len, x.len() as u64, |first, part| {
        for (i, to) in part.chunks_exact_mut(len).enumerate() {
            let from = &x[(first + i) * len..][..len];
            for (from, to) in from.chunks(PART).zip(to.chunks_mut(PART)) {
                spend(from.len() as u64);
                snake_row(from, alpha[(first + i) % alpha.len()], to);
            }
        }
    });
}

multiversion! {
    fn snake_row(x: &[f32], alpha: f32, out: &mut [f32]) {
        // Of alpha 0 the limit is x.
        let scale = if alpha == 0.0 { 0.0 } else { 1.0 / alpha };
        for (y, x) in out.iter_mut().zip(x) {
            let turns = alpha * x * (0.5 * std::f32::consts::FRAC_1_PI);
            // Infinity has no place on the circle: not a number, as for a sine.
            let (sin, _) = sin_cos_of_turns(turns - turns.floor());
            *y = (sin * sin).mul_add(scale, *x);
        }
    }
}

/// `a * sigmoid(b)` for the halves of `len` of x `[outer, len, inner]`, into `out` `[outer, len / 2, inner]`.
///
/// # Panics
/// If a slice has not as many elements as that takes.
pub fn glu(x: &[f32], [outer, len, inner]: [usize; 3], out: &mut [f32]) {
    let half = len / 2 * inner;
    assert!(
        x.len() == 2 * outer * half && out.len() == outer * half,
        "{outer} x {len} x {inner} elements"
    );
    if out.is_empty() {
        return;
    }
    groups(out, half, out.len() as u64, |first, part| {
        for (i, to) in part.chunks_exact_mut(half).enumerate() {
            let (a, b) = x[(first + i) * 2 * half..][..2 * half].split_at(half);
            for ((a, b), to) in a.chunks(PART).zip(b.chunks(PART)).zip(to.chunks_mut(PART)) {
                spend(to.len() as u64);
                gated(a, b, to);
            }
        }
    });
}

multiversion! {
    fn gated(a: &[f32], b: &[f32], out: &mut [f32]) {
        for ((y, a), b) in out.iter_mut().zip(a).zip(b) {
            *y = a * sigmoid(*b);
        }
    }
}
