//! The forward pass.

use super::steps::{Products, Run, run_direction};
use crate::{
    Ctx, Isa, KernelError, Pool,
    arena::Line,
    gemm::{Bias, Epilogue, GemmShape, Mat, PackedRhs, Rhs, gemm},
    recurrent::{
        RecurrentShape, Weights,
        panels::Panels,
        step::{StepWeights, with_step_weights},
    },
};
use std::ops::Range;

const NAME: &str = "lstm";

/// The weights of an [`lstm`].
#[derive(Clone, Copy)]
pub enum LstmWeights<'a> {
    /// Packed during the call.
    Plain(Weights<'a>),
    /// Packed before.
    Packed(&'a PackedLstm),
}

/// Weights packed once.
pub struct PackedLstm {
    input: usize,
    hidden: usize,
    /// How the recurrent weights lie.
    panels: Panels,
    directions: Vec<PackedDirection>,
}

struct PackedDirection {
    w: PackedRhs,
    r: Vec<Line>,
    bias: Vec<f32>,
}

impl PackedLstm {
    /// Packs the weights of `shape`; its steps and batch do not matter.
    pub fn new(isa: Isa, shape: &RecurrentShape, weights: Weights<'_>) -> Result<PackedLstm, KernelError> {
        check_weights(shape, &weights)?;
        let (input, hidden, panels) = (shape.input, shape.hidden, panels(isa, shape));
        let pool = Pool::new(1);
        let direction = |d: usize| {
            let Weights { w, r, b } = weights.direction(shape, d);
            let r = panels.packed(Ctx { isa, pool: &pool }, Mat::transposed(r, hidden));
            let w = PackedRhs::new(isa, input, 4 * hidden, Mat::transposed(w, input))?;
            Ok(PackedDirection { w, r, bias: sum_of_biases(b) })
        };
        let directions = (0..shape.directions()).map(direction).collect::<Result<_, KernelError>>()?;
        Ok(PackedLstm { input, hidden, panels, directions })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.directions.iter().map(|d| d.w.bytes() + size_of_val(&d.r[..]) + size_of_val(&d.bias[..])).sum()
    }
}

impl<'a> Weights<'a> {
    /// Those of one direction, without the axis.
    fn direction(&self, shape: &RecurrentShape, d: usize) -> Weights<'a> {
        let (i, h) = (shape.input, shape.hidden);
        let g = 4 * h;
        Weights {
            w: &self.w[d * g * i..(d + 1) * g * i],
            r: &self.r[d * g * h..(d + 1) * g * h],
            b: &self.b[d * 2 * g..(d + 1) * 2 * g],
        }
    }
}

fn check_weights(shape: &RecurrentShape, weights: &Weights<'_>) -> Result<(), KernelError> {
    let (d, i, h) = (shape.directions(), shape.input, shape.hidden);
    shape.check(NAME, "w", &[d, 4, h, i], weights.w.len())?;
    shape.check(NAME, "r", &[d, 4, h, h], weights.r.len())?;
    shape.check(NAME, "b", &[d, 8, h], weights.b.len())
}

/// `[8H]` of one direction to `[4H]`.
pub(super) fn sum_of_biases(b: &[f32]) -> Vec<f32> {
    let (of_x, of_h) = b.split_at(b.len() / 2);
    of_x.iter().zip(of_h).map(|(x, h)| x + h).collect()
}

/// The recurrent weights: all gates of some hidden units in each panel.
fn panels(isa: Isa, shape: &RecurrentShape) -> Panels {
    Panels::new(isa, shape.hidden, shape.hidden, 4)
}

/// The results of an [`lstm`].
#[derive(Debug)]
pub struct LstmOutputs<'a> {
    /// Every hidden state: `[T, D, B, H]`.
    pub y: &'a mut [f32],
    /// The last hidden state: `[D, B, H]`.
    pub h: &'a mut [f32],
    /// The last cell state: `[D, B, H]`.
    pub c: &'a mut [f32],
    /// The activated gates i, o, f, c and the cell state, for the backward pass: `[T, D, B, 5H]`.
    pub reserve: Option<&'a mut [f32]>,
}

/// Runs over x `[T, B, I]` from the states `h0` and `c0`, both `[D, B, H]`.
pub fn lstm(
    cx: Ctx<'_>,
    shape: &RecurrentShape,
    x: &[f32],
    weights: LstmWeights<'_>,
    h0: &[f32],
    c0: &[f32],
    out: LstmOutputs<'_>,
) -> Result<(), KernelError> {
    let RecurrentShape { steps, batch, input, hidden, .. } = *shape;
    let d = shape.directions();
    shape.check(NAME, "x", &[steps, batch, input], x.len())?;
    let states = [("h0", h0.len()), ("c0", c0.len()), ("h", out.h.len()), ("c", out.c.len())];
    for (operand, have) in states {
        shape.check(NAME, operand, &[d, batch, hidden], have)?;
    }
    shape.check(NAME, "y", &[steps, d, batch, hidden], out.y.len())?;
    if let Some(reserve) = &out.reserve {
        shape.check(NAME, "reserve", &[steps, d, batch, 5, hidden], reserve.len())?;
    }
    if let LstmWeights::Packed(p) = weights
        && (p.input, p.hidden, p.directions.len()) != (input, hidden, d)
    {
        return Err(KernelError::Geometry { kernel: NAME, why: "the weights were packed for another shape" });
    }
    if let LstmWeights::Plain(w) = &weights {
        check_weights(shape, w)?;
    }
    out.c.copy_from_slice(c0);
    if out.y.is_empty() {
        out.h.copy_from_slice(h0);
        return Ok(());
    }
    let state = batch * hidden;
    let (y, mut reserve) = (out.y, out.reserve);
    for d in 0..d {
        let part = d * state..(d + 1) * state;
        let run = Run {
            h0: &h0[part.clone()],
            h: &mut out.h[part.clone()],
            c: &mut out.c[part],
            y,
            reserve: reserve.as_deref_mut(),
        };
        match weights {
            LstmWeights::Packed(packed) => {
                let p = &packed.directions[d];
                let r = &StepWeights::Few { panels: packed.panels, packed: bytemuck::cast_slice(&p.r) };
                let w = Rhs::Packed(&p.w);
                run_direction(cx, shape, d, &Direction { cx, shape, x, w, r, bias: &p.bias }, run)?;
            }
            LstmWeights::Plain(all) => {
                let Weights { w, r, b } = all.direction(shape, d);
                let (w, bias) = (Rhs::Plain(Mat::transposed(w, input)), &sum_of_biases(b));
                with_step_weights(cx, panels(cx.isa, shape), Mat::transposed(r, hidden), batch, |r| {
                    run_direction(cx, shape, d, &Direction { cx, shape, x, w, r, bias }, run)
                })?;
            }
        }
    }
    Ok(())
}

/// One direction.
struct Direction<'a> {
    cx: Ctx<'a>,
    shape: &'a RecurrentShape,
    x: &'a [f32],
    w: Rhs<'a>,
    r: &'a StepWeights<'a>,
    /// Sum of both biases: `[4H]`.
    bias: &'a [f32],
}

impl Products for Direction<'_> {
    fn of_input(&self, times: &Range<usize>, pre: &mut [f32]) -> Result<(), KernelError> {
        let RecurrentShape { batch, input, hidden, .. } = *self.shape;
        let x = Mat::rows(&self.x[times.start * batch * input..times.end * batch * input], input);
        let epilogue = Epilogue { bias: Bias::Col(self.bias), ..Epilogue::default() };
        let product = GemmShape { m: times.len() * batch, n: 4 * hidden, k: input };
        gemm(self.cx, product, x, self.w, &epilogue, pre, 4 * hidden)
    }

    fn of_hidden(&self, h: &[f32], own: &Range<usize>, sums: &mut [f32], stride: usize) {
        self.r.product(self.cx, h, own.clone(), sums, stride);
    }

    fn task_units(&self) -> usize {
        self.r.task_units(self.shape.batch)
    }
}
