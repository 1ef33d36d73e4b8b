//! Helpers of the rewrite tests: models from formulas, and equality of what two models compute.
#![allow(dead_code, clippy::unwrap_used)]

use penjing_ir::{Dim, Fact, IrError, Model, Op, Scope, ValueId};
use penjing_reference::{Precision, RunResult, run};
use penjing_tensor::{DType, Rng, Tensor};
use std::collections::BTreeMap;

/// A model of one formula over F32 inputs named `x0`, `x1`, …; the result is the output `y`.
pub(crate) fn formula(
    inputs: &[&[usize]],
    build: impl FnOnce(&mut Scope<'_>, &[ValueId]) -> Result<ValueId, IrError>,
) -> Model {
    let mut model = Model::new("formula");
    let ids: Vec<ValueId> = inputs
        .iter()
        .enumerate()
        .map(|(i, shape)| model.graph.add_input(&format!("x{i}"), Fact::new(DType::F32, shape.iter().copied())))
        .collect();
    let y = build(&mut Scope::new(&mut model.graph, ""), &ids).unwrap();
    model.graph.add_output("y", y);
    model
}

pub(crate) fn normal(name: &str, shape: &[usize]) -> Tensor {
    let rng = Rng::new(7, name, 0);
    let n = shape.iter().product::<usize>();
    Tensor::from_vec(shape, (0..n as u64).map(|i| rng.normal(i)).collect()).unwrap()
}

/// Positive numbers, for variances.
pub(crate) fn positive(name: &str, shape: &[usize]) -> Tensor {
    let values = normal(name, shape).to_f64s().into_iter().map(|v| v * v + 0.1).collect();
    Tensor::from_f64s(DType::F32, shape, values).unwrap()
}

pub(crate) fn inputs(model: &Model) -> BTreeMap<String, Tensor> {
    let g = &model.graph;
    g.inputs
        .iter()
        .map(|&v| {
            let shape: Vec<usize> = g.fact(v).shape.iter().map(|d| d.as_const().unwrap_or(3)).collect();
            let name = g.value(v).name.clone();
            let t = normal(&name, &shape);
            let t = match g.fact(v).dtype {
                DType::Bool => {
                    Tensor::from_bools(&shape, &t.to_f64s().iter().map(|&v| v > 0.0).collect::<Vec<_>>()).unwrap()
                }
                dtype => t.cast(dtype),
            };
            (name, t)
        })
        .collect()
}

pub(crate) fn evaluate(model: &Model) -> RunResult {
    run(model, &inputs(model), &BTreeMap::new(), Precision::Declared).unwrap()
}

/// Both models give the same outputs and carries on random inputs, to an absolute 1e-5 (values are of order 1).
pub(crate) fn assert_same(before: &Model, after: &Model) {
    let (a, b) = (evaluate(before), evaluate(after));
    assert_eq!(a.outputs.keys().collect::<Vec<_>>(), b.outputs.keys().collect::<Vec<_>>());
    let pairs = a.outputs.iter().zip(&b.outputs).chain(a.states.iter().zip(&b.states));
    for ((name, x), (_, y)) in pairs {
        assert_eq!((x.dtype(), x.shape()), (y.dtype(), y.shape()), "{name}");
        for (i, (u, v)) in x.to_f64s().into_iter().zip(y.to_f64s()).enumerate() {
            assert!((u - v).abs() <= 1e-5 || u == v || (u.is_nan() && v.is_nan()), "{name}[{i}]: {u} became {v}");
        }
    }
}

/// Names of the ops that the outputs need, in order.
pub(crate) fn ops(model: &Model) -> Vec<&'static str> {
    let order = model.topological_order().unwrap();
    order.into_iter().map(|id| model.graph.node(id).op.name()).collect()
}

/// The one op of a model that has been reduced to it.
pub(crate) fn only_op(model: &Model) -> Op {
    let order = model.topological_order().unwrap();
    assert_eq!(order.len(), 1, "{:?}", ops(model));
    model.graph.node(order[0]).op.clone()
}

pub(crate) fn constant(s: &mut Scope<'_>, name: &str, shape: &[usize]) -> ValueId {
    s.graph.add_named_const(name, normal(name, shape))
}

pub(crate) fn dims(shape: &[usize]) -> Vec<Dim> {
    shape.iter().map(|&n| Dim::Const(n)).collect()
}
