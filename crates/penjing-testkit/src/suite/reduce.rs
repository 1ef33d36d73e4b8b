//! Cases of reductions, searches, running sums and the collective.

use super::{Case, one};
use crate::{Tolerance, floats, integers, normal, uniform};
use penjing_ir::{ArgKind, Dim, Op, Reduction};
use penjing_tensor::DType;

pub(super) fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    let kinds = [Reduction::Sum, Reduction::Mean, Reduction::Max, Reduction::Min, Reduction::Prod];
    let variants: [(&str, &[usize], &[usize], bool); 7] = [
        ("last", &[3, 5, 7], &[2], true),
        ("first", &[3, 5, 7], &[0], false),
        ("middle", &[3, 5, 7], &[1], false),
        ("ends", &[2, 3, 5], &[0, 2], true),
        ("all", &[4, 3], &[0, 1], false),
        ("none", &[4, 3], &[], true),
        ("ones", &[1, 1], &[0, 1], false),
    ];
    for kind in kinds {
        for (variant, shape, axes, keep) in variants {
            let op = Op::Reduce { kind, axes: axes.to_vec(), keep };
            let x = uniform(shape, 0.5, 1.5, "x");
            out.push(one(&format!("reduce/{}/{variant}", kind.name()), op, &[x], Tolerance::Accumulating(64)));
        }
        let over = |axes: &[usize]| Op::Reduce { kind, axes: axes.to_vec(), keep: false };
        let x = integers(DType::I32, &[3, 4], -5, 5, "x");
        out.push(one(&format!("reduce/{}/i32", kind.name()), over(&[1]), &[x], Tolerance::Exact));
        if kind != Reduction::Mean {
            let empty = normal(&[2, 0], "x");
            out.push(one(&format!("reduce/{}/of nothing", kind.name()), over(&[1]), &[empty], Tolerance::Exact));
        }
        let none = normal(&[0, 3], "x");
        out.push(one(&format!("reduce/{}/no rows", kind.name()), over(&[1]), &[none], Tolerance::Exact));
    }
    let long = Op::Reduce { kind: Reduction::Sum, axes: vec![0], keep: false };
    out.push(one("reduce/ReduceSum/long", long, &[uniform(&[10_007], 0.0, 1.0, "x")], Tolerance::Accumulating(128)));
    out.extend(searches());
    let two = [normal(&[3, 2], "a"), normal(&[5], "b")];
    out.push(one("collective/AllReduce/bucket", Op::AllReduce, &two, Tolerance::Exact));
    out.push(one("collective/AllReduce/scalar", Op::AllReduce, &[normal(&[], "a")], Tolerance::Exact));
    out
}

fn searches() -> Vec<Case> {
    let mut out = Vec::new();
    let ties = floats(&[2, 5], &[1.0, 3.0, 3.0, 0.0, 0.0, -1.0, -1.0, -2.0, -1.0, -2.0]);
    for (kind, name) in [(ArgKind::Max, "ArgMax"), (ArgKind::Min, "ArgMin")] {
        for (variant, axis, keep, last) in
            [("first", 1, false, false), ("last", 1, false, true), ("axis 0", 0, true, false)]
        {
            let op = Op::ArgReduce { kind, axis, keep, last };
            out.push(one(&format!("reduce/{name}/{variant}"), op, std::slice::from_ref(&ties), Tolerance::Exact));
        }
        let op = Op::ArgReduce { kind, axis: 1, keep: false, last: false };
        out.push(one(&format!("reduce/{name}/prime"), op, &[normal(&[3, 17, 2], "x")], Tolerance::Exact));
    }
    for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
        let op = Op::CumSum { axis: 1, exclusive, reverse };
        let name = format!("reduce/CumSum/exclusive {exclusive}, reverse {reverse}");
        out.push(one(&name, op, &[normal(&[2, 7, 3], "x")], Tolerance::Accumulating(16)));
    }
    let sum = Op::CumSum { axis: 0, exclusive: false, reverse: false };
    out.push(one("reduce/CumSum/i64", sum.clone(), &[integers(DType::I64, &[5], -9, 9, "x")], Tolerance::Exact));
    out.push(one("reduce/CumSum/empty", sum, &[normal(&[0, 2], "x")], Tolerance::Exact));
    for (variant, axis, k, largest) in
        [("largest", 1, 3, true), ("smallest", 1, 2, false), ("axis 0", 0, 2, true), ("none", 1, 0, true)]
    {
        let op = Op::TopK { axis, k: Dim::Const(k), largest };
        out.push(one(&format!("reduce/TopK/{variant}"), op, std::slice::from_ref(&ties), Tolerance::Exact));
    }
    let op = Op::TopK { axis: 0, k: Dim::Const(11), largest: true };
    out.push(one("reduce/TopK/i64 sorts all", op, &[integers(DType::I64, &[11], 0, 9, "x")], Tolerance::Exact));
    out
}
