//! Derivatives of softmax and the normalisations.

use super::{Grads, Vjp};
use crate::GradError;
use penjing_ir::{Dim, Eps, Op, Reduction, Unary, ValueId};

type Built = Result<ValueId, GradError>;

/// y·dy − y·Σ y·dy.
pub(super) fn softmax(b: &mut Vjp<'_, '_>, axis: usize) -> Grads {
    let (y, dy) = (b.y(0), b.dy());
    let weighted = b.mul(dy, y)?;
    let sum = b.s.reduce_keep(Reduction::Sum, weighted, &[axis])?;
    let back = b.s.mul(y, sum)?;
    Ok(vec![Some(b.s.sub(weighted, back)?)])
}

/// dy − softmax·Σ dy.
pub(super) fn log_softmax(b: &mut Vjp<'_, '_>, axis: usize) -> Grads {
    let (y, dy) = (b.y(0), b.dy());
    let sum = b.s.reduce_keep(Reduction::Sum, dy, &[axis])?;
    let probability = b.s.unary(Unary::Exp, y)?;
    let back = b.s.mul(probability, sum)?;
    Ok(vec![Some(b.s.sub(dy, back)?)])
}

/// By given statistics the normalisation is an affine map of each channel.
pub(super) fn batch_norm(b: &mut Vjp<'_, '_>, eps: f64) -> Grads {
    let (x, dy) = (b.x(0), b.dy());
    let [scale, mean, var] = [1, 3, 4].map(|i| per_channel(b, b.x(i)));
    let (scale, mean) = (scale?, mean?);
    let rstd = inverse_root(b, var?, eps)?;
    let slope = b.s.mul(scale, rstd)?;
    let dx = b.mul(dy, slope)?;
    let centred = b.s.sub(x, mean)?;
    let dscale = b.when(1, |b| {
        let normal = b.s.mul(centred, rstd)?;
        let product = b.mul(dy, normal)?;
        over_channels(b, product)
    })?;
    let dbias = b.when(2, |b| over_channels(b, dy))?;
    let dmean = b.when(3, |b| {
        let sum = over_channels(b, dx)?;
        Ok(b.s.unary(Unary::Neg, sum)?)
    })?;
    let dvar = b.when(4, |b| {
        let product = b.s.mul(dx, centred)?;
        let square = b.s.mul(rstd, rstd)?;
        let half = b.s.scale(square, -0.5)?;
        let product = b.s.mul(product, half)?;
        over_channels(b, product)
    })?;
    Ok(vec![Some(dx), dscale, dbias, dmean, dvar])
}

/// The results are y, the batch's mean and its biased variance; gradients of the statistics add to dx.
pub(super) fn batch_norm_train(b: &mut Vjp<'_, '_>, eps: Eps) -> Grads {
    let (x, mean) = (b.x(0), b.y(1));
    let mut grads = vec![None, None, None];
    if let Some(dy) = b.dys[0] {
        let operands = [x, b.x(1), mean, b.y(2), dy];
        grads = b.s.ops(Op::BatchNormGrad { eps }, &operands)?.into_iter().map(Some).collect();
    }
    if b.dys[1].is_none() && b.dys[2].is_none() {
        return Ok(grads);
    }
    let shape = b.x_fact(0).shape;
    let reduced: Vec<Dim> = (0..shape.len()).filter(|&i| i != 1).map(|i| shape[i].clone()).collect();
    let n = b.count(&reduced, x)?;
    let mut terms: Vec<ValueId> = grads[0].into_iter().collect();
    if let Some(dmean) = b.dys[1] {
        let share = b.s.div(dmean, n)?;
        terms.push(per_channel(b, share)?);
    }
    if let Some(dvar) = b.dys[2] {
        let share = b.s.div(dvar, n)?;
        let share = b.s.scale(share, 2.0)?;
        let (share, mean) = (per_channel(b, share)?, per_channel(b, mean)?);
        let centred = b.s.sub(x, mean)?;
        terms.push(b.s.mul(centred, share)?);
    }
    let (&first, rest) = terms.split_first().expect("a statistic has a gradient");
    grads[0] = Some(rest.iter().try_fold(first, |sum, &t| b.s.add(sum, t))?);
    Ok(grads)
}

pub(super) fn layer_norm(b: &mut Vjp<'_, '_>, axis: usize, eps: Eps) -> Grads {
    let operands = [b.x(0), b.x(1), b.dy()];
    Ok(b.s.ops(Op::LayerNormGrad { axis, eps }, &operands)?.into_iter().map(Some).collect())
}

/// With n = x·r and g = dy·scale: dx = r·(g − n·mean(g·n)).
pub(super) fn rms_norm(b: &mut Vjp<'_, '_>, axis: usize, eps: f64) -> Grads {
    let (x, scale, dy) = (b.x(0), b.x(1), b.dy());
    let axes: Vec<usize> = (axis..b.x_fact(0).rank()).collect();
    let square = b.s.mul(x, x)?;
    let mean = b.s.reduce_keep(Reduction::Mean, square, &axes)?;
    let r = inverse_root(b, mean, eps)?;
    let normal = b.s.mul(x, r)?;
    let dx = b.when(0, |b| {
        let g = b.mul(dy, scale)?;
        let inner = without_projection(b, g, normal, &axes)?;
        Ok(b.s.mul(inner, r)?)
    })?;
    let dscale = b.when(1, |b| b.mul(dy, normal))?;
    Ok(vec![dx, dscale])
}

/// A layer norm of [N, groups, C/groups · rest] with a scale for each channel.
pub(super) fn group_norm(b: &mut Vjp<'_, '_>, groups: usize, eps: f64) -> Grads {
    let (x, dy, shape) = (b.x(0), b.dy(), b.x_fact(0).shape);
    let Some(channels) = shape[1].exact_div(&Dim::Const(groups)) else {
        return b.fail("the number of groups does not divide the channels");
    };
    let grouped = [shape[0].clone(), Dim::Const(groups), channels * Dim::product(&shape[2..])];
    let x = b.s.reshape(x, &grouped)?;
    let (normal, rstd) = normalize(b, x, &[2], eps)?;
    let dx = b.when(0, |b| {
        let scale = per_channel(b, b.x(1))?;
        let g = b.mul(dy, scale)?;
        let g = b.s.reshape(g, &grouped)?;
        let dx = through_normalize(b, g, normal, rstd, &[2])?;
        Ok(b.s.reshape(dx, &shape)?)
    })?;
    let dscale = b.when(1, |b| {
        let normal = b.s.reshape(normal, &shape)?;
        let product = b.mul(dy, normal)?;
        over_channels(b, product)
    })?;
    let dbias = b.when(2, |b| over_channels(b, dy))?;
    Ok(vec![dx, dscale, dbias])
}

/// (x − mean)·r and r = 1/sqrt(variance + eps), over `axes`.
fn normalize(b: &mut Vjp<'_, '_>, x: ValueId, axes: &[usize], eps: f64) -> Result<(ValueId, ValueId), GradError> {
    let mean = b.s.reduce_keep(Reduction::Mean, x, axes)?;
    let centred = b.s.sub(x, mean)?;
    let square = b.s.mul(centred, centred)?;
    let var = b.s.reduce_keep(Reduction::Mean, square, axes)?;
    let rstd = inverse_root(b, var, eps)?;
    Ok((b.s.mul(centred, rstd)?, rstd))
}

/// With n the normalised x: r·(g − mean(g) − n·mean(g·n)).
fn through_normalize(b: &mut Vjp<'_, '_>, g: ValueId, normal: ValueId, rstd: ValueId, axes: &[usize]) -> Built {
    let mean = b.s.reduce_keep(Reduction::Mean, g, axes)?;
    let inner = without_projection(b, g, normal, axes)?;
    let inner = b.s.sub(inner, mean)?;
    Ok(b.s.mul(inner, rstd)?)
}

/// g − n·mean(g·n).
fn without_projection(b: &mut Vjp<'_, '_>, g: ValueId, normal: ValueId, axes: &[usize]) -> Built {
    let product = b.s.mul(g, normal)?;
    let mean = b.s.reduce_keep(Reduction::Mean, product, axes)?;
    let along = b.s.mul(normal, mean)?;
    Ok(b.s.sub(g, along)?)
}

/// 1/sqrt(v + eps).
fn inverse_root(b: &mut Vjp<'_, '_>, v: ValueId, eps: f64) -> Built {
    let shifted = b.s.shift(v, eps)?;
    let root = b.s.unary(Unary::Sqrt, shifted)?;
    Ok(b.s.unary(Unary::Recip, root)?)
}

/// [C] as it broadcasts against operand 0, [N, C, ..].
fn per_channel(b: &mut Vjp<'_, '_>, v: ValueId) -> Built {
    let x = b.x_fact(0);
    let shape: Vec<Dim> = (1..x.rank()).map(|i| if i == 1 { x.shape[1].clone() } else { Dim::Const(1) }).collect();
    Ok(b.s.reshape(v, &shape)?)
}

/// [N, C, ..] summed to [C].
fn over_channels(b: &mut Vjp<'_, '_>, v: ValueId) -> Built {
    let axes: Vec<usize> = (0..b.s.fact(v).rank()).filter(|&i| i != 1).collect();
    Ok(b.s.reduce(Reduction::Sum, v, &axes)?)
}
