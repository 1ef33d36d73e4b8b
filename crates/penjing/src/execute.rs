//! One run of a model by the engine that can: a static plan, or the reference interpreter where extents are known only late.

use penjing_exec::{ExecError, Outputs, Target};
use penjing_ir::Model;
use penjing_reference::Precision;
use penjing_rewrite::Trace;
use penjing_tensor::Tensor;
use penjing_train::{Inference, TrainError};
use std::collections::BTreeMap;

/// The outputs in the model's order; `trace` bounds what is rewritten before.
pub(crate) fn execute(
    model: &Model,
    inputs: &BTreeMap<String, Tensor>,
    target: Target,
    trace: &mut Trace,
) -> Result<Outputs, TrainError> {
    match run_program(model, inputs, target, trace) {
        Err(error) if needs_interpreter(&error) => interpret(model, inputs),
        result => result,
    }
}

/// Through a lowered program.
pub(crate) fn run_program(
    model: &Model,
    inputs: &BTreeMap<String, Tensor>,
    target: Target,
    trace: &mut Trace,
) -> Result<Outputs, TrainError> {
    let named: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, t)| (name.as_str(), t)).collect();
    Inference::traced(model, target, trace)?.run(&named)
}

/// Through the reference interpreter.
pub(crate) fn interpret(model: &Model, inputs: &BTreeMap<String, Tensor>) -> Result<Outputs, TrainError> {
    let mut result = penjing_reference::run(model, inputs, &BTreeMap::new(), Precision::Declared)?;
    let in_order = model.graph.outputs.iter().filter_map(|o| result.outputs.remove_entry(&o.name));
    Ok(in_order.collect())
}

/// Whether the graph has no static plan, by its nature rather than by a fault.
pub(crate) fn needs_interpreter(error: &TrainError) -> bool {
    matches!(
        error,
        TrainError::Exec(ExecError::Late { .. } | ExecError::Unsupported { .. } | ExecError::Symbolic { .. })
    )
}
