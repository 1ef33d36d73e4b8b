//! Reductions.

use super::{
    emitter::{Emitter, Why},
    node::node,
};
use penjing_ir::{Node, Op};
use penjing_tensor::Tensor;

pub(super) fn emit(e: &mut Emitter<'_>, n: &Node) -> Result<(), Why> {
    let (mut x, y) = (e.inputs(n), e.outputs(n));
    let proto = match &n.op {
        Op::Reduce { axes, .. } if axes.is_empty() => node("Identity", &n.name, &x, &y),
        Op::Reduce { kind, axes, keep } => {
            let list: Vec<i64> = axes.iter().map(|&a| a as i64).collect();
            x.push(e.ints(&format!("{}/axes", n.name), &list));
            node(kind.name(), &n.name, &x, &y).int("keepdims", (*keep).into())
        }
        Op::ArgReduce { axis, keep, last, .. } => node(n.op.name(), &n.name, &x, &y)
            .int("axis", *axis as i64)
            .int("keepdims", (*keep).into())
            .int("select_last_index", (*last).into()),
        Op::CumSum { axis, exclusive, reverse } => {
            x.push(e.constant(&format!("{}/axis", n.name), &Tensor::scalar(*axis as i64)));
            node("CumSum", &n.name, &x, &y).int("exclusive", (*exclusive).into()).int("reverse", (*reverse).into())
        }
        Op::TopK { axis, k, largest } => {
            x.push(e.dim_vector(n, "k", std::slice::from_ref(k))?);
            node("TopK", &n.name, &x, &y).int("axis", *axis as i64).int("largest", (*largest).into())
        }
        other => return Err(format!("{} is no reduction", other.name())),
    };
    e.push(proto);
    Ok(())
}
