//! From a float model over fake quantization to QDQ, against the reference interpreter and against the formulas.

#![allow(clippy::unwrap_used)]

use penjing_compress::{
    prune::{PruneConfig, Scope as Compared, prune},
    quantize::{QuantizeConfig, Range, WeightRange, activations, place_dynamic, place_fake_quant, to_qdq},
};
use penjing_ir::{
    ConvSpec, Dim, Fact, Model, Op, PoolKind, PoolSpec, QuantScheme, Real, Role, Scope, Stage, ValueId, verify,
};
use penjing_reference::{Precision, run};
use penjing_tensor::{DType, Rng, Tensor};
use std::collections::BTreeMap;

fn random(name: &str, shape: &[usize]) -> Tensor {
    let rng = Rng::new(1, name, 0);
    let n: usize = shape.iter().product();
    Tensor::from_vec(shape, (0..n as u64).map(|i| rng.normal(i)).collect()).unwrap()
}

/// BatchNorm's gain: one channel as it is, one turned, one switched off, one small.
const GAIN: [f32; 4] = [1.5, -0.7, 0.0, 0.01];

/// x: [N, 2, 6, 6] → conv a → batch norm → ReLU → conv b, added to the ReLU's result → max pool → linear [N, 5].
fn network() -> Model {
    let mut m = Model::new("m");
    let n = Dim::sym("N");
    let x = m.graph.add_input("x", Fact { dtype: DType::F32, shape: vec![n.clone(), 2.into(), 6.into(), 6.into()] });
    let a = m.add_weight("a.weight", random("a", &[4, 2, 3, 3]));
    let b = m.add_weight("b.weight", random("b", &[4, 4, 3, 3]));
    let b_bias = m.add_weight("b.bias", random("b.bias", &[4]));
    let fc = m.add_weight("fc.weight", random("fc", &[5, 36]));
    let fc_bias = m.add_weight("fc.bias", random("fc.bias", &[5]));
    let gain = m.add_weight("bn.weight", Tensor::from_vec(&[4], GAIN.to_vec()).unwrap());
    let shift = m.add_weight("bn.bias", random("shift", &[4]));
    let mean = m.add_state("bn.mean", Role::Buffer, false, random("mean", &[4]));
    let var = m.add_state("bn.var", Role::Buffer, false, Tensor::from_vec(&[4], vec![0.5f32, 2.0, 1.0, 4.0]).unwrap());
    let spec = ConvSpec { pads: vec![(1, 1); 2], ..ConvSpec::unit(2) };
    let pool =
        PoolSpec { kernel: vec![2, 2], strides: vec![2, 2], pads: vec![(0, 0); 2], dilations: vec![1, 1], ceil: false };
    let mut s = Scope::new(&mut m.graph, "net");
    let h = s.conv(x, a, None, spec.clone()).unwrap();
    let h = s.op(Op::BatchNorm { eps: Real(1e-5), momentum: Real(0.9) }, &[h, gain, shift, mean, var]).unwrap();
    let h = s.relu(h).unwrap();
    let side = s.conv(h, b, Some(b_bias), spec).unwrap();
    let h = s.add(h, side).unwrap();
    let h = s.op(Op::Pool { kind: PoolKind::Max, spec: pool }, &[h]).unwrap();
    let h = s.reshape(h, &[n, 36.into()]).unwrap();
    let y = s.linear(h, fc, Some(fc_bias)).unwrap();
    m.graph.add_output("y", y);
    m
}

fn inputs() -> BTreeMap<String, Tensor> {
    BTreeMap::from([("x".to_string(), random("x", &[3, 2, 6, 6]))])
}

/// Fake quantization on the ranges that the inputs give.
fn fake_quantized(model: &Model, config: &QuantizeConfig) -> Model {
    let values = activations(model, config);
    let tensors =
        penjing_reference::run_values(model, &inputs(), &BTreeMap::new(), Precision::Declared, &values).unwrap();
    let range =
        |t: &Tensor| t.to_f64s().iter().fold(Range::EMPTY, |r, &v| r.union(Range { min: v as f32, max: v as f32 }));
    let ranges = values.into_iter().zip(tensors.iter().map(range)).collect();
    let mut fake = model.clone();
    place_fake_quant(&mut fake, config, &ranges).unwrap();
    verify(&fake, Stage::Canonical).unwrap();
    fake
}

fn output(model: &Model) -> Vec<f64> {
    run(model, &inputs(), &BTreeMap::new(), Precision::Declared).unwrap().outputs["y"].to_f64s()
}

fn count(model: &Model, is: impl Fn(&Op) -> bool) -> usize {
    model.graph.nodes().iter().filter(|n| is(&n.op)).count()
}

/// The float content of a product's operand: what its `Dequantize` gives.
fn dequantized(model: &Model, v: ValueId) -> Tensor {
    let node = model.graph.node(model.graph.producer(v).unwrap());
    let operands: Vec<&Tensor> = node.inputs.iter().map(|&i| &**model.graph.as_const(i).unwrap()).collect();
    assert!(matches!(node.op, Op::Dequantize(_)));
    penjing_reference::eval_op(&node.op, &operands).unwrap().remove(0)
}

#[test]
fn qdq_answers_as_fake_quantization_does() {
    let fake = fake_quantized(&network(), &QuantizeConfig::default());
    assert_eq!(count(&fake, |op| matches!(op, Op::FakeQuant(_))), 6);
    let qdq = to_qdq(&fake).unwrap();
    verify(&qdq, Stage::Canonical).unwrap();
    assert_eq!(count(&qdq, |op| matches!(op, Op::FakeQuant(_) | Op::BatchNorm { .. })), 0);
    assert_eq!(count(&qdq, |op| matches!(op, Op::Quantize(_))), 3);
    // Three activations, three weights, three biases, one of them made of the batch normalization.
    assert_eq!(count(&qdq, |op| matches!(op, Op::Dequantize(_))), 9);
    let (float, fake, qdq) = (output(&network()), output(&fake), output(&qdq));
    // A bias that is rounded moves a few activations to the next code, so single results may differ; the mean hardly does.
    let mean = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>() / a.len() as f64;
    let (rounding, difference) = (mean(&float, &fake), mean(&fake, &qdq));
    assert!(difference < 0.1 * rounding, "{difference} beside {rounding}");
}

/// Weight and bias of the folded convolution by the formula, with the rounding of the weight before the gain.
#[test]
fn batch_norm_keeps_the_codes_of_the_weight() {
    let model = network();
    let qdq = to_qdq(&fake_quantized(&model, &QuantizeConfig::default())).unwrap();
    let conv = qdq.graph.nodes().iter().find(|n| matches!(n.op, Op::Conv(_))).unwrap();
    let (have, bias) = (dequantized(&qdq, conv.inputs[1]).to_f64s(), dequantized(&qdq, conv.inputs[2]).to_f64s());
    let state = |name: &str| model.state(model.find_state(name).unwrap()).init.to_f64s();
    let (w, shift, mean, var) = (state("a.weight"), state("bn.bias"), state("bn.mean"), state("bn.var"));
    for c in 0..4 {
        let gain = f64::from(GAIN[c]) / (var[c] + 1e-5).sqrt();
        let row = &w[c * 18..][..18];
        let scale = row.iter().fold(0.0f64, |m, v| m.max(v.abs())) / 127.0;
        for (have, w) in have[c * 18..][..18].iter().zip(row) {
            let want = (w / scale).round() * scale * gain;
            assert!((have - want).abs() <= 1e-5 * want.abs() + 1e-9, "channel {c}: {have}, {want}");
        }
        let want = shift[c] - mean[c] * gain;
        assert!((bias[c] - want).abs() < 1e-2 * want.abs(), "channel {c}: {}, {want}", bias[c]);
    }
}

/// A channel without weights still has its bias, although no scale follows from its weights.
#[test]
fn a_channel_of_zeros_keeps_its_bias() {
    let mut model = network();
    for name in ["b.weight", "fc.weight"] {
        let id = model.find_state(name).unwrap();
        let mut w = (*model.state(id).init).clone();
        w.as_mut_slice::<f32>().unwrap()[..36].fill(0.0);
        model.states[id.index()].init = w.into();
    }
    let fake = fake_quantized(&model, &QuantizeConfig::default());
    let qdq = to_qdq(&fake).unwrap();
    assert_eq!(count(&qdq, |op| matches!(op, Op::Dequantize(_))), 9, "every bias is on integers");
    let (want, have) = (output(&fake), output(&qdq));
    let bias = model.state(model.find_state("fc.bias").unwrap()).init.to_f64s()[0];
    for row in 0..3 {
        assert!((want[row * 5] - bias).abs() < 1e-6);
        // Its steps are those of the channel with the largest weights.
        assert!((have[row * 5] - bias).abs() < 0.1 * bias.abs(), "{} for {bias}", have[row * 5]);
    }
}

#[test]
fn masks_survive_as_zero_codes() {
    let mut model = network();
    prune(&mut model, &PruneConfig { sparsity: 0.5, scope: Compared::Layer }).unwrap();
    let qdq = to_qdq(&fake_quantized(&model, &QuantizeConfig::default())).unwrap();
    assert!(qdq.states.iter().all(|s| s.role != Role::Mask));
    for name in ["a", "b", "fc"] {
        let mask = model.state(model.find_state(&format!("{name}.weight.mask")).unwrap()).init.to_f64s();
        let named = |v: &ValueId| qdq.graph.value(*v).name == format!("{name}.weight");
        let codes = qdq.graph.value_ids().filter(named).find_map(|v| qdq.graph.as_const(v)).unwrap();
        assert_eq!(codes.dtype(), DType::I8);
        assert!(codes.to_f64s().iter().zip(&mask).all(|(q, m)| *m != 0.0 || *q == 0.0), "{name}");
    }
}

#[test]
fn skipped_products_stay_in_float() {
    let model = network();
    let first = model.graph.nodes().iter().find(|n| matches!(n.op, Op::Conv(_))).unwrap().name.clone();
    // The name of the first convolution is a prefix of the second's.
    let config = QuantizeConfig { skip: vec![first], ..QuantizeConfig::default() };
    let qdq = to_qdq(&fake_quantized(&model, &config)).unwrap();
    assert_eq!(count(&qdq, |op| matches!(op, Op::BatchNorm { .. })), 1);
    assert_eq!(count(&qdq, |op| matches!(op, Op::Quantize(_))), 1);
    verify(&qdq, Stage::Canonical).unwrap();
    let everything = QuantizeConfig { skip: vec!["net".into()], ..QuantizeConfig::default() };
    let nothing = place_fake_quant(&mut network(), &everything, &BTreeMap::new());
    assert!(nothing.is_err());
}

/// The sum after convolution b reads its other addend from the grid that the convolution reads too.
#[test]
fn the_addend_of_a_convolution_is_on_its_grid() {
    let fake = fake_quantized(&network(), &QuantizeConfig::default());
    let add = fake.graph.nodes().iter().find(|n| n.op == Op::Binary(penjing_ir::Binary::Add)).unwrap();
    let is_fake =
        |v: ValueId| fake.graph.producer(v).is_some_and(|p| matches!(fake.graph.node(p).op, Op::FakeQuant(_)));
    assert_eq!(add.inputs.iter().filter(|v| is_fake(**v)).count(), 1);
}

#[test]
fn a_reduced_range_keeps_weights_within_64() {
    let config = QuantizeConfig { weight_range: WeightRange::Reduced, ..QuantizeConfig::default() };
    let qdq = to_qdq(&fake_quantized(&network(), &config)).unwrap();
    let codes =
        qdq.graph.value_ids().filter_map(|v| qdq.graph.as_const(v)).filter(|t| t.dtype() == DType::I8 && t.rank() > 1);
    let largest: Vec<f64> = codes.map(|t| t.to_f64s().iter().fold(0.0, |m: f64, v| m.max(v.abs()))).collect();
    assert_eq!(largest, [64.0; 3]);
}

/// Without calibration: the grids are found when the model runs.
#[test]
fn dynamic_quantization_answers_almost_as_the_float_model() {
    let mut dynamic = network();
    place_dynamic(&mut dynamic, &QuantizeConfig::default()).unwrap();
    let qdq = to_qdq(&dynamic).unwrap();
    verify(&qdq, Stage::Canonical).unwrap();
    assert_eq!(count(&qdq, |op| matches!(op, Op::FakeQuant(_) | Op::Quantize(_))), 0);
    assert_eq!(count(&qdq, |op| matches!(op, Op::DynamicQuantize)), 3);
    let (want, have) = (output(&network()), output(&qdq));
    let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
    let error: Vec<f64> = want.iter().zip(&have).map(|(a, b)| a - b).collect();
    assert!(norm(&error) < 0.03 * norm(&want), "{want:?} {have:?}");
}

/// Both weights of a cell have a scale for each gate of each unit; its input is on a grid.
#[test]
fn recurrent_cells_have_integer_weights() {
    let mut m = Model::new("rnn");
    let x = m.graph.add_input("x", Fact { dtype: DType::F32, shape: vec![3.into(), 2.into(), 5.into()] });
    let w = m.add_weight("w", random("w", &[1, 16, 5]));
    let r = m.add_weight("r", random("r", &[1, 16, 4]));
    let b = m.add_weight("b", random("b", &[1, 32]));
    let zero = m.graph.add_const(Tensor::zeros(DType::F32, &[1, 2, 4]).unwrap());
    let op = Op::Lstm { direction: penjing_ir::Direction::Forward, reserve: false };
    let y = m.graph.apply("lstm", op, &[x, w, r, b, zero, zero]).unwrap();
    m.graph.add_output("y", y);
    let config = QuantizeConfig::default();
    assert_eq!(activations(&m, &config), [x]);
    let ranges = BTreeMap::from([(x, Range { min: -3.0, max: 3.0 })]);
    place_fake_quant(&mut m, &config, &ranges).unwrap();
    let qdq = to_qdq(&m).unwrap();
    let cell = qdq.graph.nodes().iter().find(|n| matches!(n.op, Op::Lstm { .. })).unwrap();
    for (operand, state) in [(1, "w"), (2, "r")] {
        let have = dequantized(&qdq, cell.inputs[operand]).to_f64s();
        let want = m.state(m.find_state(state).unwrap()).init.to_f64s();
        let width = have.len() / 16;
        for (have, want) in have.chunks(width).zip(want.chunks(width)) {
            let step = want.iter().fold(0.0f64, |m, v| m.max(v.abs())) / 127.0;
            assert!(have.iter().zip(want).all(|(h, w)| (h - w).abs() <= 0.501 * step), "{have:?} {want:?}");
        }
    }
}

/// tokens: [4] → rows of a table → linear; the head is the table itself where `tied`.
fn language_model(rows: usize, tied: bool) -> Model {
    let mut m = Model::new("lm");
    let tokens = m.graph.add_input("tokens", Fact { dtype: DType::I64, shape: vec![4.into()] });
    let table = m.add_weight("table", random("table", &[rows, 32]));
    let head = if tied { table } else { m.add_weight("head", random("head", &[rows, 32])) };
    let mut s = Scope::new(&mut m.graph, "lm");
    let h = s.op(Op::Gather { axis: 0 }, &[table, tokens]).unwrap();
    let y = s.op(Op::MatMul { trans_a: false, trans_b: true }, &[h, head]).unwrap();
    m.graph.add_output("rows", h);
    m.graph.add_output("y", y);
    m
}

#[test]
fn rows_of_large_tables_have_grids_of_their_own() {
    let config = QuantizeConfig { weight_range: WeightRange::Full, ..QuantizeConfig::default() };
    for (rows, tied, weights) in [(4096, false, 2), (4096, true, 1), (100, false, 1)] {
        let model = language_model(rows, tied);
        let mut fake = model.clone();
        place_dynamic(&mut fake, &config).unwrap();
        let qdq = to_qdq(&fake).unwrap();
        verify(&qdq, Stage::Canonical).unwrap();
        let codes = |dtype| qdq.graph.nodes().iter().filter(|n| n.op == Op::Dequantize(grid(dtype))).count();
        assert_eq!(codes(DType::I8), weights, "rows {rows}, tied {tied}");

        let tokens = Tensor::from_vec(&[4], vec![0i64, 99, 7, 7]).unwrap();
        let inputs = BTreeMap::from([("tokens".to_string(), tokens)]);
        let picked =
            |m: &Model| run(m, &inputs, &BTreeMap::new(), Precision::Declared).unwrap().outputs["rows"].to_f64s();
        for (want, have) in picked(&model).chunks(32).zip(picked(&qdq).chunks(32)) {
            let step = want.iter().fold(0.0f64, |m, v| m.max(v.abs())) / 127.0;
            assert!(want.iter().zip(have).all(|(w, h)| (w - h).abs() <= 0.501 * step), "within half a step of the row");
            assert!(rows < 4096 || want != have, "a grid rounds");
        }
    }
    let skip = QuantizeConfig { skip: vec!["lm/Gather".into()], ..config };
    let mut fake = language_model(4096, false);
    let gather = fake.graph.nodes().iter().position(|n| matches!(n.op, Op::Gather { .. })).unwrap();
    fake.graph.node_mut(penjing_ir::NodeId(gather as u32)).name = "lm/Gather".into();
    place_dynamic(&mut fake, &skip).unwrap();
    assert_eq!(count(&to_qdq(&fake).unwrap(), |op| *op == Op::Dequantize(grid(DType::I8))), 1);
}

/// The grid of a weight whose rows have scales of their own.
fn grid(dtype: DType) -> QuantScheme {
    QuantScheme { dtype, axis: Some(0), narrow: true }
}
