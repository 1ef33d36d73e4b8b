//! Convolutions.

use super::{
    frame::Operand,
    node::{NodeCx, Res, invalid, one, unsupported},
};
use penjing_ir::{ConvSpec, Dim, Op, ValueId};
use penjing_tensor::DType;

type Outputs = Res<Vec<Operand>>;

/// Largest stride, dilation, pad or kernel extent: products of two of them fit 64 bits.
const MAX_GEOMETRY: i64 = 1 << 30;

/// `Conv`.
pub(super) fn conv(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (x, w, bias) = (cx.value(0)?, cx.value(1)?, cx.optional(2)?);
    let kernel = kernel_of(cx, w)?;
    let spec = conv_spec(cx, x, &kernel)?;
    let inputs: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
    cx.emit(Op::Conv(spec), &inputs)
}

/// `ConvInteger`: the convolution of (x − zx) and (w − zw) in I32.
pub(super) fn conv_integer(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (x, w) = (cx.value(0)?, cx.value(1)?);
    let zeros = [cx.optional(2)?, cx.optional(3)?];
    let kernel = kernel_of(cx, w)?;
    let spec = conv_spec(cx, x, &kernel)?;
    let rank = spec.rank();
    let mut s = cx.scope();
    let mut centred = Vec::new();
    for (v, zero) in [x, w].into_iter().zip(zeros) {
        let mut v = s.cast(v, DType::I32)?;
        if let Some(zero) = zero {
            let mut zero = s.cast(zero, DType::I32)?;
            let dims = s.fact(zero).shape;
            if dims.len() == 1 && !dims[0].is(1) {
                let shape: Vec<Dim> = dims.into_iter().chain(vec![Dim::Const(1); rank + 1]).collect();
                zero = s.reshape(zero, &shape)?;
            }
            v = s.sub(v, zero)?;
        }
        centred.push(v);
    }
    Ok(one(s.op(Op::Conv(spec), &centred)?))
}

/// `ConvTranspose`.
pub(super) fn conv_transpose(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (x, w, bias) = (cx.value(0)?, cx.value(1)?, cx.optional(2)?);
    let kernel = kernel_of(cx, w)?;
    let rank = kernel.len();
    let strides = extents(cx, "strides", rank, 1)?;
    let dilations = extents(cx, "dilations", rank, 1)?;
    let mut output_pad = extents(cx, "output_padding", rank, 0)?;
    let auto = cx.string("auto_pad", "NOTSET")?;
    let output_shape = cx.ints("output_shape")?;
    let mut pads = explicit_pads(cx, rank)?;
    let groups = groups(cx)?;
    if output_shape.is_some() || auto.starts_with("SAME") {
        let dims = cx.fact(x).shape;
        for i in 0..rank {
            let Some(n) = dims.get(i + 2).and_then(Dim::as_const) else {
                return unsupported("an output shape or automatic padding for a symbolic extent; bind it");
            };
            let full = (n.max(1) - 1) * strides[i] + output_pad[i] + (kernel[i] - 1) * dilations[i] + 1;
            let want = match &output_shape {
                // The shape may or may not name batch and channels.
                Some(shape) => match shape.get(shape.len().wrapping_sub(rank).wrapping_add(i)) {
                    Some(&v) if (0..=MAX_GEOMETRY).contains(&v) => v as usize,
                    _ => return invalid("output_shape does not fit the spatial axes"),
                },
                None => n * strides[i],
            };
            // A shape larger than what the kernel covers is reached by padding the output.
            output_pad[i] += want.saturating_sub(full);
            let total = full.saturating_sub(want);
            let small = total / 2;
            pads[i] = if auto == "SAME_UPPER" { (small, total - small) } else { (total - small, small) };
        }
    } else if auto == "VALID" {
        pads = vec![(0, 0); rank];
    }
    let spec = ConvSpec { strides, pads, dilations, groups };
    let inputs: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
    cx.emit(Op::ConvTranspose { spec, output_pad }, &inputs)
}

/// `CausalConvWithState`: a depthwise convolution over the past and the input; the last steps are the next past.
pub(super) fn causal_conv(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let (x, w, bias, past) = (cx.value(0)?, cx.value(1)?, cx.optional(2)?, cx.optional(3)?);
    let kernel = kernel_of(cx, w)?;
    let dims = cx.fact(x).shape;
    let ([_, channels, steps], [k]) = (dims.as_slice(), kernel.as_slice()) else {
        return invalid("x and its weight need 3 axes");
    };
    let Some(groups) = channels.as_const() else { return unsupported("a symbolic number of channels") };
    let silu = match cx.string("activation", "none")?.as_str() {
        "none" => false,
        "silu" | "swish" => true,
        other => return invalid(format!("activation is '{other}'")),
    };
    let mut s = cx.scope();
    let padded = match past {
        Some(past) => s.concat(&[past, x], 2)?,
        None => {
            let mode = penjing_ir::PadMode::Constant(penjing_ir::Real(0.0));
            s.op(Op::Pad { before: vec![0, 0, k - 1], after: vec![0; 3], mode }, &[x])?
        }
    };
    let mut y = s.conv(padded, w, bias, ConvSpec { groups, ..ConvSpec::unit(1) })?;
    if silu {
        let dtype = s.fact(y).dtype;
        let wide = s.cast(y, DType::F32)?;
        let active = s.unary(penjing_ir::Unary::Silu, wide)?;
        y = s.cast(active, dtype)?;
    }
    let state = s.slice(padded, 2, steps.clone(), k - 1)?;
    Ok(vec![Operand::Value(y), Operand::Value(state)])
}

/// The geometry of a convolution with this kernel.
pub(super) fn conv_spec(cx: &NodeCx<'_, '_>, x: ValueId, kernel: &[usize]) -> Res<ConvSpec> {
    let rank = kernel.len();
    let strides = extents(cx, "strides", rank, 1)?;
    let dilations = extents(cx, "dilations", rank, 1)?;
    let dims = cx.fact(x).shape;
    if dims.len() != rank + 2 {
        return invalid(format!("x has {} axes, the kernel {rank}", dims.len()));
    }
    let pads = pads(cx, &dims[2..], kernel, &strides, &dilations)?;
    Ok(ConvSpec { strides, pads, dilations, groups: groups(cx)? })
}

/// Padding of a window over `input`, explicit or automatic.
pub(super) fn pads(
    cx: &NodeCx<'_, '_>,
    input: &[Dim],
    kernel: &[usize],
    strides: &[usize],
    dilations: &[usize],
) -> Res<Vec<(usize, usize)>> {
    let upper = match cx.string("auto_pad", "NOTSET")?.as_str() {
        "NOTSET" => return explicit_pads(cx, kernel.len()),
        "VALID" => return Ok(vec![(0, 0); kernel.len()]),
        "SAME_UPPER" => true,
        "SAME_LOWER" => false,
        other => return invalid(format!("auto_pad is '{other}'")),
    };
    (0..kernel.len())
        .map(|i| {
            let reach = (kernel[i].max(1) - 1) * dilations[i] + 1;
            let total = match input[i].as_const() {
                Some(n) => ((n.div_ceil(strides[i]).max(1) - 1) * strides[i] + reach).saturating_sub(n),
                None if strides[i] == 1 => reach - 1,
                None => return unsupported(format!("automatic padding of the symbolic extent {}; bind it", input[i])),
            };
            let small = total / 2;
            Ok(if upper { (small, total - small) } else { (total - small, small) })
        })
        .collect()
}

/// A list of extents, `default` when it is not given.
pub(super) fn extents(cx: &NodeCx<'_, '_>, name: &str, rank: usize, default: usize) -> Res<Vec<usize>> {
    let Some(list) = cx.ints(name)?.filter(|l| !l.is_empty()) else { return Ok(vec![default; rank]) };
    if list.len() != rank || !list.iter().all(|v| (default as i64..=MAX_GEOMETRY).contains(v)) {
        return invalid(format!("{name} {list:?} does not fit {rank} spatial axes"));
    }
    Ok(list.into_iter().map(|v| v as usize).collect())
}

fn explicit_pads(cx: &NodeCx<'_, '_>, rank: usize) -> Res<Vec<(usize, usize)>> {
    let list = extents(cx, "pads", 2 * rank, 0)?;
    Ok((0..rank).map(|i| (list[i], list[i + rank])).collect())
}

fn groups(cx: &NodeCx<'_, '_>) -> Res<usize> {
    match cx.int("group", 1)? {
        g if (1..=MAX_GEOMETRY).contains(&g) => Ok(g as usize),
        g => invalid(format!("group is {g}")),
    }
}

/// Spatial extents of a weight, checked against attribute `kernel_shape`.
pub(super) fn kernel_of(cx: &NodeCx<'_, '_>, w: ValueId) -> Res<Vec<usize>> {
    let fact = cx.fact(w);
    let Some(kernel) = fact.shape.get(2..).filter(|k| !k.is_empty()) else {
        return invalid(format!("the weight {fact} needs at least 3 axes"));
    };
    let Some(kernel) = kernel.iter().map(Dim::as_const).collect::<Option<Vec<_>>>() else {
        return unsupported("a symbolic kernel extent");
    };
    if !kernel.iter().all(|&k| (1..=MAX_GEOMETRY as usize).contains(&k)) {
        return invalid(format!("kernel extents {kernel:?}"));
    }
    if let Some(declared) = cx.ints("kernel_shape")?
        && !declared.iter().map(|&v| v as usize).eq(kernel.iter().copied())
    {
        return invalid(format!("kernel_shape is {declared:?}, the weight's kernel {kernel:?}"));
    }
    Ok(kernel)
}
