//! The two number types that results are computed in, so that one loop serves floats and integers.

use crate::{
    RefError,
    data::{ints, store_floats, store_ints},
};
use penjing_tensor::{DType, Tensor};

/// `f64` for float dtypes, `i128` for integers.
pub(crate) trait Number: Copy + PartialOrd {
    const ZERO: Self;
    const ONE: Self;
    fn load(t: &Tensor) -> Result<Vec<Self>, RefError>;
    fn store(dtype: DType, shape: &[usize], data: Vec<Self>) -> Result<Tensor, RefError>;
    /// What the maximum of nothing is: −∞ or the dtype's smallest value.
    fn lowest(dtype: DType) -> Self;
    /// What the minimum of nothing is.
    fn highest(dtype: DType) -> Self;
    fn from_usize(n: usize) -> Self;
    fn is_nan(self) -> bool;
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// Integers truncate; division by zero gives 0 for them.
    fn div(self, other: Self) -> Self;

    /// The larger; NaN wins.
    fn max(self, other: Self) -> Self {
        if self.is_nan() || self > other { self } else { other }
    }

    /// The smaller; NaN wins.
    fn min(self, other: Self) -> Self {
        if self.is_nan() || self < other { self } else { other }
    }
}

impl Number for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;

    fn load(t: &Tensor) -> Result<Vec<f64>, RefError> {
        Ok(t.to_f64s())
    }

    fn store(dtype: DType, shape: &[usize], data: Vec<f64>) -> Result<Tensor, RefError> {
        store_floats(dtype, shape, data)
    }

    fn lowest(_: DType) -> f64 {
        f64::NEG_INFINITY
    }

    fn highest(_: DType) -> f64 {
        f64::INFINITY
    }

    fn from_usize(n: usize) -> f64 {
        n as f64
    }

    fn is_nan(self) -> bool {
        f64::is_nan(self)
    }

    fn add(self, other: f64) -> f64 {
        self + other
    }

    fn mul(self, other: f64) -> f64 {
        self * other
    }

    fn div(self, other: f64) -> f64 {
        self / other
    }
}

impl Number for i128 {
    const ZERO: i128 = 0;
    const ONE: i128 = 1;

    fn load(t: &Tensor) -> Result<Vec<i128>, RefError> {
        ints(t)
    }

    fn store(dtype: DType, shape: &[usize], data: Vec<i128>) -> Result<Tensor, RefError> {
        store_ints(dtype, shape, data)
    }

    fn lowest(dtype: DType) -> i128 {
        dtype.int_range().map_or(0, |(lo, _)| lo)
    }

    fn highest(dtype: DType) -> i128 {
        dtype.int_range().map_or(0, |(_, hi)| hi)
    }

    fn from_usize(n: usize) -> i128 {
        n as i128
    }

    fn is_nan(self) -> bool {
        false
    }

    fn add(self, other: i128) -> i128 {
        self.wrapping_add(other)
    }

    fn mul(self, other: i128) -> i128 {
        self.wrapping_mul(other)
    }

    fn div(self, other: i128) -> i128 {
        self.checked_div(other).unwrap_or(0)
    }
}

/// Calls a function generic over [`Number`] with the type that computes `dtype`.
macro_rules! by_dtype {
    ($dtype:expr, $f:ident ( $($arg:expr),* $(,)? )) => {
        if $dtype.is_float() { $f::<f64>($($arg),*) } else { $f::<i128>($($arg),*) }
    };
}
pub(crate) use by_dtype;
