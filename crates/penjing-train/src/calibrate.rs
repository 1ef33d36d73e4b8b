//! Activation ranges by running the observer model over calibration batches.

use crate::{Inference, TrainError, evaluate::single_input};
use penjing_compress::{
    CompressError,
    quantize::{QuantizeConfig, Range, observer, ranges_from},
};
use penjing_data::Loader;
use penjing_exec::Target;
use penjing_ir::{Model, ValueId};
use penjing_tensor::Tensor;
use std::collections::BTreeMap;

/// The range of every activation that quantization will put on a grid, over at most `batches` batches of the loader: one
/// streaming pass, two numbers an activation.
pub fn calibrate(
    model: &Model,
    config: &QuantizeConfig,
    loader: &Loader,
    batches: usize,
    target: Target,
) -> Result<BTreeMap<ValueId, Range>, TrainError> {
    let input = single_input(model, loader)?;
    let n = loader.batches_per_epoch().min(batches);
    let batch = |index| Ok(BTreeMap::from([(input.clone(), loader.batch(0, index)?.x)]));
    calibrate_on(model, config, (0..n).map(batch), target)
}

/// As [`calibrate`], over batches that name the array of each input.
pub fn calibrate_on(
    model: &Model,
    config: &QuantizeConfig,
    batches: impl IntoIterator<Item = Result<BTreeMap<String, Tensor>, TrainError>>,
    target: Target,
) -> Result<BTreeMap<ValueId, Range>, TrainError> {
    let mut inference = Inference::new(&observer(model, config)?, target)?;
    let mut seen = Vec::new();
    for batch in batches {
        let batch = batch?;
        let inputs: Vec<(&str, &Tensor)> = batch.iter().map(|(name, t)| (name.as_str(), t)).collect();
        let outputs = inference.run(&inputs)?;
        let scalars =
            outputs.iter().filter(|(_, t)| t.len() == 1).map(|(name, t)| (name.clone(), t.to_f64s()[0] as f32));
        seen.push(scalars.collect::<BTreeMap<String, f32>>());
    }
    let mut seen = seen.into_iter();
    Ok(ranges_from(model, config, || Ok::<_, CompressError>(seen.next()))?)
}
