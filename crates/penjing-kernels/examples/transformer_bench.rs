//! Measures the products, attention and recurrence of Transformers and LSTMs against the multiply-add peak.
//!
//! `cargo run --release -p penjing-kernels --example transformer_bench [threads] [filter] [level]`. Every line is the best of several rounds.

#![allow(clippy::print_stdout)]

use penjing_kernels::{
    Activation, Ctx, Isa, Pool,
    attention::{AttentionShape, Causal, Heads, attention},
    fma_peak,
    gemm::{Bias, Epilogue, GemmShape, Mat, PackedRhs, Rhs, gemm},
    norm::layer_norm,
    recurrent::{
        RecurrentDirection, RecurrentShape, Weights,
        lstm::{LstmOutputs, LstmWeights, PackedLstm, lstm},
    },
};
use std::time::Instant;

/// Bytes of weights that calls take turns with: more than the third-level cache.
const COLD: usize = 80 << 20;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let threads = std::env::args().nth(1).map_or(Ok(1), |s| s.parse())?;
    let filter = std::env::args().nth(2).unwrap_or_default();
    let pool = Pool::new(threads);
    let isa = std::env::args().nth(3).and_then(|name| Isa::from_name(&name)).unwrap_or(Isa::detect());
    let cx = Ctx { isa, pool: &pool };
    let peak = fma_peak(cx);
    println!("{} on {threads} thread(s), multiply-add peak {peak:.1} GFLOP/s", cx.isa.name());
    for (m, n, k) in [
        (128, 768, 768),
        (128, 3072, 768),
        (128, 768, 3072),
        (197, 384, 384),
        (197, 1536, 384),
        (197, 384, 1536),
        (128, 384, 384),
        (128, 1536, 384),
        (128, 384, 1536),
        (1, 50257, 768),
        (4, 3072, 768),
    ] {
        for act in [Activation::NONE, Activation::Gelu] {
            let name = format!("gemm {m}x{n}x{k} {}", if act == Activation::Gelu { "gelu" } else { "" });
            if name.contains(&filter) {
                dense(cx, peak, &name, GemmShape { m, n, k }, act)?;
            }
        }
    }
    for (name, n, heads, causal) in
        [("vit", 197, 6, Causal::No), ("bert", 128, 12, Causal::No), ("gpt2", 128, 12, Causal::Yes)]
    {
        let name = format!("attention {name}");
        if name.contains(&filter) {
            attend(cx, peak, &name, n, heads, causal)?;
        }
    }
    if "layer_norm".contains(&filter) {
        let (rows, n) = (128, 768);
        let (x, s) = (vec![0.5f32; rows * n], vec![1f32; n]);
        let mut y = vec![0f32; rows * n];
        let t = best(|| layer_norm(cx, &x, rows, n, Some(&s), Some(&s), 1e-5, &mut y))?;
        println!("layer_norm 128x768: {:.1} us, {:.1} GB/s", t * 1e6, (rows * n * 8) as f64 / t / 1e9);
    }
    if "lstm".contains(&filter) {
        recurrent(cx, peak)?;
    }
    Ok(())
}

fn dense(cx: Ctx<'_>, peak: f64, name: &str, shape: GemmShape, act: Activation) -> Result<(), Failure> {
    let GemmShape { m, n, k } = shape;
    let (a, b, bias) = (vec![0.5f32; m * k], vec![0.25f32; k * n], vec![0.1; n]);
    let mut c = vec![0f32; m * n];
    // As in a model, weights are not in the cache when they are needed.
    let copies = (COLD / (4 * k * n)).max(1);
    let packed: Vec<PackedRhs> =
        (0..copies).map(|_| PackedRhs::new(cx.isa, k, n, Mat::rows(&b, n))).collect::<Result<_, _>>()?;
    let mut turn = packed.iter().cycle();
    let e = Epilogue { bias: Bias::Col(&bias), act, ..Epilogue::default() };
    let s = best(|| {
        let b = turn.next().map_or(Rhs::Plain(Mat::rows(&b, n)), Rhs::Packed);
        gemm(cx, shape, Mat::rows(&a, k), b, &e, &mut c, n)
    })?;
    let gflops = 2.0 * (m * n * k) as f64 / s / 1e9;
    let bytes = (k * n * 4) as f64 / s / 1e9;
    println!(
        "{name}: {:.1} us, {gflops:.1} GFLOP/s, {:.1} % of peak, {bytes:.1} GB/s of B",
        s * 1e6,
        100.0 * gflops / peak
    );
    Ok(())
}

fn attend(cx: Ctx<'_>, peak: f64, name: &str, n: usize, heads: usize, causal: Causal) -> Result<(), Failure> {
    let d = 64;
    let w = heads * d;
    let q: Vec<f32> = (0..n * w).map(|i| (i % 17) as f32 * 0.1 - 0.8).collect();
    let mut out = vec![0f32; n * w];
    let s = AttentionShape {
        batch: 1,
        heads,
        groups: heads,
        queries: n,
        keys: n,
        width: d,
        value_width: d,
        scale: 0.125,
        causal,
    };
    let at = Heads { first: 0, batch: 0, head: d, position: w };
    let t = best(|| attention(cx, &s, (&q, at), (&q, at), (&q, at), None, &mut out, at))?;
    let gflops = 4.0 * (heads * n * n * d) as f64 / t / 1e9;
    println!("{name}: {:.1} us, {gflops:.1} GFLOP/s, {:.1} % of peak", t * 1e6, 100.0 * gflops / peak);
    Ok(())
}

fn recurrent(cx: Ctx<'_>, peak: f64) -> Result<(), Failure> {
    let shape = RecurrentShape { steps: 64, batch: 1, input: 512, hidden: 512, direction: RecurrentDirection::Forward };
    let (w, r, b) = (vec![0.01f32; 2048 * 512], vec![0.01f32; 2048 * 512], vec![0.1f32; 4096]);
    let packed = PackedLstm::new(cx.isa, &shape, Weights { w: &w, r: &r, b: &b })?;
    let (x, h0, c0) = (vec![0.5f32; 64 * 512], vec![0f32; 512], vec![0f32; 512]);
    let (mut y, mut h, mut c) = (vec![0f32; 64 * 512], vec![0f32; 512], vec![0f32; 512]);
    let t = best(|| {
        let out = LstmOutputs { y: &mut y, h: &mut h, c: &mut c, reserve: None };
        lstm(cx, &shape, &x, LstmWeights::Packed(&packed), &h0, &c0, out)
    })?;
    let gflops = 4.0 * (64 * 2048 * 512) as f64 / t / 1e9;
    println!(
        "lstm 512x64: {:.1} us, {gflops:.1} GFLOP/s, {:.1} % of peak, {:.1} GB/s of R",
        t * 1e6,
        100.0 * gflops / peak,
        64.0 * 2048.0 * 512.0 * 4.0 / t / 1e9
    );
    Ok(())
}

/// Seconds of the fastest of many calls.
fn best<E>(mut f: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    let mut best = f64::INFINITY;
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < 0.35 {
        let one = Instant::now();
        f()?;
        best = best.min(one.elapsed().as_secs_f64());
    }
    Ok(best)
}
