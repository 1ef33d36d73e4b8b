//! The order of nodes, and which carries may be written straight into their state.

use crate::ExecError;
use penjing_ir::{Carry, Model, NodeId, Op, StateId, ValueId};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

/// An order of execution.
pub(crate) struct Schedule {
    /// Nodes, operands first.
    pub(crate) order: Vec<NodeId>,
    /// Carries whose producer runs after every other reader of the old state: the state's bytes may be written in place.
    pub(crate) direct: BTreeMap<ValueId, StateId>,
}

/// Orders the nodes of a compacted model. A node that makes a state's new content waits for the readers of the old one, unless
/// that is a cycle; all-reduces run as soon as their operands exist; otherwise the order of construction stands.
pub(crate) fn schedule(model: &Model) -> Result<Schedule, ExecError> {
    let n = model.graph.nodes().len();
    let mut after: Vec<Vec<usize>> = vec![Vec::new(); n];
    for id in model.graph.node_ids() {
        for p in model.graph.node(id).inputs.iter().filter_map(|&v| model.graph.producer(v)) {
            after[p.index()].push(id.index());
        }
    }
    let readers = state_readers(model);
    let mut direct = BTreeMap::new();
    for carry in &model.carries {
        let Some(producer) = direct_producer(model, carry, &direct) else { continue };
        let waits: Vec<usize> =
            readers.get(&carry.state).into_iter().flatten().copied().filter(|&r| r != producer.index()).collect();
        if reaches_any(&after, producer.index(), &waits) {
            continue;
        }
        waits.iter().for_each(|&r| after[r].push(producer.index()));
        direct.insert(carry.value, carry.state);
    }

    let mut missing = vec![0usize; n];
    after.iter().flatten().for_each(|&to| missing[to] += 1);
    let rank = |i: usize| (model.graph.nodes()[i].op != Op::AllReduce, i);
    let mut ready: BinaryHeap<Reverse<(bool, usize)>> =
        (0..n).filter(|&i| missing[i] == 0).map(|i| Reverse(rank(i))).collect();
    let mut order = Vec::with_capacity(n);
    while let Some(Reverse((_, i))) = ready.pop() {
        order.push(NodeId(i as u32));
        for &to in &after[i] {
            missing[to] -= 1;
            if missing[to] == 0 {
                ready.push(Reverse(rank(to)));
            }
        }
    }
    Ok(Schedule { order, direct })
}

/// The node whose result the carry is, when that result may live in the state's bytes.
fn direct_producer(model: &Model, carry: &Carry, taken: &BTreeMap<ValueId, StateId>) -> Option<NodeId> {
    let producer = model.graph.producer(carry.value)?;
    let aliases = is_alias(&model.graph.node(producer).op);
    (!aliases && !taken.contains_key(&carry.value)).then_some(producer)
}

/// Whether the op's result is its operand's bytes under another shape.
pub(crate) fn is_alias(op: &Op) -> bool {
    matches!(op, Op::Reshape { .. } | Op::StopGradient)
}

/// Nodes that read each state, through aliases too.
fn state_readers(model: &Model) -> BTreeMap<StateId, Vec<usize>> {
    let mut origin: Vec<Option<StateId>> = model.graph.value_ids().map(|v| model.state_of(v)).collect();
    let mut readers: BTreeMap<StateId, Vec<usize>> = BTreeMap::new();
    // A compacted graph stands in topological order.
    for id in model.graph.node_ids() {
        let node = model.graph.node(id);
        for v in &node.inputs {
            if let Some(s) = origin[v.index()] {
                readers.entry(s).or_default().push(id.index());
                if is_alias(&node.op) {
                    origin[node.outputs[0].index()] = Some(s);
                }
            }
        }
    }
    readers
}

fn reaches_any(after: &[Vec<usize>], from: usize, targets: &[usize]) -> bool {
    if targets.is_empty() {
        return false;
    }
    let mut wanted = vec![false; after.len()];
    targets.iter().for_each(|&t| wanted[t] = true);
    let mut seen = vec![false; after.len()];
    let mut stack = vec![from];
    while let Some(i) = stack.pop() {
        if std::mem::replace(&mut seen[i], true) {
            continue;
        }
        if wanted[i] {
            return true;
        }
        stack.extend(&after[i]);
    }
    false
}
