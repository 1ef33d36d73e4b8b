//! Which initializers are weights: told by the slot that each one feeds, through ops that only move its elements.

use super::functions::FlatNode;
use crate::{
    export::STATES_KEY,
    proto::{ModelProto, NodeProto},
};
use penjing_ir::Role;
use penjing_tensor::Tensor;
use std::collections::BTreeMap;

/// Steps of reshaping, transposing, quantizing and the like between an initializer and the slot that tells its role.
const MAX_STEPS: usize = 8;

/// An additive constant with an element beyond this is a mask, not a bias.
const MASK_MAGNITUDE: f64 = 1e3;

/// What the slots say about an initializer; later variants are stronger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Slot {
    /// Running statistics of a batch normalization.
    Buffer,
    /// One factor of a product: a scale when it is a vector.
    Factor,
    /// One term of a sum: a bias or an embedding when it has several elements and is no mask.
    Term,
    /// A term right after a matrix product: a bias of any size.
    Bias,
    /// A table that is gathered from: an embedding when it is a matrix.
    Table,
    /// The weight or bias of an op that has them.
    Weight,
}

impl Slot {
    /// Whether a float tensor in this slot is a weight.
    pub(super) fn is_weight(self, tensor: &Tensor) -> bool {
        match self {
            Slot::Buffer => false,
            Slot::Factor => tensor.len() > 1 && tensor.shape().iter().filter(|&&d| d > 1).count() == 1,
            Slot::Term => tensor.len() > 1 && tensor.to_f64s().iter().all(|v| v.abs() < MASK_MAGNITUDE),
            Slot::Table => tensor.rank() == 2,
            Slot::Bias | Slot::Weight => true,
        }
    }
}

/// The roles that Penjing wrote into a file it exported, by initializer: role, and whether it is trained.
pub(super) fn declared(model: &ModelProto) -> BTreeMap<String, (Role, bool)> {
    let text = model.metadata_props.iter().find(|e| e.key == STATES_KEY).map_or("", |e| e.value.as_str());
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split('\t');
            let (name, role, trained) = (fields.next()?, fields.next()?, fields.next()?);
            let role = Role::ALL.into_iter().find(|r| r.name() == role)?;
            Some((name.to_string(), (role, trained == "trained")))
        })
        .collect()
}

/// The strongest slot of each value that feeds one, by name.
pub(super) fn classify(nodes: &[FlatNode]) -> BTreeMap<String, Slot> {
    let mut readers: BTreeMap<&str, Vec<(&NodeProto, usize)>> = BTreeMap::new();
    let mut makers: BTreeMap<&str, &NodeProto> = BTreeMap::new();
    let mut pending: Vec<&NodeProto> = nodes.iter().map(|n| &n.proto).rev().collect();
    while let Some(node) = pending.pop() {
        for (slot, name) in node.input.iter().enumerate() {
            readers.entry(name).or_default().push((node, slot));
        }
        node.output.iter().for_each(|name| {
            makers.insert(name, node);
        });
        pending.extend(node.attribute.iter().filter_map(|a| a.g.as_ref()).flat_map(|g| &g.node));
    }
    let mut slots = BTreeMap::new();
    // From the slots backwards: each step moves a slot from a node's output to the operand whose elements it moves.
    for (&name, uses) in &readers {
        for &(node, operand) in uses {
            let Some(found) = slot_of(node, operand, &makers) else { continue };
            let mut pending = vec![(name, 0)];
            while let Some((at, steps)) = pending.pop() {
                // A value that already has so strong a slot was followed back before.
                if !raise(&mut slots, at, found) || steps == MAX_STEPS {
                    continue;
                }
                if let Some(maker) = makers.get(at) {
                    pending.extend(maker.input[..moved(maker)].iter().map(|source| (source.as_str(), steps + 1)));
                }
            }
        }
    }
    slots
}

/// Notes a slot; false when one as strong was known.
fn raise(slots: &mut BTreeMap<String, Slot>, name: &str, found: Slot) -> bool {
    match slots.get_mut(name) {
        Some(slot) if *slot >= found => false,
        Some(slot) => {
            *slot = found;
            true
        }
        None => {
            slots.insert(name.to_string(), found);
            true
        }
    }
}

/// What operand `i` of a node is to it.
fn slot_of(node: &NodeProto, i: usize, makers: &BTreeMap<&str, &NodeProto>) -> Option<Slot> {
    match (node.op_type.as_str(), i) {
        ("Conv" | "ConvTranspose" | "CausalConvWithState", 1 | 2) => Some(Slot::Weight),
        ("MatMul", 0 | 1) | ("Gemm", 0..=2) | ("Einsum", _) => Some(Slot::Weight),
        ("BatchNormalization", 1 | 2) => Some(Slot::Weight),
        ("BatchNormalization", 3 | 4) => Some(Slot::Buffer),
        ("InstanceNormalization" | "GroupNormalization" | "LayerNormalization", 1 | 2) => Some(Slot::Weight),
        ("RMSNormalization" | "PRelu", 1) => Some(Slot::Weight),
        ("LSTM", 1 | 2 | 3 | 7) | ("GRU" | "RNN", 1..=3) => Some(Slot::Weight),
        ("Gather", 0) => Some(Slot::Table),
        ("Mul", 0 | 1) => Some(Slot::Factor),
        ("Add", 0 | 1) => {
            let other = node.input.get(1 - i).and_then(|name| makers.get(name.as_str()));
            Some(if other.is_some_and(|n| n.op_type == "MatMul") { Slot::Bias } else { Slot::Term })
        }
        _ => None,
    }
}

/// How many of its first operands a node only moves the elements of.
fn moved(node: &NodeProto) -> usize {
    match node.op_type.as_str() {
        "Concat" => node.input.len(),
        "Identity" | "Transpose" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Cast" | "Slice" | "Split"
        | "Expand" | "QuantizeLinear" | "DequantizeLinear" => node.input.len().min(1),
        _ => 0,
    }
}
