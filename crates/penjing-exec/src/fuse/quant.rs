//! QDQ graphs into integer products.

use super::{Readers, only_relu, product::only_add};
use penjing_ir::{Activation, ConvSpec, IrError, Layout, MachineOp, Model, NodeId, Op, PoolKind, QuantScheme, ValueId};
use penjing_reference::eval_op;
use penjing_tensor::{DType, Tensor};

/// Moves a per-tensor Dequantize below ops that only pick or move elements: `f(DQ(q))` becomes `DQ(f(q))`, which is exact.
pub(super) fn sink_dequantize(model: &mut Model) -> Result<(), IrError> {
    for id in model.topological_order()? {
        let node = model.graph.node(id).clone();
        let moves = matches!(
            node.op,
            Op::Reshape { .. } | Op::Permute { .. } | Op::Slice { .. } | Op::Pool { kind: PoolKind::Max, .. }
        );
        let Some((q, scale, zero, scheme)) = node.inputs.first().and_then(|&v| dequantized(model, v)) else { continue };
        if !moves || scheme.axis.is_some() || node.inputs.len() != 1 {
            continue;
        }
        let moved = model.graph.apply(&node.name, node.op, &[q])?;
        let real = model.graph.apply(&node.name, Op::Dequantize(scheme), &[moved, scale, zero])?;
        model.replace_uses(node.outputs[0], real);
    }
    Ok(())
}

/// DQ, product, bias, ReLU, Q → `machine.QConv` or `machine.QMatMul`.
pub(super) fn fuse_quantized_products(model: &mut Model) -> Result<(), IrError> {
    let readers = Readers::of(model);
    for id in model.graph.node_ids().collect::<Vec<_>>() {
        fuse_one(model, &readers, id)?;
    }
    Ok(())
}

enum Product {
    Conv(ConvSpec),
    MatMul { trans_b: bool },
}

fn fuse_one(model: &mut Model, readers: &Readers, id: NodeId) -> Result<(), IrError> {
    let node = model.graph.node(id).clone();
    let (product, weight_axis) = match node.op {
        Op::Conv(spec) => (Product::Conv(spec), 0),
        Op::MatMul { trans_a: false, trans_b } => (Product::MatMul { trans_b }, if trans_b { 0 } else { 1 }),
        _ => return Ok(()),
    };
    let Some((x, x_scale, x_zero, x_scheme)) = dequantized(model, node.inputs[0]) else { return Ok(()) };
    let Some((w, w_scale, w_zero, w_scheme)) = dequantized(model, node.inputs[1]) else { return Ok(()) };
    let activations_fit = x_scheme.axis.is_none() && matches!(x_scheme.dtype, DType::I8 | DType::U8);
    let axis_fits = w_scheme.axis.is_none_or(|a| a == weight_axis);
    let symmetric = model.graph.as_const(w_zero).is_some_and(|z| z.to_f64s().iter().all(|&v| v == 0.0));
    let matrix = matches!(product, Product::Conv(_)) || model.graph.fact(w).rank() == 2;
    if !(activations_fit && axis_fits && symmetric && matrix && w_scheme.dtype == DType::I8) {
        return Ok(());
    }
    let rows = model.graph.fact(w).shape[weight_axis].clone();
    let Some(w_scale) = scale_vector(model, w_scale, rows.as_const().unwrap_or(0)) else { return Ok(()) };

    let mut last = node.outputs[0];
    let mut bias = node.inputs.get(2).copied();
    if let (Product::MatMul { .. }, Some((add, b))) = (&product, only_add(model, readers, last))
        && model.graph.fact(b).shape == [rows.clone()]
    {
        bias = Some(b);
        last = model.graph.node(add).outputs[0];
    }
    let Some(bias) = bias.or_else(|| zeros(model, &rows)).map(|b| folded(model, b)) else { return Ok(()) };
    let relu = only_relu(model, readers, last);
    last = relu.map_or(last, |r| model.graph.node(r).outputs[0]);
    let act = if relu.is_some() { Activation::Relu } else { Activation::None };
    let mut inputs = vec![x, x_scale, x_zero, w, w_scale, bias];
    let mut out = None;
    if let Some(q) = readers.only(last)
        && let Op::Quantize(scheme) = &model.graph.node(q).op
        && model.graph.node(q).inputs[0] == last
        && scheme.axis.is_none()
        && matches!(scheme.dtype, DType::I8 | DType::U8)
    {
        let scheme = scheme.clone();
        let quantize = model.graph.node(q);
        inputs.extend([quantize.inputs[1], quantize.inputs[2]]);
        last = quantize.outputs[0];
        out = Some(scheme);
    }
    let op = match product {
        Product::Conv(spec) => MachineOp::QConv { spec, act, out, layout: Layout::ChannelsFirst },
        Product::MatMul { trans_b } => MachineOp::QMatMul { trans_b, act, out },
    };
    let fused = model.graph.apply(&node.name, Op::Machine(op), &inputs)?;
    model.replace_uses(last, fused);
    Ok(())
}

/// Operands and scheme of the Dequantize that makes `v`.
fn dequantized(model: &Model, v: ValueId) -> Option<(ValueId, ValueId, ValueId, QuantScheme)> {
    let node = model.graph.node(model.graph.producer(v)?);
    match &node.op {
        Op::Dequantize(scheme) => Some((node.inputs[0], node.inputs[1], node.inputs[2], scheme.clone())),
        _ => None,
    }
}

/// A constant weight scale with one element for each output channel.
fn scale_vector(model: &mut Model, scale: ValueId, rows: usize) -> Option<ValueId> {
    let tensor = model.graph.as_const(scale)?;
    if tensor.rank() == 1 {
        return Some(scale);
    }
    let all = Tensor::from_vec(&[rows], vec![*tensor.as_slice::<f32>().ok()?.first()?; rows]).ok()?;
    Some(model.graph.add_const(all))
}

/// A quantized constant as the float constant it stands for; other values as they are.
fn folded(model: &mut Model, value: ValueId) -> ValueId {
    let Some((q, scale, zero, scheme)) = dequantized(model, value) else { return value };
    let operands: Option<Vec<_>> = [q, scale, zero].iter().map(|&v| model.graph.as_const(v).cloned()).collect();
    let real = operands.and_then(|t| eval_op(&Op::Dequantize(scheme), &[&t[0], &t[1], &t[2]]).ok());
    match real.and_then(|r| r.into_iter().next()) {
        Some(real) => model.graph.add_const(real),
        None => value,
    }
}

fn zeros(model: &mut Model, rows: &penjing_ir::Dim) -> Option<ValueId> {
    let zeros = Tensor::zeros(DType::F32, &[rows.as_const()?]).ok()?;
    Some(model.graph.add_const(zeros))
}
