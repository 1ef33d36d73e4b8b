//! Channels-last convolution: x `[N, H, W, C]` to y `[N, OH, OW, O]` (one dimension is a height of 1).
//!
//! Weights stay in the canonical order `[O, C / groups, KH, KW]` until they are packed once, for one of several methods:
//! the product of output pixels by kernel windows (`direct`, the driver of [`crate::igemm`]), channel by channel (`depthwise`), or
//! Winograd's transforms (`winograd`).
//! [`Method::candidates`] lists those that a shape allows. The gradient of x is itself such a convolution (`input_grad`); that of
//! the weights is a sum of outer products (`weight_grad`).

mod depthwise;
pub(crate) mod direct;
mod input_grad;
mod output;
pub(crate) mod tiles;
mod weight_grad;
pub(crate) mod window;
mod winograd;

pub use input_grad::{conv_last_input_grad, input_grad_method};
pub use weight_grad::conv_last_weight_grad;

use crate::{
    Ctx, Isa, KernelError,
    activation::Activation,
    conv::ConvShape,
    error::check_len,
    igemm::{PackedB, finish::Finish, multiply},
    pool::Disjoint,
};

const NAME: &str = "conv_last";

/// Tiles of 4 × 4 outputs from which Winograd's method pays for transforming the weights as well.
const WINOGRAD_TILES: usize = 128;

/// How a convolution is computed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Method {
    /// A product over the taps and channels of each window, group by group. Any shape that is not depthwise.
    Direct,
    /// Channel by channel. As many groups as input and output channels.
    Depthwise,
    /// Winograd's F(2, 3): kernels of 3 × 3 with stride 1, a little less exact; not for infinities.
    Winograd2,
    /// Winograd's F(4, 3): fewest multiplications, least exact; not for infinities.
    Winograd4,
}

impl Method {
    /// The methods that `shape` allows, the one that [`PackedConvLast::new`] takes first.
    pub fn candidates(shape: &ConvShape) -> impl Iterator<Item = Method> {
        let methods: &[Method] = if depthwise::fits(shape) {
            &[Method::Depthwise]
        } else {
            match winograd::gain(shape) {
                None => &[Method::Direct],
                Some(winograd::Gain::Little) => &[Method::Direct, Method::Winograd4, Method::Winograd2],
                Some(winograd::Gain::Small) => &[Method::Winograd2, Method::Winograd4, Method::Direct],
                Some(winograd::Gain::Large) => &[Method::Winograd4, Method::Winograd2, Method::Direct],
            }
        };
        methods.iter().copied()
    }

    /// The method for `shape` that is as exact as the definition and whose weights are quickest to pack.
    pub fn plain(shape: &ConvShape) -> Method {
        if depthwise::fits(shape) { Method::Depthwise } else { Method::Direct }
    }

    /// The method for weights that are packed in every run: Winograd's where each packed weight is read by tiles enough.
    pub fn of_packing(shape: &ConvShape) -> Method {
        let tiles = shape.batch * shape.output[0].div_ceil(4) * shape.output[1].div_ceil(4);
        match winograd::gain(shape) {
            Some(winograd::Gain::Large) if tiles >= WINOGRAD_TILES => Method::Winograd4,
            _ => Method::plain(shape),
        }
    }

    /// The row of the kernel table.
    pub fn spec(self) -> &'static str {
        match self {
            Method::Direct => "f32-f32-f32w-conv_last",
            Method::Depthwise => "f32-f32-f32w-conv_last_depthwise",
            Method::Winograd2 => "f32-f32-f32w-conv_last_winograd.2x2",
            Method::Winograd4 => "f32-f32-f32w-conv_last_winograd.4x4",
        }
    }
}

/// Convolution weights packed once for a [`Method`].
pub struct PackedConvLast {
    key: Key,
    method: Method,
    weights: Weights,
}

enum Weights {
    /// One product a group.
    Direct(Vec<PackedB>),
    /// `[C / 16][tap][16]`.
    Depthwise(Vec<f32>),
    /// 16 matrices of F(2, 3).
    Winograd2(Vec<PackedB>),
    /// 36 matrices of F(4, 3).
    Winograd4(Vec<PackedB>),
}

/// What of a shape the packed weights depend on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    groups: usize,
    in_channels: usize,
    out_channels: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
}

impl Key {
    fn new(s: &ConvShape) -> Key {
        Key {
            groups: s.groups,
            in_channels: s.in_channels,
            out_channels: s.out_channels,
            kernel: s.kernel,
            stride: s.stride,
            dilation: s.dilation,
        }
    }
}

impl PackedConvLast {
    /// Packs `w`, `[out_channels, in_channels / groups, KH, KW]`, for the first of the [`candidates`](Method::candidates).
    /// Batch, input and output extents of `shape` do not matter to the result, only to the choice.
    pub fn new(isa: Isa, shape: &ConvShape, w: &[f32]) -> Result<PackedConvLast, KernelError> {
        shape.check(NAME)?;
        let method = Method::candidates(shape).next().unwrap_or(Method::Direct);
        PackedConvLast::new_with(isa, shape, w, method)
    }

    /// Packs for `method`; `Geometry` where the shape does not allow it.
    pub fn new_with(isa: Isa, shape: &ConvShape, w: &[f32], method: Method) -> Result<PackedConvLast, KernelError> {
        shape.check(NAME)?;
        check_len(NAME, "w", shape.w_len(), w.len())?;
        if !Method::candidates(shape).any(|m| m == method) {
            return Err(KernelError::Geometry { kernel: NAME, why: "the method does not fit the shape" });
        }
        let weights = match method {
            Method::Direct => Weights::Direct(direct::pack(shape, w)),
            Method::Depthwise => Weights::Depthwise(depthwise::pack(shape, w)),
            Method::Winograd2 => Weights::Winograd2(winograd::pack::<winograd::Two, 4, 2>(isa, shape, w)),
            Method::Winograd4 => Weights::Winograd4(winograd::pack::<winograd::Four, 6, 4>(isa, shape, w)),
        };
        Ok(PackedConvLast { key: Key::new(shape), method, weights })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Direct(products) | Weights::Winograd2(products) | Weights::Winograd4(products) => {
                products.iter().map(PackedB::bytes).sum()
            }
            Weights::Depthwise(w) => size_of_val(&w[..]),
        }
    }

    /// The row of the kernel table that runs.
    pub fn name(&self) -> &'static str {
        self.method.spec()
    }
}

/// What happens to a sum before it is stored: `activation(sum + bias[o] + residual)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConvEpilogue<'a> {
    /// One value an output channel.
    pub bias: Option<&'a [f32]>,
    /// Of y's shape and layout.
    pub residual: Option<&'a [f32]>,
    /// The last operation.
    pub activation: Activation,
}

/// y `[N, OH, OW, O]` of x `[N, H, W, C]`. `shape` is the one that `w` was packed for, but for batch, input, padding and output.
pub fn conv_last(
    cx: Ctx<'_>,
    shape: &ConvShape,
    x: &[f32],
    w: &PackedConvLast,
    epilogue: &ConvEpilogue<'_>,
    y: &mut [f32],
) -> Result<(), KernelError> {
    shape.check(NAME)?;
    check_len(NAME, "x", shape.x_len(), x.len())?;
    check_len(NAME, "y", shape.y_len(), y.len())?;
    if w.key != Key::new(shape) {
        return Err(KernelError::Geometry { kernel: NAME, why: "the weights were packed for another shape" });
    }
    if let Some(bias) = epilogue.bias {
        check_len(NAME, "bias", Some(shape.out_channels), bias.len())?;
    }
    if let Some(residual) = epilogue.residual {
        check_len(NAME, "residual", shape.y_len(), residual.len())?;
    }
    if y.is_empty() {
        return Ok(());
    }
    let y = Disjoint::new(y);
    match &w.weights {
        Weights::Depthwise(w) => depthwise::run(cx, shape, x, w, epilogue, &y),
        Weights::Winograd2(w) => winograd::run::<winograd::Two, 4, 2>(cx, shape, x, w, epilogue, &y),
        Weights::Winograd4(w) => winograd::run::<winograd::Four, 6, 4>(cx, shape, x, w, epilogue, &y),
        Weights::Direct(groups) => {
            let group_out = shape.group_out();
            direct::run(cx, shape, x, 0.0, groups, &|task| {
                let finish = Finish {
                    isa: cx.isa,
                    c: &y,
                    stride: shape.out_channels,
                    first_row: task.first_row,
                    first_col: task.group * group_out,
                    bias: epilogue.bias.map(|b| &b[task.group * group_out..(task.group + 1) * group_out]),
                    residual: epilogue.residual,
                    activation: epilogue.activation,
                };
                multiply(cx.isa, &task.rows, 1, &task.weights.view(), task.columns, &finish);
            });
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
