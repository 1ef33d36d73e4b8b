//! What can go wrong between a model and its training graph.

use penjing_ir::{Fact, IrError};
use penjing_rewrite::RewriteError;

/// Errors of differentiation, losses, optimizers and schedules.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum GradError {
    #[error(transparent)]
    Ir(#[from] IrError),
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    #[error("the loss must be one float, not {fact}; reduce it with a sum or a mean")]
    LossNotScalar { fact: Fact },
    #[error("cannot differentiate by `{value}` of {fact}: only floats have derivatives")]
    NotFloat { value: String, fact: Fact },
    #[error("node `{node}` ({op}) has no derivative: {why}")]
    NoDerivative { node: String, op: &'static str, why: String },
    #[error("the model has no output `{name}`; it has {have:?}")]
    NoOutput { name: String, have: Vec<String> },
    #[error("the model already has an input or output `{name}`, which training adds; rename it")]
    NameTaken { name: String },
    #[error("{what} of {fact} does not fit the loss: {why}")]
    LossOperand { what: &'static str, fact: Fact, why: &'static str },
    #[error("nothing to train: the model has no trainable weight that the loss depends on")]
    NothingToTrain,
    #[error("{what} is {value}: {why}")]
    Config { what: &'static str, value: f64, why: &'static str },
}
