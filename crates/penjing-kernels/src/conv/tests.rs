//! The three convolutions against naive f64 loops.

use super::*;
use crate::{
    Ctx, Isa,
    gemm::Clamp,
    testing::{assert_close, conv_shape as shape, every_ctx, values},
};

/// Kernel, stride, dilation, asymmetric padding, groups, depthwise, 1-D, one pixel, nothing at all.
fn cases() -> Vec<ConvShape> {
    vec![
        shape(2, 1, [3, 8], [8, 8], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]),
        shape(1, 1, [5, 7], [11, 13], [3, 3], [2, 2], [1, 1], [0, 1, 1, 0]),
        shape(3, 2, [4, 6], [7, 5], [3, 2], [1, 2], [2, 1], [2, 0, 0, 1]),
        shape(2, 6, [6, 6], [9, 9], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]),
        shape(2, 6, [6, 12], [9, 9], [3, 3], [2, 2], [1, 1], [1, 1, 1, 1]),
        shape(1, 1, [16, 33], [6, 6], [1, 1], [1, 1], [1, 1], [0, 0, 0, 0]),
        shape(2, 1, [4, 10], [9, 9], [1, 1], [2, 3], [1, 1], [0, 0, 0, 0]),
        shape(2, 1, [3, 5], [1, 700], [1, 5], [1, 1], [1, 3], [0, 6, 0, 6]),
        shape(1, 1, [1, 1], [1, 1], [1, 1], [1, 1], [1, 1], [0, 0, 0, 0]),
        shape(1, 1, [2, 3], [5, 5], [5, 5], [1, 1], [1, 1], [0, 0, 0, 0]),
        shape(1, 1, [2, 3], [4, 4], [3, 3], [1, 1], [1, 1], [4, 4, 4, 4]),
        shape(0, 1, [2, 3], [4, 4], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]),
        shape(1, 1, [2, 3], [2, 2], [3, 3], [1, 1], [1, 1], [0, 0, 0, 0]),
        shape(1, 1, [40, 9], [12, 12], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]),
        shape(20, 1, [2, 13], [6, 6], [3, 3], [3, 3], [1, 1], [1, 1, 1, 1]),
        // Rows of eights are read in place; two k-blocks, strides, joined rows with a part of a panel at the end.
        shape(1, 1, [40, 9], [6, 24], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]),
        shape(2, 1, [3, 7], [6, 16], [3, 3], [2, 2], [1, 1], [1, 1, 1, 1]),
        shape(1, 1, [5, 6], [5, 5], [1, 1], [1, 1], [1, 1], [0, 0, 0, 0]),
        shape(1, 1, [3, 20], [30, 31], [7, 7], [2, 2], [1, 1], [3, 3, 3, 3]),
    ]
}

/// Calls `f(y index, x index, w index)` for every product of the convolution.
fn each_product(s: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
    let ([h, w], [oh, ow], [kh, kw]) = (s.input, s.output, s.kernel);
    for n in 0..s.batch {
        for o in 0..s.out_channels {
            let group = o / s.group_out();
            for (i, j) in (0..oh * ow).map(|p| (p / ow, p % ow)) {
                for c in 0..s.group_in() {
                    for (a, b) in (0..kh * kw).map(|p| (p / kw, p % kw)) {
                        let y = (i * s.stride[0] + a * s.dilation[0]).wrapping_sub(s.pad[0]);
                        let x = (j * s.stride[1] + b * s.dilation[1]).wrapping_sub(s.pad[1]);
                        if y < h && x < w {
                            let channel = group * s.group_in() + c;
                            f(
                                ((n * s.out_channels + o) * oh + i) * ow + j,
                                ((n * s.in_channels + channel) * h + y) * w + x,
                                ((o * s.group_in() + c) * kh + a) * kw + b,
                            );
                        }
                    }
                }
            }
        }
    }
}

struct Data {
    x: Vec<f32>,
    w: Vec<f32>,
    dy: Vec<f32>,
    bias: Vec<f32>,
}

fn data(s: &ConvShape) -> Data {
    Data {
        x: values("x", s.x_len().unwrap()),
        w: values("w", s.w_len().unwrap()),
        dy: values("dy", s.y_len().unwrap()),
        bias: values("bias", s.out_channels),
    }
}

#[test]
fn forward_agrees_with_f64() {
    for s in cases() {
        let d = data(&s);
        let plane = (s.output[0] * s.output[1]).max(1);
        let mut want: Vec<f64> = (0..d.dy.len()).map(|i| f64::from(d.bias[i / plane % s.out_channels])).collect();
        each_product(&s, |y, x, w| want[y] += f64::from(d.x[x]) * f64::from(d.w[w]));
        let relu: Vec<f64> = want.iter().map(|v| v.max(0.0)).collect();
        for result in every_ctx(|cx| {
            let mut y = vec![f32::NAN; d.dy.len()];
            conv(cx, &s, &d.x, ConvWeights::Plain(&d.w), Some(&d.bias), Clamp::NONE, &mut y).unwrap();
            let packed = PackedConv::new(cx.isa, &s, &d.w).unwrap();
            let mut again = vec![f32::NAN; d.dy.len()];
            conv(cx, &s, &d.x, ConvWeights::Packed(&packed), Some(&d.bias), Clamp::RELU, &mut again).unwrap();
            assert_close(&again, &relu, 2e-5, &format!("relu {s:?}"));
            y
        }) {
            assert_close(&result, &want, 2e-5, &format!("{s:?}"));
        }
    }
}

#[test]
fn input_gradient_agrees_with_f64() {
    for s in cases() {
        let d = data(&s);
        let mut want = vec![0f64; d.x.len()];
        each_product(&s, |y, x, w| want[x] += f64::from(d.dy[y]) * f64::from(d.w[w]));
        for result in every_ctx(|cx| {
            let mut dx = vec![f32::NAN; d.x.len()];
            conv_input_grad(cx, &s, &d.dy, &d.w, &mut dx).unwrap();
            dx
        }) {
            assert_close(&result, &want, 2e-5, &format!("{s:?}"));
        }
    }
}

#[test]
fn weight_gradient_agrees_with_f64() {
    for s in cases() {
        let d = data(&s);
        let mut want = vec![0f64; d.w.len()];
        each_product(&s, |y, x, w| want[w] += f64::from(d.dy[y]) * f64::from(d.x[x]));
        for result in every_ctx(|cx| {
            let mut dw = vec![f32::NAN; d.w.len()];
            conv_weight_grad(cx, &s, &d.x, &d.dy, &mut dw).unwrap();
            dw
        }) {
            assert_close(&result, &want, 5e-5, &format!("{s:?}"));
        }
    }
}

#[test]
fn a_kernel_larger_than_the_padded_input_leaves_a_zero_gradient() {
    // Stride 3 with a 1×1 kernel: two thirds of the input rows feed nothing.
    let s = shape(1, 1, [1, 1], [7, 7], [1, 1], [3, 3], [1, 1], [0, 0, 0, 0]);
    for result in every_ctx(|cx| {
        let mut dx = vec![f32::NAN; 49];
        conv_input_grad(cx, &s, &[1.0; 9], &[2.0], &mut dx).unwrap();
        dx
    }) {
        for (i, v) in result.into_iter().enumerate() {
            assert_eq!(v, if i / 7 % 3 == 0 && i % 7 % 3 == 0 { 2.0 } else { 0.0 });
        }
    }
}

#[test]
fn bad_geometry_is_an_error() {
    let pool = crate::Pool::new(1);
    let cx = Ctx { isa: Isa::Generic, pool: &pool };
    let good = cases()[0];
    let d = data(&good);
    let mut y = vec![0.0; d.dy.len()];
    let mut run = |s: &ConvShape, x: &[f32]| conv(cx, s, x, ConvWeights::Plain(&d.w), None, Clamp::NONE, &mut y);
    assert!(run(&good, &d.x).is_ok());
    assert!(run(&good, &d.x[1..]).is_err());
    assert!(run(&ConvShape { groups: 2, ..good }, &d.x).is_err());
    assert!(run(&ConvShape { groups: 0, ..good }, &d.x).is_err());
    assert!(run(&ConvShape { stride: [0, 1], ..good }, &d.x).is_err());
    assert!(run(&ConvShape { pad: [usize::MAX, 0], ..good }, &d.x).is_err());
    assert!(run(&ConvShape { batch: usize::MAX, ..good }, &d.x).is_err());
}
