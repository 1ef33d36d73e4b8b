//! What can go wrong between a model and its results.

use penjing_ir::{Fact, IrError};
use penjing_kernels::KernelError;
use penjing_reference::RefError;
use penjing_tensor::TensorError;

/// Errors of lowering and running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ExecError {
    #[error(transparent)]
    Ir(#[from] IrError),
    #[error(
        "value `{value}` of node `{node}` has the shape {fact}; give its free dimensions, e.g. --shape NAME=1x3x224x224"
    )]
    Symbolic { node: String, value: String, fact: Fact },
    #[error(
        "node `{node}`: its result's extent is known only after it has run, which a static plan cannot hold; the reference interpreter runs such graphs"
    )]
    Late { node: String },
    #[error("node `{node}`, kernel {kernel}: {source}")]
    Kernel { node: String, kernel: String, source: KernelError },
    #[error("node `{node}`: {source}")]
    Reference { node: String, source: RefError },
    #[error("node `{node}` ({op}): {why}")]
    Unsupported { node: String, op: &'static str, why: String },
    #[error("input `{name}` is missing; the model wants {want}")]
    MissingInput { name: String, want: Fact },
    #[error("the model has no input `{name}`; its inputs are {known:?}")]
    UnknownInput { name: String, known: Vec<String> },
    #[error("input `{name}` is {have}, the model wants {want}")]
    InputFact { name: String, have: Fact, want: Fact },
    #[error("state `{name}` is {have}, {want} is wanted")]
    StateFact { name: String, have: Fact, want: Fact },
    #[error("there is no state `{name}`")]
    NoState { name: String },
    #[error("node `{node}`: all-reduce failed: {why}")]
    Collective { node: String, why: String },
    #[error("step `{node}` ({kernel}) produced a value that is not finite")]
    NotFinite { node: String, kernel: String },
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error("memory: {0}")]
    Memory(KernelError),
}
