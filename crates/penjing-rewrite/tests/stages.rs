//! Batch normalisation, freezing, the two uses of a model, and decomposition.

#![allow(clippy::unwrap_used)]

mod common;

use common::{assert_same, constant, evaluate, formula, inputs, normal, ops, positive};
use penjing_ir::{Binary, ConvSpec, IrError, Model, Op, Real, Role, Scope, Unary, ValueId};
use penjing_rewrite::{
    FoldConfig, Trace, dead_code, decompose, fold_batch_norm, fold_constants, for_inference, for_training,
    optimize_for_inference,
};
use penjing_tensor::{DType, Tensor};

const BATCH_NORM: Op = Op::BatchNorm { eps: Real(1e-5), momentum: Real(0.9) };

fn normalise(s: &mut Scope<'_>, y: ValueId, channels: usize) -> Result<ValueId, IrError> {
    let scale = constant(s, "scale", &[channels]);
    let shift = constant(s, "shift", &[channels]);
    let mean = constant(s, "mean", &[channels]);
    let var = s.graph.add_named_const("var", positive("var", &[channels]));
    s.op(BATCH_NORM, &[y, scale, shift, mean, var])
}

fn folded(before: &Model) -> (Model, Trace) {
    let (mut after, mut trace) = (before.clone(), Trace::new());
    fold_batch_norm(&mut after, &mut trace).unwrap();
    fold_constants(&mut after, &FoldConfig::default(), &mut trace).unwrap();
    dead_code(&mut after).unwrap();
    assert_same(before, &after);
    (after, trace)
}

#[test]
fn batch_norm_folds_into_convolutions() {
    for groups in [1, 2] {
        for bias in [false, true] {
            let spec = ConvSpec { groups, pads: vec![(1, 1); 2], ..ConvSpec::unit(2) };
            let conv = formula(&[&[2, 4, 5, 5]], |s, x| {
                let w = constant(s, "w", &[6, 4 / groups, 3, 3]);
                let b = bias.then(|| constant(s, "b", &[6]));
                let y = s.conv(x[0], w, b, spec.clone())?;
                normalise(s, y, 6)
            });
            let (after, _) = folded(&conv);
            assert_eq!(ops(&after), ["Conv"]);
            assert_eq!(after.graph.value(after.graph.nodes()[0].inputs[1]).name, "w");
            let transposed = formula(&[&[2, 4, 5, 5]], |s, x| {
                let w = constant(s, "w", &[4, 6 / groups, 3, 3]);
                let inputs: Vec<ValueId> = [x[0], w].into_iter().chain(bias.then(|| constant(s, "b", &[6]))).collect();
                let y = s.op(Op::ConvTranspose { spec: spec.clone(), output_pad: vec![0, 0] }, &inputs)?;
                normalise(s, y, 6)
            });
            assert_eq!(ops(&folded(&transposed).0), ["ConvTranspose"]);
        }
    }
}

#[test]
fn batch_norm_folds_into_linear_layers() {
    for (trans_b, shape) in [(true, [6, 4]), (false, [4, 6])] {
        let before = formula(&[&[3, 4]], |s, x| {
            let w = constant(s, "w", &shape);
            let y = s.op(Op::MatMul { trans_a: false, trans_b }, &[x[0], w])?;
            let b = constant(s, "b", &[6]);
            let y = s.add(y, b)?;
            normalise(s, y, 6)
        });
        assert_eq!(ops(&folded(&before).0), ["MatMul", "Add"]);
    }
}

#[test]
fn batch_norm_stays_where_its_input_is_shared_or_not_linear() {
    let spec = ConvSpec::unit(2);
    let mut shared = formula(&[&[1, 2, 3, 3]], |s, x| {
        let w = constant(s, "w", &[2, 2, 1, 1]);
        let y = s.conv(x[0], w, None, spec.clone())?;
        normalise(s, y, 2)
    });
    let conv = shared.graph.nodes().iter().find(|n| matches!(n.op, Op::Conv(_))).unwrap().outputs[0];
    shared.graph.add_output("features", conv);
    assert_eq!(ops(&folded(&shared).0), ["Conv", "BatchNorm"]);
    let activated = formula(&[&[1, 2, 3, 3]], |s, x| {
        let w = constant(s, "w", &[2, 2, 1, 1]);
        let y = s.conv(x[0], w, None, spec.clone())?;
        let y = s.relu(y)?;
        normalise(s, y, 2)
    });
    assert_eq!(ops(&folded(&activated).0), ["Conv", "Relu", "BatchNorm"]);
    let sequence = formula(&[&[3, 6, 4]], |s, x| {
        let w = constant(s, "w", &[4, 6]);
        let y = s.matmul(x[0], w)?;
        normalise(s, y, 6)
    });
    let (after, trace) = folded(&sequence);
    assert!(ops(&after).contains(&"BatchNorm"));
    assert!(trace.skipped.iter().any(|s| s.2 == "the channel axis is not the product's last axis"));
}

/// conv (masked weight) → batch norm → relu → linear, all in states.
fn network() -> Model {
    let mut m = Model::new("net");
    let x = m.graph.add_input("x", penjing_ir::Fact::new(DType::F32, [3usize, 2, 4, 4]));
    let w = m.add_weight("conv.weight", normal("cw", &[4, 2, 3, 3]));
    let mask = Tensor::from_vec(&[4, 2, 3, 3], (0..72).map(|i| (i % 2) as f32).collect()).unwrap();
    let mask = m.add_state("conv.weight.mask", Role::Mask, false, mask);
    let scale = m.add_weight("bn.weight", normal("s", &[4]));
    let shift = m.add_weight("bn.bias", normal("b", &[4]));
    let mean = m.add_state("bn.running_mean", Role::Buffer, false, normal("m", &[4]));
    let var = m.add_state("bn.running_var", Role::Buffer, false, positive("v", &[4]));
    let fc = m.add_weight("fc.weight", normal("fc", &[5, 64]));
    let mut s = Scope::new(&mut m.graph, "");
    let masked = s.mul(w, mask).unwrap();
    let spec = ConvSpec { pads: vec![(1, 1); 2], ..ConvSpec::unit(2) };
    let y = s.conv(x, masked, None, spec).unwrap();
    let y = s.op(BATCH_NORM, &[y, scale, shift, mean, var]).unwrap();
    let y = s.relu(y).unwrap();
    let y = s.reshape(y, &common::dims(&[3, 64])).unwrap();
    let y = s.op(Op::StopGradient, &[y]).unwrap();
    let y = s.linear(y, fc, None).unwrap();
    m.graph.add_output("logits", y);
    m
}

#[test]
fn inference_freezes_and_folds_everything() {
    let before = network();
    let after = optimize_for_inference(&before, &mut Trace::new()).unwrap();
    assert_eq!(ops(&after), ["Conv", "Relu", "Reshape", "MatMul"]);
    assert!(after.states.is_empty());
    assert_same(&before, &after);
    let weight = after.graph.as_const(after.graph.nodes()[0].inputs[1]).unwrap().to_f64s();
    assert!(weight.iter().step_by(2).all(|&v| v == 0.0), "the mask is multiplied in");
    assert_eq!(after.graph.value(after.graph.nodes()[0].inputs[1]).name, "conv.weight");
}

#[test]
fn training_normalises_by_the_batch_and_carries_the_running_statistics() {
    let before = network();
    let after = for_training(&before).unwrap();
    assert_eq!(after.carries.len(), 2);
    assert!(ops(&after).contains(&"BatchNormTrain") && ops(&after).contains(&"StopGradient"));
    // The statistics by hand, from the convolution's output.
    let conv_only = {
        let mut m = before.clone();
        let conv = m.graph.nodes().iter().find(|n| matches!(n.op, Op::Conv(_))).unwrap().outputs[0];
        m.graph.outputs.clear();
        m.graph.add_output("conv", conv);
        m
    };
    let y = evaluate(&conv_only).outputs["conv"].to_f64s();
    let states = evaluate(&after).states;
    let n = 48.0;
    for c in 0..4 {
        let channel: Vec<f64> = (0..3).flat_map(|b| y[(b * 4 + c) * 16..][..16].to_vec()).collect();
        let mean = channel.iter().sum::<f64>() / n;
        let var = channel.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
        for (name, init, batch) in
            [("bn.running_mean", normal("m", &[4]), mean), ("bn.running_var", positive("v", &[4]), var)]
        {
            let want = 0.9 * init.to_f64s()[c] + 0.1 * batch;
            assert!((states[name].to_f64s()[c] - want).abs() < 1e-5, "{name}[{c}]");
        }
    }
    let back = for_inference(&after).unwrap();
    assert!(back.carries.is_empty() && !ops(&back).contains(&"StopGradient"));
}

#[test]
fn the_batch_may_be_symbolic_but_not_one_element() {
    let linear = |x: penjing_ir::Fact| {
        let mut m = Model::new("t");
        let x = m.graph.add_input("x", x);
        let p: Vec<ValueId> = ["scale", "bias"].iter().map(|n| m.add_weight(n, normal(n, &[2]))).collect();
        let mean = m.add_state("mean", Role::Buffer, false, normal("mean", &[2]));
        let var = m.add_state("var", Role::Buffer, false, positive("var", &[2]));
        let y = Scope::new(&mut m.graph, "").op(BATCH_NORM, &[x, p[0], p[1], mean, var]).unwrap();
        m.graph.add_output("y", y);
        m
    };
    let symbolic = linear(penjing_ir::Fact { dtype: DType::F32, shape: vec![penjing_ir::Dim::sym("N"), 2.into()] });
    let fixed = linear(penjing_ir::Fact::new(DType::F32, [3usize, 2]));
    assert_same(&for_training(&fixed).unwrap(), &for_training(&symbolic).unwrap());
    let one = for_training(&linear(penjing_ir::Fact::new(DType::F32, [1usize, 2]))).unwrap_err();
    assert!(one.to_string().contains("larger batch"), "{one}");
}

#[test]
fn every_decomposition_computes_the_same() {
    let p = |s: &mut Scope<'_>, n: &str, shape: &[usize]| constant(s, n, shape);
    let mut cases: Vec<(String, Model)> = Vec::new();
    for f in [
        Unary::Gelu,
        Unary::GeluTanh,
        Unary::Silu,
        Unary::HardSwish,
        Unary::Softplus,
        Unary::LeakyRelu(Real(0.1)),
        Unary::Elu(Real(0.7)),
        Unary::HardSigmoid { alpha: Real(0.2), beta: Real(0.5) },
    ] {
        cases.push((
            f.name().into(),
            formula(&[&[4, 30]], |s, x| {
                let x = s.scale(x[0], 3.0)?;
                s.unary(f, x)
            }),
        ));
    }
    for op in [Op::Softmax { axis: 1 }, Op::LogSoftmax { axis: 0 }] {
        cases.push((op.name().into(), formula(&[&[3, 5]], |s, x| s.op(op.clone(), x))));
    }
    let eps = Real(1e-5);
    cases.push((
        "LayerNorm".into(),
        formula(&[&[2, 3, 4]], |s, x| {
            let (a, b) = (p(s, "a", &[3, 4]), p(s, "b", &[3, 4]));
            s.op(Op::LayerNorm { axis: 1, eps }, &[x[0], a, b])
        }),
    ));
    cases.push((
        "RmsNorm".into(),
        formula(&[&[2, 3, 4]], |s, x| {
            let a = p(s, "a", &[4]);
            s.op(Op::RmsNorm { axis: 2, eps }, &[x[0], a])
        }),
    ));
    cases.push((
        "GroupNorm".into(),
        formula(&[&[2, 6, 4]], |s, x| {
            let (a, b) = (p(s, "a", &[6]), p(s, "b", &[6]));
            s.op(Op::GroupNorm { groups: 3, eps }, &[x[0], a, b])
        }),
    ));
    cases.push(("BatchNorm".into(), formula(&[&[2, 3, 4]], |s, x| normalise(s, x[0], 3))));
    for causal in [false, true] {
        for keys in [3, 5] {
            cases.push((
                format!("Attention, causal {causal}, {keys} keys"),
                formula(&[&[2, 4, 3, 6], &[2, 2, keys, 6], &[2, 2, keys, 5], &[2, 1, 1, keys]], |s, x| {
                    s.op(Op::Attention { scale: Real(0.4), causal }, x)
                }),
            ));
        }
    }
    for (name, before) in cases {
        let mut after = before.clone();
        let node = after.topological_order().unwrap().pop().unwrap();
        assert!(decompose(&mut after.graph, node).unwrap(), "{name}");
        dead_code(&mut after).unwrap();
        let op = before.graph.node(node).op.name();
        assert!(!ops(&after).contains(&op), "{name}");
        assert_same(&before, &after);
    }
}

#[test]
fn primitives_are_not_decomposed() {
    let mut m = formula(&[&[2], &[2]], |s, x| s.binary(Binary::Add, x[0], x[1]));
    assert_eq!(inputs(&m).len(), 2);
    let node = m.topological_order().unwrap()[0];
    assert!(!decompose(&mut m.graph, node).unwrap());
}
