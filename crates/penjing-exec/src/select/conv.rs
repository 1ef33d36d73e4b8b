//! Convolutions of one and two spatial axes; others are the reference interpreter's.

use super::{Kernel, Site, site::channels_first};
use penjing_ir::{Activation, ConvSpec, Layout, MachineOp, Op};
use penjing_kernels::{
    Activation as KernelActivation,
    conv::{ConvShape, ConvWeights, PackedConv, conv, conv_input_grad, conv_weight_grad},
    conv_last::{ConvEpilogue, Method, PackedConvLast, conv_last},
    gemm::Clamp,
};

pub(super) fn select(site: &Site, op: &Op) -> Option<Kernel> {
    match op {
        Op::Conv(spec) => forward(site, spec, Clamp::NONE),
        Op::Machine(MachineOp::Conv { spec, act, layout: Layout::ChannelsFirst }) => forward(site, spec, clamp(act)?),
        Op::Machine(MachineOp::Conv { spec, act, layout: Layout::ChannelsLast }) => last(site, spec, activation(act)),
        Op::ConvTranspose { spec, .. } => transpose(site, spec),
        Op::ConvWeightGrad { spec, .. } => weight_grad(site, spec),
        _ => None,
    }
}

/// The limits that an activation is, for kernels that have no other epilogue.
pub(super) fn clamp(act: &Activation) -> Option<Clamp> {
    match activation(act) {
        penjing_kernels::Activation::Clamp(clamp) => Some(clamp),
        _ => None,
    }
}

/// An activation in the kernels' terms.
pub(super) fn activation(act: &Activation) -> penjing_kernels::Activation {
    use penjing_kernels::Activation as Kernel;
    match *act {
        Activation::None => Kernel::NONE,
        Activation::Relu => Kernel::RELU,
        Activation::Clamp { lo, hi } => Kernel::Clamp(Clamp { min: lo.0 as f32, max: hi.0 as f32 }),
        Activation::Gelu => Kernel::Gelu,
        Activation::GeluTanh => Kernel::GeluTanh,
        Activation::Silu => Kernel::Silu,
        Activation::Sigmoid => Kernel::Sigmoid,
        Activation::Tanh => Kernel::Tanh,
        Activation::HardSwish => Kernel::HardSwish,
        Activation::HardSigmoid { alpha, beta } => Kernel::HardSigmoid { alpha: alpha.0 as f32, beta: beta.0 as f32 },
    }
}

/// The geometry of a convolution x → y with weight w; one spatial axis is a height of 1.
pub(super) fn shape(spec: &ConvSpec, x: &[usize], w: &[usize], y: &[usize]) -> Option<ConvShape> {
    let two = |v: &[usize], one: usize| match *v {
        [w] => Some([one, w]),
        [h, w] => Some([h, w]),
        _ => None,
    };
    let before: Vec<usize> = spec.pads.iter().map(|p| p.0).collect();
    Some(ConvShape {
        batch: x[0],
        groups: spec.groups,
        in_channels: x[1],
        out_channels: y[1],
        input: two(&x[2..], 1)?,
        kernel: two(&w[2..], 1)?,
        stride: two(&spec.strides, 1)?,
        dilation: two(&spec.dilations, 1)?,
        pad: two(&before, 0)?,
        output: two(&y[2..], 1)?,
    })
}

fn forward(site: &Site, spec: &ConvSpec, clamp: Clamp) -> Option<Kernel> {
    let [x, w] = [&site.operands[0], &site.operands[1]];
    let shape = shape(spec, &x.shape, &w.shape, &site.results[0].shape)?;
    let (has_bias, has_residual) = (site.operands.len() >= 3, site.operands.len() == 4);
    if !site.all_f32() {
        return None;
    }
    let packed = match w.floats() {
        Some(w) => Some(PackedConv::new(site.isa, &shape, w).ok()?),
        None => None,
    };
    // With the weight packed ahead, the views are x, bias, residual.
    let first = if packed.is_some() { 1 } else { 2 };
    let reads: Vec<usize> = (0..site.operands.len()).filter(|&i| i != 1 || packed.is_none()).collect();
    let name = if has_residual { "f32-f32-f32w-conv_add" } else { "f32-f32-f32w-conv" };
    let kernel = Kernel::call(site, name, move |call| {
        let x = call.views.read::<f32>(0)?;
        let weights = match &packed {
            Some(packed) => ConvWeights::Packed(packed),
            None => ConvWeights::Plain(call.views.read::<f32>(1)?),
        };
        let bias = if has_bias { Some(call.views.read::<f32>(first)?) } else { None };
        let y = call.views.write::<f32>(0)?;
        if !has_residual {
            return Ok(conv(call.ctx, &shape, x, weights, bias, clamp, y)?);
        }
        let residual = call.views.read::<f32>(first + 1)?;
        conv(call.ctx, &shape, x, weights, bias, Clamp::NONE, y)?;
        call.ctx.pool.run_chunks(y, ADD_CHUNK, &|i, part| {
            let residual = &residual[i * ADD_CHUNK..][..part.len()];
            for (v, r) in part.iter_mut().zip(residual) {
                // Comparisons that are false for NaN keep it.
                let sum = *v + r;
                let sum = if sum < clamp.min { clamp.min } else { sum };
                *v = if sum > clamp.max { clamp.max } else { sum };
            }
        });
        Ok(())
    });
    Some(kernel.reading(reads))
}

/// A convolution of channels that lie last. A constant weight is packed ahead by the method that costs least; its views are x, bias
/// and residual. Another weight is packed in every run, so its method depends on the shape alone.
fn last(site: &Site, spec: &ConvSpec, activation: KernelActivation) -> Option<Kernel> {
    let [x, w, y] = [&site.operands[0], &site.operands[1], &site.results[0]];
    let shape = shape(spec, &channels_first(&x.shape), &w.shape, &channels_first(&y.shape))?;
    if !site.all_f32() {
        return None;
    }
    let has_residual = site.operands.len() == 4;
    let Some(constant) = w.floats() else {
        let (isa, method) = (site.isa, Method::of_packing(&shape));
        return Some(Kernel::call(site, method.spec(), move |call| {
            let v = &mut call.views;
            let packed = PackedConvLast::new_with(isa, &shape, v.read(1)?, method)?;
            let residual = if has_residual { Some(v.read::<f32>(3)?) } else { None };
            let epilogue = ConvEpilogue { bias: Some(v.read(2)?), residual, activation };
            Ok(conv_last(call.ctx, &shape, v.read(0)?, &packed, &epilogue, v.write(0)?)?)
        }));
    };
    let methods = Method::candidates(&shape).map(|m| (m, format!("{}.{}", site.isa.name(), m.spec())));
    let method = site.costs.pick(&shape, methods.collect())?;
    let packed = PackedConvLast::new_with(site.isa, &shape, constant, method).ok()?;
    let kernel = Kernel::call(site, packed.name(), move |call| {
        let (x, bias) = (call.views.read::<f32>(0)?, Some(call.views.read::<f32>(1)?));
        let residual = if has_residual { Some(call.views.read::<f32>(2)?) } else { None };
        let epilogue = ConvEpilogue { bias, residual, activation };
        Ok(conv_last(call.ctx, &shape, x, &packed, &epilogue, call.views.write::<f32>(0)?)?)
    });
    Some(kernel.reading((0..site.operands.len()).filter(|&i| i != 1).collect()))
}

/// Elements of one task of the residual addition.
const ADD_CHUNK: usize = 1 << 14;

/// Without bias it is the input gradient of the convolution that it transposes.
fn transpose(site: &Site, spec: &ConvSpec) -> Option<Kernel> {
    let [dy, w, dx] = [&site.operands[0].shape, &site.operands[1].shape, &site.results[0].shape];
    if site.operands.len() != 2 || !site.all_f32() {
        return None;
    }
    let shape = shape(spec, dx, w, dy)?;
    Some(Kernel::call(site, "f32-f32-f32w-conv_input_grad", move |call| {
        let (dy, w) = (call.views.read::<f32>(0)?, call.views.read::<f32>(1)?);
        Ok(conv_input_grad(call.ctx, &shape, dy, w, call.views.write::<f32>(0)?)?)
    }))
}

fn weight_grad(site: &Site, spec: &ConvSpec) -> Option<Kernel> {
    let [x, dy, dw] = [&site.operands[0].shape, &site.operands[1].shape, &site.results[0].shape];
    let shape = shape(spec, x, dw, dy)?;
    site.all_f32().then(|| {
        Kernel::call(site, "f32-f32-conv_weight_grad", move |call| {
            let (x, dy) = (call.views.read::<f32>(0)?, call.views.read::<f32>(1)?);
            Ok(conv_weight_grad(call.ctx, &shape, x, dy, call.views.write::<f32>(0)?)?)
        })
    })
}
