//! Compression as rewrites of the one graph: a pruned or quantized model is a rewritten model, never a second definition.

mod content;
mod error;
mod parameters;
pub mod prune;
pub mod quantize;

pub use error::CompressError;
pub use parameters::{WeightUse, product_weights};
