//! Indirect products: `C[m, n] = Σ_run Σ_j A[base(m) + offset(run) + j] · B[(run, j), n]`.
//!
//! A matrix product is the case of one run and bases `m * lda`. A channels-last convolution has a row for every output
//! pixel and a run for every kernel row, because the taps (kx, c) of a kernel row are consecutive in memory; neither an
//! im2col copy nor a packed A is needed (compare Dukhan, "The Indirect Convolution Algorithm", arXiv:1907.02129, which keeps
//! pointers for every tap). B is packed, once where it is constant.
//!
//! [`multiply`] is one task: some rows by some column panels. Its order is column group → k-block → panel → row tile: a
//! panel's k-block stays in the first-level cache while the rows, which stay in the second, pass by, and B is read once.

pub(crate) mod finish;
pub(crate) mod tile;

use crate::{
    Ctx, Isa,
    gemm::tile::{Acc, MR, NR, RowPanels, Sink},
    pool::Disjoint,
    scratch::with_scratch,
};
use std::ops::Range;
use tile::{Ahead, Start, Stretch};

/// Steps of the deepest k-block: a panel's takes three quarters of a 32 KiB first-level cache; the rest is for A and C.
const DEEPEST: usize = (24 << 10) / (NR * size_of::<f32>());
/// Panels of a column group: the sums of 96 rows by 128 columns (48 KiB) share the second-level cache with A.
const GROUP_PANELS: usize = 8;
/// Steps that packing takes of one column at a time: a cache line of f32 weights.
const PACK_STEPS: usize = 16;
/// Panels of a task of packing.
const PACK_PANELS: usize = 4;
/// Elements below which packing is not shared: waking a thread costs more.
const SMALL: usize = 1 << 14;
/// Rows of a task that its users aim at.
pub(crate) const TASK_ROWS: usize = 96;

/// B packed into panels of 16 columns, k-block after k-block, `[k-block][panel][step][16]`.
pub(crate) struct PackedB {
    n: usize,
    runs: usize,
    run_len: usize,
    /// Steps of each k-block.
    blocks: Vec<Range<usize>>,
    data: Vec<f32>,
}

/// Writes steps of a panel, `[step][16]`, with zeros past the last column: `fill(steps, panel, out)`.
pub(crate) type Fill<'a> = dyn Fn(Range<usize>, usize, &mut [f32]) + Sync + 'a;

impl PackedB {
    /// Packs `runs` runs of `run_len` elements by `n` columns: element k of column j is `w[column(j) + places[k]]`.
    pub(crate) fn new(
        n: usize,
        [runs, run_len]: [usize; 2],
        w: &[f32],
        places: &[usize],
        column: impl Fn(usize) -> usize,
    ) -> PackedB {
        let blocks = k_blocks(runs * run_len);
        let panels = n.div_ceil(NR);
        let mut data = Vec::with_capacity(runs * run_len * panels * NR);
        for block in &blocks {
            for panel in 0..panels {
                let start = data.len();
                data.resize(start + block.len() * NR, 0.0);
                // Some steps of a column after those of another: columns lie far apart, steps often side by side.
                for (chunk, out) in data[start..].chunks_mut(PACK_STEPS * NR).enumerate() {
                    let places = &places[block.start + chunk * PACK_STEPS..];
                    for (lane, j) in (panel * NR..n.min((panel + 1) * NR)).enumerate() {
                        let column = w.get(column(j)..).unwrap_or_default();
                        for (out, &at) in out.as_chunks_mut::<NR>().0.iter_mut().zip(places) {
                            out[lane] = column[at];
                        }
                    }
                }
            }
        }
        PackedB { n, runs, run_len, blocks, data }
    }

    /// Packs one run of `depth` elements by `n` columns on the threads of a pool.
    pub(crate) fn filled(cx: Ctx<'_>, n: usize, depth: usize, fill: &Fill<'_>) -> PackedB {
        let blocks = k_blocks(depth);
        let mut data = vec![0.0; depth * n.next_multiple_of(NR)];
        fill_panels(cx, n, &blocks, &mut data, fill);
        PackedB { n, runs: 1, run_len: depth, blocks, data }
    }

    /// Packs `count` matrices of `depth` rows and `n` columns whose elements come together: `fill(row, columns, out)` writes
    /// the 16 columns of a panel in that row of each matrix; columns past the last are zero.
    pub(crate) fn together(
        count: usize,
        n: usize,
        depth: usize,
        fill: impl Fn(usize, Range<usize>, &mut [[f32; NR]]),
    ) -> Vec<PackedB> {
        let blocks = k_blocks(depth);
        let panels = n.div_ceil(NR);
        let empty = |_| {
            let data = vec![0.0; depth * panels * NR];
            PackedB { n, runs: 1, run_len: depth, blocks: blocks.clone(), data }
        };
        let mut matrices: Vec<PackedB> = (0..count).map(empty).collect();
        let mut row = vec![[0.0; NR]; count];
        for block in &blocks {
            for panel in 0..panels {
                let start = block.start * panels * NR + panel * block.len() * NR;
                for (i, step) in block.clone().enumerate() {
                    fill(step, panel * NR..n.min((panel + 1) * NR), &mut row);
                    for (matrix, row) in matrices.iter_mut().zip(&row) {
                        matrix.data[start + i * NR..][..NR].copy_from_slice(row);
                    }
                }
            }
        }
        matrices
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.data[..])
    }

    /// Panels of 16 columns.
    pub(crate) fn panels(&self) -> usize {
        self.n.div_ceil(NR)
    }

    /// Elements of a run.
    pub(crate) fn run_len(&self) -> usize {
        self.run_len
    }

    /// The panels, borrowed.
    pub(crate) fn view(&self) -> Panels<'_> {
        Panels { n: self.n, runs: self.runs, run_len: self.run_len, blocks: &self.blocks, data: &self.data }
    }
}

/// Calls `f` with one run of `depth` elements by `n` columns, packed into working memory.
pub(crate) fn with_panels(cx: Ctx<'_>, n: usize, depth: usize, fill: &Fill<'_>, f: impl FnOnce(&Panels<'_>)) {
    let blocks = k_blocks(depth);
    with_scratch::<f32, _>(depth * n.next_multiple_of(NR), |data| {
        fill_panels(cx, n, &blocks, data, fill);
        f(&Panels { n, runs: 1, run_len: depth, blocks: &blocks, data });
    });
}

fn fill_panels(cx: Ctx<'_>, n: usize, blocks: &[Range<usize>], data: &mut [f32], fill: &Fill<'_>) {
    let panels = n.div_ceil(NR);
    let small = data.len() < SMALL;
    let out = Disjoint::new(data);
    let task = |t: usize| {
        for block in blocks {
            for panel in t * PACK_PANELS..panels.min((t + 1) * PACK_PANELS) {
                let len = block.len() * NR;
                // SAFETY: each panel of each k-block has its own part and is packed by one task.
                let out = unsafe { out.slice(block.start * panels * NR + panel * len, len) };
                fill(block.clone(), panel, out);
            }
        }
    };
    let tasks = panels.div_ceil(PACK_PANELS);
    if small { (0..tasks).for_each(task) } else { cx.pool.run(tasks, &task) }
}

/// A borrowed [`PackedB`].
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    n: usize,
    runs: usize,
    run_len: usize,
    blocks: &'a [Range<usize>],
    data: &'a [f32],
}

impl Panels<'_> {
    /// Panels of 16 columns.
    pub(crate) fn count(&self) -> usize {
        self.n.div_ceil(NR)
    }

    /// Elements of a column.
    pub(crate) fn depth(&self) -> usize {
        self.runs * self.run_len
    }

    /// A panel's part of a k-block.
    fn panel(&self, block: &Range<usize>, panel: usize) -> &[f32] {
        let len = block.len() * NR;
        let start = block.start * self.count() * NR + panel * len;
        &self.data[start..start + len]
    }

    /// The parts of `block` that lie in one run each.
    fn stretches(&self, block: &Range<usize>, offsets: &[usize], step: usize) -> Vec<Stretch> {
        let (mut first, mut found) = (block.start, Vec::new());
        while first < block.end {
            let (run, j) = (first / self.run_len, first % self.run_len);
            let end = block.end.min((run + 1) * self.run_len);
            found.push(Stretch { offset: offsets[run] + j * step, steps: end - first, step });
            first = end;
        }
        found
    }
}

/// `0..steps` cut into blocks of nearly equal depth, at most [`DEEPEST`], at multiples of 8 where there are several.
fn k_blocks(steps: usize) -> Vec<Range<usize>> {
    let count = steps.div_ceil(DEEPEST);
    let cut = |i: usize| if i == count { steps } else { steps * i / count / 8 * 8 };
    (0..count).map(|i| cut(i)..cut(i + 1)).collect()
}

/// Rows of A.
pub(crate) struct Rows<'a, A> {
    /// Where they lie.
    pub(crate) data: &'a [A],
    /// Start of each row.
    pub(crate) bases: &'a [usize],
    /// Start of each run, from the row's.
    pub(crate) offsets: &'a [usize],
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
    let farthest = |of: &[usize]| of.iter().max().copied().unwrap_or(0);
    let last = farthest(rows.bases) + farthest(rows.offsets) + (b.run_len - 1) * step;
    assert!(last < rows.data.len(), "every run lies inside A");
    // Sums wait here for the next k-block, `[panel of the group][row][16]`. It is made here because a closure would not be
    // compiled for the level.
    let waiting = if b.blocks.len() == 1 { 0 } else { rows.bases.len() * GROUP_PANELS * NR };
    with_scratch::<f32, _>(waiting, |sums| match isa.usable() {
        // SAFETY: the rows' runs lie inside A (checked above).
        Isa::Generic => unsafe {
            tiles(rows, step, b, panels, sink, sums, |rows, at, s, b, start, ahead, acc| {
                generic_tile(rows, at, s, b, start, ahead, acc)
            })
        },
        // SAFETY: as above; `usable` returns a level only where the host has it.
        Isa::Avx2 => unsafe { multiply_avx2(rows, step, b, panels, sink, sums) },
        // SAFETY: as above.
        Isa::Avx512 => unsafe { multiply_avx512(rows, step, b, panels, sink, sums) },
    });
}

/// # Safety
/// The rows' runs lie inside A; the host has AVX2 and FMA.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
unsafe fn multiply_avx2<S: Sink<f32>>(
    rows: &Rows<'_, f32>,
    step: usize,
    b: &Panels<'_>,
    panels: Range<usize>,
    sink: &S,
    sums: &mut [f32],
) {
    // SAFETY: this function's contract.
    unsafe {
        tiles(rows, step, b, panels, sink, sums, |rows, at, s, b, start, ahead, acc| {
            avx2_tile(rows, at, s, b, start, ahead, acc)
        })
    }
}

/// # Safety
/// The rows' runs lie inside A; the host has `Isa::Avx512`.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,avx512f,avx512vl"))]
unsafe fn multiply_avx512<S: Sink<f32>>(
    rows: &Rows<'_, f32>,
    step: usize,
    b: &Panels<'_>,
    panels: Range<usize>,
    sink: &S,
    sums: &mut [f32],
) {
    // SAFETY: this function's contract.
    unsafe {
        tiles(rows, step, b, panels, sink, sums, |rows, at, s, b, start, ahead, acc| match rows.len() {
            1 => tile::avx512::<1>(&pointers(at, rows), s, b, start, ahead, acc),
            2 => tile::avx512::<2>(&pointers(at, rows), s, b, start, ahead, acc),
            3 => tile::avx512::<3>(&pointers(at, rows), s, b, start, ahead, acc),
            4 => tile::avx512::<4>(&pointers(at, rows), s, b, start, ahead, acc),
            5 => tile::avx512::<5>(&pointers(at, rows), s, b, start, ahead, acc),
            _ => tile::avx512::<6>(&pointers(at, rows), s, b, start, ahead, acc),
        });
    }
}

/// The tile of as many rows as `bases` has.
///
/// # Safety
/// That of [`tile::generic`] for the rows that begin there.
#[inline(always)]
unsafe fn generic_tile(
    bases: &[usize],
    at: *const f32,
    s: &[Stretch],
    b: *const f32,
    start: Start,
    ahead: &mut Ahead,
    acc: *mut [f32; NR],
) {
    // SAFETY: this function's contract.
    unsafe {
        match bases.len() {
            1 => tile::generic::<1>(&pointers(at, bases), s, b, start, ahead, acc),
            2 => tile::generic::<2>(&pointers(at, bases), s, b, start, ahead, acc),
            3 => tile::generic::<3>(&pointers(at, bases), s, b, start, ahead, acc),
            4 => tile::generic::<4>(&pointers(at, bases), s, b, start, ahead, acc),
            5 => tile::generic::<5>(&pointers(at, bases), s, b, start, ahead, acc),
            _ => tile::generic::<6>(&pointers(at, bases), s, b, start, ahead, acc),
        }
    }
}

/// As [`generic_tile`].
///
/// # Safety
/// That of [`generic_tile`]; the host has AVX2 and FMA.
#[inline(always)]
unsafe fn avx2_tile(
    bases: &[usize],
    at: *const f32,
    s: &[Stretch],
    b: *const f32,
    start: Start,
    ahead: &mut Ahead,
    acc: *mut [f32; NR],
) {
    // SAFETY: this function's contract.
    unsafe {
        match bases.len() {
            1 => tile::avx2::<1>(&pointers(at, bases), s, b, start, ahead, acc),
            2 => tile::avx2::<2>(&pointers(at, bases), s, b, start, ahead, acc),
            3 => tile::avx2::<3>(&pointers(at, bases), s, b, start, ahead, acc),
            4 => tile::avx2::<4>(&pointers(at, bases), s, b, start, ahead, acc),
            5 => tile::avx2::<5>(&pointers(at, bases), s, b, start, ahead, acc),
            _ => tile::avx2::<6>(&pointers(at, bases), s, b, start, ahead, acc),
        }
    }
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
    match isa.usable() {
        // SAFETY: the rows lie inside A, and C has a place for every sum (checked above).
        Isa::Generic => unsafe {
            plain_tiles(a, bases, b, panels, c, |rows, at, s, b, start, ahead, acc| {
                generic_tile(rows, at, s, b, start, ahead, acc)
            })
        },
        // SAFETY: as above; `usable` returns `Avx2` or more only where the host has AVX2 and FMA.
        Isa::Avx2 | Isa::Avx512 => unsafe { multiply_plain_avx2(a, bases, b, panels, c) },
    }
}

/// # Safety
/// That of [`plain_tiles`]; the host has AVX2 and FMA.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
unsafe fn multiply_plain_avx2(a: &[f32], bases: &[usize], b: &Panels<'_>, panels: Range<usize>, c: &mut [f32]) {
    // SAFETY: this function's contract.
    unsafe {
        plain_tiles(a, bases, b, panels, c, |rows, at, s, b, start, ahead, acc| {
            avx2_tile(rows, at, s, b, start, ahead, acc)
        })
    }
}

/// # Safety
/// A run of B's length lies in A from every base on; C is `[panel][row][16]`; `tile` may be called for such rows.
#[inline(always)]
unsafe fn plain_tiles(
    a: &[f32],
    bases: &[usize],
    b: &Panels<'_>,
    panels: Range<usize>,
    c: &mut [f32],
    tile: impl Fn(&[usize], *const f32, &[Stretch], *const f32, Start, &mut Ahead, *mut [f32; NR]),
) {
    let row_panels = RowPanels::new(bases.len());
    for block in b.blocks {
        let start = if block.start == 0 { Start::Zero } else { Start::Acc };
        let stretch = [Stretch { offset: block.start, steps: block.len(), step: 1 }];
        for (panel, c) in panels.clone().zip(c.chunks_exact_mut(bases.len() * NR)) {
            let mut ahead = Ahead::new(if panel + 1 < panels.end { b.panel(block, panel + 1) } else { &[] });
            let data = b.panel(block, panel).as_ptr();
            for rows in (0..row_panels.count()).map(|t| row_panels.range(t)) {
                let sums = c[rows.start * NR..rows.end * NR].as_mut_ptr().cast();
                tile(&bases[rows], a.as_ptr(), &stretch, data, start, &mut ahead, sums);
            }
        }
    }
}

/// The first elements of R rows.
#[inline(always)]
fn pointers<const R: usize>(data: *const f32, bases: &[usize]) -> [*const f32; R] {
    std::array::from_fn(|r| data.wrapping_add(bases[r]))
}

/// # Safety
/// The rows' runs lie inside A, and `tile(bases, A, stretches, B, start, ahead, acc)` may be called for such rows.
#[inline(always)]
unsafe fn tiles<S: Sink<f32>>(
    rows: &Rows<'_, f32>,
    step: usize,
    b: &Panels<'_>,
    panels: Range<usize>,
    sink: &S,
    sums: &mut [f32],
    tile: impl Fn(&[usize], *const f32, &[Stretch], *const f32, Start, &mut Ahead, *mut [f32; NR]),
) {
    let m = rows.bases.len();
    let row_panels = RowPanels::new(m);
    let ranges: Vec<Range<usize>> = (0..row_panels.count()).map(|t| row_panels.range(t)).collect();
    let last = b.blocks.len().saturating_sub(1);
    let blocks: Vec<(&Range<usize>, Vec<Stretch>)> =
        b.blocks.iter().map(|block| (block, b.stretches(block, rows.offsets, step))).collect();
    let mut acc = Acc([[0.0; NR]; MR]);
    for first in panels.clone().step_by(GROUP_PANELS) {
        let group = first..panels.end.min(first + GROUP_PANELS);
        for (i, (block, stretches)) in blocks.iter().enumerate() {
            let start = if i == 0 { Start::Zero } else { Start::Acc };
            for (p, panel) in group.clone().enumerate() {
                let data = b.panel(block, panel);
                // What comes after: the next panel, k-block or column group.
                let mut ahead = Ahead::new(if panel + 1 < group.end {
                    b.panel(block, panel + 1)
                } else if i < last {
                    b.panel(blocks[i + 1].0, group.start)
                } else if group.end < panels.end {
                    b.panel(blocks[0].0, group.end)
                } else {
                    &[]
                });
                for r in &ranges {
                    let at = (p * m + r.start) * NR;
                    let to = if last == 0 {
                        acc.0.as_mut_ptr()
                    } else {
                        sums[at..at + r.len() * NR].as_mut_ptr().cast::<[f32; NR]>()
                    };
                    if i == last {
                        sink.prepare(r.start, r.len(), panel * NR);
                    }
                    tile(&rows.bases[r.clone()], rows.data.as_ptr(), stretches, data.as_ptr(), start, &mut ahead, to);
                    if i == last {
                        if last > 0 {
                            // Row by row, since a copy of any length would be a call.
                            for (acc, done) in acc.0.iter_mut().zip(sums[at..at + r.len() * NR].as_chunks().0) {
                                *acc = *done;
                            }
                        }
                        let cols = NR.min(b.n - panel * NR);
                        sink.put(r.start, r.len(), panel * NR, cols, &acc);
                    }
                }
            }
        }
    }
}

fn put_zeros<S: Sink<f32>>(m: usize, b: &Panels<'_>, panels: Range<usize>, sink: &S) {
    let zero = Acc([[0.0; NR]; MR]);
    for row in 0..m {
        for panel in panels.clone() {
            sink.put(row, 1, panel * NR, NR.min(b.n - panel * NR), &zero);
        }
    }
}
