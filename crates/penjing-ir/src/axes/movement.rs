//! Movements: the links are index ranges, because concatenations and reshapes cut and join axes.

use super::{Coupling, Member, Operand, Row, Segment, TieRole, member};
use crate::{PadMode, SliceRange};

const X: Operand = Operand::In(0);
const Y: Operand = Operand::Out(0);

pub(super) fn permute(row: &mut Row, perm: &[usize]) {
    for (axis, &from) in perm.iter().enumerate() {
        row.whole(TieRole::Free, &[(X, from), (Y, axis)]);
    }
}

/// Elements are numbered in row-major order; an axis of extent n and stride s is the digit from s to n·s of that number. Cutting the
/// number at every axis boundary of both shapes gives digits that belong to one axis of each: the ties. Where a boundary of one
/// shape does not divide one of the other, the digits between their common divisor and multiple stay untied.
pub(super) fn reshape(row: &mut Row) {
    let (from, to) = (strides(&row.x[0]), strides(&row.y[0]));
    let total: usize = row.x[0].iter().product();
    let mut cuts: Vec<usize> = from.iter().chain(&to).copied().chain([1, total]).collect();
    // Replacing two that do not divide each other by their common divisor and multiple sorts the set by divisibility.
    while let Some((i, j)) = incomparable(&cuts) {
        let (a, b) = (cuts[i], cuts[j]);
        let g = gcd(a, b);
        (cuts[i], cuts[j]) = (g, a / g * b);
    }
    cuts.sort_unstable();
    cuts.dedup();
    let mut covered = [vec![1usize; row.x[0].len()], vec![1usize; row.y[0].len()]];
    for pair in cuts.windows(2).rev() {
        let (low, high) = (pair[0], pair[1]);
        let mut members = Vec::new();
        for (side, (operand, strides)) in [(X, &from), (Y, &to)].into_iter().enumerate() {
            for (axis, &s) in strides.iter().enumerate() {
                let n = row.shape(operand)[axis];
                if n > 1 && s <= low && high <= s * n && low.is_multiple_of(s) && (s * n).is_multiple_of(high) {
                    covered[side][axis] *= high / low;
                    members.push(member(operand, axis, digit(low / s, high / s, s * n / high)));
                }
            }
        }
        row.tie(TieRole::Free, high / low, members);
    }
    for (side, operand) in [X, Y].into_iter().enumerate() {
        for axis in 0..covered[side].len() {
            if covered[side][axis] != row.shape(operand)[axis] {
                row.untie(operand, axis, "the two shapes cut the elements at places that do not nest");
            }
        }
    }
}

fn digit(run: usize, period: usize, repeat: usize) -> Segment {
    Segment { start: 0, step: run as isize, run, repeat, period: if repeat > 1 { period } else { 0 } }
}

fn incomparable(cuts: &[usize]) -> Option<(usize, usize)> {
    let pairs = (0..cuts.len()).flat_map(|i| (0..i).map(move |j| (j, i)));
    pairs.into_iter().find(|&(i, j)| {
        let (a, b) = (cuts[i].min(cuts[j]), cuts[i].max(cuts[j]));
        b % a != 0
    })
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn strides(shape: &[usize]) -> Vec<usize> {
    penjing_tensor::strides(shape)
}

pub(super) fn slice(row: &mut Row, ranges: &[SliceRange]) {
    for (axis, range) in ranges.iter().enumerate() {
        let (Some(start), len) = (range.start.as_const(), row.y[0][axis]) else { continue };
        let Ok(step) = isize::try_from(range.step) else { continue };
        let taken = Segment { start, step: if len > 1 { step } else { 1 }, ..Segment::PLAIN };
        row.tie(TieRole::Free, len, vec![member(X, axis, taken), member(Y, axis, Segment::PLAIN)]);
        if len != row.x[0][axis] {
            row.untie(X, axis, "left out by the slice");
        }
    }
}

pub(super) fn concat(row: &mut Row, joined: usize) {
    for axis in 0..row.y[0].len() {
        if axis != joined {
            let mut members: Vec<(Operand, usize)> = (0..row.x.len()).map(|i| (Operand::In(i), axis)).collect();
            members.push((Y, axis));
            row.whole(TieRole::Free, &members);
            continue;
        }
        let mut start = 0;
        for i in 0..row.x.len() {
            let n = row.x[i][axis];
            let members = vec![member(Operand::In(i), axis, Segment::PLAIN), member(Y, axis, Segment::at(start))];
            row.tie(TieRole::Free, n, members);
            if n == 1 {
                row.untie(Y, axis, "a single index of its own operand");
            }
            start += n;
        }
    }
}

pub(super) fn pad(row: &mut Row, before: &[usize], after: &[usize], mode: PadMode) {
    for axis in 0..row.y[0].len() {
        let padded = before[axis] + after[axis] > 0;
        let role = match mode {
            PadMode::Reflect | PadMode::Edge | PadMode::Wrap if padded => TieRole::Opaque(Coupling::Mirrored),
            PadMode::Constant(_) | PadMode::Reflect | PadMode::Edge | PadMode::Wrap => TieRole::Free,
        };
        let members: Vec<Member> = vec![member(X, axis, Segment::PLAIN), member(Y, axis, Segment::at(before[axis]))];
        row.tie(role, row.x[0][axis], members);
        if padded || row.x[0][axis] == 1 {
            row.untie(Y, axis, "padding");
        }
    }
}
