//! Clipping, accumulation, moving averages, decay scopes and configurations.

#![allow(clippy::unwrap_used)]

use penjing_grad::{
    AdamW, DecayScope, GradError, LossConfig, OptimizerConfig, Sgd, UpdateOptions, append_accumulation,
    append_gradients, append_loss, append_updates, clip_by_global_norm, names, take_accumulated, training_graph,
};
use penjing_ir::{Dim, Fact, Model, Role, Scope, Stage, verify};
use penjing_reference::{Precision, run};
use penjing_tensor::{DType, Tensor};
use penjing_testkit::{golden, integers, normal};
use std::collections::BTreeMap;

type Tensors = BTreeMap<String, Tensor>;

#[test]
fn clipping_is_pytorchs() {
    let golden = golden("clip").unwrap();
    let keys = ["g0", "g1", "g2"];
    for limit in [1.0, 100.0] {
        let mut model = Model::new("clip");
        let inputs: Tensors = keys.iter().map(|k| (k.to_string(), golden.array(k).unwrap().clone())).collect();
        let grads: Vec<_> = keys.iter().map(|k| model.graph.add_input(k, Fact::of(&inputs[*k]))).collect();
        let (clipped, norm) = clip_by_global_norm(&mut Scope::new(&mut model.graph, ""), &grads, limit).unwrap();
        keys.iter().zip(clipped).for_each(|(k, v)| model.graph.add_output(k, v));
        model.graph.add_output("norm", norm.unwrap());
        let outputs = run(&model, &inputs, &Tensors::new(), Precision::F64).unwrap().outputs;
        close(&outputs["norm"], golden.array("norm").unwrap(), 1e-12);
        for key in keys {
            close(&outputs[key], golden.array(&format!("clipped_{limit:.0}/{key}")).unwrap(), 1e-7);
        }
    }
}

#[test]
fn accumulated_parts_are_one_batch() {
    let options = UpdateOptions { clip_norm: Some(0.5), ..UpdateOptions::default() };
    let whole = training_graph(&classifier(), None, &LossConfig::default(), &adamw(), &options).unwrap();
    let mut part = classifier();
    let loss = append_loss(&mut part, None, &LossConfig::default()).unwrap();
    let grads = append_gradients(&mut part, loss.value).unwrap();
    append_accumulation(&mut part, &grads).unwrap();
    let weights: Vec<_> = grads.iter().map(|g| g.0).collect();
    let (mut apply, sums) = take_accumulated(&part, &weights).unwrap();
    append_updates(&mut apply, &sums, &adamw(), &options).unwrap();
    for model in [&whole, &part, &apply] {
        verify(model, Stage::Canonical).unwrap();
    }
    let (mut one, mut several) = (Tensors::new(), Tensors::new());
    for step in 0..3 {
        let (x, y) = (normal(&[6, 4], "x"), integers(DType::I64, &[6], 0, 2, "y"));
        let all = inputs(&whole, &x, &y, step);
        one = run(&whole, &all, &one, Precision::F64).unwrap().states;
        for rows in 0..3 {
            let take = |t: &Tensor| {
                let each = t.bytes().len() / 3;
                let shape = [&[2], &t.shape()[1..]].concat();
                Tensor::from_bytes(t.dtype(), &shape, &t.bytes()[rows * each..(rows + 1) * each]).unwrap()
            };
            let states = known(&part, &several);
            several.extend(
                run(&part, &inputs(&part, &take(&x), &take(&y), step), &states, Precision::F64).unwrap().states,
            );
        }
        let states = known(&apply, &several);
        several.extend(run(&apply, &inputs(&apply, &x, &y, step), &states, Precision::F64).unwrap().states);
        for (name, want) in &one {
            close(&several[name], want, 1e-12);
        }
        assert!(several["w.grad_sum"].to_f64s().iter().all(|&g| g == 0.0));
    }
}

#[test]
fn averages_follow_the_new_weights() {
    let options = UpdateOptions { ema_decay: Some(0.75), ..UpdateOptions::default() };
    let model = training_graph(&classifier(), None, &LossConfig::default(), &adamw(), &options).unwrap();
    let mut average = model.state(model.find_state("w").unwrap()).init.to_f64s();
    let mut states = Tensors::new();
    for step in 0..3 {
        let (x, y) = (normal(&[6, 4], "x"), integers(DType::I64, &[6], 0, 2, "y"));
        states = run(&model, &inputs(&model, &x, &y, step), &states, Precision::F64).unwrap().states;
        let new = states["w"].to_f64s();
        average.iter_mut().zip(&new).for_each(|(a, w)| *a = 0.75 * *a + 0.25 * w);
        close(&states["w.ema"], &Tensor::from_vec(&[3, 4], average.clone()).unwrap(), 1e-12);
    }
}

/// With a gradient of zero only decay moves a weight.
#[test]
fn decay_can_leave_out_vectors() {
    for (decay, bias_moves) in [(DecayScope::All, true), (DecayScope::Matrices, false)] {
        for config in [
            OptimizerConfig::Sgd(Sgd { weight_decay: 0.1, decay, ..Sgd::default() }),
            OptimizerConfig::AdamW(AdamW { weight_decay: 0.1, decay, ..AdamW::default() }),
        ] {
            let mut model = classifier();
            let weights = model.trainable();
            let mut grads = Vec::new();
            for w in weights {
                let zeros = Tensor::zeros(DType::F32, model.state(w).init.shape()).unwrap();
                grads.push((w, model.graph.add_const(zeros)));
            }
            append_updates(&mut model, &grads, &config, &UpdateOptions::default()).unwrap();
            let (x, y) = (normal(&[6, 4], "x"), integers(DType::I64, &[6], 0, 2, "y"));
            let states = run(&model, &inputs(&model, &x, &y, 0), &Tensors::new(), Precision::F64).unwrap().states;
            for (name, moves) in [("w", true), ("b", bias_moves)] {
                let init = model.state(model.find_state(name).unwrap()).init.to_f64s();
                let factor = if moves { 1.0 - 0.1 * 0.1 } else { 1.0 };
                let want: Vec<f64> = init.iter().map(|v| v * factor).collect();
                close(&states[name], &Tensor::from_vec(states[name].shape(), want).unwrap(), 1e-7);
            }
        }
    }
}

#[test]
fn frozen_weights_and_other_roles_stay() {
    let mut model = classifier();
    let frozen = model.find_state("b").unwrap();
    model.states[frozen.index()].trainable = false;
    let model = training_graph(&model, None, &LossConfig::default(), &adamw(), &UpdateOptions::default()).unwrap();
    let carried: Vec<&str> = model.carries.iter().map(|c| model.state(c.state).name.as_str()).collect();
    assert_eq!(carried.len(), 3);
    assert!(["w", "w.exp_avg", "w.exp_avg_sq"].iter().all(|n| carried.contains(n)));
    assert_eq!(model.state(model.find_state("w.exp_avg").unwrap()).role, Role::Optimizer);
}

#[test]
fn configurations_are_strict_data() {
    let sgd = r#"{"kind": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": true, "weight_decay": 5e-4}"#;
    let sgd: OptimizerConfig = serde_json::from_str(sgd).unwrap();
    let want = Sgd { lr: 0.05, momentum: 0.9, nesterov: true, weight_decay: 5e-4, decay: DecayScope::All };
    assert_eq!(sgd, OptimizerConfig::Sgd(want));
    let back: OptimizerConfig = serde_json::from_str(&serde_json::to_string(&adamw()).unwrap()).unwrap();
    assert_eq!(back, adamw());
    for bad in [r#"{"kind": "sgd", "momentun": 0.9}"#, r#"{"kind": "adam"}"#, r#"{"kind": "adamw", "beta": 1}"#] {
        assert!(serde_json::from_str::<OptimizerConfig>(bad).is_err(), "{bad}");
    }
    assert!(serde_json::from_str::<UpdateOptions>(r#"{"clip": 1}"#).is_err());
    assert!(serde_json::from_str::<LossConfig>(r#"{"kind": "cross-entropy", "smooth": 1}"#).is_err());
    for bad in [
        OptimizerConfig::Sgd(Sgd { lr: -1.0, ..Sgd::default() }),
        OptimizerConfig::Sgd(Sgd { nesterov: true, ..Sgd::default() }),
        OptimizerConfig::AdamW(AdamW { betas: (1.0, 0.9), ..AdamW::default() }),
        OptimizerConfig::AdamW(AdamW { eps: f64::NAN, ..AdamW::default() }),
    ] {
        let result = training_graph(&classifier(), None, &LossConfig::default(), &bad, &UpdateOptions::default());
        assert!(matches!(result, Err(GradError::Config { .. })), "{bad:?}");
    }
}

/// x [N, 4] → logits [N, 3].
fn classifier() -> Model {
    let mut model = Model::new("classifier");
    let x = model.graph.add_input("x", Fact::new(DType::F32, [Dim::sym("N"), 4.into()]));
    let (w, b) = (model.add_weight("w", normal(&[3, 4], "w")), model.add_weight("b", normal(&[3], "b")));
    let y = Scope::new(&mut model.graph, "fc").linear(x, w, Some(b)).unwrap();
    model.graph.add_output("logits", y);
    model
}

fn adamw() -> OptimizerConfig {
    OptimizerConfig::AdamW(AdamW::default())
}

/// What the model takes; losses are means over six examples.
fn inputs(model: &Model, x: &Tensor, y: &Tensor, step: i64) -> Tensors {
    let all = [
        ("x", x.clone()),
        (names::LABEL, y.clone()),
        (names::INVERSE_COUNT, Tensor::scalar(1.0f32 / 6.0)),
        (names::LEARNING_RATE, Tensor::scalar(0.1f32)),
        (names::STEP, Tensor::scalar(step)),
    ];
    all.into_iter().filter(|(name, _)| model.graph.input(name).is_some()).map(|(n, t)| (n.into(), t)).collect()
}

/// The states that the model has.
fn known(model: &Model, states: &Tensors) -> Tensors {
    states.iter().filter(|(n, _)| model.find_state(n).is_some()).map(|(n, t)| (n.clone(), t.clone())).collect()
}

#[track_caller]
fn close(have: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(have.len(), want.len());
    for (have, want) in have.to_f64s().iter().zip(want.to_f64s()) {
        assert!((have - want).abs() <= tolerance * want.abs().max(1e-3), "{have}, not {want}");
    }
}
