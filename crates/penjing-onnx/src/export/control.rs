//! `If` with its bodies.

use super::{
    emitter::{Emitter, Why},
    node::node,
};
use crate::OnnxError;
use penjing_ir::{BodyId, Node};

pub(super) fn emit(e: &mut Emitter<'_>, n: &Node, bodies: [BodyId; 2]) -> Result<Result<(), Why>, OnnxError> {
    let (x, y) = (e.inputs(n), e.outputs(n));
    let model = e.model;
    let [then_graph, else_graph] = bodies.map(|b| model.bodies.get(b.0 as usize));
    let (Some(then_graph), Some(else_graph)) = (then_graph, else_graph) else {
        return Ok(Err("its body is missing".into()));
    };
    let then_branch = e.nested(then_graph, &x[1..])?;
    let else_branch = e.nested(else_graph, &x[1..])?;
    let wanted = y.len();
    let trim = |mut graph: crate::proto::GraphProto| {
        graph.output.truncate(wanted);
        graph
    };
    e.push(
        node("If", &n.name, &x[..1], &y)
            .graph("then_branch", trim(then_branch))
            .graph("else_branch", trim(else_branch)),
    );
    Ok(Ok(()))
}
