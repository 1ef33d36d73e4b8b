//! The walk over a graph's nodes on the way out: names, initializers, and the nodes written so far.

use super::{
    attention, control, conv, elementwise, index, matmul, movement, node::node, norm, quant, recurrent, reduce,
};
use crate::{
    OnnxError, elem_type,
    proto::{
        DimensionProto, DimensionValue, GraphProto, NodeProto, TensorProto, TensorShapeProto, TensorTypeProto,
        TypeProto, ValueInfoProto, ValueType,
    },
    tensor_to_proto,
};
use penjing_ir::{Dim, Fact, Graph, Model, Node, NodeId, Op, Source, Symbol, ValueId};
use penjing_tensor::Tensor;
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

/// Why one node cannot be said in ONNX; the emitter adds node and op.
pub(super) type Why = String;

/// The state of one export.
pub(super) struct Emitter<'m> {
    pub(super) model: &'m Model,
    pub(super) graph: &'m Graph,
    /// The ONNX name of each value that has one so far.
    names: Vec<Option<String>>,
    /// Every name in use, of this graph and those around it.
    pub(super) taken: BTreeSet<String>,
    nodes: Vec<NodeProto>,
    /// Names of this graph's nodes, written or to come.
    node_names: BTreeSet<String>,
    initializers: Vec<TensorProto>,
    /// Where a run can read each symbol: the name of a value and its axis.
    pub(super) symbols: BTreeMap<Symbol, (String, usize)>,
    /// Names of the I64 vectors of one element that hold dims, for those written so far.
    pub(super) dims: BTreeMap<Dim, String>,
    /// How many readers each value has; outputs count.
    readers: Vec<usize>,
    /// Nodes that are written already, on their own or as part of another.
    done: BTreeSet<NodeId>,
}

impl<'m> Emitter<'m> {
    pub(super) fn new(model: &'m Model) -> Emitter<'m> {
        Emitter::of_graph(model, &model.graph, BTreeSet::new())
    }

    fn of_graph(model: &'m Model, graph: &'m Graph, taken: BTreeSet<String>) -> Emitter<'m> {
        let mut readers = vec![0; graph.values().len()];
        let read = graph.nodes().iter().flat_map(|n| &n.inputs).chain(graph.outputs.iter().map(|o| &o.value));
        read.for_each(|v| readers[v.index()] += 1);
        Emitter {
            model,
            graph,
            names: vec![None; graph.values().len()],
            taken,
            nodes: Vec::new(),
            node_names: graph.nodes().iter().map(|n| n.name.clone()).collect(),
            initializers: Vec::new(),
            symbols: BTreeMap::new(),
            dims: BTreeMap::new(),
            readers,
            done: BTreeSet::new(),
        }
    }

    /// The model's graph with its inputs, initializers and outputs.
    pub(super) fn main_graph(&mut self) -> Result<GraphProto, OnnxError> {
        for &v in &self.graph.inputs {
            let name = self.fresh(&self.graph.value(v).name);
            for (axis, dim) in self.graph.fact(v).shape.iter().enumerate() {
                if let Some(symbol) = dim.as_symbol() {
                    self.symbols.entry(symbol).or_insert_with(|| (name.clone(), axis));
                }
            }
            self.names[v.index()] = Some(name);
        }
        let input = self.graph.inputs.iter().map(|&v| value_info(&self.name(v), self.graph.fact(v))).collect();
        let body = self.body()?;
        Ok(GraphProto { input, ..body })
    }

    /// A body whose inputs stand for values named `captures` outside; its graph has no inputs of its own.
    pub(super) fn nested(&mut self, graph: &'m Graph, captures: &[String]) -> Result<GraphProto, OnnxError> {
        let mut inner = Emitter::of_graph(self.model, graph, mem::take(&mut self.taken));
        inner.symbols = self.symbols.clone();
        for (&v, name) in graph.inputs.iter().zip(captures) {
            inner.names[v.index()] = Some(name.clone());
        }
        let body = inner.body();
        self.taken = inner.taken;
        body
    }

    /// Everything but the inputs.
    fn body(&mut self) -> Result<GraphProto, OnnxError> {
        self.name_outputs();
        let roots: Vec<ValueId> = self.graph.outputs.iter().map(|o| o.value).collect();
        let order = self
            .graph
            .topological_order(&roots)
            .ok_or_else(|| OnnxError::InvalidGraph { why: "the nodes form a cycle".into() })?;
        let needed: BTreeSet<NodeId> = order.iter().copied().collect();
        for id in order {
            if self.done.insert(id) {
                self.node(id, &needed)?;
            }
        }
        for output in &self.graph.outputs {
            let value = self.name(output.value);
            if value != output.name {
                self.nodes.push(node("Identity", "", &[value], std::slice::from_ref(&output.name)));
            }
        }
        let output = self.graph.outputs.iter().map(|o| value_info(&o.name, self.graph.fact(o.value))).collect();
        Ok(GraphProto {
            name: if self.graph.name.is_empty() { "graph".into() } else { self.graph.name.clone() },
            node: mem::take(&mut self.nodes),
            initializer: mem::take(&mut self.initializers),
            output,
            ..GraphProto::default()
        })
    }

    /// Output names come first; a value computed here and shown under one of them carries it.
    fn name_outputs(&mut self) {
        for output in &self.graph.outputs {
            let own = matches!(self.graph.value(output.value).source, Source::Node(..))
                && self.names[output.value.index()].is_none();
            if self.taken.insert(output.name.clone()) && own {
                self.names[output.value.index()] = Some(output.name.clone());
            }
        }
    }

    fn node(&mut self, id: NodeId, needed: &BTreeSet<NodeId>) -> Result<(), OnnxError> {
        let n = self.graph.node(id);
        let done = match &n.op {
            Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select | Op::Cast(_) | Op::StopGradient => {
                elementwise::emit(self, n)
            }
            Op::Reduce { .. } | Op::ArgReduce { .. } | Op::CumSum { .. } | Op::TopK { .. } => reduce::emit(self, n),
            Op::Permute { .. }
            | Op::Reshape { .. }
            | Op::Expand { .. }
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::Pad { .. } => movement::emit(self, n),
            Op::Gather { .. }
            | Op::GatherElements { .. }
            | Op::ScatterElements { .. }
            | Op::GatherNd { .. }
            | Op::ScatterNd { .. }
            | Op::OneHot { .. }
            | Op::Iota { .. }
            | Op::DimValues { .. }
            | Op::NonZero { .. } => index::emit(self, n),
            Op::MatMul { .. } => {
                let addition = self.bias_addition(n).filter(|(add, _)| needed.contains(add));
                let stored = match addition {
                    Some((add, bias)) => {
                        self.done.insert(add);
                        self.emit_stored_bias(bias)
                    }
                    None => Ok(()),
                };
                stored.and_then(|()| matmul::emit(self, n, addition))
            }
            Op::Conv(_) | Op::ConvTranspose { .. } | Op::Pool { .. } => conv::emit(self, n),
            Op::Softmax { .. }
            | Op::LogSoftmax { .. }
            | Op::BatchNorm { .. }
            | Op::LayerNorm { .. }
            | Op::RmsNorm { .. }
            | Op::GroupNorm { .. } => norm::emit(self, n),
            Op::Attention { scale, causal } => attention::emit(self, n, scale.0, *causal),
            Op::Lstm { direction, reserve: false } => recurrent::emit(self, n, *direction, recurrent::Cell::Lstm),
            Op::Gru { direction, reset } => recurrent::emit(self, n, *direction, recurrent::Cell::Gru(*reset)),
            Op::Quantize(_) | Op::Dequantize(_) | Op::FakeQuant(_) | Op::DynamicQuantize => quant::emit(self, n),
            Op::If { then_body, else_body } => control::emit(self, n, [*then_body, *else_body])?,
            Op::Random { .. }
            | Op::GatherGrad { .. }
            | Op::ConvWeightGrad { .. }
            | Op::PoolGrad { .. }
            | Op::BatchNormTrain { .. }
            | Op::BatchNormGrad { .. }
            | Op::LayerNormGrad { .. }
            | Op::AttentionGrad { .. }
            | Op::Lstm { .. }
            | Op::LstmGrad { .. }
            | Op::AllReduce
            | Op::Machine(_) => Err("ONNX has no such operator; export the inference graph".into()),
        };
        done.map_err(|why| OnnxError::UnsupportedExport {
            node: format!("'{}'", n.name),
            op: n.op.name().to_string(),
            why,
        })
    }

    // ---- for the families ----

    /// The name of a value; inputs, states and constants are declared on first use.
    pub(super) fn name(&mut self, v: ValueId) -> String {
        if let Some(name) = &self.names[v.index()] {
            return name.clone();
        }
        let value = self.graph.value(v);
        let name = match &value.source {
            Source::State(id) => {
                let state = self.model.state(*id);
                let name = self.fresh(&state.name);
                self.initializers.push(tensor_to_proto(&name, &state.init));
                name
            }
            Source::Const(tensor) => {
                let base = if value.name.is_empty() { "const" } else { &value.name };
                let name = self.fresh(base);
                self.declare(&name, tensor);
                name
            }
            Source::Input => self.fresh(&value.name),
            Source::Node(id, slot) => {
                let maker = &self.graph.node(*id).name;
                let base = match (value.name.is_empty(), slot) {
                    (false, _) => value.name.clone(),
                    (true, 0) => maker.clone(),
                    (true, slot) => format!("{maker}_{slot}"),
                };
                self.fresh(&base)
            }
        };
        self.names[v.index()] = Some(name.clone());
        name
    }

    /// Names of a node's operands.
    pub(super) fn inputs(&mut self, n: &Node) -> Vec<String> {
        n.inputs.iter().map(|&v| self.name(v)).collect()
    }

    /// Names of a node's results; trailing ones that nobody reads are left out, others in between stay.
    pub(super) fn outputs(&mut self, n: &Node) -> Vec<String> {
        let used = n.outputs.iter().rposition(|v| self.readers[v.index()] > 0).unwrap_or(0);
        n.outputs[..=used].iter().map(|&v| self.name(v)).collect()
    }

    /// Writes a node.
    pub(super) fn push(&mut self, proto: NodeProto) {
        self.nodes.push(proto);
    }

    /// Writes a node with one new value as its result; that value's name.
    pub(super) fn step(&mut self, n: &Node, op: &str, inputs: &[String]) -> String {
        self.step_with(n, op, inputs, |proto| proto)
    }

    /// As [`Emitter::step`], with attributes.
    pub(super) fn step_with(
        &mut self,
        n: &Node,
        op: &str,
        inputs: &[String],
        attributes: impl FnOnce(NodeProto) -> NodeProto,
    ) -> String {
        let base = format!("{}/{op}", n.name);
        let out = self.fresh(&base);
        let name = unused(&mut self.node_names, &base);
        self.push(attributes(node(op, &name, inputs, std::slice::from_ref(&out))));
        out
    }

    /// The name of a constant under `base`.
    pub(super) fn constant(&mut self, base: &str, tensor: &Tensor) -> String {
        let name = self.fresh(base);
        self.declare(&name, tensor);
        name
    }

    /// The name of an I64 vector constant.
    pub(super) fn ints(&mut self, base: &str, values: &[i64]) -> String {
        let tensor = Tensor::from_vec(&[values.len()], values.to_vec()).expect("as many elements as the shape says");
        self.constant(base, &tensor)
    }

    /// A scalar constant of the dtype of a value.
    pub(super) fn scalar_like(&mut self, n: &Node, v: ValueId, value: f64) -> String {
        let tensor = Tensor::scalar(value).cast(self.graph.fact(v).dtype);
        self.constant(&format!("{}/scalar", n.name), &tensor)
    }

    /// A name that nothing has yet, after `base`.
    pub(super) fn fresh(&mut self, base: &str) -> String {
        unused(&mut self.taken, if base.is_empty() { "value" } else { base })
    }

    fn declare(&mut self, name: &str, tensor: &Tensor) {
        let proto = tensor_to_proto(name, tensor);
        if tensor.dtype().is_float() {
            let value = TensorProto { name: String::new(), ..proto };
            self.nodes.push(node("Constant", "", &[], &[name.to_string()]).tensor("value", value));
        } else {
            self.initializers.push(proto);
        }
    }

    /// The addition of a bias vector that is the only reader of a product of matrices, and that vector.
    fn bias_addition(&self, n: &Node) -> Option<(NodeId, ValueId)> {
        let y = n.outputs[0];
        let fact = self.graph.fact(y);
        if fact.rank() != 2 || !fact.dtype.is_float() || self.readers[y.index()] != 1 {
            return None;
        }
        let (id, add) =
            self.graph.node_ids().map(|id| (id, self.graph.node(id))).find(|(_, m)| m.inputs.contains(&y))?;
        let other = *add.inputs.iter().find(|v| **v != y)?;
        let vector = self.graph.fact(other).shape == fact.shape[1..];
        let fixed = |v: ValueId| matches!(self.graph.value(v).source, Source::State(_) | Source::Const(_));
        let stored = fixed(other) || self.stored_bias(other).is_some_and(|d| d.inputs.iter().all(|&v| fixed(v)));
        (add.op == Op::Binary(penjing_ir::Binary::Add) && vector && stored).then_some((id, other))
    }

    /// The Dequantize that a bias stored as integers is read through.
    fn stored_bias(&self, bias: ValueId) -> Option<&Node> {
        let node = self.graph.node(self.graph.producer(bias)?);
        matches!(node.op, Op::Dequantize(_)).then_some(node)
    }

    /// Writes that Dequantize now, because the product that takes the bias in may stand before it.
    fn emit_stored_bias(&mut self, bias: ValueId) -> Result<(), Why> {
        let graph = self.graph;
        let Some(id) = graph.producer(bias) else { return Ok(()) };
        if !self.done.insert(id) {
            return Ok(());
        }
        quant::emit(self, graph.node(id))
    }
}

/// `base`, with a number where it is taken; the result is taken from now on.
fn unused(taken: &mut BTreeSet<String>, base: &str) -> String {
    let mut name = base.to_string();
    let mut n = 0;
    while !taken.insert(name.clone()) {
        n += 1;
        name = format!("{base}_{n}");
    }
    name
}

fn value_info(name: &str, fact: &Fact) -> ValueInfoProto {
    let dims = fact.shape.iter().map(|d| {
        let value = match d.as_const() {
            Some(n) => DimensionValue::Value(n as i64),
            None => DimensionValue::Param(d.to_string()),
        };
        DimensionProto { value: Some(value) }
    });
    let shape = Some(TensorShapeProto { dim: dims.collect() });
    let tensor = TensorTypeProto { elem_type: elem_type(fact.dtype) as i32, shape };
    ValueInfoProto {
        name: name.into(),
        r#type: Some(TypeProto { value: Some(ValueType::Tensor(tensor)) }),
        ..ValueInfoProto::default()
    }
}
