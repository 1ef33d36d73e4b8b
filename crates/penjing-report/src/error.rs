//! What can go wrong between a record on disk and a page.

use std::path::PathBuf;

/// Why a record could not be read or a report could not be drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The file could not be opened or read.
    #[error("cannot read the record {}: {source}; check the path", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is larger than any record is.
    #[error("{} is larger than {limit} bytes, so it is no run record; give a report.json or record.json", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes that are read.
        limit: u64,
    },
    /// The JSON text stops before it is complete.
    #[error(
        "the record {} ends too early, at line {line}: {why}; its writer was cut off, run the command again", path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The last line, counted from 1.
        line: usize,
        /// The parser's message.
        why: String,
    },
    /// The text is not JSON.
    #[error("{} is not JSON: {why}; give a report.json or record.json", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's message, with line and column.
        why: String,
    },
    /// A field is missing, has the wrong type or a value that its unit does not allow.
    #[error("the record {} has a bad field `{field}`: {why}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field's path, such as `variants[2].accuracy`.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// The record was written in another version of the format.
    #[error("the record {} has version {found}, this program reads version {supported}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version it names.
        found: u64,
        /// The version this crate reads.
        supported: u64,
    },
    /// A comparison of no runs was asked for.
    #[error("no run to report on; name at least one run folder or record.json")]
    NoRuns,
    /// The plotting library refused a plot.
    #[error("cannot draw the plot of {plot}: {why}")]
    Plot {
        /// Which plot.
        plot: String,
        /// The library's message.
        why: String,
    },
}
