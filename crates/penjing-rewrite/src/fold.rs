//! Constant folding through the reference interpreter.

use crate::{
    RewriteError, Skip, Trace,
    driver::{Live, checked, each_graph, replace},
};
use penjing_ir::{Fact, Graph, Model, NodeId, Op, Source, ValueId};
use penjing_reference::eval_op;
use penjing_tensor::Tensor;

/// What folding may make.
#[derive(Clone, Copy, Debug)]
pub struct FoldConfig {
    /// Results up to this many bytes are always kept as constants; larger ones only while they are no larger than their operands.
    pub max_bytes: usize,
    /// Most bytes that all results together may have, or twice those of the main graph's constants before where that is more.
    pub total_bytes: usize,
}

impl Default for FoldConfig {
    fn default() -> FoldConfig {
        FoldConfig { max_bytes: 4 << 20, total_bytes: 256 << 20 }
    }
}

/// Computes nodes whose operands are all constant; returns how many.
///
/// `Dequantize` and `FakeQuant` stay, because folding one would undo the quantization of a weight; so do ops that are not functions
/// of their operands alone. What the interpreter refuses stays too, with its reason in the trace.
pub fn fold_constants(model: &mut Model, config: &FoldConfig, trace: &mut Trace) -> Result<usize, RewriteError> {
    let before = model.graph.values().iter().filter_map(|v| match &v.source {
        Source::Const(tensor) => Some(tensor.size_bytes()),
        _ => None,
    });
    let mut left = config.total_bytes.max(before.fold(0, usize::saturating_add).saturating_mul(2));
    let folded = each_graph(model, |graph, carried| Ok(fold(graph, carried, config, &mut left, trace)))?;
    checked("fold_constants", model)?;
    Ok(folded)
}

/// Folds one graph; `room` is the number of bytes that results may still have.
fn fold(graph: &mut Graph, carried: &mut [ValueId], config: &FoldConfig, room: &mut usize, trace: &mut Trace) -> usize {
    let live = Live::of(graph, carried);
    let mut left = live.order.len();
    let mut folded = 0;
    for &id in &live.order {
        if !trace.may_apply() {
            break;
        }
        let name = graph.node(id).name.clone();
        match evaluate(graph, id, config, *room) {
            Ok(results) => {
                *room = room.saturating_sub(results.iter().map(Tensor::size_bytes).sum());
                let outputs = graph.node(id).outputs.clone();
                let inherited = inherited_name(graph, id);
                for (old, tensor) in outputs.into_iter().zip(results) {
                    let own = graph.value(old).name.clone();
                    let new = graph.add_named_const(if own.is_empty() { &inherited } else { &own }, tensor);
                    replace(graph, carried, old, new);
                }
                trace.applied("fold_constants", &name, left, left - 1);
                left -= 1;
                folded += 1;
            }
            Err(why) => trace.skip("fold_constants", &name, why),
        }
    }
    folded
}

fn evaluate(graph: &Graph, id: NodeId, config: &FoldConfig, room: usize) -> Result<Vec<Tensor>, Skip> {
    let node = graph.node(id);
    let operands: Option<Vec<&Tensor>> = node.inputs.iter().map(|&v| graph.as_const(v).map(|t| &**t)).collect();
    let operands = operands.ok_or(Skip::NoMatch)?;
    if matches!(
        node.op,
        Op::Dequantize(_) | Op::FakeQuant(_) | Op::AllReduce | Op::If { .. } | Op::NonZero { .. } | Op::Machine(_)
    ) {
        return Err(Skip::NoEffect);
    }
    let sizes: Option<Vec<usize>> = node.outputs.iter().map(|&v| bytes(graph.fact(v))).collect();
    let size = sizes.and_then(|s| s.into_iter().try_fold(0, usize::checked_add)).ok_or(Skip::NoEffect)?;
    if size > config.max_bytes && size > operands.iter().map(|t| t.size_bytes()).sum() {
        return Err(Skip::Check("the result is too large to keep as a constant"));
    }
    if size > room {
        return Err(Skip::Check("the results together are too large to keep as constants"));
    }
    let results = eval_op(&node.op, &operands).map_err(|_| Skip::Check("the interpreter refuses it"))?;
    let as_inferred = results.len() == node.outputs.len()
        && results.iter().zip(&node.outputs).all(|(t, &v)| Fact::of(t) == *graph.fact(v));
    if as_inferred { Ok(results) } else { Err(Skip::Check("the result has another dtype or shape than inferred")) }
}

/// The name of the operand that an elementwise op modifies, e.g. of a weight that a mask multiplies.
fn inherited_name(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    let result = graph.fact(node.outputs[0]);
    let same = node.inputs.iter().map(|&v| graph.value(v)).filter(|v| v.fact.shape == result.shape);
    match node.op {
        Op::Binary(_) | Op::Unary(_) | Op::Cast(_) => {
            same.map(|v| v.name.clone()).find(|n| !n.is_empty()).unwrap_or_default()
        }
        _ => String::new(),
    }
}

fn bytes(fact: &Fact) -> Option<usize> {
    fact.concrete()?.into_iter().try_fold(fact.dtype.size(), usize::checked_mul)
}
