//! Derivatives of recurrent cells.

use super::{Grads, Vjp};
use penjing_ir::{Direction, Op};

/// The walk has turned on the fourth result, which keeps the gates.
pub(super) fn lstm(b: &mut Vjp<'_, '_>, direction: Direction) -> Grads {
    if b.node.outputs.len() < 4 {
        return b.fail("its gates were not kept");
    }
    if b.dys[3].is_some() {
        return b.fail("the kept gates are for the backward pass only");
    }
    let (dy, dh, dc) = (b.dy_or_zeros(0)?, b.dy_or_zeros(1)?, b.dy_or_zeros(2)?);
    let operands = [b.x(0), b.x(1), b.x(2), b.x(4), b.x(5), b.y(0), b.y(3), dy, dh, dc];
    Ok(b.s.ops(Op::LstmGrad { direction }, &operands)?.into_iter().map(Some).collect())
}
