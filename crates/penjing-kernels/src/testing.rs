//! What the unit tests of the kernels share: contexts of every level and thread count, values, comparison with f64.

use crate::{Ctx, Isa, Pool, conv::ConvShape};
use penjing_tensor::Rng;

/// A level with a pool of its own.
pub(crate) struct OwnedCtx {
    isa: Isa,
    pool: Pool,
}

impl OwnedCtx {
    pub(crate) fn get(&self) -> Ctx<'_> {
        Ctx { isa: self.isa, pool: &self.pool }
    }
}

/// `isa` on 1, 2, 3 and 8 threads.
pub(crate) fn contexts(isa: Isa) -> impl Iterator<Item = OwnedCtx> {
    [1, 2, 3, 8].into_iter().map(move |threads| OwnedCtx { isa, pool: Pool::new(threads) })
}

/// `n` values in [-1, 1), a pure function of the name.
pub(crate) fn values(name: &str, n: usize) -> Vec<f32> {
    let rng = Rng::new(11, name, 0);
    (0..n).map(|i| rng.uniform(i as u64) * 2.0 - 1.0).collect()
}

/// A convolution: channels in and out; padding before, then after, each of height and width.
pub(crate) fn conv_shape(
    batch: usize,
    groups: usize,
    channels: [usize; 2],
    input: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    pad: [usize; 4],
) -> ConvShape {
    let out = |a: usize| {
        let reach = (kernel[a] - 1) * dilation[a] + 1;
        (input[a] + pad[a] + pad[a + 2]).checked_sub(reach).map_or(0, |r| r / stride[a] + 1)
    };
    ConvShape {
        batch,
        groups,
        in_channels: channels[0],
        out_channels: channels[1],
        input,
        kernel,
        stride,
        dilation,
        pad: [pad[0], pad[1]],
        output: [out(0), out(1)],
    }
}

/// Every `got` is within `tolerance · max(1, |want|)` of `want`; NaN equals NaN.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let same = f64::from(g) == w || (g.is_nan() && w.is_nan());
        assert!(
            same || (f64::from(g) - w).abs() <= tolerance * w.abs().max(1.0),
            "{what}: element {i} is {g}, want {w} (tolerance {tolerance:e})"
        );
    }
}

/// Runs `f` at every level and thread count and checks that each level gives the same bits at every thread count. Returns
/// the result of each level.
#[track_caller]
pub(crate) fn every_ctx(f: impl Fn(Ctx<'_>) -> Vec<f32>) -> Vec<Vec<f32>> {
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    Isa::ALL
        .into_iter()
        .filter(|isa| isa.available())
        .map(|isa| {
            let mut first: Option<Vec<f32>> = None;
            for cx in contexts(isa) {
                let result = f(cx.get());
                let first = first.get_or_insert_with(|| result.clone());
                assert_eq!(bits(first), bits(&result), "{}: bits differ between thread counts", isa.name());
            }
            first.unwrap_or_default()
        })
        .collect()
}
