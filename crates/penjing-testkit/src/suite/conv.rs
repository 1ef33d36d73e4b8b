//! Cases of convolutions.

use super::{Case, one};
use crate::{Tolerance, normal};
use penjing_ir::{ConvSpec, Op};
use penjing_tensor::Tensor;

pub(super) fn spec(strides: &[usize], pads: &[(usize, usize)], dilations: &[usize], groups: usize) -> ConvSpec {
    ConvSpec { strides: strides.to_vec(), pads: pads.to_vec(), dilations: dilations.to_vec(), groups }
}

/// Name, x, w and geometry of every convolution; the gradients are derived from the same table.
pub(super) fn table() -> Vec<(&'static str, Vec<usize>, Vec<usize>, ConvSpec)> {
    let s = spec;
    vec![
        ("1x1", vec![2, 5, 7, 3], vec![4, 5, 1, 1], s(&[1, 1], &[(0, 0), (0, 0)], &[1, 1], 1)),
        ("3x3 same", vec![2, 3, 8, 9], vec![5, 3, 3, 3], s(&[1, 1], &[(1, 1), (1, 1)], &[1, 1], 1)),
        ("stride 2", vec![1, 3, 11, 7], vec![4, 3, 3, 3], s(&[2, 2], &[(1, 1), (1, 1)], &[1, 1], 1)),
        ("asymmetric", vec![1, 2, 6, 5], vec![3, 2, 2, 3], s(&[1, 2], &[(0, 1), (2, 0)], &[1, 1], 1)),
        ("dilated", vec![1, 2, 9, 9], vec![2, 2, 3, 3], s(&[1, 1], &[(2, 2), (2, 2)], &[2, 2], 1)),
        ("grouped", vec![2, 6, 5, 5], vec![4, 3, 3, 3], s(&[1, 1], &[(1, 1), (1, 1)], &[1, 1], 2)),
        ("depthwise", vec![1, 7, 6, 6], vec![7, 1, 3, 3], s(&[1, 1], &[(1, 1), (1, 1)], &[1, 1], 7)),
        ("depthwise stride 2", vec![1, 4, 9, 7], vec![8, 1, 3, 3], s(&[2, 2], &[(1, 1), (1, 1)], &[1, 1], 4)),
        ("1-D", vec![2, 3, 17], vec![5, 3, 4], s(&[3], &[(1, 2)], &[1], 1)),
        ("3-D", vec![1, 2, 3, 4, 5], vec![3, 2, 2, 2, 2], s(&[1, 2, 1], &[(0, 1), (0, 0), (1, 1)], &[1, 1, 1], 1)),
        ("one pixel", vec![1, 1, 1, 1], vec![1, 1, 1, 1], s(&[1, 1], &[(0, 0), (0, 0)], &[1, 1], 1)),
        ("no batch", vec![0, 3, 5, 5], vec![2, 3, 3, 3], s(&[1, 1], &[(0, 0), (0, 0)], &[1, 1], 1)),
        ("wide", vec![1, 16, 14, 14], vec![32, 16, 3, 3], s(&[1, 1], &[(1, 1), (1, 1)], &[1, 1], 1)),
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    for (name, x, w, spec) in table() {
        let k: usize = w[1..].iter().product();
        let (xt, wt) = (normal(&x, "x"), normal(&w, "w"));
        let forward = one(
            &format!("conv/Conv/{name}"),
            Op::Conv(spec.clone()),
            &[xt.clone(), wt.clone()],
            Tolerance::Accumulating(k + 8),
        );
        let y = forward.model.graph.fact(forward.model.graph.outputs[0].value).concrete().unwrap_or_default();
        out.push(forward);
        let bias = normal(&[w[0]], "bias");
        let with_bias = [xt.clone(), wt.clone(), bias];
        out.push(one(
            &format!("conv/Conv/{name}, bias"),
            Op::Conv(spec.clone()),
            &with_bias,
            Tolerance::Accumulating(k + 8),
        ));
        let dy = normal(&y, "dy");
        out.push(input_gradient(name, &x, &w, &spec, &[dy.clone(), wt]));
        let positions: usize = x[0] * y[2..].iter().product::<usize>();
        let op = Op::ConvWeightGrad { spec, kernel: w[2..].to_vec() };
        let tolerance = Tolerance::Accumulating(positions + 8);
        out.push(one(&format!("conv/ConvWeightGrad/{name}"), op, &[xt, dy], tolerance));
    }
    let up = Op::ConvTranspose { spec: spec(&[2, 2], &[(1, 1), (1, 1)], &[1, 1], 1), output_pad: vec![1, 0] };
    let operands = [normal(&[1, 3, 4, 5], "x"), normal(&[3, 2, 3, 3], "w"), normal(&[2], "bias")];
    out.push(one("conv/ConvTranspose/upsampling, bias", up, &operands, Tolerance::Accumulating(64)));
    out
}

/// The transposed convolution that takes the gradient of y back to x.
fn input_gradient(name: &str, x: &[usize], w: &[usize], spec: &ConvSpec, operands: &[Tensor]) -> Case {
    let left_over = |a: usize| {
        let reach = spec.dilations[a] * (w[a + 2] - 1) + 1;
        (x[a + 2] + spec.pads[a].0 + spec.pads[a].1 - reach) % spec.strides[a]
    };
    let output_pad = (0..spec.rank()).map(left_over).collect();
    let op = Op::ConvTranspose { spec: spec.clone(), output_pad };
    let k = w[0] * w[2..].iter().product::<usize>();
    one(&format!("conv/ConvTranspose/{name}"), op, operands, Tolerance::Accumulating(k + 8))
}
