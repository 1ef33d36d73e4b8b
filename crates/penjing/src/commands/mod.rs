//! One file a command: its flags and what it does.

pub(crate) mod bench;
pub(crate) mod bench_kernels;
pub(crate) mod check;
pub(crate) mod demo;
pub(crate) mod eval;
pub(crate) mod inspect;
pub(crate) mod new;
pub(crate) mod prune;
pub(crate) mod quantize;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod train;

use crate::{
    Outcome,
    cli::{Cli, Command},
    context::Context,
};
use anyhow::Result;

/// Runs the command.
pub(crate) fn run(cli: Cli) -> Result<Outcome> {
    let ctx = Context::new(&cli.global)?;
    let done = match cli.command {
        Command::Check(args) => return check::run(&ctx, &args),
        Command::Demo(args) => demo::run(&ctx, &args),
        Command::New(args) => new::run(&ctx, &args),
        Command::Inspect(args) => inspect::run(&ctx, &args),
        Command::Run(args) => run::run(&ctx, &args),
        Command::Eval(args) => eval::run(&ctx, &args),
        Command::Bench(args) if args.kernels => return bench_kernels::run(&ctx),
        Command::Bench(args) => bench::run(&ctx, &args),
        Command::Train(args) => train::run(&ctx, &args),
        Command::Prune(args) => prune::run(&ctx, &args),
        Command::Quantize(args) => quantize::run(&ctx, &args),
        Command::Report(args) => report::run(&ctx, &args),
    };
    done.map(|()| Outcome::Done)
}
