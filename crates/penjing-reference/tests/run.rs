//! Whole models: binding, states and carries, precision, late symbols, branches, and errors that say where.

#![allow(clippy::unwrap_used)]

use penjing_ir::*;
use penjing_reference::{Precision, RefError, run, run_values};
use penjing_tensor::{DType, Tensor};
use std::collections::BTreeMap;

fn f(shape: &[usize], v: &[f32]) -> Tensor {
    Tensor::from_vec(shape, v.to_vec()).unwrap()
}

fn named(pairs: &[(&str, Tensor)]) -> BTreeMap<String, Tensor> {
    pairs.iter().map(|(n, t)| (n.to_string(), t.clone())).collect()
}

fn none() -> BTreeMap<String, Tensor> {
    BTreeMap::new()
}

/// y = x + w, and the state w becomes w + Σx.
fn accumulator() -> Model {
    let mut m = Model::new("accumulator");
    let x =
        m.graph.add_input("x", Fact { dtype: DType::F32, shape: vec![Dim::sym("N"), Dim::sym("N") * Dim::Const(2)] });
    let w = m.add_state("w", Role::Buffer, false, f(&[], &[1.0]));
    let mut s = Scope::new(&mut m.graph, "");
    let y = s.add(x, w).unwrap();
    let sum = s.reduce(Reduction::Sum, x, &[0, 1]).unwrap();
    let next = s.add(w, sum).unwrap();
    m.graph.add_output("y", y);
    let state = m.find_state("w").unwrap();
    m.carries.push(Carry { value: next, state });
    m
}

#[test]
fn symbols_bind_and_states_carry() {
    let m = accumulator();
    let x = f(&[1, 2], &[2.0, 3.0]);
    let first = run(&m, &named(&[("x", x.clone())]), &none(), Precision::Declared).unwrap();
    assert_eq!(first.outputs["y"], f(&[1, 2], &[3.0, 4.0]));
    assert_eq!(first.states["w"], f(&[], &[6.0]));
    let second = run(&m, &named(&[("x", x)]), &first.states, Precision::Declared).unwrap();
    assert_eq!(second.outputs["y"], f(&[1, 2], &[8.0, 9.0]));
}

#[test]
fn f64_runs_do_not_round() {
    let m = accumulator();
    let tiny = Tensor::from_vec(&[1, 2], vec![1e-12f64, 0.0]).unwrap();
    let out = run(&m, &named(&[("x", tiny.clone())]), &none(), Precision::F64).unwrap();
    assert_eq!(out.outputs["y"].as_slice::<f64>().unwrap(), [1.0 + 1e-12, 1.0]);
    let refused = run(&m, &named(&[("x", tiny)]), &none(), Precision::Declared);
    assert!(matches!(refused, Err(RefError::WrongDType { want: DType::F32, have: DType::F64, .. })));
}

#[test]
fn wrong_inputs_are_named() {
    let m = accumulator();
    let go = |inputs: &[(&str, Tensor)], states: &[(&str, Tensor)]| {
        run(&m, &named(inputs), &named(states), Precision::Declared).unwrap_err()
    };
    let good = f(&[1, 2], &[0.0; 2]);
    assert!(matches!(go(&[], &[]), RefError::MissingInput { .. }));
    assert!(matches!(go(&[("z", good.clone())], &[]), RefError::Unknown { kind: "input", .. }));
    assert!(matches!(go(&[("x", f(&[2], &[0.0; 2]))], &[]), RefError::InputRank { want: 2, .. }));
    let extent = go(&[("x", f(&[2, 3], &[0.0; 6]))], &[]);
    assert_eq!(extent.to_string(), "input `x`, axis 1: extent 3, the model declares 2*N = 4");
    assert!(matches!(go(&[("x", good.clone())], &[("v", f(&[], &[0.0]))]), RefError::Unknown { kind: "state", .. }));
    assert!(matches!(go(&[("x", good)], &[("w", f(&[1], &[0.0]))]), RefError::StateShape { .. }));
}

#[test]
fn late_symbols_bind_as_nodes_run() {
    let mut m = Model::new("late");
    let x = m.graph.add_input("x", Fact::new(DType::F32, [4]));
    let k = Dim::from_symbol(Symbol::late("k"));
    // The count is read by a node that no edge joins to NonZero and that is added first.
    let count = m.graph.apply("", Op::DimValues { dims: vec![k.clone() + Dim::Const(10)] }, &[]).unwrap();
    let places = m.graph.apply("", Op::NonZero { count: Symbol::late("k") }, &[x]).unwrap();
    let flat = m.graph.apply("", Op::Reshape { shape: vec![k] }, &[places]).unwrap();
    let picked = m.graph.apply("", Op::Gather { axis: 0 }, &[x, flat]).unwrap();
    m.graph.add_output("count", count);
    m.graph.add_output("picked", picked);
    let go = |v: &[f32]| run(&m, &named(&[("x", f(&[4], v))]), &none(), Precision::Declared).unwrap().outputs;
    let out = go(&[0.0, 5.0, 0.0, 7.0]);
    assert_eq!(out["picked"], f(&[2], &[5.0, 7.0]));
    assert_eq!(out["count"], Tensor::from_vec(&[1], vec![12i64]).unwrap());
    assert_eq!(go(&[0.0; 4])["picked"], f(&[0], &[]));
    // Also when nothing else needs the node that makes the symbol.
    let only = run_values(&m, &named(&[("x", f(&[4], &[1.0; 4]))]), &none(), Precision::Declared, &[count]).unwrap();
    assert_eq!(only[0], Tensor::from_vec(&[1], vec![14i64]).unwrap());
}

#[test]
fn branches_run_the_chosen_body() {
    let mut m = Model::new("branch");
    let fact = Fact::new(DType::F32, [2]);
    for unary in [Unary::Neg, Unary::Abs] {
        let mut body = Graph::new("");
        let x = body.add_input("captured", fact.clone());
        let y = body.apply("", Op::Unary(unary), &[x]).unwrap();
        body.add_output("y", y);
        m.bodies.push(body);
    }
    let c = m.graph.add_input("c", Fact::scalar(DType::Bool));
    let x = m.graph.add_input("x", fact.clone());
    let op = Op::If { then_body: BodyId(0), else_body: BodyId(1) };
    let node = m.graph.add_node_with_facts("", op, &[c, x], vec![fact]);
    m.graph.add_output("y", m.graph.node(node).outputs[0]);
    for (flag, want) in [(true, [-1.0, 2.0]), (false, [1.0, 2.0])] {
        let inputs = named(&[("c", Tensor::from_bools(&[], &[flag]).unwrap()), ("x", f(&[2], &[1.0, -2.0]))]);
        assert_eq!(run(&m, &inputs, &none(), Precision::Declared).unwrap().outputs["y"], f(&[2], &want));
    }
}

#[test]
fn errors_name_the_node() {
    let mut m = Model::new("bad index");
    let x = m.graph.add_input("x", Fact::new(DType::F32, [2]));
    let at = m.graph.add_const(Tensor::scalar(5i64));
    let y = m.graph.apply("lookup", Op::Gather { axis: 0 }, &[x, at]).unwrap();
    m.graph.add_output("y", y);
    let error = run(&m, &named(&[("x", f(&[2], &[0.0; 2]))]), &none(), Precision::Declared).unwrap_err();
    assert_eq!(error.to_string(), "node `lookup`: index 5 at position 0 is outside an axis of extent 2");
}

#[test]
fn casts_stay_wide_in_f64_runs() {
    let mut m = Model::new("casts");
    let x = m.graph.add_input("x", Fact::new(DType::F32, [1]));
    let half = m.graph.apply("", Op::Cast(DType::F16), &[x]).unwrap();
    let back = m.graph.apply("", Op::Cast(DType::F32), &[half]).unwrap();
    m.graph.add_output("y", back);
    let third = named(&[("x", f(&[1], &[1.0 / 3.0]))]);
    let wide = run(&m, &third, &none(), Precision::F64).unwrap().outputs;
    assert_eq!(wide["y"].as_slice::<f64>().unwrap(), [f64::from(1f32 / 3.0)]);
    let narrow = run(&m, &third, &none(), Precision::Declared).unwrap().outputs;
    assert_eq!(narrow["y"].as_slice::<f32>().unwrap(), [0.333_251_95]);
}
