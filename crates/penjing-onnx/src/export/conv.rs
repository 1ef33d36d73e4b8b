//! Convolutions and pooling.

use super::{
    emitter::{Emitter, Why},
    node::node,
};
use crate::proto::NodeProto;
use penjing_ir::{ConvSpec, Dim, Node, Op, PoolKind, PoolSpec, pool_extent};
use penjing_tensor::DType;

pub(super) fn emit(e: &mut Emitter<'_>, n: &Node) -> Result<(), Why> {
    let (x, y) = (e.inputs(n), e.outputs(n));
    let kernel = |e: &Emitter<'_>| {
        let w = e.graph.fact(n.inputs[1]);
        w.shape[2..].iter().filter_map(Dim::as_const).collect::<Vec<usize>>()
    };
    let dtype = e.graph.fact(n.inputs[0]).dtype;
    let bytes = matches!(n.op, Op::Pool { kind: PoolKind::Max, .. }) && matches!(dtype, DType::I8 | DType::U8);
    if !dtype.is_float() && !bytes {
        return Err(format!("ONNX has this operator for floats only, not for {dtype}"));
    }
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
                .int("ceil_mode", rounds_up(e, n, spec).into());
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

/// Whether rounding up changes any extent. Where the last window would start in the padding, it is dropped, and readers of
/// older operator sets count it all the same: those poolings are written as rounding down, which gives the same windows.
fn rounds_up(e: &Emitter<'_>, n: &Node, spec: &PoolSpec) -> bool {
    let (x, y) = (e.graph.fact(n.inputs[0]), e.graph.fact(n.outputs[0]));
    let floor = PoolSpec { ceil: false, ..spec.clone() };
    spec.ceil && (0..spec.kernel.len()).any(|i| pool_extent(&x.shape[i + 2], &floor, i) != y.shape[i + 2])
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
