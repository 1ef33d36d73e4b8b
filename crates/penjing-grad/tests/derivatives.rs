//! Every op's derivative against central differences in f64.

#![allow(clippy::unwrap_used)]

mod common;

use common::{check, check_facts, ints, random, signed};
use penjing_ir::{
    Binary, ConvSpec, Dim, Direction, Fact, Op, PadMode, PoolKind, PoolSpec, Real, Reduction, Reset, ScatterReduction,
    SliceRange, Unary,
};
use penjing_tensor::{DType, Tensor};

fn one(name: &str, operands: &[Tensor], op: Op) {
    check(name, operands, |s, x| s.ops(op.clone(), x));
}

#[test]
fn unary_functions() {
    let everywhere = [
        Unary::Neg,
        Unary::Abs,
        Unary::Exp,
        Unary::Sin,
        Unary::Cos,
        Unary::Tan,
        Unary::Atan,
        Unary::Sinh,
        Unary::Cosh,
        Unary::Tanh,
        Unary::Asinh,
        Unary::Erf,
        Unary::Sigmoid,
        Unary::Relu,
        Unary::Floor,
        Unary::Ceil,
        Unary::Round,
        Unary::Sign,
        Unary::Softplus,
        Unary::Gelu,
        Unary::GeluTanh,
        Unary::Silu,
        Unary::LeakyRelu(Real(0.1)),
        Unary::Elu(Real(1.5)),
        Unary::HardSigmoid { alpha: Real(0.4), beta: Real(0.5) },
    ];
    for f in everywhere {
        one(f.name(), &[random("everywhere", &[3, 4], -1.9, 1.9)], Op::Unary(f));
    }
    one("HardSwish", &[random("wide", &[20], -4.0, 4.0)], Op::Unary(Unary::HardSwish));
    for f in [Unary::Asin, Unary::Acos, Unary::Atanh] {
        one(f.name(), &[random("inside", &[5], -0.9, 0.9)], Op::Unary(f));
    }
    for f in [Unary::Log, Unary::Sqrt, Unary::Recip] {
        one(f.name(), &[random("positive", &[5], 0.5, 2.0)], Op::Unary(f));
    }
    one("Acosh", &[random("above one", &[5], 1.2, 3.0)], Op::Unary(Unary::Acosh));
}

#[test]
fn binary_functions_broadcast() {
    let functions = [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Pow,
        Binary::Max,
        Binary::Min,
        Binary::Mod,
        Binary::Fmod,
    ];
    for (a, b) in [(vec![2, 3], vec![2, 3]), (vec![2, 1, 3], vec![4, 1]), (vec![3], vec![2, 3]), (vec![], vec![2])] {
        for f in functions {
            one(f.name(), &[random("left", &a, 1.5, 4.0), random("right", &b, 0.6, 1.4)], Op::Binary(f));
        }
    }
    check("square", &[signed("x", &[3])], |s, x| Ok(vec![s.mul(x[0], x[0])?]));
}

#[test]
fn powers() {
    check("negative bases", &[random("x", &[4], -2.0, -0.5)], |s, x| {
        let mut out = Vec::new();
        for k in [1.0, 2.0, 3.0, -1.0] {
            let k = s.scalar_like(x[0], k);
            out.push(s.binary(Binary::Pow, x[0], k)?);
        }
        Ok(out)
    });
    let zeros = Tensor::from_vec(&[2], vec![0.0f64, 0.0]).unwrap();
    check("a zero base by its exponent", &[random("k", &[2], 1.0, 2.0)], |s, k| {
        let zeros = s.constant(zeros.clone());
        Ok(vec![s.binary(Binary::Pow, zeros, k[0])?])
    });
}

#[test]
fn selection_casts_and_stops() {
    let condition = Tensor::from_bools(&[3], &[true, false, true]).unwrap();
    one("Select", &[condition, signed("a", &[2, 3]), signed("b", &[2, 1])], Op::Select);
    check("Cast", &[Tensor::from_vec(&[2], vec![0.5f64, 0.25]).unwrap()], |s, x| {
        let stopped = s.cast(x[0], DType::I64)?;
        let stopped = s.cast(stopped, DType::F64)?;
        let kept = s.cast(x[0], DType::F64)?;
        Ok(vec![stopped, s.mul(kept, kept)?])
    });
}

#[test]
fn stop_gradient_stops() {
    let mut model = penjing_ir::Model::new("stop");
    let x = model.graph.add_input("x", Fact::scalar(DType::F64));
    let mut s = penjing_ir::Scope::new(&mut model.graph, "");
    let stopped = s.op(Op::StopGradient, &[x]).unwrap();
    let loss = s.mul(stopped, stopped).unwrap();
    assert_eq!(penjing_grad::differentiate(&mut model.graph, loss, &[x]).unwrap(), [None]);
}

#[test]
fn reductions() {
    let kinds = [Reduction::Sum, Reduction::Mean, Reduction::Max, Reduction::Min, Reduction::Prod];
    for kind in kinds {
        for (axes, keep) in [(vec![], false), (vec![1], false), (vec![0, 2], true), (vec![0, 1, 2], false)] {
            one(kind.name(), &[signed("x", &[2, 3, 2])], Op::Reduce { kind, axes, keep });
        }
    }
    let with_zeros = Tensor::from_vec(&[3, 3], vec![1.0f64, 2.0, 3.0, 0.0, 2.0, 3.0, 0.0, 0.0, 3.0]).unwrap();
    one("Prod of zeros", &[with_zeros], Op::Reduce { kind: Reduction::Prod, axes: vec![1], keep: false });
    for (exclusive, reverse) in [(false, false), (true, false), (false, true), (true, true)] {
        one("CumSum", &[signed("x", &[2, 4])], Op::CumSum { axis: 1, exclusive, reverse });
    }
    for largest in [true, false] {
        one("TopK", &[signed("x", &[3, 5])], Op::TopK { axis: 1, k: Dim::Const(2), largest });
    }
}

#[test]
fn movements() {
    one("Permute", &[signed("x", &[2, 3, 4])], Op::Permute { perm: vec![2, 0, 1] });
    one("Reshape", &[signed("x", &[2, 6])], Op::Reshape { shape: vec![3.into(), 4.into()] });
    one("Expand", &[signed("x", &[2, 1, 3])], Op::Expand { shape: vec![4.into(), 2.into(), 5.into(), 3.into()] });
    one("Concat", &[signed("a", &[2, 1]), signed("b", &[2, 3]), signed("c", &[2, 2])], Op::Concat { axis: 1 });
    let range = |start: usize, len: usize, step| SliceRange { start: start.into(), len: len.into(), step };
    for ranges in [
        vec![range(1, 2, 1), range(0, 5, 1)],
        vec![range(0, 2, 2), range(1, 2, 3)],
        vec![range(2, 3, -1), range(4, 2, -2)],
        vec![range(0, 0, 1), range(1, 3, 1)],
    ] {
        one("Slice", &[signed("x", &[3, 5])], Op::Slice { ranges });
    }
    check("the parts of a split", &[signed("x", &[2, 6])], |s, x| {
        (0..3).map(|i| s.slice(x[0], 1, 4 - 2 * i, 2)).collect()
    });
    for mode in [PadMode::Constant(Real(0.5)), PadMode::Reflect, PadMode::Edge, PadMode::Wrap] {
        one("Pad", &[signed("x", &[2, 4])], Op::Pad { before: vec![1, 2], after: vec![1, 3], mode });
    }
}

#[test]
fn indexing() {
    one("Gather", &[signed("x", &[2, 4, 3]), ints(&[2, 2], &[1, -1, 1, 0])], Op::Gather { axis: 1 });
    one("Gather a row", &[signed("x", &[4, 3]), ints(&[], &[2])], Op::Gather { axis: 0 });
    let grad = Op::GatherGrad { axis: 1, size: Dim::Const(5) };
    one("GatherGrad", &[ints(&[3], &[1, 4, 1]), signed("d", &[2, 3, 2])], grad);
    let at = ints(&[2, 3], &[1, 0, 1, 1, 2, 0]);
    one("GatherElements", &[signed("x", &[2, 4]), ints(&[2, 3], &[1, 0, 1, 3, 2, 0])], Op::GatherElements { axis: 1 });
    for reduction in [ScatterReduction::None, ScatterReduction::Add] {
        let operands = [signed("x", &[3, 3]), at.clone(), signed("u", &[2, 3])];
        one("ScatterElements", &operands, Op::ScatterElements { axis: 0, reduction });
        let operands = [signed("x", &[3, 2]), ints(&[3, 1], &[2, 0, 2]), signed("u", &[3, 2])];
        one("ScatterNd", &operands, Op::ScatterNd { reduction });
    }
    one("GatherNd", &[signed("x", &[3, 2, 2]), ints(&[3, 2], &[2, 0, 2, 1, 2, 0])], Op::GatherNd { batch_dims: 0 });
    one(
        "GatherNd in a batch",
        &[signed("x", &[2, 3, 2]), ints(&[2, 2, 1], &[2, 0, 1, 1])],
        Op::GatherNd { batch_dims: 1 },
    );
}

#[test]
fn matrix_products() {
    for (trans_a, trans_b) in [(false, false), (false, true), (true, false), (true, true)] {
        let (a, b) = (if trans_a { [3, 2] } else { [2, 3] }, if trans_b { [4, 3] } else { [3, 4] });
        for (lead_a, lead_b) in [(vec![], vec![]), (vec![2], vec![]), (vec![2, 1], vec![3]), (vec![], vec![2])] {
            let (a, b) = ([lead_a, a.to_vec()].concat(), [lead_b, b.to_vec()].concat());
            one("MatMul", &[signed("a", &a), signed("b", &b)], Op::MatMul { trans_a, trans_b });
        }
    }
}

#[test]
fn convolutions() {
    let spec = |strides: [usize; 2], pads: [(usize, usize); 2], dilations: [usize; 2], groups| ConvSpec {
        strides: strides.to_vec(),
        pads: pads.to_vec(),
        dilations: dilations.to_vec(),
        groups,
    };
    for (name, spec) in [
        ("plain", spec([1, 1], [(1, 1), (0, 0)], [1, 1], 1)),
        ("strided", spec([2, 3], [(1, 0), (2, 1)], [1, 1], 1)),
        ("dilated", spec([1, 2], [(2, 2), (1, 0)], [2, 1], 1)),
        ("grouped", spec([2, 1], [(0, 1), (1, 1)], [1, 1], 2)),
    ] {
        let (x, bias) = (signed("x", &[2, 4, 6, 5]), signed("b", &[2]));
        let w = signed("w", &[2, 4 / spec.groups, 3, 2]);
        one(&format!("{name} Conv"), &[x.clone(), w.clone(), bias.clone()], Op::Conv(spec.clone()));
        check(&format!("{name} ConvWeightGrad"), &[x, w], |s, v| {
            let y = s.conv(v[0], v[1], None, spec.clone())?;
            s.ops(Op::ConvWeightGrad { spec: spec.clone(), kernel: vec![3, 2] }, &[v[0], y])
        });
        let w = signed("w", &[4, 2 / spec.groups, 3, 2]);
        for output_pad in [vec![0, 0], vec![1, 1], vec![3, 2]] {
            let op = Op::ConvTranspose { spec: spec.clone(), output_pad };
            one(&format!("{name} ConvTranspose"), &[signed("x", &[2, 4, 3, 4]), w.clone(), bias.clone()], op);
        }
    }
    one("Conv of a line", &[signed("x", &[1, 2, 7]), signed("w", &[3, 2, 3])], Op::Conv(ConvSpec::unit(1)));
}

#[test]
fn pools() {
    for ceil in [false, true] {
        let spec = PoolSpec {
            kernel: vec![2, 3],
            strides: vec![2, 2],
            pads: vec![(0, 1), (1, 1)],
            dilations: vec![1, 1],
            ceil,
        };
        for kind in [
            PoolKind::Max,
            PoolKind::Average { count_include_pad: true },
            PoolKind::Average { count_include_pad: false },
        ] {
            one("Pool", &[signed("x", &[1, 2, 5, 6])], Op::Pool { kind, spec: spec.clone() });
        }
        let kind = PoolKind::Average { count_include_pad: false };
        check("PoolGrad", &[signed("x", &[1, 2, 5, 6])], |s, x| {
            let y = s.op(Op::Pool { kind, spec: spec.clone() }, x)?;
            s.ops(Op::PoolGrad { kind, spec: spec.clone() }, &[x[0], y])
        });
    }
}

#[test]
fn normalisations() {
    for axis in 0..3 {
        one("Softmax", &[signed("x", &[2, 3, 2])], Op::Softmax { axis });
        one("LogSoftmax", &[signed("x", &[2, 3, 2])], Op::LogSoftmax { axis });
    }
    let eps = Real(0.01);
    let (x, scale, bias) = (signed("x", &[3, 4, 2]), signed("s", &[4]), signed("b", &[4]));
    let statistics = [x.clone(), scale.clone(), bias.clone(), signed("m", &[4]), random("v", &[4], 0.5, 2.0)];
    one("BatchNorm", &statistics, Op::BatchNorm { eps, momentum: Real(0.9) });
    one("BatchNormTrain", &[x.clone(), scale.clone(), bias.clone()], Op::BatchNormTrain { eps });
    check("BatchNormTrain, y alone", &[x.clone(), scale.clone(), bias.clone()], |s, x| {
        Ok(vec![s.op(Op::BatchNormTrain { eps }, x)?])
    });
    check("BatchNormTrain, the variance alone", &[x.clone(), scale.clone(), bias.clone()], |s, x| {
        Ok(vec![s.ops(Op::BatchNormTrain { eps }, x)?[2]])
    });
    for groups in [1, 2, 4] {
        one("GroupNorm", &[x.clone(), scale.clone(), bias.clone()], Op::GroupNorm { groups, eps });
    }
    for axis in [1, 2] {
        let own = &[3, 4, 2][axis..];
        one("LayerNorm", &[x.clone(), signed("s", own), signed("b", own)], Op::LayerNorm { axis, eps });
        one("RmsNorm", &[x.clone(), signed("s", own)], Op::RmsNorm { axis, eps });
    }
}

#[test]
fn attention() {
    for (name, heads, causal, masked) in
        [("plain", 2, false, false), ("masked", 2, false, true), ("causal", 2, true, false), ("grouped", 1, true, true)]
    {
        let mut operands =
            vec![signed("q", &[2, 2, 3, 4]), signed("k", &[2, heads, 5, 4]), signed("v", &[2, heads, 5, 2])];
        if masked {
            operands.push(signed("mask", &[2, 1, 3, 5]));
        }
        one(&format!("{name} Attention"), &operands, Op::Attention { scale: Real(0.7), causal });
    }
}

#[test]
fn recurrent_cells() {
    for (direction, d) in [(Direction::Forward, 1), (Direction::Reverse, 1), (Direction::Bidirectional, 2)] {
        let (t, batch, i, h) = (3, 2, 2, 2);
        let operands = [
            signed("x", &[t, batch, i]),
            signed("w", &[d, 4 * h, i]),
            signed("r", &[d, 4 * h, h]),
            signed("b", &[d, 8 * h]),
            signed("h0", &[d, batch, h]),
            signed("c0", &[d, batch, h]),
        ];
        one("Lstm", &operands, Op::Lstm { direction, reserve: false });
        check("Lstm, the last state alone", &operands, |s, x| {
            Ok(vec![s.ops(Op::Lstm { direction, reserve: false }, x)?[1]])
        });
        let operands = [
            signed("x", &[t, batch, i]),
            signed("w", &[d, 3 * h, i]),
            signed("r", &[d, 3 * h, h]),
            signed("b", &[d, 6 * h]),
            signed("h0", &[d, batch, h]),
        ];
        for reset in [Reset::State, Reset::Product] {
            one("Gru", &operands, Op::Gru { direction, reset });
            check("Gru, the last state alone", &operands, |s, x| Ok(vec![s.ops(Op::Gru { direction, reset }, x)?[1]]));
        }
    }
}

#[test]
fn all_reduce_on_one_rank() {
    check("AllReduce", &[signed("a", &[2]), signed("b", &[3])], |s, x| {
        let sums = s.ops(Op::AllReduce, x)?;
        Ok(vec![s.mul(sums[0], sums[0])?])
    });
}

#[test]
fn symbolic_extents() {
    let n = || Dim::sym("N");
    let fact = |shape: &[Dim]| Fact { dtype: DType::F64, shape: shape.to_vec() };
    let x = signed("x", &[3, 4]);
    check_facts(
        "a linear layer",
        &[x.clone(), signed("w", &[2, 4]), signed("b", &[2])],
        &[fact(&[n(), 4.into()]), fact(&[2.into(), 4.into()]), fact(&[2.into()])],
        |s, v| Ok(vec![s.linear(v[0], v[1], Some(v[2]))?]),
    );
    check_facts("a mean over the batch", std::slice::from_ref(&x), &[fact(&[n(), 4.into()])], |s, v| {
        Ok(vec![s.reduce(Reduction::Mean, v[0], &[0])?])
    });
    check_facts("batch statistics", std::slice::from_ref(&x), &[fact(&[n(), 4.into()])], |s, v| {
        let one = s.scalar(DType::F64, 1.0);
        let one = s.expand(one, &[4.into()])?;
        s.ops(Op::BatchNormTrain { eps: Real(0.1) }, &[v[0], one, one])
    });
    check_facts("the last row", std::slice::from_ref(&x), &[fact(&[n(), 4.into()])], |s, v| {
        Ok(vec![s.slice(v[0], 0, n() - Dim::Const(1), 1)?])
    });
    check_facts("every other row", std::slice::from_ref(&x), &[fact(&[n(), 4.into()])], |s, v| {
        let half = n().ceil_div(&Dim::Const(2));
        let ranges = vec![SliceRange { start: 0.into(), len: half, step: 2 }, SliceRange::full(&Dim::Const(4))];
        Ok(vec![s.op(Op::Slice { ranges }, v)?])
    });
    check_facts(
        "a convolution",
        &[signed("x", &[2, 1, 4]), signed("w", &[2, 1, 3])],
        &[fact(&[n(), 1.into(), 4.into()]), fact(&[2.into(), 1.into(), 3.into()])],
        |s, v| Ok(vec![s.conv(v[0], v[1], None, ConvSpec::unit(1))?]),
    );
    let qkv = [signed("q", &[2, 2, 3, 2]), signed("k", &[2, 2, 3, 2]), signed("v", &[2, 2, 3, 2])];
    let head = || fact(&[n(), 2.into(), Dim::sym("S"), 2.into()]);
    check_facts("attention", &qkv, &[head(), head(), head()], |s, v| {
        s.ops(Op::Attention { scale: Real(1.0), causal: true }, v)
    });
}
