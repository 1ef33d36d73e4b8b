//! Channels-last convolution against naive f64 loops.

use super::*;
use crate::{
    gemm::Clamp,
    testing::{assert_close, conv_shape as shape, every_ctx, values},
};

/// Kernel, stride, dilation, asymmetric padding, groups, depthwise, 1-D, one pixel, nothing at all, several k-blocks and
/// column groups, windows cut by rows, by columns and over several images.
pub(crate) fn cases() -> Vec<ConvShape> {
    let mut cases = vec![
        shape(2, 1, [3, 8], [8, 8], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]),
        shape(1, 1, [5, 7], [11, 13], [3, 3], [2, 2], [1, 1], [0, 1, 1, 0]),
        shape(3, 2, [4, 6], [7, 5], [3, 2], [1, 2], [2, 1], [2, 0, 0, 1]),
        shape(2, 2, [4, 6], [7, 7], [1, 1], [1, 1], [1, 1], [0, 0, 0, 0]),
        shape(2, 6, [6, 6], [9, 9], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]),
        shape(2, 6, [6, 12], [9, 9], [3, 3], [2, 2], [1, 1], [1, 1, 1, 1]),
        shape(1, 1, [16, 33], [6, 6], [1, 1], [1, 1], [1, 1], [0, 0, 0, 0]),
        shape(2, 1, [4, 10], [9, 9], [1, 1], [2, 3], [1, 1], [0, 0, 0, 0]),
        shape(2, 1, [3, 5], [1, 700], [1, 5], [1, 1], [1, 3], [0, 6, 0, 6]),
        shape(1, 1, [2, 5], [2, 300], [2, 3], [1, 2], [1, 1], [1, 0, 0, 3]),
        shape(1, 1, [1, 1], [1, 1], [1, 1], [1, 1], [1, 1], [0, 0, 0, 0]),
        shape(1, 1, [2, 3], [5, 5], [5, 5], [1, 1], [1, 1], [0, 0, 0, 0]),
        shape(1, 1, [2, 3], [4, 4], [3, 3], [1, 1], [1, 1], [4, 4, 4, 4]),
        shape(0, 1, [2, 3], [4, 4], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]),
        shape(1, 1, [0, 3], [4, 4], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]),
        shape(1, 1, [2, 0], [4, 4], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]),
        shape(1, 1, [2, 3], [2, 2], [3, 3], [1, 1], [1, 1], [0, 0, 0, 0]),
        shape(1, 1, [67, 150], [12, 12], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]),
        shape(1, 1, [300, 40], [7, 7], [1, 1], [1, 1], [1, 1], [0, 0, 0, 0]),
        shape(20, 1, [2, 13], [6, 6], [3, 3], [3, 3], [1, 1], [1, 1, 1, 1]),
        shape(1, 1, [3, 20], [30, 31], [7, 7], [2, 2], [1, 1], [3, 3, 3, 3]),
    ];
    for (c, k, stride) in [(24, 3, 1), (8, 3, 2), (16, 5, 1), (9, 5, 2), (17, 4, 3)] {
        cases.push(shape(2, c, [c, c], [9, 14], [k, k], [stride; 2], [1, 1], [2, 2, 1, 1]));
        cases.push(shape(1, c, [c, c], [12, 15], [k, k], [stride; 2], [2, 3], [0, 4, 3, 2]));
    }
    // Winograd: tiles that reach over every edge, several blocks of tiles, many blocks.
    cases.push(shape(3, 1, [9, 17], [7, 7], [3, 3], [1, 1], [1, 1], [0, 2, 1, 0]));
    cases.push(shape(9, 1, [16, 24], [13, 11], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]));
    cases.push(shape(50, 1, [8, 8], [14, 14], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]));
    // Winograd: few tiles cut by their columns, and weights of several k-blocks.
    cases.push(shape(1, 1, [16, 40], [8, 7], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]));
    cases.push(shape(1, 1, [400, 20], [6, 5], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]));
    cases.push(shape(1, 8, [8, 8], [1, 40], [1, 3], [1, 1], [1, 1], [0, 9, 0, 9]));
    cases.push(shape(1, 8, [8, 8], [2, 2], [7, 7], [1, 1], [1, 1], [6, 6, 6, 6]));
    cases.extend((2..=17).map(|c| shape(1, c, [c, c], [5, 6], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1])));
    cases.extend((1..=17).map(|c| shape(1, 1, [c, 18 - c], [5, 6], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1])));
    cases
}

/// Calls `f(y index, x index, w index)` for every product of the convolution.
pub(crate) fn each_product(s: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
    let ([h, w], [oh, ow], [kh, kw]) = (s.input, s.output, s.kernel);
    for p in 0..s.batch * oh * ow {
        let (n, i, j) = (p / (oh * ow), p / ow % oh, p % ow);
        for (a, b) in (0..kh * kw).map(|t| (t / kw, t % kw)) {
            let y = (i * s.stride[0] + a * s.dilation[0]).wrapping_sub(s.pad[0]);
            let x = (j * s.stride[1] + b * s.dilation[1]).wrapping_sub(s.pad[1]);
            if y >= h || x >= w {
                continue;
            }
            for (o, c) in (0..s.out_channels * s.group_in()).map(|i| (i / s.group_in(), i % s.group_in())) {
                let channel = o / s.group_out() * s.group_in() + c;
                f(
                    p * s.out_channels + o,
                    ((n * h + y) * w + x) * s.in_channels + channel,
                    ((o * s.group_in() + c) * kh + a) * kw + b,
                );
            }
        }
    }
}

#[test]
fn every_method_agrees_with_f64() {
    for s in cases() {
        let (x, w) = (values("x", s.x_len().unwrap()), values("w", s.w_len().unwrap()));
        let (bias, residual) = (values("bias", s.out_channels), values("residual", s.y_len().unwrap()));
        let mut want = vec![0f64; residual.len()];
        each_product(&s, |yi, xi, wi| want[yi] += f64::from(x[xi]) * f64::from(w[wi]));
        let relu: Vec<f64> = (0..want.len())
            .map(|i| (want[i] + f64::from(bias[i % s.out_channels]) + f64::from(residual[i])).max(0.0))
            .collect();
        let bounded: Vec<f64> =
            (0..want.len()).map(|i| (want[i] + f64::from(bias[i % s.out_channels])).tanh()).collect();
        for method in Method::candidates(&s) {
            // The transforms of F(4, 3) let rounding errors grow, and so do long sums.
            let terms = s.group_in() * s.kernel[0] * s.kernel[1];
            let tolerance = if method == Method::Winograd4 { 1e-4 } else { 2e-5 } * (terms as f64 / 1e3).max(1.0);
            for result in every_ctx(|cx| {
                let packed = PackedConvLast::new_with(cx.isa, &s, &w, method).unwrap();
                let run = |epilogue: &ConvEpilogue<'_>| {
                    let mut y = vec![f32::NAN; want.len()];
                    conv_last(cx, &s, &x, &packed, epilogue, &mut y).unwrap();
                    y
                };
                let all = ConvEpilogue {
                    bias: Some(&bias),
                    residual: Some(&residual),
                    activation: Activation::Clamp(Clamp::RELU),
                };
                assert_close(&run(&all), &relu, tolerance, &format!("epilogue {method:?} {s:?}"));
                let tanh = ConvEpilogue { bias: Some(&bias), activation: Activation::Tanh, residual: None };
                assert_close(&run(&tanh), &bounded, tolerance, &format!("tanh {method:?} {s:?}"));
                run(&ConvEpilogue::default())
            }) {
                assert_close(&result, &want, tolerance, &format!("{method:?} {s:?}"));
            }
        }
    }
}

/// Inputs of very different size, and signs that make every transform grow most.
#[test]
fn winograd_keeps_its_bound_on_extreme_inputs() {
    let s = shape(1, 1, [8, 9], [12, 13], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]);
    let w = values("w", s.w_len().unwrap());
    let x = values("x", s.x_len().unwrap());
    let sizes: [fn(usize) -> f32; 3] = [
        |i| 10f32.powi(i as i32 * 7 % 60 - 30),
        |i| if i / 8 % 2 == 0 { 1e30 } else { -1e30 },
        |i| if (i / 8 + i / 104) % 3 == 0 { 1e25 } else { 1e-25 },
    ];
    for (size, all) in sizes.into_iter().zip([true, false, true]) {
        let x: Vec<f32> = x.iter().enumerate().map(|(i, &x)| if all { x * size(i) } else { size(i) }).collect();
        let largest = x.iter().fold(0f64, |m, &x| m.max(f64::from(x.abs())));
        let mut want = vec![0f64; s.y_len().unwrap()];
        each_product(&s, |yi, xi, wi| want[yi] += f64::from(x[xi]) * f64::from(w[wi]));
        for (method, growth) in [(Method::Winograd2, 16.0), (Method::Winograd4, 160.0)] {
            for result in every_ctx(|cx| {
                let packed = PackedConvLast::new_with(cx.isa, &s, &w, method).unwrap();
                let mut y = vec![f32::NAN; want.len()];
                conv_last(cx, &s, &x, &packed, &ConvEpilogue::default(), &mut y).unwrap();
                y
            }) {
                for (i, (&got, &want)) in result.iter().zip(&want).enumerate() {
                    let weights: f64 = w[i % 9 * 72..(i % 9 + 1) * 72].iter().map(|&w| f64::from(w.abs())).sum();
                    let bound = growth * (8.0 + 24.0) * 2f64.powi(-24) * largest * weights;
                    assert!((f64::from(got) - want).abs() <= bound, "{method:?}: {got} is not {want} within {bound:e}");
                }
            }
        }
    }
}

#[test]
fn bad_operands_are_errors() {
    let pool = crate::Pool::new(1);
    let cx = Ctx { isa: Isa::Generic, pool: &pool };
    let good = cases()[0];
    let (x, w) = (values("x", good.x_len().unwrap()), values("w", good.w_len().unwrap()));
    let packed = PackedConvLast::new(cx.isa, &good, &w).unwrap();
    let n = good.y_len().unwrap();
    let run =
        |s: &ConvShape, x: &[f32], e: &ConvEpilogue<'_>, n: usize| conv_last(cx, s, x, &packed, e, &mut vec![0.0; n]);
    let plain = ConvEpilogue::default();
    assert!(run(&good, &x, &plain, n).is_ok());
    assert!(run(&good, &x[1..], &plain, n).is_err());
    assert!(run(&good, &x, &plain, n - 1).is_err());
    assert!(run(&good, &x, &ConvEpilogue { bias: Some(&[0.0]), ..plain }, n).is_err());
    assert!(run(&good, &x, &ConvEpilogue { residual: Some(&[0.0]), ..plain }, n).is_err());
    assert!(run(&ConvShape { dilation: [2, 1], ..good }, &x, &plain, n).is_err());
    assert!(run(&ConvShape { stride: [0, 1], ..good }, &x, &plain, n).is_err());
    assert!(run(&ConvShape { batch: usize::MAX, ..good }, &x, &plain, n).is_err());
    assert!(PackedConvLast::new(cx.isa, &good, &w[1..]).is_err());
    assert!(PackedConvLast::new(cx.isa, &ConvShape { groups: 2, ..good }, &w).is_err());
}

#[test]
fn gradients_agree_with_f64() {
    // Dilation that shares a factor with the stride, taps that all lie ahead of their position, and rows without any.
    let more = [
        shape(2, 1, [3, 5], [9, 10], [3, 3], [2, 4], [4, 2], [4, 2, 4, 2]),
        shape(1, 1, [2, 3], [8, 8], [2, 2], [2, 2], [1, 1], [1, 1, 1, 1]),
        shape(1, 1, [2, 3], [8, 8], [2, 2], [1, 1], [2, 3], [5, 6, 5, 6]),
        shape(1, 1, [1, 1], [7, 7], [1, 1], [3, 3], [1, 1], [0, 0, 0, 0]),
        shape(40, 1, [16, 16], [8, 8], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]),
    ];
    for s in cases().into_iter().chain(more) {
        let (x, w) = (values("x", s.x_len().unwrap()), values("w", s.w_len().unwrap()));
        let dy = values("dy", s.y_len().unwrap());
        let (mut want_x, mut want_w) = (vec![0f64; x.len()], vec![0f64; w.len()]);
        each_product(&s, |yi, xi, wi| {
            want_x[xi] += f64::from(dy[yi]) * f64::from(w[wi]);
            want_w[wi] += f64::from(dy[yi]) * f64::from(x[xi]);
        });
        for got in every_ctx(|cx| {
            let (mut dx, mut dw) = (vec![f32::NAN; x.len()], vec![f32::NAN; w.len()]);
            let method = input_grad_method(&s);
            conv_last_input_grad(cx, &s, method, &dy, &w, &mut dx).unwrap();
            conv_last_weight_grad(cx, &s, &x, &dy, &mut dw).unwrap();
            assert!(conv_last_input_grad(cx, &s, method, &dy, &w, &mut [dx.clone(), vec![0.0]].concat()).is_err());
            assert!(conv_last_weight_grad(cx, &s, &x, &dy, &mut [dw.clone(), vec![0.0]].concat()).is_err());
            [dx, dw].concat()
        }) {
            assert_close(&got[..x.len()], &want_x, 3e-5, &format!("dx {s:?}"));
            assert_close(&got[x.len()..], &want_w, 5e-5, &format!("dw {s:?}"));
        }
    }
}
