//! Facts of elementwise ops.

use super::{Why, check_dtype, check_float, ensure};
use crate::{Binary, Compare, Dim, Fact, Unary};
use penjing_tensor::DType;

/// NumPy broadcast of symbolic shapes. Two unequal symbolic extents are an error: bind them first.
pub fn broadcast(a: &[Dim], b: &[Dim]) -> Result<Vec<Dim>, Why> {
    let rank = a.len().max(b.len());
    let one = Dim::Const(1);
    let dim = |s: &[Dim], i: usize| if i + s.len() < rank { one.clone() } else { s[i + s.len() - rank].clone() };
    (0..rank)
        .map(|i| match (dim(a, i), dim(b, i)) {
            (x, y) if x == y => Ok(x),
            (x, y) if x.is(1) => Ok(y),
            (x, y) if y.is(1) => Ok(x),
            _ => Err(format!("shapes {a:?} and {b:?} do not broadcast")),
        })
        .collect()
}

pub(super) fn unary(f: Unary, x: &Fact) -> Result<Fact, Why> {
    match f {
        Unary::Neg | Unary::Abs | Unary::Relu | Unary::Sign => {
            ensure(x.dtype != DType::Bool, || "needs numbers, bool given".into())?;
        }
        Unary::Not => check_dtype(x, DType::Bool)?,
        Unary::BitNot => ensure(x.dtype.is_int(), || format!("needs integers, {} given", x.dtype))?,
        _ => check_float(x)?,
    }
    Ok(match f {
        Unary::IsNan | Unary::IsInf { .. } => x.with_dtype(DType::Bool),
        _ => x.clone(),
    })
}

pub(super) fn binary(f: Binary, [a, b]: [&Fact; 2]) -> Result<Fact, Why> {
    same_dtype(a, b)?;
    match f {
        Binary::And | Binary::Or | Binary::Xor => check_dtype(a, DType::Bool)?,
        Binary::BitAnd | Binary::BitOr | Binary::BitXor | Binary::Shl | Binary::Shr => {
            ensure(a.dtype.is_int(), || format!("needs integers, {} given", a.dtype))?;
        }
        _ => ensure(a.dtype != DType::Bool, || "needs numbers, bool given".into())?,
    }
    Ok(Fact { dtype: a.dtype, shape: broadcast(&a.shape, &b.shape)? })
}

pub(super) fn compare(f: Compare, [a, b]: [&Fact; 2]) -> Result<Fact, Why> {
    same_dtype(a, b)?;
    ensure(f == Compare::Equal || a.dtype != DType::Bool, || "needs numbers, bool given".into())?;
    Ok(Fact { dtype: DType::Bool, shape: broadcast(&a.shape, &b.shape)? })
}

pub(super) fn select([condition, a, b]: [&Fact; 3]) -> Result<Fact, Why> {
    check_dtype(condition, DType::Bool)?;
    same_dtype(a, b)?;
    Ok(Fact { dtype: a.dtype, shape: broadcast(&condition.shape, &broadcast(&a.shape, &b.shape)?)? })
}

fn same_dtype(a: &Fact, b: &Fact) -> Result<(), Why> {
    ensure(a.dtype == b.dtype, || format!("operands are {} and {}; cast one", a.dtype, b.dtype))
}
