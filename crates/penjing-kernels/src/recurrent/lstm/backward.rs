//! Back-propagation through time.

use crate::{
    Ctx, KernelError,
    gemm::{Accumulate, Epilogue, GemmShape, Mat, Rhs, gemm, transpose::transpose},
    isa::{Math, per_isa, prefetch_all},
    math::tanh,
    pool::Disjoint,
    recurrent::{
        RecurrentShape,
        panels::Panels,
        step::{StepWeights, with_step_weights},
    },
    scratch::with_scratch,
};
use std::ops::Range;

const NAME: &str = "lstm_grad";

/// Gate columns of one task of a bias gradient.
const BIAS_COLS: usize = 256;
/// Gate columns that a task turns into rows.
const TURNED: usize = 32;

/// What the backward pass reads: operands and results of the forward pass, and the gradients of its results.
#[derive(Clone, Copy, Debug)]
pub struct LstmTape<'a> {
    /// `[T, B, I]`
    pub x: &'a [f32],
    /// `[D, 4H, I]`
    pub w: &'a [f32],
    /// `[D, 4H, H]`
    pub r: &'a [f32],
    /// `[D, B, H]`
    pub h0: &'a [f32],
    /// `[D, B, H]`
    pub c0: &'a [f32],
    /// `[T, D, B, H]`
    pub y: &'a [f32],
    /// `[T, D, B, 5H]`
    pub reserve: &'a [f32],
    /// Gradient of y: `[T, D, B, H]`.
    pub dy: &'a [f32],
    /// Gradient of the last hidden state: `[D, B, H]`.
    pub dh: &'a [f32],
    /// Gradient of the last cell state: `[D, B, H]`.
    pub dc: &'a [f32],
}

/// The gradients of the operands, all overwritten.
#[derive(Debug)]
pub struct LstmGrads<'a> {
    /// `[T, B, I]`
    pub dx: &'a mut [f32],
    /// `[D, 4H, I]`
    pub dw: &'a mut [f32],
    /// `[D, 4H, H]`
    pub dr: &'a mut [f32],
    /// `[D, 8H]`
    pub db: &'a mut [f32],
    /// `[D, B, H]`
    pub dh0: &'a mut [f32],
    /// `[D, B, H]`
    pub dc0: &'a mut [f32],
}

/// The gradients of an [`lstm`](super::lstm) that kept its reserve.
pub fn lstm_grad(
    cx: Ctx<'_>,
    shape: &RecurrentShape,
    tape: &LstmTape<'_>,
    grads: LstmGrads<'_>,
) -> Result<(), KernelError> {
    check(shape, tape, &grads)?;
    let RecurrentShape { steps, batch, input: i, hidden: h, .. } = *shape;
    let (g, state) = (4 * h, batch * h);
    let LstmGrads { dx, dw, dr, db, dh0, dc0 } = grads;
    dh0.copy_from_slice(tape.dh);
    dc0.copy_from_slice(tape.dc);
    db.fill(0.0);
    if steps * state == 0 {
        for out in [dx, dw, dr] {
            out.fill(0.0);
        }
        return Ok(());
    }
    for d in 0..shape.directions() {
        let w = &tape.w[d * g * i..(d + 1) * g * i];
        let db = &mut db[d * 2 * g..(d + 1) * 2 * g];
        let panels = Panels::new(cx.isa, g, h, 1);
        let r = Mat::rows(&tape.r[d * g * h..(d + 1) * g * h], h);
        with_step_weights(cx, panels, r, batch, |r| {
            Pass { cx, shape, tape, d, w, r }.run(LstmGrads {
                dx,
                dw: &mut dw[d * g * i..(d + 1) * g * i],
                dr: &mut dr[d * g * h..(d + 1) * g * h],
                db: &mut db[..g],
                dh0: &mut dh0[d * state..(d + 1) * state],
                dc0: &mut dc0[d * state..(d + 1) * state],
            })
        })?;
        db.copy_within(..g, g);
    }
    Ok(())
}

fn check(shape: &RecurrentShape, tape: &LstmTape<'_>, grads: &LstmGrads<'_>) -> Result<(), KernelError> {
    let RecurrentShape { steps: t, batch: b, input: i, hidden: h, .. } = *shape;
    let d = shape.directions();
    for (operand, have) in [("x", tape.x.len()), ("dx", grads.dx.len())] {
        shape.check(NAME, operand, &[t, b, i], have)?;
    }
    for (operand, have) in [("w", tape.w.len()), ("dw", grads.dw.len())] {
        shape.check(NAME, operand, &[d, 4, h, i], have)?;
    }
    for (operand, have) in [("r", tape.r.len()), ("dr", grads.dr.len())] {
        shape.check(NAME, operand, &[d, 4, h, h], have)?;
    }
    shape.check(NAME, "db", &[d, 8, h], grads.db.len())?;
    let states = [
        ("h0", tape.h0.len()),
        ("c0", tape.c0.len()),
        ("dh", tape.dh.len()),
        ("dc", tape.dc.len()),
        ("dh0", grads.dh0.len()),
        ("dc0", grads.dc0.len()),
    ];
    for (operand, have) in states {
        shape.check(NAME, operand, &[d, b, h], have)?;
    }
    for (operand, have) in [("y", tape.y.len()), ("dy", tape.dy.len())] {
        shape.check(NAME, operand, &[t, d, b, h], have)?;
    }
    shape.check(NAME, "reserve", &[t, d, b, 5, h], tape.reserve.len())
}

/// One direction.
struct Pass<'a> {
    cx: Ctx<'a>,
    shape: &'a RecurrentShape,
    tape: &'a LstmTape<'a>,
    d: usize,
    /// `[4H, I]`
    w: &'a [f32],
    /// `[4H, H]`
    r: &'a StepWeights<'a>,
}

impl Pass<'_> {
    /// `grads` are those of this direction, but `dx`, which the first direction overwrites and the second adds to. `dh0` and
    /// `dc0` hold the gradients of the last states.
    fn run(&self, grads: LstmGrads<'_>) -> Result<(), KernelError> {
        let RecurrentShape { steps, batch, hidden, .. } = *self.shape;
        let (gates, state) = (4 * hidden, batch * hidden);
        let block = self.shape.block().min(steps);
        let LstmGrads { dx, dw, dr, db, dh0, dc0 } = grads;
        with_scratch::<f32, _>(block * batch * gates, |dpre| {
            with_scratch::<f32, _>(block * state, |h_before| {
                for first in (0..steps).step_by(block).rev() {
                    let taken = first..steps.min(first + block);
                    let times = self.shape.times(self.d, &taken);
                    let rows = times.len() * batch;
                    let (dpre, h_before) = (&mut dpre[..rows * gates], &mut h_before[..rows * hidden]);
                    for s in taken.clone() {
                        let row = (self.shape.time(self.d, s) - times.start) * state;
                        h_before[row..][..state].copy_from_slice(self.before(s).0);
                    }
                    self.steps(&taken, dpre, dh0, dc0);
                    let accumulate = if taken.end == steps { Accumulate::Overwrite } else { Accumulate::Add };
                    self.weight_grads(&times, dpre, h_before, accumulate, [&mut *dx, &mut *dw, &mut *dr, &mut *db])?;
                }
                Ok(())
            })
        })
    }

    /// The hidden states `[B, H]` before step `s`, and the cell states with their distance from row to row.
    fn before(&self, s: usize) -> (&[f32], &[f32], usize) {
        let (n, state) = (self.shape.hidden, self.shape.batch * self.shape.hidden);
        let Some(p) = s.checked_sub(1).map(|p| self.shape.time(self.d, p)) else {
            let own = self.d * state..(self.d + 1) * state;
            return (&self.tape.h0[own.clone()], &self.tape.c0[own], n);
        };
        let h = &self.tape.y[self.shape.row(p, self.d, n)..][..state];
        (h, &self.tape.reserve[self.shape.row(p, self.d, 5 * n) + 4 * n..], 5 * n)
    }

    /// Takes `dh` and `dc` from after the steps `taken` to before them, and leaves the gradients of their gate sums in `dpre`
    /// `[times, B, 4H]`.
    fn steps(&self, taken: &Range<usize>, dpre: &mut [f32], dh: &mut [f32], dc: &mut [f32]) {
        let (batch, n) = (self.shape.batch, self.shape.hidden);
        let start = self.shape.times(self.d, taken).start;
        let row = |s: usize| (self.shape.time(self.d, s) - start) * batch * 4 * n;
        let units = self.r.task_units(batch);
        let (dpre, dh, dc) = (Disjoint::new(dpre), Disjoint::new(dh), Disjoint::new(dc));
        // A round multiplies the gate gradients of the step after its own: one round more than steps.
        self.cx.pool.run_rounds(taken.len() + 1, n.div_ceil(units), &|round, task| {
            let own = task * units..n.min((task + 1) * units);
            if round > 0 {
                // SAFETY: written in the round before.
                let after = unsafe { dpre.read(row(taken.end - round), batch * 4 * n) };
                if round < taken.len() {
                    self.fetch(taken.end - 1 - round, &own);
                }
                with_scratch::<f32, _>(batch * units, |sums| {
                    self.r.product(self.cx, after, own.clone(), sums, units);
                    for (b, sums) in sums.chunks_exact(units).enumerate() {
                        // SAFETY: every task has units of its own.
                        let dh = unsafe { dh.slice(b * n + own.start, own.len()) };
                        dh.copy_from_slice(&sums[..own.len()]);
                    }
                });
            }
            if round < taken.len() {
                let s = taken.end - 1 - round;
                self.cells(s, &own, row(s), [&dpre, &dh, &dc]);
            }
        });
    }

    /// Asks for what [`cells`](Self::cells) will read, so that it comes nearer meanwhile.
    fn fetch(&self, s: usize, own: &Range<usize>) {
        let (n, batch) = (self.shape.hidden, self.shape.batch);
        let t = self.shape.time(self.d, s);
        let kept = &self.tape.reserve[self.shape.row(t, self.d, 5 * n)..][..5 * n * batch];
        let dy = &self.tape.dy[self.shape.row(t, self.d, n)..][..n * batch];
        kept.chunks_exact(n).chain(dy.chunks_exact(n)).for_each(|row| prefetch_all(&row[own.clone()]));
    }

    /// The units `own` of step `s`, whose gate gradients begin at `row` of `dpre`.
    fn cells(&self, s: usize, own: &Range<usize>, row: usize, [dpre, dh, dc]: [&Disjoint<'_, f32>; 3]) {
        let (n, len, batch) = (self.shape.hidden, own.len(), self.shape.batch);
        let t = self.shape.time(self.d, s);
        let (_, c_before, c_stride) = self.before(s);
        // All rows together: a row's part of a task alone is too short a loop.
        with_scratch::<f32, _>(13 * batch * len, |memory| {
            let mut parts = memory.chunks_exact_mut(batch * len);
            let mut flat: [&mut [f32]; 13] = std::array::from_fn(|_| parts.next().expect("13 parts"));
            for b in 0..batch {
                let mut set = |slot: usize, from: &[f32]| flat[slot][b * len..][..len].copy_from_slice(&from[..len]);
                let kept = &self.tape.reserve[self.shape.row(t, self.d, 5 * n) + b * 5 * n + own.start..];
                (0..5).for_each(|slot| set(slot, &kept[slot * n..]));
                set(5, &c_before[b * c_stride + own.start..]);
                set(6, &self.tape.dy[self.shape.row(t, self.d, n) + b * n + own.start..]);
                // SAFETY: every task has units of its own.
                unsafe {
                    set(7, dh.read(b * n + own.start, len));
                    set(8, dc.read(b * n + own.start, len));
                }
            }
            let [i, o, f, g, c, c_before, dy, dh, dc_of_all, di, d_o, df, dg] = flat;
            cell_grad(
                self.cx.isa,
                [i, o, f, g, c],
                c_before,
                dy,
                dh,
                dc_of_all,
                [&mut *di, &mut *d_o, &mut *df, &mut *dg],
            );
            for b in 0..batch {
                let part = b * len..(b + 1) * len;
                let at = row + b * 4 * n + own.start;
                // SAFETY: every task has units, and every round a time, of its own.
                unsafe {
                    dc.slice(b * n + own.start, len).copy_from_slice(&dc_of_all[part.clone()]);
                    for (gate, of) in [&*di, &*d_o, &*df, &*dg].into_iter().enumerate() {
                        dpre.slice(at + gate * n, len).copy_from_slice(&of[part.clone()]);
                    }
                }
            }
        });
    }

    /// A block's part of the gradients of w and r, which it overwrites or adds to, and of x and the bias.
    fn weight_grads(
        &self,
        times: &Range<usize>,
        dpre: &[f32],
        h_before: &[f32],
        accumulate: Accumulate,
        [dx, dw, dr, db]: [&mut [f32]; 4],
    ) -> Result<(), KernelError> {
        let RecurrentShape { batch, input, hidden, .. } = *self.shape;
        let (rows, gates) = (times.len() * batch, 4 * hidden);
        let part = times.start * batch * input..times.end * batch * input;
        let of_x = if self.d == 0 { Accumulate::Overwrite } else { Accumulate::Add };
        let epilogue = |accumulate| Epilogue { accumulate, ..Epilogue::default() };
        let shape = GemmShape { m: rows, n: input, k: gates };
        let (left, w) = (Mat::rows(dpre, gates), Rhs::Plain(Mat::rows(self.w, input)));
        gemm(self.cx, shape, left, w, &epilogue(of_x), &mut dx[part.clone()], input)?;
        with_scratch::<f32, _>(gates * rows, |turned| {
            self.cx.pool.run_chunks(turned, TURNED * rows, &|i, out| {
                let count = out.len() / rows;
                transpose(self.cx.isa, [rows, count], &dpre[i * TURNED..], gates, out, rows);
            });
            let left = Mat::rows(turned, rows);
            let x = Rhs::Plain(Mat::rows(&self.tape.x[part], input));
            gemm(self.cx, GemmShape { m: gates, n: input, k: rows }, left, x, &epilogue(accumulate), dw, input)?;
            let h = Rhs::Plain(Mat::rows(h_before, hidden));
            gemm(self.cx, GemmShape { m: gates, n: hidden, k: rows }, left, h, &epilogue(accumulate), dr, hidden)
        })?;
        self.cx.pool.run_chunks(db, BIAS_COLS, &|c, out| add_columns(self.cx.isa, &dpre[c * BIAS_COLS..], gates, out));
        Ok(())
    }
}

per_isa! {
    /// Some units of one row: i, o, f, c and the cell state in `kept`, i, o, f, c in `dpre`. `dc` goes from after the step to
    /// before it.
    fn cell_grad(
        kept: [&[f32]; 5],
        c_before: &[f32],
        dy: &[f32],
        dh: &[f32],
        dc: &mut [f32],
        dpre: [&mut [f32]; 4],
    ) = cell_grad_body
}

/// Several short loops over few slices each, because the compiler vectorises those.
#[inline(always)]
fn cell_grad_body<M: Math>(
    [i, o, f, g, c]: [&[f32]; 5],
    c_before: &[f32],
    dy: &[f32],
    dh: &[f32],
    dc: &mut [f32],
    [di, d_o, df, dg]: [&mut [f32]; 4],
) {
    let n = dy.len();
    let (i, o, f, g, c) = (&i[..n], &o[..n], &f[..n], &g[..n], &c[..n]);
    let (di, d_o, df, dg) = (&mut di[..n], &mut d_o[..n], &mut df[..n], &mut dg[..n]);
    let (dc, dh, c_before) = (&mut dc[..n], &dh[..n], &c_before[..n]);
    // The slot of f first holds tanh c, which the gradients of o and c need.
    for j in 0..n {
        df[j] = tanh::<M>(c[j]);
    }
    for j in 0..n {
        let dh = dh[j] + dy[j];
        d_o[j] = dh * df[j] * o[j] * (1.0 - o[j]);
        dc[j] = M::fma(dh * o[j], 1.0 - df[j] * df[j], dc[j]);
    }
    for j in 0..n {
        di[j] = dc[j] * g[j] * i[j] * (1.0 - i[j]);
        dg[j] = dc[j] * i[j] * (1.0 - g[j] * g[j]);
    }
    for j in 0..n {
        df[j] = dc[j] * c_before[j] * f[j] * (1.0 - f[j]);
        dc[j] *= f[j];
    }
}

per_isa! {
    /// `out[j] += Σ over the rows of m[row * stride + j]`.
    fn add_columns(m: &[f32], stride: usize, out: &mut [f32]) = add_columns_body
}

#[inline(always)]
fn add_columns_body<M: Math>(m: &[f32], stride: usize, out: &mut [f32]) {
    for row in m.chunks(stride) {
        for (o, &v) in out.iter_mut().zip(row) {
            *o += v;
        }
    }
}
