//! The one error type of the crate.

use std::{io, path::PathBuf};

/// Why data could not be read, written or batched. `file` names the file (and the entry inside it).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum DataError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{file}: not a valid .npy array: {reason}; write it again with numpy.save or the tool that made it")]
    Npy { file: String, reason: String },
    #[error("{file}: array of type {descr} is not supported: {hint}")]
    NpyType { file: String, descr: String, hint: &'static str },
    #[error("{file}: not a valid .npz archive: {reason}; write it again with numpy.savez or the tool that made it")]
    Npz { file: String, reason: String },
    #[error("{file}: cannot read as Parquet: {reason}")]
    Parquet { file: String, reason: String },
    #[error("{file}, row {row}: {reason}; mend the record, or skip broken records (--skip-bad)")]
    Record { file: String, row: u64, reason: String },
    #[error(
        "cannot open data {spec:?}: {reason}; known are digits, digits:train, digits:heldout, .npz, .npy, .txt, .parquet, a folder or glob of .parquet"
    )]
    Spec { spec: String, reason: String },
    #[error("dataset {name}: {reason}")]
    Dataset { name: String, reason: String },
    #[error("loader: {reason}")]
    Loader { reason: String },
}

impl DataError {
    pub(crate) fn io(action: &'static str, path: &std::path::Path, source: io::Error) -> DataError {
        DataError::Io { action, path: path.to_path_buf(), source }
    }
}
