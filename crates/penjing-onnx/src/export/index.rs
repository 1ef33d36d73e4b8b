//! Gather, scatter and generated values.

use super::{
    emitter::{Emitter, Why},
    node::node,
};
use crate::elem_type;
use penjing_ir::{Dim, Node, Op, ScatterReduction};
use penjing_tensor::{DType, Tensor};

pub(super) fn emit(e: &mut Emitter<'_>, n: &Node) -> Result<(), Why> {
    let (mut x, y) = (e.inputs(n), e.outputs(n));
    let proto = match &n.op {
        Op::Gather { axis } => node("Gather", &n.name, &x, &y).int("axis", *axis as i64),
        Op::GatherElements { axis } => node("GatherElements", &n.name, &x, &y).int("axis", *axis as i64),
        Op::ScatterElements { axis, reduction } => {
            node("ScatterElements", &n.name, &x, &y).int("axis", *axis as i64).string("reduction", scatter(*reduction))
        }
        Op::GatherNd { batch_dims } => node("GatherND", &n.name, &x, &y).int("batch_dims", *batch_dims as i64),
        Op::ScatterNd { reduction } => node("ScatterND", &n.name, &x, &y).string("reduction", scatter(*reduction)),
        Op::OneHot { axis, depth, dtype } => {
            x.push(e.dim_vector(n, "depth", std::slice::from_ref(depth))?);
            let values = Tensor::from_f64s(*dtype, &[2], vec![0.0, 1.0]).map_err(|err| err.to_string())?;
            x.push(e.constant(&format!("{}/values", n.name), &values));
            node("OneHot", &n.name, &x, &y).int("axis", *axis as i64)
        }
        Op::Iota { shape, axis, dtype } => return iota(e, n, shape, *axis, *dtype, &y),
        Op::DimValues { dims } => {
            let vector = e.dim_vector(n, "dims", dims)?;
            node("Identity", &n.name, &[vector], &y)
        }
        Op::NonZero { .. } => node("NonZero", &n.name, &x, &y),
        other => return Err(format!("{} is no indexing op", other.name())),
    };
    e.push(proto);
    Ok(())
}

/// A `Range` along one axis, broadcast to the others.
fn iota(e: &mut Emitter<'_>, n: &Node, shape: &[Dim], axis: usize, dtype: DType, y: &[String]) -> Result<(), Why> {
    let extent = shape.get(axis).cloned().unwrap_or(Dim::Const(1));
    let (zero, unit) = (Tensor::scalar(0i64), Tensor::scalar(1i64));
    let (start, delta) = (e.constant("zero", &zero), e.constant("one", &unit));
    let limit = e.dim_vector(n, "limit", std::slice::from_ref(&extent))?;
    let none = e.ints("scalar", &[]);
    let limit = e.step(n, "Reshape", &[limit, none]);
    let mut v = e.step(n, "Range", &[start, limit, delta]);
    if dtype != DType::I64 {
        v = e.step_with(n, "Cast", &[v], |p| p.int("to", elem_type(dtype) as i64));
    }
    let mut column = vec![1; shape.len()];
    if let Some(slot) = column.get_mut(axis) {
        *slot = -1;
    }
    let column = e.ints(&format!("{}/column", n.name), &column);
    v = e.step(n, "Reshape", &[v, column]);
    let whole = e.dim_vector(n, "shape", shape)?;
    e.push(node("Expand", &n.name, &[v, whole], y));
    Ok(())
}

fn scatter(reduction: ScatterReduction) -> &'static str {
    match reduction {
        ScatterReduction::None => "none",
        ScatterReduction::Add => "add",
        ScatterReduction::Mul => "mul",
        ScatterReduction::Max => "max",
        ScatterReduction::Min => "min",
    }
}
