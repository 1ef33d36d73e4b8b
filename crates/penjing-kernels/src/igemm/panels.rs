//! The right operand of indirect products: packed once, or for one product, into panels of 16 columns.

use super::tile::Stretch;
use crate::{Ctx, gemm::tile::NR, pool::Disjoint, scratch::with_scratch};
use std::ops::Range;

/// Steps of the deepest k-block: a panel's takes three quarters of a 32 KiB first-level cache; the rest is for A and C.
const DEEPEST: usize = (24 << 10) / (NR * size_of::<f32>());
/// Steps that packing takes of one column at a time: a cache line of f32 weights.
const PACK_STEPS: usize = 16;
/// Panels of a task of packing.
const PACK_PANELS: usize = 4;
/// Elements below which packing is not shared: waking a thread costs more.
const SMALL: usize = 1 << 14;

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

    /// Elements of a column.
    pub(crate) fn depth(&self) -> usize {
        self.runs * self.run_len
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
    pub(super) n: usize,
    pub(super) runs: usize,
    pub(super) run_len: usize,
    pub(super) blocks: &'a [Range<usize>],
    data: &'a [f32],
}

impl<'a> Panels<'a> {
    /// Columns that lie in panels already, one run each: `data` is `[k-block][panel][step][16]` for the blocks of
    /// [`k_blocks`] of their depth.
    pub(crate) fn over(n: usize, blocks: &'a [Range<usize>], data: &'a [f32]) -> Panels<'a> {
        let run_len = blocks.last().map_or(0, |b| b.end);
        assert!(data.len() == run_len * n.next_multiple_of(NR), "a place for every step of every panel");
        Panels { n, runs: 1, run_len, blocks, data }
    }

    /// The same steps as so many runs of equal length.
    pub(crate) fn in_runs(self, runs: usize) -> Panels<'a> {
        Panels { runs, run_len: self.run_len * self.runs / runs.max(1), ..self }
    }
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

    /// A panel's part of a k-block; that of the next panel follows.
    pub(super) fn panel(&self, block: &Range<usize>, panel: usize) -> &[f32] {
        self.panels(block, panel..panel + 1)
    }

    /// The parts of neighbouring panels.
    pub(super) fn panels(&self, block: &Range<usize>, panels: Range<usize>) -> &[f32] {
        let (len, start) = (block.len() * NR, block.start * self.count() * NR);
        &self.data[start + panels.start * len..start + panels.end * len]
    }

    /// The parts of `block` that lie in one run each.
    pub(super) fn stretches(&self, block: &Range<usize>, offsets: &[usize], step: usize) -> Vec<Stretch> {
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
pub(crate) fn k_blocks(steps: usize) -> Vec<Range<usize>> {
    let count = steps.div_ceil(DEEPEST);
    let cut = |i: usize| if i == count { steps } else { steps * i / count / 8 * 8 };
    (0..count).map(|i| cut(i)..cut(i + 1)).collect()
}
