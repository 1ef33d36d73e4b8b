//! The epilogue of [`super::dots`]: straight code for the common results, 16 columns a register.
//!
//! As in [`super::store`], all stores give the bits of [`QFinish::put`], which [`Any`] calls.

use super::{
    ByteType, Bytes, QResidual, QTensor,
    epilogue::{Columns, Out, QFinish},
    rounding::Rounding,
};
use crate::{
    Activation, Clamp,
    gemm::tile::{Acc, MR, NR},
    isa::Fused,
    pool::Disjoint,
};
use bytemuck::Pod;
use std::{arch::x86_64::*, ops::Range};

/// Most panels of a tile.
pub(super) const PANELS: usize = 4;
/// Most fours of registers that are prepared together: those of a tile.
const TOGETHER: usize = 6;

/// Takes the sums of a tile.
pub(super) trait Store {
    /// What the sums of columns from `col` on begin with: all of the columns' panels.
    fn start(&self, col: usize) -> *const i32;

    /// Stores `rows`, `cols` columns from `col` on, whose sums are `pitch` apart.
    ///
    /// # Safety
    /// Whole panels of sums of each row are readable; the host has `Isa::Avx512`.
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
    let large = matches!(finish.residual, Some(QResidual::Int(_))) && !finish.columns.tame;
    // SAFETY: this function's contract.
    unsafe {
        match (finish.y, finish.residual, finish.columns.smooth) {
            (Out::F32(y), residual, None) if !large => added(finish, y, Reals::new(finish), residual, f),
            (Out::F32(y), None, Some(act)) => {
                let finished = Smooth::new(finish, act, Reals::new(finish));
                f.run(&Straight { finish, y, finished, added: Nothing });
            }
            (Out::Codes(y, ..), residual, smooth) => match (Codes::new(finish), residual, smooth) {
                (Some(codes), residual, None) => added(finish, y, codes, residual, f),
                (Some(codes), None, Some(act)) => {
                    let finished = Smooth::new(finish, act, codes);
                    f.run(&Straight { finish, y, finished, added: Nothing });
                }
                _ => f.run(&Any(finish)),
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
            Some(QResidual::F32(r)) => {
                let (unit, nan) =
                    (_mm512_set1_ps(finish.columns.unit), finish.columns.nan().map(|v| _mm512_set1_ps(v)));
                f.run(&Straight { finish, y, finished, added: Floats { r, unit, nan } });
            }
            Some(QResidual::Int(QTensor { data, scale, .. })) => {
                let scale = _mm512_set1_ps(scale * finish.columns.unit);
                match data {
                    Bytes::I8(r) => f.run(&Straight { finish, y, finished, added: Integers { r, scale } }),
                    Bytes::U8(r) => f.run(&Straight { finish, y, finished, added: Integers { r, scale } }),
                }
            }
        }
    }
}

/// A tensor that is added to the results, but for its zero point, or none.
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

#[derive(Clone, Copy)]
struct Floats<'a> {
    r: &'a [f32],
    unit: __m512,
    /// What NaN becomes, unless it stays.
    nan: Option<__m512>,
}

impl Added for Floats<'_> {
    type Element = f32;

    #[inline(always)]
    fn place(&self, at: usize, span: usize) -> *const f32 {
        self.r[at..at + span].as_ptr()
    }

    #[inline(always)]
    unsafe fn add(&self, v: __m512, at: *const f32, mask: __mmask16) -> __m512 {
        // SAFETY: this function's contract.
        unsafe {
            let v = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, at), self.unit, v);
            match self.nan {
                Some(nan) => _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v), nan),
                None => v,
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Integers<'a, B> {
    r: &'a [B],
    scale: __m512,
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
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(codes), self.scale, v)
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

    /// Whether registers are prepared before they are stored: those of a tile together.
    const PREPARED: bool = false;

    /// Prepares them, four by four.
    ///
    /// # Safety
    /// The host has `Isa::Avx512`.
    #[inline(always)]
    unsafe fn prepare(&self, _: &mut [[__m512; 4]]) {}

    /// Stores whole panels side by side, one or two: four registers, `stride` elements from row to row, of which there are `rows`.
    ///
    /// # Safety
    /// The rows' elements are writable; the host has `Isa::Avx512`.
    unsafe fn store<const PANELS: usize>(&self, v: [__m512; 4], to: *mut Self::Element, stride: usize, rows: usize);

    /// Stores the elements of `mask`.
    ///
    /// # Safety
    /// They are writable; the host has `Isa::Avx512`.
    unsafe fn store_part(&self, v: __m512, to: *mut Self::Element, mask: __mmask16);
}

/// They are limited.
#[derive(Clone, Copy)]
pub(super) struct Reals {
    limited: bool,
    min: __m512,
    max: __m512,
}

impl Reals {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn new(finish: &QFinish<'_>) -> Reals {
        let clamp = finish.columns.clamp;
        Reals { limited: clamp != Clamp::NONE, min: _mm512_set1_ps(clamp.min), max: _mm512_set1_ps(clamp.max) }
    }
}

impl Reals {
    /// # Safety
    /// The host has `Isa::Avx512`.
    #[inline(always)]
    pub(super) unsafe fn limit(&self, v: __m512) -> __m512 {
        if !self.limited {
            return v;
        }
        // SAFETY: this function's contract. Comparisons that are false for NaN keep it.
        unsafe {
            let v = _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask::<_CMP_LE_OQ>(v, self.min), self.min);
            _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask::<_CMP_GE_OQ>(v, self.max), self.max)
        }
    }
}

impl Finished for Reals {
    type Element = f32;

    #[inline(always)]
    unsafe fn store<const PANELS: usize>(&self, v: [__m512; 4], to: *mut f32, stride: usize, rows: usize) {
        for (i, v) in v.into_iter().enumerate() {
            if i / PANELS < rows {
                // SAFETY: this function's contract.
                unsafe { _mm512_storeu_ps(to.add(i / PANELS * stride + i % PANELS * NR), self.limit(v)) };
            }
        }
    }

    #[inline(always)]
    unsafe fn store_part(&self, v: __m512, to: *mut f32, mask: __mmask16) {
        // SAFETY: this function's contract.
        unsafe { _mm512_mask_storeu_ps(to, mask, self.limit(v)) }
    }
}

/// They are quotients, and become codes of either type.
#[derive(Clone, Copy)]
pub(super) struct Codes {
    /// The greatest quotient, or none where they fit an i32; the least needs no care, since what is too small for an i32 becomes the
    /// least i32.
    most: Option<__m512>,
    /// Of u8 codes: those of i8 are computed with a zero point that is greater by 128, and their highest bit is inverted.
    zero: __m512i,
    /// Whether all u8 are codes.
    all: bool,
    lo: __m512i,
    hi: __m512i,
    flip: __m512i,
    /// Quarters of four registers, which packing has interleaved, one after the other.
    order: __m512i,
}

impl Codes {
    /// None where a step may make a NaN.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn new(finish: &QFinish<'_>) -> Option<Codes> {
        let (Out::Codes(_, byte, _), c) = (finish.y, finish.columns) else {
            return None;
        };
        c.rounding(finish.y).map(|r| Codes::of(*byte, &r, c.fits))
    }

    /// For quotients that may or do fit an i32.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn of(byte: ByteType, r: &Rounding, fit: bool) -> Codes {
        let shift = byte.flip();
        let code = |limit: f32| (limit.round_ties_even() as i32 + r.zero + shift) as u8;
        Codes {
            most: if fit { None } else { Some(_mm512_set1_ps(r.hi)) },
            zero: _mm512_set1_epi16((r.zero + shift) as i16),
            all: [shift as u8, code(r.lo), code(r.hi)] == [0, u8::MIN, u8::MAX],
            lo: _mm512_set1_epi8(code(r.lo) as i8),
            hi: _mm512_set1_epi8(code(r.hi) as i8),
            flip: _mm512_set1_epi8(shift as u8 as i8),
            order: _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
        }
    }

    /// The codes of four registers, one after the other.
    ///
    /// # Safety
    /// The host has `Isa::Avx512`.
    #[inline(always)]
    pub(super) unsafe fn bytes(&self, v: [__m512; 4]) -> __m512i {
        // SAFETY: this function's contract.
        unsafe { _mm512_permutexvar_epi32(self.order, self.interleaved(v)) }
    }

    /// The codes of four registers: four of each, and over again.
    ///
    /// # Safety
    /// The host has `Isa::Avx512`.
    #[inline(always)]
    pub(super) unsafe fn interleaved(&self, mut v: [__m512; 4]) -> __m512i {
        // SAFETY: this function's contract.
        unsafe {
            if let Some(most) = self.most {
                for i in 0..4 {
                    v[i] = _mm512_min_ps(v[i], most);
                }
            }
            let mut codes = [_mm512_setzero_si512(); 4];
            for i in 0..4 {
                codes[i] = _mm512_cvtps_epi32(v[i]);
            }
            let even = _mm512_adds_epi16(_mm512_packs_epi32(codes[0], codes[1]), self.zero);
            let odd = _mm512_adds_epi16(_mm512_packs_epi32(codes[2], codes[3]), self.zero);
            let bytes = _mm512_packus_epi16(even, odd);
            if self.all {
                return bytes;
            }
            _mm512_xor_si512(_mm512_min_epu8(_mm512_max_epu8(bytes, self.lo), self.hi), self.flip)
        }
    }
}

impl Finished for Codes {
    type Element = u8;

    #[inline(always)]
    unsafe fn store<const PANELS: usize>(&self, v: [__m512; 4], to: *mut u8, stride: usize, rows: usize) {
        // SAFETY: this function's contract.
        unsafe {
            let bytes = self.bytes(v);
            if PANELS == 2 {
                _mm256_storeu_si256(to.cast(), _mm512_castsi512_si256(bytes));
                if rows > 1 {
                    _mm256_storeu_si256(to.add(stride).cast(), _mm512_extracti64x4_epi64::<1>(bytes));
                }
                return;
            }
            _mm_storeu_si128(to.cast(), _mm512_castsi512_si128(bytes));
            if rows > 1 {
                _mm_storeu_si128(to.add(stride).cast(), _mm512_extracti32x4_epi32::<1>(bytes));
            }
            if rows > 2 {
                _mm_storeu_si128(to.add(2 * stride).cast(), _mm512_extracti32x4_epi32::<2>(bytes));
            }
            if rows > 3 {
                _mm_storeu_si128(to.add(3 * stride).cast(), _mm512_extracti32x4_epi32::<3>(bytes));
            }
        }
    }

    #[inline(always)]
    unsafe fn store_part(&self, v: __m512, to: *mut u8, mask: __mmask16) {
        // SAFETY: this function's contract.
        unsafe { _mm_mask_storeu_epi8(to.cast(), mask, _mm512_castsi512_si128(self.bytes([v; 4]))) }
    }
}

/// They are what a function makes of them, and are finished then.
#[derive(Clone, Copy)]
struct Smooth<F> {
    act: Activation,
    /// What its results are multiplied by.
    after: __m512,
    finished: F,
}

impl<F> Smooth<F> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(finish: &QFinish<'_>, act: Activation, finished: F) -> Smooth<F> {
        Smooth { act, after: _mm512_set1_ps(finish.columns.after), finished }
    }
}

impl<F: Finished> Finished for Smooth<F> {
    type Element = F::Element;

    const PREPARED: bool = true;

    #[inline(always)]
    unsafe fn prepare(&self, v: &mut [[__m512; 4]]) {
        // SAFETY: this function's contract.
        unsafe {
            activate(self.act, v);
            for v in v.as_flattened_mut() {
                *v = _mm512_mul_ps(*v, self.after);
            }
        }
    }

    #[inline(always)]
    unsafe fn store<const PANELS: usize>(&self, v: [__m512; 4], to: *mut F::Element, stride: usize, rows: usize) {
        // SAFETY: this function's contract.
        unsafe { self.finished.store::<PANELS>(v, to, stride, rows) };
    }

    #[inline(always)]
    unsafe fn store_part(&self, v: __m512, to: *mut F::Element, mask: __mmask16) {
        // SAFETY: this function's contract.
        unsafe { self.finished.store_part(v, to, mask) };
    }
}

/// Applies the function to every lane.
///
/// # Safety
/// The host has `Isa::Avx512`.
#[inline(never)]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn activate(act: Activation, v: &mut [[__m512; 4]]) {
    // SAFETY: four registers are 64 numbers, of no more alignment.
    let values = unsafe { std::slice::from_raw_parts_mut(v.as_mut_ptr().cast::<[f32; 64]>(), v.len()) };
    act.apply_body::<Fused>(values.as_flattened_mut());
}

/// A store that writes rows straight from registers.
struct Straight<'a, F: Finished, A> {
    finish: &'a QFinish<'a>,
    y: &'a Disjoint<'a, F::Element>,
    finished: F,
    added: A,
}

/// Rows of some columns: their sums, and where they go.
struct Place<T, E> {
    rows: usize,
    /// Channel of the first column.
    first: usize,
    sums: *const i32,
    pitch: usize,
    y: *mut T,
    added: *const E,
    /// Elements from row to row of y and of what is added.
    stride: usize,
}

impl<F: Finished, A: Added> Straight<'_, F, A> {
    /// 16 results of a row, of those those of `mask`.
    ///
    /// # Safety
    /// 16 sums and channels are readable; the host has `Isa::Avx512`.
    #[inline(always)]
    unsafe fn real(
        &self,
        scale: __m512,
        bias: __m512,
        sums: *const i32,
        added: *const A::Element,
        mask: __mmask16,
    ) -> __m512 {
        // SAFETY: this function's contract.
        unsafe {
            let sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums.cast()));
            self.added.add(_mm512_fmadd_ps(sum, scale, bias), added, mask)
        }
    }

    /// # Safety
    /// 16 channels from the place's first are readable; the host has `Isa::Avx512`.
    #[inline(always)]
    unsafe fn channels(&self, first: usize) -> [__m512; 2] {
        let c = self.finish.columns;
        // SAFETY: a tile has 16 elements.
        unsafe {
            let scale = _mm512_loadu_ps(Columns::tile(&c.scale, first).as_ptr());
            [scale, _mm512_loadu_ps(Columns::tile(&c.bias, first).as_ptr())]
        }
    }

    /// Four registers of whole panels from `row` on; rows after the last are the last again.
    ///
    /// # Safety
    /// That of [`Store::put`]; the place has the rows.
    #[inline(always)]
    unsafe fn four<const PANELS: usize>(
        &self,
        p: &Place<F::Element, A::Element>,
        channels: &[[__m512; 2]; PANELS],
        row: usize,
        last: usize,
    ) -> [__m512; 4] {
        // SAFETY: this function's contract.
        unsafe {
            let mut v = [_mm512_setzero_ps(); 4];
            for i in 0..4 {
                let (row, panel) = ((row + i / PANELS).min(last), i % PANELS);
                let [scale, bias] = channels[panel];
                let added = p.added.wrapping_add(row * p.stride + panel * NR);
                v[i] = self.real(scale, bias, p.sums.add(row * p.pitch + panel * NR), added, !0);
            }
            v
        }
    }

    /// One or two whole panels.
    ///
    /// # Safety
    /// As of [`four`](Self::four).
    #[inline(always)]
    unsafe fn whole<const PANELS: usize>(&self, p: &Place<F::Element, A::Element>) {
        let group = 4 / PANELS;
        // SAFETY: this function's contract.
        unsafe {
            let mut channels = [[_mm512_setzero_ps(); 2]; PANELS];
            for (i, channels) in channels.iter_mut().enumerate() {
                *channels = self.channels(p.first + i * NR);
            }
            let mut row = 0;
            while F::PREPARED && row < p.rows {
                let mut v = [[_mm512_setzero_ps(); 4]; TOGETHER];
                let n = (p.rows - row).div_ceil(group).min(TOGETHER);
                for (i, v) in v[..n].iter_mut().enumerate() {
                    *v = self.four::<PANELS>(p, &channels, row + i * group, p.rows - 1);
                }
                self.finished.prepare(&mut v[..n]);
                for v in &v[..n] {
                    self.finished.store::<PANELS>(*v, p.y.add(row * p.stride), p.stride, (p.rows - row).min(group));
                    row += group;
                }
            }
            while row + group <= p.rows {
                let v = self.four::<PANELS>(p, &channels, row, usize::MAX);
                self.finished.store::<PANELS>(v, p.y.add(row * p.stride), p.stride, group);
                row += group;
            }
            if row < p.rows {
                let v = self.four::<PANELS>(p, &channels, row, p.rows - 1);
                self.finished.store::<PANELS>(v, p.y.add(row * p.stride), p.stride, p.rows - row);
            }
        }
    }

    /// Fewer than 16 columns.
    ///
    /// # Safety
    /// As of [`whole`](Self::whole).
    #[inline(always)]
    unsafe fn part(&self, p: &Place<F::Element, A::Element>, cols: usize) {
        let mask = ((1u32 << cols) - 1) as __mmask16;
        // SAFETY: this function's contract.
        unsafe {
            let [scale, bias] = self.channels(p.first);
            for row in 0..p.rows {
                let added = p.added.wrapping_add(row * p.stride);
                let v = self.real(scale, bias, p.sums.add(row * p.pitch), added, mask);
                let mut v = [[v; 4]];
                self.finished.prepare(&mut v);
                self.finished.store_part(v[0][0], p.y.add(row * p.stride), mask);
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
        let (stride, first) = (self.finish.stride, self.finish.first_col + col);
        let at = (self.finish.first_row + rows.start) * stride + first;
        let span = (rows.len() - 1) * stride + cols;
        let (y, added) = (self.y.at(at, span), self.added.place(at, span));
        let mut done = 0;
        while done < cols {
            // SAFETY: this function's contract; `at` and `place` checked the span, of which a task puts each of its elements once.
            unsafe {
                let p = Place {
                    rows: rows.len(),
                    first: first + done,
                    sums: sums.add(done),
                    pitch,
                    y: y.add(done),
                    added: added.wrapping_add(done),
                    stride,
                };
                match cols - done {
                    left if left >= 2 * NR => self.whole::<2>(&p),
                    left if left >= NR => self.whole::<1>(&p),
                    left => self.part(&p, left),
                }
            }
            done += if cols - done >= 2 * NR { 2 * NR } else { NR };
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
            for done in (0..cols).step_by(NR) {
                let mut acc = Acc([[0; NR]; MR]);
                // SAFETY: this function's contract.
                acc.0[0] = unsafe { sums.add(i * pitch + done).cast::<[i32; NR]>().read() };
                self.0.put(row, 1, col + done, NR.min(cols - done), &acc);
            }
        }
    }
}
