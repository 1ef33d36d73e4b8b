//! Fusion rules: for each a graph where it applies and one where it must not, and that fusing changes no result.

#![allow(clippy::unwrap_used)]

use penjing_exec::fuse;
use penjing_ir::{Activation, Binary, Dim, Fact, HeadLayout, MachineOp, Model, Op, Real, SliceRange, Unary, ValueId};
use penjing_reference::{Precision, run};
use penjing_tensor::{DType, Tensor};
use penjing_testkit::{Tolerance, assert_close, normal};
use std::collections::BTreeMap;

/// A model under construction whose inputs are normal numbers.
struct Net {
    model: Model,
    inputs: BTreeMap<String, Tensor>,
}

impl Net {
    fn new() -> Net {
        Net { model: Model::new("net"), inputs: BTreeMap::new() }
    }

    fn input(&mut self, name: &str, shape: &[usize]) -> ValueId {
        let x = normal(shape, name);
        let v = self.model.graph.add_input(name, Fact::of(&x));
        self.inputs.insert(name.into(), x);
        v
    }

    fn weight(&mut self, name: &str, shape: &[usize]) -> ValueId {
        self.model.graph.add_const(normal(shape, name))
    }

    fn scalar(&mut self, v: f32) -> ValueId {
        self.model.graph.add_const(Tensor::scalar(f64::from(v)).cast(DType::F32))
    }

    fn op(&mut self, op: Op, x: &[ValueId]) -> ValueId {
        self.model.graph.apply("n", op, x).unwrap()
    }

    fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.op(Op::Binary(Binary::Add), &[a, b])
    }

    fn matmul(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.op(Op::MatMul { trans_a: false, trans_b: false }, &[a, b])
    }

    /// Names `outputs`, fuses, checks that the outputs stay what they were, and returns the fused ops.
    fn fused(mut self, outputs: &[ValueId]) -> Vec<Op> {
        for (i, &v) in outputs.iter().enumerate() {
            self.model.graph.add_output(&format!("y{i}"), v);
        }
        let fused = fuse(&self.model).unwrap();
        let of = |m: &Model| run(m, &self.inputs, &BTreeMap::new(), Precision::Declared).unwrap().outputs;
        let (want, got) = (of(&self.model), of(&fused));
        for (name, want) in &want {
            assert_close(&got[name], want, Tolerance::Accumulating(64), name);
        }
        fused.graph.nodes().iter().map(|n| n.op.clone()).collect()
    }
}

fn linear(act: Activation) -> Op {
    Op::Machine(MachineOp::MatMul { trans_a: false, trans_b: false, act })
}

/// x·w + b, not fused yet.
fn affine(net: &mut Net) -> (ValueId, ValueId) {
    let (x, w, b) = (net.input("x", &[2, 3, 5]), net.weight("w", &[5, 5]), net.weight("b", &[5]));
    let product = net.matmul(x, w);
    (x, net.add(product, b))
}

#[test]
fn every_activation_joins_its_product() {
    let hard = Unary::HardSigmoid { alpha: Real(0.25), beta: Real(0.5) };
    let (gelu, tanh) = (Unary::Gelu, Unary::GeluTanh);
    for f in [Unary::Relu, gelu, tanh, Unary::Silu, Unary::Sigmoid, Unary::Tanh, Unary::HardSwish, hard] {
        let mut net = Net::new();
        let (_, sum) = affine(&mut net);
        let y = net.op(Op::Unary(f), &[sum]);
        assert_eq!(net.fused(&[y]), [linear(Activation::of(f).unwrap())]);
    }
    let mut net = Net::new();
    let (_, sum) = affine(&mut net);
    let (lo, hi) = (net.scalar(0.0), net.scalar(6.0));
    let floor = net.op(Op::Binary(Binary::Max), &[sum, lo]);
    let y = net.op(Op::Binary(Binary::Min), &[hi, floor]);
    assert_eq!(net.fused(&[y]), [linear(Activation::Clamp { lo: Real(0.0), hi: Real(6.0) })]);
}

#[test]
fn a_function_that_no_epilogue_has_or_a_shared_sum_stays_outside() {
    let mut net = Net::new();
    let (_, sum) = affine(&mut net);
    let y = net.op(Op::Unary(Unary::Exp), &[sum]);
    assert_eq!(net.fused(&[y]).first(), Some(&linear(Activation::None)));
    let mut net = Net::new();
    let (_, sum) = affine(&mut net);
    let y = net.op(Op::Unary(Unary::Gelu), &[sum]);
    assert_eq!(net.fused(&[y, sum]).first(), Some(&linear(Activation::None)));
    // The limit is not a constant.
    let mut net = Net::new();
    let (_, sum) = affine(&mut net);
    let lo = net.input("lo", &[]);
    let hi = net.scalar(6.0);
    let floor = net.op(Op::Binary(Binary::Max), &[sum, lo]);
    let y = net.op(Op::Binary(Binary::Min), &[floor, hi]);
    assert_eq!(net.fused(&[y]).first(), Some(&linear(Activation::None)));
}

#[test]
fn a_residual_joins_before_the_activation() {
    let mut net = Net::new();
    let (x, sum) = affine(&mut net);
    let y = net.add(x, sum);
    let y = net.op(Op::Unary(Unary::Silu), &[y]);
    assert_eq!(net.fused(&[y]), [linear(Activation::Silu)]);
    // Without a bias.
    let mut net = Net::new();
    let (x, w) = (net.input("x", &[4, 5]), net.weight("w", &[5, 5]));
    let product = net.matmul(x, w);
    let y = net.add(product, x);
    assert_eq!(net.fused(&[y]), [linear(Activation::None)]);
}

#[test]
fn regrouped_rows_do_not_part_a_product_from_what_follows() {
    let reshape = |shape: &[usize]| Op::Reshape { shape: shape.iter().map(|&n| Dim::Const(n)).collect() };
    let mut net = Net::new();
    let (x, w, b) = (net.input("x", &[6, 5]), net.weight("w", &[5, 4]), net.weight("b", &[4]));
    let residual = net.input("r", &[2, 3, 4]);
    let product = net.matmul(x, w);
    let sum = net.add(product, b);
    let sum = net.op(reshape(&[2, 3, 4]), &[sum]);
    let sum = net.add(sum, residual);
    let y = net.op(Op::Unary(Unary::GeluTanh), &[sum]);
    assert_eq!(net.fused(&[y]), [reshape(&[2, 3, 5]), linear(Activation::GeluTanh)]);
    // Columns are regrouped too, or somebody else reads the sum.
    for (shape, shared) in [(&[6, 2, 2][..], false), (&[2, 3, 4], true)] {
        let mut net = Net::new();
        let (x, w) = (net.input("x", &[6, 5]), net.weight("w", &[5, 4]));
        let product = net.matmul(x, w);
        let y = net.op(reshape(shape), &[product]);
        let y = net.op(Op::Unary(Unary::Gelu), &[y]);
        let outputs = if shared { vec![y, product] } else { vec![y] };
        assert_eq!(net.fused(&outputs)[0], Op::MatMul { trans_a: false, trans_b: false });
    }
}

#[test]
fn a_residual_that_broadcasts_or_needs_the_product_stays_outside() {
    let mut net = Net::new();
    let (_, sum) = affine(&mut net);
    let row = net.input("row", &[3, 5]);
    let y = net.add(sum, row);
    let ops = net.fused(&[y]);
    assert_eq!(ops.len(), 2, "{ops:?}");
    // The other addend is made of the product.
    let mut net = Net::new();
    let (_, sum) = affine(&mut net);
    let gate = net.op(Op::Unary(Unary::Exp), &[sum]);
    let y = net.add(sum, gate);
    assert_eq!(net.fused(&[y]).first(), Some(&linear(Activation::None)));
    // After the activation is not before it.
    let mut net = Net::new();
    let (x, sum) = affine(&mut net);
    let y = net.op(Op::Unary(Unary::Tanh), &[sum]);
    let y = net.add(y, x);
    let ops = net.fused(&[y]);
    assert_eq!((ops.len(), &ops[0]), (2, &linear(Activation::Tanh)), "{ops:?}");
}

#[test]
fn of_two_products_that_are_added_each_is_fused_once() {
    let mut net = Net::new();
    let (x, w, v) = (net.input("x", &[4, 5]), net.weight("w", &[5, 5]), net.weight("v", &[5, 5]));
    let b = net.weight("b", &[5]);
    let (p, q) = (net.matmul(x, w), net.matmul(x, v));
    let q = net.add(q, b);
    let y = net.add(p, q);
    assert_eq!(net.fused(&[y]), [linear(Activation::None), linear(Activation::None)]);
}

/// x: [2, 5, columns] → its columns `first..first + 12` as four heads of width 3.
fn split(net: &mut Net, x: ValueId, first: usize) -> ValueId {
    let shape = |net: &Net, v: ValueId| net.model.graph.fact(v).concrete().unwrap();
    let mut v = x;
    if shape(net, x)[2] > 12 {
        let whole = |n: usize| SliceRange::full(&n.into());
        let ranges = vec![whole(2), whole(5), SliceRange { start: first.into(), len: 12.into(), step: 1 }];
        v = net.op(Op::Slice { ranges }, &[x]);
    }
    let v = net.op(Op::Reshape { shape: [2, 5, 4, 3].map(Dim::Const).to_vec() }, &[v]);
    net.op(Op::Permute { perm: vec![0, 2, 1, 3] }, &[v])
}

fn attention(net: &mut Net, q: ValueId, k: ValueId, v: ValueId) -> ValueId {
    net.op(Op::Attention { scale: Real(0.5), causal: true }, &[q, k, v])
}

/// Layouts of q, k, v and the result of the only machine attention.
fn layouts(ops: &[Op]) -> Option<[HeadLayout; 4]> {
    ops.iter().find_map(|op| match op {
        Op::Machine(MachineOp::Attention(s)) => Some([s.q, s.k, s.v, s.out]),
        _ => None,
    })
}

const APART: HeadLayout = HeadLayout::Apart;

fn columns(first: usize) -> HeadLayout {
    HeadLayout::Columns { first }
}

#[test]
fn heads_of_projections_are_neither_split_nor_merged() {
    let mut net = Net::new();
    let x = net.input("qkv", &[2, 5, 36]);
    let [q, k, v] = [0, 12, 24].map(|first| split(&mut net, x, first));
    let y = attention(&mut net, q, k, v);
    let y = net.op(Op::Permute { perm: vec![0, 2, 1, 3] }, &[y]);
    let y = net.op(Op::Reshape { shape: [10, 12].map(Dim::Const).to_vec() }, &[y]);
    let ops = net.fused(&[y]);
    assert_eq!(layouts(&ops), Some([columns(0), columns(12), columns(24), columns(0)]));
    assert!(ops.iter().all(|op| matches!(op, Op::Machine(_) | Op::Reshape { .. })), "{ops:?}");
}

#[test]
fn heads_that_are_apart_stay_apart() {
    // Keys and values of a cache, and a result that two read.
    let mut net = Net::new();
    let x = net.input("q", &[2, 5, 12]);
    let (k, v) = (net.input("k", &[2, 4, 7, 3]), net.input("v", &[2, 4, 7, 3]));
    let q = split(&mut net, x, 0);
    let y = attention(&mut net, q, k, v);
    let merged = net.op(Op::Permute { perm: vec![0, 2, 1, 3] }, &[y]);
    assert_eq!(layouts(&net.fused(&[y, merged])), Some([columns(0), APART, APART, APART]));
    // Another permutation; heads that are not whole columns.
    let mut net = Net::new();
    let x = net.input("x", &[2, 4, 5, 3]);
    let (k, v) = (net.input("k", &[2, 4, 7, 3]), net.input("v", &[2, 4, 7, 3]));
    let q = net.op(Op::Permute { perm: vec![1, 0, 2, 3] }, &[x]);
    let q = net.op(Op::Reshape { shape: [2, 4, 5, 3].map(Dim::Const).to_vec() }, &[q]);
    let y = attention(&mut net, q, k, v);
    assert_eq!(layouts(&net.fused(&[y])), None);
    let mut net = Net::new();
    let x = net.input("x", &[2, 60]);
    let (k, v) = (net.input("k", &[2, 4, 7, 3]), net.input("v", &[2, 4, 7, 3]));
    let q = net.op(Op::Reshape { shape: [2, 5, 4, 3].map(Dim::Const).to_vec() }, &[x]);
    let q = net.op(Op::Permute { perm: vec![0, 2, 1, 3] }, &[q]);
    let y = attention(&mut net, q, k, v);
    assert_eq!(layouts(&net.fused(&[y])), None);
}
