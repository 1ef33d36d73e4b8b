//! Derivatives against central differences in f64.

use penjing_grad::differentiate;
use penjing_ir::{Fact, IrError, Model, Reduction, Scope, Stage, ValueId, verify};
use penjing_reference::{Precision, run_values};
use penjing_tensor::{DType, Rng, Tensor};
use std::collections::BTreeMap;

/// Half the step of a central difference: its error is about step² and 1e-16/step.
const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 1e-7;

pub(crate) type Built = Result<Vec<ValueId>, IrError>;

/// F64 numbers in lo..hi, a function of the name.
pub(crate) fn random(name: &str, shape: &[usize], lo: f64, hi: f64) -> Tensor {
    let rng = Rng::new(1, name, 0);
    let n: usize = shape.iter().product();
    let values = (0..n as u64).map(|i| lo + (hi - lo) * f64::from(rng.uniform(i))).collect();
    Tensor::from_vec(shape, values).unwrap()
}

/// F64 numbers in −1..1.
pub(crate) fn signed(name: &str, shape: &[usize]) -> Tensor {
    random(name, shape, -1.0, 1.0)
}

pub(crate) fn ints(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::from_vec(shape, values.to_vec()).unwrap()
}

/// Checks the derivative of Σ_j Σ c_j · output_j by every float operand, for fixed random c.
pub(crate) fn check(name: &str, operands: &[Tensor], build: impl Fn(&mut Scope<'_>, &[ValueId]) -> Built) {
    let facts: Vec<Fact> = operands.iter().map(Fact::of).collect();
    check_facts(name, operands, &facts, build);
}

/// As [`check`] with declared facts, which may have symbols.
pub(crate) fn check_facts(
    name: &str,
    operands: &[Tensor],
    facts: &[Fact],
    build: impl Fn(&mut Scope<'_>, &[ValueId]) -> Built,
) {
    let mut model = Model::new(name);
    let mut inputs = BTreeMap::new();
    let mut xs = Vec::new();
    for (i, (t, fact)) in operands.iter().zip(facts).enumerate() {
        xs.push(model.graph.add_input(&format!("x{i}"), fact.clone()));
        inputs.insert(format!("x{i}"), t.clone());
    }
    let outputs = build(&mut Scope::new(&mut model.graph, name), &xs).unwrap_or_else(|e| panic!("{name}: {e}"));
    let outputs: Vec<ValueId> = outputs.into_iter().filter(|&v| model.graph.fact(v).dtype.is_float()).collect();
    let values = run_values(&model, &inputs, &BTreeMap::new(), Precision::Declared, &outputs);
    for (j, t) in values.unwrap_or_else(|e| panic!("{name}: {e}")).iter().enumerate() {
        inputs.insert(format!("c{j}"), random(&format!("c{j}"), t.shape(), 0.5, 1.5));
    }
    let mut terms = Vec::new();
    for (j, &v) in outputs.iter().enumerate() {
        let fact = model.graph.fact(v).clone();
        let c = model.graph.add_input(&format!("c{j}"), fact.clone());
        let mut s = Scope::new(&mut model.graph, "loss");
        let weighted = s.mul(v, c).unwrap();
        terms.push(s.reduce(Reduction::Sum, weighted, &(0..fact.rank()).collect::<Vec<_>>()).unwrap());
    }
    let mut s = Scope::new(&mut model.graph, "loss");
    let loss = terms[1..].iter().fold(terms[0], |a, &b| s.add(a, b).unwrap());
    let forward = model.clone();
    let eval = |inputs: &BTreeMap<String, Tensor>| -> f64 {
        run_values(&forward, inputs, &BTreeMap::new(), Precision::Declared, &[loss]).unwrap()[0].to_f64s()[0]
    };

    let floats: Vec<usize> = (0..operands.len()).filter(|&i| operands[i].dtype().is_float()).collect();
    let wrt: Vec<ValueId> = floats.iter().map(|&i| xs[i]).collect();
    let grads = differentiate(&mut model.graph, loss, &wrt).unwrap_or_else(|e| panic!("{name}: {e}"));
    verify(&model, Stage::Canonical).unwrap_or_else(|e| panic!("{name}: {e}"));
    for (&i, grad) in floats.iter().zip(grads) {
        let exact = match grad {
            Some(g) => {
                assert_eq!(model.graph.fact(g), model.graph.fact(xs[i]), "{name}: gradient of operand {i}");
                let v = run_values(&model, &inputs, &BTreeMap::new(), Precision::Declared, &[g]);
                v.unwrap_or_else(|e| panic!("{name}: {e}"))[0].to_f64s()
            }
            None => vec![0.0; operands[i].len()],
        };
        for (k, exact) in exact.into_iter().enumerate() {
            let at = |delta: f64| {
                let mut moved = inputs.clone();
                let mut values = operands[i].to_f64s();
                values[k] += delta;
                moved.insert(format!("x{i}"), Tensor::from_f64s(DType::F64, operands[i].shape(), values).unwrap());
                eval(&moved)
            };
            let numeric = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let error = (exact - numeric).abs() / numeric.abs().max(1.0);
            assert!(error <= TOLERANCE, "{name}: operand {i}, element {k}: {exact} by rule, {numeric} by differences");
        }
    }
}
