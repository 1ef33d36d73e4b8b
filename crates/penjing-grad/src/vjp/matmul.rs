//! Derivatives of matrix products: two products with the transposition flags set, never a transposed copy.

use super::{Grads, Vjp};
use crate::GradError;
use penjing_ir::{Dim, Op, ValueId};

/// With A = a or aᵀ and B = b or bᵀ: dA = dY·Bᵀ and dB = Aᵀ·dY, transposed back where the operand is.
pub(super) fn matmul(b: &mut Vjp<'_, '_>, trans_a: bool, trans_b: bool) -> Grads {
    let (l, r, dy) = (b.x(0), b.x(1), b.dy());
    let dl = b.when(0, |b| match trans_a {
        false => product(b, dy, r, false, !trans_b),
        true => product(b, r, dy, trans_b, true),
    })?;
    let dr = b.when(1, |b| {
        // A weight shared by a whole batch: the batch joins the summed axis of one product.
        let (l, dy) = if !trans_a && b.x_fact(1).rank() == 2 { (flat(b, l)?, flat(b, dy)?) } else { (l, dy) };
        match trans_b {
            false => product(b, l, dy, !trans_a, false),
            true => product(b, dy, l, true, trans_a),
        }
    })?;
    Ok(vec![dl, dr])
}

fn product(b: &mut Vjp<'_, '_>, l: ValueId, r: ValueId, trans_a: bool, trans_b: bool) -> Result<ValueId, GradError> {
    Ok(b.s.op(Op::MatMul { trans_a, trans_b }, &[l, r])?)
}

/// [.., M, K] → [.. · M, K].
fn flat(b: &mut Vjp<'_, '_>, v: ValueId) -> Result<ValueId, GradError> {
    let shape = b.s.fact(v).shape;
    let (last, lead) = shape.split_last().expect("a matrix has two axes");
    Ok(b.s.reshape(v, &[Dim::product(lead), last.clone()])?)
}
