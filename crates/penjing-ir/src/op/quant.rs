//! How real numbers become small integers.

use penjing_tensor::DType;

/// An affine integer grid: `real = (q − zero point) · scale`.
///
/// With `axis: None` scale and zero point are scalars (per tensor); else they are vectors along that axis (per channel).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct QuantScheme {
    /// Integer dtype of the quantised value.
    pub dtype: DType,
    /// The axis with a scale of its own for each index.
    pub axis: Option<usize>,
    /// Leave out the lowest value of a signed dtype (−127..=127), so that the grid is symmetric.
    pub narrow: bool,
}

impl QuantScheme {
    /// Smallest and largest integer of the grid.
    pub fn range(&self) -> (i64, i64) {
        let (lo, hi) = self.dtype.int_range().unwrap_or((0, 0));
        let lo = if self.narrow && lo < 0 { lo + 1 } else { lo };
        (i64::try_from(lo).unwrap_or(i64::MIN), i64::try_from(hi).unwrap_or(i64::MAX))
    }
}
