//! The forward pass on integers: all products exact, the cell in f32.
//!
//! What a step multiplies, the hidden state and its product with the reset gate where that comes first, is rounded to a grid, each
//! batch row to that of its own range, so that what a row gives does not depend on the others; outputs are not rounded.

use super::{
    GruReset,
    steps::{Biases, Pass, Products},
};
use crate::{
    Activation, Ctx, Isa, KernelError,
    error::check_len,
    int8::{ByteType, PackedQGemm, QEpilogue, QOut, QTensor, WeightLayout, check_depth, qgemm},
    recurrent::{QWeights, RecurrentShape, qpanels::QPanels},
};
use std::ops::Range;

const NAME: &str = "qgru";

/// Weights packed once.
pub struct PackedQGru {
    input: usize,
    hidden: usize,
    reset: GruReset,
    directions: Vec<PackedDirection>,
}

struct PackedDirection {
    w: PackedQGemm,
    /// The recurrent weights of each round.
    r: Vec<QPanels>,
}

impl PackedQGru {
    /// Packs the weights of `shape` for an input of type `x` and a level; steps and batch do not matter.
    pub fn new(
        isa: Isa,
        shape: &RecurrentShape,
        weights: QWeights<'_>,
        reset: GruReset,
        x: ByteType,
    ) -> Result<PackedQGru, KernelError> {
        let (d, i, h) = (shape.directions(), shape.input, shape.hidden);
        shape.check(NAME, "w", &[d, 3, h, i], weights.w.len())?;
        shape.check(NAME, "r", &[d, 3, h, h], weights.r.len())?;
        check_depth(NAME, h)?;
        let g = 3 * h;
        let direction = |d: usize| {
            let w = &weights.w[d * g * i..(d + 1) * g * i];
            let r = &weights.r[d * g * h..(d + 1) * g * h];
            let round = |&(first, gates): &(usize, usize)| QPanels::new(h, gates, &r[first * h * h..]);
            Ok(PackedDirection {
                w: PackedQGemm::new(isa, i, g, w, WeightLayout::Transposed, x)?,
                r: reset.rounds().iter().map(round).collect(),
            })
        };
        let directions = (0..d).map(direction).collect::<Result<_, KernelError>>()?;
        Ok(PackedQGru { input: i, hidden: h, reset, directions })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let of = |d: &PackedDirection| d.w.bytes() + d.r.iter().map(QPanels::bytes).sum::<usize>();
        self.directions.iter().map(of).sum()
    }
}

/// What an integer GRU reads beside x and the packed weights.
#[derive(Clone, Copy, Debug)]
pub struct QGruOperands<'a> {
    /// Scales of the rows of w: `[3H]`.
    pub w_scale: &'a [f32],
    /// Scales of the rows of r: `[3H]`.
    pub r_scale: &'a [f32],
    /// Biases of the input, then of the hidden state: `[D, 6H]`.
    pub b: &'a [f32],
    /// First hidden state: `[D, B, H]`.
    pub h0: &'a [f32],
}

/// Runs over x `[T, B, I]`: all hidden states go to y `[T, D, B, H]`, the last to h `[D, B, H]`.
pub fn qgru(
    cx: Ctx<'_>,
    shape: &RecurrentShape,
    x: QTensor<'_>,
    weights: &PackedQGru,
    operands: &QGruOperands<'_>,
    y: &mut [f32],
    h: &mut [f32],
) -> Result<(), KernelError> {
    let RecurrentShape { steps, batch, input, hidden, .. } = *shape;
    let d = shape.directions();
    let QGruOperands { w_scale, r_scale, b, h0 } = *operands;
    shape.check(NAME, "x", &[steps, batch, input], x.data.len())?;
    shape.check(NAME, "h0", &[d, batch, hidden], h0.len())?;
    shape.check(NAME, "h", &[d, batch, hidden], h.len())?;
    shape.check(NAME, "y", &[steps, d, batch, hidden], y.len())?;
    shape.check(NAME, "b", &[d, 6, hidden], b.len())?;
    if (weights.input, weights.hidden, weights.directions.len()) != (input, hidden, d) {
        return Err(KernelError::Geometry { kernel: NAME, why: "the weights were packed for another shape" });
    }
    check_len(NAME, "w_scale", Some(3 * hidden), w_scale.len())?;
    check_len(NAME, "r_scale", Some(3 * hidden), r_scale.len())?;
    if y.is_empty() {
        h.copy_from_slice(h0);
        return Ok(());
    }
    let (state, reset) = (batch * hidden, weights.reset);
    for (d, packed) in weights.directions.iter().enumerate() {
        let part = d * state..(d + 1) * state;
        let biases = Biases::new(&b[d * 6 * hidden..(d + 1) * 6 * hidden], reset);
        let of_round = |(r, &(first, _)): (&QPanels, &(usize, usize))| r.columns(&r_scale[first * hidden..]);
        let r_scale = packed.r.iter().zip(reset.rounds()).map(of_round).collect();
        let products = &Direction { cx, shape, x, packed, w_scale, r_scale, bias: &biases.outer };
        let (inner_bias, h0) = (&biases.inner, &h0[part.clone()]);
        Pass { cx, shape, d, reset, products, inner_bias, h0 }.run(y, &mut h[part])?;
    }
    Ok(())
}

/// The products of one direction.
struct Direction<'a> {
    cx: Ctx<'a>,
    shape: &'a RecurrentShape,
    x: QTensor<'a>,
    packed: &'a PackedDirection,
    /// `[3H]`
    w_scale: &'a [f32],
    /// As the columns of each round's panels.
    r_scale: Vec<Vec<f32>>,
    /// `[3H]`
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

    fn of_hidden(&self, round: usize, left: &[f32], own: &Range<usize>, sums: &mut [f32], stride: usize) {
        self.packed.r[round].product_of_floats(self.cx.isa, left, &self.r_scale[round], own.clone(), sums, stride);
    }

    fn task_units(&self) -> usize {
        self.packed.r[0].task_units(self.shape.batch)
    }
}
