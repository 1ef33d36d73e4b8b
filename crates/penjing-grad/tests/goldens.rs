//! Whole networks against PyTorch: logits, loss, every gradient, ten updates of each optimizer. All in f64, as the goldens are.

#![allow(clippy::unwrap_used)]

use penjing_grad::{
    AdamW, LossConfig, OptimizerConfig, Sgd, UpdateOptions, append_gradients, append_loss, names, training_graph,
};
use penjing_ir::{Model, Stage, verify};
use penjing_reference::{Precision, run};
use penjing_tensor::Tensor;
use penjing_testkit::{GOLDEN_NETWORKS, GoldenNetwork, golden_network};
use std::collections::BTreeMap;

/// The goldens carry no rounding of their own; our constants and the inputs beside the batch are rounded to f32.
const TOLERANCE: f64 = 1e-6;

#[test]
fn logits_losses_and_gradients() {
    for name in GOLDEN_NETWORKS {
        let network = golden_network(name);
        let mut model = network.model.clone();
        let loss = append_loss(&mut model, None, &loss_config(&network)).unwrap();
        let grads = append_gradients(&mut model, loss.value).unwrap();
        assert_eq!(grads.len(), model.trainable().len(), "{name}: a gradient for each weight");
        for (state, grad) in grads {
            let output = format!("grad/{}", model.state(state).name);
            model.graph.add_output(&output, grad);
        }
        verify(&model, Stage::Canonical).unwrap();
        let result = run(&model, &batch(&network, &model, 0, 0.0), &BTreeMap::new(), Precision::F64).unwrap();
        let logits = result.outputs["logits"].to_f64s();
        let largest = logits.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        for (have, want) in logits.iter().zip(network.numbers("logits")) {
            assert!((have - want).abs() <= TOLERANCE * largest, "{name}: logit {have}, PyTorch {want}");
        }
        close(&format!("{name} loss"), result.outputs[names::LOSS].to_f64s()[0], network.numbers("loss")[0]);
        let (parameter, error) = network.gradient_error(&|state| result.outputs[&format!("grad/{state}")].clone());
        assert!(error <= TOLERANCE, "{name}: the gradient of {parameter} is off by {error:e}");
    }
}

#[test]
fn ten_steps_of_adamw() {
    let config = AdamW { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, ..AdamW::default() };
    ten_steps("adamw", &OptimizerConfig::AdamW(config));
}

#[test]
fn ten_steps_of_nesterov() {
    ten_steps("sgd", &OptimizerConfig::Sgd(sgd(true)));
}

#[test]
fn ten_steps_of_heavy_ball() {
    ten_steps("sgd_heavyball", &OptimizerConfig::Sgd(sgd(false)));
}

fn sgd(nesterov: bool) -> Sgd {
    Sgd { lr: 0.05, momentum: 0.9, nesterov, weight_decay: 5e-4, ..Sgd::default() }
}

/// The loss before each of ten updates, and every parameter's norm after them.
fn ten_steps(golden: &str, optimizer: &OptimizerConfig) {
    for name in GOLDEN_NETWORKS {
        let network = golden_network(name);
        let options = UpdateOptions::default();
        let model =
            training_graph(&network.model, Some("logits"), &loss_config(&network), optimizer, &options).unwrap();
        verify(&model, Stage::Canonical).unwrap();
        let mut states = BTreeMap::new();
        for (step, want) in network.numbers(&format!("{golden}_losses")).into_iter().enumerate() {
            let inputs = batch(&network, &model, step as i64, optimizer.learning_rate() as f32);
            let result = run(&model, &inputs, &states, Precision::F64).unwrap();
            close(&format!("{name} {golden} loss {step}"), result.outputs[names::LOSS].to_f64s()[0], want);
            states = result.states;
        }
        let trained = network.to_torch(&|state| states[state].clone());
        let order = network.golden.parameter_names().unwrap();
        for (parameter, want) in order.iter().zip(network.numbers(&format!("{golden}_final_l2"))) {
            let norm = trained[parameter].to_f64s().iter().map(|v| v * v).sum::<f64>().sqrt();
            close(&format!("{name} {golden} norm of {parameter}"), norm, want);
        }
    }
}

/// The inputs that the model has, of a fixed batch.
fn batch(network: &GoldenNetwork, model: &Model, step: i64, rate: f32) -> BTreeMap<String, Tensor> {
    let all = [
        ("inputs", network.inputs()),
        (names::LABEL, network.labels()),
        (names::INVERSE_COUNT, Tensor::scalar(network.inverse_count())),
        (names::LEARNING_RATE, Tensor::scalar(rate)),
        (names::STEP, Tensor::scalar(step)),
    ];
    all.into_iter().filter(|(name, _)| model.graph.input(name).is_some()).map(|(n, t)| (n.into(), t)).collect()
}

fn loss_config(network: &GoldenNetwork) -> LossConfig {
    LossConfig::CrossEntropy { smoothing: 0.0, ignore: network.ignore }
}

#[track_caller]
fn close(what: &str, have: f64, want: f64) {
    assert!((have - want).abs() <= TOLERANCE * want.abs(), "{what}: {have}, PyTorch {want}");
}
