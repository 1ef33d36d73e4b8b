//! dw of a channels-last convolution: a sum of outer products, one for each output pixel.
//!
//! A kernel row's taps and channels are neighbours in x, and so are the channels of dy. So a tile of dw, six neighbours by 16
//! channels, reads both where they are, pixel after pixel, and stays in registers; nothing is transposed. The batch is cut into
//! chunks fixed by the problem; each has its own partial sums, which are folded pairwise.
//!
//! An infinity or NaN in dy also meets the zeros of the padding, so it may spread to more taps than in a naive sum.

use super::{
    direct::{offsets, runs},
    window::{Part, Parts},
};
use crate::{
    Ctx, Isa, KernelError,
    conv::{ConvShape, fold},
    error::check_len,
    lanes::{Lanes, per_lanes},
    pool::Disjoint,
    scratch::with_scratch,
};
use std::ops::Range;

const NAME: &str = "conv_last_weight_grad";

/// Neighbours of x in a tile.
const ROWS: usize = 6;
/// Channels of dy in a tile.
const COLS: usize = 16;
/// Output pixels whose part of dy (16 KiB for a tile's channels) stays in the first-level cache.
const PIXELS: usize = 256;
/// Weights from which the channels of dy are split among tasks, each with its own copies of x.
const SPLIT_WEIGHTS: usize = 1 << 17;
/// Most chunks of the batch.
const MAX_CHUNKS: usize = 16;
/// Most elements of all partial sums together.
const MAX_PARTIAL: usize = 8 << 20;

/// dw `[out_channels, in_channels / groups, KH, KW]` from x `[N, H, W, C]` and dy `[N, OH, OW, O]`; summed over the batch.
pub fn conv_last_weight_grad(
    cx: Ctx<'_>,
    s: &ConvShape,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
) -> Result<(), KernelError> {
    s.check(NAME)?;
    check_len(NAME, "x", s.x_len(), x.len())?;
    check_len(NAME, "dy", s.y_len(), dy.len())?;
    check_len(NAME, "dw", s.w_len(), dw.len())?;
    if dw.is_empty() || dy.is_empty() || x.is_empty() {
        dw.fill(0.0);
        return Ok(());
    }
    let panels = s.group_out().div_ceil(COLS);
    // Of one group: every panel of channels, every neighbour, 16 channels.
    let group_len = panels * s.depth() * COLS;
    let len = s.groups * group_len;
    let splits = (dw.len() / SPLIT_WEIGHTS).clamp(1, 4).min(panels);
    let chunks = (MAX_CHUNKS / splits).min(s.batch).min((MAX_PARTIAL / len).max(1));
    with_scratch::<f32, _>(len * chunks, |partial| {
        let out = Disjoint::new(partial);
        cx.pool.run(chunks * s.groups * splits, &|t| {
            let (split, t) = (t % splits, t / splits);
            let (group, chunk) = (t % s.groups, t / s.groups);
            let columns = panels * split / splits..panels * (split + 1) / splits;
            let panel_len = s.depth() * COLS;
            let start = chunk * len + group * group_len + columns.start * panel_len;
            // SAFETY: each chunk, group and range of panels has its own elements, and each is one task.
            let sums = unsafe { out.slice(start, columns.len() * panel_len) };
            sums.fill(0.0);
            let images = s.batch * chunk / chunks..s.batch * (chunk + 1) / chunks;
            add_images(cx.isa, s, x, dy, images, group, columns, sums);
        });
        with_scratch::<f32, _>(len, |sums| {
            fold(cx, partial, len, sums);
            let sums = &*sums;
            cx.pool.run_chunks(dw, s.depth(), &|o, dw| {
                let (group, column) = (o / s.group_out(), o % s.group_out());
                let panel = &sums[group * group_len + column / COLS * s.depth() * COLS..][..s.depth() * COLS];
                let taps = s.kernel[0] * s.kernel[1];
                for (k, sum) in panel.iter().skip(column % COLS).step_by(COLS).enumerate() {
                    dw[k % s.group_in() * taps + k / s.group_in()] = *sum;
                }
            });
        });
    });
    Ok(())
}

/// Adds the part of some images to the sums of some panels of channels.
fn add_images(
    isa: Isa,
    s: &ConvShape,
    x: &[f32],
    dy: &[f32],
    images: Range<usize>,
    group: usize,
    columns: Range<usize>,
    sums: &mut [f32],
) {
    let parts = Parts::new(images.len(), s.output, PIXELS);
    let (n_runs, run_len) = runs(s);
    let channels = group * s.group_in()..(group + 1) * s.group_in();
    for i in 0..parts.count() {
        let mut part = parts.get(i);
        part.images = part.images.start + images.start..part.images.end + images.start;
        let [wh, ww] = part.window(s);
        let (pixels, c) = (part.len(), channels.len());
        let window_len = part.images.len() * wh * ww * c;
        // The last tile of a run may read past it.
        with_scratch::<f32, _>(window_len + ROWS, |window| {
            part.copy(s, x, channels.clone(), 0.0, window);
            window[window_len..].fill(0.0);
            with_scratch::<usize, _>(pixels, |bases| {
                let pitch = [wh * ww * c, ww * c, c];
                part.bases(s, pitch, bases);
                with_scratch::<f32, _>(pixels * COLS, |panel| {
                    for (column, sums) in columns.clone().zip(sums.chunks_exact_mut(n_runs * run_len * COLS)) {
                        pack_panel(s, dy, &part, group, column, panel);
                        let panel = &*panel;
                        for (&offset, sums) in offsets(s, pitch).iter().zip(sums.chunks_exact_mut(run_len * COLS)) {
                            add_run(isa, window, bases, offset, panel, sums);
                        }
                    }
                });
            });
        });
    }
}

/// The 16 channels of a panel, pixel after pixel; zeros where the group has fewer.
fn pack_panel(s: &ConvShape, dy: &[f32], part: &Part, group: usize, column: usize, panel: &mut [f32]) {
    let width = COLS.min(s.group_out() - column * COLS);
    let first = part.first(s.output) * s.out_channels + group * s.group_out() + column * COLS;
    for (m, to) in panel.chunks_exact_mut(COLS).enumerate() {
        to[..width].copy_from_slice(&dy[first + m * s.out_channels..][..width]);
        to[width..].fill(0.0);
    }
}

/// `sums[j] += sum over pixels m of window[bases[m] + offset + j] * panel[m]`, `sums` of 16 elements a neighbour j.
fn add_run(isa: Isa, window: &[f32], bases: &[usize], offset: usize, panel: &[f32], sums: &mut [f32]) {
    let farthest = bases.iter().max().copied().unwrap_or(0) + offset;
    assert!(bases.len() * COLS <= panel.len());
    for (j, sums) in (0..).step_by(ROWS).zip(sums.chunks_mut(ROWS * COLS)) {
        assert!(farthest + j + ROWS <= window.len());
        // SAFETY: every pixel's six neighbours lie in the window and its 16 channels in the panel (checked above).
        unsafe { add_tile(isa, window.as_ptr().add(offset + j), bases, panel.as_ptr(), sums) };
    }
}

per_lanes! {
    /// `sums[r] += sum over pixels m of x[bases[m] + r] * panel[m]` for up to six r.
    ///
    /// # Safety
    /// Every base has six elements of `x` after it, `panel` 16 a base, and `sums` holds up to six times 16.
    unsafe fn add_tile(x: *const f32, bases: &[usize], panel: *const f32, sums: &mut [f32]) = add_tile_body
}

#[inline(always)]
unsafe fn add_tile_body<V: Lanes>(x: *const f32, bases: &[usize], panel: *const f32, sums: &mut [f32]) {
    // SAFETY: the contract; `per_lanes!` sees to the instructions.
    unsafe {
        let mut acc = [[V::splat(0.0); 2]; ROWS];
        for (m, &base) in bases.iter().enumerate() {
            let mut dy = [V::splat(0.0); 2];
            for part in 0..COLS / V::LANES {
                dy[part] = V::load(panel.add(m * COLS + part * V::LANES));
            }
            let x = x.add(base);
            for (r, acc) in acc.iter_mut().enumerate() {
                let v = V::splat(*x.add(r));
                for part in 0..COLS / V::LANES {
                    acc[part] = v.fma(dy[part], acc[part]);
                }
            }
        }
        for (acc, sums) in acc.iter().zip(sums.chunks_exact_mut(COLS)) {
            for (part, acc) in acc.iter().take(COLS / V::LANES).enumerate() {
                let at = sums.as_mut_ptr().add(part * V::LANES);
                acc.add(V::load(at)).store(at);
            }
        }
    }
}
