//! The rows of networks over time.

use super::{Point, points, values};
use penjing_kernels::{
    Ctx,
    int8::{ByteType, Bytes, QTensor},
    recurrent::{
        QWeights, RecurrentDirection, RecurrentShape, Weights,
        gru::{GruReset, PackedGru, PackedQGru, QGruOperands, gru, qgru},
        lstm::{LstmGrads, LstmOutputs, LstmTape, LstmWeights, PackedQLstm, QLstmOperands, lstm, lstm_grad, qlstm},
    },
};

/// One unit, one input, one step, weights and activations at their limits.
pub(super) fn integer_recurrent(cx: Ctx<'_>, from: &str) -> Vec<Point> {
    let shape = RecurrentShape { steps: 1, batch: 1, input: 1, hidden: 1, direction: RecurrentDirection::Forward };
    let (w, r, b) = ([-128i8, 127, 90, -77], [127i8, -128, -3, 55], values("b", 8));
    let (x, dtype, q): (_, _, f64) = match from {
        "qs8" => (Bytes::I8(&[-128]), ByteType::I8, -128.0),
        _ => (Bytes::U8(&[255]), ByteType::U8, 255.0),
    };
    let scale = [0.004f32; 4];
    let packed = PackedQLstm::new(cx.isa, &shape, QWeights { w: &w, r: &r }, dtype).unwrap();
    let operands = QLstmOperands { w_scale: &scale, r_scale: &scale, b: &b, h0: &[0.25], c0: &[-0.5] };
    let (mut y, mut h, mut c) = ([0.0], [0.0], [0.0]);
    let out = LstmOutputs { y: &mut y, h: &mut h, c: &mut c, reserve: None };
    qlstm(cx, &shape, QTensor { data: x, scale: 0.01, zero: 9 }, &packed, &operands, out).unwrap();
    // One value above 0 is the last code of its own grid, and so itself.
    let pre: [f64; 4] = std::array::from_fn(|g| {
        let of_x = f64::from(w[g]) * (q - 9.0) * f64::from(0.01f32) * f64::from(scale[g]);
        of_x + f64::from(r[g]) * 0.25 * f64::from(scale[g]) + f64::from(b[g]) + f64::from(b[4 + g])
    });
    let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
    let cell = sigmoid(pre[2]) * -0.5 + sigmoid(pre[0]) * pre[3].tanh();
    points(&[y[0], c[0]], &[sigmoid(pre[1]) * cell.tanh(), cell], 2, 1.0)
}

/// One unit, one input, two steps: h and c by hand, the gradient of x by central differences.
pub(super) fn long_short_term(cx: Ctx<'_>, op: &str) -> Vec<Point> {
    let shape = RecurrentShape { steps: 2, batch: 1, input: 1, hidden: 1, direction: RecurrentDirection::Forward };
    let (x, w, r, b) = (values("x", 2), values("w", 4), values("r", 4), values("b", 8));
    let forward = |x: [f64; 2]| -> [f64; 3] {
        let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
        let (mut h, mut c, mut first) = (0.25f64, -0.5f64, 0.0);
        for (step, x) in x.into_iter().enumerate() {
            let pre: [f64; 4] = std::array::from_fn(|g| {
                f64::from(w[g]) * x + f64::from(r[g]) * h + f64::from(b[g]) + f64::from(b[4 + g])
            });
            c = sigmoid(pre[2]) * c + sigmoid(pre[0]) * pre[3].tanh();
            h = sigmoid(pre[1]) * c.tanh();
            first = if step == 0 { h } else { first };
        }
        [first, h, c]
    };
    let (mut y, mut h, mut c, mut reserve) = (vec![0.0; 2], vec![0.0; 1], vec![0.0; 1], vec![0.0; 10]);
    let (h0, c0) = ([0.25], [-0.5]);
    let weights = LstmWeights::Plain(Weights { w: &w, r: &r, b: &b });
    let out = LstmOutputs { y: &mut y, h: &mut h, c: &mut c, reserve: Some(&mut reserve) };
    lstm(cx, &shape, &x, weights, &h0, &c0, out).unwrap();
    let at = [f64::from(x[0]), f64::from(x[1])];
    if op == "lstm" {
        return points(&[y[0], y[1], c[0]], &forward(at), 2, 1.0);
    }
    let (dy, zero) = ([1.0, 1.0], [0.0]);
    let (mut dx, mut dw, mut dr, mut db) = (vec![0.0; 2], vec![0.0; 4], vec![0.0; 4], vec![0.0; 8]);
    let (mut dh0, mut dc0) = (vec![0.0; 1], vec![0.0; 1]);
    let tape =
        LstmTape { x: &x, w: &w, r: &r, h0: &h0, c0: &c0, y: &y, reserve: &reserve, dy: &dy, dh: &zero, dc: &zero };
    let grads = LstmGrads { dx: &mut dx, dw: &mut dw, dr: &mut dr, db: &mut db, dh0: &mut dh0, dc0: &mut dc0 };
    lstm_grad(cx, &shape, &tape, grads).unwrap();
    let loss = |x: [f64; 2]| forward(x)[0] + forward(x)[1];
    let step = 1e-5;
    let want: Vec<f64> = (0..2)
        .map(|i| {
            let moved = |d: f64| std::array::from_fn(|j| at[j] + if i == j { d } else { 0.0 });
            (loss(moved(step)) - loss(moved(-step))) / (2.0 * step)
        })
        .collect();
    points(&dx, &want, 2, 1.0)
}

/// One unit, one input, two steps, by hand.
pub(super) fn gated(cx: Ctx<'_>) -> Vec<Point> {
    let shape = RecurrentShape { steps: 2, batch: 1, input: 1, hidden: 1, direction: RecurrentDirection::Forward };
    let (x, w, r, b) = (values("x", 2), values("w", 3), values("r", 3), values("b", 6));
    let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
    let of = |v: &[f32], i: usize| f64::from(v[i]);
    let mut all = Vec::new();
    for reset in [GruReset::State, GruReset::Product] {
        let packed = PackedGru::new(cx.isa, &shape, Weights { w: &w, r: &r, b: &b }, reset).unwrap();
        let (mut y, mut last) = ([0.0; 2], [0.0]);
        gru(cx, &shape, &x, &packed, &[0.25], &mut y, &mut last).unwrap();
        let (mut h, mut want) = (0.25f64, Vec::new());
        for t in 0..2 {
            let [z, gate] = [0, 1].map(|g| sigmoid(of(&w, g) * of(&x, t) + of(&b, g) + of(&r, g) * h + of(&b, 3 + g)));
            let inner = match reset {
                GruReset::State => of(&r, 2) * (gate * h) + of(&b, 5),
                GruReset::Product => gate * (of(&r, 2) * h + of(&b, 5)),
            };
            h = (1.0 - z) * (of(&w, 2) * of(&x, t) + of(&b, 2) + inner).tanh() + z * h;
            want.push(h);
        }
        all.extend(points(&[y[0], y[1], last[0]], &[want[0], want[1], h], 2, 1.0));
    }
    all
}

/// As [`integer_recurrent`].
pub(super) fn integer_gated(cx: Ctx<'_>, from: &str) -> Vec<Point> {
    let shape = RecurrentShape { steps: 1, batch: 1, input: 1, hidden: 1, direction: RecurrentDirection::Forward };
    let (w, r, b) = ([-128i8, 127, 90], [127i8, -128, -3], values("b", 6));
    let (x, dtype, q): (_, _, f64) = match from {
        "qs8" => (Bytes::I8(&[-128]), ByteType::I8, -128.0),
        _ => (Bytes::U8(&[255]), ByteType::U8, 255.0),
    };
    let (scale, h) = ([0.004f32; 3], 0.25);
    let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
    let of_x = |g: usize| f64::from(w[g]) * (q - 9.0) * f64::from(0.01f32) * f64::from(scale[g]) + f64::from(b[g]);
    // One value above 0 is the last code of its own grid, and so itself.
    let of_h = |g: usize, h: f64| f64::from(r[g]) * h * f64::from(scale[g]) + f64::from(b[3 + g]);
    let mut all = Vec::new();
    for reset in [GruReset::State, GruReset::Product] {
        let packed = PackedQGru::new(cx.isa, &shape, QWeights { w: &w, r: &r }, reset, dtype).unwrap();
        let operands = QGruOperands { w_scale: &scale, r_scale: &scale, b: &b, h0: &[0.25] };
        let (mut y, mut last) = ([0.0], [0.0]);
        let x = QTensor { data: x, scale: 0.01, zero: 9 };
        qgru(cx, &shape, x, &packed, &operands, &mut y, &mut last).unwrap();
        let [z, gate] = [0, 1].map(|g| sigmoid(of_x(g) + of_h(g, h)));
        let inner = match reset {
            GruReset::State => of_h(2, gate * h),
            GruReset::Product => gate * of_h(2, h),
        };
        let want = (1.0 - z) * (of_x(2) + inner).tanh() + z * h;
        all.extend(points(&[y[0], last[0]], &[want, want], 2, 1.0));
    }
    all
}
