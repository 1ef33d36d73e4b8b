//! Operators that move elements.

use super::{
    frame::Operand,
    node::{Fault, NodeCx, Res, invalid, one, unsupported},
    shape,
};
use penjing_ir::{Compare, Dim, Op, PadMode, Real, SliceRange, ValueId};
use penjing_tensor::{DType, Tensor};

type Outputs = Res<Vec<Operand>>;

/// `Reshape`.
pub(super) fn reshape(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let to = shape::reshaped(cx, &cx.fact(x).shape)?;
    reshape_to(cx, x, to)
}

/// `Squeeze`.
pub(super) fn squeeze(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let to = shape::squeezed(cx, &cx.fact(x).shape)?;
    reshape_to(cx, x, to)
}

/// `Unsqueeze`.
pub(super) fn unsqueeze(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let to = shape::unsqueezed(cx, &cx.fact(x).shape)?;
    reshape_to(cx, x, to)
}

/// `Flatten`: a matrix whose columns are the axes from `axis` on.
pub(super) fn flatten(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let dims = cx.fact(x).shape;
    let axis = cx.int("axis", 1)?;
    let axis = if axis == dims.len() as i64 { dims.len() } else { cx.axis(axis, dims.len())? };
    reshape_to(cx, x, vec![Dim::product(&dims[..axis]), Dim::product(&dims[axis..])])
}

fn reshape_to(cx: &mut NodeCx<'_, '_>, x: ValueId, to: Vec<Dim>) -> Outputs {
    if cx.fact(x).shape == to {
        return Ok(one(x));
    }
    cx.emit(Op::Reshape { shape: to }, &[x])
}

/// `Transpose`; reverses the axes when it names none.
pub(super) fn transpose(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let rank = cx.rank(x);
    let perm = match cx.ints("perm")? {
        Some(perm) => perm.iter().map(|&p| cx.axis(p, rank)).collect::<Res<Vec<_>>>()?,
        None => (0..rank).rev().collect(),
    };
    if perm.iter().copied().eq(0..rank) {
        return Ok(one(x));
    }
    cx.emit(Op::Permute { perm }, &[x])
}

/// `Expand`: broadcasts both ways.
pub(super) fn expand(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let target = cx.dims_of(1, "shape")?;
    let to = broadcast_dims(&cx.fact(x).shape, &target)?;
    expand_to(cx, x, to)
}

fn expand_to(cx: &mut NodeCx<'_, '_>, x: ValueId, to: Vec<Dim>) -> Outputs {
    if cx.fact(x).shape == to {
        return Ok(one(x));
    }
    cx.emit(Op::Expand { shape: to }, &[x])
}

/// The broadcast of two shapes; where one extent is symbolic and the other a number above 1, the number.
pub(super) fn broadcast_dims(a: &[Dim], b: &[Dim]) -> Res<Vec<Dim>> {
    penjing_ir::broadcast(a, b).map_err(|why| {
        let known = a.iter().chain(b).all(|d| d.as_const().is_some());
        if known { Fault::Invalid(why) } else { Fault::Unsupported(format!("{why}; bind the symbolic dimensions")) }
    })
}

/// `Slice`.
pub(super) fn slice(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let dims = cx.fact(x).shape;
    let ranges = shape::slice_ranges(cx, &dims)?;
    if ranges.iter().zip(&dims).all(|(r, d)| *r == SliceRange::full(d)) {
        return Ok(one(x));
    }
    cx.emit(Op::Slice { ranges }, &[x])
}

/// `Split` into slices: by sizes, or evenly with a smaller last one.
pub(super) fn split(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let dims = cx.fact(x).shape;
    let axis = cx.axis(cx.int("axis", 0)?, dims.len())?;
    let sizes = if cx.has(1) {
        Some(cx.dims_of(1, "split")?)
    } else {
        cx.ints("split")?.map(|v| v.into_iter().map(Dim::int).collect())
    };
    let parts = cx.int("num_outputs", cx.node.proto.output.len() as i64)?;
    let sizes: Vec<Dim> = match sizes {
        Some(sizes) => sizes,
        None => {
            if !(1..=1 << 16).contains(&parts) {
                return invalid(format!("num_outputs is {parts}"));
            }
            let (n, parts) = (&dims[axis], Dim::int(parts));
            match n.exact_div(&parts) {
                Some(size) => vec![size; parts.as_const().unwrap_or(1)],
                None => uneven(n, &parts)?,
            }
        }
    };
    let total = sizes.iter().fold(Dim::Const(0), |sum, d| sum + d.clone());
    if total != dims[axis] {
        return invalid(format!("parts of {sizes:?} do not make up the extent {}", dims[axis]));
    }
    let mut start = Dim::Const(0);
    let mut out = Vec::with_capacity(sizes.len());
    for size in sizes {
        let mut ranges: Vec<SliceRange> = dims.iter().map(SliceRange::full).collect();
        ranges[axis] = SliceRange::span(start.clone(), size.clone());
        out.push(Operand::Value(cx.emit_one(Op::Slice { ranges }, &[x])?));
        start = start + size;
    }
    Ok(out)
}

fn uneven(n: &Dim, parts: &Dim) -> Res<Vec<Dim>> {
    let (Some(n), Some(parts)) = (n.as_const(), parts.as_const()) else {
        return unsupported(format!("whether the extent {n} divides into {parts} parts is not known; bind it"));
    };
    let size = n.div_ceil(parts);
    Ok((0..parts).map(|i| Dim::Const(size.min(n.saturating_sub(i * size)))).collect())
}

/// `Concat`; operands that have no elements along the axis are left out.
pub(super) fn concat(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let xs = cx.values()?;
    let Some(&first) = xs.first() else { return invalid("takes at least one input") };
    let axis = cx.axis(cx.int("axis", 1)?, cx.rank(first))?;
    if xs.len() == 1 {
        return Ok(one(first));
    }
    cx.emit(Op::Concat { axis }, &xs)
}

/// `Tile`: the tiles become axes of their own, broadcast, and flow together with the axes they repeat.
pub(super) fn tile(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let dims = cx.fact(x).shape;
    let repeats = cx.dims_of(1, "repeats")?;
    if repeats.len() != dims.len() {
        return invalid(format!("{} repeats for rank {}", repeats.len(), dims.len()));
    }
    Ok(one(tile_by(cx, x, &repeats)?))
}

/// x repeated `repeats[i]` times along axis i.
pub(super) fn tile_by(cx: &mut NodeCx<'_, '_>, x: ValueId, repeats: &[Dim]) -> Res<ValueId> {
    let dims = cx.fact(x).shape;
    if repeats.iter().all(|r| r.is(1)) {
        return Ok(x);
    }
    let (mut split, mut wide, mut joined) = (Vec::new(), Vec::new(), Vec::new());
    for (d, r) in dims.iter().zip(repeats) {
        if !r.is(1) {
            split.push(Dim::Const(1));
            wide.push(r.clone());
        }
        split.push(d.clone());
        wide.push(d.clone());
        joined.push(r.clone() * d.clone());
    }
    let mut s = cx.scope();
    let y = s.reshape(x, &split)?;
    let y = s.expand(y, &wide)?;
    Ok(s.reshape(y, &joined)?)
}

/// `Pad`; negative pads cut.
pub(super) fn pad(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let rank = cx.rank(x);
    let (pads, value, axes) = if cx.opset < 11 {
        (cx.ints("pads")?.unwrap_or_default(), cx.float("value", 0.0)?, None)
    } else {
        let value = if cx.has(2) { cx.scalar_of(2, "constant_value")? } else { 0.0 };
        let axes = if cx.has(3) { Some(cx.ints_of(3, "axes")?) } else { None };
        (cx.ints_of(1, "pads")?, value, axes)
    };
    let axes: Vec<usize> = match axes {
        Some(axes) => {
            cx.axes(&axes, rank)?;
            axes.iter().map(|&a| cx.axis(a, rank)).collect::<Res<_>>()?
        }
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return invalid(format!("{} pads for {} axes", pads.len(), axes.len()));
    }
    let mode = match cx.string("mode", "constant")?.as_str() {
        "constant" => PadMode::Constant(Real(value)),
        "reflect" => PadMode::Reflect,
        "edge" => PadMode::Edge,
        "wrap" => PadMode::Wrap,
        other => return invalid(format!("mode is '{other}'")),
    };
    let (mut before, mut after) = (vec![0i64; rank], vec![0i64; rank]);
    for (i, &axis) in axes.iter().enumerate() {
        (before[axis], after[axis]) = (pads[i], pads[i + axes.len()]);
    }
    let cut = crop(cx, x, &before, &after)?;
    let (before, after) = (grown(&before)?, grown(&after)?);
    if before.iter().chain(&after).all(|&p| p == 0) {
        return Ok(one(cut));
    }
    cx.emit(Op::Pad { before, after, mode }, &[cut])
}

/// x without the elements that negative pads cut off.
fn crop(cx: &mut NodeCx<'_, '_>, x: ValueId, before: &[i64], after: &[i64]) -> Res<ValueId> {
    if before.iter().chain(after).all(|&p| p >= 0) {
        return Ok(x);
    }
    let dims = cx.fact(x).shape;
    let lost = |p: i64| Dim::int(p.min(0).saturating_neg());
    let ranges: Vec<SliceRange> = (0..dims.len())
        .map(|i| SliceRange::span(lost(before[i]), dims[i].clone() - lost(before[i]) - lost(after[i])))
        .collect();
    Ok(cx.scope().op(Op::Slice { ranges }, &[x])?)
}

/// Pads that grow, as extents.
fn grown(pads: &[i64]) -> Res<Vec<usize>> {
    const MAX_PAD: i64 = 1 << 31;
    if let Some(p) = pads.iter().find(|p| **p > MAX_PAD) {
        return invalid(format!("a pad of {p}"));
    }
    Ok(pads.iter().map(|&p| p.max(0) as usize).collect())
}

/// `DepthToSpace` in both modes.
pub(super) fn depth_to_space(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let (n, c, h, w, b) = block_dims(cx, x)?;
    let Some(depth) = c.exact_div(&(b.clone() * b.clone())) else {
        return invalid(format!("{c} channels do not divide into blocks of {b}²"));
    };
    let (split, perm) = match cx.string("mode", "DCR")?.as_str() {
        "DCR" => ([n.clone(), b.clone(), b.clone(), depth.clone(), h.clone(), w.clone()], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([n.clone(), depth.clone(), b.clone(), b.clone(), h.clone(), w.clone()], [0, 1, 4, 2, 5, 3]),
        other => return invalid(format!("mode is '{other}'")),
    };
    let mut s = cx.scope();
    let y = s.reshape(x, &split)?;
    let y = s.permute(y, &perm)?;
    Ok(one(s.reshape(y, &[n, depth, h * b.clone(), w * b])?))
}

/// `SpaceToDepth` in both modes.
pub(super) fn space_to_depth(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let (n, c, h, w, b) = block_dims(cx, x)?;
    let perm: &[usize] = match cx.string("mode", "DCR")?.as_str() {
        "DCR" => &[0, 3, 5, 1, 2, 4],
        "CRD" => &[0, 1, 3, 5, 2, 4],
        other => return invalid(format!("mode is '{other}'")),
    };
    let (Some(rows), Some(columns)) = (h.exact_div(&b), w.exact_div(&b)) else {
        return invalid(format!("{h}×{w} does not divide into blocks of {b}"));
    };
    let mut s = cx.scope();
    let y = s.reshape(x, &[n.clone(), c.clone(), rows.clone(), b.clone(), columns.clone(), b.clone()])?;
    let y = s.permute(y, perm)?;
    Ok(one(s.reshape(y, &[n, c * b.clone() * b, rows, columns])?))
}

fn block_dims(cx: &NodeCx<'_, '_>, x: ValueId) -> Res<(Dim, Dim, Dim, Dim, Dim)> {
    let block = cx.int("blocksize", 0)?;
    let dims = cx.fact(x).shape;
    let [n, c, h, w] = dims.as_slice() else { return invalid(format!("needs 4 axes, not {}", dims.len())) };
    if !(1..1 << 16).contains(&block) {
        return invalid(format!("blocksize is {block}"));
    }
    Ok((n.clone(), c.clone(), h.clone(), w.clone(), Dim::int(block)))
}

/// `Trilu`: the upper or lower triangle of the last two axes, zeros elsewhere.
pub(super) fn trilu(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let k = if cx.has(1) { cx.scalar_of(1, "k")? } else { 0.0 };
    let upper = cx.flag("upper", 1)?;
    let dims = cx.fact(x).shape;
    let Some(matrix) = dims.len().checked_sub(2).map(|at| dims[at..].to_vec()) else {
        return invalid("needs at least 2 axes");
    };
    let dtype = cx.dtype_of(x);
    let mut s = cx.scope();
    let rows = s.op(Op::Iota { shape: matrix.clone(), axis: 0, dtype: DType::I64 }, &[])?;
    let columns = s.op(Op::Iota { shape: matrix, axis: 1, dtype: DType::I64 }, &[])?;
    let diagonal = s.scalar(DType::I64, k);
    let edge = s.add(rows, diagonal)?;
    let kept = if upper {
        s.compare(Compare::LessEqual, edge, columns)?
    } else {
        s.compare(Compare::LessEqual, columns, edge)?
    };
    let zero = s.scalar(dtype, 0.0);
    Ok(one(s.select(kept, x, zero)?))
}

/// `EyeLike`: ones on a diagonal.
pub(super) fn eye_like(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let dims = shape::operand_shape(cx)?;
    let k = cx.int("k", 0)?;
    let dtype = match cx.dtype("dtype")? {
        Some(dtype) => dtype,
        None => {
            let x = cx.value(0)?;
            cx.dtype_of(x)
        }
    };
    if dims.len() != 2 {
        return invalid(format!("needs 2 axes, not {}", dims.len()));
    }
    let mut s = cx.scope();
    let rows = s.op(Op::Iota { shape: dims.clone(), axis: 0, dtype: DType::I64 }, &[])?;
    let columns = s.op(Op::Iota { shape: dims, axis: 1, dtype: DType::I64 }, &[])?;
    let diagonal = s.constant(Tensor::scalar(k));
    let shifted = s.add(rows, diagonal)?;
    let on = s.compare(Compare::Equal, shifted, columns)?;
    Ok(one(s.cast(on, dtype)?))
}

/// `Constant`.
pub(super) fn constant(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let tensor = if let Some(tensor) = cx.tensor("value")? {
        tensor
    } else if let Some(v) = cx.opt_float("value_float")? {
        Tensor::scalar(v as f32)
    } else if let Some(v) = cx.opt_int("value_int")? {
        Tensor::scalar(v)
    } else if let Some(v) = cx.floats("value_floats")? {
        vector(v.into_iter().map(|x| x as f32).collect())?
    } else if let Some(v) = cx.ints("value_ints")? {
        vector(v)?
    } else if cx.node.proto.attribute.is_empty() {
        return invalid("it has no value");
    } else {
        return unsupported("a constant that is a string or sparse");
    };
    let v = cx.graph().add_const(tensor);
    Ok(one(v))
}

fn vector<T: penjing_tensor::Element>(v: Vec<T>) -> Res<Tensor> {
    Tensor::from_vec(&[v.len()], v).map_err(|e| Fault::Invalid(e.to_string()))
}

/// `ConstantOfShape`.
pub(super) fn constant_of_shape(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let value = cx.tensor("value")?.unwrap_or(Tensor::scalar(0f32));
    let dims = cx.dims_of(0, "input")?;
    if value.len() != 1 {
        return invalid(format!("its value has {} elements, not 1", value.len()));
    }
    if let Some(d) = dims.iter().find(|d| d.as_int().is_some_and(|v| v < 0)) {
        return invalid(format!("an extent of {d}"));
    }
    let known: Option<Vec<usize>> = dims.iter().map(Dim::as_const).collect();
    if let Some(shape) = known
        && let Some(count) = penjing_tensor::element_count(&shape).filter(|&n| n <= super::known::MAX_KNOWN)
        && let Some(known) = super::known::Known::of(&value)
    {
        return Ok(vec![
            super::known::Known { dtype: known.dtype, elems: vec![known.elems[0].clone(); count], shape }.into(),
        ]);
    }
    let scalar = value.reshape(&[]).map_err(|e| Fault::Invalid(e.to_string()))?;
    let v = cx.graph().add_const(scalar);
    expand_to(cx, v, dims)
}

/// `Range` with a symbolic number of elements; one with a known number is evaluated before.
pub(super) fn range(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (start, delta) = (cx.tensor_of(0, "start")?, cx.tensor_of(2, "delta")?);
    let dtype = start.dtype();
    let (first, step) = (cx.scalar_of(0, "start")?, cx.scalar_of(2, "delta")?);
    if step == 0.0 {
        return invalid("delta is 0");
    }
    let count = match cx.known(1).and_then(|k| k.elems.first().and_then(super::known::Scalar::as_f64)) {
        Some(limit) => Dim::Const(((limit - first) / step).ceil().clamp(0.0, 1e15) as usize),
        None => {
            let limit = cx.dims_of(1, "limit")?;
            let (Some(limit), true) = (limit.first(), dtype.is_int()) else {
                return unsupported("a symbolic limit of floats");
            };
            let span = limit.clone() - Dim::int(first as i64);
            if step < 0.0 {
                return unsupported("counting down from a symbolic dimension; bind it");
            }
            span.ceil_div(&Dim::int(step as i64))
        }
    };
    let mut s = cx.scope();
    let mut y = s.op(Op::Iota { shape: vec![count], axis: 0, dtype }, &[])?;
    if delta.to_f64s() != [1.0] {
        let delta = s.constant(delta.reshape(&[]).map_err(|e| Fault::Invalid(e.to_string()))?);
        y = s.mul(y, delta)?;
    }
    if first != 0.0 {
        let start = s.constant(start.reshape(&[]).map_err(|e| Fault::Invalid(e.to_string()))?);
        y = s.add(y, start)?;
    }
    Ok(one(y))
}

/// `CenterCropPad`: cut or padded with zeros around the middle.
pub(super) fn center_crop_pad(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let mut x = cx.value(0)?;
    let dims = cx.fact(x).shape;
    let target = cx.ints_of(1, "shape")?;
    let axes = cx.ints("axes")?.unwrap_or_else(|| (0..dims.len() as i64).collect());
    cx.axes(&axes, dims.len())?;
    if axes.len() != target.len() {
        return invalid(format!("{} extents for {} axes", target.len(), axes.len()));
    }
    let (mut before, mut after) = (vec![0i64; dims.len()], vec![0i64; dims.len()]);
    for (&axis, &want) in axes.iter().zip(&target) {
        let axis = cx.axis(axis, dims.len())?;
        let Some(have) = dims[axis].as_const() else { return unsupported(format!("a symbolic extent {}", dims[axis])) };
        let grow = want - have as i64;
        before[axis] = if grow >= 0 { grow / 2 } else { -(-grow / 2) };
        after[axis] = grow - before[axis];
    }
    x = crop(cx, x, &before, &after)?;
    let (before, after) = (grown(&before)?, grown(&after)?);
    Ok(one(cx.emit_one(Op::Pad { before, after, mode: PadMode::Constant(Real(0.0)) }, &[x])?))
}

/// `Shape` and `Size` are always evaluated; they reach the table only with an operand missing.
pub(super) fn evaluated(_: &mut NodeCx<'_, '_>) -> Outputs {
    unsupported("more than one output")
}
