//! The command line: parses, dispatches, and turns results into exit codes.
//!
//! Data go to stdout, talk and progress to stderr. Exit 0: done; 1: the check that was asked for failed; 2: an error.

mod bench_result;
mod calibration;
mod cli;
mod commands;
mod compare;
mod context;
mod data;
mod execute;
mod input;
mod kernel_costs;
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
            let _ = writeln!(io::stderr(), "error: {}", message(&error));
            ExitCode::from(2)
        }
    }
}

/// The error and its causes; a cause that the error has put in words already is not said again.
fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
    }
    text
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
