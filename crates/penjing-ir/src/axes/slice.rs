//! The op that stands in an op's place when a tie's indices are cut.

use super::{Operand, Tie};
use crate::{ConvSpec, Dim, Direction, Fact, Op};

/// `op` for operands of which only the logical indices `kept` (sorted) of `tie` are left: attributes that name extents, groups,
/// strides or directions are adapted. `outputs` are the results' facts before.
///
/// `None` where no form of the op does that (a slice with a gap, whose rest is no longer evenly spaced).
pub fn slice_op(op: &Op, tie: &Tie, kept: &[usize], outputs: &[Fact]) -> Option<Op> {
    let mut op = op.clone();
    match &mut op {
        Op::Reshape { shape } | Op::Expand { shape } | Op::Iota { shape, .. } => {
            *shape = cut_shape(tie, kept.len(), Operand::Out(0), outputs.first()?)?;
        }
        Op::Slice { ranges } => {
            for m in tie.members_of(Operand::In(0)) {
                let range = ranges.get_mut(m.axis)?;
                let lost = tie.count - kept.len();
                range.len = Dim::Const(range.len.as_const()? - lost);
                match range.step {
                    1 => {}
                    -1 => range.start = Dim::Const(range.start.as_const()? - lost),
                    _ => return None,
                }
            }
        }
        Op::Conv(spec) => {
            cut_groups(spec, tie, kept);
            cut_kernel(spec, tie, kept, Operand::In(1));
        }
        Op::ConvTranspose { spec, .. } => {
            cut_groups(spec, tie, kept);
            cut_kernel(spec, tie, kept, Operand::In(1));
        }
        Op::ConvWeightGrad { spec, kernel } => {
            cut_groups(spec, tie, kept);
            cut_kernel(spec, tie, kept, Operand::Out(0));
            for m in tie.members_of(Operand::Out(0)).filter(|m| m.axis >= 2) {
                *kernel.get_mut(m.axis - 2)? = kept.len();
            }
        }
        Op::GroupNorm { groups, .. } => {
            let is_group = |t: &Tie| t.members_of(Operand::In(0)).any(|m| m.axis == 1 && m.segment.repeat == 1);
            if *groups > 1 && tie.count == *groups && is_group(tie) {
                *groups = kept.len();
            }
        }
        Op::Lstm { direction, .. } | Op::LstmGrad { direction } | Op::Gru { direction, .. } => {
            let is_direction = tie.members_of(Operand::In(1)).any(|m| m.axis == 0);
            if *direction == Direction::Bidirectional && is_direction {
                *direction = match kept {
                    [0] => Direction::Forward,
                    [1] => Direction::Reverse,
                    _ => Direction::Bidirectional,
                };
            }
        }
        _ => {}
    }
    Some(op)
}

/// The shape of an operand or result after cutting.
fn cut_shape(tie: &Tie, kept: usize, operand: Operand, fact: &Fact) -> Option<Vec<Dim>> {
    let mut shape = fact.concrete()?;
    for m in tie.members_of(operand) {
        *shape.get_mut(m.axis)? -= (tie.count - kept) * m.segment.width();
    }
    Some(shape.into_iter().map(Dim::Const).collect())
}

/// A tie whose channels come in one block for each index is that of the groups.
fn cut_groups(spec: &mut ConvSpec, tie: &Tie, kept: &[usize]) {
    let is_group = tie.members_of(Operand::In(0)).any(|m| m.axis == 1 && m.segment.repeat == 1);
    if spec.groups > 1 && tie.count == spec.groups && is_group {
        spec.groups = kept.len();
    }
}

/// The kernel is tied only where it tiles the axis, so that stride and kernel stay equal.
fn cut_kernel(spec: &mut ConvSpec, tie: &Tie, kept: &[usize], weight: Operand) {
    for m in tie.members_of(weight).filter(|m| m.axis >= 2) {
        if let Some(stride) = spec.strides.get_mut(m.axis - 2) {
            *stride = kept.len();
        }
    }
}
