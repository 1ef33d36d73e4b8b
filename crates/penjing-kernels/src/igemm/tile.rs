//! The register tile of indirect products: up to 6 rows by 16 columns; rows of A are read where they lie.
//!
//! As the tile of [`crate::gemm::tile`], but A is not packed: a row is a pointer, and the depth is cut into stretches of
//! consecutive elements at the same distance from every row's pointer.

use crate::{
    gemm::tile::{MR, NR},
    isa::prefetch,
};
use bytemuck::Pod;

/// Consecutive elements of each row, part of one k-block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    /// First element, counted from the row's base.
    pub(crate) offset: usize,
    /// Steps of the tile, [`Kind::GROUP`] elements each.
    pub(crate) steps: usize,
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

/// The element types of a product and their register tile.
///
/// One step multiplies `GROUP` consecutive elements of a row by as many of each of 16 columns: B is packed as
/// `[step][16][GROUP]`. A run whose length is no multiple of `GROUP` is continued with zeros in B, and A is read past its end.
pub(crate) trait Kind: 'static {
    /// An element of A.
    type A: Pod + Send + Sync;
    /// An element of packed B.
    type B: Pod + Send + Sync;
    /// A sum.
    type Sum: Pod + Send + Sync;
    /// Elements of a row that one step takes.
    const GROUP: usize;
    /// Most rows of a tile, at most [`MR`](crate::gemm::tile::MR).
    const ROWS: usize;
    /// What a tile knows of a panel's k-block beside the elements of B.
    type Panel: Send + Sync;

    /// Prepares a panel's k-block, `[step][16][GROUP]`, cut into stretches of so many steps; B may change.
    fn panel(b: &mut [Self::B], stretches: &[usize]) -> Self::Panel;

    /// `acc[r][j] = start + Σ A[rows[r] + offset + i] · B[i][j]` over the elements of all stretches, in order.
    ///
    /// # Safety
    /// For every row, `offset .. offset + steps * GROUP` from its pointer is readable for every stretch; `b` has
    /// `16 * GROUP` elements a step; `panel` was prepared for these stretches; `acc` has R rows of 16.
    unsafe fn tile<const R: usize>(
        rows: &[*const Self::A; R],
        stretches: &[Stretch],
        b: *const Self::B,
        panel: &Self::Panel,
        start: Start,
        ahead: &mut Ahead,
        acc: *mut [Self::Sum; NR],
    );

    /// As [`tile`](Self::tile).
    ///
    /// # Safety
    /// As of [`tile`](Self::tile); the host has AVX2 and FMA.
    unsafe fn tile_avx2<const R: usize>(
        rows: &[*const Self::A; R],
        stretches: &[Stretch],
        b: *const Self::B,
        panel: &Self::Panel,
        start: Start,
        ahead: &mut Ahead,
        acc: *mut [Self::Sum; NR],
    );
}

/// f32 by f32.
pub(crate) struct F32;

impl Kind for F32 {
    type A = f32;
    type B = f32;
    type Sum = f32;
    const GROUP: usize = 1;
    const ROWS: usize = MR;
    type Panel = ();

    fn panel(_: &mut [f32], _: &[usize]) {}

    #[inline(always)]
    unsafe fn tile<const R: usize>(
        rows: &[*const f32; R],
        stretches: &[Stretch],
        mut b: *const f32,
        _: &(),
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
                for p in s.offset..s.offset + s.steps {
                    let br = b.cast::<[f32; NR]>().read();
                    for r in 0..R {
                        let ar = *rows[r].add(p);
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

    #[inline(always)]
    unsafe fn tile_avx2<const R: usize>(
        rows: &[*const f32; R],
        stretches: &[Stretch],
        b: *const f32,
        panel: &(),
        start: Start,
        ahead: &mut Ahead,
        acc: *mut [f32; NR],
    ) {
        let _ = panel;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this function's contract.
        unsafe {
            x86::f32_tile::<R>(rows, stretches, b, start, ahead, acc);
        }
        #[cfg(not(target_arch = "x86_64"))]
        // SAFETY: this function's contract.
        unsafe {
            Self::tile::<R>(rows, stretches, b, panel, start, ahead, acc);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! 12 accumulators, 2 registers of B, 1 broadcast of A.

    use super::{Ahead, NR, Start, Stretch};
    use std::arch::x86_64::*;

    /// # Safety
    /// That of [`super::Kind::tile_avx2`].
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
                let unrolled = s.steps / 4 * 4;
                for p in (0..unrolled).step_by(4) {
                    step(p, b);
                    step(p + 1, b.add(NR));
                    step(p + 2, b.add(2 * NR));
                    step(p + 3, b.add(3 * NR));
                    b = b.add(4 * NR);
                    line.line();
                }
                for p in unrolled..s.steps {
                    step(p, b);
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
