//! y = clamp(conv(x, w) + bias).

use super::{
    ConvShape,
    engine::{Extent, Job, accumulate_taps, run},
    layout::{Layout, Taps, Window, windows},
};
use crate::{
    Ctx, Isa, KernelError,
    error::check_len,
    gemm::{
        Bias, Clamp, Epilogue, Mat,
        pack::{k_blocks, pack_rows},
        sink::{COut, CSink},
        tile::{Block, F32, RowPanels, run_block},
    },
    isa::{Math, per_isa},
    pool::Disjoint,
    scratch::with_scratch,
};
use std::ops::Range;

const NAME: &str = "conv";

/// Output channels a group up to which taps are accumulated directly instead of packed.
const DIRECT_ROWS: usize = 2;

/// The weights of a convolution.
#[derive(Clone, Copy)]
pub enum ConvWeights<'a> {
    /// `[out_channels, in_channels / groups, KH, KW]`, packed during the call.
    Plain(&'a [f32]),
    /// Packed before, for the same shape.
    Packed(&'a PackedConv),
}

/// Convolution weights packed once.
pub struct PackedConv {
    out_channels: usize,
    groups: usize,
    depth: usize,
    data: Vec<f32>,
}

impl PackedConv {
    /// Packs `w`, `[out_channels, in_channels / groups, KH, KW]`. Batch, input and output extents of `shape` do not matter.
    pub fn new(isa: Isa, shape: &ConvShape, w: &[f32]) -> Result<PackedConv, KernelError> {
        shape.check(NAME)?;
        check_len(NAME, "w", shape.w_len(), w.len())?;
        let pool = crate::Pool::new(1);
        let mut data = vec![0.0; w.len()];
        if is_direct(shape) {
            data.copy_from_slice(w);
        } else {
            pack_weights(Ctx { isa, pool: &pool }, shape.groups, shape.group_out(), shape.depth(), w, &mut data);
        }
        Ok(PackedConv { out_channels: shape.out_channels, groups: shape.groups, depth: shape.depth(), data })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.len() * size_of::<f32>()
    }

    fn fits(&self, s: &ConvShape) -> bool {
        (self.out_channels, self.groups, self.depth) == (s.out_channels, s.groups, s.depth())
    }
}

/// y = clamp(conv(x, w) + bias). `bias` has one value an output channel. y is `[batch, out_channels, OH, OW]`.
pub fn conv(
    cx: Ctx<'_>,
    shape: &ConvShape,
    x: &[f32],
    w: ConvWeights<'_>,
    bias: Option<&[f32]>,
    clamp: Clamp,
    y: &mut [f32],
) -> Result<(), KernelError> {
    shape.check(NAME)?;
    check_len(NAME, "x", shape.x_len(), x.len())?;
    check_len(NAME, "y", shape.y_len(), y.len())?;
    if let Some(bias) = bias {
        check_len(NAME, "bias", Some(shape.out_channels), bias.len())?;
    }
    match w {
        ConvWeights::Plain(w) => check_len(NAME, "w", shape.w_len(), w.len())?,
        ConvWeights::Packed(p) if p.fits(shape) => {}
        ConvWeights::Packed(_) => {
            return Err(KernelError::Geometry { kernel: NAME, why: "the weights were packed for another shape" });
        }
    }
    let extent =
        Extent { images: shape.batch, groups: shape.groups, rows: shape.group_out(), channels: shape.group_in() };
    let taps = forward_taps(shape);
    let planes = Planes { x, extent: &extent, taps: &taps };
    if extent.channels == 0 || y.is_empty() {
        fill_bias(shape, bias, clamp, y);
        return Ok(());
    }
    let plain_len = match w {
        ConvWeights::Plain(w) if !is_direct(shape) => w.len(),
        _ => 0,
    };
    with_scratch::<f32, _>(plain_len, |buffer| {
        let weights = match w {
            ConvWeights::Packed(p) => &p.data,
            ConvWeights::Plain(w) if is_direct(shape) => w,
            ConvWeights::Plain(w) => {
                pack_weights(cx, shape.groups, extent.rows, shape.depth(), w, buffer);
                buffer
            }
        };
        let out = Planar { ptr: Disjoint::new(y), bias, clamp };
        if is_direct(shape) {
            direct(cx, &planes, weights, &out);
        } else {
            let blocks: Vec<Range<usize>> = k_blocks(shape.depth()).collect();
            run(cx, &Forward { planes: &planes, weights, out: &out }, &extent, &taps, &blocks);
        }
    });
    Ok(())
}

fn is_direct(shape: &ConvShape) -> bool {
    shape.group_out() <= DIRECT_ROWS
}

pub(crate) fn forward_taps(s: &ConvShape) -> Taps {
    let taps = (0..s.kernel[0] * s.kernel[1])
        .map(|t| [t / s.kernel[1] * s.dilation[0], t % s.kernel[1] * s.dilation[1]])
        .collect();
    let origin = [-(s.pad[0] as isize), -(s.pad[1] as isize)];
    Taps { src: s.input, out: s.output, stride: s.stride, origin, taps }
}

fn fill_bias(shape: &ConvShape, bias: Option<&[f32]>, clamp: Clamp, y: &mut [f32]) {
    let plane = (shape.output[0] * shape.output[1]).max(1);
    for (i, plane) in y.chunks_mut(plane).enumerate() {
        plane.fill(clamp.apply(bias.map_or(0.0, |b| b[i % shape.out_channels])));
    }
}

/// Packs each group's `[rows, depth]` weights, k-block after k-block.
pub(super) fn pack_weights(cx: Ctx<'_>, groups: usize, rows: usize, depth: usize, w: &[f32], out: &mut [f32]) {
    if rows * depth == 0 {
        return;
    }
    let panels = RowPanels::new(rows);
    let out = Disjoint::new(out);
    cx.pool.run(groups * panels.count(), &|t| {
        let (group, i) = (t / panels.count(), t % panels.count());
        let a = Mat::rows(&w[group * rows * depth..][..rows * depth], depth);
        let r = panels.range(i);
        for kb in k_blocks(depth) {
            let start = group * rows * depth + rows * kb.start + r.start * kb.len();
            // SAFETY: each (group, panel, k-block) has its own part and is packed by one task.
            let part = unsafe { out.slice(start, r.len() * kb.len()) };
            pack_rows(cx.isa, &a, panels, i, kb.clone(), part);
        }
    });
}

/// The source images `[images, groups * channels, H, W]`.
pub(super) struct Planes<'a> {
    pub(super) x: &'a [f32],
    pub(super) extent: &'a Extent,
    pub(super) taps: &'a Taps,
}

impl Planes<'_> {
    pub(super) fn fill(&self, isa: Isa, image: usize, group: usize, window: &Window, layout: &Layout, dst: &mut [f32]) {
        let plane = self.taps.src[0] * self.taps.src[1];
        let channels = self.extent.channels;
        let first = (image * self.extent.groups + group) * channels;
        let x = &self.x[first * plane..(first + channels) * plane];
        let (used, slack) = dst.split_at_mut(channels * layout.channel);
        fill_planes(isa, self.taps, layout, window, x, used);
        slack.fill(0.0);
    }
}

per_isa! {
    fn fill_planes(taps: &Taps, layout: &Layout, window: &Window, x: &[f32], dst: &mut [f32]) = fill_planes_body
}

#[inline(always)]
fn fill_planes_body<M: Math>(taps: &Taps, layout: &Layout, window: &Window, x: &[f32], dst: &mut [f32]) {
    let plane = taps.src[0] * taps.src[1];
    for (c, dst) in dst.chunks_exact_mut(layout.channel).enumerate() {
        layout.fill_f32(taps, window, &x[c * plane..(c + 1) * plane], dst);
    }
}

/// Output planes `[images, groups * rows, OH, OW]`, each window contiguous.
pub(super) struct Planar<'a> {
    pub(super) ptr: Disjoint<'a, f32>,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) clamp: Clamp,
}

struct Forward<'a> {
    planes: &'a Planes<'a>,
    weights: &'a [f32],
    out: &'a Planar<'a>,
}

impl Job for Forward<'_> {
    type K = F32;

    fn fill(&self, isa: Isa, image: usize, group: usize, window: &Window, layout: &Layout, dst: &mut [f32]) {
        self.planes.fill(isa, image, group, window, layout, dst);
    }

    fn weights(&self, group: usize) -> &[f32] {
        let len = self.weights.len() / self.planes.extent.groups;
        &self.weights[group * len..(group + 1) * len]
    }

    fn store(&self, isa: Isa, block: &Block<'_, f32>, image: usize, group: usize, window: &Window, k: &Range<usize>) {
        store_planar(isa, block, self.planes, self.out, image, group, window, k);
    }
}

pub(super) fn store_planar(
    isa: Isa,
    block: &Block<'_, f32>,
    planes: &Planes<'_>,
    out: &Planar<'_>,
    image: usize,
    group: usize,
    window: &Window,
    k: &Range<usize>,
) {
    let (extent, [oh, ow]) = (planes.extent, planes.taps.out);
    let depth = extent.channels * planes.taps.taps.len();
    let first_row = (image * extent.groups + group) * extent.rows;
    let bias = out.bias.map_or(Bias::None, |b| Bias::Row(&b[group * extent.rows..(group + 1) * extent.rows]));
    let epilogue = Epilogue { bias, act: crate::Activation::Clamp(out.clamp), ..Epilogue::default() };
    let offset = first_row * oh * ow + window.rows.start * ow + window.cols.start;
    // SAFETY: the window's outputs of these rows lie inside y (the length was checked against the shape) and no other task
    // writes them.
    let sink = unsafe {
        let c = COut { ptr: out.ptr.as_ptr().add(offset), row_stride: oh * ow };
        CSink::new(isa, c, 0, &epilogue, k.start == 0, k.end == depth)
    };
    run_block::<F32, _>(isa, block, &sink);
}

/// Layers with one or two rows a group (depthwise): every tap is added to a whole window at once.
pub(super) fn direct(cx: Ctx<'_>, planes: &Planes<'_>, weights: &[f32], out: &Planar<'_>) {
    let (extent, taps) = (planes.extent, planes.taps);
    let (rows, depth) = (extent.rows, extent.channels * taps.taps.len());
    let [oh, ow] = taps.out;
    let windows = windows(taps.out, 4096);
    cx.pool.run(extent.images * extent.groups * windows.len(), &|t| {
        let (window, t) = (&windows[t % windows.len()], t / windows.len());
        let (group, image) = (t % extent.groups, t / extent.groups);
        let layout = Layout::new(taps, window.rows.len(), window.cols.len());
        let offsets: Vec<usize> =
            (0..depth).map(|k| k / taps.taps.len() * layout.channel + layout.taps[k % taps.taps.len()]).collect();
        // The sums of a window keep the copy's row pitch; the last row ends where its columns end.
        let n = (window.rows.len() - 1) * layout.wq + window.cols.len();
        with_scratch::<f32, _>(extent.channels * layout.channel, |copy| {
            planes.fill(cx.isa, image, group, window, &layout, copy);
            with_scratch::<f32, _>(n, |sums| {
                for r in 0..rows {
                    let row = group * rows + r;
                    accumulate_taps(cx.isa, copy, &offsets, &weights[row * depth..(row + 1) * depth], sums);
                    let bias = out.bias.map_or(0.0, |b| b[row]);
                    let plane = (image * extent.groups * rows + row) * oh * ow;
                    for (i, sums) in sums.chunks(layout.wq).enumerate() {
                        let start = plane + (window.rows.start + i) * ow + window.cols.start;
                        // SAFETY: these outputs lie inside y and belong to this task alone.
                        let y = unsafe { out.ptr.slice(start, window.cols.len()) };
                        for (y, &s) in y.iter_mut().zip(sums) {
                            *y = out.clamp.apply(s + bias);
                        }
                    }
                }
            });
        });
    });
}
