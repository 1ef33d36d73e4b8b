//! Derivatives of convolutions. `Conv`, `ConvTranspose` and `ConvWeightGrad` are each bilinear, and each other's derivatives.

use super::{Grads, Vjp};
use crate::GradError;
use penjing_ir::{ConvSpec, Dim, Op, PadMode, Real, Reduction, SliceRange, ValueId, conv_transpose_extent};

pub(super) fn conv(b: &mut Vjp<'_, '_>, spec: &ConvSpec) -> Grads {
    let (x, w, dy) = (b.x(0), b.x(1), b.dy());
    let dx = b.when(0, |b| input_grad(b, spec, x, dy, w))?;
    let dw = b.when(1, |b| weight_grad(b, spec, x, dy, w))?;
    with_bias(b, dx, dw)
}

/// The input gradient is the convolution that is transposed, of the output's gradient; likewise the weight gradient.
pub(super) fn conv_transpose(b: &mut Vjp<'_, '_>, spec: &ConvSpec) -> Grads {
    let (x, w, dy) = (b.x(0), b.x(1), b.dy());
    let dx = b.when(0, |b| {
        let dx = b.s.conv(dy, w, None, spec.clone())?;
        // An output padding of a stride or more makes windows that no input element belongs to.
        let ranges: Vec<SliceRange> = b.x_fact(0).shape.iter().map(SliceRange::full).collect();
        if b.s.fact(dx).shape == b.x_fact(0).shape { Ok(dx) } else { Ok(b.s.op(Op::Slice { ranges }, &[dx])?) }
    })?;
    let dw = b.when(1, |b| {
        let x = pad_to_windows(b, spec, x, dy, w)?;
        weight_grad(b, spec, dy, x, w)
    })?;
    with_bias(b, dx, dw)
}

pub(super) fn conv_weight_grad(b: &mut Vjp<'_, '_>, spec: &ConvSpec) -> Grads {
    let (x, dy, dw) = (b.x(0), b.x(1), b.dy());
    let dx = b.when(0, |b| input_grad(b, spec, x, dy, dw))?;
    let ddy = b.when(1, |b| Ok(b.s.conv(x, dw, None, spec.clone())?))?;
    Ok(vec![dx, ddy])
}

fn with_bias(b: &mut Vjp<'_, '_>, dx: Option<ValueId>, dw: Option<ValueId>) -> Grads {
    let mut grads = vec![dx, dw];
    if b.node.inputs.len() > 2 {
        let dy = b.dy();
        let axes: Vec<usize> = (0..b.s.fact(dy).rank()).filter(|&i| i != 1).collect();
        grads.push(b.when(2, |b| Ok(b.s.reduce(Reduction::Sum, dy, &axes)?))?);
    }
    Ok(grads)
}

/// dy spread back over x; the output padding makes up for what the last stride left over.
fn input_grad(b: &mut Vjp<'_, '_>, spec: &ConvSpec, x: ValueId, dy: ValueId, w: ValueId) -> Result<ValueId, GradError> {
    let kernel = kernel(b, w)?;
    let (have, want) = (b.s.fact(dy).shape, b.s.fact(x).shape);
    let left = |i: usize| want[i + 2].clone() - conv_transpose_extent(&have[i + 2], kernel[i], spec, 0, i);
    let output_pad: Option<Vec<usize>> = (0..spec.rank()).map(|i| left(i).as_const()).collect();
    let Some(output_pad) = output_pad else {
        return b.fail("what the stride leaves over at the end of a symbolic extent is not known; bind it first");
    };
    Ok(b.s.op(Op::ConvTranspose { spec: spec.clone(), output_pad }, &[dy, w])?)
}

fn weight_grad(
    b: &mut Vjp<'_, '_>,
    spec: &ConvSpec,
    x: ValueId,
    dy: ValueId,
    w: ValueId,
) -> Result<ValueId, GradError> {
    let kernel = kernel(b, w)?;
    Ok(b.s.op(Op::ConvWeightGrad { spec: spec.clone(), kernel }, &[x, dy])?)
}

/// The operand of a transposed convolution with zeros for the windows that only its output padding makes.
fn pad_to_windows(
    b: &mut Vjp<'_, '_>,
    spec: &ConvSpec,
    x: ValueId,
    dy: ValueId,
    w: ValueId,
) -> Result<ValueId, GradError> {
    let (kernel, have) = (kernel(b, w)?, b.s.fact(x).shape);
    let windows = |i: usize| penjing_ir::conv_extent(&b.s.fact(dy).shape[i + 2], kernel[i], spec, i);
    let extra: Option<Vec<usize>> = (0..spec.rank()).map(|i| (windows(i) - have[i + 2].clone()).as_const()).collect();
    let Some(extra) = extra else {
        return b.fail("the number of windows over a symbolic extent is not known; bind it first");
    };
    if extra.iter().all(|&n| n == 0) {
        return Ok(x);
    }
    let after = [vec![0, 0], extra].concat();
    Ok(b.s.op(Op::Pad { before: vec![0; after.len()], after, mode: PadMode::Constant(Real(0.0)) }, &[x])?)
}

fn kernel(b: &Vjp<'_, '_>, w: ValueId) -> Result<Vec<usize>, GradError> {
    let known: Option<Vec<usize>> = b.s.fact(w).shape[2..].iter().map(Dim::as_const).collect();
    known.map_or_else(|| b.fail("the kernel extents must be known"), Ok)
}
