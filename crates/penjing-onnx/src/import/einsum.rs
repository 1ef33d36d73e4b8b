//! `Einsum` as permutations, products of matrices and sums.

use super::{
    frame::Operand,
    node::{Fault, NodeCx, Res, invalid, one},
};
use penjing_ir::{Compare, Dim, Op, Reduction, Scope, ValueId};
use penjing_tensor::DType;

/// A value and what its axes are called.
struct Term {
    value: ValueId,
    axes: Vec<char>,
}

/// `Einsum` of one or more operands, from the left two at a time.
pub(super) fn einsum(cx: &mut NodeCx<'_, '_>) -> Res<Vec<Operand>> {
    let equation: String = cx.string("equation", "")?.split_whitespace().collect();
    let values = cx.values()?;
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left.to_string(), Some(right.to_string())),
        None => (equation.clone(), None),
    };
    let parts: Vec<&str> = left.split(',').collect();
    if parts.len() != values.len() {
        return invalid(format!("equation '{equation}' names {} operands, {} are given", parts.len(), values.len()));
    }
    let mut s = cx.scope();
    let mut terms = Vec::new();
    let mut widest = 0;
    for (&value, part) in values.iter().zip(&parts) {
        let axes = labels(part, s.fact(value).rank())?;
        widest = widest.max(axes.iter().filter(|c| !c.is_ascii_alphabetic()).count());
        terms.push(diagonal(&mut s, Term { value, axes })?);
    }
    let output = match right {
        Some(right) => labels_of_output(&right, widest)?,
        None => implicit_output(&terms, widest),
    };
    let mut rest = terms.into_iter();
    let mut result = rest.next().ok_or_else(|| Fault::Invalid("takes at least one input".into()))?;
    let later: Vec<Term> = rest.collect();
    for (i, term) in later.iter().enumerate() {
        let needed = |c: char| output.contains(&c) || later[i + 1..].iter().any(|t| t.axes.contains(&c));
        result = contract(&mut s, result, term, &needed)?;
    }
    let unused: Vec<usize> = (0..result.axes.len()).filter(|&i| !output.contains(&result.axes[i])).collect();
    if !unused.is_empty() {
        result.value = s.reduce(Reduction::Sum, result.value, &unused)?;
        result.axes.retain(|c| output.contains(c));
    }
    let perm: Option<Vec<usize>> = output.iter().map(|c| result.axes.iter().position(|a| a == c)).collect();
    match perm {
        Some(perm) if perm.len() == result.axes.len() => Ok(one(s.permute(result.value, &perm)?)),
        _ => invalid(format!("the output of '{equation}' names an axis that no operand has, or one twice")),
    }
}

/// The axis names of an operand; those of an ellipsis are digits counted from its last axis, so that they broadcast.
fn labels(part: &str, rank: usize) -> Res<Vec<char>> {
    let named = part.replace("...", "");
    if !named.chars().all(|c| c.is_ascii_alphabetic()) {
        return invalid(format!("the term '{part}'"));
    }
    let hidden = rank.checked_sub(named.len()).filter(|&n| n == 0 || part.contains("..."));
    let Some(hidden) = hidden.filter(|&n| n < 10) else {
        return invalid(format!("the term '{part}' does not fit {rank} axes"));
    };
    Ok(expand(part, hidden))
}

fn labels_of_output(part: &str, hidden: usize) -> Res<Vec<char>> {
    let named = part.replace("...", "");
    if !named.chars().all(|c| c.is_ascii_alphabetic()) {
        return invalid(format!("the term '{part}'"));
    }
    Ok(expand(part, if part.contains("...") { hidden } else { 0 }))
}

fn expand(part: &str, hidden: usize) -> Vec<char> {
    let digits: String = (0..hidden).rev().map(|i| char::from(b'0' + i as u8)).collect();
    part.replace("...", &digits).chars().collect()
}

/// Without an arrow: the ellipsis, then the names that appear once, in alphabetical order.
fn implicit_output(terms: &[Term], hidden: usize) -> Vec<char> {
    let all: Vec<char> = terms.iter().flat_map(|t| t.axes.iter().copied()).collect();
    let mut once: Vec<char> = all
        .iter()
        .copied()
        .filter(|c| c.is_ascii_alphabetic() && all.iter().filter(|d| *d == c).count() == 1)
        .collect();
    once.sort_unstable();
    expand("...", hidden).into_iter().chain(once).collect()
}

/// A term that names an axis twice, cut down to the diagonal: other places are set to zero and summed away.
fn diagonal(s: &mut Scope<'_>, mut term: Term) -> Res<Term> {
    while let Some((i, j)) = twice(&term.axes) {
        let dims = s.fact(term.value).shape;
        let rows = s.op(Op::Iota { shape: dims.clone(), axis: i, dtype: DType::I64 }, &[])?;
        let columns = s.op(Op::Iota { shape: dims, axis: j, dtype: DType::I64 }, &[])?;
        let on = s.compare(Compare::Equal, rows, columns)?;
        let zero = s.scalar_like(term.value, 0.0);
        let kept = s.select(on, term.value, zero)?;
        term.value = s.reduce(Reduction::Sum, kept, &[j])?;
        term.axes.remove(j);
    }
    Ok(term)
}

fn twice(axes: &[char]) -> Option<(usize, usize)> {
    (0..axes.len()).find_map(|i| (i + 1..axes.len()).find(|&j| axes[i] == axes[j]).map(|j| (i, j)))
}

/// a and b multiplied and summed over the names that neither the output nor a later operand needs.
fn contract(s: &mut Scope<'_>, a: Term, b: &Term, needed: &dyn Fn(char) -> bool) -> Res<Term> {
    let names = a.axes.clone();
    let a = sum_private(s, a, &b.axes, needed)?;
    let b = sum_private(s, Term { value: b.value, axes: b.axes.clone() }, &names, needed)?;
    let shared: Vec<char> = a.axes.iter().copied().filter(|c| b.axes.contains(c)).collect();
    let (batch, inner): (Vec<char>, Vec<char>) = shared.iter().partition(|&&c| needed(c));
    let own = |t: &Term| t.axes.iter().copied().filter(|c| !shared.contains(c)).collect::<Vec<char>>();
    let (rows, columns) = (own(&a), own(&b));
    let left = as_matrices(s, &a, &batch, &rows, &inner)?;
    let right = as_matrices(s, &b, &batch, &inner, &columns)?;
    let product = s.matmul(left, right)?;
    let mut dims = s.fact(product).shape[..batch.len()].to_vec();
    dims.extend(rows.iter().map(|&c| extent(s, &a, c)));
    dims.extend(columns.iter().map(|&c| extent(s, &b, c)));
    let value = s.reshape(product, &dims)?;
    Ok(Term { value, axes: [batch, rows, columns].concat() })
}

/// The term summed over axes that only it has and nobody needs.
fn sum_private(s: &mut Scope<'_>, mut term: Term, other: &[char], needed: &dyn Fn(char) -> bool) -> Res<Term> {
    let unused = |c: char| !needed(c) && !other.contains(&c);
    let axes: Vec<usize> = (0..term.axes.len()).filter(|&i| unused(term.axes[i])).collect();
    if !axes.is_empty() {
        term.value = s.reduce(Reduction::Sum, term.value, &axes)?;
        term.axes.retain(|&c| !unused(c));
    }
    Ok(term)
}

/// The term as [batch.., product of `rows`, product of `columns`].
fn as_matrices(s: &mut Scope<'_>, term: &Term, batch: &[char], rows: &[char], columns: &[char]) -> Res<ValueId> {
    let order = batch.iter().chain(rows).chain(columns);
    let perm: Vec<usize> = order.filter_map(|c| term.axes.iter().position(|a| a == c)).collect();
    let value = s.permute(term.value, &perm)?;
    let product = |names: &[char]| Dim::product(&names.iter().map(|&c| extent(s, term, c)).collect::<Vec<_>>());
    let mut dims: Vec<Dim> = batch.iter().map(|&c| extent(s, term, c)).collect();
    dims.extend([product(rows), product(columns)]);
    Ok(s.reshape(value, &dims)?)
}

fn extent(s: &Scope<'_>, term: &Term, name: char) -> Dim {
    let at = term.axes.iter().position(|&a| a == name);
    at.map_or(Dim::Const(1), |i| s.graph.fact(term.value).shape[i].clone())
}
