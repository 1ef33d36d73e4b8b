//! Back-propagation through time.

use super::LstmShape;
use crate::{
    Ctx, KernelError,
    gemm::{Accumulate, Epilogue, GemmShape, Lhs, Mat, PackedRhs, Rhs, gemm},
    isa::{Math, per_isa},
    math::tanh,
    pool::Disjoint,
    scratch::with_scratch,
};
use std::ops::Range;

const NAME: &str = "lstm_grad";

/// Gate columns of one task of a bias gradient.
const BIAS_COLS: usize = 256;

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
pub fn lstm_grad(cx: Ctx<'_>, shape: &LstmShape, tape: &LstmTape<'_>, grads: LstmGrads<'_>) -> Result<(), KernelError> {
    check(shape, tape, &grads)?;
    let LstmShape { steps, batch, input: i, hidden: h, .. } = *shape;
    let (g, state) = (4 * h, batch * h);
    let LstmGrads { dx, dw, dr, db, dh0, dc0 } = grads;
    dh0.copy_from_slice(tape.dh);
    dc0.copy_from_slice(tape.dc);
    for out in [&mut *dx, &mut *dw, &mut *dr, &mut *db] {
        out.fill(0.0);
    }
    if steps * state == 0 {
        return Ok(());
    }
    for d in 0..shape.directions() {
        let pass = Pass {
            cx,
            shape,
            tape,
            d,
            w: PackedRhs::pack(cx, g, i, Mat::rows(&tape.w[d * g * i..(d + 1) * g * i], i))?,
            r: PackedRhs::pack(cx, g, h, Mat::rows(&tape.r[d * g * h..(d + 1) * g * h], h))?,
        };
        let db = &mut db[d * 2 * g..(d + 1) * 2 * g];
        pass.run(LstmGrads {
            dx,
            dw: &mut dw[d * g * i..(d + 1) * g * i],
            dr: &mut dr[d * g * h..(d + 1) * g * h],
            db: &mut db[..g],
            dh0: &mut dh0[d * state..(d + 1) * state],
            dc0: &mut dc0[d * state..(d + 1) * state],
        })?;
        db.copy_within(..g, g);
    }
    Ok(())
}

fn check(shape: &LstmShape, tape: &LstmTape<'_>, grads: &LstmGrads<'_>) -> Result<(), KernelError> {
    let LstmShape { steps: t, batch: b, input: i, hidden: h, .. } = *shape;
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
    shape: &'a LstmShape,
    tape: &'a LstmTape<'a>,
    d: usize,
    /// `[4H, I]`
    w: PackedRhs,
    /// `[4H, H]`
    r: PackedRhs,
}

impl Pass<'_> {
    /// `grads` are those of this direction, but `dx`, to which it adds. `dh0` and `dc0` hold the gradients of the last states.
    fn run(&self, grads: LstmGrads<'_>) -> Result<(), KernelError> {
        let LstmShape { steps, batch, hidden, .. } = *self.shape;
        let gates = 4 * hidden;
        let block = self.shape.block().min(steps);
        let LstmGrads { dx, dw, dr, db, dh0, dc0 } = grads;
        with_scratch::<f32, _>(block * batch * gates, |dpre| {
            with_scratch::<f32, _>(block * batch * hidden, |h_before| {
                for last in (0..steps.div_ceil(block)).rev() {
                    let taken = last * block..steps.min((last + 1) * block);
                    let times = self.shape.times(self.d, &taken);
                    let rows = times.len() * batch;
                    let (dpre, h_before) = (&mut dpre[..rows * gates], &mut h_before[..rows * hidden]);
                    for s in taken.rev() {
                        let row = (self.shape.time(self.d, s) - times.start) * batch;
                        h_before[row * hidden..][..batch * hidden].copy_from_slice(self.before(s).0);
                        self.step(s, &mut dpre[row * gates..][..batch * gates], dh0, dc0)?;
                    }
                    self.weight_grads(&times, dpre, h_before, [&mut *dx, &mut *dw, &mut *dr, &mut *db])?;
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

    /// Takes `dh` and `dc` from after step `s` to before it, and leaves the gradient of its gate sums in `dpre` `[B, 4H]`.
    fn step(&self, s: usize, dpre: &mut [f32], dh: &mut [f32], dc: &mut [f32]) -> Result<(), KernelError> {
        let (batch, n) = (self.shape.batch, self.shape.hidden);
        let t = self.shape.time(self.d, s);
        let kept = &self.tape.reserve[self.shape.row(t, self.d, 5 * n)..][..batch * 5 * n];
        let dy = &self.tape.dy[self.shape.row(t, self.d, n)..][..batch * n];
        let (_, c_before, c_stride) = self.before(s);
        let rows = self.shape.task_rows();
        let (out, dc) = (Disjoint::new(dpre), Disjoint::new(dc));
        let dh_now = &*dh;
        let task = |task: usize| {
            for b in task * rows..batch.min((task + 1) * rows) {
                let part = b * n..(b + 1) * n;
                // SAFETY: each batch row has its own parts, and is computed by one task.
                let (dpre, dc) = unsafe { (out.slice(b * 4 * n, 4 * n), dc.slice(b * n, n)) };
                let c_before = &c_before[b * c_stride..][..n];
                cell_grad(
                    self.cx.isa,
                    &kept[b * 5 * n..(b + 1) * 5 * n],
                    c_before,
                    &dy[part.clone()],
                    &dh_now[part],
                    dc,
                    dpre,
                );
            }
        };
        self.cx.pool.run(batch.div_ceil(rows), &task);
        let shape = GemmShape { m: batch, n, k: 4 * n };
        let dpre = Lhs::Plain(Mat::rows(dpre, 4 * n));
        gemm(self.cx, shape, dpre, Rhs::Packed(&self.r), &Epilogue::default(), dh, n)
    }

    /// Adds a block's part to the gradients of x, w, r and the bias.
    fn weight_grads(
        &self,
        times: &Range<usize>,
        dpre: &[f32],
        h_before: &[f32],
        [dx, dw, dr, db]: [&mut [f32]; 4],
    ) -> Result<(), KernelError> {
        let LstmShape { batch, input, hidden, .. } = *self.shape;
        let (rows, gates) = (times.len() * batch, 4 * hidden);
        let add = Epilogue { accumulate: Accumulate::Add, ..Epilogue::default() };
        let part = times.start * batch * input..times.end * batch * input;
        let shape = GemmShape { m: rows, n: input, k: gates };
        let left = Lhs::Plain(Mat::rows(dpre, gates));
        gemm(self.cx, shape, left, Rhs::Packed(&self.w), &add, &mut dx[part.clone()], input)?;
        let left = Lhs::Plain(Mat::transposed(dpre, gates));
        let x = Rhs::Plain(Mat::rows(&self.tape.x[part], input));
        gemm(self.cx, GemmShape { m: gates, n: input, k: rows }, left, x, &add, dw, input)?;
        let h = Rhs::Plain(Mat::rows(h_before, hidden));
        gemm(self.cx, GemmShape { m: gates, n: hidden, k: rows }, left, h, &add, dr, hidden)?;
        self.cx.pool.run_chunks(db, BIAS_COLS, &|c, out| add_columns(self.cx.isa, &dpre[c * BIAS_COLS..], gates, out));
        Ok(())
    }
}

per_isa! {
    /// One row: `kept` `[5H]`, `dpre` `[4H]`, the rest `[H]`. `dc` goes from after the step to before it.
    fn cell_grad(
        kept: &[f32],
        c_before: &[f32],
        dy: &[f32],
        dh: &[f32],
        dc: &mut [f32],
        dpre: &mut [f32],
    ) = cell_grad_body
}

/// Several short loops over few slices each, because the compiler vectorises those.
#[inline(always)]
fn cell_grad_body<M: Math>(kept: &[f32], c_before: &[f32], dy: &[f32], dh: &[f32], dc: &mut [f32], dpre: &mut [f32]) {
    let n = dy.len();
    let [i, o, f, g, c]: [&[f32]; 5] = std::array::from_fn(|slot| &kept[slot * n..(slot + 1) * n]);
    let (di, rest) = dpre.split_at_mut(n);
    let (d_o, rest) = rest.split_at_mut(n);
    let (df, dg) = rest.split_at_mut(n);
    let (dg, dc, dh, c_before) = (&mut dg[..n], &mut dc[..n], &dh[..n], &c_before[..n]);
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
