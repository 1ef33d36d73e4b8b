//! Elementwise ops and broadcasting: axes are aligned at the last one, and an operand of extent 1 takes no part.

use super::{Operand, Row, TieRole};

pub(super) fn broadcast(row: &mut Row) {
    let rank = row.y[0].len();
    for axis in 0..rank {
        let mut members = vec![(Operand::Out(0), axis)];
        for i in 0..row.x.len() {
            let missing = rank - row.x[i].len();
            if axis >= missing && row.x[i][axis - missing] > 1 {
                members.push((Operand::In(i), axis - missing));
            }
        }
        row.whole(TieRole::Free, &members);
    }
}
