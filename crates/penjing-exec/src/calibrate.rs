//! Every candidate of a fixed list of convolutions, timed: what costs are fitted to, and what picks are judged by.

use crate::{
    Costs, ExecError, Sample, Target,
    costs::{int8_row, macs},
};
use penjing_kernels::{
    Activation, Ctx, KernelError, Pool,
    conv::ConvShape,
    conv_last::{ConvEpilogue, Method, PackedConvLast, conv_last},
    int8::{ByteType, Bytes, Grid, Limits, PackedQConvLast, QEpilogue, QOut, QTensor, qconv_last},
};
use penjing_tensor::Rng;
use std::time::{Duration, Instant};

/// What a convolution multiplies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Precision {
    F32,
    Int8,
}

/// A shape with the times of its candidates.
#[derive(Clone, Debug)]
pub struct Timed {
    /// Where the shape comes from.
    pub label: String,
    /// Of activations and weights.
    pub precision: Precision,
    /// Whether costs are fitted to it; other shapes only judge them.
    pub fitted: bool,
    /// The convolution.
    pub shape: ConvShape,
    /// Row name and fastest run of each candidate, in the kernels' order of preference.
    pub candidates: Vec<(String, Duration)>,
}

impl Timed {
    /// The candidate that these costs pick.
    pub fn pick(&self, costs: &Costs) -> usize {
        let candidates = self.candidates.iter().enumerate().map(|(i, (row, _))| (i, row.clone())).collect();
        costs.pick(&self.shape, candidates).unwrap_or(0)
    }

    /// How many times slower a candidate is than the fastest one.
    pub fn slowdown(&self, candidate: usize) -> f64 {
        let best = self.candidates.iter().map(|(_, t)| *t).min().unwrap_or_default();
        let own = self.candidates.get(candidate).map_or(best, |(_, t)| *t);
        if best.is_zero() { 1.0 } else { own.as_secs_f64() / best.as_secs_f64() }
    }

    /// Floating-point operations of one run, as the definition counts them.
    pub fn flops(&self) -> f64 {
        2.0 * macs(&self.shape)
    }
}

/// Costs fitted to these times.
pub fn fit(timed: &[Timed]) -> Costs {
    let sample = |t: &Timed, (row, time): &(String, Duration)| Sample {
        row: row.clone(),
        shape: t.shape,
        nanoseconds: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
    };
    let fitted = timed.iter().filter(|t| t.fitted);
    Costs::new(fitted.flat_map(|t| t.candidates.iter().map(move |c| sample(t, c))).collect())
}

/// Where a shape is used in fitting.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Fit,
    Judge,
}

/// label, use, batch, channels in and out, input side, kernel, stride, groups. Padding keeps the side at stride 1.
#[rustfmt::skip]
const SHAPES: &[(&str, Use, [usize; 7])] = &[
    ("resnet50 stem",          Use::Fit,   [1, 3, 64, 224, 7, 2, 1]),
    ("resnet50 1x1 64-64",     Use::Fit,   [1, 64, 64, 56, 1, 1, 1]),
    ("resnet50 3x3 64",        Use::Fit,   [1, 64, 64, 56, 3, 1, 1]),
    ("resnet50 1x1 64-256",    Use::Judge, [1, 64, 256, 56, 1, 1, 1]),
    ("resnet50 1x1 256-64",    Use::Fit,   [1, 256, 64, 56, 1, 1, 1]),
    ("resnet50 3x3 128",       Use::Fit,   [1, 128, 128, 28, 3, 1, 1]),
    ("resnet50 3x3 128 s2",    Use::Fit,   [1, 128, 128, 56, 3, 2, 1]),
    ("resnet50 1x1 256-512 s2", Use::Fit,  [1, 256, 512, 56, 1, 2, 1]),
    ("resnet50 3x3 256",       Use::Fit,   [1, 256, 256, 14, 3, 1, 1]),
    ("resnet50 1x1 1024-256",  Use::Fit,   [1, 1024, 256, 14, 1, 1, 1]),
    ("resnet50 3x3 512",       Use::Fit,   [1, 512, 512, 7, 3, 1, 1]),
    ("resnet50 1x1 2048-512",  Use::Judge, [1, 2048, 512, 7, 1, 1, 1]),
    ("resnet50 b8 3x3 128",    Use::Judge, [8, 128, 128, 28, 3, 1, 1]),
    ("resnet20 stem",          Use::Fit,   [1, 3, 16, 32, 3, 1, 1]),
    ("resnet20 3x3 16",        Use::Fit,   [1, 16, 16, 32, 3, 1, 1]),
    ("resnet20 3x3 16-32 s2",  Use::Fit,   [1, 16, 32, 32, 3, 2, 1]),
    ("resnet20 3x3 32",        Use::Fit,   [1, 32, 32, 16, 3, 1, 1]),
    ("resnet20 3x3 64",        Use::Fit,   [1, 64, 64, 8, 3, 1, 1]),
    ("resnet20 b64 3x3 16",    Use::Fit,   [64, 16, 16, 32, 3, 1, 1]),
    ("resnet20 b64 3x3 32",    Use::Judge, [64, 32, 32, 16, 3, 1, 1]),
    ("resnet20 b64 3x3 64",    Use::Fit,   [64, 64, 64, 8, 3, 1, 1]),
    ("mobilenet stem",         Use::Fit,   [1, 3, 32, 224, 3, 2, 1]),
    ("mobilenet dw 32",        Use::Fit,   [1, 32, 32, 112, 3, 1, 32]),
    ("mobilenet 1x1 16-96",    Use::Fit,   [1, 16, 96, 112, 1, 1, 1]),
    ("mobilenet dw 96 s2",     Use::Fit,   [1, 96, 96, 112, 3, 2, 96]),
    ("mobilenet dw 144",       Use::Fit,   [1, 144, 144, 56, 3, 1, 144]),
    ("mobilenet 1x1 144-24",   Use::Fit,   [1, 144, 24, 56, 1, 1, 1]),
    ("mobilenet dw 384",       Use::Fit,   [1, 384, 384, 14, 3, 1, 384]),
    ("mobilenet 1x1 384-64",   Use::Judge, [1, 384, 64, 14, 1, 1, 1]),
    ("mobilenet dw 576 s2",    Use::Judge, [1, 576, 576, 14, 3, 2, 576]),
    ("mobilenet dw 960",       Use::Fit,   [1, 960, 960, 7, 3, 1, 960]),
    ("mobilenet 1x1 320-1280", Use::Fit,   [1, 320, 1280, 7, 1, 1, 1]),
    ("simplecnn conv1",        Use::Judge, [1, 3, 32, 24, 3, 1, 1]),
    ("simplecnn conv2",        Use::Fit,   [1, 32, 64, 12, 3, 1, 1]),
    ("simplecnn b64 conv2",    Use::Judge, [64, 32, 64, 12, 3, 1, 1]),
    ("vit patches",            Use::Fit,   [1, 3, 384, 224, 16, 16, 1]),
];

/// The time that each candidate of a shape is run for, after one run to warm up.
const BUDGET: Duration = Duration::from_millis(12);
/// Bytes of weights that are read between two uses of the same ones, more than a core's own caches hold: so it is in a model.
const BETWEEN: usize = 4 << 20;
/// Most copies of weights.
const MOST_COPIES: usize = 64;

/// Times every candidate of every shape of the list on one thread, of floats and of integers.
pub fn time_kernels(target: &Target) -> Result<Vec<Timed>, ExecError> {
    let pool = Pool::new(1);
    let ctx = Ctx { isa: target.isa, pool: &pool };
    let each = SHAPES.iter().flat_map(|&(label, of, extents)| {
        let shape = shape(extents);
        [time_floats, time_integers].map(|time| time(ctx, label, of == Use::Fit, shape))
    });
    each.collect()
}

fn shape([batch, in_channels, out_channels, side, kernel, stride, groups]: [usize; 7]) -> ConvShape {
    // A kernel as wide as its step cuts patches.
    let pad = if kernel == stride { 0 } else { kernel / 2 };
    ConvShape {
        batch,
        groups,
        in_channels,
        out_channels,
        input: [side; 2],
        kernel: [kernel; 2],
        stride: [stride; 2],
        dilation: [1; 2],
        pad: [pad; 2],
        output: [(side + 2 * pad - kernel) / stride + 1; 2],
    }
}

fn time_floats(ctx: Ctx<'_>, label: &str, fitted: bool, shape: ConvShape) -> Result<Timed, ExecError> {
    let values = |name: &str, n: Option<usize>| -> Vec<f32> {
        let rng = Rng::new(0, name, 0);
        (0..n.unwrap_or(0) as u64).map(|i| rng.uniform(i) - 0.5).collect()
    };
    let (x, w) = (values("x", shape.x_len()), values("w", shape.w_len()));
    let bias = values("bias", Some(shape.out_channels));
    let mut y = vec![0f32; shape.y_len().unwrap_or(0)];
    let epilogue = ConvEpilogue { bias: Some(&bias), ..ConvEpilogue::default() };
    let mut candidates = Vec::new();
    for method in Method::candidates(&shape) {
        let pack = || PackedConvLast::new_with(ctx.isa, &shape, &w, method);
        let packed = copies(&pack, PackedConvLast::bytes).map_err(|e| failed(label, e))?;
        let time = fastest(&packed, &mut |packed| conv_last(ctx, &shape, &x, packed, &epilogue, &mut y));
        candidates.push((format!("{}.{}", ctx.isa.name(), method.spec()), time.map_err(|e| failed(label, e))?));
    }
    Ok(Timed { label: label.into(), precision: Precision::F32, fitted, shape, candidates })
}

/// With weights within 64, as quantization leaves them by itself.
fn time_integers(ctx: Ctx<'_>, label: &str, fitted: bool, shape: ConvShape) -> Result<Timed, ExecError> {
    let values = |name: &str, n: Option<usize>, range: f32| -> Vec<u8> {
        let rng = Rng::new(0, name, 0);
        (0..n.unwrap_or(0) as u64).map(|i| (rng.uniform(i) * range) as u8).collect()
    };
    let x = values("x", shape.x_len(), 256.0);
    let w: Vec<i8> = values("w", shape.w_len(), 129.0).into_iter().map(|w| (i16::from(w) - 64) as i8).collect();
    let (w_scale, bias) = (vec![0.01; shape.out_channels], vec![0.5; shape.out_channels]);
    let mut y = vec![0u8; shape.y_len().unwrap_or(0)];
    let x = QTensor { data: Bytes::U8(&x), scale: 0.05, zero: 128 };
    let epilogue = QEpilogue { w_scale: &w_scale, bias: Some(&bias), residual: None, act: Activation::RELU };
    let grid = Grid { scale: 0.1, zero: 0, limits: Limits::U8 };
    let mut candidates = Vec::new();
    for method in PackedQConvLast::candidates(ctx.isa, &shape) {
        // Many weights may rule a method out.
        let pack = || PackedQConvLast::new_with(ctx.isa, &shape, &w, ByteType::U8, method);
        let Ok(packed) = copies(&pack, PackedQConvLast::bytes) else { continue };
        let time =
            fastest(&packed, &mut |packed| qconv_last(ctx, &shape, x, packed, &epilogue, QOut::U8(&mut y, grid)));
        candidates.push((int8_row(ctx.isa, method), time.map_err(|e| failed(label, e))?));
    }
    Ok(Timed { label: format!("int8 {label}"), precision: Precision::Int8, fitted, shape, candidates })
}

fn failed(label: &str, source: KernelError) -> ExecError {
    ExecError::Kernel { node: label.into(), kernel: "conv_last".into(), source }
}

/// Packed weights over again, so many that a run in turn with each finds its own far away.
fn copies<P>(pack: &dyn Fn() -> Result<P, KernelError>, bytes: fn(&P) -> usize) -> Result<Vec<P>, KernelError> {
    let first = pack()?;
    let count = BETWEEN.div_ceil(bytes(&first).max(1)).clamp(1, MOST_COPIES);
    std::iter::once(Ok(first)).chain((1..count).map(|_| pack())).collect()
}

/// The fastest of the runs that fit the budget, after one with each of the weights to warm up.
fn fastest<P>(weights: &[P], run: &mut dyn FnMut(&P) -> Result<(), KernelError>) -> Result<Duration, KernelError> {
    weights.iter().try_for_each(&mut *run)?;
    let (begin, mut best) = (Instant::now(), Duration::MAX);
    for weights in weights.iter().cycle() {
        let start = Instant::now();
        run(weights)?;
        best = best.min(start.elapsed());
        if begin.elapsed() >= BUDGET {
            break;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(times: &[(&str, u64)]) -> Timed {
        let candidates = times.iter().map(|&(row, us)| (row.to_string(), Duration::from_micros(us))).collect();
        let shape = shape([1, 16, 16, 8, 3, 1, 1]);
        Timed { label: String::new(), precision: Precision::F32, fitted: true, shape, candidates }
    }

    #[test]
    fn a_fit_picks_what_was_fastest_and_slowdowns_are_against_it() {
        let one = timed(&[("a", 20), ("b", 10), ("c", 15)]);
        let costs = fit(std::slice::from_ref(&one));
        assert_eq!(one.pick(&costs), 1);
        assert_eq!([0, 1, 2].map(|i| one.slowdown(i)), [2.0, 1.0, 1.5]);
        // Costs of another machine: the pick is judged by these times.
        let other = timed(&[("a", 10), ("b", 20), ("c", 15)]);
        assert_eq!(other.slowdown(other.pick(&costs)), 2.0);
        let judged = Timed { fitted: false, ..other };
        assert_eq!(judged.pick(&fit(std::slice::from_ref(&judged))), 0);
    }

    #[test]
    fn every_shape_of_the_list_is_legal() {
        let pool = Pool::new(1);
        let ctx = Ctx { isa: penjing_kernels::Isa::detect(), pool: &pool };
        let small = SHAPES.iter().filter(|(_, _, [batch, _, _, side, ..])| batch * side < 16);
        for &(label, of, extents) in small {
            for time in [time_floats, time_integers] {
                let timed = time(ctx, label, of == Use::Fit, shape(extents)).unwrap();
                assert!(!timed.candidates.is_empty(), "{label}");
            }
        }
    }
}
