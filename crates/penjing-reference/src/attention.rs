//! Scaled dot-product attention (Vaswani et al. 2017) with grouped key heads (Ainslie et al. 2023).

use crate::{
    RefError,
    data::{count, store_floats, walk_broadcast},
};
use penjing_tensor::Tensor;

/// q: [B, H, S, D], k: [B, G, T, D], v: [B, G, T, E] → [B, H, S, E]. A query that sees no key gets zeros.
pub(crate) fn attention(
    [q, k, v]: [&Tensor; 3],
    mask: Option<&Tensor>,
    scale: f64,
    causal: bool,
) -> Result<Tensor, RefError> {
    let [batch, heads, s, d] = extents(q)?;
    let [_, groups, t, e] = extents(v)?;
    let (qd, kd, vd) = (q.to_f64s(), k.to_f64s(), v.to_f64s());
    let shape = [batch, heads, s, e];
    let mut out = vec![0.0; count(&shape)?];
    let bias = mask.map(Tensor::to_f64s);
    let score_shape = [batch, heads, s, t];
    count(&score_shape)?;
    let mut bias_places = mask.map(|m| walk_broadcast(m.shape(), &score_shape));
    let mut scores = vec![0.0; t];
    for b in 0..batch {
        for h in 0..heads {
            // head h reads key head h / (H/G).
            let kv = b * groups + h / (heads / groups);
            for i in 0..s {
                let query = &qd[((b * heads + h) * s + i) * d..][..d];
                for (j, score) in scores.iter_mut().enumerate() {
                    let key = &kd[(kv * t + j) * d..][..d];
                    *score = query.iter().zip(key).map(|(x, y)| x * y).sum::<f64>() * scale;
                    if let (Some(bias), Some(places)) = (&bias, &mut bias_places) {
                        *score += places.next().map_or(0.0, |p| bias[p]);
                    }
                    // Position i sees j ≤ i + T − S.
                    if causal && j + s > i + t {
                        *score = f64::NEG_INFINITY;
                    }
                }
                let row = &mut out[((b * heads + h) * s + i) * e..][..e];
                weigh(&mut scores, &vd[kv * t * e..][..t * e], row);
            }
        }
    }
    store_floats(q.dtype(), &shape, out)
}

/// q: [B, H, S, D], k: [B, H, T, D], v: [B, H, T, E], dy: [B, H, S, E] → dq, dk, dv. With w the weights of a query and
/// g = dy·vᵀ, the gradient of its scaled scores is w·(g − Σ w·g).
pub(crate) fn attention_grad([q, k, v, dy]: [&Tensor; 4], scale: f64, causal: bool) -> Result<Vec<Tensor>, RefError> {
    let [batch, heads, s, d] = extents(q)?;
    let [_, _, t, e] = extents(v)?;
    let (qd, kd, vd, dyd) = (q.to_f64s(), k.to_f64s(), v.to_f64s(), dy.to_f64s());
    let (mut dq, mut dk, mut dv) = (vec![0.0; qd.len()], vec![0.0; kd.len()], vec![0.0; vd.len()]);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    for row in 0..batch * heads * s {
        let (first, i) = (row / s * t, row % s);
        // Position i sees j ≤ i + T − S.
        let seen = if causal { (i + 1 + t).saturating_sub(s).min(t) } else { t };
        let (query, dy) = (&qd[row * d..][..d], &dyd[row * e..][..e]);
        let scores: Vec<f64> = (0..seen).map(|j| dot(query, &kd[(first + j) * d..][..d]) * scale).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp() / sum).collect();
        let grads: Vec<f64> = (0..seen).map(|j| dot(dy, &vd[(first + j) * e..][..e])).collect();
        let mean = dot(&weights, &grads);
        for j in 0..seen {
            let score = weights[j] * (grads[j] - mean) * scale;
            let (key, value) = ((first + j) * d, (first + j) * e);
            (0..d).for_each(|c| dq[row * d + c] += score * kd[key + c]);
            (0..d).for_each(|c| dk[key + c] += score * query[c]);
            (0..e).for_each(|c| dv[value + c] += weights[j] * dy[c]);
        }
    }
    Ok(vec![
        store_floats(q.dtype(), q.shape(), dq)?,
        store_floats(k.dtype(), k.shape(), dk)?,
        store_floats(v.dtype(), v.shape(), dv)?,
    ])
}

/// Adds softmax(scores) · values to `row`; nothing when every score is −∞.
fn weigh(scores: &mut [f64], values: &[f64], row: &mut [f64]) {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY && !scores.iter().any(|s| s.is_nan()) {
        return;
    }
    scores.iter_mut().for_each(|s| *s = (*s - max).exp());
    let sum: f64 = scores.iter().sum();
    for (weight, value) in scores.iter().zip(values.chunks_exact(row.len().max(1))) {
        if *weight != 0.0 {
            row.iter_mut().zip(value).for_each(|(r, v)| *r += weight / sum * v);
        }
    }
}

fn extents(t: &Tensor) -> Result<[usize; 4], RefError> {
    t.shape().try_into().map_err(|_| RefError::Undefined {
        what: "attention",
        why: format!("operands need 4 axes, shape {:?} given", t.shape()),
    })
}
