//! Derivatives of reductions, running sums and sorting.

use super::{Grads, Vjp};
use crate::GradError;
use penjing_ir::{Compare, Dim, Op, Reduction, ScatterReduction, Unary, ValueId};

pub(super) fn reduce(b: &mut Vjp<'_, '_>, kind: Reduction, axes: &[usize]) -> Grads {
    let (x, shape, dy) = (b.x(0), b.x_fact(0).shape, b.dy());
    let dy = aligned(b, dy, &shape, axes)?;
    let dx = match kind {
        Reduction::Sum => dy,
        Reduction::Mean => {
            let reduced: Vec<Dim> = axes.iter().map(|&a| shape[a].clone()).collect();
            let n = b.count(&reduced, x)?;
            b.s.div(dy, n)?
        }
        // Equal extremes share the gradient evenly.
        Reduction::Max | Reduction::Min => {
            let y = aligned(b, b.y(0), &shape, axes)?;
            let hit = b.s.compare(Compare::Equal, x, y)?;
            let dtype = b.x_fact(0).dtype;
            let hit = b.s.cast(hit, dtype)?;
            let hits = b.s.reduce_keep(Reduction::Sum, hit, axes)?;
            let share = b.s.div(dy, hits)?;
            b.s.mul(hit, share)?
        }
        Reduction::Prod => product(b, dy, axes)?,
    };
    Ok(vec![Some(b.s.expand(dx, &shape)?)])
}

/// A result of the reduction as it broadcasts against its operand; leading axes need not be put back for that.
fn aligned(b: &mut Vjp<'_, '_>, v: ValueId, shape: &[Dim], axes: &[usize]) -> Result<ValueId, GradError> {
    if axes.iter().copied().eq(0..axes.len()) {
        return Ok(v);
    }
    let with_axes = shape.iter().enumerate().map(|(i, d)| if axes.contains(&i) { Dim::Const(1) } else { d.clone() });
    Ok(b.s.reshape(v, &with_axes.collect::<Vec<_>>())?)
}

/// Product of the other elements: y/x without a zero; with one zero, the product of the others at the zero and 0 elsewhere.
fn product(b: &mut Vjp<'_, '_>, dy: ValueId, axes: &[usize]) -> Result<ValueId, GradError> {
    let x = b.x(0);
    let (zero, one) = (b.s.scalar_like(x, 0.0), b.s.scalar_like(x, 1.0));
    let is_zero = b.s.compare(Compare::Equal, x, zero)?;
    let filled = b.s.select(is_zero, one, x)?;
    let others = b.s.reduce_keep(Reduction::Prod, filled, axes)?;
    let counted = b.s.select(is_zero, one, zero)?;
    let zeros = b.s.reduce_keep(Reduction::Sum, counted, axes)?;
    let no_zero = b.s.compare(Compare::Equal, zeros, zero)?;
    let one_zero = b.s.compare(Compare::Equal, zeros, one)?;
    let inverse = b.s.unary(Unary::Recip, filled)?;
    let at_zero = b.s.select(one_zero, counted, zero)?;
    let share = b.s.select(no_zero, inverse, at_zero)?;
    let scaled = b.s.mul(dy, others)?;
    Ok(b.s.mul(scaled, share)?)
}

pub(super) fn cum_sum(b: &mut Vjp<'_, '_>, axis: usize, exclusive: bool, reverse: bool) -> Grads {
    let dy = b.dy();
    Ok(vec![Some(b.s.op(Op::CumSum { axis, exclusive, reverse: !reverse }, &[dy])?)])
}

pub(super) fn top_k(b: &mut Vjp<'_, '_>, axis: usize) -> Grads {
    let (indices, dy, zeros) = (b.y(1), b.dy(), b.zeros_like(b.x(0))?);
    let scatter = Op::ScatterElements { axis, reduction: ScatterReduction::Add };
    Ok(vec![Some(b.s.op(scatter, &[zeros, indices, dy])?)])
}
