//! What selection knows about a node: dtypes, shapes and constant operands.

use crate::{Costs, Target, contents::Contents};
use penjing_ir::{Layout, Model, NodeId, ValueId};
use penjing_kernels::Isa;
use penjing_tensor::{DType, Tensor};
use std::sync::Arc;

/// Dtype and shape of an operand or result, and its content where it is constant.
pub(super) struct Operand {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) content: Option<Arc<Tensor>>,
}

impl Operand {
    /// The elements of a constant F32 operand.
    pub(super) fn floats(&self) -> Option<&[f32]> {
        self.content.as_ref().and_then(|t| t.as_slice::<f32>().ok())
    }
}

/// A node of a fused, bound model.
pub(super) struct Site {
    pub(super) isa: Isa,
    pub(super) costs: &'static Costs,
    pub(super) operands: Vec<Operand>,
    pub(super) results: Vec<Operand>,
}

impl Site {
    pub(super) fn new(model: &Model, id: NodeId, contents: &Contents, target: &Target) -> Site {
        let operand = |&v: &ValueId| {
            let fact = model.graph.fact(v);
            // Lowering has checked that every shape is known.
            let shape = fact.concrete().unwrap_or_default();
            Operand { dtype: fact.dtype, shape, content: contents.get(v) }
        };
        let node = model.graph.node(id);
        Site {
            isa: target.isa,
            costs: target.costs,
            operands: node.inputs.iter().map(operand).collect(),
            results: node.outputs.iter().map(operand).collect(),
        }
    }

    /// Whether every operand and result is F32.
    pub(super) fn all_f32(&self) -> bool {
        self.operands.iter().chain(&self.results).all(|o| o.dtype == DType::F32)
    }
}

/// The shape [N, spatial.., C] as [N, C, spatial..].
pub(super) fn channels_first(shape: &[usize]) -> Vec<usize> {
    Layout::ChannelsLast.to_first(shape.len()).into_iter().map(|axis| shape[axis]).collect()
}

/// Extents before, at and after `axis`.
pub(super) fn around(shape: &[usize], axis: usize) -> [usize; 3] {
    [shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product()]
}
