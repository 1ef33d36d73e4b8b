//! The register tile of AVX-512: up to 12 rows by one, two or four panels of 16 columns.
//!
//! A row of A gives one value a step, which every panel's register of B is multiplied by: two panels by 12 rows keep 24 sums in
//! registers and load 14 operands for 24 multiply-adds. Few rows take four panels, since a sum of one panel alone would wait for
//! the multiply-add before.

use super::tile::{Ahead, Level, Start, TileOf};
use crate::{
    gemm::tile::{NR, Straight},
    isa::prefetch_near,
};
use std::arch::x86_64::*;

/// Most rows of a tile.
const ROWS: usize = 12;
/// Most rows of a tile of four panels.
const LOW: usize = 6;
/// Steps that B is asked for before it is loaded: some hundred cycles, and no more than a page in all.
const NEAR: usize = 8;

/// `Isa::Avx512`.
pub(super) struct Avx512;

impl Level for Avx512 {
    const ROWS: usize = ROWS;
    const STRAIGHT: bool = true;

    #[inline(always)]
    fn panels(rows: usize, left: usize) -> usize {
        match left {
            4.. if rows <= LOW => 4,
            2.. => 2,
            _ => 1,
        }
    }

    #[inline(always)]
    unsafe fn tile(t: &TileOf<'_>, panels: usize, ahead: &mut Ahead) {
        let tiles: &[Tile] = match panels {
            4 => &FOUR,
            2 => &TWO,
            _ => &ONE,
        };
        // SAFETY: the contract.
        unsafe { tiles[t.bases.len() - 1](t, ahead) }
    }
}

type Tile = unsafe fn(&TileOf<'_>, &mut Ahead);

static ONE: [Tile; ROWS] = [
    of::<1, 1>,
    of::<2, 1>,
    of::<3, 1>,
    of::<4, 1>,
    of::<5, 1>,
    of::<6, 1>,
    of::<7, 1>,
    of::<8, 1>,
    of::<9, 1>,
    of::<10, 1>,
    of::<11, 1>,
    of::<12, 1>,
];
static TWO: [Tile; ROWS] = [
    of::<1, 2>,
    of::<2, 2>,
    of::<3, 2>,
    of::<4, 2>,
    of::<5, 2>,
    of::<6, 2>,
    of::<7, 2>,
    of::<8, 2>,
    of::<9, 2>,
    of::<10, 2>,
    of::<11, 2>,
    of::<12, 2>,
];
static FOUR: [Tile; LOW] = [of::<1, 4>, of::<2, 4>, of::<3, 4>, of::<4, 4>, of::<5, 4>, of::<6, 4>];

/// R rows by P panels.
///
/// # Safety
/// That of [`TileOf`]; the host has `Isa::Avx512`.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn of<const R: usize, const P: usize>(t: &TileOf<'_>, ahead: &mut Ahead) {
    let rows: &[usize; R] = t.bases.first_chunk().expect("the table is by the number of rows");
    let mut sums = [[_mm512_setzero_ps(); P]; R];
    // SAFETY: the contract covers every read and write.
    unsafe {
        let place = |r: usize, p: usize| t.sums.add(p * t.sums_pitch + r).cast::<f32>();
        if t.start == Start::Acc {
            for r in 0..R {
                for p in 0..P {
                    sums[r][p] = _mm512_loadu_ps(place(r, p));
                }
            }
        }
        let mut b = t.b;
        let mut line = *ahead;
        for s in t.stretches {
            let a: [*const f32; R] = std::array::from_fn(|r| t.a.add(rows[r] + s.offset));
            let mut step = |k: usize, b: *const f32| {
                let columns: [__m512; P] = std::array::from_fn(|p| _mm512_loadu_ps(b.add(p * t.b_pitch)));
                for r in 0..R {
                    let value = _mm512_set1_ps(*a[r].add(k));
                    for p in 0..P {
                        sums[r][p] = _mm512_fmadd_ps(value, columns[p], sums[r][p]);
                    }
                }
            };
            let unrolled = if s.step == 1 { s.steps / 4 * 4 } else { 0 };
            for k in (0..unrolled).step_by(4) {
                step(k, b);
                step(k + 1, b.add(NR));
                step(k + 2, b.add(2 * NR));
                step(k + 3, b.add(3 * NR));
                b = b.add(4 * NR);
                line.ask();
                // Two panels and the rows do not fit the first-level cache: B comes from the second.
                for p in 0..P {
                    for i in 0..4 {
                        prefetch_near(b.wrapping_add(p * t.b_pitch + (NEAR + i) * NR));
                    }
                }
            }
            // Other distances leave the four steps no common address.
            for k in unrolled..s.steps {
                step(k * s.step, b);
                b = b.add(NR);
            }
        }
        *ahead = line;
        if let Some(to) = &t.straight {
            store(&sums, to);
            return;
        }
        for r in 0..R {
            for p in 0..P {
                _mm512_storeu_ps(place(r, p), sums[r][p]);
            }
        }
    }
}

/// Stores the sums of R rows by P panels.
///
/// # Safety
/// The elements of `to` exist; the host has `Isa::Avx512`.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn store<const R: usize, const P: usize>(sums: &[[__m512; P]; R], to: &Straight) {
    let (min, max) = (_mm512_set1_ps(to.clamp.min), _mm512_set1_ps(to.clamp.max));
    // All panels but the last are whole.
    let mask: [__mmask16; P] = std::array::from_fn(|p| match to.cols - p * NR {
        cols @ ..NR => (1 << cols) - 1,
        _ => __mmask16::MAX,
    });
    // SAFETY: masked lanes are not touched, the others exist (this function's contract).
    unsafe {
        let mut bias = [_mm512_setzero_ps(); P];
        if !to.bias.is_null() {
            bias = std::array::from_fn(|p| _mm512_maskz_loadu_ps(mask[p], to.bias.add(p * NR)));
        }
        for r in 0..R {
            for p in 0..P {
                let at = r * to.stride + p * NR;
                let mut v = sums[r][p];
                if to.add {
                    v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask[p], to.c.add(at)));
                }
                v = _mm512_add_ps(v, bias[p]);
                if !to.residual.is_null() {
                    v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask[p], to.residual.add(at)));
                }
                // Where one operand is NaN the instructions give the second.
                v = _mm512_min_ps(max, _mm512_max_ps(min, v));
                _mm512_mask_storeu_ps(to.c.add(at), mask[p], v);
            }
        }
    }
}
