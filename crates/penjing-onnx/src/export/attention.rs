//! Attention, which has an operator of its own only from set 23 on: written out.

use super::{
    emitter::{Emitter, Why},
    node::node,
};
use penjing_ir::{Dim, Node};
use penjing_tensor::{DType, Tensor};

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
    let mut bias = x.get(3).cloned();
    if causal {
        bias = Some(causal_bias(e, n, bias, &q[2], &keys[2])?);
    }
    if let Some(bias) = &bias {
        scores = e.step(n, "Add", &[scores, bias.clone()]);
    }
    let mut weights = e.step_with(n, "Softmax", &[scores], |p| p.int("axis", 3));
    // Without a mask, position 0 sees a key unless there are fewer keys than queries.
    let sees_some = x.len() < 4 && (!causal || (keys[2].clone() - q[2].clone()).as_int().is_some_and(|d| d >= 0));
    if let Some(bias) = bias.filter(|_| !sees_some) {
        // A query that sees no key gets zeros, where a softmax of −∞ alone gives NaN.
        let last = e.ints(&format!("{}/axes", n.name), &[-1]);
        let top = e.step(n, "ReduceMax", &[bias, last]);
        let nothing = e.step_with(n, "IsInf", &[top], |p| p.int("detect_positive", 0));
        let zero = e.scalar_like(n, n.inputs[0], 0.0);
        weights = e.step(n, "Where", &[nothing, zero, weights]);
    }
    e.push(node("MatMul", &n.name, &[weights, v], &y));
    Ok(())
}

/// The mask (or zeros) where position s sees key t ≤ s + T − S, −∞ elsewhere.
fn causal_bias(e: &mut Emitter<'_>, n: &Node, mask: Option<String>, s: &Dim, t: &Dim) -> Result<String, Why> {
    let shape = e.dim_vector(n, "scores", &[s.clone(), t.clone()])?;
    let yes = Tensor::scalar(1u8).cast(DType::Bool);
    let yes = e.constant(&format!("{}/true", n.name), &yes);
    let all = e.step(n, "Expand", &[yes, shape]);
    let none = e.ints("scalar", &[]);
    let offset = e.dim_vector(n, "offset", &[t.clone() - s.clone()])?;
    let offset = e.step(n, "Reshape", &[offset, none]);
    let seen = e.step_with(n, "Trilu", &[all, offset], |p| p.int("upper", 0));
    let shown = match mask {
        Some(mask) => mask,
        None => e.scalar_like(n, n.inputs[0], 0.0),
    };
    let hidden = e.scalar_like(n, n.inputs[0], f64::NEG_INFINITY);
    Ok(e.step(n, "Where", &[seen, shown, hidden]))
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
