//! y = act((Σ (x − zx)·w)·sx·sw + bias + residual) for channels-last convolutions, weights packed once.
//!
//! The windows are those of [`crate::conv_last`]: a row for every output pixel, a run for every kernel row.

use super::{
    ByteType, QEpilogue, QOut, QTensor,
    epilogue::{Columns, QFinish},
    finish::{Rounding, Target, WithTarget, with_target},
    gemm::check_depth,
    packed::{Packed, with_groups},
};
use crate::{
    Ctx, KernelError,
    conv::ConvShape,
    conv_last::direct::{run, runs},
    error::check_len,
    igemm::{PackedB, tile::Kind},
    pool::Disjoint,
};

const NAME: &str = "qconv_last";

/// Convolution weights packed once for activations of one type.
pub struct PackedQConvLast {
    shape: ConvShape,
    packed: Packed,
    /// Σ w of each output channel.
    sums: Vec<i32>,
}

impl PackedQConvLast {
    /// Packs `w`, `[out_channels, in_channels / groups, KH, KW]`, any values of i8, for activations of type `x`. Batch, input and
    /// output extents of `shape` do not matter.
    pub fn new(shape: &ConvShape, w: &[i8], x: ByteType) -> Result<PackedQConvLast, KernelError> {
        shape.check(NAME)?;
        check_len(NAME, "w", shape.w_len(), w.len())?;
        check_depth(NAME, shape.depth())?;
        let (runs, run_len) = runs(shape);
        let (channels, taps) = (shape.group_in(), shape.kernel[0] * shape.kernel[1]);
        let packed = Packed::new(x, shape.groups, shape.group_out(), [runs, run_len], |group, run, j, o| {
            let k = run * run_len + j;
            w[((group * shape.group_out() + o) * channels + k % channels) * taps + k / channels]
        });
        let depth = shape.depth();
        let sums = (0..shape.out_channels).map(|o| w[o * depth..(o + 1) * depth].iter().map(|&w| i32::from(w)).sum());
        Ok(PackedQConvLast { shape: *shape, packed, sums: sums.collect() })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.packed.bytes() + size_of_val(&self.sums[..])
    }

    fn fits(&self, s: &ConvShape) -> bool {
        let key = |s: &ConvShape| (s.out_channels, s.in_channels, s.groups, s.kernel, s.dilation);
        key(&self.shape) == key(s)
    }
}

/// y `[N, OH, OW, O]` of x `[N, H, W, C]`; padding is x's zero point. `shape` is the one that `w` was packed for, but for batch,
/// input, stride, padding and output.
pub fn qconv_last(
    cx: Ctx<'_>,
    shape: &ConvShape,
    x: QTensor<'_>,
    w: &PackedQConvLast,
    epilogue: &QEpilogue<'_>,
    y: QOut<'_>,
) -> Result<(), KernelError> {
    shape.check(NAME)?;
    check_len(NAME, "x", shape.x_len(), x.data.len())?;
    check_len(NAME, "y", shape.y_len(), y.len())?;
    if !w.fits(shape) {
        return Err(KernelError::Geometry { kernel: NAME, why: "the weights were packed for another shape" });
    }
    x.check(NAME, w.packed.x())?;
    y.check(NAME)?;
    epilogue.check(NAME, y.len())?;
    let columns = Columns::new(NAME, x, &w.sums, w.packed.zero(x.zero), epilogue)?;
    if y.len() > 0 {
        with_target(y, Convolution { cx, shape, x, w, columns: &columns, epilogue });
    }
    Ok(())
}

struct Convolution<'a> {
    cx: Ctx<'a>,
    shape: &'a ConvShape,
    x: QTensor<'a>,
    w: &'a PackedQConvLast,
    columns: &'a Columns,
    epilogue: &'a QEpilogue<'a>,
}

impl WithTarget for Convolution<'_> {
    fn run<T: Target>(self, y: &mut [T], rounding: Rounding) {
        with_groups!(&self.w.packed, groups => self.run_tiles(groups, y, rounding));
    }
}

impl Convolution<'_> {
    fn run_tiles<K: Kind<A = u8, Sum = i32>, T: Target>(&self, groups: &[PackedB<K>], y: &mut [T], rounding: Rounding) {
        let s = self.shape;
        let y = Disjoint::new(y);
        // The low byte of a zero point is its pattern in either type.
        let fill = self.x.zero as u8;
        run(self.cx, s, self.x.data.raw(), fill, groups, &|group, first_row| QFinish {
            isa: self.cx.isa.usable(),
            y: &y,
            stride: s.out_channels,
            first_row,
            first_col: group * s.group_out(),
            columns: self.columns,
            residual: self.epilogue.residual,
            rounding,
        });
    }
}
