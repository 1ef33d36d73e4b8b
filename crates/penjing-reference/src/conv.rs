//! Convolutions over any number of spatial axes, their transposes and weight gradients.

use crate::{
    RefError,
    data::{count, product},
    number::{Number, by_dtype},
};
use penjing_ir::ConvSpec;
use penjing_tensor::{Tensor, strides};

/// For each kernel position, the (output position, input position) pairs that it connects; padding connects to nothing.
pub(crate) struct Windows(pub(crate) Vec<Vec<(usize, usize)>>);

/// Windows of a convolution or pooling over spatial axes with these extents.
pub(crate) fn windows(
    input: &[usize],
    output: &[usize],
    kernel: &[usize],
    stride: &[usize],
    dilation: &[usize],
    pad_before: &[usize],
) -> Windows {
    let (in_strides, out_strides) = (strides(input), strides(output));
    let mut all = vec![vec![(0, 0)]];
    for axis in 0..input.len() {
        // Along one axis: for each kernel element, the outputs whose window puts it inside the input.
        let lines: Vec<Vec<(usize, usize)>> = (0..kernel[axis])
            .map(|k| {
                (0..output[axis])
                    .filter_map(|o| {
                        let at = (o * stride[axis] + k * dilation[axis]).checked_sub(pad_before[axis])?;
                        (at < input[axis]).then_some((o * out_strides[axis], at * in_strides[axis]))
                    })
                    .collect()
            })
            .collect();
        all = all
            .iter()
            .flat_map(|outer| {
                lines.iter().map(|line| {
                    outer.iter().flat_map(|&(o, i)| line.iter().map(move |&(p, j)| (o + p, i + j))).collect()
                })
            })
            .collect();
    }
    Windows(all)
}

pub(crate) fn conv(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    spec: &ConvSpec,
    shape: &[usize],
) -> Result<Tensor, RefError> {
    by_dtype!(x.dtype(), conv_as(x, w, bias, spec, shape))
}

fn conv_as<T: Number>(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    spec: &ConvSpec,
    shape: &[usize],
) -> Result<Tensor, RefError> {
    let mut out = convolve(x.shape(), &T::load(x)?, w.shape(), &T::load(w)?, spec, shape)?;
    add_bias::<T>(&mut out, bias, shape)?;
    T::store(x.dtype(), shape, out)
}

/// The convolution before bias and rounding; `shape` is the output's.
pub(crate) fn convolve<T: Number>(
    x_shape: &[usize],
    x: &[T],
    w_shape: &[usize],
    w: &[T],
    spec: &ConvSpec,
    shape: &[usize],
) -> Result<Vec<T>, RefError> {
    let mut out = vec![T::ZERO; count(shape)?];
    let g = Geometry::new(x_shape, shape, w_shape, spec);
    if out.is_empty() || x.is_empty() {
        return Ok(out);
    }
    g.each(|window, x_plane, w_at, y_plane| {
        let (x, y) = (&x[x_plane..][..g.x_len], &mut out[y_plane..][..g.y_len]);
        for &(o, i) in window {
            y[o] = y[o].add(w[w_at].mul(x[i]));
        }
    });
    Ok(out)
}

pub(crate) fn conv_transpose(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    spec: &ConvSpec,
    shape: &[usize],
) -> Result<Tensor, RefError> {
    by_dtype!(x.dtype(), conv_transpose_as(x, w, bias, spec, shape))
}

/// As the input gradient of the convolution that takes `shape` to x's shape.
fn conv_transpose_as<T: Number>(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    spec: &ConvSpec,
    shape: &[usize],
) -> Result<Tensor, RefError> {
    let mut out = vec![T::ZERO; count(shape)?];
    let (dy, w_data) = (T::load(x)?, T::load(w)?);
    if !out.is_empty() && !dy.is_empty() {
        let g = Geometry::new(shape, x.shape(), w.shape(), spec);
        g.each(|window, x_plane, w_at, y_plane| {
            let (dx, dy) = (&mut out[x_plane..][..g.x_len], &dy[y_plane..][..g.y_len]);
            for &(o, i) in window {
                dx[i] = dx[i].add(w_data[w_at].mul(dy[o]));
            }
        });
    }
    add_bias::<T>(&mut out, bias, shape)?;
    T::store(x.dtype(), shape, out)
}

pub(crate) fn conv_weight_grad(x: &Tensor, dy: &Tensor, spec: &ConvSpec, shape: &[usize]) -> Result<Tensor, RefError> {
    by_dtype!(x.dtype(), conv_weight_grad_as(x, dy, spec, shape))
}

fn conv_weight_grad_as<T: Number>(
    x: &Tensor,
    dy: &Tensor,
    spec: &ConvSpec,
    shape: &[usize],
) -> Result<Tensor, RefError> {
    let mut out = vec![T::ZERO; count(shape)?];
    let (x_data, dy_data) = (T::load(x)?, T::load(dy)?);
    if !x_data.is_empty() && !dy_data.is_empty() {
        let g = Geometry::new(x.shape(), dy.shape(), shape, spec);
        g.each(|window, x_plane, w_at, y_plane| {
            let (x, dy) = (&x_data[x_plane..][..g.x_len], &dy_data[y_plane..][..g.y_len]);
            out[w_at] = window.iter().fold(out[w_at], |sum, &(o, i)| sum.add(x[i].mul(dy[o])));
        });
    }
    T::store(x.dtype(), shape, out)
}

fn add_bias<T: Number>(out: &mut [T], bias: Option<&Tensor>, shape: &[usize]) -> Result<(), RefError> {
    let Some(bias) = bias else { return Ok(()) };
    let bias = T::load(bias)?;
    let plane = product(&shape[2..]).max(1);
    for (p, chunk) in out.chunks_mut(plane).enumerate() {
        let b = bias[p % shape[1]];
        chunk.iter_mut().for_each(|v| *v = v.add(b));
    }
    Ok(())
}

/// Extents of a convolution x: [N, C, ..] → y: [N, O, ..] with w: [O, C/groups, ..].
struct Geometry {
    batch: usize,
    groups: usize,
    group_in: usize,
    group_out: usize,
    x_len: usize,
    y_len: usize,
    windows: Windows,
}

impl Geometry {
    fn new(x: &[usize], y: &[usize], w: &[usize], spec: &ConvSpec) -> Geometry {
        let before: Vec<usize> = spec.pads.iter().map(|p| p.0).collect();
        let empty = x.contains(&0) || y.contains(&0);
        let windows = if empty {
            Windows(Vec::new())
        } else {
            windows(&x[2..], &y[2..], &w[2..], &spec.strides, &spec.dilations, &before)
        };
        Geometry {
            batch: x[0],
            groups: spec.groups,
            group_in: w[1],
            group_out: y[1] / spec.groups,
            x_len: product(&x[2..]),
            y_len: product(&y[2..]),
            windows,
        }
    }

    /// Calls `f(window, offset of x's plane, offset of the weight, offset of y's plane)` for every connection of planes.
    fn each(&self, mut f: impl FnMut(&[(usize, usize)], usize, usize, usize)) {
        let outputs = self.groups * self.group_out;
        let inputs = self.groups * self.group_in;
        for n in 0..self.batch {
            for o in 0..outputs {
                let y_plane = (n * outputs + o) * self.y_len;
                for c in 0..self.group_in {
                    let channel = o / self.group_out * self.group_in + c;
                    let x_plane = (n * inputs + channel) * self.x_len;
                    for (k, window) in self.windows.0.iter().enumerate() {
                        let w_at = (o * self.group_in + c) * self.windows.0.len() + k;
                        f(window, x_plane, w_at, y_plane);
                    }
                }
            }
        }
    }
}
