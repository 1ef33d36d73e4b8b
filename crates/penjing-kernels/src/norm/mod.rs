//! Normalisations: layer, RMS, group (instance) norm, and batch norm in training.
//!
//! Batch norm at inference is one multiply and one add a channel: an elementwise program. Every variance is the mean of
//! squared distances to the mean (two passes), biased.

mod batch;
mod batch_last;
mod layer;

pub use batch::{batch_norm_grad, batch_norm_train};
pub use batch_last::{batch_norm_grad_last, batch_norm_train_last};
pub use layer::{group_norm, layer_norm, layer_norm_grad, rms_norm};

use crate::{isa::Math, reduce::lanes};

/// Elements that are summed in one go before the sums are added in f64.
const CHUNK: usize = 4096;

/// Σ x.
#[inline(always)]
fn total(x: &[f32]) -> f64 {
    // A loop, since what an iterator's methods call would not be compiled for the level.
    let mut sum = 0.0;
    for x in x.chunks(CHUNK) {
        sum += f64::from(lanes(x, 0.0, |a, x| a + x, |a, b| a + b));
    }
    sum
}

/// Σ (x − mean)².
#[inline(always)]
fn spread<M: Math>(x: &[f32], mean: f32) -> f64 {
    const LANES: usize = 32;
    let mut sum = 0.0;
    for x in x.chunks(CHUNK) {
        let mut acc = [0f32; LANES];
        let (whole, rest) = x.as_chunks::<LANES>();
        for x in whole {
            for l in 0..LANES {
                acc[l] = M::fma(x[l] - mean, x[l] - mean, acc[l]);
            }
        }
        if !rest.is_empty() {
            let mut last = [mean; LANES];
            last[..rest.len()].copy_from_slice(rest);
            for l in 0..LANES {
                acc[l] = M::fma(last[l] - mean, last[l] - mean, acc[l]);
            }
        }
        sum += f64::from(lanes(&acc, 0.0, |a, x| a + x, |a, b| a + b));
    }
    sum
}

/// Σ a·b.
#[inline(always)]
fn dot<M: Math>(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 32;
    let mut sum = 0.0;
    for (a, b) in a.chunks(CHUNK).zip(b.chunks(CHUNK)) {
        let mut acc = [0f32; LANES];
        let ((whole_a, rest_a), (whole_b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in whole_a.iter().zip(whole_b) {
            for l in 0..LANES {
                acc[l] = M::fma(a[l], b[l], acc[l]);
            }
        }
        if !rest_a.is_empty() {
            let mut last = [[0f32; LANES]; 2];
            last[0][..rest_a.len()].copy_from_slice(rest_a);
            last[1][..rest_b.len()].copy_from_slice(rest_b);
            for l in 0..LANES {
                acc[l] = M::fma(last[0][l], last[1][l], acc[l]);
            }
        }
        sum += f64::from(lanes(&acc, 0.0, |a, x| a + x, |a, b| a + b));
    }
    sum
}

/// 1/√(variance + eps).
#[inline(always)]
fn inverse_deviation(sum_of_squares: f64, n: usize, eps: f32) -> f32 {
    (1.0 / (sum_of_squares / n as f64 + f64::from(eps)).sqrt()) as f32
}

#[cfg(test)]
mod tests;
