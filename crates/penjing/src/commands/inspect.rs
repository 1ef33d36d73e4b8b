//! `penjing inspect`: what a model consists of, as a table, as the graph's text, or as the plan that would run.

use crate::{
    context::Context,
    layers::{Layer, Summary, summarize},
    model_file::{RoleArgs, load_shaped},
    shape::{ShapeArg, bind_batch, bindings},
};
use anyhow::Result;
use clap::Args;
use penjing_exec::lower;
use penjing_ir::{Bindings, Model, text::print_summary};
use penjing_rewrite::{Trace, optimize_for_inference};
use serde_json::{Value, json};

/// Flags of `inspect`.
#[derive(Args)]
pub(crate) struct InspectArgs {
    /// An ONNX file, or the name of a network of `new`
    model: String,
    /// Extents of an input, for free dimensions; a free batch is 1
    #[arg(long, value_name = "NAME=1x3x224x224")]
    shape: Vec<ShapeArg>,
    /// Show the graph as text
    #[arg(long)]
    text: bool,
    /// Show the plan: kernel, place and bytes of each step
    #[arg(long)]
    plan: bool,
    /// Show which rewrites inference applies, node by node, and which it leaves and why
    #[arg(long)]
    trace: bool,
    /// Apply only the first N rewrites
    #[arg(long, value_name = "N")]
    stop_after: Option<usize>,
    #[command(flatten)]
    roles: RoleArgs,
}

pub(crate) fn run(ctx: &Context, args: &InspectArgs) -> Result<()> {
    let loaded = load_shaped(ctx, &args.model, &args.roles, &args.shape)?;
    let mut bound = bindings(&loaded.model, &args.shape)?;
    bind_batch(&loaded.model, &mut bound, 1);
    let summary = summarize(&loaded.model, &bound, loaded.bytes)?;
    let text = args.text.then(|| print_summary(&loaded.model));
    let mut trace = Trace { stop_after: args.stop_after, ..Trace::new() };
    let plan = if args.plan || args.trace { Some(plan(ctx, &loaded.model, &bound, &mut trace)?) } else { None };
    let plan = plan.filter(|_| args.plan);
    let trace = args.trace.then(|| trace.to_string());
    let mut out = serde_json::to_value(&summary)?;
    if let Value::Object(fields) = &mut out {
        fields.insert("states".into(), states(&loaded.model));
        fields.extend(text.as_ref().map(|t| ("text".to_string(), json!(t))));
        fields.extend(plan.as_ref().map(|t| ("plan".to_string(), json!(t))));
        fields.extend(trace.as_ref().map(|t| ("trace".to_string(), json!(t))));
    }
    ctx.emit(&out, || match (text, plan, trace) {
        (None, None, None) => table(&summary, &loaded.model),
        (text, plan, trace) => [text, trace, plan].into_iter().flatten().collect(),
    })
}

fn plan(ctx: &Context, model: &Model, bound: &Bindings, trace: &mut Trace) -> Result<String> {
    Ok(lower(optimize_for_inference(model, trace)?, bound, &ctx.target)?.text())
}

fn states(model: &Model) -> Value {
    let state = |s: &penjing_ir::State| {
        json!({
            "name": s.name, "role": s.role.name(), "dtype": s.init.dtype().name(), "shape": s.init.shape(), "trains": s.trainable,
        })
    };
    model.states.iter().map(state).collect()
}

fn table(summary: &Summary, model: &Model) -> String {
    let name_width = summary.layers.iter().map(|l| l.name.chars().count()).max().unwrap_or(0).clamp(5, 48);
    let mut out = format!(
        "{:<name_width$}  {:<16}{:>20}{:>12}{:>14}{:>6}{:>10}  trains\n",
        "layer", "op", "shape", "params", "MACs", "bits", "sparsity"
    );
    for l in &summary.layers {
        let dash = || "-".to_string();
        out.push_str(&format!(
            "{:<name_width$}  {:<16}{:>20}{:>12}{:>14}{:>6}{:>10}  {}\n",
            l.name,
            l.op,
            shape(l),
            if l.params == 0 { dash() } else { l.params.to_string() },
            l.macs.map_or_else(dash, |m| if m == 0 { dash() } else { m.to_string() }),
            l.bits.map_or_else(dash, |b| b.to_string()),
            l.sparsity.map_or_else(dash, |s| format!("{:.1} %", 100.0 * s)),
            if l.trains { "yes" } else { "-" },
        ));
    }
    let trained = model.states.iter().filter(|s| s.trainable).map(|s| s.init.len()).sum::<usize>();
    let macs = summary.macs.map_or_else(|| "unknown (give --shape)".to_string(), |m| m.to_string());
    out.push_str(&format!(
        "\n{} parameters ({} not zero, {trained} trained), {macs} multiply-accumulates, {} bytes\n",
        summary.params, summary.nonzero, summary.size_bytes
    ));
    let names: Vec<&str> = model.states.iter().filter(|s| s.trainable).map(|s| s.name.as_str()).collect();
    if !names.is_empty() {
        out.push_str(&format!("trains: {}\n", names.join(", ")));
    }
    out
}

fn shape(layer: &Layer) -> String {
    let dim = |d: &Value| d.as_str().map_or_else(|| d.to_string(), str::to_string);
    layer.shape.iter().map(dim).collect::<Vec<_>>().join("x")
}
