//! Whether a tensor is what a test case expects.

use penjing_tensor::Tensor;

/// |have − want| ≤ ATOL + RTOL · |want|: the tolerances of the ONNX backend tests.
const RTOL: f64 = 1e-3;
const ATOL: f64 = 1e-7;

/// Why `have` is not `want`, or nothing. Integers and truths must be equal; NaN equals NaN.
pub(crate) fn difference(have: &Tensor, want: &Tensor) -> Option<String> {
    if (have.dtype(), have.shape()) != (want.dtype(), want.shape()) {
        let (h, w) = ((have.dtype(), have.shape()), (want.dtype(), want.shape()));
        return Some(format!("is {}{:?}, expected is {}{:?}", h.0, h.1, w.0, w.1));
    }
    if !want.dtype().is_float() {
        let size = want.dtype().size().max(1);
        let mut elements = have.bytes().chunks(size).zip(want.bytes().chunks(size));
        let at = elements.position(|(h, w)| h != w)?;
        return Some(format!("differs at element {at} of {}", want.len()));
    }
    let (have, want) = (have.to_f64s(), want.to_f64s());
    let is_close = |h: f64, w: f64| {
        h == w || (h.is_nan() && w.is_nan()) || (w.is_finite() && (h - w).abs() <= ATOL + RTOL * w.abs())
    };
    let wrong = |(h, w): (&f64, &f64)| !is_close(*h, *w);
    let count = have.iter().zip(&want).filter(|p| wrong(*p)).count();
    let at = have.iter().zip(&want).position(wrong)?;
    Some(format!("{count} of {} elements differ, the first at {at}: {} for {}", want.len(), have[at], want[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f(values: &[f32]) -> Tensor {
        Tensor::from_vec(&[values.len()], values.to_vec()).unwrap()
    }

    #[test]
    fn floats_are_close_and_integers_equal() {
        assert_eq!(
            difference(&f(&[1.0009, f32::NAN, f32::INFINITY, 0.0]), &f(&[1.0, f32::NAN, f32::INFINITY, 0.9e-7])),
            None
        );
        for (have, want) in [
            (1.0011, 1.0),
            (f32::NAN, 1.0),
            (1.0, f32::NAN),
            (f32::INFINITY, 1.0),
            (f32::NEG_INFINITY, f32::INFINITY),
            (2e-7, 0.0),
        ] {
            assert!(difference(&f(&[have]), &f(&[want])).is_some(), "{have} {want}");
        }
        assert!(difference(&Tensor::scalar(1000i64), &Tensor::scalar(1001i64)).is_some());
        assert!(difference(&Tensor::scalar(1i32), &Tensor::scalar(1i64)).is_some());
        assert!(difference(&f(&[1.0]), &Tensor::scalar(1f32)).is_some());
    }
}
