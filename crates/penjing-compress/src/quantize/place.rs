//! Placing fake quantization on the operands of products.

use super::{
    calibrate::Range,
    propagate::{Read, Uses, joined, propagate, value_of},
    table::{TablePlace, tables},
};
use crate::{CompressError, product_weights};
use penjing_ir::{Binary, Model, NodeId, Op, QuantScheme, Reduction, Role, Scope, Unary, ValueId};
use penjing_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How a model is quantized. Weights are symmetric I8 with a scale for each output channel, activations affine U8
/// with one scale for each tensor (Krishnamoorthi, "Quantizing deep convolutional networks", 2018, section 3).
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuantizeConfig {
    /// Products whose node name contains one of these stay in float.
    pub skip: Vec<String>,
    /// The integers that weights use.
    pub weight_range: WeightRange,
}

/// The integers that weights use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightRange {
    /// −127..=127.
    #[default]
    Full,
    /// −64..=64: the sum of two products with any U8 fits 16 bits, which is what processors without dot-product instructions add
    /// first (`vpmaddubsw`).
    Reduced,
}

impl WeightRange {
    /// The largest integer.
    fn largest(self) -> f64 {
        match self {
            WeightRange::Full => 127.0,
            WeightRange::Reduced => 64.0,
        }
    }
}

/// The smallest scale of a weight: what a channel of zeros gets, because a scale must be positive.
const TINY: f64 = 1e-12;

/// The activations that quantization puts on a grid, in graph order: what feeds a convolution or a matrix product that has a
/// weight, what is added to the result of a convolution, and images whose mean is on a grid; all taken before what only moves,
/// picks or joins elements, so that this runs on integers too.
pub fn activations(model: &Model, config: &QuantizeConfig) -> Vec<ValueId> {
    values(model, &places(model, config).reads)
}

/// Puts `FakeQuant` on weights and activations. Scale and zero point of an activation come from `ranges` and become states
/// `<value>.scale` and `<value>.zero_point`; tensors that are joined on integers share a range. A weight's scale follows the
/// weight, max |w| / 127 (or / 64) for each channel, so training keeps it right. `ranges` has an entry for each of
/// [`activations`].
pub fn place_fake_quant(
    model: &mut Model,
    config: &QuantizeConfig,
    ranges: &BTreeMap<ValueId, Range>,
) -> Result<(), CompressError> {
    let Places { weights, reads, joins } = places(model, config);
    let ranges = joined(model, &reads, &joins, ranges);
    let mut on_grid: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for activation in values(model, &reads) {
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
    for read in reads {
        if let Some(&quantized) = on_grid.get(&value_of(model, read)) {
            model.graph.node_mut(read.0).inputs[read.1] = quantized;
        }
    }
    place_weights(model, config, weights)
}

/// Puts `FakeQuant` on weights, and on what feeds their products a grid of its own range, found in every run
/// (`DynamicQuantize`): no calibration. The result does not train.
pub fn place_dynamic(model: &mut Model, config: &QuantizeConfig) -> Result<(), CompressError> {
    let Places { weights, .. } = places(model, config);
    let mut on_grid: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for node in weights.iter().map(|w| w.node) {
        let activation = model.graph.node(node).inputs[0];
        let real = match on_grid.get(&activation) {
            Some(&real) => real,
            None => {
                let name = value_name(model, activation);
                let scheme = QuantScheme { dtype: DType::U8, axis: None, narrow: false };
                let id = model.graph.add_node(&format!("{name}/quantize"), Op::DynamicQuantize, &[activation])?;
                let parts = model.graph.node(id).outputs.clone();
                model.graph.apply(&format!("{name}/dequantize"), Op::Dequantize(scheme), &parts)?
            }
        };
        on_grid.insert(activation, real);
        on_grid.insert(real, real);
        model.graph.node_mut(node).inputs[0] = real;
    }
    place_weights(model, config, weights)
}

fn place_weights(model: &mut Model, config: &QuantizeConfig, weights: Vec<WeightPlace>) -> Result<(), CompressError> {
    if weights.is_empty() {
        return Err(CompressError::NothingToDo("quantized"));
    }
    let mut done: BTreeMap<(ValueId, usize), ValueId> = BTreeMap::new();
    for WeightPlace { node, operand, axis } in weights {
        let weight = model.graph.node(node).inputs[operand];
        let quantized = match done.get(&(weight, axis)) {
            Some(&quantized) => quantized,
            None => fake_quant_weight(model, weight, axis, config.weight_range)?,
        };
        done.insert((weight, axis), quantized);
        model.graph.node_mut(node).inputs[operand] = quantized;
    }
    for TablePlace { node, axis } in tables(model, config) {
        let table = model.graph.node(node).inputs[0];
        let quantized = match done.get(&(table, axis)) {
            Some(&quantized) => quantized,
            None => fake_quant_weight(model, table, axis, WeightRange::Full)?,
        };
        done.insert((table, axis), quantized);
        model.graph.node_mut(node).inputs[0] = quantized;
    }
    Ok(())
}

/// What is read, in graph order.
fn values(model: &Model, reads: &BTreeSet<Read>) -> Vec<ValueId> {
    reads.iter().map(|&read| value_of(model, read)).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Where grids go.
#[derive(Default)]
struct Places {
    weights: Vec<WeightPlace>,
    /// Operands that are read from a grid; other readers of the same values keep the float.
    reads: BTreeSet<Read>,
    /// Ops that join tensors which are all on one grid.
    joins: Vec<NodeId>,
}

/// A product's weight.
struct WeightPlace {
    node: NodeId,
    operand: usize,
    /// Output channels.
    axis: usize,
}

fn places(model: &Model, config: &QuantizeConfig) -> Places {
    let uses = Uses::of_model(model);
    let mut places = Places::default();
    // The convolution that runs last takes the other addend as its residual.
    let mut residuals: BTreeMap<NodeId, usize> = BTreeMap::new();
    for weight_use in product_weights(model) {
        let node = model.graph.node(weight_use.node);
        let operand = weight_use.operand;
        if config.skip.iter().any(|s| node.name.contains(s.as_str())) || operand == 0 {
            continue;
        }
        let axis = match node.op {
            Op::Conv(_) => 0,
            // The gates are the rows of both weights.
            Op::Lstm { .. } | Op::Gru { .. } => 1,
            Op::MatMul { trans_a: false, trans_b } if model.graph.fact(node.inputs[1]).rank() == 2 => {
                usize::from(!trans_b)
            }
            _ => continue,
        };
        places.weights.push(WeightPlace { node: weight_use.node, operand, axis });
        if operand > 1 {
            continue;
        }
        places.reads.insert((weight_use.node, 0));
        if matches!(node.op, Op::Conv(_))
            && let Some((add, operand)) = uses.addition(model, node.outputs[0])
        {
            residuals.insert(add, operand);
        }
    }
    places.reads.extend(residuals);
    places.joins = propagate(model, &uses, &mut places.reads);
    places
}
fn fake_quant_weight(
    model: &mut Model,
    weight: ValueId,
    axis: usize,
    range: WeightRange,
) -> Result<ValueId, CompressError> {
    let name = value_name(model, weight);
    let fact = model.graph.fact(weight).clone();
    let others: Vec<usize> = (0..fact.rank()).filter(|&a| a != axis).collect();
    let channels = fact.shape[axis].as_const().unwrap_or(0);
    let scheme = QuantScheme { dtype: DType::I8, axis: Some(axis), narrow: true };
    let zero = model.graph.add_const(Tensor::zeros(DType::I8, &[channels])?);
    let mut s = Scope::new(&mut model.graph, &format!("{name}/scale"));
    let magnitude = s.unary(Unary::Abs, weight)?;
    let largest = s.reduce(Reduction::Max, magnitude, &others)?;
    let scale = s.scale(largest, 1.0 / range.largest())?;
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
