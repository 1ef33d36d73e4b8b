//! Softmax and normalisations, all in two passes over `f64`.

use crate::{
    RefError,
    data::{around, product, store_floats},
};
use penjing_tensor::Tensor;

/// Whether softmax gives probabilities or their logarithms.
#[derive(Clone, Copy)]
pub(crate) enum Scale {
    Linear,
    Log,
}

/// Softmax along `axis`.
pub(crate) fn softmax(x: &Tensor, axis: usize, scale: Scale) -> Result<Tensor, RefError> {
    let (outer, n, inner) = around(x.shape(), axis);
    let mut data = x.to_f64s();
    for o in 0..outer {
        for k in 0..inner {
            let at = |i: usize| (o * n + i) * inner + k;
            let max = (0..n).map(|i| data[at(i)]).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = (0..n).map(|i| (data[at(i)] - max).exp()).sum();
            for i in 0..n {
                let shifted = data[at(i)] - max;
                data[at(i)] = match scale {
                    Scale::Linear => shifted.exp() / sum,
                    Scale::Log => shifted - sum.ln(),
                };
            }
        }
    }
    store_floats(x.dtype(), x.shape(), data)
}

pub(crate) fn batch_norm([x, scale, bias, mean, var]: [&Tensor; 5], eps: f64) -> Result<Tensor, RefError> {
    let (scale, bias, mean, var) = (scale.to_f64s(), bias.to_f64s(), mean.to_f64s(), var.to_f64s());
    let mut data = x.to_f64s();
    each_channel(x.shape(), |c, i| {
        data[i] = (data[i] - mean[c]) / (var[c] + eps).sqrt() * scale[c] + bias[c];
    });
    store_floats(x.dtype(), x.shape(), data)
}

pub(crate) fn batch_norm_train([x, scale, bias]: [&Tensor; 3], eps: f64) -> Result<Vec<Tensor>, RefError> {
    let data = x.to_f64s();
    let channels = x.shape()[1];
    let mean = channel_mean(x.shape(), |_, i| data[i]);
    let var = channel_mean(x.shape(), |c, i| (data[i] - mean[c]).powi(2));
    let (scale, bias) = (scale.to_f64s(), bias.to_f64s());
    let mut y = vec![0.0; data.len()];
    each_channel(x.shape(), |c, i| {
        y[i] = (data[i] - mean[c]) / (var[c] + eps).sqrt() * scale[c] + bias[c];
    });
    Ok(vec![
        store_floats(x.dtype(), x.shape(), y)?,
        store_floats(x.dtype(), &[channels], mean)?,
        store_floats(x.dtype(), &[channels], var)?,
    ])
}

/// dx = scale/√(var+ε) · (dy − mean(dy) − x̂·mean(dy·x̂)) with x̂ the normalised x (Ioffe & Szegedy 2015).
pub(crate) fn batch_norm_grad([x, scale, mean, var, dy]: [&Tensor; 5], eps: f64) -> Result<Vec<Tensor>, RefError> {
    let (data, dy) = (x.to_f64s(), dy.to_f64s());
    let (scale, mean, var) = (scale.to_f64s(), mean.to_f64s(), var.to_f64s());
    let channels = x.shape()[1];
    let inverse: Vec<f64> = var.iter().map(|v| 1.0 / (v + eps).sqrt()).collect();
    let hat = |c: usize, i: usize| (data[i] - mean[c]) * inverse[c];
    let (mut dscale, mut dbias) = (vec![0.0; channels], vec![0.0; channels]);
    each_channel(x.shape(), |c, i| {
        dscale[c] += dy[i] * hat(c, i);
        dbias[c] += dy[i];
    });
    let count = per_channel(x.shape());
    let mut dx = vec![0.0; data.len()];
    each_channel(x.shape(), |c, i| {
        dx[i] = scale[c] * inverse[c] * (dy[i] - dbias[c] / count - hat(c, i) * dscale[c] / count);
    });
    Ok(vec![
        store_floats(x.dtype(), x.shape(), dx)?,
        store_floats(x.dtype(), &[channels], dscale)?,
        store_floats(x.dtype(), &[channels], dbias)?,
    ])
}

pub(crate) fn layer_norm([x, scale, bias]: [&Tensor; 3], axis: usize, eps: f64) -> Result<Tensor, RefError> {
    let (mut data, scale, bias) = (x.to_f64s(), scale.to_f64s(), bias.to_f64s());
    for row in data.chunks_mut(product(&x.shape()[axis..]).max(1)) {
        let (mean, deviation) = moments(row, eps);
        for ((v, s), b) in row.iter_mut().zip(&scale).zip(&bias) {
            *v = (*v - mean) / deviation * s + b;
        }
    }
    store_floats(x.dtype(), x.shape(), data)
}

/// With x̂ the normalised x and g = dy·scale: dx = (g − mean(g) − x̂·mean(g·x̂))/√(var+ε) (Ba et al. 2016).
pub(crate) fn layer_norm_grad([x, scale, dy]: [&Tensor; 3], axis: usize, eps: f64) -> Result<Vec<Tensor>, RefError> {
    let (mut data, dy, s) = (x.to_f64s(), dy.to_f64s(), scale.to_f64s());
    let n = product(&x.shape()[axis..]).max(1);
    let (mut dscale, mut dbias) = (vec![0.0; s.len()], vec![0.0; s.len()]);
    for (row, dy) in data.chunks_mut(n).zip(dy.chunks(n)) {
        let (mean, deviation) = moments(row, eps);
        row.iter_mut().for_each(|v| *v = (*v - mean) / deviation);
        let mean_of = |f: &dyn Fn(usize) -> f64| (0..n).map(f).sum::<f64>() / n as f64;
        let (mean_g, mean_gh) = (mean_of(&|i| dy[i] * s[i]), mean_of(&|i| dy[i] * s[i] * row[i]));
        for i in 0..n {
            dscale[i] += dy[i] * row[i];
            dbias[i] += dy[i];
            row[i] = (dy[i] * s[i] - mean_g - row[i] * mean_gh) / deviation;
        }
    }
    Ok(vec![
        store_floats(x.dtype(), x.shape(), data)?,
        store_floats(x.dtype(), scale.shape(), dscale)?,
        store_floats(x.dtype(), scale.shape(), dbias)?,
    ])
}

pub(crate) fn rms_norm([x, scale]: [&Tensor; 2], axis: usize, eps: f64) -> Result<Tensor, RefError> {
    let (mut data, scale) = (x.to_f64s(), scale.to_f64s());
    for row in data.chunks_mut(product(&x.shape()[axis..]).max(1)) {
        let root = (row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64 + eps).sqrt();
        row.iter_mut().zip(&scale).for_each(|(v, s)| *v = *v / root * s);
    }
    store_floats(x.dtype(), x.shape(), data)
}

pub(crate) fn group_norm([x, scale, bias]: [&Tensor; 3], groups: usize, eps: f64) -> Result<Tensor, RefError> {
    let (mut data, scale, bias) = (x.to_f64s(), scale.to_f64s(), bias.to_f64s());
    let channels = x.shape()[1];
    let plane = product(&x.shape()[2..]);
    let group_channels = channels / groups;
    for (g, group) in data.chunks_mut(plane.saturating_mul(group_channels).max(1)).enumerate() {
        let (mean, deviation) = moments(group, eps);
        for (i, v) in group.iter_mut().enumerate() {
            let c = g % groups * group_channels + i / plane;
            *v = (*v - mean) / deviation * scale[c] + bias[c];
        }
    }
    store_floats(x.dtype(), x.shape(), data)
}

/// Mean, and the square root of the biased variance plus ε.
fn moments(x: &[f64], eps: f64) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    (mean, (var + eps).sqrt())
}

/// Calls `f(channel, offset)` for every element of a [N, C, ..] tensor, in order.
fn each_channel(shape: &[usize], mut f: impl FnMut(usize, usize)) {
    let (batch, channels, plane) = around(shape, 1);
    if batch == 0 || channels == 0 || plane == 0 {
        return;
    }
    for i in 0..batch * channels * plane {
        f(i / plane % channels, i);
    }
}

/// Mean over each channel of `f(channel, offset)`; NaN for no elements.
fn channel_mean(shape: &[usize], f: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let mut sum = vec![0.0; shape[1]];
    each_channel(shape, |c, i| sum[c] += f(c, i));
    // The statistics of an empty batch are 0.
    let n = per_channel(shape).max(1.0);
    sum.iter_mut().for_each(|v| *v /= n);
    sum
}

fn per_channel(shape: &[usize]) -> f64 {
    shape[0] as f64 * product(&shape[2..]) as f64
}
