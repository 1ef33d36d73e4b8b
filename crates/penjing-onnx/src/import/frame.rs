//! The walk over a graph's nodes: names, scopes of bodies, and what stands for each value.

use super::{
    ImportOptions, OPSETS,
    evaluate::evaluate,
    functions::{FlatNode, Functions, Opsets, opset_map, plain},
    known::{Known, Scalar},
    node::{Fault, ImportFn, NodeCx, Res},
    registry,
    roles::{self, Slot},
};
use crate::{
    ModelFile, OnnxError, dtype_of,
    proto::{DimensionValue, ElemType, GraphProto, TensorProto, ValueInfoProto, ValueType},
    tensor_from_proto,
};
use penjing_ir::{Dim, Fact, Graph, Model, Op, Role, Source, ValueId};
use penjing_tensor::{DType, Tensor};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    mem,
    rc::Rc,
};

/// Bodies nested deeper than this are refused; a function whose body calls it again would never end.
const MAX_DEPTH: usize = 32;

/// Longest printed form of a symbolic extent: real ones have tens of characters, hostile ones grow without bound.
const MAX_DIM_TEXT: usize = 2000;

/// Largest product, over the symbolic extents of a shape, of their numbers of factors: the number of elements is one polynomial.
const MAX_TERMS: usize = 1 << 14;

/// What stands for an ONNX value name.
#[derive(Clone, Debug)]
pub(super) enum Operand {
    /// A value of the graph under construction.
    Value(ValueId),
    /// Small known elements; becomes a value where one is needed.
    Known(Rc<Known>),
}

impl From<Known> for Operand {
    fn from(known: Known) -> Operand {
        Operand::Known(Rc::new(known))
    }
}

/// A graph under construction: the main one, or a body.
struct Frame {
    graph: Graph,
    names: BTreeMap<String, Operand>,
    /// Values of the frame outside that this one reads, with the inputs that stand for them here.
    captures: Vec<(ValueId, ValueId)>,
}

/// A finished body and the outside values that its inputs stand for, in order.
pub(super) struct Body {
    pub(super) graph: Graph,
    pub(super) captures: Vec<(ValueId, ValueId)>,
}

/// The state of one import.
pub(super) struct Importer<'m> {
    pub(super) file: &'m ModelFile,
    options: &'m ImportOptions,
    functions: Functions<'m>,
    registry: BTreeMap<(&'static str, &'static str), ImportFn>,
    /// Bodies and states; its graph is empty until the end.
    pub(super) model: Model,
    frames: Vec<Frame>,
    depth: usize,
    symbols: Symbols,
}

/// The symbols that named dimensions stand for.
#[derive(Default)]
struct Symbols {
    by_name: BTreeMap<String, Dim>,
    taken: BTreeSet<String>,
    /// The number that was last appended to an identifier that several names come to.
    suffixes: BTreeMap<String, usize>,
}

impl<'m> Importer<'m> {
    pub(super) fn new(file: &'m ModelFile, options: &'m ImportOptions) -> Result<Importer<'m>, OnnxError> {
        Ok(Importer {
            file,
            options,
            functions: Functions::new(&file.proto),
            registry: registry::table(),
            model: Model::default(),
            frames: Vec::new(),
            depth: 0,
            symbols: Symbols::default(),
        })
    }

    /// Imports the model's graph.
    pub(super) fn main_graph(&mut self, graph: &GraphProto) -> Result<(), OnnxError> {
        let opsets = self.opsets()?;
        self.check_options(graph)?;
        let nodes = self.functions.flatten(&graph.node, &opsets)?;
        let slots = roles::classify(&nodes);
        let declared = roles::declared(&self.file.proto);
        self.model = Model::new(&graph.name);
        // States are made while the graph is still in the model; from here on it is in the frame.
        let mut names = BTreeMap::new();
        for proto in &graph.initializer {
            let tensor = tensor_from_proto(proto, &self.file.files)?;
            let value =
                self.initializer(&proto.name, tensor, slots.get(&proto.name).copied(), declared.get(&proto.name));
            define(&mut names, &proto.name, Operand::Value(value))?;
        }
        let graph_so_far = mem::take(&mut self.model.graph);
        self.frames.push(Frame { graph: graph_so_far, names, captures: Vec::new() });
        reject_sparse(graph)?;
        for info in &graph.input {
            if self.top().names.contains_key(&info.name) {
                continue; // An initializer of that name is the input's default, and here its value.
            }
            let value = self.input(info)?;
            self.define(&info.name, Operand::Value(value))?;
        }
        self.nodes(&nodes)?;
        for info in &graph.output {
            let value = self.output_value(&info.name)?;
            self.graph_mut().add_output(&info.name, value);
        }
        Ok(())
    }

    /// The finished model.
    pub(super) fn finish(mut self) -> Model {
        if let Some(frame) = self.frames.pop() {
            self.model.graph = frame.graph;
        }
        self.model
    }

    /// Imports a body as a graph of its own; names that it does not define are captured from outside.
    pub(super) fn body(&mut self, body: &GraphProto, opsets: &Rc<Opsets>) -> Result<Body, OnnxError> {
        self.enter()?;
        reject_sparse(body)?;
        self.frames.push(Frame { graph: Graph::new(&body.name), names: BTreeMap::new(), captures: Vec::new() });
        let done = self.fill_body(body, opsets);
        let frame = self.frames.pop().expect("pushed above");
        self.depth -= 1;
        done.map(|()| Body { graph: frame.graph, captures: frame.captures })
    }

    /// Imports a body's nodes into the graph at hand, its inputs standing for `inputs`; the body's outputs.
    pub(super) fn inline(
        &mut self,
        body: &GraphProto,
        opsets: &Rc<Opsets>,
        inputs: &[Operand],
    ) -> Result<Vec<Operand>, OnnxError> {
        self.enter()?;
        reject_sparse(body)?;
        let nodes = self.functions.flatten(&body.node, opsets)?;
        // A name may be defined outside as well, or by another run of this body: it is set aside meanwhile.
        let mut local: BTreeSet<String> = nodes.iter().flat_map(|n| n.proto.output.iter().cloned()).collect();
        local.extend(body.initializer.iter().map(|t| t.name.clone()));
        local.extend(body.input.iter().map(|i| i.name.clone()));
        let names = &mut self.top_mut().names;
        let outside: Vec<(String, Option<Operand>)> =
            local.into_iter().map(|name| (name.clone(), names.remove(&name))).collect();
        for (info, operand) in body.input.iter().zip(inputs) {
            names.insert(info.name.clone(), operand.clone());
        }
        let done = self.body_initializers(body).and_then(|()| self.nodes(&nodes)).and_then(|()| {
            body.output.iter().map(|o| self.lookup(&o.name).ok_or_else(|| undefined(&o.name))).collect()
        });
        let names = &mut self.top_mut().names;
        for (name, operand) in outside {
            match operand {
                Some(operand) => names.insert(name, operand),
                None => names.remove(&name),
            };
        }
        self.depth -= 1;
        done
    }

    /// The graph under construction.
    pub(super) fn graph(&self) -> &Graph {
        &self.top().graph
    }

    /// The graph under construction.
    pub(super) fn graph_mut(&mut self) -> &mut Graph {
        &mut self.top_mut().graph
    }

    /// An operand as a value of the graph under construction.
    pub(super) fn materialize(&mut self, operand: &Operand) -> Res<ValueId> {
        let known = match operand {
            Operand::Value(v) => return Ok(*v),
            Operand::Known(known) => Rc::clone(known),
        };
        if let Some(tensor) = known.to_tensor() {
            return Ok(self.graph_mut().add_const(tensor));
        }
        let dims = known.to_dims().ok_or_else(|| Fault::Invalid("a symbolic value among floats".into()))?;
        let graph = self.graph_mut();
        let mut v = graph.apply("", Op::DimValues { dims }, &[])?;
        if known.shape.len() != 1 {
            let shape = known.shape.iter().map(|&d| Dim::Const(d)).collect();
            v = graph.apply("", Op::Reshape { shape }, &[v])?;
        }
        if known.dtype != DType::I64 {
            v = graph.apply("", Op::Cast(known.dtype), &[v])?;
        }
        Ok(v)
    }

    /// The known elements of an operand.
    pub(super) fn known(&self, operand: &Operand) -> Option<Known> {
        match operand {
            Operand::Known(known) => Some((**known).clone()),
            Operand::Value(v) => Known::of(self.graph().as_const(*v)?),
        }
    }

    /// A graph input that an operand is computed from.
    pub(super) fn feeding_input(&self, operand: &Operand) -> Option<String> {
        let Operand::Value(start) = operand else { return None };
        let mut level = self.frames.len().checked_sub(1)?;
        let mut pending = vec![*start];
        loop {
            let frame = &self.frames[level];
            let mut seen = BTreeSet::new();
            let mut outside = Vec::new();
            while let Some(v) = pending.pop() {
                if !seen.insert(v) {
                    continue;
                }
                match &frame.graph.value(v).source {
                    Source::Node(node, _) => pending.extend(&frame.graph.node(*node).inputs),
                    Source::Input if level == 0 => return Some(frame.graph.value(v).name.clone()),
                    Source::Input => outside.extend(frame.captures.iter().filter(|c| c.1 == v).map(|c| c.0)),
                    Source::State(_) | Source::Const(_) => {}
                }
            }
            pending = outside;
            level = level.checked_sub(1)?;
        }
    }

    /// What an ONNX name stands for, captured from an outer graph where it is not defined in this one.
    fn lookup(&mut self, name: &str) -> Option<Operand> {
        if let Some(found) = self.top().names.get(name) {
            return Some(found.clone());
        }
        let level = (0..self.frames.len() - 1).rev().find(|&i| self.frames[i].names.contains_key(name))?;
        let mut operand = self.frames[level].names.get(name)?.clone();
        for inner in level + 1..self.frames.len() {
            operand = match operand {
                Operand::Known(known) => Operand::Known(known),
                Operand::Value(outer) => Operand::Value(self.capture(inner, outer, name)),
            };
            self.frames[inner].names.insert(name.to_string(), operand.clone());
        }
        Some(operand)
    }

    /// The value of frame `inner` that stands for value `outer` of the frame around it.
    fn capture(&mut self, inner: usize, outer: ValueId, name: &str) -> ValueId {
        let value = self.frames[inner - 1].graph.value(outer).clone();
        let frame = &mut self.frames[inner];
        if let Source::Const(tensor) = value.source {
            return frame.graph.add_named_const(name, (*tensor).clone());
        }
        if let Some(&(_, v)) = frame.captures.iter().find(|c| c.0 == outer) {
            return v;
        }
        let v = frame.graph.add_input(name, value.fact);
        frame.captures.push((outer, v));
        v
    }

    fn fill_body(&mut self, body: &GraphProto, opsets: &Rc<Opsets>) -> Result<(), OnnxError> {
        self.body_initializers(body)?;
        let nodes = self.functions.flatten(&body.node, opsets)?;
        self.nodes(&nodes)?;
        for info in &body.output {
            let value = self.output_value(&info.name)?;
            self.graph_mut().add_output(&info.name, value);
        }
        Ok(())
    }

    fn body_initializers(&mut self, body: &GraphProto) -> Result<(), OnnxError> {
        for proto in &body.initializer {
            let tensor = tensor_from_proto(proto, &self.file.files)?;
            let value = self.graph_mut().add_named_const(&proto.name, tensor);
            self.define(&proto.name, Operand::Value(value))?;
        }
        Ok(())
    }

    fn nodes(&mut self, nodes: &[FlatNode]) -> Result<(), OnnxError> {
        for node in nodes {
            let first_new = self.graph().values().len();
            let outputs = self.node(node)?;
            self.check_dims(node, &outputs, first_new)?;
            for (name, operand) in node.proto.output.iter().zip(outputs).filter(|(name, _)| !name.is_empty()) {
                if let Operand::Value(v) = operand
                    && v.index() >= first_new
                    && self.graph().value(v).name.is_empty()
                {
                    self.graph_mut().set_value_name(v, name);
                }
                self.define(name, operand)?;
            }
        }
        Ok(())
    }

    fn node(&mut self, node: &FlatNode) -> Result<Vec<Operand>, OnnxError> {
        let proto = &node.proto;
        let domain = plain(&proto.domain);
        let opset = opset_of(node);
        let fault = |fault: Fault| complete(fault, node, opset);
        let mut inputs = Vec::with_capacity(proto.input.len());
        for name in &proto.input {
            inputs.push(match name.as_str() {
                "" => None,
                name => Some(self.lookup(name).ok_or_else(|| fault(undefined_input(name)))?),
            });
        }
        let Some(import) = self.registry.get(&(domain, proto.op_type.as_str())).copied() else {
            let set = if domain.is_empty() { "the default operator set".into() } else { format!("domain '{domain}'") };
            return Err(fault(Fault::Unsupported(format!("no such operator is known in {set}"))));
        };
        let mut cx = NodeCx { importer: self, node, opset, inputs };
        let outputs = match evaluate(&cx).map_err(fault)? {
            Some(known) => vec![Operand::from(known)],
            None => import(&mut cx).map_err(fault)?,
        };
        if let Some(missing) = proto.output.iter().skip(outputs.len()).find(|name| !name.is_empty()) {
            return Err(fault(Fault::Unsupported(format!("its output '{missing}' is not computed"))));
        }
        Ok(outputs)
    }

    /// Refuses extents and known elements whose symbolic form grows without bound.
    fn check_dims(&self, node: &FlatNode, outputs: &[Operand], first_new: usize) -> Result<(), OnnxError> {
        let shapes = self.graph().values()[first_new..].iter().any(|v| too_complicated(&v.fact.shape));
        let known = outputs.iter().any(|operand| match operand {
            Operand::Known(known) => too_complicated(known.elems.iter().filter_map(|s| match s {
                Scalar::Int(d) => Some(d),
                Scalar::Real(_) => None,
            })),
            Operand::Value(_) => false,
        });
        if shapes || known {
            let why = "an extent is too large a formula; bind the symbolic dimensions".into();
            return Err(complete(Fault::Unsupported(why), node, opset_of(node)));
        }
        Ok(())
    }

    /// An initializer as a state or a constant. What Penjing itself wrote into the file goes before what the slots say, and
    /// the caller's choice before both.
    fn initializer(
        &mut self,
        name: &str,
        tensor: Tensor,
        slot: Option<Slot>,
        declared: Option<&(Role, bool)>,
    ) -> ValueId {
        let matches = |regex: &Option<regex::Regex>| regex.as_ref().is_some_and(|r| r.is_match(name));
        let (train, freeze) = (matches(&self.options.train), matches(&self.options.freeze));
        let float = tensor.dtype().is_float();
        let told = declared.copied().or_else(|| match slot.filter(|_| float)? {
            Slot::Buffer => Some((Role::Buffer, false)),
            slot => slot.is_weight(&tensor).then_some((Role::Weight, true)),
        });
        match told {
            _ if float && train => self.model.add_state(name, Role::Weight, !freeze, tensor),
            Some((role, trained)) => {
                self.model.add_state(name, role, trained && float && role == Role::Weight && !freeze, tensor)
            }
            None => self.model.graph.add_named_const(name, tensor),
        }
    }

    fn input(&mut self, info: &ValueInfoProto) -> Result<ValueId, OnnxError> {
        let fact = self.input_fact(info)?;
        let Some(tensor) = self.options.bind_inputs.get(&info.name) else {
            return Ok(self.graph_mut().add_input(&info.name, fact));
        };
        let fits = tensor.dtype() == fact.dtype
            && tensor.rank() == fact.rank()
            && fact.shape.iter().zip(tensor.shape()).all(|(d, &n)| d.as_const().is_none_or(|c| c == n));
        if !fits {
            let why = format!("bind_inputs gives '{}' a {}, the model declares {fact}", info.name, Fact::of(tensor));
            return Err(OnnxError::Option { why });
        }
        let tensor = tensor.clone();
        Ok(self.graph_mut().add_named_const(&info.name, tensor))
    }

    fn input_fact(&mut self, info: &ValueInfoProto) -> Result<Fact, OnnxError> {
        let file = self.file.files.file().to_string();
        let tensor = match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
            Some(ValueType::Tensor(tensor)) => tensor,
            Some(other) => {
                let kind = other.kind().to_string();
                return Err(OnnxError::UnsupportedValue { value: info.name.clone(), file, kind });
            }
            None => return Err(OnnxError::InvalidGraph { why: format!("input '{}' has no type", info.name) }),
        };
        let Some(dtype) = dtype_of(tensor.elem_type) else {
            return match ElemType::try_from(tensor.elem_type) {
                Ok(elem) if elem != ElemType::Undefined => {
                    Err(OnnxError::UnsupportedElement { tensor: info.name.clone(), file, elem: format!("{elem:?}") })
                }
                _ => Err(OnnxError::InvalidGraph { why: format!("input '{}' has no element type", info.name) }),
            };
        };
        let Some(shape) = &tensor.shape else {
            if let Some(bound) = self.options.bind_inputs.get(&info.name) {
                return Ok(Fact::of(bound).with_dtype(dtype));
            }
            return Err(OnnxError::UnsupportedModel {
                why: format!("input '{}' does not declare its rank", info.name),
            });
        };
        let dims = shape.dim.iter().enumerate().map(|(axis, dim)| {
            let unnamed = format!("{}_{axis}", info.name);
            match &dim.value {
                Some(DimensionValue::Value(v)) if *v >= 0 => Dim::int(*v),
                Some(DimensionValue::Param(name)) if !name.is_empty() => self.symbol(name),
                _ => self.symbol(&unnamed),
            }
        });
        let shape: Vec<Dim> = dims.collect();
        if too_complicated(&shape) {
            let why = format!("the names of the dimensions of input '{}' are too long", info.name);
            return Err(OnnxError::UnsupportedModel { why });
        }
        Ok(Fact { dtype, shape })
    }

    /// The dim that a named dimension stands for. Text forms write symbols as identifiers, so other characters become `_`.
    fn symbol(&mut self, name: &str) -> Dim {
        if let Some(&bound) = self.options.bind_dims.get(name) {
            return Dim::Const(bound);
        }
        if let Some(dim) = self.symbols.by_name.get(name) {
            return dim.clone();
        }
        let mut clean: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
        if clean.starts_with(|c: char| c.is_ascii_digit()) {
            clean.insert(0, '_');
        }
        let symbols = &mut self.symbols;
        let mut free = clean.clone();
        while !symbols.taken.insert(free.clone()) {
            let suffix = symbols.suffixes.entry(clean.clone()).or_insert(1);
            *suffix += 1;
            free = format!("{clean}_{suffix}");
        }
        let dim = Dim::sym(&free);
        symbols.by_name.insert(name.to_string(), dim.clone());
        dim
    }

    fn output_value(&mut self, name: &str) -> Result<ValueId, OnnxError> {
        let operand = self.lookup(name).ok_or_else(|| undefined(name))?;
        self.materialize(&operand).map_err(|fault| match fault {
            Fault::Done(error) => error,
            other => OnnxError::InvalidGraph { why: format!("output '{name}': {other:?}") },
        })
    }

    fn opsets(&self) -> Result<Rc<Opsets>, OnnxError> {
        let map = opset_map(&self.file.proto.opset_import);
        let functions = self.file.proto.functions.iter().map(|f| opset_map(&f.opset_import));
        for version in std::iter::once(map.clone()).chain(functions).filter_map(|m| m.get("").copied()) {
            if !OPSETS.contains(&version) {
                let (first, last) = (OPSETS.start(), OPSETS.end());
                let why = format!("it uses operator set {version}; {first} to {last} are supported");
                return Err(OnnxError::UnsupportedModel { why });
            }
        }
        Ok(Rc::new(map))
    }

    fn check_options(&self, graph: &GraphProto) -> Result<(), OnnxError> {
        for name in self.options.bind_inputs.keys() {
            if !graph.input.iter().any(|i| i.name == *name) {
                return Err(OnnxError::Option {
                    why: format!("bind_inputs names '{name}', which is no input of the model"),
                });
            }
        }
        Ok(())
    }

    fn enter(&mut self) -> Result<(), OnnxError> {
        if self.depth >= MAX_DEPTH {
            return Err(OnnxError::InvalidGraph { why: format!("bodies are nested more than {MAX_DEPTH} deep") });
        }
        self.depth += 1;
        Ok(())
    }

    fn define(&mut self, name: &str, operand: Operand) -> Result<(), OnnxError> {
        define(&mut self.top_mut().names, name, operand)
    }

    fn top(&self) -> &Frame {
        self.frames.last().expect("the main graph's frame is pushed before any node is read")
    }

    fn top_mut(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("the main graph's frame is pushed before any node is read")
    }
}

/// The version of the operator set that the node's operator is from.
fn opset_of(node: &FlatNode) -> i64 {
    node.opsets.get(plain(&node.proto.domain)).copied().unwrap_or(1)
}

/// Whether a formula among `dims` is too long, or those of all together are too many to be multiplied out.
fn too_complicated<'d>(dims: impl IntoIterator<Item = &'d Dim>) -> bool {
    let mut factors = 1usize;
    for dim in dims.into_iter().filter(|d| d.as_const().is_none()) {
        // The length first: the parts of a formula of bounded length are few.
        if write!(Bounded(MAX_DIM_TEXT), "{dim}").is_err() {
            return true;
        }
        let here: usize = dim.terms().iter().map(|(atoms, _)| atoms.len().max(1)).sum();
        factors = factors.saturating_mul(here.max(1));
    }
    factors > MAX_TERMS
}

/// Adds node, op and opset to a fault.
fn complete(fault: Fault, node: &FlatNode, opset: i64) -> OnnxError {
    let domain = plain(&node.proto.domain);
    let op = if domain.is_empty() { node.proto.op_type.clone() } else { format!("{domain}:{}", node.proto.op_type) };
    let node = format!("'{}'", node.label);
    match fault {
        Fault::Unsupported(why) => OnnxError::Unsupported { node, op, opset, why },
        Fault::Invalid(why) => OnnxError::InvalidNode { node, op, opset, why },
        Fault::NeedsInput { slot, input } => OnnxError::NeedsInput { node, op, opset, slot, input },
        Fault::Done(error) => error,
    }
}

fn define(names: &mut BTreeMap<String, Operand>, name: &str, operand: Operand) -> Result<(), OnnxError> {
    if name.is_empty() {
        return Err(OnnxError::InvalidGraph { why: "a value has an empty name".into() });
    }
    match names.insert(name.to_string(), operand) {
        None => Ok(()),
        Some(_) => Err(OnnxError::InvalidGraph { why: format!("value '{name}' is defined twice") }),
    }
}

fn undefined(name: &str) -> OnnxError {
    OnnxError::InvalidGraph { why: format!("value '{name}' is not defined (missing, or part of a cycle)") }
}

fn undefined_input(name: &str) -> Fault {
    Fault::Invalid(format!("its input '{name}' is not defined before it (missing, or part of a cycle)"))
}

fn reject_sparse(graph: &GraphProto) -> Result<(), OnnxError> {
    match graph.sparse_initializer.first() {
        None => Ok(()),
        Some(sparse) => {
            let name = sparse.values.as_ref().map(|v: &TensorProto| v.name.as_str()).unwrap_or_default();
            Err(OnnxError::UnsupportedModel { why: format!("initializer '{name}' is sparse") })
        }
    }
}

/// A writer that takes so many bytes and then fails.
struct Bounded(usize);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0 = self.0.checked_sub(text.len()).ok_or(std::fmt::Error)?;
        Ok(())
    }
}
