//! Activation ranges by running the observer model over calibration batches.

use crate::{Inference, TrainError, evaluate::single_input};
use penjing_compress::{
    CompressError,
    quantize::{QuantizeConfig, Range, observer, ranges_from},
};
use penjing_data::Loader;
use penjing_exec::Target;
use penjing_ir::{Model, ValueId};
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
    let mut inference = Inference::new(&observer(model, config)?, target)?;
    let n = loader.batches_per_epoch().min(batches);
    let mut seen = Vec::with_capacity(n);
    for index in 0..n {
        let outputs = inference.run(&[(&input, &loader.batch(0, index)?.x)])?;
        let scalars =
            outputs.iter().filter(|(_, t)| t.len() == 1).map(|(name, t)| (name.clone(), t.to_f64s()[0] as f32));
        seen.push(scalars.collect::<BTreeMap<String, f32>>());
    }
    let mut seen = seen.into_iter();
    Ok(ranges_from(model, config, || Ok::<_, CompressError>(seen.next()))?)
}
