//! Packing of matrices with any row and column stride into the panels of [`tile`](super::tile).

use super::{
    Mat,
    tile::{NR, RowPanels},
    transpose::transpose,
};
use crate::{
    Isa,
    isa::{Math, per_isa},
};
use std::ops::Range;

/// Most depth of a k-block: a column panel of 320 × 16 f32 is 20 KiB and stays in the first-level cache.
pub(crate) const KC: usize = 320;

/// `0..k` cut into blocks of nearly equal depth, at most [`KC`].
pub(crate) fn k_blocks(k: usize) -> impl Iterator<Item = Range<usize>> {
    let count = k.div_ceil(KC);
    (0..count).map(move |i| k * i / count..k * (i + 1) / count)
}

per_isa! {
    /// Packs row panel `panel` of `a` over the columns `k` into `out`: `[k][rows of the panel]`.
    pub(crate) fn pack_rows(a: &Mat<'_>, rows: RowPanels, panel: usize, k: Range<usize>, out: &mut [f32]) = pack_rows_body
}

/// Packs the columns `cols` (at most 16) of `b` over the rows `k` into `out`: `[k][16]`, zero past the last column.
pub(crate) fn pack_cols(isa: Isa, b: &Mat<'_>, cols: Range<usize>, k: Range<usize>, out: &mut [f32]) {
    if b.row_stride == 1 && cols.len() == NR {
        let first = cols.start * b.col_stride + k.start;
        return transpose(isa, [NR, k.len()], &b.data[first.min(b.data.len())..], b.col_stride, out, NR);
    }
    pack_any(isa, b, cols, k, out);
}

per_isa! {
    fn pack_any(b: &Mat<'_>, cols: Range<usize>, k: Range<usize>, out: &mut [f32]) = pack_cols_body
}

#[inline(always)]
fn pack_rows_body<M: Math>(a: &Mat<'_>, rows: RowPanels, panel: usize, k: Range<usize>, out: &mut [f32]) {
    let range = rows.range(panel);
    match range.len() {
        1 => pack_lines::<1>(a.data, range.start, a.row_stride, a.col_stride, k, out),
        2 => pack_lines::<2>(a.data, range.start, a.row_stride, a.col_stride, k, out),
        3 => pack_lines::<3>(a.data, range.start, a.row_stride, a.col_stride, k, out),
        4 => pack_lines::<4>(a.data, range.start, a.row_stride, a.col_stride, k, out),
        5 => pack_lines::<5>(a.data, range.start, a.row_stride, a.col_stride, k, out),
        _ => pack_lines::<6>(a.data, range.start, a.row_stride, a.col_stride, k, out),
    }
}

#[inline(always)]
fn pack_cols_body<M: Math>(b: &Mat<'_>, cols: Range<usize>, k: Range<usize>, out: &mut [f32]) {
    if cols.len() == NR {
        pack_lines::<NR>(b.data, cols.start, b.col_stride, b.row_stride, k, out);
        return;
    }
    for (out, p) in out.chunks_exact_mut(NR).zip(k) {
        for j in 0..NR {
            out[j] = if j < cols.len() { b.data[p * b.row_stride + (cols.start + j) * b.col_stride] } else { 0.0 };
        }
    }
}

/// `out[p][i] = data[(start + i) * line_stride + p * k_stride]` for the `L` lines from `start` and `p` in `k`.
#[inline(always)]
fn pack_lines<const L: usize>(
    data: &[f32],
    start: usize,
    line_stride: usize,
    k_stride: usize,
    k: Range<usize>,
    out: &mut [f32],
) {
    let kc = k.len();
    if kc == 0 {
        return;
    }
    if k_stride == 1 {
        let lines: [&[f32]; L] = std::array::from_fn(|i| &data[(start + i) * line_stride + k.start..][..kc]);
        for (p, out) in out.chunks_exact_mut(L).take(kc).enumerate() {
            for i in 0..L {
                out[i] = lines[i][p];
            }
        }
    } else if line_stride == 1 {
        for (out, p) in out.chunks_exact_mut(L).zip(k) {
            out.copy_from_slice(&data[p * k_stride + start..][..L]);
        }
    } else {
        for (out, p) in out.chunks_exact_mut(L).zip(k) {
            for i in 0..L {
                out[i] = data[(start + i) * line_stride + p * k_stride];
            }
        }
    }
}
