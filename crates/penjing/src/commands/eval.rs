//! `penjing eval`: accuracy, loss and confusion on labelled data.

use crate::{
    context::Context,
    data::DataArgs,
    model_file::{RoleArgs, load},
};
use anyhow::Result;
use clap::Args;
use penjing_train::evaluate;
use serde_json::json;

/// Flags of `eval`.
#[derive(Args)]
pub(crate) struct EvalArgs {
    /// An ONNX file
    model: String,
    /// digits, digits:heldout, a .npz with x and y, .parquet files or a folder of them, a .txt
    #[arg(long = "data", value_name = "DATA")]
    spec: String,
    #[command(flatten)]
    data: DataArgs,
}

pub(crate) fn run(ctx: &Context, args: &EvalArgs) -> Result<()> {
    let loaded = load(ctx, &args.model, &RoleArgs::default())?;
    let data = args.data.open_for(&args.spec, &loaded.model)?;
    let loader = args.data.evaluation(&data, &loaded.model)?;
    let e = evaluate(&loaded.model, &loader, ctx.target)?;
    let (f1, perplexity) = (e.macro_f1(), e.perplexity());
    let json = json!({
        "n": e.n, "loss": e.loss, "top1": e.top1, "top5": e.top5, "macro_f1": f1, "perplexity": perplexity,
        "confusion": e.confusion,
    });
    ctx.emit(&json, || {
        format!(
            "{} samples: loss {:.4}, top-1 {:.2} %, top-5 {:.2} %, macro F1 {f1:.4}, perplexity {perplexity:.4}\n",
            e.n,
            e.loss,
            100.0 * e.top1,
            100.0 * e.top5
        )
    })
}
