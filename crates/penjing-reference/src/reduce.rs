//! Reductions, running sums and searches along axes.

use crate::{
    RefError,
    data::{around, count, walk},
    number::{Number, by_dtype},
};
use penjing_ir::{ArgKind, Reduction};
use penjing_tensor::{Tensor, strides};
use std::cmp::Ordering;

pub(crate) fn reduce(kind: Reduction, x: &Tensor, axes: &[usize], keep: bool) -> Result<Tensor, RefError> {
    by_dtype!(x.dtype(), reduce_as(kind, x, axes, keep))
}

fn reduce_as<T: Number>(kind: Reduction, x: &Tensor, axes: &[usize], keep: bool) -> Result<Tensor, RefError> {
    let kept: Vec<usize> = x.shape().iter().enumerate().map(|(i, &n)| if axes.contains(&i) { 1 } else { n }).collect();
    let own = strides(&kept);
    let to = (0..x.rank()).map(|i| if axes.contains(&i) { 0 } else { own[i] as isize }).collect();
    let start = match kind {
        Reduction::Sum | Reduction::Mean => T::ZERO,
        Reduction::Prod => T::ONE,
        Reduction::Max => T::lowest(x.dtype()),
        Reduction::Min => T::highest(x.dtype()),
    };
    let mut out = vec![start; count(&kept)?];
    for (v, o) in T::load(x)?.into_iter().zip(walk(x.shape(), to, 0)) {
        out[o] = match kind {
            Reduction::Sum | Reduction::Mean => out[o].add(v),
            Reduction::Prod => out[o].mul(v),
            Reduction::Max => out[o].max(v),
            Reduction::Min => out[o].min(v),
        };
    }
    if kind == Reduction::Mean {
        let n = T::from_usize(axes.iter().fold(1usize, |n, &a| n.saturating_mul(x.shape()[a])));
        out.iter_mut().for_each(|v| *v = v.div(n));
    }
    let dropped: Vec<usize> = (0..x.rank()).filter(|i| keep || !axes.contains(i)).map(|i| kept[i]).collect();
    T::store(x.dtype(), &dropped, out)
}

pub(crate) fn arg_reduce(kind: ArgKind, x: &Tensor, axis: usize, keep: bool, last: bool) -> Result<Tensor, RefError> {
    by_dtype!(x.dtype(), arg_reduce_as(kind, x, axis, keep, last))
}

fn arg_reduce_as<T: Number>(
    kind: ArgKind,
    x: &Tensor,
    axis: usize,
    keep: bool,
    last: bool,
) -> Result<Tensor, RefError> {
    let (outer, n, inner) = around(x.shape(), axis);
    if n == 0 && outer * inner > 0 {
        return Err(RefError::Undefined { what: "the index of an extreme", why: format!("axis {axis} is empty") });
    }
    let data = T::load(x)?;
    let mut out = Vec::with_capacity(outer * inner);
    for o in 0..outer {
        for k in 0..inner {
            let at = |i: usize| data[(o * n + i) * inner + k];
            let mut best = 0;
            for i in 1..n {
                let order = match kind {
                    ArgKind::Max => nan_extreme(at(i), at(best), Ordering::Greater),
                    ArgKind::Min => nan_extreme(at(best), at(i), Ordering::Less),
                };
                if order == Ordering::Greater || (last && order == Ordering::Equal) {
                    best = i;
                }
            }
            out.push(best as i64);
        }
    }
    let mut shape = x.shape().to_vec();
    if keep {
        shape[axis] = 1;
    } else {
        shape.remove(axis);
    }
    Ok(Tensor::from_vec(&shape, out)?)
}

/// Order of two numbers where NaN stands at the end that `nan` names, so that NaN wins an extreme search as in NumPy.
fn nan_extreme<T: Number>(a: T, b: T, nan: Ordering) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => nan,
        (false, true) => nan.reverse(),
        (false, false) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
    }
}

pub(crate) fn cum_sum(x: &Tensor, axis: usize, exclusive: bool, reverse: bool) -> Result<Tensor, RefError> {
    by_dtype!(x.dtype(), cum_sum_as(x, axis, exclusive, reverse))
}

fn cum_sum_as<T: Number>(x: &Tensor, axis: usize, exclusive: bool, reverse: bool) -> Result<Tensor, RefError> {
    let (outer, n, inner) = around(x.shape(), axis);
    let mut data = T::load(x)?;
    for o in 0..outer {
        for k in 0..inner {
            let mut sum = T::ZERO;
            for step in 0..n {
                let i = if reverse { n - 1 - step } else { step };
                let slot = &mut data[(o * n + i) * inner + k];
                let with = sum.add(*slot);
                *slot = if exclusive { sum } else { with };
                sum = with;
            }
        }
    }
    T::store(x.dtype(), x.shape(), data)
}

pub(crate) fn top_k(x: &Tensor, axis: usize, k: usize, largest: bool) -> Result<Vec<Tensor>, RefError> {
    by_dtype!(x.dtype(), top_k_as(x, axis, k, largest))
}

fn top_k_as<T: Number>(x: &Tensor, axis: usize, k: usize, largest: bool) -> Result<Vec<Tensor>, RefError> {
    let (outer, n, inner) = around(x.shape(), axis);
    let data = T::load(x)?;
    let mut shape = x.shape().to_vec();
    shape[axis] = k;
    let total = count(&shape)?;
    let (mut values, mut places) = (vec![T::ZERO; total], vec![0i64; total]);
    for o in 0..outer {
        for p in 0..inner {
            let at = |i: usize| data[(o * n + i) * inner + p];
            let mut order: Vec<usize> = (0..n).collect();
            // A stable sort keeps the lower index first among equals. NaN counts as the largest.
            order.sort_by(|&a, &b| {
                let ascending = nan_extreme(at(a), at(b), Ordering::Greater);
                if largest { ascending.reverse() } else { ascending }
            });
            for (j, &i) in order.iter().take(k).enumerate() {
                values[(o * k + j) * inner + p] = at(i);
                places[(o * k + j) * inner + p] = i as i64;
            }
        }
    }
    Ok(vec![T::store(x.dtype(), &shape, values)?, Tensor::from_vec(&shape, places)?])
}
