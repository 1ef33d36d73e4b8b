//! Structural checks that run after every pass: what the builder cannot promise once passes have edited a graph.

use crate::{Fact, Graph, IrError, Model, Op, Role, Source, ValueId, infer};
use std::collections::BTreeSet;

/// Which ops may stand in a graph.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Machine-independent: differentiable and exportable.
    Canonical,
    /// Lowered for one target.
    Machine,
}

/// Checks that ids are in range, names are unique, the graph has no cycle, every node's facts are what inference says, states
/// and carries fit, and only ops of the stage are there.
pub fn verify(model: &Model, stage: Stage) -> Result<(), IrError> {
    verify_graph(model, &model.graph, stage, "graph")?;
    for (i, body) in model.bodies.iter().enumerate() {
        verify_graph(model, body, stage, &format!("body {i}"))?;
    }
    let mut names = BTreeSet::new();
    for state in &model.states {
        check(names.insert(&state.name), &format!("state `{}`", state.name), || "the name is taken twice".into())?;
        check(!state.trainable || (state.role == Role::Weight && state.init.dtype().is_float()), &state.name, || {
            "only float weights are trained".into()
        })?;
    }
    let mut carried = BTreeSet::new();
    for carry in &model.carries {
        let state = model.states.get(carry.state.index());
        let place = format!("carry into {:?}", carry.state);
        let state = state.ok_or_else(|| fail(&place, "no such state".into()))?;
        check(carried.insert(carry.state), &place, || "the state is carried twice".into())?;
        check_value(&model.graph, carry.value, &place)?;
        let (have, want) = (model.graph.fact(carry.value), Fact::of(&state.init));
        check(*have == want, &place, || format!("`{}` is {want}, the new content {have}", state.name))?;
    }
    Ok(())
}

fn verify_graph(model: &Model, graph: &Graph, stage: Stage, place: &str) -> Result<(), IrError> {
    let mut names = BTreeSet::new();
    for &v in &graph.inputs {
        check_value(graph, v, place)?;
        let name = &graph.value(v).name;
        check(graph.value(v).source == Source::Input, place, || format!("input `{name}` is not an input value"))?;
        check(names.insert(name.as_str()), place, || format!("two inputs are called `{name}`"))?;
    }
    names.clear();
    for o in &graph.outputs {
        check_value(graph, o.value, place)?;
        check(names.insert(&o.name), place, || format!("two outputs are called `{}`", o.name))?;
    }
    names.clear();
    for id in graph.node_ids() {
        let node = graph.node(id);
        let here = format!("{place}, node `{}` ({})", node.name, node.op.name());
        check(names.insert(&node.name), &here, || "the name is taken twice".into())?;
        for &v in node.inputs.iter().chain(&node.outputs) {
            check_value(graph, v, &here)?;
        }
        for (slot, &v) in node.outputs.iter().enumerate() {
            check(graph.value(v).source == Source::Node(id, slot as u8), &here, || {
                format!("does not own output {slot}")
            })?;
        }
        let legal = stage == Stage::Machine || !matches!(node.op, Op::Machine(_));
        check(legal, &here, || "a Machine op in a Canonical graph".into())?;
        verify_facts(model, graph, id, &here)?;
    }
    let all: Vec<ValueId> = graph.value_ids().collect();
    check(graph.topological_order(&all).is_some(), place, || "the nodes form a cycle".into())?;
    for v in graph.values() {
        match &v.source {
            Source::Const(t) => {
                check(v.fact == Fact::of(t), place, || format!("constant `{}` is not {}", v.name, v.fact))?
            }
            Source::State(s) => {
                let state = model.states.get(s.index()).ok_or_else(|| fail(place, format!("no state {s:?}")))?;
                check(v.fact == Fact::of(&state.init), place, || format!("state `{}` is not {}", state.name, v.fact))?;
            }
            Source::Input | Source::Node(..) => {}
        }
    }
    Ok(())
}

fn verify_facts(model: &Model, graph: &Graph, id: crate::NodeId, here: &str) -> Result<(), IrError> {
    let node = graph.node(id);
    let operands: Vec<Fact> = node.inputs.iter().map(|&v| graph.fact(v).clone()).collect();
    let have: Vec<&Fact> = node.outputs.iter().map(|&v| graph.fact(v)).collect();
    let Op::If { then_body, else_body } = node.op else {
        let want = infer(&node.op, &operands).map_err(|why| fail(here, why))?;
        return check(want.iter().eq(have.iter().copied()), here, || {
            format!("results are {have:?}, inference says {want:?}")
        });
    };
    for body in [then_body, else_body] {
        let body = model.bodies.get(body.0 as usize).ok_or_else(|| fail(here, format!("no body {}", body.0)))?;
        let inputs = body.inputs.iter().map(|&v| body.fact(v));
        check(inputs.eq(operands.iter().skip(1)), here, || "the captures are not the body's inputs".into())?;
        check(body.outputs.len() == have.len(), here, || "the results are not the body's outputs".into())?;
    }
    Ok(())
}

fn check_value(graph: &Graph, v: ValueId, place: &str) -> Result<(), IrError> {
    check(v.index() < graph.values().len(), place, || format!("no value {v:?}"))
}

fn check(ok: bool, place: &str, why: impl FnOnce() -> String) -> Result<(), IrError> {
    if ok { Ok(()) } else { Err(fail(place, why())) }
}

fn fail(place: &str, why: String) -> IrError {
    IrError::Verify { place: place.into(), why }
}
