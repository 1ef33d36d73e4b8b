//! Cases of every op: attributes and operands that exercise its axes.
#![allow(dead_code, clippy::unwrap_used)]

use penjing_ir::{
    Activation, ArgKind, AttentionSpec, Binary, BodyId, ChainInstr, Compare, ConvSpec, Dim, Direction, HeadLayout,
    Layout, MachineOp, Op, PadMode, PoolKind, PoolSpec, QuantScheme, RandomKind, Real, Reduction, Reset,
    ScatterReduction, SliceRange, Symbol, Unary,
};
use penjing_tensor::{DType, Rng, Tensor};

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) op: Op,
    pub(crate) inputs: Vec<Tensor>,
}

/// Number of `Op` variants; [`number`] is exhaustive, so a new one does not compile before it has a case.
pub(crate) const VARIANTS: usize = 65;

pub(crate) fn number(op: &Op) -> usize {
    match op {
        Op::Unary(_) => 0,
        Op::Binary(_) => 1,
        Op::Compare(_) => 2,
        Op::Select => 3,
        Op::Cast(_) => 4,
        Op::StopGradient => 5,
        Op::Reduce { .. } => 6,
        Op::ArgReduce { .. } => 7,
        Op::CumSum { .. } => 8,
        Op::TopK { .. } => 9,
        Op::Permute { .. } => 10,
        Op::Reshape { .. } => 11,
        Op::Expand { .. } => 12,
        Op::Slice { .. } => 13,
        Op::Concat { .. } => 14,
        Op::Pad { .. } => 15,
        Op::Gather { .. } => 16,
        Op::GatherGrad { .. } => 17,
        Op::GatherElements { .. } => 18,
        Op::ScatterElements { .. } => 19,
        Op::GatherNd { .. } => 20,
        Op::ScatterNd { .. } => 21,
        Op::OneHot { .. } => 22,
        Op::Iota { .. } => 23,
        Op::DimValues { .. } => 24,
        Op::NonZero { .. } => 25,
        Op::Random { .. } => 26,
        Op::MatMul { .. } => 27,
        Op::Conv(_) => 28,
        Op::ConvTranspose { .. } => 29,
        Op::ConvWeightGrad { .. } => 30,
        Op::Pool { .. } => 31,
        Op::PoolGrad { .. } => 32,
        Op::Softmax { .. } => 33,
        Op::LogSoftmax { .. } => 34,
        Op::BatchNorm { .. } => 35,
        Op::BatchNormTrain { .. } => 36,
        Op::BatchNormGrad { .. } => 37,
        Op::LayerNorm { .. } => 38,
        Op::LayerNormGrad { .. } => 55,
        Op::RmsNorm { .. } => 39,
        Op::GroupNorm { .. } => 40,
        Op::Attention { .. } => 41,
        Op::AttentionGrad { .. } => 60,
        Op::Lstm { .. } => 42,
        Op::LstmGrad { .. } => 43,
        Op::Gru { .. } => 61,
        Op::Quantize(_) => 44,
        Op::Dequantize(_) => 45,
        Op::FakeQuant(_) => 46,
        Op::AllReduce => 47,
        Op::If { .. } => 48,
        Op::Machine(MachineOp::Chain(_)) => 49,
        Op::Machine(MachineOp::Conv { .. }) => 50,
        Op::Machine(MachineOp::MatMul { .. }) => 51,
        Op::Machine(MachineOp::Pool { .. }) => 54,
        Op::Machine(MachineOp::Attention(_)) => 59,
        Op::Machine(MachineOp::QConv { .. }) => 52,
        Op::Machine(MachineOp::QMatMul { .. }) => 53,
        Op::DynamicQuantize => 58,
        Op::Machine(MachineOp::QChain { .. }) => 56,
        Op::Machine(MachineOp::QLstm { .. }) => 57,
        Op::Machine(MachineOp::Last(_)) => 62,
        Op::Machine(MachineOp::QMean { .. }) => 63,
        Op::Machine(MachineOp::QGru { .. }) => 64,
    }
}

pub(crate) fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|&n| Dim::Const(n)).collect()
}

pub(crate) fn normal(stream: &str, shape: &[usize]) -> Tensor {
    let rng = Rng::new(3, stream, 0);
    let n = shape.iter().product::<usize>() as u64;
    Tensor::from_vec(shape, (0..n).map(|i| f64::from(rng.normal(i))).collect()).unwrap()
}

fn positive(stream: &str, shape: &[usize]) -> Tensor {
    Tensor::from_vec(shape, normal(stream, shape).to_f64s().into_iter().map(|v| v * v + 0.1).collect::<Vec<f64>>())
        .unwrap()
}

fn indices(shape: &[usize], below: u64) -> Tensor {
    let rng = Rng::new(5, "indices", 0);
    let n = shape.iter().product::<usize>() as u64;
    Tensor::from_vec(shape, (0..n).map(|i| rng.below(i, below) as i64).collect()).unwrap()
}

fn bools(shape: &[usize]) -> Tensor {
    normal("bools", shape).cast(DType::I64).cast(DType::Bool)
}

/// Every op at least once, most with several geometries.
pub(crate) fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let mut add = |name: &str, op: Op, inputs: Vec<Tensor>| all.push(Case { name: name.into(), op, inputs });
    elementwise(&mut add);
    movement(&mut add);
    index(&mut add);
    products(&mut add);
    windows(&mut add);
    norms(&mut add);
    sequences(&mut add);
    rest(&mut add);
    all
}

type Add<'a> = dyn FnMut(&str, Op, Vec<Tensor>) + 'a;

/// Floats with a stream of their own for each operand.
fn floats(shapes: &[&[usize]]) -> Vec<Tensor> {
    shapes.iter().enumerate().map(|(i, s)| normal(&format!("x{i}"), s)).collect()
}

fn elementwise(add: &mut Add<'_>) {
    add("unary", Op::Unary(Unary::Gelu), floats(&[&[2, 3]]));
    add("leaky relu", Op::Unary(Unary::LeakyRelu(Real(0.01))), floats(&[&[2, 3]]));
    add("is inf", Op::Unary(Unary::IsInf { positive: true, negative: false }), floats(&[&[2, 3]]));
    let hard = Unary::HardSigmoid { alpha: Real(1.0 / 6.0), beta: Real(0.5) };
    add("hard sigmoid", Op::Unary(hard), floats(&[&[4]]));
    add("binary", Op::Binary(Binary::Add), floats(&[&[2, 3, 4], &[3, 1]]));
    add("binary, both broadcast", Op::Binary(Binary::Mul), floats(&[&[2, 1, 4], &[3, 1]]));
    add("compare", Op::Compare(Compare::Less), floats(&[&[2, 3], &[3]]));
    add("select", Op::Select, [vec![bools(&[3, 1])], floats(&[&[2, 1, 4], &[4]])].concat());
    add("cast", Op::Cast(DType::I32), floats(&[&[2, 3]]));
    add("stop gradient", Op::StopGradient, floats(&[&[2, 3]]));
    for kind in [Reduction::Sum, Reduction::Mean, Reduction::Max, Reduction::Min, Reduction::Prod] {
        add(kind.name(), Op::Reduce { kind, axes: vec![0, 2], keep: false }, floats(&[&[2, 3, 4]]));
        add(kind.name(), Op::Reduce { kind, axes: vec![1], keep: true }, floats(&[&[2, 3, 4]]));
    }
    for keep in [false, true] {
        let op = Op::ArgReduce { kind: ArgKind::Max, axis: 1, keep, last: keep };
        add("arg max", op, floats(&[&[2, 3, 4]]));
    }
    add("cumulative sum", Op::CumSum { axis: 1, exclusive: true, reverse: false }, floats(&[&[2, 3]]));
    add("top k", Op::TopK { axis: 1, k: Dim::Const(2), largest: true }, floats(&[&[3, 5, 2]]));
}

fn movement(add: &mut Add<'_>) {
    add("permute", Op::Permute { perm: vec![2, 0, 1] }, floats(&[&[2, 3, 4]]));
    for (from, to) in [
        (&[2, 3, 4, 5][..], &[2, 60][..]),
        (&[2, 60], &[2, 3, 4, 5]),
        (&[4, 6], &[6, 4]),
        (&[6, 1, 4], &[2, 3, 2, 2]),
        (&[2, 3, 5], &[5, 3, 2]),
        (&[8, 9], &[6, 12]),
    ] {
        add(&format!("reshape {from:?} to {to:?}"), Op::Reshape { shape: dims(to) }, floats(&[from]));
    }
    add("expand", Op::Expand { shape: dims(&[5, 3, 4]) }, floats(&[&[3, 1]]));
    let range = |start: usize, len: usize, step: i64| SliceRange { start: start.into(), len: len.into(), step };
    add("slice", Op::Slice { ranges: vec![range(0, 2, 1), range(1, 3, 1)] }, floats(&[&[2, 6]]));
    add("slice, reversed", Op::Slice { ranges: vec![range(4, 4, -1)] }, floats(&[&[6]]));
    add("slice, every second", Op::Slice { ranges: vec![range(1, 3, 2)] }, floats(&[&[7]]));
    add("slice, backwards by two", Op::Slice { ranges: vec![range(6, 3, -2)] }, floats(&[&[7]]));
    add("concat", Op::Concat { axis: 1 }, floats(&[&[2, 3], &[2, 1], &[2, 4]]));
    let pads = |mode| Op::Pad { before: vec![1, 0], after: vec![2, 0], mode };
    add("pad", pads(PadMode::Constant(Real(0.5))), floats(&[&[4, 3]]));
    add("pad, reflected", pads(PadMode::Reflect), floats(&[&[4, 3]]));
    add("pad, edge", pads(PadMode::Edge), floats(&[&[4, 3]]));
    add("pad, wrapped", pads(PadMode::Wrap), floats(&[&[4, 3]]));
}

fn index(add: &mut Add<'_>) {
    add("gather", Op::Gather { axis: 1 }, vec![normal("d", &[2, 5, 3]), indices(&[4, 2], 5)]);
    let grad = Op::GatherGrad { axis: 1, size: Dim::Const(5) };
    add("gather gradient", grad, vec![indices(&[4, 2], 5), normal("d", &[2, 4, 2, 3])]);
    add("gather elements", Op::GatherElements { axis: 1 }, vec![normal("d", &[4, 5]), indices(&[3, 6], 5)]);
    for reduction in [ScatterReduction::None, ScatterReduction::Add] {
        let op = Op::ScatterElements { axis: 1, reduction };
        add("scatter elements", op, vec![normal("d", &[5, 6]), indices(&[3, 2], 6), normal("u", &[3, 2])]);
        let inputs = vec![normal("d", &[4, 5, 3]), indices(&[6, 2], 4), normal("u", &[6, 3])];
        add("scatter nd", Op::ScatterNd { reduction }, inputs);
    }
    add("gather nd", Op::GatherNd { batch_dims: 1 }, vec![normal("d", &[2, 5, 4, 3]), indices(&[2, 6, 2], 4)]);
    add("one hot", Op::OneHot { axis: 1, depth: Dim::Const(5), dtype: DType::F32 }, vec![indices(&[3, 2], 5)]);
    add("iota", Op::Iota { shape: dims(&[3, 4, 2]), axis: 1, dtype: DType::I64 }, vec![]);
    add("dim values", Op::DimValues { dims: dims(&[3, 4]) }, vec![]);
    add("non zero", Op::NonZero { count: Symbol::late("count") }, floats(&[&[3, 4]]));
    let random = Op::Random { kind: RandomKind::Normal, shape: dims(&[3, 4]), seed: 7, stream: "dropout \"1\"".into() };
    add("random", random, vec![Tensor::scalar(3i64)]);
}

fn products(add: &mut Add<'_>) {
    for (trans_a, trans_b) in [(false, false), (true, false), (false, true), (true, true)] {
        let a: &[usize] = if trans_a { &[2, 1, 4, 3] } else { &[2, 1, 3, 4] };
        let b: &[usize] = if trans_b { &[5, 6, 4] } else { &[5, 4, 6] };
        add("matmul", Op::MatMul { trans_a, trans_b }, floats(&[a, b]));
    }
    add("matmul of two", Op::MatMul { trans_a: false, trans_b: true }, floats(&[&[3, 4], &[6, 4]]));
}

fn windows(add: &mut Add<'_>) {
    let same = ConvSpec { pads: vec![(1, 1); 2], ..ConvSpec::unit(2) };
    let patches = ConvSpec { strides: vec![2, 3], ..ConvSpec::unit(2) };
    let gaps = ConvSpec { strides: vec![3, 2], ..ConvSpec::unit(2) };
    for (name, spec, kernel, spatial) in [
        ("same", &same, [3, 3], [5, 4]),
        ("pointwise", &ConvSpec::unit(2), [1, 1], [3, 4]),
        ("patches", &patches, [2, 3], [6, 6]),
        ("gaps", &gaps, [2, 1], [10, 8]),
    ] {
        for (groups, c, o) in [(1, 4, 6), (2, 4, 6), (4, 4, 4)] {
            let spec = ConvSpec { groups, ..spec.clone() };
            let x = [2, c, spatial[0], spatial[1]];
            let w = [o, c / groups, kernel[0], kernel[1]];
            let mut inputs = floats(&[&x, &w]);
            add(&format!("conv, {name}, {groups} groups"), Op::Conv(spec.clone()), inputs.clone());
            let y = penjing_reference::eval_op(&Op::Conv(spec.clone()), &inputs.iter().collect::<Vec<_>>()).unwrap();
            let grad = Op::ConvWeightGrad { spec: spec.clone(), kernel: kernel.to_vec() };
            add(&format!("conv weight gradient, {name}, {groups} groups"), grad, vec![inputs[0].clone(), y[0].clone()]);
            inputs.push(normal("bias", &[o]));
            add(&format!("conv, {name}, {groups} groups, bias"), Op::Conv(spec.clone()), inputs);
            let transposed = floats(&[&[2, o, 3, 4], &w, &[c]]);
            let op = Op::ConvTranspose { spec, output_pad: vec![0, 0] };
            add(&format!("conv transpose, {name}, {groups} groups"), op, transposed);
        }
    }
    let pool = |kernel: [usize; 2], strides: [usize; 2], pad| PoolSpec {
        kernel: kernel.to_vec(),
        strides: strides.to_vec(),
        pads: vec![(pad, pad); 2],
        dilations: vec![1, 1],
        ceil: false,
    };
    for kind in [PoolKind::Max, PoolKind::Average { count_include_pad: true }] {
        for (name, spec) in [("half", pool([2, 2], [2, 2], 0)), ("overlapping", pool([3, 3], [2, 1], 1))] {
            let x = normal("x", &[2, 3, 5, 4]);
            let op = Op::Pool { kind, spec: spec.clone() };
            let y = penjing_reference::eval_op(&op, &[&x]).unwrap().remove(0);
            add(&format!("pool, {name}"), op, vec![x.clone()]);
            add(&format!("pool gradient, {name}"), Op::PoolGrad { kind, spec }, vec![x, y]);
        }
    }
}

fn norms(add: &mut Add<'_>) {
    let eps = Real(1e-5);
    add("softmax", Op::Softmax { axis: 1 }, floats(&[&[2, 3, 4]]));
    add("log softmax", Op::LogSoftmax { axis: 2 }, floats(&[&[2, 3, 4]]));
    let x = normal("x", &[4, 3, 5]);
    let (scale, bias, mean, var) = (normal("s", &[3]), normal("b", &[3]), normal("m", &[3]), positive("v", &[3]));
    let all = vec![x.clone(), scale.clone(), bias.clone(), mean.clone(), var.clone()];
    add("batch norm", Op::BatchNorm { eps, momentum: Real(0.9) }, all);
    add("batch norm, training", Op::BatchNormTrain { eps }, vec![x.clone(), scale.clone(), bias]);
    let grad = vec![x, scale, mean, var, normal("dy", &[4, 3, 5])];
    add("batch norm gradient", Op::BatchNormGrad { eps }, grad);
    add("layer norm", Op::LayerNorm { axis: 1, eps }, floats(&[&[2, 3, 4], &[3, 4], &[3, 4]]));
    let grad = floats(&[&[2, 3, 4], &[3, 4], &[2, 3, 4]]);
    add("layer norm gradient", Op::LayerNormGrad { axis: 1, eps }, grad);
    add("rms norm", Op::RmsNorm { axis: 2, eps }, floats(&[&[2, 3, 4], &[4]]));
    for groups in [1, 2, 6] {
        add("group norm", Op::GroupNorm { groups, eps }, floats(&[&[2, 6, 4], &[6], &[6]]));
    }
}

fn sequences(add: &mut Add<'_>) {
    for causal in [false, true] {
        let op = Op::Attention { scale: Real(0.4), causal };
        let qkv: [&[usize]; 3] = [&[2, 6, 3, 4], &[2, 2, 5, 4], &[2, 2, 5, 7]];
        add("attention", op.clone(), floats(&qkv));
        add("attention, mask", op.clone(), floats(&[qkv[0], qkv[1], qkv[2], &[6, 1, 5]]));
        let own_heads = floats(&[&[2, 2, 3, 4], &[2, 2, 5, 4], &[2, 2, 5, 7], &[2, 2, 3, 7]]);
        add("attention gradient", Op::AttentionGrad { scale: Real(0.4), causal }, own_heads);
        add("attention, whole mask", op, floats(&[qkv[0], qkv[1], qkv[2], &[2, 1, 3, 5]]));
    }
    let (t, b, i, h) = (3, 2, 4, 5);
    for direction in [Direction::Forward, Direction::Reverse, Direction::Bidirectional] {
        let d = direction.count();
        let x = floats(&[&[t, b, i], &[d, 4 * h, i], &[d, 4 * h, h], &[d, 8 * h], &[d, b, h], &[d, b, h]]);
        let op = Op::Lstm { direction, reserve: true };
        let y = penjing_reference::eval_op(&op, &x.iter().collect::<Vec<_>>()).unwrap();
        add("lstm", Op::Lstm { direction, reserve: false }, x.clone());
        add("lstm with reserve", op, x.clone());
        let [x, w, r, _, h0, c0] = <[Tensor; 6]>::try_from(x).unwrap();
        let dy = normal("dy", y[0].shape());
        let (dh, dc) = (normal("dh", y[1].shape()), normal("dc", y[2].shape()));
        let inputs = vec![x, w, r, h0, c0, y[0].clone(), y[3].clone(), dy, dh, dc];
        for reset in [Reset::State, Reset::Product] {
            let x = floats(&[&[t, b, i], &[d, 3 * h, i], &[d, 3 * h, h], &[d, 6 * h], &[d, b, h]]);
            add("gru", Op::Gru { direction, reset }, x);
        }
        add("lstm gradient", Op::LstmGrad { direction }, inputs);
    }
}

fn rest(add: &mut Add<'_>) {
    let per_tensor = QuantScheme { dtype: DType::I8, axis: None, narrow: true };
    let per_channel = QuantScheme { dtype: DType::U8, axis: Some(1), narrow: false };
    for (scheme, shape) in [(per_tensor, &[][..]), (per_channel, &[3][..])] {
        let x = normal("x", &[2, 3, 4]).cast(DType::F32);
        let scale = positive("scale", shape).cast(DType::F32);
        let zero = Tensor::zeros(scheme.dtype, shape).unwrap();
        add("quantize", Op::Quantize(scheme.clone()), vec![x.clone(), scale.clone(), zero.clone()]);
        let q = penjing_reference::eval_op(&Op::Quantize(scheme.clone()), &[&x, &scale, &zero]).unwrap().remove(0);
        add("dequantize", Op::Dequantize(scheme.clone()), vec![q, scale.clone(), zero.clone()]);
        add("fake quantize", Op::FakeQuant(scheme), vec![x, scale, zero]);
    }
    add("dynamic quantize", Op::DynamicQuantize, vec![normal("x", &[2, 3]).cast(DType::F32)]);
    add("all reduce", Op::AllReduce, floats(&[&[2, 3], &[4]]));
    add("if", Op::If { then_body: BodyId(0), else_body: BodyId(1) }, vec![]);
    let machine = |op| Op::Machine(op);
    let code = vec![
        ChainInstr::Const(Real(-0.0)),
        ChainInstr::Unary(Unary::LeakyRelu(Real(0.1)), 0),
        ChainInstr::Binary(Binary::Add, 1, 2),
        ChainInstr::Compare(Compare::Less, 3, 1),
        ChainInstr::Select(4, 3, 2),
    ];
    add("chain", machine(MachineOp::Chain(code.clone())), vec![]);
    let grid = Some(QuantScheme { dtype: DType::I8, axis: None, narrow: false });
    add("integer chain", machine(MachineOp::QChain { code, out: grid.clone() }), vec![]);
    let reset = Reset::Product;
    add("integer gru", machine(MachineOp::QGru { direction: Direction::Bidirectional, reset }), vec![]);
    add("integer lstm", machine(MachineOp::QLstm { direction: Direction::Reverse }), vec![]);
    let act = Activation::Clamp { lo: Real(f64::NEG_INFINITY), hi: Real(6.0) };
    let layout = Layout::ChannelsLast;
    add("fused conv", machine(MachineOp::Conv { spec: ConvSpec::unit(2), act, layout }), vec![]);
    let spec = PoolSpec { kernel: vec![3], strides: vec![2], pads: vec![(1, 0)], dilations: vec![1], ceil: true };
    let kind = PoolKind::Average { count_include_pad: true };
    add("pool of channels last", machine(MachineOp::Pool { kind, spec }), vec![]);
    let eps = Real(1e-5);
    add("channels last", machine(MachineOp::Last(Box::new(Op::BatchNormTrain { eps }))), vec![]);
    add("fused matmul", machine(MachineOp::MatMul { trans_a: false, trans_b: true, act: Activation::Relu }), vec![]);
    let hard = Activation::HardSigmoid { alpha: Real(0.2), beta: Real(-0.5) };
    let acts = [
        Activation::None,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Silu,
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::HardSwish,
        hard,
    ];
    for act in acts {
        let op = MachineOp::MatMul { trans_a: false, trans_b: false, act };
        add(&format!("fused matmul, {act:?}"), machine(op), vec![]);
    }
    let spec = AttentionSpec {
        scale: Real(0.125),
        causal: true,
        heads: 4,
        groups: 2,
        width: 8,
        value_width: 6,
        q: HeadLayout::Columns { first: 0 },
        k: HeadLayout::Columns { first: 32 },
        v: HeadLayout::Apart,
        out: HeadLayout::Columns { first: 0 },
    };
    add("fused attention", machine(MachineOp::Attention(spec)), vec![]);
    let out = Some(QuantScheme { dtype: DType::U8, axis: None, narrow: false });
    let conv = MachineOp::QConv { spec: ConvSpec::unit(1), act: Activation::None, out: out.clone(), layout };
    add("integer conv", machine(conv), vec![]);
    add("integer mean", machine(MachineOp::QMean { axes: vec![1, 2], keep: true, out: grid }), vec![]);
    add("integer matmul", machine(MachineOp::QMatMul { trans_b: true, act: Activation::None, out: None }), vec![]);
}
