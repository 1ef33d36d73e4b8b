//! What can go wrong between ranks.

use penjing_ir::IrError;

/// Errors of collectives and of the passes that place them.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ParallelError {
    #[error(
        "rank {rank} waited {seconds} s at `{at}` for ranks {missing:?}; they may have stopped or run another program"
    )]
    Timeout { rank: usize, at: String, seconds: u64, missing: Vec<usize> },
    #[error("rank {rank} stopped at `{at}` because another rank failed: {why}")]
    Aborted { rank: usize, at: String, why: String },
    #[error(
        "rank {rank} came to `{at}` with {have} elements, rank {other} to `{other_at}` with {want}; the ranks run different programs"
    )]
    Mismatch { rank: usize, other: usize, at: String, other_at: String, have: usize, want: usize },
    #[error("{0} ranks were asked for; at least 1 and at most 1024 can run as threads of one process")]
    RankCount(usize),
    #[error("rank {rank} panicked: {why}")]
    Panicked { rank: usize, why: String },
    #[error(transparent)]
    Ir(#[from] IrError),
}
