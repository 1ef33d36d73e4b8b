//! Between f32 and int8.
//!
//! Loops stand in the bodies: a closure would be compiled outside of the function that has the level's instructions.

use super::{Byte, Bytes, BytesMut, Grid, Limits, quotient::registers, rounding::Rounding};
use crate::{
    Ctx, Isa, KernelError,
    error::{check_len, product},
    isa::{Math, per_isa},
};
use bytemuck::Pod;
use std::ops::Range;

/// Elements of one task.
const TASK: usize = 1 << 14;
/// Integers of a fake-quantised grid; beyond them f32 rounding would not be exact.
const FAKE: Limits = Limits { lo: -(1 << 20), hi: 1 << 20 };

/// The grids of a tensor seen as `[outer, channels, inner]`: one scale and zero point a channel, or one for all with
/// `channels == 1`.
#[derive(Clone, Copy, Debug)]
pub struct Scales<'a> {
    /// `[channels]`
    pub scale: &'a [f32],
    /// `[channels]`, values of the integer type.
    pub zero: &'a [i32],
    /// Elements from one channel to the next.
    pub inner: usize,
}

/// `y = saturate(round_half_even(x / scale) + zero)` within `limits`; NaN gives 0.
pub fn quantize(
    cx: Ctx<'_>,
    x: &[f32],
    scales: Scales<'_>,
    limits: Limits,
    y: BytesMut<'_>,
) -> Result<(), KernelError> {
    const NAME: &str = "quantize";
    match y {
        BytesMut::I8(y) => {
            scales.check(NAME, Limits::I8, limits, [x.len(), y.len()])?;
            run(cx, y, |i, y| match scales.scale {
                [_] => round_i8(cx.isa, &x[i..i + y.len()], scales.grid(0, limits), y),
                _ => quantize_i8(cx.isa, &x[i..i + y.len()], i, scales, limits, y),
            });
        }
        BytesMut::U8(y) => {
            scales.check(NAME, Limits::U8, limits, [x.len(), y.len()])?;
            run(cx, y, |i, y| match scales.scale {
                [_] => round_u8(cx.isa, &x[i..i + y.len()], scales.grid(0, limits), y),
                _ => quantize_u8(cx.isa, &x[i..i + y.len()], i, scales, limits, y),
            });
        }
    }
    Ok(())
}

/// `y = (q − zero) · scale`.
pub fn dequantize(cx: Ctx<'_>, q: Bytes<'_>, scales: Scales<'_>, y: &mut [f32]) -> Result<(), KernelError> {
    const NAME: &str = "dequantize";
    match q {
        Bytes::I8(q) => {
            scales.check(NAME, Limits::I8, Limits::I8, [q.len(), y.len()])?;
            run(cx, y, |i, y| dequantize_i8(cx.isa, &q[i..i + y.len()], i, scales, y));
        }
        Bytes::U8(q) => {
            scales.check(NAME, Limits::U8, Limits::U8, [q.len(), y.len()])?;
            run(cx, y, |i, y| dequantize_u8(cx.isa, &q[i..i + y.len()], i, scales, y));
        }
    }
    Ok(())
}

/// [`dequantize`] of [`quantize`]. Limits and zero points lie within ±2²⁰.
pub fn fake_quant(
    cx: Ctx<'_>,
    x: &[f32],
    scales: Scales<'_>,
    limits: Limits,
    y: &mut [f32],
) -> Result<(), KernelError> {
    scales.check("fake_quant", FAKE, limits, [x.len(), y.len()])?;
    run(cx, y, |i, y| fake_quant_f32(cx.isa, &x[i..i + y.len()], i, scales, limits, y));
    Ok(())
}

impl Scales<'_> {
    fn check(&self, kernel: &'static str, all: Limits, limits: Limits, [x, y]: [usize; 2]) -> Result<(), KernelError> {
        check_len(kernel, "y", Some(x), y)?;
        check_len(kernel, "zero", Some(self.scale.len()), self.zero.len())?;
        all.check(kernel, limits)?;
        let block = product(&[self.scale.len(), self.inner]).unwrap_or(0);
        if x > 0 && (block == 0 || x % block != 0) {
            return Err(KernelError::Geometry { kernel, why: "channels times inner do not divide the tensor" });
        }
        if self.zero.iter().all(|&z| all.has(z)) {
            return Ok(());
        }
        Err(KernelError::Geometry { kernel, why: "a zero point is no value of the integer type" })
    }

    fn grid(&self, channel: usize, limits: Limits) -> Grid {
        Grid { scale: self.scale[channel], zero: self.zero[channel], limits }
    }

    /// The run of one channel that begins `at` elements behind `start`: the channel, and where the run ends, also from `start`, of
    /// which there are `len` elements.
    #[inline(always)]
    fn run(&self, start: usize, at: usize, len: usize) -> (usize, Range<usize>) {
        let place = (start + at) / self.inner;
        let end = if self.scale.len() == 1 { len } else { len.min((place + 1) * self.inner - start) };
        (place % self.scale.len(), at..end)
    }
}

/// Calls `f(i, part)` for parts of `y` that begin at element i.
fn run<T: Pod + Send>(cx: Ctx<'_>, y: &mut [T], f: impl Fn(usize, &mut [T]) + Sync) {
    if y.len() <= TASK { f(0, y) } else { cx.pool.run_chunks(y, TASK, &|t, part| f(t * TASK, part)) }
}

per_isa! {
    /// y = saturate(round_half_even(x / scale) + zero) on a grid of i8.
    pub(crate) fn round_i8(x: &[f32], grid: Grid, y: &mut [i8]) = round_body
}

/// As [`round_i8`], on a grid of u8.
pub(crate) fn round_u8(isa: Isa, x: &[f32], grid: Grid, y: &mut [u8]) {
    let done = registers(isa, x, grid, y);
    round_rest(isa, &x[done..], grid, &mut y[done..]);
}

per_isa! {
    fn round_rest(x: &[f32], grid: Grid, y: &mut [u8]) = round_body
}

#[inline(always)]
fn round_body<M: Math>(x: &[f32], grid: Grid, y: &mut [impl Byte]) {
    let rounding = Rounding::new(grid);
    for (y, &v) in y.iter_mut().zip(x) {
        *y = Byte::narrow(rounding.apply(v));
    }
}

per_isa! {
    fn quantize_i8(x: &[f32], at: usize, scales: Scales<'_>, limits: Limits, y: &mut [i8]) = quantize_body
}

per_isa! {
    fn quantize_u8(x: &[f32], at: usize, scales: Scales<'_>, limits: Limits, y: &mut [u8]) = quantize_body
}

#[inline(always)]
fn quantize_body<M: Math>(x: &[f32], at: usize, scales: Scales<'_>, limits: Limits, y: &mut [impl Byte]) {
    let mut done = 0;
    while done < x.len() {
        let (channel, part) = scales.run(at, done, x.len());
        done = part.end;
        round_body::<M>(&x[part.clone()], scales.grid(channel, limits), &mut y[part]);
    }
}

per_isa! {
    fn dequantize_i8(q: &[i8], at: usize, scales: Scales<'_>, y: &mut [f32]) = dequantize_body
}

per_isa! {
    fn dequantize_u8(q: &[u8], at: usize, scales: Scales<'_>, y: &mut [f32]) = dequantize_body
}

#[inline(always)]
fn dequantize_body<M: Math>(q: &[impl Byte], at: usize, scales: Scales<'_>, y: &mut [f32]) {
    let mut done = 0;
    while done < q.len() {
        let (channel, part) = scales.run(at, done, q.len());
        done = part.end;
        let (scale, zero) = (scales.scale[channel], scales.zero[channel]);
        for (y, q) in y[part.clone()].iter_mut().zip(&q[part]) {
            *y = (q.widen() - zero) as f32 * scale;
        }
    }
}

per_isa! {
    fn fake_quant_f32(x: &[f32], at: usize, scales: Scales<'_>, limits: Limits, y: &mut [f32]) = fake_quant_body
}

#[inline(always)]
fn fake_quant_body<M: Math>(x: &[f32], at: usize, scales: Scales<'_>, limits: Limits, y: &mut [f32]) {
    let mut done = 0;
    while done < x.len() {
        let (channel, part) = scales.run(at, done, x.len());
        done = part.end;
        let (scale, zero) = (scales.scale[channel], scales.zero[channel]);
        let rounding = Rounding::new(scales.grid(channel, limits));
        for (y, &v) in y[part.clone()].iter_mut().zip(&x[part]) {
            *y = (rounding.apply(v) - zero) as f32 * scale;
        }
    }
}
