//! Tensors in and out of the two number types that the interpreter computes in, and walks over strided index spaces.

use crate::RefError;
use penjing_tensor::{DType, Tensor, bf16, element_count, f16, strides};

/// Larger results are refused: no test needs them, and a hostile shape must not exhaust memory.
pub(crate) const MAX_ELEMENTS: usize = 1 << 31;

/// Product of `shape` when it may be allocated.
pub(crate) fn count(shape: &[usize]) -> Result<usize, RefError> {
    element_count(shape)
        .filter(|&n| n <= MAX_ELEMENTS)
        .ok_or_else(|| RefError::TooLarge { shape: shape.to_vec(), limit: MAX_ELEMENTS })
}

/// The elements of an integer or `Bool` tensor.
pub(crate) fn ints(t: &Tensor) -> Result<Vec<i128>, RefError> {
    fn widen<T: penjing_tensor::Element + Into<i128>>(t: &Tensor) -> Result<Vec<i128>, RefError> {
        Ok(t.as_slice::<T>()?.iter().map(|&v| v.into()).collect())
    }
    match t.dtype() {
        DType::I64 => widen::<i64>(t),
        DType::I32 => widen::<i32>(t),
        DType::I16 => widen::<i16>(t),
        DType::I8 => widen::<i8>(t),
        DType::U64 => widen::<u64>(t),
        DType::U32 => widen::<u32>(t),
        DType::U16 => widen::<u16>(t),
        DType::U8 | DType::Bool => widen::<u8>(t),
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 => {
            Err(penjing_tensor::TensorError::WrongDType { have: t.dtype(), want: DType::I64 }.into())
        }
    }
}

/// A float tensor from `f64`s, each rounded once to nearest even.
pub(crate) fn store_floats(dtype: DType, shape: &[usize], data: Vec<f64>) -> Result<Tensor, RefError> {
    Ok(match dtype {
        DType::F64 => Tensor::from_vec(shape, data)?,
        DType::F32 => Tensor::from_vec(shape, data.into_iter().map(|v| v as f32).collect())?,
        // The conversion to half precision may pass through f32; rounding to odd first makes the second rounding exact.
        DType::F16 => Tensor::from_vec(shape, data.into_iter().map(|v| f16::from_f32(round_to_odd(v))).collect())?,
        DType::BF16 => Tensor::from_vec(shape, data.into_iter().map(|v| bf16::from_f32(round_to_odd(v))).collect())?,
        _ => return Err(penjing_tensor::TensorError::WrongDType { have: dtype, want: DType::F64 }.into()),
    })
}

/// An integer tensor from `i128`s, each wrapped into the dtype; `Bool` is "not zero".
pub(crate) fn store_ints(dtype: DType, shape: &[usize], data: Vec<i128>) -> Result<Tensor, RefError> {
    macro_rules! wrap {
        ($t:ty) => {
            Tensor::from_vec(shape, data.into_iter().map(|v| v as $t).collect())?
        };
    }
    Ok(match dtype {
        DType::I64 => wrap!(i64),
        DType::I32 => wrap!(i32),
        DType::I16 => wrap!(i16),
        DType::I8 => wrap!(i8),
        DType::U64 => wrap!(u64),
        DType::U32 => wrap!(u32),
        DType::U16 => wrap!(u16),
        DType::U8 => wrap!(u8),
        DType::Bool => Tensor::from_bools(shape, &data.iter().map(|&v| v != 0).collect::<Vec<_>>())?,
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 => {
            return Err(penjing_tensor::TensorError::WrongDType { have: dtype, want: DType::I64 }.into());
        }
    })
}

/// The indices of an I64 tensor.
pub(crate) fn indices(t: &Tensor) -> Result<&[i64], RefError> {
    Ok(t.as_slice::<i64>()?)
}

/// `index` counted from the front of an axis; negative ones count from the end.
pub(crate) fn resolve(index: i64, position: usize, extent: usize) -> Result<usize, RefError> {
    let wrapped = if index < 0 { i128::from(index) + extent as i128 } else { i128::from(index) };
    usize::try_from(wrapped).ok().filter(|&i| i < extent).ok_or(RefError::IndexOutOfRange { index, position, extent })
}

/// A tensor whose element i is element `from[i]` of `x`.
pub(crate) fn pick(x: &Tensor, shape: &[usize], from: impl Iterator<Item = usize>) -> Result<Tensor, RefError> {
    count(shape)?;
    let mut out = Tensor::zeros(x.dtype(), shape)?;
    copy_elements(x.dtype(), x.bytes(), out.bytes_mut(), from.enumerate());
    Ok(out)
}

/// For each pair (to, from), element `to` of `out` becomes element `from` of `x`.
pub(crate) fn copy_elements(dtype: DType, x: &[u8], out: &mut [u8], pairs: impl Iterator<Item = (usize, usize)>) {
    fn copy<const S: usize>(x: &[u8], out: &mut [u8], pairs: impl Iterator<Item = (usize, usize)>) {
        for (to, from) in pairs {
            out[to * S..][..S].copy_from_slice(&x[from * S..][..S]);
        }
    }
    match dtype.size() {
        1 => copy::<1>(x, out, pairs),
        2 => copy::<2>(x, out, pairs),
        4 => copy::<4>(x, out, pairs),
        _ => copy::<8>(x, out, pairs),
    }
}

/// Strides of `from` when it is read as if broadcast to `to` (aligned at the last axis): 0 where it is repeated.
pub(crate) fn broadcast_strides(from: &[usize], to: &[usize]) -> Vec<isize> {
    let own = strides(from);
    let missing = to.len() - from.len();
    (0..to.len()).map(|i| if i < missing || from[i - missing] == 1 { 0 } else { own[i - missing] as isize }).collect()
}

/// Offsets `start + Σ indexᵢ·strideᵢ` in row-major order of the index over `shape`.
pub(crate) fn walk(shape: &[usize], strides: Vec<isize>, start: usize) -> Walk {
    let left = element_count(shape).unwrap_or(0);
    Walk { shape: shape.to_vec(), index: vec![0; shape.len()], strides, offset: start as isize, left }
}

/// Offsets of `from` broadcast to `to`, in row-major order of `to`.
pub(crate) fn walk_broadcast(from: &[usize], to: &[usize]) -> Walk {
    walk(to, broadcast_strides(from, to), 0)
}

pub(crate) struct Walk {
    shape: Vec<usize>,
    index: Vec<usize>,
    strides: Vec<isize>,
    offset: isize,
    left: usize,
}

impl Iterator for Walk {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let now = self.offset as usize;
        for axis in (0..self.shape.len()).rev() {
            self.index[axis] += 1;
            self.offset += self.strides[axis];
            if self.index[axis] < self.shape[axis] {
                break;
            }
            self.offset -= self.strides[axis] * self.shape[axis] as isize;
            self.index[axis] = 0;
        }
        Some(now)
    }
}

/// Extents of a shape before, along and after an axis: element (o, i, k) is at `(o·n + i)·inner + k`.
pub(crate) fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (product(&shape[..axis]), shape[axis], product(&shape[axis + 1..]))
}

/// Product of extents that cannot overflow; a saturated one belongs to a tensor without elements.
pub(crate) fn product(extents: &[usize]) -> usize {
    extents.iter().fold(1, |n, &d| n.saturating_mul(d))
}

/// The nearest f32 toward zero, with its last bit set when that was not exact.
fn round_to_odd(v: f64) -> f32 {
    let near = v as f32;
    if f64::from(near) == v || v.is_nan() || near.is_infinite() {
        return near;
    }
    let toward_zero = if f64::from(near).abs() > v.abs() { f32::from_bits(near.to_bits() - 1) } else { near };
    f32::from_bits(toward_zero.to_bits() | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_rounded_once() {
        // Just above the midpoint of 1 and the next f16: through f32 it would fall onto the midpoint and then to even.
        let above = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
        let t = store_floats(DType::F16, &[3], vec![above, 1.0 + 2f64.powi(-11), 1e9]).unwrap();
        assert_eq!(t.to_f64s(), [1.0 + 2f64.powi(-10), 1.0, f64::INFINITY]);
        let above = 1.0 + 2f64.powi(-8) + 2f64.powi(-40);
        assert_eq!(store_floats(DType::BF16, &[1], vec![above]).unwrap().to_f64s(), [1.0 + 2f64.powi(-7)]);
    }

    #[test]
    fn walks_broadcast_and_reverse() {
        assert_eq!(walk_broadcast(&[2, 1], &[2, 3]).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 1]);
        assert_eq!(walk(&[3], vec![-2], 5).collect::<Vec<_>>(), [5, 3, 1]);
        assert_eq!(walk_broadcast(&[], &[0, 3]).count(), 0);
        assert_eq!(walk_broadcast(&[], &[]).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn indices_wrap_once() {
        assert_eq!(resolve(-1, 0, 3), Ok(2));
        assert!(resolve(-4, 0, 3).is_err() && resolve(3, 0, 3).is_err() && resolve(i64::MIN, 0, 3).is_err());
    }
}
