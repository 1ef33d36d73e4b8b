//! The machine's ceilings: how many multiply-adds of f32 and of 8-bit integers it can do a second, measured.

use crate::{Ctx, Isa};
use std::{hint::black_box, time::Instant};

/// Independent chains: enough to hide the latency of two fused multiply-add units, few enough for 16 registers.
const CHAINS: usize = 12;
/// Multiply-adds of each chain in a task, some tenths of a millisecond.
const DEPTH: usize = 100_000;
/// Tasks for each thread in a trial, some hundredths of a second: a thread that starts late, or on a core that another one holds,
/// costs little.
const TASKS: usize = 64;
/// The fastest trial counts: interruptions only ever make one slower.
const TRIALS: usize = 5;

/// Bytes of a register.
fn width(isa: Isa) -> usize {
    match isa.usable() {
        Isa::Generic | Isa::Avx2 => 32,
        Isa::Avx512 | Isa::Amx => 64,
    }
}

/// Peak f32 multiply-add rate of `ctx`'s level on all its threads together, in GFLOP/s; a multiply-add is two operations.
pub fn fma_peak(ctx: Ctx<'_>) -> f64 {
    best_rate(ctx, 2 * CHAINS * width(ctx.isa) / size_of::<f32>() * DEPTH, &|| {
        black_box(chains(ctx.isa, black_box(0.999_999), black_box(1e-6)));
    })
}

/// Peak rate of 8-bit integer multiply-adds into i32 of `ctx`'s level on all its threads together, in GOP/s.
///
/// On AVX2 the shortest such sequence: `vpmaddubsw` to pairs, `vpmaddwd` to fours, `vpaddd` to the sum. On AVX-512 it is one
/// instruction, `vpdpbusd`, with AMX `tdpbusd`. The generic level widens.
pub fn int8_peak(ctx: Ctx<'_>) -> f64 {
    best_rate(ctx, 2 * byte_products(ctx.isa), &|| {
        black_box(byte_chains(ctx.isa, black_box(3), black_box(-2)));
    })
}

/// The fastest trial, in 10⁹ operations a second, when `task` does `operations`.
fn best_rate(ctx: Ctx<'_>, operations: usize, task: &(dyn Fn() + Sync)) -> f64 {
    let tasks = TASKS * ctx.pool.threads();
    let trial = || {
        let start = Instant::now();
        ctx.pool.run(tasks, &|_| task());
        (operations * tasks) as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    (0..TRIALS).map(|_| trial()).fold(0.0, f64::max)
}

/// The sum of all chains, each `v ← v · a + b` from 0 on.
fn chains(isa: Isa, a: f32, b: f32) -> f32 {
    #[cfg(target_arch = "x86_64")]
    match isa.usable() {
        Isa::Generic => {}
        // SAFETY: `usable` returns a level only where the host has it.
        Isa::Avx2 => return unsafe { x86::chains_avx2(a, b) },
        // SAFETY: as above.
        Isa::Avx512 | Isa::Amx => return unsafe { x86::chains_avx512(a, b) },
    }
    let _ = isa;
    let mut acc = [[0f32; 8]; CHAINS];
    for _ in 0..DEPTH {
        acc.iter_mut().for_each(|chain| chain.iter_mut().for_each(|v| *v = *v * a + b));
    }
    acc.iter().flatten().sum()
}

/// Products that [`byte_chains`] adds.
fn byte_products(isa: Isa) -> usize {
    match isa.usable() {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => tiles::PRODUCTS,
        level => CHAINS * width(level) * DEPTH,
    }
}

/// The sum of all integer chains, each adding a register of products `a · b` a step.
fn byte_chains(isa: Isa, a: u8, b: i8) -> i32 {
    #[cfg(target_arch = "x86_64")]
    match isa.usable() {
        Isa::Generic => {}
        // SAFETY: `usable` returns a level only where the host has it.
        Isa::Avx2 => return unsafe { x86::byte_chains_avx2(a, b) },
        // SAFETY: as above.
        Isa::Avx512 => return unsafe { x86::byte_chains_avx512(a, b) },
        // SAFETY: as above.
        Isa::Amx => return unsafe { tiles::byte_chains(a, b) },
    }
    let _ = isa;
    let mut acc = [[0i32; 32]; CHAINS];
    for _ in 0..DEPTH {
        let (a, b) = (black_box(a), black_box(b));
        acc.iter_mut().for_each(|chain| chain.iter_mut().for_each(|v| *v += i32::from(a) * i32::from(b)));
    }
    acc.iter().flatten().fold(0, |sum, v| sum.wrapping_add(*v))
}

/// AMX: see [`crate::int8`] for its registers.
#[cfg(target_arch = "x86_64")]
mod tiles {
    use super::DEPTH;
    use crate::int8::TileConfig;
    use std::arch::asm;

    /// Products of four registers of 16 by 16 sums, 64 deep, in each step.
    pub(super) const PRODUCTS: usize = STEPS * 4 * 16 * 16 * 64;
    const STEPS: usize = DEPTH / 16;

    /// # Safety
    /// The host has `Isa::Amx`.
    pub(super) unsafe fn byte_chains(a: u8, b: i8) -> i32 {
        let config = TileConfig::new(16, 16);
        let (a, b) = ([a; 1024], [b; 1024]);
        let mut sums = [0i32; 1024];
        // SAFETY: a register is 1024 bytes, of which each operand has as many; the configuration has whole registers.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "tileloadd tmm4, [{a} + {line}*1]",
                "tileloadd tmm6, [{b} + {line}*1]",
                "2:",
                "tdpbusd tmm0, tmm4, tmm6",
                "tdpbusd tmm1, tmm4, tmm6",
                "tdpbusd tmm2, tmm4, tmm6",
                "tdpbusd tmm3, tmm4, tmm6",
                "dec {steps}",
                "jne 2b",
                "tilestored [{sums} + {line}*1], tmm0",
                "tilestored [{sums} + {line}*1 + 1024], tmm1",
                "tilestored [{sums} + {line}*1 + 2048], tmm2",
                "tilestored [{sums} + {line}*1 + 3072], tmm3",
                "tilerelease",
                config = in(reg) &raw const config,
                a = in(reg) a.as_ptr(),
                b = in(reg) b.as_ptr(),
                sums = in(reg) sums.as_mut_ptr(),
                line = in(reg) 64usize,
                steps = inout(reg) STEPS => _,
                options(nostack),
            );
        }
        sums.iter().fold(0, |sum, v| sum.wrapping_add(*v))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{CHAINS, DEPTH};
    use std::arch::{asm, x86_64::*};

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn chains_avx2(a: f32, b: f32) -> f32 {
        let (a, b) = (_mm256_set1_ps(a), _mm256_set1_ps(b));
        let mut acc = [_mm256_setzero_ps(); CHAINS];
        for _ in 0..DEPTH {
            acc.iter_mut().for_each(|chain| *chain = _mm256_fmadd_ps(*chain, a, b));
        }
        8.0 * acc.iter().map(|&chain| _mm256_cvtss_f32(chain)).sum::<f32>()
    }

    #[target_feature(enable = "avx2,fma,avx512f")]
    pub(super) fn chains_avx512(a: f32, b: f32) -> f32 {
        let (a, b) = (_mm512_set1_ps(a), _mm512_set1_ps(b));
        let mut acc = [_mm512_setzero_ps(); CHAINS];
        for _ in 0..DEPTH {
            acc.iter_mut().for_each(|chain| *chain = _mm512_fmadd_ps(*chain, a, b));
        }
        16.0 * acc.iter().map(|&chain| _mm512_cvtss_f32(chain)).sum::<f32>()
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn byte_chains_avx2(a: u8, b: i8) -> i32 {
        let ones = _mm256_set1_epi16(1);
        let mut acc = [_mm256_setzero_si256(); CHAINS];
        let (mut a, b) = (_mm256_set1_epi8(a as i8), _mm256_set1_epi8(b));
        for _ in 0..DEPTH {
            acc.iter_mut().for_each(|chain| {
                // SAFETY: no instruction; it only hides from the compiler that every product is the same.
                unsafe { asm!("/* {0} */", inout(ymm_reg) a, options(nomem, nostack, preserves_flags)) };
                *chain = _mm256_add_epi32(*chain, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
            });
        }
        8 * acc.iter().fold(0, |sum: i32, &chain| sum.wrapping_add(_mm256_extract_epi32::<0>(chain)))
    }

    #[target_feature(enable = "avx2,avx512f,avx512vnni")]
    pub(super) fn byte_chains_avx512(a: u8, b: i8) -> i32 {
        let mut acc = [_mm512_setzero_si512(); CHAINS];
        let (mut a, b) = (_mm512_set1_epi8(a as i8), _mm512_set1_epi8(b));
        for _ in 0..DEPTH {
            acc.iter_mut().for_each(|chain| {
                // SAFETY: as above.
                unsafe { asm!("/* {0} */", inout(zmm_reg) a, options(nomem, nostack, preserves_flags)) };
                *chain = _mm512_dpbusd_epi32(*chain, a, b);
            });
        }
        16 * acc.iter().fold(0, |sum: i32, &chain| sum.wrapping_add(_mm512_cvtsi512_si32(chain)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool;

    #[test]
    fn every_level_does_the_work_that_is_counted() {
        // The fixed point of v = v · 0.5 + 1 is 2, reached within a few steps by every lane of every chain.
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            assert_eq!(chains(isa, 0.5, 1.0), (2 * CHAINS * width(isa) / size_of::<f32>()) as f32, "{}", isa.name());
        }
    }

    #[test]
    fn every_level_adds_every_byte_product() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let sum = byte_products(isa) as i32 * -2;
            assert_eq!(byte_chains(isa, 2, -1), sum, "{}", isa.name());
        }
    }

    #[test]
    fn the_peaks_are_plausible_rates() {
        let pool = Pool::new(1);
        let ctx = Ctx { isa: Isa::detect(), pool: &pool };
        for peak in [fma_peak(ctx), int8_peak(ctx)] {
            assert!((0.01..20_000.0).contains(&peak), "{peak} billions of operations a second");
        }
    }
}
