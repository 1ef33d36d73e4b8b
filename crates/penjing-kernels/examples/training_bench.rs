//! Measures the kernels of a backward pass on the shapes of known networks.
//!
//! `cargo run --release -p penjing-kernels --example training_bench [name] [threads] [isa]`. A line is the best of many runs of
//! one kernel on one shape; only those whose line contains `name` are run.

#![allow(clippy::print_stdout)]

use penjing_kernels::{
    Ctx, Isa, Pool,
    attention::Causal,
    attention_grad::{AttentionGradShape, attention_grad},
    conv::ConvShape,
    conv_last::{conv_last_input_grad, conv_last_weight_grad, input_grad_method},
    fma_peak,
    gemm::{Epilogue, GemmShape, Mat, Rhs, gemm},
    norm::{batch_norm_grad_last, batch_norm_train_last, layer_norm_grad},
};
use std::time::{Duration, Instant};

/// How long a shape is run.
const EACH: Duration = Duration::from_millis(300);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let only = args.get(1).map_or("", String::as_str);
    let pool = Pool::new(args.get(2).map_or(Ok(2), |s| s.parse())?);
    let isa = args.get(3).and_then(|s| Isa::from_name(s)).unwrap_or(Isa::detect());
    let cx = Ctx { isa, pool: &pool };
    let peak = fma_peak(cx);
    println!("{}, multiply-add peak {peak:.1} GFLOP/s", cx.isa.name());
    let bench = Bench { only, peak };
    convolutions(cx, &bench)?;
    norms(cx, &bench)?;
    attention(cx, &bench)?;
    products(cx, &bench)
}

/// Which lines are run, and what they are compared with.
struct Bench<'a> {
    only: &'a str,
    peak: f64,
}

impl Bench<'_> {
    fn wants(&self, name: &str) -> bool {
        name.contains(self.only)
    }

    /// Runs one kernel of so many operations.
    fn run<E>(&self, name: &str, flop: usize, mut kernel: impl FnMut() -> Result<(), E>) -> Result<(), E> {
        let (begin, mut best) = (Instant::now(), f64::INFINITY);
        while begin.elapsed() < EACH {
            let start = Instant::now();
            kernel()?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        let rate = flop as f64 / best / 1e9;
        println!("{name:44} {:9.3} ms {rate:8.1} GFLOP/s {:5.1} %", best * 1e3, 100.0 * rate / self.peak);
        Ok(())
    }
}

/// Numbers in [-1, 1).
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 8 & 0xffff) as f32 / 32768.0 - 1.0).collect()
}

fn convolutions(cx: Ctx<'_>, bench: &Bench<'_>) -> Result<(), Box<dyn std::error::Error>> {
    for (channels, out_channels, extent, stride) in [
        (3, 16, 32, 1),
        (16, 16, 32, 1),
        (16, 32, 32, 2),
        (32, 32, 16, 1),
        (32, 64, 16, 2),
        (64, 64, 8, 1),
        (3, 32, 24, 1),
        (32, 64, 12, 1),
    ] {
        let s = ConvShape {
            batch: 64,
            groups: 1,
            in_channels: channels,
            out_channels,
            input: [extent; 2],
            kernel: [3; 2],
            stride: [stride; 2],
            dilation: [1; 2],
            pad: [1; 2],
            output: [extent / stride; 2],
        };
        let flop = 2 * 64 * s.output[0] * s.output[1] * out_channels * channels * 9;
        let (x, dy) = (values(64 * channels * extent * extent), values(64 * out_channels * s.output[0] * s.output[1]));
        let w = values(out_channels * channels * 9);
        let name = |of: &str| format!("{of} {channels}->{out_channels} {extent}x{extent}/{stride}");
        if bench.wants(&name("conv_last_weight_grad")) {
            let mut dw = vec![0.0; w.len()];
            bench.run(&name("conv_last_weight_grad"), flop, || conv_last_weight_grad(cx, &s, &x, &dy, &mut dw))?;
        }
        if bench.wants(&name("conv_last_input_grad")) {
            let mut dx = vec![0.0; x.len()];
            bench.run(&name("conv_last_input_grad"), flop, || {
                conv_last_input_grad(cx, &s, input_grad_method(&s), &dy, &w, &mut dx)
            })?;
        }
    }
    Ok(())
}

/// The operations counted are elements.
fn norms(cx: Ctx<'_>, bench: &Bench<'_>) -> Result<(), Box<dyn std::error::Error>> {
    for (rows, channels) in [(65536, 16), (16384, 32), (4096, 64), (1024, 256)] {
        let len = rows * channels;
        let (x, dy, mut y) = (values(len), values(len), vec![0.0; len]);
        let (scale, var) = (vec![1.0; channels], vec![0.3; channels]);
        let [mut mean, mut dscale, mut dbias] = [0; 3].map(|_| vec![0.0; channels]);
        let name = |of: &str| format!("{of} {rows}x{channels}");
        if bench.wants(&name("batch_norm_train_last")) {
            bench.run(&name("batch_norm_train_last"), len, || {
                let of = [rows, channels];
                batch_norm_train_last(cx, &x, of, &scale, &var, 1e-5, &mut y, &mut mean, &mut dscale)
            })?;
        }
        if bench.wants(&name("batch_norm_grad_last")) {
            bench.run(&name("batch_norm_grad_last"), len, || {
                let of = [rows, channels];
                batch_norm_grad_last(cx, &x, &dy, of, &mean, &var, &scale, 1e-5, &mut y, &mut dscale, &mut dbias)
            })?;
        }
        if bench.wants(&name("layer_norm_grad")) {
            bench.run(&name("layer_norm_grad"), len, || {
                layer_norm_grad(cx, &x, &dy, rows, channels, Some(&scale), 1e-5, &mut y, &mut dscale, &mut dbias)
            })?;
        }
    }
    Ok(())
}

fn attention(cx: Ctx<'_>, bench: &Bench<'_>) -> Result<(), Box<dyn std::error::Error>> {
    for (heads, positions, width) in [(64, 128, 32), (32, 128, 64), (8, 1024, 64)] {
        let causal = Causal::Yes;
        let s = AttentionGradShape {
            heads,
            queries: positions,
            keys: positions,
            width,
            value_width: width,
            scale: 0.2,
            causal,
        };
        let name = format!("attention_grad {heads} heads {positions}x{width}");
        if bench.wants(&name) {
            let [q, k, v, dy] = [0; 4].map(|_| values(heads * positions * width));
            let [mut dq, mut dk, mut dv] = [0; 3].map(|_| vec![0.0; q.len()]);
            let flop = 5 * heads * positions * positions * width;
            bench.run(&name, flop, || attention_grad(cx, &s, [&q, &k, &v, &dy], [&mut dq, &mut dk, &mut dv]))?;
        }
    }
    Ok(())
}

/// The products of a linear layer's gradients: of x, dy · w, and of w, dyᵀ · x.
fn products(cx: Ctx<'_>, bench: &Bench<'_>) -> Result<(), Box<dyn std::error::Error>> {
    for (rows, inputs, outputs) in [(1024, 256, 256), (1024, 256, 1024), (1024, 1024, 256), (1024, 512, 2048)] {
        let (x, w, dy) = (values(rows * inputs), values(outputs * inputs), values(rows * outputs));
        let flop = 2 * rows * inputs * outputs;
        let name = |of: &str| format!("gemm {of} {rows}x{inputs}->{outputs}");
        let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
        let set = Epilogue::default();
        if bench.wants(&name("y")) {
            let shape = GemmShape { m: rows, n: outputs, k: inputs };
            let (left, right) = (Mat::rows(&x, inputs), Rhs::Plain(Mat::transposed(&w, inputs)));
            bench.run(&name("y"), flop, || gemm(cx, shape, left, right, &set, &mut y, outputs))?;
        }
        if bench.wants(&name("dx")) {
            let shape = GemmShape { m: rows, n: inputs, k: outputs };
            let (left, right) = (Mat::rows(&dy, outputs), Rhs::Plain(Mat::rows(&w, inputs)));
            bench.run(&name("dx"), flop, || gemm(cx, shape, left, right, &set, &mut dx, inputs))?;
        }
        if bench.wants(&name("dw")) {
            let shape = GemmShape { m: outputs, n: inputs, k: rows };
            let (left, right) = (Mat::transposed(&dy, outputs), Rhs::Plain(Mat::rows(&x, inputs)));
            bench.run(&name("dw"), flop, || gemm(cx, shape, left, right, &set, &mut dw, inputs))?;
        }
    }
    Ok(())
}
