//! Matrix products.

use super::{
    emitter::{Emitter, Why},
    node::node,
};
use penjing_ir::{Node, NodeId, Op, ValueId};

/// `MatMul`, or `Gemm` where operands are matrices and one is transposed or a bias is added.
pub(super) fn emit(e: &mut Emitter<'_>, n: &Node, addition: Option<(NodeId, ValueId)>) -> Result<(), Why> {
    let Op::MatMul { trans_a, trans_b } = n.op else { return Err("not a matrix product".into()) };
    let mut x = e.inputs(n);
    let ranks = [e.graph.fact(n.inputs[0]).rank(), e.graph.fact(n.inputs[1]).rank()];
    let float = e.graph.fact(n.inputs[0]).dtype.is_float();
    if ranks == [2, 2] && float && (trans_a || trans_b || addition.is_some()) {
        let y = match addition {
            Some((add, bias)) => {
                x.push(e.name(bias));
                let graph = e.graph;
                e.outputs(graph.node(add))
            }
            None => e.outputs(n),
        };
        e.push(node("Gemm", &n.name, &x, &y).int("transA", trans_a.into()).int("transB", trans_b.into()));
        return Ok(());
    }
    for (i, flipped) in [trans_a, trans_b].into_iter().enumerate() {
        if flipped {
            let mut perm: Vec<usize> = (0..ranks[i]).collect();
            perm.swap(ranks[i] - 1, ranks[i] - 2);
            x[i] = e.step_with(n, "Transpose", &[x[i].clone()], |p| p.ints("perm", perm));
        }
    }
    let y = e.outputs(n);
    e.push(node("MatMul", &n.name, &x, &y));
    Ok(())
}
