//! The machine's ceiling: how many f32 multiply-adds it can do a second, measured.

use crate::{Ctx, Isa};
use std::{hint::black_box, time::Instant};

/// Independent chains: enough to hide the latency of two fused multiply-add units, few enough for 16 registers.
const CHAINS: usize = 12;
/// f32 lanes of one register at the AVX2 level.
const LANES: usize = 8;
/// Multiply-adds of each chain in a task, some tenths of a millisecond.
const DEPTH: usize = 100_000;
/// Tasks for each thread in a trial, so that a thread that starts late costs little.
const TASKS: usize = 8;
/// The fastest trial counts: interruptions only ever make one slower.
const TRIALS: usize = 5;

/// Peak f32 multiply-add rate of `ctx`'s level on all its threads together, in GFLOP/s; a multiply-add is two operations.
pub fn fma_peak(ctx: Ctx<'_>) -> f64 {
    let tasks = TASKS * ctx.pool.threads();
    let flops = (2 * CHAINS * LANES * DEPTH * tasks) as f64;
    let trial = || {
        let start = Instant::now();
        ctx.pool.run(tasks, &|_| {
            black_box(chains(ctx.isa, black_box(0.999_999), black_box(1e-6)));
        });
        flops / start.elapsed().as_secs_f64() / 1e9
    };
    (0..TRIALS).map(|_| trial()).fold(0.0, f64::max)
}

/// The sum of all chains, each `v ← v · a + b` from 0 on.
fn chains(isa: Isa, a: f32, b: f32) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if isa.usable() == Isa::Avx2 {
        // SAFETY: `usable` returns `Avx2` only where the host has AVX2 and FMA.
        return unsafe { chains_avx2(a, b) };
    }
    let _ = isa;
    let mut acc = [[0f32; LANES]; CHAINS];
    for _ in 0..DEPTH {
        acc.iter_mut().for_each(|chain| chain.iter_mut().for_each(|v| *v = *v * a + b));
    }
    acc.iter().flatten().sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn chains_avx2(a: f32, b: f32) -> f32 {
    use core::arch::x86_64::{_mm256_cvtss_f32, _mm256_fmadd_ps, _mm256_set1_ps, _mm256_setzero_ps};
    let (a, b) = (_mm256_set1_ps(a), _mm256_set1_ps(b));
    let mut acc = [_mm256_setzero_ps(); CHAINS];
    for _ in 0..DEPTH {
        acc.iter_mut().for_each(|chain| *chain = _mm256_fmadd_ps(*chain, a, b));
    }
    LANES as f32 * acc.iter().map(|&chain| _mm256_cvtss_f32(chain)).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool;

    #[test]
    fn every_level_does_the_work_that_is_counted() {
        // The fixed point of v = v · 0.5 + 1 is 2, reached within a few steps by every lane of every chain.
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            assert_eq!(chains(isa, 0.5, 1.0), (2 * CHAINS * LANES) as f32, "{}", isa.name());
        }
    }

    #[test]
    fn the_peak_is_a_plausible_rate() {
        let pool = Pool::new(1);
        let peak = fma_peak(Ctx { isa: Isa::detect(), pool: &pool });
        assert!((0.01..2000.0).contains(&peak), "{peak} GFLOP/s");
    }
}
