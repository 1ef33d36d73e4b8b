//! Cases of softmax and normalisations.

use super::{Case, one};
use crate::{Tolerance, floats, normal, uniform};
use penjing_ir::{Op, Real};

const EPS: Real = Real(1e-5);
/// Means and exponentials over short rows.
const NEAR: Tolerance = Tolerance::Accumulating(32);

pub(super) fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    for (name, shape, axis) in [
        ("last", vec![3, 7], 1),
        ("first", vec![5, 3], 0),
        ("middle", vec![2, 11, 3], 1),
        ("long", vec![2, 1009], 1),
        ("one", vec![3, 1], 1),
        ("no rows", vec![0, 4], 1),
    ] {
        let x = uniform(&shape, -8.0, 8.0, "x");
        out.push(one(&format!("norm/Softmax/{name}"), Op::Softmax { axis }, std::slice::from_ref(&x), NEAR));
        out.push(one(&format!("norm/LogSoftmax/{name}"), Op::LogSoftmax { axis }, &[x], NEAR));
    }
    let extreme = floats(&[2, 3], &[1000.0, 0.0, -1000.0, f32::NEG_INFINITY, 1.0, 2.0]);
    out.push(one("norm/Softmax/extreme", Op::Softmax { axis: 1 }, &[extreme], NEAR));
    for (name, shape) in [
        ("images", vec![2, 3, 5, 7]),
        ("rows", vec![7, 5]),
        ("sequence", vec![3, 4, 2]),
        ("one pixel", vec![3, 1, 1, 1]),
    ] {
        let c = [shape[1]];
        let (x, scale, bias) = (normal(&shape, "x"), uniform(&c, 0.5, 1.5, "scale"), normal(&c, "bias"));
        let (mean, var) = (normal(&c, "mean"), uniform(&c, 0.5, 2.0, "var"));
        let all = [x.clone(), scale.clone(), bias.clone(), mean.clone(), var.clone()];
        out.push(one(&format!("norm/BatchNorm/{name}"), Op::BatchNorm { eps: EPS, momentum: Real(0.9) }, &all, NEAR));
        let train = [x.clone(), scale.clone(), bias];
        out.push(one(&format!("norm/BatchNormTrain/{name}"), Op::BatchNormTrain { eps: EPS }, &train, NEAR));
        let grad = [x, scale, mean, var, normal(&shape, "dy")];
        let op = Op::BatchNormGrad { eps: EPS };
        out.push(one(&format!("norm/BatchNormGrad/{name}"), op, &grad, Tolerance::Accumulating(128)));
    }
    let empty = [
        normal(&[0, 3, 2], "x"),
        normal(&[3], "s"),
        normal(&[3], "b"),
        normal(&[3], "m"),
        uniform(&[3], 1.0, 2.0, "v"),
    ];
    out.push(one("norm/BatchNorm/no batch", Op::BatchNorm { eps: EPS, momentum: Real(0.9) }, &empty, NEAR));
    for (name, shape, axis) in [
        ("last", vec![3, 5, 7], 2),
        ("last two", vec![3, 5, 2], 1),
        ("transformer", vec![2, 4, 64], 2),
        ("all", vec![13], 0),
        ("no rows", vec![0, 5], 1),
    ] {
        let (x, scale, bias) = (normal(&shape, "x"), normal(&shape[axis..], "scale"), normal(&shape[axis..], "bias"));
        let grad = [x.clone(), scale.clone(), normal(&shape, "dy")];
        let op = Op::LayerNormGrad { axis, eps: EPS };
        out.push(one(&format!("norm/LayerNormGrad/{name}"), op, &grad, Tolerance::Accumulating(128)));
        out.push(one(
            &format!("norm/LayerNorm/{name}"),
            Op::LayerNorm { axis, eps: EPS },
            &[x.clone(), scale.clone(), bias],
            NEAR,
        ));
        out.push(one(&format!("norm/RmsNorm/{name}"), Op::RmsNorm { axis, eps: EPS }, &[x, scale], NEAR));
    }
    for (name, groups) in [("one group", 1), ("two groups", 2), ("instance", 6)] {
        let operands = [normal(&[2, 6, 3, 5], "x"), normal(&[6], "scale"), normal(&[6], "bias")];
        out.push(one(&format!("norm/GroupNorm/{name}"), Op::GroupNorm { groups, eps: EPS }, &operands, NEAR));
    }
    out
}
