//! What can go wrong with an ONNX file.

use std::{io, path::PathBuf};

/// Why a file cannot be read, imported, exported or written.
///
/// `Unsupported…` and `NeedsInput` say that Penjing cannot do what a valid file asks; every other kind says that the file (or
/// the machine) is at fault. [`OnnxError::is_unsupported`] tells them apart.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum OnnxError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{file} is not a readable ONNX model: {why}")]
    NotOnnx { file: String, why: String },
    #[error("tensor '{tensor}' in {file}: {why}")]
    Tensor { tensor: String, file: String, why: String },
    #[error("tensor '{tensor}' in {file}: element type {elem} is not supported")]
    UnsupportedElement { tensor: String, file: String, elem: String },
    #[error("tensor '{tensor}' in {file}: external data '{location}': {why}")]
    ExternalData { tensor: String, file: String, location: String, why: String },
    #[error("value '{value}' in {file} is a {kind}; only tensors are supported")]
    UnsupportedValue { value: String, file: String, kind: String },
    #[error("the model is not supported: {why}")]
    UnsupportedModel { why: String },
    #[error("import option: {why}")]
    Option { why: String },
    #[error("invalid graph: {why}")]
    InvalidGraph { why: String },
    #[error("node {node} ({op}, opset {opset}) is not supported: {why}")]
    Unsupported { node: String, op: String, opset: i64, why: String },
    #[error("node {node} ({op}, opset {opset}) is invalid: {why}")]
    InvalidNode { node: String, op: String, opset: i64, why: String },
    #[error(
        "node {node} ({op}, opset {opset}) needs the value of {slot} when the model is imported, and it depends on the \
         graph input '{input}': give that input a value (bind_inputs)"
    )]
    NeedsInput { node: String, op: String, opset: i64, slot: String, input: String },
    #[error("cannot export node {node} ({op}): {why}")]
    UnsupportedExport { node: String, op: String, why: String },
    #[error("cannot write the model: {why}")]
    Write { why: String },
}

impl OnnxError {
    /// True when a valid file asks for something that Penjing does not do (or does only when an input's value is given).
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self,
            OnnxError::Unsupported { .. }
                | OnnxError::UnsupportedElement { .. }
                | OnnxError::UnsupportedValue { .. }
                | OnnxError::UnsupportedModel { .. }
                | OnnxError::UnsupportedExport { .. }
                | OnnxError::NeedsInput { .. }
        )
    }
}
