//! From a float model over fake quantization to QDQ, against the reference interpreter and against the formulas.

#![allow(clippy::unwrap_used)]

use penjing_compress::{
    prune::{PruneConfig, Scope as Compared, prune},
    quantize::{QuantizeConfig, Range, WeightRange, activations, place_dynamic, place_fake_quant, to_qdq},
};
use penjing_ir::{
    ConvSpec, Dim, Fact, Model, Op, PadMode, PoolKind, PoolSpec, QuantScheme, Real, Reduction, Role, Scope, SliceRange,
    Stage, ValueId, verify,
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
    let direction = penjing_ir::Direction::Forward;
    has_integer_weights(Op::Lstm { direction, reserve: false }, 4, 2);
    has_integer_weights(Op::Gru { direction, reset: penjing_ir::Reset::State }, 3, 1);
}

/// A cell of so many gates and states.
fn has_integer_weights(op: Op, gates: usize, states: usize) {
    let mut m = Model::new("rnn");
    let x = m.graph.add_input("x", Fact { dtype: DType::F32, shape: vec![3.into(), 2.into(), 5.into()] });
    let w = m.add_weight("w", random("w", &[1, 4 * gates, 5]));
    let r = m.add_weight("r", random("r", &[1, 4 * gates, 4]));
    let b = m.add_weight("b", random("b", &[1, 8 * gates]));
    let zero = m.graph.add_const(Tensor::zeros(DType::F32, &[1, 2, 4]).unwrap());
    let y = m.graph.apply("cell", op, &[&[x, w, r, b], &vec![zero; states][..]].concat()).unwrap();
    m.graph.add_output("y", y);
    let config = QuantizeConfig::default();
    assert_eq!(activations(&m, &config), [x]);
    let ranges = BTreeMap::from([(x, Range { min: -3.0, max: 3.0 })]);
    place_fake_quant(&mut m, &config, &ranges).unwrap();
    let qdq = to_qdq(&m).unwrap();
    let cell = qdq.graph.nodes().iter().find(|n| matches!(n.op, Op::Lstm { .. } | Op::Gru { .. })).unwrap();
    for (operand, state) in [(1, "w"), (2, "r")] {
        let have = dequantized(&qdq, cell.inputs[operand]).to_f64s();
        let want = m.state(m.find_state(state).unwrap()).init.to_f64s();
        let width = have.len() / (4 * gates);
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

/// x: [3, 2, 6, 6] → 1 × 1 convolutions and what the test puts between them.
struct Net {
    model: Model,
}

impl Net {
    fn new() -> (Net, ValueId) {
        let mut model = Model::new("m");
        let shape = [3, 2, 6, 6].map(Dim::Const).to_vec();
        let x = model.graph.add_input("x", Fact { dtype: DType::F32, shape });
        (Net { model }, x)
    }

    fn op(&mut self, name: &str, op: Op, x: &[ValueId]) -> ValueId {
        self.model.graph.apply(name, op, x).unwrap()
    }

    fn conv(&mut self, name: &str, x: ValueId, channels: usize) -> ValueId {
        let from = self.model.graph.fact(x).shape[1].as_const().unwrap();
        let w = self.model.add_weight(&format!("{name}.weight"), random(name, &[channels, from, 1, 1]));
        self.op(name, Op::Conv(ConvSpec::unit(2)), &[x, w])
    }

    fn relu(&mut self, x: ValueId) -> ValueId {
        self.op("relu", Op::Unary(penjing_ir::Unary::Relu), &[x])
    }

    fn max_pool(&mut self, x: ValueId) -> ValueId {
        let (kernel, strides) = (vec![2, 2], vec![2, 2]);
        let spec = PoolSpec { kernel, strides, pads: vec![(0, 0); 2], dilations: vec![1, 1], ceil: false };
        self.op("pool", Op::Pool { kind: PoolKind::Max, spec }, &[x])
    }

    /// The values on a grid, the input apart, when `y` and `outputs` leave the graph; QDQ must answer as fake quantization does.
    fn on_grids(mut self, y: ValueId, outputs: &[ValueId]) -> Vec<ValueId> {
        self.model.graph.add_output("y", y);
        outputs.iter().enumerate().for_each(|(i, &v)| self.model.graph.add_output(&format!("side{i}"), v));
        let config = QuantizeConfig::default();
        let values = activations(&self.model, &config);
        let fake = fake_quantized(&self.model, &config);
        let qdq = to_qdq(&fake).unwrap();
        verify(&qdq, Stage::Canonical).unwrap();
        // There are no biases to round; what is behind a mover may be rounded twice.
        let (fake, qdq) = (output(&fake), output(&qdq));
        assert!(fake.iter().zip(&qdq).all(|(a, b)| (a - b).abs() <= 1e-4 * a.abs().max(1.0)), "{fake:?} {qdq:?}");
        values.into_iter().filter(|v| !self.model.graph.inputs.contains(v)).collect()
    }
}

/// A shortcut that takes every second pixel and adds channels of zeros: its grid is that of what the convolution beside it reads.
#[test]
fn a_grid_moves_above_what_only_moves_elements() {
    for in_float in [false, true] {
        let (mut net, x) = Net::new();
        let h = net.conv("a", x, 4);
        let h = net.relu(h);
        let pooled = net.max_pool(h);
        let main = net.conv("b", pooled, 6);
        let ranges = [(0, 3, 1), (0, 4, 1), (0, 3, 1), (0, 3, 1)];
        let ranges =
            ranges.map(|(start, len, step)| SliceRange { start: Dim::Const(start), len: Dim::Const(len), step });
        let side = net.op("slice", Op::Slice { ranges: ranges.to_vec() }, &[pooled]);
        let pad = Op::Pad { before: vec![0, 1, 0, 0], after: vec![0, 1, 0, 0], mode: PadMode::Constant(Real(0.0)) };
        let side = net.op("pad", pad, &[side]);
        let sum = net.op("add", Op::Binary(penjing_ir::Binary::Add), &[main, side]);
        // The pooled image as a result keeps its float, and its grid stays below the pooling.
        let side = if in_float { vec![pooled] } else { vec![] };
        assert_eq!(net.on_grids(sum, &side), [if in_float { pooled } else { h }]);
    }
}

/// An average is none of its elements: the grid stays behind it.
#[test]
fn a_grid_stays_behind_what_changes_values() {
    let (mut net, x) = Net::new();
    let h = net.conv("a", x, 4);
    let (kernel, pads) = (vec![2, 2], vec![(0, 0); 2]);
    let spec = PoolSpec { strides: vec![2, 2], kernel, pads, dilations: vec![1, 1], ceil: false };
    let kind = PoolKind::Average { count_include_pad: false };
    let mean = net.op("mean", Op::Pool { kind, spec }, &[h]);
    let y = net.conv("b", mean, 3);
    assert_eq!(net.on_grids(y, &[]), [mean]);
}

/// Tensors that are joined are on one grid, that of the joined, which the convolution behind it reads; so is what is joined again.
/// A joined tensor that is a result keeps its float, and its grid stays below the joining.
#[test]
fn joined_tensors_share_a_grid() {
    for in_float in [false, true] {
        let (mut net, x) = Net::new();
        let (a, b, c) = (net.conv("a", x, 2), net.conv("b", x, 3), net.conv("c", x, 1));
        let [a, b, c] = [a, b, c].map(|v| net.relu(v));
        let both = net.op("both", Op::Concat { axis: 1 }, &[a, b]);
        let [again, pooled] = [both, c].map(|v| net.max_pool(v));
        let all = net.op("all", Op::Concat { axis: 1 }, &[again, pooled]);
        let y = net.conv("d", all, 3);
        let aside = net.conv("e", a, 2);
        net.model.graph.add_output("aside", aside);

        let mut model = net.model.clone();
        model.graph.add_output("y", y);
        if in_float {
            model.graph.add_output("both", both);
        }
        let fake = fake_quantized(&model, &QuantizeConfig::default());
        let grids = |v: &ValueId| {
            let read = fake.graph.nodes().iter().find(|n| matches!(n.op, Op::FakeQuant(_)) && n.inputs[0] == *v);
            let state = fake.state_of(read.unwrap().inputs[1]).unwrap();
            fake.state(state).init.to_f64s()[0]
        };
        let joined: Vec<f64> = if in_float { vec![both, c] } else { vec![a, b, c] }.iter().map(grids).collect();
        assert!(joined.iter().all(|&scale| scale == joined[0]), "{joined:?}");
        let (outputs, want) = if in_float { (vec![both], vec![a, c, both]) } else { (vec![], vec![a, b, c]) };
        assert_eq!(net.on_grids(y, &outputs), want);
    }
}

/// The image before a mean over its positions is on a grid, where nobody reads it as floats.
#[test]
fn an_image_is_on_a_grid_before_its_mean() {
    for (axes, in_float, image_on_grid) in
        [(vec![2, 3], false, true), (vec![2, 3], true, false), (vec![3], false, false)]
    {
        let (mut net, x) = Net::new();
        let h = net.conv("a", x, 4);
        let h = net.relu(h);
        let mean = net.op("mean", Op::Reduce { kind: Reduction::Mean, axes: axes.clone(), keep: true }, &[h]);
        let y = net.conv("b", mean, 3);
        let y = if in_float { net.op("gate", Op::Binary(penjing_ir::Binary::Mul), &[h, mean]) } else { y };
        let aside = if in_float { net.conv("c", mean, 2) } else { y };
        let want = if image_on_grid { vec![h, mean] } else { vec![mean] };
        assert_eq!(net.on_grids(y, &[aside]), want, "{axes:?} {in_float}");
    }
}
