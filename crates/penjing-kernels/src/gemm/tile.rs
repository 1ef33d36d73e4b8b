//! The register tile of every GEMM-class kernel: up to 6 rows by 16 columns, over packed panels.
//!
//! A panel of the left operand holds R rows as `[k][R]`, a panel of the right operand 16 columns as `[k][16]`. Rows are cut
//! into panels of nearly equal height (32 rows are 6+6+5+5+5+5, not five sixes and a two), because a low tile cannot hide the
//! latency of its multiply-adds.

use crate::{Isa, activation::Clamp};
use bytemuck::Pod;
use std::ops::Range;

/// Most rows of a tile.
pub(crate) const MR: usize = 6;
/// Most rows that a sink is given at once.
pub(crate) const MOST_ROWS: usize = 12;
/// Columns of a tile.
pub(crate) const NR: usize = 16;

/// The sums of one tile; rows past the tile's height are unspecified.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Acc<T>(pub(crate) [[T; NR]; MR]);

/// An element type and its register tile.
pub(crate) trait Kind: 'static {
    /// A packed element: one f32, or two i16 that are adjacent in k.
    type Elem: Pod + Send + Sync;
    /// A sum.
    type Sum: Pod + Send + Sync;

    /// `acc[r][j] = sum over p of a[p][r] * b[p][j]`, for `r < R`. `a` has `kc * R` elements, `b` has `kc * 16`.
    fn tile<const R: usize>(kc: usize, a: &[Self::Elem], b: &[Self::Elem], acc: &mut Acc<Self::Sum>);

    /// As [`tile`](Self::tile), for a host with AVX2 and FMA.
    ///
    /// # Safety
    /// The host has AVX2 and FMA.
    unsafe fn tile_avx2<const R: usize>(kc: usize, a: &[Self::Elem], b: &[Self::Elem], acc: &mut Acc<Self::Sum>);

    /// As [`tile`](Self::tile) over columns that are not packed: row p of the right operand is the 8 elements of `copy`
    /// from `starts[0] + offsets[p]` and the 8 from `starts[1] + offsets[p]`.
    fn runs<const R: usize>(a: &[Self::Elem], b: &RunsOf<'_, Self::Elem>, acc: &mut Acc<Self::Sum>);

    /// As [`runs`](Self::runs), for a host with AVX2 and FMA.
    ///
    /// # Safety
    /// The host has AVX2 and FMA; every run lies inside the copy.
    unsafe fn runs_avx2<const R: usize>(a: &[Self::Elem], b: &RunsOf<'_, Self::Elem>, acc: &mut Acc<Self::Sum>);
}

/// The columns of one panel as two runs of 8 elements for each row.
pub(crate) struct RunsOf<'a, E> {
    copy: &'a [E],
    offsets: &'a [usize],
    starts: [usize; 2],
}

impl<E: Pod> RunsOf<'_, E> {
    /// Row p.
    #[inline(always)]
    fn row(&self, offset: usize) -> [E; NR] {
        let half = |start: usize| &self.copy[start + offset..][..NR / 2];
        let (lo, hi) = (half(self.starts[0]), half(self.starts[1]));
        std::array::from_fn(|j| if j < NR / 2 { lo[j] } else { hi[j - NR / 2] })
    }
}

/// The right operand of a block.
pub(crate) enum Columns<'a, E> {
    /// Column panels `[kc][16]`, from column 0 of the block: `cols.div_ceil(16) * 16 * kc` elements.
    Panels(&'a [E]),
    /// Columns read where they are: see [`Kind::runs`].
    Runs {
        copy: &'a [E],
        /// One a row of the operand: `kc`.
        offsets: &'a [usize],
        /// One pair a panel.
        starts: &'a [[usize; 2]],
    },
}

impl<E> Columns<'_, E> {
    /// Whether there is enough of it for `panels` panels of depth `kc`.
    fn covers(&self, panels: usize, kc: usize) -> bool {
        match self {
            Columns::Panels(b) => b.len() >= panels * NR * kc,
            Columns::Runs { copy, offsets, starts } => {
                let farthest = offsets.iter().max().copied().unwrap_or(0);
                let last = starts.iter().flatten().max().copied().unwrap_or(0);
                offsets.len() == kc && starts.len() >= panels && farthest + last + NR / 2 <= copy.len()
            }
        }
    }
}

/// Receives finished tiles.
pub(crate) trait Sink<T> {
    /// `acc` holds rows from `row` on, at most [`MOST_ROWS`], and columns `col..col + cols` of the block.
    fn put(&self, row: usize, col: usize, cols: usize, acc: &[[T; NR]]);

    /// What a tile of rows `row..row + rows` and columns `col..col + cols`, of one or several panels, does to store its sums from
    /// registers instead of handing them over; none where that is not all there is to do.
    #[inline(always)]
    fn straight(&self, row: usize, rows: usize, col: usize, cols: usize) -> Option<Straight> {
        let _ = (row, rows, col, cols);
        None
    }

    /// Called before the tile of rows `row..row + rows` and columns from `col` on is computed: a chance to prefetch.
    #[inline(always)]
    fn prepare(&self, row: usize, rows: usize, col: usize) {
        let _ = (row, rows, col);
    }
}

/// `C[r][j] = clamp(sum + C[r][j] + bias[j] + residual[r][j])`, the terms whose pointers are not null, for the rows and columns
/// that it was made for. The elements exist and are the tile's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Straight {
    pub(crate) c: *mut f32,
    /// Elements from row to row of C and of the residual.
    pub(crate) stride: usize,
    /// Columns; the last panel may have fewer than 16.
    pub(crate) cols: usize,
    /// Whether the old C is a term.
    pub(crate) add: bool,
    pub(crate) bias: *const f32,
    pub(crate) residual: *const f32,
    pub(crate) clamp: Clamp,
}

/// One k-block of both operands, and the part of it to compute.
pub(crate) struct Block<'a, E> {
    /// Depth of the k-block.
    pub(crate) kc: usize,
    /// How the rows of `a` are cut.
    pub(crate) rows: RowPanels,
    /// Which row panels to compute.
    pub(crate) panels: Range<usize>,
    /// All row panels of the k-block: `rows.m * kc` elements.
    pub(crate) a: &'a [E],
    /// The columns of the k-block.
    pub(crate) b: Columns<'a, E>,
    /// Columns to compute.
    pub(crate) cols: usize,
}

/// `m` rows cut into panels of at most [`MR`] rows whose heights differ by at most one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RowPanels {
    pub(crate) m: usize,
    count: usize,
}

impl RowPanels {
    pub(crate) fn new(m: usize) -> RowPanels {
        RowPanels::lower(m, MR)
    }

    /// Panels of at most `rows` rows.
    pub(crate) fn lower(m: usize, rows: usize) -> RowPanels {
        RowPanels { m, count: m.div_ceil(rows) }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The rows of panel `i`.
    pub(crate) fn range(&self, i: usize) -> Range<usize> {
        let (base, extra) = (self.m / self.count, self.m % self.count);
        let start = i * base + i.min(extra);
        start..start + base + usize::from(i < extra)
    }
}

/// Computes a block and hands every tile to `sink`.
pub(crate) fn run_block<K: Kind, S: Sink<K::Sum>>(isa: Isa, block: &Block<'_, K::Elem>, sink: &S) {
    assert!(block.b.covers(block.cols.div_ceil(NR), block.kc), "the right operand covers the block");
    match isa.usable() {
        Isa::Generic => tiles::<K, S>(
            block,
            sink,
            |rows, kc, a, b, acc| match rows {
                1 => K::tile::<1>(kc, a, b, acc),
                2 => K::tile::<2>(kc, a, b, acc),
                3 => K::tile::<3>(kc, a, b, acc),
                4 => K::tile::<4>(kc, a, b, acc),
                5 => K::tile::<5>(kc, a, b, acc),
                _ => K::tile::<6>(kc, a, b, acc),
            },
            |rows, a, b, acc| match rows {
                1 => K::runs::<1>(a, b, acc),
                2 => K::runs::<2>(a, b, acc),
                3 => K::runs::<3>(a, b, acc),
                4 => K::runs::<4>(a, b, acc),
                5 => K::runs::<5>(a, b, acc),
                _ => K::runs::<6>(a, b, acc),
            },
        ),
        // SAFETY: `usable` returns `Avx2` or more only where the host has AVX2 and FMA; the runs lie inside the copy (checked
        // above).
        Isa::Avx2 | Isa::Avx512 | Isa::Amx => unsafe { run_block_avx2::<K, S>(block, sink) },
    }
}

/// # Safety
/// The host has AVX2 and FMA; the right operand covers the block.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
unsafe fn run_block_avx2<K: Kind, S: Sink<K::Sum>>(block: &Block<'_, K::Elem>, sink: &S) {
    tiles::<K, S>(
        block,
        sink,
        // SAFETY: this function's contract is the tiles' contract.
        |rows, kc, a, b, acc| unsafe {
            match rows {
                1 => K::tile_avx2::<1>(kc, a, b, acc),
                2 => K::tile_avx2::<2>(kc, a, b, acc),
                3 => K::tile_avx2::<3>(kc, a, b, acc),
                4 => K::tile_avx2::<4>(kc, a, b, acc),
                5 => K::tile_avx2::<5>(kc, a, b, acc),
                _ => K::tile_avx2::<6>(kc, a, b, acc),
            }
        },
        // SAFETY: as above.
        |rows, a, b, acc| unsafe {
            match rows {
                1 => K::runs_avx2::<1>(a, b, acc),
                2 => K::runs_avx2::<2>(a, b, acc),
                3 => K::runs_avx2::<3>(a, b, acc),
                4 => K::runs_avx2::<4>(a, b, acc),
                5 => K::runs_avx2::<5>(a, b, acc),
                _ => K::runs_avx2::<6>(a, b, acc),
            }
        },
    );
}

#[inline(always)]
fn tiles<K: Kind, S: Sink<K::Sum>>(
    block: &Block<'_, K::Elem>,
    sink: &S,
    tile: impl Fn(usize, usize, &[K::Elem], &[K::Elem], &mut Acc<K::Sum>),
    runs: impl Fn(usize, &[K::Elem], &RunsOf<'_, K::Elem>, &mut Acc<K::Sum>),
) {
    let kc = block.kc;
    let mut acc = Acc([[bytemuck::Zeroable::zeroed(); NR]; MR]);
    for jp in 0..block.cols.div_ceil(NR) {
        let cols = NR.min(block.cols - jp * NR);
        for ip in block.panels.clone() {
            let rows = block.rows.range(ip);
            let a = &block.a[rows.start * kc..rows.end * kc];
            match block.b {
                Columns::Panels(b) => tile(rows.len(), kc, a, &b[jp * NR * kc..(jp + 1) * NR * kc], &mut acc),
                Columns::Runs { copy, offsets, starts } => {
                    runs(rows.len(), a, &RunsOf { copy, offsets, starts: starts[jp] }, &mut acc);
                }
            }
            sink.put(rows.start, jp * NR, cols, &acc.0[..rows.len()]);
        }
    }
}

/// f32 multiply-add.
pub(crate) struct F32;

impl Kind for F32 {
    type Elem = f32;
    type Sum = f32;

    #[inline(always)]
    fn tile<const R: usize>(kc: usize, a: &[f32], b: &[f32], acc: &mut Acc<f32>) {
        let mut c = [[0f32; NR]; R];
        for (a, b) in a.chunks_exact(R).zip(b.chunks_exact(NR)).take(kc) {
            for r in 0..R {
                for j in 0..NR {
                    c[r][j] += a[r] * b[j];
                }
            }
        }
        acc.0[..R].copy_from_slice(&c);
    }

    #[inline(always)]
    unsafe fn tile_avx2<const R: usize>(kc: usize, a: &[f32], b: &[f32], acc: &mut Acc<f32>) {
        assert!(a.len() >= kc * R && b.len() >= kc * NR);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the operands are long enough (checked above); the host has AVX2 and FMA (this function's contract).
        unsafe {
            x86::f32_tile::<R>(kc, a.as_ptr(), b.as_ptr(), acc);
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self::tile::<R>(kc, a, b, acc);
    }

    #[inline(always)]
    fn runs<const R: usize>(a: &[f32], b: &RunsOf<'_, f32>, acc: &mut Acc<f32>) {
        let mut c = [[0f32; NR]; R];
        for (a, &offset) in a.chunks_exact(R).zip(b.offsets) {
            let b = b.row(offset);
            for r in 0..R {
                for j in 0..NR {
                    c[r][j] += a[r] * b[j];
                }
            }
        }
        acc.0[..R].copy_from_slice(&c);
    }

    #[inline(always)]
    unsafe fn runs_avx2<const R: usize>(a: &[f32], b: &RunsOf<'_, f32>, acc: &mut Acc<f32>) {
        assert!(a.len() >= b.offsets.len() * R);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the left operand is long enough (checked above); the rest is this function's contract.
        unsafe {
            let [lo, hi] = b.starts.map(|start| b.copy.as_ptr().add(start));
            x86::f32_runs::<R>(a.as_ptr(), lo, hi, b.offsets, acc);
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self::runs::<R>(a, b, acc);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The AVX2 tiles: 12 accumulators, 2 registers of the right operand, 1 broadcast of the left.

    use super::{Acc, NR};
    use std::arch::x86_64::*;

    /// # Safety
    /// `a` has `kc * R` elements, `b` has `kc * 16`; the host has AVX2 and FMA.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn f32_tile<const R: usize>(kc: usize, a: *const f32, b: *const f32, acc: &mut Acc<f32>) {
        let mut c = [[_mm256_setzero_ps(); 2]; R];
        // SAFETY: `p < kc` keeps every load inside the operands; `acc` has MR rows of 16.
        unsafe {
            let mut step = |p: usize| {
                let (a, b) = (a.add(p * R), b.add(p * NR));
                let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                for r in 0..R {
                    let ar = _mm256_broadcast_ss(&*a.add(r));
                    c[r][0] = _mm256_fmadd_ps(ar, b0, c[r][0]);
                    c[r][1] = _mm256_fmadd_ps(ar, b1, c[r][1]);
                }
            };
            let unrolled = kc / 4 * 4;
            for p in (0..unrolled).step_by(4) {
                step(p);
                step(p + 1);
                step(p + 2);
                step(p + 3);
            }
            for p in unrolled..kc {
                step(p);
            }
            for r in 0..R {
                let out = acc.0[r].as_mut_ptr();
                _mm256_storeu_ps(out, c[r][0]);
                _mm256_storeu_ps(out.add(8), c[r][1]);
            }
        }
    }

    /// # Safety
    /// `a` has R elements for each offset; `lo` and `hi` have 8 elements at each offset; the host has AVX2 and FMA.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn f32_runs<const R: usize>(
        a: *const f32,
        lo: *const f32,
        hi: *const f32,
        offsets: &[usize],
        acc: &mut Acc<f32>,
    ) {
        let mut c = [[_mm256_setzero_ps(); 2]; R];
        // SAFETY: the contract; `acc` has MR rows of 16.
        unsafe {
            for (p, &offset) in offsets.iter().enumerate() {
                let a = a.add(p * R);
                let (b0, b1) = (_mm256_loadu_ps(lo.add(offset)), _mm256_loadu_ps(hi.add(offset)));
                for r in 0..R {
                    let ar = _mm256_broadcast_ss(&*a.add(r));
                    c[r][0] = _mm256_fmadd_ps(ar, b0, c[r][0]);
                    c[r][1] = _mm256_fmadd_ps(ar, b1, c[r][1]);
                }
            }
            for r in 0..R {
                let out = acc.0[r].as_mut_ptr();
                _mm256_storeu_ps(out, c[r][0]);
                _mm256_storeu_ps(out.add(8), c[r][1]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_panels_are_even_and_cover() {
        for m in 0..200 {
            let p = RowPanels::new(m);
            let mut next = 0;
            let mut heights = Vec::new();
            for i in 0..p.count() {
                let r = p.range(i);
                assert_eq!(r.start, next);
                next = r.end;
                heights.push(r.len());
            }
            assert_eq!(next, m);
            if let (Some(min), Some(max)) = (heights.iter().min(), heights.iter().max()) {
                assert!(*max <= MR && max - min <= 1);
            }
        }
    }
}
