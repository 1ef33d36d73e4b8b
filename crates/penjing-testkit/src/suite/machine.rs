//! Cases of fused ops.

use super::{
    Case,
    conv::{self, spec},
    norm, one, pool,
};
use crate::{Tolerance, floats, integers, normal, uniform};
use penjing_ir::{
    Activation, AttentionSpec, Binary, ChainInstr, Compare, ConvSpec, Direction, HeadLayout, Layout, MachineOp, Op,
    PoolKind, QuantScheme, Real, Reset, Unary, images,
};
use penjing_tensor::{DType, Tensor};

const CLAMP: Activation = Activation::Clamp { lo: Real(-1.0), hi: Real(1.5) };

pub(super) fn cases() -> Vec<Case> {
    let mut out = chains();
    for (name, act) in [("none", Activation::None), ("relu", Activation::Relu), ("clamp", CLAMP)] {
        for (variant, residual) in [("", false), (", residual", true)] {
            let spec = spec(&[1, 2], &[(1, 1), (1, 0)], &[1, 1], 1);
            let mut operands = vec![normal(&[2, 3, 7, 6], "x"), normal(&[5, 3, 3, 3], "w"), normal(&[5], "b")];
            if residual {
                operands.push(normal(&[2, 5, 7, 3], "r"));
            }
            let op = Op::Machine(MachineOp::Conv { spec, act, layout: Layout::ChannelsFirst });
            out.push(one(&format!("machine/Conv/{name}{variant}"), op, &operands, Tolerance::Accumulating(48)));
        }
        for (trans_a, trans_b) in [(false, false), (false, true), (true, false)] {
            let a = normal(if trans_a { &[11, 5] } else { &[5, 11] }, "a");
            let b = normal(if trans_b { &[7, 11] } else { &[11, 7] }, "b");
            let op = Op::Machine(MachineOp::MatMul { trans_a, trans_b, act });
            let mut operands = vec![a, b, normal(&[7], "bias")];
            for variant in ["", ", residual"] {
                let case = format!("machine/MatMul/{name}, {trans_a} {trans_b}{variant}");
                out.push(one(&case, op.clone(), &operands, Tolerance::Accumulating(32)));
                operands.push(normal(&[5, 7], "r"));
            }
        }
    }
    let hard = Activation::HardSigmoid { alpha: Real(0.3), beta: Real(0.4) };
    let (gelu, gelu_tanh) = (Activation::Gelu, Activation::GeluTanh);
    let smooth =
        [Activation::Silu, Activation::Sigmoid, Activation::Tanh, Activation::HardSwish, hard, gelu, gelu_tanh];
    for act in smooth {
        let op = Op::Machine(MachineOp::MatMul { trans_a: false, trans_b: false, act });
        let operands = |lead: &[usize], b: &[usize]| {
            let shape = |tail: &[usize]| [lead, tail].concat();
            vec![
                normal(&shape(&[5, 11]), "a"),
                normal(&[b, &[11, 7]].concat(), "b"),
                normal(&[7], "bias"),
                normal(&shape(&[5, 7]), "r"),
            ]
        };
        let tolerance = Tolerance::Accumulating(64);
        out.push(one(&format!("machine/MatMul/{act:?}"), op.clone(), &operands(&[2], &[]), tolerance));
        out.push(one(&format!("machine/MatMul/{act:?}, batched"), op.clone(), &operands(&[3, 2], &[2]), tolerance));
        let row = [normal(&[1, 300], "a"), normal(&[300, 7], "b"), normal(&[7], "bias")];
        out.push(one(&format!("machine/MatMul/{act:?}, one row"), op, &row, Tolerance::Accumulating(512)));
    }
    out.extend(quantized());
    out.extend(attention());
    out.extend(channels_last());
    out.extend(training());
    out.extend(residuals());
    out.extend(integer_chains());
    out.extend(integer_means());
    out.extend(integer_lstms());
    out.extend(integer_grus());
    out
}

/// [N, C, spatial..] as [N, spatial.., C].
fn last(shape: &[usize]) -> Vec<usize> {
    Layout::ChannelsLast.from_first(shape.len()).into_iter().map(|axis| shape[axis]).collect()
}

/// The cases of ops that train on images, with the channels of their images last.
fn training() -> Vec<Case> {
    let canonical = [conv::cases(), pool::cases(), norm::cases()].concat();
    let moved = |case: &Case| {
        let op = &case.model.graph.nodes().first()?.op;
        let (at, _) = images(op)?;
        let operand = |i: usize| {
            let x = &case.inputs[&format!("x{i}")];
            if at.contains(&i) { normal(&last(x.shape()), &format!("{i}")) } else { x.clone() }
        };
        let operands: Vec<Tensor> = (0..case.inputs.len()).map(operand).collect();
        let op = Op::Machine(MachineOp::Last(Box::new(op.clone())));
        Some(one(&format!("machine/Last/{}", case.name), op, &operands, case.tolerance))
    };
    canonical.iter().filter_map(moved).collect()
}

/// The tables of convolution and pooling with the channels last.
fn channels_last() -> Vec<Case> {
    let mut out = Vec::new();
    let layout = Layout::ChannelsLast;
    for (i, (name, x, w, spec)) in conv::table().into_iter().enumerate() {
        let act = [Activation::None, Activation::Relu, CLAMP][i % 3];
        let tolerance = Tolerance::Accumulating(w[1..].iter().product::<usize>() + 8);
        let mut operands = vec![normal(&last(&x), "x"), normal(&w, "w"), normal(&w[..1], "bias")];
        let op = Op::Machine(MachineOp::Conv { spec, act, layout });
        let plain = one(&format!("machine/Conv/channels last, {name}"), op.clone(), &operands, tolerance);
        let y = plain.model.graph.fact(plain.model.graph.outputs[0].value).concrete().unwrap_or_default();
        out.push(plain);
        operands.push(normal(&y, "residual"));
        out.push(one(&format!("machine/Conv/channels last, {name}, residual"), op, &operands, tolerance));
    }
    for (kind_name, kind) in pool::KINDS {
        for (name, x, spec) in pool::table() {
            let tolerance = if kind == PoolKind::Max { Tolerance::Exact } else { Tolerance::Accumulating(16) };
            let op = Op::Machine(MachineOp::Pool { kind, spec });
            out.push(one(&format!("machine/{kind_name}/{name}"), op, &[normal(&last(&x), "x")], tolerance));
        }
    }
    for dtype in [DType::I8, DType::U8] {
        for (name, x, spec) in pool::table() {
            let (lo, hi) = if dtype == DType::I8 { (-128, 127) } else { (0, 255) };
            let op = Op::Machine(MachineOp::Pool { kind: PoolKind::Max, spec });
            let x = integers(dtype, &last(&x), lo, hi, "x");
            out.push(one(&format!("machine/MaxPool/{dtype}, {name}"), op, &[x], Tolerance::Exact));
        }
    }
    out
}

fn attention() -> Vec<Case> {
    let column = |first| HeadLayout::Columns { first };
    let base = AttentionSpec {
        scale: Real(0.4),
        causal: false,
        heads: 4,
        groups: 4,
        width: 3,
        value_width: 3,
        q: column(0),
        k: column(0),
        v: column(0),
        out: column(0),
    };
    let case = |name: &str, spec: AttentionSpec, x: &[Tensor]| {
        let op = Op::Machine(MachineOp::Attention(spec));
        one(&format!("machine/Attention/{name}"), op, x, Tolerance::Accumulating(64))
    };
    let x = |n: usize, columns: usize, name: &str| normal(&[2, n, columns], name);
    let three = [x(5, 12, "q"), x(7, 12, "k"), x(7, 12, "v")];
    // One operand of 12 + 2·3 + 2·4 columns holds all three.
    let shared =
        AttentionSpec { groups: 2, value_width: 4, k: column(12), v: column(18), causal: true, ..base.clone() };
    let all = x(35, 26, "qkv");
    let apart = HeadLayout::Apart;
    let masked = [three.as_slice(), &[normal(&[2, 1, 5, 7], "mask")]].concat();
    let heads = |n: usize, name: &str| normal(&[2, 4, n, 3], name);
    let (k, v) = (heads(7, "k"), heads(7, "v"));
    let cached = AttentionSpec { k: apart, v: apart, ..base.clone() };
    let canonical = AttentionSpec { q: apart, out: apart, ..cached.clone() };
    vec![
        case("three projections", base.clone(), &three),
        case("one projection", shared, &[all.clone(), all.clone(), all]),
        case("masked, result apart", AttentionSpec { out: apart, ..base }, &masked),
        case("k and v apart", cached, &[x(5, 12, "q"), k.clone(), v.clone()]),
        case("all apart", canonical, &[heads(5, "q"), k, v]),
    ]
}

fn chains() -> Vec<Case> {
    let gelu = vec![ChainInstr::Unary(Unary::GeluTanh, 0)];
    let residual = vec![
        ChainInstr::Binary(Binary::Add, 0, 1),
        ChainInstr::Const(Real(0.5)),
        ChainInstr::Binary(Binary::Mul, 2, 3),
        ChainInstr::Unary(Unary::Relu, 4),
    ];
    let select =
        vec![ChainInstr::Compare(Compare::Less, 0, 1), ChainInstr::Unary(Unary::Exp, 0), ChainInstr::Select(2, 3, 1)];
    let near = Tolerance::Within { absolute: 2e-7, relative: 2e-6 };
    let mask = integers(DType::I64, &[3, 5], 0, 1, "mask").cast(DType::Bool);
    let chain = |name: &str, code: Vec<ChainInstr>, x: &[Tensor]| {
        one(&format!("machine/Chain/{name}"), Op::Machine(MachineOp::Chain(code)), x, near)
    };
    vec![
        chain("gelu", gelu.clone(), &[normal(&[5, 7], "x")]),
        chain("gelu of nothing", gelu, &[normal(&[0, 7], "x")]),
        chain("residual", residual.clone(), &[normal(&[3, 17], "x"), normal(&[3, 17], "r")]),
        chain("bias", residual, &[normal(&[2, 3, 5], "x"), normal(&[3, 1], "b")]),
        chain("select", select, &[normal(&[13], "x"), normal(&[], "y")]),
        chain("mask", vec![ChainInstr::Select(0, 1, 2)], &[mask, normal(&[2, 3, 5], "x"), normal(&[5], "y")]),
    ]
}

fn quantized() -> Vec<Case> {
    let mut out = Vec::new();
    let grids = [
        ("f32", None),
        ("i8", Some(QuantScheme { dtype: DType::I8, axis: None, narrow: false })),
        ("u8", Some(QuantScheme { dtype: DType::U8, axis: None, narrow: false })),
    ];
    for (grid, out_scheme) in grids {
        for (dtype, lo, hi, zero) in [(DType::U8, 0, 255, 121), (DType::I8, -128, 127, 3)] {
            for act in [Activation::None, Activation::Relu, Activation::Gelu] {
                let operands = |x: &[usize], w: &[usize], channels: usize| {
                    let mut all = vec![
                        integers(dtype, x, lo, hi, "x"),
                        floats(&[], &[0.02]),
                        integers(dtype, &[], zero, zero, "zx"),
                        integers(DType::I8, w, -127, 127, "w"),
                        uniform(&[channels], 0.005, 0.02, "sw"),
                        normal(&[channels], "bias"),
                    ];
                    if let Some(s) = &out_scheme {
                        all.extend([floats(&[], &[0.07]), integers(s.dtype, &[], 5, 5, "zo")]);
                    }
                    all
                };
                // The operations of the definition may be contracted or reordered: one quantum, or a few ulps.
                let tolerance = if out_scheme.is_some() { Tolerance::Quanta(1) } else { Tolerance::Accumulating(8) };
                let variant = format!("{dtype} to {grid}, {act:?}");
                let specs: [(&str, ConvSpec, [usize; 4], [usize; 4]); 2] = [
                    ("padded", spec(&[1, 1], &[(1, 1), (1, 1)], &[1, 1], 1), [2, 3, 5, 6], [7, 3, 3, 3]),
                    ("depthwise", spec(&[2, 2], &[(1, 1), (0, 1)], &[1, 1], 5), [1, 5, 7, 6], [5, 1, 3, 3]),
                ];
                for (name, spec, x, w) in specs {
                    for layout in [Layout::ChannelsFirst, Layout::ChannelsLast] {
                        let x = if layout == Layout::ChannelsLast { last(&x) } else { x.to_vec() };
                        let (spec, out_scheme) = (spec.clone(), out_scheme.clone());
                        let op = Op::Machine(MachineOp::QConv { spec, act, out: out_scheme, layout });
                        let case = format!("machine/QConv/{name}, {variant}, {layout:?}");
                        out.push(one(&case, op, &operands(&x, &w, w[0]), tolerance));
                    }
                }
                for (trans_b, w) in [(false, [19, 7]), (true, [7, 19])] {
                    let op = Op::Machine(MachineOp::QMatMul { trans_b, act, out: out_scheme.clone() });
                    let case = format!("machine/QMatMul/transposed {trans_b}, {variant}");
                    out.push(one(&case, op, &operands(&[2, 3, 19], &w, 7), tolerance));
                }
            }
        }
    }
    out
}

/// Sums with a residual, F32 and int8.
fn residuals() -> Vec<Case> {
    let mut out = Vec::new();
    let grid = QuantScheme { dtype: DType::U8, axis: None, narrow: false };
    for (kind, residual) in [
        ("f32", vec![normal(&[2, 7, 5, 6], "r")]),
        ("i8", vec![integers(DType::I8, &[2, 7, 5, 6], -128, 127, "r"), floats(&[], &[0.03]), byte(DType::I8, -9)]),
        ("u8", vec![integers(DType::U8, &[2, 7, 5, 6], 0, 255, "r"), floats(&[], &[0.03]), byte(DType::U8, 99)]),
    ] {
        for out_scheme in [None, Some(grid.clone())] {
            let mut operands = vec![
                integers(DType::U8, &[2, 3, 5, 6], 0, 255, "x"),
                floats(&[], &[0.02]),
                byte(DType::U8, 121),
                integers(DType::I8, &[7, 3, 3, 3], -127, 127, "w"),
                uniform(&[7], 0.005, 0.02, "sw"),
                normal(&[7], "bias"),
            ];
            operands.extend(residual.iter().cloned());
            if out_scheme.is_some() {
                operands.extend([floats(&[], &[0.07]), byte(DType::U8, 5)]);
            }
            let tolerance = if out_scheme.is_some() { Tolerance::Quanta(1) } else { Tolerance::Accumulating(8) };
            let spec = spec(&[1, 1], &[(1, 1), (1, 1)], &[1, 1], 1);
            let case = format!("machine/QConv/{kind} residual, grid {}", out_scheme.is_some());
            let op = MachineOp::QConv { spec, act: Activation::Relu, out: out_scheme, layout: Layout::ChannelsFirst };
            out.push(one(&case, Op::Machine(op), &operands, tolerance));
        }
    }
    out
}

fn byte(dtype: DType, v: i64) -> Tensor {
    integers(dtype, &[], v, v, "zero point")
}

fn integer_chains() -> Vec<Case> {
    let sum = vec![ChainInstr::Binary(Binary::Add, 0, 1), ChainInstr::Unary(Unary::Relu, 2)];
    let u8s = |shape: &[usize], name: &str| {
        vec![integers(DType::U8, shape, 0, 255, name), floats(&[], &[0.02]), byte(DType::U8, 77)]
    };
    let i8s = |shape: &[usize], name: &str| {
        vec![integers(DType::I8, shape, -128, 127, name), floats(&[], &[0.05]), byte(DType::I8, -3)]
    };
    let mut out = Vec::new();
    for dtype in [None, Some(DType::I8), Some(DType::U8)] {
        let grid = dtype.map(|dtype| QuantScheme { dtype, axis: None, narrow: false });
        let cases: [(&str, [Vec<Tensor>; 2]); 4] = [
            ("int8 both", [u8s(&[3, 5, 37], "a"), i8s(&[3, 5, 37], "b")]),
            ("float and int8", [vec![normal(&[3, 5, 37], "a")], u8s(&[3, 5, 37], "b")]),
            ("channels", [i8s(&[1031], "a"), u8s(&[2, 1031], "b")]),
            ("floats", [vec![normal(&[2, 600], "a")], vec![normal(&[2, 1], "b")]]),
        ];
        for (name, operands) in cases {
            let mut operands = operands.concat();
            if let Some(dtype) = dtype {
                operands.extend([floats(&[], &[0.04]), byte(dtype, 11)]);
            }
            let op = Op::Machine(MachineOp::QChain { code: sum.clone(), out: grid.clone() });
            let case = format!("machine/QChain/{name} to {}", dtype.map_or("f32".into(), |d| d.to_string()));
            out.push(one(&case, op, &operands, Tolerance::Exact));
        }
    }
    out
}

/// Over positions of channels that lie last and first, over everything, over axes that lie apart, over one element and over none.
fn integer_means() -> Vec<Case> {
    let mut out = Vec::new();
    for (shape, axes, keep) in [
        (&[3usize, 7, 7, 37][..], &[1usize, 2][..], true),
        (&[2, 300, 601], &[1], false),
        (&[2, 5, 6, 6], &[2, 3], false),
        (&[4, 9], &[0, 1], false),
        (&[3, 4, 5], &[0, 2], true),
        (&[1, 1, 8], &[1], false),
        (&[2, 0, 3], &[1], false),
    ] {
        for (dtype, lo, hi, zero) in [(DType::U8, 0, 255, 3), (DType::I8, -128, 127, -77)] {
            for to in [None, Some(DType::U8), Some(DType::I8)] {
                let mut operands = vec![integers(dtype, shape, lo, hi, "x"), floats(&[], &[0.03]), byte(dtype, zero)];
                if let Some(to) = to {
                    operands.extend([floats(&[], &[0.021]), byte(to, 5)]);
                }
                let grid = to.map(|dtype| QuantScheme { dtype, axis: None, narrow: false });
                let op = Op::Machine(MachineOp::QMean { axes: axes.to_vec(), keep, out: grid });
                let to = to.map_or("f32".into(), |d| d.to_string());
                out.push(one(
                    &format!("machine/QMean/{dtype} {shape:?} {axes:?} to {to}"),
                    op,
                    &operands,
                    Tolerance::Exact,
                ));
            }
        }
    }
    out
}

fn integer_lstms() -> Vec<Case> {
    let mut out = Vec::new();
    let (t, b, i, h) = (5, 2, 7, 6);
    for (name, direction, d) in
        [("forward", Direction::Forward, 1), ("reverse", Direction::Reverse, 1), ("both", Direction::Bidirectional, 2)]
    {
        for (dtype, lo, hi, zero) in [(DType::U8, 0, 255, 121), (DType::I8, -128, 127, 3)] {
            let operands = [
                integers(dtype, &[t, b, i], lo, hi, "x"),
                floats(&[], &[0.02]),
                byte(dtype, zero),
                integers(DType::I8, &[d, 4 * h, i], -127, 127, "w"),
                uniform(&[4 * h], 0.001, 0.004, "sw"),
                integers(DType::I8, &[d, 4 * h, h], -127, 127, "r"),
                uniform(&[4 * h], 0.001, 0.004, "sr"),
                normal(&[d, 8 * h], "b"),
                normal(&[d, b, h], "h0"),
                normal(&[d, b, h], "c0"),
            ];
            let op = Op::Machine(MachineOp::QLstm { direction });
            // A hidden state that differs in its last bits may take the next code: one quantum (1/127 at most) times a few
            // weights of at most 127 · 0.004.
            let near = Tolerance::Within { absolute: 2e-2, relative: 0.0 };
            out.push(one(&format!("machine/QLstm/{name}, {dtype}"), op, &operands, near));
        }
    }
    out
}

/// As [`integer_lstms`].
fn integer_grus() -> Vec<Case> {
    let mut out = Vec::new();
    let (t, b, i, h) = (5, 2, 7, 6);
    let directions =
        [("forward", Direction::Forward, 1), ("reverse", Direction::Reverse, 1), ("both", Direction::Bidirectional, 2)];
    for (name, direction, d) in directions {
        for (dtype, lo, hi, zero, reset) in
            [(DType::U8, 0, 255, 121, Reset::State), (DType::I8, -128, 127, 3, Reset::Product)]
        {
            let operands = [
                integers(dtype, &[t, b, i], lo, hi, "x"),
                floats(&[], &[0.02]),
                byte(dtype, zero),
                integers(DType::I8, &[d, 3 * h, i], -127, 127, "w"),
                uniform(&[3 * h], 0.001, 0.004, "sw"),
                integers(DType::I8, &[d, 3 * h, h], -127, 127, "r"),
                uniform(&[3 * h], 0.001, 0.004, "sr"),
                normal(&[d, 6 * h], "b"),
                normal(&[d, b, h], "h0"),
            ];
            let op = Op::Machine(MachineOp::QGru { direction, reset });
            let near = Tolerance::Within { absolute: 2e-2, relative: 0.0 };
            out.push(one(&format!("machine/QGru/{name}, {dtype}"), op, &operands, near));
        }
    }
    out
}
