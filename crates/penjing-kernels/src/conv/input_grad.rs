//! dx of a convolution: one stride-1 convolution of dy a stride phase.
//!
//! Input row `sy * i + py` receives tap kh exactly when `py + pad - kh * dilation` is a multiple of sy, from output row
//! `i + (py + pad - kh * dilation) / sy`. Each phase is thus a convolution of dy with the taps that fit it; nothing is
//! multiplied with zeros that a dilated dy would hold.

use super::{
    ConvShape,
    engine::{Extent, Job, run},
    forward::{Planar, Planes, direct, pack_weights, store_planar},
    layout::{Layout, Taps, Window},
};
use crate::{
    Ctx, Isa, KernelError,
    error::check_len,
    gemm::{
        Clamp,
        pack::k_blocks,
        tile::{Block, F32, NR, Sink, run_block},
    },
    pool::Disjoint,
    scratch::with_scratch,
};
use std::ops::Range;

const NAME: &str = "conv_input_grad";

/// dx `[batch, in_channels, H, W]` from dy `[batch, out_channels, OH, OW]` and w. This is also the transposed convolution.
pub fn conv_input_grad(
    cx: Ctx<'_>,
    shape: &ConvShape,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
) -> Result<(), KernelError> {
    shape.check(NAME)?;
    check_len(NAME, "dy", shape.y_len(), dy.len())?;
    check_len(NAME, "w", shape.w_len(), w.len())?;
    check_len(NAME, "dx", shape.x_len(), dx.len())?;
    let extent =
        Extent { images: shape.batch, groups: shape.groups, rows: shape.group_in(), channels: shape.group_out() };
    if dx.is_empty() || dy.is_empty() {
        dx.fill(0.0);
        return Ok(());
    }
    let single = shape.stride == [1, 1];
    if !single {
        // Phases without taps and pixels past the last window are never written below.
        cx.pool.run_chunks(dx, 1 << 16, &|_, part| part.fill(0.0));
    }
    let out = Planar { ptr: Disjoint::new(dx), bias: None, clamp: Clamp::NONE };
    for phase in 0..shape.stride[0] * shape.stride[1] {
        let phase = [phase / shape.stride[1], phase % shape.stride[1]];
        let Some((taps, kernel)) = phase_taps(shape, phase) else {
            if single {
                // SAFETY: no task runs; the whole of dx is held here.
                unsafe { out.ptr.slice(0, shape.x_len().unwrap_or(0)) }.fill(0.0);
            }
            continue;
        };
        let planes = Planes { x: dy, extent: &extent, taps: &taps };
        let depth = extent.channels * kernel.len();
        let len = shape.in_channels * depth;
        with_scratch::<f32, _>(len, |transposed| {
            transpose_weights(cx, shape, &kernel, w, transposed);
            if single && extent.rows <= 2 {
                direct(cx, &planes, transposed, &out);
                return;
            }
            with_scratch::<f32, _>(len, |packed| {
                pack_weights(cx, shape.groups, extent.rows, depth, transposed, packed);
                let blocks: Vec<Range<usize>> = k_blocks(depth).collect();
                let job = InputGrad { planes: &planes, weights: packed, out: &out, shape, phase };
                run(cx, &job, &extent, &taps, &blocks);
            });
        });
    }
    Ok(())
}

/// The taps on dy of one stride phase of dx, and which kernel positions they are; `None` when there are none.
fn phase_taps(s: &ConvShape, phase: [usize; 2]) -> Option<(Taps, Vec<usize>)> {
    let axis = |a: usize| -> Vec<(usize, isize)> {
        (0..s.kernel[a])
            .filter_map(|k| {
                let from = (phase[a] + s.pad[a]) as isize - (k * s.dilation[a]) as isize;
                let stride = s.stride[a] as isize;
                (from.rem_euclid(stride) == 0).then(|| (k, from.div_euclid(stride)))
            })
            .collect()
    };
    let (ys, xs) = (axis(0), axis(1));
    let origin = [ys.iter().map(|t| t.1).min()?, xs.iter().map(|t| t.1).min()?];
    let (mut taps, mut kernel) = (Vec::new(), Vec::new());
    for &(ky, y) in &ys {
        for &(kx, x) in &xs {
            taps.push([(y - origin[0]) as usize, (x - origin[1]) as usize]);
            kernel.push(ky * s.kernel[1] + kx);
        }
    }
    let extent = |a: usize| s.input[a].saturating_sub(phase[a]).div_ceil(s.stride[a]);
    Some((Taps { src: s.output, out: [extent(0), extent(1)], stride: [1, 1], origin, taps }, kernel))
}

/// `[groups, group_in, group_out * taps]` from `[groups, group_out, group_in, KH * KW]`.
fn transpose_weights(cx: Ctx<'_>, s: &ConvShape, kernel: &[usize], w: &[f32], out: &mut [f32]) {
    let (rows, cols, area) = (s.group_out(), s.group_in(), s.kernel[0] * s.kernel[1]);
    cx.pool.run_chunks(out, rows * kernel.len(), &|i, out| {
        let (group, c) = (i / cols, i % cols);
        for (o, out) in out.chunks_exact_mut(kernel.len()).enumerate() {
            let source = &w[((group * rows + o) * cols + c) * area..][..area];
            for (out, &k) in out.iter_mut().zip(kernel) {
                *out = source[k];
            }
        }
    });
}

struct InputGrad<'a> {
    planes: &'a Planes<'a>,
    weights: &'a [f32],
    out: &'a Planar<'a>,
    shape: &'a ConvShape,
    phase: [usize; 2],
}

impl Job for InputGrad<'_> {
    type K = F32;

    fn fill(&self, isa: Isa, image: usize, group: usize, window: &Window, layout: &Layout, dst: &mut [f32]) {
        self.planes.fill(isa, image, group, window, layout, dst);
    }

    fn weights(&self, group: usize) -> &[f32] {
        let len = self.weights.len() / self.planes.extent.groups;
        &self.weights[group * len..(group + 1) * len]
    }

    fn store(&self, isa: Isa, block: &Block<'_, f32>, image: usize, group: usize, window: &Window, k: &Range<usize>) {
        if self.shape.stride == [1, 1] {
            store_planar(isa, block, self.planes, self.out, image, group, window, k);
            return;
        }
        let ([h, w], [sy, sx]) = (self.shape.input, self.shape.stride);
        let cols = window.cols.len();
        let offsets: Vec<usize> = (0..window.len())
            .map(|p| {
                let (i, j) = (window.rows.start + p / cols, window.cols.start + p % cols);
                (i * sy + self.phase[0]) * w + j * sx + self.phase[1]
            })
            .collect();
        let rows = self.planes.extent.rows;
        let start = (image * self.planes.extent.groups + group) * rows * h * w;
        let sink = Scatter { out: &self.out.ptr, start, plane: h * w, offsets: &offsets, add: k.start > 0 };
        run_block::<F32, _>(isa, block, &sink);
    }
}

/// Stores columns at the positions of one stride phase.
struct Scatter<'a> {
    out: &'a Disjoint<'a, f32>,
    start: usize,
    plane: usize,
    offsets: &'a [usize],
    add: bool,
}

impl Sink<f32> for Scatter<'_> {
    #[inline(always)]
    fn put(&self, row: usize, col: usize, cols: usize, acc: &[[f32; NR]]) {
        for (r, acc) in acc.iter().enumerate() {
            let start = self.start + (row + r) * self.plane;
            for (&offset, &v) in self.offsets[col..col + cols].iter().zip(acc) {
                // SAFETY: the pixels of one phase and window belong to one task; phases run one after another.
                let out = unsafe { &mut self.out.slice(start + offset, 1)[0] };
                *out = if self.add { *out + v } else { v };
            }
        }
    }
}
