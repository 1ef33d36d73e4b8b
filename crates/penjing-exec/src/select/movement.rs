//! Moving elements: any dtype, by element size.

use super::{
    Kernel, Site,
    site::{Operand, around},
};
use penjing_ir::{Op, PadMode, SliceRange};
use penjing_kernels::movement::{ElemSize, concat, expand, gather, gather_grad, one_hot, pad, permute, slice};
use penjing_tensor::{DType, Tensor};

pub(super) fn select(site: &Site, op: &Op) -> Option<Kernel> {
    let result = &site.results[0];
    let size = ElemSize::new(result.dtype.size())?;
    let bits = size.bytes() * 8;
    let out = result.shape.clone();
    let own = site.operands.first().map(|o| o.shape.clone()).unwrap_or_default();
    let name = |what: &str| format!("x{bits}-x{bits}-{what}");
    Some(match op {
        Op::Permute { perm } => {
            let perm = perm.clone();
            Kernel::call(site, &name("permute"), move |call| {
                Ok(permute(call.ctx, size, call.views.read(0)?, &own, &perm, call.views.write(0)?)?)
            })
        }
        Op::Expand { .. } => Kernel::call(site, &name("expand"), move |call| {
            Ok(expand(call.ctx, size, call.views.read(0)?, &own, &out, call.views.write(0)?)?)
        }),
        Op::Slice { ranges } => {
            let starts: Vec<usize> = ranges.iter().map(|r| r.start.as_const()).collect::<Option<_>>()?;
            let steps: Vec<i64> = ranges.iter().map(|r: &SliceRange| r.step).collect();
            Kernel::call(site, &name("slice"), move |call| {
                let (src, dst) = (call.views.read(0)?, call.views.write(0)?);
                Ok(slice(call.ctx, size, src, &own, &starts, &steps, &out, dst)?)
            })
        }
        Op::Concat { axis } => {
            let (axis, extents) = (*axis, site.operands.iter().map(|o| o.shape[*axis]).collect::<Vec<_>>());
            Kernel::call(site, &name("concat"), move |call| {
                let parts = extents.iter().enumerate().map(|(i, &n)| Ok((call.views.read::<u8>(i)?, n)));
                let parts = parts.collect::<Result<Vec<_>, penjing_kernels::KernelError>>()?;
                Ok(concat(call.ctx, size, &parts, &out, axis, call.views.write(0)?)?)
            })
        }
        Op::Pad { before, after, mode: PadMode::Constant(value) } => {
            let (before, after, value) = (before.clone(), after.clone(), element(value.0, result.dtype));
            Kernel::call(site, &name("pad"), move |call| {
                let (src, dst) = (call.views.read(0)?, call.views.write(0)?);
                Ok(pad(call.ctx, src, &own, &before, &after, &value, dst)?)
            })
        }
        Op::Gather { axis } => {
            let extents = around(&own, *axis);
            let name = name("gather");
            match site.operands[0].content.clone() {
                // A table stays in its file wherever it lies there.
                Some(table) => Kernel::call(site, &name, move |call| {
                    let indices = call.views.read::<i64>(0)?;
                    Ok(gather(call.ctx, size, table.raw_bytes(), extents, indices, call.views.write(0)?)?)
                })
                .reading(vec![1]),
                None => Kernel::call(site, &name, move |call| {
                    let (src, indices) = (call.views.read(0)?, call.views.read::<i64>(1)?);
                    Ok(gather(call.ctx, size, src, extents, indices, call.views.write(0)?)?)
                }),
            }
        }
        Op::GatherGrad { axis, .. } if result.dtype == DType::F32 => {
            let extents = around(&out, *axis);
            Kernel::call(site, "f32-f32-gather_grad", move |call| {
                let (indices, dy) = (call.views.read::<i64>(0)?, call.views.read(1)?);
                Ok(gather_grad(call.ctx, dy, indices, extents, call.views.write(0)?)?)
            })
        }
        Op::OneHot { axis, .. } => hot(site, result, *axis, &name("one_hot")),
        _ => return None,
    })
}

fn hot(site: &Site, result: &Operand, axis: usize, name: &str) -> Kernel {
    let [_, depth, inner] = around(&result.shape, axis);
    let one = element(1.0, result.dtype);
    Kernel::call(site, name, move |call| {
        Ok(one_hot(call.ctx, &one, call.views.read(0)?, depth, inner, call.views.write(0)?)?)
    })
}

/// The bytes of one element of that value.
fn element(value: f64, dtype: DType) -> Vec<u8> {
    Tensor::scalar(value).cast(dtype).bytes().to_vec()
}
