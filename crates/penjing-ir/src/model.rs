//! A graph with what outlives a run: states, their roles, and how a run updates them.

use crate::{Bindings, Dim, Fact, Graph, IrError, NodeId, Op, Source, StateId, Symbol, ValueId, infer};
use penjing_tensor::Tensor;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Index of a body in `Model::bodies`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BodyId(pub u32);

/// What a state is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Role {
    /// A parameter.
    Weight,
    /// Statistics that belong to the model but have no gradient, e.g. running means and quantization scales.
    Buffer,
    /// Zeros and ones that multiply a weight.
    Mask,
    /// Optimizer memory; never exported.
    Optimizer,
    /// Memory of a sequence in progress, e.g. keys and values.
    Cache,
}

impl Role {
    /// Every role, in declaration order.
    pub const ALL: [Role; 5] = [Role::Weight, Role::Buffer, Role::Mask, Role::Optimizer, Role::Cache];

    /// Lower-case name for text forms and records.
    pub fn name(self) -> &'static str {
        match self {
            Role::Weight => "weight",
            Role::Buffer => "buffer",
            Role::Mask => "mask",
            Role::Optimizer => "optimizer",
            Role::Cache => "cache",
        }
    }
}

/// A named tensor that outlives a run. Its shape never changes.
#[derive(Clone, Debug)]
pub struct State {
    /// Unique in the model; the source file's name where there is one.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Whether training updates it (only for `Role::Weight`).
    pub trainable: bool,
    /// Its content when the model was loaded or last saved.
    pub init: Arc<Tensor>,
}

/// After a run, `state` holds `value`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Carry {
    /// The new content; has the state's fact.
    pub value: ValueId,
    /// What it replaces.
    pub state: StateId,
}

/// A graph, the bodies its control flow names, and its states.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The main graph.
    pub graph: Graph,
    /// Graphs named by control-flow ops; a body's inputs are the node's captures.
    pub bodies: Vec<Graph>,
    /// What outlives a run.
    pub states: Vec<State>,
    /// How a run updates the states.
    pub carries: Vec<Carry>,
    /// Free-form facts that travel with the model (label names, normalization, producer).
    pub metadata: BTreeMap<String, String>,
}

impl Model {
    /// A model with an empty graph.
    pub fn new(name: &str) -> Model {
        Model { graph: Graph::new(name), ..Model::default() }
    }

    /// Adds a state and returns the value that reads it. The name is made unique by a suffix when it is taken.
    pub fn add_state(&mut self, name: &str, role: Role, trainable: bool, init: Tensor) -> ValueId {
        let mut unique = name.to_string();
        let mut n = 0;
        while self.states.iter().any(|s| s.name == unique) {
            n += 1;
            unique = format!("{name}_{n}");
        }
        self.states.push(State { name: unique, role, trainable, init: Arc::new(init) });
        self.state_value(StateId(self.states.len() as u32 - 1))
    }

    /// A trainable weight.
    pub fn add_weight(&mut self, name: &str, init: Tensor) -> ValueId {
        self.add_state(name, Role::Weight, true, init)
    }

    /// The value that reads a state in the main graph; made on first use.
    pub fn state_value(&mut self, id: StateId) -> ValueId {
        let existing = self.graph.value_ids().find(|&v| self.graph.value(v).source == Source::State(id));
        existing.unwrap_or_else(|| {
            let state = &self.states[id.index()];
            self.graph.add_value(state.name.clone(), Fact::of(&state.init), Source::State(id))
        })
    }

    /// The state that a value reads.
    pub fn state_of(&self, value: ValueId) -> Option<StateId> {
        match self.graph.value(value).source {
            Source::State(id) => Some(id),
            _ => None,
        }
    }

    /// The state with this id.
    pub fn state(&self, id: StateId) -> &State {
        &self.states[id.index()]
    }

    /// The state named `name`.
    pub fn find_state(&self, name: &str) -> Option<StateId> {
        self.states.iter().position(|s| s.name == name).map(|i| StateId(i as u32))
    }

    /// Ids of the states that training updates, in order.
    pub fn trainable(&self) -> Vec<StateId> {
        (0..self.states.len() as u32).map(StateId).filter(|&s| self.state(s).trainable).collect()
    }

    /// Makes every reader of `old` — node, output or carry — read `new`.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        self.graph.replace_uses(old, new);
        self.carries.iter_mut().filter(|c| c.value == old).for_each(|c| c.value = new);
    }

    /// Values that a run must produce: outputs, then carries.
    pub fn roots(&self) -> Vec<ValueId> {
        self.graph.outputs.iter().map(|o| o.value).chain(self.carries.iter().map(|c| c.value)).collect()
    }

    /// The nodes that a run needs, operands first. Errors on a cycle.
    pub fn topological_order(&self) -> Result<Vec<NodeId>, IrError> {
        self.graph.topological_order(&self.roots()).ok_or_else(|| IrError::Verify {
            place: format!("graph `{}`", self.graph.name),
            why: "the nodes form a cycle".into(),
        })
    }

    /// Drops nodes, values and states that no output or carry needs, and renumbers nodes in topological order. Old ids die;
    /// the result says where each value went.
    pub fn compact(&mut self) -> BTreeMap<ValueId, ValueId> {
        let carried: Vec<ValueId> = self.carries.iter().map(|c| c.value).collect();
        let map = self.graph.compact(&carried);
        let mut used: BTreeSet<StateId> = self.carries.iter().map(|c| c.state).collect();
        used.extend(self.graph.value_ids().filter_map(|v| self.state_of(v)));
        let renumber: BTreeMap<StateId, StateId> =
            used.iter().enumerate().map(|(new, &old)| (old, StateId(new as u32))).collect();
        for v in self.graph.value_ids().collect::<Vec<_>>() {
            if let Some(old) = self.state_of(v) {
                self.graph.set_source(v, Source::State(renumber[&old]));
            }
        }
        for c in &mut self.carries {
            *c = Carry { value: map[&c.value], state: renumber[&c.state] };
        }
        self.states = used.iter().map(|s| self.states[s.index()].clone()).collect();
        map
    }

    /// Every symbol that a fact of the main graph mentions and that no node produces.
    pub fn symbols(&self) -> BTreeSet<Symbol> {
        let mut found = BTreeSet::new();
        self.graph.values().iter().flat_map(|v| &v.fact.shape).for_each(|d| d.symbols(&mut found));
        for node in self.graph.nodes() {
            node.op.map_dims(&mut |d| {
                d.symbols(&mut found);
                d.clone()
            });
        }
        found.retain(|s| !s.late);
        found
    }

    /// The model with symbols replaced by numbers, everywhere; unbound ones stay.
    pub fn bind(&self, bindings: &Bindings) -> Result<Model, IrError> {
        self.map_dims(&mut |d| d.bind(bindings))
    }

    /// The model with every dim of inputs and attributes mapped, and all facts inferred again.
    pub fn map_dims(&self, map: &mut dyn FnMut(&Dim) -> Dim) -> Result<Model, IrError> {
        let mut out = self.clone();
        for graph in std::iter::once(&mut out.graph).chain(&mut out.bodies) {
            for v in graph.inputs.clone() {
                let mut fact = graph.fact(v).clone();
                fact.shape.iter_mut().for_each(|d| *d = map(d));
                graph.set_fact(v, fact);
            }
            for id in graph.node_ids() {
                let op = graph.node(id).op.map_dims(map);
                graph.node_mut(id).op = op;
            }
        }
        out.infer_again()?;
        Ok(out)
    }

    /// Computes every fact anew from inputs, states and constants; for passes that changed shapes.
    pub fn infer_again(&mut self) -> Result<(), IrError> {
        for i in 0..self.bodies.len() {
            let mut body = std::mem::take(&mut self.bodies[i]);
            let result = self.infer_graph(&mut body);
            self.bodies[i] = body;
            result?;
        }
        let mut graph = std::mem::take(&mut self.graph);
        let result = self.infer_graph(&mut graph);
        self.graph = graph;
        result
    }

    fn infer_graph(&self, graph: &mut Graph) -> Result<(), IrError> {
        for v in graph.value_ids().collect::<Vec<_>>() {
            if let Source::State(s) = graph.value(v).source {
                graph.set_fact(v, Fact::of(&self.state(s).init));
            }
        }
        let all: Vec<ValueId> = graph.value_ids().collect();
        let order = graph.topological_order(&all).ok_or_else(|| IrError::Verify {
            place: format!("graph `{}`", graph.name),
            why: "the nodes form a cycle".into(),
        })?;
        for id in order {
            let node = graph.node(id).clone();
            let operands: Vec<Fact> = node.inputs.iter().map(|&v| graph.fact(v).clone()).collect();
            let facts = match &node.op {
                Op::If { then_body, .. } => {
                    let body = &self.bodies[then_body.0 as usize];
                    body.outputs.iter().map(|o| body.fact(o.value).clone()).collect()
                }
                op => infer(op, &operands).map_err(|why| IrError::Infer {
                    node: node.name.clone(),
                    op: op.name(),
                    operands,
                    why,
                })?,
            };
            for (&v, fact) in node.outputs.iter().zip(facts) {
                graph.set_fact(v, fact);
            }
        }
        Ok(())
    }
}
