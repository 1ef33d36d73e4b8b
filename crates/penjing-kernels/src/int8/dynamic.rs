//! Quantization onto the grid of the tensor's own range.

use super::{BytesMut, Limits, Scales, quantize};
use crate::{
    Ctx, KernelError,
    error::check_len,
    reduce::{ReduceOp, reduce},
};

/// Scale and zero point of the U8 grid over min(0, x) .. max(0, x): scale = (max − min) / 255, or 1 where that is 0, zero point =
/// round_half_even(−min / scale) (ONNX DynamicQuantizeLinear). A NaN in x gives a NaN scale.
pub fn dynamic_grid(cx: Ctx<'_>, x: &[f32]) -> Result<(f32, u8), KernelError> {
    let extreme = |op| {
        let mut one = [0.0];
        reduce(cx, op, x, 1, x.len(), 1, &mut one).map(|()| one[0])
    };
    let (low, high) = if x.is_empty() { (0.0, 0.0) } else { (extreme(ReduceOp::Min)?, extreme(ReduceOp::Max)?) };
    let (low, high) = (if low > 0.0 { 0.0 } else { low }, if high < 0.0 { 0.0 } else { high });
    let scale = (high - low) / 255.0;
    let scale = if scale == 0.0 { 1.0 } else { scale };
    Ok((scale, (-low / scale).round_ties_even().clamp(0.0, 255.0) as u8))
}

/// x on its [`dynamic_grid`]; returns scale and zero point.
pub fn dynamic_quantize(cx: Ctx<'_>, x: &[f32], y: &mut [u8]) -> Result<(f32, u8), KernelError> {
    check_len("dynamic_quantize", "y", Some(x.len()), y.len())?;
    let (scale, zero) = dynamic_grid(cx, x)?;
    let scales = Scales { scale: &[scale], zero: &[i32::from(zero)], inner: x.len().max(1) };
    quantize(cx, x, scales, Limits::U8, BytesMut::U8(y))?;
    Ok((scale, zero))
}
