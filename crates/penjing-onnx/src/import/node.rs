//! What an importer function sees of its node: operands, attributes and the graph under construction.

use super::{
    attributes,
    frame::{Importer, Operand},
    functions::FlatNode,
    known::Known,
};
use crate::{OnnxError, proto::GraphProto, tensor_from_proto};
use penjing_ir::{Dim, Fact, Graph, IrError, Op, Scope, ValueId};
use penjing_tensor::{DType, Tensor};
use std::sync::Arc;

/// Why one node cannot be imported; the importer adds node, op and opset.
#[derive(Debug)]
pub(super) enum Fault {
    /// The node is valid, Penjing cannot express it.
    Unsupported(String),
    /// The node breaks the ONNX rules.
    Invalid(String),
    /// The value of `slot` depends on the graph input `input`.
    NeedsInput { slot: String, input: String },
    /// Already complete: from a tensor or a body.
    Done(OnnxError),
}

/// Result of an importer step.
pub(super) type Res<T> = Result<T, Fault>;

/// An importer function: the node's outputs, in order.
pub(super) type ImportFn = fn(&mut NodeCx<'_, '_>) -> Res<Vec<Operand>>;

impl From<IrError> for Fault {
    fn from(error: IrError) -> Fault {
        match &error {
            IrError::Infer { operands, .. } if operands.iter().any(|f| f.concrete().is_none()) => {
                Fault::Unsupported(format!("{error}; giving the symbolic dimensions a value may help (bind_dims)"))
            }
            _ => Fault::Invalid(error.to_string()),
        }
    }
}

impl From<OnnxError> for Fault {
    fn from(error: OnnxError) -> Fault {
        Fault::Done(error)
    }
}

/// `Err(Fault::Unsupported)`.
pub(super) fn unsupported<T>(why: impl Into<String>) -> Res<T> {
    Err(Fault::Unsupported(why.into()))
}

/// `Err(Fault::Invalid)`.
pub(super) fn invalid<T>(why: impl Into<String>) -> Res<T> {
    Err(Fault::Invalid(why.into()))
}

/// One node being imported.
pub(super) struct NodeCx<'i, 'm> {
    pub(super) importer: &'i mut Importer<'m>,
    pub(super) node: &'i FlatNode,
    /// Version of the operator set of the node's domain.
    pub(super) opset: i64,
    pub(super) inputs: Vec<Option<Operand>>,
}

impl NodeCx<'_, '_> {
    // ---- operands ----

    /// True when operand `i` is given.
    pub(super) fn has(&self, i: usize) -> bool {
        self.inputs.get(i).is_some_and(Option::is_some)
    }

    /// Number of operand slots the node writes.
    pub(super) fn arity(&self) -> usize {
        self.inputs.len()
    }

    /// Operand `i` as a value of the graph.
    pub(super) fn value(&mut self, i: usize) -> Res<ValueId> {
        match self.optional(i)? {
            Some(v) => Ok(v),
            None => invalid(format!("input {i} is missing")),
        }
    }

    /// Operand `i`, which the node may leave out.
    pub(super) fn optional(&mut self, i: usize) -> Res<Option<ValueId>> {
        match self.inputs.get(i).cloned().flatten() {
            None => Ok(None),
            Some(operand) => Ok(Some(self.importer.materialize(&operand)?)),
        }
    }

    /// All operands as values; none may be left out.
    pub(super) fn values(&mut self) -> Res<Vec<ValueId>> {
        (0..self.arity()).map(|i| self.value(i)).collect()
    }

    /// Operand `i` when its elements are known.
    pub(super) fn known(&self, i: usize) -> Option<Known> {
        self.importer.known(self.inputs.get(i)?.as_ref()?)
    }

    /// Operand `i` when it is a tensor known without symbols, of any size.
    pub(super) fn constant(&self, i: usize) -> Option<Arc<Tensor>> {
        match self.inputs.get(i)?.as_ref()? {
            Operand::Value(v) => self.importer.graph().as_const(*v).cloned(),
            Operand::Known(k) => k.to_tensor().map(Arc::new),
        }
    }

    /// The elements of operand `i`, which must be known integers, possibly symbolic. `slot` names it in messages.
    pub(super) fn dims_of(&self, i: usize, slot: &str) -> Res<Vec<Dim>> {
        match self.known(i) {
            Some(known) => known.to_dims().ok_or_else(|| Fault::Invalid(format!("{slot} must hold integers"))),
            None => Err(self.not_known(i, slot)),
        }
    }

    /// The elements of operand `i`, which must be known numbers. `slot` names it in messages.
    pub(super) fn ints_of(&self, i: usize, slot: &str) -> Res<Vec<i64>> {
        let dims = self.dims_of(i, slot)?;
        dims.iter()
            .map(|d| {
                d.as_int().ok_or_else(|| Fault::Unsupported(format!("{slot} depends on the dimension {d}; bind it")))
            })
            .collect()
    }

    /// The tensor of operand `i`, which must be known.
    pub(super) fn tensor_of(&self, i: usize, slot: &str) -> Res<Arc<Tensor>> {
        match self.constant(i) {
            Some(tensor) => Ok(tensor),
            None => match self.known(i) {
                Some(_) => unsupported(format!("{slot} depends on a symbolic dimension; bind it")),
                None => Err(self.not_known(i, slot)),
            },
        }
    }

    /// The single element of operand `i`, which must be known.
    pub(super) fn scalar_of(&self, i: usize, slot: &str) -> Res<f64> {
        match self.tensor_of(i, slot)?.to_f64s().as_slice() {
            [v] => Ok(*v),
            other => invalid(format!("{slot} must have one element, not {}", other.len())),
        }
    }

    fn not_known(&self, i: usize, slot: &str) -> Fault {
        let Some(operand) = self.inputs.get(i).and_then(Option::as_ref) else {
            return Fault::Invalid(format!("{slot} (input {i}) is missing"));
        };
        match self.importer.feeding_input(operand) {
            Some(input) => Fault::NeedsInput { slot: slot.into(), input },
            None => Fault::Unsupported(format!("{slot} must be known when the model is imported")),
        }
    }

    // ---- attributes ----

    /// An `Int` attribute or its default.
    pub(super) fn int(&self, name: &str, default: i64) -> Res<i64> {
        Ok(self.opt_int(name)?.unwrap_or(default))
    }

    /// An `Int` attribute.
    pub(super) fn opt_int(&self, name: &str) -> Res<Option<i64>> {
        attributes::int(&self.node.proto, name)
    }

    /// An `Int` attribute that stands for a flag.
    pub(super) fn flag(&self, name: &str, default: i64) -> Res<bool> {
        Ok(self.int(name, default)? != 0)
    }

    /// A `Float` attribute or its default.
    pub(super) fn float(&self, name: &str, default: f64) -> Res<f64> {
        Ok(attributes::float(&self.node.proto, name)?.unwrap_or(default))
    }

    /// A `Float` attribute.
    pub(super) fn opt_float(&self, name: &str) -> Res<Option<f64>> {
        attributes::float(&self.node.proto, name)
    }

    /// A `String` attribute or its default.
    pub(super) fn string(&self, name: &str, default: &str) -> Res<String> {
        Ok(attributes::string(&self.node.proto, name)?.unwrap_or(default).to_string())
    }

    /// An `Ints` attribute.
    pub(super) fn ints(&self, name: &str) -> Res<Option<Vec<i64>>> {
        Ok(attributes::ints(&self.node.proto, name)?.map(<[i64]>::to_vec))
    }

    /// A `Floats` attribute.
    pub(super) fn floats(&self, name: &str) -> Res<Option<Vec<f64>>> {
        Ok(attributes::floats(&self.node.proto, name)?.map(|v| v.iter().map(|&x| x.into()).collect()))
    }

    /// A `Strings` attribute.
    pub(super) fn strings(&self, name: &str) -> Res<Option<Vec<String>>> {
        Ok(attributes::strings(&self.node.proto, name)?.map(|v| v.into_iter().map(str::to_string).collect()))
    }

    /// A `Tensor` attribute.
    pub(super) fn tensor(&self, name: &str) -> Res<Option<Tensor>> {
        match attributes::tensor(&self.node.proto, name)? {
            None => Ok(None),
            Some(proto) => Ok(Some(tensor_from_proto(proto, &self.importer.file.files)?)),
        }
    }

    /// A `Graph` attribute that must be there.
    pub(super) fn body(&self, name: &str) -> Res<GraphProto> {
        match attributes::graph(&self.node.proto, name)? {
            Some(graph) => Ok(graph.clone()),
            None => invalid(format!("attribute '{name}' is missing")),
        }
    }

    /// An element type attribute as a dtype.
    pub(super) fn dtype(&self, name: &str) -> Res<Option<DType>> {
        let Some(code) = self.opt_int(name)? else { return Ok(None) };
        self.dtype_of_code(name, code).map(Some)
    }

    /// The dtype of an ONNX element type number.
    pub(super) fn dtype_of_code(&self, name: &str, code: i64) -> Res<DType> {
        let elem = i32::try_from(code).ok().and_then(|c| crate::proto::ElemType::try_from(c).ok());
        match elem {
            Some(e) if e != crate::proto::ElemType::Undefined => match crate::dtype_of(e as i32) {
                Some(dtype) => Ok(dtype),
                None => unsupported(format!("element type {e:?}")),
            },
            _ => invalid(format!("attribute '{name}' is no element type: {code}")),
        }
    }

    // ---- building ----

    /// The graph under construction.
    pub(super) fn graph(&mut self) -> &mut Graph {
        self.importer.graph_mut()
    }

    /// Dtype and shape of a value.
    pub(super) fn fact(&self, v: ValueId) -> Fact {
        self.importer.graph().fact(v).clone()
    }

    /// Number of axes of a value.
    pub(super) fn rank(&self, v: ValueId) -> usize {
        self.importer.graph().fact(v).rank()
    }

    /// Dtype of a value.
    pub(super) fn dtype_of(&self, v: ValueId) -> DType {
        self.importer.graph().fact(v).dtype
    }

    /// For formulas: nodes are named after this node.
    pub(super) fn scope(&mut self) -> Scope<'_> {
        let prefix = self.node.label.clone();
        Scope::new(self.importer.graph_mut(), &prefix)
    }

    /// Adds the one op that this node is, under the node's own name; all its outputs.
    pub(super) fn emit(&mut self, op: Op, inputs: &[ValueId]) -> Res<Vec<Operand>> {
        let name = self.node.label.clone();
        let id = self.graph().add_node(&name, op, inputs)?;
        Ok(self.graph().node(id).outputs.iter().map(|&v| Operand::Value(v)).collect())
    }

    /// As [`NodeCx::emit`], for an op with one output; the value.
    pub(super) fn emit_one(&mut self, op: Op, inputs: &[ValueId]) -> Res<ValueId> {
        let name = self.node.label.clone();
        Ok(self.graph().apply(&name, op, inputs)?)
    }

    /// `axis`, which may count from the end, for rank `rank`.
    pub(super) fn axis(&self, axis: i64, rank: usize) -> Res<usize> {
        normalize_axis(axis, rank)
    }

    /// Axes that may count from the end, as a sorted list without repetition.
    pub(super) fn axes(&self, axes: &[i64], rank: usize) -> Res<Vec<usize>> {
        let mut out = axes.iter().map(|&a| normalize_axis(a, rank)).collect::<Res<Vec<_>>>()?;
        out.sort_unstable();
        if out.windows(2).any(|w| w[0] == w[1]) {
            return invalid(format!("axes {axes:?} name one axis twice"));
        }
        Ok(out)
    }

    /// True when the node asks for output `i`.
    pub(super) fn wants(&self, i: usize) -> bool {
        self.node.proto.output.get(i).is_some_and(|name| !name.is_empty())
    }
}

/// `axis`, which may count from the end, for rank `rank`.
pub(super) fn normalize_axis(axis: i64, rank: usize) -> Res<usize> {
    let n = rank as i64;
    if axis < -n || axis >= n {
        return invalid(format!("axis {axis} is outside rank {rank}"));
    }
    Ok(if axis < 0 { axis + n } else { axis } as usize)
}

/// One output, as an importer's result.
pub(super) fn one(v: ValueId) -> Vec<Operand> {
    vec![Operand::Value(v)]
}
