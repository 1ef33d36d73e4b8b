//! Measures channels-last convolution on the layers of known networks, every method that a layer allows.
//!
//! `cargo run --release -p penjing-kernels --example conv_bench [network] [threads] [method]`. Layers run in turn, round
//! after round, so that weights come from memory as they do in a network; a line is the best round. GFLOP/s counts the
//! multiply-adds of the definition, so that a method that needs fewer may pass the multiply-add peak. The last line is the
//! sum of each layer's best method.

#![allow(clippy::print_stdout)]

use penjing_kernels::{
    Activation, Ctx, Isa, Pool,
    conv::ConvShape,
    conv_last::{ConvEpilogue, Method, PackedConvLast, conv_last},
    fma_peak,
};
use std::time::Instant;

/// How often a layer of this shape occurs.
type Layer = (usize, ConvShape);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let network = args.get(1).map_or("resnet50", String::as_str);
    let threads = args.get(2).map_or(Ok(1), |s| s.parse())?;
    let only = args.get(3);
    let layers = match network {
        "resnet50" => resnet50(1),
        "resnet50-b8" => resnet50(8),
        "resnet20" => resnet20(64),
        "resnet20-b1" => resnet20(1),
        "mobilenetv2" => mobilenetv2(),
        "simplecnn" => simplecnn(64),
        _ => return Err(format!("no network {network}").into()),
    };
    let pool = Pool::new(threads);
    let cx = Ctx { isa: Isa::detect(), pool: &pool };
    let peak = fma_peak(cx);
    println!("{network} on {threads} thread(s), {}, multiply-add peak {peak:.1} GFLOP/s", cx.isa.name());
    let mut entries = Vec::new();
    for (count, s) in layers {
        for method in Method::candidates(&s).filter(|m| only.is_none_or(|o| m.spec().contains(o.as_str()))) {
            entries.push(Entry::new(cx, count, s, method)?);
        }
    }
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < SECONDS {
        for entry in &mut entries {
            entry.run(cx)?;
        }
    }
    let (mut total, mut flops) = (0.0, 0.0);
    for same in entries.chunk_by(|a, b| a.shape == b.shape) {
        same.iter().for_each(|e| e.print(peak));
        let fastest = same.iter().map(|e| e.fastest).fold(f64::INFINITY, f64::min);
        total += same[0].count as f64 * fastest;
        flops += same[0].count as f64 * same[0].flop;
    }
    println!("total {:.2} ms, {:.1} % of peak", total * 1e3, 100.0 * flops / total / 1e9 / peak);
    Ok(())
}

/// How long the rounds go on.
const SECONDS: f64 = 4.0;

/// Parts of a tensor that threads share in writing.
const PARTS: usize = 8;

/// One layer by one method, with tensors of its own.
struct Entry {
    count: usize,
    shape: ConvShape,
    method: Method,
    packed: PackedConvLast,
    x: Vec<f32>,
    bias: Vec<f32>,
    y: Vec<f32>,
    flop: f64,
    fastest: f64,
}

impl Entry {
    fn new(cx: Ctx<'_>, count: usize, s: ConvShape, method: Method) -> Result<Entry, Box<dyn std::error::Error>> {
        let [nx, nw, ny] = [s.x_len(), s.w_len(), s.y_len()].map(Option::unwrap_or_default);
        let w: Vec<f32> = (0..nw).map(|i| (i % 13) as f32 * 0.01 - 0.05).collect();
        Ok(Entry {
            count,
            shape: s,
            method,
            packed: PackedConvLast::new_with(cx.isa, &s, &w, method)?,
            x: vec![0.5; nx],
            bias: vec![0.1; s.out_channels],
            y: vec![0.0; ny],
            flop: 2.0 * ny as f64 * (s.group_in() * s.kernel[0] * s.kernel[1]) as f64,
            fastest: f64::INFINITY,
        })
    }

    fn run(&mut self, cx: Ctx<'_>) -> Result<(), penjing_kernels::KernelError> {
        let activation = Activation::RELU;
        let epilogue = ConvEpilogue { bias: Some(&self.bias), residual: None, activation };
        // As after the layer before: the input was just written, by all threads, and the output's memory just used.
        for (values, v) in [(&mut self.x, 0.5), (&mut self.y, 0.0)] {
            let part = values.len().div_ceil(PARTS);
            cx.pool.run_chunks(values, part, &|_, values| values.fill(v));
        }
        let start = Instant::now();
        conv_last(cx, &self.shape, &self.x, &self.packed, &epilogue, &mut self.y)?;
        self.fastest = self.fastest.min(start.elapsed().as_secs_f64());
        Ok(())
    }

    fn print(&self, peak: f64) {
        let (s, rate) = (&self.shape, self.flop / self.fastest / 1e9);
        println!(
            "{}x {:>4}>{:<4} {}x{} s{} g{:<3} {:>3}x{:<3} {:<40} {:>9.1} us {rate:>7.1} GFLOP/s {:>6.1} %",
            self.count,
            s.in_channels,
            s.out_channels,
            s.kernel[0],
            s.kernel[1],
            s.stride[0],
            s.groups,
            s.output[0],
            s.output[1],
            self.method.spec(),
            self.fastest * 1e6,
            100.0 * rate / peak
        );
    }
}

fn layer(batch: usize, groups: usize, channels: [usize; 2], output: usize, kernel: usize, stride: usize) -> ConvShape {
    let pad = if stride == 2 && kernel == 1 { 0 } else { (kernel - 1) / 2 };
    ConvShape {
        batch,
        groups,
        in_channels: channels[0],
        out_channels: channels[1],
        input: [output * stride; 2],
        kernel: [kernel; 2],
        stride: [stride; 2],
        dilation: [1; 2],
        pad: [pad; 2],
        output: [output; 2],
    }
}

fn resnet50(n: usize) -> Vec<Layer> {
    let l = |count, c, side, k, stride| (count, layer(n, 1, c, side, k, stride));
    vec![
        l(1, [3, 64], 112, 7, 2),
        l(1, [64, 64], 56, 1, 1),
        l(4, [64, 256], 56, 1, 1),
        l(2, [256, 64], 56, 1, 1),
        l(3, [64, 64], 56, 3, 1),
        l(1, [256, 128], 56, 1, 1),
        l(1, [128, 128], 28, 3, 2),
        l(1, [256, 512], 28, 1, 2),
        l(4, [128, 512], 28, 1, 1),
        l(3, [512, 128], 28, 1, 1),
        l(3, [128, 128], 28, 3, 1),
        l(1, [512, 256], 28, 1, 1),
        l(1, [256, 256], 14, 3, 2),
        l(1, [512, 1024], 14, 1, 2),
        l(6, [256, 1024], 14, 1, 1),
        l(5, [1024, 256], 14, 1, 1),
        l(5, [256, 256], 14, 3, 1),
        l(1, [1024, 512], 14, 1, 1),
        l(1, [512, 512], 7, 3, 2),
        l(1, [1024, 2048], 7, 1, 2),
        l(3, [512, 2048], 7, 1, 1),
        l(2, [2048, 512], 7, 1, 1),
        l(2, [512, 512], 7, 3, 1),
    ]
}

fn resnet20(n: usize) -> Vec<Layer> {
    let l = |count, c, side, k, stride| (count, layer(n, 1, c, side, k, stride));
    vec![
        l(1, [3, 16], 32, 3, 1),
        l(6, [16, 16], 32, 3, 1),
        l(1, [16, 32], 16, 3, 2),
        l(5, [32, 32], 16, 3, 1),
        l(1, [32, 64], 8, 3, 2),
        l(5, [64, 64], 8, 3, 1),
    ]
}

fn simplecnn(n: usize) -> Vec<Layer> {
    vec![(1, layer(n, 1, [3, 32], 24, 3, 1)), (1, layer(n, 1, [32, 64], 12, 3, 1))]
}

/// Input channels, expansion, output channels, output side and stride of every inverted residual block.
fn mobilenetv2() -> Vec<Layer> {
    let blocks = [
        (1, 32, 1, 16, 112, 1),
        (1, 16, 6, 24, 56, 2),
        (1, 24, 6, 24, 56, 1),
        (1, 24, 6, 32, 28, 2),
        (2, 32, 6, 32, 28, 1),
        (1, 32, 6, 64, 14, 2),
        (3, 64, 6, 64, 14, 1),
        (1, 64, 6, 96, 14, 1),
        (2, 96, 6, 96, 14, 1),
        (1, 96, 6, 160, 7, 2),
        (2, 160, 6, 160, 7, 1),
        (1, 160, 6, 320, 7, 1),
    ];
    let mut layers = vec![(1, layer(1, 1, [3, 32], 112, 3, 2))];
    for (count, from, expand, to, side, stride) in blocks {
        let wide = from * expand;
        if expand > 1 {
            layers.push((count, layer(1, 1, [from, wide], side * stride, 1, 1)));
        }
        layers.push((count, layer(1, wide, [wide, wide], side, 3, stride)));
        layers.push((count, layer(1, 1, [wide, to], side, 1, 1)));
    }
    layers.push((1, layer(1, 1, [320, 1280], 7, 1, 1)));
    layers
}
