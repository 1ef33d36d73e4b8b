//! `penjing quantize`: 8-bit integers for weights and activations, calibrated on data, optionally trained with.

use crate::{
    calibration::{self, Source},
    context::Context,
    data::describe,
    model_file::{RoleArgs, load_for_training, save},
    record::Run,
    shape::ShapeArg,
    training::{TrainingArgs, measure, run_training},
};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use penjing_compress::quantize::{QuantizeConfig, WeightRange, place_dynamic, place_fake_quant, to_qdq};
use penjing_data::{Dataset, Flip, Loader};
use penjing_ir::Model;
use penjing_report::{StepMetrics, StepRecord};
use penjing_train::{calibrate, calibrate_on};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::PathBuf, time::Instant};

/// Flags of `quantize`.
#[derive(Args)]
pub(crate) struct QuantizeArgs {
    /// An ONNX file
    model: String,
    /// How numbers become integers
    #[arg(long, value_enum, default_value_t = Scheme::Int8)]
    scheme: Scheme,
    /// Data to calibrate, and to train, on
    #[arg(long = "data", value_name = "DATA")]
    spec: Option<String>,
    /// A batch to calibrate on in place of the data: an .npz file with an array for each input, or `random`; once for each batch
    #[arg(long, value_name = "FILE.npz")]
    calibration: Vec<Source>,
    /// Extents of an input, for free dimensions of random batches
    #[arg(long, value_name = "NAME=1x3x224x224")]
    shape: Vec<ShapeArg>,
    /// Batches of the data to find the ranges of activations on
    #[arg(long, value_name = "N", default_value_t = 16)]
    calibration_batches: usize,
    /// Passes over the data with the quantization's rounding in the loop; 0 does not train
    #[arg(long, value_name = "N", default_value_t = 0)]
    qat_epochs: u64,
    /// The integers of weights: `full` rounds half as much, `reduced` is up to twice as fast on processors without VNNI
    #[arg(long, value_enum, default_value_t = Range::Reduced)]
    weight_range: Range,
    /// Leave the layers whose name contains this in float
    #[arg(long, value_name = "TEXT")]
    skip: Vec<String>,
    #[command(flatten)]
    training: TrainingArgs,
    #[command(flatten)]
    roles: RoleArgs,
    /// The ONNX file to write
    #[arg(short, long, value_name = "OUT.onnx")]
    output: PathBuf,
}

#[derive(ValueEnum, Clone, Copy, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Scheme {
    /// Weights symmetric for each output channel, activations affine for each tensor on calibrated ranges
    Int8,
    /// Weights as above, activations on the range that each run finds: no data needed
    Dynamic,
}

/// `--weight-range`.
#[derive(ValueEnum, Clone, Copy, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Range {
    /// −127 to 127
    Full,
    /// −64 to 64
    Reduced,
}

impl From<Range> for WeightRange {
    fn from(range: Range) -> WeightRange {
        match range {
            Range::Full => WeightRange::Full,
            Range::Reduced => WeightRange::Reduced,
        }
    }
}

pub(crate) fn run(ctx: &Context, args: &QuantizeArgs) -> Result<()> {
    args.training.check(&args.output)?;
    if args.calibration_batches == 0 {
        bail!("--calibration-batches 0: the ranges of activations need at least 1");
    }
    if args.qat_epochs > 0 && (args.spec.is_none() || matches!(args.scheme, Scheme::Dynamic)) {
        bail!("--qat-epochs {} trains: give --data and --scheme int8", args.qat_epochs);
    }
    let loaded = load_for_training(ctx, &args.model, &args.roles)?;
    let data = args.spec.as_ref().map(|spec| args.training.data.open_for(spec, &loaded.model)).transpose()?;
    let eval = args.training.open_eval(&loaded.model, data.as_ref())?;
    let start = Instant::now();
    let config = QuantizeConfig { skip: args.skip.clone(), weight_range: args.weight_range.into() };
    let (mut model, batches) = calibrated(ctx, args, &loaded.model, &config, data.as_ref())?;
    let other = BTreeMap::from([("calibration batches".to_string(), Value::from(batches))]);
    let metrics = StepMetrics { loss: Vec::new(), accuracy: measure(ctx, &model, eval.as_ref())?, other };
    let wall_s = Some(start.elapsed().as_secs_f64());
    let mut steps = vec![StepRecord { action: "quantize".into(), name: scheme_name(args.scheme), metrics, wall_s }];
    let mut plan_hash = String::new();
    if let Some(data) = data.as_ref().filter(|_| args.qat_epochs > 0) {
        let label = "quantization-aware training";
        let (trained, step) = run_training(ctx, &model, data, eval.as_ref(), &args.training, args.qat_epochs, label)?;
        (model, plan_hash) = (trained.model, trained.plan_hash);
        steps.push(step);
    }
    let quantized = finish(&model, data.as_ref())?;
    let bytes = save(&quantized, &args.output)?;
    let recipe = json!({
        "model": args.model, "scheme": args.scheme, "data": args.spec, "calibration": args.calibration,
        "calibration_batches": batches,
        "qat_epochs": args.qat_epochs, "skip": args.skip, "weight_range": args.weight_range, "training": args.training, "roles": args.roles.recipe(),
    });
    let (command, out) = ("quantize", args.output.as_path());
    let run =
        Run { command, recipe, loaded: &loaded, data: data.as_ref(), steps, plan_hash, model: &quantized, out, bytes };
    run.finish(ctx, args.training.run.as_deref())
}

fn scheme_name(scheme: Scheme) -> String {
    scheme.to_possible_value().map(|v| v.get_name().to_string()).unwrap_or_default()
}

/// The model with fake quantization on the ranges that calibration finds, and how many batches that took.
fn calibrated(
    ctx: &Context,
    args: &QuantizeArgs,
    model: &Model,
    config: &QuantizeConfig,
    data: Option<&Dataset>,
) -> Result<(Model, usize)> {
    let mut out = model.clone();
    if let Scheme::Dynamic = args.scheme {
        place_dynamic(&mut out, config)?;
        return Ok((out, 0));
    }
    let (ranges, batches) = match data {
        Some(data) if args.calibration.is_empty() => {
            let loader = Loader::new(data.clone(), args.training.data.training(ctx.seed, Flip::None))?;
            let n = args.calibration_batches;
            (calibrate(model, config, &loader, n, ctx.target)?, n)
        }
        None if args.calibration.is_empty() => bail!("--scheme int8 calibrates: give --data or --calibration"),
        _ => {
            let batches = calibration::batches(model, &args.calibration, &args.shape, ctx.seed)?;
            let n = batches.len();
            (calibrate_on(model, config, batches.into_iter().map(Ok), ctx.target)?, n)
        }
    };
    place_fake_quant(&mut out, config, &ranges)?;
    Ok((out, batches))
}

/// The fake-quantized model with integers in place of rounded floats.
fn finish(model: &Model, data: Option<&Dataset>) -> Result<Model> {
    let mut out = to_qdq(model)?;
    if let Some(data) = data {
        describe(&mut out, data)?;
    }
    Ok(out)
}
