//! Models as text.

use super::{attribute::Attribute, table, tensor};
use crate::{Graph, Model, NodeId, Op, Source, ValueId};
use penjing_tensor::Tensor;
use std::fmt::Write;

/// Elements up to which a summary shows a tensor.
const SHOWN: usize = 8;

#[derive(Clone, Copy, PartialEq)]
enum Detail {
    Whole,
    Summary,
}

/// The whole model; [`super::parse`] gives an equal one.
pub fn print(model: &Model) -> String {
    text(model, Detail::Whole)
}

/// The model for people: tensors of more than a few elements are `...`.
pub fn print_summary(model: &Model) -> String {
    text(model, Detail::Summary)
}

/// One op with its attributes, e.g. `Softmax axis=1`.
pub fn print_op(op: &Op) -> String {
    let mut out = op.name().to_string();
    table::print_fields(op, &mut out);
    out
}

fn text(model: &Model, detail: Detail) -> String {
    let mut out = String::from("model\n");
    for (key, value) in &model.metadata {
        let _ = writeln!(out, "meta {key:?} = {value:?}");
    }
    for (i, state) in model.states.iter().enumerate() {
        let _ = write!(out, "state @{i} {:?} {}", state.name, state.role.name());
        out.push_str(if state.trainable { " trainable " } else { " " });
        crate::Fact::of(&state.init).print(&mut out);
        data(&state.init, detail, &mut out);
        out.push('\n');
    }
    graph("graph", &model.graph, detail, &mut out);
    for body in &model.bodies {
        graph("body", body, detail, &mut out);
    }
    for carry in &model.carries {
        let _ = writeln!(out, "carry @{} %{}", carry.state.0, carry.value.0);
    }
    out
}

fn graph(kind: &str, graph: &Graph, detail: Detail, out: &mut String) {
    let _ = writeln!(out, "{kind} {:?}", graph.name);
    out.push_str("  inputs");
    for v in &graph.inputs {
        let _ = write!(out, " %{}", v.0);
    }
    out.push('\n');
    for v in graph.value_ids() {
        match &graph.value(v).source {
            Source::Node(id, 0) => node(graph, *id, out),
            Source::Node(..) => continue,
            Source::Input => {
                value(graph, v, out);
                out.push_str(" = input");
            }
            Source::State(id) => {
                value(graph, v, out);
                let _ = write!(out, " = @{}", id.0);
            }
            Source::Const(t) => {
                value(graph, v, out);
                data(t, detail, out);
            }
        }
        out.push('\n');
    }
    for o in &graph.outputs {
        let _ = writeln!(out, "  output {:?} %{}", o.name, o.value.0);
    }
}

fn node(graph: &Graph, id: NodeId, out: &mut String) {
    let node = graph.node(id);
    for (slot, &v) in node.outputs.iter().enumerate() {
        out.push_str(if slot > 0 { "," } else { "" });
        value(graph, v, out);
    }
    let inputs: Vec<String> = node.inputs.iter().map(|v| format!("%{}", v.0)).collect();
    let _ = write!(out, " = {:?} {}({})", node.name, node.op.name(), inputs.join(", "));
    table::print_fields(&node.op, out);
}

/// Id, name where there is one, and fact.
fn value(graph: &Graph, v: ValueId, out: &mut String) {
    let value = graph.value(v);
    let _ = write!(out, "  %{} ", v.0);
    if !value.name.is_empty() {
        let _ = write!(out, "{:?} ", value.name);
    }
    value.fact.print(out);
}

fn data(t: &Tensor, detail: Detail, out: &mut String) {
    out.push_str(" = ");
    if detail == Detail::Summary && t.len() > SHOWN {
        out.push_str("...");
    } else {
        tensor::print(t, out);
    }
}
