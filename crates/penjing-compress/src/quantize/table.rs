//! Tables whose rows are picked by index: on a grid of integers, each row its own, so that a file holds a quarter of the bytes.

use super::place::QuantizeConfig;
use penjing_ir::{Model, NodeId, Op, Role};
use penjing_tensor::DType;

/// Elements below which a table stays as it is: little would be won.
const SMALL: usize = 1 << 16;

/// A node that picks rows of a table, its first operand.
pub(super) struct TablePlace {
    pub(super) node: NodeId,
    /// Rows of the table.
    pub(super) axis: usize,
}

/// Every `Gather` from a large weight that `config` does not skip.
pub(super) fn tables(model: &Model, config: &QuantizeConfig) -> Vec<TablePlace> {
    let place = |id: NodeId| {
        let node = model.graph.node(id);
        let Op::Gather { axis } = node.op else { return None };
        let state = model.state(model.state_of(node.inputs[0])?);
        let skipped = config.skip.iter().any(|s| node.name.contains(s.as_str()));
        let large = state.role == Role::Weight && state.init.dtype() == DType::F32 && state.init.len() >= SMALL;
        (large && !skipped).then_some(TablePlace { node: id, axis })
    };
    model.graph.node_ids().filter_map(place).collect()
}
