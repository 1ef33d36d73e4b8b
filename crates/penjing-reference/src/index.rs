//! Gather, scatter and generated values. An index outside its axis is an error.

use crate::{
    RefError,
    data::{around, count, indices, pick, product, resolve, store_floats, store_ints},
    number::{Number, by_dtype},
};
use penjing_ir::{RandomKind, ScatterReduction};
use penjing_tensor::{DType, Rng, Tensor, strides};

pub(crate) fn gather(data: &Tensor, index: &Tensor, axis: usize, shape: &[usize]) -> Result<Tensor, RefError> {
    let (outer, n, inner) = around(data.shape(), axis);
    count(shape)?;
    let rows = resolved(index, |_| n)?;
    let from =
        (0..outer).flat_map(|o| rows.iter().flat_map(move |&i| (0..inner).map(move |k| (o * n + i) * inner + k)));
    pick(data, shape, from)
}

pub(crate) fn gather_grad(
    index: &Tensor,
    d: &Tensor,
    axis: usize,
    size: usize,
    shape: &[usize],
) -> Result<Tensor, RefError> {
    by_dtype!(d.dtype(), gather_grad_as(index, d, axis, size, shape))
}

fn gather_grad_as<T: Number>(
    index: &Tensor,
    d: &Tensor,
    axis: usize,
    size: usize,
    shape: &[usize],
) -> Result<Tensor, RefError> {
    let mut out = vec![T::ZERO; count(shape)?];
    let rows = resolved(index, |_| size)?;
    let inner = product(&shape[axis + 1..]);
    if inner > 0 && !rows.is_empty() {
        let values = T::load(d)?;
        for (place, chunk) in values.chunks_exact(inner).enumerate() {
            let (o, i) = (place / rows.len(), rows[place % rows.len()]);
            for (slot, &v) in out[(o * size + i) * inner..][..inner].iter_mut().zip(chunk) {
                *slot = slot.add(v);
            }
        }
    }
    T::store(d.dtype(), shape, out)
}

pub(crate) fn gather_elements(data: &Tensor, index: &Tensor, axis: usize) -> Result<Tensor, RefError> {
    let places = element_places(data.shape(), index, axis)?;
    pick(data, index.shape(), places.into_iter())
}

pub(crate) fn scatter_elements(
    data: &Tensor,
    index: &Tensor,
    updates: &Tensor,
    axis: usize,
    reduction: ScatterReduction,
) -> Result<Tensor, RefError> {
    let places = element_places(data.shape(), index, axis)?;
    by_dtype!(data.dtype(), scatter(data, updates, places.into_iter(), reduction))
}

pub(crate) fn gather_nd(data: &Tensor, index: &Tensor, batch_dims: usize, shape: &[usize]) -> Result<Tensor, RefError> {
    count(shape)?;
    let (starts, len) = tuple_places(data.shape(), index, batch_dims)?;
    pick(data, shape, starts.into_iter().flat_map(|s| s..s + len))
}

pub(crate) fn scatter_nd(
    data: &Tensor,
    index: &Tensor,
    updates: &Tensor,
    reduction: ScatterReduction,
) -> Result<Tensor, RefError> {
    let (starts, len) = tuple_places(data.shape(), index, 0)?;
    by_dtype!(data.dtype(), scatter(data, updates, starts.into_iter().flat_map(|s| s..s + len), reduction))
}

pub(crate) fn one_hot(index: &Tensor, axis: usize, dtype: DType, shape: &[usize]) -> Result<Tensor, RefError> {
    let mut out = vec![0i128; count(shape)?];
    let depth = shape[axis];
    let inner = product(&shape[axis + 1..]);
    for (place, &i) in indices(index)?.iter().enumerate() {
        if let (Ok(i), Some(o)) = (resolve(i, place, depth), place.checked_div(inner)) {
            out[(o * depth + i) * inner + place % inner] = 1;
        }
    }
    Ok(store_ints(DType::U8, shape, out)?.cast(dtype))
}

pub(crate) fn iota(axis: usize, dtype: DType, shape: &[usize]) -> Result<Tensor, RefError> {
    let total = count(shape)?;
    let (n, inner) = if shape.is_empty() { (1, 1) } else { (shape[axis], product(&shape[axis + 1..])) };
    let at = |i: usize| i / inner % n;
    if dtype.is_float() {
        return store_floats(dtype, shape, (0..total).map(|i| at(i) as f64).collect());
    }
    store_ints(dtype, shape, (0..total).map(|i| at(i) as i128).collect())
}

/// I64 [rank, count] in row-major order of x; a scalar counts as one axis of extent 1.
pub(crate) fn non_zero(x: &Tensor) -> Result<Tensor, RefError> {
    fn places<T: Number>(x: &Tensor) -> Result<Vec<usize>, RefError> {
        let is_set = |v: &T| v.is_nan() || *v < T::ZERO || *v > T::ZERO;
        Ok(T::load(x)?.iter().enumerate().filter(|(_, v)| is_set(v)).map(|(i, _)| i).collect())
    }
    let places = by_dtype!(x.dtype(), places(x))?;
    let shape = if x.rank() == 0 { &[1] } else { x.shape() };
    let steps = strides(shape);
    let rows = (0..shape.len()).flat_map(|axis| {
        let (step, n) = (steps[axis], shape[axis]);
        places.iter().map(move |p| (p / step % n) as i64)
    });
    Ok(Tensor::from_vec(&[shape.len(), places.len()], rows.collect())?)
}

pub(crate) fn random(
    step: &Tensor,
    kind: RandomKind,
    seed: u64,
    stream: &str,
    shape: &[usize],
) -> Result<Tensor, RefError> {
    let step = step.as_slice::<i64>()?.first().copied().unwrap_or(0);
    let rng = Rng::new(seed, stream, step as u64);
    let draw = |i: usize| match kind {
        RandomKind::Uniform => rng.uniform(i as u64),
        RandomKind::Normal => rng.normal(i as u64),
    };
    Ok(Tensor::from_vec(shape, (0..count(shape)?).map(draw).collect())?)
}

/// `data` with each update written or combined at its place, in order.
fn scatter<T: Number>(
    data: &Tensor,
    updates: &Tensor,
    places: impl Iterator<Item = usize>,
    reduction: ScatterReduction,
) -> Result<Tensor, RefError> {
    let mut out = T::load(data)?;
    for (place, v) in places.zip(T::load(updates)?) {
        out[place] = match reduction {
            ScatterReduction::None => v,
            ScatterReduction::Add => out[place].add(v),
            ScatterReduction::Mul => out[place].mul(v),
            ScatterReduction::Max => out[place].max(v),
            ScatterReduction::Min => out[place].min(v),
        };
    }
    T::store(data.dtype(), data.shape(), out)
}

/// All indices counted from the front; `extent(position)` is the axis that an index points into.
fn resolved(index: &Tensor, extent: impl Fn(usize) -> usize) -> Result<Vec<usize>, RefError> {
    indices(index)?.iter().enumerate().map(|(p, &i)| resolve(i, p, extent(p))).collect()
}

/// For each element of `index`, the offset in data that has the index along `axis` and the element's own position elsewhere.
fn element_places(data: &[usize], index: &Tensor, axis: usize) -> Result<Vec<usize>, RefError> {
    let (to, own) = (strides(data), strides(index.shape()));
    let place = |(p, i): (usize, usize)| {
        (0..data.len()).map(|a| if a == axis { i * to[a] } else { p / own[a].max(1) % index.shape()[a] * to[a] }).sum()
    };
    Ok(resolved(index, |_| data[axis])?.into_iter().enumerate().map(place).collect())
}

/// For each index tuple, the offset of the block of data that it names, and the length of each block.
fn tuple_places(data: &[usize], index: &Tensor, batch_dims: usize) -> Result<(Vec<usize>, usize), RefError> {
    let k = index.shape().last().copied().unwrap_or(0);
    let block = product(&data[batch_dims + k..]);
    let tuples = product(&index.shape()[..index.rank().saturating_sub(1)]);
    let batches = product(&data[..batch_dims]);
    count(&[tuples])?;
    let at = resolved(index, |p| data[batch_dims + p % k])?;
    let steps = strides(data);
    let starts = (0..tuples).map(|t| {
        let batch = t.checked_div(tuples.checked_div(batches).unwrap_or(0)).unwrap_or(0);
        let base = batch * product(&data[batch_dims..]);
        base + (0..k).map(|j| at[t * k + j] * steps[batch_dims + j]).sum::<usize>()
    });
    Ok((starts.collect(), block))
}
