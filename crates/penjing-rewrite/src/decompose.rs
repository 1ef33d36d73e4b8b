//! From one op to the primitives that mean it: for derivatives and back ends without a rule of their own.
//!
//! The inverse of [`crate::raise`]. A primitive is an elementwise function with a derivative rule, a reduction, a movement or a product.

use crate::{RewriteError, recurrent};
use penjing_ir::{Binary, Compare, Dim, Graph, IrError, NodeId, Op, Reduction, Scope, Unary, ValueId};
use penjing_tensor::DType;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

/// Rewrites `node` into primitives and makes every reader in the graph (nodes and outputs) read their result. False, and nothing is
/// changed, for an op that is a primitive itself or has no fixed number of steps. The old node stays until the graph is compacted.
pub fn decompose(graph: &mut Graph, node: NodeId) -> Result<bool, RewriteError> {
    let old = graph.node(node).clone();
    let mut s = Scope::new(graph, &old.name);
    let Some(results) = primitives(&mut s, &old.op, &old.inputs)? else { return Ok(false) };
    for (&old, result) in old.outputs.iter().zip(results) {
        let name = graph.value(old).name.clone();
        if graph.value(result).name.is_empty() {
            graph.set_value_name(result, &name);
        }
        graph.replace_uses(old, result);
    }
    Ok(true)
}

/// Writes what `op` computes from `inputs` in primitives, one value for each result; `None` when it is one, or when the number
/// of its steps is not known.
pub fn primitives(s: &mut Scope<'_>, op: &Op, inputs: &[ValueId]) -> Result<Option<Vec<ValueId>>, IrError> {
    match op {
        Op::Gru { direction, reset } => recurrent::gru(s, inputs, *direction, *reset),
        _ => Ok(primitive(s, op, inputs)?.map(|v| vec![v])),
    }
}

/// [`primitives`] of an op with one result.
fn primitive(s: &mut Scope<'_>, op: &Op, inputs: &[ValueId]) -> Result<Option<ValueId>, IrError> {
    let x = inputs.first().copied();
    let Some(x) = x else { return Ok(None) };
    Ok(Some(match op {
        Op::Unary(f) => return activation(s, *f, x),
        Op::Softmax { axis } => softmax(s, x, *axis)?,
        Op::LogSoftmax { axis } => {
            let shifted = below_maximum(s, x, *axis)?;
            let e = s.unary(Unary::Exp, shifted)?;
            let sum = s.reduce_keep(Reduction::Sum, e, &[*axis])?;
            let log = s.unary(Unary::Log, sum)?;
            s.sub(shifted, log)?
        }
        Op::LayerNorm { axis, eps } => {
            let axes: Vec<usize> = (*axis..s.fact(x).rank()).collect();
            let y = normalised(s, x, &axes, eps.0)?;
            let y = s.mul(y, inputs[1])?;
            s.add(y, inputs[2])?
        }
        Op::RmsNorm { axis, eps } => {
            let axes: Vec<usize> = (*axis..s.fact(x).rank()).collect();
            let square = s.mul(x, x)?;
            let mean = s.reduce_keep(Reduction::Mean, square, &axes)?;
            let y = over_root(s, x, mean, eps.0)?;
            s.mul(y, inputs[1])?
        }
        Op::GroupNorm { groups, eps } => {
            let shape = s.fact(x).shape;
            let groups = Dim::Const(*groups);
            let channels = shape[1].floor_div(&groups);
            let mut grouped = vec![shape[0].clone(), groups, channels];
            grouped.extend(shape[2..].iter().cloned());
            let split = s.reshape(x, &grouped)?;
            let axes: Vec<usize> = (2..grouped.len()).collect();
            let y = normalised(s, split, &axes, eps.0)?;
            let y = s.reshape(y, &shape)?;
            let scale = per_channel(s, inputs[1], shape.len())?;
            let bias = per_channel(s, inputs[2], shape.len())?;
            let y = s.mul(y, scale)?;
            s.add(y, bias)?
        }
        Op::BatchNorm { eps, .. } => {
            let rank = s.fact(x).rank();
            let mut parameters = Vec::new();
            for &p in &inputs[1..5] {
                parameters.push(per_channel(s, p, rank)?);
            }
            let d = s.sub(x, parameters[2])?;
            let y = over_root(s, d, parameters[3], eps.0)?;
            let y = s.mul(y, parameters[0])?;
            s.add(y, parameters[1])?
        }
        Op::Attention { scale, causal } => attention(s, inputs, scale.0, *causal)?,
        _ => return Ok(None),
    }))
}

fn activation(s: &mut Scope<'_>, f: Unary, x: ValueId) -> Result<Option<ValueId>, IrError> {
    Ok(Some(match f {
        Unary::Gelu => {
            let scaled = s.scale(x, FRAC_1_SQRT_2)?;
            let erf = s.unary(Unary::Erf, scaled)?;
            half_gate(s, x, erf)?
        }
        Unary::GeluTanh => {
            let square = s.mul(x, x)?;
            let cube = s.mul(square, x)?;
            let cubic = s.scale(cube, 0.044_715)?;
            let sum = s.add(x, cubic)?;
            let scaled = s.scale(sum, FRAC_2_PI.sqrt())?;
            let tanh = s.unary(Unary::Tanh, scaled)?;
            half_gate(s, x, tanh)?
        }
        Unary::Silu => {
            let gate = s.unary(Unary::Sigmoid, x)?;
            s.mul(x, gate)?
        }
        Unary::HardSigmoid { alpha, beta } => {
            let line = s.scale(x, alpha.0)?;
            let line = s.shift(line, beta.0)?;
            clamp(s, line, 0.0, 1.0)?
        }
        Unary::HardSwish => {
            let line = s.scale(x, 1.0 / 6.0)?;
            let line = s.shift(line, 0.5)?;
            let gate = clamp(s, line, 0.0, 1.0)?;
            s.mul(x, gate)?
        }
        // max(x, 0) + ln(1 + e^−|x|), which does not overflow.
        Unary::Softplus => {
            let magnitude = s.unary(Unary::Abs, x)?;
            let below = s.unary(Unary::Neg, magnitude)?;
            let e = s.unary(Unary::Exp, below)?;
            let sum = s.shift(e, 1.0)?;
            let log = s.unary(Unary::Log, sum)?;
            let positive = s.relu(x)?;
            s.add(positive, log)?
        }
        Unary::LeakyRelu(alpha) => {
            let below = s.scale(x, alpha.0)?;
            where_negative(s, x, below)?
        }
        // The exponential sees only x ≤ 0, so that the branch not taken cannot overflow.
        Unary::Elu(alpha) => {
            let zero = s.scalar_like(x, 0.0);
            let low = s.binary(Binary::Min, x, zero)?;
            let e = s.unary(Unary::Exp, low)?;
            let e = s.shift(e, -1.0)?;
            let below = s.scale(e, alpha.0)?;
            where_negative(s, x, below)?
        }
        _ => return Ok(None),
    }))
}

/// x/2 · (1 + g).
fn half_gate(s: &mut Scope<'_>, x: ValueId, g: ValueId) -> Result<ValueId, IrError> {
    let gate = s.shift(g, 1.0)?;
    let half = s.scale(x, 0.5)?;
    s.mul(half, gate)
}

fn clamp(s: &mut Scope<'_>, x: ValueId, lo: f64, hi: f64) -> Result<ValueId, IrError> {
    let (lo, hi) = (s.scalar_like(x, lo), s.scalar_like(x, hi));
    let y = s.binary(Binary::Max, x, lo)?;
    s.binary(Binary::Min, y, hi)
}

fn where_negative(s: &mut Scope<'_>, x: ValueId, below: ValueId) -> Result<ValueId, IrError> {
    let zero = s.scalar_like(x, 0.0);
    let negative = s.compare(Compare::Less, x, zero)?;
    s.select(negative, below, x)
}

fn below_maximum(s: &mut Scope<'_>, x: ValueId, axis: usize) -> Result<ValueId, IrError> {
    let max = s.reduce_keep(Reduction::Max, x, &[axis])?;
    // The shift cancels in the result, so no gradient needs to flow through it.
    let max = s.op(Op::StopGradient, &[max])?;
    s.sub(x, max)
}

fn softmax(s: &mut Scope<'_>, x: ValueId, axis: usize) -> Result<ValueId, IrError> {
    let shifted = below_maximum(s, x, axis)?;
    let e = s.unary(Unary::Exp, shifted)?;
    let sum = s.reduce_keep(Reduction::Sum, e, &[axis])?;
    s.div(e, sum)
}

fn normalised(s: &mut Scope<'_>, x: ValueId, axes: &[usize], eps: f64) -> Result<ValueId, IrError> {
    let mean = s.reduce_keep(Reduction::Mean, x, axes)?;
    let d = s.sub(x, mean)?;
    let square = s.mul(d, d)?;
    let var = s.reduce_keep(Reduction::Mean, square, axes)?;
    over_root(s, d, var, eps)
}

fn over_root(s: &mut Scope<'_>, x: ValueId, v: ValueId, eps: f64) -> Result<ValueId, IrError> {
    let spread = s.shift(v, eps)?;
    let root = s.unary(Unary::Sqrt, spread)?;
    s.div(x, root)
}

/// [C] as [C, 1, ..] with one axis less than `rank`, which broadcasts along axis 1.
fn per_channel(s: &mut Scope<'_>, p: ValueId, rank: usize) -> Result<ValueId, IrError> {
    let mut shape = s.fact(p).shape;
    shape.resize(rank - 1, Dim::Const(1));
    s.reshape(p, &shape)
}

fn attention(s: &mut Scope<'_>, inputs: &[ValueId], scale: f64, causal: bool) -> Result<ValueId, IrError> {
    let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
    let (qs, ks, vs) = (s.fact(q).shape, s.fact(k).shape, s.fact(v).shape);
    let out = vec![qs[0].clone(), qs[1].clone(), qs[2].clone(), vs[3].clone()];
    // Query heads that share a key head stand together: [B, G, H/G · S, D].
    let group = qs[1].floor_div(&ks[1]);
    let rows = group * qs[2].clone();
    let grouped = s.reshape(q, &[qs[0].clone(), ks[1].clone(), rows.clone(), qs[3].clone()])?;
    let product = s.op(Op::MatMul { trans_a: false, trans_b: true }, &[grouped, k])?;
    let scores = s.reshape(product, &[qs[0].clone(), qs[1].clone(), qs[2].clone(), ks[2].clone()])?;
    let mut scores = s.scale(scores, scale)?;
    if let Some(&mask) = inputs.get(3) {
        scores = s.add(scores, mask)?;
    }
    if causal {
        scores = hide_later(s, scores, &qs[2], &ks[2])?;
    }
    let p = s.op(Op::Softmax { axis: 3 }, &[scores])?;
    let p = s.reshape(p, &[qs[0].clone(), ks[1].clone(), rows, ks[2].clone()])?;
    let y = s.matmul(p, v)?;
    s.reshape(y, &out)
}

/// −∞ where t + S > s + T.
fn hide_later(s: &mut Scope<'_>, scores: ValueId, rows: &Dim, columns: &Dim) -> Result<ValueId, IrError> {
    let dtype = DType::I64;
    let shape = vec![rows.clone(), columns.clone()];
    let mut sides = Vec::new();
    for (axis, other) in [(1, rows), (0, columns)] {
        let index = s.op(Op::Iota { shape: shape.clone(), axis, dtype }, &[])?;
        let extent = s.op(Op::DimValues { dims: vec![other.clone()] }, &[])?;
        sides.push(s.add(index, extent)?);
    }
    let visible = s.compare(Compare::LessEqual, sides[0], sides[1])?;
    let hidden = s.scalar_like(scores, f64::NEG_INFINITY);
    s.select(visible, scores, hidden)
}
