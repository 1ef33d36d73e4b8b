//! The forward pass.

use super::{LstmShape, panels::Panels};
use crate::{
    Ctx, Isa, KernelError, Pool,
    arena::Line,
    gemm::{Bias, Epilogue, GemmShape, Lhs, Mat, PackedRhs, Rhs, gemm},
    isa::{Math, per_isa},
    math::{sigmoid, tanh},
    pool::Disjoint,
    scratch::with_scratch,
};
use bytemuck::Zeroable;

const NAME: &str = "lstm";

/// The weights of all directions.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    /// Of the input: `[D, 4H, I]`.
    pub w: &'a [f32],
    /// Of the hidden state: `[D, 4H, H]`.
    pub r: &'a [f32],
    /// Of the input, then of the hidden state: `[D, 8H]`.
    pub b: &'a [f32],
}

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
    directions: Vec<PackedDirection>,
}

struct PackedDirection {
    w: PackedRhs,
    /// Panels.
    r: Vec<Line>,
    bias: Vec<f32>,
}

impl PackedLstm {
    /// Packs the weights of `shape`; its steps and batch do not matter.
    pub fn new(isa: Isa, shape: &LstmShape, weights: Weights<'_>) -> Result<PackedLstm, KernelError> {
        check_weights(shape, &weights)?;
        let (input, hidden, panels) = (shape.input, shape.hidden, panels(shape));
        let pool = Pool::new(1);
        let direction = |d: usize| {
            let Weights { w, r, b } = weights.direction(shape, d);
            let mut lines = vec![Line::zeroed(); (panels.len() * size_of::<f32>()).div_ceil(size_of::<Line>())];
            let out = &mut bytemuck::cast_slice_mut(&mut lines)[..panels.len()];
            panels.pack(Ctx { isa, pool: &pool }, Mat::transposed(r, hidden), out);
            let w = PackedRhs::new(isa, input, 4 * hidden, Mat::transposed(w, input))?;
            Ok(PackedDirection { w, r: lines, bias: sum_of_biases(b) })
        };
        let directions = (0..shape.directions()).map(direction).collect::<Result<_, KernelError>>()?;
        Ok(PackedLstm { input, hidden, directions })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.directions.iter().map(|d| d.w.bytes() + size_of_val(&d.r[..]) + size_of_val(&d.bias[..])).sum()
    }
}

impl<'a> Weights<'a> {
    /// Those of one direction, without the axis.
    fn direction(&self, shape: &LstmShape, d: usize) -> Weights<'a> {
        let (i, h) = (shape.input, shape.hidden);
        let g = 4 * h;
        Weights {
            w: &self.w[d * g * i..(d + 1) * g * i],
            r: &self.r[d * g * h..(d + 1) * g * h],
            b: &self.b[d * 2 * g..(d + 1) * 2 * g],
        }
    }
}

fn check_weights(shape: &LstmShape, weights: &Weights<'_>) -> Result<(), KernelError> {
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

/// The recurrent weights: the gates of eight hidden units in each panel.
fn panels(shape: &LstmShape) -> Panels {
    Panels { depth: shape.hidden, units: shape.hidden, gates: 4, width: 1 }
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
    shape: &LstmShape,
    x: &[f32],
    weights: LstmWeights<'_>,
    h0: &[f32],
    c0: &[f32],
    out: LstmOutputs<'_>,
) -> Result<(), KernelError> {
    let LstmShape { steps, batch, input, hidden, .. } = *shape;
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
        let run = Run { h0: &h0[part.clone()], c: &mut out.c[part.clone()], y, reserve: reserve.as_deref_mut() };
        match weights {
            LstmWeights::Packed(packed) => {
                let p = &packed.directions[d];
                let weights = Direction { w: Rhs::Packed(&p.w), r: bytemuck::cast_slice(&p.r), bias: &p.bias };
                run_direction(cx, shape, d, &weights, x, run)?;
            }
            LstmWeights::Plain(all) => with_scratch::<f32, _>(panels(shape).len(), |packed| {
                let Weights { w, r, b } = all.direction(shape, d);
                panels(shape).pack(cx, Mat::transposed(r, hidden), packed);
                let w = Rhs::Plain(Mat::transposed(w, input));
                run_direction(cx, shape, d, &Direction { w, r: packed, bias: &sum_of_biases(b) }, x, run)
            })?,
        }
        let last = shape.row(shape.time(d, steps - 1), d, hidden);
        out.h[part].copy_from_slice(&y[last..last + state]);
    }
    Ok(())
}

/// The weights of one direction.
struct Direction<'a> {
    w: Rhs<'a>,
    /// [`panels`]
    r: &'a [f32],
    /// Sum of both biases: `[4H]`.
    bias: &'a [f32],
}

/// What one direction reads and writes: its states, and the whole of y and reserve.
struct Run<'a> {
    h0: &'a [f32],
    c: &'a mut [f32],
    y: &'a mut [f32],
    reserve: Option<&'a mut [f32]>,
}

fn run_direction(
    cx: Ctx<'_>,
    shape: &LstmShape,
    d: usize,
    weights: &Direction<'_>,
    x: &[f32],
    run: Run<'_>,
) -> Result<(), KernelError> {
    let LstmShape { steps, batch, input, hidden, .. } = *shape;
    let gates = 4 * hidden;
    let block = shape.block().min(steps);
    let (y, c, reserve) = (Disjoint::new(run.y), Disjoint::new(run.c), run.reserve.map(Disjoint::new));
    let panels = panels(shape);
    let units = panels.task_units(batch);
    with_scratch::<f32, _>(block * batch * gates, |pre| {
        for first in (0..steps).step_by(block) {
            let taken = first..steps.min(first + block);
            let times = shape.times(d, &taken);
            let rows = times.len() * batch;
            let x = Mat::rows(&x[times.start * batch * input..times.end * batch * input], input);
            let epilogue = Epilogue { bias: Bias::Col(weights.bias), ..Epilogue::default() };
            let product = GemmShape { m: rows, n: gates, k: input };
            gemm(cx, product, Lhs::Plain(x), weights.w, &epilogue, &mut pre[..rows * gates], gates)?;
            let pre = &*pre;
            cx.pool.run_rounds(taken.len(), hidden.div_ceil(units), &|round, task| {
                let s = first + round;
                let t = shape.time(d, s);
                let own = task * units..hidden.min((task + 1) * units);
                let h = match s.checked_sub(1) {
                    None => run.h0,
                    // SAFETY: the hidden states of the step before, written in an earlier round.
                    Some(p) => unsafe { y.read(shape.row(shape.time(d, p), d, hidden), batch * hidden) },
                };
                with_scratch::<f32, _>(batch * 4 * units, |sums| {
                    panels.product(cx, h, weights.r, own.clone(), sums, units);
                    for (b, sums) in sums.chunks_exact_mut(4 * units).enumerate() {
                        let pre = &pre[((t - times.start) * batch + b) * gates..][..gates];
                        add_gates(cx.isa, &pre[own.start..], hidden, sums, units, own.len());
                        let row = shape.row(t, d, hidden) + b * hidden;
                        // SAFETY: every task has units, and every round a time, of its own.
                        unsafe {
                            let c = c.slice(b * hidden + own.start, own.len());
                            cell(cx.isa, sums, units, c, y.slice(row + own.start, own.len()));
                            if let Some(reserve) = &reserve {
                                let at = 5 * row + own.start;
                                for gate in 0..4 {
                                    let kept = reserve.slice(at + gate * hidden, own.len());
                                    kept.copy_from_slice(&sums[gate * units..][..own.len()]);
                                }
                                reserve.slice(at + 4 * hidden, own.len()).copy_from_slice(c);
                            }
                        }
                    }
                });
            });
        }
        Ok(())
    })
}

per_isa! {
    /// Adds the first `n` elements of each gate of `pre` to those of `sums`; the gates are `stride` and `units` apart.
    fn add_gates(pre: &[f32], stride: usize, sums: &mut [f32], units: usize, n: usize) = add_gates_body
}

#[inline(always)]
fn add_gates_body<M: Math>(pre: &[f32], stride: usize, sums: &mut [f32], units: usize, n: usize) {
    for gate in 0..4 {
        let (pre, sums) = (&pre[gate * stride..][..n], &mut sums[gate * units..][..n]);
        for j in 0..n {
            sums[j] += pre[j];
        }
    }
}

per_isa! {
    /// Some units of one row: `gates`, `stride` apart, become the activated gates, `c` and `h` the new states.
    pub(super) fn cell(gates: &mut [f32], stride: usize, c: &mut [f32], h: &mut [f32]) = cell_body
}

/// Several short loops over few slices each, because the compiler vectorises those.
#[inline(always)]
fn cell_body<M: Math>(gates: &mut [f32], stride: usize, c: &mut [f32], h: &mut [f32]) {
    let n = h.len();
    // No closures: the compiler would leave them outside the function that has the instruction set.
    for gate in 0..3 {
        for v in gates[gate * stride..][..n].iter_mut() {
            *v = sigmoid::<M>(*v);
        }
    }
    for v in gates[3 * stride..][..n].iter_mut() {
        *v = tanh::<M>(*v);
    }
    let (i, o, f, g) = (&gates[..n], &gates[stride..][..n], &gates[2 * stride..][..n], &gates[3 * stride..][..n]);
    let c = &mut c[..n];
    for j in 0..n {
        c[j] = M::fma(f[j], c[j], i[j] * g[j]);
    }
    for j in 0..n {
        h[j] = o[j] * tanh::<M>(c[j]);
    }
}
