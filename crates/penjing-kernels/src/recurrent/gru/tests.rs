//! Against naive f64 loops.

use super::*;
use crate::{
    Ctx, Isa, KernelError, Pool,
    int8::{ByteType, Bytes, QTensor},
    recurrent::{QWeights, RecurrentDirection, RecurrentShape, Weights},
    testing::{assert_close, every_ctx, values},
};

const ALL: [RecurrentDirection; 3] =
    [RecurrentDirection::Forward, RecurrentDirection::Reverse, RecurrentDirection::Both];
const RESETS: [GruReset; 2] = [GruReset::State, GruReset::Product];

/// y `[T, D, B, H]`, then h `[D, B, H]`; `read` is what a product reads of a row.
fn naive(
    s: &RecurrentShape,
    reset: GruReset,
    read: impl Fn(&[f64]) -> Vec<f64>,
    [x, w, r, b, h0]: &[Vec<f64>; 5],
) -> Vec<f64> {
    let (dirs, n, g) = (s.directions(), s.hidden, 3 * s.hidden);
    let mut state = h0.clone();
    let mut y = vec![0.0; s.steps * dirs * s.batch * n];
    let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
    for d in 0..dirs {
        let back = d == 1 || s.direction == RecurrentDirection::Reverse;
        for turn in 0..s.steps {
            let t = if back { s.steps - 1 - turn } else { turn };
            for row in 0..s.batch {
                let at = (d * s.batch + row) * n;
                let old = state[at..at + n].to_vec();
                let of_x = |gate: usize, j: usize| {
                    let line = d * g + gate * n + j;
                    let terms = (0..s.input).map(|k| w[line * s.input + k] * x[(t * s.batch + row) * s.input + k]);
                    terms.sum::<f64>() + b[d * 2 * g + gate * n + j]
                };
                let of_h = |gate: usize, j: usize, h: &[f64]| {
                    let line = d * g + gate * n + j;
                    (0..n).map(|k| r[line * n + k] * h[k]).sum::<f64>() + b[d * 2 * g + g + gate * n + j]
                };
                let shown = read(&old);
                let gate = |k: usize, j: usize| sigmoid(of_x(k, j) + of_h(k, j, &shown));
                let kept = read(&(0..n).map(|j| gate(1, j) * old[j]).collect::<Vec<_>>());
                for j in 0..n {
                    let inner = match reset {
                        GruReset::State => of_h(2, j, &kept),
                        GruReset::Product => gate(1, j) * of_h(2, j, &shown),
                    };
                    let z = gate(0, j);
                    state[at + j] = (1.0 - z) * (of_x(2, j) + inner).tanh() + z * old[j];
                }
                y[((t * dirs + d) * s.batch + row) * n..][..n].copy_from_slice(&state[at..at + n]);
            }
        }
    }
    [y, state].concat()
}

#[test]
fn every_direction_and_reset_is_that_of_the_definition() {
    let extents = [(5, 3, 4, 6), (1, 1, 1, 1), (7, 2, 3, 17), (3, 5, 0, 4), (0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 4, 0)];
    for (steps, batch, input, hidden) in extents.into_iter().chain([(9, 70, 20, 64), (4, 1, 9, 131)]) {
        for direction in ALL {
            for (reset, size) in RESETS.into_iter().flat_map(|r| [(r, 0.3), (r, 40.0)]) {
                let s = RecurrentShape { steps, batch, input, hidden, direction };
                let (d, g) = (s.directions(), 3 * hidden);
                // Wide weights of x drive every gate to its ends; those of h stay small, so that errors do not grow.
                let scaled = |name: &str, n: usize, by: f32| values(name, n).into_iter().map(|v| v * by).collect();
                let v: [Vec<f32>; 5] = [
                    values("x", steps * batch * input),
                    scaled("w", d * g * input, size),
                    scaled("r", d * g * hidden, 0.3),
                    values("b", d * 2 * g),
                    values("h0", d * batch * hidden),
                ];
                let want =
                    naive(&s, reset, <[f64]>::to_vec, &v.clone().map(|v| v.into_iter().map(f64::from).collect()));
                for got in every_ctx(|cx| {
                    let weights = Weights { w: &v[1], r: &v[2], b: &v[3] };
                    let packed = PackedGru::new(cx.isa, &s, weights, reset).unwrap();
                    let (mut y, mut h) = (vec![f32::NAN; d * steps * batch * hidden], vec![f32::NAN; v[4].len()]);
                    gru(cx, &s, &v[0], &packed, &v[4], &mut y, &mut h).unwrap();
                    [y, h].concat()
                }) {
                    assert_close(&got, &want, 2e-5, &format!("{s:?} {reset:?} {size}"));
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let pool = Pool::new(1);
    let cx = Ctx { isa: Isa::Generic, pool: &pool };
    let s = RecurrentShape { steps: 2, batch: 1, input: 2, hidden: 2, direction: RecurrentDirection::Forward };
    let weights = Weights { w: &[0.0; 12], r: &[0.0; 12], b: &[0.0; 12] };
    let packed = PackedGru::new(cx.isa, &s, weights, GruReset::State).unwrap();
    assert!(PackedGru::new(cx.isa, &s, Weights { b: &[0.0; 11], ..weights }, GruReset::State).is_err());
    let run =
        |s: &RecurrentShape, x: &[f32], y: usize| gru(cx, s, x, &packed, &[0.0; 2], &mut vec![0.0; y], &mut [0.0; 2]);
    assert!(run(&s, &[0.0; 4], 4).is_ok());
    assert!(matches!(run(&s, &[0.0; 4], 3), Err(KernelError::Length { .. })));
    assert!(matches!(run(&RecurrentShape { input: 1, ..s }, &[0.0; 2], 4), Err(KernelError::Geometry { .. })));
    assert!(run(&RecurrentShape { steps: usize::MAX, ..s }, &[0.0; 4], 4).is_err());
}

/// x, w, r of all values of their types, and scales, b, h0.
struct Quantized {
    x: Vec<u8>,
    w: Vec<i8>,
    r: Vec<i8>,
    scales: [Vec<f32>; 2],
    b: Vec<f32>,
    h0: Vec<f32>,
}

fn quantized(s: &RecurrentShape) -> Quantized {
    let (d, g) = (s.directions(), 3 * s.hidden);
    let byte = |name: &str, n: usize| -> Vec<u8> {
        values(name, n).into_iter().map(|v| (f64::from(v) * 128.0 + 128.0) as u8).collect()
    };
    let signed = |name: &str, n: usize| -> Vec<i8> { byte(name, n).into_iter().map(|b| b as i8).collect() };
    let scale = |name: &str| -> Vec<f32> { values(name, g).into_iter().map(|v| 2e-3 + 1e-3 * v).collect() };
    Quantized {
        x: byte("x", s.steps * s.batch * s.input),
        w: signed("w", d * g * s.input),
        r: signed("r", d * g * s.hidden),
        scales: [scale("sw"), scale("sr")],
        b: values("b", d * 2 * g),
        h0: values("h0", d * s.batch * s.hidden),
    }
}

const X_GRID: (f32, i32) = (0.01, 119);

/// y and h.
fn integer(cx: Ctx<'_>, s: &RecurrentShape, reset: GruReset, v: &Quantized) -> [Vec<f32>; 2] {
    let packed = PackedQGru::new(cx.isa, s, QWeights { w: &v.w, r: &v.r }, reset, ByteType::U8).unwrap();
    let x = QTensor { data: Bytes::U8(&v.x), scale: X_GRID.0, zero: X_GRID.1 };
    let operands = QGruOperands { w_scale: &v.scales[0], r_scale: &v.scales[1], b: &v.b, h0: &v.h0 };
    let mut y = vec![f32::NAN; s.steps * s.directions() * s.batch * s.hidden];
    let mut h = vec![f32::NAN; v.h0.len()];
    qgru(cx, s, x, &packed, &operands, &mut y, &mut h).unwrap();
    [y, h]
}

/// The values of a row on the U8 grid of its own range.
fn on_own_grid(row: &[f64]) -> Vec<f64> {
    let row: Vec<f32> = row.iter().map(|&v| v as f32).collect();
    let low = row.iter().fold(0f32, |m, &v| m.min(v));
    let scale = (row.iter().fold(0f32, |m, &v| m.max(v)) - low) / 255.0;
    let scale = if scale == 0.0 { 1.0 } else { scale };
    let zero = (-low / scale).round_ties_even();
    let code = |v: f32| ((v / scale).round_ties_even() + zero).clamp(0.0, 255.0);
    row.iter().map(|&v| f64::from(code(v) - zero) * f64::from(scale)).collect()
}

/// A single step, since the states of further ones are rounded, to another code where they differ in their last bits.
#[test]
fn an_integer_step_is_that_of_the_definition() {
    for (t, b, i, h) in [(1, 3, 5, 6), (1, 1, 1, 1), (1, 2, 33, 67), (0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 8)] {
        for (direction, reset) in ALL.into_iter().flat_map(|d| RESETS.map(|r| (d, r))) {
            let s = RecurrentShape { steps: t, batch: b, input: i, hidden: h, direction };
            let v = quantized(&s);
            let real = |q: &[i8], scale: &[f32], width: usize| -> Vec<f64> {
                q.iter().enumerate().map(|(j, &q)| f64::from(q) * f64::from(scale[j / width % (3 * h)])).collect()
            };
            let x = v.x.iter().map(|&q| f64::from(i32::from(q) - X_GRID.1) * f64::from(X_GRID.0)).collect();
            let (w, r) = (real(&v.w, &v.scales[0], i.max(1)), real(&v.r, &v.scales[1], h));
            let [b, h0] = [&v.b, &v.h0].map(|v| v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
            let want = naive(&s, reset, on_own_grid, &[x, w, r, b, h0]);
            for got in every_ctx(|cx| integer(cx, &s, reset, &v).concat()) {
                assert_close(&got, &want, 1e-5, &format!("{s:?} {reset:?}"));
            }
        }
    }
}

#[test]
fn an_integer_row_does_not_depend_on_the_others() {
    let s = RecurrentShape { steps: 9, batch: 3, input: 10, hidden: 70, direction: RecurrentDirection::Both };
    let v = quantized(&s);
    let pool = Pool::new(2);
    for (isa, reset) in Isa::ALL.into_iter().filter(|i| i.available()).flat_map(|i| RESETS.map(|r| (i, r))) {
        let cx = Ctx { isa, pool: &pool };
        let together = integer(cx, &s, reset, &v);
        for row in 0..s.batch {
            let part = |all: &[f32]| -> Vec<f32> {
                all.chunks(s.hidden).skip(row).step_by(s.batch).flatten().copied().collect()
            };
            let x = v.x.chunks(s.input).skip(row).step_by(s.batch).flatten().copied().collect();
            let alone = Quantized {
                x,
                w: v.w.clone(),
                r: v.r.clone(),
                scales: v.scales.clone(),
                b: v.b.clone(),
                h0: part(&v.h0),
            };
            let got = integer(cx, &RecurrentShape { batch: 1, ..s }, reset, &alone);
            assert!(got == [0, 1].map(|i| part(&together[i])), "{isa:?} {reset:?} {row}");
        }
    }
}

#[test]
fn integers_that_do_not_fit_are_refused() {
    let pool = Pool::new(1);
    let cx = Ctx { isa: Isa::Generic, pool: &pool };
    let s = RecurrentShape { steps: 2, batch: 1, input: 2, hidden: 2, direction: RecurrentDirection::Forward };
    let weights = QWeights { w: &[1; 12], r: &[1; 12] };
    let packed = PackedQGru::new(cx.isa, &s, weights, GruReset::State, ByteType::U8).unwrap();
    let short = QWeights { r: &[1; 11], ..weights };
    assert!(PackedQGru::new(cx.isa, &s, short, GruReset::State, ByteType::U8).is_err());
    let run = |s: &RecurrentShape, x: &[u8], scales: usize, y: usize| {
        let scale = vec![1.0; scales];
        let operands = QGruOperands { w_scale: &scale, r_scale: &scale, b: &[0.0; 12], h0: &[0.0; 2] };
        let x = QTensor { data: Bytes::U8(x), scale: 1.0, zero: 0 };
        qgru(cx, s, x, &packed, &operands, &mut vec![0.0; y], &mut [0.0; 2])
    };
    assert!(run(&s, &[0; 4], 6, 4).is_ok());
    assert!(matches!(run(&s, &[0; 4], 6, 3), Err(KernelError::Length { .. })));
    assert!(matches!(run(&s, &[0; 4], 5, 4), Err(KernelError::Length { .. })));
    assert!(matches!(run(&RecurrentShape { input: 1, ..s }, &[0; 2], 6, 4), Err(KernelError::Geometry { .. })));
    assert!(run(&RecurrentShape { steps: usize::MAX, ..s }, &[0; 4], 6, 4).is_err());
}
