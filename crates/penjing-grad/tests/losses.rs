//! Losses and their gradients against PyTorch, and what they refuse.

#![allow(clippy::unwrap_used)]

use penjing_grad::{
    GradError, LossConfig, append_gradients, append_loss, count_correct, cross_entropy, differentiate, kl_divergence,
    mse, names, sum_all,
};
use penjing_ir::{Fact, Model, Scope, ValueId};
use penjing_reference::{Precision, run};
use penjing_tensor::{DType, Tensor};
use penjing_testkit::{Golden, golden};
use std::collections::BTreeMap;

type Built = Result<ValueId, GradError>;

fn check(golden: &Golden, name: &str, scale: f64, losses: impl Fn(&mut Scope<'_>, ValueId, ValueId, ValueId) -> Built) {
    let mut model = Model::new(name);
    let mut inputs = BTreeMap::new();
    let [logits, teacher, labels] = ["logits", "teacher", "labels"].map(|key| {
        let t = golden.array(key).unwrap();
        inputs.insert(key.to_string(), t.clone());
        model.graph.add_input(key, Fact::of(t))
    });
    let mut s = Scope::new(&mut model.graph, "loss");
    let losses = losses(&mut s, logits, labels, teacher).unwrap();
    let sum = sum_all(&mut s, losses).unwrap();
    let loss = s.scale(sum, scale).unwrap();
    let grads = differentiate(&mut model.graph, loss, &[logits, teacher]).unwrap();
    model.graph.add_output("loss", loss);
    model.graph.add_output("grad", grads[0].unwrap());
    if name.starts_with("kl") {
        assert_eq!(grads[1], None, "{name}: nothing reaches the teacher");
    }
    let result = run(&model, &inputs, &BTreeMap::new(), Precision::F64).unwrap();
    for (key, output) in [("loss", "loss"), ("grad", "grad")] {
        let want = golden.array(&format!("{key}/{name}")).unwrap().to_f64s();
        let largest = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let have = result.outputs[output].to_f64s();
        assert_eq!(have.len(), want.len());
        for (have, want) in have.iter().zip(&want) {
            assert!((have - want).abs() <= 1e-6 * largest, "{name} {key}: {have}, PyTorch {want}");
        }
    }
}

#[test]
fn losses_and_gradients_are_pytorchs() {
    let golden = golden("losses").unwrap();
    check(&golden, "cross_entropy", 1.0 / 6.0, |s, z, y, _| cross_entropy(s, z, y, 0.0, None));
    check(&golden, "cross_entropy", 1.0 / 6.0, |s, z, y, _| cross_entropy(s, z, y, 0.0, Some(-100)));
    check(&golden, "label_smoothing_0.1", 1.0 / 6.0, |s, z, y, _| cross_entropy(s, z, y, 0.1, None));
    check(&golden, "kl_t1", 1.0 / 6.0, |s, z, _, t| kl_divergence(s, t, z, 1.0));
    check(&golden, "kl_t4", 1.0 / 6.0, |s, z, _, t| kl_divergence(s, t, z, 4.0));
    check(&golden, "mse", 1.0 / 6.0, |s, z, _, t| mse(s, z, t));
}

#[test]
fn ignored_positions_neither_count_nor_pull() {
    let mut model = Model::new("ignore");
    let logits = model.graph.add_input("logits", Fact::new(DType::F32, [2, 3, 4]));
    let labels = model.graph.add_input("labels", Fact::new(DType::I64, [2, 3]));
    let mut s = Scope::new(&mut model.graph, "");
    let losses = cross_entropy(&mut s, logits, labels, 0.2, Some(1)).unwrap();
    let loss = sum_all(&mut s, losses).unwrap();
    let correct = count_correct(&mut s, logits, labels, Some(1)).unwrap();
    let grad = differentiate(&mut model.graph, loss, &[logits]).unwrap()[0].unwrap();
    for (name, v) in [("losses", losses), ("correct", correct), ("grad", grad)] {
        model.graph.add_output(name, v);
    }
    let one_hot = |class: usize| (0..4).map(move |c| if c == class { 2.0f32 } else { 0.0 });
    let logits: Vec<f32> = [0, 1, 2, 3, 1, 0].into_iter().flat_map(one_hot).collect();
    let inputs = BTreeMap::from([
        ("logits".to_string(), Tensor::from_vec(&[2, 3, 4], logits).unwrap()),
        ("labels".to_string(), Tensor::from_vec(&[2, 3], vec![0i64, 1, 2, 0, 1, 0]).unwrap()),
    ]);
    let result = run(&model, &inputs, &BTreeMap::new(), Precision::F64).unwrap();
    let losses = result.outputs["losses"].to_f64s();
    assert_eq!((losses[1], losses[4]), (0.0, 0.0));
    assert!(losses[0] > 0.0 && losses[3] > losses[0]);
    assert_eq!(result.outputs["correct"].to_f64s(), [3.0]);
    let grad = result.outputs["grad"].to_f64s();
    assert!(grad[4..8].iter().chain(&grad[16..20]).all(|&g| g == 0.0) && grad[0] != 0.0);
}

#[test]
fn the_gradient_of_cross_entropy_is_compact() {
    let mut model = Model::new("compact");
    let w = model.add_weight("w", Tensor::zeros(DType::F32, &[10, 4]).unwrap());
    let x = model.graph.add_input("x", Fact::new(DType::F32, [8, 4]));
    let y = Scope::new(&mut model.graph, "").linear(x, w, None).unwrap();
    model.graph.add_output("logits", y);
    let loss = append_loss(&mut model, None, &LossConfig::default()).unwrap();
    let forward = model.topological_order().unwrap().len();
    let grads = append_gradients(&mut model, loss.value).unwrap();
    model.graph.add_output("grad", grads[0].1);
    let backward = model.topological_order().unwrap().len() - forward;
    // (softmax − target)·scale in general form: Expand, Neg and Reshape of [8]; Mul, ReduceSum, Exp, Mul, Sub of [8, 10]; and
    // the product that makes dw.
    assert!(backward <= 9, "{backward} backward nodes");
}

#[test]
fn what_does_not_fit_is_refused() {
    let model = |shape: &[usize]| {
        let mut model = Model::new("m");
        let w = model.add_weight("w", Tensor::zeros(DType::F32, shape).unwrap());
        let y = Scope::new(&mut model.graph, "").relu(w).unwrap();
        model.graph.add_output("y", y);
        model
    };
    let mut taken = model(&[2, 3]);
    taken.graph.add_input(names::LABEL, Fact::new(DType::I64, [2]));
    let loss = LossConfig::default();
    assert!(matches!(append_loss(&mut taken, None, &loss), Err(GradError::NameTaken { .. })));
    assert!(matches!(append_loss(&mut model(&[2]), Some("z"), &loss), Err(GradError::NoOutput { .. })));
    assert!(matches!(append_loss(&mut model(&[]), None, &loss), Err(GradError::LossOperand { .. })));
    for smoothing in [-0.1, 1.1, f64::NAN] {
        let loss = LossConfig::CrossEntropy { smoothing, ignore: None };
        assert!(matches!(append_loss(&mut model(&[2, 3]), None, &loss), Err(GradError::Config { .. })));
    }
    let mut m = model(&[2, 3]);
    let w = m.graph.outputs[0].value;
    assert!(matches!(differentiate(&mut m.graph, w, &[w]), Err(GradError::LossNotScalar { .. })));
    let mut frozen = model(&[2, 3]);
    frozen.states[0].trainable = false;
    let loss = append_loss(&mut frozen, None, &loss).unwrap();
    assert_eq!(append_gradients(&mut frozen, loss.value), Err(GradError::NothingToTrain));
    let mut s = Scope::new(&mut m.graph, "");
    assert!(matches!(kl_divergence(&mut s, w, w, 0.0), Err(GradError::Config { .. })));
}
