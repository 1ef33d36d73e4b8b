//! Facts of convolutions.

use super::{Why, check_extents, check_shape, ensure, operands};
use crate::{ConvSpec, Dim, Fact, conv_extent, conv_transpose_extent};

pub(super) fn conv(x: &[Fact], spec: &ConvSpec) -> Result<Fact, Why> {
    let (x, w, bias) = split(x)?;
    let kernel = kernel_of(x, w, spec)?;
    let groups = Dim::Const(spec.groups);
    ensure(x.shape[1] == w.shape[1].clone() * groups.clone(), || {
        format!(
            "{x} has {} channels, weight {w} with {} groups needs {}",
            x.shape[1],
            spec.groups,
            w.shape[1].clone() * groups.clone()
        )
    })?;
    ensure(w.shape[0].exact_div(&groups).is_some(), || {
        format!("{} groups do not divide {} outputs", spec.groups, w.shape[0])
    })?;
    check_bias(bias, &w.shape[0])?;
    let spatial = (0..spec.rank()).map(|i| conv_extent(&x.shape[i + 2], kernel[i], spec, i));
    let shape: Vec<Dim> = [x.shape[0].clone(), w.shape[0].clone()].into_iter().chain(spatial).collect();
    check_extents(&shape)?;
    Ok(Fact { dtype: x.dtype, shape })
}

pub(super) fn conv_transpose(x: &[Fact], spec: &ConvSpec, output_pad: &[usize]) -> Result<Fact, Why> {
    let (x, w, bias) = split(x)?;
    let kernel = kernel_of(x, w, spec)?;
    let groups = Dim::Const(spec.groups);
    ensure(x.shape[1] == w.shape[0], || format!("{x} has {} channels, weight {w} needs {}", x.shape[1], w.shape[0]))?;
    ensure(x.shape[1].exact_div(&groups).is_some(), || {
        format!("{} groups do not divide {} inputs", spec.groups, x.shape[1])
    })?;
    ensure(output_pad.len() == spec.rank(), || format!("{} output pads for {} axes", output_pad.len(), spec.rank()))?;
    let channels = w.shape[1].clone() * groups;
    check_bias(bias, &channels)?;
    let spatial = (0..spec.rank()).map(|i| conv_transpose_extent(&x.shape[i + 2], kernel[i], spec, output_pad[i], i));
    let shape: Vec<Dim> = [x.shape[0].clone(), channels].into_iter().chain(spatial).collect();
    check_extents(&shape)?;
    Ok(Fact { dtype: x.dtype, shape })
}

pub(super) fn conv_weight_grad([x, dy]: [&Fact; 2], spec: &ConvSpec, kernel: &[usize]) -> Result<Fact, Why> {
    let channels = x.shape.get(1).and_then(|c| c.exact_div(&Dim::Const(spec.groups)));
    let (Some(channels), Some(outputs)) = (channels, dy.shape.get(1)) else {
        return Err(format!("{x} and {dy} do not fit {} groups", spec.groups));
    };
    let shape: Vec<Dim> =
        [outputs.clone(), channels].into_iter().chain(kernel.iter().map(|&k| Dim::Const(k))).collect();
    let w = Fact { dtype: x.dtype, shape };
    let forward = conv(&[x.clone(), w.clone()], spec)?;
    ensure(forward == *dy, || format!("the gradient {dy} is not of the output's fact {forward}"))?;
    Ok(w)
}

fn split(x: &[Fact]) -> Result<(&Fact, &Fact, Option<&Fact>), Why> {
    let [data, w] = operands(x.get(..2).unwrap_or(x))?;
    ensure(x.len() <= 3, || format!("takes 2 or 3 operands, {} given", x.len()))?;
    ensure(x.iter().all(|f| f.dtype == data.dtype), || "operands differ in dtype".into())?;
    Ok((data, w, x.get(2)))
}

fn kernel_of(x: &Fact, w: &Fact, spec: &ConvSpec) -> Result<Vec<usize>, Why> {
    let rank = spec.rank();
    ensure(rank >= 1 && spec.pads.len() == rank && spec.dilations.len() == rank, || {
        format!("strides, pads and dilations are of {rank}, {} and {} axes", spec.pads.len(), spec.dilations.len())
    })?;
    ensure(x.rank() == rank + 2 && w.rank() == rank + 2, || format!("{x} and {w} need {} axes", rank + 2))?;
    ensure(spec.groups > 0 && spec.strides.iter().chain(&spec.dilations).all(|&v| v > 0), || {
        "groups, strides and dilations must be positive".into()
    })?;
    let kernel: Option<Vec<usize>> = w.shape[2..].iter().map(Dim::as_const).collect();
    let kernel = kernel.ok_or_else(|| format!("the kernel extents of {w} must be known"))?;
    ensure(kernel.iter().all(|&k| k > 0), || format!("weight {w} has an empty kernel"))?;
    Ok(kernel)
}

fn check_bias(bias: Option<&Fact>, channels: &Dim) -> Result<(), Why> {
    bias.map_or(Ok(()), |b| check_shape("bias", b, std::slice::from_ref(channels)))
}
