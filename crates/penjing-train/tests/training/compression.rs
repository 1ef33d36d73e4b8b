//! What is frozen stays, what is pruned stays zero, and integers answer as the fake-quantized network did.

use crate::common::{THREADS, adamw, digits, network, run, sgd, state};
use penjing_compress::{
    prune::{PruneConfig, Scope, bake_masks, prune, sparsity},
    quantize::{QuantizeConfig, place_fake_quant, to_qdq},
};
use penjing_data::{Loader, LoaderConfig, digits_24};
use penjing_exec::Target;
use penjing_ir::{Model, Op, ValueId};
use penjing_reference::Precision;
use penjing_tensor::{DType, Tensor};
use penjing_train::{Inference, calibrate, evaluate};
use std::collections::BTreeMap;

#[test]
fn frozen_weights_keep_their_bits() {
    let mut model = network("simple-cnn", 4);
    for name in ["conv1.weight", "fc1.bias"] {
        let id = model.find_state(name).unwrap();
        model.states[id.index()].trainable = false;
    }
    for config in [sgd(0.05, 2), adamw(1e-2, 2)] {
        let trained = run(&model, &digits(24), 8, &config).model;
        for before in &model.states {
            let same = state(&trained, &before.name).bytes() == before.init.bytes();
            assert_eq!(same, !before.trainable, "`{}`", before.name);
        }
    }
}

#[test]
fn pruned_weights_stay_zero_through_training_and_quantization() {
    let mut model = network("simple-cnn", 4);
    prune(&mut model, &PruneConfig { sparsity: 0.6, scope: Scope::Global }).unwrap();
    for config in [sgd(0.05, 2), adamw(1e-2, 2)] {
        let trained = run(&model, &digits(40), 8, &config).model;
        let baked = bake_masks(&trained).unwrap();
        let (total, nonzero) = sparsity(&baked).unwrap();
        assert_eq!(total - nonzero, (0.6 * total as f64).round() as usize);
        let masked = assert_zeros(&model, |weight| state(&baked, weight));
        assert_eq!(masked, 4);

        let (fake, _) = fake_quantized(&trained, &digits(40));
        let qdq = to_qdq(&run(&fake, &digits(40), 8, &config).model).unwrap();
        assert_zeros(&model, |weight| integers(&qdq, weight));
    }
}

/// Checks that every masked element of every masked weight is 0 in `after`; returns the number of masks.
fn assert_zeros(pruned: &Model, after: impl Fn(&str) -> Tensor) -> usize {
    let mut masks = 0;
    for mask in &pruned.states {
        let Some(weight) = mask.name.strip_suffix(".mask") else { continue };
        masks += 1;
        let after = after(weight).to_f64s();
        let hidden = mask.init.to_f64s();
        assert_eq!(after.len(), hidden.len());
        assert!(after.iter().zip(&hidden).all(|(w, m)| *m != 0.0 || *w == 0.0), "`{weight}`");
        assert!(after.iter().any(|w| *w != 0.0), "`{weight}` is not all zero");
    }
    masks
}

/// The I8 constant that a weight has become.
fn integers(qdq: &Model, weight: &str) -> Tensor {
    let named = |v: &ValueId| qdq.graph.value(*v).name == weight;
    let constants = qdq.graph.value_ids().filter(named).filter_map(|v| qdq.graph.as_const(v));
    let found: Vec<&Tensor> = constants.map(|t| &**t).filter(|t| t.dtype() == DType::I8).collect();
    assert_eq!(found.len(), 1, "`{weight}`");
    found[0].clone()
}

/// The model with fake quantization on the ranges of `data`, and those ranges.
fn fake_quantized(model: &Model, data: &penjing_data::Dataset) -> (Model, f64) {
    let config = QuantizeConfig::default();
    let loader = Loader::new(data.clone(), LoaderConfig::eval(8)).unwrap();
    let ranges = calibrate(model, &config, &loader, 5, Target::host(THREADS)).unwrap();
    let widest = ranges.values().map(|r| f64::from(r.grid().0)).fold(0.0, f64::max);
    let mut fake = model.clone();
    place_fake_quant(&mut fake, &config, &ranges).unwrap();
    (fake, widest)
}

#[test]
fn integers_answer_as_the_fake_quantized_network() {
    let target = Target::host(THREADS);
    let trained = run(&network("simple-cnn", 8), &digits(480), 32, &sgd(0.05, 3)).model;
    let (fake, _) = fake_quantized(&trained, &digits(480));
    let tuned = run(&fake, &digits(480), 32, &sgd(0.002, 1)).model;
    let qdq = to_qdq(&tuned).unwrap();

    let d = digits_24();
    let held_out = penjing_data::Dataset::new("held out", d.x, Some(d.y)).unwrap().subset(&d.held_out).unwrap();
    let loader = Loader::new(held_out, LoaderConfig::eval(60)).unwrap();
    let (float, integer) = (evaluate(&tuned, &loader, target).unwrap(), evaluate(&qdq, &loader, target).unwrap());
    let (a, b) = (best(&float.logits), best(&integer.logits));
    let equal = a.iter().zip(&b).filter(|(a, b)| a == b).count();
    assert_eq!(a.len(), 360);
    assert!(equal * 100 >= 99 * a.len(), "{equal} of 360 predictions are equal");
    assert!(integer.top1 > 0.8, "accuracy {}", integer.top1);

    let x = loader.batch(0, 0).unwrap().x;
    let mut inference = Inference::new(&qdq, target).unwrap();
    let products = trained.graph.nodes().iter().filter(|n| matches!(n.op, Op::Conv(_) | Op::MatMul { .. })).count();
    let steps: Vec<_> = inference.program(&[("x", &x)]).unwrap().steps().filter(|s| s.macs > 0).collect();
    assert_eq!((products, steps.len()), (4, 4));
    for step in &steps {
        let integer = step.kernel.contains(".qs8-") && step.kernel.contains("-qc8w-");
        assert!(integer, "`{}` runs on {}", step.node, step.kernel);
    }

    // The last product gives float logits. Its smallest step is one code of its input through one weight; its largest, one
    // code through the largest weight.
    let last = qdq.graph.nodes().iter().rfind(|n| matches!(n.op, Op::MatMul { .. })).unwrap();
    let scale_of = |v: ValueId| {
        let dequantize = qdq.graph.node(qdq.graph.producer(v).unwrap());
        qdq.graph.as_const(dequantize.inputs[1]).unwrap().to_f64s()
    };
    let quantum = scale_of(last.inputs[0])[0] * 127.0 * scale_of(last.inputs[1]).into_iter().fold(0.0, f64::max);
    let have = inference.run(&[("x", &x)]).unwrap().remove(0).1;
    let inputs = BTreeMap::from([("x".to_string(), x)]);
    let want = penjing_reference::run(&qdq, &inputs, &BTreeMap::new(), Precision::Declared).unwrap();
    let (have, want) = (have.to_f64s(), want.outputs["logits"].to_f64s());
    let worst = have.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst <= quantum, "off by {worst}, one quantum is {quantum}");
}

/// Index of the largest logit of each row.
fn best(logits: &Tensor) -> Vec<usize> {
    let row = |row: &[f32]| (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    logits.as_slice::<f32>().unwrap().chunks_exact(10).map(row).collect()
}
