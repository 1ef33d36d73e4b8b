//! Batch norm in training for channels that lie last.
//!
//! Rows are read in blocks that the first-level cache holds, so x comes from memory once for its statistics: a block's mean and
//! squared distances are computed from the cached block, and the blocks are combined in f64 (Chan, Golub and LeVeque, 1979).
//! Narrow rows are joined until they fill registers.

use super::inverse_deviation;
use crate::{
    Ctx, Isa, KernelError,
    error::{check_len, product},
    isa::{Math, per_isa},
    scratch::with_scratch,
};
use std::ops::Range;

/// Elements of a block.
const BLOCK: usize = 8192;
/// Lanes of sums that stay in registers.
const LANES: usize = 32;

/// [`batch_norm_train`](super::batch_norm_train) of x and y `[rows, channels]`.
pub fn batch_norm_train_last(
    cx: Ctx<'_>,
    x: &[f32],
    [rows, channels]: [usize; 2],
    scale: &[f32],
    bias: &[f32],
    eps: f32,
    y: &mut [f32],
    mean: &mut [f32],
    var: &mut [f32],
) -> Result<(), KernelError> {
    const NAME: &str = "batch_norm_train_last";
    for (operand, have) in [("x", x.len()), ("y", y.len())] {
        check_len(NAME, operand, product(&[rows, channels]), have)?;
    }
    let vectors = [("scale", scale), ("bias", bias), ("mean", &*mean), ("var", &*var)];
    vectors.iter().try_for_each(|(operand, v)| check_len(NAME, operand, Some(channels), v.len()))?;
    if rows == 0 || channels == 0 {
        mean.fill(0.0);
        var.fill(0.0);
        return Ok(());
    }
    let split = Split::new(rows, channels);
    let sums = block_sums(cx, &split, |i, moments| {
        let (sums, squares) = moments.split_at_mut(channels);
        block_moments(cx.isa, &x[split.elements(i)], sums, squares);
    });
    let mut factor = vec![0f32; channels];
    for c in 0..channels {
        let block = |i: usize| {
            let moments = &sums[i * 2 * channels..][..2 * channels];
            (f64::from(moments[c]), f64::from(moments[channels + c]), split.rows(i) as f64)
        };
        let m = (0..split.blocks).map(|i| block(i).0).sum::<f64>() / rows as f64;
        let squares: f64 = (0..split.blocks)
            .map(|i| {
                let (sum, squares, n) = block(i);
                squares + n * (sum / n - m).powi(2)
            })
            .sum();
        (mean[c], var[c]) = (m as f32, (squares / rows as f64) as f32);
        factor[c] = inverse_deviation(squares, rows, eps) * scale[c];
    }
    let (mean, factor, bias) = (split.joined(mean), split.joined(&factor), split.joined(bias));
    cx.pool.run_chunks(y, split.len, &|i, y| affine(cx.isa, &x[split.elements(i)], [&mean, &factor, &bias], y));
    Ok(())
}

/// [`batch_norm_grad`](super::batch_norm_grad) of x, dy and dx `[rows, channels]`.
pub fn batch_norm_grad_last(
    cx: Ctx<'_>,
    x: &[f32],
    dy: &[f32],
    [rows, channels]: [usize; 2],
    mean: &[f32],
    var: &[f32],
    scale: &[f32],
    eps: f32,
    dx: &mut [f32],
    dscale: &mut [f32],
    dbias: &mut [f32],
) -> Result<(), KernelError> {
    const NAME: &str = "batch_norm_grad_last";
    for (operand, have) in [("x", x.len()), ("dy", dy.len()), ("dx", dx.len())] {
        check_len(NAME, operand, product(&[rows, channels]), have)?;
    }
    let vectors = [("mean", mean), ("var", var), ("scale", scale), ("dscale", &*dscale), ("dbias", &*dbias)];
    vectors.iter().try_for_each(|(operand, v)| check_len(NAME, operand, Some(channels), v.len()))?;
    if rows == 0 || channels == 0 {
        dscale.fill(0.0);
        dbias.fill(0.0);
        return Ok(());
    }
    let split = Split::new(rows, channels);
    let means = split.joined(mean);
    let sums = block_sums(cx, &split, |i, sums| {
        let (sum, product) = sums.split_at_mut(channels);
        let at = split.elements(i);
        block_products(cx.isa, &dy[at.clone()], &x[at], &means, sum, product);
    });
    // dx = a·dy + b·(x − mean) + c of each channel.
    let mut of = [vec![0f32; channels], vec![0f32; channels], vec![0f32; channels]];
    for c in 0..channels {
        let total = |first: usize| (0..split.blocks).map(|i| f64::from(sums[i * 2 * channels + first])).sum::<f64>();
        let (sum, centred) = (total(c), total(channels + c));
        let inverse = inverse_deviation(f64::from(var[c]), 1, eps);
        let hat = centred * f64::from(inverse);
        let a = scale[c] * inverse;
        of[0][c] = a;
        of[1][c] = -a * inverse * (hat / rows as f64) as f32;
        of[2][c] = -a * (sum / rows as f64) as f32;
        (dscale[c], dbias[c]) = (hat as f32, sum as f32);
    }
    let [a, b, c] = of.map(|v| split.joined(&v));
    cx.pool.run_chunks(dx, split.len, &|i, dx| {
        let at = split.elements(i);
        gradient(cx.isa, &dy[at.clone()], &x[at], [&means, &a, &b, &c], dx);
    });
    Ok(())
}

/// Rows in blocks of whole joined rows.
struct Split {
    channels: usize,
    /// Elements of a block; the last may have fewer.
    len: usize,
    blocks: usize,
    /// Of all rows.
    total: usize,
}

impl Split {
    fn new(rows: usize, channels: usize) -> Split {
        let width = width(channels);
        let (len, total) = (width * (BLOCK / width).max(1), rows * channels);
        Split { channels, len, blocks: total.div_ceil(len), total }
    }

    fn elements(&self, i: usize) -> Range<usize> {
        i * self.len..self.total.min((i + 1) * self.len)
    }

    fn rows(&self, i: usize) -> usize {
        self.elements(i).len() / self.channels
    }

    /// One value a channel, repeated to the width of a joined row.
    fn joined(&self, v: &[f32]) -> Vec<f32> {
        v.repeat(width(self.channels) / self.channels)
    }
}

/// Elements of a joined row: whole rows, at least a register file's worth.
fn width(channels: usize) -> usize {
    channels * LANES.div_ceil(channels)
}

/// The results of `f(block, [2, channels])` of every block.
fn block_sums(cx: Ctx<'_>, split: &Split, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut sums = vec![0f32; split.blocks * 2 * split.channels];
    cx.pool.run_chunks(&mut sums, 2 * split.channels, &f);
    sums
}

/// Each channel's sum and squared distances to its mean over one block.
fn block_moments(isa: Isa, x: &[f32], sums: &mut [f32], squares: &mut [f32]) {
    let (channels, width) = (sums.len(), width(sums.len()));
    let rows = (x.len() / channels) as f32;
    with_scratch::<f32, _>(2 * width, |lanes| {
        let (lanes, mean) = lanes.split_at_mut(width);
        column_sums(isa, x, lanes);
        fold(lanes, sums);
        for mean in mean.chunks_exact_mut(channels) {
            mean.iter_mut().zip(&*sums).for_each(|(m, &s)| *m = s / rows);
        }
        column_squares(isa, x, mean, lanes);
        fold(lanes, squares);
    });
}

/// Each channel's Σ g and Σ g·(x − mean) over one block.
fn block_products(isa: Isa, g: &[f32], x: &[f32], means: &[f32], sums: &mut [f32], products: &mut [f32]) {
    with_scratch::<f32, _>(means.len(), |lanes| {
        column_sums(isa, g, lanes);
        fold(lanes, sums);
        column_products(isa, g, x, means, lanes);
        fold(lanes, products);
    });
}

/// Adds the joined rows' parts of each channel.
fn fold(lanes: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for part in lanes.chunks_exact(out.len()) {
        out.iter_mut().zip(part).for_each(|(o, &v)| *o += v);
    }
}

per_isa! {
    /// `out[j] = Σ over joined rows of x[j]`; the last row may be short.
    fn column_sums(x: &[f32], out: &mut [f32]) = column_sums_body
}

#[inline(always)]
fn column_sums_body<M: Math>(x: &[f32], out: &mut [f32]) {
    columns(
        out.len(),
        x.len(),
        out,
        |at, _, acc: &mut [f32; LANES]| {
            let x = &x[at..at + LANES];
            for l in 0..LANES {
                acc[l] += x[l];
            }
        },
        |at, _, acc| *acc += x[at],
    );
}

per_isa! {
    /// `out[j] = Σ (x[j] − mean[j])²`.
    fn column_squares(x: &[f32], mean: &[f32], out: &mut [f32]) = column_squares_body
}

#[inline(always)]
fn column_squares_body<M: Math>(x: &[f32], mean: &[f32], out: &mut [f32]) {
    columns(
        out.len(),
        x.len(),
        out,
        |at, j, acc: &mut [f32; LANES]| {
            let (x, mean) = (&x[at..at + LANES], &mean[j..j + LANES]);
            for l in 0..LANES {
                let d = x[l] - mean[l];
                acc[l] = M::fma(d, d, acc[l]);
            }
        },
        |at, j, acc| *acc += (x[at] - mean[j]) * (x[at] - mean[j]),
    );
}

per_isa! {
    /// `out[j] = Σ g[j]·(x[j] − mean[j])`.
    fn column_products(g: &[f32], x: &[f32], mean: &[f32], out: &mut [f32]) = column_products_body
}

#[inline(always)]
fn column_products_body<M: Math>(g: &[f32], x: &[f32], mean: &[f32], out: &mut [f32]) {
    columns(
        out.len(),
        x.len(),
        out,
        |at, j, acc: &mut [f32; LANES]| {
            let (g, x, mean) = (&g[at..at + LANES], &x[at..at + LANES], &mean[j..j + LANES]);
            for l in 0..LANES {
                acc[l] = M::fma(g[l], x[l] - mean[l], acc[l]);
            }
        },
        |at, j, acc| *acc += g[at] * (x[at] - mean[j]),
    );
}

/// Walks `len` elements in rows of `width`, 32 columns at a time: `wide(element, column, sums)` and, at the edges,
/// `one(element, column, sum)`.
#[inline(always)]
fn columns(
    width: usize,
    len: usize,
    out: &mut [f32],
    wide: impl Fn(usize, usize, &mut [f32; LANES]),
    one: impl Fn(usize, usize, &mut f32),
) {
    let whole = len / width * width;
    let mut j = 0;
    while j + LANES <= width {
        let mut acc = [0f32; LANES];
        let mut at = j;
        while at < whole {
            wide(at, j, &mut acc);
            at += width;
        }
        out[j..j + LANES].copy_from_slice(&acc);
        j += LANES;
    }
    for j in j..width {
        out[j] = 0.0;
        for at in (j..whole).step_by(width) {
            one(at, j, &mut out[j]);
        }
    }
    for at in whole..len {
        one(at, at - whole, &mut out[at - whole]);
    }
}

per_isa! {
    /// `y = (x − mean)·factor + bias`, each `of` a joined row.
    fn affine(x: &[f32], of: [&[f32]; 3], y: &mut [f32]) = affine_body
}

#[inline(always)]
fn affine_body<M: Math>(x: &[f32], [mean, factor, bias]: [&[f32]; 3], y: &mut [f32]) {
    let width = mean.len();
    for (y, x) in y.chunks_mut(width).zip(x.chunks(width)) {
        for ((((y, &x), &m), &a), &b) in y.iter_mut().zip(x).zip(mean).zip(factor).zip(bias) {
            *y = M::fma(x - m, a, b);
        }
    }
}

per_isa! {
    /// `dx = a·g + b·(x − mean) + c`, each `of` a joined row.
    fn gradient(g: &[f32], x: &[f32], of: [&[f32]; 4], dx: &mut [f32]) = gradient_body
}

#[inline(always)]
fn gradient_body<M: Math>(g: &[f32], x: &[f32], [mean, a, b, c]: [&[f32]; 4], dx: &mut [f32]) {
    let width = mean.len();
    for ((dx, g), x) in dx.chunks_mut(width).zip(g.chunks(width)).zip(x.chunks(width)) {
        let n = dx.len();
        let (g, x, mean, a, b, c) = (&g[..n], &x[..n], &mean[..n], &a[..n], &b[..n], &c[..n]);
        for i in 0..n {
            dx[i] = M::fma(a[i], g[i], M::fma(b[i], x[i] - mean[i], c[i]));
        }
    }
}
