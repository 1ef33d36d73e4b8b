//! Max and average pooling over two spatial axes (one dimension is a height of 1), and their gradients.

mod quarter;

use crate::{
    Ctx, KernelError,
    elementwise::ops::max,
    error::{check_len, product},
    isa::{Math, per_isa},
    scratch::with_scratch,
};
use std::ops::Range;

/// The geometry: x `[planes, H, W]` (planes = batch · channels), y `[planes, OH, OW]`; output o reads x at
/// `o * stride + k * dilation - pad`. `pad_end` matters only where padding counts in an average.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub struct PoolShape {
    pub planes: usize,
    pub input: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    pub pad: [usize; 2],
    pub pad_end: [usize; 2],
    pub output: [usize; 2],
}

/// What an average divides by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PadCount {
    /// The window's positions inside the padded input.
    Include,
    /// The window's positions inside the input.
    Exclude,
}

/// The largest element of each window; NaN when the window holds one, −∞ when it lies in the padding.
pub fn max_pool(cx: Ctx<'_>, s: &PoolShape, x: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
    each_plane(cx, "max_pool", s, x, y, &|x, y| max_plane_f32(cx.isa, s, x, y))
}

/// [`max_pool`] of i8; a window in the padding gives −128.
pub fn max_pool_i8(cx: Ctx<'_>, s: &PoolShape, x: &[i8], y: &mut [i8]) -> Result<(), KernelError> {
    each_plane(cx, "max_pool_i8", s, x, y, &|x, y| max_plane_i8(cx.isa, s, x, y))
}

/// [`max_pool`] of u8; a window in the padding gives 0.
pub fn max_pool_u8(cx: Ctx<'_>, s: &PoolShape, x: &[u8], y: &mut [u8]) -> Result<(), KernelError> {
    each_plane(cx, "max_pool_u8", s, x, y, &|x, y| max_plane_u8(cx.isa, s, x, y))
}

/// dx of [`max_pool`]: each dy goes to the first largest element of its window in scan order (the last NaN where there is
/// one), found again from x.
pub fn max_pool_grad(cx: Ctx<'_>, s: &PoolShape, x: &[f32], dy: &[f32], dx: &mut [f32]) -> Result<(), KernelError> {
    const NAME: &str = "max_pool_grad";
    s.check(NAME)?;
    let [h, w] = s.input;
    let plane_y = product(&s.output).unwrap_or(usize::MAX);
    check_len(NAME, "x", product(&[s.planes, h, w]), x.len())?;
    each_plane(cx, NAME, &s.swapped(), dy, dx, &|_, _| {})?;
    if dx.is_empty() {
        return Ok(());
    }
    let planes = planes_of_a_task(h * w);
    cx.pool.run_chunks(dx, planes * h * w, &|t, dx| {
        dx.fill(0.0);
        for (i, dx) in dx.chunks_exact_mut(h * w).enumerate() {
            let p = t * planes + i;
            let (x, dy) = (&x[p * h * w..(p + 1) * h * w], &dy[p * plane_y..(p + 1) * plane_y]);
            match s.is_quarter() {
                true => quarter::plane_grad(cx.isa, s, x, dy, dx),
                false => max_plane_grad(cx.isa, s, x, dy, dx),
            }
        }
    });
    Ok(())
}

/// The mean of each window; 0 where nothing counts.
pub fn avg_pool(cx: Ctx<'_>, s: &PoolShape, count: PadCount, x: &[f32], y: &mut [f32]) -> Result<(), KernelError> {
    s.check("avg_pool")?;
    let [rows, cols] = s.counts(count);
    each_plane(cx, "avg_pool", s, x, y, &|x, y| avg_plane(cx.isa, s, x, &rows, &cols, y))
}

/// dx of [`avg_pool`].
pub fn avg_pool_grad(
    cx: Ctx<'_>,
    s: &PoolShape,
    count: PadCount,
    dy: &[f32],
    dx: &mut [f32],
) -> Result<(), KernelError> {
    s.check("avg_pool_grad")?;
    let [rows, cols] = s.counts(count);
    each_plane(cx, "avg_pool_grad", &s.swapped(), dy, dx, &|dy, dx| {
        dx.fill(0.0);
        avg_plane_grad(cx.isa, s, dy, &rows, &cols, dx);
    })
}

/// Checks the geometry and runs `f(plane of x, plane of y)` for every plane.
fn each_plane<T: Copy + Send + Sync>(
    cx: Ctx<'_>,
    name: &'static str,
    s: &PoolShape,
    x: &[T],
    y: &mut [T],
    f: &(dyn Fn(&[T], &mut [T]) + Sync),
) -> Result<(), KernelError> {
    s.check(name)?;
    let (plane_x, plane_y) = (product(&s.input).unwrap_or(usize::MAX), product(&s.output).unwrap_or(usize::MAX));
    check_len(name, "input", s.planes.checked_mul(plane_x), x.len())?;
    check_len(name, "output", s.planes.checked_mul(plane_y), y.len())?;
    if y.is_empty() {
        return Ok(());
    }
    let planes = planes_of_a_task(plane_x.max(plane_y));
    cx.pool.run_chunks(y, planes * plane_y, &|t, y| {
        for (i, y) in y.chunks_exact_mut(plane_y).enumerate() {
            let p = t * planes + i;
            f(&x[p * plane_x..(p + 1) * plane_x], y);
        }
    });
    Ok(())
}

/// Planes of `len` elements that make a task worth its start.
fn planes_of_a_task(len: usize) -> usize {
    8192usize.div_ceil(len.max(1)).max(1)
}

impl PoolShape {
    pub(crate) fn check(&self, kernel: &'static str) -> Result<(), KernelError> {
        let fail = |why| Err(KernelError::Geometry { kernel, why });
        if self.kernel.contains(&0) || self.stride.contains(&0) || self.dilation.contains(&0) {
            return fail("kernel, stride and dilation must be at least 1");
        }
        for a in 0..2 {
            let reach = (self.kernel[a] - 1)
                .checked_mul(self.dilation[a])
                .zip(self.output[a].max(self.input[a]).checked_mul(self.stride[a]))
                .and_then(|(x, y)| x.checked_add(y)?.checked_add(self.pad[a])?.checked_add(self.pad_end[a]));
            if reach.is_none_or(|r| r > isize::MAX as usize >> 8) {
                return fail("the geometry overflows");
            }
        }
        Ok(())
    }

    /// Whether every window is 2 × 2 inside the input and none overlap.
    fn is_quarter(&self) -> bool {
        let two = [2, 2];
        let inside = |a: usize| self.output[a] > 0 && 2 * self.output[a] <= self.input[a];
        self.kernel == two
            && self.stride == two
            && self.pad == [0, 0]
            && self.dilation == [1, 1]
            && inside(0)
            && inside(1)
    }

    /// Input and output exchanged: the lengths that a gradient takes.
    fn swapped(&self) -> PoolShape {
        PoolShape { input: self.output, output: self.input, ..*self }
    }

    /// The outputs along `axis` whose tap `k` lies inside the input, and the input coordinate of the first.
    #[inline(always)]
    fn valid(&self, axis: usize, k: usize) -> (Range<usize>, usize) {
        let (stride, at) = (self.stride[axis], k * self.dilation[axis]);
        let lo = self.pad[axis].saturating_sub(at).div_ceil(stride);
        let hi = (self.input[axis] + self.pad[axis]).saturating_sub(at).div_ceil(stride).min(self.output[axis]);
        (lo..hi.max(lo), (lo * stride + at).saturating_sub(self.pad[axis]))
    }

    /// How many positions count along each axis for each output.
    pub(crate) fn counts(&self, count: PadCount) -> [Vec<f32>; 2] {
        [0, 1].map(|a| {
            let (lo, hi) = match count {
                PadCount::Include => (0, self.input[a].saturating_add(self.pad[a]).saturating_add(self.pad_end[a])),
                PadCount::Exclude => (self.pad[a], self.input[a].saturating_add(self.pad[a])),
            };
            (0..self.output[a])
                .map(|o| {
                    let taps = (0..self.kernel[a]).filter(|k| {
                        let at = o.saturating_mul(self.stride[a]).saturating_add(k.saturating_mul(self.dilation[a]));
                        (lo..hi).contains(&at)
                    });
                    taps.count() as f32
                })
                .collect()
        })
    }

    /// Calls `f(output row, output columns, input start)` for every row and tap inside the input, rows outermost, taps in scan
    /// order.
    #[inline(always)]
    fn each_tap(&self, mut row_done: impl FnMut(usize), mut f: impl FnMut(usize, Range<usize>, usize)) {
        for i in 0..self.output[0] {
            for ky in 0..self.kernel[0] {
                let y = (i * self.stride[0] + ky * self.dilation[0]).wrapping_sub(self.pad[0]);
                if y >= self.input[0] {
                    continue;
                }
                for kx in 0..self.kernel[1] {
                    let (cols, start) = self.valid(1, kx);
                    if !cols.is_empty() {
                        f(i, cols, y * self.input[1] + start);
                    }
                }
            }
            row_done(i);
        }
    }
}

/// `out[j] = f(out[j], x[j * stride])`; the strides that occur are loops of their own so that they vectorise.
#[inline(always)]
fn strided<T: Copy>(out: &mut [T], x: &[T], stride: usize, f: impl Fn(T, T) -> T) {
    match stride {
        1 => out.iter_mut().zip(x).for_each(|(o, &x)| *o = f(*o, x)),
        2 => {
            let n = out.len();
            let x = &x[..2 * n - 1];
            for j in 0..n {
                out[j] = f(out[j], x[2 * j]);
            }
        }
        _ => out.iter_mut().enumerate().for_each(|(j, o)| *o = f(*o, x[j * stride])),
    }
}

#[inline(always)]
fn max_plane<T: Copy>(s: &PoolShape, x: &[T], y: &mut [T], lowest: T, larger: impl Fn(T, T) -> T) {
    y.fill(lowest);
    let ow = s.output[1];
    s.each_tap(|_| {}, |i, cols, start| strided(&mut y[i * ow..][cols], &x[start..], s.stride[1], &larger));
}

per_isa! {
    fn max_plane_f32(s: &PoolShape, x: &[f32], y: &mut [f32]) = max_f32_body
}

#[inline(always)]
fn max_f32_body<M: Math>(s: &PoolShape, x: &[f32], y: &mut [f32]) {
    if s.is_quarter() {
        let [w, ow] = [s.input[1], s.output[1]];
        for (i, y) in y.chunks_exact_mut(ow).enumerate() {
            let (r0, r1) = (&x[2 * i * w..][..2 * ow], &x[(2 * i + 1) * w..][..2 * ow]);
            for j in 0..ow {
                y[j] = max(max(r0[2 * j], r0[2 * j + 1]), max(r1[2 * j], r1[2 * j + 1]));
            }
        }
        return;
    }
    max_plane(s, x, y, f32::NEG_INFINITY, max);
}

per_isa! {
    fn max_plane_i8(s: &PoolShape, x: &[i8], y: &mut [i8]) = max_i8_body
}

#[inline(always)]
fn max_i8_body<M: Math>(s: &PoolShape, x: &[i8], y: &mut [i8]) {
    max_plane(s, x, y, i8::MIN, i8::max);
}

per_isa! {
    fn max_plane_u8(s: &PoolShape, x: &[u8], y: &mut [u8]) = max_u8_body
}

#[inline(always)]
fn max_u8_body<M: Math>(s: &PoolShape, x: &[u8], y: &mut [u8]) {
    max_plane(s, x, y, 0, u8::max);
}

per_isa! {
    fn max_plane_grad(s: &PoolShape, x: &[f32], dy: &[f32], dx: &mut [f32]) = max_grad_body
}

#[inline(always)]
fn max_grad_body<M: Math>(s: &PoolShape, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    let ow = s.output[1];
    with_scratch::<f32, _>(ow, |best| {
        with_scratch::<i32, _>(ow, |winner| {
            // A winner is the input index, kept as i32 so that value and index are selected by vectors of one width.
            best.fill(f32::NEG_INFINITY);
            winner.fill(-1);
            let cells = std::cell::RefCell::new((best, winner));
            s.each_tap(
                |i| {
                    let (best, winner) = &mut *cells.borrow_mut();
                    for (&at, &d) in winner.iter().zip(&dy[i * ow..(i + 1) * ow]) {
                        if at >= 0 {
                            dx[at as usize] += d;
                        }
                    }
                    best.fill(f32::NEG_INFINITY);
                    winner.fill(-1);
                },
                |_, cols, start| {
                    let (best, winner) = &mut *cells.borrow_mut();
                    let (best, winner) = (&mut best[cols.clone()], &mut winner[cols]);
                    let stride = s.stride[1];
                    for j in 0..best.len() {
                        let at = start + j * stride;
                        let v = x[at];
                        let take = v > best[j] || v.is_nan() || winner[j] < 0;
                        best[j] = if take { v } else { best[j] };
                        winner[j] = if take { at as i32 } else { winner[j] };
                    }
                },
            );
        });
    });
}

per_isa! {
    fn avg_plane(s: &PoolShape, x: &[f32], rows: &[f32], cols: &[f32], y: &mut [f32]) = avg_body
}

#[inline(always)]
fn avg_body<M: Math>(s: &PoolShape, x: &[f32], rows: &[f32], cols: &[f32], y: &mut [f32]) {
    y.fill(0.0);
    let ow = s.output[1];
    s.each_tap(|_| {}, |i, cols, start| strided(&mut y[i * ow..][cols], &x[start..], s.stride[1], |a, b| a + b));
    for (y, &r) in y.chunks_exact_mut(ow).zip(rows) {
        for (y, &c) in y.iter_mut().zip(cols) {
            *y /= if r * c > 0.0 { r * c } else { 1.0 };
        }
    }
}

per_isa! {
    fn avg_plane_grad(s: &PoolShape, dy: &[f32], rows: &[f32], cols: &[f32], dx: &mut [f32]) = avg_grad_body
}

#[inline(always)]
fn avg_grad_body<M: Math>(s: &PoolShape, dy: &[f32], rows: &[f32], cols: &[f32], dx: &mut [f32]) {
    let ow = s.output[1];
    s.each_tap(
        |_| {},
        |i, range, start| {
            for (j, o) in range.enumerate() {
                dx[start + j * s.stride[1]] += dy[i * ow + o] / (rows[i] * cols[o]);
            }
        },
    );
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::{assert_close, every_ctx, values};

    pub(crate) fn shapes() -> Vec<PoolShape> {
        let s = |planes,
                 input: [usize; 2],
                 k: [usize; 2],
                 stride: [usize; 2],
                 dil: [usize; 2],
                 p: [usize; 4],
                 o: [usize; 2]| {
            PoolShape {
                planes,
                input,
                kernel: k,
                stride,
                dilation: dil,
                pad: [p[0], p[1]],
                pad_end: [p[2], p[3]],
                output: o,
            }
        };
        vec![
            s(7, [24, 24], [2, 2], [2, 2], [1, 1], [0; 4], [12, 12]),
            s(2, [5, 7], [2, 2], [2, 2], [1, 1], [0; 4], [2, 3]),
            s(3, [7, 9], [3, 3], [2, 2], [1, 1], [1, 1, 1, 1], [4, 5]),
            s(2, [5, 5], [3, 2], [1, 3], [2, 1], [0, 1, 0, 0], [1, 2]),
            // ceil mode: the last window reaches past the padding.
            s(2, [6, 6], [3, 3], [2, 2], [1, 1], [1, 1, 1, 1], [4, 4]),
            s(1, [1, 100], [1, 5], [1, 3], [1, 2], [0, 4, 0, 4], [1, 34]),
            s(0, [4, 4], [2, 2], [2, 2], [1, 1], [0; 4], [2, 2]),
            s(1, [1, 1], [1, 1], [1, 1], [1, 1], [0; 4], [1, 1]),
            s(1, [4, 1], [2, 2], [2, 2], [1, 1], [0; 4], [2, 0]),
            // The second window lies in the padding altogether.
            s(1, [2, 2], [1, 1], [3, 3], [1, 1], [0, 0, 2, 2], [2, 2]),
        ]
    }

    /// Calls `f(y index, x index)` for each input of each window in scan order.
    fn each(s: &PoolShape, mut f: impl FnMut(usize, usize)) {
        for p in 0..s.planes {
            for i in 0..s.output[0] {
                for j in 0..s.output[1] {
                    for a in 0..s.kernel[0] {
                        for b in 0..s.kernel[1] {
                            let y = (i * s.stride[0] + a * s.dilation[0]).wrapping_sub(s.pad[0]);
                            let x = (j * s.stride[1] + b * s.dilation[1]).wrapping_sub(s.pad[1]);
                            if y < s.input[0] && x < s.input[1] {
                                f((p * s.output[0] + i) * s.output[1] + j, (p * s.input[0] + y) * s.input[1] + x);
                            }
                        }
                    }
                }
            }
        }
    }

    fn lens(s: &PoolShape) -> (usize, usize) {
        (s.planes * s.input[0] * s.input[1], s.planes * s.output[0] * s.output[1])
    }

    #[test]
    fn max_and_its_gradient() {
        for s in shapes() {
            let (nx, ny) = lens(&s);
            // Few distinct values, so that windows hold ties.
            let x: Vec<f32> = values("x", nx).iter().map(|v| (v * 3.0).round()).collect();
            let dy = values("dy", ny);
            let (mut want, mut arg) = (vec![f64::NEG_INFINITY; ny], vec![usize::MAX; ny]);
            each(&s, |y, at| {
                if f64::from(x[at]) > want[y] {
                    want[y] = f64::from(x[at]);
                    arg[y] = at;
                }
            });
            let mut want_dx = vec![0f64; nx];
            for (&at, &d) in arg.iter().zip(&dy) {
                if at != usize::MAX {
                    want_dx[at] += f64::from(d);
                }
            }
            for got in every_ctx(|cx| {
                let mut y = vec![9.0; ny];
                max_pool(cx, &s, &x, &mut y).unwrap();
                y
            }) {
                assert_close(&got, &want, 0.0, "max_pool");
            }
            for got in every_ctx(|cx| {
                let mut dx = vec![9.0; nx];
                max_pool_grad(cx, &s, &x, &dy, &mut dx).unwrap();
                dx
            }) {
                assert_close(&got, &want_dx, 1e-6, "max_pool_grad");
            }
            let bytes: Vec<i8> = x.iter().map(|&v| (v * 40.0) as i8).collect();
            let unsigned: Vec<u8> = bytes.iter().map(|&v| v as u8 ^ 128).collect();
            every_ctx(|cx| {
                let (mut y, mut z) = (vec![9i8; ny], vec![9u8; ny]);
                max_pool_i8(cx, &s, &bytes, &mut y).unwrap();
                max_pool_u8(cx, &s, &unsigned, &mut z).unwrap();
                for i in 0..ny {
                    assert_eq!(
                        i32::from(y[i]),
                        arg.get(i).map_or(0, |&a| bytes.get(a).map_or(-128, |&b| i32::from(b)))
                    );
                    assert_eq!(y[i] as u8 ^ 128, z[i]);
                }
                Vec::new()
            });
        }
    }

    #[test]
    fn average_and_its_gradient() {
        for s in shapes() {
            let (nx, ny) = lens(&s);
            let (x, dy) = (values("x", nx), values("dy", ny));
            for count in [PadCount::Include, PadCount::Exclude] {
                let mut divisor = vec![0f64; ny];
                for (y, d) in divisor.iter_mut().enumerate() {
                    let o = [y / s.output[1] % s.output[0], y % s.output[1]];
                    let inside = |axis: usize| {
                        (0..s.kernel[axis])
                            .filter(|k| {
                                let at = o[axis] * s.stride[axis] + k * s.dilation[axis];
                                let (p, n) = (s.pad[axis], s.input[axis]);
                                match count {
                                    PadCount::Include => at < n + p + s.pad_end[axis],
                                    PadCount::Exclude => at >= p && at < n + p,
                                }
                            })
                            .count()
                    };
                    *d = (inside(0) * inside(1)).max(1) as f64;
                }
                let (mut want, mut want_dx) = (vec![0f64; ny], vec![0f64; nx]);
                each(&s, |y, at| {
                    want[y] += f64::from(x[at]) / divisor[y];
                    want_dx[at] += f64::from(dy[y]) / divisor[y];
                });
                for got in every_ctx(|cx| {
                    let mut y = vec![9.0; ny];
                    avg_pool(cx, &s, count, &x, &mut y).unwrap();
                    y
                }) {
                    assert_close(&got, &want, 1e-6, "avg_pool");
                }
                for got in every_ctx(|cx| {
                    let mut dx = vec![9.0; nx];
                    avg_pool_grad(cx, &s, count, &dy, &mut dx).unwrap();
                    dx
                }) {
                    assert_close(&got, &want_dx, 1e-6, "avg_pool_grad");
                }
            }
        }
    }

    #[test]
    fn nan_wins_and_bad_geometry_is_an_error() {
        let pool = crate::Pool::new(1);
        let cx = Ctx { isa: crate::Isa::detect(), pool: &pool };
        let s = PoolShape { planes: 1, ..shapes()[0] };
        let mut x = vec![1.0; 576];
        x[25] = f32::NAN;
        let (mut y, mut dx) = (vec![0.0; 144], vec![0.0; 576]);
        max_pool(cx, &s, &x, &mut y).unwrap();
        assert!(y[0].is_nan() && y[1] == 1.0);
        max_pool_grad(cx, &s, &x, &[1.0; 144], &mut dx).unwrap();
        assert_eq!((dx[0], dx[25], dx[2]), (0.0, 1.0, 1.0));
        assert!(max_pool(cx, &s, &x[1..], &mut y).is_err());
        assert!(max_pool_grad(cx, &s, &x[1..], &[1.0; 144], &mut dx).is_err());
        assert!(max_pool(cx, &PoolShape { stride: [0, 1], ..s }, &x, &mut y).is_err());
        assert!(max_pool(cx, &PoolShape { pad: [usize::MAX, 1], ..s }, &x, &mut y).is_err());
    }
}
