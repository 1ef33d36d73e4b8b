//! Finding where a NaN or an infinity first came from.

use penjing_ir::{Graph, IrError, Model, Source, ValueId};
use penjing_tensor::Tensor;

/// The first value of a run that is not finite although everything it was computed from is.
#[derive(Clone, Debug, PartialEq)]
pub struct NonFinite {
    /// The node that made it; an input, a state or a constant is named as such.
    pub place: String,
    /// The op of the node; empty for inputs and states.
    pub op: &'static str,
    /// Index of the first bad element, row-major.
    pub element: usize,
    /// NaN or an infinity.
    pub value: f64,
}

impl std::fmt::Display for NonFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let op = if self.op.is_empty() { String::new() } else { format!(" ({})", self.op) };
        write!(f, "{}{op} first gives {} (element {})", self.place, self.value, self.element)
    }
}

/// Walks the model's inputs, states and nodes in topological order and names the first with a value that is not finite.
///
/// `evaluate` returns a value of the failing run, e.g. by the reference interpreter. Infinities that come in as constants (the
/// −∞ of an attention mask), and what is computed from them, are not reported. `None` when all is finite.
pub fn first_non_finite<E: From<IrError>>(
    model: &Model,
    mut evaluate: impl FnMut(ValueId) -> Result<Tensor, E>,
) -> Result<Option<NonFinite>, E> {
    let graph = &model.graph;
    let mut tainted = vec![false; graph.values().len()];
    for v in graph.value_ids() {
        match graph.value(v).source {
            Source::Const(ref t) => tainted[v.index()] = bad_element(t).is_some(),
            Source::Input | Source::State(_) if graph.fact(v).dtype.is_float() => {
                if let Some((element, value)) = bad_element(&evaluate(v)?) {
                    return Ok(Some(NonFinite { place: source_name(graph, v), op: "", element, value }));
                }
            }
            _ => {}
        }
    }
    for id in model.topological_order()? {
        let node = graph.node(id);
        let excused = node.inputs.iter().any(|v| tainted[v.index()]);
        for &v in node.outputs.iter().filter(|v| graph.fact(**v).dtype.is_float()) {
            if let Some((element, value)) = bad_element(&evaluate(v)?) {
                if !excused || value.is_nan() {
                    return Ok(Some(NonFinite {
                        place: format!("node `{}`", node.name),
                        op: node.op.name(),
                        element,
                        value,
                    }));
                }
                tainted[v.index()] = true;
            }
        }
    }
    Ok(None)
}

fn bad_element(t: &Tensor) -> Option<(usize, f64)> {
    if !t.dtype().is_float() {
        return None;
    }
    t.to_f64s().into_iter().enumerate().find(|(_, v)| !v.is_finite())
}

fn source_name(graph: &Graph, v: ValueId) -> String {
    let kind = if graph.value(v).source == Source::Input { "input" } else { "state" };
    format!("{kind} `{}`", graph.value(v).name)
}
