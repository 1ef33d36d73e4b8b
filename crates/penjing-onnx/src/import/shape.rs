//! Shape arithmetic that the evaluator and the importers of movement ops share.

use super::{
    known::{Known, Scalar},
    node::{NodeCx, Res, invalid, normalize_axis, unsupported},
};
use penjing_ir::{Dim, SliceRange};
use penjing_tensor::DType;

/// `Shape`: the dims of the operand, or a range of them.
pub(super) fn shape(cx: &NodeCx<'_, '_>) -> Res<Known> {
    let dims = operand_shape(cx)?;
    let n = dims.len() as i64;
    let clamp = |i: i64| (if i < 0 { i.saturating_add(n) } else { i }).clamp(0, n) as usize;
    let start = clamp(cx.int("start", 0)?);
    let end = clamp(cx.int("end", n)?);
    Ok(Known::dims(dims.get(start..end).unwrap_or_default().to_vec()))
}

/// `Size`: the number of elements of the operand.
pub(super) fn size(cx: &NodeCx<'_, '_>) -> Res<Known> {
    let dims = operand_shape(cx)?;
    Ok(Known { dtype: DType::I64, shape: vec![], elems: vec![Scalar::Int(Dim::product(&dims))] })
}

/// The shape of operand 0.
pub(super) fn operand_shape(cx: &NodeCx<'_, '_>) -> Res<Vec<Dim>> {
    use super::frame::Operand;
    match cx.inputs.first().and_then(Option::as_ref) {
        Some(Operand::Value(v)) => Ok(cx.fact(*v).shape),
        Some(Operand::Known(k)) => Ok(k.shape.iter().map(|&d| Dim::Const(d)).collect()),
        None => invalid("input 0 is missing"),
    }
}

/// The list that stands in attribute `name` in old operator sets and in operand `i` since then; `None` when neither is given.
pub(super) fn list(cx: &NodeCx<'_, '_>, name: &str, i: usize) -> Res<Option<Vec<i64>>> {
    if cx.has(i) { cx.ints_of(i, name).map(Some) } else { cx.ints(name) }
}

/// The result shape of `Squeeze` of `shape`.
pub(super) fn squeezed(cx: &NodeCx<'_, '_>, shape: &[Dim]) -> Res<Vec<Dim>> {
    let axes = match list(cx, "axes", 1)? {
        Some(axes) => cx.axes(&axes, shape.len())?,
        None => {
            if let Some(d) = shape.iter().find(|d| d.as_const().is_none()) {
                return unsupported(format!("without axes, and whether the extent {d} is 1 is not known"));
            }
            (0..shape.len()).filter(|&i| shape[i].is(1)).collect()
        }
    };
    for &axis in &axes {
        match shape[axis].as_const() {
            Some(1) => {}
            Some(n) => return invalid(format!("axis {axis} has extent {n}, not 1")),
            None => return unsupported(format!("whether the extent {} is 1 is not known; bind it", shape[axis])),
        }
    }
    Ok((0..shape.len()).filter(|i| !axes.contains(i)).map(|i| shape[i].clone()).collect())
}

/// The result shape of `Unsqueeze` of `shape`.
pub(super) fn unsqueezed(cx: &NodeCx<'_, '_>, shape: &[Dim]) -> Res<Vec<Dim>> {
    let Some(axes) = list(cx, "axes", 1)? else { return invalid("axes are missing") };
    let axes = cx.axes(&axes, shape.len() + axes.len())?;
    let mut out = shape.to_vec();
    axes.iter().for_each(|&axis| out.insert(axis, Dim::Const(1)));
    Ok(out)
}

/// The result shape of `Reshape` of `shape`: 0 copies an extent, −1 takes what is left.
pub(super) fn reshaped(cx: &NodeCx<'_, '_>, shape: &[Dim]) -> Res<Vec<Dim>> {
    let target = cx.dims_of(1, "shape")?;
    let copy_zero = !cx.flag("allowzero", 0)?;
    let mut out = Vec::with_capacity(target.len());
    let mut free = None;
    for (i, d) in target.into_iter().enumerate() {
        out.push(match d.as_int() {
            Some(0) if copy_zero => match shape.get(i) {
                Some(d) => d.clone(),
                None => return invalid(format!("shape element {i} copies an axis that is not there")),
            },
            Some(-1) if free.is_none() => {
                free = Some(i);
                Dim::Const(1)
            }
            Some(v) if v < 0 => return invalid(format!("shape element {i} is {v}")),
            _ => d,
        });
    }
    let Some(free) = free else { return Ok(out) };
    // Axes that are copied cancel, whatever they are; that also finds the extent when one of them is 0.
    let mut total = shape.to_vec();
    let mut rest: Vec<Dim> = out.iter().enumerate().filter(|(i, _)| *i != free).map(|(_, d)| d.clone()).collect();
    rest.retain(|d| match total.iter().position(|t| t == d) {
        Some(at) => {
            total.remove(at);
            false
        }
        None => true,
    });
    let (total, rest) = (Dim::product(&total), Dim::product(&rest));
    out[free] = match total.exact_div(&rest) {
        Some(d) => d,
        None if total.as_int().is_some() && rest.as_int().is_some() => {
            return invalid(format!("{total} elements do not divide into {rest}"));
        }
        None => {
            return unsupported(format!("whether {total} elements divide by {rest} is not known; bind the dimensions"));
        }
    };
    Ok(out)
}

/// The ranges of a `Slice` of a value with these extents.
pub(super) fn slice_ranges(cx: &NodeCx<'_, '_>, shape: &[Dim]) -> Res<Vec<SliceRange>> {
    let (starts, ends, axes, steps) = if cx.opset < 10 {
        let ints =
            |name: &str| -> Res<Option<Vec<Dim>>> { Ok(cx.ints(name)?.map(|v| v.into_iter().map(Dim::int).collect())) };
        (ints("starts")?, ints("ends")?, cx.ints("axes")?, None)
    } else {
        let optional = |i: usize, slot: &str| if cx.has(i) { cx.ints_of(i, slot).map(Some) } else { Ok(None) };
        let (axes, steps) = (optional(3, "axes")?, optional(4, "steps")?);
        (Some(cx.dims_of(1, "starts")?), Some(cx.dims_of(2, "ends")?), axes, steps)
    };
    let (Some(starts), Some(ends)) = (starts, ends) else { return invalid("starts or ends are missing") };
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()].iter().any(|&n| n != starts.len()) {
        return invalid("starts, ends, axes and steps differ in length");
    }
    cx.axes(&axes, shape.len())?;
    let mut ranges: Vec<SliceRange> = shape.iter().map(SliceRange::full).collect();
    for (i, &axis) in axes.iter().enumerate() {
        let axis = normalize_axis(axis, shape.len())?;
        ranges[axis] = slice_range(&shape[axis], &starts[i], &ends[i], steps[i])?;
    }
    Ok(ranges)
}

/// One axis of a slice: `start` and `end` may count from the end and reach past it.
fn slice_range(extent: &Dim, start: &Dim, end: &Dim, step: i64) -> Res<SliceRange> {
    if step == 0 || step == i64::MIN {
        return invalid("a step of 0");
    }
    if let (Some(n), Some(start), Some(end)) = (extent.as_int(), start.as_int(), end.as_int()) {
        let wrap = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
        let (low, high) = if step > 0 { (0, n) } else { (-1, n - 1) };
        let start = wrap(start).clamp(low.max(0), high.max(0));
        // An end below −n stands for "before the first element" when walking backwards.
        let end = wrap(end).clamp(low, high.max(low));
        let span = if step > 0 { end - start } else { start - end };
        let len = if span <= 0 || n == 0 { 0 } else { (span - 1) / step.abs() + 1 };
        let start = if len == 0 { 0 } else { start };
        return Ok(SliceRange { start: Dim::int(start), len: Dim::int(len), step });
    }
    symbolic_range(extent, start, end, step)
}

/// As [`slice_range`] where a bound or the extent is symbolic. An end that is a large number means the end of the axis; other
/// bounds are taken to lie inside it, as they do in exported models.
fn symbolic_range(extent: &Dim, start: &Dim, end: &Dim, step: i64) -> Res<SliceRange> {
    const FAR: i64 = i32::MAX as i64;
    let from_end = |d: &Dim| match d.as_int() {
        Some(v) if v < 0 => extent.clone() + d.clone(),
        _ => d.clone(),
    };
    if step < 0 {
        let whole = start.as_int().is_some_and(|s| s == -1 || s >= FAR) && end.as_int().is_some_and(|e| e <= -FAR);
        if whole && step == -1 {
            return Ok(SliceRange { start: extent.clone() - Dim::Const(1), len: extent.clone(), step });
        }
        return unsupported(format!("a backward slice of the symbolic extent {extent}; bind it"));
    }
    let start = match start.as_int() {
        Some(s) if s <= -FAR => Dim::Const(0),
        Some(s) if s >= FAR => extent.clone(),
        _ => from_end(start),
    };
    let end = match end.as_int() {
        Some(e) if e >= FAR => extent.clone(),
        Some(e) if e <= -FAR => Dim::Const(0),
        // A positive end may lie past a symbolic extent; the smaller one counts.
        Some(e) if e > 0 && extent.as_int().is_none() => extent.at_most(end),
        _ => from_end(end),
    };
    let span = end - start.clone();
    if span.as_int().is_some_and(|s| s <= 0) {
        return Ok(SliceRange { start: Dim::Const(0), len: Dim::Const(0), step });
    }
    Ok(SliceRange { start, len: span.ceil_div(&Dim::int(step)), step })
}
