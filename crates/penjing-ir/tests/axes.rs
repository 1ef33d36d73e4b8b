//! The axis table against the reference interpreter: slices of ops are ops of slices, and parts combine to the whole.

#![allow(clippy::unwrap_used)]

mod common;

use common::{VARIANTS, cases, number};
use penjing_ir::{
    Fact, Op, Reduction,
    axes::{AxisRow, Operand, Tie, TieRole, axes, slice_op},
    infer,
};
use penjing_reference::eval_op;
use penjing_tensor::{Tensor, strides};
use std::collections::BTreeSet;

/// (name, op, operands, results, row).
type Computed = (String, Op, Vec<Tensor>, Vec<Tensor>, AxisRow);

/// The cases that have operands to compute with.
fn rows() -> Vec<Computed> {
    cases()
        .into_iter()
        .filter(|c| !matches!(c.op, Op::If { .. } | Op::Machine(_) | Op::NonZero { .. }))
        .map(|c| {
            let y = eval(&c.op, &c.inputs);
            let row = axes(&c.op, &facts(&c.inputs), &facts(&y));
            (c.name, c.op, c.inputs, y, row)
        })
        .collect()
}

fn eval(op: &Op, x: &[Tensor]) -> Vec<Tensor> {
    eval_op(op, &x.iter().collect::<Vec<_>>()).unwrap()
}

fn facts(tensors: &[Tensor]) -> Vec<Fact> {
    tensors.iter().map(Fact::of).collect()
}

#[test]
fn every_op_has_a_case() {
    let seen: BTreeSet<usize> = cases().iter().map(|c| number(&c.op)).collect();
    assert_eq!(seen, (0..VARIANTS).collect());
}

#[test]
fn every_index_is_tied_or_has_a_reason() {
    for (name, _, x, y, row) in rows() {
        let operands =
            (0..x.len()).map(|i| (Operand::In(i), &x[i])).chain((0..y.len()).map(|i| (Operand::Out(i), &y[i])));
        for (operand, t) in operands {
            for (axis, &extent) in t.shape().iter().enumerate().filter(|(_, n)| **n > 1) {
                let mut covered = BTreeSet::new();
                for tie in &row.ties {
                    for m in tie.members_of(operand).filter(|m| m.axis == axis) {
                        let indices: Vec<usize> = (0..tie.count).flat_map(|i| m.segment.indices(i)).collect();
                        let distinct: BTreeSet<usize> = indices.iter().copied().collect();
                        assert_eq!(distinct.len(), indices.len(), "{name}: {m:?} covers an index twice");
                        covered.extend(distinct);
                    }
                }
                assert!(covered.iter().all(|&i| i < extent), "{name}: {operand:?} axis {axis} has {extent}");
                let reason = row.untied.iter().any(|u| u.operand == operand && u.axis == axis);
                assert!(covered.len() == extent || reason, "{name}: {operand:?} axis {axis}: {covered:?} of {extent}");
            }
        }
    }
}

/// What is left of an operand or result when only `kept` logical indices of a tie remain.
fn cut(tie: &Tie, kept: &[usize], operand: Operand, t: &Tensor) -> Tensor {
    tie.members_of(operand).fold(t.clone(), |t, m| {
        let lost: BTreeSet<usize> =
            (0..tie.count).filter(|i| !kept.contains(i)).flat_map(|i| m.segment.indices(i)).collect();
        let left: Vec<usize> = (0..t.shape()[m.axis]).filter(|i| !lost.contains(i)).collect();
        take(&t, m.axis, &left)
    })
}

fn take(t: &Tensor, axis: usize, left: &[usize]) -> Tensor {
    let mut shape = t.shape().to_vec();
    shape[axis] = left.len();
    let (from, to) = (strides(t.shape()), strides(&shape));
    let n: usize = shape.iter().product();
    let size = t.dtype().size();
    let mut bytes = Vec::with_capacity(n * size);
    for i in 0..n {
        let source: usize = (0..shape.len())
            .map(|a| {
                let position = i / to[a] % shape[a];
                from[a] * if a == axis { left[position] } else { position }
            })
            .sum();
        bytes.extend_from_slice(&t.bytes()[source * size..][..size]);
    }
    Tensor::from_bytes(t.dtype(), &shape, &bytes).unwrap()
}

fn cut_all(tie: &Tie, kept: &[usize], x: &[Tensor], side: fn(usize) -> Operand) -> Vec<Tensor> {
    x.iter().enumerate().map(|(i, t)| cut(tie, kept, side(i), t)).collect()
}

fn choices(count: usize) -> Vec<Vec<usize>> {
    let even: Vec<usize> = (0..count).step_by(2).collect();
    vec![vec![0], vec![count - 1], even, (1..count).collect()]
}

fn assert_close(what: &str, have: &Tensor, want: &Tensor) {
    assert_eq!((have.dtype(), have.shape()), (want.dtype(), want.shape()), "{what}");
    // Everything is computed in f64; quantized results are exact.
    for (a, b) in have.to_f64s().into_iter().zip(want.to_f64s()) {
        assert!((a - b).abs() <= 1e-9 * (1.0 + b.abs()), "{what}: {a} instead of {b}");
    }
}

#[test]
fn free_ties_slice() {
    let mut sliced = 0;
    for (name, op, x, y, row) in rows() {
        for tie in row.ties.iter().filter(|t| t.role == TieRole::Free) {
            for kept in choices(tie.count) {
                let Some(cut_op) = slice_op(&op, tie, &kept, &facts(&y)) else {
                    assert!(matches!(op, Op::Slice { .. }), "{name}");
                    continue;
                };
                let have = eval(&cut_op, &cut_all(tie, &kept, &x, Operand::In));
                let want = cut_all(tie, &kept, &y, Operand::Out);
                for (h, w) in have.iter().zip(&want) {
                    assert_close(&format!("{name}, {tie:?}, kept {kept:?}"), h, w);
                }
                sliced += 1;
            }
        }
    }
    assert!(sliced > 500, "{sliced}");
}

/// Slices with a gap have no sliced form, so here the promise is read directly: what a logical index covers in the operand
/// changes that index of the result and no other.
#[test]
fn strided_slices_link_the_right_indices() {
    for (name, op, x, y, row) in rows() {
        let Op::Slice { .. } = op else { continue };
        for tie in &row.ties {
            let (from, to) =
                (tie.members_of(Operand::In(0)).next().unwrap(), tie.members_of(Operand::Out(0)).next().unwrap());
            for i in 0..tie.count {
                let mut changed = x[0].clone();
                let stride = strides(x[0].shape());
                let source: Vec<usize> = from.segment.indices(i).collect();
                for e in 0..changed.len() {
                    if source.contains(&(e / stride[from.axis] % x[0].shape()[from.axis])) {
                        changed.as_mut_slice::<f64>().unwrap()[e] += 1.0;
                    }
                }
                let new = eval(&op, &[changed]).remove(0);
                let stride = strides(new.shape());
                let target: Vec<usize> = to.segment.indices(i).collect();
                for (e, (a, b)) in new.to_f64s().iter().zip(y[0].to_f64s()).enumerate() {
                    let hit = target.contains(&(e / stride[to.axis] % new.shape()[to.axis]));
                    assert_eq!(*a != b, hit, "{name}: index {i}, element {e}");
                }
            }
        }
    }
}

#[test]
fn reduced_ties_combine() {
    let mut combined = 0;
    for (name, op, x, y, row) in rows() {
        for tie in &row.ties {
            let TieRole::Reduced(kind) = tie.role else { continue };
            let parts: [Vec<usize>; 2] = [0, 1].map(|p| (p..tie.count).step_by(2).collect());
            let mut results = Vec::new();
            for (p, kept) in parts.iter().enumerate() {
                let mut operands = cut_all(tie, kept, &x, Operand::In);
                for &a in row.addends.iter().filter(|_| p > 0) {
                    operands[a] = Tensor::zeros(operands[a].dtype(), operands[a].shape()).unwrap();
                }
                let cut_op = slice_op(&op, tie, kept, &facts(&y)).unwrap();
                results.push(eval(&cut_op, &operands));
            }
            for (i, whole) in y.iter().enumerate() {
                let what = format!("{name}, {tie:?}, result {i}");
                if tie.members_of(Operand::Out(i)).next().is_some() {
                    for (part, kept) in results.iter().zip(&parts) {
                        assert_close(&what, &part[i], &cut(tie, kept, Operand::Out(i), whole));
                    }
                    continue;
                }
                let weights = parts.each_ref().map(|p| p.len() as f64 / tie.count as f64);
                let (a, b) = (results[0][i].to_f64s(), results[1][i].to_f64s());
                let both = a.iter().zip(&b).map(|(&a, &b)| match kind {
                    Reduction::Sum => a + b,
                    Reduction::Mean => a * weights[0] + b * weights[1],
                    Reduction::Max => a.max(b),
                    Reduction::Min => a.min(b),
                    Reduction::Prod => a * b,
                });
                assert_close(&what, &Tensor::from_vec(whole.shape(), both.collect::<Vec<f64>>()).unwrap(), whole);
                combined += 1;
            }
        }
    }
    assert!(combined > 60, "{combined}");
}

#[test]
fn opaque_ties_keep_extents_together() {
    for (name, op, x, y, row) in rows() {
        for tie in row.ties.iter().filter(|t| matches!(t.role, TieRole::Opaque(_))) {
            for kept in choices(tie.count) {
                let cut_op = slice_op(&op, tie, &kept, &facts(&y)).unwrap();
                let have = infer(&cut_op, &facts(&cut_all(tie, &kept, &x, Operand::In)));
                let want = facts(&cut_all(tie, &kept, &y, Operand::Out));
                assert_eq!(have, Ok(want), "{name}, {tie:?}, kept {kept:?}");
            }
        }
    }
}

fn tie_on(row: &AxisRow, operand: Operand, axis: usize) -> Vec<&Tie> {
    row.ties.iter().filter(|t| t.members_of(operand).any(|m| m.axis == axis)).collect()
}

#[test]
fn a_flatten_keeps_channels_apart() {
    let op = Op::Reshape { shape: common::dims(&[2, 2304]) };
    let facts = [2, 64, 6, 6];
    let x = Fact::new(penjing_tensor::DType::F32, facts);
    let row = axes(&op, &[x], &[Fact::new(penjing_tensor::DType::F32, [2usize, 2304])]);
    let channel = tie_on(&row, Operand::In(0), 1);
    assert_eq!((channel.len(), channel[0].count), (1, 64));
    let flat = channel[0].members_of(Operand::Out(0)).next().unwrap();
    assert_eq!(flat.segment.indices(3).collect::<Vec<_>>(), (108..144).collect::<Vec<_>>());
}

#[test]
fn a_hidden_unit_owns_a_row_of_every_gate() {
    let (_, _, _, _, row) = rows().into_iter().find(|r| r.0 == "lstm").unwrap();
    let units = tie_on(&row, Operand::In(2), 2)[0];
    let w = units.members_of(Operand::In(1)).next().unwrap();
    assert_eq!(w.segment.indices(2).collect::<Vec<_>>(), [2, 7, 12, 17]);
    assert_eq!(units.members_of(Operand::In(2)).count(), 2, "rows and columns of r");
}

#[test]
fn key_heads_take_their_query_heads_along() {
    let (_, _, _, _, row) = rows().into_iter().find(|r| r.0 == "attention").unwrap();
    let heads = tie_on(&row, Operand::In(1), 1)[0];
    let q = heads.members_of(Operand::In(0)).next().unwrap();
    assert_eq!((heads.count, q.segment.indices(1).collect::<Vec<_>>()), (2, vec![3, 4, 5]));
}

#[test]
fn what_does_not_nest_still_shares_its_divisors() {
    let (_, _, _, _, row) = rows().into_iter().find(|r| r.0 == "reshape [8, 9] to [6, 12]").unwrap();
    // 9 and 12 have the common multiple 36 and the common divisor 3: two blocks of 36, and three places within each 3.
    assert_eq!(row.ties.iter().map(|t| t.count).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(row.untied.len(), 2 + 2);
}
