//! Derivatives of elementwise ops. Where the result determines the derivative it is read instead of the operand.

use super::{Grads, Vjp};
use crate::GradError;
use penjing_ir::{Binary, Compare, Unary, ValueId};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

pub(super) fn unary(b: &mut Vjp<'_, '_>, f: Unary) -> Grads {
    let (x, y, dy) = (b.x(0), b.y(0), b.dy());
    let dx = match f {
        Unary::Neg => b.s.unary(Unary::Neg, dy)?,
        Unary::Abs => times(b, dy, |b| Ok(b.s.unary(Unary::Sign, x)?))?,
        Unary::Exp => b.mul(dy, y)?,
        Unary::Log => b.s.div(dy, x)?,
        Unary::Sqrt => {
            let half = b.s.scale(dy, 0.5)?;
            b.s.div(half, y)?
        }
        Unary::Recip => {
            let square = b.s.mul(y, y)?;
            let dx = b.mul(dy, square)?;
            b.s.unary(Unary::Neg, dx)?
        }
        Unary::Sin => times(b, dy, |b| Ok(b.s.unary(Unary::Cos, x)?))?,
        Unary::Cos => {
            let dx = times(b, dy, |b| Ok(b.s.unary(Unary::Sin, x)?))?;
            b.s.unary(Unary::Neg, dx)?
        }
        Unary::Tan => times(b, dy, |b| quadratic(b, y, 1.0, 1.0))?,
        Unary::Asin => over_root(b, dy, x, -1.0, 1.0)?,
        Unary::Acos => {
            let dx = over_root(b, dy, x, -1.0, 1.0)?;
            b.s.unary(Unary::Neg, dx)?
        }
        Unary::Atan => over(b, dy, |b| quadratic(b, x, 1.0, 1.0))?,
        Unary::Sinh => times(b, dy, |b| Ok(b.s.unary(Unary::Cosh, x)?))?,
        Unary::Cosh => times(b, dy, |b| Ok(b.s.unary(Unary::Sinh, x)?))?,
        Unary::Tanh => times(b, dy, |b| quadratic(b, y, -1.0, 1.0))?,
        Unary::Asinh => over_root(b, dy, x, 1.0, 1.0)?,
        Unary::Acosh => over_root(b, dy, x, 1.0, -1.0)?,
        Unary::Atanh => over(b, dy, |b| quadratic(b, x, -1.0, 1.0))?,
        Unary::Erf => times(b, dy, |b| bell(b, x, 1.0, FRAC_2_SQRT_PI))?,
        Unary::Sigmoid => times(b, dy, |b| {
            let rest = linear(b, y, -1.0, 1.0)?;
            Ok(b.s.mul(y, rest)?)
        })?,
        Unary::Relu => {
            let zero = b.s.scalar_like(y, 0.0);
            let on = b.s.compare(Compare::Less, zero, y)?;
            b.where_else_zero(on, dy)?
        }
        Unary::Softplus => times(b, dy, |b| Ok(b.s.unary(Unary::Sigmoid, x)?))?,
        Unary::Gelu => times(b, dy, |b| gelu_slope(b, x))?,
        Unary::GeluTanh => times(b, dy, |b| gelu_tanh_slope(b, x))?,
        Unary::Silu => times(b, dy, |b| {
            // s·(1 + x·(1 − s)) = s + y·(1 − s)
            let s = b.s.unary(Unary::Sigmoid, x)?;
            let rest = linear(b, s, -1.0, 1.0)?;
            let rest = b.s.mul(y, rest)?;
            Ok(b.s.add(s, rest)?)
        })?,
        Unary::HardSwish => times(b, dy, |b| hard_swish_slope(b, x))?,
        Unary::LeakyRelu(alpha) => {
            let below = below_zero(b, x)?;
            let leaked = b.s.scale(dy, alpha.0)?;
            b.s.select(below, leaked, dy)?
        }
        Unary::Elu(alpha) => {
            let below = below_zero(b, x)?;
            let slope = b.s.shift(y, alpha.0)?;
            let bent = b.mul(dy, slope)?;
            b.s.select(below, bent, dy)?
        }
        Unary::HardSigmoid { alpha, .. } => {
            let inside = strictly_inside(b, y, 0.0, 1.0)?;
            let dx = b.s.scale(dy, alpha.0)?;
            b.where_else_zero(inside, dx)?
        }
        // Constant almost everywhere, or not a function of a float.
        Unary::Floor
        | Unary::Ceil
        | Unary::Round
        | Unary::Sign
        | Unary::Not
        | Unary::BitNot
        | Unary::IsNan
        | Unary::IsInf { .. } => return Ok(vec![None]),
    };
    Ok(vec![Some(dx)])
}

pub(super) fn binary(b: &mut Vjp<'_, '_>, f: Binary) -> Grads {
    let (l, r, y, dy) = (b.x(0), b.x(1), b.y(0), b.dy());
    match f {
        Binary::Add => Ok(vec![Some(dy), Some(dy)]),
        Binary::Sub => {
            let dr = b.when(1, |b| {
                let shape = b.x_fact(1).shape;
                let dr = super::sum_to(b.s, dy, &shape)?;
                Ok(b.s.unary(Unary::Neg, dr)?)
            })?;
            Ok(vec![Some(dy), dr])
        }
        Binary::Mul if l == r => {
            let double = b.s.scale(l, 2.0)?;
            Ok(vec![Some(b.mul(dy, double)?), None])
        }
        Binary::Mul => Ok(vec![b.when(0, |b| b.mul(dy, r))?, b.when(1, |b| b.mul(dy, l))?]),
        Binary::Div => {
            let dl = b.s.div(dy, r)?;
            let dr = b.when(1, |b| {
                let dr = b.s.mul(dl, y)?;
                Ok(b.s.unary(Unary::Neg, dr)?)
            })?;
            Ok(vec![Some(dl), dr])
        }
        Binary::Pow => Ok(vec![b.when(0, |b| pow_base(b, l, r, dy))?, b.when(1, |b| pow_exponent(b, l, y, dy))?]),
        // Of equal operands the first counts as the extreme one, so a clamp passes the gradient at its bounds.
        Binary::Max => extreme(b, r, l),
        Binary::Min => extreme(b, l, r),
        // a = q·b + y with a q that is constant almost everywhere.
        Binary::Mod | Binary::Fmod => {
            let dr = b.when(1, |b| {
                let whole = b.s.sub(l, y)?;
                let quotient = b.s.div(whole, r)?;
                let quotient = b.s.unary(Unary::Round, quotient)?;
                let dr = b.mul(dy, quotient)?;
                Ok(b.s.unary(Unary::Neg, dr)?)
            })?;
            Ok(vec![Some(dy), dr])
        }
        Binary::And
        | Binary::Or
        | Binary::Xor
        | Binary::BitAnd
        | Binary::BitOr
        | Binary::BitXor
        | Binary::Shl
        | Binary::Shr => Ok(vec![None, None]),
    }
}

pub(super) fn select(b: &mut Vjp<'_, '_>) -> Grads {
    let (condition, dy) = (b.x(0), b.dy());
    let chosen = b.when(1, |b| b.where_else_zero(condition, dy))?;
    let other = b.when(2, |b| {
        let zero = b.s.scalar_like(dy, 0.0);
        Ok(b.s.select(condition, zero, dy)?)
    })?;
    Ok(vec![None, chosen, other])
}

pub(super) fn cast(b: &mut Vjp<'_, '_>) -> Grads {
    let (dtype, dy) = (b.x_fact(0).dtype, b.dy());
    Ok(vec![Some(b.s.cast(dy, dtype)?)])
}

type Built = Result<ValueId, GradError>;

/// dy · slope.
fn times<'r, 'g>(b: &mut Vjp<'r, 'g>, dy: ValueId, slope: impl FnOnce(&mut Vjp<'r, 'g>) -> Built) -> Built {
    let slope = slope(b)?;
    b.mul(dy, slope)
}

/// dy / inverse slope.
fn over<'r, 'g>(b: &mut Vjp<'r, 'g>, dy: ValueId, inverse: impl FnOnce(&mut Vjp<'r, 'g>) -> Built) -> Built {
    let inverse = inverse(b)?;
    Ok(b.s.div(dy, inverse)?)
}

/// dy / sqrt(k·x² + c).
fn over_root(b: &mut Vjp<'_, '_>, dy: ValueId, x: ValueId, k: f64, c: f64) -> Built {
    over(b, dy, |b| {
        let inner = quadratic(b, x, k, c)?;
        Ok(b.s.unary(Unary::Sqrt, inner)?)
    })
}

/// k·x + c for k = ±1 or any other number.
fn linear(b: &mut Vjp<'_, '_>, x: ValueId, k: f64, c: f64) -> Built {
    let offset = b.s.scalar_like(x, c);
    if k == -1.0 {
        return Ok(b.s.sub(offset, x)?);
    }
    let scaled = if k == 1.0 { x } else { b.s.scale(x, k)? };
    Ok(b.s.add(scaled, offset)?)
}

/// k·x² + c.
fn quadratic(b: &mut Vjp<'_, '_>, x: ValueId, k: f64, c: f64) -> Built {
    let square = b.s.mul(x, x)?;
    linear(b, square, k, c)
}

/// c · exp(−k·x²).
fn bell(b: &mut Vjp<'_, '_>, x: ValueId, k: f64, c: f64) -> Built {
    let square = b.s.mul(x, x)?;
    let power = b.s.scale(square, -k)?;
    let bell = b.s.unary(Unary::Exp, power)?;
    Ok(b.s.scale(bell, c)?)
}

/// Φ(x) + x·φ(x) of x·Φ(x), Φ and φ being the standard normal's distribution and density.
fn gelu_slope(b: &mut Vjp<'_, '_>, x: ValueId) -> Built {
    let scaled = b.s.scale(x, FRAC_1_SQRT_2)?;
    let erf = b.s.unary(Unary::Erf, scaled)?;
    let half = linear_half(b, erf)?;
    let density = bell(b, x, 0.5, 1.0 / (2.0 * PI).sqrt())?;
    let tail = b.s.mul(x, density)?;
    Ok(b.s.add(half, tail)?)
}

/// The function is x·σ(u) with u = 2·√(2/π)·(x + 0.044715·x³), and its slope with s = σ(u) is s·(1 + x·(1 − s)·u').
fn gelu_tanh_slope(b: &mut Vjp<'_, '_>, x: ValueId) -> Built {
    let k = 2.0 * (2.0 / PI).sqrt();
    let square = b.s.mul(x, x)?;
    let inner = linear(b, square, 0.044715 * k, k)?;
    let u = b.s.mul(x, inner)?;
    let s = b.s.unary(Unary::Sigmoid, u)?;
    let du = linear(b, square, 3.0 * 0.044715 * k, k)?;
    let rest = linear(b, s, -1.0, 1.0)?;
    let bent = b.s.mul(x, du)?;
    let bent = b.s.mul(bent, rest)?;
    let bent = b.s.shift(bent, 1.0)?;
    Ok(b.s.mul(s, bent)?)
}

/// (1 + v) / 2.
fn linear_half(b: &mut Vjp<'_, '_>, v: ValueId) -> Built {
    linear(b, v, 0.5, 0.5)
}

/// 0 below −3, 1 above 3, x/3 + 1/2 between.
fn hard_swish_slope(b: &mut Vjp<'_, '_>, x: ValueId) -> Built {
    let inside = strictly_inside(b, x, -3.0, 3.0)?;
    let ramp = linear(b, x, 1.0 / 3.0, 0.5)?;
    let (zero, one) = (b.s.scalar_like(x, 0.0), b.s.scalar_like(x, 1.0));
    let above = b.s.compare(Compare::Less, zero, x)?;
    let outside = b.s.select(above, one, zero)?;
    Ok(b.s.select(inside, ramp, outside)?)
}

fn below_zero(b: &mut Vjp<'_, '_>, x: ValueId) -> Built {
    let zero = b.s.scalar_like(x, 0.0);
    Ok(b.s.compare(Compare::Less, x, zero)?)
}

/// lo < v < hi.
fn strictly_inside(b: &mut Vjp<'_, '_>, v: ValueId, lo: f64, hi: f64) -> Built {
    let (lo, hi) = (b.s.scalar_like(v, lo), b.s.scalar_like(v, hi));
    let above = b.s.compare(Compare::Less, lo, v)?;
    let below = b.s.compare(Compare::Less, v, hi)?;
    Ok(b.s.binary(Binary::And, above, below)?)
}

/// dy · r · l^(r−1); zero where r is zero, even at l = 0.
fn pow_base(b: &mut Vjp<'_, '_>, l: ValueId, r: ValueId, dy: ValueId) -> Built {
    let exponent = b.s.graph.as_const(r).filter(|t| t.len() == 1).map(|t| t.to_f64s()[0]);
    if let Some(k) = exponent {
        let slope = match k {
            1.0 => return Ok(dy),
            2.0 => b.s.scale(l, 2.0)?,
            _ => {
                let less = b.s.scalar_like(l, k - 1.0);
                let power = b.s.binary(Binary::Pow, l, less)?;
                b.s.scale(power, k)?
            }
        };
        return b.mul(dy, slope);
    }
    let less = b.s.shift(r, -1.0)?;
    let power = b.s.binary(Binary::Pow, l, less)?;
    let slope = b.s.mul(r, power)?;
    let zero = b.s.scalar_like(r, 0.0);
    let constant = b.s.compare(Compare::Equal, r, zero)?;
    let slope = b.s.select(constant, zero, slope)?;
    b.mul(dy, slope)
}

/// dy · y · ln l; zero where y is zero, even at l = 0.
fn pow_exponent(b: &mut Vjp<'_, '_>, l: ValueId, y: ValueId, dy: ValueId) -> Built {
    let log = b.s.unary(Unary::Log, l)?;
    let slope = b.s.mul(y, log)?;
    let zero = b.s.scalar_like(y, 0.0);
    let vanished = b.s.compare(Compare::Equal, y, zero)?;
    let slope = b.s.select(vanished, zero, slope)?;
    b.mul(dy, slope)
}

/// The first operand wins where `lesser ≤ greater`, the second elsewhere.
fn extreme(b: &mut Vjp<'_, '_>, lesser: ValueId, greater: ValueId) -> Grads {
    let dy = b.dy();
    let first = b.s.compare(Compare::LessEqual, lesser, greater)?;
    let dl = b.when(0, |b| b.where_else_zero(first, dy))?;
    let dr = b.when(1, |b| {
        let zero = b.s.scalar_like(dy, 0.0);
        Ok(b.s.select(first, zero, dy)?)
    })?;
    Ok(vec![dl, dr])
}
