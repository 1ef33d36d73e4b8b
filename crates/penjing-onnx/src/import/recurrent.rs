//! Recurrent cells: the common `LSTM` and `GRU` are one op each; `RNN` and unusual cells are written out step by step.

use super::{
    frame::Operand,
    node::{NodeCx, Res, invalid, unsupported},
};
use penjing_ir::{Compare, Dim, Direction, Op, Reset, Scope, Unary, ValueId};

type Outputs = Res<Vec<Operand>>;

/// Most steps that are written out one after the other.
const MAX_STEPS: usize = 512;

/// Which cell.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell {
    /// Gates i, o, f, c.
    Lstm,
    /// Gates z, r, h.
    Gru,
    /// One gate.
    Rnn,
}

impl Cell {
    fn gates(self) -> usize {
        match self {
            Cell::Lstm => 4,
            Cell::Gru => 3,
            Cell::Rnn => 1,
        }
    }
}

/// The operands and attributes that all cells share; x is [T, B, I], initial states [D, B, H].
struct Recurrence {
    cell: Cell,
    direction: Direction,
    x: ValueId,
    w: ValueId,
    r: ValueId,
    bias: ValueId,
    h0: ValueId,
    c0: Option<ValueId>,
    peephole: Option<ValueId>,
    lens: Option<ValueId>,
    activations: Vec<Unary>,
    linear_before_reset: bool,
    batch_first: bool,
}

/// `LSTM`, `GRU` and `RNN`.
pub(super) fn recurrent(cx: &mut NodeCx<'_, '_>, cell: Cell) -> Outputs {
    let rec = read(cx, cell)?;
    let default: &[Unary] = match cell {
        Cell::Lstm => &[Unary::Sigmoid, Unary::Tanh, Unary::Tanh],
        Cell::Gru => &[Unary::Sigmoid, Unary::Tanh],
        Cell::Rnn => &[],
    };
    let usual = rec.peephole.is_none()
        && rec.lens.is_none()
        && !default.is_empty()
        && rec.activations.chunks(default.len()).all(|a| a == default);
    let direction = rec.direction;
    let reset = if rec.linear_before_reset { Reset::Product } else { Reset::State };
    let mut out = match (usual, rec.c0) {
        (true, Some(c0)) => {
            let operands = [rec.x, rec.w, rec.r, rec.bias, rec.h0, c0];
            one_op(cx, Op::Lstm { direction, reserve: false }, &operands)?
        }
        (true, None) => one_op(cx, Op::Gru { direction, reset }, &[rec.x, rec.w, rec.r, rec.bias, rec.h0])?,
        _ => unroll(cx, &rec)?,
    };
    if rec.batch_first {
        let mut s = cx.scope();
        out[0] = s.permute(out[0], &[2, 0, 1, 3])?;
        for v in &mut out[1..] {
            *v = s.permute(*v, &[1, 0, 2])?;
        }
    }
    Ok(out.into_iter().map(Operand::Value).collect())
}

fn one_op(cx: &mut NodeCx<'_, '_>, op: Op, operands: &[ValueId]) -> Res<Vec<ValueId>> {
    let label = cx.node.label.clone();
    let id = cx.graph().add_node(&label, op, operands)?;
    Ok(cx.graph().node(id).outputs.clone())
}

fn read(cx: &mut NodeCx<'_, '_>, cell: Cell) -> Res<Recurrence> {
    let direction = match cx.string("direction", "forward")?.as_str() {
        "forward" => Direction::Forward,
        "reverse" => Direction::Reverse,
        "bidirectional" => Direction::Bidirectional,
        other => return invalid(format!("direction is '{other}'")),
    };
    if cx.opt_float("clip")?.is_some() {
        return unsupported("clipped gates");
    }
    if cx.flag("input_forget", 0)? {
        return unsupported("coupled input and forget gates");
    }
    let batch_first = cx.flag("layout", 0)?;
    let (mut x, w, r) = (cx.value(0)?, cx.value(1)?, cx.value(2)?);
    if [x, w, r].iter().any(|&v| cx.rank(v) != 3) {
        return invalid("x, w and r need 3 axes");
    }
    if batch_first {
        x = cx.scope().permute(x, &[1, 0, 2])?;
    }
    let activations = activations(cx, cell, direction)?;
    let (fact, hidden) = (cx.fact(x), cx.fact(r).shape[2].clone());
    let d = Dim::Const(direction.count());
    let bias = match cx.optional(3)? {
        Some(bias) => bias,
        None => {
            let mut s = cx.scope();
            let zero = s.scalar(fact.dtype, 0.0);
            s.expand(zero, &[d.clone(), Dim::Const(2 * cell.gates()) * hidden.clone()])?
        }
    };
    let state = [d, fact.shape[1].clone(), hidden];
    let mut initial = |i: usize| -> Res<ValueId> {
        let given = cx.optional(i)?;
        let mut s = cx.scope();
        Ok(match given {
            Some(v) if batch_first => s.permute(v, &[1, 0, 2])?,
            Some(v) => v,
            None => {
                let zero = s.scalar(fact.dtype, 0.0);
                s.expand(zero, &state)?
            }
        })
    };
    let h0 = initial(5)?;
    let c0 = if cell == Cell::Lstm { Some(initial(6)?) } else { None };
    let lens = lengths(cx, &fact.shape[0])?;
    let peephole = if cell == Cell::Lstm { cx.optional(7)? } else { None };
    let linear_before_reset = cx.flag("linear_before_reset", 0)?;
    Ok(Recurrence {
        cell,
        direction,
        x,
        w,
        r,
        bias,
        h0,
        c0,
        peephole,
        lens,
        activations,
        linear_before_reset,
        batch_first,
    })
}

/// Lengths of the sequences; `None` when all run over the whole time axis.
fn lengths(cx: &mut NodeCx<'_, '_>, steps: &Dim) -> Res<Option<ValueId>> {
    let full = cx.known(4).and_then(|k| k.to_dims()).is_some_and(|lens| lens.iter().all(|l| l == steps));
    if full { Ok(None) } else { cx.optional(4) }
}

fn activations(cx: &NodeCx<'_, '_>, cell: Cell, direction: Direction) -> Res<Vec<Unary>> {
    let default: &[&str] = match cell {
        Cell::Lstm => &["Sigmoid", "Tanh", "Tanh"],
        Cell::Gru => &["Sigmoid", "Tanh"],
        Cell::Rnn => &["Tanh"],
    };
    let wanted = default.len() * direction.count();
    let names = match cx.strings("activations")? {
        Some(names) => names,
        None => default.repeat(direction.count()).iter().map(|n| n.to_string()).collect(),
    };
    if names.len() != wanted {
        return invalid(format!("{} activations, {wanted} are needed", names.len()));
    }
    names
        .iter()
        .map(|name| match name.to_lowercase().as_str() {
            "sigmoid" => Ok(Unary::Sigmoid),
            "tanh" => Ok(Unary::Tanh),
            "relu" => Ok(Unary::Relu),
            "softplus" => Ok(Unary::Softplus),
            _ => unsupported(format!("the activation '{name}'")),
        })
        .collect()
}

/// Every step as nodes of its own: y [T, D, B, H], h [D, B, H] and, for an LSTM, c [D, B, H].
fn unroll(cx: &mut NodeCx<'_, '_>, rec: &Recurrence) -> Res<Vec<ValueId>> {
    let steps = cx.fact(rec.x).shape[0].as_const();
    let Some(steps) = steps.filter(|t| (1..=MAX_STEPS).contains(t)) else {
        return unsupported(format!(
            "this cell over more than {MAX_STEPS} or an unknown number of steps (it is written out; bind the sequence length)"
        ));
    };
    if rec.lens.is_some() && rec.direction != Direction::Forward {
        return unsupported("sequences of different lengths walked backwards");
    }
    let mut s = cx.scope();
    let (mut ys, mut hs, mut cs) = (Vec::new(), Vec::new(), Vec::new());
    for d in 0..rec.direction.count() {
        let back = rec.direction == Direction::Reverse || d == 1;
        let (y, h, c) = one_direction(&mut s, rec, d, back, steps)?;
        ys.push(y);
        hs.push(h);
        cs.extend(c);
    }
    let mut out = vec![s.concat(&ys, 1)?, s.concat(&hs, 0)?];
    if rec.cell == Cell::Lstm {
        out.push(s.concat(&cs, 0)?);
    }
    Ok(out)
}

/// One direction: y [T, 1, B, H], h [1, B, H], c [1, B, H].
fn one_direction(
    s: &mut Scope<'_>,
    rec: &Recurrence,
    d: usize,
    back: bool,
    steps: usize,
) -> Res<(ValueId, ValueId, Option<ValueId>)> {
    let mut own = |v: ValueId| -> Res<ValueId> {
        let part = s.slice(v, 0, d, 1usize)?;
        let shape = s.fact(part).shape[1..].to_vec();
        Ok(s.reshape(part, &shape)?)
    };
    let (w, r, bias, h0) = (own(rec.w)?, own(rec.r)?, own(rec.bias)?, own(rec.h0)?);
    let c0 = rec.c0.map(&mut own).transpose()?;
    let peephole = rec.peephole.map(&mut own).transpose()?;
    let state = s.fact(h0).shape;
    let hidden = state[1].clone();
    let all = Dim::Const(rec.cell.gates()) * hidden.clone();
    let bias_w = s.slice(bias, 0, 0usize, all.clone())?;
    let bias_r = s.slice(bias, 0, all.clone(), all)?;
    let cell = CellParts {
        kind: rec.cell,
        r,
        bias_r,
        peephole,
        hidden,
        activations: rec.activations[d * rec.activations.len() / rec.direction.count()..].to_vec(),
        linear_before_reset: rec.linear_before_reset,
    };
    let gates_x = s.linear(rec.x, w, Some(bias_w))?;
    let (mut h, mut c) = (h0, c0);
    let mut ys = Vec::with_capacity(steps);
    for turn in 0..steps {
        let t = if back { steps - 1 - turn } else { turn };
        let gx = s.slice(gates_x, 0, t, 1usize)?;
        let shape = s.fact(gx).shape[1..].to_vec();
        let gx = s.reshape(gx, &shape)?;
        let (mut h_new, mut c_new) = cell.step(s, gx, h, c)?;
        let mut y = h_new;
        if let Some(lens) = rec.lens {
            let zero = s.scalar_like(h, 0.0);
            let at = s.scalar_like(lens, t as f64);
            let running = s.compare(Compare::Less, at, lens)?;
            let running = s.reshape(running, &[state[0].clone(), Dim::Const(1)])?;
            y = s.select(running, h_new, zero)?;
            h_new = s.select(running, h_new, h)?;
            if let (Some(new), Some(old)) = (c_new, c) {
                c_new = Some(s.select(running, new, old)?);
            }
        }
        (h, c) = (h_new, c_new);
        ys.push(s.reshape(y, &[Dim::Const(1), Dim::Const(1), state[0].clone(), state[1].clone()])?);
    }
    if back {
        ys.reverse();
    }
    let wide = [Dim::Const(1), state[0].clone(), state[1].clone()];
    let (h, c) = (s.reshape(h, &wide)?, c.map(|c| s.reshape(c, &wide)).transpose()?);
    Ok((s.concat(&ys, 0)?, h, c))
}

/// What one step of one direction needs; r is [G·H, H], bias_r [G·H], peephole [3·H].
struct CellParts {
    kind: Cell,
    r: ValueId,
    bias_r: ValueId,
    peephole: Option<ValueId>,
    hidden: Dim,
    activations: Vec<Unary>,
    linear_before_reset: bool,
}

impl CellParts {
    /// The next h and c [B, H] from the gates' share of x [B, G·H].
    fn step(&self, s: &mut Scope<'_>, gx: ValueId, h: ValueId, c: Option<ValueId>) -> Res<(ValueId, Option<ValueId>)> {
        let act = &self.activations;
        match (self.kind, c) {
            (Cell::Lstm, Some(c)) => {
                let gh = s.linear(h, self.r, Some(self.bias_r))?;
                let gates = s.add(gx, gh)?;
                let mut i = self.gate(s, gates, 0, 1)?;
                let mut f = self.gate(s, gates, 2, 1)?;
                i = self.peep(s, i, c, 0)?;
                f = self.peep(s, f, c, 2)?;
                let (i, f) = (s.unary(act[0], i)?, s.unary(act[0], f)?);
                let fresh = self.gate(s, gates, 3, 1)?;
                let fresh = s.unary(act[1], fresh)?;
                let (kept, added) = (s.mul(f, c)?, s.mul(i, fresh)?);
                let c = s.add(kept, added)?;
                let mut o = self.gate(s, gates, 1, 1)?;
                o = self.peep(s, o, c, 1)?;
                let o = s.unary(act[0], o)?;
                let shown = s.unary(act[2], c)?;
                Ok((s.mul(o, shown)?, Some(c)))
            }
            (Cell::Gru, _) => {
                let (two, one) = (Dim::Const(2) * self.hidden.clone(), self.hidden.clone());
                let r_zr = s.slice(self.r, 0, 0usize, two.clone())?;
                let b_zr = s.slice(self.bias_r, 0, 0usize, two.clone())?;
                let r_h = s.slice(self.r, 0, two.clone(), one.clone())?;
                let b_h = s.slice(self.bias_r, 0, two, one)?;
                let gh = s.linear(h, r_zr, Some(b_zr))?;
                let gx_zr = self.gate(s, gx, 0, 2)?;
                let zr = s.add(gx_zr, gh)?;
                let zr = s.unary(act[0], zr)?;
                let (z, r) = (self.gate(s, zr, 0, 1)?, self.gate(s, zr, 1, 1)?);
                let memory = if self.linear_before_reset {
                    let m = s.linear(h, r_h, Some(b_h))?;
                    s.mul(r, m)?
                } else {
                    let m = s.mul(r, h)?;
                    s.linear(m, r_h, Some(b_h))?
                };
                let gx_h = self.gate(s, gx, 2, 1)?;
                let fresh = s.add(gx_h, memory)?;
                let fresh = s.unary(act[1], fresh)?;
                // (1 − z)·fresh + z·h
                let gap = s.sub(h, fresh)?;
                let moved = s.mul(z, gap)?;
                Ok((s.add(fresh, moved)?, None))
            }
            _ => {
                let gh = s.linear(h, self.r, Some(self.bias_r))?;
                let sum = s.add(gx, gh)?;
                Ok((s.unary(act[0], sum)?, None))
            }
        }
    }

    /// `count` gates from gate `k` on, of [B, G·H].
    fn gate(&self, s: &mut Scope<'_>, gates: ValueId, k: usize, count: usize) -> Res<ValueId> {
        let h = &self.hidden;
        Ok(s.slice(gates, 1, Dim::Const(k) * h.clone(), Dim::Const(count) * h.clone())?)
    }

    /// The gate with the cell's share through peephole `k`.
    fn peep(&self, s: &mut Scope<'_>, gate: ValueId, c: ValueId, k: usize) -> Res<ValueId> {
        let Some(p) = self.peephole else { return Ok(gate) };
        let p = s.slice(p, 0, Dim::Const(k) * self.hidden.clone(), self.hidden.clone())?;
        let seen = s.mul(p, c)?;
        Ok(s.add(gate, seen)?)
    }
}
