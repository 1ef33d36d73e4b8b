//! Quantization.

use super::{
    frame::Operand,
    node::{NodeCx, Res, invalid, one, unsupported},
};
use penjing_ir::{Dim, Op, QuantScheme, ValueId};
use penjing_tensor::{DType, Tensor};

type Outputs = Res<Vec<Operand>>;

/// `QuantizeLinear`.
pub(super) fn quantize(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (x, scale) = (cx.value(0)?, cx.value(1)?);
    let zero = cx.optional(2)?;
    let dtype = match (zero, cx.opt_int("output_dtype")?.filter(|&v| v != 0)) {
        (Some(zero), _) => cx.dtype_of(zero),
        (None, Some(code)) => cx.dtype_of_code("output_dtype", code)?,
        (None, None) => DType::U8,
    };
    let (scheme, scale, zero) = grid(cx, x, scale, zero, dtype)?;
    let mut s = cx.scope();
    // Integers are converted; 16-bit floats compute in F32.
    let x = s.cast(x, DType::F32)?;
    cx.emit(Op::Quantize(scheme), &[x, scale, zero])
}

/// `DequantizeLinear`; the result has the scale's dtype.
pub(super) fn dequantize(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (q, scale) = (cx.value(0)?, cx.value(1)?);
    let zero = cx.optional(2)?;
    let dtype = cx.dtype_of(q);
    let to = match cx.opt_int("output_dtype")?.filter(|&v| v != 0) {
        Some(code) => cx.dtype_of_code("output_dtype", code)?,
        None => cx.dtype_of(scale),
    };
    let (scheme, scale, zero) = grid(cx, q, scale, zero, dtype)?;
    let y = cx.emit_one(Op::Dequantize(scheme), &[q, scale, zero])?;
    Ok(one(cx.scope().cast(y, to)?))
}

/// Scheme, scale and zero point (0 when left out) of a grid of `dtype` for x.
fn grid(
    cx: &mut NodeCx<'_, '_>,
    x: ValueId,
    scale: ValueId,
    zero: Option<ValueId>,
    dtype: DType,
) -> Res<(QuantScheme, ValueId, ValueId)> {
    if !dtype.is_int() {
        return unsupported(format!("a grid of {dtype}"));
    }
    if cx.int("block_size", 0)? != 0 {
        return unsupported("blocks along an axis");
    }
    let dims = cx.fact(scale).shape;
    let rank = cx.rank(x);
    // One element is per tensor, however many axes of extent 1 it has.
    let axis = match dims.as_slice() {
        dims if dims.iter().all(|d| d.is(1)) => None,
        [_] => Some(cx.axis(cx.int("axis", 1)?, rank)?),
        _ => return unsupported(format!("a scale of {} axes", dims.len())),
    };
    laid_out(cx, axis, scale, zero, dtype)
}

/// The grid of `dtype` with one scale, or with one for each index of `axis`; scale and zero point as the scheme has them.
fn laid_out(
    cx: &mut NodeCx<'_, '_>,
    axis: Option<usize>,
    scale: ValueId,
    zero: Option<ValueId>,
    dtype: DType,
) -> Res<(QuantScheme, ValueId, ValueId)> {
    let to: Vec<Dim> = if axis.is_some() { cx.fact(scale).shape } else { Vec::new() };
    let mut s = cx.scope();
    let scale = s.reshape(scale, &to)?;
    let scale = s.cast(scale, DType::F32)?;
    let zero = match zero {
        Some(zero) => {
            let one_for_all = s.fact(zero).shape.iter().all(|d| d.is(1));
            let shape = if one_for_all { Vec::new() } else { to.clone() };
            let zero = s.reshape(zero, &shape)?;
            s.expand(zero, &to)?
        }
        None => match to.iter().map(Dim::as_const).collect::<Option<Vec<_>>>() {
            Some(shape) => match Tensor::zeros(dtype, &shape) {
                Ok(zeros) => s.constant(zeros),
                Err(e) => return invalid(e.to_string()),
            },
            None => return unsupported("a scale of symbolic extent"),
        },
    };
    Ok((QuantScheme { dtype, axis, narrow: false }, scale, zero))
}

/// `DynamicQuantizeLinear`: a U8 grid over the range of x with 0.
pub(super) fn dynamic_quantize(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    cx.emit(Op::DynamicQuantize, &[x])
}

/// `QLinearMatMul`: dequantize, multiply, quantize.
pub(super) fn qlinear_matmul(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let v = cx.values()?;
    let [a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero] = v[..] else {
        return invalid(format!("takes 8 inputs, not {}", v.len()));
    };
    let (ra, rb) = (cx.rank(a), cx.rank(b));
    if ra == 0 || rb == 0 {
        return invalid("an operand is a scalar");
    }
    let a = real(cx, a, a_scale, a_zero, ra.saturating_sub(2))?;
    let b = real(cx, b, b_scale, b_zero, rb - 1)?;
    let y = super::matmul::numpy_matmul(cx, a, b)?;
    requantize(cx, y, y_scale, y_zero)
}

/// `QLinearConv`: dequantize, convolve, quantize; the bias is in units of x's scale times w's.
pub(super) fn qlinear_conv(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let mut v = Vec::new();
    for i in 0..8 {
        v.push(cx.value(i)?);
    }
    let bias = cx.optional(8)?;
    let (x, w) = (v[0], v[3]);
    let kernel = super::conv::kernel_of(cx, w)?;
    let spec = super::conv::conv_spec(cx, x, &kernel)?;
    let x = real(cx, x, v[1], v[2], 1)?;
    let w = real(cx, w, v[4], v[5], 0)?;
    let mut s = cx.scope();
    let bias = match bias {
        None => None,
        Some(bias) => {
            let bias = s.cast(bias, DType::F32)?;
            let scale = s.mul(v[1], v[4])?;
            Some(s.mul(bias, scale)?)
        }
    };
    let y = s.conv(x, w, bias, spec)?;
    requantize(cx, y, v[6], v[7])
}

/// (q − zero point) · scale as F32; a vector of scales goes along `axis`.
fn real(cx: &mut NodeCx<'_, '_>, q: ValueId, scale: ValueId, zero: ValueId, axis: usize) -> Res<ValueId> {
    let (rank, dtype) = (cx.rank(q), cx.dtype_of(q));
    let (scales, zeros) = (cx.fact(scale).shape, cx.fact(zero).shape);
    let one = |dims: &[Dim]| dims.iter().all(|d| d.is(1));
    if dtype.is_int() && scales.len() <= 1 && (one(&zeros) || zeros == scales) {
        let axis = (!one(&scales)).then_some(axis);
        let (scheme, scale, zero) = laid_out(cx, axis, scale, Some(zero), dtype)?;
        return Ok(cx.scope().op(Op::Dequantize(scheme), &[q, scale, zero])?);
    }
    let mut s = cx.scope();
    let mut along = |v: ValueId| -> Res<ValueId> {
        let dims = s.fact(v).shape;
        if dims.len() > 1 {
            return Ok(v); // Already laid out to broadcast.
        }
        let mut shape = vec![Dim::Const(1); rank];
        if let Some(d) = dims.first() {
            shape[axis] = d.clone();
        }
        let v = s.reshape(v, &shape)?;
        Ok(s.cast(v, DType::F32)?)
    };
    let (scale, zero) = (along(scale)?, along(zero)?);
    let mut s = cx.scope();
    let (q, zero, scale) = (s.cast(q, DType::F32)?, s.cast(zero, DType::F32)?, s.cast(scale, DType::F32)?);
    let centred = s.sub(q, zero)?;
    Ok(s.mul(centred, scale)?)
}

fn requantize(cx: &mut NodeCx<'_, '_>, y: ValueId, scale: ValueId, zero: ValueId) -> Outputs {
    let dtype = cx.dtype_of(zero);
    if !dtype.is_int() || cx.fact(scale).shape.iter().any(|d| !d.is(1)) {
        return unsupported(format!("results on a grid of {dtype} with several scales"));
    }
    let mut s = cx.scope();
    let (scale, zero) = (s.reshape(scale, &[])?, s.reshape(zero, &[])?);
    let scale = s.cast(scale, DType::F32)?;
    let scheme = QuantScheme { dtype, axis: None, narrow: false };
    Ok(one(s.op(Op::Quantize(scheme), &[y, scale, zero])?))
}
