//! Training and evaluation: untrained networks, the loop over batches and ranks, metrics, checkpoints that resume bit-exactly.

mod calibrate;
mod checkpoint;
mod error;
mod evaluate;
mod inference;
mod step_model;
mod trainer;
pub mod zoo;

pub use calibrate::{calibrate, calibrate_on};
pub use checkpoint::{Checkpoint, CheckpointPolicy};
pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate};
pub use inference::{Inference, fingerprint};
pub use step_model::training_step;
pub use trainer::{OnProgress, Progress, TrainConfig, Trained, train};
