//! Convolution and matrix product with bias, residual and activation.

use super::{Readers, layout::movable, only_activation};
use penjing_ir::{Activation, Binary, IrError, Layout, MachineOp, Model, NodeId, Op, ValueId};
use penjing_tensor::Tensor;

/// Conv (+ residual Add) (+ activation) → `machine.Conv`; MatMul (+ bias Add) (+ residual Add) (+ activation) →
/// `machine.MatMul`. Both compute act(product + bias + residual).
pub(super) fn fuse_products(model: &mut Model) -> Result<(), IrError> {
    for id in model.graph.node_ids().collect::<Vec<_>>() {
        match model.graph.node(id).op {
            Op::Conv(_) => fuse_conv(model, &Readers::of(model), id)?,
            Op::MatMul { .. } => fuse_matmul(model, &Readers::of(model), id)?,
            _ => {}
        }
    }
    Ok(())
}

/// MatMul (+ bias Add) + Reshape of all axes but the last → the product in that shape, so that what follows can join it: rows of
/// A are regrouped instead, which moves nothing either.
pub(super) fn regroup_rows(model: &mut Model) -> Result<(), IrError> {
    let readers = Readers::of(model);
    for id in model.graph.node_ids().collect::<Vec<_>>() {
        let node = model.graph.node(id).clone();
        let Op::MatMul { trans_a: false, .. } = node.op else { continue };
        let (product, [a, b]) = (node.outputs[0], [node.inputs[0], node.inputs[1]]);
        let [columns, depth] = [product, a].map(|v| model.graph.fact(v).shape.last().cloned());
        let (Some(columns), Some(depth), 2) = (columns, depth, model.graph.fact(b).rank()) else { continue };
        let bias = only_add(model, &readers, product)
            .filter(|&(_, bias)| model.graph.fact(bias).shape == std::slice::from_ref(&columns));
        let sum = bias.map_or(product, |(add, _)| model.graph.node(add).outputs[0]);
        let Some(reshape) = readers.only(sum).map(|reader| model.graph.node(reader).clone()) else { continue };
        let Op::Reshape { shape } = &reshape.op else { continue };
        if shape.len() < 2 || shape.last() != Some(&columns) {
            continue;
        }
        let rows = shape[..shape.len() - 1].iter().cloned().chain([depth]).collect();
        let a = model.graph.apply(&reshape.name, Op::Reshape { shape: rows }, &[a])?;
        let mut y = model.graph.apply(&node.name, node.op, &[a, b])?;
        if let Some((add, bias)) = bias {
            let name = model.graph.node(add).name.clone();
            y = model.graph.apply(&name, Op::Binary(Binary::Add), &[y, bias])?;
        }
        model.replace_uses(reshape.outputs[0], y);
    }
    Ok(())
}

fn fuse_conv(model: &mut Model, readers: &Readers, id: NodeId) -> Result<(), IrError> {
    let node = model.graph.node(id).clone();
    let Op::Conv(spec) = &node.op else { return Ok(()) };
    if model.graph.fact(node.outputs[0]).dtype != penjing_tensor::DType::F32 {
        return Ok(());
    }
    let product = node.outputs[0];
    let (residual, last) = take_residual(model, readers, id, product);
    // The kernels of channels that lie last have every epilogue, the others limits only.
    let any = movable(model, &node).is_some();
    let fits = |a: &Activation| any || matches!(a, Activation::Relu | Activation::Clamp { .. });
    let act = only_activation(model, readers, last).filter(|(a, _)| fits(a));
    let (act, last) = act.unwrap_or((Activation::None, last));
    if last == product && node.inputs.len() == 3 {
        return Ok(());
    }
    let bias = match node.inputs.get(2) {
        Some(&b) => b,
        None => zeros(model, model.graph.fact(node.inputs[1]).shape[0].as_const().unwrap_or(0)),
    };
    let inputs: Vec<ValueId> = [node.inputs[0], node.inputs[1], bias].into_iter().chain(residual).collect();
    let fused = model.graph.apply(
        &node.name,
        Op::Machine(MachineOp::Conv { spec: spec.clone(), act, layout: Layout::ChannelsFirst }),
        &inputs,
    )?;
    model.replace_uses(last, fused);
    Ok(())
}

fn fuse_matmul(model: &mut Model, readers: &Readers, id: NodeId) -> Result<(), IrError> {
    let node = model.graph.node(id).clone();
    let Op::MatMul { trans_a, trans_b } = node.op else { return Ok(()) };
    let product = node.outputs[0];
    if model.graph.fact(product).dtype != penjing_tensor::DType::F32 {
        return Ok(());
    }
    let Some(columns) = model.graph.fact(product).shape.last().cloned() else { return Ok(()) };
    let bias = only_add(model, readers, product).filter(|&(_, bias)| {
        model.graph.fact(bias).shape == std::slice::from_ref(&columns) && !depends_on(model, bias, id)
    });
    let sum = bias.map_or(product, |(add, _)| model.graph.node(add).outputs[0]);
    let (residual, last) = take_residual(model, readers, id, sum);
    let (act, last) = only_activation(model, readers, last).unwrap_or((Activation::None, last));
    if last == product {
        return Ok(());
    }
    let bias = match (bias, columns.as_const()) {
        (Some((_, bias)), _) => bias,
        (None, Some(n)) => zeros(model, n),
        (None, None) => return Ok(()),
    };
    let op = Op::Machine(MachineOp::MatMul { trans_a, trans_b, act });
    let inputs: Vec<ValueId> = [node.inputs[0], node.inputs[1], bias].into_iter().chain(residual).collect();
    let fused = model.graph.apply(&node.name, op, &inputs)?;
    model.replace_uses(last, fused);
    Ok(())
}

/// What is added to `sum`, a value of the product `id`, when that is another value of its shape which exists before the product
/// runs, whatever order the schedule takes; and the value of the sum with it.
fn take_residual(model: &Model, readers: &Readers, id: NodeId, sum: ValueId) -> (Option<ValueId>, ValueId) {
    match only_add(model, readers, sum) {
        Some((add, other))
            if model.graph.fact(other) == model.graph.fact(sum) && other != sum && !depends_on(model, other, id) =>
        {
            (Some(other), model.graph.node(add).outputs[0])
        }
        _ => (None, sum),
    }
}

/// The only reader of `v` when it is an Add, with the other addend.
pub(super) fn only_add(model: &Model, readers: &Readers, v: ValueId) -> Option<(NodeId, ValueId)> {
    let add = readers.only(v)?;
    let node = model.graph.node(add);
    (node.op == Op::Binary(Binary::Add)).then(|| {
        let other = if node.inputs[0] == v { node.inputs[1] } else { node.inputs[0] };
        (add, other)
    })
}

pub(super) fn depends_on(model: &Model, v: ValueId, node: NodeId) -> bool {
    model.graph.topological_order(&[v]).is_none_or(|order| order.contains(&node))
}

pub(super) fn zeros(model: &mut Model, n: usize) -> ValueId {
    let zeros = Tensor::zeros(penjing_tensor::DType::F32, &[n]).expect("as many zeros as a weight has rows");
    model.graph.add_const(zeros)
}
