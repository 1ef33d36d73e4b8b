//! The register tiles of integer products: 8-bit activations by 8-bit weights, four at a time, summed in i32.
//!
//! `vpmaddubsw` multiplies bytes of u8 by bytes of i8 and adds them in pairs, saturating at the limits of i16. Weights are
//! constant, so packing ([`super::bound`]) makes sure that no sum can reach those limits: what is too large is taken out of
//! the weights and stands in extra steps. [`Dots`] so uses the instruction as it is, and adds two of its results before they
//! are widened where the weights allow. [`Signs`] multiplies |x| by w·sign(x), which fits for every weight but −128; it is for
//! weights that would need too many extra steps.
//!
//! Activations are read where they lie. With `FLIP` their highest bit is inverted, which takes i8 to u8 by adding 128, or u8
//! to i8 by subtracting it.

use super::bound::{Extra, Known, Method, prepare};
use crate::{
    gemm::tile::NR,
    igemm::tile::{Ahead, Kind, Start, Stretch},
};

/// Activations as u8, weights bounded.
pub(super) struct Dots<const FLIP: bool>;

/// Activations as i8, any weights.
pub(super) struct Signs<const FLIP: bool>;

macro_rules! kind {
    ($name:ident, $method:expr, $byte:ty, $avx2:ident) => {
        impl<const FLIP: bool> Kind for $name<FLIP> {
            type A = u8;
            type B = i8;
            type Sum = i32;
            const GROUP: usize = 4;
            const ROWS: usize = 5;
            type Panel = Known;

            fn panel(b: &mut [i8], stretches: &[usize]) -> Known {
                prepare($method, b, stretches)
            }

            #[inline(always)]
            unsafe fn tile<const R: usize>(
                rows: &[*const u8; R],
                stretches: &[Stretch],
                b: *const i8,
                known: &Known,
                start: Start,
                _ahead: &mut Ahead,
                acc: *mut [i32; NR],
            ) {
                let value = |x: u8| i32::from((if FLIP { x ^ 128 } else { x }) as $byte);
                // SAFETY: this function's contract.
                unsafe { plain_tile(value, rows, stretches, b, known, start, acc) }
            }

            #[inline(always)]
            unsafe fn tile_avx2<const R: usize>(
                rows: &[*const u8; R],
                stretches: &[Stretch],
                b: *const i8,
                known: &Known,
                start: Start,
                ahead: &mut Ahead,
                acc: *mut [i32; NR],
            ) {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: this function's contract.
                unsafe {
                    x86::$avx2::<R, FLIP>(rows, stretches, b, known, start, ahead, acc);
                }
                #[cfg(not(target_arch = "x86_64"))]
                // SAFETY: this function's contract.
                unsafe {
                    Self::tile::<R>(rows, stretches, b, known, start, ahead, acc);
                }
            }
        }
    };
}

kind!(Dots, Method::Dots, u8, dots);
kind!(Signs, Method::Signs, i8, signs);

/// # Safety
/// That of [`Kind::tile`].
#[inline(always)]
unsafe fn plain_tile<const R: usize>(
    value: impl Fn(u8) -> i32,
    rows: &[*const u8; R],
    stretches: &[Stretch],
    mut b: *const i8,
    known: &Known,
    start: Start,
    acc: *mut [i32; NR],
) {
    let mut c = [[0i32; NR]; R];
    let mut step = |offset: usize, w: &[[i8; 4]; NR]| {
        for r in 0..R {
            // SAFETY: `offset` is the first of four bytes of a step of a stretch.
            let x = unsafe { rows[r].add(offset).cast::<[u8; 4]>().read() }.map(&value);
            for j in 0..NR {
                for i in 0..4 {
                    c[r][j] = c[r][j].wrapping_add(x[i] * i32::from(w[j][i]));
                }
            }
        }
    };
    // SAFETY: the contract of `Kind::tile` covers every read and write.
    unsafe {
        for s in stretches {
            for p in 0..s.steps {
                step(s.offset + 4 * p, &b.cast::<[[i8; 4]; NR]>().read());
                b = b.add(4 * NR);
            }
        }
        for extra in &known.extras {
            step(extra.offset(stretches), bytemuck::cast_ref(&extra.weights));
        }
        for r in 0..R {
            let acc = &mut *acc.add(r);
            for j in 0..NR {
                acc[j] = if start == Start::Acc { acc[j].wrapping_add(c[r][j]) } else { c[r][j] };
            }
        }
    }
}

impl Extra {
    /// Where a row's four activations lie, from its base.
    #[inline(always)]
    fn offset(&self, stretches: &[Stretch]) -> usize {
        stretches[self.stretch].offset + 4 * self.step
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Ahead, Known, NR, Start, Stretch};
    use std::arch::x86_64::*;

    /// Four activations in every lane.
    ///
    /// # Safety
    /// Four bytes are readable.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn four<const FLIP: bool>(x: *const u8) -> __m256i {
        // SAFETY: this function's contract.
        let x = _mm256_set1_epi32(unsafe { x.cast::<i32>().read_unaligned() });
        if FLIP { _mm256_xor_si256(x, _mm256_set1_epi8(-128)) } else { x }
    }

    /// # Safety
    /// 32 bytes are readable.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn eight(w: *const i8) -> __m256i {
        // SAFETY: this function's contract.
        unsafe { _mm256_loadu_si256(w.cast()) }
    }

    /// The sums that a tile begins with.
    ///
    /// # Safety
    /// `acc` has R rows.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load<const R: usize>(start: Start, acc: *const [i32; NR]) -> [[__m256i; 2]; R] {
        let mut c = [[_mm256_setzero_si256(); 2]; R];
        if start == Start::Acc {
            for r in 0..R {
                // SAFETY: this function's contract.
                unsafe {
                    let row = acc.add(r).cast::<__m256i>();
                    c[r] = [_mm256_loadu_si256(row), _mm256_loadu_si256(row.add(1))];
                }
            }
        }
        c
    }

    /// # Safety
    /// `acc` has R rows.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn store<const R: usize>(c: &[[__m256i; 2]; R], acc: *mut [i32; NR]) {
        for r in 0..R {
            // SAFETY: this function's contract.
            unsafe {
                let row = acc.add(r).cast::<__m256i>();
                _mm256_storeu_si256(row, c[r][0]);
                _mm256_storeu_si256(row.add(1), c[r][1]);
            }
        }
    }

    /// # Safety
    /// That of [`super::Kind::tile_avx2`].
    #[inline(never)]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn dots<const R: usize, const FLIP: bool>(
        rows: &[*const u8; R],
        stretches: &[Stretch],
        mut b: *const i8,
        known: &Known,
        start: Start,
        ahead: &mut Ahead,
        acc: *mut [i32; NR],
    ) {
        let ones = _mm256_set1_epi16(1);
        // SAFETY: the contract covers every read and write.
        unsafe {
            let mut c = load::<R>(start, acc);
            let mut line = *ahead;
            for s in stretches {
                let mut at = s.offset;
                let end = s.offset + 4 * s.steps;
                while known.two && at + 8 <= end {
                    for r in 0..R {
                        let x = four::<FLIP>(rows[r].add(at));
                        let next = four::<FLIP>(rows[r].add(at + 4));
                        for j in 0..2 {
                            let pairs = _mm256_add_epi16(
                                _mm256_maddubs_epi16(x, eight(b.add(32 * j))),
                                _mm256_maddubs_epi16(next, eight(b.add(64 + 32 * j))),
                            );
                            c[r][j] = _mm256_add_epi32(c[r][j], _mm256_madd_epi16(pairs, ones));
                        }
                    }
                    at += 8;
                    b = b.add(128);
                    line.line();
                }
                while at < end {
                    for r in 0..R {
                        let x = four::<FLIP>(rows[r].add(at));
                        for j in 0..2 {
                            let pairs = _mm256_maddubs_epi16(x, eight(b.add(32 * j)));
                            c[r][j] = _mm256_add_epi32(c[r][j], _mm256_madd_epi16(pairs, ones));
                        }
                    }
                    at += 4;
                    b = b.add(64);
                    line.line();
                }
            }
            *ahead = line;
            for extra in &known.extras {
                let (at, b) = (extra.offset(stretches), extra.weights.as_ptr());
                for r in 0..R {
                    let x = four::<FLIP>(rows[r].add(at));
                    for j in 0..2 {
                        let pairs = _mm256_maddubs_epi16(x, eight(b.add(32 * j)));
                        c[r][j] = _mm256_add_epi32(c[r][j], _mm256_madd_epi16(pairs, ones));
                    }
                }
            }
            store(&c, acc);
        }
    }

    /// One step of [`signs`].
    ///
    /// # Safety
    /// Four activations of each row are readable from `at`, and 64 weights.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn add_signs<const R: usize, const FLIP: bool>(
        rows: &[*const u8; R],
        at: usize,
        b: *const i8,
        c: &mut [[__m256i; 2]; R],
    ) {
        let ones = _mm256_set1_epi16(1);
        for r in 0..R {
            // SAFETY: this function's contract.
            unsafe {
                let x = four::<FLIP>(rows[r].add(at));
                let size = _mm256_abs_epi8(x);
                for j in 0..2 {
                    let pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(eight(b.add(32 * j)), x));
                    c[r][j] = _mm256_add_epi32(c[r][j], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
    }

    /// # Safety
    /// That of [`super::Kind::tile_avx2`].
    #[inline(never)]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn signs<const R: usize, const FLIP: bool>(
        rows: &[*const u8; R],
        stretches: &[Stretch],
        mut b: *const i8,
        known: &Known,
        start: Start,
        ahead: &mut Ahead,
        acc: *mut [i32; NR],
    ) {
        // SAFETY: the contract covers every read and write.
        unsafe {
            let mut c = load::<R>(start, acc);
            let mut line = *ahead;
            for s in stretches {
                for p in 0..s.steps {
                    add_signs::<R, FLIP>(rows, s.offset + 4 * p, b, &mut c);
                    b = b.add(64);
                    line.line();
                }
            }
            *ahead = line;
            for extra in &known.extras {
                add_signs::<R, FLIP>(rows, extra.offset(stretches), extra.weights.as_ptr(), &mut c);
            }
            store(&c, acc);
        }
    }
}
