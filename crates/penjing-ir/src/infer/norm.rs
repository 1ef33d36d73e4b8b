//! Facts of normalisations.

use super::{Why, check_axis, check_float, check_shape, ensure};
use crate::{Dim, Fact};

pub(super) fn softmax(x: &Fact, axis: usize) -> Result<Fact, Why> {
    check_float(x)?;
    check_axis(x, axis)?;
    Ok(x.clone())
}

pub(super) fn batch_norm([x, scale, bias, mean, var]: [&Fact; 5]) -> Result<Fact, Why> {
    per_channel(x, &[scale, bias, mean, var])?;
    Ok(x.clone())
}

pub(super) fn batch_norm_train([x, scale, bias]: [&Fact; 3]) -> Result<Vec<Fact>, Why> {
    let channel = per_channel(x, &[scale, bias])?;
    Ok(vec![x.clone(), channel.clone(), channel])
}

pub(super) fn batch_norm_grad([x, scale, mean, var, dy]: [&Fact; 5]) -> Result<Vec<Fact>, Why> {
    let channel = per_channel(x, &[scale, mean, var])?;
    ensure(dy == x, || format!("the gradient {dy} is not of the fact {x}"))?;
    Ok(vec![x.clone(), channel.clone(), channel])
}

pub(super) fn over_last(x: &Fact, params: &[&Fact], axis: usize) -> Result<Fact, Why> {
    check_float(x)?;
    check_axis(x, axis)?;
    for p in params {
        check_shape("a parameter", p, &x.shape[axis..])?;
        ensure(p.dtype == x.dtype, || format!("a parameter is {}, x is {}", p.dtype, x.dtype))?;
    }
    Ok(x.clone())
}

pub(super) fn layer_norm_grad([x, scale, dy]: [&Fact; 3], axis: usize) -> Result<Vec<Fact>, Why> {
    over_last(x, &[scale], axis)?;
    ensure(dy == x, || format!("the gradient {dy} is not of the fact {x}"))?;
    Ok(vec![x.clone(), scale.clone(), scale.clone()])
}

pub(super) fn group_norm([x, scale, bias]: [&Fact; 3], groups: usize) -> Result<Fact, Why> {
    per_channel(x, &[scale, bias])?;
    ensure(groups > 0 && x.shape[1].exact_div(&Dim::Const(groups)).is_some(), || {
        format!("{groups} groups do not divide {} channels", x.shape[1])
    })?;
    Ok(x.clone())
}

fn per_channel(x: &Fact, params: &[&Fact]) -> Result<Fact, Why> {
    check_float(x)?;
    ensure(x.rank() >= 2, || format!("needs batch and channel axes, {x} given"))?;
    for p in params {
        check_shape("a parameter", p, &x.shape[1..2])?;
        ensure(p.dtype == x.dtype, || format!("a parameter is {}, x is {}", p.dtype, x.dtype))?;
    }
    Ok(Fact { dtype: x.dtype, shape: x.shape[1..2].to_vec() })
}
