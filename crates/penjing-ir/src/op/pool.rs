//! Pooling geometry.

use crate::Dim;

/// What a pooling window computes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PoolKind {
    /// Largest element; padding never wins.
    Max,
    /// Mean.
    Average {
        /// Whether padding counts in the divisor.
        count_include_pad: bool,
    },
}

/// Geometry of a pooling over `kernel.len()` spatial axes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PoolSpec {
    /// Window extents.
    pub kernel: Vec<usize>,
    /// Step of the window.
    pub strides: Vec<usize>,
    /// Padding (before, after) each spatial axis.
    pub pads: Vec<(usize, usize)>,
    /// Distance between window elements.
    pub dilations: Vec<usize>,
    /// Round the output extent up; a window that would start in the padding after the input is dropped.
    pub ceil: bool,
}

/// Output extent of a pooling along one spatial axis.
pub fn pool_extent(input: &Dim, spec: &PoolSpec, axis: usize) -> Dim {
    let (before, after) = spec.pads[axis];
    let reach = spec.dilations[axis] * (spec.kernel[axis].max(1) - 1) + 1;
    let stride = Dim::Const(spec.strides[axis]);
    let span = input.clone() + Dim::Const(before + after) - Dim::Const(reach);
    if !spec.ceil {
        return span.floor_div(&stride) + Dim::Const(1);
    }
    let out = span.ceil_div(&stride) + Dim::Const(1);
    // The last window must start inside the input or the padding before it.
    let last_start_limit = (input.clone() + Dim::Const(before) - Dim::Const(1)).floor_div(&stride) + Dim::Const(1);
    out.at_most(&last_start_limit)
}
