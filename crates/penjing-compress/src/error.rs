//! What can go wrong in a compression pass.

use penjing_ir::IrError;
use penjing_reference::RefError;
use penjing_tensor::TensorError;

/// Errors of pruning and quantization.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum CompressError {
    #[error("a sparsity of {0} was asked for; it must be at least 0 and less than 1")]
    Sparsity(f64),
    #[error(
        "the model has no convolution, matrix product or recurrent weight that could be {0}; `inspect` lists what it holds"
    )]
    NothingToDo(&'static str),
    #[error("weight `{name}` holds a value that is not finite; train or load it again before compressing")]
    NotFinite { name: String },
    #[error("activation `{value}` was {min}..{max} on the calibration data; its range must be finite")]
    Range { value: String, min: f32, max: f32 },
    #[error("calibration needs at least one batch")]
    NoCalibrationData,
    #[error("the scale or zero point `{value}` depends on the model's input; only fixed grids can be exported")]
    NotConstant { value: String },
    #[error(transparent)]
    Reference(#[from] RefError),
    #[error(transparent)]
    Ir(#[from] IrError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
}
