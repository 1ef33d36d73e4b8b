//! Matrix products.

use super::{
    frame::Operand,
    node::{NodeCx, Res, invalid, one},
};
use penjing_ir::{Dim, Op, ValueId};
use penjing_tensor::DType;

type Outputs = Res<Vec<Operand>>;

/// `MatMul` with NumPy's rule for vectors.
pub(super) fn matmul(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (a, b) = (cx.value(0)?, cx.value(1)?);
    Ok(one(numpy_matmul(cx, a, b)?))
}

/// a · b where a vector on the left is a row, on the right a column, and leaves no axis behind.
pub(super) fn numpy_matmul(cx: &mut NodeCx<'_, '_>, a: ValueId, b: ValueId) -> Res<ValueId> {
    let (da, db) = (cx.fact(a).shape, cx.fact(b).shape);
    if da.is_empty() || db.is_empty() {
        return invalid("an operand is a scalar");
    }
    let op = Op::MatMul { trans_a: false, trans_b: false };
    if da.len() >= 2 && db.len() >= 2 {
        return cx.emit_one(op, &[a, b]);
    }
    let mut s = cx.scope();
    let row = if da.len() == 1 { s.reshape(a, &[Dim::Const(1), da[0].clone()])? } else { a };
    let column = if db.len() == 1 { s.reshape(b, &[db[0].clone(), Dim::Const(1)])? } else { b };
    let y = s.op(op, &[row, column])?;
    let mut dims = s.fact(y).shape;
    if db.len() == 1 {
        dims.pop();
    }
    if da.len() == 1 {
        dims.remove(dims.len() - if db.len() == 1 { 1 } else { 2 });
    }
    Ok(s.reshape(y, &dims)?)
}

/// `Gemm`: α·a·b + β·c.
pub(super) fn gemm(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (a, b, c) = (cx.value(0)?, cx.value(1)?, cx.optional(2)?);
    let (alpha, beta) = (cx.float("alpha", 1.0)?, cx.float("beta", 1.0)?);
    let (trans_a, trans_b) = (cx.flag("transA", 0)?, cx.flag("transB", 0)?);
    let mut y = cx.emit_one(Op::MatMul { trans_a, trans_b }, &[a, b])?;
    let mut s = cx.scope();
    if alpha != 1.0 {
        y = s.scale(y, alpha)?;
    }
    if let Some(mut c) = c.filter(|_| beta != 0.0) {
        if beta != 1.0 {
            c = s.scale(c, beta)?;
        }
        y = s.add(y, c)?;
    }
    Ok(one(y))
}

/// `MatMulInteger`: (a − za) · (b − zb) in I32; a's zero point may differ by row, b's by column.
pub(super) fn matmul_integer(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let a = centred(cx, 0, 2, true)?;
    let b = centred(cx, 1, 3, false)?;
    Ok(one(numpy_matmul(cx, a, b)?))
}

/// Operand `i` in I32 less its zero point, operand `zero`; a vector of zero points goes by `rows` or else by columns.
fn centred(cx: &mut NodeCx<'_, '_>, i: usize, zero: usize, rows: bool) -> Res<ValueId> {
    let x = cx.value(i)?;
    let zero = cx.optional(zero)?;
    let mut s = cx.scope();
    let x = s.cast(x, DType::I32)?;
    let Some(zero) = zero else { return Ok(x) };
    let mut zero = s.cast(zero, DType::I32)?;
    let dims = s.fact(zero).shape;
    if rows && dims.len() == 1 && !dims[0].is(1) {
        zero = s.reshape(zero, &[dims[0].clone(), Dim::Const(1)])?;
    }
    Ok(s.sub(x, zero)?)
}
