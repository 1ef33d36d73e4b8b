//! Attention and rotary positions.

use super::{
    elementwise::check_softmax_dtype,
    frame::Operand,
    node::{NodeCx, Res, invalid, unsupported},
};
use penjing_ir::{Binary, Compare, Dim, Op, PadMode, Real, Reduction, Scope, SliceRange, Unary, ValueId};
use penjing_tensor::DType;

type Outputs = Res<Vec<Operand>>;

/// Which intermediate the fourth output of `Attention` shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Scores,
    Biased,
    Weights,
}

/// `Attention`: one op in its usual form, written out where scores are capped or shown.
pub(super) fn attention(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (q, k, v) = (cx.value(0)?, cx.value(1)?, cx.value(2)?);
    check_softmax_dtype(cx, q)?;
    let flat = cx.rank(q) == 3;
    let (q_heads, kv_heads) = (cx.opt_int("q_num_heads")?, cx.opt_int("kv_num_heads")?);
    let q = heads(cx, q, q_heads)?;
    let (mut k, mut v) = (heads(cx, k, kv_heads)?, heads(cx, v, kv_heads)?);
    let mut past = Dim::Const(0);
    if let (Some(past_key), Some(past_value)) = (cx.optional(4)?, cx.optional(5)?) {
        past = cx.fact(past_key).shape.get(2).cloned().unwrap_or(Dim::Const(0));
        let mut s = cx.scope();
        k = s.concat(&[past_key, k], 2)?;
        v = s.concat(&[past_value, v], 2)?;
    }
    let head = cx.fact(q).shape[3].clone();
    let scale = match (cx.opt_float("scale")?, head.as_const()) {
        (Some(scale), _) => f64::from((scale as f32).to_string().parse::<f32>().unwrap_or(scale as f32)),
        (None, Some(d)) => 1.0 / (d as f64).sqrt(),
        (None, None) => return unsupported("a symbolic head size"),
    };
    let softcap = cx.float("softcap", 0.0)?;
    let precision = cx.dtype("softmax_precision")?;
    let shown = match cx.int("qk_matmul_output_mode", 0)? {
        0 | 1 => Shown::Scores,
        2 => Shown::Biased,
        3 => Shown::Weights,
        other => return invalid(format!("qk_matmul_output_mode is {other}")),
    };
    let (bias, causal) = bias(cx, q, k, &past)?;
    let dtype = cx.dtype_of(q);
    let wide = precision.is_none_or(|p| p == dtype || p.size() <= 4);
    let usual = softcap == 0.0 && !cx.wants(3) && wide;
    let (mut y, extra) = if usual {
        let inputs: Vec<ValueId> = [q, k, v].into_iter().chain(bias).collect();
        (cx.emit_one(Op::Attention { scale: Real(scale), causal }, &inputs)?, None)
    } else {
        let bias = if causal { Some(with_causal(cx, q, k, bias, &past)?) } else { bias };
        let (y, extra) = written_out(cx, [q, k, v], bias, scale, softcap, precision, shown)?;
        (y, Some(extra))
    };
    if flat {
        let mut s = cx.scope();
        y = s.permute(y, &[0, 2, 1, 3])?;
        let d = s.fact(y).shape;
        y = s.reshape(y, &[d[0].clone(), d[1].clone(), d[2].clone() * d[3].clone()])?;
    }
    Ok([Some(y), Some(k), Some(v), extra].into_iter().flatten().map(Operand::Value).collect())
}

/// x as [B, H, S, D]: heads are split off the last axis of a 3-axis operand.
fn heads(cx: &mut NodeCx<'_, '_>, x: ValueId, count: Option<i64>) -> Res<ValueId> {
    let dims = cx.fact(x).shape;
    match (dims.as_slice(), count) {
        ([_, _, _, _], _) => Ok(x),
        ([b, t, hidden], Some(count)) if count > 0 => {
            let count = Dim::int(count);
            let Some(size) = hidden.exact_div(&count) else {
                return invalid(format!("{count} heads do not divide {hidden}"));
            };
            let mut s = cx.scope();
            let split = s.reshape(x, &[b.clone(), t.clone(), count, size])?;
            Ok(s.permute(split, &[0, 2, 1, 3])?)
        }
        _ => invalid("operands need 4 axes, or 3 and numbers of heads"),
    }
}

/// The additive bias that the operands and attributes ask for, and whether the op's own causal rule says the rest.
fn bias(cx: &mut NodeCx<'_, '_>, q: ValueId, k: ValueId, past: &Dim) -> Res<(Option<ValueId>, bool)> {
    let (dtype, s_len, t_len) = (cx.dtype_of(q), cx.fact(q).shape[2].clone(), cx.fact(k).shape[2].clone());
    let causal = cx.flag("is_causal", 0)?;
    let (left, right) = (cx.int("left_window_size", -1)?, cx.int("right_window_size", -1)?);
    let lens = cx.optional(6)?;
    let mut bias = match cx.optional(3)? {
        None => None,
        Some(mask) => Some(additive(cx, mask, dtype, &t_len)?),
    };
    // The op's causal rule lets position s see t ≤ s + T − S, which is past + s when nothing else was appended.
    let own_rule = causal && lens.is_none() && left < 0 && right < 0 && t_len == s_len.clone() + past.clone();
    if own_rule {
        return Ok((bias, true));
    }
    if causal || left >= 0 || right >= 0 {
        let (row, column) = positions(cx, &s_len, &t_len, past, lens)?;
        let mut s = cx.scope();
        let distance = s.sub(row, column)?;
        let mut rules = Vec::new();
        if causal {
            rules.push((Compare::LessEqual, 0.0, true));
        }
        if left >= 0 {
            rules.push((Compare::LessEqual, left as f64, false));
        }
        if right >= 0 {
            rules.push((Compare::LessEqual, -right as f64, true));
        }
        for (f, limit, above) in rules {
            let limit = s.scalar(DType::I64, limit);
            let allowed = if above { s.compare(f, limit, distance)? } else { s.compare(f, distance, limit)? };
            bias = Some(mask_more(&mut s, bias, allowed, dtype)?);
        }
    }
    if let Some(lens) = lens {
        let mut s = cx.scope();
        let at = s.op(Op::Iota { shape: vec![Dim::Const(1), t_len], axis: 1, dtype: DType::I64 }, &[])?;
        let batch = s.fact(lens).shape;
        let lens = s.reshape(lens, &[Dim::product(&batch), Dim::Const(1), Dim::Const(1), Dim::Const(1)])?;
        let lens = s.cast(lens, DType::I64)?;
        let inside = s.compare(Compare::Less, at, lens)?;
        bias = Some(mask_more(&mut s, bias, inside, dtype)?);
    }
    Ok((bias, false))
}

/// The bias with the causal rule written into it.
fn with_causal(cx: &mut NodeCx<'_, '_>, q: ValueId, k: ValueId, bias: Option<ValueId>, past: &Dim) -> Res<ValueId> {
    let (dtype, s_len, t_len) = (cx.dtype_of(q), cx.fact(q).shape[2].clone(), cx.fact(k).shape[2].clone());
    let (row, column) = positions(cx, &s_len, &t_len, past, None)?;
    let mut s = cx.scope();
    let allowed = s.compare(Compare::LessEqual, column, row)?;
    mask_more(&mut s, bias, allowed, dtype)
}

/// Positions of queries [S, 1] (or [B, 1, S, 1] with lengths) and of keys [1, T].
fn positions(
    cx: &mut NodeCx<'_, '_>,
    s_len: &Dim,
    t_len: &Dim,
    past: &Dim,
    lens: Option<ValueId>,
) -> Res<(ValueId, ValueId)> {
    let mut s = cx.scope();
    let row = s.op(Op::Iota { shape: vec![s_len.clone(), Dim::Const(1)], axis: 0, dtype: DType::I64 }, &[])?;
    let column = s.op(Op::Iota { shape: vec![Dim::Const(1), t_len.clone()], axis: 1, dtype: DType::I64 }, &[])?;
    let offset = match lens {
        Some(lens) => {
            let batch = s.fact(lens).shape;
            let lens = s.reshape(lens, &[Dim::product(&batch), Dim::Const(1), Dim::Const(1), Dim::Const(1)])?;
            let lens = s.cast(lens, DType::I64)?;
            let steps = s.op(Op::DimValues { dims: vec![s_len.clone()] }, &[])?;
            s.sub(lens, steps)?
        }
        None => s.op(Op::DimValues { dims: vec![past.clone()] }, &[])?,
    };
    Ok((s.add(row, offset)?, column))
}

/// −∞ where `allowed` does not hold, added to the bias.
fn mask_more(s: &mut Scope<'_>, bias: Option<ValueId>, allowed: ValueId, dtype: DType) -> Res<ValueId> {
    let (zero, hidden) = (s.scalar(dtype, 0.0), s.scalar(dtype, f64::NEG_INFINITY));
    let more = s.select(allowed, zero, hidden)?;
    Ok(match bias {
        Some(bias) => s.add(bias, more)?,
        None => more,
    })
}

/// A mask as an additive bias over all keys; keys past its end are hidden.
fn additive(cx: &mut NodeCx<'_, '_>, mask: ValueId, dtype: DType, t_len: &Dim) -> Res<ValueId> {
    let bool_mask = cx.dtype_of(mask) == DType::Bool;
    let mut s = cx.scope();
    let mut bias = if bool_mask {
        let (zero, hidden) = (s.scalar(dtype, 0.0), s.scalar(dtype, f64::NEG_INFINITY));
        s.select(mask, zero, hidden)?
    } else {
        s.cast(mask, dtype)?
    };
    let dims = s.fact(bias).shape;
    let Some(last) = dims.last() else { return invalid("the mask is a scalar") };
    if let (Some(have), Some(want)) = (last.as_const(), t_len.as_const())
        && have < want
    {
        let mut after = vec![0; dims.len()];
        after[dims.len() - 1] = want - have;
        let mode = PadMode::Constant(Real(f64::NEG_INFINITY));
        bias = s.op(Op::Pad { before: vec![0; dims.len()], after, mode }, &[bias])?;
    }
    Ok(bias)
}

/// Attention step by step: the result and the intermediate that is shown.
fn written_out(
    cx: &mut NodeCx<'_, '_>,
    [q, k, v]: [ValueId; 3],
    bias: Option<ValueId>,
    scale: f64,
    softcap: f64,
    precision: Option<DType>,
    shown: Shown,
) -> Res<(ValueId, ValueId)> {
    let (dims, keys) = (cx.fact(q).shape, cx.fact(k).shape);
    let Some(repeat) = dims[1].exact_div(&keys[1]) else {
        return invalid(format!("{} key heads do not divide {} query heads", keys[1], dims[1]));
    };
    let dtype = cx.dtype_of(q);
    let mut s = cx.scope();
    let (k, v) = (repeat_heads(&mut s, k, &repeat)?, repeat_heads(&mut s, v, &repeat)?);
    // Both factors carry half of the scale, which keeps 16-bit products in range.
    let (q, k) = (s.scale(q, scale.sqrt())?, s.scale(k, scale.sqrt())?);
    let mut scores = s.op(Op::MatMul { trans_a: false, trans_b: true }, &[q, k])?;
    if softcap > 0.0 {
        let capped = s.scalar_like(scores, softcap);
        let small = s.div(scores, capped)?;
        let bounded = s.unary(Unary::Tanh, small)?;
        scores = s.mul(bounded, capped)?;
    }
    let biased = match bias {
        Some(bias) => s.add(scores, bias)?,
        None => scores,
    };
    let logits = s.cast(biased, precision.unwrap_or(dtype))?;
    let mut weights = s.op(Op::Softmax { axis: 3 }, &[logits])?;
    if let Some(bias) = bias {
        // A query that sees no key gets zeros.
        let last = s.fact(bias).rank() - 1;
        let top = s.reduce_keep(Reduction::Max, bias, &[last])?;
        let hidden = s.unary(Unary::IsInf { positive: false, negative: true }, top)?;
        let zero = s.scalar_like(weights, 0.0);
        weights = s.select(hidden, zero, weights)?;
    }
    let weights = s.cast(weights, dtype)?;
    let y = s.matmul(weights, v)?;
    let extra = match shown {
        Shown::Scores => scores,
        Shown::Biased => biased,
        Shown::Weights => weights,
    };
    Ok((y, extra))
}

/// Each head `repeat` times in a row: [B, G, T, D] → [B, G·repeat, T, D].
fn repeat_heads(s: &mut Scope<'_>, x: ValueId, repeat: &Dim) -> Res<ValueId> {
    if repeat.is(1) {
        return Ok(x);
    }
    let d = s.fact(x).shape;
    let column = s.reshape(x, &[d[0].clone(), d[1].clone(), Dim::Const(1), d[2].clone(), d[3].clone()])?;
    let wide = s.expand(column, &[d[0].clone(), d[1].clone(), repeat.clone(), d[2].clone(), d[3].clone()])?;
    Ok(s.reshape(wide, &[d[0].clone(), d[1].clone() * repeat.clone(), d[2].clone(), d[3].clone()])?)
}

/// `RotaryEmbedding`: pairs of features turned by their position's angle.
pub(super) fn rotary(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (x, cos, sin) = (cx.value(0)?, cx.value(1)?, cx.value(2)?);
    let positions = cx.optional(3)?;
    let interleaved = cx.flag("interleaved", 0)?;
    let flat = cx.rank(x) == 3;
    let shape = cx.fact(x).shape;
    let count = cx.opt_int("num_heads")?.filter(|&n| n > 0);
    let x = heads(cx, x, count)?;
    let dims = cx.fact(x).shape;
    let turned = match cx.int("rotary_embedding_dim", 0)? {
        0 => dims[3].clone(),
        n if n > 0 => Dim::int(n),
        n => return invalid(format!("rotary_embedding_dim is {n}")),
    };
    let Some(half) = turned.exact_div(&Dim::Const(2)) else {
        return invalid(format!("{turned} features are no pairs"));
    };
    let mut s = cx.scope();
    let mut angle = |table: ValueId| -> Res<ValueId> {
        let table = match positions {
            Some(at) => {
                let at = s.cast(at, DType::I64)?;
                s.op(Op::Gather { axis: 0 }, &[table, at])?
            }
            None => table,
        };
        let d = s.fact(table).shape;
        let [b, t, f] = d.as_slice() else { return invalid("the caches need 3 axes, or 2 with position_ids") };
        Ok(s.reshape(table, &[b.clone(), Dim::Const(1), t.clone(), f.clone()])?)
    };
    let (cos, sin) = (angle(cos)?, angle(sin)?);
    let part = s.slice(x, 3, 0usize, turned.clone())?;
    let halves = |s: &mut Scope<'_>, k: usize| -> Res<ValueId> {
        if !interleaved {
            return Ok(s.slice(part, 3, Dim::Const(k) * half.clone(), half.clone())?);
        }
        let mut ranges: Vec<SliceRange> = s.fact(part).shape.iter().map(SliceRange::full).collect();
        ranges[3] = SliceRange { start: Dim::Const(k), len: half.clone(), step: 2 };
        Ok(s.op(Op::Slice { ranges }, &[part])?)
    };
    let (x1, x2) = (halves(&mut s, 0)?, halves(&mut s, 1)?);
    let mut turn = |f: Binary, a: ValueId, b: ValueId| -> Res<ValueId> {
        let (left, right) = (s.mul(a, x1)?, s.mul(b, x2)?);
        Ok(s.binary(f, left, right)?)
    };
    let (real, imaginary) = (turn(Binary::Sub, cos, sin)?, turn(Binary::Add, sin, cos)?);
    let mut y = if interleaved {
        let mut wide = dims[..3].to_vec();
        wide.extend([half.clone(), Dim::Const(1)]);
        let (real, imaginary) = (s.reshape(real, &wide)?, s.reshape(imaginary, &wide)?);
        let pairs = s.concat(&[real, imaginary], 4)?;
        s.reshape(pairs, &[dims[0].clone(), dims[1].clone(), dims[2].clone(), turned.clone()])?
    } else {
        s.concat(&[real, imaginary], 3)?
    };
    if turned != dims[3] {
        let rest = s.slice(x, 3, turned.clone(), dims[3].clone() - turned)?;
        y = s.concat(&[y, rest], 3)?;
    }
    if flat {
        y = s.permute(y, &[0, 2, 1, 3])?;
        y = s.reshape(y, &shape)?;
    }
    Ok(vec![Operand::Value(y)])
}
