//! Layer, group and root-mean-square normalisation written out in means and roots.

use crate::{
    Formula, Match, Patch, Pattern, Rule, Skip, any, any_number, binary, mean_keep, node, number, one_of, unary,
};
use penjing_ir::{Binary, Dim, Op, Real, Unary, ValueId};

/// With scale and bias.
pub(super) fn affine() -> Vec<Box<dyn Rule>> {
    vec![
        Formula::rule("raise-layer-norm", layer_norm() * any("scale") + any("bias"), layer),
        Formula::rule("raise-group-norm", group_norm() * any("scale") + any("bias"), group),
    ]
}

/// With a scale only.
pub(super) fn scaled() -> Vec<Box<dyn Rule>> {
    vec![
        Formula::rule("raise-layer-norm-scaled", layer_norm() * any("scale"), layer),
        Formula::rule("raise-rms-norm", rms_norm() * any("scale"), rms),
    ]
}

/// Without parameters.
pub(super) fn bare() -> Vec<Box<dyn Rule>> {
    vec![
        Formula::rule("raise-layer-norm-bare", layer_norm(), layer),
        Formula::rule("raise-rms-norm-bare", rms_norm(), rms),
    ]
}

/// (x − mean) / √(mean((x − mean)²) + ε).
fn layer_norm() -> Pattern {
    let d = || (any("x") - mean_keep(any("x")).named("mean")).named("d");
    over_root(d(), mean_keep(square(d())).named("square"))
}

/// x / √(mean(x²) + ε).
fn rms_norm() -> Pattern {
    over_root(any("x"), mean_keep(square(any("x"))).named("square"))
}

/// torch's group norm: the channels of a group and all positions as one axis, normalised for each group.
fn group_norm() -> Pattern {
    let is_reshape = |op: &Op| matches!(op, Op::Reshape { .. });
    let split = node(is_reshape, [any("x")]).named("split");
    let norm = node(|op| matches!(op, Op::GroupNorm { .. }), [split, number(1.0), number(0.0)]).named("norm");
    node(is_reshape, [norm])
}

fn square(x: Pattern) -> Pattern {
    one_of([binary(Binary::Pow, x.clone(), number(2.0)), x.clone() * x])
}

/// x / √(v + ε), also as a product with the inverse root.
fn over_root(x: Pattern, v: Pattern) -> Pattern {
    let root = unary(Unary::Sqrt, v + any_number("eps"));
    one_of([x.clone() / root.clone(), x.clone() * unary(Unary::Recip, root.clone()), x * (number(1.0) / root)])
}

fn layer(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let axis = trailing_axes(m, &["mean", "square"])?;
    let x = patch.tap_named(m, "x");
    let scale = parameter(m, patch, "scale", axis, 1.0)?;
    let bias = parameter(m, patch, "bias", axis, 0.0)?;
    let y = patch.scope().op(Op::LayerNorm { axis, eps: Real(m.number("eps")) }, &[x, scale, bias])?;
    patch.replace(m.result(), y);
    Ok(())
}

fn rms(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let axis = trailing_axes(m, &["square"])?;
    let x = patch.tap_named(m, "x");
    let scale = parameter(m, patch, "scale", axis, 1.0)?;
    let y = patch.scope().op(Op::RmsNorm { axis, eps: Real(m.number("eps")) }, &[x, scale])?;
    patch.replace(m.result(), y);
    Ok(())
}

fn group(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let Some(&Op::GroupNorm { groups, eps }) = m.op("norm") else { return Err(Skip::NoMatch) };
    let (x, split) = (m.fact("x"), m.fact("split"));
    let each_group = split.rank() >= 3 && split.shape[1].is(groups);
    if x.rank() < 3 || !each_group || split.shape[0] != x.shape[0] {
        return Err(Skip::Check("the groups are not those of the channel axis"));
    }
    let channels = &x.shape[1];
    let mut inputs = vec![patch.tap_named(m, "x")];
    for name in ["scale", "bias"] {
        let have = &m.fact(name).shape;
        let position = have.len().checked_sub(x.rank() - 1);
        let per_channel = position
            .is_some_and(|p| have.iter().enumerate().all(|(i, d)| if i == p { d == channels } else { d.is(1) }));
        if !per_channel {
            return Err(Skip::Check("the scale or bias is not one number for each channel"));
        }
        let tapped = patch.tap_named(m, name);
        inputs.push(patch.scope().reshape(tapped, std::slice::from_ref(channels))?);
    }
    let y = patch.scope().op(Op::GroupNorm { groups, eps }, &inputs)?;
    patch.replace(m.result(), y);
    Ok(())
}

/// The first of the normalised axes, which must be the last ones and the same in every mean.
fn trailing_axes(m: &Match<'_>, means: &[&str]) -> Result<usize, Skip> {
    let rank = m.fact("x").rank();
    let mut first = None;
    for name in means {
        let Some(Op::Reduce { axes, .. }) = m.op(name) else { return Err(Skip::NoMatch) };
        let start = rank.saturating_sub(axes.len());
        if axes.is_empty() || !axes.iter().copied().eq(start..rank) {
            return Err(Skip::Check("the mean is not over the last axes"));
        }
        if *first.get_or_insert(start) != start {
            return Err(Skip::Check("the means are over different axes"));
        }
    }
    first.ok_or(Skip::NoMatch)
}

/// A scale or bias in the shape `x.shape[axis..]`; `default` where the formula has none.
fn parameter(m: &Match<'_>, patch: &mut Patch, name: &str, axis: usize, default: f64) -> Result<ValueId, Skip> {
    let x = m.fact("x");
    let shape = &x.shape[axis..];
    let Some(value) = m.get(name) else {
        let mut s = patch.scope();
        let one = s.scalar(x.dtype, default);
        return Ok(s.expand(one, shape)?);
    };
    let have = &m.graph.fact(value).shape;
    let extra = have.len().saturating_sub(shape.len());
    if have[..extra].iter().any(|d| !d.is(1)) {
        return Err(Skip::Check("the scale or bias varies over axes that are not normalised"));
    }
    let tail: Vec<Dim> = have[extra..].to_vec();
    let tapped = patch.tap(m.graph, value);
    let mut s = patch.scope();
    let flat = s.reshape(tapped, &tail)?;
    Ok(s.expand(flat, shape)?)
}
