//! Data sets on the command line, and what a model file says about its own input.

use anyhow::{Context as _, Result};
use clap::Args;
use penjing_data::{BadRecords, Crop, Dataset, Flip, Loader, LoaderConfig, Normalization, OpenOptions, Placement};
use penjing_ir::Model;
use penjing_tensor::DType;
use serde::Serialize;

/// How data become batches.
#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct DataArgs {
    /// Samples in a batch
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) batch: usize,
    /// Crop images to NxN: at random for training, in the centre for evaluation
    #[arg(long, value_name = "N")]
    pub(crate) crop: Option<usize>,
    /// Zeros around training images before the crop
    #[arg(long, value_name = "N", default_value_t = 0, requires = "crop")]
    pub(crate) pad: usize,
    /// Skip and count broken records instead of stopping at the first
    #[arg(long)]
    pub(crate) skip_bad: bool,
    /// Tokens in a window of text
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(crate) sequence_length: usize,
}

/// Entries of a model's metadata.
const NORMALIZATION: &str = "penjing.normalization";
const LABELS: &str = "penjing.labels";

impl DataArgs {
    /// Opens `spec`; see [`Dataset::open`] for what it may be.
    pub(crate) fn open(&self, spec: &str) -> Result<Dataset> {
        let bad_records = if self.skip_bad { BadRecords::Skip } else { BadRecords::Fail };
        let options = OpenOptions { bad_records, sequence_length: self.sequence_length };
        let data = Dataset::open_with(spec, &options)?;
        if data.skipped() > 0 {
            crate::context::say(&format!("{spec}: skipped {} broken records", data.skipped()));
        }
        Ok(data)
    }

    /// Opens `spec` and normalizes it as the model was trained, where the model says how.
    pub(crate) fn open_for(&self, spec: &str, model: &Model) -> Result<Dataset> {
        let data = self.open(spec)?;
        match model.metadata.get(NORMALIZATION).filter(|_| data.dtype() == DType::U8) {
            None => Ok(data),
            Some(text) => {
                let normalization: Normalization = serde_json::from_str(text).with_context(|| {
                    format!("the model's metadata entry `{NORMALIZATION}` cannot be read; export it again")
                })?;
                Ok(data.with_normalization(normalization)?)
            }
        }
    }

    /// Shuffled batches, crops at random.
    pub(crate) fn training(&self, seed: u64, flip: Flip) -> LoaderConfig {
        let crop = |n| Crop { height: n, width: n, pad: self.pad, placement: Placement::Random };
        LoaderConfig { crop: self.crop.map(crop), flip, ..LoaderConfig::train(self.batch, seed) }
    }

    /// Batches in order, crops from the centre. A model whose batch is fixed gets that one.
    pub(crate) fn evaluation(&self, data: &Dataset, model: &Model) -> Result<Loader> {
        let fixed = model.graph.inputs.first().and_then(|&v| model.graph.fact(v).shape.first()?.as_const());
        let crop = |n| Crop { height: n, width: n, pad: 0, placement: Placement::Center };
        let config = LoaderConfig { crop: self.crop.map(crop), ..LoaderConfig::eval(fixed.unwrap_or(self.batch)) };
        Ok(Loader::new(data.clone(), config)?)
    }
}

/// Stores in the model how its training data were normalized and what their labels are called.
pub(crate) fn describe(model: &mut Model, data: &Dataset) -> Result<()> {
    if data.dtype() == DType::U8 {
        model.metadata.insert(NORMALIZATION.into(), serde_json::to_string(data.normalization())?);
    }
    if !data.label_names().is_empty() {
        model.metadata.insert(LABELS.into(), serde_json::to_string(data.label_names())?);
    }
    Ok(())
}
