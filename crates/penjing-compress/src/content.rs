//! What a value holds when no input has a say in it.

use penjing_ir::{Model, Source, ValueId};
use penjing_reference::eval_op;
use penjing_tensor::Tensor;

/// The content of a value that depends on constants and states alone; `None` when an input matters or an op refuses.
pub(crate) fn content(model: &Model, value: ValueId) -> Option<Tensor> {
    match &model.graph.value(value).source {
        Source::Const(tensor) => Some((**tensor).clone()),
        Source::State(state) => Some((*model.state(*state).init).clone()),
        Source::Input => None,
        Source::Node(node, slot) => {
            let node = model.graph.node(*node);
            let inputs = node.inputs.iter().map(|&v| content(model, v)).collect::<Option<Vec<_>>>()?;
            let refs: Vec<&Tensor> = inputs.iter().collect();
            eval_op(&node.op, &refs).ok()?.into_iter().nth(usize::from(*slot))
        }
    }
}
