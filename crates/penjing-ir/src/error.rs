//! What can be wrong with a graph.

use crate::Fact;

/// Errors of building, verifying, binding and parsing graphs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum IrError {
    #[error("node `{node}` ({op}) with operands {operands:?}: {why}")]
    Infer { node: String, op: &'static str, operands: Vec<Fact>, why: String },
    #[error("verify: {place}: {why}")]
    Verify { place: String, why: String },
    #[error("dimension `{symbol}` is not known; give it a value, e.g. --shape NAME=1x3x224x224")]
    Unbound { symbol: String },
    #[error("text form, line {line}: {why}")]
    Text { line: usize, why: String },
}
