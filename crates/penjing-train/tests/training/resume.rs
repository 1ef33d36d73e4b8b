//! A run that is killed and resumed ends with the bits of one that was not.

use crate::common::{adamw, assert_same_bits, bytes, digits, go_on, images, network, run, sgd};
use penjing_data::{Crop, Dataset, Flip, LoaderConfig, Placement};
use penjing_exec::Target;
use penjing_ir::Model;
use penjing_tensor::Rng;
use penjing_train::{CheckpointPolicy, Progress, TrainConfig, TrainError, Trained, train};
use std::{ops::ControlFlow, path::PathBuf};

/// A checkpoint file of this process that is removed at the end.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> File {
        let path = std::env::temp_dir().join(format!("penjing-resume-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        File(path)
    }

    fn policy(&self, every: u64) -> CheckpointPolicy {
        CheckpointPolicy { path: self.0.clone(), every }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Trains unbroken, and killed after three updates drawn at random, none of them the last of an epoch; compares the bits.
fn check(name: &str, model: &Model, data: &Dataset, loader: &LoaderConfig, config: &TrainConfig) {
    let target = Target::host(1);
    let go = |file: &File, on: &(dyn Fn(&Progress) -> ControlFlow<()> + Sync)| -> Result<Trained, TrainError> {
        train(model, data, loader, config, target, Some(&file.policy(2)), on)
    };
    let whole = go(&File::new(&format!("{name}-whole")), &go_on).unwrap();
    let per_epoch = data.len().div_ceil(loader.batch_size) as u64;
    let total = per_epoch * config.epochs;
    let candidates: Vec<u64> = (1..total).filter(|step| step % per_epoch != 0).collect();
    let order = Rng::new(9, name, 0).permutation(candidates.len());
    let mut kills: Vec<u64> = order[..3].iter().map(|&i| candidates[i]).collect();
    kills.sort_unstable();
    let file = File::new(name);
    for &kill in &kills {
        let stop = |p: &Progress| if p.step == kill { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let result = go(&file, &stop);
        assert!(matches!(result, Err(TrainError::Interrupted { step }) if step == kill), "{name}: killed at {kill}");
    }
    let resumed = go(&file, &go_on).unwrap();
    assert_eq!(resumed.losses.len() as u64, total, "{name}");
    assert_same_bits(&whole, &resumed, &format!("{name} killed at {kills:?}"));
    assert_ne!(whole.losses[0], whole.losses[total as usize - 1], "{name} learns something");
}

#[test]
fn convolutions_resume() {
    let loader = LoaderConfig::train(12, 5);
    check("simple-cnn", &network("simple-cnn", 4), &digits(58), &loader, &sgd(0.05, 2));
}

#[test]
fn batch_norm_and_augmentation_resume() {
    let crop = Crop { height: 32, width: 32, pad: 4, placement: Placement::Random };
    let loader = LoaderConfig { crop: Some(crop), flip: Flip::Horizontal, ..LoaderConfig::train(6, 5) };
    check("resnet-8", &network("resnet-8", 4), &images(22), &loader, &sgd(0.05, 2));
}

#[test]
fn language_models_resume() {
    let loader = LoaderConfig::train(4, 5);
    check("lstm", &network("lstm", 16), &bytes(18), &loader, &sgd(0.5, 2));
    check("gpt", &network("gpt", 32), &bytes(18), &loader, &adamw(1e-3, 2));
}

#[test]
fn two_ranks_with_adamw_accumulation_averaging_and_clipping_resume() {
    let config = TrainConfig { ranks: 2, accumulate: 2, ..adamw(1e-3, 2) };
    check("ranks-cnn", &network("simple-cnn", 4), &digits(58), &LoaderConfig::train(12, 5), &config);
    check("ranks-resnet", &network("resnet-8", 4), &images(46), &LoaderConfig::train(12, 5), &config);
}

#[test]
fn ranks_with_unequal_rows_resume() {
    let config = TrainConfig { ranks: 3, ..sgd(0.05, 2) };
    check("uneven", &network("simple-cnn", 4), &digits(35), &LoaderConfig::train(10, 5), &config);
}

#[test]
fn checkpoints_do_not_change_the_run() {
    let (model, data, config) = (network("resnet-8", 4), images(21), TrainConfig { ranks: 2, ..sgd(0.05, 1) });
    let file = File::new("every-step");
    let loader = LoaderConfig::train(6, 5);
    let watched = train(&model, &data, &loader, &config, Target::host(1), Some(&file.policy(1)), &go_on).unwrap();
    assert_same_bits(&run(&model, &data, 6, &config), &watched, "with and without checkpoints");
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let (model, data, config) = (network("simple-cnn", 4), digits(16), sgd(0.05, 1));
    let file = File::new("other");
    let go = |model: &Model, data: &Dataset, batch: usize, config: &TrainConfig| {
        let loader = LoaderConfig::train(batch, 5);
        train(model, data, &loader, config, Target::host(1), Some(&file.policy(1)), &go_on)
    };
    go(&model, &data, 8, &config).unwrap();
    let others = [
        ("model", go(&network("simple-cnn", 5), &data, 8, &config)),
        ("data", go(&model, &digits(15), 8, &config)),
        ("batch", go(&model, &data, 4, &config)),
        ("epochs", go(&model, &data, 8, &sgd(0.05, 2))),
    ];
    for (what, result) in others {
        assert!(matches!(result, Err(TrainError::Checkpoint { .. })), "{what}");
    }
    // A finished run has nothing left to do and gives its result again.
    assert_eq!(go(&model, &data, 8, &config).unwrap().losses.len(), 2);
}
