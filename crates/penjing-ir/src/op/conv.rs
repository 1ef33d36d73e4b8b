//! Convolution geometry.

use crate::Dim;

/// Geometry of a convolution over `strides.len()` spatial axes; the kernel extents are the weight's.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ConvSpec {
    /// Step of the window on each spatial axis.
    pub strides: Vec<usize>,
    /// Zeros added (before, after) each spatial axis.
    pub pads: Vec<(usize, usize)>,
    /// Distance between kernel elements on each spatial axis.
    pub dilations: Vec<usize>,
    /// Number of channel groups; divides input and output channels.
    pub groups: usize,
}

impl ConvSpec {
    /// Stride 1, no padding, no dilation, one group, over `rank` spatial axes.
    pub fn unit(rank: usize) -> ConvSpec {
        ConvSpec { strides: vec![1; rank], pads: vec![(0, 0); rank], dilations: vec![1; rank], groups: 1 }
    }

    /// Number of spatial axes.
    pub fn rank(&self) -> usize {
        self.strides.len()
    }
}

/// Output extent of a convolution along one spatial axis.
pub fn conv_extent(input: &Dim, kernel: usize, spec: &ConvSpec, axis: usize) -> Dim {
    let (before, after) = spec.pads[axis];
    let reach = spec.dilations[axis] * (kernel.max(1) - 1) + 1;
    (input.clone() + Dim::Const(before + after) - Dim::Const(reach)).floor_div(&Dim::Const(spec.strides[axis]))
        + Dim::Const(1)
}

/// Output extent of a transposed convolution along one spatial axis.
pub fn conv_transpose_extent(input: &Dim, kernel: usize, spec: &ConvSpec, output_pad: usize, axis: usize) -> Dim {
    let (before, after) = spec.pads[axis];
    let reach = spec.dilations[axis] * (kernel.max(1) - 1) + 1;
    (input.clone() - Dim::Const(1)) * Dim::Const(spec.strides[axis]) + Dim::Const(reach + output_pad)
        - Dim::Const(before + after)
}
