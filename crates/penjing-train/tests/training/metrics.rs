//! What evaluation and calibration report, and that training learns.

use crate::common::{THREADS, digits, network, run, sgd};
use penjing_compress::quantize::{QuantizeConfig, activations};
use penjing_data::{Dataset, Loader, LoaderConfig, digits_24};
use penjing_exec::Target;
use penjing_ir::{Dim, Fact, Model, Scope};
use penjing_reference::{Precision, run_values};
use penjing_tensor::{DType, Tensor};
use penjing_train::{calibrate, evaluate};
use std::collections::BTreeMap;

/// Logits are twice the input: four samples of six classes, in batches of 3 and 1.
#[test]
fn evaluation_of_a_case_done_by_hand() {
    let mut model = Model::new("double");
    let x = model.graph.add_input("x", Fact { dtype: DType::F32, shape: vec![Dim::sym("N"), 6.into()] });
    let y = Scope::new(&mut model.graph, "double").scale(x, 2.0).unwrap();
    model.graph.add_output("logits", y);
    #[rustfmt::skip]
    let samples = vec![
        0.5f32, 0.0, 0.0, 0.0, 0.0, 0.0, // says 0, is 0
        0.0, 0.5, 0.0, 0.0, 0.0, 0.0, // says 1, is 0
        0.0, 0.0, 0.0, 0.0, 0.0, 0.0, // all equal: says 0, is 5, which five classes precede
        0.0, 0.0, 0.0, 1.0, 0.0, 0.0, // says 3, is 3
    ];
    let x = Tensor::from_vec(&[4, 6], samples.clone()).unwrap();
    let labels = Tensor::from_vec(&[4], vec![0i64, 0, 5, 3]).unwrap();
    let data = Dataset::new("hand", x, Some(labels)).unwrap();
    let loader = Loader::new(data, LoaderConfig::eval(3)).unwrap();
    let e = evaluate(&model, &loader, Target::host(1)).unwrap();
    assert_eq!((e.n, e.top1, e.top5), (4, 0.5, 0.75));
    let losses = [(1f64.exp() + 5.0).ln() - 1.0, (1f64.exp() + 5.0).ln(), 6f64.ln(), (2f64.exp() + 5.0).ln() - 2.0];
    assert!((e.loss - losses.iter().sum::<f64>() / 4.0).abs() < 1e-12, "{}", e.loss);
    assert!((e.perplexity() - e.loss.exp()).abs() < 1e-12);
    let mut confusion = vec![vec![0u64; 6]; 6];
    for (label, prediction) in [(0, 0), (0, 1), (5, 0), (3, 3)] {
        confusion[label][prediction] += 1;
    }
    assert_eq!(e.confusion, confusion);
    // F1 of class 0: 2·1 hit / (2 present + 2 predicted); of 1 and 5: 0; of 3: 1; 2 and 4 do not occur.
    assert!((e.macro_f1() - (0.5 + 0.0 + 0.0 + 1.0) / 4.0).abs() < 1e-12);
    assert_eq!(e.logits.shape(), [4, 6]);
    let doubled: Vec<f32> = samples.iter().map(|v| 2.0 * v).collect();
    assert_eq!(e.logits.as_slice::<f32>().unwrap(), doubled);
}

#[test]
fn calibration_finds_the_extremes() {
    let model = network("simple-cnn", 4);
    let config = QuantizeConfig::default();
    let loader = Loader::new(digits(20), LoaderConfig::eval(8)).unwrap();
    let found = calibrate(&model, &config, &loader, 2, Target::host(THREADS)).unwrap();
    let values = activations(&model, &config);
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), values);
    assert_eq!(values.len(), 4);
    let mut want = vec![(f64::INFINITY, f64::NEG_INFINITY); values.len()];
    for index in 0..2 {
        let inputs = BTreeMap::from([("x".to_string(), loader.batch(0, index).unwrap().x)]);
        let tensors = run_values(&model, &inputs, &BTreeMap::new(), Precision::Declared, &values).unwrap();
        for (range, tensor) in want.iter_mut().zip(tensors) {
            tensor.to_f64s().iter().for_each(|&v| *range = (range.0.min(v), range.1.max(v)));
        }
    }
    for (range, (min, max)) in found.values().zip(want) {
        let close = |a: f32, b: f64| (f64::from(a) - b).abs() <= 1e-5 * b.abs().max(1.0);
        assert!(close(range.min, min) && close(range.max, max) && max > 0.0, "{range:?}, {min}..{max}");
    }
}

#[test]
fn a_small_network_learns_the_digits() {
    let d = digits_24();
    let all = Dataset::new("digits", d.x, Some(d.y)).unwrap();
    let trained = run(&network("simple-cnn", 8), &all.subset(&d.train).unwrap(), 32, &sgd(0.05, 3));
    let loader = Loader::new(all.subset(&d.held_out).unwrap(), LoaderConfig::eval(64)).unwrap();
    let accuracy = evaluate(&trained.model, &loader, Target::host(THREADS)).unwrap().top1;
    assert!(accuracy > 0.9, "{accuracy}");
    assert!(trained.losses[trained.losses.len() - 1] < 0.5 * trained.losses[0]);
}
