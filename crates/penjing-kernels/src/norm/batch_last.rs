//! Batch norm in training for channels that lie last.
//!
//! Rows are read in blocks that the first-level cache holds, so x comes from memory once for its statistics: a block's mean and
//! squared distances are computed from the cached block, and the blocks are combined in f64 (Chan, Golub and LeVeque, 1979).
//! Narrow rows are joined until they fill registers. [`columns`] has the loops.

mod columns;

use super::inverse_deviation;
use crate::{
    Ctx, Isa, KernelError,
    error::{check_len, product},
    scratch::with_scratch,
};
use columns::{affine, gradient, moments};
use std::ops::Range;

/// Elements of a block.
const BLOCK: usize = 8192;
/// Fewest elements of a joined row: four registers of sums at any level.
const LANES: usize = 64;

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
    with_scratch::<f32, _>(3 * width, |memory| {
        let (mean, lanes) = memory.split_at_mut(width);
        mean.fill(0.0);
        let [first, second] = halves(lanes);
        moments(isa, None, x, mean, [&mut *first, &mut *second]);
        fold(first, sums);
        for mean in mean.chunks_exact_mut(channels) {
            mean.iter_mut().zip(&*sums).for_each(|(m, &s)| *m = s / rows);
        }
        moments(isa, None, x, mean, [first, &mut *second]);
        fold(second, squares);
    });
}

/// Each channel's Σ g and Σ g·(x − mean) over one block.
fn block_products(isa: Isa, g: &[f32], x: &[f32], means: &[f32], sums: &mut [f32], products: &mut [f32]) {
    with_scratch::<f32, _>(2 * means.len(), |lanes| {
        let [first, second] = halves(lanes);
        moments(isa, Some(g), x, means, [&mut *first, &mut *second]);
        fold(first, sums);
        fold(second, products);
    });
}

fn halves(lanes: &mut [f32]) -> [&mut [f32]; 2] {
    let (first, second) = lanes.split_at_mut(lanes.len() / 2);
    [first, second]
}

/// Adds the joined rows' parts of each channel.
fn fold(lanes: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for part in lanes.chunks_exact(out.len()) {
        out.iter_mut().zip(part).for_each(|(o, &v)| *o += v);
    }
}
