//! Optimizers as graph fragments: new weights, new optimizer states and the carries that store them.
//!
//! The learning rate and the step are inputs of the graph. Optimizer memory is states of [`Role::Optimizer`] named after their
//! weight, so that checkpoints and sharding see them like any other state.

mod accumulate;
mod adamw;
mod clip;
mod ema;
mod sgd;

pub use accumulate::{append_accumulation, take_accumulated};
pub use adamw::AdamW;
pub use clip::{clip_by_global_norm, global_norm};
pub use sgd::Sgd;

use crate::{GradError, names};
use penjing_ir::{Carry, Fact, Model, Role, Scope, StateId, ValueId};
use penjing_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// Which optimizer, with its constants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum OptimizerConfig {
    /// Stochastic gradient descent with momentum.
    Sgd(Sgd),
    /// Adam with decoupled weight decay.
    AdamW(AdamW),
}

/// Which weights decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecayScope {
    /// Every trainable weight, as PyTorch does without parameter groups.
    #[default]
    All,
    /// Weights of two or more axes: no biases, no scales of normalisations.
    Matrices,
}

/// What happens to gradients and weights around the optimizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateOptions {
    /// Scale all gradients down to this global L2 norm; the norm before is the output `grad_norm`.
    pub clip_norm: Option<f64>,
    /// Keep the moving average `<weight>.ema` ← d·ema + (1 − d)·weight of every trained weight.
    pub ema_decay: Option<f64>,
}

/// Appends the optimizer: for each (weight, gradient) the new weight and its optimizer states, with their carries.
///
/// Adds the inputs `learning_rate` (F32 []) and, where the optimizer counts, `step` (I64 [], updates done before this one)
/// unless the model has them. Each state must not be carried yet.
pub fn append_updates(
    model: &mut Model,
    grads: &[(StateId, ValueId)],
    optimizer: &OptimizerConfig,
    options: &UpdateOptions,
) -> Result<(), GradError> {
    optimizer.check()?;
    let learning_rate = names::input(model, names::LEARNING_RATE, Fact::scalar(DType::F32))?;
    let grads = match options.clip_norm {
        Some(limit) => clip::clip(model, grads, limit)?,
        None => grads.to_vec(),
    };
    let mut updated = Vec::new();
    match optimizer {
        OptimizerConfig::Sgd(config) => {
            for &(weight, grad) in &grads {
                updated.push((weight, sgd::update(model, config, weight, grad, learning_rate)?));
            }
        }
        OptimizerConfig::AdamW(config) => {
            let step = names::input(model, names::STEP, Fact::scalar(DType::I64))?;
            let shared = adamw::shared(model, config, learning_rate, step)?;
            for &(weight, grad) in &grads {
                updated.push((weight, adamw::update(model, config, &shared, weight, grad)?));
            }
        }
    }
    model.carries.extend(updated.iter().map(|&(state, value)| Carry { value, state }));
    match options.ema_decay {
        Some(decay) => ema::append(model, &updated, decay),
        None => Ok(()),
    }
}

impl OptimizerConfig {
    /// The rate that a schedule starts from or rises to.
    pub fn learning_rate(&self) -> f64 {
        match self {
            OptimizerConfig::Sgd(c) => c.lr,
            OptimizerConfig::AdamW(c) => c.lr,
        }
    }

    /// Errors when a number is out of its range.
    pub fn check(&self) -> Result<(), GradError> {
        match self {
            OptimizerConfig::Sgd(c) => c.check(),
            OptimizerConfig::AdamW(c) => c.check(),
        }
    }
}

impl DecayScope {
    fn covers(self, rank: usize) -> bool {
        self == DecayScope::All || rank >= 2
    }
}

/// A zero-filled optimizer state `<weight>.<what>`; the value that reads it and its id.
fn memory(model: &mut Model, weight: StateId, what: &str) -> (StateId, ValueId) {
    let init = &model.state(weight).init;
    let zeros = Tensor::zeros(init.dtype(), init.shape()).expect("as large as a tensor that exists");
    state(model, weight, what, zeros)
}

/// An optimizer state `<weight>.<what>`.
fn state(model: &mut Model, weight: StateId, what: &str, init: Tensor) -> (StateId, ValueId) {
    let name = format!("{}.{what}", model.state(weight).name);
    let value = model.add_state(&name, Role::Optimizer, false, init);
    (model.state_of(value).expect("the value of a state that was just added"), value)
}

/// The scope in which a weight's update is written.
fn scope<'a>(model: &'a mut Model, weight: StateId) -> Scope<'a> {
    let prefix = format!("update/{}", model.state(weight).name);
    Scope::new(&mut model.graph, &prefix)
}

fn non_negative(what: &'static str, value: f64) -> Result<(), GradError> {
    if value >= 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(GradError::Config { what, value, why: "it must be a number from 0 on" })
}

fn below_one(what: &'static str, value: f64) -> Result<(), GradError> {
    if (0.0..1.0).contains(&value) { Ok(()) } else { Err(GradError::Config { what, value, why: "it must be in 0..1" }) }
}
