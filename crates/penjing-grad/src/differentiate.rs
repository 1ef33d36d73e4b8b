//! Reverse-mode differentiation: one walk from the loss back to what it is differentiated by.
//!
//! The backward nodes are ordinary Canonical nodes in the same graph. Only nodes on a path from `wrt` to the loss are visited;
//! integers, `Bool`s and `StopGradient` end a path. A value's gradient is the sum of what its readers contribute, added in the
//! reverse order of the walk, so the sum's rounding never depends on anything but the graph.

use crate::{
    GradError,
    vjp::{self, Vjp, has_rule, sum_to},
};
use penjing_ir::{Dim, Graph, IrError, NodeId, Op, PadMode, Real, Scope, ValueId};
use penjing_tensor::Tensor;
use std::collections::BTreeMap;

/// Appends nodes that compute d loss / d w for each `w` of `wrt`, with w's fact; `None` where the loss does not depend on w.
///
/// Existing ids stay valid; `Attention` nodes on the way are written out and `Lstm` nodes get their fourth output. Nodes that turn
/// out not to be needed are left for dead-code elimination. Errors when the loss is not one float, when a `wrt` is not a float,
/// and when a node on the way has no derivative.
pub fn differentiate(graph: &mut Graph, loss: ValueId, wrt: &[ValueId]) -> Result<Vec<Option<ValueId>>, GradError> {
    check(graph, loss, wrt)?;
    let rewritten = write_out(graph, loss, wrt)?;
    let current = |v: ValueId| rewritten.get(&v).copied().unwrap_or(v);
    let (loss, wrt) = (current(loss), wrt.iter().map(|&w| current(w)).collect::<Vec<_>>());
    let (order, active) = active_path(graph, loss, &wrt)?;
    turn_on_reserves(graph, &order, &active);
    let mut parts = Parts::new();
    parts.insert(loss, vec![seed(graph, loss)?]);
    for &id in order.iter().rev() {
        let node = graph.node(id).clone();
        let wanted: Vec<bool> = node.inputs.iter().map(|v| active[v.index()]).collect();
        if !wanted.contains(&true) || !node.outputs.iter().any(|v| parts.contains_key(v)) {
            continue;
        }
        let mut s = Scope::new(graph, &format!("grad/{}", node.name));
        let dys = node.outputs.iter().map(|&v| total(&mut s, &mut parts, v)).collect::<Result<_, _>>()?;
        let grads = vjp::rule(&mut Vjp { s: &mut s, node: &node, dys, wanted: &wanted })?;
        for ((&operand, grad), wanted) in node.inputs.iter().zip(grads).zip(wanted) {
            if let (Some(grad), true) = (grad, wanted) {
                let shape = s.fact(operand).shape;
                parts.entry(operand).or_default().push(sum_to(&mut s, grad, &shape)?);
            }
        }
    }
    let mut s = Scope::new(graph, "grad");
    wrt.iter().map(|&w| total(&mut s, &mut parts, w)).collect()
}

/// What each value's readers contribute to its gradient.
type Parts = BTreeMap<ValueId, Vec<ValueId>>;

fn check(graph: &Graph, loss: ValueId, wrt: &[ValueId]) -> Result<(), GradError> {
    let fact = graph.fact(loss);
    if !fact.dtype.is_float() || !fact.shape.iter().all(|d| d.is(1)) {
        return Err(GradError::LossNotScalar { fact: fact.clone() });
    }
    match wrt.iter().map(|&w| graph.value(w)).find(|v| !v.fact.dtype.is_float()) {
        Some(v) => Err(GradError::NotFloat { value: v.name.clone(), fact: v.fact.clone() }),
        None => Ok(()),
    }
}

/// d loss / d loss.
fn seed(graph: &mut Graph, loss: ValueId) -> Result<ValueId, GradError> {
    let fact = graph.fact(loss).clone();
    let one = graph.add_const(Tensor::scalar(1.0f64).cast(fact.dtype));
    Ok(Scope::new(graph, "grad").reshape(one, &fact.shape)?)
}

/// Writes out the nodes whose op has no rule of its own; where the value of each went.
fn write_out(graph: &mut Graph, loss: ValueId, wrt: &[ValueId]) -> Result<BTreeMap<ValueId, ValueId>, GradError> {
    let mut rewritten = BTreeMap::new();
    let (order, active) = active_path(graph, loss, wrt)?;
    for id in order {
        let node = graph.node(id).clone();
        let written_out = match node.op {
            Op::Attention { .. } => !has_rule(graph, &node),
            Op::Gru { .. } => true,
            _ => false,
        };
        if !written_out || !active[node.outputs[0].index()] {
            continue;
        }
        let mut s = Scope::new(graph, &node.name);
        let results = penjing_rewrite::primitives(&mut s, &node.op, &node.inputs)?;
        for (&old, new) in node.outputs.iter().zip(results.unwrap_or_default()) {
            graph.replace_uses(old, new);
            rewritten.insert(old, new);
        }
    }
    Ok(rewritten)
}

/// The nodes that the loss needs, operands first, and for each value whether a derivative by some `wrt` flows through it.
fn active_path(graph: &Graph, loss: ValueId, wrt: &[ValueId]) -> Result<(Vec<NodeId>, Vec<bool>), GradError> {
    let Some(order) = graph.topological_order(&[loss]) else {
        let place = format!("graph `{}`", graph.name);
        return Err(IrError::Verify { place, why: "the nodes form a cycle".into() }.into());
    };
    let mut active = vec![false; graph.values().len()];
    wrt.iter().for_each(|w| active[w.index()] = true);
    for &id in &order {
        let node = graph.node(id);
        if matches!(node.op, Op::StopGradient) || !node.inputs.iter().any(|v| active[v.index()]) {
            continue;
        }
        if matches!(node.op, Op::Quantize(_) | Op::DynamicQuantize) && active[node.inputs[0].index()] {
            let why = "rounding to integers stops every gradient; train with FakeQuant instead".into();
            return Err(GradError::NoDerivative { node: node.name.clone(), op: node.op.name(), why });
        }
        for v in &node.outputs {
            active[v.index()] |= graph.fact(*v).dtype.is_float();
        }
    }
    Ok((order, active))
}

/// The backward pass of an LSTM reads the gates that its fourth output keeps.
fn turn_on_reserves(graph: &mut Graph, order: &[NodeId], active: &[bool]) {
    for &id in order {
        let node = graph.node(id);
        if let Op::Lstm { direction, reserve: false } = node.op
            && node.inputs.iter().any(|v| active[v.index()])
        {
            let mut fact = graph.fact(node.outputs[0]).clone();
            fact.shape[3] = Dim::Const(5) * fact.shape[3].clone();
            graph.add_result(id, fact);
            graph.node_mut(id).op = Op::Lstm { direction, reserve: true };
        }
    }
}

/// The sum of a value's parts, which replaces them.
fn total(s: &mut Scope<'_>, parts: &mut Parts, v: ValueId) -> Result<Option<ValueId>, GradError> {
    let Some(terms) = parts.get(&v) else { return Ok(None) };
    let sum = match join_slices(s, terms)? {
        Some(joined) => joined,
        None => {
            let (&first, rest) = terms.split_first().expect("an entry is made with its first part");
            rest.iter().try_fold(first, |sum, &term| s.add(sum, term))?
        }
    };
    parts.insert(v, vec![sum]);
    Ok(Some(sum))
}

/// Parts that are zero-padded blocks which tile one axis (the gradients of a split) are one `Concat`, without adding zeros.
fn join_slices(s: &mut Scope<'_>, terms: &[ValueId]) -> Result<Option<ValueId>, GradError> {
    let mut blocks = Vec::new();
    for &term in terms {
        let Some(block) = padded_block(s.graph, term) else { return Ok(None) };
        blocks.push(block);
    }
    blocks.sort_unstable();
    let axis = blocks[0].0;
    let mut end = Dim::Const(0);
    for &(a, before, inner) in &blocks {
        if a != axis || !end.is(before) {
            return Ok(None);
        }
        end = end + s.graph.fact(inner).shape[axis].clone();
    }
    if terms.len() < 2 || end != s.graph.fact(terms[0]).shape[axis] {
        return Ok(None);
    }
    let inner: Vec<ValueId> = blocks.iter().map(|b| b.2).collect();
    Ok(Some(s.concat(&inner, axis)?))
}

/// (axis, elements before, block) of a value that is a block padded with zeros along one axis.
fn padded_block(graph: &Graph, v: ValueId) -> Option<(usize, usize, ValueId)> {
    let node = graph.node(graph.producer(v)?);
    let Op::Pad { before, after, mode: PadMode::Constant(Real(0.0)) } = &node.op else { return None };
    let mut padded = (0..before.len()).filter(|&i| before[i] + after[i] > 0);
    let axis = padded.next()?;
    padded.next().is_none().then(|| (axis, before[axis], node.inputs[0]))
}
