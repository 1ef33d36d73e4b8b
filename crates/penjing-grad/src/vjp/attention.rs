//! Derivatives of attention. With a mask, or with key heads that several query heads share, the walk finds it written out as
//! products and a softmax.

use super::{Grads, Vjp};
use penjing_ir::{Graph, Node, Op, Real};

/// Whether the node has a rule of its own: no mask, and a key head for each query head.
pub(crate) fn has_rule(graph: &Graph, node: &Node) -> bool {
    let heads = |i: usize| graph.fact(node.inputs[i]).shape.get(1).cloned();
    node.inputs.len() == 3 && heads(0) == heads(1)
}

pub(super) fn attention(b: &mut Vjp<'_, '_>, scale: Real, causal: bool) -> Grads {
    let operands = [b.x(0), b.x(1), b.x(2), b.dy()];
    Ok(b.s.ops(Op::AttentionGrad { scale, causal }, &operands)?.into_iter().map(Some).collect())
}
