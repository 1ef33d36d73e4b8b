//! Convolutions. A channel axis is two digits: the group, and the channel within its group.
//!
//! A spatial axis is free where windows do not overlap and do not reach into padding: each output then has a block of inputs of its
//! own. Where the windows also leave no gap, the place within the window is a digit that goes with the kernel.

use super::{Operand, Row, Segment, TieRole, member};
use crate::{ConvSpec, Reduction};

const X: Operand = Operand::In(0);
const W: Operand = Operand::In(1);
const Y: Operand = Operand::Out(0);
const SUM: TieRole = TieRole::Reduced(Reduction::Sum);
const OVERLAP: &str = "windows overlap or reach into padding";

pub(super) fn conv(row: &mut Row, spec: &ConvSpec) {
    row.whole(TieRole::Free, &[(X, 0), (Y, 0)]);
    let g = spec.groups;
    let (c, o) = (row.x[1][1], row.x[1][0] / g);
    let mut outputs = vec![(W, 0), (Y, 1)];
    if row.x.len() > 2 {
        outputs.push((Operand::In(2), 0));
        row.row.addends.push(2);
    }
    let mut group = vec![member(X, 1, Segment::blocks(c))];
    group.extend(outputs.iter().map(|&(operand, axis)| member(operand, axis, Segment::blocks(o))));
    row.tie(TieRole::Free, g, group);
    row.tie(SUM, c, vec![member(X, 1, within(g, c)), member(W, 1, Segment::PLAIN)]);
    let each = outputs.iter().map(|&(operand, axis)| member(operand, axis, within(g, o)));
    row.tie(TieRole::Free, o, each.collect());
    for i in 0..spec.rank() {
        let windows = Windows::of(row.x[0][i + 2], row.x[1][i + 2], row.y[0][i + 2], spec, i);
        spatial(row, i + 2, windows, [X, W, Y], [TieRole::Free, SUM]);
    }
}

pub(super) fn conv_transpose(row: &mut Row, spec: &ConvSpec, output_pad: &[usize]) {
    row.whole(TieRole::Free, &[(X, 0), (Y, 0)]);
    let g = spec.groups;
    let (c, o) = (row.x[1][0] / g, row.x[1][1]);
    let mut outputs = vec![(Y, 1)];
    if row.x.len() > 2 {
        outputs.push((Operand::In(2), 0));
        row.row.addends.push(2);
    }
    let mut group = vec![member(X, 1, Segment::blocks(c)), member(W, 0, Segment::blocks(c))];
    group.extend(outputs.iter().map(|&(operand, axis)| member(operand, axis, Segment::blocks(o))));
    row.tie(TieRole::Free, g, group);
    row.tie(SUM, c, vec![member(X, 1, within(g, c)), member(W, 0, within(g, c))]);
    let mut each = vec![member(W, 1, Segment::PLAIN)];
    each.extend(outputs.iter().map(|&(operand, axis)| member(operand, axis, within(g, o))));
    row.tie(TieRole::Free, o, each);
    for i in 0..spec.rank() {
        // The roles of input and output change sides.
        let windows = match output_pad[i] {
            0 => Windows::of(row.y[0][i + 2], row.x[1][i + 2], row.x[0][i + 2], spec, i),
            _ => Windows::Overlap,
        };
        spatial(row, i + 2, windows, [Y, W, X], [TieRole::Free, TieRole::Free]);
    }
}

pub(super) fn conv_weight_grad(row: &mut Row, spec: &ConvSpec, kernel: &[usize]) {
    let dy = Operand::In(1);
    let dw = Operand::Out(0);
    row.whole(SUM, &[(X, 0), (dy, 0)]);
    let g = spec.groups;
    let (c, o) = (row.y[0][1], row.y[0][0] / g);
    let blocks =
        vec![member(X, 1, Segment::blocks(c)), member(dy, 1, Segment::blocks(o)), member(dw, 0, Segment::blocks(o))];
    row.tie(TieRole::Free, g, blocks);
    row.tie(TieRole::Free, c, vec![member(X, 1, within(g, c)), member(dw, 1, Segment::PLAIN)]);
    row.tie(TieRole::Free, o, vec![member(dy, 1, within(g, o)), member(dw, 0, within(g, o))]);
    for i in 0..spec.rank() {
        let windows = Windows::of(row.x[0][i + 2], kernel[i], row.x[1][i + 2], spec, i);
        spatial(row, i + 2, windows, [X, dw, dy], [SUM, TieRole::Free]);
    }
}

/// How the windows of one spatial axis lie.
pub(super) enum Windows {
    /// They share inputs, or reach into padding.
    Overlap,
    /// Each has a block of this many inputs.
    Apart { block: usize },
    /// Each is its block, and together they are the whole axis.
    Tile { kernel: usize },
}

impl Windows {
    fn of(large: usize, kernel: usize, small: usize, spec: &ConvSpec, i: usize) -> Windows {
        let (stride, dilation) = (spec.strides[i], spec.dilations[i]);
        Windows::new(large, kernel, small, stride, dilation, spec.pads[i])
    }

    pub(super) fn new(
        large: usize,
        kernel: usize,
        small: usize,
        stride: usize,
        dilation: usize,
        pads: (usize, usize),
    ) -> Windows {
        let reach = dilation * (kernel - 1) + 1;
        if pads != (0, 0) || reach > stride || small * stride > large {
            Windows::Overlap
        } else if kernel == stride && small * stride == large {
            Windows::Tile { kernel }
        } else {
            Windows::Apart { block: stride }
        }
    }
}

/// Ties of one spatial axis of (the side with the windows, the kernel, the side with one element for each window).
fn spatial(
    row: &mut Row,
    axis: usize,
    windows: Windows,
    [large, kernel, small]: [Operand; 3],
    [position, place]: [TieRole; 2],
) {
    let count = row.shape(small)[axis];
    let blocks = |block| vec![member(large, axis, Segment::blocks(block)), member(small, axis, Segment::PLAIN)];
    match windows {
        Windows::Overlap => [large, kernel, small].into_iter().for_each(|o| row.untie(o, axis, OVERLAP)),
        Windows::Apart { block } => {
            row.tie(position, count, blocks(block));
            row.untie(kernel, axis, "the window leaves gaps");
            if count * block != row.shape(large)[axis] || count == 1 {
                row.untie(large, axis, "outside every window");
            }
        }
        Windows::Tile { kernel: k } => {
            row.tie(position, count, blocks(k));
            let places = Segment { repeat: count, period: k, ..Segment::PLAIN };
            row.tie(place, k, vec![member(large, axis, places), member(kernel, axis, Segment::PLAIN)]);
        }
    }
}

/// The channel within its group.
fn within(groups: usize, each: usize) -> Segment {
    if groups > 1 { Segment::repeated(groups, each) } else { Segment::PLAIN }
}
