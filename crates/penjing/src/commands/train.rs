//! `penjing train`: trains a model and exports it.

use crate::{
    context::Context,
    model_file::{RoleArgs, load_for_training, save},
    record::Run,
    training::{TrainingArgs, run_training},
};
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Flags of `train`.
#[derive(Args)]
pub(crate) struct TrainArgs {
    /// An ONNX file, or the name of a network of `new`
    model: String,
    /// Data to train on: digits:train, a .npz with x and y, .parquet files or a folder of them, a .txt
    #[arg(long = "data", value_name = "DATA")]
    spec: String,
    /// Passes over the data
    #[arg(long, value_name = "N", default_value_t = 10)]
    epochs: u64,
    #[command(flatten)]
    training: TrainingArgs,
    #[command(flatten)]
    roles: RoleArgs,
    /// The ONNX file to write
    #[arg(short, long, value_name = "OUT.onnx")]
    output: PathBuf,
}

pub(crate) fn run(ctx: &Context, args: &TrainArgs) -> Result<()> {
    args.training.check(&args.output)?;
    let loaded = load_for_training(ctx, &args.model, &args.roles)?;
    let data = args.training.data.open_for(&args.spec, &loaded.model)?;
    let eval = args.training.open_eval(&loaded.model, Some(&data))?;
    let (trained, step) = run_training(ctx, &loaded.model, &data, eval.as_ref(), &args.training, args.epochs, "train")?;
    let bytes = save(&trained.model, &args.output)?;
    let recipe = json!({
        "model": args.model, "data": args.spec, "epochs": args.epochs, "training": args.training, "roles": args.roles.recipe(),
    });
    let run = Run {
        command: "train",
        recipe,
        loaded: &loaded,
        data: Some(&data),
        steps: vec![step],
        plan_hash: trained.plan_hash,
        model: &trained.model,
        out: &args.output,
        bytes,
    };
    run.finish(ctx, args.training.run.as_deref())
}
