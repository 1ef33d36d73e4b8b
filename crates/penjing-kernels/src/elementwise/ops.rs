//! The instructions, and their loops over a block.

use crate::{isa::Math, math};

/// Functions of one value. Without a note the result is exact or correctly rounded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UnaryOp {
    /// −x.
    Neg,
    /// |x|.
    Abs,
    /// eˣ, 2 ULP.
    Exp,
    /// ln x, 2 ULP.
    Log,
    /// √x.
    Sqrt,
    /// 1/x.
    Recip,
    /// sin x, 2 ULP.
    Sin,
    /// cos x, 2 ULP.
    Cos,
    /// tan x, 1 ULP.
    Tan,
    /// arc sine, 1 ULP.
    Asin,
    /// arc cosine, 1 ULP.
    Acos,
    /// arc tangent, 1 ULP.
    Atan,
    /// sinh x, 1 ULP.
    Sinh,
    /// cosh x, 1 ULP.
    Cosh,
    /// tanh x, 3 ULP.
    Tanh,
    /// inverse hyperbolic sine, 1 ULP.
    Asinh,
    /// inverse hyperbolic cosine, 1 ULP.
    Acosh,
    /// inverse hyperbolic tangent, 1 ULP.
    Atanh,
    /// 1/(1+e⁻ˣ), 4 ULP.
    Sigmoid,
    /// Gauss error function, 4 ULP.
    Erf,
    /// x·Φ(x), within 8·2⁻²⁴·|x|.
    Gelu,
    /// The tanh approximation of GELU, within 8·2⁻²⁴·|x|.
    GeluTanh,
    /// ln(1+eˣ), 4 ULP.
    Softplus,
    /// max(x, 0); NaN stays.
    Relu,
    /// Largest integer not above x.
    Floor,
    /// Smallest integer not below x.
    Ceil,
    /// Nearest integer, halves to even.
    Round,
    /// Nearest integer towards zero.
    Trunc,
    /// −1, 0 or 1; NaN stays.
    Sign,
    /// x².
    Square,
    /// 1 where x is 0, else 0.
    Not,
    /// 1 where x is NaN.
    IsNan,
    /// 1 where x is an infinity.
    IsInf,
}

impl UnaryOp {
    /// Every operation.
    pub const ALL: [UnaryOp; 33] = [
        UnaryOp::Neg,
        UnaryOp::Abs,
        UnaryOp::Exp,
        UnaryOp::Log,
        UnaryOp::Sqrt,
        UnaryOp::Recip,
        UnaryOp::Sin,
        UnaryOp::Cos,
        UnaryOp::Tan,
        UnaryOp::Asin,
        UnaryOp::Acos,
        UnaryOp::Atan,
        UnaryOp::Sinh,
        UnaryOp::Cosh,
        UnaryOp::Tanh,
        UnaryOp::Asinh,
        UnaryOp::Acosh,
        UnaryOp::Atanh,
        UnaryOp::Sigmoid,
        UnaryOp::Erf,
        UnaryOp::Gelu,
        UnaryOp::GeluTanh,
        UnaryOp::Softplus,
        UnaryOp::Relu,
        UnaryOp::Floor,
        UnaryOp::Ceil,
        UnaryOp::Round,
        UnaryOp::Trunc,
        UnaryOp::Sign,
        UnaryOp::Square,
        UnaryOp::Not,
        UnaryOp::IsNan,
        UnaryOp::IsInf,
    ];
}

/// Functions of two values. A comparison gives 1 or 0, and 0 (`Ne`: 1) where a value is NaN.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    /// aᵇ, 1 ULP.
    Pow,
    /// The larger; NaN when either is.
    Max,
    /// The smaller; NaN when either is.
    Min,
    /// a − b·floor(a/b): the remainder with the sign of b.
    Mod,
    /// The remainder with the sign of a.
    Rem,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl BinaryOp {
    /// Every operation.
    pub const ALL: [BinaryOp; 15] = [
        BinaryOp::Add,
        BinaryOp::Sub,
        BinaryOp::Mul,
        BinaryOp::Div,
        BinaryOp::Pow,
        BinaryOp::Max,
        BinaryOp::Min,
        BinaryOp::Mod,
        BinaryOp::Rem,
        BinaryOp::Eq,
        BinaryOp::Ne,
        BinaryOp::Lt,
        BinaryOp::Le,
        BinaryOp::Gt,
        BinaryOp::Ge,
    ];
}

/// `out = op(a)`.
#[inline(always)]
pub(super) fn unary<M: Math>(op: UnaryOp, a: &[f32], out: &mut [f32]) {
    match op {
        UnaryOp::Neg => map(a, out, |x| -x),
        UnaryOp::Abs => map(a, out, f32::abs),
        UnaryOp::Exp => map(a, out, math::exp::<M>),
        UnaryOp::Log => map(a, out, math::log::<M>),
        UnaryOp::Sqrt => map(a, out, f32::sqrt),
        UnaryOp::Recip => map(a, out, |x| 1.0 / x),
        UnaryOp::Sin => trig(a, out, math::sin::<M>, f64::sin),
        UnaryOp::Cos => trig(a, out, math::cos::<M>, f64::cos),
        UnaryOp::Tan => through_f64(a, out, f64::tan),
        UnaryOp::Asin => through_f64(a, out, f64::asin),
        UnaryOp::Acos => through_f64(a, out, f64::acos),
        UnaryOp::Atan => through_f64(a, out, f64::atan),
        UnaryOp::Sinh => through_f64(a, out, f64::sinh),
        UnaryOp::Cosh => through_f64(a, out, f64::cosh),
        UnaryOp::Tanh => map(a, out, math::tanh::<M>),
        UnaryOp::Asinh => through_f64(a, out, f64::asinh),
        UnaryOp::Acosh => through_f64(a, out, f64::acosh),
        UnaryOp::Atanh => through_f64(a, out, f64::atanh),
        UnaryOp::Sigmoid => map(a, out, math::sigmoid::<M>),
        UnaryOp::Erf => map(a, out, math::erf::<M>),
        UnaryOp::Gelu => map(a, out, math::gelu::<M>),
        UnaryOp::GeluTanh => map(a, out, math::gelu_tanh::<M>),
        UnaryOp::Softplus => map(a, out, math::softplus::<M>),
        UnaryOp::Relu => map(a, out, |x| if x < 0.0 { 0.0 } else { x }),
        UnaryOp::Floor => map(a, out, f32::floor),
        UnaryOp::Ceil => map(a, out, f32::ceil),
        UnaryOp::Round => map(a, out, f32::round_ties_even),
        UnaryOp::Trunc => map(a, out, f32::trunc),
        UnaryOp::Sign => map(a, out, |x| {
            let one = 1f32.copysign(x);
            if x == 0.0 || x.is_nan() { x } else { one }
        }),
        UnaryOp::Square => map(a, out, |x| x * x),
        UnaryOp::Not => map(a, out, |x| truth(x == 0.0)),
        UnaryOp::IsNan => map(a, out, |x| truth(x.is_nan())),
        UnaryOp::IsInf => map(a, out, |x| truth(x.abs() == f32::INFINITY)),
    }
}

/// `out = op(a, b)`.
#[inline(always)]
pub(super) fn binary<M: Math>(op: BinaryOp, a: &[f32], b: &[f32], out: &mut [f32]) {
    match op {
        BinaryOp::Add => zip(a, b, out, |a, b| a + b),
        BinaryOp::Sub => zip(a, b, out, |a, b| a - b),
        BinaryOp::Mul => zip(a, b, out, |a, b| a * b),
        BinaryOp::Div => zip(a, b, out, |a, b| a / b),
        BinaryOp::Pow => zip(a, b, out, |a, b| f64::from(a).powf(f64::from(b)) as f32),
        BinaryOp::Max => zip(a, b, out, max),
        BinaryOp::Min => zip(a, b, out, min),
        BinaryOp::Mod => zip(a, b, out, |a, b| {
            let r = a % b;
            if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
        }),
        BinaryOp::Rem => zip(a, b, out, |a, b| a % b),
        BinaryOp::Eq => zip(a, b, out, |a, b| truth(a == b)),
        BinaryOp::Ne => zip(a, b, out, |a, b| truth(a != b)),
        BinaryOp::Lt => zip(a, b, out, |a, b| truth(a < b)),
        BinaryOp::Le => zip(a, b, out, |a, b| truth(a <= b)),
        BinaryOp::Gt => zip(a, b, out, |a, b| truth(a > b)),
        BinaryOp::Ge => zip(a, b, out, |a, b| truth(a >= b)),
    }
}

/// The larger of two, NaN when either is.
#[inline(always)]
pub(crate) fn max(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// The smaller of two, NaN when either is.
#[inline(always)]
pub(crate) fn min(a: f32, b: f32) -> f32 {
    if a < b || a.is_nan() { a } else { b }
}

#[inline(always)]
fn truth(b: bool) -> f32 {
    if b { 1.0 } else { 0.0 }
}

#[inline(always)]
fn map(a: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    for (out, &a) in out.iter_mut().zip(a) {
        *out = f(a);
    }
}

#[inline(always)]
fn zip(a: &[f32], b: &[f32], out: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out = f(a, b);
    }
}

#[inline(always)]
fn through_f64(a: &[f32], out: &mut [f32], f: impl Fn(f64) -> f64) {
    map(a, out, |x| f(f64::from(x)) as f32);
}

/// The vector function, then the library's where the argument is too large for it.
#[inline(always)]
fn trig(a: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32, far: fn(f64) -> f64) {
    map(a, out, f);
    if a.iter().any(|x| x.abs() > math::TRIG_LIMIT) {
        for (out, &x) in out.iter_mut().zip(a) {
            if x.abs() > math::TRIG_LIMIT {
                *out = far(f64::from(x)) as f32;
            }
        }
    }
}
