//! Functions element by element.

use crate::math;
use crate::parallel;
use crate::parts::Parts;
use crate::simd::multiversion;

/// Elements that one task takes.
const TASK: usize = 8 << 10;

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    /// `e^x`.
    Exp,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x * sigmoid(x)`.
    Silu,
    /// The hyperbolic tangent.
    Tanh,
    /// `max(x, 0)`.
    Relu,
    /// The error function.
    Erf,
    /// `x * Phi(x)`.
    GeluErf,
    /// GELU in its tanh approximation.
    Gelu,
    /// `x * x`.
    Sqr,
    /// `-x`.
    Neg,
}

impl Unary {
    /// Nanoseconds for an element, about.
    fn cost(self) -> f32 {
        match self {
            Self::Relu | Self::Sqr | Self::Neg => 0.1,
            _ => 0.5,
        }
    }
}

/// `out = function(x)`.
///
/// # Panics
/// If `out` is not as long as `x`.
pub fn unary(function: Unary, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "as many elements out as in");
    let parts = Parts::new(out, TASK);
    parallel(
        x.len().div_ceil(TASK),
        (x.len() as f32 * function.cost()) as u64,
        |task| {
            // SAFETY: each task takes its own part.
            let out = unsafe { parts.take(task) };
            unary_part(function, &x[task * TASK..][..out.len()], out);
        },
    );
}

multiversion! {
    fn unary_part(function: Unary, x: &[f32], out: &mut [f32]) {
        let pairs = out.iter_mut().zip(x);
        match function {
            Unary::Exp => pairs.for_each(|(y, x)| *y = math::exp(*x)),
            Unary::Sigmoid => pairs.for_each(|(y, x)| *y = math::sigmoid(*x)),
            Unary::Silu => pairs.for_each(|(y, x)| *y = math::silu(*x)),
            Unary::Tanh => pairs.for_each(|(y, x)| *y = math::tanh(*x)),
            Unary::Relu => pairs.for_each(|(y, x)| *y = x.max(0.0)),
            Unary::Erf => pairs.for_each(|(y, x)| *y = math::erf(*x)),
            Unary::GeluErf => pairs.for_each(|(y, x)| *y = math::gelu_erf(*x)),
            Unary::Gelu => pairs.for_each(|(y, x)| *y = math::gelu(*x)),
            Unary::Sqr => pairs.for_each(|(y, x)| *y = x * x),
            Unary::Neg => pairs.for_each(|(y, x)| *y = -x),
        }
    }
}

/// A function of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a / b`.
    Div,
    /// `silu(a) * b`: the gate of SwiGLU (Shazeer, 2020).
    SiluMul,
    /// `gelu(a) * b`, the tanh approximation: the gate of GEGLU.
    GeluMul,
}

/// `out = function(a, b)`, where `b` is repeated if it is shorter: a row added to each row of a matrix, or one number.
///
/// # Panics
/// If `out` is not as long as `a`, or `a` is no multiple of `b`.
pub fn binary(function: Binary, a: &[f32], b: &[f32], out: &mut [f32]) {
    assert_eq!(a.len(), out.len(), "as many elements out as in");
    if a.is_empty() {
        return;
    }
    assert!(
        !b.is_empty() && a.len().is_multiple_of(b.len()),
        "{} on {}",
        b.len(),
        a.len()
    );
    let whole = b.len() == a.len();
    let part = if whole { TASK } else { TASK.div_ceil(b.len()) * b.len() };
    let cost = match function {
        Binary::SiluMul | Binary::GeluMul => 0.6,
        _ => 0.15,
    };
    let parts = Parts::new(out, part);
    parallel(a.len().div_ceil(part), (a.len() as f32 * cost) as u64, |task| {
        // SAFETY: each task takes its own part.
        let out = unsafe { parts.take(task) };
        let a = &a[task * part..][..out.len()];
        if whole {
            binary_part(function, a, &b[task * part..][..out.len()], out);
        } else if let [b] = b {
            scalar_part(function, a, *b, out);
        } else {
            for (a, out) in a.chunks_exact(b.len()).zip(out.chunks_exact_mut(b.len())) {
                binary_part(function, a, b, out);
            }
        }
    });
}

multiversion! {
    fn binary_part(function: Binary, a: &[f32], b: &[f32], out: &mut [f32]) {
        let triples = out.iter_mut().zip(a).zip(b);
        match function {
            Binary::Add => triples.for_each(|((y, a), b)| *y = a + b),
            Binary::Sub => triples.for_each(|((y, a), b)| *y = a - b),
            Binary::Mul => triples.for_each(|((y, a), b)| *y = a * b),
            Binary::Div => triples.for_each(|((y, a), b)| *y = a / b),
            Binary::SiluMul => triples.for_each(|((y, a), b)| *y = math::silu(*a) * b),
            Binary::GeluMul => triples.for_each(|((y, a), b)| *y = math::gelu(*a) * b),
        }
    }
}

multiversion! {
    fn scalar_part(function: Binary, a: &[f32], b: f32, out: &mut [f32]) {
        let pairs = out.iter_mut().zip(a);
        match function {
            Binary::Add => pairs.for_each(|(y, a)| *y = a + b),
            Binary::Sub => pairs.for_each(|(y, a)| *y = a - b),
            Binary::Mul => pairs.for_each(|(y, a)| *y = a * b),
            Binary::Div => pairs.for_each(|(y, a)| *y = a / b),
            Binary::SiluMul => pairs.for_each(|(y, a)| *y = math::silu(*a) * b),
            Binary::GeluMul => pairs.for_each(|(y, a)| *y = math::gelu(*a) * b),
        }
    }
}
