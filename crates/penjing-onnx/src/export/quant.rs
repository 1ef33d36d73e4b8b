//! Quantization as QuantizeLinear / DequantizeLinear pairs.

use super::{
    emitter::{Emitter, Why},
    node::node,
};
use crate::proto::NodeProto;
use penjing_ir::{Node, Op, QuantScheme};
use penjing_tensor::DType;

pub(super) fn emit(e: &mut Emitter<'_>, n: &Node) -> Result<(), Why> {
    if let Op::Dequantize(scheme) = &n.op
        && scheme.dtype == DType::I32
    {
        return emit_i32(e, n, scheme);
    }
    let (mut x, y) = (e.inputs(n), e.outputs(n));
    match &n.op {
        Op::Quantize(scheme) => {
            check(scheme)?;
            x[0] = narrowed(e, n, scheme, &x)?;
            e.push(along(node("QuantizeLinear", &n.name, &x, &y), scheme));
        }
        Op::Dequantize(scheme) => {
            check(scheme)?;
            e.push(along(node("DequantizeLinear", &n.name, &x, &y), scheme));
        }
        Op::FakeQuant(scheme) => {
            check(scheme)?;
            x[0] = narrowed(e, n, scheme, &x)?;
            let q = e.step_with(n, "QuantizeLinear", &x, |p| along(p, scheme));
            e.push(along(node("DequantizeLinear", &n.name, &[q, x[1].clone(), x[2].clone()], &y), scheme));
        }
        Op::DynamicQuantize => e.push(node("DynamicQuantizeLinear", &n.name, &x, &y)),
        other => return Err(format!("{} does not quantize", other.name())),
    }
    Ok(())
}

/// I32, as biases are stored, has no zero point in ONNX (DequantizeLinear).
fn emit_i32(e: &mut Emitter<'_>, n: &Node, scheme: &QuantScheme) -> Result<(), Why> {
    let zero = e.graph.as_const(n.inputs[2]).and_then(|t| t.to_i64s());
    if !zero.is_some_and(|z| z.iter().all(|&z| z == 0)) {
        return Err("an i32 grid whose zero point is not a constant 0 cannot be written".into());
    }
    let (x, y) = ([e.name(n.inputs[0]), e.name(n.inputs[1])], e.outputs(n));
    e.push(along(node("DequantizeLinear", &n.name, &x, &y), scheme));
    Ok(())
}

fn check(scheme: &QuantScheme) -> Result<(), Why> {
    match scheme.dtype {
        DType::I8 | DType::U8 | DType::I16 | DType::U16 => Ok(()),
        other => Err(format!("operator set 21 quantizes to 8 and 16 bits, not to {other}")),
    }
}

fn along(proto: NodeProto, scheme: &QuantScheme) -> NodeProto {
    match scheme.axis {
        Some(axis) => proto.int("axis", axis as i64),
        None => proto,
    }
}

/// x kept off the lowest integer of a narrow grid, which ONNX does not know: not below (lowest + 1 − zero point) · scale.
fn narrowed(e: &mut Emitter<'_>, n: &Node, scheme: &QuantScheme, x: &[String]) -> Result<String, Why> {
    let (low, _) = scheme.range();
    if !scheme.narrow || !scheme.dtype.is_signed_int() {
        return Ok(x[0].clone());
    }
    if scheme.axis.is_some() {
        return Err("a narrow grid for each index of an axis; bake the weight first".into());
    }
    let lowest = e.scalar_like(n, n.inputs[0], low as f64);
    let zero = e.step_with(n, "Cast", &[x[2].clone()], |p| p.int("to", crate::elem_type(DType::F32) as i64));
    let centred = e.step(n, "Sub", &[lowest, zero]);
    let bound = e.step(n, "Mul", &[centred, x[1].clone()]);
    Ok(e.step(n, "Max", &[x[0].clone(), bound]))
}
