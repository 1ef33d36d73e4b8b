//! What kernels cost on this machine, measured: the choice where a convolution has several candidates.
//!
//! The model is a table of samples, one for each kernel row and shape of a fixed list. A row's cost on a shape is that of its
//! nearest sample, scaled by the multiply-accumulates; near means alike in channels of a group, positions and window, each by
//! its logarithm. Without samples the kernels' own order of preference decides. Samples are taken on one thread, so that the
//! choice, and with it the bits of a result, is the same at any number of threads.

use penjing_kernels::{Isa, conv::ConvShape, conv_last::Method, int8::PackedQConvLast};

/// One kernel row timed on one shape.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    /// The row's whole name.
    pub row: String,
    /// What it ran on.
    pub shape: ConvShape,
    /// Its fastest run.
    pub nanoseconds: u64,
}

/// Samples of one machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Costs {
    samples: Vec<Sample>,
}

/// No samples.
pub static UNMEASURED: Costs = Costs { samples: Vec::new() };

impl Costs {
    /// The costs that these samples say.
    pub fn new(samples: Vec<Sample>) -> Costs {
        Costs { samples }
    }

    /// What was measured.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Predicted nanoseconds of a row on a shape; `None` for a row that was never measured.
    pub fn predict(&self, row: &str, shape: &ConvShape) -> Option<f64> {
        let own = self.samples.iter().filter(|s| s.row == row);
        let nearest = own.min_by(|a, b| distance(&a.shape, shape).total_cmp(&distance(&b.shape, shape)))?;
        Some(nearest.nanoseconds as f64 * macs(shape) / macs(&nearest.shape).max(1.0))
    }

    /// The candidate with the lowest predicted cost; the first one unless every candidate has been measured.
    pub fn pick<T>(&self, shape: &ConvShape, candidates: Vec<(T, String)>) -> Option<T> {
        let costs: Option<Vec<f64>> = candidates.iter().map(|(_, row)| self.predict(row, shape)).collect();
        let best = costs.and_then(|costs| (0..costs.len()).min_by(|&a, &b| costs[a].total_cmp(&costs[b])));
        candidates.into_iter().nth(best.unwrap_or(0)).map(|(candidate, _)| candidate)
    }
}

/// The row that stands for a method of integer convolutions, whatever the types of activations and results.
pub(crate) fn int8_row(isa: Isa, method: Method) -> String {
    format!("{}.{}", isa.name(), PackedQConvLast::spec(method))
}

/// Multiply-accumulates.
pub(crate) fn macs(s: &ConvShape) -> f64 {
    let each = s.group_in() * s.kernel[0] * s.kernel[1];
    s.batch as f64 * s.out_channels as f64 * (s.output[0] * s.output[1]) as f64 * each as f64
}

/// How unlike two shapes are: the squared distance of their logarithms; shapes with and without groups are far apart.
fn distance(a: &ConvShape, b: &ConvShape) -> f64 {
    let features = |s: &ConvShape| {
        [
            s.group_in(),
            s.group_out(),
            s.batch * s.output[0] * s.output[1],
            s.kernel[0] * s.kernel[1],
            s.stride[0] * s.stride[1],
            if s.groups > 1 { 1 << 16 } else { 1 },
        ]
        .map(|n| (n.max(1) as f64).log2())
    };
    features(a).into_iter().zip(features(b)).map(|(x, y)| (x - y) * (x - y)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(channels: usize, side: usize, groups: usize) -> ConvShape {
        ConvShape {
            batch: 1,
            groups,
            in_channels: channels,
            out_channels: channels,
            input: [side; 2],
            kernel: [3; 2],
            stride: [1; 2],
            dilation: [1; 2],
            pad: [1; 2],
            output: [side; 2],
        }
    }

    fn sample(row: &str, shape: ConvShape, nanoseconds: u64) -> Sample {
        Sample { row: row.into(), shape, nanoseconds }
    }

    fn named(rows: &[&str]) -> Vec<(usize, String)> {
        rows.iter().enumerate().map(|(i, r)| (i, r.to_string())).collect()
    }

    #[test]
    fn the_nearest_sample_decides_and_scales() {
        let costs = Costs::new(vec![
            sample("a", shape(16, 32, 1), 1000),
            sample("b", shape(16, 32, 1), 900),
            sample("a", shape(256, 14, 1), 5000),
            sample("b", shape(256, 14, 1), 8000),
            sample("b", shape(64, 32, 64), 10),
        ]);
        assert_eq!(costs.pick(&shape(24, 28, 1), named(&["a", "b"])), Some(1));
        assert_eq!(costs.pick(&shape(128, 14, 1), named(&["a", "b"])), Some(0));
        assert_eq!(costs.predict("a", &shape(256, 28, 1)), Some(20_000.0));
        // A grouped shape is no neighbour of one without groups, however alike.
        assert_eq!(costs.predict("b", &shape(64, 32, 1)), Some(900.0 * 16.0));
    }

    #[test]
    fn an_unmeasured_candidate_leaves_the_first() {
        let costs = Costs::new(vec![sample("b", shape(16, 32, 1), 1)]);
        assert_eq!(costs.pick(&shape(16, 32, 1), named(&["a", "b"])), Some(0));
        assert_eq!(UNMEASURED.pick(&shape(16, 32, 1), named(&["a", "b"])), Some(0));
        assert_eq!(costs.pick::<usize>(&shape(16, 32, 1), Vec::new()), None);
    }
}
