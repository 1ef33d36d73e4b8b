//! Nodes and values. Facts are inferred when a node is added, so every value's fact is right by construction.

use crate::{Fact, IrError, Op, infer};
use penjing_tensor::{DType, Tensor};
use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::Arc,
};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $name(pub u32);

        impl $name {
            /// The id as an index into the owning vector.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}
id!(
    /// Index of a value in `Graph::values`.
    ValueId
);
id!(
    /// Index of a node in `Graph::nodes`.
    NodeId
);
id!(
    /// Index of a state in `Model::states`.
    StateId
);

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// Output `.1` of a node.
    Node(NodeId, u8),
    /// Given by the caller at each run.
    Input,
    /// The state's content at the start of the run.
    State(StateId),
    /// Fixed.
    Const(Arc<Tensor>),
}

/// A tensor that flows along an edge.
#[derive(Clone, Debug)]
pub struct Value {
    /// The source file's name for it; may be empty.
    pub name: String,
    /// Dtype and shape.
    pub fact: Fact,
    /// Where it comes from.
    pub source: Source,
}

/// An operation applied to values.
#[derive(Clone, Debug)]
pub struct Node {
    /// Unique in the graph; the source file's name where there is one.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// Operands, in the op's order.
    pub inputs: Vec<ValueId>,
    /// Results, in the op's order.
    pub outputs: Vec<ValueId>,
}

/// A named result of the graph.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Output {
    /// What callers and exported files call it.
    pub name: String,
    /// The value.
    pub value: ValueId,
}

/// A directed acyclic graph of nodes. Ids stay valid until [`Graph::compact`] or [`crate::Model::compact`].
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// What reports call it.
    pub name: String,
    /// Values given at each run, in order.
    pub inputs: Vec<ValueId>,
    /// Results, in order.
    pub outputs: Vec<Output>,
    nodes: Vec<Node>,
    values: Vec<Value>,
    node_names: HashMap<String, u32>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// Adds an input; its name must be unique among inputs ([`crate::verify`] checks).
    pub fn add_input(&mut self, name: &str, fact: Fact) -> ValueId {
        let id = self.add_value(name.into(), fact, Source::Input);
        self.inputs.push(id);
        id
    }

    /// Adds a constant.
    pub fn add_const(&mut self, tensor: Tensor) -> ValueId {
        self.add_named_const("", tensor)
    }

    /// Adds a constant that keeps the name it has in the source file.
    pub fn add_named_const(&mut self, name: &str, tensor: Tensor) -> ValueId {
        self.add_value(name.into(), Fact::of(&tensor), Source::Const(Arc::new(tensor)))
    }

    /// Adds a node and its output values. `name` is made unique by a suffix when it is taken; empty takes the op's name.
    pub fn add_node(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> Result<NodeId, IrError> {
        let name = self.unique_name(if name.is_empty() { op.name() } else { name });
        let operands: Vec<Fact> = inputs.iter().map(|&v| self.fact(v).clone()).collect();
        let facts =
            infer(&op, &operands).map_err(|why| IrError::Infer { node: name.clone(), op: op.name(), operands, why })?;
        Ok(self.push_node(name, op, inputs, facts))
    }

    /// As [`Graph::add_node`] with result facts given by the caller, for `If`, whose bodies only the model knows.
    pub fn add_node_with_facts(&mut self, name: &str, op: Op, inputs: &[ValueId], facts: Vec<Fact>) -> NodeId {
        let name = self.unique_name(if name.is_empty() { op.name() } else { name });
        self.push_node(name, op, inputs, facts)
    }

    /// Adds a node and returns its first output.
    pub fn apply(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId, IrError> {
        let node = self.add_node(name, op, inputs)?;
        Ok(self.node(node).outputs[0])
    }

    /// Gives a node one more result, for rewrites that turn on an optional one (and set the op to match).
    pub fn add_result(&mut self, node: NodeId, fact: Fact) -> ValueId {
        let slot = self.nodes[node.index()].outputs.len() as u8;
        let value = self.add_value(String::new(), fact, Source::Node(node, slot));
        self.nodes[node.index()].outputs.push(value);
        value
    }

    /// Names a result.
    pub fn add_output(&mut self, name: &str, value: ValueId) {
        self.outputs.push(Output { name: name.into(), value });
    }

    /// All nodes, in order of addition (topological after [`Graph::compact`]).
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All values.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// Ids of all nodes.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// Ids of all values.
    pub fn value_ids(&self) -> impl Iterator<Item = ValueId> + use<> {
        (0..self.values.len() as u32).map(ValueId)
    }

    /// The node with this id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The node with this id, for rewrites that keep operand and result facts right themselves.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    /// The value with this id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// Dtype and shape of a value.
    pub fn fact(&self, id: ValueId) -> &Fact {
        &self.values[id.index()].fact
    }

    /// Gives a value the name that the source file has for it.
    pub fn set_value_name(&mut self, id: ValueId, name: &str) {
        self.values[id.index()].name = name.into();
    }

    /// Replaces a value's fact, for passes that change shapes and infer again.
    pub fn set_fact(&mut self, id: ValueId, fact: Fact) {
        self.values[id.index()].fact = fact;
    }

    /// Turns a state or input value into a constant.
    pub fn set_const(&mut self, id: ValueId, tensor: Tensor) {
        let v = &mut self.values[id.index()];
        v.fact = Fact::of(&tensor);
        v.source = Source::Const(Arc::new(tensor));
        self.inputs.retain(|&i| i != id);
    }

    /// Takes the content of every constant out, leaving empty tensors under the old facts: for lowering, which moves contents
    /// into kernels. The graph can no longer be evaluated.
    pub fn take_consts(&mut self) -> Vec<(ValueId, Arc<Tensor>)> {
        let empty = Arc::new(Tensor::zeros(DType::U8, &[0]).expect("nothing fits in memory"));
        let mut taken = Vec::new();
        for (i, value) in self.values.iter_mut().enumerate() {
            if let Source::Const(tensor) = &mut value.source {
                taken.push((ValueId(i as u32), std::mem::replace(tensor, Arc::clone(&empty))));
            }
        }
        taken
    }

    /// The node that makes a value.
    pub fn producer(&self, id: ValueId) -> Option<NodeId> {
        match self.values[id.index()].source {
            Source::Node(n, _) => Some(n),
            _ => None,
        }
    }

    /// The tensor of a constant value.
    pub fn as_const(&self, id: ValueId) -> Option<&Arc<Tensor>> {
        match &self.values[id.index()].source {
            Source::Const(t) => Some(t),
            _ => None,
        }
    }

    /// The input named `name`.
    pub fn input(&self, name: &str) -> Option<ValueId> {
        self.inputs.iter().copied().find(|&v| self.value(v).name == name)
    }

    /// The output named `name`.
    pub fn output(&self, name: &str) -> Option<ValueId> {
        self.outputs.iter().find(|o| o.name == name).map(|o| o.value)
    }

    /// For each value, the (node, operand index) pairs that read it. Graph outputs and carries are not among them.
    pub fn uses(&self) -> Vec<Vec<(NodeId, usize)>> {
        let mut uses = vec![Vec::new(); self.values.len()];
        for id in self.node_ids() {
            for (i, v) in self.node(id).inputs.iter().enumerate() {
                uses[v.index()].push((id, i));
            }
        }
        uses
    }

    /// Makes every reader of `old`, node or graph output, read `new`. Carries are the model's: see `Model::replace_uses`.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        for node in &mut self.nodes {
            node.inputs.iter_mut().filter(|v| **v == old).for_each(|v| *v = new);
        }
        self.outputs.iter_mut().filter(|o| o.value == old).for_each(|o| o.value = new);
    }

    /// The nodes that `roots` need, operands before users; ties by node id. `None` when there is a cycle.
    pub fn topological_order(&self, roots: &[ValueId]) -> Option<Vec<NodeId>> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.nodes.len()];
        let mut order = Vec::new();
        // Roots in node order, so that the result follows the order of construction where it is free to.
        let mut wanted: Vec<NodeId> = roots.iter().filter_map(|&v| self.producer(v)).collect();
        wanted.sort_unstable();
        let mut stack: Vec<(NodeId, usize)> = Vec::new();
        for root in wanted {
            if marks[root.index()] != Mark::New {
                continue;
            }
            marks[root.index()] = Mark::Open;
            stack.push((root, 0));
            while let Some((id, next)) = stack.pop() {
                let Some(&operand) = self.nodes[id.index()].inputs.get(next) else {
                    marks[id.index()] = Mark::Done;
                    order.push(id);
                    continue;
                };
                stack.push((id, next + 1));
                if let Some(p) = self.producer(operand) {
                    match marks[p.index()] {
                        Mark::New => {
                            marks[p.index()] = Mark::Open;
                            stack.push((p, 0));
                        }
                        Mark::Open => return None,
                        Mark::Done => {}
                    }
                }
            }
        }
        Some(order)
    }

    /// Drops what `roots` and the outputs do not need and renumbers: nodes in topological order. Inputs stay. Returns where
    /// each old value went. A graph with a cycle is left as it is.
    pub fn compact(&mut self, roots: &[ValueId]) -> BTreeMap<ValueId, ValueId> {
        let all: Vec<ValueId> = self.outputs.iter().map(|o| o.value).chain(roots.iter().copied()).collect();
        let Some(order) = self.topological_order(&all) else {
            return self.value_ids().map(|v| (v, v)).collect();
        };
        let mut old_nodes: Vec<Option<Node>> = mem::take(&mut self.nodes).into_iter().map(Some).collect();
        let mut old_values: Vec<Option<Value>> = mem::take(&mut self.values).into_iter().map(Some).collect();
        let mut map: Vec<Option<ValueId>> = vec![None; old_values.len()];
        let mut values = Vec::with_capacity(old_values.len());
        let mut keep = |v: ValueId, values: &mut Vec<Value>| {
            if let Some(value) = old_values[v.index()].take() {
                values.push(value);
                map[v.index()] = Some(ValueId(values.len() as u32 - 1));
            }
            map[v.index()].expect("given when it was kept")
        };
        self.inputs.iter_mut().for_each(|v| *v = keep(*v, &mut values));
        let mut nodes = Vec::with_capacity(order.len());
        for mut node in order.iter().filter_map(|id| old_nodes[id.index()].take()) {
            node.inputs.iter_mut().for_each(|v| *v = keep(*v, &mut values));
            for (slot, v) in node.outputs.iter_mut().enumerate() {
                *v = keep(*v, &mut values);
                values[v.index()].source = Source::Node(NodeId(nodes.len() as u32), slot as u8);
            }
            nodes.push(node);
        }
        self.outputs.iter_mut().for_each(|o| o.value = keep(o.value, &mut values));
        roots.iter().for_each(|&v| {
            keep(v, &mut values);
        });
        self.node_names = nodes.iter().map(|n| (n.name.clone(), 0)).collect();
        (self.nodes, self.values) = (nodes, values);
        map.into_iter().enumerate().filter_map(|(old, new)| Some((ValueId(old as u32), new?))).collect()
    }

    /// A graph from its parts, for readers of stored graphs; [`crate::verify`] must follow.
    pub(crate) fn from_parts(
        name: String,
        inputs: Vec<ValueId>,
        outputs: Vec<Output>,
        nodes: Vec<Node>,
        values: Vec<Value>,
    ) -> Graph {
        let node_names = nodes.iter().map(|n| (n.name.clone(), 0)).collect();
        Graph { name, inputs, outputs, nodes, values, node_names }
    }

    pub(crate) fn set_source(&mut self, id: ValueId, source: Source) {
        self.values[id.index()].source = source;
    }

    pub(crate) fn add_value(&mut self, name: String, fact: Fact, source: Source) -> ValueId {
        self.values.push(Value { name, fact, source });
        ValueId(self.values.len() as u32 - 1)
    }

    fn push_node(&mut self, name: String, op: Op, inputs: &[ValueId], facts: Vec<Fact>) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        let outputs = facts
            .into_iter()
            .enumerate()
            .map(|(slot, fact)| self.add_value(String::new(), fact, Source::Node(id, slot as u8)))
            .collect();
        self.nodes.push(Node { name, op, inputs: inputs.to_vec(), outputs });
        id
    }

    fn unique_name(&mut self, base: &str) -> String {
        if !self.node_names.contains_key(base) {
            self.node_names.insert(base.into(), 0);
            return base.into();
        }
        loop {
            let next = self.node_names.entry(base.into()).or_insert(0);
            *next += 1;
            let candidate = format!("{base}_{next}");
            if !self.node_names.contains_key(&candidate) {
                self.node_names.insert(candidate.clone(), 0);
                return candidate;
            }
        }
    }
}
