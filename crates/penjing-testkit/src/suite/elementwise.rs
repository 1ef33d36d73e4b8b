//! Elementwise cases.

use super::{Case, one};
use crate::{Tolerance, bools, floats, integers, normal, uniform};
use penjing_ir::{Binary, Compare, Op, Real, Unary};
use penjing_tensor::DType;

/// Polynomial approximations of transcendental functions are good to a few ulps away from their zeros.
const APPROXIMATE: Tolerance = Tolerance::Within { absolute: 2e-7, relative: 2e-6 };

/// GELU cancels for negative x: its error is a part of |x|, here at most 6.
const GELU: Tolerance = Tolerance::Within { absolute: 12.0 * 6.0 / (1 << 24) as f64, relative: 2e-6 };

pub(super) fn cases() -> Vec<Case> {
    [unary(), binary(), others()].concat()
}

fn unary() -> Vec<Case> {
    use Unary::*;
    let mut out = Vec::new();
    // Each with the range in which it has finite values.
    let smooth = [
        (Neg, -5.0, 5.0),
        (Abs, -5.0, 5.0),
        (Exp, -20.0, 20.0),
        (Log, 1e-3, 50.0),
        (Sqrt, 0.0, 50.0),
        (Recip, 0.1, 9.0),
        (Sin, -7.0, 7.0),
        (Cos, -7.0, 7.0),
        (Tan, -1.5, 1.5),
        (Asin, -1.0, 1.0),
        (Acos, -1.0, 1.0),
        (Atan, -9.0, 9.0),
        (Sinh, -5.0, 5.0),
        (Cosh, -5.0, 5.0),
        (Tanh, -9.0, 9.0),
        (Asinh, -9.0, 9.0),
        (Acosh, 1.0, 9.0),
        (Atanh, -0.99, 0.99),
        (Erf, -4.0, 4.0),
        (Sigmoid, -30.0, 30.0),
        (Relu, -5.0, 5.0),
        (Floor, -9.0, 9.0),
        (Ceil, -9.0, 9.0),
        (Sign, -9.0, 9.0),
        (Softplus, -30.0, 30.0),
        (Gelu, -6.0, 6.0),
        (GeluTanh, -6.0, 6.0),
        (Silu, -20.0, 20.0),
        (HardSwish, -5.0, 5.0),
        (LeakyRelu(Real(0.01)), -5.0, 5.0),
        (Elu(Real(1.5)), -5.0, 5.0),
        (HardSigmoid { alpha: Real(0.2), beta: Real(0.5) }, -5.0, 5.0),
    ];
    for (u, lo, hi) in smooth {
        let name = u.name();
        out.push(one(
            &format!("elementwise/{name}/vector"),
            Op::Unary(u),
            &[uniform(&[67], lo, hi, name)],
            if matches!(u, Gelu | GeluTanh) { GELU } else { APPROXIMATE },
        ));
    }
    let halves = floats(&[8], &[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.0, 7.4]);
    let special = floats(&[4], &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0]);
    let exact = [
        ("Round/halves", Op::Unary(Round), halves),
        ("Relu/special", Op::Unary(Relu), special.clone()),
        ("IsNan/special", Op::Unary(IsNan), special.clone()),
        ("IsInf/both", Op::Unary(IsInf { positive: true, negative: true }), special.clone()),
        ("IsInf/negative", Op::Unary(IsInf { positive: false, negative: true }), special),
        ("Not/matrix", Op::Unary(Not), bools(&[3, 5], "not")),
        ("BitNot/u8", Op::Unary(BitNot), integers(DType::U8, &[7], 0, 255, "bits")),
        ("Neg/i64", Op::Unary(Neg), integers(DType::I64, &[7], -9, 9, "neg")),
        ("Abs/i32 scalar", Op::Unary(Abs), integers(DType::I32, &[], -9, -1, "abs")),
        ("Relu/empty", Op::Unary(Relu), normal(&[3, 0], "empty")),
    ];
    out.extend(exact.map(|(name, op, x)| one(&format!("elementwise/{name}"), op, &[x], Tolerance::Exact)));
    out.push(one("elementwise/Exp/scalar", Op::Unary(Exp), &[normal(&[], "scalar")], APPROXIMATE));
    out.push(one("elementwise/Tanh/rank 4", Op::Unary(Tanh), &[normal(&[2, 3, 5, 7], "rank 4")], APPROXIMATE));
    out
}

fn binary() -> Vec<Case> {
    use Binary::*;
    let mut out = Vec::new();
    let shapes: [(&str, &[usize], &[usize]); 6] = [
        ("same", &[3, 7], &[3, 7]),
        ("scalar", &[5, 3], &[]),
        ("row", &[4, 6], &[6]),
        ("channel", &[2, 3, 5], &[3, 1]),
        ("both", &[7, 1, 3], &[1, 5, 1]),
        ("empty", &[0, 3], &[1, 3]),
    ];
    for b in [Add, Sub, Mul, Div, Max, Min] {
        for (variant, a, c) in shapes {
            let operands = [normal(a, "a"), uniform(c, 0.5, 2.0, "b")];
            out.push(one(&format!("elementwise/{}/{variant}", b.name()), Op::Binary(b), &operands, Tolerance::Ulps(1)));
        }
    }
    let float = |name: &str, b, a, c| one(&format!("elementwise/{name}"), Op::Binary(b), &[a, c], APPROXIMATE);
    out.push(float("Pow/floats", Pow, uniform(&[31], 0.1, 4.0, "a"), uniform(&[31], -3.0, 3.0, "b")));
    out.push(float("Pow/square", Pow, normal(&[5, 3], "a"), floats(&[], &[2.0])));
    out.push(float("Mod/floats", Mod, uniform(&[13], -9.0, 9.0, "a"), floats(&[], &[4.0])));
    out.push(float("Fmod/floats", Fmod, uniform(&[13], -9.0, 9.0, "a"), floats(&[], &[4.0])));
    for b in [Add, Sub, Mul, Div, Max, Min, Mod, Fmod, BitAnd, BitOr, BitXor] {
        let a = integers(DType::I32, &[3, 5], -100, 100, "a");
        let c = integers(DType::I32, &[5], 1, 7, "b");
        out.push(one(&format!("elementwise/{}/i32", b.name()), Op::Binary(b), &[a, c], Tolerance::Exact));
    }
    let (a, c) = (integers(DType::I64, &[6], -4, 4, "a"), integers(DType::I64, &[6], 0, 5, "b"));
    out.push(one("elementwise/Pow/i64", Op::Binary(Pow), &[a.clone(), c], Tolerance::Exact));
    out.push(one(
        "elementwise/Div/by zero",
        Op::Binary(Div),
        &[a, integers(DType::I64, &[], 0, 0, "z")],
        Tolerance::Exact,
    ));
    for b in [Shl, Shr] {
        let operands = [integers(DType::U8, &[9], 0, 255, "a"), integers(DType::U8, &[9], 0, 9, "b")];
        out.push(one(&format!("elementwise/{}/u8", b.name()), Op::Binary(b), &operands, Tolerance::Exact));
    }
    for b in [And, Or, Xor] {
        let operands = [bools(&[5, 3], "a"), bools(&[3], "b")];
        out.push(one(&format!("elementwise/{}/bool", b.name()), Op::Binary(b), &operands, Tolerance::Exact));
    }
    let nan = floats(&[4], &[f32::NAN, 1.0, f32::INFINITY, -2.0]);
    for b in [Max, Min] {
        let operands = [nan.clone(), floats(&[4], &[0.0, f32::NAN, 3.0, -2.0])];
        out.push(one(&format!("elementwise/{}/nan", b.name()), Op::Binary(b), &operands, Tolerance::Exact));
    }
    out
}

fn others() -> Vec<Case> {
    let mut out = Vec::new();
    for c in [Compare::Equal, Compare::Less, Compare::LessEqual] {
        let ints = [integers(DType::I64, &[3, 5], 0, 3, "a"), integers(DType::I64, &[3, 1], 0, 3, "b")];
        out.push(one(&format!("elementwise/{}/i64", c.name()), Op::Compare(c), &ints, Tolerance::Exact));
        let with_nan = [floats(&[3], &[1.0, f32::NAN, 2.0]), floats(&[3], &[1.0, f32::NAN, 3.0])];
        out.push(one(&format!("elementwise/{}/f32", c.name()), Op::Compare(c), &with_nan, Tolerance::Exact));
    }
    let select = |name: &str, operands: [_; 3]| {
        one(&format!("elementwise/Select/{name}"), Op::Select, &operands, Tolerance::Exact)
    };
    out.push(select("same", [bools(&[11], "c"), normal(&[11], "a"), normal(&[11], "b")]));
    out.push(select("broadcast", [bools(&[3, 1], "c"), normal(&[5], "a"), floats(&[], &[-1.0])]));
    out.push(select(
        "i64",
        [bools(&[], "c"), integers(DType::I64, &[2, 3], 0, 9, "a"), integers(DType::I64, &[3], 0, 9, "b")],
    ));
    let cast = |name: &str, to, x| one(&format!("elementwise/Cast/{name}"), Op::Cast(to), &[x], Tolerance::Exact);
    out.push(cast("f32 to f16", DType::F16, normal(&[13], "x")));
    out.push(cast("f32 to bf16", DType::BF16, normal(&[13], "x")));
    out.push(cast("f32 to i32", DType::I32, uniform(&[13], -9.0, 9.0, "x")));
    out.push(cast("f32 to u8 saturates", DType::U8, uniform(&[13], -400.0, 400.0, "x")));
    out.push(cast("i64 to f32", DType::F32, integers(DType::I64, &[3, 3], -99, 99, "x")));
    out.push(cast("i32 to u8 wraps", DType::U8, integers(DType::I32, &[13], -400, 400, "x")));
    out.push(cast("bool to f32", DType::F32, bools(&[5], "x")));
    out.push(cast("f32 to bool", DType::Bool, floats(&[3], &[0.0, -0.5, f32::NAN])));
    out.push(one("elementwise/StopGradient/f32", Op::StopGradient, &[normal(&[3, 2], "x")], Tolerance::Exact));
    out.push(one("elementwise/StopGradient/empty", Op::StopGradient, &[normal(&[0], "x")], Tolerance::Exact));
    out
}
