//! The register tile of indirect products: up to 6 rows by 16 columns; rows of A are read where they lie.
//!
//! As the tile of [`crate::gemm::tile`], but A is not packed: a row is a pointer, and the depth is cut into stretches of
//! elements at equal distances, which begin at the same distance from every row's pointer.

use crate::{gemm::tile::NR, isa::prefetch};

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

/// Memory that a tile asks for while it computes: the B of the tiles to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    at: *const u8,
    end: *const u8,
}

impl Ahead {
    pub(crate) fn new<T>(next: &[T]) -> Ahead {
        let range = next.as_ptr_range();
        Ahead { at: range.start.cast(), end: range.end.cast() }
    }

    /// Asks for the next line.
    #[inline(always)]
    pub(crate) fn line(&mut self) {
        prefetch(self.at);
        let next = self.at.wrapping_add(64);
        self.at = if next < self.end { next } else { self.at };
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

/// `acc[r][j] = start + Σ A[rows[r] + offset + i * step] · B[i][j]` over the elements of all stretches, in order.
///
/// # Safety
/// For every row and stretch, the element `offset + i * step` from the row's pointer is readable for `i < steps`; `b` has 16
/// elements a step; `acc` has R rows of 16.
#[inline(always)]
pub(crate) unsafe fn generic<const R: usize>(
    rows: &[*const f32; R],
    stretches: &[Stretch],
    mut b: *const f32,
    start: Start,
    _ahead: &mut Ahead,
    acc: *mut [f32; NR],
) {
    let mut c = [[0f32; NR]; R];
    // SAFETY: this function's contract covers every read and write.
    unsafe {
        if start == Start::Acc {
            c = acc.cast::<[[f32; NR]; R]>().read();
        }
        for s in stretches {
            for p in 0..s.steps {
                let br = b.cast::<[f32; NR]>().read();
                for r in 0..R {
                    let ar = *rows[r].add(s.offset + p * s.step);
                    for j in 0..NR {
                        c[r][j] += ar * br[j];
                    }
                }
                b = b.add(NR);
            }
        }
        acc.cast::<[[f32; NR]; R]>().write(c);
    }
}

/// As [`generic`].
///
/// # Safety
/// As of [`generic`]; the host has AVX2 and FMA.
#[inline(always)]
pub(crate) unsafe fn avx2<const R: usize>(
    rows: &[*const f32; R],
    stretches: &[Stretch],
    b: *const f32,
    start: Start,
    ahead: &mut Ahead,
    acc: *mut [f32; NR],
) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: this function's contract.
    unsafe {
        x86::f32_tile::<R>(rows, stretches, b, start, ahead, acc);
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: this function's contract.
    unsafe {
        generic::<R>(rows, stretches, b, start, ahead, acc);
    }
}

/// As [`generic`].
///
/// # Safety
/// As of [`generic`]; the host has `Isa::Avx512`.
#[inline(always)]
pub(crate) unsafe fn avx512<const R: usize>(
    rows: &[*const f32; R],
    stretches: &[Stretch],
    b: *const f32,
    start: Start,
    ahead: &mut Ahead,
    acc: *mut [f32; NR],
) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: this function's contract.
    unsafe {
        x86::wide_tile::<R>(rows, stretches, b, start, ahead, acc);
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: this function's contract.
    unsafe {
        generic::<R>(rows, stretches, b, start, ahead, acc);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! With AVX2 12 accumulators, 2 registers of B, 1 broadcast of A; with AVX-512 twice as wide, a set for even and one for odd
    //! steps, since six chains alone would not hide the latency.

    use super::{Ahead, NR, Start, Stretch};
    use std::arch::x86_64::*;

    /// # Safety
    /// That of [`super::avx2`].
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn f32_tile<const R: usize>(
        rows: &[*const f32; R],
        stretches: &[Stretch],
        mut b: *const f32,
        start: Start,
        ahead: &mut Ahead,
        acc: *mut [f32; NR],
    ) {
        let acc = acc.cast::<f32>();
        let mut c = [[_mm256_setzero_ps(); 2]; R];
        // SAFETY: the contract covers every read and write.
        unsafe {
            if start == Start::Acc {
                for r in 0..R {
                    c[r] = [_mm256_loadu_ps(acc.add(r * NR)), _mm256_loadu_ps(acc.add(r * NR + 8))];
                }
            }
            let mut line = *ahead;
            for s in stretches {
                let a: [*const f32; R] = std::array::from_fn(|r| rows[r].add(s.offset));
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
                    line.line();
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
    /// # Safety
    /// That of [`super::avx512`].
    #[inline]
    #[target_feature(enable = "avx2,fma,avx512f,avx512vl")]
    pub(super) unsafe fn wide_tile<const R: usize>(
        rows: &[*const f32; R],
        stretches: &[Stretch],
        mut b: *const f32,
        start: Start,
        ahead: &mut Ahead,
        acc: *mut [f32; NR],
    ) {
        let acc = acc.cast::<f32>();
        let mut even = [_mm512_setzero_ps(); R];
        let mut odd = [_mm512_setzero_ps(); R];
        // SAFETY: the contract covers every read and write.
        unsafe {
            if start == Start::Acc {
                for r in 0..R {
                    even[r] = _mm512_loadu_ps(acc.add(r * NR));
                }
            }
            let mut line = *ahead;
            for s in stretches {
                let a: [*const f32; R] = std::array::from_fn(|r| rows[r].add(s.offset));
                for p in (0..s.steps / 2 * 2).step_by(2) {
                    let (b0, b1) = (_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(NR)));
                    for r in 0..R {
                        let (a0, a1) = (*a[r].add(p * s.step), *a[r].add((p + 1) * s.step));
                        even[r] = _mm512_fmadd_ps(_mm512_set1_ps(a0), b0, even[r]);
                        odd[r] = _mm512_fmadd_ps(_mm512_set1_ps(a1), b1, odd[r]);
                    }
                    b = b.add(2 * NR);
                    line.line();
                }
                if s.steps % 2 == 1 {
                    let b0 = _mm512_loadu_ps(b);
                    for r in 0..R {
                        even[r] = _mm512_fmadd_ps(_mm512_set1_ps(*a[r].add((s.steps - 1) * s.step)), b0, even[r]);
                    }
                    b = b.add(NR);
                }
            }
            *ahead = line;
            for r in 0..R {
                _mm512_storeu_ps(acc.add(r * NR), _mm512_add_ps(even[r], odd[r]));
            }
        }
    }
}
