//! Indirect products: `C[m, n] = Σ_run Σ_j A[base(m) + offset(run) + j] · B[(run, j), n]`.
//!
//! A matrix product is the case of one run and bases `m * lda`. A channels-last convolution has a row for every output
//! pixel and a run for every kernel row, because the taps (kx, c) of a kernel row are consecutive in memory; neither an
//! im2col copy nor a packed A is needed (compare Dukhan, "The Indirect Convolution Algorithm", arXiv:1907.02129, which keeps
//! pointers for every tap). B is packed once.
//!
//! [`multiply`] is one task: some rows by some column panels. Its order is column group → k-block → panel → row tile: a
//! panel's k-block stays in the first-level cache while the rows, which stay in the second, pass by, and B is read once.

pub(crate) mod finish;
pub(crate) mod tile;

use crate::{
    Isa,
    gemm::tile::{Acc, MR, NR, RowPanels, Sink},
    scratch::with_scratch,
};
use bytemuck::Zeroable;
use std::ops::Range;
use tile::{Ahead, Kind, Start, Stretch};

/// Bytes of one column panel's k-block: half of a 32 KiB first-level cache; the rest is for A and C.
const PANEL_BYTES: usize = 16 << 10;
/// Panels of a column group: the sums of 96 rows by 128 columns (48 KiB) share the second-level cache with A.
const GROUP_PANELS: usize = 8;
/// Steps that packing takes of one column at a time: a cache line of f32 weights.
const PACK_STEPS: usize = 16;
/// Rows of a task that its users aim at.
pub(crate) const TASK_ROWS: usize = 96;

/// B packed into panels of 16 columns, k-block after k-block, `[k-block][panel][step][16][GROUP]`.
pub(crate) struct PackedB<K: Kind> {
    n: usize,
    runs: usize,
    run_len: usize,
    /// Steps of each k-block.
    blocks: Vec<Range<usize>>,
    data: Vec<K::B>,
    /// `[k-block][panel]`
    prepared: Vec<K::Panel>,
}

impl<K: Kind> PackedB<K> {
    /// Packs `runs` runs of `run_len` elements by `n` columns; `at(run, j, column)` is an element of B.
    pub(crate) fn new(n: usize, runs: usize, run_len: usize, at: impl Fn(usize, usize, usize) -> K::B) -> PackedB<K> {
        let run_steps = run_len.div_ceil(K::GROUP);
        let blocks = k_blocks(runs * run_steps, PANEL_BYTES / (NR * K::GROUP * size_of::<K::B>()));
        let panels = n.div_ceil(NR);
        let mut data = Vec::with_capacity(runs * run_steps * K::GROUP * panels * NR);
        let mut prepared = Vec::with_capacity(blocks.len() * panels);
        for block in &blocks {
            let stretches: Vec<usize> = stretches(run_steps, block).map(|s| s.len()).collect();
            for panel in 0..panels {
                let start = data.len();
                data.resize(start + block.len() * NR * K::GROUP, K::B::zeroed());
                // Some steps of a column after those of another: columns lie far apart, steps often side by side.
                for (chunk, out) in data[start..].chunks_mut(PACK_STEPS * NR * K::GROUP).enumerate() {
                    let first = block.start + chunk * PACK_STEPS;
                    let steps: Vec<(usize, usize)> = (first..first + out.len() / (NR * K::GROUP))
                        .map(|step| (step / run_steps, step % run_steps * K::GROUP))
                        .collect();
                    for column in panel * NR..n.min((panel + 1) * NR) {
                        for (&(run, first), out) in steps.iter().zip(out.chunks_exact_mut(NR * K::GROUP)) {
                            let out = &mut out[column % NR * K::GROUP..][..K::GROUP.min(run_len - first)];
                            for (j, out) in (first..).zip(out) {
                                *out = at(run, j, column);
                            }
                        }
                    }
                }
                prepared.push(K::panel(&mut data[start..], &stretches));
            }
        }
        PackedB { n, runs, run_len, blocks, data, prepared }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.data[..])
    }

    /// Panels of 16 columns.
    pub(crate) fn panels(&self) -> usize {
        self.n.div_ceil(NR)
    }

    /// Elements that a run of A is read for: its length rounded up to whole steps.
    pub(crate) fn run_span(&self) -> usize {
        self.run_len.next_multiple_of(K::GROUP)
    }

    /// A panel's part of a k-block.
    fn panel(&self, block: &Range<usize>, panel: usize) -> &[K::B] {
        let len = block.len() * NR * K::GROUP;
        let start = block.start * self.panels() * NR * K::GROUP + panel * len;
        &self.data[start..start + len]
    }

    /// The stretches of a k-block.
    fn stretches(&self, block: &Range<usize>, offsets: &[usize]) -> Vec<Stretch> {
        let run_steps = self.run_span() / K::GROUP;
        stretches(run_steps, block)
            .map(|s| Stretch { offset: offsets[s.start / run_steps] + s.start % run_steps * K::GROUP, steps: s.len() })
            .collect()
    }
}

/// The parts of `block` that lie in one run of `run_steps` steps each.
fn stretches(run_steps: usize, block: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let (mut step, end) = (block.start, block.end);
    std::iter::from_fn(move || {
        let first = step;
        step = end.min((first / run_steps.max(1) + 1) * run_steps);
        (first < end).then_some(first..step)
    })
}

/// `0..steps` cut into blocks of nearly equal depth, at most `deepest`, at multiples of 8 where there are several.
fn k_blocks(steps: usize, deepest: usize) -> Vec<Range<usize>> {
    let count = steps.div_ceil(deepest);
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
/// those of B. Without any depth the sums are zero.
///
/// # Panics
/// A run of a row lies outside `rows.data`, or there are other numbers of runs in `rows` and `b`.
pub(crate) fn multiply<K: Kind, S: Sink<K::Sum>>(
    isa: Isa,
    rows: &Rows<'_, K::A>,
    b: &PackedB<K>,
    panels: Range<usize>,
    sink: &S,
) {
    assert!(rows.offsets.len() == b.runs && panels.end <= b.panels(), "rows and packed columns belong together");
    if rows.bases.is_empty() {
        return;
    }
    let farthest = |of: &[usize]| of.iter().max().copied().unwrap_or(0);
    let end = farthest(rows.bases) + farthest(rows.offsets) + b.run_span();
    assert!(b.runs == 0 || end <= rows.data.len(), "every run lies inside A");
    if b.blocks.is_empty() {
        put_zeros(rows.bases.len(), b, panels, sink);
        return;
    }
    // Sums wait here for the next k-block, `[panel of the group][row][16]`. It is made here because a closure would not be
    // compiled for the level.
    let waiting = if b.blocks.len() == 1 { 0 } else { rows.bases.len() * GROUP_PANELS * NR };
    with_scratch::<K::Sum, _>(waiting, |sums| match isa.usable() {
        // SAFETY: the rows' runs lie inside A (checked above).
        Isa::Generic => unsafe {
            tiles::<K, S>(rows, b, panels, sink, sums, |rows, at, s, b, p, start, ahead, acc| match rows.len() {
                1 => K::tile::<1>(&pointers(at, rows), s, b, p, start, ahead, acc),
                2 => K::tile::<2>(&pointers(at, rows), s, b, p, start, ahead, acc),
                3 => K::tile::<3>(&pointers(at, rows), s, b, p, start, ahead, acc),
                4 => K::tile::<4>(&pointers(at, rows), s, b, p, start, ahead, acc),
                5 => K::tile::<5>(&pointers(at, rows), s, b, p, start, ahead, acc),
                _ => K::tile::<6>(&pointers(at, rows), s, b, p, start, ahead, acc),
            });
        },
        // SAFETY: as above; `usable` returns `Avx2` only where the host has AVX2 and FMA.
        Isa::Avx2 => unsafe { multiply_avx2::<K, S>(rows, b, panels, sink, sums) },
    });
}

/// # Safety
/// The rows' runs lie inside A; the host has AVX2 and FMA.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
unsafe fn multiply_avx2<K: Kind, S: Sink<K::Sum>>(
    rows: &Rows<'_, K::A>,
    b: &PackedB<K>,
    panels: Range<usize>,
    sink: &S,
    sums: &mut [K::Sum],
) {
    // SAFETY: this function's contract.
    unsafe {
        tiles::<K, S>(rows, b, panels, sink, sums, |rows, at, s, b, p, start, ahead, acc| match rows.len() {
            1 => K::tile_avx2::<1>(&pointers(at, rows), s, b, p, start, ahead, acc),
            2 => K::tile_avx2::<2>(&pointers(at, rows), s, b, p, start, ahead, acc),
            3 => K::tile_avx2::<3>(&pointers(at, rows), s, b, p, start, ahead, acc),
            4 => K::tile_avx2::<4>(&pointers(at, rows), s, b, p, start, ahead, acc),
            5 => K::tile_avx2::<5>(&pointers(at, rows), s, b, p, start, ahead, acc),
            _ => K::tile_avx2::<6>(&pointers(at, rows), s, b, p, start, ahead, acc),
        });
    }
}

/// The first elements of R rows.
#[inline(always)]
fn pointers<A, const R: usize>(data: *const A, bases: &[usize]) -> [*const A; R] {
    std::array::from_fn(|r| data.wrapping_add(bases[r]))
}

/// # Safety
/// The rows' runs lie inside A, and `tile(bases, A, stretches, B, start, ahead, acc)` may be called for such rows.
#[inline(always)]
unsafe fn tiles<K: Kind, S: Sink<K::Sum>>(
    rows: &Rows<'_, K::A>,
    b: &PackedB<K>,
    panels: Range<usize>,
    sink: &S,
    sums: &mut [K::Sum],
    tile: impl Fn(&[usize], *const K::A, &[Stretch], *const K::B, &K::Panel, Start, &mut Ahead, *mut [K::Sum; NR]),
) {
    let m = rows.bases.len();
    let row_panels = RowPanels::lower(m, K::ROWS);
    let ranges: Vec<Range<usize>> = (0..row_panels.count()).map(|t| row_panels.range(t)).collect();
    let last = b.blocks.len().saturating_sub(1);
    let blocks: Vec<(&Range<usize>, Vec<Stretch>)> =
        b.blocks.iter().map(|block| (block, b.stretches(block, rows.offsets))).collect();
    let mut acc = Acc([[K::Sum::zeroed(); NR]; MR]);
    for first in panels.clone().step_by(GROUP_PANELS) {
        let group = first..panels.end.min(first + GROUP_PANELS);
        for (i, (block, stretches)) in blocks.iter().enumerate() {
            let start = if i == 0 { Start::Zero } else { Start::Acc };
            for (p, panel) in group.clone().enumerate() {
                let data = b.panel(block, panel);
                let known = &b.prepared[i * b.panels() + panel];
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
                        sums[at..at + r.len() * NR].as_mut_ptr().cast::<[K::Sum; NR]>()
                    };
                    if i == last {
                        sink.prepare(r.start, r.len(), panel * NR);
                    }
                    tile(
                        &rows.bases[r.clone()],
                        rows.data.as_ptr(),
                        stretches,
                        data.as_ptr(),
                        known,
                        start,
                        &mut ahead,
                        to,
                    );
                    if i == last {
                        if last > 0 {
                            let done: &[[K::Sum; NR]] = bytemuck::cast_slice(&sums[at..at + r.len() * NR]);
                            acc.0[..r.len()].copy_from_slice(done);
                        }
                        let cols = NR.min(b.n - panel * NR);
                        sink.put(r.start, r.len(), panel * NR, cols, &acc);
                    }
                }
            }
        }
    }
}

fn put_zeros<K: Kind, S: Sink<K::Sum>>(m: usize, b: &PackedB<K>, panels: Range<usize>, sink: &S) {
    let zero = Acc([[K::Sum::zeroed(); NR]; MR]);
    for row in 0..m {
        for panel in panels.clone() {
            sink.put(row, 1, panel * NR, NR.min(b.n - panel * NR), &zero);
        }
    }
}
