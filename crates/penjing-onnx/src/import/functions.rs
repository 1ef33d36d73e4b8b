//! Inlining of model functions, so that the rest of the importer sees plain operators only.

use crate::{
    OnnxError,
    proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto},
};
use std::{collections::BTreeMap, rc::Rc};

/// Calls nested deeper than this are taken for recursion, which ONNX forbids.
const MAX_DEPTH: usize = 32;

/// Longest name of a node or value of a function call: it is put before every name inside the function.
const MAX_NAME: usize = 1 << 12;

/// Most nodes that a model may have after inlining, function calls included: far above real models, far below what fills a machine.
const MAX_NODES: usize = 1 << 19;

/// Operator set versions by domain; the default domain is the empty string.
pub(super) type Opsets = BTreeMap<String, i64>;

/// A node that calls an operator, not a function.
#[derive(Clone, Debug)]
pub(super) struct FlatNode {
    /// The node, with names unique in its graph.
    pub(super) proto: NodeProto,
    /// What messages and graph nodes call it: its name, else that of its first output.
    pub(super) label: String,
    /// The operator sets that it was written against.
    pub(super) opsets: Rc<Opsets>,
}

/// The functions of a model.
pub(super) struct Functions<'a> {
    table: BTreeMap<(&'a str, &'a str, &'a str), &'a FunctionProto>,
    budget: std::cell::Cell<usize>,
}

impl<'a> Functions<'a> {
    pub(super) fn new(model: &'a ModelProto) -> Functions<'a> {
        let key = |f: &'a FunctionProto| (plain(&f.domain), f.name.as_str(), f.overload.as_str());
        Functions {
            table: model.functions.iter().map(|f| (key(f), f)).collect(),
            budget: std::cell::Cell::new(MAX_NODES),
        }
    }

    /// The nodes of a graph with every function call replaced by the function's nodes.
    pub(super) fn flatten(&self, nodes: &[NodeProto], opsets: &Rc<Opsets>) -> Result<Vec<FlatNode>, OnnxError> {
        let mut out = Vec::with_capacity(nodes.len());
        for node in nodes {
            self.push(node.clone(), opsets, 0, &mut out)?;
        }
        Ok(out)
    }

    fn push(
        &self,
        proto: NodeProto,
        opsets: &Rc<Opsets>,
        depth: usize,
        out: &mut Vec<FlatNode>,
    ) -> Result<(), OnnxError> {
        let left = self.budget.get().checked_sub(1);
        self.budget.set(left.ok_or_else(|| invalid(format!("more than {MAX_NODES} nodes and function calls")))?);
        let label = label(&proto);
        let key = (plain(&proto.domain), proto.op_type.as_str(), proto.overload.as_str());
        let Some(function) = self.table.get(&key) else {
            out.push(FlatNode { proto, label, opsets: Rc::clone(opsets) });
            return Ok(());
        };
        if depth >= MAX_DEPTH {
            return Err(invalid(format!("function '{}' calls itself", function.name)));
        }
        if proto.input.iter().chain(&proto.output).chain([&label]).any(|name| name.len() > MAX_NAME) {
            let why = format!("a call of function '{}' has a name of more than {MAX_NAME} bytes", function.name);
            return Err(OnnxError::UnsupportedModel { why });
        }
        let inner = Rc::new(opset_map(&function.opset_import));
        let names = Renaming::of_call(function, &proto, &label)?;
        for node in &function.node {
            self.push(names.node(node)?, &inner, depth + 1, out)?;
        }
        Ok(())
    }
}

/// Operator set versions by domain.
pub(super) fn opset_map(imports: &[OperatorSetIdProto]) -> Opsets {
    imports.iter().map(|o| (plain(&o.domain).to_string(), o.version)).collect()
}

/// A domain with the default domain's long name made short.
pub(super) fn plain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

fn label(node: &NodeProto) -> String {
    if !node.name.is_empty() {
        return node.name.clone();
    }
    node.output.iter().find(|o| !o.is_empty()).cloned().unwrap_or_default()
}

fn invalid(why: String) -> OnnxError {
    OnnxError::InvalidGraph { why }
}

/// How one call renames the values and fills in the attributes of a function body.
struct Renaming<'a> {
    formal: BTreeMap<&'a str, String>,
    attributes: BTreeMap<&'a str, AttributeProto>,
    prefix: String,
}

impl<'a> Renaming<'a> {
    fn of_call(function: &'a FunctionProto, call: &NodeProto, label: &str) -> Result<Renaming<'a>, OnnxError> {
        if call.input.len() > function.input.len() || call.output.len() > function.output.len() {
            return Err(invalid(format!("node {label} gives function '{}' more values than it takes", function.name)));
        }
        let mut formal = BTreeMap::new();
        // An input that the call leaves out is absent inside, too; an output it leaves out gets an inner name.
        for (i, name) in function.input.iter().enumerate() {
            formal.insert(name.as_str(), call.input.get(i).cloned().unwrap_or_default());
        }
        for (name, actual) in function.output.iter().zip(&call.output).filter(|(_, actual)| !actual.is_empty()) {
            if formal.insert(name.as_str(), actual.clone()).is_some() {
                return Err(invalid(format!("function '{}' returns its own input '{name}'", function.name)));
            }
        }
        let mut attributes: BTreeMap<&str, AttributeProto> =
            function.attribute_proto.iter().map(|a| (a.name.as_str(), a.clone())).collect();
        for name in &function.attribute {
            if let Some(given) = call.attribute.iter().find(|a| a.name == *name) {
                attributes.insert(name, given.clone());
            }
        }
        for default in &function.attribute_proto {
            if let Some(given) = call.attribute.iter().find(|a| a.name == default.name) {
                attributes.insert(&default.name, given.clone());
            }
        }
        Ok(Renaming { formal, attributes, prefix: format!("{label}/") })
    }

    fn value(&self, name: &str) -> String {
        match self.formal.get(name) {
            Some(actual) => actual.clone(),
            None if name.is_empty() => String::new(),
            None => format!("{}{name}", self.prefix),
        }
    }

    fn node(&self, node: &NodeProto) -> Result<NodeProto, OnnxError> {
        let mut out = node.clone();
        out.input.iter_mut().chain(&mut out.output).for_each(|name| *name = self.value(name));
        let label = if node.name.is_empty() { &node.op_type } else { &node.name };
        out.name = format!("{}{label}", self.prefix);
        out.attribute =
            node.attribute.iter().filter_map(|a| self.attribute(a).transpose()).collect::<Result<_, _>>()?;
        Ok(out)
    }

    /// The attribute with references replaced; `None` when it refers to one that neither call nor function gives.
    fn attribute(&self, attribute: &AttributeProto) -> Result<Option<AttributeProto>, OnnxError> {
        if !attribute.ref_attr_name.is_empty() {
            let given = self.attributes.get(attribute.ref_attr_name.as_str());
            return Ok(given.map(|a| AttributeProto { name: attribute.name.clone(), ..a.clone() }));
        }
        let mut out = attribute.clone();
        out.g = attribute.g.as_ref().map(|g| self.graph(g)).transpose()?;
        Ok(Some(out))
    }

    /// A body inside the function: every name is inside the call's name space.
    fn graph(&self, graph: &GraphProto) -> Result<GraphProto, OnnxError> {
        let mut out = graph.clone();
        out.node = graph.node.iter().map(|n| self.node(n)).collect::<Result<_, _>>()?;
        out.initializer.iter_mut().for_each(|t| t.name = self.value(&t.name));
        out.input.iter_mut().chain(&mut out.output).for_each(|v| v.name = self.value(&v.name));
        Ok(out)
    }
}
