//! The register tile of [`qgemm`](super::qgemm): i16 pairs of activations by i8 pairs of weights.
//!
//! As the i16 tile of [`crate::gemm::tile`], but the right operand stays i8 in memory and is widened as it is loaded: a product
//! of few rows reads every weight once, and is as fast as memory gives them.

use crate::{
    Isa,
    gemm::tile::{Acc, MR, NR, RowPanels, Sink},
};
use std::ops::Range;

/// A part of a product: row panels of packed activations by column panels of packed weights.
pub(super) struct QBlock<'a> {
    /// Pairs in k.
    pub(super) pairs: usize,
    /// How the rows of `a` are cut.
    pub(super) rows: RowPanels,
    /// Which row panels to compute; `a` begins with the first.
    pub(super) panels: Range<usize>,
    /// Row panels `[pairs][R]`.
    pub(super) a: &'a [[i16; 2]],
    /// Column panels `[pairs][16]`.
    pub(super) b: &'a [[i8; 2]],
    /// Columns to compute.
    pub(super) cols: usize,
}

/// Computes a block and hands every tile to `sink`, whose row 0 is the block's first row.
pub(super) fn run_qblock<S: Sink<i32>>(isa: Isa, block: &QBlock<'_>, sink: &S) {
    #[cfg(target_arch = "x86_64")]
    if isa.usable() == Isa::Avx2 {
        // SAFETY: `usable` returns `Avx2` only where the host has AVX2.
        return unsafe { run_avx2(block, sink) };
    }
    let _ = isa;
    tiles(block, sink, generic_tile);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<S: Sink<i32>>(block: &QBlock<'_>, sink: &S) {
    tiles(block, sink, |rows, a, b, acc| match rows {
        1 => x86::tile::<1>(a, b, acc),
        2 => x86::tile::<2>(a, b, acc),
        3 => x86::tile::<3>(a, b, acc),
        4 => x86::tile::<4>(a, b, acc),
        5 => x86::tile::<5>(a, b, acc),
        _ => x86::tile::<6>(a, b, acc),
    });
}

#[inline(always)]
fn tiles<S: Sink<i32>>(block: &QBlock<'_>, sink: &S, tile: impl Fn(usize, &[[i16; 2]], &[[i8; 2]], &mut Acc<i32>)) {
    let pairs = block.pairs;
    let mut acc = Acc([[0; NR]; MR]);
    let first = if block.panels.is_empty() { 0 } else { block.rows.range(block.panels.start).start };
    for jp in 0..block.cols.div_ceil(NR) {
        let b = &block.b[jp * NR * pairs..(jp + 1) * NR * pairs];
        let cols = NR.min(block.cols - jp * NR);
        for ip in block.panels.clone() {
            let rows = block.rows.range(ip);
            let (start, end) = (rows.start - first, rows.end - first);
            tile(rows.len(), &block.a[start * pairs..end * pairs], b, &mut acc);
            sink.put(start, rows.len(), jp * NR, cols, &acc);
        }
    }
}

fn generic_tile(rows: usize, a: &[[i16; 2]], b: &[[i8; 2]], acc: &mut Acc<i32>) {
    acc.0[..rows].fill([0; NR]);
    for (a, b) in a.chunks_exact(rows).zip(b.chunks_exact(NR)) {
        let wide: [[i32; 2]; NR] = std::array::from_fn(|j| b[j].map(i32::from));
        for (a, acc) in a.iter().zip(&mut acc.0) {
            let [a0, a1] = a.map(i32::from);
            for j in 0..NR {
                acc[j] += a0 * wide[j][0] + a1 * wide[j][1];
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Acc, NR};
    use std::arch::x86_64::*;

    /// `acc[r][j] = Σ a[p][r] · b[p][j]` over the pairs p.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn tile<const R: usize>(a: &[[i16; 2]], b: &[[i8; 2]], acc: &mut Acc<i32>) {
        let pairs = b.len() / NR;
        assert!(a.len() >= pairs * R);
        let (a, b) = (a.as_ptr().cast::<i32>(), b.as_ptr().cast::<i8>());
        let mut c = [[_mm256_setzero_si256(); 2]; R];
        for p in 0..pairs {
            // SAFETY: `p < pairs`, so both reads lie inside the operands (`a` is checked above); a pair is 2-byte aligned and
            // is read unaligned.
            unsafe {
                let (a, b) = (a.add(p * R), b.add(p * 2 * NR));
                let b0 = _mm256_cvtepi8_epi16(_mm_loadu_si128(b.cast()));
                let b1 = _mm256_cvtepi8_epi16(_mm_loadu_si128(b.add(16).cast()));
                for r in 0..R {
                    let ar = _mm256_set1_epi32(a.add(r).read_unaligned());
                    c[r][0] = _mm256_add_epi32(c[r][0], _mm256_madd_epi16(ar, b0));
                    c[r][1] = _mm256_add_epi32(c[r][1], _mm256_madd_epi16(ar, b1));
                }
            }
        }
        for r in 0..R {
            let out = acc.0[r].as_mut_ptr();
            // SAFETY: a row of `acc` has 16 elements.
            unsafe {
                _mm256_storeu_si256(out.cast(), c[r][0]);
                _mm256_storeu_si256(out.add(8).cast(), c[r][1]);
            }
        }
    }
}
