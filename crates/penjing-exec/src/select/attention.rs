//! Attention, its heads where the graph has them.

use super::{Kernel, Site};
use penjing_ir::{AttentionSpec, HeadLayout, MachineOp, Op};
use penjing_kernels::{
    attention::{AttentionShape, Causal, Heads, Mask, attention},
    attention_grad::{AttentionGradShape, attention_grad},
};

pub(super) fn select(site: &Site, op: &Op) -> Option<Kernel> {
    if !site.all_f32() {
        return None;
    }
    let [q, k, v] = [0, 1, 2].map(|i| site.operands[i].shape.as_slice());
    let canonical;
    let spec = match op {
        Op::Machine(MachineOp::Attention(spec)) => spec,
        Op::Attention { scale, causal } => {
            canonical = AttentionSpec::canonical(*scale, *causal, [q, k, v]);
            &canonical
        }
        Op::AttentionGrad { scale, causal } => return Some(gradient(site, scale.0, *causal)),
        _ => return None,
    };
    let shape = AttentionShape {
        batch: q[0],
        heads: spec.heads,
        groups: spec.groups,
        queries: positions(q, spec.q),
        keys: positions(k, spec.k),
        width: spec.width,
        value_width: spec.value_width,
        scale: spec.scale.0 as f32,
        causal: if spec.causal { Causal::Yes } else { Causal::No },
    };
    let at = [heads(q, spec.q, spec.width), heads(k, spec.k, spec.width), heads(v, spec.v, spec.value_width)];
    let out = heads(&site.results[0].shape, spec.out, spec.value_width);
    let mask = site.operands.get(3).map(|m| broadcast_strides(&m.shape));
    Some(Kernel::call(site, "f32-f32-attention", move |call| {
        let views = &mut call.views;
        let mask = match mask {
            Some(strides) => Some(Mask { data: views.read(3)?, strides }),
            None => None,
        };
        let (q, k, v) = ((views.read(0)?, at[0]), (views.read(1)?, at[1]), (views.read(2)?, at[2]));
        Ok(attention(call.ctx, &shape, q, k, v, mask, views.write(0)?, out)?)
    }))
}

/// The gradients of an attention whose query heads have key heads of their own.
fn gradient(site: &Site, scale: f64, causal: bool) -> Kernel {
    let [q, v] = [&site.operands[0].shape, &site.operands[2].shape];
    let shape = AttentionGradShape {
        heads: q[0] * q[1],
        queries: q[2],
        keys: v[2],
        width: q[3],
        value_width: v[3],
        scale: scale as f32,
        causal: if causal { Causal::Yes } else { Causal::No },
    };
    Kernel::call(site, "f32-f32-attention_grad", move |call| {
        let v = &mut call.views;
        let operands = [v.read(0)?, v.read(1)?, v.read(2)?, v.read(3)?];
        Ok(attention_grad(call.ctx, &shape, operands, [v.write(0)?, v.write(1)?, v.write(2)?])?)
    })
}

fn positions(shape: &[usize], layout: HeadLayout) -> usize {
    shape[if layout == HeadLayout::Apart { 2 } else { 1 }]
}

/// Where the vectors of an operand of this shape stand.
fn heads(shape: &[usize], layout: HeadLayout, width: usize) -> Heads {
    let last = shape[shape.len() - 1];
    match layout {
        HeadLayout::Apart => {
            Heads { first: 0, batch: shape[1] * shape[2] * last, head: shape[2] * last, position: last }
        }
        HeadLayout::Columns { first } => Heads { first, batch: shape[1] * last, head: width, position: last },
    }
}

/// Strides over [B, H, S, T] of a mask that broadcasts to it.
fn broadcast_strides(own: &[usize]) -> [usize; 4] {
    let mut strides = [0; 4];
    for (i, stride) in penjing_tensor::strides(own).into_iter().enumerate() {
        if own[i] != 1 {
            strides[4 - own.len() + i] = stride;
        }
    }
    strides
}
