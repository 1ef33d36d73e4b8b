//! The fused gradients against central differences of the ops that they differentiate, in f64.

#![allow(clippy::unwrap_used)]

use penjing_ir::*;
use penjing_reference::eval_op;
use penjing_tensor::{DType, Rng, Tensor};

fn random(shape: &[usize], name: &str) -> Tensor {
    let rng = Rng::new(3, name, 0);
    let n: usize = shape.iter().product();
    Tensor::from_vec(shape, (0..n as u64).map(|i| f64::from(rng.normal(i))).collect()).unwrap()
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    a.to_f64s().iter().zip(b.to_f64s()).map(|(x, y)| x * y).sum()
}

/// Gradient of `loss` with respect to `operands[which]`.
fn numeric(operands: &[Tensor], which: usize, loss: impl Fn(&[Tensor]) -> f64) -> Vec<f64> {
    let step = 1e-5;
    (0..operands[which].len())
        .map(|i| {
            let at = |delta: f64| {
                let mut moved = operands.to_vec();
                moved[which].as_mut_slice::<f64>().unwrap()[i] += delta;
                loss(&moved)
            };
            (at(step) - at(-step)) / (2.0 * step)
        })
        .collect()
}

#[track_caller]
fn close(analytic: &Tensor, numeric: &[f64], what: &str) {
    assert_eq!(analytic.len(), numeric.len());
    for (a, n) in analytic.to_f64s().iter().zip(numeric) {
        // Central differences with step 1e-5 are good to about 1e-10 times the third derivative, plus 1e-11 of rounding.
        assert!((a - n).abs() < 1e-7 * n.abs().max(1.0), "{what}: {a} is not {n}");
    }
}

#[test]
fn batch_norm() {
    let eps = Real(1e-2);
    let operands = [random(&[3, 2, 4], "x"), random(&[2], "scale"), random(&[2], "bias")];
    let dy = random(&[3, 2, 4], "dy");
    let forward = |x: &[Tensor]| eval_op(&Op::BatchNormTrain { eps }, &x.iter().collect::<Vec<_>>()).unwrap();
    let y = forward(&operands);
    let grads = eval_op(&Op::BatchNormGrad { eps }, &[&operands[0], &operands[1], &y[1], &y[2], &dy]).unwrap();
    for (which, grad) in grads.iter().enumerate() {
        close(grad, &numeric(&operands, which, |x| dot(&forward(x)[0], &dy)), &format!("operand {which}"));
    }
}

#[test]
fn layer_norm() {
    let eps = Real(1e-2);
    for axis in [0, 1, 2] {
        let x = random(&[3, 2, 4], "x");
        let parameter = |name| random(&x.shape()[axis..], name);
        let operands = [x.clone(), parameter("scale"), parameter("bias")];
        let dy = random(&[3, 2, 4], "dy");
        let forward = |x: &[Tensor]| eval_op(&Op::LayerNorm { axis, eps }, &x.iter().collect::<Vec<_>>()).unwrap();
        let grads = eval_op(&Op::LayerNormGrad { axis, eps }, &[&operands[0], &operands[1], &dy]).unwrap();
        for (which, grad) in grads.iter().enumerate() {
            close(grad, &numeric(&operands, which, |x| dot(&forward(x)[0], &dy)), &format!("{axis}, operand {which}"));
        }
    }
}

#[test]
fn attention() {
    for (queries, keys) in [(3, 3), (2, 5), (4, 2)] {
        for causal in [false, true] {
            let shapes: [&[usize]; 3] = [&[2, 2, queries, 3], &[2, 2, keys, 3], &[2, 2, keys, 4]];
            let operands: Vec<Tensor> = (0..3).map(|i| random(shapes[i], &format!("operand {i}"))).collect();
            let dy = random(&[2, 2, queries, 4], "dy");
            let scale = Real(0.7);
            let forward = |x: &[Tensor]| {
                eval_op(&Op::Attention { scale, causal }, &x.iter().collect::<Vec<_>>()).unwrap().remove(0)
            };
            let given = [&operands[0], &operands[1], &operands[2], &dy];
            let grads = eval_op(&Op::AttentionGrad { scale, causal }, &given).unwrap();
            for (which, grad) in grads.iter().enumerate() {
                let what = format!("{queries} of {keys}, {causal}, operand {which}");
                close(grad, &numeric(&operands, which, |x| dot(&forward(x), &dy)), &what);
            }
        }
    }
}

#[test]
fn lstm() {
    for direction in [Direction::Forward, Direction::Reverse, Direction::Bidirectional] {
        let n = direction.count();
        let (t, b, i, h) = (3, 2, 2, 3);
        let shapes: [Vec<usize>; 6] =
            [vec![t, b, i], vec![n, 4 * h, i], vec![n, 4 * h, h], vec![n, 8 * h], vec![n, b, h], vec![n, b, h]];
        let operands: Vec<Tensor> =
            shapes.iter().enumerate().map(|(k, s)| random(s, &format!("operand {k}"))).collect();
        let forward =
            |x: &[Tensor]| eval_op(&Op::Lstm { direction, reserve: true }, &x.iter().collect::<Vec<_>>()).unwrap();
        let y = forward(&operands);
        let d: Vec<Tensor> = (0..3).map(|k| random(y[k].shape(), &format!("d {k}"))).collect();
        let loss = |x: &[Tensor]| forward(x).iter().zip(&d).map(|(y, d)| dot(y, d)).sum::<f64>();
        let x = &operands;
        let given = [&x[0], &x[1], &x[2], &x[4], &x[5], &y[0], &y[3], &d[0], &d[1], &d[2]];
        let grads = eval_op(&Op::LstmGrad { direction }, &given).unwrap();
        for (which, grad) in grads.iter().enumerate() {
            close(grad, &numeric(&operands, which, loss), &format!("{direction:?}, operand {which}"));
        }
    }
}

#[test]
fn pooling() {
    let spec = PoolSpec {
        kernel: vec![3, 2],
        strides: vec![2, 2],
        pads: vec![(1, 1), (0, 1)],
        dilations: vec![1, 2],
        ceil: true,
    };
    let x = [random(&[2, 2, 6, 5], "x")];
    for kind in
        [PoolKind::Max, PoolKind::Average { count_include_pad: true }, PoolKind::Average { count_include_pad: false }]
    {
        let forward = |x: &[Tensor]| eval_op(&Op::Pool { kind, spec: spec.clone() }, &[&x[0]]).unwrap().remove(0);
        let dy = random(forward(&x).shape(), "dy");
        let grad = eval_op(&Op::PoolGrad { kind, spec: spec.clone() }, &[&x[0], &dy]).unwrap().remove(0);
        close(&grad, &numeric(&x, 0, |x| dot(&forward(x), &dy)), &format!("{kind:?}"));
        assert_eq!(grad.dtype(), DType::F64);
    }
}
