//! Attributes of recurrent cells.

/// Which way a recurrent cell walks through time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// From the first step to the last.
    Forward,
    /// From the last step to the first.
    Reverse,
    /// Both, as two directions of the D axis.
    Bidirectional,
}

/// What the reset gate of a GRU multiplies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reset {
    /// The hidden state, before the candidate's product (ONNX `linear_before_reset` = 0).
    State,
    /// The candidate's product with the hidden state, and its bias (`linear_before_reset` = 1).
    Product,
}

impl Direction {
    /// Extent of the D axis.
    pub fn count(self) -> usize {
        match self {
            Direction::Forward | Direction::Reverse => 1,
            Direction::Bidirectional => 2,
        }
    }
}
