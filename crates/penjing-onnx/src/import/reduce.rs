//! Reductions.

use super::{
    frame::Operand,
    node::{NodeCx, Res, one, unsupported},
    shape,
};
use penjing_ir::{ArgKind, Compare, Op, Reduction, Unary, ValueId};
use penjing_tensor::DType;

type Outputs = Res<Vec<Operand>>;

/// What an ONNX reduction computes before, by and after the plain reduction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Composite {
    /// Σ|x|.
    L1,
    /// √Σx².
    L2,
    /// Σx².
    SumSquare,
    /// ln Σx.
    LogSum,
    /// ln Σeˣ.
    LogSumExp,
}

/// An operator that is one reduction.
pub(super) fn plain(cx: &mut NodeCx<'_, '_>, kind: Reduction) -> Outputs {
    let x = cx.value(0)?;
    let (axes, keep) = axes(cx, x)?;
    if cx.dtype_of(x) == DType::Bool {
        let mut s = cx.scope();
        let wide = s.cast(x, DType::U8)?;
        let y = s.op(Op::Reduce { kind, axes, keep }, &[wide])?;
        return Ok(one(s.cast(y, DType::Bool)?));
    }
    if axes.is_empty() {
        return Ok(one(x));
    }
    cx.emit(Op::Reduce { kind, axes, keep }, &[x])
}

/// An operator that is a formula around a sum.
pub(super) fn composite(cx: &mut NodeCx<'_, '_>, form: Composite) -> Outputs {
    let x = cx.value(0)?;
    let (axes, keep) = axes(cx, x)?;
    let mut s = cx.scope();
    let sum = |s: &mut penjing_ir::Scope<'_>, v: ValueId| {
        if axes.is_empty() { Ok(v) } else { s.op(Op::Reduce { kind: Reduction::Sum, axes: axes.clone(), keep }, &[v]) }
    };
    Ok(one(match form {
        Composite::L1 => {
            let v = s.unary(Unary::Abs, x)?;
            sum(&mut s, v)?
        }
        Composite::SumSquare => {
            let v = s.mul(x, x)?;
            sum(&mut s, v)?
        }
        Composite::L2 => {
            let v = s.mul(x, x)?;
            let total = sum(&mut s, v)?;
            root(&mut s, total)?
        }
        Composite::LogSum => {
            let total = sum(&mut s, x)?;
            s.unary(Unary::Log, total)?
        }
        Composite::LogSumExp if axes.is_empty() => {
            let e = s.unary(Unary::Exp, x)?;
            s.unary(Unary::Log, e)?
        }
        Composite::LogSumExp => {
            let top = s.reduce_keep(Reduction::Max, x, &axes)?;
            // A maximum of −∞ (nothing to sum, or only −∞) must not give ∞ − ∞.
            let zero = s.scalar_like(x, 0.0);
            let unbounded = s.unary(Unary::IsInf { positive: true, negative: true }, top)?;
            let top = s.select(unbounded, zero, top)?;
            let shifted = s.sub(x, top)?;
            let e = s.unary(Unary::Exp, shifted)?;
            let total = s.reduce_keep(Reduction::Sum, e, &axes)?;
            let log = s.unary(Unary::Log, total)?;
            let y = s.add(log, top)?;
            let fact = s.fact(y);
            let left = fact.shape.iter().enumerate().filter(|(i, _)| keep || !axes.contains(i));
            let shape: Vec<_> = left.map(|(_, d)| d.clone()).collect();
            s.reshape(y, &shape)?
        }
    }))
}

/// √v; integers go through `F32`.
fn root(s: &mut penjing_ir::Scope<'_>, v: ValueId) -> Result<ValueId, penjing_ir::IrError> {
    let dtype = s.fact(v).dtype;
    if dtype.is_float() {
        return s.unary(Unary::Sqrt, v);
    }
    let wide = s.cast(v, DType::F32)?;
    let y = s.unary(Unary::Sqrt, wide)?;
    s.cast(y, dtype)
}

/// The axes that a reduction names, all when it names none, and whether they stay.
fn axes(cx: &NodeCx<'_, '_>, x: ValueId) -> Res<(Vec<usize>, bool)> {
    let rank = cx.rank(x);
    let named = shape::list(cx, "axes", 1)?.unwrap_or_default();
    let axes = if !named.is_empty() {
        cx.axes(&named, rank)?
    } else if cx.flag("noop_with_empty_axes", 0)? {
        Vec::new()
    } else {
        (0..rank).collect()
    };
    Ok((axes, cx.flag("keepdims", 1)?))
}

/// `ArgMax` and `ArgMin`.
pub(super) fn arg(cx: &mut NodeCx<'_, '_>, kind: ArgKind) -> Outputs {
    let x = cx.value(0)?;
    let axis = cx.axis(cx.int("axis", 0)?, cx.rank(x))?;
    let (keep, last) = (cx.flag("keepdims", 1)?, cx.flag("select_last_index", 0)?);
    cx.emit(Op::ArgReduce { kind, axis, keep, last }, &[x])
}

/// `CumSum`.
pub(super) fn cum_sum(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let axis = cx.axis(cx.scalar_of(1, "axis")? as i64, cx.rank(x))?;
    let (exclusive, reverse) = (cx.flag("exclusive", 0)?, cx.flag("reverse", 0)?);
    cx.emit(Op::CumSum { axis, exclusive, reverse }, &[x])
}

/// `TopK`; before operator set 10, k is an attribute.
pub(super) fn top_k(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let axis = cx.axis(cx.int("axis", -1)?, cx.rank(x))?;
    let largest = cx.flag("largest", 1)?;
    let k = match cx.opt_int("k")? {
        Some(k) => penjing_ir::Dim::int(k),
        None => match cx.dims_of(1, "k")?.as_slice() {
            [k] => k.clone(),
            other => return unsupported(format!("k has {} elements", other.len())),
        },
    };
    cx.emit(Op::TopK { axis, k, largest }, &[x])
}

/// `CumProd`: unrolled, as there is no running product.
pub(super) fn cum_prod(cx: &mut NodeCx<'_, '_>) -> Outputs {
    const MAX_STEPS: usize = 64;
    let x = cx.value(0)?;
    let axis = cx.axis(cx.scalar_of(1, "axis")? as i64, cx.rank(x))?;
    let (exclusive, reverse) = (cx.flag("exclusive", 0)?, cx.flag("reverse", 0)?);
    let Some(n) = cx.fact(x).shape[axis].as_const().filter(|n| (1..=MAX_STEPS).contains(n)) else {
        return unsupported(format!("a running product over more than {MAX_STEPS} or unknown steps"));
    };
    let mut s = cx.scope();
    let mut steps = Vec::with_capacity(n);
    let mut so_far: Option<ValueId> = None;
    for i in 0..n {
        let at = if reverse { n - 1 - i } else { i };
        let v = s.slice(x, axis, at, 1usize)?;
        let next = match so_far {
            Some(p) => s.mul(p, v)?,
            None => v,
        };
        let shown = match (exclusive, so_far) {
            (false, _) => next,
            (true, Some(p)) => p,
            (true, None) => {
                let same = s.compare(Compare::Equal, v, v)?;
                let unit = s.scalar_like(v, 1.0);
                s.select(same, unit, unit)?
            }
        };
        steps.push(shown);
        so_far = Some(next);
    }
    if reverse {
        steps.reverse();
    }
    Ok(one(s.concat(&steps, axis)?))
}
