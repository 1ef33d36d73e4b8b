//! Convolutions and pooling.

use super::{
    emitter::{Emitter, Why},
    node::node,
};
use crate::proto::NodeProto;
use penjing_ir::{ConvSpec, Dim, Node, Op, PoolKind};

pub(super) fn emit(e: &mut Emitter<'_>, n: &Node) -> Result<(), Why> {
    let (x, y) = (e.inputs(n), e.outputs(n));
    let kernel = |e: &Emitter<'_>| {
        let w = e.graph.fact(n.inputs[1]);
        w.shape[2..].iter().filter_map(Dim::as_const).collect::<Vec<usize>>()
    };
    let proto = match &n.op {
        Op::Conv(spec) => geometry(node("Conv", &n.name, &x, &y), spec, kernel(e)),
        Op::ConvTranspose { spec, output_pad } => {
            let proto = geometry(node("ConvTranspose", &n.name, &x, &y), spec, kernel(e));
            proto.ints("output_padding", output_pad.iter().copied())
        }
        Op::Pool { kind, spec } => {
            let proto = node(n.op.name(), &n.name, &x, &y)
                .ints("kernel_shape", spec.kernel.iter().copied())
                .ints("strides", spec.strides.iter().copied())
                .ints("pads", pads(&spec.pads))
                .ints("dilations", spec.dilations.iter().copied())
                .int("ceil_mode", spec.ceil.into());
            match kind {
                PoolKind::Max => proto,
                PoolKind::Average { count_include_pad } => proto.int("count_include_pad", (*count_include_pad).into()),
            }
        }
        other => return Err(format!("{} is no convolution", other.name())),
    };
    e.push(proto);
    Ok(())
}

fn geometry(proto: NodeProto, spec: &ConvSpec, kernel: Vec<usize>) -> NodeProto {
    proto
        .ints("kernel_shape", kernel)
        .ints("strides", spec.strides.iter().copied())
        .ints("pads", pads(&spec.pads))
        .ints("dilations", spec.dilations.iter().copied())
        .int("group", spec.groups as i64)
}

/// All befores, then all afters.
fn pads(pads: &[(usize, usize)]) -> Vec<usize> {
    pads.iter().map(|p| p.0).chain(pads.iter().map(|p| p.1)).collect()
}
