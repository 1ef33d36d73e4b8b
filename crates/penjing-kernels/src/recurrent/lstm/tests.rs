//! Forward against naive f64 loops; backward against central differences of them.

use super::*;
use crate::{
    KernelError,
    int8::{ByteType, Bytes, QTensor},
    recurrent::{QWeights, RecurrentDirection, RecurrentShape, Weights},
    testing::{assert_close, every_ctx, values},
};

const ALL: [RecurrentDirection; 3] =
    [RecurrentDirection::Forward, RecurrentDirection::Reverse, RecurrentDirection::Both];

fn shape(steps: usize, batch: usize, input: usize, hidden: usize, direction: RecurrentDirection) -> RecurrentShape {
    RecurrentShape { steps, batch, input, hidden, direction }
}

/// x, w, r, b, h0, c0.
fn operands(s: &RecurrentShape) -> [Vec<f32>; 6] {
    let d = s.directions();
    let (g, h) = (4 * s.hidden, s.hidden);
    [
        values("x", s.steps * s.batch * s.input),
        values("w", d * g * s.input),
        values("r", d * g * h),
        values("b", d * 2 * g),
        values("h0", d * s.batch * h),
        values("c0", d * s.batch * h),
    ]
}

fn wide(v: &[Vec<f32>; 6]) -> [Vec<f64>; 6] {
    v.clone().map(|v| v.into_iter().map(f64::from).collect())
}

/// y `[T, D, B, H]`, h `[D, B, H]`, c `[D, B, H]`, reserve `[T, D, B, 5H]`.
fn naive(s: &RecurrentShape, [x, w, r, b, h0, c0]: &[Vec<f64>; 6]) -> [Vec<f64>; 4] {
    let (n_dirs, h, g) = (s.directions(), s.hidden, 4 * s.hidden);
    let (mut hs, mut cs) = (h0.clone(), c0.clone());
    let mut y = vec![0.0; s.steps * n_dirs * s.batch * h];
    let mut kept = vec![0.0; y.len() * 5];
    let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
    for d in 0..n_dirs {
        let backwards = d == 1 || s.direction == RecurrentDirection::Reverse;
        let times: Vec<usize> = if backwards { (0..s.steps).rev().collect() } else { (0..s.steps).collect() };
        for t in times {
            for n in 0..s.batch {
                let state = (d * s.batch + n) * h;
                let old = hs[state..state + h].to_vec();
                for j in 0..h {
                    let sum = |gate: usize| {
                        let row = d * g + gate * h + j;
                        let from_x: f64 =
                            (0..s.input).map(|k| w[row * s.input + k] * x[(t * s.batch + n) * s.input + k]).sum();
                        let from_h: f64 = (0..h).map(|k| r[row * h + k] * old[k]).sum();
                        from_x + from_h + b[d * 2 * g + gate * h + j] + b[d * 2 * g + g + gate * h + j]
                    };
                    let (i, o, f, c) = (sigmoid(sum(0)), sigmoid(sum(1)), sigmoid(sum(2)), sum(3).tanh());
                    cs[state + j] = f * cs[state + j] + i * c;
                    hs[state + j] = o * cs[state + j].tanh();
                    let row = (t * n_dirs + d) * s.batch + n;
                    y[row * h + j] = hs[state + j];
                    for (slot, v) in [i, o, f, c, cs[state + j]].into_iter().enumerate() {
                        kept[row * 5 * h + slot * h + j] = v;
                    }
                }
            }
        }
    }
    [y, hs, cs, kept]
}

/// y, h, c and reserve of the kernel, one after another.
fn forward(cx: crate::Ctx<'_>, s: &RecurrentShape, v: &[Vec<f32>; 6], packed: Option<&PackedLstm>) -> [Vec<f32>; 4] {
    let [x, w, r, b, h0, c0] = v;
    let rows = s.steps * s.directions() * s.batch * s.hidden;
    let mut out = [vec![f32::NAN; rows], vec![f32::NAN; h0.len()], vec![f32::NAN; c0.len()], vec![f32::NAN; rows * 5]];
    let [y, h, c, reserve] = &mut out;
    let plain = LstmWeights::Plain(Weights { w, r, b });
    let outputs = LstmOutputs { y, h, c, reserve: Some(reserve) };
    lstm(cx, s, x, packed.map_or(plain, LstmWeights::Packed), h0, c0, outputs).unwrap();
    out
}

#[test]
fn forward_is_that_of_the_definition() {
    let extents =
        [(5, 3, 4, 6), (1, 1, 1, 1), (7, 2, 3, 17), (3, 5, 0, 4), (0, 2, 3, 4), (2, 0, 3, 4), (40, 70, 20, 64)];
    for (t, b, i, h) in extents {
        for s in ALL.map(|d| shape(t, b, i, h, d)) {
            // Small weights keep rounding errors from growing from step to step.
            let v = operands(&s).map(|v| v.into_iter().map(|x| x * 0.3).collect::<Vec<f32>>());
            let want = naive(&s, &wide(&v)).concat();
            for got in every_ctx(|cx| forward(cx, &s, &v, None).concat()) {
                assert_close(&got, &want, 1e-5, &format!("{s:?}"));
            }
        }
    }
}

#[test]
fn blocks_of_time_packed_weights_and_no_reserve_change_nothing() {
    // Long enough for several blocks of time.
    let s = shape(700, 32, 3, 80, RecurrentDirection::Both);
    assert!(s.block() < s.steps / 2);
    let v = operands(&s).map(|v| v.into_iter().map(|x| x * 0.3).collect::<Vec<f32>>());
    let want = naive(&s, &wide(&v));
    let packed = PackedLstm::new(crate::Isa::detect(), &s, Weights { w: &v[1], r: &v[2], b: &v[3] }).unwrap();
    let pool = crate::Pool::new(2);
    let cx = crate::Ctx { isa: crate::Isa::detect(), pool: &pool };
    let [y, h, c, _] = forward(cx, &s, &v, Some(&packed));
    assert_close(&y, &want[0], 1e-5, "y");
    let mut again = [vec![0.0; y.len()], vec![0.0; h.len()], vec![0.0; c.len()]];
    let [y2, h2, c2] = &mut again;
    let outputs = LstmOutputs { y: y2, h: h2, c: c2, reserve: None };
    lstm(cx, &s, &v[0], LstmWeights::Packed(&packed), &v[4], &v[5], outputs).unwrap();
    assert!(again == [y, h, c]);
}

/// The gradients of the kernel in the order of `operands`.
fn backward(cx: crate::Ctx<'_>, s: &RecurrentShape, v: &[Vec<f32>; 6], [dy, dh, dc]: [&[f32]; 3]) -> [Vec<f32>; 6] {
    let [y, _, _, reserve] = forward(cx, s, v, None);
    let [x, w, r, _, h0, c0] = v;
    let tape = LstmTape { x, w, r, h0, c0, y: &y, reserve: &reserve, dy, dh, dc };
    let mut out = v.clone().map(|v| vec![f32::NAN; v.len()]);
    let [dx, dw, dr, db, dh0, dc0] = &mut out;
    lstm_grad(cx, s, &tape, LstmGrads { dx, dw, dr, db, dh0, dc0 }).unwrap();
    out
}

#[test]
fn backward_is_the_derivative() {
    for (t, b, i, h) in [(4, 3, 5, 4), (1, 1, 1, 1), (3, 2, 0, 3), (0, 2, 3, 2), (2, 0, 2, 3)] {
        for s in ALL.map(|d| shape(t, b, i, h, d)) {
            let v = operands(&s);
            let d = [
                values("dy", t * s.directions() * b * h),
                values("dh", s.directions() * b * h),
                values("dc", s.directions() * b * h),
            ];
            let loss = |v: &[Vec<f64>; 6]| -> f64 {
                let out = naive(&s, v);
                out.iter().zip(&d).map(|(o, d)| o.iter().zip(d).map(|(o, &d)| o * f64::from(d)).sum::<f64>()).sum()
            };
            let mut at = wide(&v);
            let mut want = Vec::new();
            for which in 0..6 {
                for j in 0..at[which].len() {
                    let (old, step) = (at[which][j], 1e-5);
                    at[which][j] = old + step;
                    let above = loss(&at);
                    at[which][j] = old - step;
                    want.push((above - loss(&at)) / (2.0 * step));
                    at[which][j] = old;
                }
            }
            for got in every_ctx(|cx| backward(cx, &s, &v, [&d[0], &d[1], &d[2]]).concat()) {
                assert_close(&got, &want, 1e-5, &format!("{s:?}"));
            }
        }
    }
}

#[test]
fn backward_over_several_blocks_is_the_sum_of_its_parts() {
    // Splitting time in two and handing the states over must give the same gradients as one run over several blocks.
    let s = shape(300, 48, 3, 80, RecurrentDirection::Forward);
    assert!(s.block() < s.steps / 2);
    let v = operands(&s).map(|v| v.into_iter().map(|x| x * 0.3).collect::<Vec<f32>>());
    let (state, cut) = (s.batch * s.hidden, 173);
    let (dy, dh, dc) = (values("dy", 300 * state), values("dh", state), values("dc", state));
    let whole = every_ctx(|cx| backward(cx, &s, &v, [&dy, &dh, &dc]).concat());
    let pool = crate::Pool::new(1);
    for (isa, whole) in crate::Isa::ALL.into_iter().filter(|i| i.available()).zip(whole) {
        let cx = crate::Ctx { isa, pool: &pool };
        let [first, second] = [RecurrentShape { steps: cut, ..s }, RecurrentShape { steps: 300 - cut, ..s }];
        let mut head = v.clone();
        head[0].truncate(cut * s.batch * s.input);
        let [_, h, c, _] = forward(cx, &first, &head, None);
        let mut tail = v.clone();
        tail[0] = v[0][cut * s.batch * s.input..].to_vec();
        (tail[4], tail[5]) = (h, c);
        let of_tail = backward(cx, &second, &tail, [&dy[cut * state..], &dh, &dc]);
        let of_head = backward(cx, &first, &head, [&dy[..cut * state], &of_tail[4], &of_tail[5]]);
        let sum = |which: usize| {
            of_head[which].iter().zip(&of_tail[which]).map(|(&a, &b)| f64::from(a) + f64::from(b)).collect::<Vec<_>>()
        };
        let dx = of_head[0].iter().chain(&of_tail[0]).map(|&v| f64::from(v)).collect();
        let states = [4, 5].map(|which| of_head[which].iter().map(|&v| f64::from(v)).collect());
        let [dh0, dc0]: [Vec<f64>; 2] = states;
        assert_close(&whole, &[dx, sum(1), sum(2), sum(3), dh0, dc0].concat(), 1e-4, isa.name());
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let pool = crate::Pool::new(1);
    let cx = crate::Ctx { isa: crate::Isa::Generic, pool: &pool };
    let s = shape(2, 1, 2, 2, RecurrentDirection::Forward);
    let v = operands(&s);
    let weights = Weights { w: &v[1], r: &v[2], b: &v[3] };
    let packed = PackedLstm::new(cx.isa, &s, weights).unwrap();
    assert!(PackedLstm::new(cx.isa, &s, Weights { b: &v[3][1..], ..weights }).is_err());
    let run = |s: &RecurrentShape, x: &[f32], y_len: usize| {
        let (mut y, mut h, mut c) = (vec![0.0; y_len], [0.0; 2], [0.0; 2]);
        let outputs = LstmOutputs { y: &mut y, h: &mut h, c: &mut c, reserve: None };
        lstm(cx, s, x, LstmWeights::Packed(&packed), &v[4], &v[5], outputs)
    };
    assert!(run(&s, &v[0], 4).is_ok());
    assert!(matches!(run(&s, &v[0], 3), Err(KernelError::Length { .. })));
    assert!(matches!(run(&s, &v[0][1..], 4), Err(KernelError::Length { .. })));
    let narrow = RecurrentShape { input: 1, ..s };
    assert!(matches!(run(&narrow, &v[0][..2], 4), Err(KernelError::Geometry { .. })));
    assert!(run(&RecurrentShape { steps: usize::MAX, ..s }, &v[0], 4).is_err());
}

/// x, w, r of all values of their types, and scales, b, h0, c0.
struct Quantized {
    x: Vec<u8>,
    w: Vec<i8>,
    r: Vec<i8>,
    scales: [Vec<f32>; 2],
    floats: [Vec<f32>; 3],
}

fn quantized(s: &RecurrentShape) -> Quantized {
    let (d, g) = (s.directions(), 4 * s.hidden);
    let byte = |name: &str, n: usize| -> Vec<u8> {
        values(name, n).into_iter().map(|v| (f64::from(v) * 128.0 + 128.0) as u8).collect()
    };
    let signed = |name: &str, n: usize| -> Vec<i8> { byte(name, n).into_iter().map(|b| b as i8).collect() };
    let scale = |name: &str| -> Vec<f32> { values(name, g).into_iter().map(|v| 2e-3 + 1e-3 * v).collect() };
    let state = d * s.batch * s.hidden;
    Quantized {
        x: byte("x", s.steps * s.batch * s.input),
        w: signed("w", d * g * s.input),
        r: signed("r", d * g * s.hidden),
        scales: [scale("sw"), scale("sr")],
        floats: [values("b", d * 2 * g), values("h0", state), values("c0", state)],
    }
}

const X_GRID: (f32, i32) = (0.01, 119);

/// y, h and c.
fn integer(cx: crate::Ctx<'_>, s: &RecurrentShape, v: &Quantized) -> [Vec<f32>; 3] {
    let packed = PackedQLstm::new(cx.isa, s, QWeights { w: &v.w, r: &v.r }, ByteType::U8).unwrap();
    let x = QTensor { data: Bytes::U8(&v.x), scale: X_GRID.0, zero: X_GRID.1 };
    let [b, h0, c0] = &v.floats;
    let operands = QLstmOperands { w_scale: &v.scales[0], r_scale: &v.scales[1], b, h0, c0 };
    let rows = s.steps * s.directions() * s.batch * s.hidden;
    let mut out = [vec![f32::NAN; rows], vec![f32::NAN; h0.len()], vec![f32::NAN; c0.len()]];
    let [y, h, c] = &mut out;
    qlstm(cx, s, x, &packed, &operands, LstmOutputs { y, h, c, reserve: None }).unwrap();
    out
}

/// A single step, since the states of further ones are rounded, to another code where they differ in their last bits.
#[test]
fn an_integer_step_is_that_of_the_definition() {
    for (t, b, i, h) in [(1, 3, 5, 6), (1, 1, 1, 1), (1, 2, 33, 67), (0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 8)] {
        for s in ALL.map(|d| shape(t, b, i, h, d)) {
            let v = quantized(&s);
            let g = 4 * h;
            let real = |q: &[i8], scale: &[f32], width: usize| -> Vec<f64> {
                q.iter().enumerate().map(|(j, &q)| f64::from(q) * f64::from(scale[j / width % g])).collect()
            };
            let mut h0 = Vec::new();
            for row in v.floats[1].chunks(h) {
                let low = row.iter().fold(0f32, |m, &v| m.min(v));
                let scale = (row.iter().fold(0f32, |m, &v| m.max(v)) - low) / 255.0;
                let scale = if scale == 0.0 { 1.0 } else { scale };
                let zero = (-low / scale).round_ties_even();
                let code = |v: f32| ((v / scale).round_ties_even() + zero).clamp(0.0, 255.0);
                h0.extend(row.iter().map(|&v| f64::from(code(v) - zero) * f64::from(scale)));
            }
            let x = v.x.iter().map(|&q| f64::from(i32::from(q) - X_GRID.1) * f64::from(X_GRID.0)).collect();
            let [b, _, c0] = v.floats.clone().map(|v| v.into_iter().map(f64::from).collect::<Vec<_>>());
            let (w, r) = (real(&v.w, &v.scales[0], i.max(1)), real(&v.r, &v.scales[1], h));
            let [y, hs, cs, _] = naive(&s, &[x, w, r, b, h0, c0]);
            // Without a step the states stay what they are.
            let want = if t == 0 {
                v.floats[1..].iter().flatten().map(|&v| f64::from(v)).collect()
            } else {
                [y, hs, cs].concat()
            };
            for got in every_ctx(|cx| integer(cx, &s, &v).concat()) {
                assert_close(&got, &want, 1e-5, &format!("{s:?}"));
            }
        }
    }
}

#[test]
fn an_integer_row_does_not_depend_on_the_others() {
    let s = shape(9, 3, 10, 70, RecurrentDirection::Both);
    let v = quantized(&s);
    let (pool, state) = (crate::Pool::new(2), s.hidden);
    for isa in crate::Isa::ALL.into_iter().filter(|i| i.available()) {
        let cx = crate::Ctx { isa, pool: &pool };
        let together = integer(cx, &s, &v);
        for row in 0..s.batch {
            let part =
                |all: &[f32]| -> Vec<f32> { all.chunks(state).skip(row).step_by(s.batch).flatten().copied().collect() };
            let x = v.x.chunks(s.input).skip(row).step_by(s.batch).flatten().copied().collect();
            let [b, h0, c0] = &v.floats;
            let floats = [b.clone(), part(h0), part(c0)];
            let alone = Quantized { x, w: v.w.clone(), r: v.r.clone(), scales: v.scales.clone(), floats };
            assert!(integer(cx, &RecurrentShape { batch: 1, ..s }, &alone) == [0, 1, 2].map(|i| part(&together[i])));
        }
    }
}
