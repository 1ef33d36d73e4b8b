//! Small networks, small data, and how runs are compared.

use penjing_data::{Dataset, LoaderConfig, digits_24};
use penjing_exec::Target;
use penjing_grad::{AdamW, LossConfig, OptimizerConfig, Schedule, Sgd, UpdateOptions};
use penjing_ir::Model;
use penjing_tensor::{Rng, Tensor};
use penjing_train::{Progress, TrainConfig, Trained, train, zoo};
use std::ops::ControlFlow;

pub(crate) const THREADS: usize = 2;

/// A network of the zoo, narrow and shallow.
pub(crate) fn network(name: &str, width: usize) -> Model {
    let size = zoo::Size { width: Some(width), depth: Some(1), classes: None };
    zoo::new(name, size, 11).unwrap()
}

/// The first `n` training digits, 3×24×24.
pub(crate) fn digits(n: usize) -> Dataset {
    let d = digits_24();
    Dataset::new("digits", d.x, Some(d.y)).unwrap().subset(&d.train[..n]).unwrap()
}

/// `n` random images of 3×32×32 in 10 classes, each a little brighter by its class.
pub(crate) fn images(n: usize) -> Dataset {
    let rng = Rng::new(3, "images", 0);
    let pixels = 3 * 32 * 32;
    let value = |i: usize| rng.normal(i as u64) + (i / pixels % 10) as f32 * 0.2;
    let x = Tensor::from_vec(&[n, 3, 32, 32], (0..n * pixels).map(value).collect()).unwrap();
    let y = Tensor::from_vec(&[n], (0..n as i64).map(|i| i % 10).collect()).unwrap();
    Dataset::new("images", x, Some(y)).unwrap()
}

/// `n` windows of 12 bytes with the byte that follows each.
pub(crate) fn bytes(n: usize) -> Dataset {
    let text = b"the quick brown fox jumps over the lazy dog and the dog sleeps on; ";
    let at = |row: usize, t: usize| i64::from(text[(row * 7 + t) % text.len()]);
    let tokens = |shift: usize| (0..n * 12).map(|i| at(i / 12, i % 12 + shift)).collect::<Vec<i64>>();
    let x = Tensor::from_vec(&[n, 12], tokens(0)).unwrap();
    let y = Tensor::from_vec(&[n, 12], tokens(1)).unwrap();
    Dataset::new("bytes", x, Some(y)).unwrap()
}

/// SGD with momentum and decay on one rank.
pub(crate) fn sgd(lr: f64, epochs: u64) -> TrainConfig {
    let sgd = Sgd { lr, momentum: 0.9, weight_decay: 1e-3, ..Sgd::default() };
    TrainConfig {
        epochs,
        loss: LossConfig::default(),
        optimizer: OptimizerConfig::Sgd(sgd),
        schedule: Schedule::default(),
        update: UpdateOptions::default(),
        accumulate: 1,
        ranks: 1,
    }
}

/// AdamW with clipping and averaged weights.
pub(crate) fn adamw(lr: f64, epochs: u64) -> TrainConfig {
    TrainConfig {
        optimizer: OptimizerConfig::AdamW(AdamW { lr, ..AdamW::default() }),
        update: UpdateOptions { clip_norm: Some(0.5), ema_decay: Some(0.9) },
        ..sgd(lr, epochs)
    }
}

/// A run without checkpoints.
pub(crate) fn run(model: &Model, data: &Dataset, batch: usize, config: &TrainConfig) -> Trained {
    run_on(model, data, &LoaderConfig::train(batch, 5), config, THREADS)
}

/// As [`run`], on so many threads a rank.
pub(crate) fn run_on(model: &Model, data: &Dataset, loader: &LoaderConfig, config: &TrainConfig, n: usize) -> Trained {
    train(model, data, loader, config, Target::host(n), None, &go_on).unwrap()
}

pub(crate) fn go_on(_: &Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The content of a state.
pub(crate) fn state(model: &Model, name: &str) -> Tensor {
    (*model.state(model.find_state(name).unwrap()).init).clone()
}

/// Equal losses and equal states, bit by bit.
pub(crate) fn assert_same_bits(a: &Trained, b: &Trained, what: &str) {
    let bits = |t: &Trained| t.losses.iter().map(|l| l.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(a), bits(b), "{what}: losses {:?} and {:?}", a.losses, b.losses);
    assert_eq!(a.model.states.len(), b.model.states.len(), "{what}");
    for (a, b) in a.model.states.iter().zip(&b.model.states) {
        assert_eq!(a.name, b.name, "{what}");
        assert_eq!(a.init.bytes(), b.init.bytes(), "{what}: `{}`", a.name);
    }
}

/// Losses that differ by less than `relative`.
pub(crate) fn assert_close_losses(a: &[f32], b: &[f32], relative: f32, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    for (step, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= relative * a.abs(), "{what}: step {step}: {a} and {b}");
    }
}
