//! Ops that move elements.

use super::{
    emitter::{Emitter, Why},
    node::node,
};
use penjing_ir::{Dim, Node, Op, PadMode, SliceRange};

pub(super) fn emit(e: &mut Emitter<'_>, n: &Node) -> Result<(), Why> {
    let (mut x, y) = (e.inputs(n), e.outputs(n));
    let proto = match &n.op {
        Op::Permute { perm } => node("Transpose", &n.name, &x, &y).ints("perm", perm.iter().copied()),
        Op::Reshape { shape } => {
            let from = e.graph.fact(n.inputs[0]).shape.clone();
            let (target, keep_zero) = e.reshape_target(n, &from, shape)?;
            x.push(target);
            let proto = node("Reshape", &n.name, &x, &y);
            if keep_zero { proto.int("allowzero", 1) } else { proto }
        }
        Op::Expand { shape } => {
            x.push(e.dim_vector(n, "shape", shape)?);
            node("Expand", &n.name, &x, &y)
        }
        Op::Slice { ranges } => {
            let from = e.graph.fact(n.inputs[0]).shape.clone();
            x.extend(slice_operands(e, n, &from, ranges)?);
            node("Slice", &n.name, &x, &y)
        }
        Op::Concat { axis } => node("Concat", &n.name, &x, &y).int("axis", *axis as i64),
        Op::Pad { before, after, mode } => {
            let pads: Vec<i64> = before.iter().chain(after).map(|&p| p as i64).collect();
            x.push(e.ints(&format!("{}/pads", n.name), &pads));
            let name = match mode {
                PadMode::Constant(value) => {
                    x.push(e.scalar_like(n, n.inputs[0], value.0));
                    "constant"
                }
                PadMode::Reflect => "reflect",
                PadMode::Edge => "edge",
                PadMode::Wrap => "wrap",
            };
            node("Pad", &n.name, &x, &y).string("mode", name)
        }
        other => return Err(format!("{} moves no elements", other.name())),
    };
    e.push(proto);
    Ok(())
}

/// Starts, ends, axes and steps of the axes that are not taken whole.
fn slice_operands(e: &mut Emitter<'_>, n: &Node, from: &[Dim], ranges: &[SliceRange]) -> Result<[String; 4], Why> {
    let cut: Vec<usize> = (0..ranges.len()).filter(|&i| ranges[i] != SliceRange::full(&from[i])).collect();
    // An end before the first element; −1 would be the last one.
    let before_all = Dim::int(i64::from(i32::MIN));
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    for &i in &cut {
        let r = &ranges[i];
        let end = r.start.clone() + r.len.clone() * Dim::int(r.step);
        let past = r.step < 0 && end.as_int().is_none_or(|v| v < 0);
        if past && end.as_int().is_none() && r.start != r.len.clone() - Dim::Const(1) {
            return Err("a backward slice of symbolic extent".into());
        }
        starts.push(if r.len.is(0) { Dim::Const(0) } else { r.start.clone() });
        ends.push(match (r.len.is(0), past) {
            (true, _) => Dim::Const(0),
            (false, true) => before_all.clone(),
            (false, false) => end,
        });
    }
    let axes: Vec<i64> = cut.iter().map(|&i| i as i64).collect();
    let steps: Vec<i64> = cut.iter().map(|&i| ranges[i].step).collect();
    Ok([
        e.dim_vector(n, "starts", &starts)?,
        e.dim_vector(n, "ends", &ends)?,
        e.ints(&format!("{}/axes", n.name), &axes),
        e.ints(&format!("{}/steps", n.name), &steps),
    ])
}
