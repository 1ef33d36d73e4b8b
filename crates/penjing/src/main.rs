//! The command line: parses, dispatches, and turns results into exit codes.
//!
//! Data go to stdout, talk and progress to stderr. Exit 0: done; 1: the check that was asked for failed; 2: an error.

mod bench_result;
mod cli;
mod commands;
mod compare;
mod context;
mod data;
mod execute;
mod layers;
mod machine;
mod model_file;
mod progress;
mod record;
mod shape;
mod training;

use clap::Parser;
use cli::Cli;
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// How a command that did its work ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything as it should be.
    Done,
    /// The check that was asked for failed.
    CheckFailed,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be said where stderr is closed.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match commands::run(cli) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::CheckFailed) => ExitCode::from(1),
        // The reader, such as `head`, has what it wanted.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
