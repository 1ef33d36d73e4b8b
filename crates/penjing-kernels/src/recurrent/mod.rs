//! Networks over time: what their kernels share.
//!
//! The products with the input are GEMMs over many time steps; only the recurrent product runs step by step, from weights packed
//! for it in [`step`].

pub mod gru;
pub mod lstm;
mod panels;
mod qpanels;
mod step;

use crate::{KernelError, error::check_len, error::product};
use std::ops::Range;

/// Elements of the gates of one block of time steps: 8 MiB, so that packing what the block's products read costs little.
const BLOCK: usize = 1 << 21;

/// Which way time runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RecurrentDirection {
    /// From the first step to the last.
    Forward,
    /// From the last step to the first.
    Reverse,
    /// Both, as two indices of the D axis.
    Both,
}

/// Extents of a network: T steps, batch B, I inputs and H hidden units; D is 2 for `Both`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub struct RecurrentShape {
    pub steps: usize,
    pub batch: usize,
    pub input: usize,
    pub hidden: usize,
    pub direction: RecurrentDirection,
}

impl RecurrentShape {
    /// D.
    pub fn directions(&self) -> usize {
        if self.direction == RecurrentDirection::Both { 2 } else { 1 }
    }

    fn reversed(&self, d: usize) -> bool {
        d == 1 || self.direction == RecurrentDirection::Reverse
    }

    /// The time at which direction `d` takes its step `s`.
    pub(crate) fn time(&self, d: usize, s: usize) -> usize {
        if self.reversed(d) { self.steps - 1 - s } else { s }
    }

    /// The times of the steps `s`, in order of time.
    pub(crate) fn times(&self, d: usize, s: &Range<usize>) -> Range<usize> {
        if self.reversed(d) { self.steps - s.end..self.steps - s.start } else { s.clone() }
    }

    /// Steps of one block.
    pub(crate) fn block(&self) -> usize {
        (BLOCK / (self.batch * 4 * self.hidden).max(1)).max(1)
    }

    /// Offset of row (t, d, 0) in `[T, D, B, width]`.
    pub(crate) fn row(&self, t: usize, d: usize, width: usize) -> usize {
        (t * self.directions() + d) * self.batch * width
    }

    pub(crate) fn check(
        &self,
        kernel: &'static str,
        operand: &'static str,
        dims: &[usize],
        have: usize,
    ) -> Result<(), KernelError> {
        check_len(kernel, operand, product(dims), have)
    }
}

/// The weights of all directions, with G gates: 4 of an LSTM, 3 of a GRU.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    /// Of the input: `[D, GH, I]`.
    pub w: &'a [f32],
    /// Of the hidden state: `[D, GH, H]`.
    pub r: &'a [f32],
    /// Of the input, then of the hidden state: `[D, 2GH]`.
    pub b: &'a [f32],
}

/// Weights in integers of all directions, with G gates; real = q · scale of its row.
#[derive(Clone, Copy, Debug)]
pub struct QWeights<'a> {
    /// Of the input: `[D, GH, I]`.
    pub w: &'a [i8],
    /// Of the hidden state: `[D, GH, H]`.
    pub r: &'a [i8],
}
