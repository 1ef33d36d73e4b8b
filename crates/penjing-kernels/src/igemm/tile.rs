//! The register tiles of indirect products: rows of A, read where they lie, by panels of 16 columns.
//!
//! The depth is cut into stretches of elements at equal distances, which begin at the same distance from every row's base.

use crate::{
    gemm::tile::{MR, NR, Straight},
    isa::prefetch,
};

/// Steps of a tile from one call of [`Ahead::ask`] to the next.
const AHEAD_STEPS: usize = 4;

/// Elements of each row at equal distances, part of one k-block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    /// First element, counted from the row's base.
    pub(crate) offset: usize,
    /// Elements of each row.
    pub(crate) steps: usize,
    /// From one to the next; 1 where they are consecutive.
    pub(crate) step: usize,
}

/// Memory that tiles ask for while they compute: the B of the tiles to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    at: *const u8,
    end: *const u8,
    /// Lines asked for at a time.
    lines: usize,
}

impl Ahead {
    /// The bytes of `next`, evenly over the `steps` of all tiles that compute meanwhile, at most `most` lines at a time: lines
    /// that are all asked for early keep the core's few buffers of misses from the loads of the tile itself.
    pub(crate) fn new<T>(next: &[T], steps: usize, most: usize) -> Ahead {
        let range = next.as_ptr_range();
        let lines = size_of_val(next).div_ceil(64).div_ceil((steps / AHEAD_STEPS).max(1));
        Ahead { at: range.start.cast(), end: range.end.cast(), lines: lines.clamp(1, most) }
    }

    /// Asks for the next lines. A tile calls it every [`AHEAD_STEPS`] steps.
    #[inline(always)]
    pub(crate) fn ask(&mut self) {
        for _ in 0..self.lines {
            prefetch(self.at);
            let next = self.at.wrapping_add(64);
            self.at = if next < self.end { next } else { self.at };
        }
    }
}

/// What a tile's sums begin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Start {
    /// Zero: the first k-block.
    Zero,
    /// What `acc` holds: the k-blocks before.
    Acc,
}

/// A tile: `sums[p * sums_pitch + r][j] = start + Σ A[bases[r] + offset + i * step] · B[p][i][j]`, for every row r and each of a
/// number of neighbouring panels p.
///
/// Whoever computes it needs: for every row and stretch, the element `offset + i * step` from its base is readable for `i < steps`;
/// each panel, `b_pitch` elements after the one before, has 16 elements a step; every sum's place is writable.
#[derive(Clone, Copy)]
pub(crate) struct TileOf<'a> {
    pub(crate) a: *const f32,
    pub(crate) bases: &'a [usize],
    pub(crate) stretches: &'a [Stretch],
    pub(crate) b: *const f32,
    pub(crate) b_pitch: usize,
    pub(crate) start: Start,
    pub(crate) sums: *mut [f32; NR],
    pub(crate) sums_pitch: usize,
    /// Where sums go instead, at levels that store [straight](Level::STRAIGHT).
    pub(crate) straight: Option<Straight>,
}

/// How a level computes tiles.
pub(crate) trait Level {
    /// Most rows of a tile.
    const ROWS: usize;

    /// Whether a tile can store its sums from registers.
    const STRAIGHT: bool = false;

    /// Panels of a tile of `rows` rows where there are `left`.
    #[inline(always)]
    fn panels(rows: usize, left: usize) -> usize {
        let _ = (rows, left);
        1
    }

    /// Computes a tile of so many panels.
    ///
    /// # Safety
    /// The operands are as [`TileOf`] wants them, of at most `ROWS` rows and as many panels as [`panels`](Level::panels) says for them
    /// or for more rows; the host has the level.
    unsafe fn tile(t: &TileOf<'_>, panels: usize, ahead: &mut Ahead);
}

/// Loops that the compiler may vectorise.
pub(crate) struct Generic;

impl Level for Generic {
    const ROWS: usize = MR;

    #[inline(always)]
    unsafe fn tile(t: &TileOf<'_>, _: usize, _: &mut Ahead) {
        // SAFETY: the contract.
        unsafe {
            match t.bases.len() {
                1 => generic::<1>(t),
                2 => generic::<2>(t),
                3 => generic::<3>(t),
                4 => generic::<4>(t),
                5 => generic::<5>(t),
                _ => generic::<6>(t),
            }
        }
    }
}

/// AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Avx2;

#[cfg(target_arch = "x86_64")]
impl Level for Avx2 {
    const ROWS: usize = MR;

    #[inline(always)]
    unsafe fn tile(t: &TileOf<'_>, _: usize, ahead: &mut Ahead) {
        // SAFETY: the contract.
        unsafe {
            match t.bases.len() {
                1 => x86::f32_tile::<1>(t, ahead),
                2 => x86::f32_tile::<2>(t, ahead),
                3 => x86::f32_tile::<3>(t, ahead),
                4 => x86::f32_tile::<4>(t, ahead),
                5 => x86::f32_tile::<5>(t, ahead),
                _ => x86::f32_tile::<6>(t, ahead),
            }
        }
    }
}

/// One panel by R rows.
///
/// # Safety
/// The operands are as [`TileOf`] wants them.
#[inline(always)]
unsafe fn generic<const R: usize>(t: &TileOf<'_>) {
    let rows: &[usize; R] = t.bases.first_chunk().expect("a tile is chosen by its rows");
    let mut c = [[0f32; NR]; R];
    // SAFETY: this function's contract covers every read and write.
    unsafe {
        if t.start == Start::Acc {
            c = t.sums.cast::<[[f32; NR]; R]>().read();
        }
        let mut b = t.b;
        for s in t.stretches {
            for p in 0..s.steps {
                let br = b.cast::<[f32; NR]>().read();
                for r in 0..R {
                    let ar = *t.a.add(rows[r] + s.offset + p * s.step);
                    for j in 0..NR {
                        c[r][j] += ar * br[j];
                    }
                }
                b = b.add(NR);
            }
        }
        t.sums.cast::<[[f32; NR]; R]>().write(c);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! 12 accumulators, 2 registers of B, 1 broadcast of A.

    use super::{Ahead, NR, Start, TileOf};
    use std::arch::x86_64::*;

    /// One panel by R rows.
    ///
    /// # Safety
    /// The operands are as [`TileOf`] wants them; the host has AVX2 and FMA.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn f32_tile<const R: usize>(t: &TileOf<'_>, ahead: &mut Ahead) {
        let rows: &[usize; R] = t.bases.first_chunk().expect("a tile is chosen by its rows");
        let acc = t.sums.cast::<f32>();
        let mut c = [[_mm256_setzero_ps(); 2]; R];
        // SAFETY: the contract covers every read and write.
        unsafe {
            if t.start == Start::Acc {
                for r in 0..R {
                    c[r] = [_mm256_loadu_ps(acc.add(r * NR)), _mm256_loadu_ps(acc.add(r * NR + 8))];
                }
            }
            let mut b = t.b;
            let mut line = *ahead;
            for s in t.stretches {
                let a: [*const f32; R] = std::array::from_fn(|r| t.a.add(rows[r] + s.offset));
                let mut step = |p: usize, b: *const f32| {
                    let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                    for r in 0..R {
                        let ar = _mm256_broadcast_ss(&*a[r].add(p));
                        c[r][0] = _mm256_fmadd_ps(ar, b0, c[r][0]);
                        c[r][1] = _mm256_fmadd_ps(ar, b1, c[r][1]);
                    }
                };
                let unrolled = if s.step == 1 { s.steps / 4 * 4 } else { 0 };
                for p in (0..unrolled).step_by(4) {
                    step(p, b);
                    step(p + 1, b.add(NR));
                    step(p + 2, b.add(2 * NR));
                    step(p + 3, b.add(3 * NR));
                    b = b.add(4 * NR);
                    line.ask();
                }
                // Other distances leave the four steps no common address.
                for p in unrolled..s.steps {
                    step(p * s.step, b);
                    b = b.add(NR);
                }
            }
            *ahead = line;
            for r in 0..R {
                _mm256_storeu_ps(acc.add(r * NR), c[r][0]);
                _mm256_storeu_ps(acc.add(r * NR + 8), c[r][1]);
            }
        }
    }
}
