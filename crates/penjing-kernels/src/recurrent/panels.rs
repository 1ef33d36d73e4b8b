//! The product of a few rows with weights that every time step reads anew.
//!
//! With few rows the product is as fast as the weights come from the cache that holds them. So they are packed once in the order
//! in which a step reads them, and each is read once a step and tile of rows: a panel holds the columns of a few hidden
//! units, all gates together, over the whole depth. Each sum runs over the depth in order, whatever the number of rows.

use crate::{
    Ctx,
    arena::Line,
    gemm::Mat,
    isa::prefetch_near,
    lanes::{Lanes, per_lanes},
};
use bytemuck::Zeroable;
use std::ops::Range;

/// Columns of a vector.
const LANES: usize = 8;
/// Vectors of eight columns in a panel at most.
const MAX_VECTORS: usize = 4;
/// How many elements ahead of their use weights are asked for: 4 KiB.
const AHEAD: usize = 1024;
/// Depth of a block, which all tiles of rows multiply before the next one: 64 KiB of a panel stay in the second-level cache.
const BLOCK: usize = 512;
/// Units of a task are a multiple of this, which is one of every panel's width.
pub(crate) const TASK_UNITS: usize = LANES * MAX_VECTORS;
/// Multiply-adds of a task, about: few enough to share a step among threads, enough to hide the sharing.
const TASK_WORK: usize = 1 << 17;

/// How `gates * units` columns of `depth` weights lie in panels: `[panel][depth][gate][width][8]`, units past the last zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Panels {
    pub(crate) depth: usize,
    pub(crate) units: usize,
    pub(crate) gates: usize,
    /// Vectors of eight units; `gates * width` is at most 4.
    pub(crate) width: usize,
}

impl Panels {
    fn vectors(&self) -> usize {
        self.gates * self.width
    }

    /// Hidden units of a panel.
    fn panel_units(&self) -> usize {
        LANES * self.width
    }

    fn panel_len(&self) -> usize {
        self.depth * self.vectors() * LANES
    }

    /// Elements in all.
    pub(crate) fn len(&self) -> usize {
        self.units.div_ceil(self.panel_units()) * self.panel_len()
    }

    /// Packs `weights`, `[depth, gates * units]` with the units of a gate adjacent.
    pub(crate) fn pack(&self, cx: Ctx<'_>, weights: Mat<'_>, out: &mut [f32]) {
        let Panels { depth, units, gates, width } = *self;
        cx.pool.run_chunks(out, self.panel_len(), &|panel, out| {
            for vector in 0..self.vectors() {
                let unit = panel * self.panel_units() + vector % width * LANES;
                let first = (vector / width).min(gates) * units + unit;
                let lanes = units.saturating_sub(unit).min(LANES);
                for k in 0..depth {
                    let out = &mut out[(k * self.vectors() + vector) * LANES..][..LANES];
                    for (lane, out) in out.iter_mut().enumerate() {
                        let at = k * weights.row_stride + (first + lane) * weights.col_stride;
                        *out = if lane < lanes { weights.data[at] } else { 0.0 };
                    }
                }
            }
        });
    }

    /// The weights of [`pack`](Self::pack) in memory of their own.
    pub(crate) fn packed(&self, cx: Ctx<'_>, weights: Mat<'_>) -> Vec<Line> {
        let mut lines = vec![Line::zeroed(); (self.len() * size_of::<f32>()).div_ceil(size_of::<Line>())];
        self.pack(cx, weights, &mut bytemuck::cast_slice_mut(&mut lines)[..self.len()]);
        lines
    }

    /// Units of one task of a step of `rows` rows, by the problem alone.
    pub(crate) fn task_units(&self, rows: usize) -> usize {
        let work = (self.gates * self.depth * rows).max(1);
        TASK_WORK.div_ceil(work).next_multiple_of(TASK_UNITS)
    }

    /// `sums[row][gate][unit - units.start] = Σ x[row] · weights`; the rows of `x` are `depth` apart, those of `sums`
    /// `gates * stride`, the gates `stride`. `units` starts at a task's first; the elements up to the panel's end are written.
    pub(crate) fn product(
        &self,
        cx: Ctx<'_>,
        x: &[f32],
        packed: &[f32],
        units: Range<usize>,
        sums: &mut [f32],
        stride: usize,
    ) {
        let wide = self.panel_units();
        let panels = units.start / wide..units.end.div_ceil(wide);
        let rows = x.len().checked_div(self.depth).unwrap_or(0);
        assert!(
            units.start.is_multiple_of(wide)
                && panels.len() * wide <= stride
                && sums.len() >= rows * self.gates * stride
        );
        for (i, panel) in panels.enumerate() {
            let panel = &packed[panel * self.panel_len()..][..self.panel_len()];
            // SAFETY: `x` has `rows` rows of `depth`, the panel is whole, and `sums` holds every row and gate with the panel's
            // units inside the stride (both checked above).
            unsafe { multiply(cx.isa, *self, rows, x.as_ptr(), panel, sums.as_mut_ptr().add(i * wide), stride) };
        }
    }
}

per_lanes! {
    /// The product of one panel.
    ///
    /// # Safety
    /// `x` has `rows` rows of `p.depth`; `panel` is whole; every row and gate of `sums` has the panel's units.
    unsafe fn multiply(p: Panels, rows: usize, x: *const f32, panel: &[f32], sums: *mut f32, stride: usize) = narrow multiply_body
}

#[inline(always)]
unsafe fn multiply_body<V: Lanes>(p: Panels, rows: usize, x: *const f32, panel: &[f32], sums: *mut f32, stride: usize) {
    // SAFETY: the contract; a tile's rows are among them.
    unsafe {
        match p.vectors() {
            4 => tiles::<V, 4>(p, rows, x, panel, sums, stride),
            3 => tiles::<V, 3>(p, rows, x, panel, sums, stride),
            2 => tiles::<V, 2>(p, rows, x, panel, sums, stride),
            _ => tiles::<V, 1>(p, rows, x, panel, sums, stride),
        }
    }
}

/// Rows in tiles of nearly equal height, at most three: with four vectors that is 12 sums in registers.
#[inline(always)]
unsafe fn tiles<V: Lanes, const N: usize>(
    p: Panels,
    rows: usize,
    x: *const f32,
    panel: &[f32],
    sums: *mut f32,
    stride: usize,
) {
    let count = rows.div_ceil(3);
    for first in (0..p.depth).step_by(BLOCK) {
        let k = first..p.depth.min(first + BLOCK);
        for i in 0..count {
            let (row, end) = (rows * i / count, rows * (i + 1) / count);
            // SAFETY: the contract; the tile's rows are inside.
            unsafe {
                let (x, sums) = (x.add(row * p.depth), sums.add(row * p.gates * stride));
                match end - row {
                    3 => tile::<V, N, 3>(p, &k, x, panel, sums, stride),
                    2 => tile::<V, N, 2>(p, &k, x, panel, sums, stride),
                    _ => tile::<V, N, 1>(p, &k, x, panel, sums, stride),
                }
            }
        }
    }
}

/// The part of the depth `k`, added to what the sums hold unless it is the first.
#[inline(always)]
unsafe fn tile<V: Lanes, const N: usize, const R: usize>(
    p: Panels,
    k: &Range<usize>,
    x: *const f32,
    panel: &[f32],
    sums: *mut f32,
    stride: usize,
) {
    // SAFETY: the contract of `multiply`, for R rows; `panel` has `depth * N * LANES` elements.
    unsafe {
        let place = |r: usize, v: usize| sums.add((r * p.gates + v / p.width) * stride + v % p.width * LANES);
        let mut acc = [[V::splat(0.0); N]; R];
        if k.start > 0 {
            for r in 0..R {
                for v in 0..N {
                    acc[r][v] = V::load(place(r, v));
                }
            }
        }
        let mut at = panel.as_ptr().add(k.start * N * LANES);
        for k in k.clone() {
            for line in 0..(N * LANES).div_ceil(16) {
                prefetch_near(at.wrapping_add(AHEAD + line * 16));
            }
            // A loop, since a closure would not be compiled for the level.
            let mut left = [V::splat(0.0); R];
            for r in 0..R {
                left[r] = V::splat(*x.add(r * p.depth + k));
            }
            for v in 0..N {
                let w = V::load(at.add(v * LANES));
                for r in 0..R {
                    acc[r][v] = left[r].fma(w, acc[r][v]);
                }
            }
            at = at.add(N * LANES);
        }
        for r in 0..R {
            for v in 0..N {
                acc[r][v].store(place(r, v));
            }
        }
    }
}
