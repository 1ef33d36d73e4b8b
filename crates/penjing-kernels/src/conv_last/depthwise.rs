//! Depthwise convolution: every channel by itself, a register of neighbouring channels at a time, several outputs of a row at once.
//!
//! The input is read where it lies. Taps in the padding are left out: rows by their range, columns by treating the outputs
//! whose windows reach over an edge one by one.

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
const TASK_RESULTS: usize = 8192;
/// Outputs of a row that are computed at once.
const WIDE: usize = 4;
/// Most columns that they read: kernels of width 5 that move by two.
const WIDEST: usize = (WIDE - 1) * 2 + 5;

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
    cx.pool.run(s.batch * per_image, &|t| {
        let (image, part) = (t / per_image, t % per_image);
        for i in oh * part / per_image..oh * (part + 1) / per_image {
            let first = (image * oh + i) * ow;
            let row = Row { s, x, w, output: &output, first, far: x.len() >= FAR };
            // SAFETY: lengths were checked by `conv_last`, the line is one of the image's, and each row belongs to one task.
            unsafe {
                each_output(cx.isa, &row, &Line::new(s, image, i));
                output.finish(cx.isa, first..first + ow, 0..s.out_channels);
            }
        }
    });
}

/// One row of outputs of an image.
struct Line {
    /// Offset in x of the first input row that is read, column 0.
    start: usize,
    /// Kernel rows inside the image.
    taps: Range<usize>,
    /// Outputs whose whole windows lie inside the image's columns.
    inside: Range<usize>,
}

impl Line {
    fn new(s: &ConvShape, image: usize, row: usize) -> Line {
        let ([h, w], c) = (s.input, s.in_channels);
        let taps = valid_taps(s, 0, row);
        let y = (row * s.stride[0] + taps.start * s.dilation[0]).saturating_sub(s.pad[0]);
        // Outputs whose first tap and whose last tap lie inside.
        let reach = (s.kernel[1] - 1) * s.dilation[1];
        let first = s.pad[1].div_ceil(s.stride[1]);
        let end = (w + s.pad[1]).saturating_sub(reach).div_ceil(s.stride[1]).min(s.output[1]);
        let start = if taps.is_empty() { 0 } else { (image * h + y) * w * c };
        Line { start, taps, inside: first..end.max(first) }
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
    /// Computes a row of outputs: a few at once, all channels.
    ///
    /// # Safety
    /// The operands have the lengths that `row.s` implies, and `line` is a row of it.
    unsafe fn each_output(row: &Row<'_>, line: &Line) = each_output_body
}

#[inline(always)]
unsafe fn each_output_body<V: Lanes>(row: &Row<'_>, line: &Line) {
    let s = row.s;
    // Plain loops and functions that are always inlined: a closure would not be compiled for the level.
    let mut j = 0;
    while j < s.output[1] {
        // SAFETY: the caller's contract; windows of outputs in `line.inside` lie inside the image's columns.
        unsafe {
            if !line.inside.contains(&j) {
                let cols = valid_taps(s, 1, j);
                let first = (j * s.stride[1] + cols.start * s.dilation[1]).saturating_sub(s.pad[1]);
                row.one::<V>(line, j, first, cols);
                j += 1;
                continue;
            }
            let first = j * s.stride[1] - s.pad[1];
            if j + WIDE > line.inside.end {
                row.one::<V>(line, j, first, 0..s.kernel[1]);
                j += 1;
                continue;
            }
            match (s.kernel[1], s.stride[1], s.dilation[1]) {
                (3, 1, 1) => row.wide::<V, 3, 1>(line, j, first),
                (3, 2, 1) => row.wide::<V, 3, 2>(line, j, first),
                (5, 1, 1) => row.wide::<V, 5, 1>(line, j, first),
                (5, 2, 1) => row.wide::<V, 5, 2>(line, j, first),
                _ => {
                    for p in 0..WIDE {
                        row.one::<V>(line, j + p, first + p * s.stride[1], 0..s.kernel[1]);
                    }
                }
            }
            j += WIDE;
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
    /// [`WIDE`] outputs from `j` on of a kernel of width KW with stride S; the first reads columns from `first` on.
    ///
    /// # Safety
    /// Their windows lie inside the image's columns; the contract of [`each_output`].
    #[inline(always)]
    unsafe fn wide<V: Lanes, const KW: usize, const S: usize>(&self, line: &Line, j: usize, first: usize) {
        let c = self.s.groups;
        let whole = c / V::LANES * V::LANES;
        for block in (0..whole).step_by(V::LANES) {
            // SAFETY: this function's contract; a register's channels from `block` on exist.
            unsafe {
                let mut acc = [self.output.bias::<V>(block, V::LANES); WIDE];
                for ky in line.taps.clone() {
                    let x = self.at(line, ky, first, block);
                    let w = self.weights(ky, block);
                    // The next columns of the rows that the line before did not read.
                    if S > 1 && self.far && ky + S >= line.taps.end {
                        let next = self.at(line, ky, first + (WIDE - 1) * S + KW, block * WIDE * S);
                        for at in (0..WIDE * S * V::LANES).step_by(CACHE_LINE) {
                            prefetch(next.wrapping_add(at));
                        }
                    }
                    // Windows overlap: each column is loaded once.
                    let mut columns = [V::splat(0.0); WIDEST];
                    for i in 0..(WIDE - 1) * S + KW {
                        columns[i] = V::load(x.add(i * c));
                    }
                    for kx in 0..KW {
                        let w = V::load(w.add(kx * MOST_LANES));
                        for p in 0..WIDE {
                            acc[p] = columns[p * S + kx].fma(w, acc[p]);
                        }
                    }
                }
                for p in 0..WIDE {
                    self.output.put(self.first + j + p, block, V::LANES, acc[p]);
                }
            }
        }
        if whole < c {
            for p in 0..WIDE {
                // SAFETY: this function's contract.
                unsafe { self.block::<V>(line, j + p, first + p * S, 0..KW, whole) };
            }
        }
    }

    /// Output `j` over the kernel columns `cols`, the first of which is at column `first`.
    ///
    /// # Safety
    /// Those columns lie inside the image; the contract of [`each_output`].
    #[inline(always)]
    unsafe fn one<V: Lanes>(&self, line: &Line, j: usize, first: usize, cols: Range<usize>) {
        for block in (0..self.s.groups).step_by(V::LANES) {
            // SAFETY: this function's contract.
            unsafe { self.block::<V>(line, j, first, cols.clone(), block) };
        }
    }

    /// As [`one`](Self::one), of a register's channels from `block` on or what is left of them.
    ///
    /// # Safety
    /// As [`one`](Self::one).
    #[inline(always)]
    unsafe fn block<V: Lanes>(&self, line: &Line, j: usize, first: usize, cols: Range<usize>, block: usize) {
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
            self.output.put(self.first + j, block, lanes, acc);
        }
    }

    /// Channel `block` of the input column `first`, in the input row of kernel row `ky`.
    #[inline(always)]
    fn at(&self, line: &Line, ky: usize, first: usize, block: usize) -> *const f32 {
        let rows = (ky - line.taps.start) * self.s.dilation[0];
        self.x.as_ptr().wrapping_add(line.start + (rows * self.s.input[1] + first) * self.s.groups + block)
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
