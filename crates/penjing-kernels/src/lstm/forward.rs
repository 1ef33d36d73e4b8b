//! The forward pass.

use super::LstmShape;
use crate::{
    Ctx, Isa, KernelError, Pool,
    gemm::{Accumulate, Bias, Epilogue, GemmShape, Lhs, Mat, PackedRhs, Rhs, gemm},
    isa::{Math, per_isa},
    math::{sigmoid, tanh},
    pool::Disjoint,
    scratch::with_scratch,
};

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
    directions: Vec<Direction>,
}

struct Direction {
    w: PackedRhs,
    r: PackedRhs,
    /// Sum of both biases, `[4H]`.
    bias: Vec<f32>,
}

impl PackedLstm {
    /// Packs the weights of `shape`; its steps and batch do not matter.
    pub fn new(isa: Isa, shape: &LstmShape, weights: Weights<'_>) -> Result<PackedLstm, KernelError> {
        PackedLstm::pack(Ctx { isa, pool: &Pool::new(1) }, shape, weights)
    }

    fn pack(cx: Ctx<'_>, shape: &LstmShape, weights: Weights<'_>) -> Result<PackedLstm, KernelError> {
        let (d, i, h) = (shape.directions(), shape.input, shape.hidden);
        shape.check(NAME, "w", &[d, 4, h, i], weights.w.len())?;
        shape.check(NAME, "r", &[d, 4, h, h], weights.r.len())?;
        shape.check(NAME, "b", &[d, 8, h], weights.b.len())?;
        let g = 4 * h;
        let direction = |d: usize| {
            let b = &weights.b[d * 2 * g..(d + 1) * 2 * g];
            Ok(Direction {
                w: PackedRhs::pack(cx, i, g, Mat::transposed(&weights.w[d * g * i..(d + 1) * g * i], i))?,
                r: PackedRhs::pack(cx, h, g, Mat::transposed(&weights.r[d * g * h..(d + 1) * g * h], h))?,
                bias: (0..g).map(|j| b[j] + b[g + j]).collect(),
            })
        };
        Ok(PackedLstm { input: i, hidden: h, directions: (0..d).map(direction).collect::<Result<_, KernelError>>()? })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.directions.iter().map(|d| d.w.bytes() + d.r.bytes() + size_of_val(&d.bias[..])).sum()
    }
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
    let packed_now;
    let packed = match weights {
        LstmWeights::Packed(p) => p,
        LstmWeights::Plain(w) => {
            packed_now = PackedLstm::pack(cx, shape, w)?;
            &packed_now
        }
    };
    if (packed.input, packed.hidden, packed.directions.len()) != (input, hidden, d) {
        return Err(KernelError::Geometry { kernel: NAME, why: "the weights were packed for another shape" });
    }
    out.h.copy_from_slice(h0);
    out.c.copy_from_slice(c0);
    if out.y.is_empty() {
        return Ok(());
    }
    let state = batch * hidden;
    let (y, mut reserve) = (out.y, out.reserve);
    for (d, direction) in packed.directions.iter().enumerate() {
        let (h, c) = (&mut out.h[d * state..(d + 1) * state], &mut out.c[d * state..(d + 1) * state]);
        run_direction(cx, shape, d, direction, x, Run { h, c, y, reserve: reserve.as_deref_mut() })?;
    }
    Ok(())
}

/// What one direction reads and writes: its states and the whole of y and reserve.
pub(super) struct Run<'a> {
    pub(super) h: &'a mut [f32],
    pub(super) c: &'a mut [f32],
    pub(super) y: &'a mut [f32],
    pub(super) reserve: Option<&'a mut [f32]>,
}

fn run_direction(
    cx: Ctx<'_>,
    shape: &LstmShape,
    d: usize,
    weights: &Direction,
    x: &[f32],
    mut run: Run<'_>,
) -> Result<(), KernelError> {
    let LstmShape { steps, batch, input, hidden, .. } = *shape;
    let gates = 4 * hidden;
    let block = shape.block().min(steps);
    with_scratch::<f32, _>(block * batch * gates, |pre| {
        for first in (0..steps).step_by(block) {
            let taken = first..steps.min(first + block);
            let times = shape.times(d, &taken);
            let rows = times.len() * batch;
            let x = Mat::rows(&x[times.start * batch * input..times.end * batch * input], input);
            let epilogue = Epilogue { bias: Bias::Col(&weights.bias), ..Epilogue::default() };
            let product = GemmShape { m: rows, n: gates, k: input };
            gemm(cx, product, Lhs::Plain(x), Rhs::Packed(&weights.w), &epilogue, &mut pre[..rows * gates], gates)?;
            for s in taken {
                let t = shape.time(d, s);
                let pre = &mut pre[(t - times.start) * batch * gates..][..batch * gates];
                let epilogue = Epilogue { accumulate: Accumulate::Add, ..Epilogue::default() };
                let product = GemmShape { m: batch, n: gates, k: hidden };
                let h = Lhs::Plain(Mat::rows(run.h, hidden));
                gemm(cx, product, h, Rhs::Packed(&weights.r), &epilogue, pre, gates)?;
                activate(cx, shape, d, t, pre, &mut run);
            }
        }
        Ok(())
    })
}

/// Turns the summed gates of one step into the new states, and stores what y and reserve keep of them.
pub(super) fn activate(cx: Ctx<'_>, shape: &LstmShape, d: usize, t: usize, pre: &mut [f32], run: &mut Run<'_>) {
    let (batch, n) = (shape.batch, shape.hidden);
    let y = Disjoint::new(&mut run.y[shape.row(t, d, n)..][..batch * n]);
    let reserve = run.reserve.as_deref_mut().map(|r| Disjoint::new(&mut r[shape.row(t, d, 5 * n)..][..batch * 5 * n]));
    let (pre, h, c) = (Disjoint::new(pre), Disjoint::new(run.h), Disjoint::new(run.c));
    let rows = shape.task_rows();
    let task = |task: usize| {
        for b in task * rows..batch.min((task + 1) * rows) {
            // SAFETY: each batch row has its own parts, and is computed by one task.
            unsafe {
                let (pre, h, c) = (pre.slice(b * 4 * n, 4 * n), h.slice(b * n, n), c.slice(b * n, n));
                cell(cx.isa, pre, c, h);
                y.slice(b * n, n).copy_from_slice(h);
                if let Some(reserve) = &reserve {
                    let (gates, state) = reserve.slice(b * 5 * n, 5 * n).split_at_mut(4 * n);
                    gates.copy_from_slice(pre);
                    state.copy_from_slice(c);
                }
            }
        }
    };
    cx.pool.run(batch.div_ceil(rows), &task);
}

per_isa! {
    /// One row: `pre` `[4H]` becomes the activated gates, `c` and `h` `[H]` the new states.
    fn cell(pre: &mut [f32], c: &mut [f32], h: &mut [f32]) = cell_body
}

/// Several short loops over few slices each, because the compiler vectorises those.
#[inline(always)]
fn cell_body<M: Math>(pre: &mut [f32], c: &mut [f32], h: &mut [f32]) {
    let n = h.len();
    let (sigmoids, g) = pre.split_at_mut(3 * n);
    // No closures: the compiler would leave them outside the function that has the instruction set.
    for v in sigmoids.iter_mut() {
        *v = sigmoid::<M>(*v);
    }
    for v in g.iter_mut() {
        *v = tanh::<M>(*v);
    }
    let (i, o, f) = (&sigmoids[..n], &sigmoids[n..2 * n], &sigmoids[2 * n..]);
    let (g, c) = (&g[..n], &mut c[..n]);
    for j in 0..n {
        c[j] = M::fma(f[j], c[j], i[j] * g[j]);
    }
    for j in 0..n {
        h[j] = o[j] * tanh::<M>(c[j]);
    }
}
