//! y = act((Σ (x − zx)·w)·sx·sw + bias + residual) for channels-last convolutions, weights packed once.
//!
//! The windows are those of [`crate::conv_last`]: a row for every output pixel, a run for every kernel row.

use super::{
    ByteType, QEpilogue, QOut, QTensor,
    depthwise::{self, PackedDepthwise},
    epilogue::{Columns, Out, QFinish},
    gemm::check_depth,
    product::{PackedProduct, multiply},
    winograd::{self, PackedWinograd},
};
use crate::{
    Ctx, Isa, KernelError,
    conv::ConvShape,
    conv_last::{
        Method,
        direct::{run, runs},
    },
    error::check_len,
};

const NAME: &str = "qconv_last";

/// Convolution weights packed once for activations of one type.
pub struct PackedQConvLast {
    shape: ConvShape,
    x: ByteType,
    weights: Weights,
    /// Σ w of each output channel.
    sums: Vec<i32>,
}

enum Weights {
    /// One product a group.
    Products(Vec<PackedProduct>),
    Depthwise(PackedDepthwise),
    Winograd(PackedWinograd),
}

impl PackedQConvLast {
    /// Packs `w`, `[out_channels, in_channels / groups, KH, KW]`, any values of i8, for activations of type `x`, in the way that is
    /// fast at `isa`. Batch, input and output extents of `shape` do not matter to the result, only to the choice of the method.
    pub fn new(isa: Isa, shape: &ConvShape, w: &[i8], x: ByteType) -> Result<PackedQConvLast, KernelError> {
        let mut packed = Err(KernelError::Geometry { kernel: NAME, why: "no method fits" });
        for method in PackedQConvLast::candidates(isa, shape) {
            packed = PackedQConvLast::new_with(isa, shape, w, x, method);
            if packed.is_ok() {
                break;
            }
        }
        packed
    }

    /// The methods that `shape` allows, the one that [`new`](Self::new) tries first at `isa` first. Weights may rule out `Winograd4`.
    pub fn candidates(isa: Isa, shape: &ConvShape) -> impl Iterator<Item = Method> {
        let methods: &[Method] = match Method::plain(shape) {
            Method::Depthwise => &[Method::Depthwise],
            _ if !PackedWinograd::fits(shape) => &[Method::Direct],
            _ if isa < Isa::Avx512 && PackedWinograd::gains(shape) => &[Method::Winograd4, Method::Direct],
            _ => &[Method::Direct, Method::Winograd4],
        };
        methods.iter().copied()
    }

    /// The row of u8 activations and results that runs for a method.
    pub fn spec(method: Method) -> &'static str {
        match method {
            Method::Depthwise => "qu8-qu8-qc8w-conv_last_depthwise",
            Method::Winograd2 | Method::Winograd4 => "qu8-qu8-qc8w-conv_last_winograd.4x4",
            Method::Direct => "qu8-qu8-qc8w-conv_last",
        }
    }

    /// Packs for `method`, which all give the same bits; `Geometry` where shape or weights do not allow it. `Winograd2` has no kernel.
    pub fn new_with(
        isa: Isa,
        shape: &ConvShape,
        w: &[i8],
        x: ByteType,
        method: Method,
    ) -> Result<PackedQConvLast, KernelError> {
        shape.check(NAME)?;
        check_len(NAME, "w", shape.w_len(), w.len())?;
        check_depth(NAME, shape.depth())?;
        let weights = match method {
            Method::Direct => Some(Weights::Products(products(isa, shape, w))),
            Method::Depthwise => {
                PackedDepthwise::fits(shape).then(|| Weights::Depthwise(PackedDepthwise::new(shape, w)))
            }
            Method::Winograd4 => PackedWinograd::new(shape, w).map(Weights::Winograd),
            Method::Winograd2 => None,
        };
        let weights = weights.ok_or(KernelError::Geometry { kernel: NAME, why: "the method does not fit" })?;
        let depth = shape.depth();
        let sums = (0..shape.out_channels).map(|o| w[o * depth..(o + 1) * depth].iter().map(|&w| i32::from(w)).sum());
        Ok(PackedQConvLast { shape: *shape, x, weights, sums: sums.collect() })
    }

    /// The operation in the names of the rows that run.
    pub fn op(&self) -> &'static str {
        match &self.weights {
            Weights::Products(_) => "conv_last",
            Weights::Depthwise(_) => "conv_last_depthwise",
            Weights::Winograd(_) => "conv_last_winograd",
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let weights = match &self.weights {
            Weights::Products(products) => products.iter().map(PackedProduct::bytes).sum(),
            Weights::Depthwise(packed) => packed.bytes(),
            Weights::Winograd(packed) => packed.bytes(),
        };
        weights + size_of_val(&self.sums[..])
    }

    fn fits(&self, s: &ConvShape) -> bool {
        let key = |s: &ConvShape| (s.out_channels, s.in_channels, s.groups, s.kernel, s.stride, s.dilation);
        key(&self.shape) == key(s)
    }
}

/// One product a group.
fn products(isa: Isa, s: &ConvShape, w: &[i8]) -> Vec<PackedProduct> {
    let (channels, taps) = (s.group_in(), s.kernel[0] * s.kernel[1]);
    let places: Vec<usize> = (0..taps).flat_map(|tap| (0..channels).map(move |c| c * taps + tap)).collect();
    let (columns, depth) = (s.group_out(), s.depth());
    let (runs, run_len) = runs(s);
    let product =
        |group: usize| PackedProduct::new(isa, columns, [runs, run_len], w, &places, |o| (group * columns + o) * depth);
    (0..s.groups).map(product).collect()
}

/// y `[N, OH, OW, O]` of x `[N, H, W, C]`; padding is x's zero point. `shape` is the one that `w` was packed for, but for batch,
/// input, padding and output.
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
    x.check(NAME, w.x)?;
    y.check(NAME)?;
    epilogue.check(NAME, y.len())?;
    let shift = match &w.weights {
        Weights::Products(products) => products.first().map_or(0, |product| product.shift(w.x)),
        Weights::Depthwise(_) => w.x.flip(),
        Weights::Winograd(_) => 0,
    };
    let columns = Columns::new(cx.isa, NAME, x, &w.sums, x.zero + shift, epilogue, &y)?;
    let columns = match &w.weights {
        Weights::Products(_) | Weights::Winograd(_) => columns,
        Weights::Depthwise(packed) => columns.shifted(packed.shift()),
    };
    if y.len() > 0 {
        Convolution { cx, shape, x, w, columns: &columns, epilogue }.run(&Out::new(y));
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

impl Convolution<'_> {
    fn run(&self, y: &Out<'_>) {
        let finish = |first_row, first_col| QFinish {
            y,
            stride: self.shape.out_channels,
            first_row,
            first_col,
            columns: self.columns,
            residual: self.epilogue.residual,
        };
        // The low byte of a zero point is its pattern in either type.
        let (cx, s, x, fill) = (self.cx, self.shape, self.x.data.raw(), self.x.zero as u8);
        match &self.w.weights {
            Weights::Products(products) => {
                run(cx, s, x, fill, products, &|task| {
                    let finish = finish(task.first_row, task.group * s.group_out());
                    multiply(cx.isa, self.w.x, &task.rows, task.weights, task.columns, &finish);
                });
            }
            Weights::Depthwise(packed) => match self.w.x {
                ByteType::I8 => depthwise::run::<true>(cx, s, x, fill, packed, &finish(0, 0)),
                ByteType::U8 => depthwise::run::<false>(cx, s, x, fill, packed, &finish(0, 0)),
            },
            Weights::Winograd(packed) => winograd::run(cx, s, (x, self.w.x), fill, packed, &finish(0, 0)),
        }
    }
}
