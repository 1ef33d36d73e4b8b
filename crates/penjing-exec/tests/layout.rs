//! Channels last: how many reorders are left, and that no result changes.

#![allow(clippy::unwrap_used)]

use penjing_exec::fuse;
use penjing_ir::{
    ArgKind, Binary, ConvSpec, Dim, Fact, Layout, MachineOp, Model, Op, PadMode, PoolKind, PoolSpec, QuantScheme, Real,
    Reduction, SliceRange, Stage, Unary, ValueId, verify,
};
use penjing_reference::{Precision, run};
use penjing_tensor::{DType, Tensor};
use penjing_testkit::{Tolerance, assert_close, floats, integers, normal, uniform};
use std::collections::BTreeMap;

/// A model under construction whose float inputs are normal numbers.
struct Net {
    model: Model,
    inputs: BTreeMap<String, Tensor>,
}

impl Net {
    fn new() -> Net {
        Net { model: Model::new("net"), inputs: BTreeMap::new() }
    }

    fn given(&mut self, name: &str, x: Tensor) -> ValueId {
        let v = self.model.graph.add_input(name, Fact::of(&x));
        self.inputs.insert(name.into(), x);
        v
    }

    fn input(&mut self, name: &str, shape: &[usize]) -> ValueId {
        self.given(name, normal(shape, name))
    }

    /// A constant of about unit gain along its first axis.
    fn weight(&mut self, shape: &[usize]) -> ValueId {
        let bound = (3.0 / shape[1..].iter().product::<usize>().max(1) as f64).sqrt();
        let name = format!("weight {}", self.model.graph.values().len());
        self.model.graph.add_const(uniform(shape, -bound, bound, &name))
    }

    fn op(&mut self, op: Op, x: &[ValueId]) -> ValueId {
        self.model.graph.apply("", op, x).unwrap()
    }

    fn shape(&self, v: ValueId) -> Vec<usize> {
        self.model.graph.fact(v).concrete().unwrap()
    }

    /// A convolution with bias over as many axes as x has, padded to keep the extents at stride 1.
    fn conv(&mut self, x: ValueId, out: usize, kernel: usize, stride: usize, groups: usize) -> ValueId {
        let shape = self.shape(x);
        let rank = shape.len() - 2;
        let spec = ConvSpec {
            strides: vec![stride; rank],
            pads: vec![(kernel / 2, kernel / 2); rank],
            groups,
            ..ConvSpec::unit(rank)
        };
        let extents: Vec<usize> =
            [out, shape[1] / groups].into_iter().chain(std::iter::repeat_n(kernel, rank)).collect();
        let w = self.weight(&extents);
        let b = self.weight(&[out, 1]);
        let b = self.op(Op::Reshape { shape: vec![Dim::Const(out)] }, &[b]);
        self.op(Op::Conv(spec), &[x, w, b])
    }

    fn relu(&mut self, x: ValueId) -> ValueId {
        self.op(Op::Unary(Unary::Relu), &[x])
    }

    fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.op(Op::Binary(Binary::Add), &[a, b])
    }

    fn clip(&mut self, x: ValueId) -> ValueId {
        let [lo, hi] = [0.0, 6.0].map(|v| self.model.graph.add_const(floats(&[], &[v])));
        let x = self.op(Op::Binary(Binary::Max), &[x, lo]);
        self.op(Op::Binary(Binary::Min), &[x, hi])
    }

    fn global_mean(&mut self, x: ValueId) -> ValueId {
        let axes = (2..self.shape(x).len()).collect();
        self.op(Op::Reduce { kind: Reduction::Mean, axes, keep: true }, &[x])
    }

    fn flatten(&mut self, x: ValueId) -> ValueId {
        let shape = self.shape(x);
        let rest = shape[1..].iter().product::<usize>();
        self.op(Op::Reshape { shape: vec![Dim::Const(shape[0]), Dim::Const(rest)] }, &[x])
    }

    fn linear(&mut self, x: ValueId, out: usize, trans_b: bool) -> ValueId {
        let n = self.shape(x)[1];
        let shape = if trans_b { [out, n] } else { [n, out] };
        let w = self.weight(&shape);
        self.op(Op::MatMul { trans_a: false, trans_b }, &[x, w])
    }

    /// Fuses, checks that the result is what the unfused graph gives, and returns the fused model.
    fn fused(mut self, outputs: &[ValueId]) -> Model {
        for (i, &v) in outputs.iter().enumerate() {
            self.model.graph.add_output(&format!("y{i}"), v);
        }
        // Constants under a Reshape are folded before lowering.
        let mut trace = penjing_rewrite::Trace::default();
        penjing_rewrite::fold_constants(&mut self.model, &penjing_rewrite::FoldConfig::default(), &mut trace).unwrap();
        let fused = fuse(&self.model).unwrap();
        verify(&fused, Stage::Machine).unwrap();
        let want = run(&self.model, &self.inputs, &BTreeMap::new(), Precision::Declared).unwrap().outputs;
        let got = run(&fused, &self.inputs, &BTreeMap::new(), Precision::Declared).unwrap().outputs;
        for (name, want) in &want {
            assert_close(&got[name], want, Tolerance::Within { absolute: 1e-4, relative: 1e-4 }, name);
        }
        fused
    }
}

fn permutes(model: &Model) -> usize {
    model.graph.nodes().iter().filter(|n| matches!(n.op, Op::Permute { .. })).count()
}

fn last_convs(model: &Model) -> usize {
    let last = |op: &Op| {
        matches!(
            op,
            Op::Machine(
                MachineOp::Conv { layout: Layout::ChannelsLast, .. }
                    | MachineOp::QConv { layout: Layout::ChannelsLast, .. }
            )
        )
    };
    model.graph.nodes().iter().filter(|n| last(&n.op)).count()
}

#[test]
fn resnet_20_keeps_one_reorder() {
    let mut net = Net::new();
    let image = net.input("x", &[2, 3, 16, 16]);
    let mut x = net.conv(image, 16, 3, 1, 1);
    x = net.relu(x);
    for (stage, width) in [16, 32, 64].into_iter().enumerate() {
        for block in 0..3 {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let mut y = net.conv(x, width, 3, stride, 1);
            y = net.relu(y);
            y = net.conv(y, width, 3, 1, 1);
            let shortcut = if stride == 2 { net.conv(x, width, 1, 2, 1) } else { x };
            x = if block == 1 { net.add(shortcut, y) } else { net.add(y, shortcut) };
            x = net.relu(x);
        }
    }
    x = net.global_mean(x);
    x = net.flatten(x);
    x = net.linear(x, 10, true);
    let fused = net.fused(&[x]);
    assert_eq!((last_convs(&fused), permutes(&fused)), (21, 1));
}

#[test]
fn a_mobile_network_keeps_one_reorder() {
    let mut net = Net::new();
    let image = net.input("x", &[1, 3, 17, 15]);
    let mut x = net.conv(image, 8, 3, 2, 1);
    x = net.clip(x);
    for (i, stride) in [1, 2, 1].into_iter().enumerate() {
        let mut y = net.conv(x, 24, 1, 1, 1);
        y = net.clip(y);
        y = net.conv(y, 24, 3, stride, 24);
        y = net.op(Op::Unary(Unary::HardSwish), &[y]);
        if i == 1 {
            // Squeeze and excitation.
            let mut gate = net.global_mean(y);
            gate = net.conv(gate, 6, 1, 1, 1);
            gate = net.relu(gate);
            gate = net.conv(gate, 24, 1, 1, 1);
            gate = net.op(Op::Unary(Unary::HardSigmoid { alpha: Real(1.0 / 6.0), beta: Real(0.5) }), &[gate]);
            y = net.op(Op::Binary(Binary::Mul), &[y, gate]);
        }
        y = net.conv(y, 8, 1, 1, 1);
        x = if stride == 1 { net.add(x, y) } else { y };
    }
    x = net.global_mean(x);
    x = net.flatten(x);
    x = net.linear(x, 7, false);
    let fused = net.fused(&[x]);
    assert_eq!((last_convs(&fused), permutes(&fused)), (12, 1));
    // Every activation is in an epilogue; what is left are the gate's product and nothing else elementwise.
    let chains = fused.graph.nodes().iter().filter(|n| matches!(n.op, Op::Machine(MachineOp::Chain(_)))).count();
    assert_eq!(chains, 1);
}

#[test]
fn flattening_into_a_constant_product_moves_the_weight() {
    for trans_b in [true, false] {
        let mut net = Net::new();
        let x = net.input("x", &[2, 3, 8, 8]);
        let mut y = net.conv(x, 5, 3, 1, 1);
        let spec = PoolSpec {
            kernel: vec![2; 2],
            strides: vec![2; 2],
            pads: vec![(0, 0); 2],
            dilations: vec![1; 2],
            ceil: false,
        };
        y = net.op(Op::Pool { kind: PoolKind::Max, spec }, &[y]);
        y = net.flatten(y);
        y = net.linear(y, 4, trans_b);
        let fused = net.fused(&[y]);
        assert_eq!(permutes(&fused), 1);
        assert!(fused.graph.nodes().iter().any(|n| matches!(n.op, Op::Machine(MachineOp::Pool { .. }))));
    }
    // The flattened value is a result as well, so it must have its own order.
    let mut net = Net::new();
    let x = net.input("x", &[2, 3, 4, 4]);
    let y = net.conv(x, 5, 3, 1, 1);
    let flat = net.flatten(y);
    let z = net.linear(flat, 4, true);
    assert_eq!(permutes(&net.fused(&[z, flat])), 2);
}

#[test]
fn patches_become_tokens_without_a_reorder() {
    let mut net = Net::new();
    let x = net.input("x", &[1, 3, 8, 8]);
    let w = net.weight(&[6, 3, 4, 4]);
    let spec = ConvSpec { strides: vec![4, 4], ..ConvSpec::unit(2) };
    let y = net.op(Op::Conv(spec), &[x, w]);
    let y = net.op(Op::Reshape { shape: [1, 6, 4].map(Dim::Const).to_vec() }, &[y]);
    let y = net.op(Op::Permute { perm: vec![0, 2, 1] }, &[y]);
    let y = net.op(Op::Softmax { axis: 2 }, &[y]);
    let fused = net.fused(&[y]);
    assert_eq!((last_convs(&fused), permutes(&fused)), (1, 1));
}

/// Between two convolutions each of these costs no reorder: one stands at the input, one at the output.
#[test]
fn what_stands_between_convolutions_follows() {
    type Build = fn(&mut Net, ValueId) -> ValueId;
    let table: &[(&str, Build)] = &[
        ("channel scale", |n, x| {
            let s = n.weight(&[6, 1, 1]);
            n.op(Op::Binary(Binary::Mul), &[x, s])
        }),
        ("computed scale", |n, x| {
            let s = n.input("s", &[6, 1, 1]);
            n.op(Op::Binary(Binary::Mul), &[s, x])
        }),
        ("gate", |n, x| {
            let gate = n.op(Op::Unary(Unary::Sigmoid), &[x]);
            n.op(Op::Binary(Binary::Mul), &[x, gate])
        }),
        ("comparison", |n, x| {
            let zero = n.model.graph.add_const(floats(&[], &[0.25]));
            let mask = n.op(Op::Compare(penjing_ir::Compare::Less), &[x, zero]);
            n.op(Op::Select, &[mask, zero, x])
        }),
        ("concat", |n, x| {
            let y = n.conv(x, 3, 1, 1, 1);
            n.op(Op::Concat { axis: 1 }, &[x, y, x])
        }),
        ("slice", |n, x| {
            let ranges = [(0, 2), (1, 4), (0, 7), (2, 5)].map(|(start, len)| SliceRange::span(start, len)).to_vec();
            n.op(Op::Slice { ranges }, &[x])
        }),
        ("pad", |n, x| {
            let (before, after) = (vec![0, 0, 1, 2], vec![0, 1, 0, 3]);
            n.op(Op::Pad { before, after, mode: PadMode::Constant(Real(0.5)) }, &[x])
        }),
        ("softmax", |n, x| n.op(Op::Softmax { axis: 1 }, &[x])),
        ("cumulative sum", |n, x| n.op(Op::CumSum { axis: 3, exclusive: false, reverse: false }, &[x])),
        ("reduce", |n, x| n.op(Op::Reduce { kind: Reduction::Max, axes: vec![1], keep: true }, &[x])),
        ("average pool", |n, x| {
            let kind = PoolKind::Average { count_include_pad: true };
            let spec = PoolSpec {
                kernel: vec![3, 2],
                strides: vec![2, 1],
                pads: vec![(1, 1), (0, 0)],
                dilations: vec![1, 1],
                ceil: false,
            };
            n.op(Op::Pool { kind, spec }, &[x])
        }),
        ("fake quantization", |n, x| {
            let scheme = QuantScheme { dtype: DType::I8, axis: Some(1), narrow: false };
            let scale = n.model.graph.add_const(uniform(&[6], 0.02, 0.05, "scale"));
            let zero = n.model.graph.add_const(Tensor::zeros(DType::I8, &[6]).unwrap());
            n.op(Op::FakeQuant(scheme), &[x, scale, zero])
        }),
        ("group shuffle", |n, x| {
            let [a, b] = [[2, 2, 3, 7, 9], [2, 6, 7, 9, 1]].map(|s: [usize; 5]| s.map(Dim::Const).to_vec());
            let y = n.op(Op::Reshape { shape: a }, &[x]);
            let y = n.op(Op::Unary(Unary::Tanh), &[y]);
            n.op(Op::Reshape { shape: b[..4].to_vec() }, &[y])
        }),
        ("norm of channels last", |n, x| {
            let y = n.op(Op::Permute { perm: vec![0, 2, 3, 1] }, &[x]);
            let [scale, bias] = ["scale", "bias"].map(|s| n.model.graph.add_const(normal(&[6], s)));
            let y = n.op(Op::LayerNorm { axis: 3, eps: Real(1e-5) }, &[y, scale, bias]);
            let w = n.weight(&[6, 6]);
            let y = n.op(Op::MatMul { trans_a: false, trans_b: false }, &[y, w]);
            let y = n.op(Op::Permute { perm: vec![0, 3, 1, 2] }, &[y]);
            n.add(x, y)
        }),
    ];
    for (name, build) in table {
        let mut net = Net::new();
        let x = net.input("x", &[2, 3, 7, 9]);
        let x = net.conv(x, 6, 3, 1, 1);
        let y = build(&mut net, x);
        let y = net.conv(y, 4, 3, 1, 1);
        let fused = net.fused(&[y]);
        // The runtime scale of the second case is six numbers under another shape.
        assert_eq!(permutes(&fused), 2, "{name}");
        assert!(last_convs(&fused) >= 2, "{name}");
    }
}

#[test]
fn other_ops_get_their_order_back() {
    let mut net = Net::new();
    let x = net.input("x", &[2, 3, 6, 5]);
    let x = net.conv(x, 4, 3, 1, 1);
    let [scale, bias] = ["scale", "bias"].map(|s| net.model.graph.add_const(normal(&[4], s)));
    let y = net.op(Op::GroupNorm { groups: 2, eps: Real(1e-5) }, &[x, scale, bias]);
    // Two readers share the one copy.
    let z = net.op(Op::GroupNorm { groups: 4, eps: Real(1e-5) }, &[x, scale, bias]);
    let y = net.add(y, z);
    let y = net.conv(y, 4, 3, 1, 1);
    let top = net.op(Op::ArgReduce { kind: ArgKind::Max, axis: 1, keep: false, last: false }, &[y]);
    assert_eq!(permutes(&net.fused(&[top])), 3);
}

#[test]
fn one_spatial_axis_moves_as_well() {
    let mut net = Net::new();
    let x = net.input("x", &[2, 3, 11]);
    let x = net.conv(x, 5, 3, 2, 1);
    let x = net.relu(x);
    let x = net.conv(x, 4, 3, 1, 1);
    let x = net.op(Op::Reduce { kind: Reduction::Max, axes: vec![2], keep: false }, &[x]);
    let fused = net.fused(&[x]);
    assert_eq!((last_convs(&fused), permutes(&fused)), (2, 1));
}

/// A convolution, batch norm and pooling with all their gradients.
fn training_step(groups: usize) -> Model {
    let mut net = Net::new();
    let x = net.input("x", &[2, 4, 8, 8]);
    let w = net.input("w", &[6, 4 / groups, 3, 3]);
    let (scale, bias) = (net.input("scale", &[6]), net.input("bias", &[6]));
    let dy = net.input("dy", &[2, 6, 4, 4]);
    let spec = ConvSpec { pads: vec![(1, 1); 2], groups, ..ConvSpec::unit(2) };
    let pool =
        PoolSpec { kernel: vec![2; 2], strides: vec![2; 2], pads: vec![(0, 0); 2], dilations: vec![1; 2], ceil: false };
    let (kind, eps) = (PoolKind::Max, Real(1e-5));
    let c = net.op(Op::Conv(spec.clone()), &[x, w]);
    let norm = net.model.graph.add_node("", Op::BatchNormTrain { eps }, &[c, scale, bias]).unwrap();
    let [y, mean, var] = net.model.graph.node(norm).outputs[..] else { panic!("three results") };
    let y = net.relu(y);
    let g = net.op(Op::PoolGrad { kind, spec: pool }, &[y, dy]);
    let grads = net.model.graph.add_node("", Op::BatchNormGrad { eps }, &[c, scale, mean, var, g]).unwrap();
    let [g, dscale, dbias] = net.model.graph.node(grads).outputs[..] else { panic!("three results") };
    let dw = net.op(Op::ConvWeightGrad { spec: spec.clone(), kernel: vec![3, 3] }, &[x, g]);
    let dx = net.op(Op::ConvTranspose { spec, output_pad: vec![0, 0] }, &[g, w]);
    net.fused(&[mean, var, dscale, dbias, dw, dx])
}

#[test]
fn a_training_step_moves_with_its_gradients() {
    let moved = |m: &Model| m.graph.nodes().iter().filter(|n| matches!(n.op, Op::Machine(MachineOp::Last(_)))).count();
    let fused = training_step(1);
    // x and dy come in, dx goes out.
    assert_eq!((moved(&fused), last_convs(&fused), permutes(&fused)), (5, 1, 3));
    let fused = training_step(2);
    assert_eq!((moved(&fused), last_convs(&fused), permutes(&fused)), (0, 0, 0));
}

#[test]
fn what_must_not_move_stays() {
    // Three spatial axes.
    let mut net = Net::new();
    let x = net.input("x", &[1, 2, 4, 5, 3]);
    let y = net.conv(x, 3, 3, 1, 1);
    let fused = net.fused(&[y]);
    assert_eq!((last_convs(&fused), permutes(&fused)), (0, 0));
    // A weight that a run may change.
    let mut net = Net::new();
    let x = net.input("x", &[1, 2, 4, 5]);
    let w = net.input("w", &[3, 2, 3, 3]);
    let y = net.op(Op::Conv(ConvSpec::unit(2)), &[x, w]);
    let y = net.relu(y);
    let fused = net.fused(&[y]);
    assert_eq!((last_convs(&fused), permutes(&fused)), (0, 0));
    // No convolution: poolings and the permutes of attention keep their order.
    let mut net = Net::new();
    let x = net.input("x", &[2, 4, 6, 5]);
    let spec =
        PoolSpec { kernel: vec![2; 2], strides: vec![2; 2], pads: vec![(0, 0); 2], dilations: vec![1; 2], ceil: false };
    let y = net.op(Op::Pool { kind: PoolKind::Max, spec }, &[x]);
    let y = net.op(Op::Permute { perm: vec![0, 3, 1, 2] }, &[y]);
    let y = net.relu(y);
    let fused = net.fused(&[y]);
    assert_eq!(permutes(&fused), 1);
    assert!(fused.graph.nodes().iter().any(|n| matches!(n.op, Op::Pool { .. })));
}

#[test]
fn integer_networks_reorder_bytes_once() {
    let mut net = Net::new();
    let x = net.input("x", &[2, 3, 8, 8]);
    let u8_grid = || QuantScheme { dtype: DType::U8, axis: None, narrow: false };
    let grid = |net: &mut Net, scale: f64| {
        let scale = net.model.graph.add_const(floats(&[], &[scale as f32]));
        let zero = net.model.graph.add_const(integers(DType::U8, &[], 121, 121, "zero"));
        [scale, zero]
    };
    let quantized = |net: &mut Net, x: ValueId, scale: f64| {
        let [scale, zero] = grid(net, scale);
        let q = net.op(Op::Quantize(u8_grid()), &[x, scale, zero]);
        net.op(Op::Dequantize(u8_grid()), &[q, scale, zero])
    };
    let weight = |net: &mut Net, shape: &[usize]| {
        let q = net.model.graph.add_const(integers(DType::I8, shape, -127, 127, "w"));
        let scale = net.model.graph.add_const(uniform(&[shape[0]], 0.001, 0.002, "sw"));
        let zero = net.model.graph.add_const(Tensor::zeros(DType::I8, &[shape[0]]).unwrap());
        net.op(Op::Dequantize(QuantScheme { dtype: DType::I8, axis: Some(0), narrow: true }), &[q, scale, zero])
    };
    let same = |groups| ConvSpec { pads: vec![(1, 1); 2], groups, ..ConvSpec::unit(2) };
    let mut y = quantized(&mut net, x, 0.03);
    for groups in [1, 6] {
        let inputs = net.shape(y)[1];
        let w = weight(&mut net, &[6, inputs / groups, 3, 3]);
        y = net.op(Op::Conv(same(groups)), &[y, w]);
        y = net.relu(y);
        y = quantized(&mut net, y, 0.04);
    }
    let pool =
        PoolSpec { kernel: vec![2; 2], strides: vec![2; 2], pads: vec![(0, 0); 2], dilations: vec![1; 2], ceil: false };
    y = net.op(Op::Pool { kind: PoolKind::Max, spec: pool }, &[y]);
    y = net.flatten(y);
    let w = weight(&mut net, &[5, 96]);
    y = net.op(Op::MatMul { trans_a: false, trans_b: true }, &[y, w]);
    let fused = net.fused(&[y]);
    assert_eq!((last_convs(&fused), permutes(&fused)), (2, 1));
    let reorder = fused.graph.nodes().iter().find(|n| matches!(n.op, Op::Permute { .. })).unwrap();
    assert_eq!(fused.graph.fact(reorder.outputs[0]).dtype, DType::U8);
    let products =
        fused.graph.nodes().iter().filter(|n| matches!(n.op, Op::Machine(MachineOp::QMatMul { .. }))).count();
    assert_eq!(products, 1);
}
