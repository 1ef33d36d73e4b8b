//! Gather, scatter and generated values.

/// How a scattered update meets the value that is there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum ScatterReduction {
    /// Replace it; of several updates the last in row-major order stays.
    None,
    Add,
    Mul,
    Max,
    Min,
}

/// Distributions of `Random`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RandomKind {
    /// Uniform in [0, 1).
    Uniform,
    /// Standard normal.
    Normal,
}
