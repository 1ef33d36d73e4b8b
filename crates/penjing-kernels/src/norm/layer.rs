//! Norms whose statistics are those of one sample.

use super::{dot, inverse_deviation, spread, total};
use crate::{
    Ctx, KernelError,
    error::{check_len, product},
    isa::{Math, per_isa},
    pool::Disjoint,
    reduce::{ReduceOp, TASK, fold_rows},
    scratch::with_scratch,
};

/// y = (x − mean) / √(var + eps) · scale + bias over rows; x and y are `[rows, n]`, scale and bias `[n]`. (Ba et al. 2016)
pub fn layer_norm(
    cx: Ctx<'_>,
    x: &[f32],
    rows: usize,
    n: usize,
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    y: &mut [f32],
) -> Result<(), KernelError> {
    each_row(cx, "layer_norm", x, [rows, n], [scale, bias], y, &|x, y| layer_row(cx.isa, x, scale, bias, eps, y))
}

/// y = x / √(mean(x²) + eps) · scale over rows; x and y are `[rows, n]`, scale `[n]`. (Zhang & Sennrich 2019)
pub fn rms_norm(
    cx: Ctx<'_>,
    x: &[f32],
    rows: usize,
    n: usize,
    scale: Option<&[f32]>,
    eps: f32,
    y: &mut [f32],
) -> Result<(), KernelError> {
    each_row(cx, "rms_norm", x, [rows, n], [scale, None], y, &|x, y| rms_row(cx.isa, x, scale, eps, y))
}

/// Layer norm over each of `groups` groups of channels, with scale and bias one a channel; x and y are
/// `[batch, channels, inner]`. As many groups as channels is instance norm. (Wu & He 2018)
pub fn group_norm(
    cx: Ctx<'_>,
    x: &[f32],
    [batch, channels, inner]: [usize; 3],
    groups: usize,
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    y: &mut [f32],
) -> Result<(), KernelError> {
    const NAME: &str = "group_norm";
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(KernelError::Geometry { kernel: NAME, why: "the groups do not divide the channels" });
    }
    let len = product(&[batch, channels, inner]);
    check_len(NAME, "x", len, x.len())?;
    check_len(NAME, "y", len, y.len())?;
    for (operand, values) in [("scale", scale), ("bias", bias)] {
        if let Some(values) = values {
            check_len(NAME, operand, Some(channels), values.len())?;
        }
    }
    if y.is_empty() {
        return Ok(());
    }
    let (per_group, n) = (channels / groups, channels / groups * inner);
    let rows = (TASK / n).max(1);
    cx.pool.run_chunks(y, rows * n, &|t, y| {
        for (i, y) in y.chunks_exact_mut(n).enumerate() {
            let row = t * rows + i;
            let first = row % groups * per_group;
            let part = |v: Option<&[f32]>, c: usize, none: f32| v.map_or(none, |v| v[first + c]);
            let x = &x[row * n..(row + 1) * n];
            let (mean, inverse) = statistics(cx.isa, x, eps);
            for (c, (x, y)) in x.chunks_exact(inner).zip(y.chunks_exact_mut(inner)).enumerate() {
                let (a, b) = (inverse * part(scale, c, 1.0), part(bias, c, 0.0));
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = (x - mean) * a + b;
                }
            }
        }
    });
    Ok(())
}

/// The gradient of [`layer_norm`]: dx `[rows, n]`, and dscale and dbias `[n]`.
pub fn layer_norm_grad(
    cx: Ctx<'_>,
    x: &[f32],
    dy: &[f32],
    rows: usize,
    n: usize,
    scale: Option<&[f32]>,
    eps: f32,
    dx: &mut [f32],
    dscale: &mut [f32],
    dbias: &mut [f32],
) -> Result<(), KernelError> {
    const NAME: &str = "layer_norm_grad";
    const ROWS: usize = 32;
    let len = product(&[rows, n]);
    check_len(NAME, "x", len, x.len())?;
    check_len(NAME, "dy", len, dy.len())?;
    check_len(NAME, "dx", len, dx.len())?;
    check_len(NAME, "dscale", Some(n), dscale.len())?;
    check_len(NAME, "dbias", Some(n), dbias.len())?;
    if let Some(scale) = scale {
        check_len(NAME, "scale", Some(n), scale.len())?;
    }
    dscale.fill(0.0);
    dbias.fill(0.0);
    if dx.is_empty() {
        return Ok(());
    }
    let chunks = rows.div_ceil(ROWS);
    let mut partial = vec![0f32; chunks * 2 * n];
    let sums = Disjoint::new(&mut partial);
    cx.pool.run_chunks(dx, ROWS * n, &|t, dx| {
        // SAFETY: each chunk of rows has its own partial sums.
        let (dscale, dbias) = unsafe { sums.slice(t * 2 * n, 2 * n) }.split_at_mut(n);
        with_scratch::<f32, _>(2 * n, |work| {
            for (i, dx) in dx.chunks_exact_mut(n).enumerate() {
                let at = (t * ROWS + i) * n;
                layer_row_grad(cx.isa, &x[at..at + n], &dy[at..at + n], scale, eps, work, dx, dscale, dbias);
            }
        });
    });
    fold_rows(cx.isa, ReduceOp::Sum, &mut partial, 2 * n);
    dscale.copy_from_slice(&partial[..n]);
    dbias.copy_from_slice(&partial[n..2 * n]);
    Ok(())
}

fn each_row(
    cx: Ctx<'_>,
    name: &'static str,
    x: &[f32],
    [rows, n]: [usize; 2],
    [scale, bias]: [Option<&[f32]>; 2],
    y: &mut [f32],
    f: &(dyn Fn(&[f32], &mut [f32]) + Sync),
) -> Result<(), KernelError> {
    let len = product(&[rows, n]);
    check_len(name, "x", len, x.len())?;
    check_len(name, "y", len, y.len())?;
    for (operand, values) in [("scale", scale), ("bias", bias)] {
        if let Some(values) = values {
            check_len(name, operand, Some(n), values.len())?;
        }
    }
    if y.is_empty() {
        return Ok(());
    }
    let rows = (TASK / n).max(1);
    cx.pool.run_chunks(y, rows * n, &|t, y| {
        for (i, y) in y.chunks_exact_mut(n).enumerate() {
            f(&x[(t * rows + i) * n..][..n], y);
        }
    });
    Ok(())
}

per_isa! {
    /// Mean and 1/√(var + eps).
    fn statistics(x: &[f32], eps: f32) -> (f32, f32) = statistics_body
}

#[inline(always)]
fn statistics_body<M: Math>(x: &[f32], eps: f32) -> (f32, f32) {
    let mean = (total(x) / x.len() as f64) as f32;
    (mean, inverse_deviation(spread::<M>(x, mean), x.len(), eps))
}

per_isa! {
    fn layer_row(x: &[f32], scale: Option<&[f32]>, bias: Option<&[f32]>, eps: f32, y: &mut [f32]) = layer_row_body
}

#[inline(always)]
fn layer_row_body<M: Math>(x: &[f32], scale: Option<&[f32]>, bias: Option<&[f32]>, eps: f32, y: &mut [f32]) {
    let (mean, inverse) = statistics_body::<M>(x, eps);
    if let (Some(scale), Some(bias)) = (scale, bias) {
        for (((y, &x), &s), &b) in y.iter_mut().zip(x).zip(scale).zip(bias) {
            *y = M::fma((x - mean) * inverse, s, b);
        }
        return;
    }
    for (y, &x) in y.iter_mut().zip(x) {
        *y = (x - mean) * inverse;
    }
    affine::<M>(scale, bias, y);
}

per_isa! {
    fn rms_row(x: &[f32], scale: Option<&[f32]>, eps: f32, y: &mut [f32]) = rms_row_body
}

#[inline(always)]
fn rms_row_body<M: Math>(x: &[f32], scale: Option<&[f32]>, eps: f32, y: &mut [f32]) {
    let inverse = inverse_deviation(dot::<M>(x, x), x.len(), eps);
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x * inverse;
    }
    affine::<M>(scale, None, y);
}

#[inline(always)]
fn affine<M: Math>(scale: Option<&[f32]>, bias: Option<&[f32]>, y: &mut [f32]) {
    match (scale, bias) {
        (Some(scale), Some(bias)) => {
            for ((y, &s), &b) in y.iter_mut().zip(scale).zip(bias) {
                *y = M::fma(*y, s, b);
            }
        }
        (Some(scale), None) => y.iter_mut().zip(scale).for_each(|(y, s)| *y *= s),
        (None, Some(bias)) => y.iter_mut().zip(bias).for_each(|(y, b)| *y += b),
        (None, None) => {}
    }
}

per_isa! {
    /// One row of dx; its part of dscale and dbias is added. `work` has 2n elements.
    fn layer_row_grad(x: &[f32], dy: &[f32], scale: Option<&[f32]>, eps: f32, work: &mut [f32], dx: &mut [f32],
        dscale: &mut [f32], dbias: &mut [f32]) = layer_row_grad_body
}

#[inline(always)]
fn layer_row_grad_body<M: Math>(
    x: &[f32],
    dy: &[f32],
    scale: Option<&[f32]>,
    eps: f32,
    work: &mut [f32],
    dx: &mut [f32],
    dscale: &mut [f32],
    dbias: &mut [f32],
) {
    let n = x.len();
    let (mean, inverse) = statistics_body::<M>(x, eps);
    let (hat, g) = work.split_at_mut(n);
    let (dy, g, dx, dscale, dbias) = (&dy[..n], &mut g[..n], &mut dx[..n], &mut dscale[..n], &mut dbias[..n]);
    // Loops of one result each, because the compiler vectorises those.
    for i in 0..n {
        hat[i] = (x[i] - mean) * inverse;
    }
    for i in 0..n {
        dscale[i] = M::fma(dy[i], hat[i], dscale[i]);
    }
    for i in 0..n {
        dbias[i] += dy[i];
    }
    g.copy_from_slice(dy);
    affine::<M>(scale, None, g);
    let mean_g = (total(g) / n as f64) as f32;
    let mean_gh = (dot::<M>(g, hat) / n as f64) as f32;
    for i in 0..n {
        dx[i] = inverse * (g[i] - mean_g - hat[i] * mean_gh);
    }
}
