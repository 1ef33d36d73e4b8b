//! `penjing prune`: the smallest weights become zero and stay zero while the rest is retrained.

use crate::{
    context::Context,
    model_file::{RoleArgs, load_for_training, save},
    record::Run,
    training::{TrainingArgs, measure, run_training},
};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use penjing_compress::prune::{PruneConfig, Scope, prune, sparsity};
use penjing_report::{StepMetrics, StepRecord};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::PathBuf, time::Instant};

/// Flags of `prune`.
#[derive(Args)]
pub(crate) struct PruneArgs {
    /// An ONNX file
    model: String,
    /// Share of the weights of convolutions, matrix products and recurrent cells that become zero
    #[arg(long, value_name = "SHARE")]
    sparsity: f64,
    /// What weights are compared with
    #[arg(long, value_enum, default_value_t = ScopeArg::Global)]
    scope: ScopeArg,
    /// Data to retrain on
    #[arg(long = "data", value_name = "DATA")]
    spec: Option<String>,
    /// Passes over the data; 0 does not retrain
    #[arg(long, value_name = "N", default_value_t = 0)]
    epochs: u64,
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
enum ScopeArg {
    /// All weights of the model together
    Global,
    /// Those of the same layer
    Layer,
}

pub(crate) fn run(ctx: &Context, args: &PruneArgs) -> Result<()> {
    args.training.check(&args.output)?;
    let loaded = load_for_training(ctx, &args.model, &args.roles)?;
    let data = match (&args.spec, args.epochs) {
        (Some(spec), _) => Some(args.training.data.open_for(spec, &loaded.model)?),
        (None, 0) => None,
        (None, _) => bail!("--epochs {} needs data to retrain on; give --data", args.epochs),
    };
    let eval = args.training.open_eval(&loaded.model, data.as_ref())?;
    let start = Instant::now();
    let mut model = loaded.model.clone();
    let scope = match args.scope {
        ScopeArg::Global => Scope::Global,
        ScopeArg::Layer => Scope::Layer,
    };
    prune(&mut model, &PruneConfig { sparsity: args.sparsity, scope })?;
    let (total, nonzero) = sparsity(&model)?;
    let other = BTreeMap::from([
        ("weights".to_string(), Value::from(total)),
        ("nonzero weights".to_string(), Value::from(nonzero)),
    ]);
    let metrics = StepMetrics { loss: Vec::new(), accuracy: measure(ctx, &model, eval.as_ref())?, other };
    let wall_s = Some(start.elapsed().as_secs_f64());
    let mut steps = vec![StepRecord { action: "prune".into(), name: String::new(), metrics, wall_s }];
    let mut plan_hash = String::new();
    if let Some(data) = data.as_ref().filter(|_| args.epochs > 0) {
        let (trained, step) = run_training(ctx, &model, data, eval.as_ref(), &args.training, args.epochs, "retrain")?;
        (model, plan_hash) = (trained.model, trained.plan_hash);
        steps.push(step);
    }
    let bytes = save(&model, &args.output)?;
    let recipe = json!({
        "model": args.model, "sparsity": args.sparsity, "scope": args.scope, "data": args.spec, "epochs": args.epochs,
        "training": args.training, "roles": args.roles.recipe(),
    });
    let (command, out) = ("prune", args.output.as_path());
    let run =
        Run { command, recipe, loaded: &loaded, data: data.as_ref(), steps, plan_hash, model: &model, out, bytes };
    run.finish(ctx, args.training.run.as_deref())
}
