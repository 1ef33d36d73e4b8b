//! PyTorch's goldens through the executor: logits, loss, every gradient, and ten losses of each optimizer.

#![allow(clippy::unwrap_used)]

use penjing_exec::{Session, Target, lower};
use penjing_grad::{
    AdamW, LossConfig, OptimizerConfig, Sgd, UpdateOptions, append_gradients, append_loss, names, training_graph,
};
use penjing_ir::Model;
use penjing_reference::bind_inputs;
use penjing_tensor::Tensor;
use penjing_testkit::{GOLDEN_NETWORKS, GoldenNetwork, golden_network};
use std::collections::BTreeMap;

/// The bar of the goldens: max|Δ| relative to the largest value.
const TOLERANCE: f64 = 1e-4;

fn inputs(network: &GoldenNetwork, model: &Model, step: i64, rate: f64) -> BTreeMap<String, Tensor> {
    let all = [
        ("inputs", network.inputs()),
        (names::LABEL, network.labels()),
        (names::INVERSE_COUNT, Tensor::scalar(network.inverse_count())),
        (names::LEARNING_RATE, Tensor::scalar(rate as f32)),
        (names::STEP, Tensor::scalar(step)),
    ];
    all.into_iter().filter(|(n, _)| model.graph.input(n).is_some()).map(|(n, t)| (n.to_string(), t)).collect()
}

fn session(model: &Model, inputs: &BTreeMap<String, Tensor>) -> (Session, penjing_exec::ProgramId) {
    let target = Target::host(2);
    let program = lower(model.clone(), &bind_inputs(&model.graph, inputs).unwrap(), &target).unwrap();
    let mut session = Session::new(target).unwrap();
    let id = session.load(program).unwrap();
    (session, id)
}

fn run(
    session: &mut Session,
    id: penjing_exec::ProgramId,
    inputs: &BTreeMap<String, Tensor>,
) -> BTreeMap<String, Tensor> {
    let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
    session.run(id, &inputs).unwrap().into_iter().collect()
}

fn relative(got: &Tensor, want: &Tensor) -> f64 {
    let (got, want) = (got.to_f64s(), want.to_f64s());
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    got.iter().zip(&want).fold(0.0f64, |m, (g, w)| m.max((g - w).abs())) / scale
}

fn loss_config(network: &GoldenNetwork) -> LossConfig {
    LossConfig::CrossEntropy { smoothing: 0.0, ignore: network.ignore }
}

#[test]
fn logits_loss_and_gradients() {
    for name in GOLDEN_NETWORKS {
        let network = golden_network(name);
        let mut model = network.model.clone();
        let loss = append_loss(&mut model, None, &loss_config(&network)).unwrap();
        for (state, gradient) in append_gradients(&mut model, loss.value).unwrap() {
            let name = format!("grad {}", model.state(state).name);
            model.graph.add_output(&name, gradient);
        }
        let inputs = inputs(&network, &model, 0, 0.0);
        let (mut session, id) = session(&model, &inputs);
        let outputs = run(&mut session, id, &inputs);
        let logits = relative(&outputs["logits"], &network.golden.arrays["logits"]);
        assert!(logits < TOLERANCE, "{name}: logits differ by {logits}");
        let loss = relative(&outputs[names::LOSS], &network.golden.arrays["loss"]);
        assert!(loss < TOLERANCE, "{name}: the loss differs by {loss}");
        let (worst, error) = network.gradient_error(&|state| outputs[&format!("grad {state}")].clone());
        assert!(error < TOLERANCE, "{name}: the gradient of {worst} differs by {error}");
    }
}

#[test]
fn ten_losses_of_each_optimizer() {
    let sgd = |nesterov| {
        OptimizerConfig::Sgd(Sgd { lr: 0.05, momentum: 0.9, nesterov, weight_decay: 5e-4, ..Sgd::default() })
    };
    let adamw = OptimizerConfig::AdamW(AdamW { lr: 1e-3, weight_decay: 0.01, ..AdamW::default() });
    for name in GOLDEN_NETWORKS {
        let network = golden_network(name);
        for (key, optimizer) in
            [("adamw_losses", &adamw), ("sgd_losses", &sgd(true)), ("sgd_heavyball_losses", &sgd(false))]
        {
            let options = UpdateOptions::default();
            let model = training_graph(&network.model, None, &loss_config(&network), optimizer, &options).unwrap();
            let (mut session, id) = session(&model, &inputs(&network, &model, 0, 0.0));
            for (step, want) in network.numbers(key).into_iter().enumerate() {
                let outputs = run(&mut session, id, &inputs(&network, &model, step as i64, optimizer.learning_rate()));
                let loss = outputs[names::LOSS].to_f64s()[0];
                let error = (loss - want).abs() / want.abs();
                assert!(error < TOLERANCE, "{name}, {key}, step {step}: {loss} is not {want} ({error:e})");
            }
        }
    }
}
