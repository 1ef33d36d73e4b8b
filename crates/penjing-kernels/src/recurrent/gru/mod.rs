//! The gated recurrent unit (Cho et al. 2014) over time, gates in ONNX order z, r, h.
//!
//! As in [`lstm`](crate::recurrent::lstm), the product with the input is one GEMM over many time steps, and each step streams the
//! recurrent weights once. The candidate's product needs the reset gate where that comes before it: such a step has two rounds.

mod forward;
mod integer;
mod steps;

pub use forward::{PackedGru, gru};
pub use integer::{PackedQGru, QGruOperands, qgru};

#[cfg(test)]
mod tests;

const NAME: &str = "gru";

/// What the reset gate multiplies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GruReset {
    /// The hidden state, before the candidate's product (ONNX `linear_before_reset` = 0).
    State,
    /// The candidate's product and its bias (`linear_before_reset` = 1).
    Product,
}

impl GruReset {
    /// The rounds of a step: the first gate of each and the number of its gates.
    fn rounds(self) -> &'static [(usize, usize)] {
        match self {
            GruReset::Product => &[(0, 3)],
            GruReset::State => &[(0, 2), (2, 1)],
        }
    }
}
