//! Ranks that work on one training step: how they talk, what they sum, and when.
//!
//! Data parallelism is a rewrite ([`all_reduce_gradients`]) that puts bucketed all-reduces between the gradients and the
//! optimizer; every rank then runs the same program on its share of the batch. [`Comm`] is how ranks talk; here they are threads
//! of one process ([`run_ranks`]).

mod bucket;
mod buffers;
mod comm;
mod error;
mod threads;
mod timeline;

pub use bucket::{BucketConfig, all_reduce_gradients};
pub use buffers::average_buffers;
pub use comm::{Comm, SummingRank};
pub use error::ParallelError;
pub use threads::{ThreadComm, run_ranks};
pub use timeline::{Open, Span, Timeline};
