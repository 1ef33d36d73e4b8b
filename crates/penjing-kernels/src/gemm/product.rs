//! The driver of matrix products: packs what is not packed yet, and cuts C into tasks.

use super::{
    Epilogue, GemmShape, Mat, Rhs, gemv,
    pack::pack_cols,
    sink::{COut, CSink},
    tile::NR,
    transpose::transpose,
};
use crate::{
    Ctx,
    igemm::{self, Bases, Panels, Rows},
    scratch::with_scratch,
};
use std::ops::Range;

/// Multiply-adds below which a product is not shared: waking a thread costs more.
pub(super) const SMALL: usize = 1 << 16;
/// Rows of a task: their part of a k-block, 192 KiB, stays in the second-level cache.
const TASK_ROWS: usize = 192;
/// Tasks that a product is cut into where it has enough columns.
const TASKS: usize = 8;
/// Fewest column panels of a task, and what its panels are a multiple of: as many as a tile takes side by side.
const TASK_PANELS: usize = 2;
/// Elements of B that are packed at a time: 4 MiB.
const PACKED: usize = 1 << 20;
/// Column panels from which a transposed A is worth laying out in rows.
const LAID_PANELS: usize = 4;
/// Rows of A that a task lays out.
const LAID_ROWS: usize = 32;
/// Depth that is packed at a time.
const DEPTH: usize = 1 << 13;

/// The product of checked operands.
///
/// # Safety
/// C is `shape.m` rows of `shape.n` valid, exclusively held elements; a residual covers the same rows.
pub(super) unsafe fn product_into(
    cx: Ctx<'_>,
    shape: GemmShape,
    a: Mat<'_>,
    b: Rhs<'_>,
    epilogue: &Epilogue<'_>,
    c: COut,
) {
    let GemmShape { m, n, k } = shape;
    if m == 0 || n == 0 {
        return;
    }
    let b = match b {
        Rhs::Packed(b) => {
            // SAFETY: the caller's contract; one pass stores all of C.
            let sink = unsafe { CSink::new(cx.isa, c, 0, epilogue, true, true) };
            return share(cx, m, a, &b.b.view(), &sink);
        }
        Rhs::Plain(b) => b,
    };
    // SAFETY: the caller's contract.
    if unsafe { gemv::try_gemv(cx, shape, a, b, epilogue, c) } {
        return;
    }
    let mut first = 0;
    loop {
        let depth = DEPTH.min(k - first);
        let width = (PACKED / depth.max(1) / NR * NR).max(TASKS * TASK_PANELS * NR);
        let a = if depth == 0 { a } else { Mat { data: &a.data[first * a.col_stride..], ..a } };
        for col in (0..n).step_by(width) {
            let cols = width.min(n - col);
            // SAFETY: the caller's contract; the columns of the passes of one depth are disjoint.
            let sink = unsafe { CSink::new(cx.isa, c, col, epilogue, first == 0, first + depth == k) };
            let fill = |steps: Range<usize>, panel: usize, out: &mut [f32]| {
                let columns = col + panel * NR..col + cols.min((panel + 1) * NR);
                pack_cols(cx.isa, &b, columns, first + steps.start..first + steps.end, out);
            };
            igemm::with_panels(cx, cols, depth, &fill, |panels| lay_rows(cx, m, a, panels, &sink));
        }
        first += depth;
        if first == k {
            return;
        }
    }
}

/// Multiplies by packed columns; a transposed A that many columns read is laid out in rows before.
fn lay_rows(cx: Ctx<'_>, m: usize, a: Mat<'_>, b: &Panels<'_>, sink: &CSink<'_>) {
    let depth = b.depth();
    if a.row_stride != 1 || a.col_stride == 1 || b.count() < LAID_PANELS || depth == 0 {
        return share(cx, m, a, b, sink);
    }
    let most = (PACKED / depth).max(TASK_ROWS);
    for first in (0..m).step_by(most) {
        let rows = most.min(m - first);
        with_scratch::<f32, _>(rows * depth, |laid| {
            cx.pool.run_chunks(laid, LAID_ROWS * depth, &|t, out| {
                let (at, n) = (first + t * LAID_ROWS, out.len() / depth);
                transpose(cx.isa, [depth, n], &a.data[at..], a.col_stride, out, depth);
            });
            share(cx, rows, Mat::rows(laid, depth), b, &sink.below(first));
        });
    }
}

/// Multiplies `m` rows of A by packed columns in tasks that depend on their extents alone.
fn share(cx: Ctx<'_>, m: usize, a: Mat<'_>, b: &Panels<'_>, sink: &CSink<'_>) {
    let panels = b.count();
    let row_tasks = m.div_ceil(TASK_ROWS);
    let units = panels.div_ceil(TASK_PANELS);
    let col_tasks = TASKS.div_ceil(row_tasks).min(units);
    let task = |t: usize| {
        let (i, j) = (t % row_tasks, t / row_tasks);
        let rows = i * m / row_tasks..(i + 1) * m / row_tasks;
        let cut = |j: usize| panels.min(j * units / col_tasks * TASK_PANELS);
        let columns = cut(j)..cut(j + 1);
        let sink = sink.below(rows.start);
        let bases: Vec<usize> = rows.map(|r| r * a.row_stride).collect();
        let rows = Rows { data: a.data, bases: Bases::new(&bases), offsets: &[0], line: bases.len() };
        igemm::multiply(cx.isa, &rows, a.col_stride, b, columns, &sink);
    };
    if m * panels * NR * b.depth() < SMALL {
        (0..row_tasks * col_tasks).for_each(task);
    } else {
        cx.pool.run(row_tasks * col_tasks, &task);
    }
}
