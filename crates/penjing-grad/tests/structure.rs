//! What differentiation refuses, what it leaves out, and quantization's straight-through rules.

#![allow(clippy::unwrap_used)]

use penjing_grad::{AdamW, GradError, LossConfig, OptimizerConfig, UpdateOptions, differentiate, training_graph};
use penjing_ir::{Fact, Graph, Model, Op, QuantScheme, Reduction, Scope, Stage, Unary, ValueId, verify};
use penjing_reference::{Precision, run_values};
use penjing_tensor::{DType, Tensor};
use penjing_testkit::{floats, golden_network};
use std::collections::BTreeMap;

fn sum(graph: &mut Graph, v: ValueId) -> ValueId {
    let axes: Vec<usize> = (0..graph.fact(v).rank()).collect();
    Scope::new(graph, "sum").reduce(Reduction::Sum, v, &axes).unwrap()
}

/// Beside the optimizer and the loss: one gradient kernel where a hand-written backward pass has one.
#[test]
fn the_backward_pass_of_simple_cnn_is_near_the_hand_written_one() {
    let network = golden_network("simplecnn");
    let mut model = network.model.clone();
    let logits = model.graph.output("logits").unwrap();
    let loss = sum(&mut model.graph, logits);
    let forward = model.graph.topological_order(&[loss]).unwrap().len();
    let weights: Vec<ValueId> = model.trainable().into_iter().map(|w| model.state_value(w)).collect();
    let grads: Vec<ValueId> = differentiate(&mut model.graph, loss, &weights).unwrap().into_iter().flatten().collect();
    let all: Vec<ValueId> = grads.iter().copied().chain([loss]).collect();
    let order = model.graph.topological_order(&all).unwrap();
    let names: Vec<&str> = order.iter().map(|&n| model.graph.node(n).op.name()).collect();
    let count = |name: &str| names.iter().filter(|n| **n == name).count();
    // Four weights, two pools, and no gradient of the images.
    assert_eq!((count("ConvWeightGrad"), count("ConvTranspose"), count("MaxPoolGrad")), (2, 1, 2));
    assert_eq!((count("MatMul"), count("Permute")), (2 + 4, 0));
    // Three ReLUs of two nodes each, four biases, one reshape, the gradient of the sum.
    let expected = 2 + 1 + 2 + 4 + 3 * 2 + 4 + 1 + 1;
    assert!(order.len() - forward <= expected, "{} backward nodes: {names:?}", order.len() - forward);
}

#[test]
fn a_split_joins_again_by_one_concat() {
    let mut model = Model::new("qkv");
    let x = model.graph.add_input("x", Fact::new(DType::F32, [2, 6]));
    let mut s = Scope::new(&mut model.graph, "");
    let parts: Vec<ValueId> = (0..3usize).map(|i| s.slice(x, 1, 2 * i, 2).unwrap()).collect();
    let product = s.mul(parts[0], parts[1]).unwrap();
    let product = s.mul(product, parts[2]).unwrap();
    let loss = sum(&mut model.graph, product);
    let grad = differentiate(&mut model.graph, loss, &[x]).unwrap()[0].unwrap();
    let order = model.graph.topological_order(&[grad]).unwrap();
    assert!(order.iter().all(|&n| !matches!(model.graph.node(n).op, Op::Pad { .. })));
}

#[test]
fn nodes_off_the_path_get_no_gradient() {
    let mut model = Model::new("frozen");
    let x = model.graph.add_input("x", Fact::new(DType::F32, [2]));
    let unused = model.graph.add_input("unused", Fact::new(DType::F32, [2]));
    let mut s = Scope::new(&mut model.graph, "");
    let e = s.unary(Unary::Exp, x).unwrap();
    let loss = sum(&mut model.graph, e);
    assert_eq!(differentiate(&mut model.graph, loss, &[unused]).unwrap(), [None]);
    // By an intermediate value, and by the loss itself.
    let grads = differentiate(&mut model.graph, loss, &[e, loss]).unwrap();
    assert!(grads.iter().all(Option::is_some));
    assert!(model.graph.topological_order(&[grads[0].unwrap()]).unwrap().len() <= 1);
}

#[test]
fn refusals_name_the_node() {
    let scheme = QuantScheme { dtype: DType::I8, axis: None, narrow: true };
    let mut model = Model::new("qdq");
    let x = model.graph.add_input("x", Fact::new(DType::F32, [2]));
    let mut s = Scope::new(&mut model.graph, "act");
    let (scale, zero) = (s.scalar(DType::F32, 0.1), s.scalar(DType::I8, 0.0));
    let q = s.op(Op::Quantize(scheme.clone()), &[x, scale, zero]).unwrap();
    let y = s.op(Op::Dequantize(scheme), &[q, scale, zero]).unwrap();
    let loss = sum(&mut model.graph, y);
    let error = differentiate(&mut model.graph, loss, &[x]).unwrap_err();
    assert!(matches!(&error, GradError::NoDerivative { node, .. } if node == "act/Quantize"), "{error}");
    let integer = model.graph.add_input("n", Fact::new(DType::I64, [2]));
    assert!(matches!(differentiate(&mut model.graph, loss, &[integer]), Err(GradError::NotFloat { .. })));
}

#[test]
fn control_flow_is_refused() {
    let mut model = Model::new("if");
    let mut body = Graph::new("body");
    let captured = body.add_input("x", Fact::scalar(DType::F32));
    body.add_output("y", captured);
    model.bodies = vec![body.clone(), body];
    let x = model.graph.add_input("x", Fact::scalar(DType::F32));
    let c = model.graph.add_input("c", Fact::scalar(DType::Bool));
    let op = Op::If { then_body: penjing_ir::BodyId(0), else_body: penjing_ir::BodyId(1) };
    let node = model.graph.add_node_with_facts("branch", op, &[c, x], vec![Fact::scalar(DType::F32)]);
    let y = model.graph.node(node).outputs[0];
    assert!(matches!(
        differentiate(&mut model.graph, y, &[x]),
        Err(GradError::NoDerivative { node, .. }) if node == "branch"
    ));
}

/// x/s + z = −130 … 130 on an int8 grid with s = 0.5 and z = 3.
#[test]
fn fake_quantization_is_straight_through() {
    let x = [-66.5f32, -65.5, -65.0, -1.1, 0.3, 61.9, 62.0, 62.3, 70.0];
    for axis in [None, Some(0)] {
        let scheme = QuantScheme { dtype: DType::I8, axis, narrow: false };
        let mut model = Model::new("fq");
        let input = model.graph.add_input("x", Fact::new(DType::F32, [1, x.len()]));
        let (shape, grid): (&[usize], _) = if axis.is_some() { (&[1], "vector") } else { (&[], "scalar") };
        let scale = model.add_weight(grid, Tensor::from_vec(shape, vec![0.5f32]).unwrap());
        let zero = model.graph.add_const(Tensor::from_vec(shape, vec![3i8]).unwrap());
        let mut s = Scope::new(&mut model.graph, "");
        let y = s.op(Op::FakeQuant(scheme), &[input, scale, zero]).unwrap();
        let loss = sum(&mut model.graph, y);
        let grads = differentiate(&mut model.graph, loss, &[input, scale]).unwrap();
        verify(&model, Stage::Canonical).unwrap();
        let inputs = BTreeMap::from([("x".to_string(), floats(&[1, x.len()], &x))]);
        let wanted = [grads[0].unwrap(), grads[1].unwrap()];
        let values = run_values(&model, &inputs, &BTreeMap::new(), Precision::F64, &wanted).unwrap();
        let inside = |x: f32| (-128.0..=127.0).contains(&(f64::from(x) / 0.5 + 3.0));
        let want: Vec<f64> = x.iter().map(|&x| f64::from(u8::from(inside(x)))).collect();
        assert_eq!(values[0].to_f64s(), want);
        // LSQ: round(v) − v inside, the bound outside, v being x/s (the zero point shifts both).
        let slope = |x: f32| {
            let v = f64::from(x) / 0.5;
            if inside(x) { v.round_ties_even() - v } else { (v + 3.0).clamp(-128.0, 127.0) - 3.0 }
        };
        let want: f64 = x.iter().map(|&x| slope(x)).sum();
        assert!((values[1].to_f64s()[0] - want).abs() < 1e-9);
    }
}

#[test]
fn building_twice_gives_the_same_graph() {
    let build = || {
        let network = golden_network("decoder");
        let (loss, options) =
            (LossConfig::CrossEntropy { smoothing: 0.1, ignore: Some(-100) }, UpdateOptions::default());
        let model = training_graph(&network.model, None, &loss, &OptimizerConfig::AdamW(AdamW::default()), &options);
        format!("{:?}", model.unwrap().graph.nodes())
    };
    assert_eq!(build(), build());
}
