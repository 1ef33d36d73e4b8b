//! Matrix products.

use crate::{
    RefError,
    data::{broadcast_strides, count, walk},
    number::{Number, by_dtype},
};
use penjing_tensor::{Tensor, broadcast_shapes};

pub(crate) fn matmul(a: &Tensor, b: &Tensor, trans_a: bool, trans_b: bool) -> Result<Tensor, RefError> {
    by_dtype!(a.dtype(), matmul_as(a, b, trans_a, trans_b))
}

fn matmul_as<T: Number>(a: &Tensor, b: &Tensor, trans_a: bool, trans_b: bool) -> Result<Tensor, RefError> {
    let (shape, out) = product(a.shape(), &T::load(a)?, b.shape(), &T::load(b)?, trans_a, trans_b)?;
    T::store(a.dtype(), &shape, out)
}

/// The product of `a` and `b` given as numbers, before it is rounded to a dtype, with its shape.
pub(crate) fn product<T: Number>(
    a_shape: &[usize],
    a: &[T],
    b_shape: &[usize],
    b: &[T],
    trans_a: bool,
    trans_b: bool,
) -> Result<(Vec<usize>, Vec<T>), RefError> {
    let (ba, ma) = a_shape.split_at(a_shape.len() - 2);
    let (bb, mb) = b_shape.split_at(b_shape.len() - 2);
    let (m, k) = if trans_a { (ma[1], ma[0]) } else { (ma[0], ma[1]) };
    let n = if trans_b { mb[0] } else { mb[1] };
    let batch = broadcast_shapes(ba, bb).ok_or_else(|| RefError::Undefined {
        what: "matrix product",
        why: format!("batch axes {ba:?} and {bb:?} do not broadcast"),
    })?;
    let shape = [&batch[..], &[m, n]].concat();
    let mut out = vec![T::ZERO; count(&shape)?];
    if out.is_empty() || k == 0 {
        return Ok((shape, out));
    }
    let places = walk(&batch, broadcast_strides(ba, &batch), 0).zip(walk(&batch, broadcast_strides(bb, &batch), 0));
    for ((ia, ib), c) in places.zip(out.chunks_exact_mut(m * n)) {
        let a = oriented(&a[ia * m * k..][..m * k], m, k, trans_a);
        let b = oriented(&b[ib * k * n..][..k * n], k, n, trans_b);
        for (row, c) in a.chunks_exact(k).zip(c.chunks_exact_mut(n)) {
            for (&av, b) in row.iter().zip(b.chunks_exact(n)) {
                for (c, &bv) in c.iter_mut().zip(b) {
                    *c = c.add(av.mul(bv));
                }
            }
        }
    }
    Ok((shape, out))
}

/// The matrix as [rows, cols]; `transposed` says that it is stored as [cols, rows].
fn oriented<T: Number>(x: &[T], rows: usize, cols: usize, transposed: bool) -> Vec<T> {
    if !transposed {
        return x.to_vec();
    }
    (0..rows).flat_map(|r| (0..cols).map(move |c| x[c * rows + r])).collect()
}
