//! Cases of gather, scatter and generated values.

use super::{Case, one};
use crate::{Tolerance, bools, floats, integers, normal};
use penjing_ir::{Dim, Op, RandomKind, ScatterReduction, Symbol};
use penjing_tensor::{DType, Tensor};

fn ids(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::from_vec(shape, values.to_vec()).expect("as many indices as the shape has")
}

fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|&n| Dim::Const(n)).collect()
}

pub(super) fn cases() -> Vec<Case> {
    [gathers(), scatters(), generated()].concat()
}

fn gathers() -> Vec<Case> {
    let mut out = Vec::new();
    let mut add = |name: &str, op: Op, operands: &[Tensor]| {
        out.push(one(&format!("index/{name}"), op, operands, Tolerance::Accumulating(8)));
    };
    let table = normal(&[7, 3], "table");
    add("Gather/embedding", Op::Gather { axis: 0 }, &[table.clone(), integers(DType::I64, &[2, 5], 0, 6, "i")]);
    add("Gather/negative", Op::Gather { axis: 0 }, &[table.clone(), ids(&[3], &[-1, 0, -7])]);
    add("Gather/scalar index", Op::Gather { axis: 1 }, &[table.clone(), ids(&[], &[2])]);
    add("Gather/middle", Op::Gather { axis: 1 }, &[normal(&[2, 5, 3], "x"), ids(&[2, 2], &[0, 4, -2, 1])]);
    add("Gather/none", Op::Gather { axis: 0 }, &[table.clone(), ids(&[0], &[])]);
    let grad = |axis, size| Op::GatherGrad { axis, size: Dim::Const(size) };
    add("GatherGrad/repeats", grad(0, 7), &[ids(&[5], &[1, 1, -1, 1, 3]), normal(&[5, 3], "d")]);
    add("GatherGrad/middle", grad(1, 4), &[ids(&[2], &[0, 3]), normal(&[3, 2, 2], "d")]);
    add("GatherGrad/none", grad(0, 3), &[ids(&[0], &[]), normal(&[0, 2], "d")]);
    add(
        "GatherElements/rows",
        Op::GatherElements { axis: 0 },
        &[table.clone(), integers(DType::I64, &[2, 3], -7, 6, "i")],
    );
    add(
        "GatherElements/columns",
        Op::GatherElements { axis: 1 },
        &[table.clone(), integers(DType::I64, &[7, 1], 0, 2, "i")],
    );
    add("GatherNd/elements", Op::GatherNd { batch_dims: 0 }, &[table.clone(), ids(&[3, 2], &[0, 0, 6, 2, -1, 1])]);
    add("GatherNd/rows", Op::GatherNd { batch_dims: 0 }, &[table, ids(&[2, 1], &[5, -7])]);
    add("GatherNd/batched", Op::GatherNd { batch_dims: 1 }, &[normal(&[2, 3, 5], "x"), ids(&[2, 1], &[2, 0])]);
    out
}

fn scatters() -> Vec<Case> {
    let mut out = Vec::new();
    let all = [
        ("none", ScatterReduction::None),
        ("add", ScatterReduction::Add),
        ("mul", ScatterReduction::Mul),
        ("max", ScatterReduction::Max),
        ("min", ScatterReduction::Min),
    ];
    for (name, reduction) in all {
        let rows = [normal(&[5, 3], "x"), ids(&[2, 3], &[0, 4, -1, 0, 4, 2]), normal(&[2, 3], "u")];
        let op = Op::ScatterElements { axis: 0, reduction };
        out.push(one(&format!("index/ScatterElements/{name}"), op, &rows, Tolerance::Accumulating(4)));
        let blocks = [normal(&[4, 3], "x"), ids(&[3, 1], &[1, -1, 1]), normal(&[3, 3], "u")];
        let op = Op::ScatterNd { reduction };
        out.push(one(&format!("index/ScatterNd/{name}"), op, &blocks, Tolerance::Accumulating(4)));
    }
    let columns = [integers(DType::I64, &[2, 5], 0, 9, "x"), ids(&[2, 1], &[3, -5]), ids(&[2, 1], &[70, 80])];
    let op = Op::ScatterElements { axis: 1, reduction: ScatterReduction::None };
    out.push(one("index/ScatterElements/i64 columns", op, &columns, Tolerance::Exact));
    out
}

fn generated() -> Vec<Case> {
    let mut out = Vec::new();
    let mut add = |name: &str, op: Op, operands: &[Tensor]| {
        out.push(one(&format!("index/{name}"), op, operands, Tolerance::Exact));
    };
    let hot = |axis, depth, dtype| Op::OneHot { axis, depth: Dim::Const(depth), dtype };
    add("OneHot/last", hot(1, 5, DType::F32), &[ids(&[4], &[0, 4, -1, 9])]);
    add("OneHot/first", hot(0, 3, DType::F32), &[ids(&[2, 2], &[0, 1, 2, -4])]);
    add("OneHot/i64", hot(1, 2, DType::I64), &[ids(&[2, 3], &[0, 1, 1, 0, 0, 1])]);
    let iota = |shape: &[usize], axis, dtype| Op::Iota { shape: dims(shape), axis, dtype };
    add("Iota/line", iota(&[7], 0, DType::I64), &[]);
    add("Iota/columns", iota(&[2, 5], 1, DType::F32), &[]);
    add("Iota/rows", iota(&[3, 2], 0, DType::I32), &[]);
    add("Iota/scalar", iota(&[], 0, DType::I64), &[]);
    add("DimValues/three", Op::DimValues { dims: dims(&[2, 0, 7]) }, &[]);
    add("DimValues/none", Op::DimValues { dims: vec![] }, &[]);
    let non_zero = || Op::NonZero { count: Symbol::late("count") };
    add("NonZero/matrix", non_zero(), &[floats(&[2, 3], &[0.0, 1.0, 0.0, -2.0, 0.0, f32::NAN])]);
    add("NonZero/bool", non_zero(), &[bools(&[3, 5], "x")]);
    add("NonZero/nothing", non_zero(), &[floats(&[3], &[0.0; 3])]);
    for (name, kind) in [("uniform", RandomKind::Uniform), ("normal", RandomKind::Normal)] {
        let op = Op::Random { kind, shape: dims(&[3, 5]), seed: 7, stream: "dropout".into() };
        add(&format!("Random/{name}"), op, &[ids(&[], &[3])]);
    }
    out
}
