//! From an inference model to a model whose run is one training step.

use crate::{
    GradError, OptimizerConfig, UpdateOptions, append_updates, count_correct, cross_entropy, differentiate, mse, names,
    sum_all,
};
use penjing_ir::{Fact, Model, Scope, StateId, ValueId};
use penjing_rewrite::for_training;
use penjing_tensor::DType;
use serde::{Deserialize, Serialize};

/// What training minimises.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LossConfig {
    /// Softmax cross-entropy of logits [.., C] and `label` I64 [..].
    CrossEntropy {
        /// Share of the target that is spread over all classes.
        #[serde(default)]
        smoothing: f64,
        /// Positions with this label do not count.
        #[serde(default)]
        ignore: Option<i64>,
    },
    /// Mean squared error of the output and `label`, of the same fact.
    Mse,
}

impl Default for LossConfig {
    fn default() -> LossConfig {
        LossConfig::CrossEntropy { smoothing: 0.0, ignore: None }
    }
}

/// The loss nodes of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// F32 []: what is differentiated.
    pub value: ValueId,
    /// The input `inverse_count`.
    pub inverse_count: ValueId,
}

/// The model in its training form ([`penjing_rewrite::for_training`]) with loss, gradients and optimizer.
///
/// `output` names the logits; the first output when absent. A run takes the model's inputs, `label`, `inverse_count`,
/// `learning_rate` and, where the optimizer counts, `step`; it gives the model's outputs, `loss`, for classes `correct`, with
/// clipping `grad_norm`, and leaves the new weights in the states.
pub fn training_graph(
    model: &Model,
    output: Option<&str>,
    loss: &LossConfig,
    optimizer: &OptimizerConfig,
    options: &UpdateOptions,
) -> Result<Model, GradError> {
    let mut model = for_training(model)?;
    let loss = append_loss(&mut model, output, loss)?;
    let grads = append_gradients(&mut model, loss.value)?;
    append_updates(&mut model, &grads, optimizer, options)?;
    model.compact();
    Ok(model)
}

/// Adds the inputs `label` and `inverse_count`, the output `loss` = Σ per-example loss · inverse_count, and for classes the output
/// `correct`.
pub fn append_loss(model: &mut Model, output: Option<&str>, loss: &LossConfig) -> Result<Loss, GradError> {
    let y = find_output(model, output)?;
    let fact = model.graph.fact(y).clone();
    let label_fact = match loss {
        LossConfig::CrossEntropy { .. } => {
            Fact { dtype: DType::I64, shape: fact.shape[..fact.rank().saturating_sub(1)].to_vec() }
        }
        LossConfig::Mse => fact,
    };
    let label = names::new_input(model, names::LABEL, label_fact)?;
    let inverse_count = names::new_input(model, names::INVERSE_COUNT, Fact::scalar(DType::F32))?;
    let mut s = Scope::new(&mut model.graph, "loss");
    let losses = match *loss {
        LossConfig::CrossEntropy { smoothing, ignore } => cross_entropy(&mut s, y, label, smoothing, ignore)?,
        LossConfig::Mse => mse(&mut s, y, label)?,
    };
    let sum = sum_all(&mut s, losses)?;
    let sum = s.cast(sum, DType::F32)?;
    let value = s.mul(sum, inverse_count)?;
    let correct = match *loss {
        LossConfig::CrossEntropy { ignore, .. } => Some(count_correct(&mut s, y, label, ignore)?),
        LossConfig::Mse => None,
    };
    names::output(model, names::LOSS, value)?;
    if let Some(correct) = correct {
        names::output(model, names::CORRECT, correct)?;
    }
    Ok(Loss { value, inverse_count })
}

/// The gradient of every trainable weight that the loss depends on, in the order of the states. Sum them over ranks, if there are
/// several, before [`append_updates`]. Errors when there is none.
pub fn append_gradients(model: &mut Model, loss: ValueId) -> Result<Vec<(StateId, ValueId)>, GradError> {
    let weights = model.trainable();
    let values: Vec<ValueId> = weights.iter().map(|&w| model.state_value(w)).collect();
    let grads = differentiate(&mut model.graph, loss, &values)?;
    let grads: Vec<(StateId, ValueId)> = weights.into_iter().zip(grads).filter_map(|(w, g)| Some((w, g?))).collect();
    if grads.is_empty() { Err(GradError::NothingToTrain) } else { Ok(grads) }
}

fn find_output(model: &Model, name: Option<&str>) -> Result<ValueId, GradError> {
    let found = match name {
        Some(name) => model.graph.output(name),
        None => model.graph.outputs.first().map(|o| o.value),
    };
    found.ok_or_else(|| GradError::NoOutput {
        name: name.unwrap_or("").into(),
        have: model.graph.outputs.iter().map(|o| o.name.clone()).collect(),
    })
}
