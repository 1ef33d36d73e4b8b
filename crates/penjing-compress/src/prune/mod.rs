//! Weight pruning: importance becomes a mask, the mask a state that training, quantization and export respect.

mod magnitude;
mod mask;

pub use magnitude::{PruneConfig, Scope, prune};
pub use mask::{bake_masks, restore_masks, sparsity};
