//! Facts of reductions.

use super::{Why, check_axis, check_extents, ensure};
use crate::{Dim, Fact};
use penjing_tensor::DType;

pub(super) fn reduce(x: &Fact, axes: &[usize], keep: bool) -> Result<Fact, Why> {
    ensure(axes.windows(2).all(|w| w[0] < w[1]), || format!("axes {axes:?} must be sorted and distinct"))?;
    axes.iter().try_for_each(|&a| check_axis(x, a))?;
    ensure(x.dtype != DType::Bool, || "needs numbers, bool given".into())?;
    let shape = (0..x.rank())
        .filter(|i| keep || !axes.contains(i))
        .map(|i| if axes.contains(&i) { Dim::Const(1) } else { x.shape[i].clone() })
        .collect();
    Ok(Fact { dtype: x.dtype, shape })
}

/// An op that keeps the shape and works along one axis.
pub(super) fn along(x: &Fact, axis: usize) -> Result<Fact, Why> {
    check_axis(x, axis)?;
    ensure(x.dtype != DType::Bool, || "needs numbers, bool given".into())?;
    Ok(x.clone())
}

pub(super) fn top_k(x: &Fact, axis: usize, k: &Dim) -> Result<Vec<Fact>, Why> {
    let mut out = along(x, axis)?;
    check_extents(std::slice::from_ref(k))?;
    if let (Some(k), Some(n)) = (k.as_const(), x.shape[axis].as_const()) {
        ensure(k <= n, || format!("k = {k} is more than the {n} elements of axis {axis}"))?;
    }
    out.shape[axis] = k.clone();
    Ok(vec![out.clone(), out.with_dtype(DType::I64)])
}
