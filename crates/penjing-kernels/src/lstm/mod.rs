//! The long short-term memory (Hochreiter & Schmidhuber 1997) over time, forward and backward, gates in ONNX order i, o, f, c.
//!
//! The products with the input, and in the backward pass those that give the gradients of weights and input, are one GEMM over
//! many time steps; only the recurrent product runs step by step. A step is cut into tasks of some hidden units, which multiply
//! and then go on with the cell; the threads meet once a step. The memory between the two parts is bounded: time is cut
//! into blocks that do not depend on the threads.

mod backward;
mod forward;
mod integer;
pub(crate) mod panels;
mod qpanels;
mod steps;

pub use backward::{LstmGrads, LstmTape, lstm_grad};
pub use forward::{LstmOutputs, LstmWeights, PackedLstm, Weights, lstm};
pub use integer::{PackedQLstm, QLstmOperands, QLstmWeights, qlstm};

use crate::{KernelError, error::check_len, error::product};
use std::ops::Range;

/// Elements of the gates of one block of time steps: 8 MiB, so that packing what the block's products read costs little.
const BLOCK: usize = 1 << 21;

/// Which way time runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LstmDirection {
    /// From the first step to the last.
    Forward,
    /// From the last step to the first.
    Reverse,
    /// Both, as two indices of the D axis.
    Both,
}

/// Extents of an LSTM: T steps, batch B, I inputs and H hidden units; D is 2 for `Both`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub struct LstmShape {
    pub steps: usize,
    pub batch: usize,
    pub input: usize,
    pub hidden: usize,
    pub direction: LstmDirection,
}

impl LstmShape {
    /// D.
    pub fn directions(&self) -> usize {
        if self.direction == LstmDirection::Both { 2 } else { 1 }
    }

    fn reversed(&self, d: usize) -> bool {
        d == 1 || self.direction == LstmDirection::Reverse
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

#[cfg(test)]
mod tests;
