//! The integer kernels against naive loops, bit for bit: i64 sums, f32 epilogue, f64 rounding.

use super::*;
use crate::{
    Clamp, Ctx, Isa, Pool,
    conv::ConvShape,
    conv_last::Method,
    testing::{contexts, conv_shape as shape},
};
use penjing_tensor::Rng;

/// Values over the full range of i8 with both extremes frequent.
fn bytes(name: &str, n: usize) -> Vec<i8> {
    let rng = Rng::new(5, name, 0);
    let value = |i: usize| match (rng.uniform(2 * i as u64) * 8.0) as u32 {
        0 => i8::MIN,
        1 => i8::MAX,
        _ => (rng.uniform(2 * i as u64 + 1) * 256.0 - 128.0).floor() as i8,
    };
    (0..n).map(value).collect()
}

/// Weights that need no extra step, a few, and signs.
fn weights(kind: &str, n: usize) -> Vec<i8> {
    let rng = Rng::new(7, kind, 0);
    let normal = |i: usize| (0..12).map(|j| rng.uniform(12 * i as u64 + j)).sum::<f32>() - 6.0;
    match kind {
        "7 bits" => (0..n).map(|i| (rng.uniform(i as u64) * 129.0 - 64.0).floor().min(64.0) as i8).collect(),
        "normal" => (0..n).map(|i| (normal(i) * 36.0).clamp(-128.0, 127.0) as i8).collect(),
        _ => bytes(kind, n),
    }
}

/// Levels that weights are packed for in different ways; each way runs at every level.
const FORMS: [Isa; 3] = [Isa::Avx2, Isa::Avx512, Isa::Amx];

/// Functions that are no limits.
const SMOOTH: [Activation; 7] = [
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Silu,
    Activation::Sigmoid,
    Activation::Tanh,
    Activation::HardSwish,
    Activation::HardSigmoid { alpha: 0.3, beta: 0.4 },
];

const WEIGHTS: [&str; 3] = ["7 bits", "normal", "extreme"];

fn byte_types() -> [ByteType; 2] {
    [ByteType::I8, ByteType::U8]
}

fn floats(name: &str, n: usize, lo: f32, hi: f32) -> Vec<f32> {
    let rng = Rng::new(6, name, 0);
    (0..n).map(|i| lo + (hi - lo) * rng.uniform(i as u64)).collect()
}

/// saturate(round_half_even(v / scale) + zero), in f64 after the quotient.
fn onto_grid(v: f32, grid: Grid) -> i32 {
    let rounded = f64::from(v / grid.scale).round_ties_even() + f64::from(grid.zero);
    (rounded as i32).clamp(grid.limits.lo, grid.limits.hi)
}

/// Result i, by its sum: the residual, limits or the level's function, then the bits of an f32 or the integer.
fn expected(
    isa: Isa,
    i: usize,
    (sum, channel): (i64, usize),
    x_scale: f32,
    e: &QEpilogue<'_>,
    grid: Option<Grid>,
) -> i32 {
    let smooth = !matches!(e.act, Activation::Clamp(_));
    // Codes are quotients from the start, but for a function that needs real numbers.
    let unit = grid.filter(|_| !smooth).map_or(1.0, |g| 1.0 / g.scale);
    let bias = e.bias.map_or(0.0, |b| b[channel]);
    let bias = match e.residual {
        Some(QResidual::Int(QTensor { scale, zero, .. })) => (zero as f32).mul_add(-scale, bias),
        _ => bias,
    };
    let v = (sum as f32).mul_add(x_scale * e.w_scale[channel] * unit, bias * unit);
    let v = match e.residual {
        None => v,
        Some(QResidual::F32(r)) => r[i].mul_add(unit, v),
        Some(QResidual::Int(QTensor { data: Bytes::I8(r), scale, .. })) => f32::from(r[i]).mul_add(scale * unit, v),
        Some(QResidual::Int(QTensor { data: Bytes::U8(r), scale, .. })) => f32::from(r[i]).mul_add(scale * unit, v),
    };
    let v = match e.act {
        Activation::Clamp(Clamp { min, .. }) if v <= min * unit => min * unit,
        Activation::Clamp(Clamp { max, .. }) if v >= max * unit => max * unit,
        Activation::Clamp(_) => v,
        function => {
            let mut v = [v];
            function.apply(isa, &mut v);
            v[0]
        }
    };
    // A function's results are multiplied by the reciprocal of the scale.
    grid.map_or(v.to_bits() as i32, |g| {
        onto_grid(if smooth { v * (1.0 / g.scale) } else { v }, Grid { scale: 1.0, ..g })
    })
}

/// Runs `f` for i8 and u8 activations and every kind of result, at every level and thread count, and compares with `want`,
/// which takes the centred activations.
#[track_caller]
fn check(
    what: &str,
    x: &[i8],
    channels: usize,
    n: usize,
    residuals: &[Option<QResidual<'_>>],
    f: impl Fn(Ctx<'_>, QTensor<'_>, &QEpilogue<'_>, QOut<'_>) -> Result<(), KernelError>,
    want: impl Fn(&[i64]) -> Vec<(i64, usize)>,
) {
    let unsigned: Vec<u8> = x.iter().map(|&v| (i32::from(v) + 128) as u8).collect();
    let w_scale = floats("w scale", channels, 0.001, 0.01);
    let bias = floats("bias", channels, -3.0, 3.0);
    let cases = [
        (Bytes::I8(x), 0, Activation::NONE),
        (Bytes::I8(x), -128, Activation::RELU),
        (Bytes::I8(x), 37, Activation::Clamp(Clamp { min: -1.5, max: 6.0 })),
        (Bytes::U8(&unsigned), 0, Activation::Gelu),
        (Bytes::U8(&unsigned), 255, SMOOTH[n % SMOOTH.len()]),
    ];
    for (case, (data, zero, act)) in cases.into_iter().enumerate() {
        let centred: Vec<i64> = match data {
            Bytes::I8(x) => x.iter().map(|&v| i64::from(v) - i64::from(zero)).collect(),
            Bytes::U8(x) => x.iter().map(|&v| i64::from(v) - i64::from(zero)).collect(),
        };
        let sums = want(&centred);
        let x = QTensor { data, scale: 0.013, zero };
        let residual = residuals[case % residuals.len()];
        let e = QEpilogue { w_scale: &w_scale, bias: (case != 1).then_some(&bias[..]), residual, act };
        let i8_grid = Grid { scale: 0.07, zero: -5, limits: Limits::I8_NARROW };
        let u8_grid = Grid { scale: 0.11, zero: 100, limits: Limits::U8 };
        for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
            let want_for = |grid| {
                sums.iter().enumerate().map(|(i, &s)| expected(isa, i, s, x.scale, &e, grid)).collect::<Vec<_>>()
            };
            let wants = [want_for(None), want_for(Some(i8_grid)), want_for(Some(u8_grid))];
            for cx in contexts(isa) {
                let (mut y, mut q, mut u) = (vec![f32::NAN; n], vec![99i8; n], vec![99u8; n]);
                f(cx.get(), x, &e, QOut::F32(&mut y)).unwrap();
                f(cx.get(), x, &e, QOut::I8(&mut q, i8_grid)).unwrap();
                f(cx.get(), x, &e, QOut::U8(&mut u, u8_grid)).unwrap();
                let got = [
                    y.iter().map(|v| v.to_bits() as i32).collect::<Vec<_>>(),
                    q.iter().map(|&v| v.into()).collect(),
                    u.iter().map(|&v| v.into()).collect(),
                ];
                assert!(got == wants, "{what}, case {case}, {}", isa.name());
            }
        }
    }
}

/// No residual, and one of each kind.
fn residuals<'a>(reals: &'a [f32], ints: &'a [i8], bytes: &'a [u8]) -> [Option<QResidual<'a>>; 4] {
    let int = |data, zero| Some(QResidual::Int(QTensor { data, scale: 0.031, zero }));
    [None, Some(QResidual::F32(reals)), int(Bytes::I8(ints), -9), int(Bytes::U8(bytes), 201)]
}

#[test]
fn qgemm_is_exact() {
    let cases = [
        (1, 1, 1),
        (1, 40, 300),
        (7, 17, 5),
        (6, 16, 64),
        (33, 50, 129),
        (200, 70, 48),
        (2, 300, 1030),
        (13, 33, 2059),
        (5, 3, 0),
        (0, 4, 4),
        (3, 0, 4),
    ];
    for ((m, n, k), kind) in cases.into_iter().flat_map(|c| WEIGHTS.map(|w| (c, w))) {
        let (x, w) = (bytes("x", m * k), weights(kind, k * n));
        let transposed: Vec<i8> = (0..n * k).map(|i| w[i % k * n + i / k]).collect();
        let (reals, ints) = (floats("residual", m * n, -3.0, 3.0), bytes("residual", m * n));
        let unsigned: Vec<u8> = ints.iter().map(|&v| v as u8).collect();
        let layouts = [(&w, WeightLayout::Rows), (&transposed, WeightLayout::Transposed)];
        for (isa, (w_given, layout)) in FORMS.into_iter().flat_map(|isa| layouts.map(|l| (isa, l))) {
            let packed = byte_types().map(|t| PackedQGemm::new(isa, k, n, w_given, layout, t).unwrap());
            check(
                &format!("{m}x{n}x{k}, {kind}, packed for {}", isa.name()),
                &x,
                n,
                m * n,
                &residuals(&reals, &ints, &unsigned),
                |cx, x, e, y| qgemm(cx, m, x, &packed[usize::from(x.data.byte_type() == ByteType::U8)], e, y),
                |x| {
                    let sum = |i: usize, j: usize| (0..k).map(|p| x[i * k + p] * i64::from(w[p * n + j])).sum();
                    (0..m * n).map(|i| (sum(i / n, i % n), i % n)).collect()
                },
            );
        }
    }
}

/// Residuals that are no numbers, scales that no i32 or f32 has room for: every level stores what the definition does.
#[test]
fn extreme_reals_become_the_same_codes_at_every_level() {
    let (m, n, k, pool) = (9, 36, 8, Pool::new(1));
    let (x, w) = (bytes("x", m * k), bytes("w", k * n));
    let reals: Vec<f32> = floats("residual", m * n, -9.0, 9.0)
        .into_iter()
        .enumerate()
        .map(|(i, v)| match i % 11 {
            0 => f32::NAN,
            1 => f32::INFINITY,
            2 => f32::NEG_INFINITY,
            3 => 1e30,
            _ => v,
        })
        .collect();
    let ints = bytes("residual", m * n);
    let unsigned: Vec<u8> = ints.iter().map(|&v| v as u8).collect();
    let limits = [Activation::NONE, Activation::RELU, Activation::Clamp(Clamp { min: -3.3, max: 2.1 })];
    let scales = [0.02, 0.3, 1e6, 1e19, 1e30, f32::INFINITY, f32::NAN];
    for (form, case) in FORMS.into_iter().flat_map(|form| (0..4 * 3 * 7 * 3).map(move |case| (form, case))) {
        let packed = PackedQGemm::new(form, k, n, &w, WeightLayout::Rows, ByteType::I8).unwrap();
        let residual_scale = [0.031, 1e25, f32::NAN][case / 84];
        let int = |data, zero| Some(QResidual::Int(QTensor { data, scale: residual_scale, zero }));
        let residual =
            [None, Some(QResidual::F32(&reals)), int(Bytes::I8(&ints), -9), int(Bytes::U8(&unsigned), 201)][case % 4];
        let w_scale: Vec<f32> = (0..n).map(|j| if j % 3 == 0 { scales[case / 12 % 7] } else { 0.01 }).collect();
        let e = QEpilogue { w_scale: &w_scale, bias: None, residual, act: limits[case / 4 % 3] };
        for (scale, zero, limits) in [
            (0.07, -5, Limits::I8_NARROW),
            (0.07, 0, Limits::I8),
            (1e-25, 9, Limits::I8),
            (0.0, 1, Limits::I8),
            (f32::NAN, 1, Limits::I8),
        ] {
            let x = QTensor { data: Bytes::I8(&x), scale: 0.013, zero: 4 };
            let all = Isa::ALL.map(|isa| {
                let cx = Ctx { isa, pool: &pool };
                let (mut q, mut u) = (vec![99i8; m * n], vec![99u8; m * n]);
                qgemm(cx, m, x, &packed, &e, QOut::I8(&mut q, Grid { scale, zero, limits })).unwrap();
                let grid = Grid { scale, zero: zero + 5, limits: Limits::U8 };
                qgemm(cx, m, x, &packed, &e, QOut::U8(&mut u, grid)).unwrap();
                (q, u)
            });
            assert!(all.iter().all(|got| *got == all[0]), "{e:?}, scale {scale}, packed for {}", form.name());
        }
    }
}

#[test]
fn the_worst_sums_do_not_saturate() {
    let k = 4096;
    let e = QEpilogue { w_scale: &[1.0; 16], bias: None, residual: None, act: Activation::NONE };
    for (form, weight) in FORMS.into_iter().flat_map(|f| [-128i8, 127, 64, -64, 32, -32, 33].map(|w| (f, w))) {
        let packed = PackedQGemm::new(form, k, 16, &vec![weight; 16 * k], WeightLayout::Rows, ByteType::U8).unwrap();
        for isa in Isa::ALL {
            for cx in contexts(isa) {
                for value in [255, 0] {
                    let mut y = vec![0f32; 96];
                    let x = vec![value; 6 * k];
                    let x = QTensor { data: Bytes::U8(&x), scale: 1.0, zero: i32::from(255 - value) };
                    qgemm(cx.get(), 6, x, &packed, &e, QOut::F32(&mut y)).unwrap();
                    let want = (i64::from(value) * 2 - 255) * i64::from(weight) * k as i64;
                    assert!(y.iter().all(|&v| v == want as f32), "{weight} by {value}");
                }
            }
        }
    }
}

#[test]
fn qconv_last_is_exact() {
    for (s, kind) in crate::conv_last::tests::cases().into_iter().flat_map(|s| WEIGHTS.map(|w| (s, w))) {
        let (x, w) = (bytes("x", s.x_len().unwrap()), weights(kind, s.w_len().unwrap()));
        let n = s.y_len().unwrap();
        let (reals, ints) = (floats("residual", n, -3.0, 3.0), bytes("residual", n));
        let unsigned: Vec<u8> = ints.iter().map(|&v| v as u8).collect();
        let ways =
            [Method::Direct, Method::Depthwise, Method::Winograd4].into_iter().flat_map(|m| FORMS.map(|isa| (m, isa)));
        for (method, isa) in ways {
            let Ok(packed) = pack(isa, &s, &w, method) else {
                continue;
            };
            check(
                &format!("{s:?}, {kind}, {method:?}, packed for {}", isa.name()),
                &x,
                s.out_channels,
                n,
                &residuals(&reals, &ints, &unsigned),
                |cx, x, e, y| qconv_last(cx, &s, x, &packed[usize::from(x.data.byte_type() == ByteType::U8)], e, y),
                |x| convolution(&s, x, &w),
            );
        }
    }
}

/// Weights for i8 and for u8 activations.
fn pack(isa: Isa, s: &ConvShape, w: &[i8], method: Method) -> Result<[PackedQConvLast; 2], KernelError> {
    let [signed, unsigned] = byte_types().map(|t| PackedQConvLast::new_with(isa, s, w, t, method));
    Ok([signed?, unsigned?])
}

/// The sums of a convolution of centred activations, and their channels.
fn convolution(s: &ConvShape, x: &[i64], w: &[i8]) -> Vec<(i64, usize)> {
    let mut sums: Vec<(i64, usize)> = (0..s.y_len().unwrap()).map(|i| (0, i % s.out_channels)).collect();
    crate::conv_last::tests::each_product(s, |yi, xi, wi| sums[yi].0 += x[xi] * i64::from(w[wi]));
    sums
}

/// Channels that fill registers, that several pixels fill together, and neither; rows of pixels shorter than that; kernels of
/// fewer, as many and more rows than are interleaved.
#[test]
fn depthwise_convolutions_are_exact() {
    let kernels =
        [([3, 3], [1, 1], [1, 1]), ([3, 3], [2, 2], [1, 1]), ([5, 5], [1, 1], [1, 1]), ([4, 2], [1, 3], [1, 1])];
    let more = [([7, 7], [1, 1], [1, 1]), ([3, 3], [1, 1], [2, 2]), ([1, 1], [1, 1], [1, 1])];
    for (kernel, stride, dilation) in kernels.into_iter().chain(more) {
        for (channels, extent) in
            [(16, [3, 9]), (48, [5, 6]), (64, [1, 2]), (72, [4, 3]), (144, [4, 5]), (128, [13, 12])]
        {
            let pad = kernel.map(|k| k / 2);
            let pad = [pad[0], pad[1], pad[0], pad[1]];
            let s = shape(2, channels, [channels; 2], extent, kernel, stride, dilation, pad);
            let (n, x) = (s.y_len().unwrap(), bytes("x", s.x_len().unwrap()));
            let w = weights("extreme", s.w_len().unwrap());
            let reals = floats("residual", n, -3.0, 3.0);
            let packed = pack(Isa::detect(), &s, &w, Method::Depthwise).unwrap();
            check(
                &format!("{s:?}"),
                &x,
                channels,
                n,
                &[None, Some(QResidual::F32(&reals)), None],
                |cx, x, e, y| qconv_last(cx, &s, x, &packed[usize::from(x.data.byte_type() == ByteType::U8)], e, y),
                |x| convolution(&s, x, &w),
            );
        }
    }
}

#[test]
fn winograds_method_is_exact_at_every_edge_of_a_tile() {
    for extent in [1, 2, 3, 5, 7] {
        for channels in [[8, 16], [16, 33], [33, 17], [17, 8]] {
            let s = shape(2, 1, channels, [extent, 8 - extent], [3, 3], [1, 1], [1, 1], [1, 0, 1, 2]);
            let (x, w) = (bytes("x", s.x_len().unwrap()), bytes("w", s.w_len().unwrap()));
            let (n, packed) = (s.y_len().unwrap(), pack(Isa::Avx2, &s, &w, Method::Winograd4).unwrap());
            check(
                &format!("{s:?}"),
                &x,
                s.out_channels,
                n,
                &[None],
                |cx, x, e, y| qconv_last(cx, &s, x, &packed[usize::from(x.data.byte_type() == ByteType::U8)], e, y),
                |x| convolution(&s, x, &w),
            );
        }
    }
}

/// The largest weights that are taken, all of one sign or by turns, with inputs that make the largest sums and those that make the
/// largest transformed inputs.
#[test]
fn winograds_method_is_exact_at_the_bounds() {
    let s = shape(1, 1, [113, 2], [9, 9], [3, 3], [1, 1], [1, 1], [0, 0, 0, 0]);
    let inner = |i: usize| i % 4 == 1 || i % 4 == 2;
    type Input = fn(usize, usize) -> bool;
    let inputs: [Input; 5] =
        [|_, _| true, |_, _| false, |i, j| (i + j) % 2 == 0, |i, _| i % 4 == 0, |i, j| (i % 4 == 0) == (j % 4 == 0)];
    let nested = |i: usize, j: usize| inner(i) == inner(j);
    let pixels = |high: &dyn Fn(usize, usize) -> bool| -> Vec<i8> {
        (0..s.x_len().unwrap()).map(|i| if high(i / 113 / 9, i / 113 % 9) { 127 } else { -128 }).collect()
    };
    let all: Vec<Vec<i8>> = inputs.iter().map(|f| pixels(f)).chain([pixels(&nested)]).collect();
    let kinds: [fn(usize) -> i8; 4] = [
        |_| -128,
        |_| 127,
        |i| if i % 9 % 2 == 0 { 127 } else { -128 },
        |i| {
            if i % 9 == 4 { 127 } else { -128 }
        },
    ];
    for (i, x) in all.iter().enumerate() {
        for (kind, value) in kinds.iter().enumerate() {
            let w: Vec<i8> = (0..s.w_len().unwrap()).map(value).collect();
            let packed = pack(Isa::Avx2, &s, &w, Method::Winograd4).unwrap();
            check(
                &format!("input {i}, weights {kind}"),
                x,
                2,
                s.y_len().unwrap(),
                &[None],
                |cx, x, e, y| qconv_last(cx, &s, x, &packed[usize::from(x.data.byte_type() == ByteType::U8)], e, y),
                |x| convolution(&s, x, &w),
            );
        }
    }
}

#[test]
fn winograds_method_is_taken_where_it_gains_and_refused_where_it_is_not_exact() {
    let unit = |batch, channels, side| shape(batch, 1, channels, [side; 2], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]);
    let op = |s: &ConvShape, weight: i8| {
        PackedQConvLast::new(Isa::Avx2, s, &vec![weight; s.w_len().unwrap()], ByteType::U8).unwrap().op()
    };
    let (small, large) = (unit(1, [16, 16], 32), unit(1, [128, 16], 28));
    assert_eq!((op(&small, 127), op(&large, 100)), ("conv_last_winograd", "conv_last_winograd"));
    // Sums of 128·9 weights of 127 are too large; those of 113·9 of −128 are not.
    assert_eq!(op(&large, 127), "conv_last");
    let refused = |s: ConvShape| pack(Isa::Avx2, &s, &vec![1; s.w_len().unwrap()], Method::Winograd4).is_err();
    assert!(pack(Isa::Avx2, &unit(1, [113, 1], 4), &[-128; 113 * 9], Method::Winograd4).is_ok());
    assert!(pack(Isa::Avx2, &unit(1, [114, 1], 4), &[-128; 114 * 9], Method::Winograd4).is_err());
    assert!(refused(ConvShape { stride: [2, 2], ..small }) && refused(ConvShape { groups: 2, ..small }));
    assert!(refused(ConvShape { dilation: [2, 2], ..small }) && refused(ConvShape { kernel: [3, 1], ..small }));
    // Few channels, few tiles for the weights, much of the tiles outside.
    assert_eq!(
        [unit(9, [16, 8], 8), unit(1, [256, 256], 4), unit(9, [16, 16], 5)].map(|s| op(&s, 1)),
        ["conv_last"; 3]
    );
    assert!(pack(Isa::Avx2, &small, &[0; 16 * 16 * 9], Method::Winograd2).is_err());
}

#[test]
fn quantize_rounds_half_to_even_and_saturates() {
    let x = [
        0.5f32,
        1.5,
        2.5,
        -0.5,
        -1.5,
        0.0,
        126.5,
        127.5,
        1e9,
        -1e9,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        -127.7,
    ];
    let one = Scales { scale: &[1.0], zero: &[0], inner: 1 };
    let pool = crate::Pool::new(1);
    for isa in Isa::ALL {
        let cx = Ctx { isa, pool: &pool };
        let mut q = [0i8; 14];
        quantize(cx, &x, one, Limits::I8, BytesMut::I8(&mut q)).unwrap();
        assert_eq!(q, [0, 2, 2, 0, -2, 0, 126, 127, 127, -128, 0, 127, -128, -128]);
        quantize(cx, &x, one, Limits::I8_NARROW, BytesMut::I8(&mut q)).unwrap();
        assert_eq!(q, [0, 2, 2, 0, -2, 0, 126, 127, 127, -127, 0, 127, -127, -127]);
        let mut u = [0u8; 14];
        quantize(cx, &x, Scales { zero: &[3], ..one }, Limits::U8, BytesMut::U8(&mut u)).unwrap();
        assert_eq!(u, [3, 5, 5, 3, 1, 3, 129, 131, 255, 0, 0, 255, 0, 0]);
        let mut y = [9f32; 14];
        fake_quant(cx, &x, Scales { scale: &[0.5], zero: &[1], inner: 1 }, Limits { lo: -8, hi: 7 }, &mut y).unwrap();
        assert_eq!(y, [0.5, 1.5, 2.5, -0.5, -1.5, 0.0, 3.0, 3.0, 3.0, -4.5, -0.5, 3.0, -4.5, -4.5]);
    }
}

#[test]
fn quantize_and_back_follow_the_channel() {
    for ([outer, channels, inner], len) in
        [([3, 4, 5], 60), ([1, 7, 9001], 63007), ([2, 1, 30000], 60000), ([5, 3, 1], 15)]
    {
        let x = floats("x", len, -2.0, 2.0);
        let scale = floats("scale", channels, 0.003, 0.03);
        let zero: Vec<i32> = (0..channels as i32).map(|c| c * 7 - 20).collect();
        let up: Vec<i32> = zero.iter().map(|z| z + 128).collect();
        let (signed, unsigned) =
            (Scales { scale: &scale, zero: &zero, inner }, Scales { scale: &scale, zero: &up, inner });
        let channel = |i: usize| i / inner % channels;
        let want: Vec<i32> = (0..outer * channels * inner)
            .map(|i| onto_grid(x[i], Grid { scale: scale[channel(i)], zero: zero[channel(i)], limits: Limits::I8 }))
            .collect();
        let back: Vec<f32> = (0..len).map(|i| (want[i] - zero[channel(i)]) as f32 * scale[channel(i)]).collect();
        for isa in Isa::ALL {
            for cx in contexts(isa) {
                let (mut q, mut u, mut y) = (vec![0i8; len], vec![0u8; len], vec![0f32; len]);
                quantize(cx.get(), &x, signed, Limits::I8, BytesMut::I8(&mut q)).unwrap();
                quantize(cx.get(), &x, unsigned, Limits::U8, BytesMut::U8(&mut u)).unwrap();
                assert!((0..len).all(|i| i32::from(q[i]) == want[i] && i32::from(u[i]) == want[i] + 128));
                dequantize(cx.get(), Bytes::I8(&q), signed, &mut y).unwrap();
                assert!(y == back);
                dequantize(cx.get(), Bytes::U8(&u), unsigned, &mut y).unwrap();
                assert!(y == back);
                y.fill(0.0);
                fake_quant(cx.get(), &x, signed, Limits::I8, &mut y).unwrap();
                assert!(y == back);
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let pool = crate::Pool::new(1);
    let cx = Ctx { isa: Isa::Generic, pool: &pool };
    let geometry = |r: Result<(), KernelError>| assert!(matches!(r, Err(KernelError::Geometry { .. })), "{r:?}");
    let length = |r: Result<(), KernelError>| assert!(matches!(r, Err(KernelError::Length { .. })), "{r:?}");
    let pack = |k, n, w: &[i8]| PackedQGemm::new(Isa::detect(), k, n, w, WeightLayout::Rows, ByteType::U8);
    assert!(pack(2, 3, &[0; 5]).is_err());
    let deep = MAX_DEPTH + 1;
    assert!(pack(deep, 1, &vec![0; deep]).is_err());
    assert!(pack(usize::MAX, 2, &[]).is_err());
    let w = pack(2, 3, &[0; 6]).unwrap();
    let x = QTensor { data: Bytes::U8(&[0; 4]), scale: 1.0, zero: 0 };
    let e = QEpilogue { w_scale: &[1.0; 3], bias: None, residual: None, act: Activation::NONE };
    let mut y = [0f32; 6];
    let mut q = [0i8; 6];
    length(qgemm(cx, 1, x, &w, &e, QOut::F32(&mut y)));
    length(qgemm(cx, 2, x, &w, &e, QOut::F32(&mut y[..5])));
    length(qgemm(cx, 2, x, &w, &QEpilogue { w_scale: &[1.0; 2], ..e }, QOut::F32(&mut y)));
    length(qgemm(cx, 2, x, &w, &QEpilogue { bias: Some(&[1.0]), ..e }, QOut::F32(&mut y)));
    geometry(qgemm(cx, 2, QTensor { zero: -1, ..x }, &w, &e, QOut::F32(&mut y)));
    geometry(qgemm(cx, 2, QTensor { data: Bytes::I8(&[0; 4]), ..x }, &w, &e, QOut::F32(&mut y)));
    length(qgemm(cx, 2, x, &w, &QEpilogue { residual: Some(QResidual::F32(&[1.0])), ..e }, QOut::F32(&mut y)));
    let bad = QResidual::Int(QTensor { data: Bytes::I8(&[0; 6]), scale: 1.0, zero: 128 });
    geometry(qgemm(cx, 2, x, &w, &QEpilogue { residual: Some(bad), ..e }, QOut::F32(&mut y)));
    let grid = Grid { scale: 1.0, zero: 200, limits: Limits::I8 };
    geometry(qgemm(cx, 2, x, &w, &e, QOut::I8(&mut q, grid)));
    geometry(qgemm(cx, 2, x, &w, &e, QOut::I8(&mut q, Grid { zero: 0, limits: Limits::U8, ..grid })));
    let s = shape(1, 1, [2, 3], [4, 4], [3, 3], [1, 1], [1, 1], [1, 1, 1, 1]);
    let other = shape(1, 1, [2, 3], [4, 4], [1, 1], [1, 1], [1, 1], [0, 0, 0, 0]);
    let (x, mut y) = (QTensor { data: Bytes::I8(&[0; 32]), scale: 1.0, zero: 0 }, [0f32; 48]);
    let last = PackedQConvLast::new(Isa::detect(), &s, &[0; 54], ByteType::I8).unwrap();
    assert!(PackedQConvLast::new(Isa::detect(), &s, &[0; 53], ByteType::I8).is_err());
    geometry(qconv_last(cx, &other, x, &last, &e, QOut::F32(&mut y)));
    length(qconv_last(cx, &s, x, &last, &e, QOut::F32(&mut y[1..])));
    let scales = Scales { scale: &[1.0; 2], zero: &[0; 2], inner: 3 };
    length(quantize(cx, &[0.0; 6], scales, Limits::I8, BytesMut::I8(&mut q[..5])));
    geometry(quantize(cx, &[0.0; 5], scales, Limits::I8, BytesMut::I8(&mut q[..5])));
    geometry(quantize(cx, &[0.0; 6], Scales { inner: 0, ..scales }, Limits::I8, BytesMut::I8(&mut q)));
    geometry(quantize(cx, &[0.0; 6], Scales { zero: &[0, 128], ..scales }, Limits::I8, BytesMut::I8(&mut q)));
    geometry(quantize(cx, &[0.0; 6], scales, Limits::U8, BytesMut::I8(&mut q)));
    geometry(dequantize(cx, Bytes::I8(&q), Scales { zero: &[0, -129], ..scales }, &mut y[..6]));
}
