//! Lowering by fusion: Canonical ops with what follows them become Machine ops.
//!
//! Each rule reads the graph, adds the fused node and redirects the readers of the last fused value; dead nodes fall away at the
//! end. A value that somebody else reads is never fused away.

mod attention;
mod chain;
mod layout;
mod product;
mod quant;
mod sink;

use penjing_ir::{Activation, Binary, IrError, Model, NodeId, Op, Real, ValueId};

/// Fuses a bound Canonical model into a Machine one, in an order that leaves each rule its pattern.
pub fn fuse(model: &Model) -> Result<Model, IrError> {
    let mut m = model.clone();
    m.compact();
    sink::sink_dequantize(&mut m)?;
    m.compact();
    sink::sink_quantize(&mut m)?;
    m.compact();
    quant::fuse_quantized_products(&mut m)?;
    // Weights of integer products are not read as floats any more.
    m.compact();
    quant::fold_dequantized_constants(&mut m);
    m.compact();
    attention::fuse_attention(&mut m)?;
    m.compact();
    product::regroup_rows(&mut m)?;
    m.compact();
    product::fuse_products(&mut m)?;
    m.compact();
    layout::channels_last(&mut m)?;
    m.compact();
    chain::fuse_chains(&mut m)?;
    m.compact();
    quant::fuse_quantized_chains(&mut m)?;
    m.compact();
    Ok(m)
}

/// Who reads each value, graph outputs and carries included.
struct Readers {
    nodes: Vec<Vec<NodeId>>,
    roots: Vec<usize>,
}

impl Readers {
    fn of(model: &Model) -> Readers {
        let mut roots = vec![0; model.graph.values().len()];
        model.roots().iter().for_each(|v| roots[v.index()] += 1);
        let nodes = model.graph.uses().into_iter().map(|u| u.into_iter().map(|(n, _)| n).collect()).collect();
        Readers { nodes, roots }
    }

    /// The node that reads `v`, when it is the only reader and reads it once.
    fn only(&self, v: ValueId) -> Option<NodeId> {
        match (self.nodes.get(v.index())?.as_slice(), self.roots[v.index()]) {
            ([one], 0) => Some(*one),
            _ => None,
        }
    }
}

/// The activation that is the only reader of `v`, and its result: one unary function, or `Min` of `Max` with scalar constants.
fn only_activation(model: &Model, readers: &Readers, v: ValueId) -> Option<(Activation, ValueId)> {
    let node = model.graph.node(readers.only(v)?);
    match node.op {
        Op::Unary(f) => Some((Activation::of(f)?, node.outputs[0])),
        Op::Binary(Binary::Max) => {
            let lo = Real(limit(model, &node.inputs, v)?);
            let floor = node.outputs[0];
            let node = model.graph.node(readers.only(floor)?);
            let hi = Real((node.op == Op::Binary(Binary::Min)).then(|| limit(model, &node.inputs, floor))??);
            Some((Activation::Clamp { lo, hi }, node.outputs[0]))
        }
        _ => None,
    }
}

/// The scalar constant that `v` is compared with.
fn limit(model: &Model, operands: &[ValueId], v: ValueId) -> Option<f64> {
    let other = operands.iter().copied().find(|&o| o != v)?;
    let tensor = model.graph.as_const(other)?;
    (tensor.len() == 1 && tensor.rank() == 0).then(|| tensor.to_f64s()[0])
}
