//! Pooling.

use super::{
    conv::{extents, pads},
    frame::Operand,
    node::{NodeCx, Res, invalid, one, unsupported},
};
use penjing_ir::{Binary, Op, PoolKind, PoolSpec, Reduction, Unary, ValueId};
use penjing_tensor::DType;

type Outputs = Res<Vec<Operand>>;

/// `MaxPool`; its indices are not computed.
pub(super) fn max(cx: &mut NodeCx<'_, '_>) -> Outputs {
    if cx.wants(1) {
        return unsupported("the second output, indices of the maxima");
    }
    let x = cx.value(0)?;
    let spec = spec(cx, x)?;
    cx.emit(Op::Pool { kind: PoolKind::Max, spec }, &[x])
}

/// `AveragePool`.
pub(super) fn average(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let spec = spec(cx, x)?;
    let count_include_pad = cx.flag("count_include_pad", 0)?;
    cx.emit(Op::Pool { kind: PoolKind::Average { count_include_pad }, spec }, &[x])
}

/// `LpPool`: the p-norm of each window.
pub(super) fn lp(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let spec = spec(cx, x)?;
    let p = cx.int("p", 2)? as f64;
    let count = spec.kernel.iter().map(|&k| k as f64).product();
    let kind = PoolKind::Average { count_include_pad: true };
    if spec.ceil {
        return unsupported("windows that hang over the padded input (ceil_mode)");
    }
    let mut s = cx.scope();
    let power = s.scalar_like(x, p);
    let root = s.scalar_like(x, 1.0 / p);
    let magnitude = s.unary(Unary::Abs, x)?;
    let raised = s.binary(Binary::Pow, magnitude, power)?;
    let mean = s.op(Op::Pool { kind, spec }, &[raised])?;
    let sum = s.scale(mean, count)?;
    Ok(one(s.binary(Binary::Pow, sum, root)?))
}

/// `GlobalAveragePool` and `GlobalMaxPool`: reductions over the spatial axes.
pub(super) fn global(cx: &mut NodeCx<'_, '_>, kind: Reduction) -> Outputs {
    let x = cx.value(0)?;
    let axes = spatial(cx, x)?;
    cx.emit(Op::Reduce { kind, axes, keep: true }, &[x])
}

/// `GlobalLpPool`.
pub(super) fn global_lp(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let axes = spatial(cx, x)?;
    let p = cx.int("p", 2)? as f64;
    let mut s = cx.scope();
    let (power, root) = (s.scalar_like(x, p), s.scalar_like(x, 1.0 / p));
    let magnitude = s.unary(Unary::Abs, x)?;
    let raised = s.binary(Binary::Pow, magnitude, power)?;
    let sum = s.reduce_keep(Reduction::Sum, raised, &axes)?;
    Ok(one(s.binary(Binary::Pow, sum, root)?))
}

fn spatial(cx: &NodeCx<'_, '_>, x: ValueId) -> Res<Vec<usize>> {
    match cx.rank(x) {
        0..=2 => invalid("needs batch, channel and spatial axes"),
        rank => Ok((2..rank).collect()),
    }
}

fn spec(cx: &NodeCx<'_, '_>, x: ValueId) -> Res<PoolSpec> {
    let dims = cx.fact(x).shape;
    let rank = dims.len().saturating_sub(2);
    if rank == 0 {
        return invalid("needs batch, channel and spatial axes");
    }
    if cx.ints("kernel_shape")?.is_none() {
        return invalid("attribute 'kernel_shape' is missing");
    }
    if !matches!(cx.dtype_of(x), DType::F32 | DType::F64 | DType::F16 | DType::BF16 | DType::I8 | DType::U8) {
        return invalid(format!("pools {}", cx.dtype_of(x)));
    }
    let kernel = extents(cx, "kernel_shape", rank, 1)?;
    let strides = extents(cx, "strides", rank, 1)?;
    let dilations = extents(cx, "dilations", rank, 1)?;
    let pads = pads(cx, &dims[2..], &kernel, &strides, &dilations)?;
    Ok(PoolSpec { kernel, strides, pads, dilations, ceil: cx.flag("ceil_mode", 0)? })
}
