//! The goldens from PyTorch in `tests/goldens`; its README says what each array is.

use penjing_data::{DataError, read_npz};
use penjing_tensor::{Tensor, TensorError};
use std::{collections::BTreeMap, path::Path};

/// Why a golden cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum GoldenError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error("golden `{golden}` has no array `{array}`")]
    Missing { golden: String, array: String },
    #[error("golden `{golden}`: {why}")]
    Malformed { golden: String, why: String },
}

/// One .npz file of arrays.
#[derive(Clone, Debug)]
pub struct Golden {
    /// The file's name without its ending.
    pub name: String,
    /// Its arrays by name.
    pub arrays: BTreeMap<String, Tensor>,
}

/// Reads `tests/goldens/<name>.npz`.
///
/// # Errors
/// When the file is absent or no .npz.
pub fn golden(name: &str) -> Result<Golden, GoldenError> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens").join(format!("{name}.npz"));
    Ok(Golden { name: name.into(), arrays: read_npz(&path)?.into_iter().collect() })
}

/// Element i of a parameter by the formula in `tests/goldens/README.md`: a hash of i and the name, spread over
/// offset ± bound.
///
/// # Errors
/// When the shape is too large for a tensor.
pub fn golden_parameter(name: &str, shape: &[usize], offset: f32, bound: f32) -> Result<Tensor, TensorError> {
    let seed = name.bytes().fold(0x811C_9DC5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let element = |i: usize| {
        let mut h = (i as u32).wrapping_mul(0x9E37_79B1).wrapping_add(seed);
        h ^= h >> 16;
        h = h.wrapping_mul(0x85EB_CA6B);
        h ^= h >> 13;
        h = h.wrapping_mul(0xC2B2_AE35);
        h ^= h >> 16;
        offset + bound * ((h >> 8) as f32 / 8_388_608.0 - 1.0)
    };
    let len = Tensor::zeros(penjing_tensor::DType::F32, shape)?.len();
    Tensor::from_vec(shape, (0..len).map(element).collect())
}

impl Golden {
    /// The array named `array`.
    ///
    /// # Errors
    /// `Missing`, with both names.
    pub fn array(&self, array: &str) -> Result<&Tensor, GoldenError> {
        let missing = || GoldenError::Missing { golden: self.name.clone(), array: array.into() };
        self.arrays.get(array).ok_or_else(missing)
    }

    /// Names of the parameters, in PyTorch's order.
    ///
    /// # Errors
    /// When the array is absent or not text.
    pub fn parameter_names(&self) -> Result<Vec<String>, GoldenError> {
        let bytes = self.array("names")?.as_slice::<u8>()?;
        let text = std::str::from_utf8(bytes).map_err(|e| self.malformed(&format!("names: {e}")))?;
        Ok(text.split('\n').filter(|n| !n.is_empty()).map(str::to_string).collect())
    }

    /// A parameter's initial value, F32: as stored, or by [`golden_parameter`] when it was too large to store.
    ///
    /// # Errors
    /// When the golden does not know the parameter.
    pub fn parameter(&self, name: &str) -> Result<Tensor, GoldenError> {
        if let Some(stored) = self.arrays.get(&format!("param/{name}")) {
            return Ok(stored.clone());
        }
        let names = self.parameter_names()?;
        let at = names.iter().position(|n| n == name);
        let at =
            at.ok_or_else(|| GoldenError::Missing { golden: self.name.clone(), array: format!("param/{name}") })?;
        let shape = self.array(&format!("shape/{name}"))?.as_slice::<i64>()?;
        let shape: Vec<usize> = shape.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect();
        let number = |what: &str| -> Result<f32, GoldenError> {
            let all = self.array(what)?.as_slice::<f32>()?;
            all.get(at).copied().ok_or_else(|| self.malformed(&format!("{what} has no entry {at}")))
        };
        Ok(golden_parameter(name, &shape, number("offset")?, number("bound")?)?)
    }

    fn malformed(&self, why: &str) -> GoldenError {
        GoldenError::Malformed { golden: self.name.clone(), why: why.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_gives_the_documented_elements() {
        let golden = golden("simplecnn").unwrap();
        let w = golden.parameter("fc1.weight").unwrap();
        assert_eq!(w.shape(), [128, 2304]);
        let first = [0.004_018_356_6f32, 0.007_962_058, -0.011_679_679, -0.005_362_361_7];
        assert_eq!(w.as_slice::<f32>().unwrap()[..4], first);
    }

    /// What the file stores and what the formula gives are one.
    #[test]
    fn stored_parameters_follow_the_formula() {
        for name in ["simplecnn", "lstm", "encoder", "decoder"] {
            let golden = golden(name).unwrap();
            let names = golden.parameter_names().unwrap();
            assert!(!names.is_empty());
            for (i, parameter) in names.iter().enumerate() {
                let stored = golden.parameter(parameter).unwrap();
                let number = |what: &str| golden.array(what).unwrap().as_slice::<f32>().unwrap()[i];
                let made = golden_parameter(parameter, stored.shape(), number("offset"), number("bound")).unwrap();
                assert_eq!(stored, made, "{name} {parameter}");
            }
        }
    }
}
