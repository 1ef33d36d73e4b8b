//! rten and tract behind the protocol of bench/worker.py: `rust-peers ENGINE MODEL INPUTS.npz THREADS OUTPUTS.npz`.

mod arrays;
mod rten_engine;
mod tract_engine;

use anyhow::{Context, Result, bail};
use arrays::{Array, read_npz, write_npz};
use serde_json::json;
use std::{
    env, fs,
    io::{self, BufRead},
    path::Path,
    time::Instant,
};

/// One run on the inputs that the model was loaded with; what comes back are its outputs.
type Run = Box<dyn FnMut() -> Result<Vec<Array>>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [engine, model, inputs, threads, outputs] = arguments.as_slice() else {
        bail!("rust-peers ENGINE MODEL INPUTS.npz THREADS OUTPUTS.npz");
    };
    let inputs = read_npz(Path::new(inputs))?;
    let threads = threads.parse()?;
    let idle_mb = peak_mb()?;
    let start = Instant::now();
    let (version, mut run) = match engine.as_str() {
        "rten" => ("0.27.0", rten_engine::load(Path::new(model), inputs, threads)?),
        "tract" => ("0.23.9", tract_engine::load(Path::new(model), &inputs, threads)?),
        _ => bail!("no engine {engine}"),
    };
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let first = run()?;
    let peak_mb = peak_mb()?;
    write_npz(Path::new(outputs), &first)?;
    println!("{}", json!({ "version": version, "idle_mb": idle_mb, "load_ms": load_ms, "peak_mb": peak_mb }));
    for line in io::stdin().lock().lines() {
        let count: usize = line?.trim().parse()?;
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            let outputs = run()?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
            drop(outputs);
        }
        println!("{}", json!(times));
    }
    Ok(())
}

/// VmHWM in 10⁶ bytes.
fn peak_mb() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024.0 / 1e6)
}
