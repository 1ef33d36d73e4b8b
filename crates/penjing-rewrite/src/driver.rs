//! Applies rules until none fits. The only place where a patch reaches a graph.

use crate::{Match, Patch, RewriteError, Rule, Skip, Trace};
use penjing_ir::{Graph, Model, NodeId, Source, Stage, ValueId, verify};
use std::collections::{BTreeMap, BTreeSet};

/// Applications for each node of a graph before a rule set counts as endless.
const APPLICATIONS_PER_NODE: usize = 64;

/// Applies `rules` to the main graph and every body until none fits; returns how many patches were applied.
///
/// Before a patch is applied: the new values have the facts of the old ones, no value that the match consumed is read outside it
/// (nor is an output or a carry), and no cycle arises. A failed check is a skip with its reason.
pub fn rewrite(
    pass: &'static str,
    model: &mut Model,
    rules: &[Box<dyn Rule>],
    trace: &mut Trace,
) -> Result<usize, RewriteError> {
    let applied = each_graph(model, |graph, carried| rewrite_graph(pass, graph, carried, rules, trace))?;
    checked(pass, model)?;
    Ok(applied)
}

/// Runs `pass` over the main graph, then over every body. A pass gets the graph and the carried values, which it may replace.
pub(crate) fn each_graph(
    model: &mut Model,
    mut pass: impl FnMut(&mut Graph, &mut [ValueId]) -> Result<usize, RewriteError>,
) -> Result<usize, RewriteError> {
    let mut carried: Vec<ValueId> = model.carries.iter().map(|c| c.value).collect();
    let mut applied = pass(&mut model.graph, &mut carried)?;
    for (carry, value) in model.carries.iter_mut().zip(carried) {
        carry.value = value;
    }
    for body in &mut model.bodies {
        applied += pass(body, &mut [])?;
    }
    Ok(applied)
}

/// In builds with debug assertions, verifies the model after a pass.
pub(crate) fn checked(pass: &'static str, model: &Model) -> Result<(), RewriteError> {
    if cfg!(debug_assertions) {
        verify(model, Stage::Canonical).map_err(|source| RewriteError::Broken { pass, source })?;
    }
    Ok(())
}

/// The nodes that a run needs, in topological order, and who reads what among them.
pub(crate) struct Live {
    pub(crate) order: Vec<NodeId>,
    readers: BTreeMap<ValueId, Vec<NodeId>>,
    roots: BTreeSet<ValueId>,
}

impl Live {
    pub(crate) fn of(graph: &Graph, carried: &[ValueId]) -> Live {
        let roots: BTreeSet<ValueId> = graph.outputs.iter().map(|o| o.value).chain(carried.iter().copied()).collect();
        let all: Vec<ValueId> = roots.iter().copied().collect();
        let order = graph.topological_order(&all).unwrap_or_default();
        let mut readers: BTreeMap<ValueId, Vec<NodeId>> = BTreeMap::new();
        for &id in &order {
            for &v in &graph.node(id).inputs {
                readers.entry(v).or_default().push(id);
            }
        }
        Live { order, readers, roots }
    }

    fn escapes(&self, graph: &Graph, found: &Match<'_>) -> bool {
        found.nodes().iter().filter(|&&n| !found.may_escape(n)).flat_map(|&n| &graph.node(n).outputs).any(|v| {
            self.roots.contains(v)
                || self.readers.get(v).is_some_and(|r| r.iter().any(|reader| !found.nodes().contains(reader)))
        })
    }
}

fn rewrite_graph(
    pass: &'static str,
    graph: &mut Graph,
    carried: &mut [ValueId],
    rules: &[Box<dyn Rule>],
    trace: &mut Trace,
) -> Result<usize, RewriteError> {
    let mut live = Live::of(graph, carried);
    let limit = (live.order.len() + 1) * APPLICATIONS_PER_NODE;
    let mut applied = 0;
    loop {
        let mut changed = false;
        let mut done: BTreeSet<NodeId> = BTreeSet::new();
        let mut next = 0;
        // After a patch a sweep goes on at the first node it has not tried, so that one patch does not start it over.
        while let Some(&id) = live.order.get(next) {
            next += 1;
            if !done.insert(id) {
                continue;
            }
            for rule in rules {
                if !trace.may_apply() {
                    return Ok(applied);
                }
                match propose(graph, &live, rule.as_ref(), id) {
                    Ok(patch) => {
                        let (name, before) = (graph.node(id).name.clone(), live.order.len());
                        apply(graph, carried, id, patch)?;
                        live = Live::of(graph, carried);
                        next = 0;
                        trace.applied(rule.name(), &name, before, live.order.len());
                        applied += 1;
                        changed = true;
                        if applied > limit {
                            return Err(RewriteError::Endless { pass, limit });
                        }
                        break;
                    }
                    Err(why) => trace.skip(rule.name(), &graph.node(id).name, why),
                }
            }
        }
        if !changed {
            return Ok(applied);
        }
    }
}

fn propose(graph: &Graph, live: &Live, rule: &dyn Rule, id: NodeId) -> Result<Patch, Skip> {
    let found = Match::find(graph, id, rule.pattern()).ok_or(Skip::NoMatch)?;
    if live.escapes(graph, &found) {
        return Err(Skip::Check("a value inside the match is read outside it"));
    }
    let mut patch = Patch::default();
    rule.apply(&found, &mut patch)?;
    for &(old, new) in &patch.replacements {
        if graph.fact(old) != patch.graph.fact(new) {
            return Err(Skip::Check("the replacement has another dtype or shape"));
        }
    }
    if depends_on(graph, patch.taps.iter().map(|t| t.0), &patch.replacements) {
        return Err(Skip::Check("the replacement would depend on itself"));
    }
    Ok(patch)
}

fn depends_on(graph: &Graph, values: impl Iterator<Item = ValueId>, replaced: &[(ValueId, ValueId)]) -> bool {
    let mut stack: Vec<ValueId> = values.collect();
    let mut seen: BTreeSet<ValueId> = stack.iter().copied().collect();
    while let Some(v) = stack.pop() {
        if replaced.iter().any(|r| r.0 == v) {
            return true;
        }
        if let Source::Node(n, _) = graph.value(v).source {
            stack.extend(graph.node(n).inputs.iter().filter(|&&i| seen.insert(i)));
        }
    }
    false
}

fn apply(graph: &mut Graph, carried: &mut [ValueId], root: NodeId, patch: Patch) -> Result<(), RewriteError> {
    let mut map: BTreeMap<ValueId, ValueId> = patch.taps.iter().map(|&(outer, own)| (own, outer)).collect();
    for v in patch.graph.value_ids() {
        if let Source::Const(t) = &patch.graph.value(v).source {
            map.insert(v, graph.add_named_const(&patch.graph.value(v).name, (**t).clone()));
        }
    }
    let heir_of = patch.heir_of.unwrap_or(root);
    let base = graph.node(heir_of).name.clone();
    let result = patch.replacements.first().and_then(|r| patch.graph.producer(r.1));
    for id in patch.graph.node_ids() {
        let node = patch.graph.node(id);
        let inputs: Vec<ValueId> = node.inputs.iter().map(|v| map[v]).collect();
        let name = if Some(id) == result { base.clone() } else { format!("{base}/{}", node.name) };
        let new = graph.add_node(&name, node.op.clone(), &inputs)?;
        map.extend(node.outputs.iter().copied().zip(graph.node(new).outputs.clone()));
        if Some(id) == result {
            // The node that takes over the result takes over the name, under which reports and files know it.
            let fresh = std::mem::replace(&mut graph.node_mut(new).name, base.clone());
            graph.node_mut(heir_of).name = fresh;
        }
    }
    for (old, new) in patch.replacements {
        let new = map[&new];
        replace(graph, carried, old, new);
    }
    Ok(())
}

/// Makes every reader of `old` read `new`, which inherits the name where it has none.
pub(crate) fn replace(graph: &mut Graph, carried: &mut [ValueId], old: ValueId, new: ValueId) {
    if graph.value(new).name.is_empty() && graph.producer(new).is_some() {
        let name = graph.value(old).name.clone();
        graph.set_value_name(old, "");
        graph.set_value_name(new, &name);
    }
    graph.replace_uses(old, new);
    carried.iter_mut().filter(|v| **v == old).for_each(|v| *v = new);
}
