//! The product of one time step, the rows of a batch by the recurrent weights, whatever the number of rows.
//!
//! Few rows are multiplied as fast as the weights come ([`panels`](super::panels)); from [`MANY`] on they fill the register tile of
//! [`crate::igemm`].

use super::panels::Panels;
use crate::{
    Ctx,
    gemm::{Mat, pack::pack_cols, tile::NR},
    igemm,
    scratch::with_scratch,
};
use std::ops::Range;

/// Rows from which a register tile is worth its sums' way through memory.
const MANY: usize = 4;

/// Units of a task with many rows: few enough for eight threads to share a step of 512.
const TASK_UNITS: usize = 64;

/// Recurrent weights packed for the rows of a step.
pub(crate) enum StepWeights<'a> {
    /// For few rows.
    Few {
        /// How they lie.
        panels: Panels,
        packed: &'a [f32],
    },
    /// For many rows: a panel has 16 units of one gate, and those of all gates follow each other.
    Many { gates: usize, panels: &'a igemm::Panels<'a> },
}

/// Calls `f` with `weights`, which lie as [`Panels::pack`] says, packed for steps of so many rows.
pub(crate) fn with_step_weights<R>(
    cx: Ctx<'_>,
    panels: Panels,
    weights: Mat<'_>,
    rows: usize,
    f: impl FnOnce(&StepWeights<'_>) -> R,
) -> R {
    if rows < MANY {
        return with_scratch::<f32, _>(panels.len(), |packed| {
            panels.pack(cx, weights, packed);
            f(&StepWeights::Few { panels, packed })
        });
    }
    let Panels { depth, units, gates, .. } = panels;
    let fill = |steps: Range<usize>, panel: usize, out: &mut [f32]| {
        let (unit, gate) = (panel / gates * NR, panel % gates);
        pack_cols(cx.isa, &weights, gate * units + unit..gate * units + units.min(unit + NR), steps, out);
    };
    let mut result = None;
    igemm::with_panels(cx, gates * units.next_multiple_of(NR), depth, &fill, |panels| {
        result = Some(f(&StepWeights::Many { gates, panels }));
    });
    result.expect("`with_panels` calls its argument")
}

impl StepWeights<'_> {
    /// [`Panels::task_units`].
    pub(crate) fn task_units(&self, rows: usize) -> usize {
        match self {
            StepWeights::Few { panels, .. } => panels.task_units(rows),
            StepWeights::Many { .. } => TASK_UNITS,
        }
    }

    /// [`Panels::product`].
    pub(crate) fn product(&self, cx: Ctx<'_>, x: &[f32], units: Range<usize>, sums: &mut [f32], stride: usize) {
        let (gates, weights) = match *self {
            StepWeights::Few { panels, packed } => return panels.product(cx, x, packed, units, sums, stride),
            StepWeights::Many { gates, panels } => (gates, panels),
        };
        let depth = weights.depth();
        let rows = x.len().checked_div(depth).unwrap_or(0);
        let blocks = units.start / NR..units.end.div_ceil(NR);
        assert!(units.start.is_multiple_of(NR) && blocks.len() * NR <= stride && sums.len() >= rows * gates * stride);
        let bases: Vec<usize> = (0..rows).map(|r| r * depth).collect();
        let panels = blocks.start * gates..blocks.end * gates;
        with_scratch::<f32, _>(panels.len() * rows * NR, |tiles| {
            igemm::multiply_plain(cx.isa, x, &bases, weights, panels, tiles);
            for (i, panel) in tiles.chunks_exact(rows * NR).enumerate() {
                let first = i % gates * stride + i / gates * NR;
                for (row, sum) in panel.as_chunks::<NR>().0.iter().enumerate() {
                    sums[row * gates * stride + first..][..NR].copy_from_slice(sum);
                }
            }
        });
    }
}
