//! Control flow: `If`, and loops whose number of turns is known.

use super::{
    frame::{Body, Operand},
    node::{NodeCx, Res, invalid, unsupported},
};
use penjing_ir::{BodyId, Fact, Graph, Op, ValueId};

type Outputs = Res<Vec<Operand>>;

/// `If`: the branch itself when the condition is known, else both as bodies.
pub(super) fn if_else(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (then_branch, else_branch) = (cx.body("then_branch")?, cx.body("else_branch")?);
    let opsets = cx.node.opsets.clone();
    if let Some(condition) = cx.constant(0) {
        let branch = if condition.to_f64s().first() == Some(&0.0) { else_branch } else { then_branch };
        return Ok(cx.importer.inline(&branch, &opsets, &[])?);
    }
    let condition = cx.value(0)?;
    let condition = cx.scope().reshape(condition, &[])?;
    let mut then_body = cx.importer.body(&then_branch, &opsets)?;
    let mut else_body = cx.importer.body(&else_branch, &opsets)?;
    let facts = results(&then_body);
    if facts != results(&else_body) {
        return unsupported(format!("its branches give {facts:?} and {:?}", results(&else_body)));
    }
    let captured = share_captures(&mut then_body, &mut else_body);
    let model = &mut cx.importer.model;
    let mut add = |graph: Graph| {
        model.bodies.push(graph);
        BodyId(model.bodies.len() as u32 - 1)
    };
    let op = Op::If { then_body: add(then_body.graph), else_body: add(else_body.graph) };
    let inputs: Vec<ValueId> = std::iter::once(condition).chain(captured).collect();
    let label = cx.node.label.clone();
    let graph = cx.graph();
    let node = graph.add_node_with_facts(&label, op, &inputs, facts);
    Ok(graph.node(node).outputs.iter().map(|&v| Operand::Value(v)).collect())
}

fn results(body: &Body) -> Vec<Fact> {
    body.graph.outputs.iter().map(|o| body.graph.fact(o.value).clone()).collect()
}

/// Gives both bodies the same inputs in the same order; the outer values they stand for.
fn share_captures(a: &mut Body, b: &mut Body) -> Vec<ValueId> {
    let mut outer: Vec<ValueId> = a.captures.iter().chain(&b.captures).map(|c| c.0).collect();
    outer.sort_unstable();
    outer.dedup();
    let inputs = |body: &Body, other: &Body| {
        let mut graph = body.graph.clone();
        let mut ids = Vec::with_capacity(outer.len());
        for &v in &outer {
            let own = body.captures.iter().find(|c| c.0 == v).map(|c| c.1);
            ids.push(own.unwrap_or_else(|| {
                let there = other.captures.iter().find(|c| c.0 == v).expect("captured by one of the two").1;
                let value = other.graph.value(there);
                graph.add_input(&value.name, value.fact.clone())
            }));
        }
        graph.inputs = ids;
        graph
    };
    let (new_a, new_b) = (inputs(a, b), inputs(b, a));
    (a.graph, b.graph) = (new_a, new_b);
    outer
}

/// Most turns of a loop that are written out one after the other.
const MAX_TURNS: usize = 256;

/// `Scan` over a known number of steps, written out.
pub(super) fn scan(cx: &mut NodeCx<'_, '_>) -> Outputs {
    if cx.opset < 9 {
        return unsupported("the batched form before operator set 9");
    }
    let body = cx.body("body")?;
    let inputs = cx.values()?;
    let scanned = cx.int("num_scan_inputs", 0)?;
    let Some(states) = usize::try_from(scanned).ok().filter(|n| *n > 0).and_then(|n| inputs.len().checked_sub(n))
    else {
        return invalid(format!("num_scan_inputs is {scanned}"));
    };
    let n_out = body.output.len().checked_sub(states);
    let (Some(n_out), true) = (n_out, body.input.len() == inputs.len()) else {
        return invalid("its body does not fit its inputs");
    };
    let flags = |cx: &NodeCx<'_, '_>, name: &str, n: usize| -> Res<Vec<i64>> {
        match cx.ints(name)? {
            None => Ok(vec![0; n]),
            Some(list) if list.len() == n => Ok(list),
            Some(list) => invalid(format!("{name} has {} elements, not {n}", list.len())),
        }
    };
    let n_in = inputs.len() - states;
    let in_axes = flags(cx, "scan_input_axes", n_in)?;
    let in_back = flags(cx, "scan_input_directions", n_in)?;
    let out_axes = flags(cx, "scan_output_axes", n_out)?;
    let out_back = flags(cx, "scan_output_directions", n_out)?;
    let axes = in_axes.iter().zip(&inputs[states..]).map(|(&a, &v)| cx.axis(a, cx.rank(v))).collect::<Res<Vec<_>>>()?;
    let turns = cx.fact(inputs[states]).shape[axes[0]].as_const();
    let Some(turns) = turns.filter(|n| (1..=MAX_TURNS).contains(n)) else {
        return unsupported(format!("a scan of more than {MAX_TURNS}, of unknown many or of no steps"));
    };
    let opsets = cx.node.opsets.clone();
    let mut carried: Vec<Operand> = inputs[..states].iter().map(|&v| Operand::Value(v)).collect();
    let mut collected: Vec<Vec<ValueId>> = vec![Vec::new(); n_out];
    for turn in 0..turns {
        let mut given = carried.clone();
        for (k, &v) in inputs[states..].iter().enumerate() {
            let at = if in_back[k] == 0 { turn } else { turns - 1 - turn };
            let mut s = cx.scope();
            let step = s.slice(v, axes[k], at, 1usize)?;
            let mut shape = s.fact(v).shape;
            shape.remove(axes[k]);
            given.push(Operand::Value(s.reshape(step, &shape)?));
        }
        let results = cx.importer.inline(&body, &opsets, &given)?;
        carried = results[..states].to_vec();
        for (list, operand) in collected.iter_mut().zip(&results[states..]) {
            list.push(cx.importer.materialize(operand)?);
        }
    }
    let mut out = carried;
    for (k, mut list) in collected.into_iter().enumerate() {
        if out_back[k] != 0 {
            list.reverse();
        }
        out.push(Operand::Value(stack(cx, &list, out_axes[k])?));
    }
    Ok(out)
}

/// `Loop` with a known number of turns and a condition that stays true, written out.
pub(super) fn repeat(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let body = cx.body("body")?;
    let turns = if cx.has(0) { cx.scalar_of(0, "the trip count")? } else { f64::INFINITY };
    let start = if cx.has(1) { cx.scalar_of(1, "the condition")? != 0.0 } else { true };
    let states = cx.arity().saturating_sub(2);
    let n_out = body.output.len().checked_sub(states + 1);
    let (Some(n_out), true) = (n_out, body.input.len() == states + 2) else {
        return invalid("its body does not fit its inputs");
    };
    let opsets = cx.node.opsets.clone();
    let mut carried: Vec<Operand> = Vec::new();
    for i in 0..states {
        carried.push(Operand::Value(cx.value(i + 2)?));
    }
    let mut collected: Vec<Vec<ValueId>> = vec![Vec::new(); n_out];
    let mut turn = 0usize;
    let mut going = start;
    while going && (turn as f64) < turns {
        if turn >= MAX_TURNS {
            return unsupported(format!("a loop of more than {MAX_TURNS} turns"));
        }
        let number = penjing_tensor::Tensor::scalar(turn as i64);
        let mut given = vec![Operand::Value(cx.graph().add_const(number))];
        let yes = penjing_tensor::Tensor::scalar(1u8).cast(penjing_tensor::DType::Bool);
        given.push(Operand::Value(cx.graph().add_const(yes)));
        given.extend(carried);
        let results = cx.importer.inline(&body, &opsets, &given)?;
        going =
            match cx.importer.known(&results[0]).and_then(|k| k.elems.first().and_then(super::known::Scalar::as_int)) {
                Some(v) => v != 0,
                None => return unsupported("a condition that depends on data"),
            };
        carried = results[1..=states].to_vec();
        for (list, operand) in collected.iter_mut().zip(&results[states + 1..]) {
            list.push(cx.importer.materialize(operand)?);
        }
        turn += 1;
    }
    if turn == 0 && n_out > 0 {
        return unsupported("a loop of no turns with collected outputs");
    }
    let mut out = carried;
    for list in collected {
        out.push(Operand::Value(stack(cx, &list, 0)?));
    }
    Ok(out)
}

/// Values joined along a new axis.
fn stack(cx: &mut NodeCx<'_, '_>, list: &[ValueId], axis: i64) -> Res<ValueId> {
    let shape = list.first().map(|&v| cx.fact(v).shape).unwrap_or_default();
    let axis = cx.axis(axis, shape.len() + 1)?;
    let mut wide = shape;
    wide.insert(axis, penjing_ir::Dim::Const(1));
    let mut s = cx.scope();
    let parts = list.iter().map(|&v| s.reshape(v, &wide)).collect::<Result<Vec<_>, _>>()?;
    Ok(s.concat(&parts, axis)?)
}
