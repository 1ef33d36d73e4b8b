//! The gradient of max pooling by windows of 2 × 2 that tile the input: every input belongs to one window at most.

use super::PoolShape;
use crate::Isa;

/// Windows of one block.
const W: usize = 8;

/// Two input rows of a block, or their gradients.
type Rows = [[f32; 2 * W]; 2];

/// One plane; `dx` holds zeros, of which those outside every window stay.
pub(super) fn plane_grad(isa: Isa, s: &PoolShape, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    match isa.usable() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `usable` returns `Avx2` or more only where the host has AVX2.
        Isa::Avx2 | Isa::Avx512 | Isa::Amx => unsafe { plane_grad_avx2(s, x, dy, dx) },
        _ => plane_grad_with(s, x, dy, dx, block_grad),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn plane_grad_avx2(s: &PoolShape, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    plane_grad_with(s, x, dy, dx, |rows, dy| x86::block_grad(rows, dy));
}

#[inline(always)]
fn plane_grad_with(s: &PoolShape, x: &[f32], dy: &[f32], dx: &mut [f32], block: impl Fn(&Rows, &[f32; W]) -> Rows) {
    let [w, ow] = [s.input[1], s.output[1]];
    for (i, dy) in dy.chunks_exact(ow).enumerate() {
        let (x0, x1) = (&x[2 * i * w..][..2 * ow], &x[(2 * i + 1) * w..][..2 * ow]);
        let (d0, d1) = dx[2 * i * w..][..w + 2 * ow].split_at_mut(w);
        for j in (0..ow).step_by(W) {
            // A last block that is not full starts earlier; some windows are then computed twice, to the same values.
            let at = j.min(ow.saturating_sub(W));
            let n = W.min(ow - at);
            let (mut rows, mut g): (Rows, _) = ([[0.0; 2 * W]; 2], [0.0; W]);
            if n == W {
                rows[0].copy_from_slice(&x0[2 * at..2 * at + 2 * W]);
                rows[1].copy_from_slice(&x1[2 * at..2 * at + 2 * W]);
                g.copy_from_slice(&dy[at..at + W]);
                let [top, bottom] = block(&rows, &g);
                d0[2 * at..2 * at + 2 * W].copy_from_slice(&top);
                d1[2 * at..2 * at + 2 * W].copy_from_slice(&bottom);
            } else {
                rows[0][..2 * n].copy_from_slice(x0);
                rows[1][..2 * n].copy_from_slice(x1);
                g[..n].copy_from_slice(dy);
                let [top, bottom] = block(&rows, &g);
                d0[..2 * n].copy_from_slice(&top[..2 * n]);
                d1[..2 * n].copy_from_slice(&bottom[..2 * n]);
            }
        }
    }
}

/// Each dy at the first largest of its four inputs in scan order, the last NaN where there is one, and zeros elsewhere.
fn block_grad(x: &Rows, dy: &[f32; W]) -> Rows {
    let mut out = [[0.0; 2 * W]; 2];
    for (j, &dy) in dy.iter().enumerate() {
        let (mut best, mut winner) = (x[0][2 * j], 0);
        for t in 1..4 {
            let v = x[t / 2][2 * j + t % 2];
            if v > best || v.is_nan() {
                (best, winner) = (v, t);
            }
        }
        out[winner / 2][2 * j + winner % 2] = dy;
    }
    out
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The block with AVX2. Windows stand in the order 0 1 4 5 2 3 6 7, which shuffles within halves undo.

    use super::{Rows, W};
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn block_grad(x: &Rows, dy: &[f32; W]) -> Rows {
        let mut out = [[0.0; 2 * W]; 2];
        // SAFETY: a row has 16 elements, `dy` 8.
        let ([a, b, c, d], dy) = unsafe {
            let load = |row: &[f32; 2 * W]| (_mm256_loadu_ps(row.as_ptr()), _mm256_loadu_ps(row.as_ptr().add(W)));
            ([load(&x[0]).0, load(&x[0]).1, load(&x[1]).0, load(&x[1]).1], _mm256_loadu_ps(dy.as_ptr()))
        };
        let dy = _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(dy)));
        const EVEN: i32 = 0b10_00_10_00;
        const ODD: i32 = 0b11_01_11_01;
        let taps = [
            _mm256_shuffle_ps::<EVEN>(a, b),
            _mm256_shuffle_ps::<ODD>(a, b),
            _mm256_shuffle_ps::<EVEN>(c, d),
            _mm256_shuffle_ps::<ODD>(c, d),
        ];
        let mut best = taps[0];
        // What each tap gets: a later winner takes it from the earlier ones.
        let mut parts = [dy, _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()];
        for t in 1..4 {
            let v = taps[t];
            let larger = _mm256_cmp_ps::<_CMP_GT_OQ>(v, best);
            let take = _mm256_or_ps(larger, _mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            best = _mm256_blendv_ps(best, v, take);
            for part in &mut parts[..t] {
                *part = _mm256_andnot_ps(take, *part);
            }
            parts[t] = _mm256_and_ps(take, dy);
        }
        for (out, part) in out.iter_mut().zip(parts.chunks_exact(2)) {
            // SAFETY: a row has 16 elements.
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), _mm256_unpacklo_ps(part[0], part[1]));
                _mm256_storeu_ps(out.as_mut_ptr().add(W), _mm256_unpackhi_ps(part[0], part[1]));
            }
        }
        out
    }
}
