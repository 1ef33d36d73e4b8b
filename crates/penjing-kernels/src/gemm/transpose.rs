//! Transposition of f32 matrices into packed operands.

use crate::Isa;

/// `dst[j * dst_stride + i] = src[i * src_stride + j]` for `i < rows` and `j < cols`.
///
/// # Panics
/// An element lies outside its slice.
pub(crate) fn transpose(
    isa: Isa,
    [rows, cols]: [usize; 2],
    src: &[f32],
    src_stride: usize,
    dst: &mut [f32],
    dst_stride: usize,
) {
    if rows == 0 || cols == 0 {
        return;
    }
    assert!((rows - 1) * src_stride + cols <= src.len() && (cols - 1) * dst_stride + rows <= dst.len());
    let mut whole = [0, 0];
    #[cfg(target_arch = "x86_64")]
    if isa.usable() >= Isa::Avx2 {
        whole = [rows / 8 * 8, cols / 8 * 8];
        // SAFETY: all elements lie inside their slices (checked above), and the host has AVX2.
        unsafe { x86::blocks(whole, src.as_ptr(), src_stride, dst.as_mut_ptr(), dst_stride) };
    }
    let _ = isa;
    for j in 0..cols {
        for i in if j < whole[1] { whole[0] } else { 0 }..rows {
            dst[j * dst_stride + i] = src[i * src_stride + j];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Blocks of 8 × 8, two side by side where there are two: a cache line of the source.
    ///
    /// # Safety
    /// As [`super::transpose`], for multiples of 8; the elements lie inside; the host has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn blocks([rows, cols]: [usize; 2], src: *const f32, s: usize, dst: *mut f32, d: usize) {
        for j in (0..cols).step_by(16) {
            for i in (0..rows).step_by(8) {
                for j in (j..cols.min(j + 16)).step_by(8) {
                    // SAFETY: the contract.
                    unsafe { block(src.add(i * s + j), s, dst.add(j * d + i), d) };
                }
            }
        }
    }

    /// # Safety
    /// Eight rows of eight elements at both ends; the host has AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn block(src: *const f32, s: usize, dst: *mut f32, d: usize) {
        // SAFETY: the contract.
        unsafe {
            // Rows i and i + 4 in the halves of one register, for each half of the columns.
            let half = |i: usize, j: usize| {
                let low = _mm256_castps128_ps256(_mm_loadu_ps(src.add(i * s + j)));
                _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(src.add((i + 4) * s + j)))
            };
            for j in [0, 4] {
                let (r0, r1, r2, r3) = (half(0, j), half(1, j), half(2, j), half(3, j));
                let (a, b) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
                let (c, e) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
                _mm256_storeu_ps(dst.add(j * d), _mm256_shuffle_ps::<0x44>(a, c));
                _mm256_storeu_ps(dst.add((j + 1) * d), _mm256_shuffle_ps::<0xee>(a, c));
                _mm256_storeu_ps(dst.add((j + 2) * d), _mm256_shuffle_ps::<0x44>(b, e));
                _mm256_storeu_ps(dst.add((j + 3) * d), _mm256_shuffle_ps::<0xee>(b, e));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    #[test]
    fn every_element_moves_and_nothing_else() {
        for [rows, cols] in [[0, 3], [3, 0], [1, 1], [8, 8], [7, 9], [16, 40], [37, 23], [9, 64], [64, 5]] {
            let (s, d) = (cols + 3, rows + 2);
            let src = values("s", rows * s);
            for isa in Isa::ALL {
                let mut dst = vec![7.0; cols * d];
                transpose(isa, [rows, cols], &src, s, &mut dst, d);
                for (at, &v) in dst.iter().enumerate() {
                    let (j, i) = (at / d, at % d);
                    assert_eq!(v, if i < rows { src[i * s + j] } else { 7.0 }, "{rows} x {cols}: {i}, {j}");
                }
            }
        }
    }
}
