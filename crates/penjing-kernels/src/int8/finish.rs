//! From i32 sums to stored results.

use super::{Byte, ByteType, Grid, Limits, QEpilogue, QOut};
use crate::{
    Isa, KernelError,
    error::check_len,
    gemm::{
        Clamp,
        tile::{Acc, NR, Sink},
    },
    isa::{Math, per_isa},
    pool::Disjoint,
};
use bytemuck::Pod;

/// 1.5 · 2²³: adding it rounds an f32 below 2²² half to even, to an integer that stands in the low bits.
const ROUND: f32 = 12_582_912.0;

/// A [`Grid`] as the constants of its rounding.
#[derive(Clone, Copy)]
pub(crate) struct Rounding {
    scale: f32,
    pub(super) inverse: f32,
    /// Limits before the zero point is added.
    pub(super) lo: f32,
    pub(super) hi: f32,
    pub(super) zero: i32,
    /// What NaN becomes.
    pub(super) nan: i32,
}

impl Rounding {
    /// Limits and zero point lie within ±2²⁰.
    #[inline(always)]
    pub(crate) fn new(Grid { scale, zero, limits }: Grid) -> Rounding {
        let nan = if limits.lo > 0 { limits.lo } else { limits.hi.min(0) };
        Rounding {
            scale,
            inverse: 1.0 / scale,
            lo: (limits.lo - zero) as f32,
            hi: (limits.hi - zero) as f32,
            zero,
            nan,
        }
    }

    /// saturate(round_half_even(v / scale) + zero).
    #[inline(always)]
    pub(crate) fn apply(self, v: f32) -> i32 {
        self.round(v / self.scale)
    }

    /// saturate(round_half_even(v · (1 / scale)) + zero): what products do, since a division costs as much as their sums.
    #[inline(always)]
    pub(super) fn apply_product(self, v: f32) -> i32 {
        self.round(v * self.inverse)
    }

    /// The rounding that makes of v what this one makes of v within `limits`; none for scales that are no positive number. A
    /// product by a positive number keeps order, so limiting before and after it is the same.
    #[inline(always)]
    pub(super) fn within(self, limits: Clamp) -> Option<Rounding> {
        let fits = self.inverse > 0.0 && self.inverse < f32::INFINITY && limits.min <= limits.max;
        let inside = |v: f32| (v * self.inverse).max(self.lo).min(self.hi);
        fits.then(|| Rounding { lo: inside(limits.min), hi: inside(limits.max), ..self })
    }

    /// The limits are integers, so limiting before rounding is the same.
    #[inline(always)]
    fn round(self, q: f32) -> i32 {
        let limited = if q < self.lo { self.lo } else { q };
        let limited = if limited > self.hi { self.hi } else { limited };
        let rounded = ((limited + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        if q.is_nan() { self.nan } else { rounded.wrapping_add(self.zero) }
    }
}

/// An element that results are stored as.
pub(super) trait Target: Pod + Send + Sync {
    /// The integer type; f32 has none.
    const BYTE: Option<ByteType>;

    /// `v` itself, or on the grid.
    fn store(v: f32, rounding: Rounding) -> Self;

    /// Stores `sums` of one channel.
    fn finish_line(isa: Isa, sums: &[f32], channel: Channel, rounding: Rounding, out: &mut [Self]);
}

macro_rules! target {
    ($t:ty, $byte:expr, $line:ident, $store:expr) => {
        impl Target for $t {
            const BYTE: Option<ByteType> = $byte;

            #[inline(always)]
            fn store(v: f32, rounding: Rounding) -> $t {
                $store(v, rounding)
            }

            fn finish_line(isa: Isa, sums: &[f32], channel: Channel, rounding: Rounding, out: &mut [$t]) {
                $line(isa, sums, channel, rounding, out);
            }
        }

        per_isa! {
            fn $line(sums: &[f32], channel: Channel, rounding: Rounding, out: &mut [$t]) = line_body
        }
    };
}

target!(f32, None, line_f32, |v, _| v);
target!(i8, Some(ByteType::I8), line_i8, |v, r: Rounding| i8::narrow(r.apply_product(v)));
target!(u8, Some(ByteType::U8), line_u8, |v, r: Rounding| u8::narrow(r.apply_product(v)));

#[inline(always)]
fn line_body<M: Math>(sums: &[f32], channel: Channel, rounding: Rounding, out: &mut [impl Target]) {
    for (out, &sum) in out.iter_mut().zip(sums) {
        *out = Target::store(channel.real(sum), rounding);
    }
}

/// Scale, bias and limits of one output channel.
#[derive(Clone, Copy)]
pub(super) struct Channel {
    scale: f32,
    bias: f32,
    clamp: Clamp,
}

impl Channel {
    /// clamp(sum · scale + bias), the product rounded before the sum. A result equal to a limit takes the limit's sign of zero.
    #[inline(always)]
    fn real(self, sum: f32) -> f32 {
        let v = sum * self.scale + self.bias;
        let v = if v <= self.clamp.min { self.clamp.min } else { v };
        if v >= self.clamp.max { self.clamp.max } else { v }
    }
}

/// The epilogue of all output channels.
pub(super) struct Channels {
    /// x scale · w scale, padded to whole tiles.
    scale: Vec<f32>,
    bias: Vec<f32>,
    clamp: Clamp,
}

impl Channels {
    pub(super) fn new(
        kernel: &'static str,
        x_scale: f32,
        n: usize,
        e: &QEpilogue<'_>,
    ) -> Result<Channels, KernelError> {
        check_len(kernel, "w_scale", Some(n), e.w_scale.len())?;
        if let Some(bias) = e.bias {
            check_len(kernel, "bias", Some(n), bias.len())?;
        }
        let padded = n.div_ceil(NR) * NR;
        let mut scale: Vec<f32> = e.w_scale.iter().map(|&s| x_scale * s).collect();
        let mut bias = e.bias.map_or_else(Vec::new, <[f32]>::to_vec);
        scale.resize(padded, 0.0);
        bias.resize(padded, 0.0);
        Ok(Channels { scale, bias, clamp: e.clamp })
    }

    #[inline(always)]
    pub(super) fn at(&self, o: usize) -> Channel {
        Channel { scale: self.scale[o], bias: self.bias[o], clamp: self.clamp }
    }
}

/// What an output is called with once its type is known.
pub(super) trait WithTarget {
    fn run<T: Target>(self, y: &mut [T], rounding: Rounding);
}

/// Calls `f` with the elements of a checked output.
pub(super) fn with_target(y: QOut<'_>, f: impl WithTarget) {
    match y {
        QOut::F32(y) => f.run(y, Rounding::new(Grid { scale: 1.0, zero: 0, limits: Limits::I8 })),
        QOut::I8(y, grid) => f.run(y, Rounding::new(grid)),
        QOut::U8(y, grid) => f.run(y, Rounding::new(grid)),
    }
}

/// Stores tiles of sums into y; the output channel is the row.
pub(super) struct QSink<'a, T> {
    pub(super) y: &'a Disjoint<'a, T>,
    /// Element of y that row 0, column 0 of the block stands at.
    pub(super) offset: usize,
    /// Elements of y from row to row.
    pub(super) row_stride: usize,
    pub(super) channels: &'a Channels,
    /// Channel of row 0.
    pub(super) first_channel: usize,
    pub(super) rounding: Rounding,
}

impl<T: Target> Sink<i32> for QSink<'_, T> {
    #[inline(always)]
    fn put(&self, row: usize, rows: usize, col: usize, cols: usize, acc: &Acc<i32>) {
        let c = self.channels;
        for r in 0..rows {
            let mut line = [T::zeroed(); NR];
            let channel = c.at(self.first_channel + row + r);
            for j in 0..NR {
                line[j] = T::store(channel.real(acc.0[r][j] as f32), self.rounding);
            }
            // SAFETY: each output element belongs to one block, and each block to one task; `slice` checks the range.
            let out = unsafe { self.y.slice(self.offset + (row + r) * self.row_stride + col, cols) };
            out.copy_from_slice(&line[..cols]);
        }
    }
}
