//! Training as a graph rewrite: derivatives, losses, optimizers, schedules.
//!
//! [`differentiate`] appends a backward graph that is again Canonical; [`training_graph`] turns an inference model into a model
//! whose run is one training step, its three parts being [`append_loss`], [`append_gradients`] and [`append_updates`], so that
//! data parallelism can sum the gradients of all ranks between the last two. This crate runs nothing.

mod differentiate;
mod error;
mod loss;
pub mod names;
mod optimizer;
mod schedule;
mod training;
mod vjp;

pub use differentiate::differentiate;
pub use error::GradError;
pub use loss::{count_correct, cross_entropy, kl_divergence, mse, sum_all};
pub use optimizer::{
    AdamW, DecayScope, OptimizerConfig, Sgd, UpdateOptions, append_accumulation, append_updates, clip_by_global_norm,
    global_norm, take_accumulated,
};
pub use schedule::{Anneal, Schedule, Shape};
pub use training::{Loss, LossConfig, append_gradients, append_loss, training_graph};
