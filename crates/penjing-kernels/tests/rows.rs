//! Every row of the kernel table that this host supports, on a small problem, held to the exactness that the row states.
//!
//! The kernels' own tests cover shapes and edges; this one makes sure that no row stands in the table untested, and that the
//! stated exactness is what the kernel keeps against naive f64.

// The helpers are tests too, which clippy does not see.
#![allow(clippy::unwrap_used)]

use penjing_kernels::{
    Activation, Ctx, Isa, Pool,
    arg_reduce::{Extreme, Tie, arg_reduce},
    attention::{AttentionShape, Causal, Heads, attention},
    attention_grad::{AttentionGradShape, attention_grad},
    conv::{ConvShape, ConvWeights, PackedConv, conv, conv_input_grad, conv_weight_grad},
    conv_last::{ConvEpilogue, Method, PackedConvLast, conv_last, conv_last_input_grad, conv_last_weight_grad},
    elementwise::{BinaryOp, Input, Output, ProgramBuilder, UnaryOp, run_program},
    gemm::{Batch, Clamp, Epilogue, GemmShape, Mat, Rhs, gemm, gemm_batched},
    int8::{
        ByteType, Bytes, BytesMut, Grid, Limits, PackedQConvLast, PackedQGemm, QEpilogue, QOut, QTensor, Scales,
        WeightLayout, dequantize, fake_quant, qconv_last, qgemm, qmean, quantize,
    },
    movement::{ElemSize, concat, expand, gather, gather_grad, one_hot, pad, permute, slice},
    norm::{
        batch_norm_grad, batch_norm_grad_last, batch_norm_train, batch_norm_train_last, group_norm, layer_norm,
        layer_norm_grad, rms_norm,
    },
    reduce::{ReduceOp, reduce},
    softmax::{log_softmax, log_softmax_grad, softmax, softmax_grad},
    table::{Exactness, KERNELS, KernelRow},
};
use penjing_tensor::Rng;

#[path = "rows/pooling.rs"]
mod pooling;
#[path = "rows/recurrent.rs"]
mod recurrent;

/// One result: `n` terms of total size `size` were summed for it.
struct Point {
    got: f64,
    want: f64,
    n: usize,
    size: f64,
}

#[test]
fn every_row_keeps_its_exactness() {
    let pool = Pool::new(2);
    let mut ran = 0;
    for row in KERNELS.iter().filter(|row| row.isa.available()) {
        let cx = Ctx { isa: row.isa, pool: &pool };
        let points = run(row, cx);
        assert!(!points.is_empty(), "{}", row.name);
        for p in points {
            let bound = match row.exactness {
                Exactness::Exact => 0.0,
                Exactness::Rounding(ulp) => f64::from(ulp) * f64::from(f32::EPSILON) * p.want.abs(),
                Exactness::Transformed(k) => f64::from(k) * (p.n / 9 + 24) as f64 * 2f64.powi(-24) * p.size,
                Exactness::Accumulating(k) => f64::from(k) * (p.n + 8) as f64 * 2f64.powi(-24) * p.size,
            };
            assert!((p.got - p.want).abs() <= bound, "{}: {} is not {} within {bound:e}", row.name, p.got, p.want);
        }
        ran += 1;
    }
    assert!(ran >= KERNELS.len() / Isa::ALL.len());
}

fn run(row: &KernelRow, cx: Ctx<'_>) -> Vec<Point> {
    let spec = row.spec.split('.').next().unwrap();
    let parts: Vec<&str> = spec.split('-').collect();
    let (from, to, op) = (parts[0], parts[1], *parts.last().unwrap());
    match op {
        _ if from.starts_with('x') => movement(cx, from, op),
        "gemm" if from == "f32" => dense(cx, false),
        "gemm_batched" => dense(cx, true),
        "gemm" | "conv_last" | "conv_last_depthwise" | "conv_last_winograd" if from != "f32" => {
            integer(cx, from, to, op)
        }
        "conv_last" | "conv_last_depthwise" | "conv_last_winograd" => convolution_last(cx, row.spec),
        "conv" | "conv_input_grad" | "conv_weight_grad" => convolution(cx, op),
        "conv_last_input_grad" | "conv_last_input_grad_winograd" | "conv_last_weight_grad" => {
            convolution_last_grad(cx, op)
        }
        "max_pool" | "max_pool_grad" | "avg_pool" | "avg_pool_grad" => pooling::pooling(cx, from, op),
        "max_pool_last" | "max_pool_grad_last" | "avg_pool_last" => pooling::pooling_last(cx, from, op),
        "chain" => chain(cx),
        "reduce" => reduction(cx),
        "arg_reduce" => search(cx),
        "softmax" | "log_softmax" | "softmax_grad" | "log_softmax_grad" => soft(cx, op),
        "attention_grad" => attention_gradient(cx),
        "gather_grad" => gather_gradient(cx),
        "attention" => attend(cx),
        "lstm" if from != "f32" => recurrent::integer_recurrent(cx, from),
        "lstm" | "lstm_grad" => recurrent::long_short_term(cx, op),
        "gru" if from != "f32" => recurrent::integer_gated(cx, from),
        "gru" => recurrent::gated(cx),
        "quantize" | "dequantize" | "fake_quant" => quantization(cx, from, to, op),
        "mean" => integer_mean(cx, from, to),
        _ => norm(cx, op),
    }
}

fn values(name: &str, n: usize) -> Vec<f32> {
    let rng = Rng::new(3, name, 0);
    (0..n).map(|i| rng.uniform(i as u64) * 2.0 - 1.0).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// Points whose n terms are of about the results' size.
fn points(got: &[f32], want: &[f64], n: usize, size: f64) -> Vec<Point> {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(&g, &want)| Point { got: g.into(), want, n, size: size.max(want.abs()) }).collect()
}

fn dense(cx: Ctx<'_>, batched: bool) -> Vec<Point> {
    let (m, n, k) = (23, 37, 71);
    let (a, b) = (values("a", m * k), values("b", k * n));
    let mut c = vec![0.0; m * n];
    let shape = GemmShape { m, n, k };
    let e = Epilogue::default();
    if batched {
        let batch = Batch { dims: [1, 1], a: [0, 0], b: [0, 0], c: [0, 0] };
        gemm_batched(cx, shape, &batch, Mat::rows(&a, k), Mat::rows(&b, n), &e, &mut c, n).unwrap();
    } else {
        gemm(cx, shape, Mat::rows(&a, k), Rhs::Plain(Mat::rows(&b, n)), &e, &mut c, n).unwrap();
    }
    (0..m * n)
        .map(|i| {
            let terms = (0..k).map(|p| f64::from(a[i / n * k + p]) * f64::from(b[p * n + i % n]));
            let (want, size) = terms.fold((0.0, 0.0), |(s, t), v| (s + v, t + v.abs()));
            Point { got: c[i].into(), want, n: k, size }
        })
        .collect()
}

fn attend(cx: Ctx<'_>) -> Vec<Point> {
    let (n, d, e) = (37, 24, 19);
    let (q, k, v) = (values("q", n * d), values("k", n * d), values("v", n * e));
    let s = AttentionShape {
        batch: 1,
        heads: 1,
        groups: 1,
        queries: n,
        keys: n,
        width: d,
        value_width: e,
        scale: 0.5,
        causal: Causal::No,
    };
    let at = |position| Heads { first: 0, batch: 0, head: 0, position };
    let mut out = vec![0.0; n * e];
    attention(cx, &s, (&q, at(d)), (&k, at(d)), (&v, at(e)), None, &mut out, at(e)).unwrap();
    let (q, k, v) = (wide(&q), wide(&k), wide(&v));
    let mut want = vec![0.0; n * e];
    for i in 0..n {
        let dot = |j: usize| (0..d).map(|p| q[i * d + p] * k[j * d + p]).sum::<f64>() * 0.5;
        let weights: Vec<f64> = (0..n).map(|j| dot(j).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (j, w) in weights.iter().enumerate() {
            (0..e).for_each(|c| want[i * e + c] += w / total * v[j * e + c]);
        }
    }
    points(&out, &want, n, 1.0)
}

const CONV: ConvShape = ConvShape {
    batch: 2,
    groups: 1,
    in_channels: 3,
    out_channels: 7,
    input: [6, 5],
    kernel: [3, 3],
    stride: [1, 2],
    dilation: [1, 1],
    pad: [1, 1],
    output: [6, 3],
};

/// As [`CONV`], channel by channel.
const DEPTHWISE: ConvShape = ConvShape { groups: 37, in_channels: 37, out_channels: 37, ..CONV };

/// As [`CONV`], moving by one.
const UNIT: ConvShape = ConvShape { in_channels: 9, out_channels: 17, stride: [1, 1], output: [6, 5], ..CONV };

/// Calls `f(y, x, w)` with the indices of every product of a convolution by 3 × 3 with [`CONV`]'s padding; `x` is `None` in the padding.
fn each_product(s: &ConvShape, mut f: impl FnMut(usize, Option<usize>, usize)) {
    let ([h, w], [oh, ow]) = (s.input, s.output);
    for i in 0..s.batch * s.out_channels * oh * ow {
        let (n, o, r, c) = (i / (s.out_channels * oh * ow), i / (oh * ow) % s.out_channels, i / ow % oh, i % ow);
        for t in 0..s.group_in() * 9 {
            let channel = o / s.group_out() * s.group_in() + t / 9;
            let at = |i: usize, axis: usize, tap: usize| (i * s.stride[axis] + tap).wrapping_sub(1);
            let (y, x) = (at(r, 0, t / 3 % 3), at(c, 1, t % 3));
            let inside = y < h && x < w;
            f(i, inside.then(|| ((n * s.in_channels + channel) * h + y) * w + x), o * s.group_in() * 9 + t);
        }
    }
}

fn convolution(cx: Ctx<'_>, op: &str) -> Vec<Point> {
    let s = CONV;
    let [nx, nw, ny] = [s.x_len(), s.w_len(), s.y_len()].map(Option::unwrap);
    let (x, w, dy) = (values("x", nx), values("w", nw), values("dy", ny));
    let len = match op {
        "conv" => ny,
        "conv_input_grad" => nx,
        _ => nw,
    };
    let (mut out, mut want) = (vec![0f32; len], vec![(0f64, 0f64, 0usize); len]);
    match op {
        "conv" => {
            let packed = PackedConv::new(cx.isa, &s, &w).unwrap();
            conv(cx, &s, &x, ConvWeights::Packed(&packed), None, Clamp::NONE, &mut out).unwrap();
        }
        "conv_input_grad" => conv_input_grad(cx, &s, &dy, &w, &mut out).unwrap(),
        _ => conv_weight_grad(cx, &s, &x, &dy, &mut out).unwrap(),
    }
    each_product(&s, |iy, ix, iw| {
        let Some(ix) = ix else { return };
        let (at, term) = match op {
            "conv" => (iy, f64::from(x[ix]) * f64::from(w[iw])),
            "conv_input_grad" => (ix, f64::from(dy[iy]) * f64::from(w[iw])),
            _ => (iw, f64::from(dy[iy]) * f64::from(x[ix])),
        };
        let (sum, size, n) = &mut want[at];
        (*sum, *size, *n) = (*sum + term, *size + term.abs(), *n + 1);
    });
    out.iter().zip(want).map(|(&g, (want, size, n))| Point { got: g.into(), want, n, size }).collect()
}

/// With channels last, on a shape that the row's method takes.
fn convolution_last(cx: Ctx<'_>, spec: &str) -> Vec<Point> {
    let depthwise = ConvShape { groups: 13, in_channels: 13, out_channels: 13, ..CONV };
    let shapes = [CONV, depthwise, UNIT];
    let takes = |s: &ConvShape| Method::candidates(s).find(|m| m.spec() == spec);
    let (s, method) = shapes.iter().find_map(|s| Some((s, takes(s)?))).unwrap();
    let [nx, nw, ny] = [s.x_len(), s.w_len(), s.y_len()].map(Option::unwrap);
    let (x, w, mut y) = (values("x", nx), values("w", nw), vec![0f32; ny]);
    let packed = PackedConvLast::new_with(cx.isa, s, &w, method).unwrap();
    assert_eq!(packed.name(), spec);
    conv_last(cx, s, &x, &packed, &ConvEpilogue::default(), &mut y).unwrap();
    let ([ih, iw], [oh, ow], c, o) = (s.input, s.output, s.in_channels, s.out_channels);
    let largest = x.iter().fold(0f64, |m, &x| m.max(f64::from(x.abs())));
    (0..ny)
        .map(|i| {
            let (image, row, col, channel) = (i / (o * ow * oh), i / (o * ow) % oh, i / o % ow, i % o);
            let (mut want, mut size) = (0f64, 0f64);
            for t in 0..s.group_in() * 9 {
                let (tap, from) = (t % 9, channel / s.group_out() * s.group_in() + t / 9);
                let r = (row * s.stride[0] + tap / 3).wrapping_sub(1);
                let q = (col * s.stride[1] + tap % 3).wrapping_sub(1);
                if r < ih && q < iw {
                    let v = f64::from(x[((image * ih + r) * iw + q) * c + from]);
                    let term = v * f64::from(w[channel * s.group_in() * 9 + t]);
                    (want, size) = (want + term, size + term.abs());
                }
            }
            if matches!(method, Method::Winograd2 | Method::Winograd4) {
                size = largest
                    * w[channel * c * 9..(channel + 1) * c * 9].iter().map(|&w| f64::from(w.abs())).sum::<f64>();
            }
            Point { got: y[i].into(), want, n: s.group_in() * 9, size }
        })
        .collect()
}

/// [N, C, P] as [N, P, C].
fn last(x: &[f32], channels: usize, positions: usize) -> Vec<f32> {
    let image = channels * positions;
    (0..x.len()).map(|i| x[i / image * image + i % channels * positions + i % image / channels]).collect()
}

/// The products of [`convolution`] with channels last.
fn convolution_last_grad(cx: Ctx<'_>, op: &str) -> Vec<Point> {
    let (s, method) = match op {
        "conv_last_input_grad_winograd" => (UNIT, Method::Winograd4),
        _ => (CONV, Method::Direct),
    };
    let [nx, nw, ny] = [s.x_len(), s.w_len(), s.y_len()].map(Option::unwrap);
    let (x, w, dy) = (values("x", nx), values("w", nw), values("dy", ny));
    let (p, q) = (s.input[0] * s.input[1], s.output[0] * s.output[1]);
    let dy_last = last(&dy, s.out_channels, q);
    let input = op != "conv_last_weight_grad";
    let mut out = vec![0f32; if input { nx } else { nw }];
    if input {
        conv_last_input_grad(cx, &s, method, &dy_last, &w, &mut out).unwrap();
        // Back to channels first: the same reordering with the extents exchanged.
        out = last(&out, p, s.in_channels);
    } else {
        conv_last_weight_grad(cx, &s, &last(&x, s.in_channels, p), &dy_last, &mut out).unwrap();
    }
    let mut want = vec![(0f64, 0f64, 0usize); out.len()];
    each_product(&s, |iy, ix, iw| {
        let Some(ix) = ix else { return };
        let (at, other) = if input { (ix, w[iw]) } else { (iw, x[ix]) };
        let term = f64::from(dy[iy]) * f64::from(other);
        let (sum, size, n) = &mut want[at];
        (*sum, *size, *n) = (*sum + term, *size + term.abs(), *n + 1);
    });
    if method == Method::Winograd4 {
        let largest = dy.iter().fold(0f64, |m, &v| m.max(f64::from(v.abs())));
        for (i, (_, size, n)) in want.iter_mut().enumerate() {
            let of_channel = w.chunks_exact(9).skip(i / p % s.in_channels).step_by(s.in_channels);
            *size = largest * of_channel.flatten().map(|&w| f64::from(w.abs())).sum::<f64>();
            *n = s.out_channels * 9;
        }
    }
    out.iter().zip(want).map(|(&g, (want, size, n))| Point { got: g.into(), want, n, size }).collect()
}

/// Full-range int8 products against i32 sums and the definition of the rescaling.
fn integer(cx: Ctx<'_>, from: &str, to: &str, op: &str) -> Vec<Point> {
    let (s, method) = match op {
        "conv_last_depthwise" => (DEPTHWISE, Method::Depthwise),
        "conv_last_winograd" => (UNIT, Method::Winograd4),
        _ => (CONV, Method::Direct),
    };
    let (m, n, k) = (9, 21, 67);
    let is_conv = op != "gemm";
    // Where element i of [N, C, H, W] stands.
    let place = |i: usize, c: usize, pixels: usize| (i / (c * pixels) * pixels + i % pixels) * c + i / pixels % c;
    let (nx, nw, ny) =
        if is_conv { (s.x_len().unwrap(), s.w_len().unwrap(), s.y_len().unwrap()) } else { (m * k, k * n, m * n) };
    let bytes = |name: &str, len: usize| -> Vec<u8> {
        let rng = Rng::new(5, name, 0);
        // Every third value is an extreme.
        (0..len).map(|i| if i % 3 == 0 { [0, 255, 127, 128][i / 3 % 4] } else { rng.bits(i as u64) as u8 }).collect()
    };
    let (x, w) = (bytes("x", nx), bytes("w", nw));
    let (x_signed, w): (Vec<i8>, Vec<i8>) =
        (x.iter().map(|&v| v as i8).collect(), w.iter().map(|&v| v as i8).collect());
    let signed = from == "qs8";
    let zero = if signed { -7 } else { 131 };
    let at = |i: usize| (if signed { i32::from(x_signed[i]) } else { i32::from(x[i]) }) - zero;
    let mut sums = vec![0i32; ny];
    if is_conv {
        let (x_plane, y_plane) = (s.input[0] * s.input[1], s.output[0] * s.output[1]);
        each_product(&s, |iy, ix, iw| {
            let value = ix.map_or(0, |ix| at(place(ix, s.in_channels, x_plane)));
            sums[place(iy, s.out_channels, y_plane)] += value * i32::from(w[iw]);
        });
    } else {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = (0..k).map(|p| at(i / n * k + p) * i32::from(w[p * n + i % n])).sum();
        }
    }
    let channels = if is_conv { s.out_channels } else { n };
    let channel = |i: usize| i % channels;
    let (w_scale, bias): (Vec<f32>, Vec<f32>) =
        (0..channels).map(|c| (0.001 + c as f32 * 1e-4, c as f32 * 0.3 - 2.0)).unzip();
    let x_scale = 0.02f32;
    let tensor = QTensor { data: if signed { Bytes::I8(&x_signed) } else { Bytes::U8(&x) }, scale: x_scale, zero };
    let epilogue = QEpilogue { w_scale: &w_scale, bias: Some(&bias), residual: None, act: Activation::NONE };
    let x_type = if signed { ByteType::I8 } else { ByteType::U8 };
    let call = |y: QOut<'_>| {
        match op {
            _ if is_conv => {
                let packed = PackedQConvLast::new_with(cx.isa, &s, &w, x_type, method).unwrap();
                assert_eq!(packed.op(), op);
                qconv_last(cx, &s, tensor, &packed, &epilogue, y)
            }
            _ => {
                let packed = PackedQGemm::new(cx.isa, k, n, &w, WeightLayout::Rows, x_type).unwrap();
                qgemm(cx, m, tensor, &packed, &epilogue, y)
            }
        }
        .unwrap();
    };
    let real =
        |i: usize, unit: f32| (sums[i] as f32).mul_add(x_scale * w_scale[channel(i)] * unit, bias[channel(i)] * unit);
    let (scale, out_zero) = (0.05f32, if to == "qs8" { 3 } else { 100 });
    let rounded = |i: usize, lo: f64, hi: f64| {
        (f64::from(real(i, 1.0 / scale).round_ties_even()) + f64::from(out_zero)).clamp(lo, hi)
    };
    let exact = |got: Vec<f64>, want: &dyn Fn(usize) -> f64| -> Vec<Point> {
        got.into_iter().enumerate().map(|(i, got)| Point { got, want: want(i), n: 0, size: 0.0 }).collect()
    };
    match to {
        "f32" => {
            let mut y = vec![0f32; ny];
            call(QOut::F32(&mut y));
            exact(wide(&y), &|i| real(i, 1.0).into())
        }
        "qs8" => {
            let mut y = vec![0i8; ny];
            call(QOut::I8(&mut y, Grid { scale, zero: out_zero, limits: Limits::I8 }));
            exact(y.iter().map(|&v| v.into()).collect(), &|i| rounded(i, -128.0, 127.0))
        }
        _ => {
            let mut y = vec![0u8; ny];
            call(QOut::U8(&mut y, Grid { scale, zero: out_zero, limits: Limits::U8 }));
            exact(y.iter().map(|&v| v.into()).collect(), &|i| rounded(i, 0.0, 255.0))
        }
    }
}

/// Each function alone, so that its own rounding shows.
fn chain(cx: Ctx<'_>) -> Vec<Point> {
    let x: Vec<f32> = values("x", 1000).iter().map(|v| v * 5.0 + 5.001).collect();
    type Case = (UnaryOp, fn(f64) -> f64);
    let cases: [Case; 8] = [
        (UnaryOp::Exp, f64::exp),
        (UnaryOp::Log, f64::ln),
        (UnaryOp::Sqrt, f64::sqrt),
        (UnaryOp::Tanh, f64::tanh),
        (UnaryOp::Sin, f64::sin),
        (UnaryOp::Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
        (UnaryOp::Softplus, |x| x + (-x).exp().ln_1p()),
        (UnaryOp::Recip, f64::recip),
    ];
    let mut all = Vec::new();
    for (op, f) in cases {
        let mut b = ProgramBuilder::new();
        let (x_in, two) = (b.input(), b.constant(2.0));
        let y = b.unary(op, x_in);
        let y = b.binary(BinaryOp::Mul, y, two);
        b.output(y);
        let mut y = vec![0.0; x.len()];
        let program = b.build().unwrap();
        run_program(cx, &program, x.len(), &[Input::full(&x)], &mut [Output::F32(&mut y)]).unwrap();
        let want: Vec<f64> = x.iter().map(|&x| 2.0 * f(x.into())).collect();
        all.extend(points(&y, &want, 1, 0.0));
    }
    all
}

fn reduction(cx: Ctx<'_>) -> Vec<Point> {
    let x = values("x", 3 * 5000);
    let size = 5000.0;
    let mut all = Vec::new();
    for (outer, inner) in [(3, 1), (1, 3)] {
        let mut y = vec![0.0; 3];
        reduce(cx, ReduceOp::Sum, &x, outer, 5000, inner, &mut y).unwrap();
        let want: Vec<f64> = (0..3)
            .map(|i| (0..5000).map(|r| f64::from(x[if inner == 1 { i * 5000 + r } else { r * 3 + i }])).sum())
            .collect();
        // A pairwise sum is far inside the bound of a serial one.
        all.extend(points(&y, &want, 24, size));
    }
    all
}

fn search(cx: Ctx<'_>) -> Vec<Point> {
    let x = values("x", 3 * 5000);
    let mut at = [0; 3];
    arg_reduce(cx, Extreme::Max, Tie::First, &x, [3, 5000, 1], &mut at).unwrap();
    let rows = x.chunks(5000).zip(at);
    rows.map(|(row, at)| {
        let want = (0..5000).max_by(|&i, &j| row[i].total_cmp(&row[j])).unwrap();
        Point { got: at as f64, want: want as f64, n: 1, size: 1.0 }
    })
    .collect()
}

fn soft(cx: Ctx<'_>, op: &str) -> Vec<Point> {
    let n = 50;
    let (x, dy) = (values("x", n), values("dy", n));
    let total = wide(&x).iter().map(|v| v.exp()).sum::<f64>();
    let log: Vec<f64> = wide(&x).iter().map(|v| v - total.ln()).collect();
    let y: Vec<f64> = log.iter().map(|v| v.exp()).collect();
    let narrow = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<f32>>();
    let dot: f64 = y.iter().zip(&dy).map(|(y, &d)| y * f64::from(d)).sum();
    let sum: f64 = wide(&dy).iter().sum();
    let mut out = vec![0.0; n];
    let want: Vec<f64> = match op {
        "softmax" => {
            softmax(cx, &x, 1, n, 1, &mut out).unwrap();
            y
        }
        "log_softmax" => {
            log_softmax(cx, &x, 1, n, 1, &mut out).unwrap();
            log
        }
        "softmax_grad" => {
            softmax_grad(cx, &narrow(&y), &dy, 1, n, 1, &mut out).unwrap();
            y.iter().zip(&dy).map(|(y, &d)| y * (f64::from(d) - dot)).collect()
        }
        _ => {
            log_softmax_grad(cx, &narrow(&log), &dy, 1, n, 1, &mut out).unwrap();
            y.iter().zip(&dy).map(|(y, &d)| f64::from(d) - y * sum).collect()
        }
    };
    points(&out, &want, n, 1.0)
}

/// Every norm over 40 elements that make one row, one group or one channel.
fn norm(cx: Ctx<'_>, op: &str) -> Vec<Point> {
    const EPS: f32 = 1e-3;
    let n = 40;
    let (x, dy) = (values("x", n), values("dy", n));
    let (mean, count) = (wide(&x).iter().sum::<f64>() / n as f64, n as f64);
    let var = wide(&x).iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
    let inverse = 1.0 / (var + f64::from(EPS)).sqrt();
    let hat: Vec<f64> = wide(&x).iter().map(|v| (v - mean) * inverse).collect();
    let g = wide(&dy);
    let mean_g = g.iter().sum::<f64>() / count;
    let mean_gh = g.iter().zip(&hat).map(|(g, h)| g * h).sum::<f64>() / count;
    let dx: Vec<f64> = (0..n).map(|i| inverse * (g[i] - mean_g - hat[i] * mean_gh)).collect();
    let mut y = vec![0.0; n];
    let (mut one, mut two) = (vec![0.0; 1], vec![0.0; 1]);
    let want = match op {
        "layer_norm" => {
            layer_norm(cx, &x, 1, n, None, None, EPS, &mut y).unwrap();
            hat
        }
        "rms_norm" => {
            rms_norm(cx, &x, 1, n, None, EPS, &mut y).unwrap();
            let rms = (wide(&x).iter().map(|v| v * v).sum::<f64>() / count + f64::from(EPS)).sqrt();
            wide(&x).iter().map(|v| v / rms).collect()
        }
        "group_norm" => {
            group_norm(cx, &x, [1, 4, 10], 1, None, None, EPS, &mut y).unwrap();
            hat
        }
        "batch_norm_train" => {
            batch_norm_train(cx, &x, [4, 1, 10], &[1.0], &[0.0], EPS, &mut y, &mut one, &mut two).unwrap();
            hat
        }
        "batch_norm_train_last" => {
            batch_norm_train_last(cx, &x, [n, 1], &[1.0], &[0.0], EPS, &mut y, &mut one, &mut two).unwrap();
            hat
        }
        "batch_norm_grad_last" => {
            let (m, v) = ([mean as f32], [var as f32]);
            batch_norm_grad_last(cx, &x, &dy, [n, 1], &m, &v, &[1.0], EPS, &mut y, &mut one, &mut two).unwrap();
            dx
        }
        "layer_norm_grad" => {
            let (mut ds, mut db) = (vec![0.0; n], vec![0.0; n]);
            layer_norm_grad(cx, &x, &dy, 1, n, None, EPS, &mut y, &mut ds, &mut db).unwrap();
            dx
        }
        "batch_norm_grad" => {
            let (m, v) = ([mean as f32], [var as f32]);
            batch_norm_grad(cx, &x, &dy, [4, 1, 10], &m, &v, &[1.0], EPS, &mut y, &mut one, &mut two).unwrap();
            dx
        }
        other => panic!("{other}: a row without a test"),
    };
    points(&y, &want, n, inverse)
}

/// A 2 × 3 matrix of distinct elements of each size.
fn movement(cx: Ctx<'_>, from: &str, op: &str) -> Vec<Point> {
    let (size, bytes) = match from {
        "x8" => (ElemSize::One, 1),
        "x16" => (ElemSize::Two, 2),
        "x32" => (ElemSize::Four, 4),
        _ => (ElemSize::Eight, 8),
    };
    let pack = |ids: &[u8]| -> Vec<u8> { ids.iter().flat_map(|&i| vec![i; bytes]).collect() };
    let src = pack(&[1, 2, 3, 4, 5, 6]);
    let want: Vec<u8> = match op {
        "permute" => vec![1, 4, 2, 5, 3, 6],
        "slice" => vec![3, 1, 6, 4],
        "expand" => vec![1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6],
        "concat" => vec![1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6],
        "pad" => vec![9, 1, 2, 3, 9, 4, 5, 6],
        "gather" => vec![4, 5, 6, 1, 2, 3, 4, 5, 6],
        "one_hot" => vec![0, 7, 0, 0, 0, 7],
        other => panic!("{other}: a row without a test"),
    };
    let mut dst = vec![0u8; want.len() * bytes];
    match op {
        "permute" => permute(cx, size, &src, &[2, 3], &[1, 0], &mut dst),
        "slice" => slice(cx, size, &src, &[2, 3], &[0, 2], &[1, -2], &[2, 2], &mut dst),
        "expand" => expand(cx, size, &src, &[1, 6], &[2, 6], &mut dst),
        "concat" => concat(cx, size, &[(&src, 3), (&src, 3)], &[2, 6], 1, &mut dst),
        "pad" => pad(cx, &src, &[2, 3], &[0, 1], &[0, 0], &pack(&[9]), &mut dst),
        "gather" => gather(cx, size, &src, [1, 2, 3], &[-1, 0, 1], &mut dst),
        _ => one_hot(cx, &pack(&[7]), &[1, 2], 3, 1, &mut dst),
    }
    .unwrap();
    let want = pack(&want);
    dst.iter().zip(want).map(|(&g, w)| Point { got: g.into(), want: w.into(), n: 0, size: 0.0 }).collect()
}

/// One query and one head: dv is the weights times dy, dk the gradients of the scores times q, dq their sum over the keys.
fn attention_gradient(cx: Ctx<'_>) -> Vec<Point> {
    let (keys, d) = (37, 8);
    let (q, k, v, dy) = (values("q", d), values("k", keys * d), values("v", keys * d), values("dy", d));
    let s = AttentionGradShape { heads: 1, queries: 1, keys, width: d, value_width: d, scale: 0.5, causal: Causal::No };
    let (mut dq, mut dk, mut dv) = (vec![0.0; d], vec![0.0; keys * d], vec![0.0; keys * d]);
    attention_grad(cx, &s, [&q, &k, &v, &dy], [&mut dq, &mut dk, &mut dv]).unwrap();
    let (q, k, v, dy) = (wide(&q), wide(&k), wide(&v), wide(&dy));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let e: Vec<f64> = k.chunks(d).map(|k| (0.5 * dot(&q, k)).exp()).collect();
    let total: f64 = e.iter().sum();
    let w: Vec<f64> = e.iter().map(|e| e / total).collect();
    let g: Vec<f64> = v.chunks(d).map(|v| dot(&dy, v)).collect();
    let mean = dot(&w, &g);
    let ds: Vec<f64> = w.iter().zip(&g).map(|(w, g)| 0.5 * w * (g - mean)).collect();
    let want_dq: Vec<f64> = (0..d).map(|c| (0..keys).map(|j| ds[j] * k[j * d + c]).sum()).collect();
    let want_dk: Vec<f64> = ds.iter().flat_map(|ds| q.iter().map(move |q| ds * q)).collect();
    let want_dv: Vec<f64> = w.iter().flat_map(|w| dy.iter().map(move |dy| w * dy)).collect();
    let mut all = points(&dq, &want_dq, keys + d, 1.0);
    all.extend(points(&dk, &want_dk, d, 1.0));
    all.extend(points(&dv, &want_dv, d, 1.0));
    all
}

fn gather_gradient(cx: Ctx<'_>) -> Vec<Point> {
    let dy = values("dy", 5 * 3);
    let ids = [1i64, 0, 1, 1, -1];
    let mut dst = vec![0.0; 4 * 3];
    gather_grad(cx, &dy, &ids, [1, 4, 3], &mut dst).unwrap();
    let mut want = vec![0f64; 12];
    for (j, &id) in ids.iter().enumerate() {
        for i in 0..3 {
            want[id.rem_euclid(4) as usize * 3 + i] += f64::from(dy[j * 3 + i]);
        }
    }
    points(&dst, &want, 3, 3.0)
}

/// Means of 9 pixels of 37 channels in two images, on a grid that some of them leave.
fn integer_mean(cx: Ctx<'_>, from: &str, to: &str) -> Vec<Point> {
    let (n, inner) = (9, 37);
    let bytes: Vec<u8> = (0..2 * n * inner).map(|i| (i * 89 % 256) as u8).collect();
    let signed: Vec<i8> = bytes.iter().map(|&v| v as i8).collect();
    let (data, zero) = if from == "qs8" { (Bytes::I8(&signed), -3) } else { (Bytes::U8(&bytes), 100) };
    let code = |i: usize| if from == "qs8" { i64::from(signed[i]) } else { bytes[i].into() };
    let x = QTensor { data, scale: 0.5, zero };
    let mean = |o: usize| {
        let sum: i64 = (0..n).map(|r| code((o / inner * n + r) * inner + o % inner) - i64::from(zero)).sum();
        sum as f32 * 0.5 / n as f32
    };
    let on_grid = |v: f32, l: Limits| (v / 0.25).round_ties_even().clamp((l.lo - 7) as f32, (l.hi - 7) as f32) + 7.0;
    let grid = |limits| Grid { scale: 0.25, zero: 7, limits };
    let (mut f, mut s, mut u) = (vec![0f32; 2 * inner], vec![0i8; 2 * inner], vec![0u8; 2 * inner]);
    let shape = [2, n, inner];
    let exact = |got: Vec<f64>, want: &dyn Fn(usize) -> f32| -> Vec<Point> {
        got.into_iter().enumerate().map(|(i, got)| Point { got, want: want(i).into(), n: 0, size: 0.0 }).collect()
    };
    match to {
        "f32" => {
            qmean(cx, x, shape, QOut::F32(&mut f)).unwrap();
            exact(wide(&f), &mean)
        }
        "qs8" => {
            qmean(cx, x, shape, QOut::I8(&mut s, grid(Limits::I8))).unwrap();
            exact(s.iter().map(|&v| v.into()).collect(), &|i| on_grid(mean(i), Limits::I8))
        }
        _ => {
            qmean(cx, x, shape, QOut::U8(&mut u, grid(Limits::U8))).unwrap();
            exact(u.iter().map(|&v| v.into()).collect(), &|i| on_grid(mean(i), Limits::U8))
        }
    }
}

fn quantization(cx: Ctx<'_>, from: &str, to: &str, op: &str) -> Vec<Point> {
    let scales = Scales { scale: &[0.5, 0.25], zero: &[3, 0], inner: 4 };
    let of = |i: usize| ([0.5f64, 0.25][i / 4 % 2], [3.0, 0.0][i / 4 % 2]);
    // Halves of a quantum, and values beyond every limit.
    let x: Vec<f32> = (0..16).map(|i| (i as f32 - 7.0) * 0.125 + if i == 15 { 1e6 } else { 0.0 }).collect();
    let grid = |i: usize, lo: f64, hi: f64| ((f64::from(x[i]) / of(i).0).round_ties_even() + of(i).1).clamp(lo, hi);
    let exact = |got: Vec<f64>, want: &dyn Fn(usize) -> f64| -> Vec<Point> {
        got.into_iter().enumerate().map(|(i, got)| Point { got, want: want(i), n: 0, size: 0.0 }).collect()
    };
    let bytes: Vec<u8> = (0..16).map(|i| i * 17).collect();
    let signed: Vec<i8> = bytes.iter().map(|&v| v as i8).collect();
    let mut y = vec![0f32; 16];
    match (op, from, to) {
        ("quantize", _, "qs8") => {
            let mut q = vec![0i8; 16];
            quantize(cx, &x, scales, Limits::I8, BytesMut::I8(&mut q)).unwrap();
            exact(q.iter().map(|&v| v.into()).collect(), &|i| grid(i, -128.0, 127.0))
        }
        ("quantize", ..) => {
            let mut q = vec![0u8; 16];
            quantize(cx, &x, scales, Limits::U8, BytesMut::U8(&mut q)).unwrap();
            exact(q.iter().map(|&v| v.into()).collect(), &|i| grid(i, 0.0, 255.0))
        }
        ("dequantize", "qs8", _) => {
            dequantize(cx, Bytes::I8(&signed), scales, &mut y).unwrap();
            exact(wide(&y), &|i| (f64::from(signed[i]) - of(i).1) * of(i).0)
        }
        ("dequantize", ..) => {
            dequantize(cx, Bytes::U8(&bytes), scales, &mut y).unwrap();
            exact(wide(&y), &|i| (f64::from(bytes[i]) - of(i).1) * of(i).0)
        }
        _ => {
            fake_quant(cx, &x, scales, Limits::I8_NARROW, &mut y).unwrap();
            exact(wide(&y), &|i| (grid(i, -127.0, 127.0) - of(i).1) * of(i).0)
        }
    }
}
