//! Pooling over any number of spatial axes, and its gradients.

use crate::{
    RefError,
    conv::{Windows, windows},
    data::{count, product, store_floats},
    number::{Number, by_dtype},
};
use penjing_ir::{PoolKind, PoolSpec};
use penjing_tensor::Tensor;

pub(crate) fn pool(kind: PoolKind, x: &Tensor, spec: &PoolSpec, shape: &[usize]) -> Result<Tensor, RefError> {
    match kind {
        PoolKind::Max => by_dtype!(x.dtype(), max_pool(x, spec, shape)),
        PoolKind::Average { count_include_pad } => {
            by_dtype!(x.dtype(), average_pool(x, spec, shape, count_include_pad))
        }
    }
}

fn max_pool<T: Number>(x: &Tensor, spec: &PoolSpec, shape: &[usize]) -> Result<Tensor, RefError> {
    let data = T::load(x)?;
    let mut out = vec![T::lowest(x.dtype()); count(shape)?];
    let w = windows_of(x.shape(), spec, shape);
    for (x, y) in planes(&data, x.shape()).zip(planes_mut(&mut out, shape)) {
        for &(o, i) in w.0.iter().flatten() {
            y[o] = y[o].max(x[i]);
        }
    }
    T::store(x.dtype(), shape, out)
}

fn average_pool<T: Number>(x: &Tensor, spec: &PoolSpec, shape: &[usize], with_pad: bool) -> Result<Tensor, RefError> {
    let data = T::load(x)?;
    let mut out = vec![T::ZERO; count(shape)?];
    let w = windows_of(x.shape(), spec, shape);
    let divisor = divisors(x.shape(), spec, shape, with_pad, &w);
    for (x, y) in planes(&data, x.shape()).zip(planes_mut(&mut out, shape)) {
        for &(o, i) in w.0.iter().flatten() {
            y[o] = y[o].add(x[i]);
        }
        y.iter_mut().zip(&divisor).for_each(|(v, &n)| *v = v.div(T::from_usize(n)));
    }
    T::store(x.dtype(), shape, out)
}

pub(crate) fn pool_grad(kind: PoolKind, x: &Tensor, dy: &Tensor, spec: &PoolSpec) -> Result<Tensor, RefError> {
    let mut out = vec![0.0; count(x.shape())?];
    let (data, dy_data) = (x.to_f64s(), dy.to_f64s());
    let w = windows_of(x.shape(), spec, dy.shape());
    let per_plane = planes(&data, x.shape()).zip(planes(&dy_data, dy.shape())).zip(planes_mut(&mut out, x.shape()));
    match kind {
        PoolKind::Max => {
            for ((x, dy), dx) in per_plane {
                // Windows come in row-major order of the kernel, so the first of equal elements is met first.
                let mut best: Vec<Option<usize>> = vec![None; dy.len()];
                for &(o, i) in w.0.iter().flatten() {
                    let wins = best[o].is_none_or(|b| x[i] > x[b] || (x[i].is_nan() && !x[b].is_nan()));
                    if wins {
                        best[o] = Some(i);
                    }
                }
                best.iter().zip(dy).for_each(|(b, d)| {
                    if let Some(i) = *b {
                        dx[i] += d;
                    }
                });
            }
        }
        PoolKind::Average { count_include_pad } => {
            let divisor = divisors(x.shape(), spec, dy.shape(), count_include_pad, &w);
            for ((_, dy), dx) in per_plane {
                for &(o, i) in w.0.iter().flatten() {
                    dx[i] += dy[o] / divisor[o] as f64;
                }
            }
        }
    }
    store_floats(x.dtype(), x.shape(), out)
}

/// What each window's sum is divided by: its elements inside the input, or inside the padded input with `with_pad`.
fn divisors(x: &[usize], spec: &PoolSpec, y: &[usize], with_pad: bool, w: &Windows) -> Vec<usize> {
    let mut n = vec![0usize; product(&y[2..])];
    if with_pad {
        let padded: Vec<usize> = x[2..].iter().zip(&spec.pads).map(|(n, (b, a))| n + b + a).collect();
        let zero = vec![0; padded.len()];
        let all = windows(&padded, &y[2..], &spec.kernel, &spec.strides, &spec.dilations, &zero);
        all.0.iter().flatten().for_each(|&(o, _)| n[o] += 1);
    } else {
        w.0.iter().flatten().for_each(|&(o, _)| n[o] += 1);
    }
    n
}

fn windows_of(x: &[usize], spec: &PoolSpec, y: &[usize]) -> Windows {
    let before: Vec<usize> = spec.pads.iter().map(|p| p.0).collect();
    if x.contains(&0) || y.contains(&0) {
        return Windows(Vec::new());
    }
    windows(&x[2..], &y[2..], &spec.kernel, &spec.strides, &spec.dilations, &before)
}

fn planes<'a, T>(data: &'a [T], shape: &[usize]) -> impl Iterator<Item = &'a [T]> + use<'a, T> {
    data.chunks(product(&shape[2..]).max(1))
}

fn planes_mut<'a, T>(data: &'a mut [T], shape: &[usize]) -> impl Iterator<Item = &'a mut [T]> + use<'a, T> {
    data.chunks_mut(product(&shape[2..]).max(1))
}
