//! Derivatives of ops that move elements: each sends the gradient back where the element came from.

use super::{Grads, Vjp};
use crate::GradError;
use penjing_ir::{Dim, Op, PadMode, Real, SliceRange, ValueId};
use penjing_tensor::{DType, Tensor};

pub(super) fn permute(b: &mut Vjp<'_, '_>, perm: &[usize]) -> Grads {
    let mut inverse = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
    let dy = b.dy();
    Ok(vec![Some(b.s.permute(dy, &inverse)?)])
}

pub(super) fn reshape(b: &mut Vjp<'_, '_>) -> Grads {
    let (shape, dy) = (b.x_fact(0).shape, b.dy());
    Ok(vec![Some(b.s.reshape(dy, &shape)?)])
}

pub(super) fn expand(b: &mut Vjp<'_, '_>) -> Grads {
    Ok(vec![Some(b.dy())])
}

pub(super) fn slice(b: &mut Vjp<'_, '_>, ranges: &[SliceRange]) -> Grads {
    let shape = b.x_fact(0).shape;
    let (mut before, mut after) = (vec![0; shape.len()], vec![0; shape.len()]);
    let mut dx = b.dy();
    for (axis, (range, extent)) in ranges.iter().zip(&shape).enumerate() {
        let rest = extent.clone() - range.start.clone() - range.len.clone();
        match (range.step, range.start.as_const(), rest.as_const()) {
            (1, Some(start), Some(rest)) => (before[axis], after[axis]) = (start, rest),
            _ => {
                let indices = range_indices(b, range)?;
                dx = b.s.op(Op::GatherGrad { axis, size: extent.clone() }, &[indices, dx])?;
            }
        }
    }
    if before.iter().chain(&after).any(|&n| n > 0) {
        dx = b.s.op(Op::Pad { before, after, mode: PadMode::Constant(Real(0.0)) }, &[dx])?;
    }
    Ok(vec![Some(dx)])
}

/// I64 [len]: start, start + step, …
fn range_indices(b: &mut Vjp<'_, '_>, range: &SliceRange) -> Result<ValueId, GradError> {
    let iota = b.s.op(Op::Iota { shape: vec![range.len.clone()], axis: 0, dtype: DType::I64 }, &[])?;
    let step = b.s.constant(Tensor::scalar(range.step));
    let steps = b.s.mul(iota, step)?;
    let start = b.s.op(Op::DimValues { dims: vec![range.start.clone()] }, &[])?;
    Ok(b.s.add(steps, start)?)
}

pub(super) fn concat(b: &mut Vjp<'_, '_>, axis: usize) -> Grads {
    let dy = b.dy();
    let mut start = Dim::Const(0);
    let mut grads = Vec::new();
    for i in 0..b.node.inputs.len() {
        let len = b.x_fact(i).shape[axis].clone();
        let from = start.clone();
        start = start + len.clone();
        grads.push(b.when(i, |b| Ok(b.s.slice(dy, axis, from, len)?))?);
    }
    Ok(grads)
}

pub(super) fn pad(b: &mut Vjp<'_, '_>, before: &[usize], after: &[usize], mode: PadMode) -> Grads {
    let shape = b.x_fact(0).shape;
    let mut dx = b.dy();
    if let PadMode::Constant(_) = mode {
        let ranges = before.iter().zip(&shape).map(|(&start, len)| SliceRange::span(start, len.clone())).collect();
        return Ok(vec![Some(b.s.op(Op::Slice { ranges }, &[dx])?)]);
    }
    for axis in (0..shape.len()).filter(|&i| before[i] + after[i] > 0) {
        let Some(n) = shape[axis].as_const() else {
            return b.fail("the extent of an axis that is padded with its own elements must be known; bind it first");
        };
        let sources: Vec<i64> = (0..before[axis] + n + after[axis])
            .map(|i| source(i as i64 - before[axis] as i64, n as i64, mode))
            .collect();
        let indices = Tensor::from_vec(&[sources.len()], sources).expect("one index for each element of the axis");
        let indices = b.s.constant(indices);
        dx = b.s.op(Op::GatherGrad { axis, size: Dim::Const(n) }, &[indices, dx])?;
    }
    Ok(vec![Some(dx)])
}

/// Which element of an axis of extent `n` > 0 stands at position `i`, counted from the first element.
fn source(i: i64, n: i64, mode: PadMode) -> i64 {
    match mode {
        PadMode::Edge | PadMode::Constant(_) => i.clamp(0, n - 1),
        PadMode::Wrap => i.rem_euclid(n),
        PadMode::Reflect => {
            let period = (2 * (n - 1)).max(1);
            let phase = i.rem_euclid(period);
            phase.min(period - phase).min(n - 1)
        }
    }
}
