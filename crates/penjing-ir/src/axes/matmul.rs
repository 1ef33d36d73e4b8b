//! Matrix products.

use super::{Operand, Row, TieRole};
use crate::Reduction;

pub(super) fn matmul(row: &mut Row, trans_a: bool, trans_b: bool) {
    let (ra, rb, ry) = (row.x[0].len(), row.x[1].len(), row.y[0].len());
    for axis in 0..ry - 2 {
        let mut members = vec![(Operand::Out(0), axis)];
        for (i, rank) in [(0, ra), (1, rb)] {
            let missing = ry - rank;
            if axis >= missing && row.x[i][axis - missing] > 1 {
                members.push((Operand::In(i), axis - missing));
            }
        }
        row.whole(TieRole::Free, &members);
    }
    let (m, ka) = if trans_a { (ra - 1, ra - 2) } else { (ra - 2, ra - 1) };
    let (kb, n) = if trans_b { (rb - 1, rb - 2) } else { (rb - 2, rb - 1) };
    row.whole(TieRole::Free, &[(Operand::In(0), m), (Operand::Out(0), ry - 2)]);
    row.whole(TieRole::Free, &[(Operand::In(1), n), (Operand::Out(0), ry - 1)]);
    row.whole(TieRole::Reduced(Reduction::Sum), &[(Operand::In(0), ka), (Operand::In(1), kb)]);
}
