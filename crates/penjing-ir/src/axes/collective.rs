//! Collectives: each operand of a bucket goes with its own result.

use super::{Operand, Row, TieRole};

pub(super) fn all_reduce(row: &mut Row) {
    for i in 0..row.x.len() {
        for axis in 0..row.x[i].len() {
            row.whole(TieRole::Free, &[(Operand::In(i), axis), (Operand::Out(i), axis)]);
        }
    }
}
