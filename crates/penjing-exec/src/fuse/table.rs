//! Rows of a quantized table: the table stays in integers, and the rows that a run picks become floats.

use super::quant::dequantized;
use penjing_ir::{Binary, Dim, IrError, Model, Op, QuantScheme, ValueId};
use penjing_tensor::Tensor;

/// Gather of a Dequantize → Dequantize of a Gather. Scales that go by row are picked like the rows, which takes zero points of
/// zero: steps of one, times the scales.
pub(super) fn gather_integers(model: &mut Model) -> Result<(), IrError> {
    for id in model.topological_order()? {
        let node = model.graph.node(id).clone();
        let Op::Gather { axis } = node.op else { continue };
        let Some((q, scale, zero, scheme)) = dequantized(model, node.inputs[0]) else { continue };
        let indices = node.inputs[1];
        let by_row = scheme.axis == Some(axis) && is_zero(model, zero);
        if scheme.axis.is_some() && !by_row {
            continue;
        }
        let rows = model.graph.apply(&node.name, node.op.clone(), &[q, indices])?;
        let real = if by_row {
            let one = model.graph.add_const(Tensor::scalar(1.0f32));
            let zero = model.graph.add_const(Tensor::scalar(0i64).cast(scheme.dtype));
            let steps = Op::Dequantize(QuantScheme { axis: None, ..scheme });
            let steps = model.graph.apply(&node.name, steps, &[rows, one, zero])?;
            let scales = model.graph.apply(&node.name, Op::Gather { axis: 0 }, &[scale, indices])?;
            let mut shape = vec![Dim::Const(1); axis];
            shape.extend(model.graph.fact(indices).shape.iter().cloned());
            shape.resize(model.graph.fact(rows).rank(), Dim::Const(1));
            let scales = model.graph.apply(&node.name, Op::Reshape { shape }, &[scales])?;
            model.graph.apply(&node.name, Op::Binary(Binary::Mul), &[steps, scales])?
        } else {
            model.graph.apply(&node.name, Op::Dequantize(scheme), &[rows, scale, zero])?
        };
        model.replace_uses(node.outputs[0], real);
    }
    Ok(())
}

fn is_zero(model: &Model, v: ValueId) -> bool {
    model.graph.as_const(v).is_some_and(|t| t.bytes().iter().all(|&b| b == 0))
}
