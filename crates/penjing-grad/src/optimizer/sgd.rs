//! Stochastic gradient descent with momentum (Sutskever et al. 2013), with PyTorch's semantics.

use super::{DecayScope, below_one, memory, non_negative, scope};
use crate::GradError;
use penjing_ir::{Carry, Model, StateId, ValueId};
use serde::{Deserialize, Serialize};

/// Constants of SGD. With g ← g + decay·w: v ← momentum·v + g, then w ← w − rate·v, or with Nesterov w ← w − rate·(g + momentum·v).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sgd {
    /// Base learning rate; the graph reads the actual one from its input.
    pub lr: f64,
    /// Weight of the old velocity; 0 keeps no velocity.
    pub momentum: f64,
    /// Look ahead by one velocity.
    pub nesterov: bool,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
    /// Which weights decay.
    pub decay: DecayScope,
}

impl Default for Sgd {
    fn default() -> Sgd {
        Sgd { lr: 0.01, momentum: 0.0, nesterov: false, weight_decay: 0.0, decay: DecayScope::All }
    }
}

impl Sgd {
    pub(super) fn check(&self) -> Result<(), GradError> {
        non_negative("lr", self.lr)?;
        below_one("momentum", self.momentum)?;
        non_negative("weight_decay", self.weight_decay)?;
        if self.nesterov && self.momentum == 0.0 {
            let why = "Nesterov's step needs a momentum above 0";
            return Err(GradError::Config { what: "momentum", value: 0.0, why });
        }
        Ok(())
    }
}

/// The new weight; the velocity `<weight>.momentum` is carried. Starting from a zero velocity, the first one is the gradient.
pub(super) fn update(
    model: &mut Model,
    config: &Sgd,
    weight: StateId,
    grad: ValueId,
    learning_rate: ValueId,
) -> Result<ValueId, GradError> {
    let w = model.state_value(weight);
    let velocity = if config.momentum > 0.0 { Some(memory(model, weight, "momentum")) } else { None };
    let mut s = scope(model, weight);
    let mut g = grad;
    if config.weight_decay > 0.0 && config.decay.covers(s.fact(w).rank()) {
        let pull = s.scale(w, config.weight_decay)?;
        g = s.add(g, pull)?;
    }
    let (mut direction, mut carried) = (g, None);
    if let Some((state, v)) = velocity {
        let kept = s.scale(v, config.momentum)?;
        let value = s.add(kept, g)?;
        carried = Some(Carry { value, state });
        direction = value;
        if config.nesterov {
            let ahead = s.scale(value, config.momentum)?;
            direction = s.add(g, ahead)?;
        }
    }
    let rate = s.cast(learning_rate, s.graph.fact(w).dtype)?;
    let stride = s.mul(direction, rate)?;
    let new = s.sub(w, stride)?;
    model.carries.extend(carried);
    Ok(new)
}
