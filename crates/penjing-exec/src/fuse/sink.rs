//! Where grids begin and end among ops that only pick or move elements: `f(DQ(q))` is `DQ(f(q))` and `f(Q(x))` is `Q(f(x))`.

use super::{Readers, quant::dequantized};
use penjing_ir::{IrError, Model, Node, Op, PadMode, PoolKind, QuantScheme, Real, ValueId};

/// Moves every Dequantize with one grid for its tensor as far down as it goes, so that the integers are what moves.
pub(super) fn sink_dequantize(model: &mut Model) -> Result<(), IrError> {
    for id in model.topological_order()? {
        let node = model.graph.node(id).clone();
        let Some((op, moved, grid)) = on_integers(model, &node) else { continue };
        let moved = model.graph.apply(&node.name, op, &moved)?;
        let real = model.graph.apply(&node.name, Op::Dequantize(grid.scheme), &[moved, grid.scale, grid.zero])?;
        model.replace_uses(node.outputs[0], real);
    }
    Ok(())
}

/// Moves the Quantize of an attention's result below what merges its heads, which the attention does on the way.
pub(super) fn sink_quantize(model: &mut Model) -> Result<(), IrError> {
    let readers = Readers::of(model);
    for id in model.topological_order()? {
        let node = model.graph.node(id).clone();
        let Op::Quantize(scheme) = &node.op else { continue };
        let attends =
            |v| model.graph.producer(v).is_some_and(|p| matches!(model.graph.node(p).op, Op::Attention { .. }));
        if scheme.axis.is_some() || !attends(node.inputs[0]) {
            continue;
        }
        let (mut real, mut last) = (node.inputs[0], node.outputs[0]);
        while let Some(reader) = readers.only(last) {
            let mover = model.graph.node(reader).clone();
            if !matches!(mover.op, Op::Reshape { .. } | Op::Permute { .. }) {
                break;
            }
            real = model.graph.apply(&mover.name, mover.op, &[real])?;
            last = mover.outputs[0];
        }
        if last != node.outputs[0] {
            let moved = model.graph.apply(&node.name, node.op, &[real, node.inputs[1], node.inputs[2]])?;
            model.replace_uses(last, moved);
        }
    }
    Ok(())
}

struct Grid {
    scale: ValueId,
    zero: ValueId,
    scheme: QuantScheme,
}

/// The op that does to integers what the node does to the numbers that they stand for, the integers, and their grid.
fn on_integers(model: &Model, node: &Node) -> Option<(Op, Vec<ValueId>, Grid)> {
    let operands: Option<Vec<_>> = node.inputs.iter().map(|&v| dequantized(model, v)).collect();
    let operands = operands?;
    let &(_, scale, zero, ref scheme) = operands.first()?;
    let same =
        |a: ValueId, b: ValueId| a == b || model.graph.as_const(a).is_some_and(|t| model.graph.as_const(b) == Some(t));
    let one_grid = operands.iter().all(|(_, s, z, other)| same(*s, scale) && same(*z, zero) && other == scheme);
    if scheme.axis.is_some() || !one_grid {
        return None;
    }
    let op = match &node.op {
        Op::Reshape { .. }
        | Op::Permute { .. }
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Pool { kind: PoolKind::Max, .. } => node.op.clone(),
        // A zero is the zero point.
        Op::Pad { before, after, mode: PadMode::Constant(Real(0.0)) } => {
            let zero = model.graph.as_const(zero)?.to_f64s();
            let mode = PadMode::Constant(Real(*zero.first()?));
            Op::Pad { before: before.clone(), after: after.clone(), mode }
        }
        _ => return None,
    };
    let integers = operands.iter().map(|o| o.0).collect();
    Some((op, integers, Grid { scale, zero, scheme: scheme.clone() }))
}
