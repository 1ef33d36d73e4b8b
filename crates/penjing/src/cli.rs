//! What may be typed: global flags and the list of commands. The flags of a command stand in its own file.

use crate::commands::{
    bench::BenchArgs, check::CheckArgs, demo::DemoArgs, eval::EvalArgs, inspect::InspectArgs, new::NewArgs,
    prune::PruneArgs, quantize::QuantizeArgs, report::ReportArgs, run::RunArgs, train::TrainArgs,
};
use clap::{Args, Parser, Subcommand};
use penjing_kernels::Isa;

/// Makes AI models cheaper to train and to run.
#[derive(Parser)]
#[command(name = "penjing", version, about, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Args)]
pub(crate) struct GlobalArgs {
    /// Threads to compute on [default: the cores of this machine]; results do not depend on it
    #[arg(long, global = true, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Seed of every random number
    #[arg(long, global = true, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Highest instruction-set level to use: generic, avx2, avx512 (with VNNI) or amx [default: the best of this machine]
    #[arg(long, global = true, value_name = "LEVEL", value_parser = parse_isa)]
    pub(crate) isa: Option<Isa>,
    /// Write the result as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Train, prune, quantize and parallelize a network on embedded handwritten digits; ends in a table and a report
    Demo(DemoArgs),
    /// Make an untrained network
    New(NewArgs),
    /// Show a model's layers, shapes, parameters, multiply-accumulates, bits and sparsity
    Inspect(InspectArgs),
    /// Run a model once
    Run(RunArgs),
    /// Run ONNX test-case folders and compare with their expected outputs
    Check(CheckArgs),
    /// Measure a model's accuracy on labelled data
    Eval(EvalArgs),
    /// Measure a model's speed and memory
    Bench(BenchArgs),
    /// Train a model
    Train(TrainArgs),
    /// Set the smallest weights of a model to zero, and retrain
    Prune(PruneArgs),
    /// Turn a model's weights and activations into 8-bit integers
    Quantize(QuantizeArgs),
    /// Draw the HTML report of one or several runs
    Report(ReportArgs),
}

fn parse_isa(name: &str) -> Result<Isa, String> {
    let known = || Isa::ALL.map(Isa::name).join(", ");
    let isa = Isa::from_name(name).ok_or_else(|| format!("there is no such level; known are {}", known()))?;
    if isa.available() { Ok(isa) } else { Err("this machine does not have it".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for line in ["penjing --seed 7 --json new gpt -o g.onnx", "penjing new gpt -o g.onnx --seed 7 --json"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert!(cli.global.seed == 7 && cli.global.json, "{line}");
        }
        assert_eq!(Cli::try_parse_from(["penjing", "--isa", "mmx", "new"]).err().unwrap().exit_code(), 2);
    }
}
