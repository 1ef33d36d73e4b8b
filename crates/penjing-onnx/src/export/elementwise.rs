//! Elementwise ops.

use super::{
    emitter::{Emitter, Why},
    node::node,
};
use crate::elem_type;
use penjing_ir::{Binary, Compare, Node, Op, Unary};

pub(super) fn emit(e: &mut Emitter<'_>, n: &Node) -> Result<(), Why> {
    let (x, y) = (e.inputs(n), e.outputs(n));
    match &n.op {
        Op::Unary(f) => return unary(e, n, *f, &x, &y),
        Op::Binary(f) => return binary(e, n, *f, &x, &y),
        Op::Compare(f) => e.push(node(compare(*f), &n.name, &x, &y)),
        Op::Select => e.push(node("Where", &n.name, &x, &y)),
        Op::Cast(to) => e.push(node("Cast", &n.name, &x, &y).int("to", elem_type(*to) as i64)),
        _ => e.push(node("Identity", &n.name, &x, &y)),
    }
    Ok(())
}

fn unary(e: &mut Emitter<'_>, n: &Node, f: Unary, x: &[String], y: &[String]) -> Result<(), Why> {
    let plain = |op: &str| node(op, &n.name, x, y);
    let proto = match f {
        Unary::Recip => plain("Reciprocal"),
        Unary::BitNot => plain("BitwiseNot"),
        Unary::IsNan => plain("IsNaN"),
        Unary::IsInf { positive, negative } => {
            plain("IsInf").int("detect_positive", positive.into()).int("detect_negative", negative.into())
        }
        Unary::GeluTanh => plain("Gelu").string("approximate", "tanh"),
        Unary::LeakyRelu(alpha) => plain("LeakyRelu").float("alpha", alpha.0),
        Unary::Elu(alpha) => plain("Elu").float("alpha", alpha.0),
        Unary::HardSigmoid { alpha, beta } => plain("HardSigmoid").float("alpha", alpha.0).float("beta", beta.0),
        Unary::Silu => {
            let gate = e.step(n, "Sigmoid", x);
            node("Mul", &n.name, &[x[0].clone(), gate], y)
        }
        Unary::Neg
        | Unary::Abs
        | Unary::Exp
        | Unary::Log
        | Unary::Sqrt
        | Unary::Sin
        | Unary::Cos
        | Unary::Tan
        | Unary::Asin
        | Unary::Acos
        | Unary::Atan
        | Unary::Sinh
        | Unary::Cosh
        | Unary::Tanh
        | Unary::Asinh
        | Unary::Acosh
        | Unary::Atanh
        | Unary::Erf
        | Unary::Sigmoid
        | Unary::Relu
        | Unary::Floor
        | Unary::Ceil
        | Unary::Round
        | Unary::Sign
        | Unary::Not
        | Unary::Softplus
        | Unary::Gelu
        | Unary::HardSwish => plain(f.name()),
    };
    e.push(proto);
    Ok(())
}

fn binary(e: &mut Emitter<'_>, n: &Node, f: Binary, x: &[String], y: &[String]) -> Result<(), Why> {
    let plain = |op: &str| node(op, &n.name, x, y);
    let proto = match f {
        Binary::Add
        | Binary::Sub
        | Binary::Mul
        | Binary::Div
        | Binary::Pow
        | Binary::Max
        | Binary::Min
        | Binary::And
        | Binary::Or
        | Binary::Xor => plain(f.name()),
        Binary::Mod if e.graph.fact(n.inputs[0]).dtype.is_float() => {
            // For floats the set has C's remainder only: b is added where that and b differ in sign.
            let r = e.step_with(n, "Mod", x, |p| p.int("fmod", 1));
            let zero = e.scalar_like(n, n.inputs[0], 0.0);
            let signs = [r.clone(), x[1].clone()].map(|v| e.step(n, "Less", &[v, zero.clone()]));
            let differ = e.step(n, "Xor", &signs);
            let whole = e.step(n, "Equal", &[r.clone(), zero]);
            let partial = e.step(n, "Not", &[whole]);
            let wrong = e.step(n, "And", &[differ, partial]);
            let raised = e.step(n, "Add", &[r.clone(), x[1].clone()]);
            node("Where", &n.name, &[wrong, raised, r], y)
        }
        Binary::Mod => plain("Mod"),
        Binary::Fmod => plain("Mod").int("fmod", 1),
        Binary::BitAnd => plain("BitwiseAnd"),
        Binary::BitOr => plain("BitwiseOr"),
        Binary::BitXor => plain("BitwiseXor"),
        Binary::Shl | Binary::Shr if e.graph.fact(n.inputs[0]).dtype.is_signed_int() => {
            return Err("ONNX shifts unsigned integers only".into());
        }
        Binary::Shl => plain("BitShift").string("direction", "LEFT"),
        Binary::Shr => plain("BitShift").string("direction", "RIGHT"),
    };
    e.push(proto);
    Ok(())
}

fn compare(f: Compare) -> &'static str {
    match f {
        Compare::Equal => "Equal",
        Compare::Less => "Less",
        Compare::LessEqual => "LessOrEqual",
    }
}
