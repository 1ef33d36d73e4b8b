//! Whole registers of x / scale on a grid of u8. A division takes longer than all the rest, so a quotient is a product with the
//! reciprocal that is corrected until it has the bits of the division.
//!
//! One correction leaves an error of less than one ULP, and the next one is exact then, where nothing on the way is tiny or huge
//! (Markstein 1990: Computation of elementary functions on the IBM RISC System/6000 processor).

use super::{Grid, rounding::Rounding};
use crate::Isa;

/// Puts the first elements of `x` on the grid, which passed its check for u8, and says how many: those that fill registers, or
/// none.
pub(super) fn registers(isa: Isa, x: &[f32], grid: Grid, y: &mut [u8]) -> usize {
    if !(2e-30..2e30).contains(&grid.scale) {
        return 0;
    }
    match isa.usable() {
        // SAFETY: `usable` returns a level only where the host has it.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx => unsafe { x86::wide(x, &Rounding::new(grid), y) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::narrow(x, &Rounding::new(grid), y) },
        Isa::Generic => 0,
        #[cfg(not(target_arch = "x86_64"))]
        _ => 0,
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Rounding;
    use crate::int8::{ByteType, store, wide_store};
    use std::arch::x86_64::*;

    /// # Safety
    /// The host has `Isa::Avx512`.
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) unsafe fn wide(x: &[f32], r: &Rounding, y: &mut [u8]) -> usize {
        let codes = wide_store::Codes::of(ByteType::U8, r, true);
        let (scale, inverse) = (_mm512_set1_ps(r.scale), _mm512_set1_ps(r.inverse));
        // The quotient of what the greatest integer stands for rounds to it. What is too small becomes the least i32, as a NaN does.
        let most = _mm512_set1_ps(r.hi * r.scale);
        let (x, y) = (x.as_chunks::<64>().0, y.as_chunks_mut::<64>().0);
        for (x, y) in x.iter().zip(&mut *y) {
            let mut v = [_mm512_setzero_ps(); 4];
            for (i, v) in v.iter_mut().enumerate() {
                // SAFETY: there are 64 elements.
                let x = _mm512_min_ps(most, unsafe { _mm512_loadu_ps(x.as_ptr().add(16 * i)) });
                let q = _mm512_mul_ps(x, inverse);
                let q = _mm512_fmadd_ps(_mm512_fnmadd_ps(q, scale, x), inverse, q);
                *v = _mm512_fmadd_ps(_mm512_fnmadd_ps(q, scale, x), inverse, q);
            }
            // SAFETY: there are 64 elements; this function's contract.
            unsafe { _mm512_storeu_si512(y.as_mut_ptr().cast(), codes.bytes(v)) };
        }
        64 * x.len().min(y.len())
    }

    /// # Safety
    /// The host has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn narrow(x: &[f32], r: &Rounding, y: &mut [u8]) -> usize {
        let codes = store::Codes::of(ByteType::U8, r, true);
        let (scale, inverse) = (_mm256_set1_ps(r.scale), _mm256_set1_ps(r.inverse));
        // As in `wide`.
        let most = _mm256_set1_ps(r.hi * r.scale);
        let (x, y) = (x.as_chunks::<32>().0, y.as_chunks_mut::<32>().0);
        for (x, y) in x.iter().zip(&mut *y) {
            let mut v = [[_mm256_setzero_ps(); 2]; 2];
            for (i, v) in v.as_flattened_mut().iter_mut().enumerate() {
                // SAFETY: there are 32 elements.
                let x = _mm256_min_ps(most, unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * i)) });
                let q = _mm256_mul_ps(x, inverse);
                let q = _mm256_fmadd_ps(_mm256_fnmadd_ps(q, scale, x), inverse, q);
                *v = _mm256_fmadd_ps(_mm256_fnmadd_ps(q, scale, x), inverse, q);
            }
            // SAFETY: there are 32 elements; this function's contract.
            unsafe {
                let bytes = codes.bytes(codes.words(v[0]), codes.words(v[1]));
                _mm256_storeu_si256(y.as_mut_ptr().cast(), bytes);
            }
        }
        32 * x.len().min(y.len())
    }
}

#[cfg(test)]
mod tests {
    use crate::int8::{BytesMut, Grid, Limits, Rounding, Scales, quantize};
    use crate::testing::every_ctx;
    use penjing_tensor::Rng;

    /// Values at and around the middle between two integers, anywhere else, and special ones, on grids of all sizes.
    #[test]
    fn codes_are_those_of_a_division() {
        let (rng, values) = (Rng::new(3, "scale", 0), Rng::new(3, "x", 0));
        for i in 0..120u64 {
            // Half of the scales have the smallest or the largest fraction.
            let fraction = [rng.bits(i) as u32, 0, rng.bits(i) as u32, 0x7f_ffff][i as usize % 4] & 0x7f_ffff;
            let scale = f32::from_bits(fraction | ((127 + i as u32 * 2 - 120) << 23));
            let limits = [Limits::U8, Limits { lo: 3, hi: 90 }][i as usize % 2];
            let grid = Grid { scale, zero: [100, 0, 255][i as usize % 3], limits };
            let middles = (-270..270).map(|k| (k as f32 + 0.5) * scale);
            let around = middles.flat_map(|v| (-3..=3).map(move |d| f32::from_bits((v.to_bits() as i32 + d) as u32)));
            let anywhere = (0..500).map(|j| (values.uniform(i * 500 + j) * 600.0 - 300.0) * scale);
            let special = [0.0, -0.0, 1e-45, -1e-45, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
            let x: Vec<f32> = special.into_iter().chain(around).chain(anywhere).collect();
            let want: Vec<u8> = x.iter().map(|&v| Rounding::new(grid).apply(v) as u8).collect();
            every_ctx(|cx| {
                let mut got = vec![9; x.len()];
                let scales = Scales { scale: &[scale], zero: &[grid.zero], inner: x.len() };
                quantize(cx, &x, scales, limits, BytesMut::U8(&mut got)).unwrap();
                assert!(got == want, "{grid:?} {}", cx.isa.name());
                Vec::new()
            });
        }
    }

    #[test]
    fn scales_of_no_size_divide() {
        let x: Vec<f32> = [-2.0, 0.0, 1.0, 7.5, f32::NAN, f32::INFINITY, 1e-39, 3e38].repeat(9);
        for scale in [0.0, -0.5, 1e-40, 1e-37, 1e36, f32::INFINITY, f32::NAN] {
            let grid = Grid { scale, zero: 3, limits: Limits::U8 };
            let want: Vec<u8> = x.iter().map(|&v| Rounding::new(grid).apply(v) as u8).collect();
            every_ctx(|cx| {
                let mut got = vec![9; x.len()];
                let scales = Scales { scale: &[scale], zero: &[3], inner: x.len() };
                quantize(cx, &x, scales, Limits::U8, BytesMut::U8(&mut got)).unwrap();
                assert!(got == want, "{scale} {}", cx.isa.name());
                Vec::new()
            });
        }
    }
}
