//! How far two tensors may be apart, by the kind of computation that made them.

use penjing_tensor::{DType, Tensor};
use std::fmt;

/// A bound on the difference between a result and the reference's.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Tolerance {
    /// The same value in every element (0.0 equals −0.0, NaN equals NaN).
    Exact,
    /// At most this many units in the last place of the reference's element; denormals count as the smallest normal.
    Ulps(u32),
    /// A sum of about this many products: k units of roundoff (2⁻²⁴ for F32) of the largest magnitude in the reference's tensor.
    Accumulating(usize),
    /// Integers that may differ by this many quanta.
    Quanta(u32),
    /// |got − want| ≤ absolute + relative · |want|.
    Within {
        /// Allowed at zero.
        absolute: f64,
        /// Allowed as a part of the reference's magnitude.
        relative: f64,
    },
}

/// The worst element of two tensors that are too far apart, or how their facts differ.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Mismatch {
    #[error("got {got}, want {want}")]
    Fact { got: String, want: String },
    #[error("{worst}; {count} of {len} elements are past {tolerance:?}")]
    Values { worst: Worst, count: usize, len: usize, tolerance: Tolerance },
}

/// The element whose error is the largest part of what it may be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Worst {
    /// Row-major offset.
    pub index: usize,
    /// What was computed.
    pub got: f64,
    /// What the reference says.
    pub want: f64,
    /// How large the difference may be.
    pub allowed: f64,
}

impl fmt::Display for Worst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Worst { index, got, want, allowed } = self;
        let error = (got - want).abs();
        write!(f, "element {index} is {got:e}, want {want:e}: error {error:.3e}, allowed {allowed:.3e}")
    }
}

/// Compares dtype, shape and every element.
///
/// # Errors
/// `Fact` or the worst element.
pub fn compare(got: &Tensor, want: &Tensor, tolerance: Tolerance) -> Result<(), Mismatch> {
    if got.dtype() != want.dtype() || got.shape() != want.shape() {
        let fact = |t: &Tensor| format!("{}{:?}", t.dtype(), t.shape());
        return Err(Mismatch::Fact { got: fact(got), want: fact(want) });
    }
    let (g, w) = (got.to_f64s(), want.to_f64s());
    let largest = w.iter().filter(|v| v.is_finite()).fold(0.0f64, |m, v| m.max(v.abs()));
    let dtype = want.dtype();
    let mut worst: Option<(f64, Worst)> = None;
    let mut count = 0;
    for (index, (&got, &want)) in g.iter().zip(&w).enumerate() {
        let allowed = allowance(tolerance, dtype, want, largest);
        let error = (got - want).abs();
        if got == want || (got.is_nan() && want.is_nan()) || (error <= allowed && want.is_finite()) {
            continue;
        }
        count += 1;
        let part = if error.is_finite() { error / allowed.max(f64::MIN_POSITIVE) } else { f64::INFINITY };
        if worst.as_ref().is_none_or(|(p, _)| part > *p) {
            worst = Some((part, Worst { index, got, want, allowed }));
        }
    }
    match worst {
        None => Ok(()),
        Some((_, worst)) => Err(Mismatch::Values { worst, count, len: w.len(), tolerance }),
    }
}

/// [`compare`], panicking with the report.
///
/// # Panics
/// When the tensors are too far apart; `what` heads the message.
#[track_caller]
pub fn assert_close(got: &Tensor, want: &Tensor, tolerance: Tolerance, what: &str) {
    if let Err(mismatch) = compare(got, want, tolerance) {
        panic!("{what}: {mismatch}");
    }
}

fn allowance(tolerance: Tolerance, dtype: DType, want: f64, largest: f64) -> f64 {
    // Significand bits and the exponent of the smallest normal number.
    let (bits, lowest) = match dtype {
        DType::F64 => (52, -1022),
        DType::F16 => (10, -14),
        DType::BF16 => (7, -126),
        _ => (23, -126),
    };
    match tolerance {
        Tolerance::Exact => 0.0,
        Tolerance::Ulps(n) => {
            let exponent = want.abs().max(2f64.powi(lowest)).log2().floor();
            f64::from(n) * (exponent - f64::from(bits)).exp2()
        }
        Tolerance::Accumulating(k) => k.max(1) as f64 * 2f64.powi(-bits - 1) * largest,
        Tolerance::Quanta(n) => f64::from(n),
        Tolerance::Within { absolute, relative } => absolute + relative * want.abs(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::floats;

    #[test]
    fn bounds_are_what_they_say() {
        let one = floats(&[2], &[1.0, f32::NAN]);
        let next = floats(&[2], &[1.0 + f32::EPSILON, f32::NAN]);
        let third = floats(&[2], &[1.0 + 3.0 * f32::EPSILON, f32::NAN]);
        assert!(compare(&one, &one, Tolerance::Exact).is_ok());
        assert!(compare(&next, &one, Tolerance::Exact).is_err());
        assert!(compare(&next, &one, Tolerance::Ulps(1)).is_ok());
        assert!(compare(&third, &one, Tolerance::Ulps(2)).is_err());
        assert!(compare(&third, &one, Tolerance::Accumulating(6)).is_ok());
        assert!(compare(&third, &one, Tolerance::Accumulating(5)).is_err());
    }

    #[test]
    fn special_values_and_facts_count() {
        let loose = Tolerance::Within { absolute: 1e9, relative: 1.0 };
        let inf = floats(&[1], &[f32::INFINITY]);
        assert!(compare(&floats(&[1], &[1.0]), &inf, loose).is_err());
        assert!(compare(&floats(&[1], &[f32::NAN]), &floats(&[1], &[0.0]), loose).is_err());
        assert!(compare(&inf, &inf, Tolerance::Exact).is_ok());
        assert!(matches!(compare(&inf, &floats(&[], &[1.0]), loose), Err(Mismatch::Fact { .. })));
        let report = compare(&floats(&[2], &[0.0, 5.0]), &floats(&[2], &[0.0, 1.0]), Tolerance::Exact).unwrap_err();
        assert!(report.to_string().starts_with("element 1 is 5e0, want 1e0: error 4.000e0"));
    }
}
