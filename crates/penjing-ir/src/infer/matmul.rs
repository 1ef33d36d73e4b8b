//! Facts of matrix products and attention.

use super::{Why, broadcast, check_float, check_rank, ensure, operands};
use crate::Fact;

pub(super) fn matmul([a, b]: [&Fact; 2], trans_a: bool, trans_b: bool) -> Result<Fact, Why> {
    ensure(a.rank() >= 2 && b.rank() >= 2, || format!("needs matrices, {a} and {b} given"))?;
    ensure(a.dtype == b.dtype, || format!("operands are {} and {}; cast one", a.dtype, b.dtype))?;
    let (ra, rb) = (a.rank(), b.rank());
    let (m, k) = if trans_a { (ra - 1, ra - 2) } else { (ra - 2, ra - 1) };
    let (kb, n) = if trans_b { (rb - 1, rb - 2) } else { (rb - 2, rb - 1) };
    ensure(a.shape[k] == b.shape[kb], || format!("inner extents {} and {} differ", a.shape[k], b.shape[kb]))?;
    let mut shape = broadcast(&a.shape[..ra - 2], &b.shape[..rb - 2])?;
    shape.push(a.shape[m].clone());
    shape.push(b.shape[n].clone());
    Ok(Fact { dtype: a.dtype, shape })
}

pub(super) fn attention(x: &[Fact]) -> Result<Fact, Why> {
    let [q, k, v] = operands(x.get(..3).unwrap_or(x))?;
    ensure(x.len() <= 4, || format!("takes 3 or 4 operands, {} given", x.len()))?;
    for (what, fact) in [("q", q), ("k", k), ("v", v)] {
        check_float(fact)?;
        check_rank(what, fact, 4)?;
        ensure(fact.dtype == q.dtype, || format!("{what} is {}, q is {}", fact.dtype, q.dtype))?;
    }
    ensure(q.shape[0] == k.shape[0] && k.shape[..3] == v.shape[..3] && q.shape[3] == k.shape[3], || {
        format!("q {q}, k {k} and v {v} do not fit together")
    })?;
    let grouped = q.shape[1].exact_div(&k.shape[1]);
    ensure(grouped.is_some(), || format!("{} key heads do not divide {} query heads", k.shape[1], q.shape[1]))?;
    if let Some(mask) = x.get(3) {
        let scores = [q.shape[0].clone(), q.shape[1].clone(), q.shape[2].clone(), k.shape[2].clone()];
        ensure(mask.dtype == q.dtype && broadcast(&mask.shape, &scores)? == scores, || {
            format!("mask {mask} does not broadcast to {scores:?}")
        })?;
    }
    let mut out = q.clone();
    out.shape[3] = v.shape[3].clone();
    Ok(out)
}

pub(super) fn attention_grad([q, k, v, dy]: [&Fact; 4]) -> Result<Vec<Fact>, Why> {
    let y = attention(&[q.clone(), k.clone(), v.clone()])?;
    ensure(*dy == y, || format!("the gradient {dy} is not of the fact {y}"))?;
    ensure(q.shape[1] == k.shape[1], || format!("each query head needs its own key head, q {q} and k {k} given"))?;
    Ok(vec![q.clone(), k.clone(), v.clone()])
}
