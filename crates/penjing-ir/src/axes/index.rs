//! Gather, scatter and generated values: an axis that data points into is coupled; the others are free.

use super::{Coupling, Operand, Row, Segment, TieRole, member};
use crate::Reduction;

const DATA: Operand = Operand::In(0);
const INDICES: Operand = Operand::In(1);
const UPDATES: Operand = Operand::In(2);
const Y: Operand = Operand::Out(0);
const INDEXED: TieRole = TieRole::Opaque(Coupling::Indexed);
const POINTED: &str = "indices point into it";

pub(super) fn gather(row: &mut Row, axis: usize) {
    let k = row.x[1].len();
    for a in 0..row.x[0].len() {
        match a.cmp(&axis) {
            std::cmp::Ordering::Less => row.whole(TieRole::Free, &[(DATA, a), (Y, a)]),
            std::cmp::Ordering::Equal => row.untie(DATA, a, POINTED),
            std::cmp::Ordering::Greater => row.whole(TieRole::Free, &[(DATA, a), (Y, a + k - 1)]),
        }
    }
    (0..k).for_each(|a| row.whole(TieRole::Free, &[(INDICES, a), (Y, axis + a)]));
}

/// (indices, d) → rows of d summed at their index.
pub(super) fn gather_grad(row: &mut Row, axis: usize) {
    let (indices, d) = (Operand::In(0), Operand::In(1));
    let k = row.x[0].len();
    for a in 0..row.y[0].len() {
        match a.cmp(&axis) {
            std::cmp::Ordering::Less => row.whole(TieRole::Free, &[(d, a), (Y, a)]),
            std::cmp::Ordering::Equal => row.untie(Y, a, POINTED),
            std::cmp::Ordering::Greater => row.whole(TieRole::Free, &[(d, a + k - 1), (Y, a)]),
        }
    }
    (0..k).for_each(|a| row.whole(TieRole::Reduced(Reduction::Sum), &[(indices, a), (d, axis + a)]));
}

pub(super) fn gather_elements(row: &mut Row, axis: usize) {
    for a in 0..row.y[0].len() {
        let (n, m) = (row.x[0][a], row.y[0][a]);
        if a == axis {
            row.untie(DATA, a, POINTED);
            row.whole(TieRole::Free, &[(INDICES, a), (Y, a)]);
        } else {
            row.whole(TieRole::Free, &[(INDICES, a), (Y, a), (DATA, a)]);
            if m != n {
                row.untie(DATA, a, "beyond the indices");
            }
        }
    }
}

pub(super) fn scatter_elements(row: &mut Row, axis: usize) {
    for a in 0..row.y[0].len() {
        let (n, m) = (row.x[0][a], row.x[1][a]);
        if a == axis {
            row.whole(INDEXED, &[(DATA, a), (Y, a)]);
            row.whole(INDEXED, &[(INDICES, a), (UPDATES, a)]);
            continue;
        }
        row.whole(TieRole::Free, &[(INDICES, a), (UPDATES, a), (DATA, a), (Y, a)]);
        row.tie(TieRole::Free, n - m, vec![member(DATA, a, Segment::at(m)), member(Y, a, Segment::at(m))]);
        if m == 1 || n - m == 1 {
            row.untie(DATA, a, "a single index");
            row.untie(Y, a, "a single index");
        }
    }
}

pub(super) fn gather_nd(row: &mut Row, batch_dims: usize) {
    let tuples = row.x[1].len() - 1;
    let k = row.x[1][tuples];
    for a in 0..row.x[0].len() {
        if a < batch_dims {
            row.whole(TieRole::Free, &[(DATA, a), (INDICES, a), (Y, a)]);
        } else if a < batch_dims + k {
            row.untie(DATA, a, POINTED);
        } else {
            row.whole(TieRole::Free, &[(DATA, a), (Y, tuples + a - batch_dims - k)]);
        }
    }
    (batch_dims..tuples).for_each(|a| row.whole(TieRole::Free, &[(INDICES, a), (Y, a)]));
    row.untie(INDICES, tuples, "the parts of an index");
}

pub(super) fn scatter_nd(row: &mut Row) {
    let tuples = row.x[1].len() - 1;
    let k = row.x[1][tuples];
    for a in 0..row.x[0].len() {
        if a < k {
            row.whole(INDEXED, &[(DATA, a), (Y, a)]);
        } else {
            row.whole(TieRole::Free, &[(DATA, a), (Y, a), (UPDATES, tuples + a - k)]);
        }
    }
    (0..tuples).for_each(|a| row.whole(INDEXED, &[(INDICES, a), (UPDATES, a)]));
    row.untie(INDICES, tuples, "the parts of an index");
}

pub(super) fn one_hot(row: &mut Row, axis: usize) {
    for a in 0..row.y[0].len() {
        match a.cmp(&axis) {
            std::cmp::Ordering::Less => row.whole(TieRole::Free, &[(DATA, a), (Y, a)]),
            std::cmp::Ordering::Equal => row.untie(Y, a, POINTED),
            std::cmp::Ordering::Greater => row.whole(TieRole::Free, &[(DATA, a - 1), (Y, a)]),
        }
    }
}

pub(super) fn iota(row: &mut Row, axis: usize) {
    for a in 0..row.y[0].len() {
        if a == axis {
            row.untie(Y, a, "the values are positions on it");
        } else {
            row.whole(TieRole::Free, &[(Y, a)]);
        }
    }
}
