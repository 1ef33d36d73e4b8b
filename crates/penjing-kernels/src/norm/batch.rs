//! Batch norm in training: statistics over batch and space for each channel. (Ioffe & Szegedy 2015)

use super::{dot, inverse_deviation, spread, total};
use crate::{
    Ctx, KernelError,
    error::{check_len, product},
    isa::{Math, per_isa},
    pool::Disjoint,
};

/// y = (x − mean) / √(var + eps) · scale + bias with the statistics of this batch, which are also returned; x and y are
/// `[batch, channels, inner]`, the rest `[channels]`. `var` is biased (divided by batch · inner). An empty batch has mean and
/// variance 0.
pub fn batch_norm_train(
    cx: Ctx<'_>,
    x: &[f32],
    shape: [usize; 3],
    scale: &[f32],
    bias: &[f32],
    eps: f32,
    y: &mut [f32],
    mean: &mut [f32],
    var: &mut [f32],
) -> Result<(), KernelError> {
    const NAME: &str = "batch_norm_train";
    check(NAME, shape, &[("x", x), ("y", y)], &[("scale", scale), ("bias", bias), ("mean", mean), ("var", var)])?;
    let [batch, channels, inner] = shape;
    let count = (batch * inner).max(1) as f64;
    let (y, mean, var) = (Disjoint::new(y), Disjoint::new(mean), Disjoint::new(var));
    cx.pool.run(channels, &|c| {
        let row = |n: usize| (n * channels + c) * inner;
        let sum: f64 = (0..batch).map(|n| row_total(cx.isa, &x[row(n)..][..inner])).sum();
        let m = (sum / count) as f32;
        let squares: f64 = (0..batch).map(|n| row_spread(cx.isa, &x[row(n)..][..inner], m)).sum();
        let a = inverse_deviation(squares, batch * inner, eps) * scale[c];
        for n in 0..batch {
            // SAFETY: each task has the rows of its own channel.
            let y = unsafe { y.slice(row(n), inner) };
            row_affine(cx.isa, &x[row(n)..][..inner], m, a, bias[c], y);
        }
        // SAFETY: each task has the element of its own channel.
        unsafe { (mean.slice(c, 1)[0], var.slice(c, 1)[0]) = (m, (squares / count) as f32) };
    });
    Ok(())
}

/// The gradient of [`batch_norm_train`] from x, dy and the statistics it returned: dx `[batch, channels, inner]`, dscale and
/// dbias `[channels]`.
pub fn batch_norm_grad(
    cx: Ctx<'_>,
    x: &[f32],
    dy: &[f32],
    shape: [usize; 3],
    mean: &[f32],
    var: &[f32],
    scale: &[f32],
    eps: f32,
    dx: &mut [f32],
    dscale: &mut [f32],
    dbias: &mut [f32],
) -> Result<(), KernelError> {
    const NAME: &str = "batch_norm_grad";
    let per_channel = [("mean", mean), ("var", var), ("scale", scale), ("dscale", &*dscale), ("dbias", &*dbias)];
    check(NAME, shape, &[("x", x), ("dy", dy), ("dx", dx)], &per_channel)?;
    let [batch, channels, inner] = shape;
    let count = (batch * inner) as f64;
    let (dx, dscale, dbias) = (Disjoint::new(dx), Disjoint::new(dscale), Disjoint::new(dbias));
    cx.pool.run(channels, &|c| {
        let row = |n: usize| (n * channels + c) * inner;
        let inverse = inverse_deviation(f64::from(var[c]), 1, eps);
        let (mut sum, mut sum_x) = (0f64, 0f64);
        for n in 0..batch {
            let (g, x) = (&dy[row(n)..][..inner], &x[row(n)..][..inner]);
            sum += row_total(cx.isa, g);
            sum_x += row_centred_dot(cx.isa, g, x, mean[c]);
        }
        let sum_hat = sum_x * f64::from(inverse);
        let (mean_g, mean_gh) = ((sum / count) as f32, (sum_hat / count) as f32);
        for n in 0..batch {
            // SAFETY: each task has the rows of its own channel.
            let dx = unsafe { dx.slice(row(n), inner) };
            let (g, x) = (&dy[row(n)..][..inner], &x[row(n)..][..inner]);
            row_grad(cx.isa, g, x, [mean[c], inverse, mean_g, mean_gh, scale[c] * inverse], dx);
        }
        // SAFETY: each task has the element of its own channel.
        unsafe { (dscale.slice(c, 1)[0], dbias.slice(c, 1)[0]) = (sum_hat as f32, sum as f32) };
    });
    Ok(())
}

fn check(
    name: &'static str,
    shape: [usize; 3],
    full: &[(&'static str, &[f32])],
    per_channel: &[(&'static str, &[f32])],
) -> Result<(), KernelError> {
    for (operand, values) in full {
        check_len(name, operand, product(&shape), values.len())?;
    }
    for (operand, values) in per_channel {
        check_len(name, operand, Some(shape[1]), values.len())?;
    }
    Ok(())
}

per_isa! {
    fn row_total(x: &[f32]) -> f64 = row_total_body
}

#[inline(always)]
fn row_total_body<M: Math>(x: &[f32]) -> f64 {
    total(x)
}

per_isa! {
    fn row_spread(x: &[f32], mean: f32) -> f64 = row_spread_body
}

#[inline(always)]
fn row_spread_body<M: Math>(x: &[f32], mean: f32) -> f64 {
    spread::<M>(x, mean)
}

per_isa! {
    fn row_affine(x: &[f32], mean: f32, a: f32, b: f32, y: &mut [f32]) = row_affine_body
}

#[inline(always)]
fn row_affine_body<M: Math>(x: &[f32], mean: f32, a: f32, b: f32, y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = M::fma(x - mean, a, b);
    }
}

per_isa! {
    /// Σ g · (x − mean).
    fn row_centred_dot(g: &[f32], x: &[f32], mean: f32) -> f64 = row_centred_dot_body
}

#[inline(always)]
fn row_centred_dot_body<M: Math>(g: &[f32], x: &[f32], mean: f32) -> f64 {
    const BLOCK: usize = 256;
    let mut centred = [0f32; BLOCK];
    let mut sum = 0.0;
    for (g, x) in g.chunks(BLOCK).zip(x.chunks(BLOCK)) {
        for (c, &x) in centred.iter_mut().zip(x) {
            *c = x - mean;
        }
        sum += dot::<M>(g, &centred[..x.len()]);
    }
    sum
}

per_isa! {
    fn row_grad(g: &[f32], x: &[f32], of: [f32; 5], dx: &mut [f32]) = row_grad_body
}

#[inline(always)]
fn row_grad_body<M: Math>(g: &[f32], x: &[f32], of: [f32; 5], dx: &mut [f32]) {
    let [mean, inverse, mean_g, mean_gh, factor] = of;
    for ((dx, &g), &x) in dx.iter_mut().zip(g).zip(x) {
        *dx = factor * (g - mean_g - (x - mean) * inverse * mean_gh);
    }
}
