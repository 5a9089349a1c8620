//! Activations of image models, element by element.

use crate::math;
use crate::parallel;
use crate::parts::Parts;
use crate::simd::multiversion;

/// Elements that one task takes.
const TASK: usize = 8 << 10;

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// `x` where it is not negative, else the slope times it.
    LeakyRelu(f32),
    /// `x` where it is positive, else `alpha * (e^x - 1)`.
    Elu(f32),
    /// `clamp(x + 3, 0, 6) / 6`.
    HardSigmoid,
    /// `x * clamp(x + 3, 0, 6) / 6`.
    HardSwish,
    /// `x * tanh(softplus(x))`.
    Mish,
    /// `log(1 + e^x)`.
    Softplus,
}

/// `out = function(x)`. Allocates nothing.
///
/// # Panics
/// If `out` is not as long as `x`.
pub fn activate(function: Function, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "as many elements out as in");
    let parts = Parts::new(out, TASK);
    parallel(x.len().div_ceil(TASK), x.len() as u64 / 2, |task| {
        // SAFETY: each task takes its own part.
        let out = unsafe { parts.take(task) };
        let x = &x[task * TASK..][..out.len()];
        match function {
            Function::LeakyRelu(slope) => leaky(x, slope, out),
            _ => activate_part(function, x, out),
        }
    });
}

multiversion! {
    pub(crate) fn leaky(x: &[f32], slope: f32, out: &mut [f32]) {
        out.iter_mut().zip(x).for_each(|(y, x)| *y = if *x < 0.0 { slope * x } else { *x });
    }
}

multiversion! {
    // Loops, not closures: what a closure calls is compiled for the instruction set only if the closure is inlined.
    fn activate_part(function: Function, x: &[f32], out: &mut [f32]) {
        let pairs = out.iter_mut().zip(x);
        match function {
            Function::LeakyRelu(_) => {}
            Function::Elu(alpha) => {
                for (y, x) in pairs {
                    *y = if *x > 0.0 { *x } else { alpha * math::exp_m1(*x) };
                }
            }
            Function::HardSigmoid => {
                for (y, x) in pairs {
                    *y = hard_sigmoid(*x);
                }
            }
            Function::HardSwish => {
                for (y, x) in pairs {
                    *y = x * hard_sigmoid(*x);
                }
            }
            Function::Mish => {
                for (y, x) in pairs {
                    *y = math::mish(*x);
                }
            }
            Function::Softplus => {
                for (y, x) in pairs {
                    *y = math::softplus(*x);
                }
            }
        }
    }
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled for the caller's instruction set")]
fn hard_sigmoid(x: f32) -> f32 {
    (x + 3.0).clamp(0.0, 6.0) * (1.0 / 6.0)
}
