//! Convolution and matrix product with bias, residual and activation.

use super::{Readers, only_relu};
use penjing_ir::{Activation, Binary, IrError, Layout, MachineOp, Model, NodeId, Op, ValueId};
use penjing_tensor::Tensor;

/// Conv (+ residual Add) (+ Relu) → `machine.Conv`; MatMul + bias Add (+ Relu) → `machine.MatMul`.
pub(super) fn fuse_products(model: &mut Model) -> Result<(), IrError> {
    let readers = Readers::of(model);
    for id in model.graph.node_ids().collect::<Vec<_>>() {
        match model.graph.node(id).op {
            Op::Conv(_) => fuse_conv(model, &readers, id)?,
            Op::MatMul { .. } => fuse_matmul(model, &readers, id)?,
            _ => {}
        }
    }
    Ok(())
}

fn fuse_conv(model: &mut Model, readers: &Readers, id: NodeId) -> Result<(), IrError> {
    let node = model.graph.node(id).clone();
    let Op::Conv(spec) = node.op else { return Ok(()) };
    if model.graph.fact(node.outputs[0]).dtype != penjing_tensor::DType::F32 {
        return Ok(());
    }
    let mut last = node.outputs[0];
    let mut residual = None;
    if let Some((add, other)) = only_add(model, readers, last) {
        let same = model.graph.fact(other) == model.graph.fact(last);
        // The residual must be there before the convolution runs, whatever order the schedule takes.
        if same && other != last && !depends_on(model, other, id) {
            residual = Some(other);
            last = model.graph.node(add).outputs[0];
        }
    }
    let relu = only_relu(model, readers, last);
    if residual.is_none() && relu.is_none() && node.inputs.len() == 3 {
        return Ok(());
    }
    let act = if relu.is_some() { Activation::Relu } else { Activation::None };
    last = relu.map_or(last, |r| model.graph.node(r).outputs[0]);
    let bias = match node.inputs.get(2) {
        Some(&b) => b,
        None => zeros(model, model.graph.fact(node.inputs[1]).shape[0].as_const().unwrap_or(0)),
    };
    let inputs: Vec<ValueId> = [node.inputs[0], node.inputs[1], bias].into_iter().chain(residual).collect();
    let fused = model.graph.apply(
        &node.name,
        Op::Machine(MachineOp::Conv { spec, act, layout: Layout::ChannelsFirst }),
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
    let Some((add, bias)) = only_add(model, readers, product) else { return Ok(()) };
    let columns = model.graph.fact(product).shape.last().cloned();
    if model.graph.fact(bias).shape.as_slice() != columns.as_slice() || depends_on(model, bias, id) {
        return Ok(());
    }
    let sum = model.graph.node(add).outputs[0];
    let relu = only_relu(model, readers, sum);
    let act = if relu.is_some() { Activation::Relu } else { Activation::None };
    let last = relu.map_or(sum, |r| model.graph.node(r).outputs[0]);
    let op = Op::Machine(MachineOp::MatMul { trans_a, trans_b, act });
    let fused = model.graph.apply(&node.name, op, &[node.inputs[0], node.inputs[1], bias])?;
    model.replace_uses(last, fused);
    Ok(())
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

fn depends_on(model: &Model, v: ValueId, node: NodeId) -> bool {
    model.graph.topological_order(&[v]).is_none_or(|order| order.contains(&node))
}

fn zeros(model: &mut Model, n: usize) -> ValueId {
    let zeros = Tensor::zeros(penjing_tensor::DType::F32, &[n]).expect("as many zeros as a weight has rows");
    model.graph.add_const(zeros)
}
