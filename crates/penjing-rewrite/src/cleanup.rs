//! Dead code and common subexpressions.

use crate::{
    RewriteError, Trace,
    driver::{Live, checked, each_graph, replace},
};
use penjing_ir::{Graph, Model, Op, Source, StateId, ValueId};
use penjing_tensor::Tensor;
use std::{collections::HashMap, sync::Arc};

/// Constants above this many bytes are not compared: looking for equals among large weights costs more than it finds.
const COMPARED_BYTES: usize = 64 << 10;

/// Removes nodes, values and states that no output or carry needs and puts nodes in topological order. All ids change.
/// Returns the number of nodes removed.
pub fn dead_code(model: &mut Model) -> Result<usize, RewriteError> {
    let before = count(model);
    model.compact();
    for body in &mut model.bodies {
        body.compact(&[]);
    }
    checked("dead_code", model)?;
    Ok(before - count(model))
}

/// Merges nodes with equal op and operands, small constants of equal content and repeated reads of a state; the first name stays.
///
/// Every canonical op is a pure function of attributes and operands — `Random` of its seed, stream and step, a state of its
/// content at the start of the run — so equal nodes give equal values. Returns the number of nodes merged away.
pub fn common_subexpressions(model: &mut Model, trace: &mut Trace) -> Result<usize, RewriteError> {
    let merged = each_graph(model, |graph, carried| Ok(merge(graph, carried, trace)))?;
    checked("common_subexpressions", model)?;
    Ok(merged)
}

#[expect(
    clippy::mutable_key_type,
    reason = "the copy that a mapped tensor may make of its bytes changes neither hash nor equality"
)]
fn merge(graph: &mut Graph, carried: &mut [ValueId], trace: &mut Trace) -> usize {
    // Looked up, never iterated.
    let mut constants: HashMap<Arc<Tensor>, ValueId> = HashMap::new();
    let mut states: HashMap<StateId, ValueId> = HashMap::new();
    for v in graph.value_ids().collect::<Vec<_>>() {
        let first = match &graph.value(v).source {
            Source::Const(t) if t.size_bytes() > COMPARED_BYTES => v,
            Source::Const(t) => *constants.entry(Arc::clone(t)).or_insert(v),
            Source::State(s) => *states.entry(*s).or_insert(v),
            Source::Input | Source::Node(..) => v,
        };
        if first != v {
            replace(graph, carried, v, first);
        }
    }
    let live = Live::of(graph, carried);
    let mut nodes: HashMap<(Op, Vec<ValueId>), Vec<ValueId>> = HashMap::new();
    let mut merged = 0;
    for &id in &live.order {
        let node = graph.node(id);
        let mut operands = node.inputs.clone();
        if matches!(&node.op, Op::Binary(f) if f.is_commutative()) {
            operands.sort_unstable();
        }
        let (outputs, name) = (node.outputs.clone(), node.name.clone());
        let first = nodes.entry((node.op.clone(), operands)).or_insert_with(|| outputs.clone()).clone();
        if first == outputs {
            continue;
        }
        if !trace.may_apply() {
            return merged;
        }
        for (&old, &new) in outputs.iter().zip(&first) {
            replace(graph, carried, old, new);
        }
        merged += 1;
        trace.applied("common_subexpressions", &name, live.order.len() - merged + 1, live.order.len() - merged);
    }
    merged
}

fn count(model: &Model) -> usize {
    model.graph.nodes().len() + model.bodies.iter().map(|b| b.nodes().len()).sum::<usize>()
}
