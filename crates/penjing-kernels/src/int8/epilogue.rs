//! What becomes of the i32 sums of a product whose output channels are columns.
//!
//! A product is computed with activations as the tile sees them, x + shift; Σ (x − zero)·w = Σ (x + shift)·w − (zero + shift)·Σ w,
//! and the second term is one constant a channel.

use super::{
    Bytes, QEpilogue, QResidual, QTensor,
    finish::{Rounding, Target},
};
use crate::{
    Isa, KernelError,
    error::check_len,
    gemm::{
        Clamp,
        tile::{Acc, NR},
    },
    pool::Disjoint,
};

/// The epilogue of all output channels, one call's.
pub(super) struct Columns {
    /// x scale · w scale, padded by a tile.
    scale: Vec<f32>,
    bias: Vec<f32>,
    /// −(zero + shift)·Σ w
    constant: Vec<i32>,
    clamp: Clamp,
    /// Whether scales and biases are finite and so small that no result overflows.
    tame: bool,
}

impl Columns {
    /// What scales and biases stay below where no result overflows: 2³¹ times it is finite.
    const LARGE: f32 = 1e20;

    /// `sums` holds Σ w of every channel; `zero` is x's zero point as the tile sees it.
    pub(super) fn new(
        kernel: &'static str,
        x: QTensor<'_>,
        sums: &[i32],
        zero: i32,
        e: &QEpilogue<'_>,
    ) -> Result<Columns, KernelError> {
        check_len(kernel, "w_scale", Some(sums.len()), e.w_scale.len())?;
        if let Some(bias) = e.bias {
            check_len(kernel, "bias", Some(sums.len()), bias.len())?;
        }
        let padded = sums.len() + NR;
        let mut scale: Vec<f32> = e.w_scale.iter().map(|&s| x.scale * s).collect();
        let mut bias = e.bias.map_or_else(Vec::new, <[f32]>::to_vec);
        // The result of all terms fits an i32, so wrapping in between does no harm.
        let mut constant: Vec<i32> = sums.iter().map(|&s| s.wrapping_mul(zero).wrapping_neg()).collect();
        let tame = scale.iter().chain(&bias).all(|v| v.abs() < Columns::LARGE);
        scale.resize(padded, 0.0);
        bias.resize(padded, 0.0);
        constant.resize(padded, 0);
        Ok(Columns { scale, bias, constant, clamp: e.clamp, tame })
    }

    /// `NR` values from `first`.
    #[inline(always)]
    fn tile<T>(values: &[T], first: usize) -> &[T; NR] {
        values[first..].first_chunk().expect("channels are padded by a tile")
    }
}

impl QResidual<'_> {
    /// `v[j] += residual[at + j]` for j < cols.
    #[inline(always)]
    fn add(self, at: usize, cols: usize, v: &mut [f32; NR]) {
        match self {
            QResidual::F32(r) => add(&r[at..at + cols], v, |r| r),
            QResidual::Int(QTensor { data: Bytes::I8(r), scale, zero }) => {
                add(&r[at..at + cols], v, |r| (i32::from(r) - zero) as f32 * scale);
            }
            QResidual::Int(QTensor { data: Bytes::U8(r), scale, zero }) => {
                add(&r[at..at + cols], v, |r| (i32::from(r) - zero) as f32 * scale);
            }
        }
    }
}

#[inline(always)]
fn add<T: Copy>(r: &[T], v: &mut [f32; NR], real: impl Fn(T) -> f32) {
    match r.first_chunk::<NR>() {
        Some(r) => (0..NR).for_each(|j| v[j] += real(r[j])),
        None => v.iter_mut().zip(r).for_each(|(v, &r)| *v += real(r)),
    }
}

/// Stores tiles of sums into y `[rows, stride]`.
pub(super) struct QFinish<'a, T> {
    /// A level that the host has.
    pub(super) isa: Isa,
    pub(super) y: &'a Disjoint<'a, T>,
    /// Elements from row to row, of y and of the residual.
    pub(super) stride: usize,
    /// Row of y that the task's row 0 is.
    pub(super) first_row: usize,
    /// Channel that the task's column 0 is.
    pub(super) first_col: usize,
    pub(super) columns: &'a Columns,
    pub(super) residual: Option<QResidual<'a>>,
    pub(super) rounding: Rounding,
}

impl<T: Target> QFinish<'_, T> {
    /// Stores `rows` rows from `row` on, `cols` columns from `col` on, both counted from the task's first.
    #[inline(always)]
    pub(super) fn put(&self, row: usize, rows: usize, col: usize, cols: usize, acc: &Acc<i32>) {
        #[cfg(target_arch = "x86_64")]
        if self.isa == Isa::Avx2 {
            // SAFETY: `isa` is a level that the host has.
            return unsafe { x86::put(self, row, rows, col, cols, acc) };
        }
        let c = self.columns;
        let first = self.first_col + col;
        let (scale, bias) = (Columns::tile(&c.scale, first), Columns::tile(&c.bias, first));
        let constant = Columns::tile(&c.constant, first);
        for (r, acc) in acc.0[..rows].iter().enumerate() {
            let at = (self.first_row + row + r) * self.stride + first;
            let mut v = [0f32; NR];
            for j in 0..NR {
                v[j] = acc[j].wrapping_add(constant[j]) as f32 * scale[j] + bias[j];
            }
            if let Some(residual) = self.residual {
                residual.add(at, cols, &mut v);
            }
            let mut line = [T::zeroed(); NR];
            for j in 0..NR {
                line[j] = T::store(limit(v[j], c.clamp), self.rounding);
            }
            // SAFETY: each output element belongs to one task, which puts it once; `slice` checks the range.
            let out = unsafe { self.y.slice(at, cols) };
            match <&mut [T; NR]>::try_from(&mut *out) {
                Ok(full) => *full = line,
                Err(_) => out.copy_from_slice(&line[..cols]),
            }
        }
    }
}

/// A result equal to a limit takes the limit's sign of zero.
#[inline(always)]
fn limit(v: f32, clamp: Clamp) -> f32 {
    let v = if v <= clamp.min { clamp.min } else { v };
    if v >= clamp.max { clamp.max } else { v }
}

/// The definition above, 8 columns a register.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Acc, Bytes, Columns, NR, QFinish, QResidual, QTensor, Target};
    use crate::int8::ByteType;
    use std::arch::x86_64::*;

    /// The epilogue of up to 16 columns.
    pub(in crate::int8) struct Panel<'a, T> {
        finish: &'a QFinish<'a, T>,
        /// Of y.
        first: usize,
        cols: usize,
        scale: [__m256; 2],
        bias: [__m256; 2],
        constant: [__m256i; 2],
        /// Where results are bytes and no step can make a NaN.
        codes: Option<Codes>,
    }

    /// The rounding of two rows at once.
    #[derive(Clone, Copy)]
    struct Codes {
        inverse: __m256,
        /// The greatest quotient; the least needs no care, since what is too small for an i32 becomes the least i32.
        most: __m256,
        /// Of u8 results: those of i8 are computed with a zero point that is greater by 128, and their highest bit is inverted.
        zero: __m256i,
        lo: __m256i,
        hi: __m256i,
        flip: __m256i,
    }

    impl<T: Target> QFinish<'_, T> {
        /// What is known of `cols` columns from `col` on.
        #[inline]
        #[target_feature(enable = "avx2,fma")]
        pub(in crate::int8) fn columns(&self, col: usize, cols: usize) -> Panel<'_, T> {
            let (c, first) = (self.columns, self.first_col + col);
            Panel {
                finish: self,
                first,
                cols,
                scale: floats(Columns::tile(&c.scale, first)),
                bias: floats(Columns::tile(&c.bias, first)),
                constant: ints(Columns::tile(&c.constant, first)),
                codes: self.codes(),
            }
        }

        #[inline]
        #[target_feature(enable = "avx2,fma")]
        fn codes(&self) -> Option<Codes> {
            let shift = match T::BYTE? {
                ByteType::U8 => 0,
                ByteType::I8 => 128,
            };
            let real = match self.residual {
                None => true,
                Some(QResidual::F32(_)) => false,
                Some(QResidual::Int(r)) => r.scale.abs() < Columns::LARGE,
            };
            let r = self.rounding.within(self.columns.clamp).filter(|_| real && self.columns.tame)?;
            let byte = |limit: f32| (limit.round_ties_even() as i32 + r.zero + shift) as u8 as i8;
            Some(Codes {
                inverse: _mm256_set1_ps(r.inverse),
                most: _mm256_set1_ps(r.hi),
                zero: _mm256_set1_epi16((r.zero + shift) as i16),
                lo: _mm256_set1_epi8(byte(r.lo)),
                hi: _mm256_set1_epi8(byte(r.hi)),
                flip: _mm256_set1_epi8(shift as u8 as i8),
            })
        }
    }

    impl<T: Target> Panel<'_, T> {
        /// Stores R rows from `row` on.
        #[inline]
        #[target_feature(enable = "avx2,fma")]
        pub(in crate::int8) fn put<const R: usize>(&self, row: usize, sums: &[[__m256i; 2]; R]) {
            let at = (self.finish.first_row + row) * self.finish.stride + self.first;
            let Some(codes) = self.codes else {
                for (r, sums) in sums.iter().enumerate() {
                    self.put_any(at + r * self.finish.stride, *sums);
                }
                return;
            };
            for r in (0..R).step_by(2) {
                let at = at + r * self.finish.stride;
                let even = self.words(&codes, at, sums[r]);
                let odd = if r + 1 < R { self.words(&codes, at + self.finish.stride, sums[r + 1]) } else { even };
                let bytes = codes.bytes(even, odd);
                self.put_bytes(at, _mm256_castsi256_si128(bytes));
                if r + 1 < R {
                    self.put_bytes(at + self.finish.stride, _mm256_extracti128_si256::<1>(bytes));
                }
            }
        }

        /// sum · scale + bias + residual.
        #[inline]
        #[target_feature(enable = "avx2,fma")]
        fn real(&self, at: usize, sums: [__m256i; 2]) -> [__m256; 2] {
            let mut v = [_mm256_setzero_ps(); 2];
            for j in 0..2 {
                let sum = _mm256_cvtepi32_ps(_mm256_add_epi32(sums[j], self.constant[j]));
                v[j] = _mm256_add_ps(_mm256_mul_ps(sum, self.scale[j]), self.bias[j]);
            }
            if let Some(r) = self.finish.residual {
                let r = residual(r, at, self.cols);
                v = [_mm256_add_ps(v[0], r[0]), _mm256_add_ps(v[1], r[1])];
            }
            v
        }

        /// A row's codes as i16, before their limits: columns 0–3 and 8–11, then 4–7 and 12–15.
        #[inline]
        #[target_feature(enable = "avx2,fma")]
        fn words(&self, codes: &Codes, at: usize, sums: [__m256i; 2]) -> __m256i {
            let v = self.real(at, sums);
            let mut q = [_mm256_setzero_si256(); 2];
            for j in 0..2 {
                q[j] = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_mul_ps(v[j], codes.inverse), codes.most));
            }
            _mm256_adds_epi16(_mm256_packs_epi32(q[0], q[1]), codes.zero)
        }

        #[inline]
        #[target_feature(enable = "avx2,fma")]
        fn put_bytes(&self, at: usize, bytes: __m128i) {
            // SAFETY: each output element belongs to one task, which puts it once; `slice` checks the range.
            let out = unsafe { self.finish.y.slice(at, self.cols) };
            if self.cols == NR {
                // SAFETY: 16 elements of one byte.
                unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), bytes) };
            } else {
                let mut line = [0u8; NR];
                // SAFETY: 16 bytes.
                unsafe { _mm_storeu_si128(line.as_mut_ptr().cast(), bytes) };
                out.copy_from_slice(bytemuck::cast_slice(&line[..self.cols]));
            }
        }

        /// One row of any type, scales and residual.
        #[inline(never)]
        #[target_feature(enable = "avx2,fma")]
        fn put_any(&self, at: usize, sums: [__m256i; 2]) {
            let f = self.finish;
            let clamp = f.columns.clamp;
            let (min, max) = (_mm256_set1_ps(clamp.min), _mm256_set1_ps(clamp.max));
            let v = self.real(at, sums).map(|v| {
                let v = _mm256_blendv_ps(v, min, _mm256_cmp_ps::<_CMP_LE_OQ>(v, min));
                _mm256_blendv_ps(v, max, _mm256_cmp_ps::<_CMP_GE_OQ>(v, max))
            });
            // SAFETY: each output element belongs to one task, which puts it once; `slice` checks the range.
            let out = unsafe { f.y.slice(at, self.cols) };
            let mut real = [0f32; NR];
            // SAFETY: 16 elements.
            unsafe {
                _mm256_storeu_ps(real.as_mut_ptr(), v[0]);
                _mm256_storeu_ps(real.as_mut_ptr().add(8), v[1]);
            }
            for (out, v) in out.iter_mut().zip(real) {
                *out = T::store(v, f.rounding);
            }
        }
    }

    impl Codes {
        /// Two rows of bytes.
        #[inline]
        #[target_feature(enable = "avx2,fma")]
        fn bytes(&self, even: __m256i, odd: __m256i) -> __m256i {
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(even, odd), order);
            _mm256_xor_si256(_mm256_min_epu8(_mm256_max_epu8(bytes, self.lo), self.hi), self.flip)
        }
    }

    /// As [`QFinish::put`](super::QFinish::put).
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn put<T: Target>(f: &QFinish<'_, T>, row: usize, rows: usize, col: usize, cols: usize, acc: &Acc<i32>) {
        let columns = f.columns(col, cols);
        let mut r = 0;
        while r + 2 <= rows {
            columns.put(row + r, &[ints(&acc.0[r]), ints(&acc.0[r + 1])]);
            r += 2;
        }
        if r < rows {
            columns.put(row + r, &[ints(&acc.0[r])]);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn floats(v: &[f32; NR]) -> [__m256; 2] {
        // SAFETY: 16 elements.
        unsafe { [_mm256_loadu_ps(v.as_ptr()), _mm256_loadu_ps(v.as_ptr().add(8))] }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn ints(v: &[i32; NR]) -> [__m256i; 2] {
        // SAFETY: 16 elements.
        unsafe { [_mm256_loadu_si256(v.as_ptr().cast()), _mm256_loadu_si256(v.as_ptr().add(8).cast())] }
    }

    /// Elements `at..at + cols`; zeros follow.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn residual(r: QResidual<'_>, at: usize, cols: usize) -> [__m256; 2] {
        match r {
            QResidual::F32(r) => floats(&sixteen(&r[at..at + cols])),
            QResidual::Int(QTensor { data, scale, zero }) => {
                let bytes = match data {
                    Bytes::I8(r) => bytemuck::cast(sixteen(&r[at..at + cols])),
                    Bytes::U8(r) => sixteen(&r[at..at + cols]),
                };
                // SAFETY: 16 bytes.
                let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
                let signed = matches!(data, Bytes::I8(_));
                let mut v = [_mm256_setzero_ps(); 2];
                for (v, b) in v.iter_mut().zip([bytes, _mm_srli_si128::<8>(bytes)]) {
                    let wide = if signed { _mm256_cvtepi8_epi32(b) } else { _mm256_cvtepu8_epi32(b) };
                    let centred = _mm256_cvtepi32_ps(_mm256_sub_epi32(wide, _mm256_set1_epi32(zero)));
                    *v = _mm256_mul_ps(centred, _mm256_set1_ps(scale));
                }
                v
            }
        }
    }

    #[inline]
    fn sixteen<T: bytemuck::Pod>(v: &[T]) -> [T; NR] {
        v.first_chunk::<NR>()
            .copied()
            .unwrap_or_else(|| std::array::from_fn(|j| v.get(j).copied().unwrap_or(T::zeroed())))
    }
}
