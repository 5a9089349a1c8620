//! Ops that make each element of one, or of the elements at its place in several.

use maquette_ops::{Attr, DType, Op};

use super::Tensor;
use crate::Result;
use crate::ops::apply;

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident => $op:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// `dtype` unless the elements are floats; `quota`.
            #[track_caller]
            pub fn $name(&self) -> Result<Self> {
                apply(Op::$op, &[self], Vec::new())
            }
        )*}
    };
}
unary! {
    /// `-x`.
    neg => Neg;
    /// The absolute value.
    abs => Abs;
    /// e to the power of `x`.
    exp => Exp;
    /// The natural logarithm.
    log => Log;
    /// The square root.
    sqrt => Sqrt;
    /// 1 over the square root.
    rsqrt => Rsqrt;
    /// `x * x`.
    sqr => Sqr;
    /// `1 / x`.
    recip => Recip;
    /// The sine.
    sin => Sin;
    /// The cosine.
    cos => Cos;
    /// The hyperbolic tangent.
    tanh => Tanh;
    /// `1 / (1 + exp(-x))`.
    sigmoid => Sigmoid;
    /// `clamp(x + 3, 0, 6) / 6`.
    hard_sigmoid => HardSigmoid;
    /// `x * clamp(x + 3, 0, 6) / 6`.
    hard_swish => HardSwish;
    /// `x * tanh(softplus(x))`.
    mish => Mish;
    /// `log(1 + exp(x))`.
    softplus => Softplus;
    /// `log(1 + x)`, exact near 0.
    log1p => Log1p;
    /// `exp(x) - 1`, exact near 0.
    expm1 => Expm1;
    /// `x * sigmoid(x)`.
    silu => Silu;
    /// `max(x, 0)`.
    relu => Relu;
    /// GELU in its tanh approximation.
    gelu => Gelu;
    /// GELU, exact.
    gelu_erf => GeluErf;
    /// The error function.
    erf => Erf;
    /// The largest integer not above `x`.
    floor => Floor;
    /// The smallest integer not below `x`.
    ceil => Ceil;
    /// The nearest integer, halves away from zero.
    round => Round;
    /// -1, 0 or 1.
    sign => Sign;
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident => $op:ident;)*) => {
        impl Tensor {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// `shape` if they do not broadcast, `dtype` if they differ in it; `quota`.
            #[track_caller]
            pub fn $name(&self, other: &Self) -> Result<Self> {
                apply(Op::$op, &[self, other], Vec::new())
            }
        )*}
    };
}
binary! {
    /// `a - b * floor(a / b)`: the remainder has the sign of `b`.
    rem => Rem;
    /// `a` to the power of `b`.
    pow => Pow;
    /// The angle of the point with ordinate `a` and abscissa `b`, in radians.
    atan2 => Atan2;
    /// `self + other`, broadcasting.
    broadcast_add => Add;
    /// `self - other`, broadcasting.
    broadcast_sub => Sub;
    /// `self * other`, broadcasting.
    broadcast_mul => Mul;
    /// `self / other`, broadcasting; floats only.
    broadcast_div => Div;
    /// The larger of each two elements, broadcasting.
    maximum => Maximum;
    /// The smaller of each two elements, broadcasting.
    minimum => Minimum;
    /// 1 where equal, as u8; broadcasting.
    eq => Eq;
    /// 1 where not equal, as u8; broadcasting.
    ne => Ne;
    /// 1 where less, as u8; broadcasting.
    lt => Lt;
    /// 1 where less or equal, as u8; broadcasting.
    le => Le;
    /// 1 where greater, as u8; broadcasting.
    gt => Gt;
    /// 1 where greater or equal, as u8; broadcasting.
    ge => Ge;
}

/// Errors of each of these are as for the op in the table (`maquette ops`).
#[allow(clippy::missing_errors_doc)]
impl Tensor {
    /// `x * mul + add`.
    #[track_caller]
    pub fn affine(&self, mul: f64, add: f64) -> Result<Self> {
        apply(Op::Affine, &[self], vec![Attr::Float(mul), Attr::Float(add)])
    }

    /// `x` held between two numbers.
    #[track_caller]
    pub fn clamp(&self, min: f64, max: f64) -> Result<Self> {
        apply(Op::Clamp, &[self], vec![Attr::Float(min), Attr::Float(max)])
    }

    /// `x` to the power of a number.
    #[track_caller]
    pub fn powf(&self, exponent: f64) -> Result<Self> {
        apply(Op::Powf, &[self], vec![Attr::Float(exponent)])
    }

    /// `x` where it is not negative, else `slope * x`.
    #[track_caller]
    pub fn leaky_relu(&self, slope: f64) -> Result<Self> {
        apply(Op::LeakyRelu, &[self], vec![Attr::Float(slope)])
    }

    /// `x` where it is positive, else `alpha * (exp(x) - 1)`.
    #[track_caller]
    pub fn elu(&self, alpha: f64) -> Result<Self> {
        apply(Op::Elu, &[self], vec![Attr::Float(alpha)])
    }

    /// The same values as another type.
    #[track_caller]
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        if self.dtype() == dtype {
            return Ok(self.clone());
        }
        apply(Op::Cast, &[self], vec![Attr::DType(dtype)])
    }

    /// `on_true` where this is not 0, else `on_false`; broadcasting.
    #[track_caller]
    pub fn where_cond(&self, on_true: &Self, on_false: &Self) -> Result<Self> {
        apply(Op::Where, &[self, on_true, on_false], Vec::new())
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $name:ident;)*) => {$(
        impl std::ops::$trait<&Tensor> for &Tensor {
            type Output = Result<Tensor>;
            #[track_caller]
            fn $method(self, other: &Tensor) -> Result<Tensor> {
                self.$name(other)
            }
        }
    )*};
}
operators! {
    Add add broadcast_add;
    Sub sub broadcast_sub;
    Mul mul broadcast_mul;
    Div div broadcast_div;
}

impl std::ops::Mul<f64> for &Tensor {
    type Output = Result<Tensor>;
    #[track_caller]
    fn mul(self, factor: f64) -> Result<Tensor> {
        self.affine(factor, 0.0)
    }
}

impl std::ops::Add<f64> for &Tensor {
    type Output = Result<Tensor>;
    #[track_caller]
    fn add(self, summand: f64) -> Result<Tensor> {
        self.affine(1.0, summand)
    }
}
