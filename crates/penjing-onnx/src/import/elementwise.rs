//! Elementwise operators.

use super::{
    frame::Operand,
    node::{NodeCx, Res, invalid, one, unsupported},
};
use penjing_ir::{Binary, Compare, Op, Real, Reduction, Unary, ValueId};
use penjing_tensor::{DType, Tensor};

type Outputs = Res<Vec<Operand>>;

/// An operator that is one unary function.
pub(super) fn unary(cx: &mut NodeCx<'_, '_>, f: Unary) -> Outputs {
    let x = cx.value(0)?;
    cx.emit(Op::Unary(f), &[x])
}

/// An operator that is one binary function of two operands.
pub(super) fn binary(cx: &mut NodeCx<'_, '_>, f: Binary) -> Outputs {
    let (a, b) = (cx.value(0)?, cx.value(1)?);
    cx.emit(Op::Binary(f), &[a, b])
}

/// `Max`, `Min` and `Sum` of any number of operands.
pub(super) fn variadic(cx: &mut NodeCx<'_, '_>, f: Binary) -> Outputs {
    let xs = cx.values()?;
    let Some((&first, rest)) = xs.split_first() else { return invalid("takes at least one input") };
    let mut y = first;
    for &x in rest {
        y = cx.emit_one(Op::Binary(f), &[y, x])?;
    }
    Ok(one(y))
}

/// `Mean` of any number of operands.
pub(super) fn mean(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let n = cx.arity();
    let sum = cx.values()?;
    let mut s = cx.scope();
    let mut y = match sum.first() {
        Some(&first) => first,
        None => return invalid("takes at least one input"),
    };
    for &x in &sum[1..] {
        y = s.add(y, x)?;
    }
    Ok(one(if n == 1 { y } else { s.scale(y, 1.0 / n as f64)? }))
}

/// A comparison; `swap` exchanges the operands.
pub(super) fn compare(cx: &mut NodeCx<'_, '_>, f: Compare, operands: [usize; 2]) -> Outputs {
    let (a, b) = (cx.value(operands[0])?, cx.value(operands[1])?);
    cx.emit(Op::Compare(f), &[a, b])
}

/// `Pow`: the exponent may have a dtype of its own.
pub(super) fn pow(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (a, b) = (cx.value(0)?, cx.value(1)?);
    let (base, exponent) = (cx.dtype_of(a), cx.dtype_of(b));
    if base == exponent {
        return cx.emit(Op::Binary(Binary::Pow), &[a, b]);
    }
    let mut s = cx.scope();
    if base.is_float() || exponent.is_int() {
        let b = s.cast(b, base)?;
        return Ok(one(s.binary(Binary::Pow, a, b)?));
    }
    let a = s.cast(a, exponent)?;
    let y = s.binary(Binary::Pow, a, b)?;
    Ok(one(s.cast(y, base)?))
}

/// `Mod` in both conventions.
pub(super) fn modulo(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let f = if cx.flag("fmod", 0)? { Binary::Fmod } else { Binary::Mod };
    binary(cx, f)
}

/// `BitShift`.
pub(super) fn bit_shift(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    if cx.dtype_of(x).is_signed_int() {
        return unsupported("shifts of signed integers");
    }
    match cx.string("direction", "")?.as_str() {
        "LEFT" => binary(cx, Binary::Shl),
        "RIGHT" => binary(cx, Binary::Shr),
        other => invalid(format!("direction is '{other}'")),
    }
}

/// `Where`.
pub(super) fn select(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.values()?;
    cx.emit(Op::Select, &x)
}

/// `Identity`: no node.
pub(super) fn identity(cx: &mut NodeCx<'_, '_>) -> Outputs {
    match cx.inputs.first().cloned().flatten() {
        Some(operand) => Ok(vec![operand]),
        None => invalid("input 0 is missing"),
    }
}

/// `Cast`.
pub(super) fn cast(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let Some(to) = cx.dtype("to")? else { return invalid("attribute 'to' is missing") };
    cast_to(cx, x, to)
}

/// `CastLike`.
pub(super) fn cast_like(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (x, like) = (cx.value(0)?, cx.value(1)?);
    let to = cx.dtype_of(like);
    cast_to(cx, x, to)
}

fn cast_to(cx: &mut NodeCx<'_, '_>, x: ValueId, to: DType) -> Outputs {
    if cx.dtype_of(x) == to {
        return Ok(one(x));
    }
    cx.emit(Op::Cast(to), &[x])
}

/// `IsInf`.
pub(super) fn is_inf(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (positive, negative) = (cx.flag("detect_positive", 1)?, cx.flag("detect_negative", 1)?);
    unary(cx, Unary::IsInf { positive, negative })
}

/// `LeakyRelu`.
pub(super) fn leaky_relu(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let alpha = Real(cx.float("alpha", f64::from(0.01f32))?);
    unary(cx, Unary::LeakyRelu(alpha))
}

/// `Elu`.
pub(super) fn elu(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let alpha = Real(cx.float("alpha", 1.0)?);
    unary(cx, Unary::Elu(alpha))
}

/// `HardSigmoid`.
pub(super) fn hard_sigmoid(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (alpha, beta) = (Real(cx.float("alpha", f64::from(0.2f32))?), Real(cx.float("beta", 0.5)?));
    unary(cx, Unary::HardSigmoid { alpha, beta })
}

/// `Gelu` in both forms.
pub(super) fn gelu(cx: &mut NodeCx<'_, '_>) -> Outputs {
    match cx.string("approximate", "none")?.as_str() {
        "none" => unary(cx, Unary::Gelu),
        "tanh" => unary(cx, Unary::GeluTanh),
        other => invalid(format!("approximate is '{other}'")),
    }
}

/// `Selu`: γ·elu(x, α).
pub(super) fn selu(cx: &mut NodeCx<'_, '_>) -> Outputs {
    // The defaults are the specification's, rounded to f32 there as well.
    let alpha = cx.float("alpha", f64::from(1.673_263_2_f32))?;
    let gamma = cx.float("gamma", f64::from(1.050_701_f32))?;
    let x = cx.value(0)?;
    let mut s = cx.scope();
    let y = s.unary(Unary::Elu(Real(alpha)), x)?;
    Ok(one(s.scale(y, gamma)?))
}

/// `Celu`: α·elu(x/α, 1).
pub(super) fn celu(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let alpha = cx.float("alpha", 1.0)?;
    let x = cx.value(0)?;
    let mut s = cx.scope();
    let scaled = s.scale(x, 1.0 / alpha)?;
    let y = s.unary(Unary::Elu(Real(1.0)), scaled)?;
    Ok(one(s.scale(y, alpha)?))
}

/// `ThresholdedRelu`: x where x > α, else 0.
pub(super) fn thresholded_relu(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let alpha = cx.float("alpha", 1.0)?;
    let x = cx.value(0)?;
    let mut s = cx.scope();
    let (alpha, zero) = (s.scalar_like(x, alpha), s.scalar_like(x, 0.0));
    let above = s.compare(Compare::Less, alpha, x)?;
    Ok(one(s.select(above, x, zero)?))
}

/// `Softsign`: x / (1 + |x|).
pub(super) fn softsign(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let mut s = cx.scope();
    let magnitude = s.unary(Unary::Abs, x)?;
    let below = s.shift(magnitude, 1.0)?;
    Ok(one(s.div(x, below)?))
}

/// `Mish`: x · tanh(softplus(x)).
pub(super) fn mish(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let mut s = cx.scope();
    let soft = s.unary(Unary::Softplus, x)?;
    let gate = s.unary(Unary::Tanh, soft)?;
    Ok(one(s.mul(x, gate)?))
}

/// `Swish`: x · sigmoid(αx).
pub(super) fn swish(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let alpha = cx.float("alpha", 1.0)?;
    let x = cx.value(0)?;
    if alpha == 1.0 {
        return cx.emit(Op::Unary(Unary::Silu), &[x]);
    }
    let mut s = cx.scope();
    let scaled = s.scale(x, alpha)?;
    let gate = s.unary(Unary::Sigmoid, scaled)?;
    Ok(one(s.mul(x, gate)?))
}

/// `SwiGLU`: swish(a) · b.
pub(super) fn swiglu(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let alpha = cx.float("alpha", 1.0)?;
    let (a, b) = (cx.value(0)?, cx.value(1)?);
    let mut s = cx.scope();
    let gated = if alpha == 1.0 {
        s.unary(Unary::Silu, a)?
    } else {
        let scaled = s.scale(a, alpha)?;
        let gate = s.unary(Unary::Sigmoid, scaled)?;
        s.mul(a, gate)?
    };
    Ok(one(s.mul(gated, b)?))
}

/// `Shrink`: x + bias below −λ, x − bias above λ, 0 between.
pub(super) fn shrink(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (bias, lambd) = (cx.float("bias", 0.0)?, cx.float("lambd", 0.5)?);
    let x = cx.value(0)?;
    let mut s = cx.scope();
    let (low, high) = (s.scalar_like(x, -lambd), s.scalar_like(x, lambd));
    let (zero, bias) = (s.scalar_like(x, 0.0), s.scalar_like(x, bias));
    let (below, above) = (s.compare(Compare::Less, x, low)?, s.compare(Compare::Less, high, x)?);
    let (raised, lowered) = (s.add(x, bias)?, s.sub(x, bias)?);
    let upper = s.select(above, lowered, zero)?;
    Ok(one(s.select(below, raised, upper)?))
}

/// `PRelu`: the slope broadcasts to x.
pub(super) fn prelu(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (x, slope) = (cx.value(0)?, cx.value(1)?);
    let mut s = cx.scope();
    let zero = s.scalar_like(x, 0.0);
    let negative = s.compare(Compare::Less, x, zero)?;
    let leaked = s.mul(x, slope)?;
    Ok(one(s.select(negative, leaked, x)?))
}

/// `Clip`, with its bounds as attributes (before operator set 11) or operands.
pub(super) fn clip(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let mut x = cx.value(0)?;
    let dtype = cx.dtype_of(x);
    let (low, high) = if cx.opset < 11 {
        let bounds = [cx.opt_float("min")?, cx.opt_float("max")?];
        let [low, high] = bounds.map(|b| b.map(|v| cx.graph().add_const(Tensor::scalar(v).cast(dtype))));
        (low, high)
    } else {
        (cx.optional(1)?, cx.optional(2)?)
    };
    if let Some(low) = low {
        x = cx.emit_one(Op::Binary(Binary::Max), &[x, low])?;
    }
    if let Some(high) = high {
        x = cx.emit_one(Op::Binary(Binary::Min), &[x, high])?;
    }
    Ok(one(x))
}

/// `Softmax` and `LogSoftmax`; before operator set 13 over all axes from `axis` on, flattened.
pub(super) fn softmax(cx: &mut NodeCx<'_, '_>, of: fn(usize) -> Op) -> Outputs {
    let x = cx.value(0)?;
    check_softmax_dtype(cx, x)?;
    let rank = cx.rank(x);
    if cx.opset >= 13 {
        let axis = cx.axis(cx.int("axis", -1)?, rank)?;
        return cx.emit(of(axis), &[x]);
    }
    flattened(cx, x, |cx, x| cx.emit_one(of(1), &[x]))
}

/// Softmax has no 16-bit arithmetic yet: its result would hang on where intermediate values are rounded.
pub(super) fn check_softmax_dtype(cx: &NodeCx<'_, '_>, x: ValueId) -> Res<()> {
    match cx.fact(x).dtype {
        dtype @ (DType::F16 | DType::BF16) => unsupported(format!("softmax in {dtype}; export the model in float32")),
        _ => Ok(()),
    }
}

/// `Hardmax`: 1 at the first maximum, 0 elsewhere.
pub(super) fn hardmax(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let rank = cx.rank(x);
    if cx.opset >= 13 {
        let axis = cx.axis(cx.int("axis", -1)?, rank)?;
        return Ok(one(one_hot_max(cx, x, axis)?));
    }
    flattened(cx, x, |cx, x| one_hot_max(cx, x, 1))
}

fn one_hot_max(cx: &mut NodeCx<'_, '_>, x: ValueId, axis: usize) -> Res<ValueId> {
    let fact = cx.fact(x);
    let mut s = cx.scope();
    let kind = penjing_ir::ArgKind::Max;
    let at = s.op(Op::ArgReduce { kind, axis, keep: false, last: false }, &[x])?;
    Ok(s.op(Op::OneHot { axis, depth: fact.shape[axis].clone(), dtype: fact.dtype }, &[at])?)
}

/// Applies `f` to x as a matrix whose second axis is the axes from attribute `axis` (default 1) on.
fn flattened(
    cx: &mut NodeCx<'_, '_>,
    x: ValueId,
    f: impl FnOnce(&mut NodeCx<'_, '_>, ValueId) -> Res<ValueId>,
) -> Outputs {
    let shape = cx.fact(x).shape;
    let axis = cx.axis(cx.int("axis", 1)?, shape.len())?;
    if axis + 1 == shape.len() && axis == 1 {
        return Ok(one(f(cx, x)?));
    }
    let matrix = [penjing_ir::Dim::product(&shape[..axis]), penjing_ir::Dim::product(&shape[axis..])];
    let flat = cx.scope().reshape(x, &matrix)?;
    let y = f(cx, flat)?;
    Ok(one(cx.scope().reshape(y, &shape)?))
}

/// `Dropout` as it runs outside training: x, and a mask of ones.
pub(super) fn dropout(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    if cx.opset >= 12 && cx.has(2) && cx.scalar_of(2, "training_mode")? != 0.0 {
        let ratio = if cx.has(1) { cx.scalar_of(1, "ratio")? } else { 0.5 };
        if ratio != 0.0 {
            return unsupported("training mode inside the model file; training is a rewrite in Penjing");
        }
    }
    let mut out = one(x);
    if cx.wants(1) {
        // Before operator set 10 the mask had the dtype of x.
        let shape = cx.fact(x).shape;
        let dtype = if cx.opset >= 10 { DType::Bool } else { cx.dtype_of(x) };
        let mut s = cx.scope();
        let ones = s.scalar(dtype, 1.0);
        out.push(Operand::Value(s.expand(ones, &shape)?));
    }
    Ok(out)
}

/// `LpNormalization`: x divided by its norm along an axis; 0 where the norm is 0.
pub(super) fn lp_normalization(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let axis = cx.axis(cx.int("axis", -1)?, cx.rank(x))?;
    let p = cx.int("p", 2)?;
    let mut s = cx.scope();
    let norm = match p {
        1 => {
            let magnitude = s.unary(Unary::Abs, x)?;
            s.reduce_keep(Reduction::Sum, magnitude, &[axis])?
        }
        2 => {
            let square = s.mul(x, x)?;
            let sum = s.reduce_keep(Reduction::Sum, square, &[axis])?;
            s.unary(Unary::Sqrt, sum)?
        }
        _ => return invalid(format!("p is {p}, not 1 or 2")),
    };
    let zero = s.scalar_like(x, 0.0);
    let unit = s.scalar_like(x, 1.0);
    let empty = s.compare(Compare::Equal, norm, zero)?;
    let safe = s.select(empty, unit, norm)?;
    Ok(one(s.div(x, safe)?))
}
