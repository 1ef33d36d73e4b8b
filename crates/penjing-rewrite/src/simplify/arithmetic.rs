//! Identities of elementwise ops.

use crate::{Formula, Match, Patch, Rule, Skip, any, binary, constant, matcher::uniform, node, number, one_of, unary};
use penjing_ir::{Binary, Op, Unary};
use penjing_tensor::DType;

pub(super) fn rules() -> Vec<Box<dyn Rule>> {
    let x = || any("x");
    vec![
        Formula::rule("neutral-element", one_of([x() + 0.0, x() - 0.0, x() * 1.0, x() / 1.0, power(1.0)]), keep_x),
        Formula::rule("double-negation", involution(Unary::Neg), keep_x),
        Formula::rule("double-not", involution(Unary::Not), keep_x),
        Formula::rule("relu-of-relu", unary(Unary::Relu, unary(Unary::Relu, any("inner")).shared().named("x")), keep_x),
        Formula::rule("no-op-cast", node(|op| matches!(op, Op::Cast(_)), [x()]), keep_x_if_same),
        Formula::rule("cast-of-cast", node(is_cast, [node(is_cast, [x()]).shared().named("inner")]), cast_of_cast),
        Formula::rule("empty-reduction", node(|op| matches!(op, Op::Reduce { .. }), [x()]), empty_reduction),
        Formula::rule("constant-condition", node(is_select, [constant("c"), any("a"), any("b")]), constant_condition),
        Formula::rule("same-branches", node(is_select, [any("c"), x(), x()]), keep_x),
        Formula::rule(
            "negated-condition",
            node(is_select, [unary(Unary::Not, any("c")).shared(), any("a"), any("b")]),
            negated,
        ),
    ]
}

fn power(exponent: f64) -> crate::Pattern {
    binary(Binary::Pow, any("x"), number(exponent))
}

fn involution(f: Unary) -> crate::Pattern {
    unary(f, unary(f, any("x")).shared())
}

fn is_cast(op: &Op) -> bool {
    matches!(op, Op::Cast(_))
}

fn is_select(op: &Op) -> bool {
    matches!(op, Op::Select)
}

pub(super) fn keep_x(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let x = patch.tap_named(m, "x");
    patch.replace(m.result(), x);
    Ok(())
}

/// For ops whose result equals the operand whenever the facts are equal.
pub(super) fn keep_x_if_same(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    if m.fact("x") != m.graph.fact(m.result()) {
        return Err(Skip::NoEffect);
    }
    keep_x(m, patch)
}

/// Two casts are one when the first loses nothing.
fn cast_of_cast(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let (from, through) = (m.fact("x").dtype, m.fact("inner").dtype);
    if !holds(through, from) {
        return Err(Skip::Check("the inner cast may lose information"));
    }
    let x = patch.tap_named(m, "x");
    let y = patch.scope().cast(x, m.graph.fact(m.result()).dtype)?;
    patch.replace(m.result(), y);
    Ok(())
}

/// Whether every value of `narrow` is a value of `wide`.
fn holds(wide: DType, narrow: DType) -> bool {
    use DType::{BF16, Bool, F16, F32, F64};
    match (wide, narrow) {
        (F64, F32 | F16 | BF16 | Bool) | (F32, F16 | BF16 | Bool) | (F16 | BF16, Bool) => true,
        _ => match (wide.int_range(), narrow.int_range()) {
            (Some(w), Some(n)) => wide != Bool && w.0 <= n.0 && n.1 <= w.1,
            _ => wide == narrow,
        },
    }
}

fn empty_reduction(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    match m.root_op() {
        Op::Reduce { axes, .. } if axes.is_empty() => keep_x(m, patch),
        _ => Err(Skip::NoEffect),
    }
}

fn constant_condition(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let condition = m.constant("c").and_then(|t| uniform(t)).ok_or(Skip::NoEffect)?;
    let taken = patch.tap_named(m, if condition != 0.0 { "a" } else { "b" });
    let shape = m.graph.fact(m.result()).shape.clone();
    let y = patch.scope().expand(taken, &shape)?;
    patch.replace(m.result(), y);
    Ok(())
}

fn negated(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let [c, a, b] = ["c", "a", "b"].map(|n| patch.tap_named(m, n));
    let y = patch.scope().select(c, b, a)?;
    patch.replace(m.result(), y);
    Ok(())
}
