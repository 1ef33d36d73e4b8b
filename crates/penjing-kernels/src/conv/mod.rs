//! Convolution in two dimensions (one dimension is a height of 1): forward, input gradient, weight gradient.
//!
//! All three are the work of one window engine: the part of an image that a window of outputs needs is copied once with its
//! padding, split by stride phase (`layout`), after which every kernel tap is a plain offset and every run of outputs is
//! contiguous. Forward and input gradient pack columns from that copy straight into GEMM panels (`engine`); layers with one
//! or two output channels a group accumulate taps directly; the weight gradient is a tile of dot products over the copy.

pub(crate) mod engine;
mod forward;
mod input_grad;
pub(crate) mod layout;
mod weight_grad;

pub use forward::{ConvWeights, PackedConv, conv};
pub use input_grad::conv_input_grad;
pub use weight_grad::conv_weight_grad;
pub(crate) use weight_grad::fold;

use crate::{KernelError, error::product};

/// The geometry of a convolution: x `[batch, in_channels, H, W]`, w `[out_channels, in_channels / groups, KH, KW]`,
/// y `[batch, out_channels, OH, OW]` with y(o) reading x at `o * stride + k * dilation - pad`. Padding after the end is what
/// `output` implies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub struct ConvShape {
    pub batch: usize,
    pub groups: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    pub input: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    pub pad: [usize; 2],
    pub output: [usize; 2],
}

impl ConvShape {
    /// Input channels of one group.
    pub fn group_in(&self) -> usize {
        self.in_channels / self.groups
    }

    /// Output channels of one group.
    pub fn group_out(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Elements of x.
    pub fn x_len(&self) -> Option<usize> {
        product(&[self.batch, self.in_channels, self.input[0], self.input[1]])
    }

    /// Elements of w.
    pub fn w_len(&self) -> Option<usize> {
        product(&[self.out_channels, self.group_in(), self.kernel[0], self.kernel[1]])
    }

    /// Elements of y.
    pub fn y_len(&self) -> Option<usize> {
        product(&[self.batch, self.out_channels, self.output[0], self.output[1]])
    }

    /// Weights of one output channel: the depth of the product.
    pub(crate) fn depth(&self) -> usize {
        self.group_in() * self.kernel[0] * self.kernel[1]
    }

    pub(crate) fn check(&self, kernel: &'static str) -> Result<(), KernelError> {
        let fail = |why| Err(KernelError::Geometry { kernel, why });
        let divides = |n: usize| self.groups != 0 && n.is_multiple_of(self.groups);
        if !divides(self.in_channels) || !divides(self.out_channels) {
            return fail("the groups do not divide the channels");
        }
        if self.kernel.contains(&0) || self.stride.contains(&0) || self.dilation.contains(&0) {
            return fail("kernel, stride and dilation must be at least 1");
        }
        // Every coordinate and element count below this stays far from overflow in the index arithmetic.
        let limit = isize::MAX as usize >> 8;
        for axis in 0..2 {
            let reach = (self.kernel[axis] - 1)
                .checked_mul(self.dilation[axis])
                .zip(self.output[axis].checked_mul(self.stride[axis]))
                .and_then(|(a, b)| a.checked_add(b)?.checked_add(self.pad[axis])?.checked_add(self.input[axis]));
            if reach.is_none_or(|r| r > limit) {
                return fail("the geometry overflows");
            }
        }
        match (self.x_len(), self.w_len(), self.y_len()) {
            (Some(x), Some(w), Some(y)) if x < limit && w < limit && y < limit => Ok(()),
            _ => fail("a tensor is too large"),
        }
    }
}

#[cfg(test)]
mod tests;
