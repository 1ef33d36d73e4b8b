//! `penjing new`: an untrained network as a file.

use crate::{
    context::Context,
    layers::summarize,
    model_file::{check_writable, save},
};
use anyhow::Result;
use clap::Args;
use penjing_ir::Bindings;
use penjing_train::zoo::{self, NETWORKS, Size};
use std::path::PathBuf;

/// Flags of `new`.
#[derive(Args)]
#[command(after_help = networks())]
pub(crate) struct NewArgs {
    /// The network
    name: String,
    /// Base channels or hidden size
    #[arg(long, value_name = "N")]
    width: Option<usize>,
    /// Blocks or layers
    #[arg(long, value_name = "N")]
    depth: Option<usize>,
    /// Classes or vocabulary
    #[arg(long, value_name = "N")]
    classes: Option<usize>,
    /// The ONNX file to write
    #[arg(short, long, value_name = "OUT.onnx")]
    output: PathBuf,
}

fn networks() -> String {
    let lines: Vec<String> = NETWORKS.iter().map(|n| format!("  {:<12} {}", n.name, n.about)).collect();
    format!("Networks:\n{}", lines.join("\n"))
}

pub(crate) fn run(ctx: &Context, args: &NewArgs) -> Result<()> {
    check_writable(&args.output)?;
    let size = Size { width: args.width, depth: args.depth, classes: args.classes };
    let model = zoo::new(&args.name, size, ctx.seed)?;
    let bytes = save(&model, &args.output)?;
    let summary = summarize(&model, &Bindings::new(), bytes)?;
    let file = args.output.display().to_string();
    let json = serde_json::json!({ "name": args.name, "file": file, "params": summary.params, "size_bytes": bytes });
    ctx.emit(&json, || format!("{}: {} parameters in {file}\n", args.name, summary.params))
}
