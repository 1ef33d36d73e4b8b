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
        tile::{Acc, NR, Sink},
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
}

impl Columns {
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
        scale.resize(padded, 0.0);
        bias.resize(padded, 0.0);
        constant.resize(padded, 0);
        Ok(Columns { scale, bias, constant, clamp: e.clamp })
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

impl<T: Target> Sink<i32> for QFinish<'_, T> {
    #[inline(always)]
    fn put(&self, row: usize, rows: usize, col: usize, cols: usize, acc: &Acc<i32>) {
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

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn put<T: Target>(f: &QFinish<'_, T>, row: usize, rows: usize, col: usize, cols: usize, acc: &Acc<i32>) {
        let c = f.columns;
        let within = if T::BYTE.is_some() { f.rounding.within(c.clamp) } else { None };
        let (r, limited) = (within.unwrap_or(f.rounding), within.is_some());
        let first = f.first_col + col;
        let scale = floats(Columns::tile(&c.scale, first));
        let bias = floats(Columns::tile(&c.bias, first));
        let constant = ints(Columns::tile(&c.constant, first));
        let (min, max) = (_mm256_set1_ps(c.clamp.min), _mm256_set1_ps(c.clamp.max));
        for i in 0..rows {
            let at = (f.first_row + row + i) * f.stride + first;
            let sums = ints(&acc.0[i]);
            let residual = f.residual.map(|r| residual(r, at, cols));
            let mut v = [_mm256_setzero_ps(); 2];
            for j in 0..2 {
                let sum = _mm256_cvtepi32_ps(_mm256_add_epi32(sums[j], constant[j]));
                v[j] = _mm256_add_ps(_mm256_mul_ps(sum, scale[j]), bias[j]);
                if let Some(residual) = residual {
                    v[j] = _mm256_add_ps(v[j], residual[j]);
                }
                if !limited {
                    v[j] = _mm256_blendv_ps(v[j], min, _mm256_cmp_ps::<_CMP_LE_OQ>(v[j], min));
                    v[j] = _mm256_blendv_ps(v[j], max, _mm256_cmp_ps::<_CMP_GE_OQ>(v[j], max));
                }
            }
            // SAFETY: each output element belongs to one task, which puts it once; `slice` checks the range.
            let out = unsafe { f.y.slice(at, cols) };
            let mut line = [T::zeroed(); NR];
            let full = cols == NR;
            let to = if full { out.as_mut_ptr() } else { line.as_mut_ptr() };
            // SAFETY: `to` has 16 elements of T, which is 4 bytes wide exactly when it is f32.
            unsafe {
                match T::BYTE {
                    None => {
                        _mm256_storeu_ps(to.cast(), v[0]);
                        _mm256_storeu_ps(to.cast::<f32>().add(8), v[1]);
                    }
                    Some(byte) => {
                        let q = v.map(|v| {
                            let q = _mm256_mul_ps(v, _mm256_set1_ps(r.inverse));
                            // NaN compares false; what the limits make of it is replaced below.
                            let limited = _mm256_min_ps(_mm256_max_ps(q, _mm256_set1_ps(r.lo)), _mm256_set1_ps(r.hi));
                            let rounded = _mm256_add_epi32(_mm256_cvtps_epi32(limited), _mm256_set1_epi32(r.zero));
                            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(q, q));
                            _mm256_blendv_epi8(rounded, _mm256_set1_epi32(r.nan), nan)
                        });
                        // Values fit the type, so that packing only narrows.
                        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(q[0], q[1]));
                        let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
                        let bytes = match byte {
                            ByteType::I8 => _mm_packs_epi16(low, high),
                            ByteType::U8 => _mm_packus_epi16(low, high),
                        };
                        _mm_storeu_si128(to.cast(), bytes);
                    }
                }
            }
            if !full {
                out.copy_from_slice(&line[..cols]);
            }
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
                [bytes, _mm_srli_si128::<8>(bytes)].map(|b| {
                    let wide = if signed { _mm256_cvtepi8_epi32(b) } else { _mm256_cvtepu8_epi32(b) };
                    let centred = _mm256_cvtepi32_ps(_mm256_sub_epi32(wide, _mm256_set1_epi32(zero)));
                    _mm256_mul_ps(centred, _mm256_set1_ps(scale))
                })
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
