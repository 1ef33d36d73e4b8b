//! Derivatives of pooling.

use super::{Grads, Vjp};
use penjing_ir::{Op, PoolKind, PoolSpec};

pub(super) fn pool(b: &mut Vjp<'_, '_>, kind: PoolKind, spec: &PoolSpec) -> Grads {
    let (x, dy) = (b.x(0), b.dy());
    Ok(vec![Some(b.s.op(Op::PoolGrad { kind, spec: spec.clone() }, &[x, dy])?)])
}

/// The gradient of an average is linear in dy and its transpose is the average itself; a maximum's depends on where it stood.
pub(super) fn pool_grad(b: &mut Vjp<'_, '_>, kind: PoolKind, spec: &PoolSpec) -> Grads {
    if kind == PoolKind::Max {
        return b.fail("second derivatives of a maximum are not defined");
    }
    let d = b.dy();
    Ok(vec![None, b.when(1, |b| Ok(b.s.op(Op::Pool { kind, spec: spec.clone() }, &[d])?))?])
}
