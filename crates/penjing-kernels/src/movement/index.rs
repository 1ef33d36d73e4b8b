//! Rows picked by index, and the sum that undoes it.

use super::{ElemSize, by_size};
use crate::{
    Ctx, KernelError,
    error::{check_len, product},
    isa::{Math, per_isa},
};

/// Elements of one task.
const TASK: usize = 1 << 14;

/// `dst[o][j] = src[o][indices[j]]`: src `[outer, n, inner]`, dst `[outer, indices.len(), inner]`, as bytes. A negative index
/// counts from the end; one outside is `KernelError::Index`.
pub fn gather(
    cx: Ctx<'_>,
    size: ElemSize,
    src: &[u8],
    [outer, n, inner]: [usize; 3],
    indices: &[i64],
    dst: &mut [u8],
) -> Result<(), KernelError> {
    let bytes = |n: usize| product(&[outer, n, inner, size.bytes()]);
    check_len("gather", "src", bytes(n), src.len())?;
    check_len("gather", "dst", bytes(indices.len()), dst.len())?;
    let rows = resolve("gather", indices, n)?;
    if !dst.is_empty() {
        by_size!(size, gather_as(cx, src, [n, inner], &rows, dst));
    }
    Ok(())
}

/// The gradient of [`gather`]: `dst[o][i] = Σ dy[o][j] over the j with indices[j] == i`, in order of j. dy is
/// `[outer, indices.len(), inner]`, dst `[outer, n, inner]`.
pub fn gather_grad(
    cx: Ctx<'_>,
    dy: &[f32],
    indices: &[i64],
    [outer, n, inner]: [usize; 3],
    dst: &mut [f32],
) -> Result<(), KernelError> {
    check_len("gather_grad", "dy", product(&[outer, indices.len(), inner]), dy.len())?;
    check_len("gather_grad", "dst", product(&[outer, n, inner]), dst.len())?;
    let rows = resolve("gather_grad", indices, n)?;
    if dst.is_empty() {
        return Ok(());
    }
    // Positions in order of their row, so that each row of dst has one owner.
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&j| rows[j]);
    let rows_per_task = (TASK / inner).clamp(1, n);
    // A task is a range of rows of one outer index: chunks must not cross it.
    let per_outer = n.div_ceil(rows_per_task);
    let dst = crate::pool::Disjoint::new(dst);
    let task = |t: usize| {
        let (o, first) = (t / per_outer, t % per_outer * rows_per_task);
        let count = rows_per_task.min(n - first);
        // SAFETY: tasks own disjoint ranges of rows.
        let out = unsafe { dst.slice((o * n + first) * inner, count * inner) };
        out.fill(0.0);
        let mine = order.partition_point(|&j| rows[j] < first)..order.partition_point(|&j| rows[j] < first + count);
        for &j in &order[mine] {
            let row = &mut out[(rows[j] - first) * inner..][..inner];
            add_row(cx.isa, &dy[(o * rows.len() + j) * inner..][..inner], row);
        }
    };
    cx.pool.run(outer * per_outer, &task);
    Ok(())
}

/// `one` at the index along a new axis, zero bytes elsewhere: dst is `[outer, depth, inner]` elements of `one.len()` bytes with
/// `outer * inner == indices.len()`. An index outside `-depth..depth` gives zeros.
pub fn one_hot(
    cx: Ctx<'_>,
    one: &[u8],
    indices: &[i64],
    depth: usize,
    inner: usize,
    dst: &mut [u8],
) -> Result<(), KernelError> {
    let size = ElemSize::new(one.len())
        .ok_or(KernelError::Geometry { kernel: "one_hot", why: "an element has 1, 2, 4 or 8 bytes" })?;
    check_len("one_hot", "dst", product(&[indices.len(), depth, size.bytes()]), dst.len())?;
    if inner == 0 && indices.is_empty() {
        return Ok(());
    }
    if inner == 0 || !indices.len().is_multiple_of(inner) {
        return Err(KernelError::Geometry { kernel: "one_hot", why: "`inner` does not divide the indices" });
    }
    if !dst.is_empty() {
        by_size!(size, one_hot_as(cx, one, indices, depth, inner, dst));
    }
    Ok(())
}

/// Every index counted from the front.
fn resolve(kernel: &'static str, indices: &[i64], n: usize) -> Result<Vec<usize>, KernelError> {
    let row = |(position, &index): (usize, &i64)| {
        place(index, n).ok_or(KernelError::Index { kernel, index, position, bound: n })
    };
    indices.iter().enumerate().map(row).collect()
}

fn place(index: i64, n: usize) -> Option<usize> {
    let from_front = if index < 0 { i128::from(index) + n as i128 } else { i128::from(index) };
    usize::try_from(from_front).ok().filter(|&i| i < n)
}

fn gather_as<const N: usize>(cx: Ctx<'_>, src: &[u8], [n, inner]: [usize; 2], rows: &[usize], dst: &mut [u8]) {
    let (src, dst) = (src.as_chunks::<N>().0, dst.as_chunks_mut::<N>().0);
    let rows_per_task = (TASK / inner).max(1);
    let task = |t: usize, out: &mut [[u8; N]]| {
        for (r, out) in out.chunks_exact_mut(inner).enumerate() {
            let place = t * rows_per_task + r;
            let (o, j) = (place / rows.len(), place % rows.len());
            let from = (o * n + rows[j]) * inner;
            if inner == 1 { out[0] = src[from] } else { out.copy_from_slice(&src[from..from + inner]) }
        }
    };
    cx.pool.run_chunks(dst, rows_per_task * inner, &task);
}

fn one_hot_as<const N: usize>(cx: Ctx<'_>, one: &[u8], indices: &[i64], depth: usize, inner: usize, dst: &mut [u8]) {
    let mut v = [0; N];
    v.copy_from_slice(one);
    let slab = depth * inner;
    let slabs_per_task = (TASK / slab).max(1);
    let task = |t: usize, out: &mut [[u8; N]]| {
        out.fill([0; N]);
        for (s, out) in out.chunks_exact_mut(slab).enumerate() {
            let o = t * slabs_per_task + s;
            for (i, &index) in indices[o * inner..(o + 1) * inner].iter().enumerate() {
                if let Some(d) = place(index, depth) {
                    out[d * inner + i] = v;
                }
            }
        }
    };
    cx.pool.run_chunks(dst.as_chunks_mut::<N>().0, slabs_per_task * slab, &task);
}

per_isa! {
    /// `out[i] += row[i]`.
    fn add_row(row: &[f32], out: &mut [f32]) = add_row_body
}

#[inline(always)]
fn add_row_body<M: Math>(row: &[f32], out: &mut [f32]) {
    for (o, &v) in out.iter_mut().zip(row) {
        *o += v;
    }
}
