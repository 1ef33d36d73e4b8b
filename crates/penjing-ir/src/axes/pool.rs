//! Pooling: batch and channels are free, and so are positions whose windows do not overlap.

use super::{Operand, Row, Segment, TieRole, conv::Windows, member};
use crate::PoolSpec;

pub(super) fn pool(row: &mut Row, spec: &PoolSpec) {
    positions(row, spec, &[Operand::In(0)], &[Operand::Out(0)]);
}

pub(super) fn pool_grad(row: &mut Row, spec: &PoolSpec) {
    positions(row, spec, &[Operand::In(0), Operand::Out(0)], &[Operand::In(1)]);
}

/// `large` have the extents before pooling, `small` those after it.
fn positions(row: &mut Row, spec: &PoolSpec, large: &[Operand], small: &[Operand]) {
    let all = || large.iter().chain(small).copied();
    for axis in 0..2 {
        let members: Vec<(Operand, usize)> = all().map(|o| (o, axis)).collect();
        row.whole(TieRole::Free, &members);
    }
    for i in 0..spec.kernel.len() {
        let axis = i + 2;
        let (before, after) = (row.shape(large[0])[axis], row.shape(small[0])[axis]);
        let windows = Windows::new(before, spec.kernel[i], after, spec.strides[i], spec.dilations[i], spec.pads[i]);
        let block = match windows {
            Windows::Overlap => {
                all().for_each(|o| row.untie(o, axis, "windows overlap or reach into padding"));
                continue;
            }
            Windows::Apart { block } | Windows::Tile { kernel: block } => block,
        };
        let mut members: Vec<_> = large.iter().map(|&o| member(o, axis, Segment::blocks(block))).collect();
        members.extend(small.iter().map(|&o| member(o, axis, Segment::PLAIN)));
        row.tie(TieRole::Free, after, members);
        if after * block != before || after == 1 {
            large.iter().for_each(|&o| row.untie(o, axis, "one window, or outside every window"));
        }
    }
}
