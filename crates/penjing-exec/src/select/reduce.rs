//! Reductions and softmax.

use super::{Kernel, Site, site::around};
use penjing_ir::{Op, Reduction};
use penjing_kernels::{
    reduce::{ReduceOp, reduce_axes},
    softmax::{log_softmax, softmax},
};

pub(super) fn select(site: &Site, op: &Op) -> Option<Kernel> {
    if !site.all_f32() {
        return None;
    }
    let shape = site.operands[0].shape.clone();
    match op {
        Op::Reduce { kind, axes, .. } => {
            let op = match kind {
                Reduction::Sum => ReduceOp::Sum,
                Reduction::Mean => ReduceOp::Mean,
                Reduction::Max => ReduceOp::Max,
                Reduction::Min => ReduceOp::Min,
                Reduction::Prod => ReduceOp::Prod,
            };
            let axes = axes.clone();
            Some(Kernel::call(site, "f32-f32-reduce", move |call| {
                Ok(reduce_axes(call.ctx, op, call.views.read(0)?, &shape, &axes, call.views.write(0)?)?)
            }))
        }
        Op::Softmax { axis } => {
            let [outer, n, inner] = around(&shape, *axis);
            Some(Kernel::call(site, "f32-f32-softmax", move |call| {
                Ok(softmax(call.ctx, call.views.read(0)?, outer, n, inner, call.views.write(0)?)?)
            }))
        }
        Op::LogSoftmax { axis } => {
            let [outer, n, inner] = around(&shape, *axis);
            Some(Kernel::call(site, "f32-f32-log_softmax", move |call| {
                Ok(log_softmax(call.ctx, call.views.read(0)?, outer, n, inner, call.views.write(0)?)?)
            }))
        }
        _ => None,
    }
}
