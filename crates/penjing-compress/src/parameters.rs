//! Which states are weights of products, found by the slot they feed.

use penjing_ir::{Binary, Model, NodeId, Op, Role, StateId, ValueId};

/// A weight state and a product that it feeds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WeightUse {
    /// The state.
    pub state: StateId,
    /// The convolution, matrix product or recurrent cell.
    pub node: NodeId,
    /// The operand of the node that the weight reaches.
    pub operand: usize,
}

/// Every (weight, product) pair, by node. A weight counts when it reaches the operand directly or through its mask, a fake
/// quantization, a reshape or a permutation. Biases and embeddings are not weights of products.
pub fn product_weights(model: &Model) -> Vec<WeightUse> {
    let mut found = Vec::new();
    for node in model.graph.node_ids() {
        let operands: &[usize] = match model.graph.node(node).op {
            Op::Conv(_) | Op::ConvTranspose { .. } => &[1],
            Op::MatMul { .. } => &[0, 1],
            Op::Lstm { .. } | Op::Gru { .. } => &[1, 2],
            _ => &[],
        };
        for &operand in operands {
            let value = model.graph.node(node).inputs[operand];
            if let Some(state) = weight_behind(model, value) {
                found.push(WeightUse { state, node, operand });
            }
        }
    }
    found
}

/// The weight state whose elements `value` holds.
fn weight_behind(model: &Model, value: ValueId) -> Option<StateId> {
    if let Some(state) = model.state_of(value) {
        return (model.state(state).role == Role::Weight).then_some(state);
    }
    let node = model.graph.node(model.graph.producer(value)?);
    match node.op {
        Op::Reshape { .. } | Op::Permute { .. } | Op::FakeQuant(_) => weight_behind(model, node.inputs[0]),
        Op::Binary(Binary::Mul) if mask_of(model, node.inputs[1]).is_some() => weight_behind(model, node.inputs[0]),
        _ => None,
    }
}

/// The mask state that a value reads.
pub(crate) fn mask_of(model: &Model, value: ValueId) -> Option<StateId> {
    model.state_of(value).filter(|&s| model.state(s).role == Role::Mask)
}
