//! Gradients of a model against central differences of its loss, all in f64 through the reference interpreter.

use penjing_ir::Model;
use penjing_reference::{Precision, RefError, run};
use penjing_tensor::{DType, Tensor};
use std::collections::BTreeMap;

/// At most this many elements of one operand are moved, evenly spread.
const SAMPLES: usize = 64;
/// Optimal for central differences is near the cube root of the f64 roundoff (6e-6), for values around 1.
const STEP: f64 = 1e-5;

/// Why gradients cannot be checked or are wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum GradientError {
    #[error(transparent)]
    Run(#[from] RefError),
    #[error("there is no {kind} `{name}`")]
    Unknown { kind: &'static str, name: String },
    #[error("the loss has {elements} elements; it must be one")]
    LossShape { elements: usize },
    #[error("the gradient of `{name}` has shape {have:?}, the operand {want:?}")]
    Shape { name: String, want: Vec<usize>, have: Vec<usize> },
    #[error(
        "d loss / d `{name}`[{index}] is {analytic:e} in the graph, {numeric:e} by central differences (scale {scale:e})"
    )]
    Wrong { name: String, index: usize, analytic: f64, numeric: f64, scale: f64 },
}

/// How well the gradients agreed.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct GradientReport {
    /// Elements compared.
    pub compared: usize,
    /// Largest |analytic − numeric| as a part of the largest gradient of its operand (or of 1e-3, if that is larger).
    pub worst: f64,
}

/// Compares the output named second in each pair of `grads` with the numeric derivative of the output `loss` with respect to
/// the float input or state named first. `inputs` names the graph's inputs; states start from their initial contents.
///
/// # Errors
/// `Wrong` for the first element that is off by more than 1e-6 of its operand's largest gradient.
pub fn gradient_check(
    model: &Model,
    inputs: &BTreeMap<String, Tensor>,
    loss: &str,
    grads: &[(&str, &str)],
) -> Result<GradientReport, GradientError> {
    let unknown = |kind, name: &str| GradientError::Unknown { kind, name: name.into() };
    let at = run(model, inputs, &BTreeMap::new(), Precision::F64)?.outputs;
    let mut report = GradientReport::default();
    // Only the loss matters for the differences; without the gradients each run is cheaper.
    let mut forward = model.clone();
    forward.graph.outputs.retain(|o| o.name == loss);
    forward.carries.clear();
    for &(operand, output) in grads {
        let analytic = at.get(output).ok_or_else(|| unknown("output", output))?;
        let state = model.find_state(operand).map(|id| (*model.state(id).init).clone());
        let is_input = inputs.contains_key(operand);
        let start = inputs.get(operand).cloned().or(state).ok_or_else(|| unknown("input or state", operand))?;
        if analytic.shape() != start.shape() {
            let (want, have) = (start.shape().to_vec(), analytic.shape().to_vec());
            return Err(GradientError::Shape { name: operand.into(), want, have });
        }
        let values = start.to_f64s();
        let analytic = analytic.to_f64s();
        let loss_with = |index: usize, delta: f64| -> Result<f64, GradientError> {
            let mut moved = values.clone();
            moved[index] += delta;
            let moved = Tensor::from_vec(start.shape(), moved).map_err(RefError::from)?;
            let (mut inputs, mut states) = (inputs.clone(), BTreeMap::new());
            (if is_input { &mut inputs } else { &mut states }).insert(operand.to_string(), moved.cast(DType::F64));
            let outputs = run(&forward, &inputs, &states, Precision::F64)?.outputs;
            let out = outputs.get(loss).ok_or_else(|| unknown("output", loss))?.to_f64s();
            match out[..] {
                [v] => Ok(v),
                _ => Err(GradientError::LossShape { elements: out.len() }),
            }
        };
        let scale = analytic.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
        for index in (0..values.len()).step_by(values.len().div_ceil(SAMPLES).max(1)) {
            let step = STEP * values[index].abs().max(1.0);
            let numeric = (loss_with(index, step)? - loss_with(index, -step)?) / (2.0 * step);
            let part = (analytic[index] - numeric).abs() / scale;
            report.compared += 1;
            report.worst = report.worst.max(part);
            if part.is_nan() || part > 1e-6 {
                let (name, analytic) = (operand.into(), analytic[index]);
                return Err(GradientError::Wrong { name, index, analytic, numeric, scale });
            }
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normal;
    use penjing_ir::{Fact, Reduction, Scope, Unary};

    /// loss = Σ tanh(x·w), with a gradient that is right for `slope` 1.
    fn model(slope: f64) -> Model {
        let mut m = Model::new("tanh");
        let x = m.graph.add_input("x", Fact::new(DType::F32, [5]));
        let w = m.add_weight("w", normal(&[5], "w"));
        let mut s = Scope::new(&mut m.graph, "");
        let xw = s.mul(x, w).unwrap();
        let y = s.unary(Unary::Tanh, xw).unwrap();
        let loss = s.reduce(Reduction::Sum, y, &[0]).unwrap();
        let yy = s.mul(y, y).unwrap();
        let one = s.scalar_like(yy, 1.0);
        let slope_at = s.sub(one, yy).unwrap();
        let slope_at = s.scale(slope_at, slope).unwrap();
        let (dx, dw) = (s.mul(slope_at, w).unwrap(), s.mul(slope_at, x).unwrap());
        for (name, v) in [("loss", loss), ("dx", dx), ("dw", dw)] {
            m.graph.add_output(name, v);
        }
        m
    }

    #[test]
    fn right_gradients_pass_and_wrong_ones_do_not() {
        let inputs = BTreeMap::from([("x".to_string(), normal(&[5], "x"))]);
        let grads = [("x", "dx"), ("w", "dw")];
        let report = gradient_check(&model(1.0), &inputs, "loss", &grads).unwrap();
        assert_eq!(report.compared, 10);
        assert!(report.worst < 1e-8);
        let wrong = gradient_check(&model(1.00001), &inputs, "loss", &grads);
        assert!(matches!(wrong, Err(GradientError::Wrong { .. })));
    }
}
