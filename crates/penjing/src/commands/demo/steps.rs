//! The demo's training runs. Rates and lengths are customary values for a network of this size; the 360 held-out digits had no say.

use crate::{context::Context, progress::ProgressLine, training::losses};
use anyhow::Result;
use penjing_compress::{
    prune::{PruneConfig, Scope, prune},
    quantize::{QuantizeConfig, place_fake_quant, to_qdq},
};
use penjing_data::{Dataset, Loader, LoaderConfig};
use penjing_grad::{Anneal, LossConfig, OptimizerConfig, Schedule, Sgd, Shape, UpdateOptions};
use penjing_ir::Model;
use penjing_train::{TrainConfig, calibrate, train, zoo};

const BATCH: usize = 64;
/// Share of convolution and linear weights that pruning takes.
const SPARSITY: f64 = 0.5;
/// Batches that the ranges of activations are found on: an epoch of the digits has 23.
const CALIBRATION_BATCHES: usize = 23;

/// How long to train.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// Ten epochs.
    Full,
    /// Two.
    Quick,
}

/// A variant and the losses of its own training.
type Variant = (Model, Vec<f64>);

/// Trains variants on the digits.
pub(super) struct Trainer<'a> {
    ctx: &'a Context,
    data: Dataset,
    length: Length,
}

impl<'a> Trainer<'a> {
    pub(super) fn new(ctx: &'a Context, data: Dataset, length: Length) -> Trainer<'a> {
        Trainer { ctx, data, length }
    }

    /// What was done, for the report.
    pub(super) fn summary(&self) -> String {
        format!(
            "SimpleCNN (two 3x3 convolutions, two linear layers) on {} handwritten digits at 3x24x24, 360 held out: trained for {} \
             epochs, pruned globally to {:.0} % zeros and retrained for {}, quantized to int8 with {} epochs of quantization-aware \
             training, both together, and trained on 2 data-parallel ranks.",
            self.data.len(),
            self.dense_epochs(),
            100.0 * SPARSITY,
            self.retrain_epochs(),
            self.qat_epochs(),
        )
    }

    /// A network trained from scratch on `ranks` ranks.
    pub(super) fn dense(&self, label: &str, ranks: usize) -> Result<Variant> {
        let network = zoo::new("simple-cnn", zoo::Size::default(), self.ctx.seed)?;
        let shape = Shape::OneCycle { rise: 0.3, div: 25.0, final_div: 1e3, anneal: Anneal::Cosine };
        self.train(&network, label, self.dense_epochs(), 0.05, shape, ranks)
    }

    /// The smallest weights masked, the others retrained. The result still has its masks.
    pub(super) fn prune(&self, model: &Model, label: &str) -> Result<Variant> {
        let mut pruned = model.clone();
        prune(&mut pruned, &PruneConfig { sparsity: SPARSITY, scope: Scope::Global })?;
        self.train(&pruned, label, self.retrain_epochs(), 0.01, Shape::Cosine { end: 0.0 }, 1)
    }

    /// Calibrated, trained with fake quantization, and turned into integers. Masks of the model are kept and baked.
    pub(super) fn quantize(&self, model: &Model, label: &str) -> Result<Variant> {
        let config = QuantizeConfig::default();
        let loader = Loader::new(self.data.clone(), LoaderConfig::eval(BATCH))?;
        let ranges = calibrate(model, &config, &loader, CALIBRATION_BATCHES, self.ctx.target)?;
        let mut fake = model.clone();
        place_fake_quant(&mut fake, &config, &ranges)?;
        let (trained, loss) = self.train(&fake, label, self.qat_epochs(), 0.002, Shape::Cosine { end: 0.0 }, 1)?;
        Ok((to_qdq(&trained)?, loss))
    }

    fn dense_epochs(&self) -> u64 {
        if self.length == Length::Quick { 2 } else { 10 }
    }

    fn retrain_epochs(&self) -> u64 {
        if self.length == Length::Quick { 1 } else { 4 }
    }

    fn qat_epochs(&self) -> u64 {
        if self.length == Length::Quick { 1 } else { 2 }
    }

    fn train(&self, model: &Model, label: &str, epochs: u64, lr: f64, shape: Shape, ranks: usize) -> Result<Variant> {
        let sgd = Sgd { lr, momentum: 0.9, nesterov: true, weight_decay: 5e-4, ..Sgd::default() };
        let config = TrainConfig {
            epochs,
            loss: LossConfig::default(),
            optimizer: OptimizerConfig::Sgd(sgd),
            schedule: Schedule::of(shape),
            update: UpdateOptions::default(),
            accumulate: 1,
            ranks,
        };
        let loader = LoaderConfig::train(BATCH, self.ctx.seed);
        let progress = ProgressLine::new(label);
        let update = |p: &penjing_train::Progress| progress.update(p);
        let trained = train(model, &self.data, &loader, &config, self.ctx.rank_target(ranks), None, &update)?;
        let loss = losses(&trained);
        Ok((trained.model, loss))
    }
}
