//! Pooling over one and two spatial axes.

use super::{Kernel, Site, site::channels_first};
use penjing_ir::{MachineOp, Op, PoolKind, PoolSpec};
use penjing_kernels::{
    pool_last::{avg_pool_last, max_pool_last, max_pool_last_i8, max_pool_last_u8},
    pool2d::{PadCount, PoolShape, avg_pool, avg_pool_grad, max_pool, max_pool_grad, max_pool_i8, max_pool_u8},
};
use penjing_tensor::DType;

pub(super) fn select(site: &Site, op: &Op) -> Option<Kernel> {
    match op {
        Op::Pool { kind, spec } => forward(site, *kind, shape(spec, &site.operands[0].shape, &site.results[0].shape)?),
        Op::Machine(MachineOp::Pool { kind, spec }) => last(site, *kind, spec),
        Op::PoolGrad { kind, spec } => {
            backward(site, *kind, shape(spec, &site.operands[0].shape, &site.operands[1].shape)?)
        }
        _ => None,
    }
}

fn forward(site: &Site, kind: PoolKind, shape: PoolShape) -> Option<Kernel> {
    Some(match (kind, site.operands[0].dtype) {
        (PoolKind::Max, DType::F32) => Kernel::call(site, "f32-f32-max_pool", move |call| {
            Ok(max_pool(call.ctx, &shape, call.views.read(0)?, call.views.write(0)?)?)
        }),
        (PoolKind::Max, DType::I8) => Kernel::call(site, "s8-s8-max_pool", move |call| {
            Ok(max_pool_i8(call.ctx, &shape, call.views.read(0)?, call.views.write(0)?)?)
        }),
        (PoolKind::Max, DType::U8) => Kernel::call(site, "u8-u8-max_pool", move |call| {
            Ok(max_pool_u8(call.ctx, &shape, call.views.read(0)?, call.views.write(0)?)?)
        }),
        (PoolKind::Average { count_include_pad }, DType::F32) => {
            let count = pad_count(count_include_pad);
            Kernel::call(site, "f32-f32-avg_pool", move |call| {
                Ok(avg_pool(call.ctx, &shape, count, call.views.read(0)?, call.views.write(0)?)?)
            })
        }
        _ => return None,
    })
}

/// Pooling of channels that lie last.
fn last(site: &Site, kind: PoolKind, spec: &PoolSpec) -> Option<Kernel> {
    let [x, y] = [&site.operands[0], &site.results[0]];
    let channels = *x.shape.last()?;
    let s = PoolShape { planes: x.shape[0], ..shape(spec, &channels_first(&x.shape), &channels_first(&y.shape))? };
    Some(match (kind, x.dtype) {
        (PoolKind::Max, DType::F32) => Kernel::call(site, "f32-f32-max_pool_last", move |call| {
            Ok(max_pool_last(call.ctx, &s, channels, call.views.read(0)?, call.views.write(0)?)?)
        }),
        (PoolKind::Max, DType::I8) => Kernel::call(site, "s8-s8-max_pool_last", move |call| {
            Ok(max_pool_last_i8(call.ctx, &s, channels, call.views.read(0)?, call.views.write(0)?)?)
        }),
        (PoolKind::Max, DType::U8) => Kernel::call(site, "u8-u8-max_pool_last", move |call| {
            Ok(max_pool_last_u8(call.ctx, &s, channels, call.views.read(0)?, call.views.write(0)?)?)
        }),
        (PoolKind::Average { count_include_pad }, DType::F32) => {
            let count = pad_count(count_include_pad);
            Kernel::call(site, "f32-f32-avg_pool_last", move |call| {
                Ok(avg_pool_last(call.ctx, &s, count, channels, call.views.read(0)?, call.views.write(0)?)?)
            })
        }
        _ => return None,
    })
}

fn backward(site: &Site, kind: PoolKind, shape: PoolShape) -> Option<Kernel> {
    if !site.all_f32() {
        return None;
    }
    Some(match kind {
        PoolKind::Max => Kernel::call(site, "f32-f32-max_pool_grad", move |call| {
            let (x, dy) = (call.views.read(0)?, call.views.read(1)?);
            Ok(max_pool_grad(call.ctx, &shape, x, dy, call.views.write(0)?)?)
        }),
        PoolKind::Average { count_include_pad } => {
            let count = pad_count(count_include_pad);
            let kernel = Kernel::call(site, "f32-f32-avg_pool_grad", move |call| {
                Ok(avg_pool_grad(call.ctx, &shape, count, call.views.read(0)?, call.views.write(0)?)?)
            });
            kernel.reading(vec![1])
        }
    })
}

fn pad_count(count_include_pad: bool) -> PadCount {
    if count_include_pad { PadCount::Include } else { PadCount::Exclude }
}

/// The geometry of x → y; one spatial axis is a height of 1.
pub(super) fn shape(spec: &PoolSpec, x: &[usize], y: &[usize]) -> Option<PoolShape> {
    let two = |v: &[usize], one: usize| match *v {
        [w] => Some([one, w]),
        [h, w] => Some([h, w]),
        _ => None,
    };
    let side = |f: fn(&(usize, usize)) -> usize| spec.pads.iter().map(f).collect::<Vec<_>>();
    Some(PoolShape {
        planes: x[0] * x[1],
        input: two(&x[2..], 1)?,
        kernel: two(&spec.kernel, 1)?,
        stride: two(&spec.strides, 1)?,
        dilation: two(&spec.dilations, 1)?,
        pad: two(&side(|p| p.0), 0)?,
        pad_end: two(&side(|p| p.1), 0)?,
        output: two(&y[2..], 1)?,
    })
}
