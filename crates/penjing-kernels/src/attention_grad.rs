//! The gradients of scaled dot-product attention without the matrix of scores: the weights of some queries at a time are
//! computed again from q and k (Dao et al., "FlashAttention", 2022, section 3.1).
//!
//! Scores are computed transposed, keys down and 16 queries across, in panels `[k-block of keys][16 queries][key][16]`. So a lane is
//! a query and the softmax has no sums across lanes; the same memory is the packed right operand of dqᵀ = kᵀ·Gᵀ, and, with a
//! run of 16 queries for each panel, the left operand of dv += Wᵀ·dy and dk += Gᵀ·q. k, v and the panels are read in place.

use crate::{
    Ctx, Isa, KernelError,
    attention::Causal,
    error::{check_len, product},
    gemm::{
        Accumulate, Epilogue, Mat,
        pack::pack_cols,
        sink::{COut, CSink},
        tile::NR,
        transpose::transpose,
    },
    igemm::{self, Bases, Panels, Rows, k_blocks, multiply_plain, with_panels},
    isa::{Math, per_isa},
    lanes::{Lanes as Register, per_lanes},
    math::exp_of_negative,
    pool::Disjoint,
    scratch::with_scratch,
};
use std::ops::Range;

const NAME: &str = "attention_grad";

/// Queries whose weights are kept at a time.
const QUERIES: usize = 64;
/// The same where later positions are hidden: hidden keys of a block are computed too.
const CAUSAL_QUERIES: usize = 32;

/// The extents: q `[heads, queries, width]`, k `[heads, keys, width]`, v `[heads, keys, value_width]`, dy
/// `[heads, queries, value_width]`, where `heads` counts those of the whole batch.
#[derive(Clone, Copy, PartialEq, Debug)]
#[allow(missing_docs)]
pub struct AttentionGradShape {
    pub heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub width: usize,
    pub value_width: usize,
    /// Multiplies q·k.
    pub scale: f32,
    /// Query i sees the keys up to i + keys − queries; else all.
    pub causal: Causal,
}

impl AttentionGradShape {
    /// How many keys, from the first, query `i` sees.
    fn seen(&self, i: usize) -> usize {
        if self.causal == Causal::Yes {
            (i + 1 + self.keys).saturating_sub(self.queries).min(self.keys)
        } else {
            self.keys
        }
    }
}

/// The gradients `[dq, dk, dv]`, of the shapes of q, k and v, from `[q, k, v, dy]`. A query that sees no key has none.
pub fn attention_grad(
    cx: Ctx<'_>,
    s: &AttentionGradShape,
    [q, k, v, dy]: [&[f32]; 4],
    [dq, dk, dv]: [&mut [f32]; 3],
) -> Result<(), KernelError> {
    let of = |positions, width| product(&[s.heads, positions, width]);
    for (operand, have, positions, width) in [
        ("q", q.len(), s.queries, s.width),
        ("k", k.len(), s.keys, s.width),
        ("v", v.len(), s.keys, s.value_width),
        ("dy", dy.len(), s.queries, s.value_width),
        ("dq", dq.len(), s.queries, s.width),
        ("dk", dk.len(), s.keys, s.width),
        ("dv", dv.len(), s.keys, s.value_width),
    ] {
        check_len(NAME, operand, of(positions, width), have)?;
    }
    let (x, y) = ([s.queries * s.width, s.keys * s.width], [s.keys * s.value_width, s.queries * s.value_width]);
    let (dq, dk, dv) = (Disjoint::new(dq), Disjoint::new(dk), Disjoint::new(dv));
    cx.pool.run(s.heads, &|h| {
        let operands =
            [&q[h * x[0]..][..x[0]], &k[h * x[1]..][..x[1]], &v[h * y[0]..][..y[0]], &dy[h * y[1]..][..y[1]]];
        // SAFETY: each head has its own parts, and is one task.
        let grads = unsafe { [dq.slice(h * x[0], x[0]), dk.slice(h * x[1], x[1]), dv.slice(h * y[0], y[0])] };
        Head { cx, s, operands }.grads(grads);
    });
    Ok(())
}

/// One head's q, k, v and dy.
struct Head<'a> {
    cx: Ctx<'a>,
    s: &'a AttentionGradShape,
    operands: [&'a [f32]; 4],
}

/// For each of 16 queries a number.
type Lanes = [f32; NR];

impl Head<'_> {
    fn grads(&self, [dq, dk, dv]: [&mut [f32]; 3]) {
        let (s, [q, k, v, dy]) = (self.s, self.operands);
        let (d, e, isa) = (s.width, s.value_width, self.cx.isa);
        dk.fill(0.0);
        dv.fill(0.0);
        let step = if s.causal == Causal::Yes { CAUSAL_QUERIES } else { QUERIES };
        let rows_of = |width: usize| (0..s.keys).map(|j| j * width).collect::<Vec<usize>>();
        let (k_rows, v_rows, panel_rows) = (rows_of(d), rows_of(e), rows_of(NR));
        let turned_rows: Vec<usize> = (0..d).map(|c| c * s.keys).collect();
        let most = step.min(s.queries).next_multiple_of(NR);
        with_scratch::<f32, _>(d * s.keys + 2 * most * s.keys + most * d, |memory| {
            let (turned, memory) = memory.split_at_mut(d * s.keys);
            let (weights, memory) = memory.split_at_mut(most * s.keys);
            let (grads, sums) = memory.split_at_mut(most * s.keys);
            transpose(isa, [s.keys, d], k, d, turned, s.keys);
            for first in (0..s.queries).step_by(step) {
                let queries = first..s.queries.min(first + step);
                let keys = s.seen(queries.end - 1);
                let dq = &mut dq[queries.start * d..queries.end * d];
                if keys == 0 {
                    dq.fill(0.0);
                    continue;
                }
                let (panels, blocks) = (queries.len().div_ceil(NR), k_blocks(keys));
                let place = |block: &Range<usize>| block.start * panels * NR..block.end * panels * NR;
                let (weights, grads) = (&mut weights[..panels * NR * keys], &mut grads[..panels * NR * keys]);
                let (q, dy) = (&q[queries.start * d..queries.end * d], &dy[queries.start * e..queries.end * e]);
                self.across(q, d, queries.len(), |q| {
                    for block in &blocks {
                        multiply_plain(isa, k, &k_rows[block.clone()], q, 0..panels, &mut weights[place(block)]);
                    }
                });
                self.across(dy, e, queries.len(), |dy| {
                    for block in &blocks {
                        multiply_plain(isa, v, &v_rows[block.clone()], dy, 0..panels, &mut grads[place(block)]);
                    }
                });
                for p in 0..panels {
                    let seen = std::array::from_fn(|lane| {
                        let i = first + p * NR + lane;
                        if i < queries.end { s.seen(i) } else { 0 }
                    });
                    self.soften(&blocks, p, panels, &seen, weights, grads);
                }
                for (left, right, width, out) in [(&*weights, dy, e, &mut *dv), (&*grads, q, d, &mut *dk)] {
                    self.down(right, width, queries.len(), |right| {
                        for block in &blocks {
                            let offsets: Vec<usize> = (0..panels).map(|p| p * block.len() * NR).collect();
                            let rows = Rows {
                                data: &left[place(block)],
                                bases: Bases::new(&panel_rows[..block.len()]),
                                offsets: &offsets,
                                line: block.len(),
                            };
                            let out = &mut out[block.start * width..block.end * width];
                            let c = COut { ptr: out.as_mut_ptr(), row_stride: width };
                            let add = Epilogue { accumulate: Accumulate::Add, ..Epilogue::default() };
                            // SAFETY: the rows of the block's keys are borrowed mutably.
                            let sink = unsafe { CSink::new(isa, c, 0, &add, true, true) };
                            igemm::multiply(isa, &rows, 1, right, 0..right.count(), &sink);
                        }
                    });
                }
                let sums = &mut sums[..panels * NR * d];
                let right = Panels::over(panels * NR, &blocks, grads);
                multiply_plain(isa, turned, &turned_rows, &right, 0..panels, sums);
                for (sums, dq) in sums.chunks_exact(NR * d).zip(dq.chunks_mut(NR * d)) {
                    transpose(isa, [d, dq.len() / d.max(1)], sums, NR, dq, d);
                }
            }
        });
    }

    /// The rows of `m`, `[rows, width]`, as the columns of a right operand.
    fn across(&self, m: &[f32], width: usize, rows: usize, f: impl FnOnce(&Panels<'_>)) {
        let m = Mat::transposed(m, width);
        let fill = |steps: Range<usize>, panel: usize, out: &mut [f32]| {
            pack_cols(self.cx.isa, &m, panel * NR..rows.min((panel + 1) * NR), steps, out);
        };
        with_panels(self.cx, rows, width, &fill, f);
    }

    /// `m`, `[rows, width]`, as a right operand of one run for every 16 rows; rows past the last are zero.
    fn down(&self, m: &[f32], width: usize, rows: usize, f: impl FnOnce(&Panels<'_>)) {
        let m = Mat::rows(m, width);
        let fill = |steps: Range<usize>, panel: usize, out: &mut [f32]| {
            let real = steps.start.min(rows)..steps.end.min(rows);
            let (filled, rest) = out.split_at_mut(real.len() * NR);
            pack_cols(self.cx.isa, &m, panel * NR..width.min((panel + 1) * NR), real, filled);
            rest.fill(0.0);
        };
        let runs = rows.div_ceil(NR);
        with_panels(self.cx, width, runs * NR, &fill, |panels| f(&panels.in_runs(runs)));
    }

    /// Panel `p` of `weights`, q·k, becomes w = softmax(scale · q·k), and that of `grads`, dy·v, scale · w · (dy·v − Σ w·(dy·v)).
    /// Lane l sees the first `seen[l]` keys.
    fn soften(
        &self,
        blocks: &[Range<usize>],
        p: usize,
        panels: usize,
        seen: &[usize; NR],
        weights: &mut [f32],
        grads: &mut [f32],
    ) {
        let part = |block: &Range<usize>| {
            let start = block.start * panels + p * block.len();
            start..start + block.len()
        };
        let (weights, grads) = (weights.as_chunks_mut::<NR>().0, grads.as_chunks_mut::<NR>().0);
        let isa: Isa = self.cx.isa;
        let mut top = [f32::NEG_INFINITY; NR];
        for block in blocks {
            hide(isa, self.s.scale, block.start, seen, &mut weights[part(block)], &mut top);
        }
        // Nothing is left of the weights of a query that sees no key.
        for (top, &seen) in top.iter_mut().zip(seen) {
            *top = if seen == 0 { 0.0 } else { *top };
        }
        let (mut sum, mut total) = ([0.0; NR], [0.0; NR]);
        for block in blocks {
            weigh(isa, &top, &mut weights[part(block)], &grads[part(block)], &mut sum, &mut total);
        }
        let share: Lanes = std::array::from_fn(|l| if seen[l] == 0 { 0.0 } else { 1.0 / sum[l] });
        let mean: Lanes = std::array::from_fn(|l| total[l] * share[l]);
        for block in blocks {
            finish(isa, self.s.scale, &share, &mean, &mut weights[part(block)], &mut grads[part(block)]);
        }
    }
}

per_isa! {
    /// Scales the scores of the keys from `first` on, hides those that a lane does not see, and raises `top` to the greatest.
    fn hide(scale: f32, first: usize, seen: &[usize; NR], w: &mut [Lanes], top: &mut Lanes) = hide_body
}

#[inline(always)]
fn hide_body<M: Math>(scale: f32, first: usize, seen: &[usize; NR], w: &mut [Lanes], top: &mut Lanes) {
    let mut all = usize::MAX;
    for &seen in seen {
        all = all.min(seen);
    }
    let mut greatest = *top;
    for (j, w) in w.iter_mut().enumerate() {
        for v in w.iter_mut() {
            *v *= scale;
        }
        if first + j >= all {
            for l in 0..NR {
                w[l] = if first + j < seen[l] { w[l] } else { f32::NEG_INFINITY };
            }
        }
        for l in 0..NR {
            greatest[l] = if w[l] > greatest[l] { w[l] } else { greatest[l] };
        }
    }
    *top = greatest;
}

per_isa! {
    /// `w = e^(w − top)`; adds w to `sum` and w·g to `total`.
    fn weigh(top: &Lanes, w: &mut [Lanes], g: &[Lanes], sum: &mut Lanes, total: &mut Lanes) = weigh_body
}

#[inline(always)]
fn weigh_body<M: Math>(top: &Lanes, w: &mut [Lanes], g: &[Lanes], sum: &mut Lanes, total: &mut Lanes) {
    let (top, mut sums, mut totals) = (*top, *sum, *total);
    for (w, g) in w.iter_mut().zip(g) {
        for l in 0..NR {
            w[l] = exp_of_negative::<M>(w[l] - top[l]);
        }
        for l in 0..NR {
            sums[l] += w[l];
            totals[l] = M::fma(w[l], g[l], totals[l]);
        }
    }
    (*sum, *total) = (sums, totals);
}

/// `w` is multiplied by `share`, and `g` becomes scale · w · (g − mean).
fn finish(isa: Isa, scale: f32, share: &Lanes, mean: &Lanes, w: &mut [Lanes], g: &mut [Lanes]) {
    assert!(w.len() == g.len());
    // SAFETY: both have as many rows.
    unsafe { finish_rows(isa, scale, share, mean, w, g.as_mut_ptr()) };
}

per_lanes! {
    /// # Safety
    /// `g` has as many rows as `w`.
    unsafe fn finish_rows(scale: f32, share: &Lanes, mean: &Lanes, w: &mut [Lanes], g: *mut Lanes) = finish_body
}

// By registers: the compiler would vectorise over the keys, which lie 16 apart.
#[inline(always)]
unsafe fn finish_body<V: Register>(scale: f32, share: &Lanes, mean: &Lanes, w: &mut [Lanes], g: *mut Lanes) {
    // SAFETY: the contract; a row has 16 lanes.
    unsafe {
        // Adding −0 changes nothing.
        let zero = V::splat(-0.0);
        for part in (0..NR).step_by(V::LANES) {
            let (share, mean) = (V::load(share.as_ptr().add(part)), V::load(mean.as_ptr().add(part)));
            for (j, w) in w.iter_mut().enumerate() {
                let (w, g) = (w.as_mut_ptr().add(part), g.add(j).cast::<f32>().add(part));
                let weight = V::load(w).fma(share, zero);
                weight.store(w);
                V::load(g).sub(mean).fma(weight.scale(scale), zero).store(g);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, every_ctx, values};

    /// dq, dk, dv in f64, by the formulas over the whole matrix of scores.
    fn naive(s: &AttentionGradShape, x: &[Vec<f32>; 4]) -> Vec<f64> {
        let [q, k, v, dy] = x.each_ref().map(|x| x.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>());
        let (d, e, scale) = (s.width, s.value_width, f64::from(s.scale));
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        for h in 0..s.heads {
            for i in (0..s.queries).map(|i| h * s.queries + i) {
                let seen = if s.causal == Causal::Yes {
                    (i % s.queries + 1 + s.keys).saturating_sub(s.queries).min(s.keys)
                } else {
                    s.keys
                };
                let (q, dy) = (&q[i * d..][..d], &dy[i * e..][..e]);
                let key = |j: usize| h * s.keys + j;
                let scores: Vec<f64> = (0..seen).map(|j| scale * dot(q, &k[key(j) * d..][..d])).collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
                let w: Vec<f64> = scores.iter().map(|s| (s - top).exp() / total).collect();
                let g: Vec<f64> = (0..seen).map(|j| dot(dy, &v[key(j) * e..][..e])).collect();
                let mean = dot(&w, &g);
                for j in 0..seen {
                    let ds = scale * w[j] * (g[j] - mean);
                    (0..d).for_each(|c| dq[i * d + c] += ds * k[key(j) * d + c]);
                    (0..d).for_each(|c| dk[key(j) * d + c] += ds * q[c]);
                    (0..e).for_each(|c| dv[key(j) * e + c] += w[j] * dy[c]);
                }
            }
        }
        [dq, dk, dv].concat()
    }

    #[test]
    fn gradients_agree_with_f64() {
        for (heads, queries, keys, width, value_width) in [
            (2, 5, 5, 3, 3),
            (3, 131, 131, 8, 8),
            (1, 64, 64, 16, 16),
            (2, 7, 19, 5, 11),
            (2, 19, 7, 4, 6),
            (1, 1, 1, 1, 1),
            (2, 3, 0, 4, 4),
            (2, 0, 3, 4, 4),
            (0, 3, 3, 4, 4),
        ] {
            for causal in [Causal::No, Causal::Yes] {
                let s = AttentionGradShape { heads, queries, keys, width, value_width, scale: 0.7, causal };
                let lens = [queries * width, keys * width, keys * value_width, queries * value_width];
                let x = [0, 1, 2, 3].map(|i| values(["q", "k", "v", "dy"][i], heads * lens[i]));
                let want = naive(&s, &x);
                for got in every_ctx(|cx| {
                    let mut out = [0, 1, 2].map(|i| vec![f32::NAN; heads * lens[i]]);
                    let [dq, dk, dv] = out.each_mut().map(Vec::as_mut_slice);
                    attention_grad(cx, &s, x.each_ref().map(Vec::as_slice), [dq, dk, dv]).unwrap();
                    out.concat()
                }) {
                    assert_close(&got, &want, 1e-5, &format!("{s:?}"));
                }
            }
        }
    }

    #[test]
    fn large_scores_stay_finite_and_wrong_lengths_are_errors() {
        let s = AttentionGradShape {
            heads: 1,
            queries: 2,
            keys: 2,
            width: 1,
            value_width: 1,
            scale: 1.0,
            causal: Causal::No,
        };
        let pool = crate::Pool::new(1);
        let cx = Ctx { isa: crate::Isa::detect(), pool: &pool };
        let (q, k, v, dy) = ([1e3, -1e3], [1e3, -1e3], [1.0, 2.0], [1.0, 1.0]);
        let (mut dq, mut dk, mut dv) = ([0.0; 2], [0.0; 2], [0.0; 2]);
        attention_grad(cx, &s, [&q, &k, &v, &dy], [&mut dq, &mut dk, &mut dv]).unwrap();
        assert_eq!((dq, dk, dv), ([0.0; 2], [0.0; 2], [1.0, 1.0]));
        assert!(attention_grad(cx, &s, [&q[1..], &k, &v, &dy], [&mut dq, &mut dk, &mut dv]).is_err());
    }
}
