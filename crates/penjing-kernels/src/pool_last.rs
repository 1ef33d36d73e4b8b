//! Max and average pooling of channels that lie last: x `[N, H, W, C]` to y `[N, OH, OW, C]`, the geometry as in
//! [`pool2d`](crate::pool2d) with `planes` the batch. Every tap of a window is a whole pixel, so all loops run over channels.

use crate::{
    Ctx, KernelError,
    elementwise::ops::max,
    error::{check_len, product},
    isa::{Math, per_isa},
    pool2d::{PadCount, PoolShape},
};
use std::ops::Range;

/// Input elements that one task reads at least, so that a thread is worth waking.
const TASK: usize = 1 << 15;

/// The largest element of each window; NaN when the window holds one, −∞ when it lies in the padding.
pub fn max_pool_last(cx: Ctx<'_>, s: &PoolShape, channels: usize, x: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
    each_row(cx, "max_pool_last", s, channels, x, y, &|x, row, y| max_row_f32(cx.isa, s, channels, x, row, y))
}

/// [`max_pool_last`] of i8; a window in the padding gives −128.
pub fn max_pool_last_i8(
    cx: Ctx<'_>,
    s: &PoolShape,
    channels: usize,
    x: &[i8],
    y: &mut [i8],
) -> Result<(), KernelError> {
    each_row(cx, "max_pool_last_i8", s, channels, x, y, &|x, row, y| max_row_i8(cx.isa, s, channels, x, row, y))
}

/// [`max_pool_last`] of u8; a window in the padding gives 0.
pub fn max_pool_last_u8(
    cx: Ctx<'_>,
    s: &PoolShape,
    channels: usize,
    x: &[u8],
    y: &mut [u8],
) -> Result<(), KernelError> {
    each_row(cx, "max_pool_last_u8", s, channels, x, y, &|x, row, y| max_row_u8(cx.isa, s, channels, x, row, y))
}

/// dx of [`max_pool_last`]: each dy goes to the first largest element of its window, the last NaN where there is one.
pub fn max_pool_grad_last(
    cx: Ctx<'_>,
    s: &PoolShape,
    channels: usize,
    x: &[f32],
    dy: &[f32],
    dx: &mut [f32],
) -> Result<(), KernelError> {
    const NAME: &str = "max_pool_grad_last";
    s.check(NAME)?;
    let [image_x, image_y] = [s.input, s.output].map(|[h, w]| product(&[h, w, channels]).unwrap_or(usize::MAX));
    for (operand, have, image) in [("x", x.len(), image_x), ("dy", dy.len(), image_y), ("dx", dx.len(), image_x)] {
        check_len(NAME, operand, s.planes.checked_mul(image), have)?;
    }
    cx.pool.run_chunks(dx, image_x, &|n, dx| {
        let (x, dy) = (&x[n * image_x..][..image_x], &dy[n * image_y..][..image_y]);
        max_image_grad(cx.isa, s, channels, x, dy, dx);
    });
    Ok(())
}

/// The mean of each window; 0 where nothing counts.
pub fn avg_pool_last(
    cx: Ctx<'_>,
    s: &PoolShape,
    count: PadCount,
    channels: usize,
    x: &[f32],
    y: &mut [f32],
) -> Result<(), KernelError> {
    s.check("avg_pool_last")?;
    let [rows, cols] = s.counts(count);
    each_row(cx, "avg_pool_last", s, channels, x, y, &|x, row, y| {
        avg_row(cx.isa, s, channels, x, row, y);
        for (y, &n) in y.chunks_exact_mut(channels).zip(&cols) {
            let n = rows[row] * n;
            y.iter_mut().for_each(|v| *v /= if n > 0.0 { n } else { 1.0 });
        }
    })
}

/// Makes one row of outputs: (image of x, which row, the row of y).
type Row<'a, T> = dyn Fn(&[T], usize, &mut [T]) + Sync + 'a;

/// Checks the geometry and runs `f(image of x, output row, row of y)` for every row of every image.
fn each_row<T: Copy + Send + Sync>(
    cx: Ctx<'_>,
    name: &'static str,
    s: &PoolShape,
    channels: usize,
    x: &[T],
    y: &mut [T],
    f: &Row<'_, T>,
) -> Result<(), KernelError> {
    s.check(name)?;
    let image = product(&[s.input[0], s.input[1], channels]).unwrap_or(usize::MAX);
    let row = product(&[s.output[1], channels]).unwrap_or(usize::MAX);
    check_len(name, "input", s.planes.checked_mul(image), x.len())?;
    check_len(name, "output", product(&[s.planes, s.output[0], row]), y.len())?;
    if y.is_empty() {
        return Ok(());
    }
    let taps = s.kernel[0].saturating_mul(s.kernel[1]);
    let rows = TASK.div_ceil(row.saturating_mul(taps)).max(1);
    cx.pool.run_chunks(y, rows * row, &|t, y| {
        for (i, y) in y.chunks_exact_mut(row).enumerate() {
            let r = t * rows + i;
            f(&x[r / s.output[0] * image..][..image], r % s.output[0], y);
        }
    });
    Ok(())
}

/// Channels that are kept in registers while the taps of a window pass by.
const BLOCK: usize = 32;

/// The taps along `axis` that output `o` reads inside the image, and where the first of them lies.
#[inline(always)]
fn taps(s: &PoolShape, axis: usize, o: usize) -> (Range<usize>, usize) {
    let (kernel, d, n) = (s.kernel[axis], s.dilation[axis], s.input[axis]);
    let first = (o * s.stride[axis]).wrapping_sub(s.pad[axis]);
    if first < n && (kernel - 1) * d < n - first {
        return (0..kernel, first);
    }
    let mut inside = (0..kernel).filter(|tap| first.wrapping_add(tap * d) < n);
    let start = inside.next().unwrap_or(0);
    let end = inside.next_back().unwrap_or(start) + 1;
    if first.wrapping_add(start * d) < n { (start..end, first.wrapping_add(start * d)) } else { (0..0, 0) }
}

/// Folds the taps of every output of a row with `f`, in scan order, from `start` on.
#[inline(always)]
fn fold_row<T: Copy>(s: &PoolShape, c: usize, x: &[T], row: usize, y: &mut [T], start: T, f: impl Fn(T, T) -> T) {
    let width = s.input[1] * c;
    let (rows, first_row) = taps(s, 0, row);
    for (j, y) in y.chunks_exact_mut(c).enumerate() {
        let (cols, first) = taps(s, 1, j);
        for (i, y) in y.chunks_mut(BLOCK).enumerate() {
            let at = first * c + i * BLOCK;
            if let Some(full) = y.first_chunk_mut::<BLOCK>() {
                let mut folded = [start; BLOCK];
                for a in 0..rows.len() {
                    let line = &x[(first_row + a * s.dilation[0]) * width..][..width];
                    for b in 0..cols.len() {
                        if let Some(x) = line[at + b * s.dilation[1] * c..].first_chunk::<BLOCK>() {
                            for k in 0..BLOCK {
                                folded[k] = f(folded[k], x[k]);
                            }
                        }
                    }
                }
                *full = folded;
            } else {
                y.fill(start);
                for a in 0..rows.len() {
                    let line = &x[(first_row + a * s.dilation[0]) * width..][..width];
                    for b in 0..cols.len() {
                        for (y, &x) in y.iter_mut().zip(&line[at + b * s.dilation[1] * c..]) {
                            *y = f(*y, x);
                        }
                    }
                }
            }
        }
    }
}

per_isa! {
    fn max_row_f32(s: &PoolShape, c: usize, x: &[f32], row: usize, y: &mut [f32]) = max_f32_body
}

#[inline(always)]
fn max_f32_body<M: Math>(s: &PoolShape, c: usize, x: &[f32], row: usize, y: &mut [f32]) {
    fold_row(s, c, x, row, y, f32::NEG_INFINITY, max);
}

per_isa! {
    fn max_image_grad(s: &PoolShape, c: usize, x: &[f32], dy: &[f32], dx: &mut [f32]) = max_grad_body
}

#[inline(always)]
fn max_grad_body<M: Math>(s: &PoolShape, c: usize, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    dx.fill(0.0);
    for (i, dy) in dy.chunks_exact(c).enumerate() {
        let window = [taps(s, 0, i / s.output[1]), taps(s, 1, i % s.output[1])].map(|(range, at)| (range.len(), at));
        for (first, dy) in (0..).step_by(BLOCK).zip(dy.chunks(BLOCK)) {
            // A full block has a length that the compiler knows.
            match dy.first_chunk::<BLOCK>() {
                Some(dy) => window_grad(s, c, window, first, x, dy, dx),
                None => window_grad(s, c, window, first, x, dy, dx),
            }
        }
    }
}

/// The gradient of one output in the channels from `first` on; `window` is the number of taps and the place of the first, by axis.
#[inline(always)]
fn window_grad(
    s: &PoolShape,
    c: usize,
    [(rows, y), (cols, x0)]: [(usize, usize); 2],
    first: usize,
    x: &[f32],
    dy: &[f32],
    dx: &mut [f32],
) {
    let at = |tap: usize| ((y + tap / cols * s.dilation[0]) * s.input[1] + x0 + tap % cols * s.dilation[1]) * c + first;
    let n = dy.len();
    // A winner is the tap's number, kept as i32 so that value and number are selected by vectors of one width.
    let (mut best, mut winner) = ([f32::NEG_INFINITY; BLOCK], [-1i32; BLOCK]);
    let (best, winner) = (&mut best[..n], &mut winner[..n]);
    for tap in 0..rows * cols {
        let x = &x[at(tap)..][..n];
        for k in 0..n {
            let take = (x[k] > best[k]) | x[k].is_nan() | (winner[k] < 0);
            best[k] = if take { x[k] } else { best[k] };
            winner[k] = if take { tap as i32 } else { winner[k] };
        }
    }
    for tap in 0..rows * cols {
        let dx = &mut dx[at(tap)..][..n];
        for k in 0..n {
            dx[k] += if winner[k] == tap as i32 { dy[k] } else { 0.0 };
        }
    }
}

per_isa! {
    fn max_row_i8(s: &PoolShape, c: usize, x: &[i8], row: usize, y: &mut [i8]) = max_i8_body
}

#[inline(always)]
fn max_i8_body<M: Math>(s: &PoolShape, c: usize, x: &[i8], row: usize, y: &mut [i8]) {
    fold_row(s, c, x, row, y, i8::MIN, i8::max);
}

per_isa! {
    fn max_row_u8(s: &PoolShape, c: usize, x: &[u8], row: usize, y: &mut [u8]) = max_u8_body
}

#[inline(always)]
fn max_u8_body<M: Math>(s: &PoolShape, c: usize, x: &[u8], row: usize, y: &mut [u8]) {
    fold_row(s, c, x, row, y, 0, u8::max);
}

per_isa! {
    fn avg_row(s: &PoolShape, c: usize, x: &[f32], row: usize, y: &mut [f32]) = avg_body
}

#[inline(always)]
fn avg_body<M: Math>(s: &PoolShape, c: usize, x: &[f32], row: usize, y: &mut [f32]) {
    fold_row(s, c, x, row, y, 0.0, |sum, x| sum + x);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pool2d::{avg_pool, max_pool, max_pool_grad, max_pool_i8, max_pool_u8, tests::shapes},
        testing::{assert_close, every_ctx, values},
    };

    fn wide(x: &[f32]) -> Vec<f64> {
        x.iter().map(|&v| f64::from(v)).collect()
    }

    /// [N, C, P] as [N, P, C].
    fn last<T: Copy>(x: &[T], channels: usize, positions: usize) -> Vec<T> {
        let image = channels * positions;
        (0..x.len()).map(|i| x[i / image * image + i % channels * positions + i % image / channels]).collect()
    }

    /// The same bits as the pooling of channels that lie first, which adds in the same order.
    #[test]
    fn every_kind_is_that_of_channels_first() {
        for s in shapes() {
            for channels in [1, 3, 8, 19] {
                let first = PoolShape { planes: s.planes * channels, ..s };
                let (p, q) = (s.input[0] * s.input[1], s.output[0] * s.output[1]);
                let mut x = values("x", first.planes * p);
                x.iter_mut().step_by(7).for_each(|v| *v = if *v > 0.5 { f32::NAN } else { f32::INFINITY });
                let ny = first.planes * q;
                let bits = |y: &[f32]| y.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                let average = |cx: Ctx<'_>, count| {
                    let clean: Vec<f32> = x.iter().map(|v| if v.is_finite() { *v } else { 0.25 }).collect();
                    let (mut want, mut got) = (vec![9.0; ny], vec![9.0; ny]);
                    avg_pool(cx, &first, count, &clean, &mut want).unwrap();
                    avg_pool_last(cx, &s, count, channels, &last(&clean, channels, p), &mut got).unwrap();
                    assert_eq!(bits(&got), bits(&last(&want, channels, q)), "{s:?}, {channels}");
                };
                every_ctx(|cx| {
                    let (mut want, mut got) = (vec![9.0; ny], vec![9.0; ny]);
                    max_pool(cx, &first, &x, &mut want).unwrap();
                    max_pool_last(cx, &s, channels, &last(&x, channels, p), &mut got).unwrap();
                    assert_eq!(bits(&got), bits(&last(&want, channels, q)), "{s:?}, {channels}");
                    let dy = values("dy", ny);
                    let (mut want, mut got) = (vec![9.0; x.len()], vec![9.0; x.len()]);
                    max_pool_grad(cx, &first, &x, &dy, &mut want).unwrap();
                    let (xl, dyl) = (last(&x, channels, p), last(&dy, channels, q));
                    max_pool_grad_last(cx, &s, channels, &xl, &dyl, &mut got).unwrap();
                    assert_close(&got, &wide(&last(&want, channels, p)), 0.0, "gradient");
                    average(cx, PadCount::Include);
                    average(cx, PadCount::Exclude);
                    let bytes: Vec<i8> = x.iter().map(|v| (v * 127.0) as i8).collect();
                    let (mut want, mut got) = (vec![9i8; ny], vec![9i8; ny]);
                    max_pool_i8(cx, &first, &bytes, &mut want).unwrap();
                    max_pool_last_i8(cx, &s, channels, &last(&bytes, channels, p), &mut got).unwrap();
                    assert_eq!(got, last(&want, channels, q), "{s:?}, {channels}");
                    let bytes: Vec<u8> = bytes.iter().map(|&v| v as u8 ^ 128).collect();
                    let (mut want, mut got) = (vec![9u8; ny], vec![9u8; ny]);
                    max_pool_u8(cx, &first, &bytes, &mut want).unwrap();
                    max_pool_last_u8(cx, &s, channels, &last(&bytes, channels, p), &mut got).unwrap();
                    assert_eq!(got, last(&want, channels, q), "{s:?}, {channels}");
                    Vec::new()
                });
            }
        }
    }

    #[test]
    fn wrong_lengths_are_errors() {
        let pool = crate::Pool::new(1);
        let cx = Ctx { isa: crate::Isa::detect(), pool: &pool };
        let s = PoolShape { planes: 1, ..shapes()[0] };
        let (x, mut y) = (vec![0.0; 24 * 24 * 2], vec![0.0; 12 * 12 * 2]);
        assert!(max_pool_last(cx, &s, 2, &x, &mut y).is_ok());
        assert!(max_pool_last(cx, &s, 3, &x, &mut y).is_err());
        assert!(max_pool_grad_last(cx, &s, 2, &x, &y[1..], &mut x.clone()).is_err());
        assert!(max_pool_last(cx, &s, usize::MAX, &x, &mut y).is_err());
        assert!(avg_pool_last(cx, &PoolShape { stride: [0, 1], ..s }, PadCount::Include, 2, &x, &mut y).is_err());
    }
}
