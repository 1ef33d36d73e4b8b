//! What a model consists of: its layers with shapes, parameters, work, bits and sparsity, read off the graph.

use anyhow::Result;
use penjing_ir::{Binary, Bindings, Fact, Model, NodeId, Op, Role, Source, StateId, ValueId, cost};
use penjing_report::LayerRecord;
use penjing_tensor::Tensor;
use serde::Serialize;
use std::collections::BTreeSet;

/// A model in numbers.
#[derive(Serialize)]
pub(crate) struct Summary {
    /// Elements of weights; a weight that several layers share counts once.
    pub(crate) params: u64,
    /// Those that are not zero, masks applied.
    pub(crate) nonzero: u64,
    /// Multiply-accumulates of one run; `None` while an extent is free.
    pub(crate) macs: Option<u64>,
    /// Size of the file.
    pub(crate) size_bytes: u64,
    /// Every node that depends on an input, in order.
    pub(crate) layers: Vec<Layer>,
}

/// One node and the weights it reads.
#[derive(Serialize)]
pub(crate) struct Layer {
    pub(crate) name: String,
    pub(crate) op: &'static str,
    /// Of its first result: numbers, or the names of free extents.
    pub(crate) shape: Vec<serde_json::Value>,
    pub(crate) params: u64,
    pub(crate) macs: Option<u64>,
    /// Bits that an element of its largest weight is stored in.
    pub(crate) bits: Option<usize>,
    /// Share of its largest weight that is zero.
    pub(crate) sparsity: Option<f64>,
    /// Whether training updates one of its weights.
    pub(crate) trains: bool,
}

/// Summarizes the model with `bindings` for its symbols.
pub(crate) fn summarize(model: &Model, bindings: &Bindings, size_bytes: u64) -> Result<Summary> {
    let model = model.bind(bindings)?;
    let depends = depends_on_input(&model)?;
    let mut seen = BTreeSet::new();
    let mut summary = Summary { params: 0, nonzero: 0, macs: Some(0), size_bytes, layers: Vec::new() };
    for id in model.topological_order()? {
        let node = model.graph.node(id);
        if !node.outputs.iter().any(|v| depends[v.index()]) {
            continue;
        }
        let mut found = Vec::new();
        node.inputs.iter().filter(|v| !depends[v.index()]).for_each(|&v| parameters(&model, v, None, &mut found));
        for p in &found {
            if seen.insert(p.key) {
                summary.params += p.tensor.len() as u64;
                summary.nonzero += (p.tensor.len() - p.zeros()) as u64;
            }
        }
        let macs = node_macs(&model, id);
        summary.macs = summary.macs.zip(macs).map(|(sum, n)| sum + n);
        let largest = found.iter().max_by_key(|p| p.tensor.len());
        summary.layers.push(Layer {
            name: node.name.clone(),
            op: node.op.name(),
            shape: node.outputs.first().map(|&v| shape(model.graph.fact(v))).unwrap_or_default(),
            params: found.iter().map(|p| p.tensor.len() as u64).sum(),
            macs,
            bits: largest.map(|p| p.tensor.dtype().bits()),
            sparsity: largest.filter(|p| !p.tensor.is_empty()).map(|p| p.zeros() as f64 / p.tensor.len() as f64),
            trains: found.iter().any(|p| p.trains),
        });
    }
    Ok(summary)
}

impl Summary {
    /// The layers that have parameters, as records keep them.
    pub(crate) fn records(&self) -> Vec<LayerRecord> {
        let record = |l: &Layer| LayerRecord {
            name: l.name.clone(),
            op: l.op.into(),
            params: Some(l.params),
            sparsity: l.sparsity,
            bits: l.bits.map(|b| b as f64),
            macs: l.macs,
        };
        self.layers.iter().filter(|l| l.params > 0).map(record).collect()
    }
}

/// What makes two readers of a parameter readers of the same one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    State(StateId),
    Const(ValueId),
}

struct Parameter<'a> {
    key: Key,
    tensor: &'a Tensor,
    mask: Option<&'a Tensor>,
    /// Zero points and the axis that they lie along.
    grid: Option<(&'a Tensor, Option<usize>)>,
    trains: bool,
}

impl Parameter<'_> {
    /// Elements that stand for exactly 0.
    fn zeros(&self) -> usize {
        let values = self.tensor.to_f64s();
        if let Some(mask) = self.mask.filter(|m| m.len() == values.len()) {
            return values.iter().zip(mask.to_f64s()).filter(|(v, m)| **v == 0.0 || *m == 0.0).count();
        }
        let points = self.grid.map(|(z, _)| z.to_f64s()).unwrap_or_default();
        let axis = self.grid.and_then(|(_, axis)| axis);
        // Elements with the same index along the axis stand in runs of `inner`.
        let inner: usize = axis.map_or(1, |a| self.tensor.shape().iter().skip(a + 1).product());
        let zero_of = |i: usize| match points.len() {
            0 => 0.0,
            1 => points[0],
            n => points[i / inner.max(1) % n],
        };
        values.iter().enumerate().filter(|(i, v)| **v == zero_of(*i)).count()
    }
}

/// The parameters that `value` is made of, through masks, grids and ops that move elements.
fn parameters<'a>(
    model: &'a Model,
    value: ValueId,
    grid: Option<(&'a Tensor, Option<usize>)>,
    found: &mut Vec<Parameter<'a>>,
) {
    match &model.graph.value(value).source {
        Source::State(id) if model.state(*id).role == Role::Weight => {
            let state = model.state(*id);
            found.push(Parameter {
                key: Key::State(*id),
                tensor: &state.init,
                mask: None,
                grid,
                trains: state.trainable,
            });
        }
        Source::Const(tensor) if grid.is_some() => {
            found.push(Parameter { key: Key::Const(value), tensor, mask: None, grid, trains: false });
        }
        Source::Node(id, _) => {
            let node = model.graph.node(*id);
            match &node.op {
                Op::Dequantize(scheme) => {
                    let zero = constant(model, node.inputs[2]);
                    parameters(model, node.inputs[0], zero.map(|z| (z, scheme.axis)), found);
                }
                Op::FakeQuant(_) | Op::Reshape { .. } | Op::Permute { .. } | Op::Cast(_) => {
                    parameters(model, node.inputs[0], grid, found);
                }
                Op::Binary(Binary::Mul) => {
                    let Some(mask) = mask(model, node.inputs[1]) else { return };
                    let from = found.len();
                    parameters(model, node.inputs[0], grid, found);
                    found[from..].iter_mut().for_each(|p| p.mask = Some(mask));
                }
                _ => {}
            }
        }
        Source::State(_) | Source::Const(_) | Source::Input => {}
    }
}

fn constant(model: &Model, value: ValueId) -> Option<&Tensor> {
    match &model.graph.value(value).source {
        Source::Const(t) => Some(t),
        Source::State(s) => Some(&model.state(*s).init),
        _ => None,
    }
}

fn mask(model: &Model, value: ValueId) -> Option<&Tensor> {
    let state = model.state(model.state_of(value)?);
    (state.role == Role::Mask).then_some(&*state.init)
}

/// For each value, whether an input has a say in it.
fn depends_on_input(model: &Model) -> Result<Vec<bool>> {
    let is_input = |v: ValueId| model.graph.value(v).source == Source::Input;
    let mut depends: Vec<bool> = model.graph.value_ids().map(is_input).collect();
    for id in model.topological_order()? {
        let node = model.graph.node(id);
        let any = node.inputs.iter().any(|v| depends[v.index()]);
        node.outputs.iter().for_each(|v| depends[v.index()] = any);
    }
    Ok(depends)
}

fn node_macs(model: &Model, id: NodeId) -> Option<u64> {
    let node = model.graph.node(id);
    let facts = |vs: &[ValueId]| -> Vec<Fact> { vs.iter().map(|&v| model.graph.fact(v).clone()).collect() };
    cost(&node.op, &facts(&node.inputs), &facts(&node.outputs)).map(|c| c.macs)
}

fn shape(fact: &Fact) -> Vec<serde_json::Value> {
    let dim = |d: &penjing_ir::Dim| d.as_const().map_or_else(|| d.to_string().into(), Into::into);
    fact.shape.iter().map(dim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use penjing_compress::prune::{PruneConfig, Scope, bake_masks, prune};
    use penjing_ir::Symbol;
    use penjing_train::zoo;

    /// Counts that hold for the same network in any framework.
    #[test]
    fn simple_cnn_has_the_known_numbers() {
        let model = zoo::new("simple-cnn", zoo::Size::default(), 0).unwrap();
        let one = Bindings::from([(Symbol::new("N"), 1)]);
        let s = summarize(&model, &one, 0).unwrap();
        assert_eq!(s.params, 896 + 18_496 + 295_040 + 1_290);
        assert_eq!(s.macs, Some(32 * 27 * 576 + 64 * 288 * 144 + 2304 * 128 + 1280));
        let conv = s.layers.iter().find(|l| l.op == "Conv").unwrap();
        assert_eq!((conv.params, conv.bits, conv.trains), (896, Some(32), true));
        assert_eq!(conv.shape, [1, 32, 24, 24].map(serde_json::Value::from));
        assert_eq!(summarize(&model, &Bindings::new(), 0).unwrap().macs, None);
    }

    #[test]
    fn masked_and_baked_weights_count_the_same() {
        let mut model = zoo::new("simple-cnn", zoo::Size::default(), 0).unwrap();
        prune(&mut model, &PruneConfig { sparsity: 0.5, scope: Scope::Layer }).unwrap();
        let baked = bake_masks(&model).unwrap();
        let [a, b] = [&model, &baked].map(|m| summarize(m, &Bindings::new(), 0).unwrap());
        assert_eq!((a.params, a.nonzero), (b.params, b.nonzero));
        let conv = |s: &Summary| s.layers.iter().find(|l| l.op == "Conv").unwrap().sparsity;
        assert_eq!((conv(&a), conv(&b)), (Some(0.5), Some(0.5)));
    }
}
