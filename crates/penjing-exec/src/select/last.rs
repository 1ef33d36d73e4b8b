//! Training ops of images whose channels lie last.

use super::{Kernel, Site, conv, pool, site::channels_first};
use penjing_ir::{Op, PoolKind};
use penjing_kernels::{
    conv_last::{Method, conv_last_input_grad, conv_last_weight_grad, input_grad_method},
    norm::{batch_norm_grad_last, batch_norm_train_last},
    pool_last::max_pool_grad_last,
    pool2d::PoolShape,
};

pub(super) fn select(site: &Site, op: &Op) -> Option<Kernel> {
    if !site.all_f32() {
        return None;
    }
    let x = &site.operands[0].shape;
    let channels = *x.last()?;
    let rows = [x.iter().product::<usize>() / channels.max(1), channels];
    Some(match op {
        Op::ConvTranspose { spec, .. } if site.operands.len() == 2 => {
            let (dy, dx) = (channels_first(x), channels_first(&site.results[0].shape));
            let shape = conv::shape(spec, &dx, &site.operands[1].shape, &dy)?;
            let method = input_grad_method(&shape);
            let name = match method {
                Method::Winograd4 => "f32-f32-f32w-conv_last_input_grad_winograd.4x4",
                _ => "f32-f32-f32w-conv_last_input_grad",
            };
            Kernel::call(site, name, move |call| {
                let (dy, w) = (call.views.read::<f32>(0)?, call.views.read::<f32>(1)?);
                Ok(conv_last_input_grad(call.ctx, &shape, method, dy, w, call.views.write::<f32>(0)?)?)
            })
        }
        Op::ConvWeightGrad { spec, .. } => {
            let (x, dy) = (channels_first(x), channels_first(&site.operands[1].shape));
            let shape = conv::shape(spec, &x, &site.results[0].shape, &dy)?;
            Kernel::call(site, "f32-f32-conv_last_weight_grad", move |call| {
                let (x, dy) = (call.views.read::<f32>(0)?, call.views.read::<f32>(1)?);
                Ok(conv_last_weight_grad(call.ctx, &shape, x, dy, call.views.write::<f32>(0)?)?)
            })
        }
        Op::PoolGrad { kind: PoolKind::Max, spec } => {
            let (first, dy) = (channels_first(x), channels_first(&site.operands[1].shape));
            let shape = PoolShape { planes: x[0], ..pool::shape(spec, &first, &dy)? };
            Kernel::call(site, "f32-f32-max_pool_grad_last", move |call| {
                let (x, dy) = (call.views.read(0)?, call.views.read(1)?);
                Ok(max_pool_grad_last(call.ctx, &shape, channels, x, dy, call.views.write(0)?)?)
            })
        }
        Op::BatchNormTrain { eps } => {
            let eps = eps.0 as f32;
            Kernel::call(site, "f32-f32-batch_norm_train_last", move |call| {
                let v = &mut call.views;
                let (x, scale, bias) = (v.read(0)?, v.read(1)?, v.read(2)?);
                let (y, mean, var) = (v.write(0)?, v.write(1)?, v.write(2)?);
                Ok(batch_norm_train_last(call.ctx, x, rows, scale, bias, eps, y, mean, var)?)
            })
        }
        Op::BatchNormGrad { eps } => {
            let eps = eps.0 as f32;
            Kernel::call(site, "f32-f32-batch_norm_grad_last", move |call| {
                let v = &mut call.views;
                let (x, scale, mean, var, dy) = (v.read(0)?, v.read(1)?, v.read(2)?, v.read(3)?, v.read(4)?);
                let (dx, dscale, dbias) = (v.write(0)?, v.write(1)?, v.write(2)?);
                Ok(batch_norm_grad_last(call.ctx, x, dy, rows, mean, var, scale, eps, dx, dscale, dbias)?)
            })
        }
        _ => return None,
    })
}
