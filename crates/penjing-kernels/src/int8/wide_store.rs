//! The epilogue of [`super::dots`]: straight code for the common results, 16 columns a register.
//!
//! As in [`super::store`], all stores give the bits of [`QFinish::put`], which [`Any`] calls.

use super::{
    Bytes, QResidual, QTensor,
    epilogue::{Columns, Out, QFinish},
};
use crate::{
    gemm::tile::{Acc, MR, NR},
    pool::Disjoint,
};
use bytemuck::Pod;
use std::{arch::x86_64::*, ops::Range};

/// Most panels of a tile.
pub(super) const PANELS: usize = 4;

/// Takes sums of up to 16 columns.
pub(super) trait Store {
    /// What the sums of columns from `col` on begin with: all of the columns' panels.
    fn start(&self, col: usize) -> *const i32;

    /// Stores `rows`, `cols` columns from `col` on, whose sums are `pitch` apart.
    ///
    /// # Safety
    /// 16 sums of each row are readable; the host has `Isa::Avx512`.
    unsafe fn put(&self, rows: Range<usize>, col: usize, cols: usize, sums: *const i32, pitch: usize);
}

/// What a store is made for.
pub(super) trait WithStore {
    /// # Safety
    /// The host has `Isa::Avx512`.
    unsafe fn run<S: Store>(self, store: &S);
}

/// Runs `f` with the store for `finish`.
///
/// # Safety
/// The host has `Isa::Avx512`.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn with_store(finish: &QFinish<'_>, f: impl WithStore) {
    let residual = match finish.residual {
        Some(QResidual::Int(r)) if r.scale.abs() >= Columns::LARGE => None,
        residual => Some(residual),
    };
    // SAFETY: this function's contract.
    unsafe {
        match (finish.y, residual) {
            (Out::F32(y), Some(residual)) => added(finish, y, Reals::new(finish), residual, f),
            (Out::Codes(y, ..), Some(residual)) => match Codes::new(finish) {
                Some(codes) => added(finish, y, codes, residual, f),
                None => f.run(&Any(finish)),
            },
            _ => f.run(&Any(finish)),
        }
    }
}

/// # Safety
/// The host has `Isa::Avx512`.
#[inline]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn added<F: Finished>(
    finish: &QFinish<'_>,
    y: &Disjoint<'_, F::Element>,
    finished: F,
    residual: Option<QResidual<'_>>,
    f: impl WithStore,
) {
    // SAFETY: this function's contract.
    unsafe {
        match residual {
            None => f.run(&Straight { finish, y, finished, added: Nothing }),
            Some(QResidual::F32(r)) => f.run(&Straight { finish, y, finished, added: r }),
            Some(QResidual::Int(QTensor { data, scale, zero })) => {
                let (scale, zero) = (_mm512_set1_ps(scale), _mm512_set1_epi32(zero));
                match data {
                    Bytes::I8(r) => f.run(&Straight { finish, y, finished, added: Integers { r, scale, zero } }),
                    Bytes::U8(r) => f.run(&Straight { finish, y, finished, added: Integers { r, scale, zero } }),
                }
            }
        }
    }
}

/// A tensor that is added to the results, or none.
trait Added: Copy {
    type Element;

    /// The place of `span` elements from `at` on.
    fn place(&self, at: usize, span: usize) -> *const Self::Element;

    /// `v` with 16 elements added, of those those of `mask`.
    ///
    /// # Safety
    /// They are readable; the host has `Isa::Avx512`.
    unsafe fn add(&self, v: __m512, at: *const Self::Element, mask: __mmask16) -> __m512;
}

#[derive(Clone, Copy)]
struct Nothing;

impl Added for Nothing {
    type Element = u8;

    #[inline(always)]
    fn place(&self, _: usize, _: usize) -> *const u8 {
        std::ptr::null()
    }

    #[inline(always)]
    unsafe fn add(&self, v: __m512, _: *const u8, _: __mmask16) -> __m512 {
        v
    }
}

impl Added for &[f32] {
    type Element = f32;

    #[inline(always)]
    fn place(&self, at: usize, span: usize) -> *const f32 {
        self[at..at + span].as_ptr()
    }

    #[inline(always)]
    unsafe fn add(&self, v: __m512, at: *const f32, mask: __mmask16) -> __m512 {
        // SAFETY: this function's contract.
        unsafe { _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, at)) }
    }
}

#[derive(Clone, Copy)]
struct Integers<'a, B> {
    r: &'a [B],
    scale: __m512,
    zero: __m512i,
}

impl<B: Widen> Added for Integers<'_, B> {
    type Element = B;

    #[inline(always)]
    fn place(&self, at: usize, span: usize) -> *const B {
        self.r[at..at + span].as_ptr()
    }

    #[inline(always)]
    unsafe fn add(&self, v: __m512, at: *const B, mask: __mmask16) -> __m512 {
        // SAFETY: this function's contract.
        unsafe {
            let codes = B::widen(_mm_maskz_loadu_epi8(mask, at.cast()));
            let centred = _mm512_cvtepi32_ps(_mm512_sub_epi32(codes, self.zero));
            _mm512_add_ps(v, _mm512_mul_ps(centred, self.scale))
        }
    }
}

trait Widen: Copy {
    /// # Safety
    /// The host has `Isa::Avx512`.
    unsafe fn widen(codes: __m128i) -> __m512i;
}

impl Widen for i8 {
    #[inline(always)]
    unsafe fn widen(codes: __m128i) -> __m512i {
        // SAFETY: this function's contract.
        unsafe { _mm512_cvtepi8_epi32(codes) }
    }
}

impl Widen for u8 {
    #[inline(always)]
    unsafe fn widen(codes: __m128i) -> __m512i {
        // SAFETY: this function's contract.
        unsafe { _mm512_cvtepu8_epi32(codes) }
    }
}

/// What becomes of the reals.
trait Finished: Copy {
    type Element: Pod;

    /// Stores 16 elements, of those those of `mask`.
    ///
    /// # Safety
    /// They are writable; the host has `Isa::Avx512`.
    unsafe fn store<const ALL: bool>(&self, v: __m512, to: *mut Self::Element, mask: __mmask16);
}

/// They are limited.
#[derive(Clone, Copy)]
struct Reals {
    min: __m512,
    max: __m512,
}

impl Reals {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(finish: &QFinish<'_>) -> Reals {
        let clamp = finish.columns.clamp;
        Reals { min: _mm512_set1_ps(clamp.min), max: _mm512_set1_ps(clamp.max) }
    }
}

impl Finished for Reals {
    type Element = f32;

    #[inline(always)]
    unsafe fn store<const ALL: bool>(&self, v: __m512, to: *mut f32, mask: __mmask16) {
        // SAFETY: this function's contract. Comparisons that are false for NaN keep it.
        unsafe {
            let v = _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask::<_CMP_LE_OQ>(v, self.min), self.min);
            let v = _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask::<_CMP_GE_OQ>(v, self.max), self.max);
            if ALL { _mm512_storeu_ps(to, v) } else { _mm512_mask_storeu_ps(to, mask, v) }
        }
    }
}

/// They are rounded to codes of either type, whose bits are the low ones of the integers.
#[derive(Clone, Copy)]
struct Codes {
    inverse: __m512,
    lo: __m512,
    hi: __m512,
    zero: __m512i,
}

impl Codes {
    /// None where a step may make a NaN.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(finish: &QFinish<'_>) -> Option<Codes> {
        let Out::Codes(_, _, rounding) = finish.y else {
            return None;
        };
        let r = rounding.within(finish.columns.clamp).filter(|_| finish.columns.tame)?;
        Some(Codes {
            inverse: _mm512_set1_ps(r.inverse),
            lo: _mm512_set1_ps(r.lo),
            hi: _mm512_set1_ps(r.hi),
            zero: _mm512_set1_epi32(r.zero),
        })
    }
}

impl Finished for Codes {
    type Element = u8;

    #[inline(always)]
    unsafe fn store<const ALL: bool>(&self, v: __m512, to: *mut u8, mask: __mmask16) {
        // SAFETY: this function's contract.
        unsafe {
            let limited = _mm512_min_ps(_mm512_max_ps(_mm512_mul_ps(v, self.inverse), self.lo), self.hi);
            let bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(limited), self.zero));
            if ALL { _mm_storeu_si128(to.cast(), bytes) } else { _mm_mask_storeu_epi8(to.cast(), mask, bytes) }
        }
    }
}

/// A store that writes rows straight from registers.
struct Straight<'a, F: Finished, A> {
    finish: &'a QFinish<'a>,
    y: &'a Disjoint<'a, F::Element>,
    finished: F,
    added: A,
}

impl<F: Finished, A: Added> Straight<'_, F, A> {
    /// # Safety
    /// That of [`Store::put`].
    #[inline(always)]
    unsafe fn rows<const ALL: bool>(
        &self,
        rows: Range<usize>,
        col: usize,
        cols: usize,
        sums: *const i32,
        pitch: usize,
    ) {
        let (stride, c) = (self.finish.stride, self.finish.columns);
        let first = self.finish.first_col + col;
        let at = (self.finish.first_row + rows.start) * stride + first;
        let span = (rows.len() - 1) * stride + cols;
        let (y, added) = (self.y.at(at, span), self.added.place(at, span));
        let mask = ((1u32 << cols) - 1) as __mmask16;
        let mask = if ALL { !0 } else { mask };
        // SAFETY: this function's contract; `at` and `place` checked the span, of which a task puts each of its elements once.
        unsafe {
            let scale = _mm512_loadu_ps(Columns::tile(&c.scale, first).as_ptr());
            let bias = _mm512_loadu_ps(Columns::tile(&c.bias, first).as_ptr());
            for r in 0..rows.len() {
                let sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums.add(r * pitch).cast()));
                let v = _mm512_add_ps(_mm512_mul_ps(sum, scale), bias);
                let v = self.added.add(v, added.wrapping_add(r * stride), mask);
                self.finished.store::<ALL>(v, y.add(r * stride), mask);
            }
        }
    }
}

impl<F: Finished, A: Added> Store for Straight<'_, F, A> {
    #[inline(always)]
    fn start(&self, col: usize) -> *const i32 {
        self.finish.columns.constant[self.finish.first_col + col..].as_ptr()
    }

    #[inline(always)]
    unsafe fn put(&self, rows: Range<usize>, col: usize, cols: usize, sums: *const i32, pitch: usize) {
        // SAFETY: this function's contract.
        unsafe {
            if cols == NR {
                self.rows::<true>(rows, col, cols, sums, pitch);
            } else {
                self.rows::<false>(rows, col, cols, sums, pitch);
            }
        }
    }
}

/// Every other result.
struct Any<'a>(&'a QFinish<'a>);

impl Store for Any<'_> {
    #[inline(always)]
    fn start(&self, _: usize) -> *const i32 {
        static ZEROS: [i32; PANELS * NR] = [0; PANELS * NR];
        ZEROS.as_ptr()
    }

    #[inline(always)]
    unsafe fn put(&self, rows: Range<usize>, col: usize, cols: usize, sums: *const i32, pitch: usize) {
        for (i, row) in rows.enumerate() {
            let mut acc = Acc([[0; NR]; MR]);
            // SAFETY: this function's contract.
            acc.0[0] = unsafe { sums.add(i * pitch).cast::<[i32; NR]>().read() };
            self.0.put(row, 1, col, cols, &acc);
        }
    }
}
