//! Quantization: elementwise, with the scale of an axis on that axis.

use super::{Operand, Row, TieRole};
use crate::QuantScheme;

pub(super) fn quantize(row: &mut Row, scheme: &QuantScheme) {
    for axis in 0..row.x[0].len() {
        let mut members = vec![(Operand::In(0), axis), (Operand::Out(0), axis)];
        if scheme.axis == Some(axis) {
            members.extend([(Operand::In(1), 0), (Operand::In(2), 0)]);
        }
        row.whole(TieRole::Free, &members);
    }
}
