//! Reductions and softmax.

use super::{Kernel, Site, site::around};
use penjing_ir::{ArgKind, Op, Reduction};
use penjing_kernels::{
    arg_reduce::{Extreme, Tie, arg_reduce},
    reduce::{ReduceOp, reduce_axes},
    softmax::{log_softmax, softmax},
};
use penjing_tensor::DType;

pub(super) fn select(site: &Site, op: &Op) -> Option<Kernel> {
    let shape = site.operands[0].shape.clone();
    if let Op::ArgReduce { kind, axis, last, .. } = op {
        let along = around(&shape, *axis);
        let extreme = match kind {
            ArgKind::Max => Extreme::Max,
            ArgKind::Min => Extreme::Min,
        };
        let tie = if *last { Tie::Last } else { Tie::First };
        return (site.operands[0].dtype == DType::F32).then(|| {
            Kernel::call(site, "f32-i64-arg_reduce", move |call| {
                Ok(arg_reduce(call.ctx, extreme, tie, call.views.read(0)?, along, call.views.write(0)?)?)
            })
        });
    }
    if !site.all_f32() {
        return None;
    }
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
