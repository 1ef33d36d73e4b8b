//! Attention, which has an operator of its own only from set 23 on: written out.

use super::{
    emitter::{Emitter, Why},
    node::node,
};
use penjing_ir::{Dim, Node};
use penjing_tensor::Tensor;

pub(super) fn emit(e: &mut Emitter<'_>, n: &Node, scale: f64, causal: bool) -> Result<(), Why> {
    let (x, y) = (e.inputs(n), e.outputs(n));
    let (q, keys) = (e.graph.fact(n.inputs[0]).shape.clone(), e.graph.fact(n.inputs[1]).shape.clone());
    let values = e.graph.fact(n.inputs[2]).shape.clone();
    let (k, v) = if q[1] == keys[1] {
        (x[1].clone(), x[2].clone())
    } else {
        (repeat_heads(e, n, &x[1], &keys, &q[1])?, repeat_heads(e, n, &x[2], &values, &q[1])?)
    };
    let flipped = e.step_with(n, "Transpose", &[k], |p| p.ints("perm", [0, 1, 3, 2]));
    let scores = e.step(n, "MatMul", &[x[0].clone(), flipped]);
    let factor = e.scalar_like(n, n.inputs[0], scale);
    let mut scores = e.step(n, "Mul", &[scores, factor]);
    if let Some(mask) = x.get(3) {
        scores = e.step(n, "Add", &[scores, mask.clone()]);
    }
    if causal {
        let (ones, offset) = (e.dim_vector(n, "scores", &[q[2].clone(), keys[2].clone()])?, keys[2].clone() - q[2].clone());
        let yes = Tensor::scalar(1u8).cast(penjing_tensor::DType::Bool);
        let yes = e.constant(&format!("{}/true", n.name), &yes);
        let all = e.step(n, "Expand", &[yes, ones]);
        let none = e.ints("scalar", &[]);
        let offset = e.dim_vector(n, "offset", &[offset])?;
        let offset = e.step(n, "Reshape", &[offset, none]);
        let seen = e.step_with(n, "Trilu", &[all, offset], |p| p.int("upper", 0));
        let hidden = e.scalar_like(n, n.inputs[0], f64::NEG_INFINITY);
        scores = e.step(n, "Where", &[seen, scores, hidden]);
    }
    let weights = e.step_with(n, "Softmax", &[scores], |p| p.int("axis", 3));
    e.push(node("MatMul", &n.name, &[weights, v], &y));
    Ok(())
}

/// Each key head as often as query heads read it.
fn repeat_heads(e: &mut Emitter<'_>, n: &Node, x: &str, from: &[Dim], heads: &Dim) -> Result<String, Why> {
    let Some(times) = heads.exact_div(&from[1]) else { return Err("key heads do not divide query heads".into()) };
    let [b, g, t, d] = from else { return Err("keys need 4 axes".into()) };
    let column = e.dim_vector(n, "column", &[b.clone(), g.clone(), Dim::Const(1), t.clone(), d.clone()])?;
    let wide = e.dim_vector(n, "wide", &[b.clone(), g.clone(), times, t.clone(), d.clone()])?;
    let joined = e.dim_vector(n, "joined", &[b.clone(), heads.clone(), t.clone(), d.clone()])?;
    let x = e.step(n, "Reshape", &[x.to_string(), column]);
    let x = e.step(n, "Expand", &[x, wide]);
    Ok(e.step(n, "Reshape", &[x, joined]))
}
