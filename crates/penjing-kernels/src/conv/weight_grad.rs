//! dw of a convolution: a tile of dot products between dy and the padded copy of x.
//!
//! With dy laid out at the row pitch of the copy (zeros between rows), dw(o, c, tap) is the dot product of dy's plane o and
//! the copy at the tap's offset, both contiguous: nothing is packed or transposed. Images are cut into chunks fixed by the
//! problem; each chunk has its own partial sum, and the partial sums are folded pairwise.
//!
//! An infinity or NaN in x also meets those zeros, so it may spread to more taps of its channel than in a naive sum.

use super::{
    ConvShape,
    engine::Extent,
    forward::Planes,
    layout::{Layout, Taps, Window, windows},
};
use crate::{Ctx, Isa, KernelError, error::check_len, pool::Disjoint, scratch::with_scratch};
use std::ops::Range;

const NAME: &str = "conv_weight_grad";

/// Rows (output channels) of a tile of dot products.
const TILE_ROWS: usize = 3;
/// Columns (taps) of a tile.
const TILE_COLS: usize = 4;
/// Lanes of a dot product.
const LANES: usize = 8;
/// Copies of x and dy that are worked on together stay in the second-level cache.
const WORKING_BYTES: usize = 320 << 10;
/// Weights from which the rows are split among tasks, each with its own copies of x.
const SPLIT_WEIGHTS: usize = 1 << 17;
/// Most chunks of the batch.
const MAX_CHUNKS: usize = 16;
/// Most elements of all partial sums together.
const MAX_PARTIAL: usize = 8 << 20;

/// dw `[out_channels, in_channels / groups, KH, KW]` from x and dy; summed over the batch.
pub fn conv_weight_grad(
    cx: Ctx<'_>,
    shape: &ConvShape,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
) -> Result<(), KernelError> {
    shape.check(NAME)?;
    check_len(NAME, "x", shape.x_len(), x.len())?;
    check_len(NAME, "dy", shape.y_len(), dy.len())?;
    check_len(NAME, "dw", shape.w_len(), dw.len())?;
    if dw.is_empty() || dy.is_empty() || x.is_empty() {
        dw.fill(0.0);
        return Ok(());
    }
    let parts = (dw.len() / SPLIT_WEIGHTS).clamp(1, 4).min(shape.group_out().div_ceil(4 * TILE_ROWS));
    let chunks = (MAX_CHUNKS / parts).min(shape.batch).min((MAX_PARTIAL / dw.len()).max(1));
    let job = WeightGrad {
        shape,
        extent: Extent {
            images: shape.batch,
            groups: shape.groups,
            rows: shape.group_out(),
            channels: shape.group_in(),
        },
        taps: super::forward::forward_taps(shape),
        x,
        dy,
    };
    let len = dw.len();
    let per_part = |part: usize| shape.group_out() * part / parts..shape.group_out() * (part + 1) / parts;
    let mut partial = vec![0f32; len * chunks];
    {
        let out = Disjoint::new(&mut partial);
        cx.pool.run(chunks * shape.groups * parts, &|t| {
            let (part, t) = (t % parts, t / parts);
            let (group, chunk) = (t % shape.groups, t / shape.groups);
            let rows = per_part(part);
            let depth = shape.depth();
            let start = chunk * len + (group * shape.group_out() + rows.start) * depth;
            // SAFETY: each chunk, group and part of the rows has its own elements, and each is one task.
            let sums = unsafe { out.slice(start, rows.len() * depth) };
            let images = shape.batch * chunk / chunks..shape.batch * (chunk + 1) / chunks;
            job.add_images(cx, images, group, rows, sums);
        });
    }
    fold(cx, &mut partial, len, dw);
    Ok(())
}

/// `out` = pairwise sum of the `len`-element rows of `partial`.
pub(crate) fn fold(cx: Ctx<'_>, partial: &mut [f32], len: usize, out: &mut [f32]) {
    let chunks = partial.len() / len;
    let partial = Disjoint::new(partial);
    cx.pool.run_chunks(out, 1 << 13, &|i, out| {
        let start = i << 13;
        let mut width = chunks;
        while width > 1 {
            let half = width.div_ceil(2);
            for c in half..width {
                // SAFETY: two different rows, and the column range belongs to this task.
                let (to, from) = unsafe {
                    (partial.slice((c - half) * len + start, out.len()), partial.slice(c * len + start, out.len()))
                };
                for (to, from) in to.iter_mut().zip(&*from) {
                    *to += *from;
                }
            }
            width = half;
        }
        // SAFETY: as above.
        out.copy_from_slice(unsafe { partial.slice(start, out.len()) });
    });
}

struct WeightGrad<'a> {
    shape: &'a ConvShape,
    extent: Extent,
    taps: Taps,
    x: &'a [f32],
    dy: &'a [f32],
}

impl WeightGrad<'_> {
    /// Adds the images' part to `sums`, `[rows, depth]`, some images and some output rows at a time.
    fn add_images(&self, cx: Ctx<'_>, images: Range<usize>, group: usize, rows: Range<usize>, sums: &mut [f32]) {
        let [oh, ow] = self.shape.output;
        let pitch = ow + self.shape.input[1].div_ceil(self.shape.stride[1]);
        let per_row = (self.extent.channels * self.shape.stride[0] * self.shape.stride[1] + rows.len()) * pitch;
        let budget = WORKING_BYTES / 4;
        for window in windows(self.shape.output, (budget / per_row).max(1) * ow) {
            let layout = Layout::new(&self.taps, window.rows.len(), window.cols.len());
            let n = (window.rows.len() * layout.wq).next_multiple_of(LANES);
            let n_taps = layout.taps.len();
            let offsets: Vec<usize> =
                (0..self.shape.depth()).map(|k| k / n_taps * layout.channel + layout.taps[k % n_taps]).collect();
            // A dot product may read up to a row and seven elements past the last tap's own.
            let copy_len = self.extent.channels * layout.channel + layout.wq + LANES;
            let grads_len = rows.len() * n;
            let together = (budget / (copy_len + grads_len)).clamp(1, images.len().max(1));
            with_scratch::<f32, _>(together * copy_len, |copies| {
                with_scratch::<f32, _>(together * grads_len, |grads| {
                    for start in images.clone().step_by(together) {
                        let count = together.min(images.end - start);
                        for i in 0..count {
                            let copy = &mut copies[i * copy_len..(i + 1) * copy_len];
                            self.planes().fill(cx.isa, start + i, group, &window, &layout, copy);
                            let first = ((start + i) * self.shape.out_channels + group * self.extent.rows + rows.start)
                                * (oh * ow);
                            let dy = &self.dy[first..first + rows.len() * oh * ow];
                            spread(dy, [oh, ow], &window, layout.wq, n, &mut grads[i * grads_len..(i + 1) * grads_len]);
                        }
                        let dots = Dots { grads: &*grads, grads_len, copies: &*copies, copy_len, images: count, n };
                        add_dots(cx.isa, &dots, &offsets, sums);
                    }
                });
            });
        }
    }

    fn planes(&self) -> Planes<'_> {
        Planes { x: self.x, extent: &self.extent, taps: &self.taps }
    }
}

/// Copies a window of each plane `[OH, OW]` of dy to `n` elements with row pitch `wq` and zeros between.
fn spread(dy: &[f32], out: [usize; 2], window: &Window, wq: usize, n: usize, grads: &mut [f32]) {
    let plane = out[0] * out[1];
    let cols = window.cols.len();
    for (dy, grads) in dy.chunks_exact(plane).zip(grads.chunks_exact_mut(n)) {
        for (i, row) in grads.chunks_mut(wq).enumerate() {
            if i < window.rows.len() {
                let start = (window.rows.start + i) * out[1] + window.cols.start;
                row[..cols].copy_from_slice(&dy[start..start + cols]);
                row[cols..].fill(0.0);
            } else {
                row.fill(0.0);
            }
        }
    }
}

/// Rows of dy and copies of x of several images; dot products run over all of them.
struct Dots<'a> {
    /// `[images][rows][n]`, `grads_len` elements an image.
    grads: &'a [f32],
    grads_len: usize,
    /// `[images][copy_len]`
    copies: &'a [f32],
    copy_len: usize,
    images: usize,
    /// Elements of a row, a multiple of 8.
    n: usize,
}

/// `sums[r][k] += sum over images of dot(grads[image][r], copies[image][offsets[k]..])`.
fn add_dots(isa: Isa, dots: &Dots<'_>, offsets: &[usize], sums: &mut [f32]) {
    match isa.usable() {
        Isa::Generic => add_dots_with(dots, offsets, sums, dot_tile),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `usable` returns `Avx2` or more only where the host has AVX2 and FMA.
        Isa::Avx2 | Isa::Avx512 | Isa::Amx => unsafe { add_dots_avx2(dots, offsets, sums) },
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 | Isa::Amx => add_dots_with(dots, offsets, sums, dot_tile),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn add_dots_avx2(dots: &Dots<'_>, offsets: &[usize], sums: &mut [f32]) {
    add_dots_with(dots, offsets, sums, |dots, rows, cols| x86::dot_tile(dots, rows, cols));
}

type Tile = [[f32; TILE_COLS]; TILE_ROWS];

#[inline(always)]
fn add_dots_with(
    dots: &Dots<'_>,
    offsets: &[usize],
    sums: &mut [f32],
    tile: impl Fn(&Dots<'_>, [usize; TILE_ROWS], [usize; TILE_COLS]) -> Tile,
) {
    let depth = offsets.len();
    let rows = dots.grads_len / dots.n;
    let mut r = 0;
    while r < rows {
        // A tile at the edge computes some row or tap twice instead of changing shape.
        let row_starts: [usize; TILE_ROWS] = std::array::from_fn(|i| (r + i).min(rows - 1) * dots.n);
        let mut k = 0;
        while k < depth {
            let col_starts: [usize; TILE_COLS] = std::array::from_fn(|j| offsets[(k + j).min(depth - 1)]);
            let result = tile(dots, row_starts, col_starts);
            for i in 0..TILE_ROWS.min(rows - r) {
                let sums = &mut sums[(r + i) * depth + k..(r + i + 1) * depth];
                match sums.first_chunk_mut::<TILE_COLS>() {
                    Some(sums) => (0..TILE_COLS).for_each(|j| sums[j] += result[i][j]),
                    None => sums.iter_mut().zip(result[i]).for_each(|(s, v)| *s += v),
                }
            }
            k += TILE_COLS;
        }
        r += TILE_ROWS;
    }
}

/// The dot products of three rows and four columns, each in 8 lanes folded pairwise.
#[inline(always)]
fn dot_tile(dots: &Dots<'_>, rows: [usize; TILE_ROWS], cols: [usize; TILE_COLS]) -> Tile {
    let mut result = [[0f32; TILE_COLS]; TILE_ROWS];
    for i in 0..TILE_ROWS {
        for j in 0..TILE_COLS {
            let mut v = [0f32; LANES];
            for image in 0..dots.images {
                let a = &dots.grads[image * dots.grads_len + rows[i]..][..dots.n];
                let b = &dots.copies[image * dots.copy_len + cols[j]..][..dots.n];
                for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
                    for l in 0..LANES {
                        v[l] += a[l] * b[l];
                    }
                }
            }
            result[i][j] = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
        }
    }
    result
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The AVX2 tile: 12 accumulators, loads of 3 rows, one column vector at a time.

    use super::{Dots, LANES, TILE_COLS, TILE_ROWS, Tile};
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn dot_tile(dots: &Dots<'_>, rows: [usize; TILE_ROWS], cols: [usize; TILE_COLS]) -> Tile {
        let (n, images) = (dots.n, dots.images);
        assert!(n.is_multiple_of(LANES) && images > 0);
        let last = |starts: &[usize], len: usize| (images - 1) * len + starts.iter().max().unwrap_or(&0) + n;
        assert!(last(&rows, dots.grads_len) <= dots.grads.len() && last(&cols, dots.copy_len) <= dots.copies.len());
        let mut acc = [[_mm256_setzero_ps(); TILE_COLS]; TILE_ROWS];
        for image in 0..images {
            // SAFETY: every start of every image has `n` elements after it (checked above), and `q + 8 <= n`.
            unsafe {
                let a = rows.map(|r| dots.grads.as_ptr().add(image * dots.grads_len + r));
                let b = cols.map(|c| dots.copies.as_ptr().add(image * dots.copy_len + c));
                let mut q = 0;
                while q < n {
                    let row = a.map(|a| _mm256_loadu_ps(a.add(q)));
                    for j in 0..TILE_COLS {
                        let col = _mm256_loadu_ps(b[j].add(q));
                        for i in 0..TILE_ROWS {
                            acc[i][j] = _mm256_fmadd_ps(row[i], col, acc[i][j]);
                        }
                    }
                    q += LANES;
                }
            }
        }
        let mut result = [[0f32; TILE_COLS]; TILE_ROWS];
        for i in 0..TILE_ROWS {
            let [v0, v1, v2, v3] = acc[i];
            let halves = _mm256_hadd_ps(_mm256_hadd_ps(v0, v1), _mm256_hadd_ps(v2, v3));
            let sums = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
            // SAFETY: a row has four elements.
            unsafe { _mm_storeu_ps(result[i].as_mut_ptr(), sums) };
        }
        result
    }
}
