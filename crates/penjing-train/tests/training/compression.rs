//! What is frozen stays, what is pruned stays zero, and integers answer as the fake-quantized network did.

use crate::common::{THREADS, adamw, bytes, digits, images, network, run, sgd, state};
use penjing_compress::{
    prune::{PruneConfig, Scope, bake_masks, prune, sparsity},
    quantize::{QuantizeConfig, place_fake_quant, to_qdq},
};
use penjing_data::{Dataset, Loader, LoaderConfig, digits_24};
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

        let fake = fake_quantized(&trained, &digits(40));
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

/// The model with fake quantization on the ranges of `data`.
fn fake_quantized(model: &Model, data: &Dataset) -> Model {
    let config = QuantizeConfig::default();
    let loader = Loader::new(data.clone(), LoaderConfig::eval(8)).unwrap();
    let ranges = calibrate(model, &config, &loader, 5, Target::host(THREADS)).unwrap();
    let mut fake = model.clone();
    place_fake_quant(&mut fake, &config, &ranges).unwrap();
    fake
}

#[test]
fn integers_answer_as_the_fake_quantized_network() {
    let target = Target::host(THREADS);
    let trained = run(&network("simple-cnn", 8), &digits(480), 32, &sgd(0.05, 3)).model;
    let tuned = run(&fake_quantized(&trained, &digits(480)), &digits(480), 32, &sgd(0.002, 1)).model;
    let qdq = to_qdq(&tuned).unwrap();

    let d = digits_24();
    let held_out = Dataset::new("held out", d.x, Some(d.y)).unwrap().subset(&d.held_out).unwrap();
    let loader = Loader::new(held_out, LoaderConfig::eval(60)).unwrap();
    let (float, integer) = (evaluate(&tuned, &loader, target).unwrap(), evaluate(&qdq, &loader, target).unwrap());
    let (a, b) = (best(&float.logits), best(&integer.logits));
    let equal = a.iter().zip(&b).filter(|(a, b)| a == b).count();
    assert_eq!(a.len(), 360);
    assert!(equal * 100 >= 99 * a.len(), "{equal} of 360 predictions are equal");
    assert!(integer.top1 > 0.8, "accuracy {}", integer.top1);
    check_integers(&qdq, &loader.batch(0, 0).unwrap().x, 4);
}

/// Every network of the zoo: training, quantization-aware training, integers.
#[test]
fn every_network_runs_on_integers() {
    let cases = [
        ("resnet-8", network("resnet-8", 4), images(24), sgd(0.05, 2), 10),
        ("lstm", network("lstm", 16), bytes(24), sgd(0.5, 2), 2),
        ("gpt", network("gpt", 32), bytes(24), adamw(1e-3, 2), 5),
    ];
    for (name, model, data, config, products) in cases {
        let trained = run(&model, &data, 8, &config).model;
        let tuned = run(&fake_quantized(&trained, &data), &data, 8, &config).model;
        let qdq = to_qdq(&tuned).unwrap();
        let normalizations = qdq.graph.nodes().iter().filter(|n| matches!(n.op, Op::BatchNorm { .. })).count();
        assert_eq!(normalizations, 0, "{name}");
        let loader = Loader::new(data, LoaderConfig::eval(8)).unwrap();
        let (float, integer) = (
            evaluate(&tuned, &loader, Target::host(THREADS)).unwrap(),
            evaluate(&qdq, &loader, Target::host(THREADS)).unwrap(),
        );
        assert!((float.loss - integer.loss).abs() < 1e-2 * float.loss, "{name}: {} and {}", float.loss, integer.loss);
        check_integers(&qdq, &loader.batch(0, 0).unwrap().x, products);
    }
}

/// All products of a QDQ model run on integer kernels, and the executor gives what the reference interpreter gives: most rows to
/// the rounding of F32, every logit to one quantum.
fn check_integers(qdq: &Model, x: &Tensor, products: usize) {
    let name = qdq.graph.name.as_str();
    let input = qdq.graph.value(qdq.graph.inputs[0]).name.clone();
    let mut inference = Inference::new(qdq, Target::host(THREADS)).unwrap();
    let steps: Vec<_> = inference.program(&[(&input, x)]).unwrap().steps().collect();
    let integer = steps.iter().filter(|s| s.kernel.contains(".q") && s.kernel.contains("-qc8w-")).count();
    let float = steps.iter().find(|s| ["Conv", "MatMul", "machine.Conv", "machine.MatMul"].contains(&s.op));
    assert!(integer == products && float.is_none(), "{name}: {integer} integer products, {float:?}");

    // The last product gives float logits. Their quantum is one code of its input through its largest weight: a value that lies
    // on the edge between two codes may fall to either side.
    let last = qdq.graph.nodes().iter().rfind(|n| matches!(n.op, Op::MatMul { .. })).unwrap();
    // Ops between that move elements have the Dequantize behind their first operand.
    let scale_of = |mut v: ValueId| loop {
        let node = qdq.graph.node(qdq.graph.producer(v).unwrap());
        match node.op {
            Op::Dequantize(_) => break qdq.graph.as_const(node.inputs[1]).unwrap().to_f64s(),
            _ => v = node.inputs[0],
        }
    };
    let quantum = scale_of(last.inputs[0])[0] * 127.0 * scale_of(last.inputs[1]).into_iter().fold(0.0, f64::max);
    let have = inference.run(&[(&input, x)]).unwrap().remove(0).1;
    let inputs = BTreeMap::from([(input, x.clone())]);
    let want = penjing_reference::run(qdq, &inputs, &BTreeMap::new(), Precision::Declared).unwrap();
    let classes = have.shape()[have.rank() - 1];
    let (have, want) = (have.to_f64s(), want.outputs["logits"].to_f64s());
    let off: Vec<f64> = have.iter().zip(&want).map(|(a, b)| (a - b).abs()).collect();
    let rows: Vec<f64> = off.chunks(classes).map(|row| row.iter().copied().fold(0.0, f64::max)).collect();
    // An integer LSTM puts its hidden state on a grid of its own in every step, which the file does not say.
    let recurrent = qdq.graph.nodes().iter().any(|n| matches!(n.op, Op::Lstm { .. }));
    let bound = if recurrent { 2.0 * quantum } else { quantum };
    assert!(rows.iter().all(|&off| off <= bound), "{name}: one quantum is {quantum}, rows are off by {rows:?}");
    if recurrent {
        return;
    }
    let exact = rows.iter().filter(|&&off| off < 1e-4).count();
    assert!(exact * 10 >= rows.len() * 9, "{name}: {exact} of {} rows are exact: {rows:?}", rows.len());
}

/// Index of the largest logit of each row.
fn best(logits: &Tensor) -> Vec<usize> {
    let row = |row: &[f32]| (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    logits.as_slice::<f32>().unwrap().chunks_exact(10).map(row).collect()
}
