//! What every command gets: the machine to run on, the seed, and where results go.

use crate::{cli::GlobalArgs, kernel_costs};
use anyhow::{Result, bail};
use penjing_exec::Target;
use penjing_kernels::Isa;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// The global flags, resolved.
#[derive(Clone, Copy)]
pub(crate) struct Context {
    pub(crate) target: Target,
    pub(crate) seed: u64,
    json: bool,
}

/// More threads than any machine has cores are a typing error.
const MAX_THREADS: usize = 1024;

impl Context {
    pub(crate) fn new(args: &GlobalArgs) -> Result<Context> {
        let threads = args.threads.unwrap_or_else(crate::machine::cores);
        if threads == 0 || threads > MAX_THREADS {
            bail!("--threads {threads}: give a number from 1 to {MAX_THREADS}");
        }
        let isa = args.isa.unwrap_or_else(Isa::detect);
        let target = Target { costs: kernel_costs::load(isa), ..Target::new(isa, threads) };
        Ok(Context { target, seed: args.seed, json: args.json })
    }

    /// The target of one of `ranks` ranks that share the threads.
    pub(crate) fn rank_target(&self, ranks: usize) -> Target {
        Target { threads: (self.target.threads / ranks.max(1)).max(1), ..self.target }
    }

    /// Writes the result to stdout: `json` with --json, else `text`.
    pub(crate) fn emit(&self, json: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        let out = if self.json { serde_json::to_string_pretty(json)? + "\n" } else { text() };
        let mut stdout = io::stdout().lock();
        stdout.write_all(out.as_bytes())?;
        stdout.flush()?;
        Ok(())
    }
}

/// A line for the person who waits, on stderr.
pub(crate) fn say(line: &str) {
    // A closed stderr is no reason to stop.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether somebody watches stderr.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}
