//! Where the time of a run goes.

use std::time::Duration;

/// Time of one step, summed over the profiled runs.
#[derive(Clone, Debug)]
pub struct StepProfile {
    /// The node's name.
    pub node: String,
    /// The op's name.
    pub op: String,
    /// The kernel that runs it.
    pub kernel: String,
    /// Multiply-accumulates of one run.
    pub macs: u64,
    /// Summed time.
    pub total: Duration,
}

/// Times of every step of a program.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// Runs that were summed.
    pub runs: usize,
    /// In execution order.
    pub steps: Vec<StepProfile>,
}
