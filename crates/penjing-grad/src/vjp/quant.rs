//! Derivatives of quantization: straight through inside the range (Bengio et al. 2013), nothing outside; the scale's is that of
//! LSQ (Esser et al. 2020).

use super::{Grads, Vjp};
use crate::GradError;
use penjing_ir::{Binary, Compare, Dim, QuantScheme, Reduction, ValueId};
use penjing_tensor::DType;

/// (q − z)·s: by the scale, q − z.
pub(super) fn dequantize(b: &mut Vjp<'_, '_>, scheme: &QuantScheme) -> Grads {
    let (q, s, y, dy) = (b.x(0), b.x(1), b.y(0), b.dy());
    let ds = b.when(1, |b| {
        let s = along(b, s, q, scheme)?;
        let grid = b.s.div(y, s)?;
        let ds = b.mul(dy, grid)?;
        to_scale(b, ds, scheme)
    })?;
    Ok(vec![None, ds, None])
}

/// dx = dy where qmin ≤ x/s + z ≤ qmax; ds = Σ dy·(y − x)/s inside and Σ dy·y/s outside.
pub(super) fn fake_quant(b: &mut Vjp<'_, '_>, scheme: &QuantScheme) -> Grads {
    let (x, y, dy) = (b.x(0), b.y(0), b.dy());
    let s = along(b, b.x(1), x, scheme)?;
    let z = b.s.cast(b.x(2), DType::F32)?;
    let z = along(b, z, x, scheme)?;
    let grid = b.s.div(x, s)?;
    let grid = b.s.add(grid, z)?;
    let (lo, hi) = scheme.range();
    let (lo, hi) = (b.s.scalar_like(x, lo as f64), b.s.scalar_like(x, hi as f64));
    let above = b.s.compare(Compare::LessEqual, lo, grid)?;
    let below = b.s.compare(Compare::LessEqual, grid, hi)?;
    let inside = b.s.binary(Binary::And, above, below)?;
    let dx = b.when(0, |b| b.where_else_zero(inside, dy))?;
    let ds = b.when(1, |b| {
        let kept = b.where_else_zero(inside, x)?;
        let error = b.s.sub(y, kept)?;
        let slope = b.s.div(error, s)?;
        let ds = b.mul(dy, slope)?;
        to_scale(b, ds, scheme)
    })?;
    Ok(vec![dx, ds, None])
}

/// A per-channel vector as it broadcasts against x.
fn along(b: &mut Vjp<'_, '_>, v: ValueId, x: ValueId, scheme: &QuantScheme) -> Result<ValueId, GradError> {
    let Some(axis) = scheme.axis else { return Ok(v) };
    let fact = b.s.fact(x);
    let shape: Vec<Dim> =
        (0..fact.rank() - axis).map(|i| if i == 0 { fact.shape[axis].clone() } else { Dim::Const(1) }).collect();
    Ok(b.s.reshape(v, &shape)?)
}

/// Summed over everything but the channel.
fn to_scale(b: &mut Vjp<'_, '_>, ds: ValueId, scheme: &QuantScheme) -> Result<ValueId, GradError> {
    let axes: Vec<usize> = (0..b.s.fact(ds).rank()).filter(|&i| Some(i) != scheme.axis).collect();
    Ok(if axes.is_empty() { ds } else { b.s.reduce(Reduction::Sum, ds, &axes)? })
}
