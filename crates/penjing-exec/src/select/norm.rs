//! Normalizations.

use super::{Kernel, Site};
use penjing_ir::Op;
use penjing_kernels::norm::{batch_norm_grad, batch_norm_train, group_norm, layer_norm, layer_norm_grad, rms_norm};

pub(super) fn select(site: &Site, op: &Op) -> Option<Kernel> {
    if !site.all_f32() {
        return None;
    }
    let shape = site.operands[0].shape.clone();
    let channels = || [shape[0], shape[1], shape[2..].iter().product()];
    Some(match op {
        Op::BatchNormTrain { eps } => {
            let (shape, eps) = (channels(), eps.0 as f32);
            Kernel::call(site, "f32-f32-batch_norm_train", move |call| {
                let v = &mut call.views;
                let (x, scale, bias) = (v.read(0)?, v.read(1)?, v.read(2)?);
                let (y, mean, var) = (v.write(0)?, v.write(1)?, v.write(2)?);
                Ok(batch_norm_train(call.ctx, x, shape, scale, bias, eps, y, mean, var)?)
            })
        }
        Op::BatchNormGrad { eps } => {
            let (shape, eps) = (channels(), eps.0 as f32);
            Kernel::call(site, "f32-f32-batch_norm_grad", move |call| {
                let v = &mut call.views;
                let (x, scale, mean, var, dy) = (v.read(0)?, v.read(1)?, v.read(2)?, v.read(3)?, v.read(4)?);
                let (dx, dscale, dbias) = (v.write(0)?, v.write(1)?, v.write(2)?);
                Ok(batch_norm_grad(call.ctx, x, dy, shape, mean, var, scale, eps, dx, dscale, dbias)?)
            })
        }
        Op::LayerNorm { axis, eps } => {
            let (rows, n, eps) = (shape[..*axis].iter().product(), shape[*axis..].iter().product(), eps.0 as f32);
            Kernel::call(site, "f32-f32-layer_norm", move |call| {
                let v = &mut call.views;
                let (x, scale, bias) = (v.read(0)?, Some(v.read(1)?), Some(v.read(2)?));
                Ok(layer_norm(call.ctx, x, rows, n, scale, bias, eps, v.write(0)?)?)
            })
        }
        Op::LayerNormGrad { axis, eps } => {
            let (rows, n, eps) = (shape[..*axis].iter().product(), shape[*axis..].iter().product(), eps.0 as f32);
            Kernel::call(site, "f32-f32-layer_norm_grad", move |call| {
                let v = &mut call.views;
                let (x, scale, dy) = (v.read(0)?, Some(v.read(1)?), v.read(2)?);
                let (dx, dscale, dbias) = (v.write(0)?, v.write(1)?, v.write(2)?);
                Ok(layer_norm_grad(call.ctx, x, dy, rows, n, scale, eps, dx, dscale, dbias)?)
            })
        }
        Op::RmsNorm { axis, eps } => {
            let (rows, n, eps) = (shape[..*axis].iter().product(), shape[*axis..].iter().product(), eps.0 as f32);
            Kernel::call(site, "f32-f32-rms_norm", move |call| {
                let v = &mut call.views;
                Ok(rms_norm(call.ctx, v.read(0)?, rows, n, Some(v.read(1)?), eps, v.write(0)?)?)
            })
        }
        Op::GroupNorm { groups, eps } => {
            let (shape, groups, eps) = (channels(), *groups, eps.0 as f32);
            Kernel::call(site, "f32-f32-group_norm", move |call| {
                let v = &mut call.views;
                let (x, scale, bias) = (v.read(0)?, Some(v.read(1)?), Some(v.read(2)?));
                Ok(group_norm(call.ctx, x, shape, groups, scale, bias, eps, v.write(0)?)?)
            })
        }
        _ => return None,
    })
}
