//! QDQ graphs into integer products.

use super::{
    Readers, only_activation,
    product::{depends_on, only_add},
};
use penjing_ir::{
    Activation, ConvSpec, IrError, Layout, MachineOp, Model, NodeId, Op, QuantScheme, Reduction, ValueId,
};
use penjing_kernels::int8::MAX_MEAN;
use penjing_reference::eval_op;
use penjing_tensor::{DType, Tensor};

/// DQ, product, bias, residual, activation, Q → `machine.QConv` or `machine.QMatMul`; DQ, LSTM → `machine.QLstm`;
/// DQ, GRU → `machine.QGru`.
pub(super) fn fuse_quantized_products(model: &mut Model) -> Result<(), IrError> {
    for id in model.graph.node_ids().collect::<Vec<_>>() {
        match model.graph.node(id).op {
            // A fused product reads its residual, which the readers of the graph before do not tell.
            Op::Conv(_) | Op::MatMul { .. } => fuse_one(model, &Readers::of(model), id)?,
            Op::Lstm { .. } | Op::Gru { .. } => fuse_recurrent(model, id)?,
            _ => {}
        }
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
    let axis_fits = w_scheme.axis.is_none_or(|a| a == weight_axis);
    let symmetric = model.graph.as_const(w_zero).is_some_and(|z| z.to_f64s().iter().all(|&v| v == 0.0));
    let matrix = matches!(product, Product::Conv(_)) || model.graph.fact(w).rank() == 2;
    if !(is_int8_tensor(&x_scheme) && axis_fits && symmetric && matrix && w_scheme.dtype == DType::I8) {
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
    let residual = residual(model, readers, id, last);
    last = residual.as_ref().map_or(last, |r| r.sum);
    let (act, mut last) = only_activation(model, readers, last).unwrap_or((Activation::None, last));
    let mut inputs = vec![x, x_scale, x_zero, w, w_scale, bias];
    inputs.extend(residual.into_iter().flat_map(|r| r.operands));
    let out = take_quantize(model, readers, &mut last, &mut inputs);
    let op = match product {
        Product::Conv(spec) => MachineOp::QConv { spec, act, out, layout: Layout::ChannelsFirst },
        Product::MatMul { trans_b } => MachineOp::QMatMul { trans_b, act, out },
    };
    let fused = model.graph.apply(&node.name, Op::Machine(op), &inputs)?;
    model.replace_uses(last, fused);
    Ok(())
}

/// Chains that read int8 operands from behind a DQ or whose result is quantized → `machine.QChain`: the integers are all that
/// moves through memory.
pub(super) fn fuse_quantized_chains(model: &mut Model) -> Result<(), IrError> {
    let readers = Readers::of(model);
    for id in model.graph.node_ids().collect::<Vec<_>>() {
        let node = model.graph.node(id).clone();
        let Op::Machine(MachineOp::Chain(code)) = node.op else { continue };
        let mut inputs = Vec::new();
        for &v in &node.inputs {
            match dequantized(model, v).filter(|(.., scheme)| is_int8_tensor(scheme)) {
                Some((q, scale, zero, _)) => inputs.extend([q, scale, zero]),
                None => inputs.push(v),
            }
        }
        let mut last = node.outputs[0];
        let out = take_quantize(model, &readers, &mut last, &mut inputs);
        if inputs == node.inputs {
            continue;
        }
        let fused = model.graph.apply(&node.name, Op::Machine(MachineOp::QChain { code, out }), &inputs)?;
        model.replace_uses(last, fused);
    }
    Ok(())
}

/// DQ, mean over neighbouring axes, Q → `machine.QMean`, where the sums fit 32 bits.
pub(super) fn fuse_quantized_means(model: &mut Model) -> Result<(), IrError> {
    let readers = Readers::of(model);
    for id in model.graph.node_ids().collect::<Vec<_>>() {
        let node = model.graph.node(id).clone();
        let Op::Reduce { kind: Reduction::Mean, axes, keep } = node.op else { continue };
        let Some((q, scale, zero, scheme)) = dequantized(model, node.inputs[0]) else { continue };
        let n = axes.iter().try_fold(1usize, |n, &a| n.checked_mul(model.graph.fact(q).shape[a].as_const()?));
        let neighbours = axes.windows(2).all(|w| w[1] == w[0] + 1);
        if !is_int8_tensor(&scheme) || !neighbours || n.is_none_or(|n| n > MAX_MEAN) {
            continue;
        }
        let (mut inputs, mut last) = (vec![q, scale, zero], node.outputs[0]);
        let out = take_quantize(model, &readers, &mut last, &mut inputs);
        let fused = model.graph.apply(&node.name, Op::Machine(MachineOp::QMean { axes, keep, out }), &inputs)?;
        model.replace_uses(last, fused);
    }
    Ok(())
}

/// Weights that no integer kernel reads become floats once, not in every run.
pub(super) fn fold_dequantized_constants(model: &mut Model) {
    for id in model.graph.node_ids().collect::<Vec<_>>() {
        let node = model.graph.node(id);
        if let (Op::Dequantize(_), &[result]) = (&node.op, node.outputs.as_slice()) {
            let real = folded(model, result);
            model.replace_uses(result, real);
        }
    }
}

/// Takes in the Quantize onto an int8 grid that alone reads `last`: its grid joins the operands.
fn take_quantize(
    model: &Model,
    readers: &Readers,
    last: &mut ValueId,
    inputs: &mut Vec<ValueId>,
) -> Option<QuantScheme> {
    let quantize = model.graph.node(readers.only(*last)?);
    let Op::Quantize(scheme) = &quantize.op else { return None };
    if quantize.inputs[0] != *last || !is_int8_tensor(scheme) {
        return None;
    }
    inputs.extend([quantize.inputs[1], quantize.inputs[2]]);
    *last = quantize.outputs[0];
    Some(scheme.clone())
}

/// Whether the grid is of 8 bits with one scale for the whole tensor.
fn is_int8_tensor(scheme: &QuantScheme) -> bool {
    scheme.axis.is_none() && matches!(scheme.dtype, DType::I8 | DType::U8)
}

/// LSTM or GRU whose input and weights lie behind a DQ → `machine.QLstm` or `machine.QGru`.
fn fuse_recurrent(model: &mut Model, id: NodeId) -> Result<(), IrError> {
    let node = model.graph.node(id).clone();
    let op = match node.op {
        Op::Lstm { direction, reserve: false } => MachineOp::QLstm { direction },
        Op::Gru { direction, reset } => MachineOp::QGru { direction, reset },
        _ => return Ok(()),
    };
    let [x, w, r] = [0, 1, 2].map(|i| dequantized(model, node.inputs[i]));
    let (Some((x, x_scale, x_zero, x_scheme)), Some(w), Some(r)) = (x, w, r) else { return Ok(()) };
    let gates = model.graph.fact(node.inputs[1]).shape[1].as_const().unwrap_or(0);
    let mut weight = |(q, scale, zero, scheme): (ValueId, ValueId, ValueId, QuantScheme)| {
        let symmetric = model.graph.as_const(zero)?.to_f64s().iter().all(|&z| z == 0.0);
        let fits = scheme.dtype == DType::I8 && scheme.axis.is_none_or(|a| a == 1) && symmetric;
        let scale = scale_vector(model, scale, gates).filter(|_| fits)?;
        Some([q, scale])
    };
    let (Some([w, w_scale]), Some([r, r_scale])) = (weight(w), weight(r)) else { return Ok(()) };
    if !is_int8_tensor(&x_scheme) {
        return Ok(());
    }
    let inputs = [&[x, x_scale, x_zero, w, w_scale, r, r_scale], &node.inputs[3..]].concat();
    let fused = model.graph.add_node(&node.name, Op::Machine(op), &inputs)?;
    for (slot, &old) in node.outputs.iter().enumerate() {
        let new = model.graph.node(fused).outputs[slot];
        model.replace_uses(old, new);
    }
    Ok(())
}

/// What is added to a product's result.
struct Residual {
    /// An F32 tensor, or int8 elements, their scale and zero point.
    operands: Vec<ValueId>,
    /// The result of the addition.
    sum: ValueId,
}

/// The tensor of the same shape that is added to `v`, a result of the product `id`, when it exists before the product runs,
/// whatever order the schedule takes.
fn residual(model: &Model, readers: &Readers, id: NodeId, v: ValueId) -> Option<Residual> {
    let (add, other) = only_add(model, readers, v)?;
    let operands = match dequantized(model, other) {
        Some((q, scale, zero, scheme)) if is_int8_tensor(&scheme) => vec![q, scale, zero],
        _ => vec![other],
    };
    let same = model.graph.fact(other) == model.graph.fact(v);
    let sum = model.graph.node(add).outputs[0];
    (same && other != v && !depends_on(model, other, id)).then_some(Residual { operands, sum })
}

/// Operands and scheme of the Dequantize that makes `v`.
pub(super) fn dequantized(model: &Model, v: ValueId) -> Option<(ValueId, ValueId, ValueId, QuantScheme)> {
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
