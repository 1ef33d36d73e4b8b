//! Runs that must stop, and what they say.

use crate::common::{digits, go_on, network, sgd};
use penjing_data::{Dataset, Loader, LoaderConfig};
use penjing_exec::Target;
use penjing_train::{TrainConfig, TrainError, Trained, train};

fn fails(data: &Dataset, config: &TrainConfig) -> Result<Trained, TrainError> {
    train(&network("simple-cnn", 4), data, &LoaderConfig::train(8, 5), config, Target::host(1), None, &go_on)
}

#[test]
fn an_infinite_pixel_is_found_where_it_first_matters() {
    const BAD: usize = 17;
    let (mut x, y) = (digits(40).x(), digits(40).y());
    x.as_mut_slice::<f32>().unwrap()[BAD * 3 * 24 * 24 + 300] = f32::INFINITY;
    let data = Dataset::new("broken", x, y).unwrap();
    let loader = Loader::new(data.clone(), LoaderConfig::train(8, 5)).unwrap();
    let holds_it = |i: &usize| loader.batch(0, *i).unwrap().indices.contains(&BAD);
    let want = (0..loader.batches_per_epoch()).find(holds_it).unwrap() as u64;
    for (ranks, accumulate) in [(1, 1), (2, 1), (1, 2), (2, 2)] {
        let result = fails(&data, &TrainConfig { ranks, accumulate, ..sgd(0.01, 1) });
        let Err(TrainError::NotFinite { step, node, kernel }) = result else {
            panic!("{ranks} ranks, {accumulate} parts: {:?}", result.err());
        };
        assert_eq!(step, want, "{ranks} ranks, {accumulate} parts");
        assert!(node.starts_with("conv1") && kernel.contains("conv"), "{ranks} ranks: `{node}` ({kernel})");
    }
}

#[test]
fn a_huge_learning_rate_stops_the_run() {
    for ranks in [1, 2] {
        let result = fails(&digits(64), &TrainConfig { ranks, ..sgd(1e12, 4) });
        let Err(TrainError::NotFinite { step, node, kernel }) = result else { panic!("{:?}", result.err()) };
        assert!(step > 0 && node != "unknown" && !kernel.is_empty(), "step {step}: `{node}` ({kernel})");
    }
}

/// No loss comes after the last update, so its weights are looked at.
#[test]
fn a_last_update_that_breaks_the_weights_is_an_error() {
    let result = fails(&digits(8), &sgd(1e39, 1));
    assert!(matches!(result, Err(TrainError::NotFinite { step: 0, .. })), "{:?}", result.err());
}

/// Such a label has no logit: it would train nothing, silently.
#[test]
fn a_label_that_is_no_class_is_an_error() {
    let y = digits(8).y().map(|y| {
        let mut labels = y.to_i64s().unwrap();
        labels[5] = 10;
        penjing_tensor::Tensor::from_vec(&[8], labels).unwrap()
    });
    let data = Dataset::new("ten is too many", digits(8).x(), y).unwrap();
    let result = fails(&data, &sgd(0.1, 1));
    assert!(matches!(result, Err(TrainError::Label { label: 10, sample: 5, classes: 10 })), "{:?}", result.err());
}

#[test]
fn requests_that_make_no_sense_are_errors() {
    let data = digits(8);
    assert!(matches!(fails(&data, &TrainConfig { ranks: 0, ..sgd(0.1, 1) }), Err(TrainError::Zero { .. })));
    assert!(matches!(fails(&data, &TrainConfig { accumulate: 0, ..sgd(0.1, 1) }), Err(TrainError::Zero { .. })));
    let unlabelled = Dataset::new("bare", data.x(), None).unwrap();
    assert!(matches!(fails(&unlabelled, &sgd(0.1, 1)), Err(TrainError::NoLabels { .. })));
    let empty = data.subset(&[]).unwrap();
    assert!(matches!(fails(&empty, &sgd(0.1, 1)), Err(TrainError::NoSamples { .. })));
    let other = crate::common::images(4);
    assert!(matches!(fails(&other, &sgd(0.1, 1)), Err(TrainError::Sample { .. })));
}
