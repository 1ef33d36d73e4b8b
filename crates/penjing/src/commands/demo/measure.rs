//! What is measured of an exported file.

use crate::{
    bench_result::BenchResult,
    context::Context,
    layers::{Summary, summarize},
    model_file::{RoleArgs, load_file},
    shape::bind_batch,
};
use anyhow::{Context as _, Result, bail};
use penjing_data::{Dataset, Loader, LoaderConfig};
use penjing_ir::Bindings;
use penjing_tensor::Tensor;
use penjing_train::evaluate;
use std::{collections::BTreeMap, env, path::Path, process::Command};

/// Divides the held-out digits, so that one program serves them all.
const BATCH: usize = 60;
/// Single-image runs that the latency is the median of.
const RUNS: usize = 200;

/// The measurements of one variant.
pub(super) struct Measured {
    pub(super) accuracy: f64,
    /// F32 [360, 10].
    pub(super) logits: Tensor,
    pub(super) summary: Summary,
    pub(super) bench: BenchResult,
}

/// Measures the file at `path`.
pub(super) fn measure(ctx: &Context, path: &Path, held_out: &Dataset) -> Result<Measured> {
    let (loaded, _) = load_file(path, &RoleArgs::default(), &[], &BTreeMap::new())?;
    let loader = Loader::new(held_out.clone(), LoaderConfig::eval(BATCH))?;
    let evaluation = evaluate(&loaded.model, &loader, ctx.target)?;
    let mut one = Bindings::new();
    bind_batch(&loaded.model, &mut one, 1);
    Ok(Measured {
        accuracy: evaluation.top1,
        logits: evaluation.logits,
        summary: summarize(&loaded.model, &one, loaded.bytes)?,
        bench: bench(ctx, path)?,
    })
}

/// `penjing bench` in a process of its own, whose memory is the file's alone.
fn bench(ctx: &Context, path: &Path) -> Result<BenchResult> {
    let program = env::current_exe().context("cannot find the running program to measure memory with")?;
    let mut command = Command::new(program);
    command.arg("bench").arg(path);
    command.args(["--batch", "1", "--json", "--runs", &RUNS.to_string()]);
    command.args(["--threads", &ctx.target.threads.to_string(), "--isa", ctx.target.isa.name()]);
    let output = command.output().context("cannot start a process to measure latency and memory")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("cannot measure {}: {}", path.display(), why.trim());
    }
    serde_json::from_slice(&output.stdout).context("cannot read what `penjing bench` measured")
}
