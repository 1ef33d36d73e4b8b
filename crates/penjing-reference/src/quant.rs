//! Affine quantization (Jacob et al. 2018). Operands in F32 are divided in `f32`, as ONNX defines, so that results are exact.

use crate::{
    RefError,
    data::{ints, product, store_floats, store_ints},
};
use penjing_ir::QuantScheme;
use penjing_tensor::{DType, Tensor};

pub(crate) fn quantize([x, scale, zero]: [&Tensor; 3], scheme: &QuantScheme) -> Result<Tensor, RefError> {
    store_ints(scheme.dtype, x.shape(), to_grid([x, scale, zero], scheme)?)
}

pub(crate) fn dequantize([q, scale, zero]: [&Tensor; 3], scheme: &QuantScheme) -> Result<Tensor, RefError> {
    from_grid(&ints(q)?, q.shape(), [scale, zero], scheme)
}

pub(crate) fn fake_quant([x, scale, zero]: [&Tensor; 3], scheme: &QuantScheme) -> Result<Tensor, RefError> {
    from_grid(&to_grid([x, scale, zero], scheme)?, x.shape(), [scale, zero], scheme)
}

/// The U8 grid of x's own range, and x on it.
pub(crate) fn dynamic_quantize(x: &Tensor) -> Result<Vec<Tensor>, RefError> {
    let values = x.to_f64s();
    let (low, high) = values.iter().fold((0.0f64, 0.0f64), |(low, high), &v| (low.min(v), high.max(v)));
    let scale = (high as f32 - low as f32) / 255.0;
    let scale = if scale == 0.0 { 1.0 } else { scale };
    let zero = (-(low as f32) / scale).round_ties_even().clamp(0.0, 255.0) as u8;
    let scheme = QuantScheme { dtype: DType::U8, axis: None, narrow: false };
    let (scale, zero) = (Tensor::scalar(scale), Tensor::scalar(zero));
    Ok(vec![quantize([x, &scale, &zero], &scheme)?, scale, zero])
}

/// saturate(round_half_even(v / scale) + zero point), in `f32` when `single`; NaN gives 0.
pub(crate) fn quantize_one(v: f64, scale: f64, zero: i128, single: bool, (lo, hi): (i64, i64)) -> i128 {
    let quotient = if single { f64::from(v as f32 / scale as f32) } else { v / scale };
    let rounded = quotient.round_ties_even() + zero as f64;
    // Saturation to i128 precedes the clamp, so that infinities and wide grids stay exact.
    (rounded as i128).clamp(lo.into(), hi.into())
}

fn to_grid([x, scale, zero]: [&Tensor; 3], scheme: &QuantScheme) -> Result<Vec<i128>, RefError> {
    let (scales, zeros) = (scale.to_f64s(), ints(zero)?);
    let single = x.dtype() != DType::F64 && scale.dtype() != DType::F64;
    let channel = channels(x.shape(), scheme);
    let one = |(i, v): (usize, f64)| {
        let c = channel(i);
        quantize_one(v, scales[c], zeros[c], single, scheme.range())
    };
    Ok(x.to_f64s().into_iter().enumerate().map(one).collect())
}

fn from_grid(
    q: &[i128],
    shape: &[usize],
    [scale, zero]: [&Tensor; 2],
    scheme: &QuantScheme,
) -> Result<Tensor, RefError> {
    let (scales, zeros) = (scale.to_f64s(), ints(zero)?);
    let channel = channels(shape, scheme);
    let one = |(i, &q): (usize, &i128)| {
        let c = channel(i);
        (q - zeros[c]) as f64 * scales[c]
    };
    store_floats(scale.dtype(), shape, q.iter().enumerate().map(one).collect())
}

/// Which scale belongs to the element at an offset.
fn channels(shape: &[usize], scheme: &QuantScheme) -> impl Fn(usize) -> usize + use<> {
    let (n, inner) = scheme.axis.map_or((1, 1), |a| (shape[a].max(1), product(&shape[a + 1..]).max(1)));
    move |i| i / inner % n
}
