//! The long short-term memory (Hochreiter & Schmidhuber 1997) over time, forward and backward, gates in ONNX order i, o, f, c.
//!
//! The products with the input, and in the backward pass those that give the gradients of weights and input, are one GEMM over
//! many time steps; only the recurrent product runs step by step. A step is cut into tasks of some hidden units, which multiply
//! and then go on with the cell; the threads meet once a step. The memory between the two parts is bounded: time is cut
//! into blocks that do not depend on the threads.

mod backward;
mod forward;
mod integer;
mod steps;

pub use backward::{LstmGrads, LstmTape, lstm_grad};
pub use forward::{LstmOutputs, LstmWeights, PackedLstm, lstm};
pub use integer::{PackedQLstm, QLstmOperands, qlstm};

#[cfg(test)]
mod tests;
