//! Small tensors whose elements are known when the model is imported, up to symbolic dims.
//!
//! Shapes, axes, paddings and the like travel through ordinary nodes in ONNX; here their elements are [`Dim`]s, so that an
//! export with a dynamic batch size imports with a symbolic one.

use penjing_ir::Dim;
use penjing_tensor::{DType, Tensor};

/// Largest number of elements that are tracked: shapes and index lists are far smaller.
pub(super) const MAX_KNOWN: usize = 1 << 12;

/// One element.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    /// Of an integer or `Bool` (0 and 1) tensor.
    Int(Dim),
    /// Of a float tensor.
    Real(f64),
}

/// A tensor with known elements, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) elems: Vec<Scalar>,
}

impl Known {
    /// An I64 vector.
    pub(super) fn dims(dims: Vec<Dim>) -> Known {
        Known { dtype: DType::I64, shape: vec![dims.len()], elems: dims.into_iter().map(Scalar::Int).collect() }
    }

    /// An existing tensor, when it is small.
    pub(super) fn of(tensor: &Tensor) -> Option<Known> {
        if tensor.len() > MAX_KNOWN {
            return None;
        }
        let elems = match tensor.to_i64s() {
            Some(ints) => ints.into_iter().map(|v| Scalar::Int(Dim::int(v))).collect(),
            None if tensor.dtype().is_float() => tensor.to_f64s().into_iter().map(Scalar::Real).collect(),
            None => return None,
        };
        Some(Known { dtype: tensor.dtype(), shape: tensor.shape().to_vec(), elems })
    }

    /// The elements as integers that may be symbolic; `None` for floats.
    pub(super) fn to_dims(&self) -> Option<Vec<Dim>> {
        self.elems
            .iter()
            .map(|s| match s {
                Scalar::Int(d) => Some(d.clone()),
                Scalar::Real(_) => None,
            })
            .collect()
    }

    /// The tensor, when no element is symbolic.
    pub(super) fn to_tensor(&self) -> Option<Tensor> {
        if self.dtype.is_float() {
            let values = self.elems.iter().map(Scalar::as_f64).collect::<Option<Vec<_>>>()?;
            return Tensor::from_f64s(self.dtype, &self.shape, values).ok();
        }
        let values = self.to_dims()?.iter().map(Dim::as_int).collect::<Option<Vec<_>>>()?;
        Some(Tensor::from_vec(&self.shape, values).ok()?.cast(self.dtype))
    }
}

impl Scalar {
    /// The number, when it is not symbolic.
    pub(super) fn as_f64(&self) -> Option<f64> {
        match self {
            Scalar::Int(d) => d.as_int().map(|v| v as f64),
            Scalar::Real(v) => Some(*v),
        }
    }

    /// The integer, when it is one and not symbolic.
    pub(super) fn as_int(&self) -> Option<i64> {
        match self {
            Scalar::Int(d) => d.as_int(),
            Scalar::Real(_) => None,
        }
    }
}
