//! Fusion rules: for each a graph where it applies and one where it must not, and that fusing changes no result.

#![allow(clippy::unwrap_used)]

use penjing_exec::fuse;
use penjing_ir::{Activation, Binary, Fact, MachineOp, Model, Op, Real, Unary, ValueId};
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
