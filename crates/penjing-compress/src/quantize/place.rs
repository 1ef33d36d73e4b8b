//! Placing fake quantization on the operands of products.

use super::calibrate::Range;
use crate::{CompressError, product_weights};
use penjing_ir::{Binary, Model, NodeId, Op, PoolKind, QuantScheme, Reduction, Role, Scope, Unary, ValueId};
use penjing_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a model is quantized. Weights are symmetric I8 (−127..=127) with a scale for each output channel, activations affine U8
/// with one scale for each tensor (Krishnamoorthi, "Quantizing deep convolutional networks", 2018, section 3).
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuantizeConfig {
    /// Products whose node name contains one of these stay in float.
    pub skip: Vec<String>,
}

/// The smallest scale of a weight: what a channel of zeros gets, because a scale must be positive.
const TINY: f64 = 1e-12;

/// The activations that quantization puts on a grid, in graph order: what feeds a convolution or a matrix product that has a
/// weight, taken before max pooling, reshapes and permutations, so that these run on integers too.
pub fn activations(model: &Model, config: &QuantizeConfig) -> Vec<ValueId> {
    let mut found: Vec<ValueId> = targets(model, config).into_iter().map(|t| t.activation).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Puts `FakeQuant` on weights and activations. Scale and zero point of an activation come from `ranges` and become states
/// `<value>.scale` and `<value>.zero_point`; a weight's scale follows the weight, max |w| / 127 for each channel, so training keeps
/// it right. `ranges` has an entry for each of [`activations`].
pub fn place_fake_quant(
    model: &mut Model,
    config: &QuantizeConfig,
    ranges: &BTreeMap<ValueId, Range>,
) -> Result<(), CompressError> {
    let targets = targets(model, config);
    if targets.is_empty() {
        return Err(CompressError::NothingToDo("quantized"));
    }
    let mut on_grid: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for activation in activations(model, config) {
        let Some(range) = ranges.get(&activation) else { continue };
        let (scale, zero) = range.grid();
        let name = value_name(model, activation);
        let scheme = QuantScheme { dtype: DType::U8, axis: None, narrow: false };
        let scale = model.add_state(&format!("{name}.scale"), Role::Buffer, false, Tensor::scalar(scale));
        let zero = model.add_state(&format!("{name}.zero_point"), Role::Buffer, false, Tensor::scalar(zero));
        let quantized =
            model.graph.apply(&format!("{name}/fake_quant"), Op::FakeQuant(scheme), &[activation, scale, zero])?;
        on_grid.insert(activation, quantized);
    }
    let mut weights: BTreeMap<(ValueId, usize), ValueId> = BTreeMap::new();
    for target in targets {
        if let Some(&quantized) = on_grid.get(&target.activation) {
            let (node, operand) = target.reader;
            model.graph.node_mut(node).inputs[operand] = quantized;
        }
        let key = (target.weight, target.axis);
        let quantized = match weights.get(&key) {
            Some(&done) => done,
            None => fake_quant_weight(model, target.weight, target.axis)?,
        };
        weights.insert(key, quantized);
        model.graph.node_mut(target.product).inputs[target.weight_operand] = quantized;
    }
    Ok(())
}

/// One product to quantize.
struct Target {
    product: NodeId,
    weight_operand: usize,
    weight: ValueId,
    /// Output-channel axis of the weight.
    axis: usize,
    activation: ValueId,
    /// The node and operand through which the product gets the activation.
    reader: (NodeId, usize),
}

fn targets(model: &Model, config: &QuantizeConfig) -> Vec<Target> {
    let uses = model.graph.uses();
    let roots = model.roots();
    let mut targets = Vec::new();
    for weight_use in product_weights(model) {
        let node = model.graph.node(weight_use.node);
        if config.skip.iter().any(|s| node.name.contains(s.as_str())) || weight_use.operand != 1 {
            continue;
        }
        let axis = match node.op {
            Op::Conv(_) => 0,
            Op::MatMul { trans_a: false, trans_b } if model.graph.fact(node.inputs[1]).rank() == 2 => {
                usize::from(!trans_b)
            }
            _ => continue,
        };
        let mut reader = (weight_use.node, 0);
        let mut activation = node.inputs[0];
        // Above an op that only moves or picks elements, where nobody else reads between.
        while let Some(above) = model.graph.producer(activation) {
            let mover = model.graph.node(above);
            let moves =
                matches!(mover.op, Op::Reshape { .. } | Op::Permute { .. } | Op::Pool { kind: PoolKind::Max, .. });
            let private = uses[activation.index()].len() == 1 && !roots.contains(&activation);
            if !(moves && private) {
                break;
            }
            reader = (above, 0);
            activation = mover.inputs[0];
        }
        let (product, weight) = (weight_use.node, node.inputs[1]);
        targets.push(Target { product, weight_operand: 1, weight, axis, activation, reader });
    }
    targets
}

fn fake_quant_weight(model: &mut Model, weight: ValueId, axis: usize) -> Result<ValueId, CompressError> {
    let name = value_name(model, weight);
    let fact = model.graph.fact(weight).clone();
    let others: Vec<usize> = (0..fact.rank()).filter(|&a| a != axis).collect();
    let channels = fact.shape[axis].as_const().unwrap_or(0);
    let scheme = QuantScheme { dtype: DType::I8, axis: Some(axis), narrow: true };
    let zero = model.graph.add_const(Tensor::zeros(DType::I8, &[channels])?);
    let mut s = Scope::new(&mut model.graph, &format!("{name}/scale"));
    let magnitude = s.unary(Unary::Abs, weight)?;
    let largest = s.reduce(Reduction::Max, magnitude, &others)?;
    let scale = s.scale(largest, 1.0 / 127.0)?;
    let tiny = s.scalar(DType::F32, TINY);
    let scale = s.binary(Binary::Max, scale, tiny)?;
    let scale = s.op(Op::StopGradient, &[scale])?;
    s.set_prefix(&name);
    Ok(s.op(Op::FakeQuant(scheme), &[weight, scale, zero])?)
}

/// A name for what belongs to a value: its own, or its node's.
fn value_name(model: &Model, value: ValueId) -> String {
    let v = model.graph.value(value);
    match model.graph.producer(value) {
        _ if !v.name.is_empty() => v.name.clone(),
        Some(node) => model.graph.node(node).name.clone(),
        None => format!("value{}", value.0),
    }
}
