//! Scaled dot-product attention without the matrix of scores: a block of keys at a time, with the running maximum and sum of the
//! online softmax (Milakov and Gimelshein, 2018; Dao et al., "FlashAttention", 2022).
//!
//! Scores are computed transposed, keys down and queries across, in panels of 16 queries. So a lane is a query, the softmax has no
//! sums across lanes, and the weights are at once the packed right operand of Vᵀ·Pᵀ. Keys are read where they lie. One task is one
//! head with up to [`CHUNK`] queries.

use crate::{
    Ctx, Isa, KernelError,
    error::product,
    gemm::{Mat, pack::pack_cols, tile::NR, transpose::transpose},
    igemm::{Panels, k_blocks, multiply_plain},
    isa::{Math, per_isa},
    lanes::{self, per_lanes},
    math,
    pool::Disjoint,
    scratch::with_scratch,
};
use std::ops::Range;

const NAME: &str = "attention";

/// Queries of one task: their sums stay in the second-level cache beside a block of keys and values.
const CHUNK: usize = 256;
/// Queries whose weights are kept at a time: two panels, as wide as any tile of 12 rows.
const WIDE: usize = 2 * NR;
/// Keys of one block: the weights of [`WIDE`] queries (32 KiB) stay near the first-level cache; one k-block of the second product.
const KEYS: usize = 256;
/// Keys whose part of the mask is turned at a time.
const MASK_KEYS: usize = 64;

/// The extents of an attention. Query head h reads key head h / (heads / groups).
#[derive(Clone, Copy, PartialEq, Debug)]
#[allow(missing_docs)]
pub struct AttentionShape {
    pub batch: usize,
    pub heads: usize,
    /// Heads of keys and values; divides `heads`.
    pub groups: usize,
    pub queries: usize,
    pub keys: usize,
    /// Elements of a query and a key.
    pub width: usize,
    /// Elements of a value and a result.
    pub value_width: usize,
    /// Multiplies q·k.
    pub scale: f32,
    /// Query i sees the keys up to i + keys − queries; else all.
    pub causal: Causal,
}

/// Whether later positions are hidden.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Causal {
    No,
    Yes,
}

/// Where the vectors of an operand stand: vector (batch b, head h, position p) is the elements from
/// `first + b·batch + h·head + p·position` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Heads {
    pub first: usize,
    pub batch: usize,
    pub head: usize,
    pub position: usize,
}

impl Heads {
    fn at(self, b: usize, h: usize) -> usize {
        self.first + b * self.batch + h * self.head
    }

    /// One past the last element of [batch, heads, positions] vectors of `width` elements.
    fn end(self, [batch, heads, positions, width]: [usize; 4]) -> Option<usize> {
        if [batch, heads, positions, width].contains(&0) {
            return Some(0);
        }
        let axis = |stride: usize, n: usize| stride.checked_mul(n - 1);
        [axis(self.batch, batch), axis(self.head, heads), axis(self.position, positions), Some(width)]
            .into_iter()
            .try_fold(self.first, |sum, v| sum.checked_add(v?))
    }
}

/// Added to the scores: element (b, h, i, j) is `data[b·strides[0] + h·strides[1] + i·strides[2] + j·strides[3]]`.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Mask<'a> {
    pub data: &'a [f32],
    pub strides: [usize; 4],
}

/// `out = softmax(scale · q·kᵀ + mask) · v` for each head; a query that sees no key gets zeros. The vectors of `out` must not
/// overlap. A value is weighted even where its weight is 0, so values must be finite.
pub fn attention(
    cx: Ctx<'_>,
    shape: &AttentionShape,
    q: (&[f32], Heads),
    k: (&[f32], Heads),
    v: (&[f32], Heads),
    mask: Option<Mask<'_>>,
    out: &mut [f32],
    at: Heads,
) -> Result<(), KernelError> {
    check(shape, q, k, v, mask, out.len(), at)?;
    let &AttentionShape { batch, heads, queries, value_width, .. } = shape;
    if value_width == 0 {
        return Ok(());
    }
    let chunks = queries.div_ceil(CHUNK);
    let out = Disjoint::new(out);
    let run = Run { shape, q, k, v, mask, out: &out, at };
    cx.pool.run(batch * heads * chunks, &|t| {
        let (c, bh) = (t % chunks, t / chunks);
        run.chunk(cx.isa, bh / heads, bh % heads, queries * c / chunks..queries * (c + 1) / chunks);
    });
    Ok(())
}

fn check(
    s: &AttentionShape,
    q: (&[f32], Heads),
    k: (&[f32], Heads),
    v: (&[f32], Heads),
    mask: Option<Mask<'_>>,
    out: usize,
    at: Heads,
) -> Result<(), KernelError> {
    let geometry = |why| Err(KernelError::Geometry { kernel: NAME, why });
    if s.groups == 0 || !s.heads.is_multiple_of(s.groups) {
        return geometry("the key heads do not divide the query heads");
    }
    let extents = |heads, positions, width| [s.batch, heads, positions, width];
    let operands = [
        ("q", q.0.len(), q.1.end(extents(s.heads, s.queries, s.width))),
        ("k", k.0.len(), k.1.end(extents(s.groups, s.keys, s.width))),
        ("v", v.0.len(), v.1.end(extents(s.groups, s.keys, s.value_width))),
        ("out", out, at.end(extents(s.heads, s.queries, s.value_width))),
    ];
    for (operand, have, need) in operands {
        if need.is_none_or(|need| need > have) {
            return Err(KernelError::Length { kernel: NAME, operand, need: need.unwrap_or(usize::MAX), have });
        }
    }
    if let Some(mask) = mask {
        let m = Heads { first: 0, batch: mask.strides[0], head: mask.strides[1], position: mask.strides[2] };
        let row = s.keys.saturating_sub(1).checked_mul(mask.strides[3]).and_then(|r| r.checked_add(1));
        let need = row.and_then(|row| m.end(extents(s.heads, s.queries, if s.keys == 0 { 0 } else { row })));
        if need.is_none_or(|need| need > mask.data.len()) {
            let (need, have) = (need.unwrap_or(usize::MAX), mask.data.len());
            return Err(KernelError::Length { kernel: NAME, operand: "mask", need, have });
        }
    }
    if [s.batch, s.heads, s.queries, s.value_width].contains(&0) {
        return Ok(());
    }
    let mut axes = [(at.batch, s.batch), (at.head, s.heads), (at.position, s.queries)];
    axes.sort_unstable();
    let mut extent = s.value_width;
    for (stride, n) in axes.into_iter().filter(|&(_, n)| n > 1) {
        if stride < extent {
            return geometry("vectors of the result overlap");
        }
        extent += stride * (n - 1);
    }
    match product(&[s.batch, s.heads, s.queries.max(s.keys), s.width.max(s.value_width)]) {
        Some(_) => Ok(()),
        None => geometry("the extents overflow"),
    }
}

struct Run<'a> {
    shape: &'a AttentionShape,
    q: (&'a [f32], Heads),
    k: (&'a [f32], Heads),
    v: (&'a [f32], Heads),
    mask: Option<Mask<'a>>,
    out: &'a Disjoint<'a, f32>,
    at: Heads,
}

/// A number for each of 16 queries.
type Lanes = [f32; NR];

impl Run<'_> {
    /// The queries `chunk` of one head.
    fn chunk(&self, isa: Isa, b: usize, h: usize, chunk: Range<usize>) {
        let s = self.shape;
        let (d, e) = (s.width, s.value_width);
        let group = h / (s.heads / s.groups);
        let panels = chunk.len().div_ceil(NR);
        // Every query of the chunk sees no key from here on.
        let keys = self.seen(chunk.end.saturating_sub(1)).min(s.keys);
        let blocks = keys.div_ceil(KEYS);
        let most = if blocks == 0 { 0 } else { keys.div_ceil(blocks) };
        let k = &self.k.0[self.k.1.at(b, group).min(self.k.0.len())..];
        let v = &self.v.0[self.v.1.at(b, group).min(self.v.0.len())..];
        let k_rows: Vec<usize> = (0..keys).map(|j| if d == 0 { 0 } else { j * self.k.1.position }).collect();
        let depth = k_blocks(d);
        let lens = [panels * NR * d, panels * NR * e, panels * NR * 2, most * e, WIDE * most, WIDE * e];
        with_scratch::<f32, _>(lens.iter().sum(), |memory| {
            let [qs, sums, state, turned, weights, part] = split(memory, lens);
            for (q, at) in qs.chunks_mut((WIDE * d).max(1)).zip(chunk.clone().step_by(WIDE)) {
                self.pack_queries(isa, b, h, at..chunk.end.min(at + WIDE), &depth, q);
            }
            sums.fill(0.0);
            for state in state.as_chunks_mut::<NR>().0.chunks_exact_mut(2) {
                state[0] = [f32::NEG_INFINITY; NR];
                state[1] = [0.0; NR];
            }
            for block in 0..blocks {
                let at = keys * block / blocks..keys * (block + 1) / blocks;
                let pitch = at.len();
                let turned = &mut turned[..pitch * e];
                transpose(isa, [pitch, e], &v[at.start * self.v.1.position..], self.v.1.position, turned, pitch);
                let v_rows: Vec<usize> = (0..e).map(|c| c * pitch).collect();
                for first in (0..panels).step_by(WIDE / NR) {
                    let group = first..panels.min(first + WIDE / NR);
                    let queries = chunk.start + group.start * NR..chunk.end.min(chunk.start + group.end * NR);
                    // Keys that some of these queries see.
                    let at = at.start..self.seen(queries.end - 1).clamp(at.start, at.end);
                    if at.is_empty() {
                        continue;
                    }
                    let lanes = group.len() * NR;
                    let weights = &mut weights[..at.len() * lanes];
                    let q = Panels::over(lanes, &depth, &qs[group.start * NR * d..group.end * NR * d]);
                    multiply_plain(isa, k, &k_rows[at.clone()], &q, 0..group.len(), weights);
                    let sums = &mut sums[group.start * NR * e..group.end * NR * e];
                    let part = &mut part[..lanes * e];
                    let state = state[group.start * 2 * NR..group.end * 2 * NR].as_chunks_mut().0;
                    let mut shrink = [[0.0; NR]; WIDE / NR];
                    let scores = weights.as_chunks_mut::<NR>().0.chunks_exact_mut(at.len());
                    for (((p, scores), state), shrink) in
                        group.clone().zip(scores).zip(state.as_chunks_mut::<2>().0).zip(&mut shrink)
                    {
                        let first = chunk.start + p * NR;
                        self.hide(isa, b, h, first..chunk.end.min(first + NR), at.clone(), scores);
                        *shrink = soften(isa, scores, state);
                    }
                    let seen = k_blocks(at.len());
                    let weights = Panels::over(lanes, &seen, weights);
                    let fresh = block == 0;
                    let to = if fresh { &mut *sums } else { &mut *part };
                    multiply_plain(isa, turned, &v_rows, &weights, 0..group.len(), to);
                    if !fresh {
                        for ((sums, part), shrink) in
                            sums.chunks_exact_mut(NR * e).zip(part.chunks_exact(NR * e)).zip(&shrink)
                        {
                            fold(isa, shrink, part.as_chunks().0, sums.as_chunks_mut().0);
                        }
                    }
                }
            }
            let totals = state.as_chunks::<NR>().0.chunks_exact(2).map(|state| &state[1]);
            for (p, (sums, total)) in sums.chunks_exact_mut(NR * e).zip(totals).enumerate() {
                let share = total.map(|total| if total == 0.0 { 0.0 } else { 1.0 / total });
                weigh(isa, &share, sums.as_chunks_mut().0);
                let queries = chunk.start + p * NR..chunk.end.min(chunk.start + (p + 1) * NR);
                transpose(isa, [e, queries.len()], sums, NR, part, e);
                for (i, row) in queries.zip(part.chunks_exact(e)) {
                    // SAFETY: the vectors of the result do not overlap and lie inside it (`check`); this task alone has this one.
                    let out = unsafe { self.out.slice(self.at.at(b, h) + i * self.at.position, e) };
                    out.copy_from_slice(row);
                }
            }
        });
    }

    /// `queries` times the scale, as the columns of a right operand with the k-blocks `depth`.
    fn pack_queries(
        &self,
        isa: Isa,
        b: usize,
        h: usize,
        queries: Range<usize>,
        depth: &[Range<usize>],
        mut out: &mut [f32],
    ) {
        let (data, at) = self.q;
        let q = Mat { data: &data[at.at(b, h).min(data.len())..], row_stride: 1, col_stride: at.position };
        for block in depth {
            for first in queries.clone().step_by(NR) {
                let panel = out.split_off_mut(..block.len() * NR).expect("a place for every panel");
                pack_cols(isa, &q, first..queries.end.min(first + NR), block.clone(), panel);
                weigh(isa, &[self.shape.scale; NR], panel.as_chunks_mut().0);
            }
        }
    }

    /// How many keys, from the first, query `i` sees; past the last key where it sees all.
    fn seen(&self, i: usize) -> usize {
        match self.shape.causal {
            Causal::No => self.shape.keys,
            Causal::Yes => (i + 1 + self.shape.keys).saturating_sub(self.shape.queries),
        }
    }

    /// Adds the mask to the scores of `queries`, and −∞ where a later key stands.
    fn hide(&self, isa: Isa, b: usize, h: usize, queries: Range<usize>, keys: Range<usize>, scores: &mut [Lanes]) {
        if let Some(Mask { data, strides: [sb, sh, si, sj] }) = self.mask {
            let first = b * sb + h * sh + queries.start * si + keys.start * sj;
            let mut part = [[0.0; NR]; MASK_KEYS];
            for (t, scores) in scores.chunks_mut(MASK_KEYS).enumerate() {
                let (first, part) = (first + t * MASK_KEYS * sj, &mut part[..scores.len()]);
                if sj == 1 && si != 0 {
                    let extents = [queries.len(), scores.len()];
                    transpose(isa, extents, &data[first..], si, part.as_flattened_mut(), NR);
                } else if si == 0 {
                    part.iter_mut().enumerate().for_each(|(j, row)| *row = [data[first + j * sj]; NR]);
                } else {
                    for (j, row) in part.iter_mut().enumerate() {
                        for (lane, v) in row.iter_mut().take(queries.len()).enumerate() {
                            *v = data[first + j * sj + lane * si];
                        }
                    }
                }
                add_rows(isa, scores, part);
            }
        }
        if self.seen(queries.start) < keys.end {
            for (j, row) in keys.zip(scores) {
                for (lane, v) in row.iter_mut().take(queries.len()).enumerate() {
                    if j >= self.seen(queries.start + lane) {
                        *v = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

fn split<const N: usize>(mut memory: &mut [f32], lens: [usize; N]) -> [&mut [f32]; N] {
    lens.map(|n| {
        let (head, rest) = std::mem::take(&mut memory).split_at_mut(n);
        memory = rest;
        head
    })
}

per_isa! {
    /// One step of the online softmax: scores become weights relative to the new maximum. `state` holds the maximum and the sum of
    /// the weights; what comes back makes what was summed before relative to the new maximum.
    fn soften(scores: &mut [Lanes], state: &mut [Lanes; 2]) -> Lanes = soften_body
}

#[inline(always)]
fn soften_body<M: Math>(scores: &mut [Lanes], [max, sum]: &mut [Lanes; 2]) -> Lanes {
    let mut top = *max;
    for row in scores.iter() {
        for j in 0..NR {
            top[j] = if row[j] > top[j] { row[j] } else { top[j] };
        }
    }
    // A lane that has seen nothing keeps weights of 0: −∞ − 0 is −∞.
    let mut base = [0f32; NR];
    for j in 0..NR {
        base[j] = if top[j] == f32::NEG_INFINITY { 0.0 } else { top[j] };
    }
    let mut total = [0f32; NR];
    for row in scores.iter_mut() {
        for j in 0..NR {
            row[j] = math::exp_of_negative::<M>(row[j] - base[j]);
            total[j] += row[j];
        }
    }
    let mut shrink = [0f32; NR];
    for j in 0..NR {
        shrink[j] = math::exp_of_negative::<M>(max[j] - base[j]);
        sum[j] = M::fma(sum[j], shrink[j], total[j]);
    }
    *max = top;
    shrink
}

/// `sums = sums · shrink + part`.
fn fold(isa: Isa, shrink: &Lanes, part: &[Lanes], sums: &mut [Lanes]) {
    assert!(part.len() == sums.len(), "a part for every sum");
    // SAFETY: `part` is as long as `sums`.
    unsafe { fold_rows(isa, shrink, part, sums) }
}

per_lanes! {
    /// # Safety
    /// `part` is as long as `sums`.
    unsafe fn fold_rows(shrink: &Lanes, part: &[Lanes], sums: &mut [Lanes]) = fold_body
}

#[inline(always)]
unsafe fn fold_body<V: lanes::Lanes>(shrink: &Lanes, part: &[Lanes], sums: &mut [Lanes]) {
    for first in (0..NR).step_by(V::LANES) {
        // SAFETY: a row is a multiple of a register; every row of `sums` has one of `part` (contract).
        unsafe {
            let shrink = V::load(shrink.as_ptr().add(first));
            for i in 0..sums.len() {
                let at = sums.as_mut_ptr().add(i).cast::<f32>().add(first);
                let part = V::load(part.as_ptr().add(i).cast::<f32>().add(first));
                V::load(at).fma(shrink, part).store(at);
            }
        }
    }
}

/// `rows = rows · share`.
fn weigh(isa: Isa, share: &Lanes, rows: &mut [Lanes]) {
    // SAFETY: no contract but the level's.
    unsafe { weigh_rows(isa, share, rows) }
}

per_lanes! {
    /// # Safety
    /// None.
    unsafe fn weigh_rows(share: &Lanes, rows: &mut [Lanes]) = weigh_body
}

#[inline(always)]
unsafe fn weigh_body<V: lanes::Lanes>(share: &Lanes, rows: &mut [Lanes]) {
    for first in (0..NR).step_by(V::LANES) {
        // SAFETY: a row is a multiple of a register.
        unsafe {
            // Adding −0 changes nothing.
            let (share, zero) = (V::load(share.as_ptr().add(first)), V::splat(-0.0));
            for row in &mut *rows {
                let at = row.as_mut_ptr().add(first);
                V::load(at).fma(share, zero).store(at);
            }
        }
    }
}

per_isa! {
    /// Adds a row of the mask to each row of scores.
    fn add_rows(scores: &mut [Lanes], more: &[Lanes]) = add_rows_body
}

#[inline(always)]
fn add_rows_body<M: Math>(scores: &mut [Lanes], more: &[Lanes]) {
    for (v, more) in scores.as_flattened_mut().iter_mut().zip(more.as_flattened()) {
        *v += more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, every_ctx, values};

    /// The definition in f64, operands laid out [B, heads, positions, width].
    fn naive(s: &AttentionShape, q: &[f32], k: &[f32], v: &[f32], mask: Option<&Mask<'_>>) -> Vec<f64> {
        let mut out = Vec::new();
        for b in 0..s.batch {
            for h in 0..s.heads {
                let g = b * s.groups + h / (s.heads / s.groups);
                for i in 0..s.queries {
                    let query = &q[((b * s.heads + h) * s.queries + i) * s.width..][..s.width];
                    let visible = |j: usize| s.causal == Causal::No || j + s.queries <= i + s.keys;
                    let score = |j: usize| {
                        let key = &k[(g * s.keys + j) * s.width..][..s.width];
                        let dot: f64 = query.iter().zip(key).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
                        let added = mask.map_or(0.0, |m| {
                            let [sb, sh, si, sj] = m.strides;
                            f64::from(m.data[b * sb + h * sh + i * si + j * sj])
                        });
                        if visible(j) { dot * f64::from(s.scale) + added } else { f64::NEG_INFINITY }
                    };
                    let scores: Vec<f64> = (0..s.keys).map(score).collect();
                    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> =
                        scores.iter().map(|x| if max.is_finite() { (x - max).exp() } else { 0.0 }).collect();
                    let total: f64 = weights.iter().sum();
                    for c in 0..s.value_width {
                        let sum: f64 =
                            (0..s.keys).map(|j| weights[j] * f64::from(v[(g * s.keys + j) * s.value_width + c])).sum();
                        out.push(if total == 0.0 { 0.0 } else { sum / total });
                    }
                }
            }
        }
        out
    }

    fn heads_first(heads: usize, positions: usize, width: usize) -> Heads {
        Heads { first: 0, batch: heads * positions * width, head: positions * width, position: width }
    }

    const BASE: AttentionShape = AttentionShape {
        batch: 2,
        heads: 4,
        groups: 2,
        queries: 5,
        keys: 7,
        width: 8,
        value_width: 6,
        scale: 0.35,
        causal: Causal::No,
    };

    #[test]
    fn every_shape_agrees_with_the_definition() {
        let shapes = [
            BASE,
            AttentionShape { queries: 1, keys: 1, width: 1, value_width: 1, ..BASE },
            AttentionShape { queries: 0, ..BASE },
            AttentionShape { keys: 0, ..BASE },
            AttentionShape { width: 0, ..BASE },
            AttentionShape { causal: Causal::Yes, queries: 19, keys: 19, ..BASE },
            AttentionShape { causal: Causal::Yes, queries: 3, keys: 150, groups: 1, ..BASE },
            // The first queries see nothing.
            AttentionShape { causal: Causal::Yes, queries: 40, keys: 17, groups: 4, ..BASE },
            AttentionShape {
                batch: 1,
                heads: 1,
                groups: 1,
                queries: 300,
                keys: 531,
                width: 17,
                value_width: 33,
                ..BASE
            },
            AttentionShape {
                batch: 1,
                causal: Causal::Yes,
                queries: 270,
                keys: 270,
                width: 64,
                value_width: 64,
                ..BASE
            },
        ];
        for s in shapes {
            let q = values("q", s.batch * s.heads * s.queries * s.width);
            let k = values("k", s.batch * s.groups * s.keys * s.width);
            let v = values("v", s.batch * s.groups * s.keys * s.value_width);
            let full = values("m", s.batch * s.heads * s.queries * s.keys);
            let row: Vec<f32> =
                (0..s.batch * s.keys).map(|i| if i % 3 == 1 { f32::NEG_INFINITY } else { 0.25 }).collect();
            let rows = s.queries * s.keys;
            let masks = [
                None,
                Some(Mask { data: &full, strides: [s.heads * rows, rows, s.keys, 1] }),
                Some(Mask { data: &row, strides: [s.keys, 0, 0, 1] }),
            ];
            for mask in masks {
                let got = every_ctx(|cx| {
                    let mut out = vec![f32::NAN; s.batch * s.heads * s.queries * s.value_width];
                    let (qs, ks) = (heads_first(s.heads, s.queries, s.width), heads_first(s.groups, s.keys, s.width));
                    let vs = heads_first(s.groups, s.keys, s.value_width);
                    let at = heads_first(s.heads, s.queries, s.value_width);
                    attention(cx, &s, (&q, qs), (&k, ks), (&v, vs), mask, &mut out, at).unwrap();
                    out
                });
                let want = naive(&s, &q, &k, &v, mask.as_ref());
                got.iter().for_each(|got| assert_close(got, &want, 2e-6, &format!("{s:?}")));
            }
        }
    }

    /// One [positions, columns] matrix holds q, k and v of all heads side by side.
    #[test]
    fn heads_may_be_columns_of_one_projection() {
        let (n, heads, d) = (21, 3, 5);
        let s = AttentionShape {
            batch: 1,
            heads,
            groups: heads,
            queries: n,
            keys: n,
            width: d,
            value_width: d,
            scale: 1.0,
            causal: Causal::No,
        };
        let w = 3 * heads * d;
        let x = values("x", n * w);
        let part = |i: usize| -> Vec<f32> {
            (0..heads * n * d).map(|at| x[at / d % n * w + i * heads * d + at / (n * d) * d + at % d]).collect()
        };
        let want = naive(&s, &part(0), &part(1), &part(2), None);
        let of = |i: usize| (&x[..], Heads { first: i * heads * d, batch: n * w, head: d, position: w });
        for got in every_ctx(|cx| {
            let mut out = vec![f32::NAN; n * heads * d];
            let at = Heads { first: 0, batch: n * heads * d, head: d, position: heads * d };
            attention(cx, &s, of(0), of(1), of(2), None, &mut out, at).unwrap();
            out
        }) {
            let by_head: Vec<f32> =
                (0..heads * n * d).map(|i| got[i / d % n * heads * d + i / (n * d) * d + i % d]).collect();
            assert_close(&by_head, &want, 2e-6, "projection");
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let s =
            AttentionShape { batch: 1, heads: 1, groups: 1, queries: 2, keys: 300, width: 1, value_width: 1, ..BASE };
        let k: Vec<f32> = (0..300).map(|i| i as f32 * 1e30).collect();
        let v: Vec<f32> = (0..300).map(|i| i as f32).collect();
        for got in every_ctx(|cx| {
            let mut out = vec![0.0; 2];
            let at = |positions| heads_first(1, positions, 1);
            attention(cx, &s, (&[1.0, -1.0], at(2)), (&k, at(300)), (&v, at(300)), None, &mut out, at(2)).unwrap();
            out
        }) {
            assert_eq!(got, [299.0, 0.0]);
        }
    }

    #[test]
    fn bad_operands_are_errors() {
        let pool = crate::Pool::new(1);
        let cx = Ctx { isa: Isa::Generic, pool: &pool };
        let s = AttentionShape { batch: 1, heads: 2, groups: 1, queries: 2, keys: 3, width: 2, value_width: 2, ..BASE };
        let (q, k) = ([0f32; 8], [0f32; 6]);
        let run = |s: &AttentionShape, q: &[f32], k: &[f32], mask: Option<Mask<'_>>, out: usize, position: usize| {
            let at = Heads { position, ..heads_first(2, 2, 2) };
            let (q, k) = ((q, heads_first(2, 2, 2)), (k, heads_first(1, 3, 2)));
            attention(cx, s, q, k, k, mask, &mut vec![0.0; out], at)
        };
        assert!(run(&s, &q, &k, None, 8, 2).is_ok());
        assert!(run(&s, &q[1..], &k, None, 8, 2).is_err());
        assert!(run(&s, &q, &k[1..], None, 8, 2).is_err());
        assert!(run(&s, &q, &k, None, 7, 2).is_err());
        assert!(matches!(run(&s, &q, &k, None, 8, 1), Err(KernelError::Geometry { .. })));
        assert!(run(&AttentionShape { heads: 3, groups: 2, ..s }, &[0.0; 12], &k, None, 12, 2).is_err());
        let mask = |data| Some(Mask { data, strides: [0, 0, 3, 1] });
        assert!(run(&s, &q, &k, mask(&[0.0; 6]), 8, 2).is_ok());
        assert!(run(&s, &q, &k, mask(&[0.0; 5]), 8, 2).is_err());
    }
}
