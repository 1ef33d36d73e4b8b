//! Many products of one shape, as attention has: two batch axes with their own strides.

use super::{COut, Epilogue, GemmShape, Mat, Rhs, check, geometry, product_into, span};
use crate::{Ctx, KernelError, error::product, pool::Disjoint};

/// Multiply-adds of one product from which its own tasks are worth more than one task a product.
const LARGE: usize = 1 << 22;

/// Two batch axes. Strides are in elements; a stride of 0 uses the same A or B for the whole axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Batch {
    pub dims: [usize; 2],
    pub a: [usize; 2],
    pub b: [usize; 2],
    pub c: [usize; 2],
}

/// `C[i,j] = act((C[i,j]) + A[i,j]·B[i,j] + bias + residual[i,j])` for every (i, j) of the batch axes; the residual is laid out as C. The matrices `a` and `b` give the
/// strides within one product; `data` covers the whole batch. The products must not overlap in `c`.
pub fn gemm_batched(
    cx: Ctx<'_>,
    shape: GemmShape,
    batch: &Batch,
    a: Mat<'_>,
    b: Mat<'_>,
    epilogue: &Epilogue<'_>,
    c: &mut [f32],
    c_row_stride: usize,
) -> Result<(), KernelError> {
    let count = product(&batch.dims).ok_or(geometry("the batch is too large"))?;
    if count == 0 || shape.m == 0 || shape.n == 0 {
        return Ok(());
    }
    let last = |strides: [usize; 2]| {
        (batch.dims[0] - 1)
            .checked_mul(strides[0])
            .zip((batch.dims[1] - 1).checked_mul(strides[1]))
            .and_then(|(x, y)| x.checked_add(y))
            .ok_or(geometry("a batch stride overflows"))
    };
    let (last_a, last_b, last_c) = (last(batch.a)?, last(batch.b)?, last(batch.c)?);
    check(shape, at(a, last_a), Rhs::Plain(at(b, last_b)), epilogue)?;
    check_disjoint(shape, batch, c_row_stride)?;
    let need = span(shape.m, c_row_stride, shape.n, 1).and_then(|s| s.checked_add(last_c)).unwrap_or(usize::MAX);
    if need > c.len() {
        return Err(KernelError::Length { kernel: super::NAME, operand: "c", need, have: c.len() });
    }
    if let Some(residual) = epilogue.residual.filter(|r| need > r.len()) {
        return Err(KernelError::Length { kernel: super::NAME, operand: "residual", need, have: residual.len() });
    }
    let c = Disjoint::new(c);
    let one = |i: usize| {
        let offset = |s: [usize; 2]| i / batch.dims[1] * s[0] + i % batch.dims[1] * s[1];
        let (a, b) = (at(a, offset(batch.a)), at(b, offset(batch.b)));
        let epilogue = Epilogue { residual: epilogue.residual.map(|r| &r[offset(batch.c)..]), ..*epilogue };
        // SAFETY: the last product ends inside C, products do not overlap (`check_disjoint`), and each runs once.
        unsafe {
            let out = COut { ptr: c.as_ptr().add(offset(batch.c)), row_stride: c_row_stride };
            product_into(cx, shape, a, Rhs::Plain(b), &epilogue, out);
        }
    };
    if shape.m * shape.n * shape.k >= LARGE {
        (0..count).for_each(one);
    } else {
        cx.pool.run(count, &one);
    }
    Ok(())
}

fn at(m: Mat<'_>, offset: usize) -> Mat<'_> {
    Mat { data: m.data.get(offset..).unwrap_or(&[]), ..m }
}

/// Batch axes and rows, ordered by stride, must each step past everything the smaller ones cover.
fn check_disjoint(shape: GemmShape, batch: &Batch, c_row_stride: usize) -> Result<(), KernelError> {
    let mut axes = [(c_row_stride, shape.m), (batch.c[0], batch.dims[0]), (batch.c[1], batch.dims[1])];
    axes.sort_unstable();
    let mut extent = shape.n;
    for (stride, len) in axes {
        if len > 1 {
            if stride < extent {
                return Err(geometry("products of the batch overlap in C"));
            }
            extent =
                stride.checked_mul(len - 1).and_then(|s| s.checked_add(extent)).ok_or(geometry("C is too large"))?;
        }
    }
    Ok(())
}
