//! Elementwise operations: floats in `f64`, integers in `i128`, wrapped into the dtype at the end.

use crate::{
    RefError,
    data::{copy_elements, count, ints, store_floats, store_ints, walk_broadcast},
    number::Number,
};
use penjing_ir::{Binary, Compare, Unary};
use penjing_tensor::{Tensor, broadcast_shapes};
use std::f64::consts::{FRAC_1_SQRT_2, PI};

pub(crate) fn unary(f: Unary, x: &Tensor) -> Result<Tensor, RefError> {
    let shape = x.shape();
    match f {
        Unary::IsNan => {
            let flags: Vec<bool> = x.to_f64s().into_iter().map(f64::is_nan).collect();
            Ok(Tensor::from_bools(shape, &flags)?)
        }
        Unary::IsInf { positive, negative } => {
            let is = |v: f64| (positive && v == f64::INFINITY) || (negative && v == f64::NEG_INFINITY);
            let flags: Vec<bool> = x.to_f64s().into_iter().map(is).collect();
            Ok(Tensor::from_bools(shape, &flags)?)
        }
        _ if x.dtype().is_float() => {
            store_floats(x.dtype(), shape, x.to_f64s().into_iter().map(|v| unary_float(f, v)).collect())
        }
        _ => store_ints(x.dtype(), shape, ints(x)?.into_iter().map(|v| unary_int(f, v)).collect()),
    }
}

pub(crate) fn binary(f: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor, RefError> {
    let dtype = a.dtype();
    if dtype.is_float() {
        let (shape, out) = broadcast(a, b, |x, y| binary_float(f, x, y))?;
        store_floats(dtype, &shape, out)
    } else {
        let bits = dtype.bits() as u32;
        let (shape, out) = broadcast(a, b, |x, y| binary_int(f, x, y, bits))?;
        store_ints(dtype, &shape, out)
    }
}

pub(crate) fn compare(f: Compare, a: &Tensor, b: &Tensor) -> Result<Tensor, RefError> {
    fn flags<T: Number>(f: Compare, a: &Tensor, b: &Tensor) -> Result<Tensor, RefError> {
        let (shape, out) = broadcast(a, b, |x: T, y: T| holds(f, x, y))?;
        Ok(Tensor::from_bools(&shape, &out)?)
    }
    if a.dtype().is_float() { flags::<f64>(f, a, b) } else { flags::<i128>(f, a, b) }
}

pub(crate) fn select(condition: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor, RefError> {
    let shape = broadcast_shapes(a.shape(), b.shape())
        .and_then(|s| broadcast_shapes(condition.shape(), &s))
        .ok_or_else(|| no_broadcast(a, b))?;
    count(&shape)?;
    let mut out = Tensor::zeros(a.dtype(), &shape)?;
    let flags = condition.as_slice::<u8>()?;
    let chosen = |want: bool, t: &Tensor| {
        walk_broadcast(condition.shape(), &shape)
            .zip(walk_broadcast(t.shape(), &shape))
            .enumerate()
            .filter(move |(_, (c, _))| (flags[*c] != 0) == want)
            .map(|(to, (_, from))| (to, from))
    };
    copy_elements(a.dtype(), a.bytes(), out.bytes_mut(), chosen(true, a));
    copy_elements(a.dtype(), b.bytes(), out.bytes_mut(), chosen(false, b));
    Ok(out)
}

/// `f` of one float.
pub(crate) fn unary_float(f: Unary, x: f64) -> f64 {
    match f {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Exp => x.exp(),
        Unary::Log => x.ln(),
        Unary::Sqrt => x.sqrt(),
        Unary::Recip => 1.0 / x,
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Tan => x.tan(),
        Unary::Asin => x.asin(),
        Unary::Acos => x.acos(),
        Unary::Atan => x.atan(),
        Unary::Sinh => x.sinh(),
        Unary::Cosh => x.cosh(),
        Unary::Tanh => x.tanh(),
        Unary::Asinh => x.asinh(),
        Unary::Acosh => x.acosh(),
        Unary::Atanh => x.atanh(),
        Unary::Erf => libm::erf(x),
        Unary::Sigmoid => sigmoid(x),
        Unary::Relu => Number::max(x, 0.0),
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        Unary::Sign if x > 0.0 => 1.0,
        Unary::Sign if x < 0.0 => -1.0,
        Unary::Sign => x,
        Unary::Not => f64::from(u8::from(x == 0.0)),
        Unary::BitNot => x,
        Unary::IsNan => f64::from(u8::from(x.is_nan())),
        Unary::IsInf { positive, negative } => {
            f64::from(u8::from((positive && x == f64::INFINITY) || (negative && x == f64::NEG_INFINITY)))
        }
        // Both halves stay small, so that neither overflows.
        Unary::Softplus => Number::max(x, 0.0) + (-x.abs()).exp().ln_1p(),
        Unary::Gelu => 0.5 * x * libm::erfc(-x * FRAC_1_SQRT_2),
        Unary::GeluTanh => 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
        Unary::Silu => x * sigmoid(x),
        Unary::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        Unary::LeakyRelu(alpha) => {
            if x < 0.0 {
                alpha.0 * x
            } else {
                x
            }
        }
        Unary::Elu(alpha) => {
            if x < 0.0 {
                alpha.0 * x.exp_m1()
            } else {
                x
            }
        }
        Unary::HardSigmoid { alpha, beta } => (alpha.0 * x + beta.0).clamp(0.0, 1.0),
    }
}

/// `f` of two floats.
pub(crate) fn binary_float(f: Binary, a: f64, b: f64) -> f64 {
    match f {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Pow => a.powf(b),
        Binary::Max => Number::max(a, b),
        Binary::Min => Number::min(a, b),
        Binary::Mod => {
            let r = a % b;
            if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
        }
        Binary::Fmod => a % b,
        Binary::And | Binary::BitAnd => f64::from(u8::from(a != 0.0 && b != 0.0)),
        Binary::Or | Binary::BitOr => f64::from(u8::from(a != 0.0 || b != 0.0)),
        Binary::Xor | Binary::BitXor => f64::from(u8::from((a != 0.0) != (b != 0.0))),
        Binary::Shl => a * b.exp2(),
        Binary::Shr => (a / b.exp2()).floor(),
    }
}

/// Whether a comparison holds; never with NaN.
pub(crate) fn holds<T: PartialOrd>(f: Compare, a: T, b: T) -> bool {
    match f {
        Compare::Equal => a == b,
        Compare::Less => a < b,
        Compare::LessEqual => a <= b,
    }
}

/// `f` of every pair of the broadcast of `a` and `b`, with the broadcast shape.
fn broadcast<T: Number, R>(a: &Tensor, b: &Tensor, f: impl Fn(T, T) -> R) -> Result<(Vec<usize>, Vec<R>), RefError> {
    let (x, y) = (T::load(a)?, T::load(b)?);
    if a.shape() == b.shape() {
        return Ok((a.shape().to_vec(), x.into_iter().zip(y).map(|(x, y)| f(x, y)).collect()));
    }
    let shape = broadcast_shapes(a.shape(), b.shape()).ok_or_else(|| no_broadcast(a, b))?;
    count(&shape)?;
    let pairs = walk_broadcast(a.shape(), &shape).zip(walk_broadcast(b.shape(), &shape));
    let out = pairs.map(|(i, j)| f(x[i], y[j])).collect();
    Ok((shape, out))
}

fn no_broadcast(a: &Tensor, b: &Tensor) -> RefError {
    RefError::Undefined { what: "broadcast", why: format!("shapes {:?} and {:?} do not fit", a.shape(), b.shape()) }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn unary_int(f: Unary, x: i128) -> i128 {
    match f {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Relu => Ord::max(x, 0),
        Unary::Sign => x.signum(),
        Unary::Not => i128::from(x == 0),
        Unary::BitNot => !x,
        _ => unary_float(f, x as f64) as i128,
    }
}

fn binary_int(f: Binary, a: i128, b: i128, bits: u32) -> i128 {
    match f {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a.wrapping_mul(b),
        Binary::Div => Number::div(a, b),
        Binary::Pow => pow_int(a, b),
        Binary::Max => Ord::max(a, b),
        Binary::Min => Ord::min(a, b),
        Binary::Mod => {
            let r = a.checked_rem(b).unwrap_or(0);
            if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
        }
        Binary::Fmod => a.checked_rem(b).unwrap_or(0),
        Binary::And | Binary::BitAnd => a & b,
        Binary::Or | Binary::BitOr => a | b,
        Binary::Xor | Binary::BitXor => a ^ b,
        Binary::Shl => shift(b, bits).map_or(0, |n| a << n),
        Binary::Shr => shift(b, bits).map_or(0, |n| a >> n),
    }
}

/// A shift distance inside the word.
fn shift(by: i128, bits: u32) -> Option<u32> {
    u32::try_from(by).ok().filter(|&n| n < bits)
}

/// Integer power, wrapping; a negative exponent gives the truncated real result (0 to a negative power gives 0).
fn pow_int(base: i128, exponent: i128) -> i128 {
    if exponent < 0 {
        return match base {
            1 => 1,
            -1 if exponent % 2 == 0 => 1,
            -1 => -1,
            _ => 0,
        };
    }
    let (mut result, mut square, mut left) = (1i128, base, exponent);
    while left > 0 {
        if left & 1 == 1 {
            result = result.wrapping_mul(square);
        }
        square = square.wrapping_mul(square);
        left >>= 1;
    }
    result
}
