//! The forward pass in f32.

use super::{
    GruReset, NAME,
    steps::{Biases, Pass, Products},
};
use crate::{
    Ctx, Isa, KernelError, Pool,
    arena::Line,
    gemm::{Bias, Epilogue, GemmShape, Mat, PackedRhs, Rhs, gemm},
    recurrent::{RecurrentShape, Weights, panels::Panels},
};
use std::ops::Range;

/// Weights packed once.
pub struct PackedGru {
    input: usize,
    hidden: usize,
    reset: GruReset,
    directions: Vec<PackedDirection>,
}

struct PackedDirection {
    w: PackedRhs,
    /// The recurrent weights of each round.
    r: Vec<(Panels, Vec<Line>)>,
    biases: Biases,
}

impl PackedGru {
    /// Packs w `[D, 3H, I]`, r `[D, 3H, H]` and b `[D, 6H]` of `shape`; its steps and batch do not matter.
    pub fn new(
        isa: Isa,
        shape: &RecurrentShape,
        weights: Weights<'_>,
        reset: GruReset,
    ) -> Result<PackedGru, KernelError> {
        let (d, i, h) = (shape.directions(), shape.input, shape.hidden);
        shape.check(NAME, "w", &[d, 3, h, i], weights.w.len())?;
        shape.check(NAME, "r", &[d, 3, h, h], weights.r.len())?;
        shape.check(NAME, "b", &[d, 6, h], weights.b.len())?;
        let (g, pool) = (3 * h, Pool::new(1));
        let cx = Ctx { isa, pool: &pool };
        let direction = |d: usize| {
            let r = &weights.r[d * g * h..(d + 1) * g * h];
            let round = |&(first, gates): &(usize, usize)| {
                let panels = Panels::new(isa, h, h, gates);
                (panels, panels.packed(cx, Mat::transposed(&r[first * h * h..], h)))
            };
            Ok(PackedDirection {
                w: PackedRhs::new(isa, i, g, Mat::transposed(&weights.w[d * g * i..(d + 1) * g * i], i))?,
                r: reset.rounds().iter().map(round).collect(),
                biases: Biases::new(&weights.b[d * 2 * g..(d + 1) * 2 * g], reset),
            })
        };
        let directions = (0..d).map(direction).collect::<Result<_, KernelError>>()?;
        Ok(PackedGru { input: i, hidden: h, reset, directions })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let of = |d: &PackedDirection| d.w.bytes() + d.r.iter().map(|(_, r)| size_of_val(&r[..])).sum::<usize>();
        self.directions.iter().map(of).sum()
    }
}

/// Runs over x `[T, B, I]` from the state `h0` `[D, B, H]`: all hidden states go to y `[T, D, B, H]`, the last to h `[D, B, H]`.
pub fn gru(
    cx: Ctx<'_>,
    shape: &RecurrentShape,
    x: &[f32],
    weights: &PackedGru,
    h0: &[f32],
    y: &mut [f32],
    h: &mut [f32],
) -> Result<(), KernelError> {
    let RecurrentShape { steps, batch, input, hidden, .. } = *shape;
    let d = shape.directions();
    shape.check(NAME, "x", &[steps, batch, input], x.len())?;
    shape.check(NAME, "h0", &[d, batch, hidden], h0.len())?;
    shape.check(NAME, "h", &[d, batch, hidden], h.len())?;
    shape.check(NAME, "y", &[steps, d, batch, hidden], y.len())?;
    if (weights.input, weights.hidden, weights.directions.len()) != (input, hidden, d) {
        return Err(KernelError::Geometry { kernel: NAME, why: "the weights were packed for another shape" });
    }
    if y.is_empty() {
        h.copy_from_slice(h0);
        return Ok(());
    }
    let state = batch * hidden;
    for (d, packed) in weights.directions.iter().enumerate() {
        let part = d * state..(d + 1) * state;
        let products = &Direction { cx, shape, x, packed };
        let (reset, inner_bias, h0) = (weights.reset, &packed.biases.inner, &h0[part.clone()]);
        Pass { cx, shape, d, reset, products, inner_bias, h0 }.run(y, &mut h[part])?;
    }
    Ok(())
}

/// The products of one direction.
struct Direction<'a> {
    cx: Ctx<'a>,
    shape: &'a RecurrentShape,
    x: &'a [f32],
    packed: &'a PackedDirection,
}

impl Products for Direction<'_> {
    fn of_input(&self, times: &Range<usize>, pre: &mut [f32]) -> Result<(), KernelError> {
        let RecurrentShape { batch, input, hidden, .. } = *self.shape;
        let x = Mat::rows(&self.x[times.start * batch * input..times.end * batch * input], input);
        let epilogue = Epilogue { bias: Bias::Col(&self.packed.biases.outer), ..Epilogue::default() };
        let product = GemmShape { m: times.len() * batch, n: 3 * hidden, k: input };
        gemm(self.cx, product, x, Rhs::Packed(&self.packed.w), &epilogue, pre, 3 * hidden)
    }

    fn of_hidden(&self, round: usize, left: &[f32], own: &Range<usize>, sums: &mut [f32], stride: usize) {
        let (panels, r) = &self.packed.r[round];
        panels.product(self.cx, left, bytemuck::cast_slice(r), own.clone(), sums, stride);
    }

    fn task_units(&self) -> usize {
        self.packed.r[0].0.task_units(self.shape.batch)
    }
}
