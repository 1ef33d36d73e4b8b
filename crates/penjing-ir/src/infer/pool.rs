//! Facts of pooling.

use super::{Why, check_extents, ensure};
use crate::{Dim, Fact, PoolSpec, pool_extent};

pub(super) fn pool(x: &Fact, spec: &PoolSpec) -> Result<Fact, Why> {
    let rank = spec.kernel.len();
    ensure(spec.strides.len() == rank && spec.pads.len() == rank && spec.dilations.len() == rank && rank > 0, || {
        "kernel, strides, pads and dilations differ in length".into()
    })?;
    ensure(x.rank() == rank + 2, || format!("{x} needs {} axes", rank + 2))?;
    let positive = spec.kernel.iter().chain(&spec.strides).chain(&spec.dilations).all(|&v| v > 0);
    ensure(positive, || "kernel, strides and dilations must be positive".into())?;
    let spatial = (0..rank).map(|i| pool_extent(&x.shape[i + 2], spec, i));
    let shape: Vec<Dim> = x.shape[..2].iter().cloned().chain(spatial).collect();
    check_extents(&shape)?;
    Ok(Fact { dtype: x.dtype, shape })
}

pub(super) fn pool_grad([x, dy]: [&Fact; 2], spec: &PoolSpec) -> Result<Fact, Why> {
    let forward = pool(x, spec)?;
    ensure(forward == *dy, || format!("the gradient {dy} is not of the output's fact {forward}"))?;
    Ok(x.clone())
}
