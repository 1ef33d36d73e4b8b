//! Facts of quantization.

use super::{Why, check_axis, check_dtype, check_shape, ensure};
use crate::{Dim, Fact, QuantScheme};
use penjing_tensor::DType;

pub(super) fn quantize([x, scale, zero]: [&Fact; 3], scheme: &QuantScheme) -> Result<Fact, Why> {
    check_dtype(x, DType::F32)?;
    check_grid(x, scale, zero, scheme)?;
    Ok(x.with_dtype(scheme.dtype))
}

pub(super) fn dequantize([q, scale, zero]: [&Fact; 3], scheme: &QuantScheme) -> Result<Fact, Why> {
    check_dtype(q, scheme.dtype)?;
    check_grid(q, scale, zero, scheme)?;
    Ok(q.with_dtype(DType::F32))
}

pub(super) fn dynamic_quantize(x: &Fact) -> Result<Vec<Fact>, Why> {
    check_dtype(x, DType::F32)?;
    let scalar = |dtype| Fact { dtype, shape: Vec::new() };
    Ok(vec![x.with_dtype(DType::U8), scalar(DType::F32), scalar(DType::U8)])
}

pub(super) fn check_grid(x: &Fact, scale: &Fact, zero: &Fact, scheme: &QuantScheme) -> Result<(), Why> {
    ensure(scheme.dtype.is_int(), || format!("{} is not an integer grid", scheme.dtype))?;
    check_dtype(scale, DType::F32)?;
    check_dtype(zero, scheme.dtype)?;
    let shape: Vec<Dim> = match scheme.axis {
        None => Vec::new(),
        Some(axis) => {
            check_axis(x, axis)?;
            vec![x.shape[axis].clone()]
        }
    };
    check_shape("scale", scale, &shape)?;
    check_shape("zero point", zero, &shape)
}
