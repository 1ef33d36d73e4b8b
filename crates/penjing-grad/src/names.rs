//! What the inputs and outputs of a training graph are called.

use crate::GradError;
use penjing_ir::{Fact, Model, ValueId};

/// What the loss compares the output with.
pub const LABEL: &str = "label";
/// F32 []: 1 / number of examples (or tokens) in the global batch.
pub const INVERSE_COUNT: &str = "inverse_count";
/// F32 []: the rate of this update.
pub const LEARNING_RATE: &str = "learning_rate";
/// I64 []: updates done before this one.
pub const STEP: &str = "step";
/// F32 []: Σ loss · inverse_count.
pub const LOSS: &str = "loss";
/// F32 []: how many predictions are right.
pub const CORRECT: &str = "correct";
/// F32 []: the gradients' global L2 norm before clipping.
pub const GRAD_NORM: &str = "grad_norm";

/// The input of that name, added when the model has none. Errors when it has one of another fact.
pub(crate) fn input(model: &mut Model, name: &str, fact: Fact) -> Result<ValueId, GradError> {
    match model.graph.input(name) {
        Some(v) if *model.graph.fact(v) == fact => Ok(v),
        Some(_) => Err(GradError::NameTaken { name: name.into() }),
        None => Ok(model.graph.add_input(name, fact)),
    }
}

/// A new input. Errors when the model has one of that name.
pub(crate) fn new_input(model: &mut Model, name: &str, fact: Fact) -> Result<ValueId, GradError> {
    match model.graph.input(name) {
        Some(_) => Err(GradError::NameTaken { name: name.into() }),
        None => Ok(model.graph.add_input(name, fact)),
    }
}

/// A new output. Errors when the model has one of that name.
pub(crate) fn output(model: &mut Model, name: &str, value: ValueId) -> Result<(), GradError> {
    if model.graph.output(name).is_some() {
        return Err(GradError::NameTaken { name: name.into() });
    }
    model.graph.add_output(name, value);
    Ok(())
}
