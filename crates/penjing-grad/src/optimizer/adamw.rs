//! Adam with decoupled weight decay (Loshchilov & Hutter 2019), with PyTorch's semantics: ε stands outside the root.

use super::{DecayScope, below_one, memory, non_negative, scope};
use crate::GradError;
use penjing_ir::{Carry, Model, Scope, StateId, Unary, ValueId};
use penjing_tensor::DType;
use serde::{Deserialize, Serialize};

/// Constants of AdamW. m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g²,
/// w ← w·(1 − rate·decay) − rate/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamW {
    /// Base learning rate; the graph reads the actual one from its input.
    pub lr: f64,
    /// β₁ and β₂: weights of the old moments.
    pub betas: (f64, f64),
    /// ε: keeps the division finite.
    pub eps: f64,
    /// Fraction of a weight that a rate of 1 would take away.
    pub weight_decay: f64,
    /// Which weights decay.
    pub decay: DecayScope,
}

impl Default for AdamW {
    fn default() -> AdamW {
        AdamW { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, decay: DecayScope::All }
    }
}

impl AdamW {
    pub(super) fn check(&self) -> Result<(), GradError> {
        non_negative("lr", self.lr)?;
        below_one("betas[0]", self.betas.0)?;
        below_one("betas[1]", self.betas.1)?;
        non_negative("eps", self.eps)?;
        non_negative("weight_decay", self.weight_decay)
    }
}

/// Scalars that every weight's update reads, F32 [].
pub(super) struct Shared {
    /// 1 − rate·decay.
    keep: ValueId,
    /// rate / (1 − β₁ᵗ).
    stride: ValueId,
    /// 1 / √(1 − β₂ᵗ).
    root: ValueId,
}

/// `step` counts the updates done before this one, so t = step + 1.
pub(super) fn shared(
    model: &mut Model,
    config: &AdamW,
    learning_rate: ValueId,
    step: ValueId,
) -> Result<Shared, GradError> {
    let mut s = Scope::new(&mut model.graph, "update");
    let t = s.cast(step, DType::F32)?;
    let t = s.shift(t, 1.0)?;
    let correction1 = one_minus_power(&mut s, config.betas.0, t)?;
    let stride = s.div(learning_rate, correction1)?;
    let correction2 = one_minus_power(&mut s, config.betas.1, t)?;
    let root = s.unary(Unary::Sqrt, correction2)?;
    let root = s.unary(Unary::Recip, root)?;
    let keep = s.scale(learning_rate, -config.weight_decay)?;
    let keep = s.shift(keep, 1.0)?;
    Ok(Shared { keep, stride, root })
}

/// The new weight; the moments `<weight>.exp_avg` and `<weight>.exp_avg_sq` are carried.
pub(super) fn update(
    model: &mut Model,
    config: &AdamW,
    shared: &Shared,
    weight: StateId,
    grad: ValueId,
) -> Result<ValueId, GradError> {
    let w = model.state_value(weight);
    let (m_state, m) = memory(model, weight, "exp_avg");
    let (v_state, v) = memory(model, weight, "exp_avg_sq");
    let mut s = scope(model, weight);
    let m = moving_average(&mut s, m, grad, config.betas.0)?;
    let square = s.mul(grad, grad)?;
    let v = moving_average(&mut s, v, square, config.betas.1)?;
    let dtype = s.fact(w).dtype;
    let [keep, stride, root] = [shared.keep, shared.stride, shared.root].map(|scalar| s.cast(scalar, dtype));
    let (keep, stride, root) = (keep?, stride?, root?);
    let spread = s.unary(Unary::Sqrt, v)?;
    let spread = s.mul(spread, root)?;
    let spread = s.shift(spread, config.eps)?;
    let direction = s.div(m, spread)?;
    let change = s.mul(direction, stride)?;
    let decays = config.weight_decay > 0.0 && config.decay.covers(s.fact(w).rank());
    let kept = if decays { s.mul(w, keep)? } else { w };
    let new = s.sub(kept, change)?;
    model.carries.extend([Carry { value: m, state: m_state }, Carry { value: v, state: v_state }]);
    Ok(new)
}

/// β·old + (1 − β)·new.
pub(super) fn moving_average(s: &mut Scope<'_>, old: ValueId, new: ValueId, beta: f64) -> Result<ValueId, GradError> {
    let kept = s.scale(old, beta)?;
    let added = s.scale(new, 1.0 - beta)?;
    Ok(s.add(kept, added)?)
}

/// 1 − βᵗ without cancellation: with a = −t·ln β it is 1 − e⁻ᵃ = 2h/(1 + h) for h = tanh(a/2).
fn one_minus_power(s: &mut Scope<'_>, beta: f64, t: ValueId) -> Result<ValueId, GradError> {
    if beta == 0.0 {
        return Ok(s.scalar_like(t, 1.0));
    }
    let half = s.scale(t, -beta.ln() / 2.0)?;
    let h = s.unary(Unary::Tanh, half)?;
    let double = s.scale(h, 2.0)?;
    let below = s.shift(h, 1.0)?;
    Ok(s.div(double, below)?)
}
