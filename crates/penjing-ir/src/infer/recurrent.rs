//! Facts of recurrent cells.

use super::{Why, check_float, check_rank, check_shape, ensure};
use crate::{Dim, Direction, Fact};

pub(super) fn lstm([x, w, r, b, h0, c0]: [&Fact; 6], direction: Direction, reserve: bool) -> Result<Vec<Fact>, Why> {
    let s = extents(x, w, r, direction, 4)?;
    check_shape("b", b, &[s.d.clone(), Dim::Const(8) * s.h.clone()])?;
    let state = [s.d.clone(), s.b.clone(), s.h.clone()];
    check_shape("h0", h0, &state)?;
    check_shape("c0", c0, &state)?;
    ensure([w, r, b, h0, c0].iter().all(|f| f.dtype == x.dtype), || "operands differ in dtype".into())?;
    let fact = |shape: Vec<Dim>| Fact { dtype: x.dtype, shape };
    let mut out = vec![
        fact(vec![s.t.clone(), s.d.clone(), s.b.clone(), s.h.clone()]),
        fact(state.to_vec()),
        fact(state.to_vec()),
    ];
    if reserve {
        out.push(fact(vec![s.t, s.d, s.b, Dim::Const(5) * s.h]));
    }
    Ok(out)
}

pub(super) fn gru([x, w, r, b, h0]: [&Fact; 5], direction: Direction) -> Result<Vec<Fact>, Why> {
    let s = extents(x, w, r, direction, 3)?;
    check_shape("b", b, &[s.d.clone(), Dim::Const(6) * s.h.clone()])?;
    let state = vec![s.d.clone(), s.b.clone(), s.h.clone()];
    check_shape("h0", h0, &state)?;
    ensure([w, r, b, h0].iter().all(|f| f.dtype == x.dtype), || "operands differ in dtype".into())?;
    let fact = |shape: Vec<Dim>| Fact { dtype: x.dtype, shape };
    Ok(vec![fact(vec![s.t, s.d, s.b, s.h]), fact(state)])
}

pub(super) fn lstm_grad(
    [x, w, r, h0, c0, y, reserve, dy, dh, dc]: [&Fact; 10],
    direction: Direction,
) -> Result<Vec<Fact>, Why> {
    let s = extents(x, w, r, direction, 4)?;
    let b = Fact { dtype: x.dtype, shape: vec![s.d, Dim::Const(8) * s.h] };
    let forward = lstm([x, w, r, &b, h0, c0], direction, true)?;
    for (what, have, want) in [("y", y, 0), ("reserve", reserve, 3), ("dy", dy, 0), ("dh", dh, 1), ("dc", dc, 2)] {
        ensure(*have == forward[want], || format!("{what} is {have}, not {}", forward[want]))?;
    }
    Ok(vec![x.clone(), w.clone(), r.clone(), b, h0.clone(), c0.clone()])
}

struct Extents {
    t: Dim,
    b: Dim,
    d: Dim,
    h: Dim,
}

fn extents(x: &Fact, w: &Fact, r: &Fact, direction: Direction, gates: usize) -> Result<Extents, Why> {
    check_float(x)?;
    for (what, fact) in [("x", x), ("w", w), ("r", r)] {
        check_rank(what, fact, 3)?;
    }
    let d = Dim::Const(direction.count());
    let h = r.shape[2].clone();
    let gates = Dim::Const(gates) * h.clone();
    check_shape("w", w, &[d.clone(), gates.clone(), x.shape[2].clone()])?;
    check_shape("r", r, &[d.clone(), gates, h.clone()])?;
    Ok(Extents { t: x.shape[0].clone(), b: x.shape[1].clone(), d, h })
}
