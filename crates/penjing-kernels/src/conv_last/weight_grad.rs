//! dw of a channels-last convolution: a sum of outer products, one for each output pixel.
//!
//! A kernel row's taps and channels are neighbours in x, and so are the channels of dy. So a tile of dw, some neighbours by some
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

/// Neighbours of x in the lowest tile; the others have a multiple.
const ROWS: usize = 6;
/// Elements of dy, output pixels by the channels of a tile, that stay in the first-level cache: 16 KiB.
const PIXELS: usize = 1 << 12;
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
    let tile = Tile::new(cx.isa, s.group_out());
    let panels = s.group_out().div_ceil(tile.cols);
    let panel_len = s.depth() * tile.cols;
    // Of one group: every panel of channels, every neighbour, the panel's channels.
    let group_len = panels * panel_len;
    let len = s.groups * group_len;
    let splits = (dw.len() / SPLIT_WEIGHTS).clamp(1, 4).min(panels);
    let chunks = (MAX_CHUNKS / splits).min(s.batch).min((MAX_PARTIAL / len).max(1));
    with_scratch::<f32, _>(len * chunks, |partial| {
        let out = Disjoint::new(partial);
        cx.pool.run(chunks * s.groups * splits, &|t| {
            let (split, t) = (t % splits, t / splits);
            let (group, chunk) = (t % s.groups, t / s.groups);
            let columns = panels * split / splits..panels * (split + 1) / splits;
            let start = chunk * len + group * group_len + columns.start * panel_len;
            // SAFETY: each chunk, group and range of panels has its own elements, and each is one task.
            let sums = unsafe { out.slice(start, columns.len() * panel_len) };
            sums.fill(0.0);
            let images = s.batch * chunk / chunks..s.batch * (chunk + 1) / chunks;
            add_images(cx.isa, tile, s, x, dy, images, group, columns, sums);
        });
        with_scratch::<f32, _>(len, |sums| {
            fold(cx, partial, len, sums);
            let sums = &*sums;
            cx.pool.run_chunks(dw, s.depth(), &|o, dw| {
                let (group, column) = (o / s.group_out(), o % s.group_out());
                let panel = &sums[group * group_len + column / tile.cols * panel_len..][..panel_len];
                let taps = s.kernel[0] * s.kernel[1];
                for (k, sum) in panel.iter().skip(column % tile.cols).step_by(tile.cols).enumerate() {
                    dw[k % s.group_in() * taps + k / s.group_in()] = *sum;
                }
            });
        });
    });
    Ok(())
}

/// The largest tile of sums: neighbours of x by channels of dy.
#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    cols: usize,
}

impl Tile {
    /// A tile that fills the registers of the level and pads few channels.
    fn new(isa: Isa, channels: usize) -> Tile {
        match isa.usable() {
            Isa::Generic | Isa::Avx2 => Tile { rows: ROWS, cols: 16 },
            Isa::Avx512 | Isa::Amx if channels.div_ceil(16).is_multiple_of(2) => Tile { rows: 2 * ROWS, cols: 32 },
            Isa::Avx512 | Isa::Amx => Tile { rows: 4 * ROWS, cols: 16 },
        }
    }
}

/// Adds the part of some images to the sums of some panels of channels.
fn add_images(
    isa: Isa,
    tile: Tile,
    s: &ConvShape,
    x: &[f32],
    dy: &[f32],
    images: Range<usize>,
    group: usize,
    columns: Range<usize>,
    sums: &mut [f32],
) {
    let parts = Parts::new(images.len(), s.output, PIXELS / tile.cols);
    let (n_runs, run_len) = runs(s);
    let channels = group * s.group_in()..(group + 1) * s.group_in();
    for i in 0..parts.count() {
        let mut part = parts.get(i);
        part.images = part.images.start + images.start..part.images.end + images.start;
        let [wh, ww] = part.window(s);
        let (pixels, c) = (part.len(), channels.len());
        let window_len = part.images.len() * wh * ww * c;
        // The last tile of a run may read past it.
        with_scratch::<f32, _>(window_len + tile.rows, |window| {
            part.copy(s, x, channels.clone(), 0.0, ww, window);
            window[window_len..].fill(0.0);
            with_scratch::<usize, _>(pixels, |bases| {
                let pitch = [wh * ww * c, ww * c, c];
                part.bases(s, pitch, bases);
                // A single panel of all channels lies in dy already.
                let in_place = s.groups == 1 && s.out_channels == tile.cols;
                with_scratch::<f32, _>(if in_place { 0 } else { pixels * tile.cols }, |packed| {
                    for (column, sums) in columns.clone().zip(sums.chunks_exact_mut(n_runs * run_len * tile.cols)) {
                        let panel = if in_place {
                            &dy[part.first(s.output) * tile.cols..][..pixels * tile.cols]
                        } else {
                            pack_panel(tile, s, dy, &part, group, column, packed);
                            &*packed
                        };
                        for (&offset, sums) in offsets(s, pitch).iter().zip(sums.chunks_exact_mut(run_len * tile.cols))
                        {
                            add_run(isa, tile, window, bases, offset, panel, sums);
                        }
                    }
                });
            });
        });
    }
}

/// The channels of a panel, pixel after pixel; zeros where the group has fewer.
fn pack_panel(tile: Tile, s: &ConvShape, dy: &[f32], part: &Part, group: usize, column: usize, panel: &mut [f32]) {
    let width = tile.cols.min(s.group_out() - column * tile.cols);
    let first = part.first(s.output) * s.out_channels + group * s.group_out() + column * tile.cols;
    for (m, to) in panel.chunks_exact_mut(tile.cols).enumerate() {
        to[..width].copy_from_slice(&dy[first + m * s.out_channels..][..width]);
        to[width..].fill(0.0);
    }
}

/// `sums[j] += sum over pixels m of window[bases[m] + offset + j] * panel[m]`, `sums` and `panel` of `tile.cols` elements a
/// neighbour j and a pixel.
fn add_run(isa: Isa, tile: Tile, window: &[f32], bases: &[usize], offset: usize, panel: &[f32], sums: &mut [f32]) {
    let farthest = bases.iter().max().copied().unwrap_or(0) + offset;
    assert!(bases.len() * tile.cols <= panel.len());
    for (j, sums) in (0..).step_by(tile.rows).zip(sums.chunks_mut(tile.rows * tile.cols)) {
        assert!(farthest + j + tile.rows <= window.len());
        // SAFETY: every pixel's neighbours lie in the window and its channels in the panel (checked above).
        unsafe { add_tile(isa, tile.cols, window.as_ptr().add(offset + j), bases, panel.as_ptr(), sums) };
    }
}

per_lanes! {
    /// `sums[r] += sum over pixels m of x[bases[m] + r] * panel[m]`, `cols` elements a row r and a pixel.
    ///
    /// # Safety
    /// `sums` has at most the rows of the level's [`Tile`] of `cols`; every base has as many elements of `x` after it as that tile
    /// has rows, and `panel` has `cols` a base.
    unsafe fn add_tile(cols: usize, x: *const f32, bases: &[usize], panel: *const f32, sums: &mut [f32]) = add_tile_body
}

#[inline(always)]
unsafe fn add_tile_body<V: Lanes>(cols: usize, x: *const f32, bases: &[usize], panel: *const f32, sums: &mut [f32]) {
    let rows = sums.len() / cols;
    // SAFETY: the contract; a tile has at least the rows of `sums`, and no more than the level's highest.
    unsafe {
        if V::LANES < 16 {
            add_sized::<V, 6, 2>(x, bases, panel, sums);
        } else if cols == 32 {
            match rows {
                0..=6 => add_sized::<V, 6, 2>(x, bases, panel, sums),
                _ => add_sized::<V, 12, 2>(x, bases, panel, sums),
            }
        } else {
            match rows {
                0..=6 => add_sized::<V, 6, 1>(x, bases, panel, sums),
                7..=12 => add_sized::<V, 12, 1>(x, bases, panel, sums),
                _ => add_sized::<V, 24, 1>(x, bases, panel, sums),
            }
        }
    }
}

/// [`add_tile`] of R rows by N registers.
#[inline(always)]
unsafe fn add_sized<V: Lanes, const R: usize, const N: usize>(
    x: *const f32,
    bases: &[usize],
    panel: *const f32,
    sums: &mut [f32],
) {
    // SAFETY: the contract of `add_tile`; `per_lanes!` sees to the instructions.
    unsafe {
        let mut acc = [[V::splat(0.0); N]; R];
        let mut dy = panel;
        for &base in bases {
            let mut channels = [V::splat(0.0); N];
            for part in 0..N {
                channels[part] = V::load(dy.add(part * V::LANES));
            }
            let x = x.add(base);
            for r in 0..R {
                let v = V::splat(*x.add(r));
                for part in 0..N {
                    acc[r][part] = v.fma(channels[part], acc[r][part]);
                }
            }
            dy = dy.add(N * V::LANES);
        }
        for (acc, sums) in acc.iter().zip(sums.chunks_exact_mut(N * V::LANES)) {
            for (part, acc) in acc.iter().enumerate() {
                let at = sums.as_mut_ptr().add(part * V::LANES);
                acc.add(V::load(at)).store(at);
            }
        }
    }
}
