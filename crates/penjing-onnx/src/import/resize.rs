//! `Resize` and `Upsample`, one axis after the other: a gather for nearest neighbours, else a product with the matrix of
//! interpolation weights, which is known because scales and sizes are.

use super::{
    frame::Operand,
    node::{Fault, NodeCx, Res, invalid, one, unsupported},
};
use penjing_ir::{Op, ValueId};
use penjing_tensor::Tensor;

type Outputs = Res<Vec<Operand>>;

/// Largest matrix of interpolation weights.
const MAX_WEIGHTS: usize = 1 << 26;

/// How a value between elements is made.
#[derive(Clone, Copy, PartialEq)]
enum Filter {
    Nearest(Rounding),
    Linear,
    Cubic(f64),
}

/// Which neighbour is nearest.
#[derive(Clone, Copy, PartialEq)]
enum Rounding {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}

/// Where output element i lies between input elements.
#[derive(Clone, Copy, PartialEq)]
enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    Crop,
}

/// What all axes of one node share.
struct Rule {
    filter: Filter,
    coordinates: Coordinates,
    antialias: bool,
    exclude_outside: bool,
    extrapolation: f64,
}

/// One axis: extents, their ratio, and the cropped part of the input.
struct Axis {
    axis: usize,
    from: usize,
    to: usize,
    scale: f64,
    roi: (f64, f64),
}

/// `Resize`.
pub(super) fn resize(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let rule = rule(cx)?;
    let axes = axes(cx, x, rule.coordinates == Coordinates::Crop)?;
    resize_axes(cx, x, &rule, &axes)
}

/// `Upsample`: nearest or linear by scales, asymmetric coordinates.
pub(super) fn upsample(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    let filter = match cx.string("mode", "nearest")?.as_str() {
        "nearest" => Filter::Nearest(Rounding::Floor),
        "linear" | "bilinear" => Filter::Linear,
        other => return invalid(format!("mode is '{other}'")),
    };
    let scales = match cx.floats("scales")? {
        Some(scales) => scales,
        None => cx.tensor_of(1, "scales")?.to_f64s(),
    };
    let rule = Rule {
        filter,
        coordinates: Coordinates::Asymmetric,
        antialias: false,
        exclude_outside: false,
        extrapolation: 0.0,
    };
    let rank = cx.rank(x);
    let axes = scaled(cx, x, &(0..rank).collect::<Vec<_>>(), &scales, &[])?;
    resize_axes(cx, x, &rule, &axes)
}

fn rule(cx: &NodeCx<'_, '_>) -> Res<Rule> {
    let old = cx.opset < 11;
    let rounding = match cx.string("nearest_mode", if old { "floor" } else { "round_prefer_floor" })?.as_str() {
        "round_prefer_floor" => Rounding::PreferFloor,
        "round_prefer_ceil" => Rounding::PreferCeil,
        "floor" => Rounding::Floor,
        "ceil" => Rounding::Ceil,
        other => return invalid(format!("nearest_mode is '{other}'")),
    };
    let filter = match cx.string("mode", "nearest")?.as_str() {
        "nearest" => Filter::Nearest(rounding),
        "linear" => Filter::Linear,
        "cubic" => Filter::Cubic(cx.float("cubic_coeff_a", -0.75)?),
        other => return invalid(format!("mode is '{other}'")),
    };
    let default = if old { "asymmetric" } else { "half_pixel" };
    let coordinates = match cx.string("coordinate_transformation_mode", default)?.as_str() {
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "tf_crop_and_resize" => Coordinates::Crop,
        other => return unsupported(format!("coordinate_transformation_mode '{other}'")),
    };
    Ok(Rule {
        filter,
        coordinates,
        antialias: cx.flag("antialias", 0)?,
        exclude_outside: cx.flag("exclude_outside", 0)?,
        extrapolation: cx.float("extrapolation_value", 0.0)?,
    })
}

/// The axes that change, from scales or sizes.
fn axes(cx: &NodeCx<'_, '_>, x: ValueId, cropped: bool) -> Res<Vec<Axis>> {
    let rank = cx.rank(x);
    let axes: Vec<usize> = match cx.ints("axes")? {
        Some(axes) => axes.iter().map(|&a| cx.axis(a, rank)).collect::<Res<_>>()?,
        None => (0..rank).collect(),
    };
    let slot = if cx.opset < 11 { 1 } else { 2 };
    let roi = if cropped { cx.tensor_of(1, "roi")?.to_f64s() } else { Vec::new() };
    if cropped && roi.len() != 2 * axes.len() {
        return invalid(format!("roi has {} elements for {} axes", roi.len(), axes.len()));
    }
    if cx.has(slot) {
        let scales = cx.tensor_of(slot, "scales")?.to_f64s();
        if !scales.is_empty() {
            return scaled(cx, x, &axes, &scales, &roi);
        }
    }
    let sizes = cx.dims_of(3, "sizes")?;
    if sizes.len() != axes.len() {
        return invalid(format!("{} sizes for {} axes", sizes.len(), axes.len()));
    }
    let dims = cx.fact(x).shape;
    let changed: Vec<usize> = (0..axes.len()).filter(|&k| sizes[k] != dims[axes[k]] || cropped).collect();
    let mut out = Vec::new();
    for &k in &changed {
        let (Some(from), Some(to)) = (dims[axes[k]].as_const(), sizes[k].as_const()) else {
            return unsupported(format!("resizing {} to {}: bind the dimensions", dims[axes[k]], sizes[k]));
        };
        out.push(Axis {
            axis: axes[k],
            from,
            to,
            scale: to as f64 / from.max(1) as f64,
            roi: part(&roi, k, axes.len()),
        });
    }
    let policy = cx.string("keep_aspect_ratio_policy", "stretch")?;
    if policy != "stretch" {
        let ratios =
            axes.iter().zip(&sizes).map(|(&a, size)| Some(size.as_const()? as f64 / dims[a].as_const()? as f64));
        let Some(ratios) = ratios.collect::<Option<Vec<f64>>>() else {
            return unsupported("an aspect ratio of symbolic extents; bind the dimensions");
        };
        let scale = match policy.as_str() {
            "not_larger" => ratios.into_iter().fold(f64::INFINITY, f64::min),
            "not_smaller" => ratios.into_iter().fold(0.0, f64::max),
            other => return invalid(format!("keep_aspect_ratio_policy is '{other}'")),
        };
        out.clear();
        for (k, &axis) in axes.iter().enumerate() {
            let from = dims[axis].as_const().unwrap_or(0);
            let to = (scale * from as f64 + 0.5).floor() as usize;
            out.push(Axis { axis, from, to, scale, roi: part(&roi, k, axes.len()) });
        }
    }
    Ok(out)
}

fn scaled(cx: &NodeCx<'_, '_>, x: ValueId, axes: &[usize], scales: &[f64], roi: &[f64]) -> Res<Vec<Axis>> {
    if scales.len() != axes.len() {
        return invalid(format!("{} scales for {} axes", scales.len(), axes.len()));
    }
    let dims = cx.fact(x).shape;
    let mut out = Vec::new();
    for (k, (&axis, &scale)) in axes.iter().zip(scales).enumerate() {
        if scale == 1.0 && roi.is_empty() {
            continue;
        }
        if !(scale.is_finite() && scale > 0.0) {
            return invalid(format!("a scale of {scale}"));
        }
        let Some(from) = dims[axis].as_const() else {
            return unsupported(format!("scaling the symbolic extent {}; bind it", dims[axis]));
        };
        // The scale is an f32; a product that misses an integer by its rounding means that integer.
        let exact = from as f64 * scale;
        let to = if (exact - exact.round()).abs() < 1e-6 * exact { exact.round() } else { exact.floor() };
        out.push(Axis { axis, from, to: to as usize, scale, roi: part(roi, k, axes.len()) });
    }
    Ok(out)
}

fn part(roi: &[f64], k: usize, axes: usize) -> (f64, f64) {
    match (roi.get(k), roi.get(k + axes)) {
        (Some(&start), Some(&end)) => (start, end),
        _ => (0.0, 1.0),
    }
}

fn resize_axes(cx: &mut NodeCx<'_, '_>, x: ValueId, rule: &Rule, axes: &[Axis]) -> Outputs {
    let float = cx.dtype_of(x).is_float();
    if !float && !matches!(rule.filter, Filter::Nearest(_)) {
        return unsupported(format!("interpolation of {}", cx.dtype_of(x)));
    }
    let mut y = x;
    for axis in axes {
        if axis.from.checked_mul(axis.to).is_none_or(|n| n > MAX_WEIGHTS) {
            return unsupported(format!("resizing {} to {}", axis.from, axis.to));
        }
        if axis.from == 0 {
            return invalid("resizing an empty axis");
        }
        y = resize_axis(cx, y, rule, axis)?;
    }
    Ok(one(y))
}

fn resize_axis(cx: &mut NodeCx<'_, '_>, x: ValueId, rule: &Rule, axis: &Axis) -> Res<ValueId> {
    let places: Vec<f64> = (0..axis.to).map(|i| place(rule.coordinates, axis, i as f64)).collect();
    let tensor = |t: Result<Tensor, penjing_tensor::TensorError>| t.map_err(|e| Fault::Invalid(e.to_string()));
    let rank = cx.rank(x);
    let dtype = cx.dtype_of(x);
    let mut s = cx.scope();
    let mut y = if let Filter::Nearest(rounding) = rule.filter {
        let at: Vec<i64> = places.iter().map(|&p| nearest(p, rounding).clamp(0, axis.from as i64 - 1)).collect();
        let at = s.constant(tensor(Tensor::from_vec(&[axis.to], at))?);
        s.op(Op::Gather { axis: axis.axis }, &[x, at])?
    } else {
        let mut weights = vec![0.0; axis.to * axis.from];
        for (row, &p) in weights.chunks_exact_mut(axis.from).zip(&places) {
            add_weights(row, p, rule, axis.scale);
        }
        let weights = s.constant(tensor(Tensor::from_f64s(dtype, &[axis.to, axis.from], weights))?);
        let mut perm: Vec<usize> = (0..rank).collect();
        perm.swap(axis.axis, rank - 1);
        let columns = s.permute(x, &perm)?;
        let product = if rank == 1 {
            let row = s.reshape(columns, &[1usize.into(), axis.from.into()])?;
            let row = s.op(Op::MatMul { trans_a: false, trans_b: true }, &[row, weights])?;
            s.reshape(row, &[axis.to.into()])?
        } else {
            s.op(Op::MatMul { trans_a: false, trans_b: true }, &[columns, weights])?
        };
        s.permute(product, &perm)?
    };
    let outside: Vec<bool> = places.iter().map(|&p| p < 0.0 || p > axis.from as f64 - 1.0).collect();
    if rule.coordinates == Coordinates::Crop && outside.contains(&true) {
        let mut shape = vec![1; rank];
        shape[axis.axis] = axis.to;
        let outside = s.constant(tensor(Tensor::from_bools(&shape, &outside))?);
        let value = s.scalar(dtype, rule.extrapolation);
        y = s.select(outside, value, y)?;
    }
    Ok(y)
}

/// Where output element `i` lies among the input's.
fn place(coordinates: Coordinates, a: &Axis, i: f64) -> f64 {
    let (from, full) = (a.from as f64, a.scale * a.from as f64);
    let half_pixel = (i + 0.5) / a.scale - 0.5;
    match coordinates {
        Coordinates::HalfPixel => half_pixel,
        Coordinates::HalfPixelSymmetric => from / 2.0 * (1.0 - a.to as f64 / full) + half_pixel,
        Coordinates::PytorchHalfPixel if full == 1.0 => -0.5,
        Coordinates::PytorchHalfPixel => half_pixel,
        Coordinates::AlignCorners if full == 1.0 => 0.0,
        Coordinates::AlignCorners => i * (from - 1.0) / (full - 1.0),
        Coordinates::Asymmetric => i / a.scale,
        Coordinates::Crop => {
            let (start, span) = (a.roi.0 * (from - 1.0), (a.roi.1 - a.roi.0) * (from - 1.0));
            if full == 1.0 { start + span / 2.0 } else { start + i * span / (full - 1.0) }
        }
    }
}

fn nearest(p: f64, rounding: Rounding) -> i64 {
    let (floor, part) = (p.floor(), p - p.floor());
    let up = match rounding {
        _ if part == 0.0 => false,
        Rounding::PreferFloor => part > 0.5,
        Rounding::PreferCeil => part >= 0.5,
        Rounding::Floor => false,
        Rounding::Ceil => true,
    };
    floor as i64 + i64::from(up)
}

/// Adds the weights of the elements around `p` to a row; elements outside stand for the edge, or count for nothing.
fn add_weights(row: &mut [f64], p: f64, rule: &Rule, scale: f64) {
    // Shrinking with antialiasing stretches the filter over as many elements as flow together.
    let stretch = if rule.antialias { scale.min(1.0) } else { 1.0 };
    let (reach, kernel): (f64, Box<dyn Fn(f64) -> f64>) = match rule.filter {
        Filter::Cubic(a) => (2.0, Box::new(move |d| cubic(d, a))),
        _ => (1.0, Box::new(|d: f64| (1.0 - d.abs()).max(0.0))),
    };
    let (first, last) = ((p - reach / stretch).floor() as i64, (p + reach / stretch).ceil() as i64);
    let inside = |i: i64| (0..row.len() as i64).contains(&i);
    let weights: Vec<(i64, f64)> = (first..=last)
        .map(|i| (i, kernel((i as f64 - p) * stretch)))
        .filter(|(i, _)| !rule.exclude_outside || inside(*i))
        .collect();
    let total: f64 = weights.iter().map(|w| w.1).sum();
    let last = row.len() as i64 - 1;
    for (i, w) in weights {
        row[i.clamp(0, last) as usize] += if total == 0.0 { 0.0 } else { w / total };
    }
}

/// Keys' cubic convolution kernel.
fn cubic(d: f64, a: f64) -> f64 {
    let d = d.abs();
    if d <= 1.0 {
        ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    } else if d < 2.0 {
        ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    } else {
        0.0
    }
}
