//! Seeded tensors: a pure function of shape and name, so that a failing case can be made again.

use penjing_tensor::{DType, Rng, Tensor, element_count};

/// Standard normal F32 values.
pub fn normal(shape: &[usize], name: &str) -> Tensor {
    let rng = Rng::new(0, name, 0);
    fill(shape, |i| f64::from(rng.normal(i))).cast(DType::F32)
}

/// Uniform F32 values in [lo, hi).
pub fn uniform(shape: &[usize], lo: f64, hi: f64, name: &str) -> Tensor {
    let rng = Rng::new(0, name, 0);
    fill(shape, |i| lo + (hi - lo) * f64::from(rng.uniform(i))).cast(DType::F32)
}

/// Uniform integers in lo..=hi of an integer dtype.
pub fn integers(dtype: DType, shape: &[usize], lo: i64, hi: i64, name: &str) -> Tensor {
    let rng = Rng::new(0, name, 0);
    let span = hi.abs_diff(lo) + 1;
    let values = (0..count(shape)).map(|i| lo + rng.below(i, span) as i64).collect();
    Tensor::from_vec(shape, values).expect("as many values as the shape has").cast(dtype)
}

/// Fair coin flips.
pub fn bools(shape: &[usize], name: &str) -> Tensor {
    integers(DType::Bool, shape, 0, 1, name)
}

/// F32 values given in row-major order.
pub fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_vec(shape, values.to_vec()).expect("as many values as the shape has")
}

fn fill(shape: &[usize], value: impl Fn(u64) -> f64) -> Tensor {
    Tensor::from_vec(shape, (0..count(shape)).map(value).collect()).expect("as many values as the shape has")
}

fn count(shape: &[usize]) -> u64 {
    element_count(shape).expect("test shapes are small") as u64
}
