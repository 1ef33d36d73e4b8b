//! Indirect products: `C[m, n] = Σ_run Σ_j A[base(m) + offset(run) + j] · B[(run, j), n]`.
//!
//! A matrix product is the case of one run and bases `m * lda`. A channels-last convolution has a row for every output
//! pixel and a run for every kernel row, because the taps (kx, c) of a kernel row are consecutive in memory; neither an
//! im2col copy nor a packed A is needed (compare Dukhan, "The Indirect Convolution Algorithm", arXiv:1907.02129, which keeps
//! pointers for every tap). B is packed, once where it is constant.
//!
//! [`multiply`] is one task: some rows by some column panels. Its order is column group → k-block → panels of a tile → row tile:
//! the panels' k-block stays near while the rows, which stay in the second-level cache, pass by, and B is read once.

pub(crate) mod finish;
mod panels;
pub(crate) mod tile;
#[cfg(target_arch = "x86_64")]
mod wide;

pub(crate) use panels::{PackedB, Panels, k_blocks, with_panels};

use crate::{
    Isa,
    gemm::tile::{MOST_ROWS, NR, RowPanels, Sink},
    scratch::with_scratch,
};
use std::ops::{Deref, Range};
use tile::{Ahead, Level, Start, Stretch, TileOf};

/// Panels of a column group: the sums of 96 rows by 128 columns (48 KiB) share the second-level cache with A.
const GROUP_PANELS: usize = 8;
/// Most panels of a tile.
const MOST_PANELS: usize = 4;
/// Rows of a task that its users aim at.
pub(crate) const TASK_ROWS: usize = 96;

/// Defines `unsafe fn name(isa, args)` that runs `body` for the tiles of the level and compiled for it.
macro_rules! per_level {
    ($(#[$meta:meta])* unsafe fn $name:ident$(<$s:ident: $bound:path>)?($($arg:ident: $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        unsafe fn $name$(<$s: $bound>)?(isa: Isa, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                unsafe fn avx2$(<$s: $bound>)?($($arg: $ty),*) {
                    // SAFETY: the caller's contract; the host has the level where this function may be called.
                    unsafe { $body::<tile::Avx2 $(, $s)?>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
                #[allow(clippy::too_many_arguments)]
                unsafe fn avx512$(<$s: $bound>)?($($arg: $ty),*) {
                    // SAFETY: as above.
                    unsafe { $body::<wide::Avx512 $(, $s)?>($($arg),*) }
                }
                match isa.usable() {
                    Isa::Generic => {}
                    // SAFETY: the caller's contract; `usable` returns a level only where the host has it.
                    Isa::Avx2 => return unsafe { avx2$(::<$s>)?($($arg),*) },
                    // SAFETY: as above.
                    Isa::Avx512 | Isa::Amx => return unsafe { avx512$(::<$s>)?($($arg),*) },
                }
            }
            let _ = isa;
            // SAFETY: the caller's contract.
            unsafe { $body::<tile::Generic $(, $s)?>($($arg),*) }
        }
    };
}

/// Where rows begin, in ascending order.
#[derive(Clone, Copy)]
pub(crate) struct Bases<'a>(&'a [usize]);

impl<'a> Bases<'a> {
    /// # Panics
    /// They are in another order.
    pub(crate) fn new(bases: &'a [usize]) -> Bases<'a> {
        assert!(bases.is_sorted(), "rows follow each other");
        Bases(bases)
    }

    /// The first `n`.
    pub(crate) fn first(self, n: usize) -> Bases<'a> {
        Bases(&self.0[..n])
    }

    /// The last row's.
    pub(crate) fn farthest(self) -> usize {
        self.0.last().copied().unwrap_or(0)
    }
}

impl Deref for Bases<'_> {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        self.0
    }
}

/// Rows of A.
pub(crate) struct Rows<'a, A> {
    /// Where they lie.
    pub(crate) data: &'a [A],
    /// Start of each row.
    pub(crate) bases: Bases<'a>,
    /// Start of each run, from the row's.
    pub(crate) offsets: &'a [usize],
    /// Rows after rows, so many at a time, lie at equal distances.
    pub(crate) line: usize,
}

/// Multiplies the rows by the columns of `panels`, and hands every tile to `sink`: row 0 is the first of `rows`, columns are
/// those of B. The elements of a run are `step` apart. Without any depth the sums are zero.
///
/// # Panics
/// A run of a row lies outside `rows.data`, or there are other numbers of runs in `rows` and `b`.
pub(crate) fn multiply<S: Sink<f32>>(
    isa: Isa,
    rows: &Rows<'_, f32>,
    step: usize,
    b: &Panels<'_>,
    panels: Range<usize>,
    sink: &S,
) {
    assert!(rows.offsets.len() == b.runs && panels.end <= b.count(), "rows and packed columns belong together");
    if rows.bases.is_empty() {
        return;
    }
    if b.blocks.is_empty() {
        put_zeros(rows.bases.len(), b, panels, sink);
        return;
    }
    let last = rows.bases.farthest() + rows.offsets.iter().max().unwrap_or(&0) + (b.run_len - 1) * step;
    assert!(last < rows.data.len(), "every run lies inside A");
    // Sums wait here for the next k-block, `[panel of the group][row][16]`.
    let waiting = if b.blocks.len() == 1 { 0 } else { rows.bases.len() * GROUP_PANELS * NR };
    with_scratch::<f32, _>(waiting, |sums| {
        // SAFETY: the rows' runs lie inside A (checked above).
        unsafe { tiles(isa, rows, step, b, panels, sink, sums) }
    });
}

/// Multiplies rows of A, one run each that begins at its base, by the columns of `panels`, and leaves the sums in
/// `c[panel][row][16]`: no epilogue, and nothing is prepared that short products would notice.
///
/// # Panics
/// B has several runs, a row lies outside `a`, or `c` has another length.
pub(crate) fn multiply_plain(
    isa: Isa,
    a: &[f32],
    bases: &[usize],
    b: &Panels<'_>,
    panels: Range<usize>,
    c: &mut [f32],
) {
    let last = bases.iter().max().copied().unwrap_or(0) + b.run_len;
    assert!(b.runs == 1 && panels.end <= b.count() && last <= a.len(), "every row lies inside A");
    assert!(c.len() == panels.len() * bases.len() * NR, "a sum for every row and column");
    if b.blocks.is_empty() {
        c.fill(0.0);
    }
    // SAFETY: the rows lie inside A, and C has a place for every sum (checked above).
    unsafe { plain_tiles(isa, a, bases, b, panels, c) }
}

per_level! {
    /// [`multiply_plain`] with checked operands.
    ///
    /// # Safety
    /// A run of B's length lies in A from every base on; C is `[panel][row][16]`.
    unsafe fn plain_tiles(a: &[f32], bases: &[usize], b: &Panels<'_>, panels: Range<usize>, c: &mut [f32]) =
        plain_tiles_body
}

#[inline(always)]
unsafe fn plain_tiles_body<L: Level>(a: &[f32], bases: &[usize], b: &Panels<'_>, panels: Range<usize>, c: &mut [f32]) {
    let row_panels = RowPanels::lower(bases.len(), L::ROWS);
    let highest = bases.len().div_ceil(row_panels.count().max(1));
    let sums = c.as_chunks_mut::<NR>().0;
    for block in b.blocks {
        let start = if block.start == 0 { Start::Zero } else { Start::Acc };
        let stretches = [Stretch { offset: block.start, steps: block.len(), step: 1 }];
        let mut panel = panels.start;
        while panel < panels.end {
            let width = L::panels(highest, panels.end - panel);
            let next = panel + width;
            let after = b.panels(block, next.min(panels.end)..panels.end.min(next + width));
            let mut ahead = Ahead::new(after, row_panels.count() * block.len(), width);
            for rows in (0..row_panels.count()).map(|t| row_panels.range(t)) {
                let first = (panel - panels.start) * bases.len() + rows.start;
                let t = TileOf {
                    a: a.as_ptr(),
                    bases: &bases[rows.clone()],
                    stretches: &stretches,
                    b: b.panel(block, panel).as_ptr(),
                    b_pitch: block.len() * NR,
                    start,
                    sums: sums[first..first + (width - 1) * bases.len() + rows.len()].as_mut_ptr(),
                    sums_pitch: bases.len(),
                    straight: None,
                };
                // SAFETY: this function's contract; the panels are neighbours, and the sums have a place (sliced above).
                unsafe { L::tile(&t, width, &mut ahead) };
            }
            panel = next;
        }
    }
}

per_level! {
    /// [`multiply`] with checked operands that have some depth.
    ///
    /// # Safety
    /// The rows' runs lie inside A.
    unsafe fn tiles<S: Sink<f32>>(
        rows: &Rows<'_, f32>,
        step: usize,
        b: &Panels<'_>,
        panels: Range<usize>,
        sink: &S,
        sums: &mut [f32],
    ) = tiles_body
}

#[inline(always)]
unsafe fn tiles_body<L: Level, S: Sink<f32>>(
    rows: &Rows<'_, f32>,
    step: usize,
    b: &Panels<'_>,
    panels: Range<usize>,
    sink: &S,
    sums: &mut [f32],
) {
    let m = rows.bases.len();
    let row_panels = RowPanels::lower(m, L::ROWS);
    let ranges: Vec<Range<usize>> = (0..row_panels.count()).map(|t| row_panels.range(t)).collect();
    let highest = ranges.first().map_or(0, Range::len);
    let blocks: Vec<(&Range<usize>, Vec<Stretch>)> =
        b.blocks.iter().map(|block| (block, b.stretches(block, rows.offsets, step))).collect();
    let last = blocks.len() - 1;
    let mut own = OwnSums([[[0.0; NR]; MOST_ROWS]; MOST_PANELS]);
    for first in panels.clone().step_by(GROUP_PANELS) {
        let group = first..panels.end.min(first + GROUP_PANELS);
        for (i, (block, stretches)) in blocks.iter().enumerate() {
            let start = if i == 0 { Start::Zero } else { Start::Acc };
            let mut panel = group.start;
            while panel < group.end {
                let width = L::panels(highest, group.end - panel);
                let next = panel + width;
                // What comes after: the next panels, k-block or column group.
                let after = if next < group.end {
                    b.panels(block, next..group.end.min(next + width))
                } else if i < last {
                    b.panel(blocks[i + 1].0, group.start)
                } else if group.end < panels.end {
                    b.panel(blocks[0].0, group.end)
                } else {
                    &[]
                };
                let mut ahead = Ahead::new(after, ranges.len() * block.len(), width);
                for r in &ranges {
                    let (to, pitch) = if last == 0 {
                        (own.0.as_flattened_mut(), MOST_ROWS)
                    } else {
                        (&mut sums.as_chunks_mut().0[(panel - group.start) * m + r.start..], m)
                    };
                    if i == last {
                        (panel..next).for_each(|panel| sink.prepare(r.start, r.len(), panel * NR));
                    }
                    let cols = b.n.min(next * NR) - panel * NR;
                    let straight =
                        if L::STRAIGHT && i == last { sink.straight(r.start, r.len(), panel * NR, cols) } else { None };
                    let t = TileOf {
                        a: rows.data.as_ptr(),
                        bases: &rows.bases[r.clone()],
                        stretches,
                        b: b.panel(block, panel).as_ptr(),
                        b_pitch: block.len() * NR,
                        start,
                        sums: to[..(width - 1) * pitch + r.len()].as_mut_ptr(),
                        sums_pitch: pitch,
                        straight,
                    };
                    // SAFETY: this function's contract; the panels are neighbours, and the sums have a place (sliced above).
                    unsafe { L::tile(&t, width, &mut ahead) };
                    if i == last && straight.is_none() {
                        for p in 0..width {
                            let col = (panel + p) * NR;
                            sink.put(r.start, col, NR.min(b.n - col), &to[p * pitch..][..r.len()]);
                        }
                    }
                }
                panel = next;
            }
        }
    }
}

/// The sums of one tile, `[panel][row][16]`.
#[repr(align(64))]
struct OwnSums([[[f32; NR]; MOST_ROWS]; MOST_PANELS]);

fn put_zeros<S: Sink<f32>>(m: usize, b: &Panels<'_>, panels: Range<usize>, sink: &S) {
    for row in 0..m {
        for panel in panels.clone() {
            sink.put(row, panel * NR, NR.min(b.n - panel * NR), &[[0.0; NR]]);
        }
    }
}
