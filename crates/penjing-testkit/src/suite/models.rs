//! Cases of more than one op: states, carries, symbols, branches, and small networks of each kind.

use super::Case;
use crate::{Tolerance, integers, normal, uniform};
use penjing_ir::{
    Binary, BodyId, Carry, ConvSpec, Dim, Direction, Fact, Graph, Model, Op, PoolKind, PoolSpec, QuantScheme, Real,
    Reduction, Role, Scope, Stage, Symbol, Unary, ValueId,
};
use penjing_tensor::{DType, Tensor};
use std::collections::BTreeMap;

pub(super) fn cases() -> Vec<Case> {
    vec![
        residual_cnn(),
        transformer_block(),
        lstm_classifier(),
        quantized_linear(),
        running_mean(),
        symbolic_reshape(),
        late_symbol(),
        branch("then", true),
        branch("else", false),
        shared_value(),
    ]
}

fn case(name: &str, model: Model, inputs: &[(&str, Tensor)], tolerance: Tolerance) -> Case {
    let inputs: BTreeMap<String, Tensor> = inputs.iter().map(|(n, t)| (n.to_string(), t.clone())).collect();
    Case { name: format!("models/{name}"), model, inputs, tolerance, stage: Stage::Canonical }
}

fn apply(m: &mut Model, op: Op, inputs: &[ValueId]) -> ValueId {
    m.graph.apply("", op, inputs).expect("the operands of a case fit")
}

fn weight(m: &mut Model, name: &str, shape: &[usize]) -> ValueId {
    let bound = 1.0 / (shape.iter().skip(1).product::<usize>().max(1) as f64).sqrt();
    m.add_weight(name, uniform(shape, -bound, bound, name))
}

fn residual_cnn() -> Case {
    let mut m = Model::new("residual cnn");
    let x = m.graph.add_input("x", Fact::new(DType::F32, [2, 3, 8, 8]));
    let same = || ConvSpec { pads: vec![(1, 1), (1, 1)], ..ConvSpec::unit(2) };
    let w0 = weight(&mut m, "stem.weight", &[6, 3, 3, 3]);
    let w1 = weight(&mut m, "block.weight", &[6, 6, 3, 3]);
    let b1 = weight(&mut m, "block.bias", &[6]);
    let stem = apply(&mut m, Op::Conv(same()), &[x, w0]);
    let scale = m.add_weight("norm.weight", uniform(&[6], 0.5, 1.5, "norm.weight"));
    let bias = weight(&mut m, "norm.bias", &[6]);
    let mean = m.add_state("norm.mean", Role::Buffer, false, normal(&[6], "mean"));
    let var = m.add_state("norm.var", Role::Buffer, false, uniform(&[6], 0.5, 2.0, "var"));
    let norm = Op::BatchNorm { eps: Real(1e-5), momentum: Real(0.9) };
    let normed = apply(&mut m, norm, &[stem, scale, bias, mean, var]);
    let active = apply(&mut m, Op::Unary(Unary::Relu), &[normed]);
    let block = apply(&mut m, Op::Conv(same()), &[active, w1, b1]);
    let sum = apply(&mut m, Op::Binary(Binary::Add), &[block, active]);
    let active = apply(&mut m, Op::Unary(Unary::Relu), &[sum]);
    let spec =
        PoolSpec { kernel: vec![2, 2], strides: vec![2, 2], pads: vec![(0, 0); 2], dilations: vec![1, 1], ceil: false };
    let pooled = apply(&mut m, Op::Pool { kind: PoolKind::Max, spec }, &[active]);
    let flat = apply(&mut m, Op::Reshape { shape: vec![2.into(), 96.into()] }, &[pooled]);
    let (w, b) = (weight(&mut m, "head.weight", &[5, 96]), weight(&mut m, "head.bias", &[5]));
    let y = Scope::new(&mut m.graph, "head").linear(flat, w, Some(b)).expect("the head fits");
    m.graph.add_output("logits", y);
    case("residual cnn", m, &[("x", normal(&[2, 3, 8, 8], "x"))], Tolerance::Accumulating(128))
}

fn transformer_block() -> Case {
    let mut m = Model::new("transformer block");
    let (batch, time, width, heads) = (2, 5, 12, 3);
    let tokens = m.graph.add_input("tokens", Fact::new(DType::I64, [batch, time]));
    let table = weight(&mut m, "embedding", &[11, width]);
    let x = apply(&mut m, Op::Gather { axis: 0 }, &[table, tokens]);
    let (scale, bias) = (weight(&mut m, "norm.weight", &[width]), weight(&mut m, "norm.bias", &[width]));
    let normed = apply(&mut m, Op::LayerNorm { axis: 2, eps: Real(1e-5) }, &[x, scale, bias]);
    let split = |m: &mut Model, name: &str| {
        let w = weight(m, name, &[width, width]);
        let y = apply(m, Op::MatMul { trans_a: false, trans_b: true }, &[normed, w]);
        let shape = [batch, time, heads, width / heads].map(Dim::Const).to_vec();
        let y = apply(m, Op::Reshape { shape }, &[y]);
        apply(m, Op::Permute { perm: vec![0, 2, 1, 3] }, &[y])
    };
    let (q, k, v) = (split(&mut m, "q"), split(&mut m, "k"), split(&mut m, "v"));
    let mixed = apply(&mut m, Op::Attention { scale: Real(0.5), causal: true }, &[q, k, v]);
    let mixed = apply(&mut m, Op::Permute { perm: vec![0, 2, 1, 3] }, &[mixed]);
    let mixed = apply(&mut m, Op::Reshape { shape: [batch, time, width].map(Dim::Const).to_vec() }, &[mixed]);
    let x = apply(&mut m, Op::Binary(Binary::Add), &[x, mixed]);
    let (up, down) = (weight(&mut m, "up", &[width, 24]), weight(&mut m, "down", &[24, width]));
    let product = || Op::MatMul { trans_a: false, trans_b: false };
    let hidden = apply(&mut m, product(), &[x, up]);
    let hidden = apply(&mut m, Op::Unary(Unary::Gelu), &[hidden]);
    let y = apply(&mut m, product(), &[hidden, down]);
    let y = apply(&mut m, Op::Binary(Binary::Add), &[x, y]);
    let logits = apply(&mut m, Op::MatMul { trans_a: false, trans_b: true }, &[y, table]);
    m.graph.add_output("logits", logits);
    let tokens = integers(DType::I64, &[batch, time], 0, 10, "tokens");
    case("transformer block", m, &[("tokens", tokens)], Tolerance::Accumulating(256))
}

fn lstm_classifier() -> Case {
    let mut m = Model::new("lstm classifier");
    let (time, batch, width, hidden) = (6, 3, 5, 4);
    let x = m.graph.add_input("x", Fact::new(DType::F32, [time, batch, width]));
    let w = weight(&mut m, "w", &[2, 4 * hidden, width]);
    let r = weight(&mut m, "r", &[2, 4 * hidden, hidden]);
    let b = weight(&mut m, "b", &[2, 8 * hidden]);
    let zero = m.graph.add_const(Tensor::zeros(DType::F32, &[2, batch, hidden]).expect("a small tensor"));
    let op = Op::Lstm { direction: Direction::Bidirectional, reserve: false };
    let h = m.graph.add_node("lstm", op, &[x, w, r, b, zero, zero]).expect("the operands fit");
    let last = m.graph.node(h).outputs[1];
    let last = apply(&mut m, Op::Permute { perm: vec![1, 0, 2] }, &[last]);
    let flat = apply(&mut m, Op::Reshape { shape: [batch, 2 * hidden].map(Dim::Const).to_vec() }, &[last]);
    let head = weight(&mut m, "head", &[7, 2 * hidden]);
    let y = apply(&mut m, Op::MatMul { trans_a: false, trans_b: true }, &[flat, head]);
    m.graph.add_output("logits", y);
    let x = normal(&[time, batch, width], "x");
    case("lstm classifier", m, &[("x", x)], Tolerance::Accumulating(128))
}

/// DQ(Q(x)) · DQ(w)ᵀ with per-channel weights, as quantization passes write it.
fn quantized_linear() -> Case {
    let mut m = Model::new("quantized linear");
    let x = m.graph.add_input("x", Fact::new(DType::F32, [3, 16]));
    let act = QuantScheme { dtype: DType::U8, axis: None, narrow: false };
    let weights = QuantScheme { dtype: DType::I8, axis: Some(0), narrow: true };
    let scale = m.graph.add_const(Tensor::scalar(0.03f32));
    let zero = m.graph.add_const(Tensor::scalar(128u8));
    let q = apply(&mut m, Op::Quantize(act.clone()), &[x, scale, zero]);
    let dq = apply(&mut m, Op::Dequantize(act), &[q, scale, zero]);
    let w = m.add_state("w", Role::Weight, false, integers(DType::I8, &[5, 16], -127, 127, "w"));
    let w_scale = m.graph.add_const(uniform(&[5], 0.005, 0.02, "w_scale"));
    let w_zero = m.graph.add_const(integers(DType::I8, &[5], 0, 0, "w_zero"));
    let dw = apply(&mut m, Op::Dequantize(weights), &[w, w_scale, w_zero]);
    let y = apply(&mut m, Op::MatMul { trans_a: false, trans_b: true }, &[dq, dw]);
    m.graph.add_output("y", y);
    case("quantized linear", m, &[("x", normal(&[3, 16], "x"))], Tolerance::Accumulating(32))
}

/// A buffer that each run moves towards the mean of its input.
fn running_mean() -> Case {
    let mut m = Model::new("running mean");
    let x = m.graph.add_input("x", Fact::new(DType::F32, [7, 3]));
    let buffer = m.add_state("running", Role::Buffer, false, normal(&[3], "running"));
    let mut s = Scope::new(&mut m.graph, "");
    let mean = s.reduce(Reduction::Mean, x, &[0]).expect("axis 0 exists");
    let old = s.scale(buffer, 0.9).expect("a float");
    let new = s.scale(mean, 0.1).expect("a float");
    let next = s.add(old, new).expect("both are [3]");
    let centred = s.sub(x, buffer).expect("[7, 3] and [3] broadcast");
    m.graph.add_output("centred", centred);
    let state = m.find_state("running").expect("it was just added");
    m.carries.push(Carry { value: next, state });
    case("running mean", m, &[("x", normal(&[7, 3], "x"))], Tolerance::Accumulating(16))
}

fn symbolic_reshape() -> Case {
    let mut m = Model::new("symbolic reshape");
    let (n, t) = (Dim::sym("N"), Dim::sym("T"));
    let x = m.graph.add_input("x", Fact { dtype: DType::F32, shape: vec![n.clone(), t.clone(), 4.into()] });
    let flat = apply(&mut m, Op::Reshape { shape: vec![n * t.clone(), 4.into()] }, &[x]);
    let w = weight(&mut m, "w", &[3, 4]);
    let y = apply(&mut m, Op::MatMul { trans_a: false, trans_b: true }, &[flat, w]);
    let positions = apply(&mut m, Op::Iota { shape: vec![t], axis: 0, dtype: DType::I64 }, &[]);
    m.graph.add_output("y", y);
    m.graph.add_output("positions", positions);
    case("symbolic reshape", m, &[("x", normal(&[2, 3, 4], "x"))], Tolerance::Accumulating(16))
}

fn late_symbol() -> Case {
    let mut m = Model::new("late symbol");
    let x = m.graph.add_input("x", Fact::new(DType::F32, [11]));
    let active = apply(&mut m, Op::Unary(Unary::Relu), &[x]);
    let count = Symbol::late("count");
    let places = apply(&mut m, Op::NonZero { count: count.clone() }, &[active]);
    let flat = apply(&mut m, Op::Reshape { shape: vec![Dim::from_symbol(count)] }, &[places]);
    let picked = apply(&mut m, Op::Gather { axis: 0 }, &[x, flat]);
    m.graph.add_output("picked", picked);
    case("late symbol", m, &[("x", normal(&[11], "x"))], Tolerance::Exact)
}

fn branch(name: &str, flag: bool) -> Case {
    let mut m = Model::new("branch");
    let fact = Fact::new(DType::F32, [5]);
    for unary in [Unary::Neg, Unary::Relu] {
        let mut body = Graph::new(unary.name());
        let x = body.add_input("captured", fact.clone());
        let y = body.apply("", Op::Unary(unary), &[x]).expect("a float");
        body.add_output("y", y);
        m.bodies.push(body);
    }
    let condition = m.graph.add_input("condition", Fact::scalar(DType::Bool));
    let x = m.graph.add_input("x", fact.clone());
    let op = Op::If { then_body: BodyId(0), else_body: BodyId(1) };
    let node = m.graph.add_node_with_facts("if", op, &[condition, x], vec![fact]);
    m.graph.add_output("y", m.graph.node(node).outputs[0]);
    let condition = Tensor::from_bools(&[], &[flag]).expect("one element");
    case(&format!("branch, {name}"), m, &[("condition", condition), ("x", normal(&[5], "x"))], Tolerance::Exact)
}

/// A value that is read twice, is an output, and feeds a node with two equal operands: where in-place reuse must not happen.
fn shared_value() -> Case {
    let mut m = Model::new("shared value");
    let x = m.graph.add_input("x", Fact::new(DType::F32, [3, 5]));
    let mut s = Scope::new(&mut m.graph, "");
    let a = s.relu(x).expect("a float");
    let square = s.mul(a, a).expect("one shape");
    let sum = s.add(a, x).expect("one shape");
    let both = s.concat(&[square, sum, a], 0).expect("one width");
    m.graph.add_output("a", a);
    m.graph.add_output("both", both);
    case("shared value", m, &[("x", normal(&[3, 5], "x"))], Tolerance::Exact)
}
