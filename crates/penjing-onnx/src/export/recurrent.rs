//! Recurrent cells.

use super::{
    emitter::{Emitter, Why},
    node::node,
};
use penjing_ir::{Direction, Node, Reset};

/// Which operator.
pub(super) enum Cell {
    Lstm,
    Gru(Reset),
}

pub(super) fn emit(e: &mut Emitter<'_>, n: &Node, direction: Direction, cell: Cell) -> Result<(), Why> {
    let hidden = e.graph.fact(n.inputs[2]).shape[2].as_const().ok_or("the hidden size is symbolic")?;
    let (mut x, y) = (e.inputs(n), e.outputs(n));
    // Operand 4 holds sequence lengths, which the op does not have.
    x.insert(4, String::new());
    let direction = match direction {
        Direction::Forward => "forward",
        Direction::Reverse => "reverse",
        Direction::Bidirectional => "bidirectional",
    };
    let name = if matches!(cell, Cell::Lstm) { "LSTM" } else { "GRU" };
    let mut out = node(name, &n.name, &x, &y).int("hidden_size", hidden as i64).string("direction", direction);
    if let Cell::Gru(reset) = cell {
        out = out.int("linear_before_reset", i64::from(reset == Reset::Product));
    }
    e.push(out);
    Ok(())
}
