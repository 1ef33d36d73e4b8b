//! Activations written out in elementary functions.

use crate::{
    Coefficient, Formula, Match, Patch, Pattern, Rule, Skip, any, binary, node, number, one_of, product, unary,
};
use penjing_ir::{Binary, Op, Real, Unary};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

/// The cubic coefficient of the tanh approximation (Hendrycks & Gimpel 2016).
const GELU_CUBIC: f64 = 0.044_715;

pub(super) fn rules() -> Vec<Box<dyn Rule>> {
    let x = || any("x");
    let gate = || unary(Unary::Sigmoid, x());
    let gelu = product(Coefficient::Is(0.5), [x(), unary(Unary::Erf, scaled(FRAC_1_SQRT_2, x())) + 1.0]);
    let gelu_tanh = product(Coefficient::Is(0.5), [x(), unary(Unary::Tanh, gelu_tanh_argument()) + 1.0]);
    let hard_swish = one_of([
        product(Coefficient::Is(1.0 / 6.0), [x(), clip06(x() + 3.0)]),
        product(Coefficient::Is(1.0), [x(), node(is_hard_swish_gate, [x()])]),
    ]);
    vec![
        Formula::rule("raise-gelu", gelu, |m, p| one_unary(m, p, Unary::Gelu)),
        Formula::rule("raise-gelu-tanh", gelu_tanh, |m, p| one_unary(m, p, Unary::GeluTanh)),
        Formula::rule("raise-silu", x() * gate(), |m, p| one_unary(m, p, Unary::Silu)),
        Formula::rule("raise-hard-swish", hard_swish, |m, p| one_unary(m, p, Unary::HardSwish)),
        Formula::rule("raise-softplus", unary(Unary::Log, unary(Unary::Exp, x()) + 1.0), |m, p| {
            one_unary(m, p, Unary::Softplus)
        }),
        Formula::rule(
            "raise-log-softmax",
            unary(Unary::Log, node(|op| matches!(op, Op::Softmax { .. }), [x()]).named("softmax")),
            log_softmax,
        ),
        Formula::rule("raise-sigmoid", sigmoid(), |m, p| one_unary(m, p, Unary::Sigmoid)),
    ]
}

/// Formulas that are part of a larger one of [`rules`], so that they run after it.
pub(super) fn parts() -> Vec<Box<dyn Rule>> {
    let hard_sigmoid = product(Coefficient::Is(1.0 / 6.0), [clip06(any("x") + 3.0)]);
    vec![Formula::rule("raise-hard-sigmoid", hard_sigmoid, |m, p| {
        one_unary(m, p, Unary::HardSigmoid { alpha: Real(1.0 / 6.0), beta: Real(0.5) })
    })]
}

/// √(2/π)·(x + 0.044715·x³), also as √(2/π)·x·(1 + 0.044715·x²).
fn gelu_tanh_argument() -> Pattern {
    let x = || any("x");
    let k = Coefficient::Is(FRAC_2_PI.sqrt());
    let cubic = Coefficient::Is(GELU_CUBIC);
    let cube = one_of([
        product(cubic, [binary(Binary::Pow, x(), number(3.0))]),
        product(cubic, [x(), x(), x()]),
        product(cubic, [x(), binary(Binary::Pow, x(), number(2.0))]),
    ]);
    let square = one_of([product(cubic, [x(), x()]), product(cubic, [binary(Binary::Pow, x(), number(2.0))])]);
    one_of([product(k, [x() + cube]), product(k, [x(), square + 1.0])])
}

fn scaled(k: f64, x: Pattern) -> Pattern {
    product(Coefficient::Is(k), [x])
}

fn clip06(x: Pattern) -> Pattern {
    let max = |a, b| binary(Binary::Max, a, b);
    let min = |a, b| binary(Binary::Min, a, b);
    one_of([
        min(max(x.clone(), number(0.0)), number(6.0)),
        max(min(x.clone(), number(6.0)), number(0.0)),
        min(unary(Unary::Relu, x.clone()), number(6.0)),
        unary(Unary::Relu, min(x, number(6.0))),
    ])
}

fn is_hard_swish_gate(op: &Op) -> bool {
    matches!(op, Op::Unary(Unary::HardSigmoid { alpha, beta }) if crate::matcher::near(alpha.0, 1.0 / 6.0) && beta.0 == 0.5)
}

/// 1/(1+e⁻ˣ).
fn sigmoid() -> Pattern {
    let below = || unary(Unary::Exp, product(Coefficient::Is(-1.0), [any("x")])) + 1.0;
    one_of([unary(Unary::Recip, below()), number(1.0) / below()])
}

fn one_unary(m: &Match<'_>, patch: &mut Patch, f: Unary) -> Result<(), Skip> {
    if !m.fact("x").dtype.is_float() {
        return Err(Skip::Check("the operand is not a float"));
    }
    let x = patch.tap_named(m, "x");
    let y = patch.scope().unary(f, x)?;
    patch.replace(m.result(), y);
    Ok(())
}

fn log_softmax(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let Some(Op::Softmax { axis }) = m.op("softmax") else { return Err(Skip::NoMatch) };
    let x = patch.tap_named(m, "x");
    let y = patch.scope().op(Op::LogSoftmax { axis: *axis }, &[x])?;
    patch.replace(m.result(), y);
    Ok(())
}
