//! Attention that reads its heads in the columns of projections and writes them there, so that no heads are split or merged.

use super::Readers;
use penjing_ir::{AttentionSpec, Dim, HeadLayout, IrError, MachineOp, Model, NodeId, Op, ValueId};
use penjing_tensor::DType;

/// Reshape + Permute (+ Slice of columns) around an `Attention` become layouts of `machine.Attention`.
pub(super) fn fuse_attention(model: &mut Model) -> Result<(), IrError> {
    let readers = Readers::of(model);
    for id in model.graph.node_ids().collect::<Vec<_>>() {
        fuse_one(model, &readers, id)?;
    }
    Ok(())
}

/// An operand where its heads are columns.
struct Projection {
    source: ValueId,
    first: usize,
    columns: usize,
}

fn fuse_one(model: &mut Model, readers: &Readers, id: NodeId) -> Result<(), IrError> {
    let node = model.graph.node(id).clone();
    let Op::Attention { scale, causal } = node.op else { return Ok(()) };
    let result = node.outputs[0];
    let shapes: Option<Vec<Vec<usize>>> = node.inputs[..3].iter().map(|&v| model.graph.fact(v).concrete()).collect();
    let Some(shapes) = shapes.filter(|_| model.graph.fact(result).dtype == DType::F32) else { return Ok(()) };
    let mut spec = AttentionSpec::canonical(scale, causal, [&shapes[0], &shapes[1], &shapes[2]]);
    let mut inputs = node.inputs.clone();
    let mut folded = false;
    for (i, layout) in [&mut spec.q, &mut spec.k, &mut spec.v].into_iter().enumerate() {
        if let Some(p) = projection(model, inputs[i], &shapes[i]) {
            let rows = [shapes[i][0], shapes[i][2], p.columns].map(Dim::Const).to_vec();
            inputs[i] = reshaped(model, &node.name, p.source, rows)?;
            *layout = HeadLayout::Columns { first: p.first };
            folded = true;
        }
    }
    let merged = readers.only(result).filter(|&n| swaps_heads(&model.graph.node(n).op));
    if merged.is_some() {
        spec.out = HeadLayout::Columns { first: 0 };
    } else if !folded {
        return Ok(());
    }
    let mut fused = model.graph.apply(&node.name, Op::Machine(MachineOp::Attention(spec)), &inputs)?;
    let mut last = result;
    if let Some(permute) = merged {
        last = model.graph.node(permute).outputs[0];
        let shape = model.graph.fact(last).shape.clone();
        fused = reshaped(model, &node.name, fused, shape)?;
    }
    model.replace_uses(last, fused);
    Ok(())
}

/// Where `v`, of shape [B, heads, positions, width], comes from when its heads were columns.
fn projection(model: &Model, v: ValueId, shape: &[usize]) -> Option<Projection> {
    let graph = &model.graph;
    let permute = graph.node(graph.producer(v)?);
    if !swaps_heads(&permute.op) {
        return None;
    }
    let reshape = graph.node(graph.producer(permute.inputs[0])?);
    if !matches!(reshape.op, Op::Reshape { .. }) {
        return None;
    }
    let source = reshape.inputs[0];
    let columns = graph.fact(source).shape.last()?.as_const()?;
    if columns != shape[1] * shape[3] {
        return None;
    }
    let part = graph.producer(source).and_then(|p| column_range(model, p));
    let (source, first) = part.unwrap_or((source, 0));
    let columns = graph.fact(source).shape.last()?.as_const()?;
    Some(Projection { source, first, columns })
}

/// Operand and first column of a Slice that takes neighbouring columns of every row.
fn column_range(model: &Model, id: NodeId) -> Option<(ValueId, usize)> {
    let node = model.graph.node(id);
    let Op::Slice { ranges } = &node.op else { return None };
    let (own, out) = (&model.graph.fact(node.inputs[0]).shape, &model.graph.fact(node.outputs[0]).shape);
    let (last, rows) = ranges.split_last()?;
    let whole = own[..rows.len()] == out[..rows.len()] && ranges.iter().all(|r| r.step == 1);
    whole.then_some((node.inputs[0], last.start.as_const()?))
}

fn swaps_heads(op: &Op) -> bool {
    matches!(op, Op::Permute { perm } if perm == &[0, 2, 1, 3])
}

fn reshaped(model: &mut Model, name: &str, v: ValueId, shape: Vec<Dim>) -> Result<ValueId, IrError> {
    if model.graph.fact(v).shape == shape {
        return Ok(v);
    }
    model.graph.apply(name, Op::Reshape { shape }, &[v])
}
