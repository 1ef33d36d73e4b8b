//! `penjing bench --kernels`: every candidate of a fixed list of shapes, the pick marked; the costs that picks follow are fitted
//! and stored here.

use crate::{
    Outcome,
    context::{Context, say},
    kernel_costs,
};
use anyhow::Result;
use penjing_exec::{Costs, Precision, Timed, fit, time_kernels};
use penjing_kernels::{Ctx, Pool, fma_peak, int8_peak};
use serde::Serialize;

/// A pick may be this many times slower than the best candidate.
const TOLERATED: f64 = 1.1;

#[derive(Serialize)]
struct KernelBench {
    fma_peak_gflops: f64,
    int8_peak_gops: f64,
    /// Shapes whose pick is too slow.
    wrong_picks: usize,
    shapes: Vec<ShapeBench>,
}

#[derive(Serialize)]
struct ShapeBench {
    shape: String,
    /// Whether costs are fitted to the shape.
    fitted: bool,
    /// The pick's time over the best one's.
    slowdown: f64,
    candidates: Vec<CandidateBench>,
}

#[derive(Serialize)]
struct CandidateBench {
    kernel: String,
    picked: bool,
    us: f64,
    gflops: f64,
    fraction_of_peak: f64,
}

/// Measures twice: costs are fitted to the first pass, picks are judged by the second.
pub(crate) fn run(ctx: &Context) -> Result<Outcome> {
    let costs = fit(&time_kernels(&ctx.target)?);
    let timed = time_kernels(&ctx.target)?;
    let pool = Pool::new(1);
    let machine = Ctx { isa: ctx.target.isa, pool: &pool };
    let (fma_peak_gflops, int8_peak_gops) = (fma_peak(machine), int8_peak(machine));
    let peak = |t: &Timed| if t.precision == Precision::Int8 { int8_peak_gops } else { fma_peak_gflops };
    let shapes: Vec<ShapeBench> = timed.iter().map(|t| shape_bench(t, &costs, peak(t))).collect();
    let wrong_picks = shapes.iter().filter(|s| s.slowdown > TOLERATED).count();
    let result = KernelBench { fma_peak_gflops, int8_peak_gops, wrong_picks, shapes };
    ctx.emit(&result, || text(&result))?;
    match kernel_costs::store(ctx.target.isa, &costs) {
        Ok(path) => say(&format!("costs stored in {}", path.display())),
        Err(why) => say(&format!("costs not stored: {why:#}")),
    }
    Ok(if wrong_picks == 0 { Outcome::Done } else { Outcome::CheckFailed })
}

fn shape_bench(timed: &Timed, costs: &Costs, peak: f64) -> ShapeBench {
    let pick = timed.pick(costs);
    let candidate = |(i, (kernel, time)): (usize, &(String, std::time::Duration))| {
        let gflops = timed.flops() / time.as_secs_f64() / 1e9;
        CandidateBench {
            kernel: kernel.clone(),
            picked: i == pick,
            us: time.as_secs_f64() * 1e6,
            gflops,
            fraction_of_peak: gflops / peak,
        }
    };
    ShapeBench {
        shape: timed.label.clone(),
        fitted: timed.fitted,
        slowdown: timed.slowdown(pick),
        candidates: timed.candidates.iter().enumerate().map(candidate).collect(),
    }
}

fn text(r: &KernelBench) -> String {
    let mut out = format!("  {:<31}{:<44}{:>10}{:>10}{:>9}\n", "shape", "kernel", "µs", "GFLOP/s", "of peak");
    for s in &r.shapes {
        for c in &s.candidates {
            let mark = if c.picked { '*' } else { ' ' };
            let share = format!("{:.0} %", 100.0 * c.fraction_of_peak);
            let slow = if c.picked && s.slowdown > TOLERATED { "  not the best" } else { "" };
            out.push_str(&format!(
                "{mark} {:<31}{:<44}{:>10.1}{:>10.1}{share:>9}{slow}\n",
                s.shape, c.kernel, c.us, c.gflops
            ));
        }
    }
    out.push_str(&format!(
        "\n* picked; one thread; FMA peak {:.0} GFLOP/s, int8 peak {:.0} GOP/s; {} of {} picks are more than 10 % slower than the best candidate\n",
        r.fma_peak_gflops,
        r.int8_peak_gops,
        r.wrong_picks,
        r.shapes.len()
    ));
    out
}
