//! Recurrent cells written out, step by step.

use penjing_ir::{Dim, Direction, IrError, Reset, Scope, Unary, ValueId};

/// y [T, D, B, H] and h [D, B, H] of a `Gru`; `None` when there is no step or their number is not known.
pub(crate) fn gru(
    s: &mut Scope<'_>,
    inputs: &[ValueId],
    direction: Direction,
    reset: Reset,
) -> Result<Option<Vec<ValueId>>, IrError> {
    let &[x, w, r, b, h0] = inputs else { return Ok(None) };
    let Some(steps) = s.fact(x).shape[0].as_const().filter(|&t| t > 0) else { return Ok(None) };
    let (mut ys, mut hs) = (Vec::new(), Vec::new());
    for d in 0..direction.count() {
        let mut own = |v: ValueId| {
            let part = s.slice(v, 0, d, 1usize)?;
            let shape = s.fact(part).shape[1..].to_vec();
            s.reshape(part, &shape)
        };
        let (w, r, b, h0) = (own(w)?, own(r)?, own(b)?, own(h0)?);
        let back = direction == Direction::Reverse || d == 1;
        let order: Vec<usize> = if back { (0..steps).rev().collect() } else { (0..steps).collect() };
        let mut of_direction = one_direction(s, [x, w, r, b, h0], &order, reset)?;
        let state = s.fact(h0).shape;
        let last = of_direction[order[steps - 1]];
        hs.push(s.reshape(last, &[Dim::Const(1), state[0].clone(), state[1].clone()])?);
        for h in &mut of_direction {
            *h = s.reshape(*h, &[Dim::Const(1), Dim::Const(1), state[0].clone(), state[1].clone()])?;
        }
        ys.push(s.concat(&of_direction, 0)?);
    }
    Ok(Some(vec![s.concat(&ys, 1)?, s.concat(&hs, 0)?]))
}

/// The hidden states [B, H] by time; `order` is that of the steps.
fn one_direction(
    s: &mut Scope<'_>,
    [x, w, r, b, h0]: [ValueId; 5],
    order: &[usize],
    reset: Reset,
) -> Result<Vec<ValueId>, IrError> {
    let n = s.fact(h0).shape[1].clone();
    let blocks = |count: usize| Dim::Const(count) * n.clone();
    let of_x = s.slice(b, 0, 0usize, blocks(3))?;
    let b_gates = s.slice(b, 0, blocks(3), blocks(2))?;
    let b_candidate = s.slice(b, 0, blocks(5), blocks(1))?;
    let r_gates = s.slice(r, 0, 0usize, blocks(2))?;
    let r_candidate = s.slice(r, 0, blocks(2), blocks(1))?;
    let all = s.linear(x, w, Some(of_x))?;
    let mut h = h0;
    let mut ys = vec![h0; order.len()];
    for &t in order {
        let pre = s.slice(all, 0, t, 1usize)?;
        let shape = s.fact(pre).shape[1..].to_vec();
        let pre = s.reshape(pre, &shape)?;
        let of_h = s.linear(h, r_gates, Some(b_gates))?;
        let of_x = s.slice(pre, 1, 0usize, blocks(2))?;
        let sum = s.add(of_x, of_h)?;
        let gates = s.unary(Unary::Sigmoid, sum)?;
        let (update, open) = (s.slice(gates, 1, 0usize, blocks(1))?, s.slice(gates, 1, blocks(1), blocks(1))?);
        let inner = match reset {
            Reset::State => {
                let shown = s.mul(open, h)?;
                s.linear(shown, r_candidate, Some(b_candidate))?
            }
            Reset::Product => {
                let product = s.linear(h, r_candidate, Some(b_candidate))?;
                s.mul(open, product)?
            }
        };
        let of_x = s.slice(pre, 1, blocks(2), blocks(1))?;
        let sum = s.add(of_x, inner)?;
        let candidate = s.unary(Unary::Tanh, sum)?;
        let gap = s.sub(h, candidate)?;
        let kept = s.mul(update, gap)?;
        h = s.add(candidate, kept)?;
        ys[t] = h;
    }
    Ok(ys)
}
