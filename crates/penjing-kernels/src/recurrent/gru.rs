//! The gated recurrent unit (Cho et al. 2014) over time, gates in ONNX order z, r, h.
//!
//! As in [`lstm`](crate::lstm), the product with the input is one GEMM over many time steps, and each step streams the recurrent
//! weights once. The candidate's product needs the reset gate where that comes before it: such a step has two rounds.

use super::{RecurrentShape, Weights, panels::Panels};
use crate::{
    Ctx, Isa, KernelError, Pool,
    arena::Line,
    gemm::{Bias, Epilogue, GemmShape, Mat, PackedRhs, Rhs, gemm},
    isa::{Math, per_isa},
    math::{sigmoid, tanh},
    pool::Disjoint,
    scratch::with_scratch,
};
use std::ops::Range;

const NAME: &str = "gru";

/// What the reset gate multiplies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GruReset {
    /// The hidden state, before the candidate's product (ONNX `linear_before_reset` = 0).
    State,
    /// The candidate's product and its bias (`linear_before_reset` = 1).
    Product,
}

/// Weights packed once.
pub struct PackedGru {
    input: usize,
    hidden: usize,
    reset: GruReset,
    directions: Vec<PackedDirection>,
}

struct PackedDirection {
    w: PackedRhs,
    /// The recurrent weights of each round, as [`rounds`] has them.
    r: Vec<Vec<Line>>,
    /// What is added to the input's product: `[3H]`.
    bias: Vec<f32>,
    /// What is added to the candidate's product before the reset gate multiplies it: `[H]`, or nothing.
    inner_bias: Vec<f32>,
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
            let (of_x, of_h) = weights.b[d * 2 * g..(d + 1) * 2 * g].split_at(g);
            let outer = if reset == GruReset::Product { 2 * h } else { g };
            Ok(PackedDirection {
                w: PackedRhs::new(isa, i, g, Mat::transposed(&weights.w[d * g * i..(d + 1) * g * i], i))?,
                r: rounds(h, reset)
                    .iter()
                    .map(|(gate, panels)| panels.packed(cx, Mat::transposed(&r[gate * h * h..], h)))
                    .collect(),
                bias: (0..g).map(|j| if j < outer { of_x[j] + of_h[j] } else { of_x[j] }).collect(),
                inner_bias: of_h[outer..].to_vec(),
            })
        };
        let directions = (0..d).map(direction).collect::<Result<_, KernelError>>()?;
        Ok(PackedGru { input: i, hidden: h, reset, directions })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let of = |d: &PackedDirection| d.w.bytes() + d.r.iter().map(|r| size_of_val(&r[..])).sum::<usize>();
        self.directions.iter().map(of).sum()
    }
}

/// The first gate of each round of a step, and the panels of its gates.
fn rounds(hidden: usize, reset: GruReset) -> Vec<(usize, Panels)> {
    let panels = |gates, width| Panels { depth: hidden, units: hidden, gates, width };
    match reset {
        GruReset::Product => vec![(0, panels(3, 1))],
        GruReset::State => vec![(0, panels(2, 2)), (2, panels(1, 4))],
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
    let rounds = rounds(hidden, weights.reset);
    for (d, packed) in weights.directions.iter().enumerate() {
        let part = d * state..(d + 1) * state;
        Pass { cx, shape, d, packed, rounds: &rounds, x, h0: &h0[part.clone()] }.run(y)?;
        let last = shape.row(shape.time(d, steps - 1), d, hidden);
        h[part].copy_from_slice(&y[last..last + state]);
    }
    Ok(())
}

/// One direction.
struct Pass<'a> {
    cx: Ctx<'a>,
    shape: &'a RecurrentShape,
    d: usize,
    packed: &'a PackedDirection,
    rounds: &'a [(usize, Panels)],
    x: &'a [f32],
    h0: &'a [f32],
}

/// What the tasks of a step share.
struct Step<'a> {
    /// The gates' part of the input: `[B, 3H]`.
    pre: &'a [f32],
    /// The hidden state before: `[B, H]`.
    before: &'a [f32],
    /// The hidden states of all steps, and where those of this one begin.
    y: &'a Disjoint<'a, f32>,
    row: usize,
    /// The update gate, then the state times the reset gate, each `[B, H]`: from a step's first round to its second.
    kept: &'a Disjoint<'a, f32>,
}

impl Pass<'_> {
    fn run(&self, y: &mut [f32]) -> Result<(), KernelError> {
        let RecurrentShape { steps, batch, input, hidden, .. } = *self.shape;
        let (gates, state) = (3 * hidden, batch * hidden);
        let block = self.shape.block().min(steps);
        let units = self.rounds[0].1.task_units(batch);
        let y = Disjoint::new(y);
        with_scratch::<f32, _>(block * batch * gates + 2 * state, |memory| {
            let (pre, kept) = memory.split_at_mut(block * batch * gates);
            let kept = Disjoint::new(kept);
            for first in (0..steps).step_by(block) {
                let taken = first..steps.min(first + block);
                let times = self.shape.times(self.d, &taken);
                let x = Mat::rows(&self.x[times.start * batch * input..times.end * batch * input], input);
                let epilogue = Epilogue { bias: Bias::Col(&self.packed.bias), ..Epilogue::default() };
                let product = GemmShape { m: times.len() * batch, n: gates, k: input };
                let pre = &mut pre[..times.len() * batch * gates];
                gemm(self.cx, product, x, Rhs::Packed(&self.packed.w), &epilogue, pre, gates)?;
                let pre = &*pre;
                let count = self.rounds.len();
                self.cx.pool.run_rounds(taken.len() * count, hidden.div_ceil(units), &|round, task| {
                    let s = first + round / count;
                    let t = self.shape.time(self.d, s);
                    let before = match s.checked_sub(1) {
                        None => self.h0,
                        // SAFETY: the hidden states of the step before, written in an earlier round.
                        Some(p) => unsafe { y.read(self.shape.row(self.shape.time(self.d, p), self.d, hidden), state) },
                    };
                    let step = Step {
                        pre: &pre[(t - times.start) * batch * gates..][..batch * gates],
                        before,
                        y: &y,
                        row: self.shape.row(t, self.d, hidden),
                        kept: &kept,
                    };
                    self.task(&step, round % count, task * units..hidden.min((task + 1) * units), units);
                });
            }
            Ok(())
        })
    }

    /// Round `round` of a step for the hidden units `own`.
    fn task(&self, step: &Step<'_>, round: usize, own: Range<usize>, units: usize) {
        let RecurrentShape { batch, hidden, .. } = *self.shape;
        let (_, panels) = self.rounds[round];
        let (state, len) = (batch * hidden, own.len());
        // SAFETY: the first round of the step wrote the second half.
        let left = if round == 0 { step.before } else { unsafe { step.kept.read(state, state) } };
        with_scratch::<f32, _>(batch * panels.gates * units, |sums| {
            panels.product(self.cx, left, bytemuck::cast_slice(&self.packed.r[round]), own.clone(), sums, units);
            for (b, sums) in sums.chunks_exact(panels.gates * units).enumerate() {
                let at = b * hidden + own.start;
                let pre = [0, 1, 2].map(|gate| &step.pre[(3 * b + gate) * hidden + own.start..][..len]);
                let before = &step.before[at..][..len];
                // SAFETY: every task has units, and every step a time, of its own.
                unsafe {
                    if round == 1 {
                        let out = step.y.slice(step.row + at, len);
                        candidate(self.cx.isa, pre[2], sums, step.kept.read(at, len), before, out);
                    } else if panels.gates == 2 {
                        let kept = [step.kept.slice(at, len), step.kept.slice(state + at, len)];
                        gates(self.cx.isa, pre, sums, units, before, kept);
                    } else {
                        let bias = &self.packed.inner_bias[own.clone()];
                        let out = step.y.slice(step.row + at, len);
                        whole(self.cx.isa, pre, sums, units, bias, before, out);
                    }
                }
            }
        });
    }
}

per_isa! {
    /// Some units of one row, whose reset gate multiplies the candidate's product: z, r and h in `pre` and, `stride` apart, `sums`.
    fn whole(
        pre: [&[f32]; 3],
        sums: &[f32],
        stride: usize,
        bias: &[f32],
        before: &[f32],
        out: &mut [f32],
    ) = whole_body
}

#[inline(always)]
fn whole_body<M: Math>(pre: [&[f32]; 3], sums: &[f32], stride: usize, bias: &[f32], before: &[f32], out: &mut [f32]) {
    let n = out.len();
    let [z, r, c] = [&pre[0][..n], &pre[1][..n], &pre[2][..n]];
    let (sz, sr, sc) = (&sums[..n], &sums[stride..][..n], &sums[2 * stride..][..n]);
    let (bias, before) = (&bias[..n], &before[..n]);
    // Each loop has few slices, because the compiler vectorises those.
    for j in 0..n {
        out[j] = M::fma(sigmoid::<M>(r[j] + sr[j]), sc[j] + bias[j], c[j]);
    }
    for j in 0..n {
        let fresh = tanh::<M>(out[j]);
        out[j] = M::fma(sigmoid::<M>(z[j] + sz[j]), before[j] - fresh, fresh);
    }
}

per_isa! {
    /// Some units of one row: the update gate, and the state times the reset gate.
    fn gates(pre: [&[f32]; 3], sums: &[f32], stride: usize, before: &[f32], out: [&mut [f32]; 2]) = gates_body
}

#[inline(always)]
fn gates_body<M: Math>(pre: [&[f32]; 3], sums: &[f32], stride: usize, before: &[f32], out: [&mut [f32]; 2]) {
    let n = before.len();
    let [update, reset] = out;
    let (update, reset) = (&mut update[..n], &mut reset[..n]);
    let (z, r, sz, sr) = (&pre[0][..n], &pre[1][..n], &sums[..n], &sums[stride..][..n]);
    for j in 0..n {
        update[j] = sigmoid::<M>(z[j] + sz[j]);
    }
    for j in 0..n {
        reset[j] = sigmoid::<M>(r[j] + sr[j]) * before[j];
    }
}

per_isa! {
    /// Some units of one row: the new state from the update gate `z` and the candidate's sums.
    fn candidate(pre: &[f32], sums: &[f32], z: &[f32], before: &[f32], out: &mut [f32]) = candidate_body
}

#[inline(always)]
fn candidate_body<M: Math>(pre: &[f32], sums: &[f32], z: &[f32], before: &[f32], out: &mut [f32]) {
    let n = out.len();
    let (pre, sums, z, before) = (&pre[..n], &sums[..n], &z[..n], &before[..n]);
    for j in 0..n {
        let fresh = tanh::<M>(pre[j] + sums[j]);
        out[j] = M::fma(z[j], before[j] - fresh, fresh);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        recurrent::RecurrentDirection,
        testing::{assert_close, every_ctx, values},
    };

    /// y `[T, D, B, H]`, then h `[D, B, H]`.
    fn naive(s: &RecurrentShape, reset: GruReset, [x, w, r, b, h0]: &[Vec<f64>; 5]) -> Vec<f64> {
        let (dirs, n, g) = (s.directions(), s.hidden, 3 * s.hidden);
        let mut state = h0.clone();
        let mut y = vec![0.0; s.steps * dirs * s.batch * n];
        let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
        for d in 0..dirs {
            let back = d == 1 || s.direction == RecurrentDirection::Reverse;
            for turn in 0..s.steps {
                let t = if back { s.steps - 1 - turn } else { turn };
                for row in 0..s.batch {
                    let at = (d * s.batch + row) * n;
                    let old = state[at..at + n].to_vec();
                    let of_x = |gate: usize, j: usize| {
                        let line = d * g + gate * n + j;
                        let terms = (0..s.input).map(|k| w[line * s.input + k] * x[(t * s.batch + row) * s.input + k]);
                        terms.sum::<f64>() + b[d * 2 * g + gate * n + j]
                    };
                    let of_h = |gate: usize, j: usize, h: &[f64]| {
                        let line = d * g + gate * n + j;
                        (0..n).map(|k| r[line * n + k] * h[k]).sum::<f64>() + b[d * 2 * g + g + gate * n + j]
                    };
                    let gate = |k: usize, j: usize| sigmoid(of_x(k, j) + of_h(k, j, &old));
                    let kept: Vec<f64> = (0..n).map(|j| gate(1, j) * old[j]).collect();
                    for j in 0..n {
                        let inner = match reset {
                            GruReset::State => of_h(2, j, &kept),
                            GruReset::Product => gate(1, j) * of_h(2, j, &old),
                        };
                        let z = gate(0, j);
                        state[at + j] = (1.0 - z) * (of_x(2, j) + inner).tanh() + z * old[j];
                    }
                    y[((t * dirs + d) * s.batch + row) * n..][..n].copy_from_slice(&state[at..at + n]);
                }
            }
        }
        [y, state].concat()
    }

    #[test]
    fn every_direction_and_reset_is_that_of_the_definition() {
        let extents =
            [(5, 3, 4, 6), (1, 1, 1, 1), (7, 2, 3, 17), (3, 5, 0, 4), (0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 4, 0)];
        for (steps, batch, input, hidden) in extents.into_iter().chain([(9, 70, 20, 64), (4, 1, 9, 131)]) {
            for direction in [RecurrentDirection::Forward, RecurrentDirection::Reverse, RecurrentDirection::Both] {
                for (reset, size) in
                    [GruReset::State, GruReset::Product].into_iter().flat_map(|r| [(r, 0.3), (r, 40.0)])
                {
                    let s = RecurrentShape { steps, batch, input, hidden, direction };
                    let (d, g) = (s.directions(), 3 * hidden);
                    // Wide weights of x drive every gate to its ends; those of h stay small, so that errors do not grow.
                    let scaled = |name: &str, n: usize, by: f32| values(name, n).into_iter().map(|v| v * by).collect();
                    let v: [Vec<f32>; 5] = [
                        values("x", steps * batch * input),
                        scaled("w", d * g * input, size),
                        scaled("r", d * g * hidden, 0.3),
                        values("b", d * 2 * g),
                        values("h0", d * batch * hidden),
                    ];
                    let want = naive(&s, reset, &v.clone().map(|v| v.into_iter().map(f64::from).collect()));
                    for got in every_ctx(|cx| {
                        let weights = Weights { w: &v[1], r: &v[2], b: &v[3] };
                        let packed = PackedGru::new(cx.isa, &s, weights, reset).unwrap();
                        let (mut y, mut h) = (vec![f32::NAN; d * steps * batch * hidden], vec![f32::NAN; v[4].len()]);
                        gru(cx, &s, &v[0], &packed, &v[4], &mut y, &mut h).unwrap();
                        [y, h].concat()
                    }) {
                        assert_close(&got, &want, 2e-5, &format!("{s:?} {reset:?} {size}"));
                    }
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let pool = Pool::new(1);
        let cx = Ctx { isa: Isa::Generic, pool: &pool };
        let s = RecurrentShape { steps: 2, batch: 1, input: 2, hidden: 2, direction: RecurrentDirection::Forward };
        let weights = Weights { w: &[0.0; 12], r: &[0.0; 12], b: &[0.0; 12] };
        let packed = PackedGru::new(cx.isa, &s, weights, GruReset::State).unwrap();
        assert!(PackedGru::new(cx.isa, &s, Weights { b: &[0.0; 11], ..weights }, GruReset::State).is_err());
        let run = |s: &RecurrentShape, x: &[f32], y: usize| {
            gru(cx, s, x, &packed, &[0.0; 2], &mut vec![0.0; y], &mut [0.0; 2])
        };
        assert!(run(&s, &[0.0; 4], 4).is_ok());
        assert!(matches!(run(&s, &[0.0; 4], 3), Err(KernelError::Length { .. })));
        assert!(matches!(run(&RecurrentShape { input: 1, ..s }, &[0.0; 2], 4), Err(KernelError::Geometry { .. })));
        assert!(run(&RecurrentShape { steps: usize::MAX, ..s }, &[0.0; 4], 4).is_err());
    }
}
