//! Facts of gather, scatter and generated values.

use super::{Why, check_axis, check_dtype, check_extents, check_shape, ensure, operands};
use crate::{Dim, Fact};
use penjing_tensor::DType;

pub(super) fn gather([data, indices]: [&Fact; 2], axis: usize) -> Result<Fact, Why> {
    check_axis(data, axis)?;
    check_dtype(indices, DType::I64)?;
    let shape = [&data.shape[..axis], &indices.shape[..], &data.shape[axis + 1..]].concat();
    Ok(Fact { dtype: data.dtype, shape })
}

pub(super) fn gather_grad([indices, d]: [&Fact; 2], axis: usize, size: &Dim) -> Result<Fact, Why> {
    check_dtype(indices, DType::I64)?;
    let end = axis + indices.rank();
    ensure(end <= d.rank() && d.shape[axis..end] == indices.shape[..], || {
        format!("the gradient {d} does not hold the indices {indices} at axis {axis}")
    })?;
    let shape = [&d.shape[..axis], std::slice::from_ref(size), &d.shape[end..]].concat();
    Ok(Fact { dtype: d.dtype, shape })
}

pub(super) fn gather_elements([data, indices]: [&Fact; 2], axis: usize) -> Result<Fact, Why> {
    check_elements(data, indices, axis)?;
    Ok(Fact { dtype: data.dtype, shape: indices.shape.clone() })
}

pub(super) fn scatter_elements([data, indices, updates]: [&Fact; 3], axis: usize) -> Result<Fact, Why> {
    check_elements(data, indices, axis)?;
    check_dtype(updates, data.dtype)?;
    check_shape("updates", updates, &indices.shape)?;
    Ok(data.clone())
}

pub(super) fn gather_nd([data, indices]: [&Fact; 2], batch_dims: usize) -> Result<Fact, Why> {
    let k = nd_depth(data, indices, batch_dims)?;
    let shape = [&indices.shape[..indices.rank() - 1], &data.shape[batch_dims + k..]].concat();
    Ok(Fact { dtype: data.dtype, shape })
}

pub(super) fn scatter_nd([data, indices, updates]: [&Fact; 3]) -> Result<Fact, Why> {
    let k = nd_depth(data, indices, 0)?;
    check_dtype(updates, data.dtype)?;
    let shape = [&indices.shape[..indices.rank() - 1], &data.shape[k..]].concat();
    check_shape("updates", updates, &shape)?;
    Ok(data.clone())
}

pub(super) fn one_hot(indices: &Fact, axis: usize, depth: &Dim, dtype: DType) -> Result<Fact, Why> {
    check_dtype(indices, DType::I64)?;
    ensure(axis <= indices.rank(), || format!("axis {axis} is outside rank {}", indices.rank() + 1))?;
    check_extents(std::slice::from_ref(depth))?;
    let mut shape = indices.shape.clone();
    shape.insert(axis, depth.clone());
    Ok(Fact { dtype, shape })
}

pub(super) fn iota([]: [&Fact; 0], shape: &[Dim], axis: usize, dtype: DType) -> Result<Fact, Why> {
    check_extents(shape)?;
    ensure(axis < shape.len() || shape.is_empty(), || format!("axis {axis} is outside rank {}", shape.len()))?;
    ensure(dtype != DType::Bool, || "cannot count in bool".into())?;
    Ok(Fact { dtype, shape: shape.to_vec() })
}

pub(super) fn random(step: &Fact, shape: &[Dim]) -> Result<Fact, Why> {
    let [step] = operands(std::slice::from_ref(step))?;
    check_dtype(step, DType::I64)?;
    check_shape("step", step, &[])?;
    check_extents(shape)?;
    Ok(Fact { dtype: DType::F32, shape: shape.to_vec() })
}

fn check_elements(data: &Fact, indices: &Fact, axis: usize) -> Result<(), Why> {
    check_axis(data, axis)?;
    check_dtype(indices, DType::I64)?;
    ensure(indices.rank() == data.rank(), || format!("indices {indices} must have the rank of {data}"))?;
    for i in (0..data.rank()).filter(|&i| i != axis) {
        if let (Some(n), Some(m)) = (data.shape[i].as_const(), indices.shape[i].as_const()) {
            ensure(m <= n, || format!("indices {indices} reach past {data} on axis {i}"))?;
        }
    }
    Ok(())
}

/// Length of the index tuples of the Nd forms.
fn nd_depth(data: &Fact, indices: &Fact, batch_dims: usize) -> Result<usize, Why> {
    check_dtype(indices, DType::I64)?;
    let k =
        indices.shape.last().and_then(Dim::as_const).ok_or("the last axis of the indices must have a known extent")?;
    ensure(batch_dims < indices.rank() && batch_dims + k <= data.rank(), || {
        format!("index tuples of {k} with {batch_dims} batch axes do not fit {data}")
    })?;
    ensure(indices.shape[..batch_dims] == data.shape[..batch_dims], || {
        format!("the first {batch_dims} axes of {data} and {indices} differ")
    })?;
    Ok(k)
}
