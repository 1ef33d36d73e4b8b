//! The graph of one training step: forward, backward, sums over ranks, update.

use crate::{TrainConfig, TrainError};
use penjing_grad::{append_accumulation, append_gradients, append_loss, append_updates, take_accumulated};
use penjing_ir::Model;
use penjing_parallel::{BucketConfig, all_reduce_gradients, average_buffers};
use penjing_rewrite::{FoldConfig, Trace, common_subexpressions, fold_constants, for_training, raise, simplify};

/// Input of a training graph of several ranks: this rank's part of the rows.
pub(crate) const SHARE: &str = "rank_share";

/// The model whose run is one step of one rank, as [`crate::train`] lowers it: forward, backward and, unless gradients are accumulated, the
/// update. Its inputs and outputs are those of [`penjing_grad::names`] beside the model's own.
pub fn training_step(model: &Model, config: &TrainConfig) -> Result<Model, TrainError> {
    Ok(training_models(model, config)?.0)
}

/// The model whose run is one step (or one accumulated part of it), and the model that applies what was accumulated.
pub(crate) fn training_models(model: &Model, config: &TrainConfig) -> Result<(Model, Option<Model>), TrainError> {
    let mut step = for_training(model)?;
    // Attention that an exporter wrote out has a gradient of its own once it is one op.
    raise(&mut step, &mut Trace::new())?;
    let loss = append_loss(&mut step, None, &config.loss)?;
    let grads = append_gradients(&mut step, loss.value)?;
    if config.ranks > 1 {
        average_buffers(&mut step, SHARE)?;
    }
    let bucket = BucketConfig::default();
    let also = if config.ranks > 1 { vec![loss.value] } else { Vec::new() };
    if config.accumulate == 1 {
        let grads = match config.ranks {
            1 => grads,
            _ => all_reduce_gradients(&mut step, &grads, &also, &bucket)?,
        };
        append_updates(&mut step, &grads, &config.optimizer, &config.update)?;
        return Ok((tidied(step)?, None));
    }
    if config.ranks > 1 {
        all_reduce_gradients(&mut step, &[], &also, &bucket)?;
    }
    append_accumulation(&mut step, &grads)?;
    let weights: Vec<_> = grads.iter().map(|(w, _)| *w).collect();
    let (mut apply, sums) = take_accumulated(&step, &weights)?;
    let sums = match config.ranks {
        1 => sums,
        _ => all_reduce_gradients(&mut apply, &sums, &[], &bucket)?,
    };
    append_updates(&mut apply, &sums, &config.optimizer, &config.update)?;
    Ok((tidied(step)?, Some(tidied(apply)?)))
}

/// Simplified, with constants folded and duplicates merged.
fn tidied(mut model: Model) -> Result<Model, TrainError> {
    let mut trace = Trace::new();
    simplify(&mut model, &mut trace)?;
    fold_constants(&mut model, &FoldConfig::default(), &mut trace)?;
    common_subexpressions(&mut model, &mut trace)?;
    model.compact();
    Ok(model)
}
