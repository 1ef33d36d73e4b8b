//! Movements that do nothing or that compose, and transposes that a product can take over.

use super::arithmetic::{keep_x, keep_x_if_same};
use crate::{Formula, Match, Patch, Pattern, Rule, Skip, any, node};
use penjing_ir::{Dim, Op, SliceRange};

pub(super) fn rules() -> Vec<Box<dyn Rule>> {
    let x = || any("x");
    let after =
        |outer: fn(&Op) -> bool, inner: fn(&Op) -> bool| node(outer, [node(inner, [x()]).shared().named("inner")]);
    vec![
        Formula::rule("no-op-reshape", node(is_reshape, [x()]), keep_x_if_same),
        Formula::rule("no-op-expand", node(is_expand, [x()]), keep_x_if_same),
        Formula::rule("no-op-slice", node(is_slice, [x()]), whole_slice),
        Formula::rule("no-op-permute", node(is_permute, [x()]), identity_permute),
        Formula::rule("no-op-pad", node(|op| matches!(op, Op::Pad { .. }), [x()]), keep_x_if_same),
        Formula::rule("single-concat", node(|op| matches!(op, Op::Concat { .. }), [x()]), keep_x),
        Formula::rule("reshape-of-reshape", after(is_reshape, is_reshape), reshape_of_reshape),
        Formula::rule("expand-of-expand", after(is_expand, is_expand), expand_of_expand),
        Formula::rule("slice-of-slice", after(is_slice, is_slice), slice_of_slice),
        Formula::rule("permute-of-permute", after(is_permute, is_permute), permute_of_permute),
        Formula::rule("transpose-left", node(is_matmul, [transposed(), any("b")]), transpose_left),
        Formula::rule("transpose-right", node(is_matmul, [any("a"), transposed()]), transpose_right),
        Formula::rule("transpose-of-product", node(is_permute, [product()]), transpose_of_product),
        Formula::rule("expand-left", node(broadcasts, [node(is_expand, [x()]).shared(), any("b")]), expand_left),
        Formula::rule("expand-right", node(broadcasts, [any("a"), node(is_expand, [x()]).shared()]), expand_right),
    ]
}

fn is_reshape(op: &Op) -> bool {
    matches!(op, Op::Reshape { .. })
}

fn is_expand(op: &Op) -> bool {
    matches!(op, Op::Expand { .. })
}

fn is_slice(op: &Op) -> bool {
    matches!(op, Op::Slice { .. })
}

fn is_permute(op: &Op) -> bool {
    matches!(op, Op::Permute { .. })
}

fn is_matmul(op: &Op) -> bool {
    matches!(op, Op::MatMul { .. })
}

fn broadcasts(op: &Op) -> bool {
    matches!(op, Op::Binary(_) | Op::Compare(_))
}

fn transposed() -> Pattern {
    node(is_permute, [any("x")]).shared().named("inner")
}

fn product() -> Pattern {
    node(is_matmul, [any("a"), any("b")]).named("inner")
}

fn perm(op: Option<&Op>) -> &[usize] {
    match op {
        Some(Op::Permute { perm }) => perm,
        _ => &[],
    }
}

fn ranges(op: Option<&Op>) -> &[SliceRange] {
    match op {
        Some(Op::Slice { ranges }) => ranges,
        _ => &[],
    }
}

/// An equal extent is not enough: a reversal also keeps it.
fn whole_slice(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let full = ranges(Some(m.root_op())).iter().zip(&m.fact("x").shape).all(|(r, n)| *r == SliceRange::full(n));
    if full { keep_x(m, patch) } else { Err(Skip::NoEffect) }
}

fn identity_permute(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let identity = perm(Some(m.root_op())).iter().enumerate().all(|(i, &p)| i == p);
    if identity { keep_x(m, patch) } else { Err(Skip::NoEffect) }
}

fn reshape_of_reshape(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let x = patch.tap_named(m, "x");
    let y = patch.scope().reshape(x, &m.graph.fact(m.result()).shape)?;
    patch.replace(m.result(), y);
    Ok(())
}

fn expand_of_expand(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let x = patch.tap_named(m, "x");
    let y = patch.scope().expand(x, &m.graph.fact(m.result()).shape)?;
    patch.replace(m.result(), y);
    Ok(())
}

fn permute_of_permute(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let inner = perm(m.op("inner"));
    let composed: Vec<usize> = perm(Some(m.root_op())).iter().map(|&p| inner[p]).collect();
    let x = patch.tap_named(m, "x");
    let y = patch.scope().permute(x, &composed)?;
    patch.replace(m.result(), y);
    Ok(())
}

fn slice_of_slice(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let mut composed = Vec::new();
    for (outer, inner) in ranges(Some(m.root_op())).iter().zip(ranges(m.op("inner"))) {
        let step = outer.step.checked_mul(inner.step).ok_or(Skip::Check("the step overflows"))?;
        let start = inner.start.clone() + outer.start.clone() * Dim::int(inner.step);
        composed.push(SliceRange { start, len: outer.len.clone(), step });
    }
    let x = patch.tap_named(m, "x");
    let y = patch.scope().op(Op::Slice { ranges: composed }, &[x])?;
    patch.replace(m.result(), y);
    Ok(())
}

fn transpose_left(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    transpose(m, patch, Side::Left)
}

fn transpose_right(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    transpose(m, patch, Side::Right)
}

enum Side {
    Left,
    Right,
}

/// MatMul(xᵀ, b) = MatMul with the flag turned.
fn transpose(m: &Match<'_>, patch: &mut Patch, side: Side) -> Result<(), Skip> {
    let Op::MatMul { trans_a, trans_b } = *m.root_op() else { return Err(Skip::NoMatch) };
    let perm = perm(m.op("inner"));
    let r = perm.len();
    let swaps_last = r >= 2 && perm[r - 1] == r - 2 && perm[r - 2] == r - 1 && (0..r - 2).all(|i| perm[i] == i);
    if !swaps_last {
        return Err(Skip::Check("the permutation moves more than the last two axes"));
    }
    let x = patch.tap_named(m, "x");
    let (op, inputs) = match side {
        Side::Left => (Op::MatMul { trans_a: !trans_a, trans_b }, [x, patch.tap_named(m, "b")]),
        Side::Right => (Op::MatMul { trans_a, trans_b: !trans_b }, [patch.tap_named(m, "a"), x]),
    };
    let y = patch.scope().op(op, &inputs)?;
    patch.replace(m.result(), y);
    Ok(())
}

/// (A·B)ᵀ = Bᵀ·Aᵀ for matrices without batch axes, where the product has no other reader.
fn transpose_of_product(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let Some(&Op::MatMul { trans_a, trans_b }) = m.op("inner") else { return Err(Skip::NoMatch) };
    let matrix = |name| m.fact(name).rank() == 2;
    if perm(Some(m.root_op())) != [1, 0] || !matrix("a") || !matrix("b") {
        return Err(Skip::Check("the product has batch axes"));
    }
    let inputs = [patch.tap_named(m, "b"), patch.tap_named(m, "a")];
    let y = patch.scope().op(Op::MatMul { trans_a: !trans_b, trans_b: !trans_a }, &inputs)?;
    patch.replace(m.result(), y);
    Ok(())
}

fn expand_left(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let inputs = [patch.tap_named(m, "x"), patch.tap_named(m, "b")];
    unexpanded(m, patch, inputs)
}

fn expand_right(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let inputs = [patch.tap_named(m, "a"), patch.tap_named(m, "x")];
    unexpanded(m, patch, inputs)
}

/// An elementwise op broadcasts by itself. The driver refuses the patch where the other operand does not force the extent.
fn unexpanded(m: &Match<'_>, patch: &mut Patch, inputs: [penjing_ir::ValueId; 2]) -> Result<(), Skip> {
    let y = patch.scope().op(m.root_op().clone(), &inputs)?;
    patch.replace(m.result(), y);
    Ok(())
}
