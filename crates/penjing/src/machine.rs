//! What is known of this machine and this process.

use crate::context::Context;
use penjing_report::MachineRecord;
use std::{fs, thread};

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// What the processor calls itself; the architecture where it does not tell.
pub(crate) fn cpu_name() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpuinfo.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split_once(':'));
    cpu.map_or_else(|| std::env::consts::ARCH.to_string(), |(_, name)| name.trim().to_string())
}

/// The machine as records describe it.
pub(crate) fn machine(ctx: &Context) -> MachineRecord {
    MachineRecord {
        cpu: cpu_name(),
        cores: Some(cores() as u64),
        threads: Some(ctx.target.threads as u64),
        isa: ctx.target.isa.name().into(),
        os: std::env::consts::OS.into(),
    }
}

/// The most memory that this process has had resident, in 10⁶ bytes; `None` where the system does not tell.
pub(crate) fn peak_rss_mb() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}
