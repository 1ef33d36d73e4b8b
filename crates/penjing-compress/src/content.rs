//! What a value holds when no input has a say in it.

use penjing_ir::{Model, Source, ValueId};
use penjing_reference::eval_op;
use penjing_tensor::Tensor;
use std::collections::BTreeSet;

/// The content of a value that depends on constants and states alone; `None` when an input matters or an op refuses.
pub(crate) fn content(model: &Model, value: ValueId) -> Option<Tensor> {
    // Asked first, because evaluating the large constants beside an input would be in vain.
    if depends_on_input(model, value) { None } else { evaluated(model, value) }
}

fn depends_on_input(model: &Model, value: ValueId) -> bool {
    let mut seen = BTreeSet::from([value]);
    let mut pending = vec![value];
    while let Some(v) = pending.pop() {
        match model.graph.value(v).source {
            Source::Input => return true,
            Source::Node(node, _) => pending.extend(model.graph.node(node).inputs.iter().filter(|&&i| seen.insert(i))),
            Source::Const(_) | Source::State(_) => {}
        }
    }
    false
}

fn evaluated(model: &Model, value: ValueId) -> Option<Tensor> {
    match &model.graph.value(value).source {
        Source::Const(tensor) => Some((**tensor).clone()),
        Source::State(state) => Some((*model.state(*state).init).clone()),
        Source::Input => None,
        Source::Node(node, slot) => {
            let node = model.graph.node(*node);
            let inputs = node.inputs.iter().map(|&v| evaluated(model, v)).collect::<Option<Vec<_>>>()?;
            let refs: Vec<&Tensor> = inputs.iter().collect();
            eval_op(&node.op, &refs).ok()?.into_iter().nth(usize::from(*slot))
        }
    }
}
