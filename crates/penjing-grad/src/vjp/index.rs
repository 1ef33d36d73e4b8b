//! Derivatives of gathers and scatters: the one sums where the other reads.

use super::{Grads, Vjp};
use crate::GradError;
use penjing_ir::{Compare, Dim, Op, ScatterReduction, ValueId};
use penjing_tensor::DType;

pub(super) fn gather(b: &mut Vjp<'_, '_>, axis: usize) -> Grads {
    let (indices, dy, size) = (b.x(1), b.dy(), b.x_fact(0).shape[axis].clone());
    Ok(vec![Some(b.s.op(Op::GatherGrad { axis, size }, &[indices, dy])?), None])
}

pub(super) fn gather_grad(b: &mut Vjp<'_, '_>, axis: usize) -> Grads {
    let (indices, d) = (b.x(0), b.dy());
    Ok(vec![None, Some(b.s.op(Op::Gather { axis }, &[d, indices])?)])
}

pub(super) fn gather_elements(b: &mut Vjp<'_, '_>, axis: usize) -> Grads {
    let (indices, dy, zeros) = (b.x(1), b.dy(), b.zeros_like(b.x(0))?);
    let scatter = Op::ScatterElements { axis, reduction: ScatterReduction::Add };
    Ok(vec![Some(b.s.op(scatter, &[zeros, indices, dy])?), None])
}

pub(super) fn scatter_elements(b: &mut Vjp<'_, '_>, axis: usize, reduction: ScatterReduction) -> Grads {
    let read = Op::GatherElements { axis };
    scatter(b, reduction, |reduction| Op::ScatterElements { axis, reduction }, read)
}

/// As `ScatterNd` onto zeros; leading batch axes become part of the index tuples.
pub(super) fn gather_nd(b: &mut Vjp<'_, '_>, batch_dims: usize) -> Grads {
    let (mut parts, fact) = (Vec::new(), b.x_fact(1));
    let mut shape = fact.shape.clone();
    shape[fact.rank() - 1] = Dim::Const(1);
    for axis in 0..batch_dims {
        parts.push(b.s.op(Op::Iota { shape: shape.clone(), axis, dtype: DType::I64 }, &[])?);
    }
    parts.push(b.x(1));
    let indices = if batch_dims == 0 { b.x(1) } else { b.s.concat(&parts, fact.rank() - 1)? };
    let (dy, zeros) = (b.dy(), b.zeros_like(b.x(0))?);
    Ok(vec![Some(b.s.op(Op::ScatterNd { reduction: ScatterReduction::Add }, &[zeros, indices, dy])?), None])
}

pub(super) fn scatter_nd(b: &mut Vjp<'_, '_>, reduction: ScatterReduction) -> Grads {
    scatter(b, reduction, |reduction| Op::ScatterNd { reduction }, Op::GatherNd { batch_dims: 0 })
}

/// (data, indices, updates): what was overwritten gets no gradient, and of several updates of one element only the last does.
fn scatter(b: &mut Vjp<'_, '_>, reduction: ScatterReduction, op: impl Fn(ScatterReduction) -> Op, read: Op) -> Grads {
    let (indices, updates, dy) = (b.x(1), b.x(2), b.dy());
    match reduction {
        ScatterReduction::Add => Ok(vec![Some(dy), None, b.when(2, |b| Ok(b.s.op(read, &[dy, indices])?))?]),
        ScatterReduction::None => {
            let data = b.when(0, |b| {
                let zeros = b.zeros_like(updates)?;
                Ok(b.s.op(op(ScatterReduction::None), &[dy, indices, zeros])?)
            })?;
            let updates = b.when(2, |b| {
                let stayed = stayed(b, op(ScatterReduction::None), read.clone())?;
                let read = b.s.op(read, &[dy, indices])?;
                b.where_else_zero(stayed, read)
            })?;
            Ok(vec![data, None, updates])
        }
        ScatterReduction::Mul | ScatterReduction::Max | ScatterReduction::Min => {
            b.fail("only scatters that replace or add have a derivative")
        }
    }
}

/// Bool of the updates' shape: whether the update was not overwritten by a later one. Numbers every update, scatters the
/// numbers and reads them back.
fn stayed(b: &mut Vjp<'_, '_>, scatter: Op, read: Op) -> Result<ValueId, GradError> {
    let (data, updates, indices) = (b.x_fact(0).shape, b.x_fact(2).shape, b.x(1));
    let count = Op::Iota { shape: vec![Dim::product(&updates)], axis: 0, dtype: DType::I64 };
    let numbers = b.s.op(count, &[])?;
    let numbers = b.s.reshape(numbers, &updates)?;
    let none = b.s.scalar(DType::I64, 0.0);
    let none = b.s.expand(none, &data)?;
    let last = b.s.op(scatter, &[none, indices, numbers])?;
    let last = b.s.op(read, &[last, indices])?;
    Ok(b.s.compare(Compare::Equal, numbers, last)?)
}
