//! `penjing bench`: time of one inference or training step, by layer, against the machine's multiply-add peak.

use crate::{
    bench_result::{BenchResult, LayerTime},
    context::Context,
    input::{InputArg, concrete, random, read_inputs},
    machine::peak_rss_mb,
    model_file::{RoleArgs, load_shaped},
    shape::{ShapeArg, bind_batch, bindings},
};
use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use penjing_exec::{Profile, Program, ProgramId, Session, lower};
use penjing_grad::{AdamW, LossConfig, OptimizerConfig, Schedule, Sgd, UpdateOptions, names};
use penjing_ir::Fact;
use penjing_kernels::{Ctx, Pool, fma_peak, int8_peak};
use penjing_rewrite::{Trace, optimize_for_inference};
use penjing_tensor::{Rng, Tensor};
use penjing_train::{TrainConfig, training_step};
use std::{collections::BTreeMap, time::Instant};

/// Flags of `bench`.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// An ONNX file, or the name of a network of `new`
    #[arg(required_unless_present = "kernels")]
    model: Option<String>,
    /// Time every candidate kernel of a fixed list of shapes, store what they cost, and fail where the pick is not the best
    #[arg(long, conflicts_with = "model")]
    pub(crate) kernels: bool,
    /// Extent of a free first axis
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// Timed runs, after a few to warm up
    #[arg(long, value_name = "N", default_value_t = 50)]
    runs: usize,
    /// Measure a whole training step: forward, backward and update, cross-entropy, random data
    #[arg(long)]
    train: bool,
    /// The optimizer of the training step; sgd has Nesterov's momentum
    #[arg(long, value_enum, default_value_t = Optimizer::Sgd, requires = "train")]
    optimizer: Optimizer,
    /// The value of an input; an input without one gets normal noise, or zeros where it is not a float
    #[arg(long, value_name = "NAME=FILE.npy")]
    input: Vec<InputArg>,
    /// Extents of an input, for free dimensions
    #[arg(long, value_name = "NAME=1x3x224x224")]
    shape: Vec<ShapeArg>,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
#[value(rename_all = "lowercase")]
enum Optimizer {
    Sgd,
    AdamW,
}

/// Runs before the clock starts: caches, threads and pages settle.
const WARM_UP: usize = 3;

pub(crate) fn run(ctx: &Context, args: &BenchArgs) -> Result<()> {
    if args.runs == 0 || args.batch == 0 {
        bail!("--runs and --batch must be at least 1");
    }
    let given = read_inputs(&args.input)?;
    let mut shapes = args.shape.clone();
    shapes.extend(given.iter().map(|(name, value)| ShapeArg::new(name, value.shape())));
    let model = args.model.as_deref().context("give a model")?;
    let start = Instant::now();
    let loaded = load_shaped(ctx, model, &RoleArgs::default(), &shapes)?;
    let mut bound = bindings(&loaded.model, &shapes)?;
    bind_batch(&loaded.model, &mut bound, args.batch);
    let model = if args.train {
        training_step(&loaded.model, &config(args.optimizer))?
    } else {
        optimize_for_inference(&loaded.model, &mut Trace::new())?
    };
    // Its weights go as soon as they are packed.
    drop(loaded);
    let mut session = Session::new(ctx.target)?;
    let id = session.load(lower(model, &bound, &ctx.target)?)?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let inputs = all_inputs(session.program(id), given, ctx.seed)?;
    let times = measure(&mut session, id, &inputs, args.runs)?;
    // Before the peak's own memory, which is no part of the model's.
    let peak_rss_mb = peak_rss_mb();
    let pool = Pool::new(ctx.target.threads);
    let machine = Ctx { isa: ctx.target.isa, pool: &pool };
    let peak = fma_peak(machine);
    let median_ms = quantile(&times, 0.5);
    let result = BenchResult {
        median_ms,
        p10_ms: quantile(&times, 0.1),
        p90_ms: quantile(&times, 0.9),
        runs: args.runs,
        batch: args.batch,
        peak_rss_mb,
        load_ms,
        images_per_s: args.train.then(|| args.batch as f64 / (median_ms / 1e3)),
        fma_peak_gflops: peak,
        int8_peak_gops: int8_peak(machine),
        per_layer: per_layer(&session.profile(id), peak),
        times_ms: times,
    };
    ctx.emit(&result, || text(&result))
}

fn config(optimizer: Optimizer) -> TrainConfig {
    let sgd = Sgd { lr: 0.05, momentum: 0.9, nesterov: true, weight_decay: 5e-4, ..Sgd::default() };
    let optimizer = match optimizer {
        Optimizer::Sgd => OptimizerConfig::Sgd(sgd),
        Optimizer::AdamW => OptimizerConfig::AdamW(AdamW::default()),
    };
    TrainConfig {
        epochs: 1,
        loss: LossConfig::default(),
        optimizer,
        schedule: Schedule::default(),
        update: UpdateOptions::default(),
        accumulate: 1,
        ranks: 1,
    }
}

/// Milliseconds of each timed run, sorted.
fn measure(session: &mut Session, id: ProgramId, inputs: &[(String, Tensor)], runs: usize) -> Result<Vec<f64>> {
    let named: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, t)| (name.as_str(), t)).collect();
    for _ in 0..WARM_UP {
        session.run(id, &named)?;
    }
    session.reset_profile(id);
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let start = Instant::now();
        session.run(id, &named)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Numbers for every input that is not given: normal floats, zeros as integers, and for training labels of the right number of
/// classes.
fn all_inputs(program: &Program, mut given: BTreeMap<String, Tensor>, seed: u64) -> Result<Vec<(String, Tensor)>> {
    let classes = program.outputs().next().and_then(|(_, fact)| fact.shape.last()?.as_const());
    let mut inputs = Vec::new();
    for (name, fact) in program.inputs() {
        if let Some(tensor) = given.remove(name) {
            inputs.push((name.to_string(), tensor));
            continue;
        }
        let tensor = match name {
            names::LEARNING_RATE => Tensor::scalar(0.01f32),
            names::INVERSE_COUNT => {
                let label = program.inputs().find(|(name, _)| *name == names::LABEL);
                Tensor::scalar(1.0 / label.and_then(|(_, fact)| elements(fact)).unwrap_or(1).max(1) as f32)
            }
            names::LABEL => labels(fact, classes.unwrap_or(1).max(1), seed)?,
            _ => random(name, fact, seed, 0)?,
        };
        inputs.push((name.to_string(), tensor));
    }
    Ok(inputs)
}

fn elements(fact: &Fact) -> Option<usize> {
    fact.concrete().map(|shape| shape.iter().product())
}

fn labels(fact: &Fact, classes: usize, seed: u64) -> Result<Tensor> {
    let shape = concrete(names::LABEL, fact)?;
    let rng = Rng::new(seed, names::LABEL, 0);
    let n: usize = shape.iter().product();
    Ok(Tensor::from_vec(&shape, (0..n as u64).map(|i| rng.below(i, classes as u64) as i64).collect())?)
}

fn per_layer(profile: &Profile, peak: f64) -> Vec<LayerTime> {
    let runs = profile.runs.max(1) as f64;
    let layer = |s: &penjing_exec::StepProfile| {
        let ms = s.total.as_secs_f64() * 1e3 / runs;
        let gflops = (s.macs > 0 && ms > 0.0).then(|| 2.0 * s.macs as f64 / ms / 1e6);
        LayerTime {
            name: s.node.clone(),
            op: s.op.clone(),
            kernel: s.kernel.clone(),
            ms,
            macs: s.macs,
            gflops,
            fraction_of_peak: gflops.map(|g| g / peak),
        }
    };
    profile.steps.iter().map(layer).collect()
}

/// The value below which a share `q` of the sorted values lies.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

fn text(r: &BenchResult) -> String {
    let mut out = format!("{:<36}  {:<40}{:>10}{:>12}{:>9}\n", "layer", "kernel", "ms", "GFLOP/s", "of peak");
    for l in &r.per_layer {
        let gflops = l.gflops.map_or_else(|| "-".into(), |g| format!("{g:.1}"));
        let share = l.fraction_of_peak.map_or_else(|| "-".into(), |f| format!("{:.0} %", 100.0 * f));
        out.push_str(&format!("{:<36}  {:<40}{:>10.4}{gflops:>12}{share:>9}\n", l.name, l.kernel, l.ms));
    }
    out.push_str(&format!(
        "\nmedian {:.4} ms (p10 {:.4}, p90 {:.4}) of {} runs at batch {}; loaded in {:.1} ms; FMA peak {:.0} GFLOP/s, int8 peak {:.0} GOP/s\n",
        r.median_ms, r.p10_ms, r.p90_ms, r.runs, r.batch, r.load_ms, r.fma_peak_gflops, r.int8_peak_gops
    ));
    if let Some(mb) = r.peak_rss_mb {
        out.push_str(&format!("peak memory {mb:.1} MB\n"));
    }
    if let Some(rate) = r.images_per_s {
        out.push_str(&format!("{rate:.0} images/s\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_known_row() {
        let row: Vec<f64> = (0..=10).map(f64::from).collect();
        assert_eq!([0.1, 0.5, 0.9].map(|q| quantile(&row, q)), [1.0, 5.0, 9.0]);
        assert_eq!(quantile(&[3.0], 0.9), 3.0);
    }
}
