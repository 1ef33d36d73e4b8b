//! What can go wrong when a graph is interpreted.

use penjing_ir::IrError;
use penjing_tensor::{DType, TensorError};

/// Errors of evaluating an op or running a model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum RefError {
    #[error("{op} with operands {operands:?}: {why}")]
    Operands { op: &'static str, operands: Vec<String>, why: String },
    #[error("{op}: dimension `{dim}` is not known yet; bind it before the node runs")]
    Unbound { op: &'static str, dim: String },
    #[error("index {index} at position {position} is outside an axis of extent {extent}")]
    IndexOutOfRange { index: i64, position: usize, extent: usize },
    #[error("{what} has no value: {why}")]
    Undefined { what: &'static str, why: String },
    #[error("a result of shape {shape:?} is larger than the {limit} elements that the reference interpreter accepts")]
    TooLarge { shape: Vec<usize>, limit: usize },
    #[error("If needs its bodies; run it with `run`")]
    NeedsModel,
    #[error("node `{node}`: {source}")]
    Node { node: String, source: Box<RefError> },
    #[error("node `{node}`: result {slot} is {have}, its fact says {want}")]
    Fact { node: String, slot: usize, want: String, have: String },
    #[error("input `{input}` is not given; the model needs it as {want}")]
    MissingInput { input: String, want: String },
    #[error("the model has no {kind} `{name}`; it has {known:?}")]
    Unknown { kind: &'static str, name: String, known: Vec<String> },
    #[error("{kind} `{name}` is {have}, the model declares {want}")]
    WrongDType { kind: &'static str, name: String, want: DType, have: DType },
    #[error("input `{input}` has shape {have:?}, the model declares rank {want}")]
    InputRank { input: String, want: usize, have: Vec<usize> },
    #[error("input `{input}`, axis {axis}: extent {have}, the model declares {want}")]
    InputExtent { input: String, axis: usize, want: String, have: usize },
    #[error("state `{state}` has shape {have:?}, the model declares {want:?}")]
    StateShape { state: String, want: Vec<usize>, have: Vec<usize> },
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error(transparent)]
    Ir(#[from] IrError),
}
