//! The forward pass on integers: both products exact, the cell in f32.
//!
//! The hidden state that a step multiplies is rounded to a grid, each batch row to that of its own range, so that what a row
//! gives does not depend on the others; outputs and the cell state are not rounded.

use super::{
    forward::{LstmOutputs, sum_of_biases},
    steps::{Products, Run, run_direction},
};
use crate::{
    Activation, Ctx, Isa, KernelError,
    error::check_len,
    int8::{ByteType, PackedQGemm, QEpilogue, QOut, QTensor, WeightLayout, check_depth, qgemm},
    recurrent::{QWeights, RecurrentShape, qpanels::QPanels},
};
use std::ops::Range;

const NAME: &str = "qlstm";

/// Weights packed once.
pub struct PackedQLstm {
    input: usize,
    hidden: usize,
    directions: Vec<PackedDirection>,
}

struct PackedDirection {
    w: PackedQGemm,
    r: QPanels,
}

impl PackedQLstm {
    /// Packs the weights of `shape` for an input of type `x` and a level; steps and batch do not matter.
    pub fn new(
        isa: Isa,
        shape: &RecurrentShape,
        weights: QWeights<'_>,
        x: ByteType,
    ) -> Result<PackedQLstm, KernelError> {
        let (d, i, h) = (shape.directions(), shape.input, shape.hidden);
        shape.check(NAME, "w", &[d, 4, h, i], weights.w.len())?;
        shape.check(NAME, "r", &[d, 4, h, h], weights.r.len())?;
        let g = 4 * h;
        let direction = |d: usize| {
            let w = &weights.w[d * g * i..(d + 1) * g * i];
            Ok(PackedDirection {
                w: PackedQGemm::new(isa, i, g, w, WeightLayout::Transposed, x)?,
                r: QPanels::new(h, 4, &weights.r[d * g * h..(d + 1) * g * h]),
            })
        };
        check_depth(NAME, h)?;
        Ok(PackedQLstm { input: i, hidden: h, directions: (0..d).map(direction).collect::<Result<_, KernelError>>()? })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.directions.iter().map(|d| d.w.bytes() + d.r.bytes()).sum()
    }
}

/// What an integer LSTM reads beside x and the packed weights.
#[derive(Clone, Copy, Debug)]
pub struct QLstmOperands<'a> {
    /// Scales of the rows of w: `[4H]`.
    pub w_scale: &'a [f32],
    /// Scales of the rows of r: `[4H]`.
    pub r_scale: &'a [f32],
    /// Biases of the input, then of the hidden state: `[D, 8H]`.
    pub b: &'a [f32],
    /// First hidden state: `[D, B, H]`.
    pub h0: &'a [f32],
    /// First cell state: `[D, B, H]`.
    pub c0: &'a [f32],
}

/// Runs over x `[T, B, I]`; `out` has no reserve.
pub fn qlstm(
    cx: Ctx<'_>,
    shape: &RecurrentShape,
    x: QTensor<'_>,
    weights: &PackedQLstm,
    operands: &QLstmOperands<'_>,
    out: LstmOutputs<'_>,
) -> Result<(), KernelError> {
    let RecurrentShape { steps, batch, input, hidden, .. } = *shape;
    let d = shape.directions();
    shape.check(NAME, "x", &[steps, batch, input], x.data.len())?;
    let QLstmOperands { b, h0, c0, .. } = *operands;
    for (operand, have) in [("h0", h0.len()), ("c0", c0.len()), ("h", out.h.len()), ("c", out.c.len())] {
        shape.check(NAME, operand, &[d, batch, hidden], have)?;
    }
    shape.check(NAME, "y", &[steps, d, batch, hidden], out.y.len())?;
    shape.check(NAME, "b", &[d, 8, hidden], b.len())?;
    if (weights.input, weights.hidden, weights.directions.len()) != (input, hidden, d) {
        return Err(KernelError::Geometry { kernel: NAME, why: "the weights were packed for another shape" });
    }
    check_len(NAME, "w_scale", Some(4 * hidden), operands.w_scale.len())?;
    check_len(NAME, "r_scale", Some(4 * hidden), operands.r_scale.len())?;
    out.c.copy_from_slice(c0);
    if out.y.is_empty() {
        out.h.copy_from_slice(h0);
        return Ok(());
    }
    let (state, gates) = (batch * hidden, 4 * hidden);
    for (d, packed) in weights.directions.iter().enumerate() {
        let part = d * state..(d + 1) * state;
        let run =
            Run { h0: &h0[part.clone()], h: &mut out.h[part.clone()], c: &mut out.c[part], y: out.y, reserve: None };
        let bias = sum_of_biases(&b[d * 2 * gates..(d + 1) * 2 * gates]);
        let r_scale = packed.r.columns(operands.r_scale);
        let w_scale = operands.w_scale;
        let products = Direction { cx, shape, x, packed, w_scale, r_scale: &r_scale, bias: &bias };
        run_direction(cx, shape, d, &products, run)?;
    }
    Ok(())
}

/// One direction.
struct Direction<'a> {
    cx: Ctx<'a>,
    shape: &'a RecurrentShape,
    x: QTensor<'a>,
    packed: &'a PackedDirection,
    /// `[4H]`
    w_scale: &'a [f32],
    /// As the columns of the panels.
    r_scale: &'a [f32],
    /// Sum of both biases: `[4H]`.
    bias: &'a [f32],
}

impl Products for Direction<'_> {
    fn of_input(&self, times: &Range<usize>, pre: &mut [f32]) -> Result<(), KernelError> {
        let RecurrentShape { batch, input, .. } = *self.shape;
        let x = self.x.part(times.start * batch * input..times.end * batch * input);
        let epilogue =
            QEpilogue { w_scale: self.w_scale, bias: Some(self.bias), residual: None, act: Activation::NONE };
        qgemm(self.cx, times.len() * batch, x, &self.packed.w, &epilogue, QOut::F32(pre))
    }

    fn of_hidden(&self, h: &[f32], own: &Range<usize>, sums: &mut [f32], stride: usize) {
        self.packed.r.product_of_floats(self.cx.isa, h, self.r_scale, own.clone(), sums, stride);
    }

    fn task_units(&self) -> usize {
        self.packed.r.task_units(self.shape.batch)
    }
}
