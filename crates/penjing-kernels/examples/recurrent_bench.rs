//! Measures recurrent networks of 512 units over 64 steps, and prints GFLOP/s, the fraction of a multiply-add peak measured
//! in the same run, and the fraction of the time that the weights take from the cache that holds them.
//!
//! `cargo run --release -p penjing-kernels --example recurrent_bench [threads] [filter] [level]`. Every line is the best of many calls.

#![allow(clippy::print_stdout)]

use penjing_kernels::{
    Ctx, Isa, KernelError, Pool, fma_peak,
    int8::{ByteType, Bytes, QTensor},
    recurrent::{
        QWeights, RecurrentDirection, RecurrentShape, Weights,
        gru::{GruReset, PackedGru, PackedQGru, QGruOperands, gru, qgru},
        lstm::{
            LstmGrads, LstmOutputs, LstmTape, LstmWeights, PackedLstm, PackedQLstm, QLstmOperands, lstm, lstm_grad,
            qlstm,
        },
    },
};
use penjing_tensor::Rng;
use std::time::{Duration, Instant};

const STEPS: usize = 64;
const UNITS: usize = 512;

fn main() -> Result<(), KernelError> {
    let threads = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(1);
    let filter = std::env::args().nth(2).unwrap_or_default();
    let pool = Pool::new(threads);
    let isa = std::env::args().nth(3).and_then(|s| Isa::from_name(&s)).unwrap_or_else(Isa::detect);
    let cx = Ctx { isa, pool: &pool };
    println!("{} on {threads} thread(s), multiply-add peak {:.1} GFLOP/s", cx.isa.name(), fma_peak(cx));
    for batch in [1, 4, 16] {
        if "lstm".contains(&filter) {
            forward(cx, batch)?;
        }
    }
    for batch in [1, 4] {
        if "qlstm".contains(&filter) {
            integer(cx, batch)?;
        }
    }
    for (batch, reset) in [(1, GruReset::Product), (4, GruReset::Product), (1, GruReset::State), (4, GruReset::State)] {
        if "gru".contains(&filter) {
            gated(cx, batch, reset)?;
        }
        if "qgru".contains(&filter) {
            integer_gated(cx, batch, reset)?;
        }
    }
    if "lstm_grad".contains(&filter) {
        training(cx, 16)?;
    }
    Ok(())
}

fn shape(batch: usize) -> RecurrentShape {
    RecurrentShape { steps: STEPS, batch, input: UNITS, hidden: UNITS, direction: RecurrentDirection::Forward }
}

fn values(name: &str, n: usize) -> Vec<f32> {
    let rng = Rng::new(1, name, 0);
    (0..n).map(|i| 0.1 * (rng.uniform(i as u64) - 0.5)).collect()
}

fn forward(cx: Ctx<'_>, batch: usize) -> Result<(), KernelError> {
    let s = shape(batch);
    let (w, r, b) = (values("w", 4 * UNITS * UNITS), values("r", 4 * UNITS * UNITS), values("b", 8 * UNITS));
    let packed = PackedLstm::new(cx.isa, &s, Weights { w: &w, r: &r, b: &b })?;
    let (x, zero) = (values("x", STEPS * batch * UNITS), vec![0f32; batch * UNITS]);
    let (mut y, mut h, mut c) = (x.clone(), zero.clone(), zero.clone());
    measure(cx, &format!("lstm b{batch}"), 4.0 * (STEPS * batch * 4 * UNITS * UNITS) as f64, 4, || {
        let out = LstmOutputs { y: &mut y, h: &mut h, c: &mut c, reserve: None };
        lstm(cx, &s, &x, LstmWeights::Packed(&packed), &zero, &zero, out)
    })
}

/// Weights within 64, as `penjing quantize` makes them.
fn integer(cx: Ctx<'_>, batch: usize) -> Result<(), KernelError> {
    let s = shape(batch);
    let bytes = |name| values(name, 4 * UNITS * UNITS).into_iter().map(|v| (v * 1280.0) as i8).collect::<Vec<_>>();
    let (w, r, b) = (bytes("w"), bytes("r"), values("b", 8 * UNITS));
    let packed = PackedQLstm::new(cx.isa, &s, QWeights { w: &w, r: &r }, ByteType::U8)?;
    let (codes, zero) = (vec![131u8; STEPS * batch * UNITS], vec![0f32; batch * UNITS]);
    let (mut y, mut h, mut c) = (vec![0f32; codes.len()], zero.clone(), zero.clone());
    let scale = vec![0.001f32; 4 * UNITS];
    let operands = QLstmOperands { w_scale: &scale, r_scale: &scale, b: &b, h0: &zero, c0: &zero };
    measure(cx, &format!("qlstm b{batch}"), 4.0 * (STEPS * batch * 4 * UNITS * UNITS) as f64, 1, || {
        let x = QTensor { data: Bytes::U8(&codes), scale: 0.1, zero: 128 };
        qlstm(cx, &s, x, &packed, &operands, LstmOutputs { y: &mut y, h: &mut h, c: &mut c, reserve: None })
    })
}

fn gated(cx: Ctx<'_>, batch: usize, reset: GruReset) -> Result<(), KernelError> {
    let s = shape(batch);
    let (w, r, b) = (values("w", 3 * UNITS * UNITS), values("r", 3 * UNITS * UNITS), values("b", 6 * UNITS));
    let packed = PackedGru::new(cx.isa, &s, Weights { w: &w, r: &r, b: &b }, reset)?;
    let (x, h0) = (values("x", STEPS * batch * UNITS), vec![0f32; batch * UNITS]);
    let (mut y, mut h) = (x.clone(), h0.clone());
    measure(cx, &format!("gru b{batch} {reset:?}"), (STEPS * 3 * UNITS * UNITS * batch) as f64 * 4.0, 4, || {
        gru(cx, &s, &x, &packed, &h0, &mut y, &mut h)
    })
}

/// As [`integer`].
fn integer_gated(cx: Ctx<'_>, batch: usize, reset: GruReset) -> Result<(), KernelError> {
    let s = shape(batch);
    let bytes = |name| values(name, 3 * UNITS * UNITS).into_iter().map(|v| (v * 1280.0) as i8).collect::<Vec<_>>();
    let (w, r, b) = (bytes("w"), bytes("r"), values("b", 6 * UNITS));
    let packed = PackedQGru::new(cx.isa, &s, QWeights { w: &w, r: &r }, reset, ByteType::U8)?;
    let (codes, h0, scale) = (vec![131u8; STEPS * batch * UNITS], vec![0f32; batch * UNITS], vec![0.001f32; 3 * UNITS]);
    let (mut y, mut h) = (vec![0f32; codes.len()], h0.clone());
    let operands = QGruOperands { w_scale: &scale, r_scale: &scale, b: &b, h0: &h0 };
    measure(cx, &format!("qgru b{batch} {reset:?}"), (STEPS * 3 * UNITS * UNITS * batch) as f64 * 4.0, 1, || {
        let x = QTensor { data: Bytes::U8(&codes), scale: 0.1, zero: 128 };
        qgru(cx, &s, x, &packed, &operands, &mut y, &mut h)
    })
}

fn training(cx: Ctx<'_>, batch: usize) -> Result<(), KernelError> {
    let s = shape(batch);
    let (w, r, b) = (values("w", 4 * UNITS * UNITS), values("r", 4 * UNITS * UNITS), values("b", 8 * UNITS));
    let (x, zero) = (values("x", STEPS * batch * UNITS), vec![0f32; batch * UNITS]);
    let (mut y, mut h, mut c, mut reserve) = (x.clone(), zero.clone(), zero.clone(), vec![0f32; 5 * x.len()]);
    let flop = 4.0 * (STEPS * batch * 4 * UNITS * UNITS) as f64;
    measure(cx, &format!("lstm of training b{batch}"), flop, 4, || {
        let out = LstmOutputs { y: &mut y, h: &mut h, c: &mut c, reserve: Some(&mut reserve) };
        lstm(cx, &s, &x, LstmWeights::Plain(Weights { w: &w, r: &r, b: &b }), &zero, &zero, out)
    })?;
    let [mut dx, mut dw, mut dr, mut db] = [x.len(), w.len(), r.len(), b.len()].map(|n| vec![0f32; n]);
    let (mut dh0, mut dc0, dy) = (zero.clone(), zero.clone(), values("dy", y.len()));
    measure(cx, &format!("lstm_grad b{batch}"), 2.0 * flop, 4, || {
        let tape = LstmTape {
            x: &x,
            w: &w,
            r: &r,
            h0: &zero,
            c0: &zero,
            y: &y,
            reserve: &reserve,
            dy: &dy,
            dh: &zero,
            dc: &zero,
        };
        let grads = LstmGrads { dx: &mut dx, dw: &mut dw, dr: &mut dr, db: &mut db, dh0: &mut dh0, dc0: &mut dc0 };
        lstm_grad(cx, &s, &tape, grads)
    })
}

/// Prints one line; `bytes` is those of a weight.
fn measure(
    cx: Ctx<'_>,
    name: &str,
    flop: f64,
    bytes: usize,
    mut f: impl FnMut() -> Result<(), KernelError>,
) -> Result<(), KernelError> {
    let (mut best, mut peak) = (f64::INFINITY, 0f64);
    let begin = Instant::now();
    let mut calls = 0;
    while calls < 5 || begin.elapsed() < Duration::from_secs(2) {
        if calls % 16 == 0 {
            peak = peak.max(fma_peak(cx));
        }
        let start = Instant::now();
        f()?;
        best = best.min(start.elapsed().as_secs_f64());
        calls += 1;
    }
    let speed = flop / best / 1e9;
    let gates = if name.contains("gru") { 3 } else { 4 };
    println!(
        "{name:24} {:8.3} ms  {speed:7.1} GFLOP/s  {:4.0} % of {peak:.0}  {:5.1} GB/s of recurrent weights",
        best * 1e3,
        100.0 * speed / peak,
        (STEPS * gates * UNITS * UNITS * bytes) as f64 / best / 1e9
    );
    Ok(())
}
