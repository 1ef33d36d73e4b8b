//! Measures the GEMM-class kernels and prints GFLOP/s and the fraction of a measured multiply-add peak.
//!
//! `cargo run --release -p penjing-kernels --example kernel_bench [threads] [batch]`. Every line is the best of several
//! rounds; the batch is that of SimpleCNN's layers (64).

#![allow(clippy::print_stdout)]

use penjing_kernels::{
    Ctx, Isa, Pool,
    conv::{ConvShape, ConvWeights, conv, conv_input_grad, conv_weight_grad},
    fma_peak,
    gemm::{Clamp, Epilogue, GemmShape, Mat, PackedRhs, Rhs, gemm},
    pool2d::{PoolShape, max_pool, max_pool_grad},
};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads = std::env::args().nth(1).map_or(Ok(1), |s| s.parse())?;
    let batch = std::env::args().nth(2).map_or(Ok(64), |s| s.parse())?;
    let pool = Pool::new(threads);
    let cx = Ctx { isa: Isa::detect(), pool: &pool };
    let peak = fma_peak(cx);
    println!("{} on {threads} thread(s), multiply-add peak {peak:.1} GFLOP/s", cx.isa.name());
    dense(cx, peak)?;
    convolutions(cx, peak, batch)
}

fn dense(cx: Ctx<'_>, peak: f64) -> Result<(), Box<dyn std::error::Error>> {
    for (m, n, k) in [(512, 512, 512), (64, 128, 2304), (64, 2304, 128), (128, 2304, 64), (1, 1000, 2048)] {
        let shape = GemmShape { m, n, k };
        let (a, b) = (vec![0.5f32; m * k], vec![0.25f32; k * n]);
        let mut c = vec![0f32; m * n];
        let packed = PackedRhs::new(cx.isa, k, n, Mat::rows(&b, n))?;
        let layouts = [
            ("", Rhs::Plain(Mat::rows(&b, n))),
            (" (B transposed)", Rhs::Plain(Mat::transposed(&b, k))),
            (" (B packed)", Rhs::Packed(&packed)),
        ];
        for (layout, b) in layouts {
            let a = Mat::rows(&a, k);
            let seconds = best(|| gemm(cx, shape, a, b, &Epilogue::default(), &mut c, n))?;
            line(&format!("gemm {m}x{n}x{k}{layout}"), (2 * m * n * k) as f64, seconds, peak);
        }
    }
    Ok(())
}

const fn conv3(batch: usize, c: [usize; 2], side: usize, stride: usize) -> ConvShape {
    ConvShape {
        batch,
        groups: 1,
        in_channels: c[0],
        out_channels: c[1],
        input: [side; 2],
        kernel: [3, 3],
        stride: [stride; 2],
        dilation: [1, 1],
        pad: [1, 1],
        output: [side.div_ceil(stride); 2],
    }
}

/// The convolutions of SimpleCNN and three of other networks.
fn convolutions(cx: Ctx<'_>, peak: f64, batch: usize) -> Result<(), Box<dyn std::error::Error>> {
    let depthwise = ConvShape { groups: 64, ..conv3(8, [64, 64], 56, 1) };
    for (name, s) in [
        ("conv1 3>32 24x24", conv3(batch, [3, 32], 24, 1)),
        ("conv2 32>64 12x12", conv3(batch, [32, 64], 12, 1)),
        ("conv 64>64 56x56 b1", conv3(1, [64, 64], 56, 1)),
        ("conv 256>512 14x14/2 b4", conv3(4, [256, 512], 14, 2)),
        ("depthwise 64 56x56 b8", depthwise),
    ] {
        let [x, w, y] = [s.x_len(), s.w_len(), s.y_len()].map(Option::unwrap_or_default);
        let (mut x, mut w, mut y) = (vec![0.5f32; x], vec![0.25f32; w], vec![0f32; y]);
        let flop = 2.0 * y.len() as f64 * (s.group_in() * 9) as f64;
        let seconds = best(|| conv(cx, &s, &x, ConvWeights::Plain(&w), None, Clamp::RELU, &mut y))?;
        line(&format!("{name} forward"), flop, seconds, peak);
        let seconds = best(|| conv_input_grad(cx, &s, &y, &w, &mut x))?;
        line(&format!("{name} input gradient"), flop, seconds, peak);
        let seconds = best(|| conv_weight_grad(cx, &s, &x, &y, &mut w))?;
        line(&format!("{name} weight gradient"), flop, seconds, peak);
    }
    let s = PoolShape {
        planes: batch * 32,
        input: [24; 2],
        kernel: [2; 2],
        stride: [2; 2],
        dilation: [1; 2],
        pad: [0; 2],
        pad_end: [0; 2],
        output: [12; 2],
    };
    let (x, mut y, mut dx) =
        (vec![0.5f32; batch * 32 * 576], vec![0f32; batch * 32 * 144], vec![0f32; batch * 32 * 576]);
    let seconds = best(|| max_pool(cx, &s, &x, &mut y))?;
    line("max pool 2x2 of conv1 (1 flop an input)", x.len() as f64, seconds, peak);
    let seconds = best(|| max_pool_grad(cx, &s, &x, &y, &mut dx))?;
    line("max pool 2x2 gradient", x.len() as f64, seconds, peak);
    Ok(())
}

fn line(name: &str, flop: f64, seconds: f64, peak: f64) {
    let rate = flop / seconds / 1e9;
    println!("{name:<44} {:>10.1} us {rate:>8.1} GFLOP/s {:>6.1} %", seconds * 1e6, 100.0 * rate / peak);
}

/// Seconds of the fastest of some thirty runs.
fn best<E>(mut f: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    let mut fastest = f64::INFINITY;
    let begin = Instant::now();
    let mut runs = 0;
    while runs < 8 || (runs < 400 && begin.elapsed().as_secs_f64() < 0.5) {
        let start = Instant::now();
        f()?;
        fastest = fastest.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    Ok(fastest)
}
