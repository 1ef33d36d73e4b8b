//! Whole training runs on small networks: what must not change a result, what must stop a run, and what compression must keep.
//! And how a model is run.

#![allow(clippy::unwrap_used)]

mod common;
mod compression;
mod equivalence;
mod failures;
mod inference;
mod metrics;
mod ranks;
mod resume;
