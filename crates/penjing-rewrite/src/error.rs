//! What can go wrong in a pass. A rule that does not fit is no error: see [`crate::Skip`].

use penjing_ir::IrError;

/// Errors of rewriting.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum RewriteError {
    #[error(transparent)]
    Ir(#[from] IrError),
    #[error("after `{pass}`: {source}; this is a bug in the pass, find it with --stop-after")]
    Broken { pass: &'static str, source: IrError },
    #[error("`{pass}` did not settle after {limit} applications; two of its rules undo each other")]
    Endless { pass: &'static str, limit: usize },
    #[error("node `{node}` ({op}): {why}")]
    Node { node: String, op: &'static str, why: String },
}
