//! Reductions over axes, as fixed trees.
//!
//! A contiguous row is cut into chunks of 4096 elements, a chunk into 32 interleaved lanes; chunks and lanes are folded
//! pairwise. A reduction over an outer axis sums 128 rows at a time and folds those sums pairwise. So rounding errors grow with
//! the logarithm of the length, and the order never depends on the threads.

use crate::{
    Ctx, KernelError,
    elementwise::ops::{max, min},
    error::{check_len, product},
    isa::{Math, per_isa},
    pool::Disjoint,
};
use std::ops::Range;

const NAME: &str = "reduce";

const LANES: usize = 32;
/// Elements of a row that one chunk folds.
const CHUNK: usize = 4096;
/// Rows that one chunk of an outer reduction folds.
const ROWS: usize = 128;
/// Columns of a task of an outer reduction.
const COLS: usize = 512;
/// Elements that make a task worth its start.
pub(crate) const TASK: usize = 1 << 14;

/// What is reduced. Of nothing: sum 0, mean NaN, max −∞, min ∞, product 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReduceOp {
    /// Σ x.
    Sum,
    /// Σ x / n.
    Mean,
    /// The largest; NaN when any is.
    Max,
    /// The smallest; NaN when any is.
    Min,
    /// Π x.
    Prod,
    /// Σ x².
    SumSquare,
}

impl ReduceOp {
    /// Every operation.
    pub const ALL: [ReduceOp; 6] =
        [ReduceOp::Sum, ReduceOp::Mean, ReduceOp::Max, ReduceOp::Min, ReduceOp::Prod, ReduceOp::SumSquare];

    fn identity(self) -> f32 {
        match self {
            ReduceOp::Sum | ReduceOp::Mean | ReduceOp::SumSquare => 0.0,
            ReduceOp::Max => f32::NEG_INFINITY,
            ReduceOp::Min => f32::INFINITY,
            ReduceOp::Prod => 1.0,
        }
    }

    /// How partial results are folded.
    fn fold(self) -> ReduceOp {
        match self {
            ReduceOp::SumSquare | ReduceOp::Mean => ReduceOp::Sum,
            other => other,
        }
    }
}

/// `out[o, i] = op over r of x[o, r, i]`, x `[outer, n, inner]`, out `[outer, inner]`.
pub fn reduce(
    cx: Ctx<'_>,
    op: ReduceOp,
    x: &[f32],
    outer: usize,
    n: usize,
    inner: usize,
    out: &mut [f32],
) -> Result<(), KernelError> {
    check_len(NAME, "x", product(&[outer, n, inner]), x.len())?;
    check_len(NAME, "out", product(&[outer, inner]), out.len())?;
    if inner == 1 {
        reduce_rows(cx, op, x, n, out);
    } else {
        reduce_columns(cx, op, x, n, inner, out);
    }
    if op == ReduceOp::Mean {
        out.iter_mut().for_each(|v| *v /= n as f32);
    }
    Ok(())
}

/// Reduces the axes `axes` of x, a tensor of `shape`; `out` holds the other axes in order.
pub fn reduce_axes(
    cx: Ctx<'_>,
    op: ReduceOp,
    x: &[f32],
    shape: &[usize],
    axes: &[usize],
    out: &mut [f32],
) -> Result<(), KernelError> {
    if axes.iter().any(|&a| a >= shape.len()) {
        return Err(KernelError::Geometry { kernel: NAME, why: "an axis is outside the shape" });
    }
    check_len(NAME, "x", product(shape), x.len())?;
    // Axes that follow each other with the same fate act as one.
    let mut runs: Vec<(usize, bool)> = Vec::new();
    let mut count = 1;
    for (axis, &dim) in shape.iter().enumerate() {
        let reduced = axes.contains(&axis);
        count *= if reduced { dim } else { 1 };
        match runs.last_mut() {
            Some(last) if last.1 == reduced => last.0 *= dim,
            _ => runs.push((dim, reduced)),
        }
    }
    let kept: Vec<usize> = runs.iter().filter(|r| !r.1).map(|r| r.0).collect();
    check_len(NAME, "out", product(&kept), out.len())?;
    let mut current: Option<Vec<f32>> = None;
    let mut step = if op == ReduceOp::Mean { ReduceOp::Sum } else { op };
    if !runs.iter().any(|r| r.1) {
        runs.push((1, true));
    }
    while let Some(at) = runs.iter().rposition(|r| r.1) {
        let (n, _) = runs.remove(at);
        let outer: usize = runs[..at].iter().map(|r| r.0).product();
        let inner: usize = runs[at..].iter().map(|r| r.0).product();
        let source = current.as_deref().unwrap_or(x);
        if runs.iter().any(|r| r.1) {
            let mut next = vec![0.0; outer * inner];
            reduce(cx, step, source, outer, n, inner, &mut next)?;
            current = Some(next);
        } else {
            reduce(cx, step, source, outer, n, inner, out)?;
        }
        step = step.fold();
    }
    if op == ReduceOp::Mean {
        out.iter_mut().for_each(|v| *v /= count as f32);
    }
    Ok(())
}

fn reduce_rows(cx: Ctx<'_>, op: ReduceOp, x: &[f32], n: usize, out: &mut [f32]) {
    if n <= CHUNK {
        let rows = (TASK / n.max(1)).max(1);
        cx.pool.run_chunks(out, rows, &|t, out| {
            for (i, out) in out.iter_mut().enumerate() {
                *out = row_chunk(cx.isa, op, &x[(t * rows + i) * n..][..n]);
            }
        });
        return;
    }
    let chunks = n.div_ceil(CHUNK);
    let mut partial = vec![0.0; out.len() * chunks];
    cx.pool.run_chunks(&mut partial, TASK / CHUNK, &|t, partial| {
        for (i, partial) in partial.iter_mut().enumerate() {
            let (row, chunk) = ((t * (TASK / CHUNK) + i) / chunks, (t * (TASK / CHUNK) + i) % chunks);
            *partial = row_chunk(cx.isa, op, &x[row * n..][chunk * CHUNK..n.min((chunk + 1) * CHUNK)]);
        }
    });
    for (out, partial) in out.iter_mut().zip(partial.chunks_exact_mut(chunks)) {
        *out = fold_values(op.fold(), partial);
    }
}

fn reduce_columns(cx: Ctx<'_>, op: ReduceOp, x: &[f32], n: usize, inner: usize, out: &mut [f32]) {
    if out.is_empty() {
        return;
    }
    let chunks = n.div_ceil(ROWS).max(1);
    let blocks = inner.div_ceil(COLS);
    let outer = out.len() / inner;
    if chunks == 1 {
        let to = Disjoint::new(out);
        cx.pool.run(outer * blocks, &|t| {
            let (o, cols) = (t / blocks, t % blocks * COLS..inner.min((t % blocks + 1) * COLS));
            // SAFETY: each task has its own columns of its own row.
            let out = unsafe { to.slice(o * inner + cols.start, cols.len()) };
            rows_chunk(cx.isa, op, &x[o * n * inner..(o + 1) * n * inner], inner, cols, out);
        });
        return;
    }
    let mut partial = vec![0.0; outer * chunks * inner];
    let to = Disjoint::new(&mut partial);
    cx.pool.run(outer * chunks * blocks, &|t| {
        let (oc, cols) = (t / blocks, t % blocks * COLS..inner.min((t % blocks + 1) * COLS));
        let (o, chunk) = (oc / chunks, oc % chunks);
        let rows = (o * n + chunk * ROWS) * inner..(o * n + n.min((chunk + 1) * ROWS)) * inner;
        // SAFETY: each task has its own columns of its own chunk.
        let out = unsafe { to.slice(oc * inner + cols.start, cols.len()) };
        rows_chunk(cx.isa, op, &x[rows], inner, cols, out);
    });
    let partial = to;
    cx.pool.run_chunks(out, inner, &|o, out| {
        // SAFETY: each task has the chunks of its own outer index.
        let partial = unsafe { partial.slice(o * chunks * inner, chunks * inner) };
        fold_rows(cx.isa, op.fold(), partial, inner);
        out.copy_from_slice(&partial[..inner]);
    });
}

per_isa! {
    /// Reduces at most 4096 elements.
    fn row_chunk(op: ReduceOp, x: &[f32]) -> f32 = row_chunk_body
}

#[inline(always)]
fn row_chunk_body<M: Math>(op: ReduceOp, x: &[f32]) -> f32 {
    match op {
        ReduceOp::Sum | ReduceOp::Mean => lanes(x, 0.0, |a, x| a + x, |a, b| a + b),
        ReduceOp::SumSquare => lanes(x, 0.0, |a, x| M::fma(x, x, a), |a, b| a + b),
        ReduceOp::Max => lanes(x, f32::NEG_INFINITY, max, max),
        ReduceOp::Min => lanes(x, f32::INFINITY, min, min),
        ReduceOp::Prod => lanes(x, 1.0, |a, x| a * x, |a, b| a * b),
    }
}

/// Folds `x` in 32 interleaved lanes, then the lanes pairwise.
#[inline(always)]
pub(crate) fn lanes(
    x: &[f32],
    identity: f32,
    step: impl Fn(f32, f32) -> f32,
    combine: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut acc = [identity; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for l in 0..LANES {
            acc[l] = step(acc[l], chunk[l]);
        }
    }
    for (acc, &x) in acc.iter_mut().zip(tail) {
        *acc = step(*acc, x);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            acc[l] = combine(acc[l], acc[l + width]);
        }
        width /= 2;
    }
    acc[0]
}

/// The sum of `x`, of any length, in the order of a row reduction of one chunk after another.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    // A loop, since what an iterator's methods call would not be compiled for the level.
    let mut sum = 0.0;
    for x in x.chunks(CHUNK) {
        sum += lanes(x, 0.0, |a, x| a + x, |a, b| a + b);
    }
    sum
}

/// Pairwise fold of a short list of partial results.
fn fold_values(op: ReduceOp, values: &mut [f32]) -> f32 {
    let mut width = values.len();
    while width > 1 {
        let half = width.div_ceil(2);
        for i in half..width {
            values[i - half] = pair(op, values[i - half], values[i]);
        }
        width = half;
    }
    values.first().copied().unwrap_or(op.identity())
}

#[inline(always)]
fn pair(op: ReduceOp, a: f32, b: f32) -> f32 {
    match op {
        ReduceOp::Max => max(a, b),
        ReduceOp::Min => min(a, b),
        ReduceOp::Prod => a * b,
        ReduceOp::Sum | ReduceOp::Mean | ReduceOp::SumSquare => a + b,
    }
}

per_isa! {
    /// Folds the rows of `x`, `inner` elements each, over the columns `cols` into `out`.
    fn rows_chunk(op: ReduceOp, x: &[f32], inner: usize, cols: Range<usize>, out: &mut [f32]) = rows_chunk_body
}

#[inline(always)]
fn rows_chunk_body<M: Math>(op: ReduceOp, x: &[f32], inner: usize, cols: Range<usize>, out: &mut [f32]) {
    out.fill(op.identity());
    for row in x.chunks_exact(inner) {
        let row = &row[cols.clone()];
        match op {
            ReduceOp::SumSquare => out.iter_mut().zip(row).for_each(|(o, &x)| *o = M::fma(x, x, *o)),
            _ => combine_rows(op, out, row),
        }
    }
}

#[inline(always)]
fn combine_rows(op: ReduceOp, out: &mut [f32], row: &[f32]) {
    let pairs = out.iter_mut().zip(row);
    match op {
        ReduceOp::Max => pairs.for_each(|(o, &x)| *o = max(*o, x)),
        ReduceOp::Min => pairs.for_each(|(o, &x)| *o = min(*o, x)),
        ReduceOp::Prod => pairs.for_each(|(o, &x)| *o *= x),
        ReduceOp::Sum | ReduceOp::Mean | ReduceOp::SumSquare => pairs.for_each(|(o, &x)| *o += x),
    }
}

per_isa! {
    /// Folds rows of `inner` elements pairwise; the result is the first row.
    pub(crate) fn fold_rows(op: ReduceOp, rows: &mut [f32], inner: usize) = fold_rows_body
}

#[inline(always)]
fn fold_rows_body<M: Math>(op: ReduceOp, rows: &mut [f32], inner: usize) {
    let mut width = rows.len() / inner.max(1);
    while width > 1 {
        let half = width.div_ceil(2);
        let (to, from) = rows[..width * inner].split_at_mut(half * inner);
        combine_rows(op, &mut to[..from.len()], from);
        width = half;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, every_ctx, values};

    fn naive(op: ReduceOp, items: &[f64]) -> f64 {
        match op {
            ReduceOp::Sum => items.iter().sum(),
            ReduceOp::Mean => items.iter().sum::<f64>() / items.len() as f64,
            ReduceOp::Max => items.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b)),
            ReduceOp::Min => items.iter().fold(f64::INFINITY, |a, &b| a.min(b)),
            ReduceOp::Prod => items.iter().product(),
            ReduceOp::SumSquare => items.iter().map(|v| v * v).sum(),
        }
    }

    #[test]
    fn middle_axis_agrees_with_f64() {
        let shapes = [
            (0, 3, 2),
            (2, 0, 3),
            (3, 0, 1),
            (1, 1, 1),
            (7, 31, 1),
            (1, 40_000, 1),
            (3, 9001, 1),
            (2, 300, 5),
            (1, 64, 700),
        ];
        for op in ReduceOp::ALL {
            for (outer, n, inner) in shapes {
                // Near 1 in size, so that long products neither vanish nor overflow.
                let x: Vec<f32> = values("x", outer * n * inner).iter().map(|v| 1.0 + v * 0.01).collect();
                let want: Vec<f64> = (0..outer * inner)
                    .map(|i| {
                        let items: Vec<f64> =
                            (0..n).map(|r| f64::from(x[(i / inner * n + r) * inner + i % inner])).collect();
                        naive(op, &items)
                    })
                    .collect();
                for got in every_ctx(|cx| {
                    let mut out = vec![9.0; outer * inner];
                    reduce(cx, op, &x, outer, n, inner, &mut out).unwrap();
                    out
                }) {
                    // A product's error grows with the length in any order.
                    let tolerance = if op == ReduceOp::Prod { 6e-8 * (n as f64).max(2.0) } else { 1e-6 };
                    assert_close(&got, &want, tolerance, &format!("{op:?} {outer}x{n}x{inner}"));
                }
            }
        }
    }

    #[test]
    fn several_axes_agree_with_f64() {
        let shape = [4usize, 3, 5, 6];
        let x = values("x", 360);
        for op in ReduceOp::ALL {
            for axes in [&[][..], &[0], &[3], &[0, 2], &[1, 3], &[0, 2, 3], &[0, 1, 2, 3]] {
                let mut groups: Vec<Vec<f64>> = Vec::new();
                for i in 0..360 {
                    let coordinate = [i / 90, i / 30 % 3, i / 6 % 5, i % 6];
                    let mut at = 0;
                    for a in (0..4).filter(|a| !axes.contains(a)) {
                        at = at * shape[a] + coordinate[a];
                    }
                    groups.resize(groups.len().max(at + 1), Vec::new());
                    groups[at].push(f64::from(x[i]));
                }
                let want: Vec<f64> = groups.iter().map(|g| naive(op, g)).collect();
                for got in every_ctx(|cx| {
                    let mut out = vec![9.0; want.len()];
                    reduce_axes(cx, op, &x, &shape, axes, &mut out).unwrap();
                    out
                }) {
                    assert_close(&got, &want, 1e-6, &format!("{op:?} {axes:?}"));
                }
            }
        }
    }

    #[test]
    fn nan_reaches_the_extrema_and_wrong_lengths_are_errors() {
        let pool = crate::Pool::new(1);
        let cx = Ctx { isa: crate::Isa::detect(), pool: &pool };
        for at in [0, 40, 99] {
            let mut x = vec![1.0; 100];
            x[at] = f32::NAN;
            for op in [ReduceOp::Max, ReduceOp::Min] {
                let mut out = [0.0];
                reduce(cx, op, &x, 1, 100, 1, &mut out).unwrap();
                assert!(out[0].is_nan());
            }
        }
        assert!(reduce(cx, ReduceOp::Sum, &[0.0; 5], 2, 3, 1, &mut [0.0; 2]).is_err());
        assert!(reduce(cx, ReduceOp::Sum, &[0.0; 6], 2, 3, 1, &mut [0.0; 3]).is_err());
        assert!(reduce_axes(cx, ReduceOp::Sum, &[0.0; 6], &[2, 3], &[2], &mut [0.0; 6]).is_err());
    }
}
