//! The time steps of one direction, whatever its products are made of.

use crate::{
    Ctx, KernelError,
    isa::{Math, per_isa, prefetch_all},
    math::{sigmoid, tanh},
    pool::Disjoint,
    recurrent::RecurrentShape,
    scratch::with_scratch,
};
use std::ops::Range;

/// The two products that make the gate sums of one direction.
pub(super) trait Products: Sync {
    /// Input and both biases, for all batch rows of these times: `pre` `[times, B, 4H]`.
    fn of_input(&self, times: &Range<usize>, pre: &mut [f32]) -> Result<(), KernelError>;

    /// The hidden states `h` `[B, H]`, for the units `own` of a task: `sums[b][gate][unit - own.start]`, the gates `stride` apart.
    fn of_hidden(&self, h: &[f32], own: &Range<usize>, sums: &mut [f32], stride: usize);

    /// Hidden units of a task.
    fn task_units(&self) -> usize;
}

/// What one direction reads and writes: its states `[B, H]`, and the whole of y and reserve. `c` holds the first state.
pub(super) struct Run<'a> {
    pub(super) h0: &'a [f32],
    pub(super) h: &'a mut [f32],
    pub(super) c: &'a mut [f32],
    pub(super) y: &'a mut [f32],
    pub(super) reserve: Option<&'a mut [f32]>,
}

/// Runs all steps of direction `d`, of which there is one at least.
pub(super) fn run_direction(
    cx: Ctx<'_>,
    shape: &RecurrentShape,
    d: usize,
    products: &impl Products,
    run: Run<'_>,
) -> Result<(), KernelError> {
    let RecurrentShape { steps, batch, hidden, .. } = *shape;
    let (gates, state) = (4 * hidden, batch * hidden);
    let block = shape.block().min(steps);
    let last = shape.row(shape.time(d, steps - 1), d, hidden);
    let (y, c, reserve) = (Disjoint::new(run.y), Disjoint::new(run.c), run.reserve.map(Disjoint::new));
    let units = products.task_units();
    with_scratch::<f32, _>(block * batch * gates, |pre| {
        for first in (0..steps).step_by(block) {
            let taken = first..steps.min(first + block);
            let times = shape.times(d, &taken);
            let pre = &mut pre[..times.len() * batch * gates];
            products.of_input(&times, pre)?;
            let pre = &*pre;
            cx.pool.run_rounds(taken.len(), hidden.div_ceil(units), &|round, task| {
                let s = first + round;
                let t = shape.time(d, s);
                let own = task * units..hidden.min((task + 1) * units);
                let h = match s.checked_sub(1) {
                    None => run.h0,
                    // SAFETY: the hidden states of the step before, written in an earlier round.
                    Some(p) => unsafe { y.read(shape.row(shape.time(d, p), d, hidden), state) },
                };
                let len = batch * own.len();
                with_scratch::<f32, _>(batch * 4 * units + 6 * len, |memory| {
                    let (sums, flat) = memory.split_at_mut(batch * 4 * units);
                    let (gates_of_all, states) = flat.split_at_mut(4 * len);
                    let (c_of_all, h_of_all) = states.split_at_mut(len);
                    // What is read after the product comes nearer during it.
                    for gate in pre[(t - times.start) * batch * gates..][..batch * gates].chunks_exact(hidden) {
                        prefetch_all(&gate[own.clone()]);
                    }
                    products.of_hidden(h, &own, sums, units);
                    // All rows of a gate together: a row's part of a task alone is too short a loop.
                    for (b, sums) in sums.chunks_exact(4 * units).enumerate() {
                        let pre = &pre[((t - times.start) * batch + b) * gates..][..gates];
                        add_gates(
                            cx.isa,
                            sums,
                            units,
                            &pre[own.start..],
                            hidden,
                            &mut gates_of_all[b * own.len()..],
                            len,
                            own.len(),
                        );
                        // SAFETY: every task has units of its own.
                        let c = unsafe { c.slice(b * hidden + own.start, own.len()) };
                        c_of_all[b * own.len()..][..own.len()].copy_from_slice(c);
                    }
                    cell(cx.isa, gates_of_all, c_of_all, h_of_all);
                    for b in 0..batch {
                        let row = shape.row(t, d, hidden) + b * hidden;
                        let part = b * own.len()..(b + 1) * own.len();
                        // SAFETY: every task has units, and every round a time, of its own.
                        unsafe {
                            c.slice(b * hidden + own.start, own.len()).copy_from_slice(&c_of_all[part.clone()]);
                            y.slice(row + own.start, own.len()).copy_from_slice(&h_of_all[part.clone()]);
                            if let Some(reserve) = &reserve {
                                let kept = |slot: usize| reserve.slice(5 * row + slot * hidden + own.start, own.len());
                                for gate in 0..4 {
                                    kept(gate).copy_from_slice(&gates_of_all[gate * len..][part.clone()]);
                                }
                                kept(4).copy_from_slice(&c_of_all[part.clone()]);
                            }
                        }
                    }
                });
            });
        }
        // SAFETY: no task is running.
        run.h.copy_from_slice(unsafe { y.read(last, state) });
        Ok(())
    })
}

per_isa! {
    /// `out[gate] = sums[gate] + pre[gate]`, `n` elements each; the gates are so many elements apart.
    fn add_gates(
        sums: &[f32],
        sums_stride: usize,
        pre: &[f32],
        pre_stride: usize,
        out: &mut [f32],
        out_stride: usize,
        n: usize,
    ) = add_gates_body
}

#[inline(always)]
fn add_gates_body<M: Math>(
    sums: &[f32],
    sums_stride: usize,
    pre: &[f32],
    pre_stride: usize,
    out: &mut [f32],
    out_stride: usize,
    n: usize,
) {
    for gate in 0..4 {
        let (sums, pre) = (&sums[gate * sums_stride..][..n], &pre[gate * pre_stride..][..n]);
        let out = &mut out[gate * out_stride..][..n];
        for j in 0..n {
            out[j] = sums[j] + pre[j];
        }
    }
}

per_isa! {
    /// Some units: `gates` `[4, n]` become the activated gates, `c` and `h` the new states.
    fn cell(gates: &mut [f32], c: &mut [f32], h: &mut [f32]) = cell_body
}

/// Several short loops over few slices each, because the compiler vectorises those.
#[inline(always)]
fn cell_body<M: Math>(gates: &mut [f32], c: &mut [f32], h: &mut [f32]) {
    let n = h.len();
    // No closures: the compiler would leave them outside the function that has the instruction set.
    for v in gates[..3 * n].iter_mut() {
        *v = sigmoid::<M>(*v);
    }
    for v in gates[3 * n..][..n].iter_mut() {
        *v = tanh::<M>(*v);
    }
    let (i, o, f, g) = (&gates[..n], &gates[n..][..n], &gates[2 * n..][..n], &gates[3 * n..][..n]);
    let c = &mut c[..n];
    for j in 0..n {
        c[j] = M::fma(f[j], c[j], i[j] * g[j]);
    }
    for j in 0..n {
        h[j] = o[j] * tanh::<M>(c[j]);
    }
}
