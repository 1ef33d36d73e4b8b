//! Batch normalisation folded into the linear op before it.
//!
//! The new weight and bias are written as graph fragments over the old ones; [`crate::fold_constants`] then makes them constants. So
//! only weights and statistics that are constants are folded; [`crate::freeze`] says which states may be treated as such.

use crate::{Formula, Match, Patch, Pattern, RewriteError, Rule, Skip, Trace, any, constant, node, one_of, rewrite};
use penjing_ir::{Binary, Dim, Model, Op, Unary, ValueId};

/// Folds every batch normalisation whose statistics are constants into a `Conv`, `ConvTranspose` or (two-dimensional) `MatMul` with a
/// constant weight. Returns how many.
pub fn fold_batch_norm(model: &mut Model, trace: &mut Trace) -> Result<usize, RewriteError> {
    rewrite("fold_batch_norm", model, &rules(), trace)
}

fn rules() -> Vec<Box<dyn Rule>> {
    let linear = |accepts: fn(&Op) -> bool| {
        one_of([node(accepts, [any("x"), constant("w"), constant("b")]), node(accepts, [any("x"), constant("w")])])
            .named("linear")
    };
    let product =
        || node(|op| matches!(op, Op::MatMul { trans_a: false, .. }), [any("x"), constant("w")]).named("linear");
    vec![
        Formula::rule("batch-norm-into-conv", batch_norm(linear(|op| matches!(op, Op::Conv(_)))), conv),
        Formula::rule(
            "batch-norm-into-conv-transpose",
            batch_norm(linear(|op| matches!(op, Op::ConvTranspose { .. }))),
            conv_transpose,
        ),
        Formula::rule("batch-norm-into-matmul", batch_norm(one_of([product() + constant("b"), product()])), matmul),
    ]
}

fn batch_norm(x: Pattern) -> Pattern {
    let parameters = ["scale", "shift", "mean", "var"].map(constant);
    node(|op| matches!(op, Op::BatchNorm { .. }), std::iter::once(x).chain(parameters))
}

/// The normalisation as y·gain + offset for each channel, on top of a bias `b`: (gain, b·gain + offset).
fn gain_and_bias(m: &Match<'_>, patch: &mut Patch) -> Result<(ValueId, ValueId), Skip> {
    let Op::BatchNorm { eps, .. } = m.root_op() else { return Err(Skip::NoMatch) };
    let [scale, shift, mean, var] = ["scale", "shift", "mean", "var"].map(|n| patch.tap_named(m, n));
    let bias = m.get("b").map(|b| patch.tap(m.graph, b));
    let mut s = patch.scope();
    let spread = s.shift(var, eps.0)?;
    let root = s.unary(Unary::Sqrt, spread)?;
    let gain = s.div(scale, root)?;
    let centre = match bias {
        Some(b) => s.sub(b, mean)?,
        None => s.unary(Unary::Neg, mean)?,
    };
    let scaled = s.mul(centre, gain)?;
    Ok((gain, s.binary(Binary::Add, scaled, shift)?))
}

fn conv(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let (gain, bias) = gain_and_bias(m, patch)?;
    let op = m.op("linear").ok_or(Skip::NoMatch)?.clone();
    let w = m.fact("w");
    let (x, weight) = (patch.tap_named(m, "x"), patch.tap_named(m, "w"));
    let mut s = patch.scope();
    let mut shape = vec![Dim::Const(1); w.rank()];
    shape[0] = w.shape[0].clone();
    let per_output = s.reshape(gain, &shape)?;
    let weight = s.mul(weight, per_output)?;
    finish(m, patch, op, &[x, weight, bias])
}

/// The weight is [C, O/groups, kernel..]: the output channel is (group of the row, column).
fn conv_transpose(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let (gain, bias) = gain_and_bias(m, patch)?;
    let Some(op @ Op::ConvTranspose { spec, .. }) = m.op("linear") else { return Err(Skip::NoMatch) };
    let (op, groups) = (op.clone(), spec.groups);
    let w = m.fact("w");
    let rows = w.shape[0].exact_div(&Dim::Const(groups)).ok_or(Skip::Check("the groups do not divide the channels"))?;
    let (x, weight) = (patch.tap_named(m, "x"), patch.tap_named(m, "w"));
    let mut s = patch.scope();
    let mut grouped = vec![Dim::Const(groups), rows];
    grouped.extend(w.shape[1..].iter().cloned());
    let mut shape = vec![Dim::Const(1); grouped.len()];
    shape[0] = Dim::Const(groups);
    shape[2] = w.shape[1].clone();
    let per_output = s.reshape(gain, &shape)?;
    let split = s.reshape(weight, &grouped)?;
    let scaled = s.mul(split, per_output)?;
    let weight = s.reshape(scaled, &w.shape)?;
    finish(m, patch, op, &[x, weight, bias])
}

fn matmul(m: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
    let Some(op @ Op::MatMul { trans_b, .. }) = m.op("linear") else { return Err(Skip::NoMatch) };
    let (op, trans_b) = (op.clone(), *trans_b);
    if m.fact("linear").rank() != 2 || m.fact("w").rank() != 2 {
        return Err(Skip::Check("the channel axis is not the product's last axis"));
    }
    if m.get("b").is_some_and(|b| m.graph.fact(b).shape != m.graph.fact(m.value("mean")).shape) {
        return Err(Skip::Check("the bias is not one number for each channel"));
    }
    let (gain, bias) = gain_and_bias(m, patch)?;
    let (x, weight) = (patch.tap_named(m, "x"), patch.tap_named(m, "w"));
    let mut s = patch.scope();
    let per_output = if trans_b {
        let column = [m.fact("mean").shape[0].clone(), Dim::Const(1)];
        s.reshape(gain, &column)?
    } else {
        gain
    };
    let weight = s.mul(weight, per_output)?;
    let product = s.op(op, &[x, weight])?;
    let y = s.add(product, bias)?;
    patch.replace(m.result(), y);
    Ok(())
}

fn finish(m: &Match<'_>, patch: &mut Patch, op: Op, inputs: &[ValueId]) -> Result<(), Skip> {
    let y = patch.scope().op(op, inputs)?;
    patch.replace(m.result(), y);
    patch.keep_name_of(m.graph.producer(m.value("linear")).ok_or(Skip::NoMatch)?);
    Ok(())
}
