//! Softmax and log-softmax over one axis, and their gradients.

use crate::{
    Ctx, KernelError,
    elementwise::ops::max,
    error::{check_len, product},
    isa::{Math, per_isa},
    math::{exp, log},
    pool::Disjoint,
    reduce::{TASK, lanes, sum},
};

/// Columns that are handled together when the axis is not the last.
const COLS: usize = 64;

/// `y[o, :, i] = softmax(x[o, :, i])`; x and y are `[outer, n, inner]`.
pub fn softmax(cx: Ctx<'_>, x: &[f32], outer: usize, n: usize, inner: usize, y: &mut [f32]) -> Result<(), KernelError> {
    forward(cx, "softmax", Kind::Softmax, x, [outer, n, inner], y)
}

/// `y[o, :, i] = log(softmax(x[o, :, i]))`; x and y are `[outer, n, inner]`.
pub fn log_softmax(
    cx: Ctx<'_>,
    x: &[f32],
    outer: usize,
    n: usize,
    inner: usize,
    y: &mut [f32],
) -> Result<(), KernelError> {
    forward(cx, "log_softmax", Kind::LogSoftmax, x, [outer, n, inner], y)
}

/// dx = y · (dy − Σ dy·y) for y = softmax(x); all `[outer, n, inner]`.
pub fn softmax_grad(
    cx: Ctx<'_>,
    y: &[f32],
    dy: &[f32],
    outer: usize,
    n: usize,
    inner: usize,
    dx: &mut [f32],
) -> Result<(), KernelError> {
    backward(cx, "softmax_grad", Kind::Softmax, y, dy, [outer, n, inner], dx)
}

/// dx = dy − eʸ · Σ dy for y = log_softmax(x); all `[outer, n, inner]`.
pub fn log_softmax_grad(
    cx: Ctx<'_>,
    y: &[f32],
    dy: &[f32],
    outer: usize,
    n: usize,
    inner: usize,
    dx: &mut [f32],
) -> Result<(), KernelError> {
    backward(cx, "log_softmax_grad", Kind::LogSoftmax, y, dy, [outer, n, inner], dx)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Softmax,
    LogSoftmax,
}

fn forward(
    cx: Ctx<'_>,
    name: &'static str,
    kind: Kind,
    x: &[f32],
    [outer, n, inner]: [usize; 3],
    y: &mut [f32],
) -> Result<(), KernelError> {
    let len = product(&[outer, n, inner]);
    check_len(name, "x", len, x.len())?;
    check_len(name, "y", len, y.len())?;
    if y.is_empty() {
        return Ok(());
    }
    if inner == 1 {
        let rows = (TASK / n).max(1);
        cx.pool.run_chunks(y, rows * n, &|t, y| {
            for (i, y) in y.chunks_exact_mut(n).enumerate() {
                forward_row(cx.isa, kind, &x[(t * rows + i) * n..][..n], y);
            }
        });
        return Ok(());
    }
    let blocks = inner.div_ceil(COLS);
    let y = Disjoint::new(y);
    cx.pool.run(outer * blocks, &|t| {
        let (o, start) = (t / blocks, t % blocks * COLS);
        let cols = COLS.min(inner - start);
        let base = o * n * inner + start;
        let at = |r: usize| base + r * inner;
        let (mut top, mut total) = ([f32::NEG_INFINITY; COLS], [0f32; COLS]);
        for r in 0..n {
            for (top, &x) in top.iter_mut().zip(&x[at(r)..][..cols]) {
                *top = max(*top, x);
            }
        }
        for r in 0..n {
            // SAFETY: each task has its own columns.
            let y = unsafe { y.slice(at(r), cols) };
            shifted_column(cx.isa, kind, &x[at(r)..][..cols], &top, y, &mut total);
        }
        for total in &mut total {
            *total = if kind == Kind::Softmax { 1.0 / *total } else { total.ln() };
        }
        for r in 0..n {
            // SAFETY: as above.
            let y = unsafe { y.slice(at(r), cols) };
            for (y, &t) in y.iter_mut().zip(&total) {
                *y = if kind == Kind::Softmax { *y * t } else { *y - t };
            }
        }
    });
    Ok(())
}

per_isa! {
    fn forward_row(kind: Kind, x: &[f32], y: &mut [f32]) = forward_row_body
}

#[inline(always)]
fn forward_row_body<M: Math>(kind: Kind, x: &[f32], y: &mut [f32]) {
    let top = lanes(x, f32::NEG_INFINITY, max, max);
    match kind {
        Kind::Softmax => {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = exp::<M>(x - top);
            }
            let scale = 1.0 / sum(y);
            y.iter_mut().for_each(|y| *y *= scale);
        }
        Kind::LogSoftmax => {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = exp::<M>(x - top);
            }
            let shift = log::<M>(sum(y));
            for (y, &x) in y.iter_mut().zip(x) {
                *y = x - top - shift;
            }
        }
    }
}

per_isa! {
    /// y = eˣ⁻ᵗᵒᵖ (or x − top), and its exponential is added to `total`.
    fn shifted_column(kind: Kind, x: &[f32], top: &[f32], y: &mut [f32], total: &mut [f32]) = shifted_column_body
}

#[inline(always)]
fn shifted_column_body<M: Math>(kind: Kind, x: &[f32], top: &[f32], y: &mut [f32], total: &mut [f32]) {
    for i in 0..x.len() {
        let d = x[i] - top[i];
        let e = exp::<M>(d);
        total[i] += e;
        y[i] = if kind == Kind::Softmax { e } else { d };
    }
}

fn backward(
    cx: Ctx<'_>,
    name: &'static str,
    kind: Kind,
    y: &[f32],
    dy: &[f32],
    [outer, n, inner]: [usize; 3],
    dx: &mut [f32],
) -> Result<(), KernelError> {
    let len = product(&[outer, n, inner]);
    check_len(name, "y", len, y.len())?;
    check_len(name, "dy", len, dy.len())?;
    check_len(name, "dx", len, dx.len())?;
    if dx.is_empty() {
        return Ok(());
    }
    if inner == 1 {
        let rows = (TASK / n).max(1);
        cx.pool.run_chunks(dx, rows * n, &|t, dx| {
            for (i, dx) in dx.chunks_exact_mut(n).enumerate() {
                let at = (t * rows + i) * n;
                backward_row(cx.isa, kind, &y[at..at + n], &dy[at..at + n], dx);
            }
        });
        return Ok(());
    }
    let blocks = inner.div_ceil(COLS);
    let dx = Disjoint::new(dx);
    cx.pool.run(outer * blocks, &|t| {
        let (o, start) = (t / blocks, t % blocks * COLS);
        let cols = COLS.min(inner - start);
        let at = |r: usize| o * n * inner + start + r * inner;
        let mut total = [0f32; COLS];
        for r in 0..n {
            for i in 0..cols {
                let d = dy[at(r) + i];
                total[i] += if kind == Kind::Softmax { d * y[at(r) + i] } else { d };
            }
        }
        for r in 0..n {
            // SAFETY: each task has its own columns.
            let dx = unsafe { dx.slice(at(r), cols) };
            spread_column(cx.isa, kind, &y[at(r)..][..cols], &dy[at(r)..][..cols], &total, dx);
        }
    });
    Ok(())
}

per_isa! {
    fn backward_row(kind: Kind, y: &[f32], dy: &[f32], dx: &mut [f32]) = backward_row_body
}

#[inline(always)]
fn backward_row_body<M: Math>(kind: Kind, y: &[f32], dy: &[f32], dx: &mut [f32]) {
    let total = match kind {
        Kind::Softmax => {
            for i in 0..dx.len() {
                dx[i] = dy[i] * y[i];
            }
            sum(dx)
        }
        Kind::LogSoftmax => sum(dy),
    };
    for i in 0..dx.len() {
        dx[i] = match kind {
            Kind::Softmax => y[i] * (dy[i] - total),
            Kind::LogSoftmax => dy[i] - exp::<M>(y[i]) * total,
        };
    }
}

per_isa! {
    fn spread_column(kind: Kind, y: &[f32], dy: &[f32], total: &[f32], dx: &mut [f32]) = spread_column_body
}

#[inline(always)]
fn spread_column_body<M: Math>(kind: Kind, y: &[f32], dy: &[f32], total: &[f32], dx: &mut [f32]) {
    for i in 0..dx.len() {
        dx[i] = match kind {
            Kind::Softmax => y[i] * (dy[i] - total[i]),
            Kind::LogSoftmax => dy[i] - exp::<M>(y[i]) * total[i],
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, every_ctx, values};

    const SHAPES: [(usize, usize, usize); 8] =
        [(0, 3, 1), (2, 0, 2), (1, 1, 1), (5, 10, 1), (3, 1000, 1), (2, 7, 3), (3, 5, 130), (70, 300, 1)];

    fn naive(x: &[f32], (outer, n, inner): (usize, usize, usize)) -> Vec<f64> {
        let mut y = vec![0f64; x.len()];
        for (o, i) in (0..outer * inner).map(|t| (t / inner, t % inner)) {
            let at = |r: usize| (o * n + r) * inner + i;
            let top = (0..n).map(|r| f64::from(x[at(r)])).fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = (0..n).map(|r| (f64::from(x[at(r)]) - top).exp()).sum();
            for r in 0..n {
                y[at(r)] = f64::from(x[at(r)]) - top - total.ln();
            }
        }
        y
    }

    #[test]
    fn forward_agrees_with_f64() {
        for shape in SHAPES {
            let (outer, n, inner) = shape;
            let mut x: Vec<f32> = values("x", outer * n * inner).iter().map(|v| v * 20.0).collect();
            if let Some(first) = x.first_mut().filter(|_| n > 1) {
                *first = f32::NEG_INFINITY;
            }
            let log = naive(&x, shape);
            let want: Vec<f64> = log.iter().map(|v| v.exp()).collect();
            for got in every_ctx(|cx| {
                let mut y = vec![9.0; x.len()];
                softmax(cx, &x, outer, n, inner, &mut y).unwrap();
                y
            }) {
                assert_close(&got, &want, 1e-6, "softmax");
            }
            for got in every_ctx(|cx| {
                let mut y = vec![9.0; x.len()];
                log_softmax(cx, &x, outer, n, inner, &mut y).unwrap();
                y
            }) {
                assert_close(&got, &log, 1e-6, "log_softmax");
            }
        }
    }

    #[test]
    fn gradients_agree_with_f64() {
        for shape in SHAPES {
            let (outer, n, inner) = shape;
            let (x, dy) = (values("x", outer * n * inner), values("dy", outer * n * inner));
            let log = naive(&x, shape);
            let (mut want, mut want_log) = (vec![0f64; x.len()], vec![0f64; x.len()]);
            for (o, i) in (0..outer * inner).map(|t| (t / inner, t % inner)) {
                let at = |r: usize| (o * n + r) * inner + i;
                let dot: f64 = (0..n).map(|r| f64::from(dy[at(r)]) * log[at(r)].exp()).sum();
                let total: f64 = (0..n).map(|r| f64::from(dy[at(r)])).sum();
                for r in 0..n {
                    want[at(r)] = log[at(r)].exp() * (f64::from(dy[at(r)]) - dot);
                    want_log[at(r)] = f64::from(dy[at(r)]) - log[at(r)].exp() * total;
                }
            }
            let y: Vec<f32> = log.iter().map(|v| v.exp() as f32).collect();
            let y_log: Vec<f32> = log.iter().map(|&v| v as f32).collect();
            for got in every_ctx(|cx| {
                let mut dx = vec![9.0; x.len()];
                softmax_grad(cx, &y, &dy, outer, n, inner, &mut dx).unwrap();
                dx
            }) {
                assert_close(&got, &want, 1e-6, "softmax_grad");
            }
            for got in every_ctx(|cx| {
                let mut dx = vec![9.0; x.len()];
                log_softmax_grad(cx, &y_log, &dy, outer, n, inner, &mut dx).unwrap();
                dx
            }) {
                assert_close(&got, &want_log, 2e-6, "log_softmax_grad");
            }
        }
    }
}
