//! Reductions and selections along an axis.

use super::{Operand, Row, TieRole};
use crate::Reduction;

pub(super) fn reduce(row: &mut Row, kind: Reduction, axes: &[usize], keep: bool) {
    for axis in 0..row.x[0].len() {
        if axes.contains(&axis) {
            row.whole(TieRole::Reduced(kind), &[(Operand::In(0), axis)]);
        } else {
            let dropped = if keep { 0 } else { axes.iter().filter(|&&a| a < axis).count() };
            row.whole(TieRole::Free, &[(Operand::In(0), axis), (Operand::Out(0), axis - dropped)]);
        }
    }
}

pub(super) fn arg_reduce(row: &mut Row, searched: usize, keep: bool) {
    for axis in 0..row.x[0].len() {
        if axis == searched {
            row.untie(Operand::In(0), axis, "the result is a position on it");
        } else {
            let dropped = usize::from(!keep && searched < axis);
            row.whole(TieRole::Free, &[(Operand::In(0), axis), (Operand::Out(0), axis - dropped)]);
        }
    }
}

pub(super) fn top_k(row: &mut Row, searched: usize) {
    let both = [Operand::Out(0), Operand::Out(1)];
    for axis in 0..row.x[0].len() {
        if axis == searched {
            row.untie(Operand::In(0), axis, "the result is a choice from it");
            both.iter().for_each(|&o| row.untie(o, axis, "sorted by value"));
        } else {
            row.whole(TieRole::Free, &[(Operand::In(0), axis), (both[0], axis), (both[1], axis)]);
        }
    }
}
