//! Products of one row (or one column), where packing would cost more than the product.

use super::{Accumulate, Bias, Epilogue, GemmShape, Mat, product::SMALL, sink::COut};
use crate::{
    Ctx,
    isa::{Math, per_isa, prefetch},
};

/// Columns of one task whose rows are pieces of longer ones: long pieces, since a new one costs the memory more than to go on.
const COLS: [usize; 2] = [256, 2048];
/// Multiply-adds of one task at least, where columns are whole.
const TASK_WORK: usize = SMALL / 4;
/// Tasks that a product is cut into where it has enough columns.
const TASKS: usize = 16;
/// How many elements ahead of their use weights are asked for, 4 KiB: the hardware asks for nothing beyond a page.
const AHEAD: usize = 1024;
/// Elements of a cache line.
const LINE: usize = 16;
/// Lanes of a dot product: chains enough to hide the latency of their multiply-adds.
const LANES: usize = 32;

/// Computes a product with `m == 1` (or `n == 1`, transposed) whose vector is contiguous or short to copy; false when the
/// operands have another form.
///
/// # Safety
/// C is `shape.m` rows of `shape.n` valid, exclusively held elements.
pub(super) unsafe fn try_gemv(
    cx: Ctx<'_>,
    shape: GemmShape,
    a: Mat<'_>,
    b: Mat<'_>,
    epilogue: &Epilogue<'_>,
    c: COut,
) -> bool {
    let GemmShape { m, n, k } = shape;
    let (row, mat, n, bias) = if m == 1 {
        let bias = match epilogue.bias {
            Bias::Row(b) => VecBias::One(b[0]),
            Bias::Col(b) => VecBias::Each(b),
            Bias::None => VecBias::One(0.0),
        };
        (a, b, n, bias)
    } else if n == 1 && c.row_stride == 1 {
        let bias = match epilogue.bias {
            Bias::Row(b) => VecBias::Each(b),
            Bias::Col(b) => VecBias::One(b[0]),
            Bias::None => VecBias::One(0.0),
        };
        (b.t(), a.t(), m, bias)
    } else {
        return false;
    };
    if k == 0 || !(mat.col_stride == 1 || mat.row_stride == 1) {
        return false;
    }
    let gathered: Vec<f32>;
    let x = if row.col_stride == 1 {
        &row.data[..k]
    } else {
        gathered = (0..k).map(|p| row.data[p * row.col_stride]).collect();
        &gathered
    };
    // SAFETY: C is one row of `n` elements, exclusively held (the caller's contract).
    let out = unsafe { std::slice::from_raw_parts_mut(c.ptr, n) };
    let fewest = if mat.col_stride == 1 { COLS[0] } else { TASK_WORK.div_ceil(k).min(COLS[0]) };
    let width = n.div_ceil(TASKS).clamp(fewest, COLS[1]);
    let task = |t: usize, out: &mut [f32]| {
        let col = t * width;
        let mut sums = [0f32; COLS[1]];
        let sums = &mut sums[..out.len()];
        if mat.col_stride == 1 {
            add_rows(cx.isa, x, &mat.data[col..], mat.row_stride, sums);
        } else {
            dot_columns(cx.isa, x, &mat.data[col * mat.col_stride..], mat.col_stride, sums);
        }
        for (j, (out, &sum)) in out.iter_mut().zip(&*sums).enumerate() {
            let bias = match bias {
                VecBias::One(b) => b,
                VecBias::Each(b) => b[col + j],
            };
            let old = if epilogue.accumulate == Accumulate::Add { *out } else { 0.0 };
            *out = sum + old + bias;
        }
        if let Some(residual) = epilogue.residual {
            out.iter_mut().zip(&residual[col..]).for_each(|(v, r)| *v += r);
        }
        epilogue.act.apply(cx.isa, out);
    };
    if n * k < SMALL {
        out.chunks_mut(width).enumerate().for_each(|(t, out)| task(t, out));
    } else {
        cx.pool.run_chunks(out, width, &task);
    }
    true
}

enum VecBias<'a> {
    One(f32),
    Each(&'a [f32]),
}

per_isa! {
    /// `out[j] = sum over p of x[p] * mat[p * stride + j]`.
    fn add_rows(x: &[f32], mat: &[f32], stride: usize, out: &mut [f32]) = add_rows_body
}

#[inline(always)]
fn add_rows_body<M: Math>(x: &[f32], mat: &[f32], stride: usize, out: &mut [f32]) {
    let n = out.len();
    let mut p = 0;
    while p + 4 <= x.len() {
        let rows: [&[f32]; 4] = std::array::from_fn(|i| &mat[(p + i) * stride..][..n]);
        for j in 0..n {
            let mut s = out[j];
            for i in 0..4 {
                s = M::fma(x[p + i], rows[i][j], s);
            }
            out[j] = s;
        }
        p += 4;
    }
    for p in p..x.len() {
        let row = &mat[p * stride..][..n];
        for j in 0..n {
            out[j] = M::fma(x[p], row[j], out[j]);
        }
    }
}

per_isa! {
    /// `out[j] = dot(x, mat[j * stride..])`.
    fn dot_columns(x: &[f32], mat: &[f32], stride: usize, out: &mut [f32]) = dot_columns_body
}

#[inline(always)]
fn dot_columns_body<M: Math>(x: &[f32], mat: &[f32], stride: usize, out: &mut [f32]) {
    for (j, out) in out.iter_mut().enumerate() {
        *out = dot::<M>(x, &mat[j * stride..][..x.len()]);
    }
}

/// The dot product, in 32 interleaved partial sums folded pairwise.
#[inline(always)]
fn dot<M: Math>(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let tail = xs.remainder().iter().zip(ys.remainder());
    for (x, y) in xs.zip(ys) {
        for line in (0..LANES).step_by(LINE) {
            prefetch(y.as_ptr().wrapping_add(AHEAD + line));
        }
        for l in 0..LANES {
            lanes[l] = M::fma(x[l], y[l], lanes[l]);
        }
    }
    for (lane, (x, y)) in lanes.iter_mut().zip(tail) {
        *lane = M::fma(*x, *y, *lane);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] += lanes[l + width];
        }
        width /= 2;
    }
    lanes[0]
}
