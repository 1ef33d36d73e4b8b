//! Cases of ops that move elements.

use super::{Case, one};
use crate::{Tolerance, bools, integers, normal};
use penjing_ir::{Dim, Op, PadMode, Real, SliceRange};
use penjing_tensor::{DType, Tensor};

fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|&n| Dim::Const(n)).collect()
}

fn range(start: usize, len: usize, step: i64) -> SliceRange {
    SliceRange { start: start.into(), len: len.into(), step }
}

pub(super) fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    let mut add = |name: &str, op: Op, operands: &[Tensor]| {
        out.push(one(&format!("movement/{name}"), op, operands, Tolerance::Exact));
    };
    let x = || normal(&[2, 3, 5], "x");
    for perm in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]] {
        add(&format!("Permute/{perm:?}"), Op::Permute { perm: perm.to_vec() }, &[x()]);
    }
    let heads = Op::Permute { perm: vec![0, 2, 1, 3] };
    add("Permute/heads", heads, &[normal(&[2, 7, 3, 5], "x")]);
    add("Permute/empty", Op::Permute { perm: vec![1, 0] }, &[normal(&[0, 3], "x")]);
    add("Permute/scalar", Op::Permute { perm: vec![] }, &[integers(DType::I64, &[], 0, 9, "x")]);
    add("Reshape/flatten", Op::Reshape { shape: dims(&[2, 15]) }, &[x()]);
    add("Reshape/unsqueeze", Op::Reshape { shape: dims(&[2, 1, 3, 5, 1]) }, &[x()]);
    add("Reshape/empty", Op::Reshape { shape: dims(&[3, 0]) }, &[normal(&[0, 7], "x")]);
    add("Reshape/to scalar", Op::Reshape { shape: vec![] }, &[bools(&[1, 1], "x")]);
    add("Expand/scalar", Op::Expand { shape: dims(&[3, 2]) }, &[normal(&[], "x")]);
    add("Expand/middle", Op::Expand { shape: dims(&[4, 2, 7, 3]) }, &[normal(&[2, 1, 3], "x")]);
    add("Expand/to nothing", Op::Expand { shape: dims(&[0, 3]) }, &[normal(&[1, 3], "x")]);
    let slice = |ranges: [SliceRange; 3]| Op::Slice { ranges: ranges.to_vec() };
    add("Slice/inside", slice([range(0, 2, 1), range(1, 2, 1), range(1, 3, 1)]), &[x()]);
    add("Slice/steps", slice([range(0, 2, 1), range(0, 2, 2), range(0, 3, 2)]), &[x()]);
    add("Slice/backwards", slice([range(1, 2, -1), range(2, 1, -1), range(4, 3, -2)]), &[x()]);
    add("Slice/nothing", slice([range(0, 2, 1), range(0, 0, 1), range(0, 5, 1)]), &[x()]);
    add("Slice/u8", Op::Slice { ranges: vec![range(3, 7, 1)] }, &[integers(DType::U8, &[11], 0, 255, "x")]);
    for axis in 0..3 {
        let mut shape = [2, 3, 5];
        shape[axis] = 4;
        add(&format!("Concat/axis {axis}"), Op::Concat { axis }, &[x(), normal(&shape, "b"), x()]);
    }
    add("Concat/with empty", Op::Concat { axis: 0 }, &[normal(&[0, 3], "a"), normal(&[2, 3], "b")]);
    add("Concat/one", Op::Concat { axis: 0 }, &[integers(DType::I64, &[3], 0, 9, "a")]);
    let modes = [
        ("constant", PadMode::Constant(Real(-1.5))),
        ("reflect", PadMode::Reflect),
        ("edge", PadMode::Edge),
        ("wrap", PadMode::Wrap),
    ];
    for (name, mode) in modes {
        let pad = |before: &[usize], after: &[usize]| Op::Pad { before: before.to_vec(), after: after.to_vec(), mode };
        add(&format!("Pad/{name}"), pad(&[0, 1, 2], &[0, 2, 3]), &[x()]);
        add(&format!("Pad/{name} one side"), pad(&[2], &[0]), &[normal(&[7], "x")]);
        add(&format!("Pad/{name} i64"), pad(&[1, 0], &[0, 1]), &[integers(DType::I64, &[2, 2], 0, 9, "x")]);
    }
    let zeros = Op::Pad { before: vec![1], after: vec![1], mode: PadMode::Constant(Real(0.0)) };
    add("Pad/nothing", zeros, &[normal(&[0], "x")]);
    out
}
