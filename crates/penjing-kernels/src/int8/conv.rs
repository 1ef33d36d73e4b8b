//! y = act((Σ (x − zx)·w)·sx·sw + bias) for convolutions: the window engine of [`crate::conv`] over i16 pairs.
//!
//! Channels are taken two by two, so that a pair of i16 holds one tap of both. Layers with one or two output channels a group
//! sum in f32 instead, which is exact while every sum stays below 2²⁴.

use super::{
    Byte, Bytes, QEpilogue, QOut, QTensor,
    finish::{Channels, QSink, Rounding, Target, WithTarget, with_target},
    gemm::check_depth,
};
use crate::{
    Ctx, Isa, KernelError,
    conv::{
        ConvShape,
        engine::{Extent, Job, accumulate_taps, run},
        forward_taps,
        layout::{Layout, Taps, Window, windows},
    },
    error::check_len,
    gemm::tile::{Block, I16Pair, RowPanels, run_block},
    isa::{Math, per_isa},
    pool::Disjoint,
    scratch::with_scratch,
};
use std::ops::Range;

const NAME: &str = "qconv";

/// Output channels a group up to which taps are accumulated in f32.
const DIRECT_ROWS: usize = 2;
/// Greatest depth whose sums of products of 255 and 128 stay below 2²⁴.
const DIRECT_DEPTH: usize = (1 << 24) / (255 * 128);
/// Outputs of one window of a direct layer.
const DIRECT_WINDOW: usize = 4096;

/// Convolution weights packed once.
pub struct PackedConvI8 {
    out_channels: usize,
    groups: usize,
    group_in: usize,
    kernel: [usize; 2],
    data: Packed,
}

enum Packed {
    /// Row panels `[channel pair][tap][R]`, group after group.
    Pairs(Vec<[i16; 2]>),
    /// The weights as they are, in f32.
    Direct(Vec<f32>),
}

impl PackedConvI8 {
    /// Packs `w`, `[out_channels, in_channels / groups, KH, KW]`. Batch, input and output extents of `shape` do not matter.
    pub fn new(shape: &ConvShape, w: &[i8]) -> Result<PackedConvI8, KernelError> {
        shape.check(NAME)?;
        check_len(NAME, "w", shape.w_len(), w.len())?;
        check_depth(NAME, shape.depth())?;
        let data = if is_direct(shape) {
            Packed::Direct(w.iter().map(|&v| f32::from(v)).collect())
        } else {
            Packed::Pairs(pack_pairs(shape, w))
        };
        Ok(PackedConvI8 {
            out_channels: shape.out_channels,
            groups: shape.groups,
            group_in: shape.group_in(),
            kernel: shape.kernel,
            data,
        })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Packed::Pairs(pairs) => size_of_val(&pairs[..]),
            Packed::Direct(w) => size_of_val(&w[..]),
        }
    }

    fn fits(&self, s: &ConvShape) -> bool {
        (self.out_channels, self.groups, self.group_in, self.kernel)
            == (s.out_channels, s.groups, s.group_in(), s.kernel)
    }
}

/// y `[batch, out_channels, OH, OW]` of x `[batch, in_channels, H, W]`; padding is x's zero point.
pub fn qconv(
    cx: Ctx<'_>,
    shape: &ConvShape,
    x: QTensor<'_>,
    w: &PackedConvI8,
    epilogue: &QEpilogue<'_>,
    y: QOut<'_>,
) -> Result<(), KernelError> {
    shape.check(NAME)?;
    check_len(NAME, "x", shape.x_len(), x.data.len())?;
    check_len(NAME, "y", shape.y_len(), y.len())?;
    if !w.fits(shape) {
        return Err(KernelError::Geometry { kernel: NAME, why: "the weights were packed for another shape" });
    }
    x.check(NAME, x.data.byte_type())?;
    if epilogue.residual.is_some() {
        return Err(KernelError::Geometry { kernel: NAME, why: "planes have no residual; use channels last" });
    }
    y.check(NAME)?;
    let channels = Channels::new(NAME, x.scale, shape.out_channels, epilogue)?;
    if y.len() > 0 {
        let taps = forward_taps(shape);
        with_target(y, Convolution { cx, shape, taps: &taps, x, w, channels: &channels });
    }
    Ok(())
}

fn is_direct(shape: &ConvShape) -> bool {
    shape.depth() == 0 || (shape.group_out() <= DIRECT_ROWS && shape.depth() <= DIRECT_DEPTH)
}

fn pack_pairs(shape: &ConvShape, w: &[i8]) -> Vec<[i16; 2]> {
    let (rows, channels) = (shape.group_out(), shape.group_in());
    let taps = shape.kernel[0] * shape.kernel[1];
    let depth = channels.div_ceil(2) * taps;
    let panels = RowPanels::new(rows);
    let mut data = Vec::with_capacity(shape.groups * rows * depth);
    for group in 0..shape.groups {
        for r in (0..panels.count()).map(|i| panels.range(i)) {
            for (pair, tap) in (0..depth).map(|k| (k / taps, k % taps)) {
                let at = |row: usize, c: usize| {
                    if c < channels { i16::from(w[((group * rows + row) * channels + c) * taps + tap]) } else { 0 }
                };
                data.extend(r.clone().map(|row| [at(row, 2 * pair), at(row, 2 * pair + 1)]));
            }
        }
    }
    data
}

struct Convolution<'a> {
    cx: Ctx<'a>,
    shape: &'a ConvShape,
    taps: &'a Taps,
    x: QTensor<'a>,
    w: &'a PackedConvI8,
    channels: &'a Channels,
}

impl WithTarget for Convolution<'_> {
    fn run<T: Target>(self, y: &mut [T], rounding: Rounding) {
        let y = Disjoint::new(y);
        match &self.w.data {
            Packed::Direct(weights) => self.direct(weights, &y, rounding),
            Packed::Pairs(weights) => {
                let extent = Extent {
                    images: self.shape.batch,
                    groups: self.shape.groups,
                    rows: self.shape.group_out(),
                    channels: self.shape.group_in().div_ceil(2),
                };
                let depth = extent.channels * self.taps.taps.len();
                let whole = 0..depth;
                let blocks = std::slice::from_ref(&whole);
                run(self.cx, &Pairs { conv: &self, weights, y: &y, rounding }, &extent, self.taps, blocks);
            }
        }
    }
}

impl Convolution<'_> {
    /// Elements of x before the first channel of a group.
    fn source(&self, image: usize, group: usize) -> Range<usize> {
        let plane = self.taps.src[0] * self.taps.src[1];
        let channels = self.shape.group_in();
        let first = (image * self.shape.groups + group) * channels;
        first * plane..(first + channels) * plane
    }

    /// Elements of y before `row` of a group at the start of a window.
    fn target(&self, image: usize, group: usize, window: &Window) -> usize {
        let [oh, ow] = self.taps.out;
        let first = (image * self.shape.groups + group) * self.shape.group_out();
        first * oh * ow + window.rows.start * ow + window.cols.start
    }

    /// Every tap is added to a whole window at once.
    fn direct<T: Target>(&self, weights: &[f32], y: &Disjoint<'_, T>, rounding: Rounding) {
        let (cx, taps, groups) = (self.cx, self.taps, self.shape.groups);
        let (rows, channels, depth) = (self.shape.group_out(), self.shape.group_in(), self.shape.depth());
        let [oh, ow] = taps.out;
        let windows = windows(taps.out, DIRECT_WINDOW);
        cx.pool.run(self.shape.batch * groups * windows.len(), &|t| {
            let (window, t) = (&windows[t % windows.len()], t / windows.len());
            let (group, image) = (t % groups, t / groups);
            let layout = Layout::new(taps, window.rows.len(), window.cols.len());
            let n_taps = taps.taps.len();
            let offsets: Vec<usize> =
                (0..depth).map(|k| k / n_taps * layout.channel + layout.taps[k % n_taps]).collect();
            // The sums of a window keep the copy's row pitch; the last row ends where its columns end.
            let n = (window.rows.len() - 1) * layout.wq + window.cols.len();
            with_scratch::<f32, _>(channels * layout.channel, |copy| {
                let source = self.source(image, group);
                match self.x.data {
                    Bytes::I8(x) => floats_i8(cx.isa, taps, &layout, window, &x[source], self.x.zero, copy),
                    Bytes::U8(x) => floats_u8(cx.isa, taps, &layout, window, &x[source], self.x.zero, copy),
                }
                with_scratch::<f32, _>(n, |sums| {
                    for r in 0..rows {
                        let o = group * rows + r;
                        accumulate_taps(cx.isa, copy, &offsets, &weights[o * depth..(o + 1) * depth], sums);
                        let start = self.target(image, group, window) + r * oh * ow;
                        for (i, sums) in sums.chunks(layout.wq).enumerate() {
                            // SAFETY: these outputs belong to this task alone; `slice` checks the range.
                            let out = unsafe { y.slice(start + i * ow, window.cols.len()) };
                            T::finish_line(cx.isa, sums, self.channels.at(o), rounding, out);
                        }
                    }
                });
            });
        });
    }
}

/// The job of the window engine.
struct Pairs<'a, T> {
    conv: &'a Convolution<'a>,
    weights: &'a [[i16; 2]],
    y: &'a Disjoint<'a, T>,
    rounding: Rounding,
}

impl<T: Target> Job for Pairs<'_, T> {
    type K = I16Pair;

    fn fill(&self, isa: Isa, image: usize, group: usize, window: &Window, layout: &Layout, dst: &mut [[i16; 2]]) {
        let (taps, zero) = (self.conv.taps, self.conv.x.zero);
        let source = self.conv.source(image, group);
        let (used, slack) = dst.split_at_mut(self.conv.shape.group_in().div_ceil(2) * layout.channel);
        match self.conv.x.data {
            Bytes::I8(x) => pairs_i8(isa, taps, layout, window, &x[source], zero, used),
            Bytes::U8(x) => pairs_u8(isa, taps, layout, window, &x[source], zero, used),
        }
        slack.fill([0; 2]);
    }

    fn weights(&self, group: usize) -> &[[i16; 2]] {
        let len = self.weights.len() / self.conv.shape.groups;
        &self.weights[group * len..(group + 1) * len]
    }

    fn store(
        &self,
        isa: Isa,
        block: &Block<'_, [i16; 2]>,
        image: usize,
        group: usize,
        window: &Window,
        _k: &Range<usize>,
    ) {
        let sink = QSink {
            y: self.y,
            offset: self.conv.target(image, group, window),
            row_stride: self.conv.taps.out[0] * self.conv.taps.out[1],
            channels: self.conv.channels,
            first_channel: group * self.conv.shape.group_out(),
            rounding: self.rounding,
        };
        run_block::<I16Pair, _>(isa, block, &sink);
    }
}

per_isa! {
    fn pairs_i8(t: &Taps, layout: &Layout, window: &Window, x: &[i8], zero: i32, dst: &mut [[i16; 2]]) = pairs_body
}

per_isa! {
    fn pairs_u8(t: &Taps, layout: &Layout, window: &Window, x: &[u8], zero: i32, dst: &mut [[i16; 2]]) = pairs_body
}

/// Copies channels two by two with their zero point taken off; an odd last channel is paired with zeros.
#[inline(always)]
fn pairs_body<M: Math>(t: &Taps, layout: &Layout, window: &Window, x: &[impl Byte], zero: i32, dst: &mut [[i16; 2]]) {
    let plane = t.src[0] * t.src[1];
    for (c, dst) in dst.chunks_exact_mut(layout.channel).enumerate() {
        let channel = |c: usize| &x[c * plane..(c + 1) * plane];
        layout.fill(t, window, channel(2 * c), dst, [0; 2], |row, source, step| {
            for (d, v) in row.iter_mut().zip(source.iter().step_by(step)) {
                *d = [(v.widen() - zero) as i16, 0];
            }
        });
        if (2 * c + 2) * plane <= x.len() {
            layout.fill(t, window, channel(2 * c + 1), dst, [0; 2], |row, source, step| {
                for (d, v) in row.iter_mut().zip(source.iter().step_by(step)) {
                    d[1] = (v.widen() - zero) as i16;
                }
            });
        }
    }
}

per_isa! {
    fn floats_i8(t: &Taps, layout: &Layout, window: &Window, x: &[i8], zero: i32, dst: &mut [f32]) = floats_body
}

per_isa! {
    fn floats_u8(t: &Taps, layout: &Layout, window: &Window, x: &[u8], zero: i32, dst: &mut [f32]) = floats_body
}

/// Copies channels as f32 with their zero point taken off.
#[inline(always)]
fn floats_body<M: Math>(t: &Taps, layout: &Layout, window: &Window, x: &[impl Byte], zero: i32, dst: &mut [f32]) {
    let plane = t.src[0] * t.src[1];
    for (c, dst) in dst.chunks_exact_mut(layout.channel).enumerate() {
        layout.fill(t, window, &x[c * plane..(c + 1) * plane], dst, 0.0, |row, source, step| {
            for (d, v) in row.iter_mut().zip(source.iter().step_by(step)) {
                *d = (v.widen() - zero) as f32;
            }
        });
    }
}
