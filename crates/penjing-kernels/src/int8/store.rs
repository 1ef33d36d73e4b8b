//! The epilogue at the AVX2 level: straight code for the common results, since a tile of little depth takes hardly longer than its
//! epilogue.
//!
//! A [`Store`] is what a task's panel ends in; [`with_stores`] chooses it. All give the bits of [`QFinish::put`], which
//! [`Any`] calls.

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
use bytemuck::{Pod, Zeroable};
use std::arch::x86_64::*;

/// Takes the sums of up to 16 columns.
pub(super) trait Store {
    /// What sums begin with.
    fn start(&self) -> [__m256i; 2];

    /// Stores R rows from `row` on, columns 0–7 and 8–15.
    ///
    /// # Safety
    /// The host has AVX2 and FMA.
    unsafe fn put<const R: usize>(&self, row: usize, sums: &[[__m256i; 2]; R]);
}

/// What stores are made for.
pub(super) trait WithStores<const N: usize> {
    /// # Safety
    /// The host has AVX2 and FMA.
    unsafe fn run<S: Store>(self, stores: &[S; N]);
}

/// Runs `f` with stores for N panels, each a first column and a number of columns.
///
/// # Safety
/// The host has AVX2 and FMA.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn with_stores<const N: usize>(
    finish: &QFinish<'_>,
    panels: [(usize, usize); N],
    f: impl WithStores<N>,
) {
    let panel = |(col, cols)| Panel::new(finish, col, cols);
    // SAFETY: this function's contract.
    unsafe {
        match (finish.y, finish.residual, finish.columns.smooth) {
            (Out::F32(y), None, smooth) => {
                let reals = |p| Reals { panel: panel(p), y, residual: NoResidual };
                match smooth {
                    None => f.run(&panels.map(reals)),
                    Some(act) => f.run(&panels.map(|p| Smooth { act, after: finish.columns.after, store: reals(p) })),
                }
            }
            (Out::F32(y), Some(QResidual::F32(r)), None) => {
                f.run(&panels.map(|p| Reals { panel: panel(p), y, residual: RealResidual(r) }));
            }
            (Out::Codes(y, ..), residual, smooth) => match (Codes::new(finish), residual, smooth) {
                (Some(codes), None, smooth) => {
                    let rounded = |p| Rounded { panel: panel(p), codes, y, residual: NoResidual };
                    match smooth {
                        None => f.run(&panels.map(rounded)),
                        Some(act) => {
                            f.run(&panels.map(|p| Smooth { act, after: finish.columns.after, store: rounded(p) }))
                        }
                    }
                }
                (Some(codes), Some(QResidual::Int(QTensor { data: Bytes::U8(r), scale, .. })), None) => {
                    let scale = _mm256_set1_ps(scale * finish.columns.unit);
                    let residual = CodeResidual { r, scale };
                    f.run(&panels.map(|p| Rounded { panel: panel(p), codes, y, residual }));
                }
                _ => f.run(&panels.map(|(col, cols)| Any { finish, col, cols })),
            },
            _ => f.run(&panels.map(|(col, cols)| Any { finish, col, cols })),
        }
    }
}

/// The columns of a store.
#[derive(Clone, Copy)]
struct Panel {
    /// Element of y at row 0.
    first: usize,
    stride: usize,
    cols: usize,
    scale: [__m256; 2],
    bias: [__m256; 2],
    constant: [__m256i; 2],
    /// Of results in f32.
    limited: bool,
    min: __m256,
    max: __m256,
}

impl Panel {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn new(finish: &QFinish<'_>, col: usize, cols: usize) -> Panel {
        let (c, at) = (finish.columns, finish.first_col + col);
        // SAFETY: a tile has 16 elements.
        unsafe {
            Panel {
                first: finish.first_row * finish.stride + at,
                stride: finish.stride,
                cols,
                scale: reals(Columns::tile(&c.scale, at).as_ptr()),
                bias: reals(Columns::tile(&c.bias, at).as_ptr()),
                constant: codes(Columns::tile(&c.constant, at).as_ptr()),
                limited: c.clamp != Clamp::NONE,
                min: _mm256_set1_ps(c.clamp.min),
                max: _mm256_set1_ps(c.clamp.max),
            }
        }
    }

    /// sum · scale + bias; the sums began with the constant.
    ///
    /// # Safety
    /// The host has AVX2 and FMA.
    #[inline(always)]
    unsafe fn real(&self, sums: [__m256i; 2]) -> [__m256; 2] {
        // SAFETY: this function's contract.
        unsafe {
            [
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[0]), self.scale[0], self.bias[0]),
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[1]), self.scale[1], self.bias[1]),
            ]
        }
    }
}

/// A tensor that is added to the results, but for its zero point, or none.
trait Residual {
    type Element: Pod;

    /// The elements; none are read where there is no tensor.
    fn elements(&self) -> &[Self::Element];

    /// `v` with 16 elements from `at` on added.
    ///
    /// # Safety
    /// They are readable; the host has AVX2 and FMA.
    unsafe fn add(&self, v: [__m256; 2], at: *const Self::Element) -> [__m256; 2];
}

struct NoResidual;

impl Residual for NoResidual {
    type Element = u8;

    #[inline(always)]
    fn elements(&self) -> &[u8] {
        &[]
    }

    #[inline(always)]
    unsafe fn add(&self, v: [__m256; 2], _: *const u8) -> [__m256; 2] {
        v
    }
}

struct RealResidual<'a>(&'a [f32]);

impl Residual for RealResidual<'_> {
    type Element = f32;

    #[inline(always)]
    fn elements(&self) -> &[f32] {
        self.0
    }

    #[inline(always)]
    unsafe fn add(&self, v: [__m256; 2], at: *const f32) -> [__m256; 2] {
        // SAFETY: this function's contract.
        unsafe {
            let r = reals(at);
            [_mm256_add_ps(v[0], r[0]), _mm256_add_ps(v[1], r[1])]
        }
    }
}

#[derive(Clone, Copy)]
struct CodeResidual<'a> {
    r: &'a [u8],
    scale: __m256,
}

impl Residual for CodeResidual<'_> {
    type Element = u8;

    #[inline(always)]
    fn elements(&self) -> &[u8] {
        self.r
    }

    #[inline(always)]
    unsafe fn add(&self, mut v: [__m256; 2], at: *const u8) -> [__m256; 2] {
        for j in 0..2 {
            // SAFETY: this function's contract.
            unsafe {
                let wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(at.add(8 * j).cast()));
                v[j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(wide), self.scale, v[j]);
            }
        }
        v
    }
}

/// A store that writes rows of 16 elements straight from registers.
trait Straight {
    type Element: Pod;
    type Added: Residual;

    fn panel(&self) -> &Panel;

    fn y(&self) -> &Disjoint<'_, Self::Element>;

    fn residual(&self) -> &Self::Added;

    /// Writes R rows of results, `stride` elements from row to row.
    ///
    /// # Safety
    /// 16 elements of each row are writable; the host has AVX2 and FMA.
    unsafe fn rows<const R: usize>(&self, v: &mut [[__m256; 2]; R], to: *mut Self::Element, stride: usize);
}

/// The results of R rows of sums, whose residual is `stride` elements from row to row.
///
/// # Safety
/// 16 elements of each row of the residual are readable; the host has AVX2 and FMA.
#[inline(always)]
unsafe fn results<S: Straight, const R: usize>(
    store: &S,
    sums: &[[__m256i; 2]; R],
    residual: *const <S::Added as Residual>::Element,
    stride: usize,
) -> [[__m256; 2]; R] {
    // SAFETY: this function's contract.
    unsafe {
        let mut v = [[_mm256_setzero_ps(); 2]; R];
        for r in 0..R {
            v[r] = store.residual().add(store.panel().real(sums[r]), residual.wrapping_add(r * stride));
        }
        v
    }
}

impl<S: Straight> Store for S {
    #[inline(always)]
    fn start(&self) -> [__m256i; 2] {
        self.panel().constant
    }

    #[inline(always)]
    unsafe fn put<const R: usize>(&self, row: usize, sums: &[[__m256i; 2]; R]) {
        let Panel { first, stride, cols, .. } = *self.panel();
        let (at, span) = (first + row * stride, (R - 1) * stride + cols);
        let (y, r) = (self.y().at(at, span), self.residual().elements());
        let r = if r.is_empty() { r } else { &r[at..at + span] };
        // SAFETY: this function's contract; `at` checked the span, of which a task puts each of its elements once.
        unsafe {
            if cols == NR {
                self.rows(&mut results(self, sums, r.as_ptr(), stride), y, stride);
            } else {
                part(self, at, r, sums);
            }
        }
    }
}

/// As [`Store::put`], of fewer than 16 columns from element `at` on: through copies.
///
/// # Safety
/// The host has AVX2 and FMA.
#[inline(never)]
#[target_feature(enable = "avx2,fma")]
unsafe fn part<S: Straight, const R: usize>(
    store: &S,
    at: usize,
    r: &[<S::Added as Residual>::Element],
    sums: &[[__m256i; 2]; R],
) {
    let Panel { stride, cols, .. } = *store.panel();
    let mut added = [[Zeroable::zeroed(); NR]; R];
    for (added, r) in added.iter_mut().zip(r.chunks(stride)) {
        added[..cols].copy_from_slice(&r[..cols]);
    }
    let mut lines = [[S::Element::zeroed(); NR]; R];
    // SAFETY: this function's contract; the copies have 16 elements a row.
    unsafe { store.rows(&mut results(store, sums, added.as_ptr().cast(), NR), lines.as_mut_ptr().cast(), NR) };
    for (i, line) in lines.iter().enumerate() {
        // SAFETY: each output element belongs to one task, which puts it once; `slice` checks the range.
        unsafe { store.y().slice(at + i * stride, cols) }.copy_from_slice(&line[..cols]);
    }
}

/// Results in f32.
struct Reals<'a, A> {
    panel: Panel,
    y: &'a Disjoint<'a, f32>,
    residual: A,
}

impl<A: Residual> Straight for Reals<'_, A> {
    type Element = f32;
    type Added = A;

    #[inline(always)]
    fn panel(&self) -> &Panel {
        &self.panel
    }

    #[inline(always)]
    fn y(&self) -> &Disjoint<'_, f32> {
        self.y
    }

    #[inline(always)]
    fn residual(&self) -> &A {
        &self.residual
    }

    #[inline(always)]
    unsafe fn rows<const R: usize>(&self, v: &mut [[__m256; 2]; R], to: *mut f32, stride: usize) {
        for r in 0..R {
            for j in 0..2 {
                // SAFETY: this function's contract.
                unsafe {
                    let (mut v, min, max) = (v[r][j], self.panel.min, self.panel.max);
                    if self.panel.limited {
                        // Comparisons that are false for NaN keep it.
                        v = _mm256_blendv_ps(v, min, _mm256_cmp_ps::<_CMP_LE_OQ>(v, min));
                        v = _mm256_blendv_ps(v, max, _mm256_cmp_ps::<_CMP_GE_OQ>(v, max));
                    }
                    _mm256_storeu_ps(to.add(r * stride + 8 * j), v);
                }
            }
        }
    }
}

/// How quotients become codes of either type.
#[derive(Clone, Copy)]
pub(super) struct Codes {
    /// The greatest quotient, or none where they fit an i32; the least needs no care, since what is too small for an i32 becomes the
    /// least i32.
    most: Option<__m256>,
    /// Of u8 codes: those of i8 are computed with a zero point that is greater by 128, and their highest bit is inverted.
    zero: __m256i,
    /// Whether all u8 are codes.
    all: bool,
    lo: __m256i,
    hi: __m256i,
    flip: __m256i,
}

impl Codes {
    /// None where a step may make a NaN.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn new(finish: &QFinish<'_>) -> Option<Codes> {
        let (Out::Codes(_, byte, _), c) = (finish.y, finish.columns) else {
            return None;
        };
        c.rounding(finish.y).map(|r| Codes::of(*byte, &r, c.fits))
    }

    /// For quotients that may or do fit an i32.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn of(byte: ByteType, r: &Rounding, fit: bool) -> Codes {
        let shift = byte.flip();
        let code = |limit: f32| (limit.round_ties_even() as i32 + r.zero + shift) as u8;
        Codes {
            most: if fit { None } else { Some(_mm256_set1_ps(r.hi)) },
            zero: _mm256_set1_epi16((r.zero + shift) as i16),
            all: [shift as u8, code(r.lo), code(r.hi)] == [0, u8::MIN, u8::MAX],
            lo: _mm256_set1_epi8(code(r.lo) as i8),
            hi: _mm256_set1_epi8(code(r.hi) as i8),
            flip: _mm256_set1_epi8(shift as u8 as i8),
        }
    }

    /// A row's codes as i16, before their limits: columns 0–3 and 8–11, then 4–7 and 12–15.
    ///
    /// # Safety
    /// The host has AVX2.
    #[inline(always)]
    pub(super) unsafe fn words(&self, mut q: [__m256; 2]) -> __m256i {
        // SAFETY: this function's contract.
        unsafe {
            if let Some(most) = self.most {
                q = [_mm256_min_ps(q[0], most), _mm256_min_ps(q[1], most)];
            }
            let codes = _mm256_packs_epi32(_mm256_cvtps_epi32(q[0]), _mm256_cvtps_epi32(q[1]));
            _mm256_adds_epi16(codes, self.zero)
        }
    }

    /// Two rows of codes.
    ///
    /// # Safety
    /// The host has AVX2.
    #[inline(always)]
    pub(super) unsafe fn bytes(&self, even: __m256i, odd: __m256i) -> __m256i {
        // SAFETY: this function's contract.
        unsafe {
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(even, odd), order);
            if self.all {
                return bytes;
            }
            _mm256_xor_si256(_mm256_min_epu8(_mm256_max_epu8(bytes, self.lo), self.hi), self.flip)
        }
    }
}

/// Results on a grid.
struct Rounded<'a, A> {
    panel: Panel,
    codes: Codes,
    y: &'a Disjoint<'a, u8>,
    residual: A,
}

impl<A: Residual> Straight for Rounded<'_, A> {
    type Element = u8;
    type Added = A;

    #[inline(always)]
    fn panel(&self) -> &Panel {
        &self.panel
    }

    #[inline(always)]
    fn y(&self) -> &Disjoint<'_, u8> {
        self.y
    }

    #[inline(always)]
    fn residual(&self) -> &A {
        &self.residual
    }

    #[inline(always)]
    unsafe fn rows<const R: usize>(&self, v: &mut [[__m256; 2]; R], to: *mut u8, stride: usize) {
        // SAFETY: this function's contract.
        unsafe {
            let mut words = [_mm256_setzero_si256(); R];
            for r in 0..R {
                words[r] = self.codes.words(v[r]);
            }
            let mut r = 0;
            while r < R {
                let bytes = self.codes.bytes(words[r], words[if r + 1 < R { r + 1 } else { r }]);
                let y = to.add(r * stride);
                _mm_storeu_si128(y.cast(), _mm256_castsi256_si128(bytes));
                if r + 1 < R {
                    _mm_storeu_si128(y.add(stride).cast(), _mm256_extracti128_si256::<1>(bytes));
                }
                r += 2;
            }
        }
    }
}

/// Results that a function is applied to before `store` has them.
struct Smooth<S> {
    act: Activation,
    /// What its results are multiplied by.
    after: f32,
    store: S,
}

impl<S: Straight> Straight for Smooth<S> {
    type Element = S::Element;
    type Added = S::Added;

    #[inline(always)]
    fn panel(&self) -> &Panel {
        self.store.panel()
    }

    #[inline(always)]
    fn y(&self) -> &Disjoint<'_, S::Element> {
        self.store.y()
    }

    #[inline(always)]
    fn residual(&self) -> &S::Added {
        self.store.residual()
    }

    #[inline(always)]
    unsafe fn rows<const R: usize>(&self, v: &mut [[__m256; 2]; R], to: *mut S::Element, stride: usize) {
        // SAFETY: this function's contract.
        unsafe {
            activate(self.act, v);
            for v in v.as_flattened_mut() {
                *v = _mm256_mul_ps(*v, _mm256_set1_ps(self.after));
            }
            self.store.rows(v, to, stride);
        }
    }
}

/// Applies the function to every lane.
///
/// # Safety
/// The host has AVX2 and FMA.
#[inline(never)]
#[target_feature(enable = "avx2,fma")]
unsafe fn activate<const R: usize>(act: Activation, v: &mut [[__m256; 2]; R]) {
    // SAFETY: two registers are 16 numbers, of no more alignment.
    let values = unsafe { &mut *std::ptr::from_mut(v).cast::<[[f32; NR]; R]>() };
    act.apply_body::<Fused>(values.as_flattened_mut());
}

/// Every other result.
struct Any<'a> {
    finish: &'a QFinish<'a>,
    col: usize,
    cols: usize,
}

impl Store for Any<'_> {
    #[inline(always)]
    fn start(&self) -> [__m256i; 2] {
        Zeroable::zeroed()
    }

    #[inline(always)]
    unsafe fn put<const R: usize>(&self, row: usize, sums: &[[__m256i; 2]; R]) {
        let mut acc = Acc([[0; NR]; MR]);
        for (acc, sums) in acc.0.iter_mut().zip(sums) {
            for (j, &sums) in sums.iter().enumerate() {
                // SAFETY: a row has 16 elements.
                unsafe { _mm256_storeu_si256(acc.as_mut_ptr().add(8 * j).cast(), sums) };
            }
        }
        self.finish.put(row, R, self.col, self.cols, &acc);
    }
}

/// # Safety
/// 16 elements are readable; the host has AVX2.
#[inline(always)]
unsafe fn reals(v: *const f32) -> [__m256; 2] {
    // SAFETY: this function's contract.
    unsafe { [_mm256_loadu_ps(v), _mm256_loadu_ps(v.add(8))] }
}

/// # Safety
/// 16 elements are readable; the host has AVX2.
#[inline(always)]
unsafe fn codes(v: *const i32) -> [__m256i; 2] {
    // SAFETY: this function's contract.
    unsafe { [_mm256_loadu_si256(v.cast()), _mm256_loadu_si256(v.add(8).cast())] }
}
