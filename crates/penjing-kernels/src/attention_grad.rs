//! The gradients of scaled dot-product attention without the matrix of scores: the weights of some queries at a time are
//! computed again from q and k (Dao et al., "FlashAttention", 2022, section 3.1).

use crate::{
    Ctx, KernelError,
    attention::Causal,
    error::{check_len, product},
    gemm::{Accumulate, Epilogue, GemmShape, Mat, Rhs, gemm},
    isa::{Math, per_isa},
    math::exp,
    pool::Disjoint,
    reduce::{lanes, sum},
    scratch::with_scratch,
};

const NAME: &str = "attention_grad";

/// Queries whose weights are kept at a time.
const QUERIES: usize = 64;

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
        head_grad(cx, s, operands, grads).expect("the lengths were checked");
    });
    Ok(())
}

/// The gradients of one head.
fn head_grad(
    cx: Ctx<'_>,
    s: &AttentionGradShape,
    [q, k, v, dy]: [&[f32]; 4],
    [dq, dk, dv]: [&mut [f32]; 3],
) -> Result<(), KernelError> {
    let (d, e) = (s.width, s.value_width);
    let (set, add) = (Epilogue::default(), Epilogue { accumulate: Accumulate::Add, ..Epilogue::default() });
    for grad in [&mut *dq, &mut *dk, &mut *dv] {
        grad.fill(0.0);
    }
    let most = QUERIES.min(s.queries) * s.keys;
    with_scratch::<f32, _>(2 * most, |memory| {
        let (weights, grads) = memory.split_at_mut(most);
        for first in (0..s.queries).step_by(QUERIES) {
            let rows = QUERIES.min(s.queries - first);
            let keys = s.seen(first + rows - 1);
            let (weights, grads) = (&mut weights[..rows * keys], &mut grads[..rows * keys]);
            let (q, dy) = (&q[first * d..][..rows * d], &dy[first * e..][..rows * e]);
            let to_keys = |k| GemmShape { m: rows, n: keys, k };
            let of_keys = |n| GemmShape { m: keys, n, k: rows };
            let (q_rows, dy_rows) = (Mat::rows(q, d), Mat::rows(dy, e));
            gemm(cx, to_keys(d), q_rows, Rhs::Plain(Mat::transposed(&k[..keys * d], d)), &set, weights, keys)?;
            gemm(cx, to_keys(e), dy_rows, Rhs::Plain(Mat::transposed(&v[..keys * e], e)), &set, grads, keys)?;
            if keys > 0 {
                for (i, (w, g)) in weights.chunks_exact_mut(keys).zip(grads.chunks_exact_mut(keys)).enumerate() {
                    let seen = s.seen(first + i);
                    row_grad(cx.isa, s.scale, &mut w[..seen], &mut g[..seen]);
                    w[seen..].fill(0.0);
                    g[seen..].fill(0.0);
                }
            }
            let (weights, grads) = (&*weights, &*grads);
            let down = |m| Mat::transposed(m, keys);
            gemm(cx, of_keys(e), down(weights), Rhs::Plain(dy_rows), &add, &mut dv[..keys * e], e)?;
            gemm(cx, of_keys(d), down(grads), Rhs::Plain(q_rows), &add, &mut dk[..keys * d], d)?;
            let shape = GemmShape { m: rows, n: d, k: keys };
            let (left, right) = (Mat::rows(grads, keys), Rhs::Plain(Mat::rows(&k[..keys * d], d)));
            gemm(cx, shape, left, right, &set, &mut dq[first * d..][..rows * d], d)?;
        }
        Ok(())
    })
}

per_isa! {
    /// `w`: q·k of one query becomes w = softmax(scale · w); `g`: dy·v becomes scale · w · (g − Σ w·g).
    fn row_grad(scale: f32, w: &mut [f32], g: &mut [f32]) = row_grad_body
}

#[inline(always)]
fn row_grad_body<M: Math>(scale: f32, w: &mut [f32], g: &mut [f32]) {
    for w in w.iter_mut() {
        *w *= scale;
    }
    let top = lanes(w, f32::NEG_INFINITY, f32::max, f32::max);
    for w in w.iter_mut() {
        *w = exp::<M>(*w - top);
    }
    let part = 1.0 / sum(w);
    for (w, g) in w.iter_mut().zip(g.iter_mut()) {
        *w *= part;
        *g *= *w;
    }
    let total = sum(g);
    for (w, g) in w.iter().zip(g.iter_mut()) {
        *g = (*g - *w * total) * scale;
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
