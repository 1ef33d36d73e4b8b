//! The loops that forward, input gradient and the integer convolution share.
//!
//! A task is one image, one group, one window of outputs and a part of the rows. It copies its part of the source and multiplies
//! its columns with weights that were packed before. Where eight outputs side by side are always contiguous in the copy, columns
//! are read from there; elsewhere they are packed by k-block.

use super::layout::{Layout, Taps, Window, windows};
use crate::{
    Ctx, Isa,
    gemm::tile::{Block, Columns, Kind, NR, RowPanels},
    isa::{Math, per_isa},
    scratch::with_scratch,
};
use std::ops::Range;

/// Packed columns of one k-block: they share the second-level cache (512 KiB on the smallest hosts) with the image copy.
const PACKED_BYTES: usize = 320 << 10;
/// Most outputs of a window.
const MAX_WINDOW: usize = 640;
/// Tasks below which the rows are split as well.
const FEW_TASKS: usize = 8;

/// What differs between the users of the engine.
pub(crate) trait Job: Sync {
    type K: Kind;

    /// Copies the source channels of `group` for `window` into `dst`, `layout.channel` elements a channel.
    fn fill(&self, isa: Isa, image: usize, group: usize, window: &Window, layout: &Layout, dst: &mut [Elem<Self>]);

    /// The packed weights of `group`, k-block after k-block.
    fn weights(&self, group: usize) -> &[Elem<Self>];

    /// Computes `block` and stores it. The columns of the block are the outputs of `window`; `k` tells which k-block it is.
    fn store(
        &self,
        isa: Isa,
        block: &Block<'_, Elem<Self>>,
        image: usize,
        group: usize,
        window: &Window,
        k: &Range<usize>,
    );
}

type Elem<J> = <<J as Job>::K as Kind>::Elem;

/// The size of a job.
pub(crate) struct Extent {
    pub(crate) images: usize,
    pub(crate) groups: usize,
    /// Rows of one group's product.
    pub(crate) rows: usize,
    /// Source channels of one group.
    pub(crate) channels: usize,
}

/// Runs a job: every window of every group of every image. `blocks` are the k-blocks of `channels * taps`.
pub(crate) fn run<J: Job>(cx: Ctx<'_>, job: &J, extent: &Extent, taps: &Taps, blocks: &[Range<usize>]) {
    let deepest = blocks.iter().map(Range::len).max().unwrap_or(0);
    if deepest == 0 || extent.rows == 0 {
        return;
    }
    let target = (PACKED_BYTES / (4 * deepest)).clamp(NR, MAX_WINDOW);
    let windows = windows(taps.out, target);
    let rows = RowPanels::new(extent.rows);
    let spatial = extent.images * extent.groups * windows.len();
    if spatial == 0 {
        return;
    }
    let parts = FEW_TASKS.div_ceil(spatial).min(rows.count().div_ceil(8));
    cx.pool.run(spatial * parts, &|t| {
        let (part, t) = (t % parts, t / parts);
        let (window, t) = (&windows[t % windows.len()], t / windows.len());
        let (group, image) = (t % extent.groups, t / extent.groups);
        let panels = rows.count() * part / parts..rows.count() * (part + 1) / parts;
        let layout = Layout::new(taps, window.rows.len(), window.cols.len());
        let n = window.len();
        let width = n.div_ceil(NR) * NR;
        // A run copies 16 elements at a time and may read and write up to 15 past its end.
        with_scratch::<Elem<J>, _>(extent.channels * layout.channel + NR, |copy| {
            job.fill(cx.isa, image, group, window, &layout, copy);
            let multiply = |k: &Range<usize>, b: Columns<'_, Elem<J>>| {
                let a = &job.weights(group)[extent.rows * k.start..extent.rows * k.end];
                let block = Block { kc: k.len(), rows, panels: panels.clone(), a, b, cols: n };
                job.store(cx.isa, &block, image, group, window, k);
            };
            if let Some(starts) = run_starts(&layout, window) {
                for k in blocks {
                    let offsets = tap_offsets(&layout, k);
                    multiply(k, Columns::Runs { copy, offsets: &offsets, starts: &starts });
                }
                return;
            }
            let plan = ColumnPlan::new(&layout, window);
            with_scratch::<Elem<J>, _>(width * deepest + NR, |packed| {
                for k in blocks {
                    pack_columns(
                        cx.isa,
                        bytemuck::cast_slice(copy),
                        &layout,
                        &plan,
                        k,
                        bytemuck::cast_slice_mut(packed),
                    );
                    multiply(k, Columns::Panels(&packed[..width * k.len()]));
                }
            });
        });
    });
}

/// For each column panel of a window, where its two halves of 8 outputs start in the copy; `None` when a half is not contiguous.
/// What lies past the last output may be read, and is stored nowhere.
fn run_starts(layout: &Layout, window: &Window) -> Option<Vec<[usize; 2]>> {
    const HALF: usize = NR / 2;
    let (cols, n) = (window.cols.len(), window.len());
    let joined = layout.wq == cols;
    if !joined && !cols.is_multiple_of(HALF) {
        return None;
    }
    let start = |p: usize| if joined { p } else { p / cols * layout.wq + p % cols };
    // A half past the end reads the first one again.
    Some((0..n).step_by(NR).map(|p| [start(p), if p + HALF < n { start(p + HALF) } else { start(p) }]).collect())
}

/// The offset in the copy of each row of the k-block.
fn tap_offsets(layout: &Layout, k: &Range<usize>) -> Vec<usize> {
    let n_taps = layout.taps.len();
    k.clone().map(|k| k / n_taps * layout.channel + layout.taps[k % n_taps]).collect()
}

/// A run of outputs that is contiguous in the copy and in a column panel.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Column within the panel.
    col: usize,
    /// Offset in the copy, before the tap's.
    src: usize,
}

/// The runs of every column panel of a window.
struct ColumnPlan {
    runs: Vec<Run>,
    /// End of each panel's runs.
    ends: Vec<usize>,
}

impl ColumnPlan {
    fn new(layout: &Layout, window: &Window) -> ColumnPlan {
        let cols = window.cols.len();
        let n = window.len();
        let (mut runs, mut ends): (Vec<Run>, Vec<usize>) = (Vec::new(), Vec::new());
        for start in (0..n).step_by(NR) {
            let end = n.min(start + NR);
            let mut p = start;
            while p < end {
                let (i, j) = (p / cols, p % cols);
                let src = i * layout.wq + j;
                // Rows that follow each other in the copy make one run.
                let joined = p > start && layout.wq == cols;
                if !joined {
                    runs.push(Run { col: p - start, src });
                }
                p = end.min(p + cols - j);
            }
            ends.push(runs.len());
        }
        ColumnPlan { runs, ends }
    }
}

/// Packs the columns of the k-block `k` into panels `[k][16]`.
fn pack_columns(isa: Isa, copy: &[u32], layout: &Layout, plan: &ColumnPlan, k: &Range<usize>, out: &mut [u32]) {
    let offsets = tap_offsets(layout, k);
    let mut start = 0;
    for (panel, &end) in plan.ends.iter().enumerate() {
        let runs = &plan.runs[start..end];
        pack_panel(isa, copy, &offsets, runs, &mut out[panel * NR * k.len()..]);
        start = end;
    }
}

per_isa! {
    /// Copies 16 elements a run, run after run and tap after tap: what a run writes past its end is overwritten by the next.
    fn pack_panel(copy: &[u32], offsets: &[usize], runs: &[Run], out: &mut [u32]) = pack_panel_body
}

#[inline(always)]
fn pack_panel_body<M: Math>(copy: &[u32], offsets: &[usize], runs: &[Run], out: &mut [u32]) {
    let farthest = offsets.iter().max().copied().unwrap_or(0) + runs.iter().map(|r| r.src).max().unwrap_or(0);
    let last_col = runs.iter().map(|r| r.col).max().unwrap_or(0);
    assert!(farthest + NR <= copy.len() && offsets.len() * NR + last_col <= out.len() && last_col < NR);
    let mut to = out.as_mut_ptr();
    for &offset in offsets {
        for run in runs {
            // SAFETY: the greatest source and destination offsets lie inside (checked above); the two slices are distinct.
            unsafe { std::ptr::copy_nonoverlapping(copy.as_ptr().add(offset + run.src), to.add(run.col), NR) };
        }
        // SAFETY: stays within, or one past, the `offsets.len() * 16` elements checked above.
        to = unsafe { to.add(NR) };
    }
}

per_isa! {
    /// `out[q] = sum over k of w[k] * copy[offsets[k] + q]`, for layers with too few rows for a GEMM tile.
    pub(crate) fn accumulate_taps(copy: &[f32], offsets: &[usize], w: &[f32], out: &mut [f32]) = accumulate_taps_body
}

#[inline(always)]
fn accumulate_taps_body<M: Math>(copy: &[f32], offsets: &[usize], w: &[f32], out: &mut [f32]) {
    const WIDE: usize = 64;
    let mut start = 0;
    while start + WIDE <= out.len() {
        let mut acc = [0f32; WIDE];
        for (&offset, &w) in offsets.iter().zip(w) {
            let src = &copy[offset + start..][..WIDE];
            for l in 0..WIDE {
                acc[l] = M::fma(w, src[l], acc[l]);
            }
        }
        out[start..start + WIDE].copy_from_slice(&acc);
        start += WIDE;
    }
    for q in start..out.len() {
        out[q] = offsets.iter().zip(w).fold(0.0, |s, (&offset, &w)| M::fma(w, copy[offset + q], s));
    }
}
