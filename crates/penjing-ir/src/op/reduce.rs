//! Reductions.

/// What a reduction computes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reduction {
    /// Sum; 0 for nothing.
    Sum,
    /// Arithmetic mean; integers truncate.
    Mean,
    /// Largest; the dtype's lowest value for nothing; NaN wins.
    Max,
    /// Smallest; the dtype's highest value for nothing; NaN wins.
    Min,
    /// Product; 1 for nothing.
    Prod,
}

impl Reduction {
    /// Name in messages and text forms.
    pub fn name(self) -> &'static str {
        match self {
            Reduction::Sum => "ReduceSum",
            Reduction::Mean => "ReduceMean",
            Reduction::Max => "ReduceMax",
            Reduction::Min => "ReduceMin",
            Reduction::Prod => "ReduceProd",
        }
    }
}

/// Which extreme `ArgReduce` looks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ArgKind {
    /// The largest.
    Max,
    /// The smallest.
    Min,
}
