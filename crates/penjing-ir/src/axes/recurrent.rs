//! Recurrent cells. A hidden unit owns a row in each gate of w, r and b, and a column of r.

use super::{Coupling, Member, Operand, Row, Segment, TieRole, member};
use crate::Reduction;

const ORDERED: TieRole = TieRole::Opaque(Coupling::Ordered);
const INNER: TieRole = TieRole::Opaque(Coupling::Inner);

/// Where an operand has which extent.
struct Layout {
    operand: Operand,
    time: Option<usize>,
    direction: Option<usize>,
    batch: Option<usize>,
    input: Option<usize>,
    /// Axis and number of blocks of H.
    hidden: Vec<(usize, usize)>,
}

/// (x, w, r, b, h0, c0) → (y, h, c[, reserve]).
pub(super) fn lstm(row: &mut Row) {
    use Operand::{In, Out};
    let mut all = vec![x(In(0)), w(In(1), 4), r(In(2), 4), b(In(3), 8), state(In(4)), state(In(5))];
    all.extend([sequence(Out(0), 1), state(Out(1)), state(Out(2))]);
    if row.y.len() > 3 {
        all.push(sequence(Out(3), 5));
    }
    tie(row, &all, [TieRole::Free, TieRole::Free, INNER]);
}

/// (x, w, r, b, h0) → (y, h).
pub(super) fn gru(row: &mut Row) {
    use Operand::{In, Out};
    let operands = [x(In(0)), w(In(1), 3), r(In(2), 3), b(In(3), 6), state(In(4))];
    let all: Vec<Layout> = operands.into_iter().chain([sequence(Out(0), 1), state(Out(1))]).collect();
    tie(row, &all, [TieRole::Free, TieRole::Free, INNER]);
}

/// (x, w, r, h0, c0, y, reserve, dy, dh, dc) → (dx, dw, dr, db, dh0, dc0). The gradients of weights sum over the batch, that of
/// x over the directions; the gates are given, so that the input width is free.
pub(super) fn lstm_grad(row: &mut Row) {
    use Operand::{In, Out};
    let sum = TieRole::Reduced(Reduction::Sum);
    let all = [
        x(In(0)),
        w(In(1), 4),
        r(In(2), 4),
        state(In(3)),
        state(In(4)),
        sequence(In(5), 1),
        sequence(In(6), 5),
        sequence(In(7), 1),
        state(In(8)),
        state(In(9)),
        x(Out(0)),
        w(Out(1), 4),
        r(Out(2), 4),
        b(Out(3), 8),
        state(Out(4)),
        state(Out(5)),
    ];
    tie(row, &all, [sum, sum, TieRole::Free]);
}

fn tie(row: &mut Row, all: &[Layout], [direction, batch, input]: [TieRole; 3]) {
    let axes = |pick: fn(&Layout) -> Option<usize>| -> Vec<(Operand, usize)> {
        all.iter().filter_map(|l| Some((l.operand, pick(l)?))).collect()
    };
    row.whole(ORDERED, &axes(|l| l.time));
    row.whole(direction, &axes(|l| l.direction));
    row.whole(batch, &axes(|l| l.batch));
    row.whole(input, &axes(|l| l.input));
    let h = row.x[2][2];
    let gates = |blocks: usize| if blocks > 1 { Segment::repeated(blocks, h) } else { Segment::PLAIN };
    let units: Vec<Member> = all
        .iter()
        .flat_map(|l| l.hidden.iter().map(|&(axis, blocks)| member(l.operand, axis, gates(blocks))))
        .collect();
    row.tie(INNER, h, units);
    if h == 1 {
        for l in all {
            l.hidden.iter().for_each(|&(axis, _)| row.untie(l.operand, axis, "the gates of a single unit"));
        }
    }
}

fn x(operand: Operand) -> Layout {
    Layout { operand, time: Some(0), direction: None, batch: Some(1), input: Some(2), hidden: vec![] }
}

fn w(operand: Operand, gates: usize) -> Layout {
    Layout { operand, time: None, direction: Some(0), batch: None, input: Some(2), hidden: vec![(1, gates)] }
}

fn r(operand: Operand, gates: usize) -> Layout {
    Layout { operand, time: None, direction: Some(0), batch: None, input: None, hidden: vec![(1, gates), (2, 1)] }
}

fn b(operand: Operand, biases: usize) -> Layout {
    Layout { operand, time: None, direction: Some(0), batch: None, input: None, hidden: vec![(1, biases)] }
}

fn state(operand: Operand) -> Layout {
    Layout { operand, time: None, direction: Some(0), batch: Some(1), input: None, hidden: vec![(2, 1)] }
}

fn sequence(operand: Operand, blocks: usize) -> Layout {
    Layout { operand, time: Some(0), direction: Some(1), batch: Some(2), input: None, hidden: vec![(3, blocks)] }
}
