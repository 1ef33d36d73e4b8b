//! What a program is lowered for.

use crate::{Costs, UNMEASURED};
use penjing_kernels::Isa;

/// The machine that a program runs on, as data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Instruction-set level that kernels may use.
    pub isa: Isa,
    /// Threads of the session's pool. Results do not depend on it.
    pub threads: usize,
    /// What kernels cost here, for the choice between several.
    pub costs: &'static Costs,
}

impl Target {
    /// The best level of this host, on `threads` threads.
    pub fn host(threads: usize) -> Target {
        Target::new(Isa::detect(), threads)
    }

    /// A level, on `threads` threads, with no costs measured.
    pub fn new(isa: Isa, threads: usize) -> Target {
        Target { isa, threads: threads.max(1), costs: &UNMEASURED }
    }
}
