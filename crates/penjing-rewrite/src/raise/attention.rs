//! Scaled dot-product attention, in the ways PyTorch exports it: the scale on q and k by its root, on the product, or as a
//! division; a mask added to the scores or chosen by a condition; a guard that gives zeros where a row sees nothing, as attention does.

use crate::{
    Coefficient, Formula, Match, Patch, Pattern, Rule, Skip, any, constant, matcher::uniform, node, number, one_of,
    product, unary,
};
use penjing_ir::{Dim, Op, Real, Unary, ValueId, broadcast};
use penjing_tensor::Tensor;

/// A score at or below this hides a position whatever the other scores are.
const HIDDEN: f64 = -1e30;

pub(super) fn rules() -> Vec<Box<dyn Rule>> {
    let softmax = node(is_softmax, [scores()]).named("probabilities");
    let guarded = node(is_select, [unary(Unary::IsNan, softmax.clone()), number(0.0), softmax.clone()]);
    let masked = node(|op| matches!(op, Op::Attention { .. }), [any("q"), any("k"), any("v"), constant("mask")]);
    vec![
        Formula::rule("raise-causal", masked, causal),
        Formula::rule(
            "raise-attention",
            node(is_matmul, [one_of([guarded.named("guarded"), softmax]), any("v")]),
            attention,
        ),
    ]
}

fn scores() -> Pattern {
    let q = product(Coefficient::Named("q scale"), [any("q")]);
    let k = product(Coefficient::Named("k scale"), [any("k")]);
    let raw = product(Coefficient::Named("scale"), [node(is_matmul, [q, k]).named("product")]);
    let chosen = one_of([
        node(is_select, [any("visible"), raw.clone(), constant("fill")]),
        node(is_select, [any("hidden"), constant("fill"), raw.clone()]),
    ]);
    one_of([chosen.clone() + any("mask"), chosen, raw.clone() + any("mask"), raw])
}

fn is_softmax(op: &Op) -> bool {
    matches!(op, Op::Softmax { .. })
}

fn is_select(op: &Op) -> bool {
    matches!(op, Op::Select)
}

fn is_matmul(op: &Op) -> bool {
    matches!(op, Op::MatMul { trans_a: false, .. })
}

fn attention(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let (Op::MatMul { trans_b: v_transposed, .. }, Some(Op::MatMul { trans_b: k_transposed, .. })) =
        (m.root_op(), m.op("product"))
    else {
        return Err(Skip::NoMatch);
    };
    let scores = &m.fact("product").shape;
    let last = Some(scores.len().wrapping_sub(1));
    if !matches!(m.op("probabilities"), Some(Op::Softmax { axis }) if Some(*axis) == last) {
        return Err(Skip::Check("the softmax is not over the keys"));
    }
    if ["q", "k", "v"].iter().any(|n| m.fact(n).rank() != 4) {
        return Err(Skip::Check("q, k and v are not [batch, heads, positions, width]"));
    }
    let masks = Masks::of(m, scores)?;
    let swap = [0, 1, 3, 2];
    let (q, mut k, mut v) = (patch.tap_named(m, "q"), patch.tap_named(m, "k"), patch.tap_named(m, "v"));
    let added = masks.added.map(|parts| parts.write(m, patch)).transpose()?;
    let mut s = patch.scope();
    if !k_transposed {
        k = s.permute(k, &swap)?;
    }
    if *v_transposed {
        v = s.permute(v, &swap)?;
    }
    let scale = Real(m.number("q scale") * m.number("k scale") * m.number("scale"));
    let inputs: Vec<ValueId> = [q, k, v].into_iter().chain(added).collect();
    let y = s.op(Op::Attention { scale, causal: masks.causal }, &inputs)?;
    patch.replace(m.result(), y);
    Ok(())
}

/// A constant mask that turned out to be the causal triangle, e.g. after symbols were bound.
fn causal(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let Op::Attention { scale, .. } = *m.root_op() else { return Err(Skip::NoMatch) };
    let [q, k] = ["q", "k"].map(|n| &m.fact(n).shape);
    let scores = [q[0].clone(), q[1].clone(), q[2].clone(), k[2].clone()];
    if !m.constant("mask").is_some_and(|t| is_triangle(t, &scores)) {
        return Err(Skip::NoEffect);
    }
    let inputs = ["q", "k", "v"].map(|n| patch.tap_named(m, n));
    let y = patch.scope().op(Op::Attention { scale, causal: true }, &inputs)?;
    patch.replace(m.result(), y);
    Ok(())
}

/// What hides positions: the causal triangle, and what is added to the scores.
struct Masks {
    causal: bool,
    added: Option<Added>,
}

struct Added {
    /// A condition under which a position is visible (or hidden), and the score that hides it.
    chosen: Option<(ValueId, Visible, f64)>,
    mask: Option<ValueId>,
}

#[derive(Clone, Copy, PartialEq)]
enum Visible {
    WhereTrue,
    WhereFalse,
}

impl Masks {
    fn of(m: &Match<'_>, scores: &[Dim]) -> Result<Masks, Skip> {
        let fits = |v: ValueId| broadcast(&m.graph.fact(v).shape, scores).is_ok_and(|s| s == scores);
        let mut causal = false;
        let mut added = Added { chosen: None, mask: None };
        let condition = match (m.get("visible"), m.get("hidden")) {
            (Some(v), _) => Some((v, Visible::WhereTrue)),
            (_, Some(v)) => Some((v, Visible::WhereFalse)),
            _ => None,
        };
        if let Some((condition, side)) = condition {
            let fill = m.constant("fill").and_then(|t| uniform(t)).filter(|&f| f <= HIDDEN);
            let fill = fill.ok_or(Skip::Check("the score of hidden positions is not low enough to hide them"))?;
            let is_visible = |v: f64| (v != 0.0) == (side == Visible::WhereTrue);
            if m.graph.as_const(condition).is_some_and(|t| is_causal(t, scores, is_visible)) {
                causal = true;
            } else {
                added.chosen = Some((condition, side, fill));
            }
        }
        if let Some(mask) = m.get("mask") {
            let triangle = m.graph.as_const(mask).is_some_and(|t| is_triangle(t, scores));
            if triangle {
                causal = true;
            } else {
                added.mask = Some(mask);
            }
        }
        if added.chosen.iter().map(|c| c.0).chain(added.mask).any(|v| !fits(v)) {
            return Err(Skip::Check("the mask does not broadcast to the scores"));
        }
        let any = added.chosen.is_some() || added.mask.is_some();
        Ok(Masks { causal, added: any.then_some(added) })
    }
}

impl Added {
    fn write(&self, m: &Match<'_>, patch: &mut Patch) -> Result<ValueId, Skip> {
        let dtype = m.fact("q").dtype;
        let mask = self.mask.map(|v| patch.tap(m.graph, v));
        let chosen = match self.chosen {
            None => None,
            Some((condition, side, fill)) => {
                let c = patch.tap(m.graph, condition);
                let mut s = patch.scope();
                let (zero, low) = (s.scalar(dtype, 0.0), s.scalar(dtype, fill));
                Some(if side == Visible::WhereTrue { s.select(c, zero, low)? } else { s.select(c, low, zero)? })
            }
        };
        match (chosen, mask) {
            (Some(a), Some(b)) => Ok(patch.scope().add(a, b)?),
            (Some(a), None) | (None, Some(a)) => Ok(a),
            (None, None) => Err(Skip::NoMatch),
        }
    }
}

/// Whether an additive mask is zero where the causal triangle is visible and hides the rest.
fn is_triangle(t: &Tensor, scores: &[Dim]) -> bool {
    is_causal(t, scores, |v| v == 0.0) && t.to_f64s().iter().all(|&v| v == 0.0 || v <= HIDDEN)
}

/// Whether a constant of shape [1.., S, T] lets position s see exactly t ≤ s + T − S.
fn is_causal(t: &Tensor, scores: &[Dim], visible: impl Fn(f64) -> bool) -> bool {
    let r = scores.len();
    let (Some(rows), Some(columns)) = (scores[r - 2].as_const(), scores[r - 1].as_const()) else { return false };
    let shape = t.shape();
    let fits = shape.len() >= 2
        && shape[shape.len() - 2..] == [rows, columns]
        && shape[..shape.len() - 2].iter().all(|&n| n == 1)
        && columns >= rows;
    fits && t.to_f64s().into_iter().enumerate().all(|(i, v)| {
        let (s, t) = (i / columns, i % columns);
        visible(v) == (t <= s + columns - rows)
    })
}
