//! What can go wrong in a training run.

use penjing_compress::CompressError;
use penjing_data::DataError;
use penjing_exec::ExecError;
use penjing_grad::GradError;
use penjing_ir::IrError;
use penjing_parallel::ParallelError;
use penjing_reference::RefError;
use penjing_rewrite::RewriteError;
use std::path::PathBuf;

/// Errors of training, evaluation and checkpoints.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum TrainError {
    #[error("there is no network `{name}`; `penjing new` knows {known}")]
    UnknownNetwork { name: String, known: String },
    #[error("network `{name}`: {why}")]
    Network { name: String, why: String },
    #[error("the data set `{data}` has no labels to train or evaluate on")]
    NoLabels { data: String },
    #[error("the data set `{data}` has no samples")]
    NoSamples { data: String },
    #[error("the model takes {have:?} as inputs; training feeds it one")]
    Inputs { have: Vec<String> },
    #[error("samples are {sample}, the model's input `{input}` is {want}; choose data, --crop or a model that fit")]
    Sample { sample: String, input: String, want: String },
    #[error("label {label} at sample {sample} is outside the {classes} classes of the model's output")]
    Label { label: i64, sample: usize, classes: usize },
    #[error("the model's output `{output}` is {have}; evaluation needs logits F32 [N, C] or [N, T, C]")]
    Output { output: String, have: String },
    #[error(
        "step {step}: the result of `{node}` ({kernel}) is the first that is not finite. Lower the learning rate, clip gradients, or look at the data of this step"
    )]
    NotFinite { step: u64, node: String, kernel: String },
    #[error("training was interrupted after {step} updates")]
    Interrupted { step: u64 },
    #[error("{what} must be at least 1")]
    Zero { what: &'static str },
    #[error("checkpoint {path}: {why}")]
    Checkpoint { path: PathBuf, why: String },
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error(transparent)]
    Grad(#[from] GradError),
    #[error(transparent)]
    Parallel(#[from] ParallelError),
    #[error(transparent)]
    Compress(#[from] CompressError),
    #[error(transparent)]
    Reference(#[from] RefError),
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    #[error(transparent)]
    Ir(#[from] IrError),
}
