//! Normalizations.

use super::{
    frame::Operand,
    node::{NodeCx, Res, invalid, one, unsupported},
};
use penjing_ir::{Binary, Dim, Op, Real, Reduction, Scope, Unary, ValueId};
use penjing_tensor::{DType, Tensor};

type Outputs = Res<Vec<Operand>>;

/// Default of every epsilon attribute.
const EPSILON: f64 = 1e-5;

fn eps(cx: &NodeCx<'_, '_>) -> Res<Real> {
    // The attribute is an f32; its shortest decimal form is what was meant.
    let stored = cx.opt_float("epsilon")?.unwrap_or(EPSILON) as f32;
    Ok(Real(stored.to_string().parse().unwrap_or(f64::from(stored))))
}

/// `BatchNormalization` by running statistics, or (training mode) by the batch's own.
pub(super) fn batch_norm(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.values()?;
    let [x, scale, bias, mean, var] = x[..] else { return invalid(format!("takes 5 inputs, not {}", x.len())) };
    let eps = eps(cx)?;
    let momentum = cx.float("momentum", 0.9)?;
    let dtype = cx.dtype_of(x);
    if cx.rank(x) < 2 {
        return unsupported("x without a channel axis");
    }
    if cx.opset < 14 && (1..5).any(|i| cx.wants(i)) {
        return unsupported("its training outputs before operator set 14");
    }
    let mut s = cx.scope();
    let [scale, bias, mean, var] = {
        let mut cast = |v| s.cast(v, dtype);
        [cast(scale)?, cast(bias)?, cast(mean)?, cast(var)?]
    };
    if !cx.flag("training_mode", 0)? {
        let momentum = Real((momentum as f32).to_string().parse().unwrap_or(momentum));
        return cx.emit(Op::BatchNorm { eps, momentum }, &[x, scale, bias, mean, var]);
    }
    let mut s = cx.scope();
    let own = s.ops(Op::BatchNormTrain { eps }, &[x, scale, bias])?;
    let mut out = vec![Operand::Value(own[0])];
    for (running, batch) in [(mean, own[1]), (var, own[2])] {
        let old = s.scale(running, momentum)?;
        let new = s.scale(batch, 1.0 - momentum)?;
        out.push(Operand::Value(s.add(old, new)?));
    }
    Ok(out)
}

/// `InstanceNormalization`: a group for each channel.
pub(super) fn instance_norm(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (x, scale, bias) = (cx.value(0)?, cx.value(1)?, cx.value(2)?);
    let Some(groups) = cx.fact(x).shape.get(1).and_then(Dim::as_const) else {
        return unsupported("a symbolic number of channels");
    };
    let eps = eps(cx)?;
    cx.emit(Op::GroupNorm { groups, eps }, &[x, scale, bias])
}

/// `GroupNormalization`; before operator set 21, scale and bias have one element for each group.
pub(super) fn group_norm(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (x, mut scale, mut bias) = (cx.value(0)?, cx.value(1)?, cx.value(2)?);
    let groups = cx.int("num_groups", 0)?;
    let Some(channels) = cx.fact(x).shape.get(1).and_then(Dim::as_const) else {
        return unsupported("a symbolic number of channels");
    };
    if groups < 1 || channels % groups as usize != 0 {
        return invalid(format!("{groups} groups do not divide {channels} channels"));
    }
    let groups = groups as usize;
    let eps = eps(cx)?;
    if cx.opset < 21 {
        let per = channels / groups;
        let mut s = cx.scope();
        for v in [&mut scale, &mut bias] {
            let column = s.reshape(*v, &[Dim::Const(groups), Dim::Const(1)])?;
            let wide = s.expand(column, &[Dim::Const(groups), Dim::Const(per)])?;
            *v = s.reshape(wide, &[Dim::Const(channels)])?;
        }
    }
    cx.emit(Op::GroupNorm { groups, eps }, &[x, scale, bias])
}

/// `LayerNormalization`; mean and inverse deviation are computed beside it when they are asked for.
pub(super) fn layer_norm(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (x, scale, bias) = (cx.value(0)?, cx.value(1)?, cx.optional(2)?);
    let fact = cx.fact(x);
    let axis = cx.axis(cx.int("axis", -1)?, fact.rank())?;
    let eps = eps(cx)?;
    let scale = over(cx, scale, &fact.shape[axis..])?;
    let bias = match bias {
        Some(bias) => bias,
        None => cx.graph().add_const(Tensor::scalar(0f32).cast(fact.dtype)),
    };
    let bias = over(cx, bias, &fact.shape[axis..])?;
    let mut out = cx.emit(Op::LayerNorm { axis, eps }, &[x, scale, bias])?;
    if cx.wants(1) || cx.wants(2) {
        let axes: Vec<usize> = (axis..fact.rank()).collect();
        let mut s = cx.scope();
        let x = s.cast(x, DType::F32)?;
        let (mean, deviation) = moments(&mut s, x, &axes, eps.0)?;
        out.push(Operand::Value(mean));
        out.push(Operand::Value(s.unary(Unary::Recip, deviation)?));
    }
    Ok(out)
}

/// `RMSNormalization`.
pub(super) fn rms_norm(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (x, scale) = (cx.value(0)?, cx.value(1)?);
    let fact = cx.fact(x);
    let axis = cx.axis(cx.int("axis", -1)?, fact.rank())?;
    let eps = eps(cx)?;
    let scale = over(cx, scale, &fact.shape[axis..])?;
    cx.emit(Op::RmsNorm { axis, eps }, &[x, scale])
}

/// A parameter broadcast to the normalized axes.
fn over(cx: &mut NodeCx<'_, '_>, v: ValueId, shape: &[Dim]) -> Res<ValueId> {
    let dims = cx.fact(v).shape;
    if dims.len() > shape.len() && dims[..dims.len() - shape.len()].iter().all(|d| d.is(1)) {
        let cut = dims[dims.len() - shape.len()..].to_vec();
        let v = cx.scope().reshape(v, &cut)?;
        return Ok(cx.scope().expand(v, shape)?);
    }
    Ok(cx.scope().expand(v, shape)?)
}

/// Mean and √(variance + eps) over axes that stay.
fn moments(s: &mut Scope<'_>, x: ValueId, axes: &[usize], eps: f64) -> Res<(ValueId, ValueId)> {
    let mean = s.reduce_keep(Reduction::Mean, x, axes)?;
    let centred = s.sub(x, mean)?;
    let square = s.mul(centred, centred)?;
    let var = s.reduce_keep(Reduction::Mean, square, axes)?;
    let safe = s.shift(var, eps)?;
    Ok((mean, s.unary(Unary::Sqrt, safe)?))
}

/// `MeanVarianceNormalization`: (x − mean) / (deviation + 1e-9).
pub(super) fn mean_variance(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let axes = cx.axes(&cx.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]), cx.rank(x))?;
    let mut s = cx.scope();
    let mean = s.reduce_keep(Reduction::Mean, x, &axes)?;
    let centred = s.sub(x, mean)?;
    let square = s.mul(centred, centred)?;
    let var = s.reduce_keep(Reduction::Mean, square, &axes)?;
    let deviation = s.unary(Unary::Sqrt, var)?;
    let safe = s.shift(deviation, 1e-9)?;
    Ok(one(s.div(centred, safe)?))
}

/// `LRN`: x / (bias + α/size · Σ x² over neighbouring channels)^β.
pub(super) fn lrn(cx: &mut NodeCx<'_, '_>) -> Outputs {
    const MAX_SIZE: i64 = 64;
    let x = cx.value(0)?;
    let size = cx.int("size", 0)?;
    let (alpha, beta, bias) = (cx.float("alpha", 1e-4)?, cx.float("beta", 0.75)?, cx.float("bias", 1.0)?);
    let dims = cx.fact(x).shape;
    if dims.len() < 3 || size < 1 {
        return invalid("needs batch, channel and spatial axes and a positive size");
    }
    if size > MAX_SIZE {
        return unsupported(format!("a size of {size}; {MAX_SIZE} at most"));
    }
    let (before, after) = ((size as usize - 1) / 2, (size as usize - 1).div_ceil(2));
    let mut s = cx.scope();
    let square = s.mul(x, x)?;
    let mut pads = (vec![0; dims.len()], vec![0; dims.len()]);
    (pads.0[1], pads.1[1]) = (before, after);
    let mode = penjing_ir::PadMode::Constant(Real(0.0));
    let padded = s.op(Op::Pad { before: pads.0, after: pads.1, mode }, &[square])?;
    let mut sum = s.slice(padded, 1, 0usize, dims[1].clone())?;
    for i in 1..size as usize {
        let part = s.slice(padded, 1, i, dims[1].clone())?;
        sum = s.add(sum, part)?;
    }
    let scaled = s.scale(sum, alpha / size as f64)?;
    let base = s.shift(scaled, bias)?;
    let exponent = s.scalar_like(x, beta);
    let below = s.binary(Binary::Pow, base, exponent)?;
    Ok(one(s.div(x, below)?))
}
