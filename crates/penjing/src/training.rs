//! The flags of training, shared by `train`, `prune` and `quantize`, and one training run from them.

use crate::{
    context::{Context, say},
    data::{DataArgs, describe},
    model_file::check_writable,
    progress::ProgressLine,
    record::{check_record_folder, record_folder},
};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use penjing_data::{Dataset, Flip, Loader, write_atomically};
use penjing_grad::{AdamW, LossConfig, OptimizerConfig, Schedule, Sgd, Shape, UpdateOptions};
use penjing_ir::Model;
use penjing_parallel::Timeline;
use penjing_report::{StepMetrics, StepRecord};
use penjing_tensor::DType;
use penjing_train::{CheckpointPolicy, TrainConfig, Trained, evaluate, train};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

/// How a model is trained.
#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct TrainingArgs {
    /// Data to measure accuracy on after training
    #[arg(long, value_name = "DATA")]
    pub(crate) eval: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) data: DataArgs,
    /// Mirror images at random
    #[arg(long)]
    flip: bool,
    /// Base learning rate [default: 0.05 for sgd, 0.001 for adamw]
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// The optimizer
    #[arg(long, value_enum, default_value_t = Optimizer::Sgd)]
    optimizer: Optimizer,
    /// Momentum of sgd
    #[arg(long, value_name = "M", default_value_t = 0.9)]
    momentum: f64,
    /// Nesterov's momentum for sgd
    #[arg(long)]
    nesterov: bool,
    /// Weight decay
    #[arg(long, value_name = "D", default_value_t = 0.0)]
    weight_decay: f64,
    /// Course of the learning rate
    #[arg(long, value_enum, default_value_t = Course::Constant)]
    schedule: Course,
    /// Updates over which the rate rises from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    warmup: u64,
    /// Epochs between two drops of --schedule step
    #[arg(long, value_name = "N", default_value_t = 1)]
    drop_every: u64,
    /// What a drop of --schedule step leaves of the rate
    #[arg(long, value_name = "F", default_value_t = 0.1)]
    drop_to: f64,
    /// Share of the target spread over all classes
    #[arg(long, value_name = "S", default_value_t = 0.0)]
    label_smoothing: f64,
    /// Largest global norm of the gradients
    #[arg(long, value_name = "NORM")]
    clip_norm: Option<f64>,
    /// Parts that a batch is cut into to save memory
    #[arg(long, value_name = "N", default_value_t = 1)]
    accumulate: usize,
    /// Decay of a moving average of the weights, which becomes the trained model
    #[arg(long, value_name = "D")]
    ema: Option<f64>,
    /// Data-parallel ranks, as threads of this process
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) ranks: usize,
    /// Checkpoint file; a run whose checkpoint exists goes on from there
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Updates between two checkpoints
    #[arg(long, value_name = "N", default_value_t = 100, requires = "checkpoint")]
    checkpoint_every: u64,
    /// Write what each rank did when, for chrome://tracing or Perfetto
    #[arg(long, value_name = "FILE.json")]
    timeline: Option<PathBuf>,
    /// Folder of the run record [default: OUT with the ending .run]
    #[arg(long, value_name = "DIR")]
    pub(crate) run: Option<PathBuf>,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Optimizer {
    Sgd,
    Adamw,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Course {
    Constant,
    Cosine,
    OneCycle,
    Step,
}

impl TrainingArgs {
    /// Errors for what could not be written after the work: `output`, the record beside it, and the files of the other flags.
    pub(crate) fn check(&self, output: &Path) -> Result<()> {
        check_writable(output)?;
        for path in [&self.checkpoint, &self.timeline].into_iter().flatten() {
            check_writable(path)?;
        }
        check_record_folder(&record_folder(output, self.run.as_deref()), output)
    }

    /// The batches of --eval, where it is given, normalized as `training` is. Opened before the work, so that a name that is
    /// wrong costs nothing.
    pub(crate) fn open_eval(&self, model: &Model, training: Option<&Dataset>) -> Result<Option<Loader>> {
        let Some(spec) = &self.eval else { return Ok(None) };
        let mut data = self.data.open_for(spec, model)?;
        if let Some(training) = training.filter(|t| t.dtype() == DType::U8 && data.dtype() == DType::U8) {
            data = data.with_normalization(training.normalization().clone())?;
        }
        self.data.evaluation(&data, model).map(Some)
    }

    fn config(&self, epochs: u64, steps_per_epoch: u64) -> TrainConfig {
        let optimizer = match self.optimizer {
            Optimizer::Sgd => OptimizerConfig::Sgd(Sgd {
                lr: self.lr.unwrap_or(0.05),
                momentum: self.momentum,
                nesterov: self.nesterov,
                weight_decay: self.weight_decay,
                ..Sgd::default()
            }),
            Optimizer::Adamw => OptimizerConfig::AdamW(AdamW {
                lr: self.lr.unwrap_or(1e-3),
                weight_decay: self.weight_decay,
                ..AdamW::default()
            }),
        };
        let shape = match self.schedule {
            Course::Constant => Shape::Constant,
            Course::Cosine => Shape::Cosine { end: 0.0 },
            // PyTorch's defaults of OneCycleLR.
            Course::OneCycle => {
                Shape::OneCycle { rise: 0.3, div: 25.0, final_div: 1e4, anneal: penjing_grad::Anneal::Cosine }
            }
            Course::Step => Shape::Step { every: self.drop_every.saturating_mul(steps_per_epoch), gamma: self.drop_to },
        };
        TrainConfig {
            epochs,
            loss: LossConfig::CrossEntropy { smoothing: self.label_smoothing, ignore: None },
            optimizer,
            schedule: Schedule { shape, warmup_steps: self.warmup, warmup_start: 0.0 },
            update: UpdateOptions { clip_norm: self.clip_norm, ema_decay: self.ema },
            accumulate: self.accumulate,
            ranks: self.ranks,
        }
    }
}

/// Trains `model` for `epochs` on `data` and measures it on `eval`: the trained model and the step for the record.
pub(crate) fn run_training(
    ctx: &Context,
    model: &Model,
    data: &Dataset,
    eval: Option<&Loader>,
    args: &TrainingArgs,
    epochs: u64,
    label: &str,
) -> Result<(Trained, StepRecord)> {
    if epochs == 0 {
        bail!("--epochs 0 trains nothing; give at least 1");
    }
    if let Some(eval) = eval {
        rehearse(ctx, model, eval, args)?;
    }
    let start = Instant::now();
    let flip = if args.flip { Flip::Horizontal } else { Flip::None };
    let loader = args.data.training(ctx.seed, flip);
    let steps_per_epoch = data.len().div_ceil(args.data.batch.max(1)) as u64;
    let config = args.config(epochs, steps_per_epoch);
    let checkpoint =
        args.checkpoint.as_ref().map(|path| CheckpointPolicy { path: path.clone(), every: args.checkpoint_every });
    let progress = ProgressLine::new(label);
    let mut trained = train(model, data, &loader, &config, ctx.rank_target(args.ranks), checkpoint.as_ref(), &|p| {
        progress.update(p)
    })?;
    drop(progress);
    if let Some(path) = &args.timeline {
        write_timeline(&trained.timeline, path)?;
    }
    describe(&mut trained.model, data)?;
    let accuracy = measure(ctx, &trained.model, eval)?;
    let metrics = StepMetrics { loss: losses(&trained), accuracy, other: BTreeMap::new() };
    let wall_s = Some(start.elapsed().as_secs_f64());
    Ok((trained, StepRecord { action: "train".into(), name: label.into(), metrics, wall_s }))
}

/// Evaluates the first batch: data that do not fit the model, or have no labels, are told before the training.
fn rehearse(ctx: &Context, model: &Model, eval: &Loader, args: &TrainingArgs) -> Result<()> {
    let data = eval.dataset();
    let first = if data.is_empty() { data.clone() } else { data.subset(&eval.batch(0, 0)?.indices)? };
    evaluate(model, &args.data.evaluation(&first, model)?, ctx.target)?;
    Ok(())
}

/// Accuracy on the data of --eval, where it is given.
pub(crate) fn measure(ctx: &Context, model: &Model, eval: Option<&Loader>) -> Result<Option<f64>> {
    eval.map(|loader| Ok(evaluate(model, loader, ctx.target)?.top1)).transpose()
}

/// The losses as records keep them.
pub(crate) fn losses(trained: &Trained) -> Vec<f64> {
    trained.losses.iter().map(|&l| f64::from(l)).collect()
}

fn write_timeline(timeline: &Timeline, path: &Path) -> Result<()> {
    let trace = serde_json::to_vec(&serde_json::json!({ "traceEvents": timeline.spans() }))?;
    write_atomically(path, |w| w.write_all(&trace))?;
    say(&format!("wrote {}", path.display()));
    Ok(())
}
