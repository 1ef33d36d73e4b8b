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
mod table;

use penjing_ir::{Activation, Binary, IrError, Model, NodeId, Op, Real, ValueId};

/// Fuses a bound Canonical model into a Machine one, in an order that leaves each rule its pattern.
pub fn fuse(model: &Model) -> Result<Model, IrError> {
    let mut m = model.clone();
    m.compact();
    table::gather_integers(&mut m)?;
    product::regroup_rows(&mut m)?;
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
    product::fuse_products(&mut m)?;
    m.compact();
    layout::channels_last(&mut m)?;
    m.compact();
    chain::fuse_chains(&mut m)?;
    m.compact();
    quant::fuse_quantized_chains(&mut m)?;
    quant::fuse_quantized_means(&mut m)?;
    m.compact();
    Ok(m)
}

/// Who reads each value, graph outputs and carries included.
struct Readers {
    /// The readers of one value after those of another.
    nodes: Vec<NodeId>,
    /// Where those of each value begin, and where the last end.
    starts: Vec<usize>,
    roots: Vec<usize>,
}

impl Readers {
    fn of(model: &Model) -> Readers {
        let mut roots = vec![0; model.graph.values().len()];
        model.roots().iter().for_each(|v| roots[v.index()] += 1);
        let reads =
            || model.graph.node_ids().flat_map(|n| model.graph.node(n).inputs.iter().map(move |v| (v.index(), n)));
        let mut starts = vec![0; roots.len() + 1];
        reads().for_each(|(v, _)| starts[v + 1] += 1);
        (0..roots.len()).for_each(|v| starts[v + 1] += starts[v]);
        let mut nodes = vec![NodeId(0); starts[roots.len()]];
        let mut next = starts.clone();
        for (v, reader) in reads() {
            nodes[next[v]] = reader;
            next[v] += 1;
        }
        Readers { nodes, starts, roots }
    }

    /// The nodes that read `v`, once for each operand; none for values that are newer than this.
    fn nodes(&self, v: ValueId) -> &[NodeId] {
        match (self.starts.get(v.index()), self.starts.get(v.index() + 1)) {
            (Some(&start), Some(&end)) => &self.nodes[start..end],
            _ => &[],
        }
    }

    /// The node that reads `v`, when it is the only reader and reads it once.
    fn only(&self, v: ValueId) -> Option<NodeId> {
        match (self.nodes(v), self.roots.get(v.index())) {
            ([one], Some(0)) => Some(*one),
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
