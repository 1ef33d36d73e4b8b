//! The product of a few rows with weights that every time step reads anew.
//!
//! With few rows the product is as fast as the weights come from the cache that holds them. So they are packed once in the order
//! in which a step reads them, and each is read once a step and tile of rows: a panel holds the columns of a few hidden
//! units, all gates together, over the whole depth. Each sum runs over the depth in order, whatever the number of rows.

use crate::{
    Ctx, Isa,
    arena::Line,
    gemm::Mat,
    isa::prefetch_near,
    lanes::{Lanes, MOST_LANES, per_lanes},
};
use bytemuck::Zeroable;
use std::ops::Range;

/// Registers of columns in a panel at most.
const MAX_VECTORS: usize = 4;
/// Columns that are packed at a time: those of more would not find their lines in the first-level cache again.
const TURNED: usize = 8;
/// How many elements ahead of their use weights are asked for: 4 KiB.
const AHEAD: usize = 1024;
/// Depth of a block, which all tiles of rows multiply before the next one: 128 KiB of a panel at most stay in the second-level
/// cache.
const BLOCK: usize = 512;
/// Units of a task are a multiple of this, which is one of every panel's width.
pub(crate) const TASK_UNITS: usize = MOST_LANES * MAX_VECTORS;
/// Multiply-adds of a task, about: few enough to share a step among threads, enough to hide the sharing.
const TASK_WORK: usize = 1 << 17;

/// How `gates * units` columns of `depth` weights lie in panels: `[panel][depth][gate][width]`, units past the last zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Panels {
    pub(crate) depth: usize,
    pub(crate) units: usize,
    pub(crate) gates: usize,
    /// Hidden units of a panel.
    width: usize,
}

impl Panels {
    /// Panels for the registers of a level; any other can multiply them too. There are at most 4 gates.
    pub(crate) fn new(isa: Isa, depth: usize, units: usize, gates: usize) -> Panels {
        Panels { depth, units, gates, width: MAX_VECTORS / gates * lanes(isa) }
    }

    fn panel_len(&self) -> usize {
        self.depth * self.gates * self.width
    }

    /// Elements in all.
    pub(crate) fn len(&self) -> usize {
        self.units.div_ceil(self.width) * self.panel_len()
    }

    /// Packs `weights`, `[depth, gates * units]` with the units of a gate adjacent.
    pub(crate) fn pack(&self, cx: Ctx<'_>, weights: Mat<'_>, out: &mut [f32]) {
        let Panels { depth, units, gates, width } = *self;
        cx.pool.run_chunks(out, self.panel_len(), &|panel, out| {
            for turned in (0..gates * width).step_by(TURNED) {
                let unit = panel * width + turned % width;
                let first = turned / width * units + unit;
                let lanes = units.saturating_sub(unit).min(TURNED);
                for k in 0..depth {
                    let out = &mut out[k * gates * width + turned..][..TURNED];
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
        let wide = self.width;
        let panels = units.start / wide..units.end.div_ceil(wide);
        let rows = x.len().checked_div(self.depth).unwrap_or(0);
        assert!(
            units.start.is_multiple_of(wide)
                && panels.len() * wide <= stride
                && sums.len() >= rows * self.gates * stride
        );
        let isa = if wide.is_multiple_of(lanes(cx.isa)) { cx.isa } else { cx.isa.min(Isa::Avx2) };
        for (i, panel) in panels.enumerate() {
            let panel = &packed[panel * self.panel_len()..][..self.panel_len()];
            // SAFETY: `x` has `rows` rows of `depth`, the panel is whole, and `sums` holds every row and gate with the panel's
            // units inside the stride (both checked above); the level's registers divide the panel's width.
            unsafe { multiply(isa, *self, rows, x.as_ptr(), panel, sums.as_mut_ptr().add(i * wide), stride) };
        }
    }
}

/// Units of a register of the level.
fn lanes(isa: Isa) -> usize {
    if isa.usable() >= Isa::Avx512 { MOST_LANES } else { 8 }
}

per_lanes! {
    /// The product of one panel.
    ///
    /// # Safety
    /// `x` has `rows` rows of `p.depth`; `panel` is whole; every row and gate of `sums` has the panel's units, which whole
    /// registers of the level hold.
    unsafe fn multiply(p: Panels, rows: usize, x: *const f32, panel: &[f32], sums: *mut f32, stride: usize) = multiply_body
}

#[inline(always)]
unsafe fn multiply_body<V: Lanes>(p: Panels, rows: usize, x: *const f32, panel: &[f32], sums: *mut f32, stride: usize) {
    // SAFETY: the contract; a tile's rows are among them.
    unsafe {
        match p.gates * p.width / V::LANES {
            // The panels of wider registers than the level's.
            8 => tiles::<V, 8>(p, rows, x, panel, sums, stride),
            6 => tiles::<V, 6>(p, rows, x, panel, sums, stride),
            4 => tiles::<V, 4>(p, rows, x, panel, sums, stride),
            3 => tiles::<V, 3>(p, rows, x, panel, sums, stride),
            _ => tiles::<V, 2>(p, rows, x, panel, sums, stride),
        }
    }
}

/// Rows in tiles of nearly equal height: with four vectors that is 12 sums in 16 registers, or 24 in 32.
#[inline(always)]
unsafe fn tiles<V: Lanes, const N: usize>(
    p: Panels,
    rows: usize,
    x: *const f32,
    panel: &[f32],
    sums: *mut f32,
    stride: usize,
) {
    let count = rows.div_ceil(if V::LANES == MOST_LANES { 6 } else { 3 });
    for first in (0..p.depth).step_by(BLOCK) {
        let k = first..p.depth.min(first + BLOCK);
        for i in 0..count {
            let (row, end) = (rows * i / count, rows * (i + 1) / count);
            // SAFETY: the contract; the tile's rows are inside.
            unsafe {
                let (x, sums) = (x.add(row * p.depth), sums.add(row * p.gates * stride));
                match end - row {
                    6 => tile::<V, N, 6>(p, &k, x, panel, sums, stride),
                    5 => tile::<V, N, 5>(p, &k, x, panel, sums, stride),
                    4 => tile::<V, N, 4>(p, &k, x, panel, sums, stride),
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
    // SAFETY: the contract of `multiply`, for R rows; `panel` has `depth * N * V::LANES` elements.
    unsafe {
        let place = |r: usize, v: usize| {
            let column = v * V::LANES;
            sums.add((r * p.gates + column / p.width) * stride + column % p.width)
        };
        let mut acc = [[V::splat(0.0); N]; R];
        if k.start > 0 {
            for r in 0..R {
                for v in 0..N {
                    acc[r][v] = V::load(place(r, v));
                }
            }
        }
        let mut at = panel.as_ptr().add(k.start * N * V::LANES);
        for k in k.clone() {
            for line in 0..(N * V::LANES).div_ceil(16) {
                prefetch_near(at.wrapping_add(AHEAD + line * 16));
            }
            // A loop, since a closure would not be compiled for the level.
            let mut left = [V::splat(0.0); R];
            for r in 0..R {
                left[r] = V::splat(*x.add(r * p.depth + k));
            }
            for v in 0..N {
                let w = V::load(at.add(v * V::LANES));
                for r in 0..R {
                    acc[r][v] = left[r].fma(w, acc[r][v]);
                }
            }
            at = at.add(N * V::LANES);
        }
        for r in 0..R {
            for v in 0..N {
                acc[r][v].store(place(r, v));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Pool,
        testing::{assert_close, values},
    };

    #[test]
    fn every_level_multiplies_the_panels_of_every_level() {
        let pool = Pool::new(2);
        let (depth, units) = (519, 70);
        for gates in 1..=4 {
            let weights = values("w", depth * gates * units);
            for rows in 1..=7 {
                let x = values("x", rows * depth);
                let mut want = vec![0.0; rows * gates * units];
                for (at, sum) in want.iter_mut().enumerate() {
                    let (row, col) = (at / (gates * units), at % (gates * units));
                    let term = |k: usize| f64::from(x[row * depth + k]) * f64::from(weights[k * gates * units + col]);
                    *sum = (0..depth).map(term).sum();
                }
                for packed_at in Isa::ALL {
                    let panels = Panels::new(packed_at, depth, units, gates);
                    let mut packed = vec![f32::NAN; panels.len()];
                    let cx = Ctx { isa: packed_at, pool: &pool };
                    panels.pack(cx, Mat::rows(&weights, gates * units), &mut packed);
                    for isa in Isa::ALL {
                        let mut got = vec![f32::NAN; want.len()];
                        for first in (0..units).step_by(TASK_UNITS) {
                            let own = first..units.min(first + TASK_UNITS);
                            let mut sums = vec![f32::NAN; rows * gates * TASK_UNITS];
                            panels.product(Ctx { isa, pool: &pool }, &x, &packed, own.clone(), &mut sums, TASK_UNITS);
                            for (line, sums) in sums.chunks_exact(TASK_UNITS).enumerate() {
                                got[line * units..][own.clone()].copy_from_slice(&sums[..own.len()]);
                            }
                        }
                        assert_close(&got, &want, 1e-5, &format!("{gates} {rows} {packed_at:?} {isa:?}"));
                    }
                }
            }
        }
    }
}
