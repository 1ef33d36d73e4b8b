//! A whole model: symbols bound from the inputs, nodes in topological order, states in and out.

use crate::{RefError, eval_op};
use penjing_ir::{Bindings, Dim, Fact, Graph, Model, Node, NodeId, Op, Source, StateId, Symbol, ValueId};
use penjing_tensor::{DType, Tensor};
use std::collections::{BTreeMap, BTreeSet};

/// Which dtype floats are computed and stored in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precision {
    /// As the graph declares, each node's result rounded once.
    Declared,
    /// Every float is widened to F64 and stays there; for gradient checks.
    F64,
}

/// What a run leaves behind.
#[derive(Clone, Debug, Default)]
pub struct RunResult {
    /// The graph's outputs by name.
    pub outputs: BTreeMap<String, Tensor>,
    /// New contents of the states that carries update, by name.
    pub states: BTreeMap<String, Tensor>,
}

/// Runs `model` on `inputs`, which are named as the graph's. `states` overrides the states' initial contents by name.
///
/// # Errors
/// See [`RefError`]; errors of evaluation name the node.
pub fn run(
    model: &Model,
    inputs: &BTreeMap<String, Tensor>,
    states: &BTreeMap<String, Tensor>,
    precision: Precision,
) -> Result<RunResult, RefError> {
    let mut values = run_values(model, inputs, states, precision, &model.roots())?;
    let carried = values.split_off(model.graph.outputs.len());
    let state_name = |id: StateId| model.state(id).name.clone();
    Ok(RunResult {
        outputs: model.graph.outputs.iter().map(|o| o.name.clone()).zip(values).collect(),
        states: model.carries.iter().map(|c| state_name(c.state)).zip(carried).collect(),
    })
}

/// As [`run`], returning any values of the main graph instead of its outputs.
///
/// # Errors
/// As [`run`].
pub fn run_values(
    model: &Model,
    inputs: &BTreeMap<String, Tensor>,
    states: &BTreeMap<String, Tensor>,
    precision: Precision,
    wanted: &[ValueId],
) -> Result<Vec<Tensor>, RefError> {
    let run = Run { model, states: initial_states(model, states, precision)?, precision };
    let bindings = bind_inputs(&model.graph, inputs)?;
    let named = |&v: &ValueId| run.input(&model.graph, v, inputs);
    let given = model.graph.inputs.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    run.graph(&model.graph, &given, bindings, wanted)
}

/// The symbols of `graph`'s inputs solved from the shapes of the tensors given for them.
///
/// # Errors
/// Names the input that is missing, unknown, or of another rank or extent than declared.
pub fn bind_inputs(graph: &Graph, inputs: &BTreeMap<String, Tensor>) -> Result<Bindings, RefError> {
    let known: Vec<String> = graph.inputs.iter().map(|&v| graph.value(v).name.clone()).collect();
    if let Some(name) = inputs.keys().find(|n| !known.contains(n)) {
        return Err(RefError::Unknown { kind: "input", name: name.clone(), known });
    }
    let mut pairs = Vec::new();
    for (&v, name) in graph.inputs.iter().zip(&known) {
        let fact = graph.fact(v);
        let tensor =
            inputs.get(name).ok_or_else(|| RefError::MissingInput { input: name.clone(), want: fact.to_string() })?;
        pairs.push((name.as_str(), fact, tensor));
    }
    bind(&pairs)
}

/// Plain symbols take their extents first; then every dim must agree.
fn bind(pairs: &[(&str, &Fact, &Tensor)]) -> Result<Bindings, RefError> {
    let mut bindings = Bindings::new();
    for (name, fact, tensor) in pairs {
        if fact.rank() != tensor.rank() {
            let have = tensor.shape().to_vec();
            return Err(RefError::InputRank { input: (*name).into(), want: fact.rank(), have });
        }
        for (dim, &extent) in fact.shape.iter().zip(tensor.shape()) {
            if let Some(symbol) = dim.as_symbol() {
                bindings.entry(symbol).or_insert(extent);
            }
        }
    }
    for (name, fact, tensor) in pairs {
        for (axis, (dim, &have)) in fact.shape.iter().zip(tensor.shape()).enumerate() {
            let bound = dim.bind(&bindings);
            if !bound.is(have) {
                let want = if bound == *dim { dim.to_string() } else { format!("{dim} = {bound}") };
                return Err(RefError::InputExtent { input: (*name).into(), axis, want, have });
            }
        }
    }
    Ok(bindings)
}

fn initial_states(
    model: &Model,
    given: &BTreeMap<String, Tensor>,
    precision: Precision,
) -> Result<Vec<Tensor>, RefError> {
    if let Some(name) = given.keys().find(|n| model.find_state(n).is_none()) {
        let known = model.states.iter().map(|s| s.name.clone()).collect();
        return Err(RefError::Unknown { kind: "state", name: name.clone(), known });
    }
    let one = |state: &penjing_ir::State| {
        let content = given.get(&state.name).unwrap_or(&state.init);
        if content.shape() != state.init.shape() {
            let (want, have) = (state.init.shape().to_vec(), content.shape().to_vec());
            return Err(RefError::StateShape { state: state.name.clone(), want, have });
        }
        accept("state", &state.name, content, state.init.dtype(), precision)
    };
    model.states.iter().map(one).collect()
}

/// The tensor in the dtype that the run computes in.
fn accept(
    kind: &'static str,
    name: &str,
    t: &Tensor,
    declared: DType,
    precision: Precision,
) -> Result<Tensor, RefError> {
    let have = t.dtype();
    let widened = precision == Precision::F64 && declared.is_float() && have.is_float();
    if have != declared && !widened {
        return Err(RefError::WrongDType { kind, name: name.into(), want: declared, have });
    }
    Ok(widen(t, precision))
}

fn widen(t: &Tensor, precision: Precision) -> Tensor {
    if precision == Precision::F64 && t.dtype().is_float() { t.cast(DType::F64) } else { t.clone() }
}

struct Run<'a> {
    model: &'a Model,
    states: Vec<Tensor>,
    precision: Precision,
}

impl Run<'_> {
    fn input(&self, graph: &Graph, v: ValueId, inputs: &BTreeMap<String, Tensor>) -> Result<Tensor, RefError> {
        let value = graph.value(v);
        let missing = || RefError::MissingInput { input: value.name.clone(), want: value.fact.to_string() };
        let tensor = inputs.get(&value.name).ok_or_else(missing)?;
        accept("input", &value.name, tensor, value.fact.dtype, self.precision)
    }

    fn graph(
        &self,
        graph: &Graph,
        inputs: &[Tensor],
        mut bindings: Bindings,
        wanted: &[ValueId],
    ) -> Result<Vec<Tensor>, RefError> {
        let order = schedule(graph, wanted)?;
        let mut values: Vec<Option<Tensor>> = vec![None; graph.values().len()];
        for (&v, t) in graph.inputs.iter().zip(inputs) {
            values[v.index()] = Some(t.clone());
        }
        let mut readers = count_readers(graph, &order, wanted);
        for id in order {
            let node = graph.node(id);
            let fail = |e: RefError| RefError::Node { node: node.name.clone(), source: Box::new(e) };
            let operands = node.inputs.iter().map(|&v| self.read(graph, v, &values)).collect::<Result<Vec<_>, _>>();
            let results = self.node(node, &operands.map_err(fail)?, &bindings).map_err(fail)?;
            for (slot, (&v, t)) in node.outputs.iter().zip(results).enumerate() {
                self.check(graph, node, slot, &t, &mut bindings)?;
                values[v.index()] = Some(t);
            }
            for v in &node.inputs {
                readers[v.index()] -= 1;
                if readers[v.index()] == 0 {
                    values[v.index()] = None;
                }
            }
        }
        wanted.iter().map(|&v| self.read(graph, v, &values)).collect()
    }

    fn read(&self, graph: &Graph, v: ValueId, values: &[Option<Tensor>]) -> Result<Tensor, RefError> {
        let value = graph.value(v);
        match &value.source {
            Source::Const(t) => Ok(widen(t, self.precision)),
            Source::State(s) => self.states.get(s.index()).cloned().ok_or_else(|| RefError::Unknown {
                kind: "state",
                name: format!("{s:?}"),
                known: Vec::new(),
            }),
            Source::Input | Source::Node(..) => values[v.index()]
                .clone()
                .ok_or_else(|| RefError::MissingInput { input: value.name.clone(), want: value.fact.to_string() }),
        }
    }

    fn node(&self, node: &Node, operands: &[Tensor], bindings: &Bindings) -> Result<Vec<Tensor>, RefError> {
        if let Op::If { then_body, else_body } = node.op {
            return self.branch(operands, bindings, [then_body.0, else_body.0]);
        }
        let op = self.widened(node.op.map_dims(&mut |d: &Dim| d.bind(bindings)));
        let results = eval_op(&op, &operands.iter().collect::<Vec<_>>())?;
        Ok(results.iter().map(|t| widen(t, self.precision)).collect())
    }

    fn branch(&self, operands: &[Tensor], outer: &Bindings, bodies: [u32; 2]) -> Result<Vec<Tensor>, RefError> {
        let undefined = |why: String| RefError::Undefined { what: "If", why };
        let (condition, captures) = operands.split_first().ok_or_else(|| undefined("no condition".into()))?;
        let &[flag] = condition.as_slice::<u8>()? else {
            return Err(undefined(format!("the condition has shape {:?}", condition.shape())));
        };
        let chosen = bodies[usize::from(flag == 0)];
        let body = self.model.bodies.get(chosen as usize).ok_or_else(|| undefined(format!("no body {chosen}")))?;
        if captures.len() != body.inputs.len() {
            let (have, want) = (captures.len(), body.inputs.len());
            return Err(undefined(format!("{have} captures for the {want} inputs of body {chosen}")));
        }
        let pairs: Vec<(&str, &Fact, &Tensor)> =
            body.inputs.iter().zip(captures).map(|(&v, t)| (body.value(v).name.as_str(), body.fact(v), t)).collect();
        let mut bindings = outer.clone();
        bindings.extend(bind(&pairs)?);
        let wanted: Vec<ValueId> = body.outputs.iter().map(|o| o.value).collect();
        self.graph(body, captures, bindings, &wanted)
    }

    /// Float dtypes that an op names become F64 too.
    fn widened(&self, mut op: Op) -> Op {
        if self.precision == Precision::F64
            && let Op::Cast(dtype) | Op::OneHot { dtype, .. } | Op::Iota { dtype, .. } = &mut op
            && dtype.is_float()
        {
            *dtype = DType::F64;
        }
        op
    }

    /// Binds late symbols from a result and checks it against its fact. The branches of `If` may differ in shape.
    fn check(
        &self,
        graph: &Graph,
        node: &Node,
        slot: usize,
        t: &Tensor,
        bindings: &mut Bindings,
    ) -> Result<(), RefError> {
        let fact = graph.fact(node.outputs[slot]);
        let fits_rank = fact.rank() == t.rank();
        if fits_rank {
            for (dim, &extent) in fact.shape.iter().zip(t.shape()) {
                if let Some(symbol) = dim.as_symbol().filter(|s| s.late) {
                    bindings.entry(symbol).or_insert(extent);
                }
            }
        }
        if matches!(node.op, Op::If { .. }) {
            return Ok(());
        }
        let dtype_fits = fact.dtype == t.dtype()
            || (self.precision == Precision::F64 && fact.dtype.is_float() && t.dtype().is_float());
        let extents_fit = fact.shape.iter().zip(t.shape()).all(|(d, &n)| d.bind(bindings).is(n));
        if fits_rank && dtype_fits && extents_fit {
            return Ok(());
        }
        let bound = Fact { dtype: fact.dtype, shape: fact.shape.iter().map(|d| d.bind(bindings)).collect() };
        let (want, have) = (bound.to_string(), Fact::of(t).to_string());
        Err(RefError::Fact { node: node.name.clone(), slot, want, have })
    }
}

/// Nodes in the order in which they run: operands first, and whatever makes a late symbol before the nodes whose attributes
/// mention it, even where no edge joins the two.
fn schedule(graph: &Graph, wanted: &[ValueId]) -> Result<Vec<NodeId>, RefError> {
    let cycle = || penjing_ir::IrError::Verify {
        place: format!("graph `{}`", graph.name),
        why: "the nodes form a cycle".into(),
    };
    let mut roots = wanted.to_vec();
    let mut order = graph.topological_order(&roots).ok_or_else(cycle)?;
    let makers = late_makers(graph);
    let needs = |id: NodeId| -> Vec<NodeId> {
        late_symbols(&graph.node(id).op).iter().filter_map(|s| makers.get(s).copied()).collect()
    };
    if order.iter().all(|&id| needs(id).is_empty()) {
        return Ok(order);
    }
    loop {
        let known = order.len();
        roots.extend(order.iter().flat_map(|&id| needs(id)).map(|maker| graph.node(maker).outputs[0]));
        order = graph.topological_order(&roots).ok_or_else(cycle)?;
        if order.len() == known {
            break;
        }
    }
    let mut placed = BTreeSet::new();
    let mut out = Vec::with_capacity(order.len());
    while out.len() < order.len() {
        let before = out.len();
        for &id in order.iter() {
            let producers = graph.node(id).inputs.iter().filter_map(|&v| graph.producer(v));
            if !placed.contains(&id) && producers.chain(needs(id)).all(|p| placed.contains(&p)) {
                placed.insert(id);
                out.push(id);
            }
        }
        if out.len() == before {
            return Err(cycle().into());
        }
    }
    Ok(out)
}

/// The node whose result is the first to have each late symbol as an extent.
fn late_makers(graph: &Graph) -> BTreeMap<Symbol, NodeId> {
    let mut makers = BTreeMap::new();
    for id in graph.node_ids() {
        let dims = graph.node(id).outputs.iter().flat_map(|&v| &graph.fact(v).shape);
        for symbol in dims.filter_map(Dim::as_symbol).filter(|s| s.late) {
            makers.entry(symbol).or_insert(id);
        }
    }
    makers
}

fn late_symbols(op: &Op) -> BTreeSet<Symbol> {
    let mut found = BTreeSet::new();
    op.map_dims(&mut |d| {
        d.symbols(&mut found);
        d.clone()
    });
    found.retain(|s| s.late);
    found
}

/// How often each value is still read; wanted values are read once more, at the end.
fn count_readers(graph: &Graph, order: &[NodeId], wanted: &[ValueId]) -> Vec<usize> {
    let mut readers = vec![0; graph.values().len()];
    let operands = order.iter().flat_map(|&id| &graph.node(id).inputs);
    operands.chain(wanted).for_each(|v| readers[v.index()] += 1);
    readers
}
