//! Depthwise convolution: every channel by itself, a register of neighbouring channels at a time, several outputs of a row at once.
//!
//! The input is read where it lies. Kernel rows in the padding are left out, columns in the padding read as zeros.

use super::{ConvEpilogue, output::Output};
use crate::{
    Ctx,
    conv::ConvShape,
    isa::prefetch,
    lanes::{Lanes, MOST_LANES, per_lanes},
    pool::Disjoint,
};
use std::ops::Range;

/// Results of a task that [`run`] aims at.
const TASK_RESULTS: usize = 1 << 14;
/// Outputs of a row that are computed at once.
const RUN: usize = 4;
/// The same where there are registers enough.
const LONG_RUN: usize = 8;
/// Most columns that they read: kernels of width 5 that move by two.
const WIDEST: usize = (LONG_RUN - 1) * 2 + 5;

/// Elements that the first-level cache holds beside weights and results.
const NEAR: usize = 6 << 10;
/// Elements of an x that a core's own cache does not hold.
const FAR: usize = 1 << 18;
/// Elements of a cache line.
const CACHE_LINE: usize = 16;

/// Whether `s` is a depthwise convolution with one output channel for each input channel.
pub(crate) fn fits(s: &ConvShape) -> bool {
    s.groups == s.in_channels && s.groups == s.out_channels && s.groups > 1
}

/// Packs `w`, `[C, 1, KH, KW]`, as `[C / 16][tap][16]`, with zeros for channels that are not there.
pub(crate) fn pack(s: &ConvShape, w: &[f32]) -> Vec<f32> {
    let taps = s.kernel[0] * s.kernel[1];
    let block = taps * MOST_LANES;
    let channel = |i: usize| i / block * MOST_LANES + i % MOST_LANES;
    (0..s.groups.div_ceil(MOST_LANES) * block)
        .map(|i| w.get(channel(i) * taps + i / MOST_LANES % taps).copied().unwrap_or(0.0))
        .collect()
}

/// Runs a checked convolution.
pub(crate) fn run(cx: Ctx<'_>, s: &ConvShape, x: &[f32], w: &[f32], e: &ConvEpilogue<'_>, y: &Disjoint<'_, f32>) {
    let [oh, ow] = s.output;
    let rows = (TASK_RESULTS / (ow * s.groups)).clamp(1, oh);
    let per_image = oh.div_ceil(rows);
    let zeros = if e.bias.is_none() { vec![0.0; s.groups] } else { Vec::new() };
    let output = Output::new(s, e, &zeros, y);
    // What several rows of outputs read of some channels stays in the first-level cache from row to row, unless x comes from far away:
    // that is read as it lies.
    let far = x.len() >= FAR;
    let read = s.kernel[0] * s.input[1].max(1);
    let chunk = if far { s.groups } else { (NEAR / read / MOST_LANES * MOST_LANES).max(MOST_LANES) };
    cx.pool.run(s.batch * per_image, &|t| {
        let (image, part) = (t / per_image, t % per_image);
        let rows = oh * part / per_image..oh * (part + 1) / per_image;
        for channels in (0..s.groups).step_by(chunk).map(|first| first..s.groups.min(first + chunk)) {
            for i in rows.clone() {
                let row = Row { s, x, w, output: &output, first: (image * oh + i) * ow, far };
                // SAFETY: lengths were checked by `conv_last`, the line is one of the image's, and each row belongs to one task.
                unsafe { each_output(cx.isa, &row, &Line::new(s, image, i), channels.clone()) };
            }
        }
        // SAFETY: as above.
        unsafe {
            output.finish(cx.isa, (image * oh + rows.start) * ow..(image * oh + rows.end) * ow, 0..s.out_channels)
        };
    });
}

/// One row of outputs of an image.
struct Line {
    /// Offset in x of the first input row that is read, column 0.
    start: usize,
    /// Kernel rows inside the image.
    taps: Range<usize>,
}

impl Line {
    fn new(s: &ConvShape, image: usize, row: usize) -> Line {
        let ([h, w], c) = (s.input, s.in_channels);
        let taps = valid_taps(s, 0, row);
        let y = (row * s.stride[0] + taps.start * s.dilation[0]).saturating_sub(s.pad[0]);
        let start = if taps.is_empty() { 0 } else { (image * h + y) * w * c };
        Line { start, taps }
    }
}

/// The taps along `axis` that output `o` reads inside the image.
#[inline(always)]
fn valid_taps(s: &ConvShape, axis: usize, o: usize) -> Range<usize> {
    let (at, d) = (o * s.stride[axis], s.dilation[axis]);
    let start = s.pad[axis].saturating_sub(at).div_ceil(d).min(s.kernel[axis]);
    let end = (s.input[axis] + s.pad[axis]).saturating_sub(at).div_ceil(d).min(s.kernel[axis]);
    start..end.max(start)
}

per_lanes! {
    /// Computes some channels of a row of outputs, which begin with a register: a few outputs at once.
    ///
    /// # Safety
    /// The operands have the lengths that `row.s` implies, and `line` is a row of it.
    unsafe fn each_output(row: &Row<'_>, line: &Line, channels: Range<usize>) = each_output_body
}

#[inline(always)]
unsafe fn each_output_body<V: Lanes>(row: &Row<'_>, line: &Line, channels: Range<usize>) {
    let s = row.s;
    // Plain loops and functions that are always inlined: a closure would not be compiled for the level.
    let mut j = 0;
    while j < s.output[1] {
        let left = s.output[1] - j;
        // SAFETY: the caller's contract; the outputs exist.
        unsafe {
            j += match (s.kernel[1], s.stride[1], s.dilation[1]) {
                (3, 1, 1) if V::LANES == MOST_LANES && left > RUN => {
                    row.run::<V, 3, 1, LONG_RUN>(line, j, channels.clone())
                }
                (3, 2, 1) if V::LANES == MOST_LANES && left > RUN => {
                    row.run::<V, 3, 2, LONG_RUN>(line, j, channels.clone())
                }
                (5, 1, 1) if V::LANES == MOST_LANES && left > RUN => {
                    row.run::<V, 5, 1, LONG_RUN>(line, j, channels.clone())
                }
                (3, 1, 1) => row.run::<V, 3, 1, RUN>(line, j, channels.clone()),
                (3, 2, 1) => row.run::<V, 3, 2, RUN>(line, j, channels.clone()),
                (5, 1, 1) => row.run::<V, 5, 1, RUN>(line, j, channels.clone()),
                (5, 2, 1) => row.run::<V, 5, 2, RUN>(line, j, channels.clone()),
                _ => row.one::<V>(line, j, channels.clone()),
            }
        }
    }
}

/// The operands of a row of outputs.
struct Row<'a> {
    s: &'a ConvShape,
    x: &'a [f32],
    /// `[C / 16][tap][16]`.
    w: &'a [f32],
    output: &'a Output<'a>,
    /// The row's first pixel in the batch.
    first: usize,
    /// Whether x is larger than a core's own cache. It is read in stretches of a few columns by all channels, too short for the
    /// hardware to foresee the next.
    far: bool,
}

impl Row<'_> {
    /// Up to P outputs from `j` on of a kernel of width KW with stride S; their number.
    ///
    /// # Safety
    /// Output `j` exists; the contract of [`each_output`].
    #[inline(always)]
    unsafe fn run<V: Lanes, const KW: usize, const S: usize, const P: usize>(
        &self,
        line: &Line,
        j: usize,
        channels: Range<usize>,
    ) -> usize {
        let columns = (P - 1) * S + KW;
        let outputs = P.min(self.s.output[1] - j);
        // Columns of the run that lie inside the image.
        let before = self.s.pad[1].saturating_sub(j * S);
        let inside = before..columns.min((self.s.input[1] + self.s.pad[1]).saturating_sub(j * S));
        let whole = channels.start..channels.start + channels.len() / V::LANES * V::LANES;
        // SAFETY: this function's contract.
        unsafe {
            if inside == (0..columns) && outputs == P {
                self.blocks::<V, KW, S, P, false>(line, j, outputs, inside, whole.clone());
            } else {
                self.blocks::<V, KW, S, P, true>(line, j, outputs, inside, whole.clone());
            }
            if whole.end < channels.end {
                for j in j..j + outputs {
                    self.block::<V>(line, j, whole.end);
                }
            }
        }
        outputs
    }

    /// The channels `whole` of a run, which fill registers; `EDGE` where some of its columns lie outside the image or some of its outputs do not
    /// exist.
    ///
    /// # Safety
    /// As [`run`](Self::run); the columns `inside` lie inside the image, and `outputs` exist.
    #[inline(always)]
    unsafe fn blocks<V: Lanes, const KW: usize, const S: usize, const P: usize, const EDGE: bool>(
        &self,
        line: &Line,
        j: usize,
        outputs: usize,
        inside: Range<usize>,
        whole: Range<usize>,
    ) {
        let c = self.s.groups;
        let first = (j * S).wrapping_sub(self.s.pad[1]);
        // SAFETY: this function's contract.
        let writer = unsafe { self.output.writer::<V>() };
        for block in whole.step_by(V::LANES) {
            // SAFETY: this function's contract; a register's channels from `block` on exist.
            unsafe {
                let mut acc = [self.output.bias::<V>(block, V::LANES); P];
                for ky in line.taps.clone() {
                    let x = self.at(line, ky, first, block);
                    let w = self.weights(ky, block);
                    // The next columns of the rows that the line before did not read.
                    if S > 1 && self.far && ky + S >= line.taps.end {
                        let next = self.at(line, ky, first.wrapping_add((P - 1) * S + KW), block * P * S);
                        for at in (0..P * S * V::LANES).step_by(CACHE_LINE) {
                            prefetch(next.wrapping_add(at));
                        }
                    }
                    // Windows overlap: each column is loaded once.
                    let mut columns = [V::splat(0.0); WIDEST];
                    for i in 0..(P - 1) * S + KW {
                        if !EDGE || inside.contains(&i) {
                            columns[i] = V::load(x.wrapping_add(i * c));
                        }
                    }
                    for kx in 0..KW {
                        let w = V::load(w.add(kx * MOST_LANES));
                        for p in 0..P {
                            acc[p] = columns[p * S + kx].fma(w, acc[p]);
                        }
                    }
                }
                for p in 0..P {
                    if !EDGE || p < outputs {
                        writer.put(self.first + j + p, block, V::LANES, acc[p]);
                    }
                }
            }
        }
    }

    /// Output `j`; 1.
    ///
    /// # Safety
    /// It exists; the contract of [`each_output`].
    #[inline(always)]
    unsafe fn one<V: Lanes>(&self, line: &Line, j: usize, channels: Range<usize>) -> usize {
        for block in channels.step_by(V::LANES) {
            // SAFETY: this function's contract.
            unsafe { self.block::<V>(line, j, block) };
        }
        1
    }

    /// As [`one`](Self::one), of a register's channels from `block` on or what is left of them.
    ///
    /// # Safety
    /// As [`one`](Self::one).
    #[inline(always)]
    unsafe fn block<V: Lanes>(&self, line: &Line, j: usize, block: usize) {
        let cols = valid_taps(self.s, 1, j);
        let first = (j * self.s.stride[1] + cols.start * self.s.dilation[1]).saturating_sub(self.s.pad[1]);
        let lanes = V::LANES.min(self.s.groups - block);
        // SAFETY: this function's contract.
        unsafe {
            let mut acc = self.output.bias::<V>(block, lanes);
            for ky in line.taps.clone() {
                let x = self.at(line, ky, first, block);
                let w = self.weights(ky, block);
                for kx in cols.clone() {
                    let at = x.add((kx - cols.start) * self.s.dilation[1] * self.s.groups);
                    let v = if lanes == V::LANES { V::load(at) } else { V::load_part(at, lanes) };
                    acc = v.fma(V::load(w.add(kx * MOST_LANES)), acc);
                }
            }
            self.output.writer::<V>().put(self.first + j, block, lanes, acc);
        }
    }

    /// Channel `block` of the input column `first`, which may lie before the image's, in the input row of kernel row `ky`.
    #[inline(always)]
    fn at(&self, line: &Line, ky: usize, first: usize, block: usize) -> *const f32 {
        let rows = (ky - line.taps.start) * self.s.dilation[0];
        let column = (rows * self.s.input[1]).wrapping_add(first).wrapping_mul(self.s.groups);
        self.x.as_ptr().wrapping_add(line.start + block).wrapping_add(column)
    }

    /// The weights of kernel row `ky`.
    #[inline(always)]
    fn weights(&self, ky: usize, block: usize) -> *const f32 {
        let [kh, kw] = self.s.kernel;
        self.w
            .as_ptr()
            .wrapping_add(block / MOST_LANES * MOST_LANES * kh * kw + ky * kw * MOST_LANES + block % MOST_LANES)
    }
}
