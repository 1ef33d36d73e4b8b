//! Normalisations: the normalised axes are coupled, parameters go with the axes they scale.

use super::{Coupling, Operand, Row, Segment, TieRole, member};

const NORMALIZED: TieRole = TieRole::Opaque(Coupling::Normalized);

/// By given statistics: an affine map for each channel.
pub(super) fn batch_norm(row: &mut Row) {
    channels(row, TieRole::Free);
}

/// By the batch's own statistics.
pub(super) fn batch_statistics(row: &mut Row) {
    channels(row, NORMALIZED);
}

/// Axis 1 of everything with the shape of x goes with the vectors; the other axes have `others`.
fn channels(row: &mut Row, others: TieRole) {
    let x = row.x[0].clone();
    let full: Vec<Operand> = row.operands().into_iter().filter(|&o| row.shape(o).len() > 1).collect();
    for axis in 0..x.len() {
        let mut members: Vec<(Operand, usize)> = full.iter().map(|&o| (o, axis)).collect();
        if axis == 1 {
            members.extend(row.operands().into_iter().filter(|&o| row.shape(o).len() == 1).map(|o| (o, 0)));
            row.whole(TieRole::Free, &members);
        } else {
            row.whole(others, &members);
        }
    }
}

pub(super) fn over_last(row: &mut Row, first: usize) {
    for axis in 0..row.x[0].len() {
        let mut members = vec![(Operand::In(0), axis), (Operand::Out(0), axis)];
        if axis < first {
            row.whole(TieRole::Free, &members);
        } else {
            members.extend((1..row.x.len()).map(|i| (Operand::In(i), axis - first)));
            row.whole(NORMALIZED, &members);
        }
    }
}

/// The gradients of the parameters sum over every row, so no axis stands for itself.
pub(super) fn over_last_grad(row: &mut Row, first: usize) {
    for axis in 0..row.x[0].len() {
        let mut members = vec![(Operand::In(0), axis), (Operand::In(2), axis), (Operand::Out(0), axis)];
        if axis >= first {
            members.extend([Operand::In(1), Operand::Out(1), Operand::Out(2)].map(|o| (o, axis - first)));
        }
        row.whole(NORMALIZED, &members);
    }
}

pub(super) fn group_norm(row: &mut Row, groups: usize) {
    let (x, y) = (Operand::In(0), Operand::Out(0));
    let rank = row.x[0].len();
    row.whole(TieRole::Free, &[(x, 0), (y, 0)]);
    let each = row.x[0][1] / groups;
    let channel = [(x, 1), (Operand::In(1), 0), (Operand::In(2), 0), (y, 1)];
    let of = |segment: Segment| channel.iter().map(|&(o, axis)| member(o, axis, segment)).collect();
    row.tie(TieRole::Free, groups, of(Segment::blocks(each)));
    let within = if groups > 1 { Segment::repeated(groups, each) } else { Segment::PLAIN };
    row.tie(NORMALIZED, each, of(within));
    for axis in 2..rank {
        row.whole(NORMALIZED, &[(x, axis), (y, axis)]);
    }
}
