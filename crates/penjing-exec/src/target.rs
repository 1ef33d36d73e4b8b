//! What a program is lowered for.

use penjing_kernels::Isa;

/// The machine that a program runs on, as data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Instruction-set level that kernels may use.
    pub isa: Isa,
    /// Threads of the session's pool. Results do not depend on it.
    pub threads: usize,
}

impl Target {
    /// The best level of this host, on `threads` threads.
    pub fn host(threads: usize) -> Target {
        Target { isa: Isa::detect(), threads: threads.max(1) }
    }
}
