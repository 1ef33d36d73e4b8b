//! `penjing quantize`: 8-bit integers for weights and activations, calibrated on data, optionally trained with.

use crate::{
    context::Context,
    data::describe,
    model_file::{RoleArgs, load_for_training, save},
    record::Run,
    training::{TrainingArgs, measure, run_training},
};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use penjing_compress::quantize::{QuantizeConfig, place_fake_quant, to_qdq};
use penjing_data::{Dataset, Flip, Loader};
use penjing_exec::Target;
use penjing_ir::Model;
use penjing_report::{StepMetrics, StepRecord};
use penjing_train::calibrate;
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
    spec: String,
    /// Batches to find the ranges of activations on
    #[arg(long, value_name = "N", default_value_t = 16)]
    calibration_batches: usize,
    /// Passes over the data with the quantization's rounding in the loop; 0 does not train
    #[arg(long, value_name = "N", default_value_t = 0)]
    qat_epochs: u64,
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
    /// Weights symmetric for each output channel, activations affine for each tensor
    Int8,
}

pub(crate) fn run(ctx: &Context, args: &QuantizeArgs) -> Result<()> {
    args.training.check(&args.output)?;
    if args.calibration_batches == 0 {
        bail!("--calibration-batches 0: the ranges of activations need at least 1");
    }
    let loaded = load_for_training(ctx, &args.model, &args.roles)?;
    let data = args.training.data.open_for(&args.spec, &loaded.model)?;
    let eval = args.training.open_eval(&loaded.model, Some(&data))?;
    let start = Instant::now();
    let config = QuantizeConfig { skip: args.skip.clone() };
    let loader = Loader::new(data.clone(), args.training.data.training(ctx.seed, Flip::None))?;
    let mut model = place(&loaded.model, &config, &loader, args.calibration_batches, ctx.target)?;
    let other = BTreeMap::from([("calibration batches".to_string(), Value::from(args.calibration_batches))]);
    let metrics = StepMetrics { loss: Vec::new(), accuracy: measure(ctx, &model, eval.as_ref())?, other };
    let wall_s = Some(start.elapsed().as_secs_f64());
    let mut steps = vec![StepRecord { action: "quantize".into(), name: "int8".into(), metrics, wall_s }];
    let mut plan_hash = String::new();
    if args.qat_epochs > 0 {
        let label = "quantization-aware training";
        let (trained, step) = run_training(ctx, &model, &data, eval.as_ref(), &args.training, args.qat_epochs, label)?;
        (model, plan_hash) = (trained.model, trained.plan_hash);
        steps.push(step);
    }
    let quantized = finish(&model, &data)?;
    let bytes = save(&quantized, &args.output)?;
    let recipe = json!({
        "model": args.model, "scheme": args.scheme, "data": args.spec, "calibration_batches": args.calibration_batches,
        "qat_epochs": args.qat_epochs, "skip": args.skip, "training": args.training, "roles": args.roles.recipe(),
    });
    let (command, out) = ("quantize", args.output.as_path());
    let run =
        Run { command, recipe, loaded: &loaded, data: Some(&data), steps, plan_hash, model: &quantized, out, bytes };
    run.finish(ctx, args.training.run.as_deref())
}

/// The model with fake quantization on the ranges that calibration finds.
pub(crate) fn place(
    model: &Model,
    config: &QuantizeConfig,
    loader: &Loader,
    batches: usize,
    target: Target,
) -> Result<Model> {
    let ranges = calibrate(model, config, loader, batches, target)?;
    let mut out = model.clone();
    place_fake_quant(&mut out, config, &ranges)?;
    Ok(out)
}

/// The fake-quantized model with integers in place of rounded floats.
fn finish(model: &Model, data: &Dataset) -> Result<Model> {
    let mut out = to_qdq(model)?;
    describe(&mut out, data)?;
    Ok(out)
}
