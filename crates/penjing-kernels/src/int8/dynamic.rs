//! Quantization onto the grid of the tensor's own range.

use super::{Byte, BytesMut, Grid, Limits, Rounding, Scales, quantize};
use crate::{
    Ctx, KernelError,
    error::check_len,
    isa::{Math, per_isa},
    reduce::{ReduceOp, reduce},
};

/// Partial extremes of a row.
const LANES: usize = 16;

/// Scale and zero point of the U8 grid over min(0, x) .. max(0, x): scale = (max − min) / 255, or 1 where that is 0, zero point =
/// round_half_even(−min / scale) (ONNX DynamicQuantizeLinear). A NaN in x gives a NaN scale.
pub fn dynamic_grid(cx: Ctx<'_>, x: &[f32]) -> Result<(f32, u8), KernelError> {
    let extreme = |op| {
        let mut one = [0.0];
        reduce(cx, op, x, 1, x.len(), 1, &mut one).map(|()| one[0])
    };
    let (low, high) = if x.is_empty() { (0.0, 0.0) } else { (extreme(ReduceOp::Min)?, extreme(ReduceOp::Max)?) };
    Ok(grid(if low > 0.0 { 0.0 } else { low }, if high < 0.0 { 0.0 } else { high }))
}

/// Of the range `low` ≤ 0 ≤ `high`.
#[inline(always)]
fn grid(low: f32, high: f32) -> (f32, u8) {
    let scale = (high - low) / 255.0;
    let scale = if scale == 0.0 { 1.0 } else { scale };
    (scale, (-low / scale).round_ties_even().clamp(0.0, 255.0) as u8)
}

/// x on its [`dynamic_grid`]; returns scale and zero point.
pub fn dynamic_quantize(cx: Ctx<'_>, x: &[f32], y: &mut [u8]) -> Result<(f32, u8), KernelError> {
    check_len("dynamic_quantize", "y", Some(x.len()), y.len())?;
    let (scale, zero) = dynamic_grid(cx, x)?;
    let scales = Scales { scale: &[scale], zero: &[i32::from(zero)], inner: x.len().max(1) };
    quantize(cx, x, scales, Limits::U8, BytesMut::U8(y))?;
    Ok((scale, zero))
}

per_isa! {
    /// As [`dynamic_quantize`], for a few values that one thread takes; `y` is as long as `x`.
    pub(crate) fn dynamic_quantize_row(x: &[f32], y: &mut [u8]) -> (f32, u8) = row_body
}

#[inline(always)]
fn row_body<M: Math>(x: &[f32], y: &mut [u8]) -> (f32, u8) {
    let (mut low, mut high, mut nan) = ([0f32; LANES], [0f32; LANES], [0u32; LANES]);
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            low[l] = if chunk[l] < low[l] { chunk[l] } else { low[l] };
            high[l] = if chunk[l] > high[l] { chunk[l] } else { high[l] };
            nan[l] |= u32::from(chunk[l].is_nan());
        }
    }
    for (l, &v) in tail.iter().enumerate() {
        low[l] = if v < low[l] { v } else { low[l] };
        high[l] = if v > high[l] { v } else { high[l] };
        nan[l] |= u32::from(v.is_nan());
    }
    for l in 1..LANES {
        low[0] = if low[l] < low[0] { low[l] } else { low[0] };
        high[0] = if high[l] > high[0] { high[l] } else { high[0] };
        nan[0] |= nan[l];
    }
    let (scale, zero) = grid(low[0], if nan[0] == 0 { high[0] } else { f32::NAN });
    let rounding = Rounding::new(Grid { scale, zero: zero.into(), limits: Limits::U8 });
    for (y, &v) in y.iter_mut().zip(x) {
        *y = Byte::narrow(rounding.apply(v));
    }
    (scale, zero)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{every_ctx, values};

    #[test]
    fn a_row_is_quantized_as_a_tensor_is() {
        let ramp = values("row", 531);
        let with = |v: f32| [&ramp[..40], &[v], &ramp[40..60]].concat();
        let cases = [
            vec![],
            vec![0.0; 5],
            vec![-0.0, 3.0],
            vec![-2.5],
            ramp.clone(),
            ramp.iter().map(|v| v.abs()).collect(),
            with(f32::NAN),
            with(f32::INFINITY),
            with(f32::MIN),
        ];
        for x in cases {
            every_ctx(|cx| {
                let (mut want, mut got) = (vec![1; x.len()], vec![2; x.len()]);
                let grid = dynamic_quantize(cx, &x, &mut want).unwrap();
                let own = dynamic_quantize_row(cx.isa, &x, &mut got);
                assert_eq!((grid.0.to_bits(), grid.1, want), (own.0.to_bits(), own.1, got), "{x:?}");
                Vec::new()
            });
        }
    }
}
