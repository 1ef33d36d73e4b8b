//! Gather, scatter and one-hot.

use super::{
    frame::Operand,
    node::{NodeCx, Res, invalid, one, unsupported},
};
use penjing_ir::{Compare, Dim, Op, ScatterReduction, Symbol, ValueId};
use penjing_tensor::{DType, Tensor};

type Outputs = Res<Vec<Operand>>;

/// Operand `i` as I64 indices.
fn indices(cx: &mut NodeCx<'_, '_>, i: usize) -> Res<ValueId> {
    let v = cx.value(i)?;
    Ok(cx.scope().cast(v, DType::I64)?)
}

/// `Gather`.
pub(super) fn gather(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (data, at) = (cx.value(0)?, indices(cx, 1)?);
    let axis = cx.axis(cx.int("axis", 0)?, cx.rank(data))?;
    cx.emit(Op::Gather { axis }, &[data, at])
}

/// `GatherElements`.
pub(super) fn gather_elements(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (data, at) = (cx.value(0)?, indices(cx, 1)?);
    let axis = cx.axis(cx.int("axis", 0)?, cx.rank(data))?;
    cx.emit(Op::GatherElements { axis }, &[data, at])
}

/// `GatherND`.
pub(super) fn gather_nd(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (data, at) = (cx.value(0)?, indices(cx, 1)?);
    let batch_dims = cx.int("batch_dims", 0)?;
    if !(0..64).contains(&batch_dims) {
        return invalid(format!("batch_dims is {batch_dims}"));
    }
    cx.emit(Op::GatherNd { batch_dims: batch_dims as usize }, &[data, at])
}

/// `ScatterElements` and its older name `Scatter`.
pub(super) fn scatter_elements(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (data, at, updates) = (cx.value(0)?, indices(cx, 1)?, cx.value(2)?);
    let axis = cx.axis(cx.int("axis", 0)?, cx.rank(data))?;
    let reduction = reduction(cx)?;
    cx.emit(Op::ScatterElements { axis, reduction }, &[data, at, updates])
}

/// `ScatterND`.
pub(super) fn scatter_nd(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (data, at, updates) = (cx.value(0)?, indices(cx, 1)?, cx.value(2)?);
    let reduction = reduction(cx)?;
    cx.emit(Op::ScatterNd { reduction }, &[data, at, updates])
}

fn reduction(cx: &NodeCx<'_, '_>) -> Res<ScatterReduction> {
    Ok(match cx.string("reduction", "none")?.as_str() {
        "none" => ScatterReduction::None,
        "add" => ScatterReduction::Add,
        "mul" => ScatterReduction::Mul,
        "max" => ScatterReduction::Max,
        "min" => ScatterReduction::Min,
        other => return invalid(format!("reduction is '{other}'")),
    })
}

/// `OneHot`: values[1] at the index, values[0] elsewhere.
pub(super) fn one_hot(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (at, values) = (indices(cx, 0)?, cx.value(2)?);
    let rank = cx.rank(at) + 1;
    let axis = cx.axis(cx.int("axis", -1)?, rank)?;
    let depth = match cx.known(1) {
        Some(k) if k.dtype.is_float() => Dim::int(cx.scalar_of(1, "depth")? as i64),
        _ => match cx.dims_of(1, "depth")?.as_slice() {
            [depth] => depth.clone(),
            other => return invalid(format!("depth has {} elements", other.len())),
        },
    };
    if cx.fact(values).shape != [Dim::Const(2)] {
        return invalid("values must be the pair [off, on]");
    }
    let mut s = cx.scope();
    let hot = s.op(Op::OneHot { axis, depth, dtype: DType::Bool }, &[at])?;
    let mut pick = |i: usize| -> Res<ValueId> {
        let v = s.slice(values, 0, i, 1usize)?;
        Ok(s.reshape(v, &[])?)
    };
    let (off, on) = (pick(0)?, pick(1)?);
    Ok(one(s.select(hot, on, off)?))
}

/// `NonZero`: the number of columns is known only after it has run.
pub(super) fn non_zero(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let clean = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let count = Symbol::late(&format!("nonzero_{}", cx.node.label.chars().map(clean).collect::<String>()));
    cx.emit(Op::NonZero { count }, &[x])
}

/// `Compress` by a known condition.
pub(super) fn compress(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let mut x = cx.value(0)?;
    let condition = cx.tensor_of(1, "condition")?.to_f64s();
    let axis = match cx.opt_int("axis")? {
        Some(axis) => cx.axis(axis, cx.rank(x))?,
        None => {
            let count = Dim::product(&cx.fact(x).shape);
            x = cx.scope().reshape(x, &[count])?;
            0
        }
    };
    let kept: Vec<i64> = condition.iter().enumerate().filter(|(_, c)| **c != 0.0).map(|(i, _)| i as i64).collect();
    let Ok(kept) = Tensor::from_vec(&[kept.len()], kept) else { return invalid("condition is too long") };
    let at = cx.graph().add_const(kept);
    cx.emit(Op::Gather { axis }, &[x, at])
}

/// `ReverseSequence`: each sequence's first `len` steps backwards.
pub(super) fn reverse_sequence(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (x, lens) = (cx.value(0)?, indices(cx, 1)?);
    let dims = cx.fact(x).shape;
    let (batch, time) = (cx.axis(cx.int("batch_axis", 1)?, dims.len())?, cx.axis(cx.int("time_axis", 0)?, dims.len())?);
    if batch == time {
        return invalid("batch and time are one axis");
    }
    let mut s = cx.scope();
    let step = s.op(Op::Iota { shape: dims.clone(), axis: time, dtype: DType::I64 }, &[])?;
    let mut along_batch = vec![Dim::Const(1); dims.len()];
    along_batch[batch] = dims[batch].clone();
    let lens = s.reshape(lens, &along_batch)?;
    let inside = s.compare(Compare::Less, step, lens)?;
    let last = s.shift(lens, -1.0)?;
    let back = s.sub(last, step)?;
    let at = s.select(inside, back, step)?;
    Ok(one(s.op(Op::GatherElements { axis: time }, &[x, at])?))
}

/// `TensorScatter`: a cache with an update written from a position on, per batch element.
pub(super) fn tensor_scatter(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (cache, update) = (cx.value(0)?, cx.value(1)?);
    let dims = cx.fact(cache).shape;
    let axis = cx.axis(cx.int("axis", -2)?, dims.len())?;
    let circular = match cx.string("mode", "linear")?.as_str() {
        "linear" => false,
        "circular" => true,
        other => return invalid(format!("mode is '{other}'")),
    };
    let start = if cx.has(2) { Some(indices(cx, 2)?) } else { None };
    let steps = cx.fact(update).shape;
    let mut s = cx.scope();
    let mut at = s.op(Op::Iota { shape: steps.clone(), axis, dtype: DType::I64 }, &[])?;
    if let Some(start) = start {
        let mut along_batch = vec![Dim::Const(1); dims.len()];
        along_batch[0] = dims[0].clone();
        let start = s.reshape(start, &along_batch)?;
        at = s.add(at, start)?;
    }
    if circular {
        let Some(n) = dims[axis].as_const() else { return unsupported("a circular cache of symbolic extent") };
        let n = s.scalar(DType::I64, n as f64);
        at = s.binary(penjing_ir::Binary::Mod, at, n)?;
    }
    let reduction = ScatterReduction::None;
    Ok(one(s.op(Op::ScatterElements { axis, reduction }, &[cache, at, update])?))
}

/// `ArrayFeatureExtractor` of ai.onnx.ml: columns of x.
pub(super) fn array_feature_extractor(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (x, at) = (cx.value(0)?, indices(cx, 1)?);
    let Some(axis) = cx.rank(x).checked_sub(1) else { return invalid("x is a scalar") };
    let mut s = cx.scope();
    let count = Dim::product(&s.fact(at).shape);
    let at = s.reshape(at, &[count])?;
    let y = s.op(Op::Gather { axis }, &[x, at])?;
    if axis > 0 {
        return Ok(one(y));
    }
    let count = s.fact(y).shape[0].clone();
    Ok(one(s.reshape(y, &[Dim::Const(1), count])?))
}

/// `Binarizer` of ai.onnx.ml: 1 above the threshold, else 0.
pub(super) fn binarizer(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let threshold = cx.float("threshold", 0.0)?;
    let dtype = cx.dtype_of(x);
    let mut s = cx.scope();
    let threshold = s.scalar_like(x, threshold);
    let above = s.compare(Compare::Less, threshold, x)?;
    Ok(one(s.cast(above, dtype)?))
}

/// `Det` of 2×2 and 3×3 matrices.
pub(super) fn det(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let dims = cx.fact(x).shape;
    let rank = dims.len();
    if rank < 2 || dims[rank - 1] != dims[rank - 2] {
        return invalid("needs square matrices");
    }
    let n = match dims[rank - 1].as_const() {
        Some(n @ 1..=3) => n,
        _ => return unsupported("determinants of matrices larger than 3×3"),
    };
    let mut s = cx.scope();
    let mut entry = |row: usize, column: usize| -> Res<ValueId> {
        let v = s.slice(x, rank - 2, row, 1usize)?;
        let v = s.slice(v, rank - 1, column, 1usize)?;
        Ok(s.reshape(v, &dims[..rank - 2])?)
    };
    let mut cells = Vec::new();
    for i in 0..n * n {
        cells.push(entry(i / n, i % n)?);
    }
    // Sum over permutations with an even minus those with an odd number of exchanges.
    let terms: &[(&[usize], f64)] = match n {
        1 => &[(&[0], 1.0)],
        2 => &[(&[0, 3], 1.0), (&[1, 2], -1.0)],
        _ => &[
            (&[0, 4, 8], 1.0),
            (&[1, 5, 6], 1.0),
            (&[2, 3, 7], 1.0),
            (&[2, 4, 6], -1.0),
            (&[1, 3, 8], -1.0),
            (&[0, 5, 7], -1.0),
        ],
    };
    let mut sum = None;
    for (factors, sign) in terms {
        let mut product = cells[factors[0]];
        for &f in &factors[1..] {
            product = s.mul(product, cells[f])?;
        }
        sum = Some(match sum {
            None => product,
            Some(so_far) if *sign > 0.0 => s.add(so_far, product)?,
            Some(so_far) => s.sub(so_far, product)?,
        });
    }
    sum.map(one).ok_or_else(|| super::node::Fault::Invalid("an empty matrix".into()))
}
