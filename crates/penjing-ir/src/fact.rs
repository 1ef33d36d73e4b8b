//! What is known about a value before it is computed: dtype and shape.

use crate::Dim;
use penjing_tensor::{DType, Tensor};
use std::fmt;

/// Dtype and (possibly symbolic) shape of a value.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Fact {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Vec<Dim>,
}

impl Fact {
    /// A fact from anything that turns into dims: `Fact::new(DType::F32, [2, 3])`.
    pub fn new<D: Into<Dim>>(dtype: DType, shape: impl IntoIterator<Item = D>) -> Fact {
        Fact { dtype, shape: shape.into_iter().map(Into::into).collect() }
    }

    /// The fact of a value of shape [].
    pub fn scalar(dtype: DType) -> Fact {
        Fact { dtype, shape: Vec::new() }
    }

    /// The fact of an existing tensor.
    pub fn of(tensor: &Tensor) -> Fact {
        Fact::new(tensor.dtype(), tensor.shape().iter().copied())
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The shape as numbers; `None` while a symbol is left.
    pub fn concrete(&self) -> Option<Vec<usize>> {
        self.shape.iter().map(Dim::as_const).collect()
    }

    /// The same shape with another dtype.
    pub fn with_dtype(&self, dtype: DType) -> Fact {
        Fact { dtype, shape: self.shape.clone() }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.shape.iter().map(ToString::to_string).collect();
        write!(f, "{}[{}]", self.dtype, dims.join(","))
    }
}

impl fmt::Debug for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
