//! Normalizations.

use super::{
    emitter::{Emitter, Why},
    node::node,
};
use penjing_ir::{Node, Op};

pub(super) fn emit(e: &mut Emitter<'_>, n: &Node) -> Result<(), Why> {
    let (x, y) = (e.inputs(n), e.outputs(n));
    let plain = |op: &str| node(op, &n.name, &x, &y);
    let proto = match &n.op {
        Op::Softmax { axis } => plain("Softmax").int("axis", *axis as i64),
        Op::LogSoftmax { axis } => plain("LogSoftmax").int("axis", *axis as i64),
        Op::BatchNorm { eps, momentum } => {
            plain("BatchNormalization").float("epsilon", eps.0).float("momentum", momentum.0)
        }
        Op::LayerNorm { axis, eps } => plain("LayerNormalization").int("axis", *axis as i64).float("epsilon", eps.0),
        Op::RmsNorm { axis, eps } => {
            // The operator of that name came with set 23: x / √(mean(x²) + eps) · scale.
            let last: Vec<i64> = (*axis as i64..e.graph.fact(n.inputs[0]).rank() as i64).collect();
            let axes = e.ints(&format!("{}/axes", n.name), &last);
            let eps = e.scalar_like(n, n.inputs[0], eps.0);
            let square = e.step(n, "Mul", &[x[0].clone(), x[0].clone()]);
            let mean = e.step(n, "ReduceMean", &[square, axes]);
            let safe = e.step(n, "Add", &[mean, eps]);
            let root = e.step(n, "Sqrt", &[safe]);
            let unit = e.step(n, "Div", &[x[0].clone(), root]);
            node("Mul", &n.name, &[unit, x[1].clone()], &y)
        }
        Op::GroupNorm { groups, eps } => {
            if e.graph.fact(n.inputs[0]).shape[1].is(*groups) {
                plain("InstanceNormalization").float("epsilon", eps.0)
            } else {
                plain("GroupNormalization").int("num_groups", *groups as i64).float("epsilon", eps.0)
            }
        }
        other => return Err(format!("{} is no normalization", other.name())),
    };
    e.push(proto);
    Ok(())
}
