//! Measures the int8 products and convolutions of the zoo's networks, and prints GOP/s and the fraction of a measured peak.
//!
//! `cargo run --release -p penjing-kernels --example int8_bench [threads] [part of a name] [part of a method]`. Every line is the best of many runs.

#![allow(clippy::print_stdout)]

use penjing_kernels::{
    Activation, Ctx, Isa, Pool,
    conv::ConvShape,
    conv_last::Method,
    int8::{
        ByteType, Bytes, Grid, Limits, PackedQConvLast, PackedQGemm, QEpilogue, QOut, QResidual, QTensor, WeightLayout,
        qconv_last, qgemm,
    },
    int8_peak,
};
use penjing_tensor::Rng;
use std::time::Instant;

/// How weights within ±64 are distributed.
#[derive(Clone, Copy, PartialEq)]
enum Weights {
    /// The largest of 3.4 standard deviations.
    Normal,
    Uniform,
    /// Normal, over all of i8.
    Wide,
}
use Weights::{Normal, Uniform, Wide};

struct Bench<'a> {
    cx: Ctx<'a>,
    peak: f64,
    filter: String,
    method: String,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads = std::env::args().nth(1).map_or(Ok(1), |s| s.parse())?;
    let [filter, method] = [2, 3].map(|i| std::env::args().nth(i).unwrap_or_default());
    let pool = Pool::new(threads);
    let cx = Ctx { isa: Isa::detect(), pool: &pool };
    let bench = Bench { cx, peak: int8_peak(cx), filter, method };
    println!("{} on {threads} thread(s), peak {:.1} GOP/s", cx.isa.name(), bench.peak);
    let square = |batch, c: [usize; 2], side: usize, k: usize, stride: usize, groups| ConvShape {
        batch,
        groups,
        in_channels: c[0],
        out_channels: c[1],
        input: [side; 2],
        kernel: [k; 2],
        stride: [stride; 2],
        dilation: [1, 1],
        pad: [k / 2; 2],
        output: [side.div_ceil(stride); 2],
    };
    for (name, weights, s) in [
        ("simplecnn 3>32 24 b64", Uniform, square(64, [3, 32], 24, 3, 1, 1)),
        ("simplecnn 32>64 12 b64", Uniform, square(64, [32, 64], 12, 3, 1, 1)),
        ("resnet20 3>16 32 b64", Uniform, square(64, [3, 16], 32, 3, 1, 1)),
        ("resnet20 16>16 32 b64", Uniform, square(64, [16, 16], 32, 3, 1, 1)),
        ("resnet20 32>32 16 b64", Uniform, square(64, [32, 32], 16, 3, 1, 1)),
        ("resnet20 64>64 8 b64", Uniform, square(64, [64, 64], 8, 3, 1, 1)),
        ("resnet20 16>16 32 b1", Uniform, square(1, [16, 16], 32, 3, 1, 1)),
        ("resnet20 64>64 8 b1", Uniform, square(1, [64, 64], 8, 3, 1, 1)),
        ("resnet50 7x7 3>64 224/2", Normal, square(1, [3, 64], 224, 7, 2, 1)),
        ("resnet50 1x1 64>64 56", Normal, square(1, [64, 64], 56, 1, 1, 1)),
        ("resnet50 1x1 64>256 56", Normal, square(1, [64, 256], 56, 1, 1, 1)),
        ("resnet50 1x1 256>64 56", Normal, square(1, [256, 64], 56, 1, 1, 1)),
        ("resnet50 3x3 64>64 56", Normal, square(1, [64, 64], 56, 3, 1, 1)),
        ("resnet50 3x3 128>128 28", Normal, square(1, [128, 128], 28, 3, 1, 1)),
        ("resnet50 1x1 512>128 28", Normal, square(1, [512, 128], 28, 1, 1, 1)),
        ("resnet50 1x1 128>512 28", Normal, square(1, [128, 512], 28, 1, 1, 1)),
        ("resnet50 3x3 256>256 14", Normal, square(1, [256, 256], 14, 3, 1, 1)),
        ("resnet50 1x1 256>1024 14", Normal, square(1, [256, 1024], 14, 1, 1, 1)),
        ("resnet50 3x3 512>512 7", Normal, square(1, [512, 512], 7, 3, 1, 1)),
        ("resnet50 1x1 2048>512 7", Normal, square(1, [2048, 512], 7, 1, 1, 1)),
        ("mobilenet 1x1 16>96 112", Normal, square(1, [16, 96], 112, 1, 1, 1)),
        ("mobilenet 1x1 24>144 56", Normal, square(1, [24, 144], 56, 1, 1, 1)),
        ("mobilenet 1x1 144>24 56", Normal, square(1, [144, 24], 56, 1, 1, 1)),
        ("mobilenet 1x1 64>384 14", Normal, square(1, [64, 384], 14, 1, 1, 1)),
        ("mobilenet 1x1 384>64 14", Normal, square(1, [384, 64], 14, 1, 1, 1)),
        ("mobilenet 1x1 160>960 7", Normal, square(1, [160, 960], 7, 1, 1, 1)),
        ("depthwise 32 112", Normal, square(1, [32, 32], 112, 3, 1, 32)),
        ("depthwise 96 112/2", Normal, square(1, [96, 96], 112, 3, 2, 96)),
        ("depthwise 144 56", Normal, square(1, [144, 144], 56, 3, 1, 144)),
        ("depthwise 384 14", Normal, square(1, [384, 384], 14, 3, 1, 384)),
        ("depthwise 960 7", Normal, square(1, [960, 960], 7, 3, 1, 960)),
        ("depthwise 64 12", Normal, square(1, [64, 64], 12, 3, 1, 64)),
        ("depthwise 64 8", Normal, square(1, [64, 64], 8, 3, 1, 64)),
        ("depthwise 32 16", Normal, square(1, [32, 32], 16, 3, 1, 32)),
    ] {
        bench.convolution(name, weights, &s)?;
    }
    for (m, n, k) in
        [(128, 3072, 768), (128, 768, 3072), (128, 768, 768), (64, 128, 2304), (1, 2048, 512), (1, 1000, 2048)]
    {
        for (what, weights) in [("normal", Normal), ("uniform", Uniform), ("wide", Wide)] {
            bench.product(&format!("gemm {m}x{n}x{k} {what}"), weights, m, n, k)?;
        }
    }
    Ok(())
}

impl Bench<'_> {
    fn convolution(&self, name: &str, kind: Weights, s: &ConvShape) -> Result<(), Box<dyn std::error::Error>> {
        if !name.contains(&self.filter) {
            return Ok(());
        }
        let [x, w, n] = [s.x_len(), s.w_len(), s.y_len()].map(Option::unwrap_or_default);
        let (mut x, w, mut r, mut y) = (bytes(x + LINE), weights(kind, w), bytes(n + LINE), bytes(n + LINE));
        let [x, r, y] = [&mut x, &mut r, &mut y].map(|v| aligned(v));
        let chosen = PackedQConvLast::new(self.cx.isa, s, &w, ByteType::U8)?.op();
        let scale = vec![0.001; s.out_channels];
        let ops = 2.0 * n as f64 * (s.group_in() * s.kernel[0] * s.kernel[1]) as f64;
        let tensor = |data| QTensor { data: Bytes::U8(data), scale: 0.1, zero: 128 };
        let grid = Grid { scale: 0.1, zero: 128, limits: Limits::U8 };
        for method in [Method::Depthwise, Method::Direct, Method::Winograd4] {
            let Ok(packed) = PackedQConvLast::new_with(self.cx.isa, s, &w, ByteType::U8, method) else {
                continue;
            };
            if !packed.op().contains(&self.method) {
                continue;
            }
            let pick = if packed.op() == chosen { "*" } else { "" };
            for (what, residual) in [("", None), (" + residual", Some(QResidual::Int(tensor(r))))] {
                let epilogue = QEpilogue { w_scale: &scale, bias: Some(&scale), residual, act: Activation::RELU };
                let seconds = best(|| qconv_last(self.cx, s, tensor(x), &packed, &epilogue, QOut::U8(y, grid)))?;
                self.line(&format!("{name}{what} {}{pick}", packed.op()), ops, seconds);
            }
        }
        Ok(())
    }

    fn product(
        &self,
        name: &str,
        kind: Weights,
        m: usize,
        n: usize,
        k: usize,
    ) -> Result<(), Box<dyn std::error::Error>> {
        if !name.contains(&self.filter) {
            return Ok(());
        }
        let (x, w, mut y) = (bytes(m * k), weights(kind, k * n), vec![0f32; m * n]);
        let start = Instant::now();
        let packed = PackedQGemm::new(self.cx.isa, k, n, &w, WeightLayout::Transposed, ByteType::U8)?;
        let pack = start.elapsed().as_secs_f64();
        let scale = vec![0.01; n];
        let epilogue = QEpilogue { w_scale: &scale, bias: Some(&scale), residual: None, act: Activation::RELU };
        let tensor = QTensor { data: Bytes::U8(&x), scale: 0.1, zero: 128 };
        let seconds = best(|| qgemm(self.cx, m, tensor, &packed, &epilogue, QOut::F32(&mut y)))?;
        let rate = w.len() as f64 / pack / 1e6;
        self.line(&format!("{name}, packed at {rate:.0} MB/s"), (2 * m * n * k) as f64, seconds);
        Ok(())
    }

    fn line(&self, name: &str, ops: f64, seconds: f64) {
        let rate = ops / seconds / 1e9;
        println!("{name:<48} {:>9.1} us {rate:>7.1} GOP/s {:>6.1} %", seconds * 1e6, 100.0 * rate / self.peak);
    }
}

/// Bytes of a cache line, at which a program's values begin.
const LINE: usize = 64;

/// The bytes from the first line on; a line less than there are.
fn aligned(bytes: &mut [u8]) -> &mut [u8] {
    let (first, n) = (bytes.as_ptr().align_offset(LINE), bytes.len() - LINE);
    &mut bytes[first..first + n]
}

fn bytes(n: usize) -> Vec<u8> {
    let rng = Rng::new(1, "x", 0);
    (0..n).map(|i| rng.bits(i as u64) as u8).collect()
}

fn weights(kind: Weights, n: usize) -> Vec<i8> {
    let rng = Rng::new(1, "w", 0);
    let normal = |i: usize| (0..12).map(|j| rng.uniform((12 * i + j) as u64)).sum::<f32>() - 6.0;
    let one = |i: usize| match kind {
        Normal => (normal(i) * 64.0 / 3.4).round().clamp(-64.0, 64.0),
        Wide => (normal(i) * 127.0 / 3.4).round().clamp(-127.0, 127.0),
        Uniform => (rng.uniform(i as u64) * 129.0 - 64.5).round(),
    };
    (0..n).map(|i| one(i) as i8).collect()
}

/// Seconds of the fastest of many runs.
fn best<E>(mut f: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    let mut fastest = f64::INFINITY;
    let begin = Instant::now();
    let mut runs = 0;
    while runs < 8 || (runs < 2000 && begin.elapsed().as_secs_f64() < 0.3) {
        let start = Instant::now();
        f()?;
        fastest = fastest.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    Ok(fastest)
}
