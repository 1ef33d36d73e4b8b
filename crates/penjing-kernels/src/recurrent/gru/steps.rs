//! The time steps of one direction, whatever its products are made of.

use super::GruReset;
use crate::{
    Ctx, KernelError,
    isa::{Math, per_isa},
    math::{sigmoid, tanh},
    pool::Disjoint,
    recurrent::RecurrentShape,
    scratch::with_scratch,
};
use std::ops::Range;

/// The products of one direction.
pub(super) trait Products: Sync {
    /// Input and [`Biases::outer`], for all batch rows of these times: `pre` `[times, B, 3H]`.
    fn of_input(&self, times: &Range<usize>, pre: &mut [f32]) -> Result<(), KernelError>;

    /// The rows `left` `[B, H]` by the weights of a round of a step ([`GruReset::rounds`]), for the units `own` of a task:
    /// `sums[b][gate][unit - own.start]`, the gates `stride` apart.
    fn of_hidden(&self, round: usize, left: &[f32], own: &Range<usize>, sums: &mut [f32], stride: usize);

    /// Hidden units of a task.
    fn task_units(&self) -> usize;
}

/// Where the biases are added.
pub(super) struct Biases {
    /// To the input's product: `[3H]`.
    pub(super) outer: Vec<f32>,
    /// To the candidate's product before the reset gate multiplies it: `[H]`, or nothing.
    pub(super) inner: Vec<f32>,
}

impl Biases {
    /// From those of the input, then of the hidden state: `[6H]`.
    pub(super) fn new(b: &[f32], reset: GruReset) -> Biases {
        let (of_x, of_h) = b.split_at(b.len() / 2);
        let summed = if reset == GruReset::Product { of_x.len() / 3 * 2 } else { of_x.len() };
        let outer = of_x.iter().enumerate().map(|(j, x)| if j < summed { x + of_h[j] } else { *x }).collect();
        Biases { outer, inner: of_h[summed..].to_vec() }
    }
}

/// One direction: its first states `[B, H]`, and what [`Biases::inner`] says.
pub(super) struct Pass<'a, P> {
    pub(super) cx: Ctx<'a>,
    pub(super) shape: &'a RecurrentShape,
    pub(super) d: usize,
    pub(super) reset: GruReset,
    pub(super) products: &'a P,
    pub(super) inner_bias: &'a [f32],
    pub(super) h0: &'a [f32],
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

impl<P: Products> Pass<'_, P> {
    /// All hidden states of the direction go to `y`, the last to `h` `[B, H]`; there is a step and a unit at least.
    pub(super) fn run(&self, y: &mut [f32], h: &mut [f32]) -> Result<(), KernelError> {
        let RecurrentShape { steps, batch, hidden, .. } = *self.shape;
        let (gates, state) = (3 * hidden, batch * hidden);
        let block = self.shape.block().min(steps);
        let (units, count) = (self.products.task_units(), self.reset.rounds().len());
        let y = Disjoint::new(y);
        with_scratch::<f32, _>(block * batch * gates + 2 * state, |memory| {
            let (pre, kept) = memory.split_at_mut(block * batch * gates);
            let kept = Disjoint::new(kept);
            for first in (0..steps).step_by(block) {
                let taken = first..steps.min(first + block);
                let times = self.shape.times(self.d, &taken);
                let pre = &mut pre[..times.len() * batch * gates];
                self.products.of_input(&times, pre)?;
                let pre = &*pre;
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
            Ok::<_, KernelError>(())
        })?;
        // SAFETY: no task is running.
        h.copy_from_slice(unsafe { y.read(self.shape.row(self.shape.time(self.d, steps - 1), self.d, hidden), state) });
        Ok(())
    }

    /// Round `round` of a step for the hidden units `own`.
    fn task(&self, step: &Step<'_>, round: usize, own: Range<usize>, units: usize) {
        let RecurrentShape { batch, hidden, .. } = *self.shape;
        let (_, count) = self.reset.rounds()[round];
        let (state, len) = (batch * hidden, own.len());
        // SAFETY: the first round of the step wrote the second half.
        let left = if round == 0 { step.before } else { unsafe { step.kept.read(state, state) } };
        with_scratch::<f32, _>(batch * count * units, |sums| {
            self.products.of_hidden(round, left, &own, sums, units);
            for (b, sums) in sums.chunks_exact(count * units).enumerate() {
                let at = b * hidden + own.start;
                let pre = [0, 1, 2].map(|gate| &step.pre[(3 * b + gate) * hidden + own.start..][..len]);
                let before = &step.before[at..][..len];
                // SAFETY: every task has units, and every step a time, of its own.
                unsafe {
                    if round == 1 {
                        let out = step.y.slice(step.row + at, len);
                        candidate(self.cx.isa, pre[2], sums, step.kept.read(at, len), before, out);
                    } else if count == 2 {
                        let kept = [step.kept.slice(at, len), step.kept.slice(state + at, len)];
                        gates(self.cx.isa, pre, sums, units, before, kept);
                    } else {
                        let bias = &self.inner_bias[own.clone()];
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
