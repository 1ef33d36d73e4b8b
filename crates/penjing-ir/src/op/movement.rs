//! Operations that move elements without computing.

use super::Real;
use crate::Dim;

/// A strided range of one axis: `start, start+step, …`, `len` of them. A negative step walks backwards.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SliceRange {
    /// First index.
    pub start: Dim,
    /// Number of indices.
    pub len: Dim,
    /// Distance between indices; never 0.
    pub step: i64,
}

impl SliceRange {
    /// The whole of an axis with extent `len`.
    pub fn full(len: &Dim) -> SliceRange {
        SliceRange { start: Dim::Const(0), len: len.clone(), step: 1 }
    }

    /// `len` indices from `start` on.
    pub fn span(start: impl Into<Dim>, len: impl Into<Dim>) -> SliceRange {
        SliceRange { start: start.into(), len: len.into(), step: 1 }
    }
}

/// What `Pad` fills with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PadMode {
    /// A fixed value, converted to the dtype.
    Constant(Real),
    /// Mirrored without repeating the edge.
    Reflect,
    /// The nearest edge element.
    Edge,
    /// From the other end.
    Wrap,
}
