//! Moving averages of weights (Polyak & Juditsky 1992), kept beside the weights for evaluation.

use super::{adamw::moving_average, below_one, scope, state};
use crate::GradError;
use penjing_ir::{Carry, Model, StateId, ValueId};

/// For each (weight, new weight): `<weight>.ema`, starting at the weight, becomes d·ema + (1 − d)·new.
pub(super) fn append(model: &mut Model, updated: &[(StateId, ValueId)], decay: f64) -> Result<(), GradError> {
    below_one("ema_decay", decay)?;
    for &(weight, new) in updated {
        let init = (*model.state(weight).init).clone();
        let (average, old) = state(model, weight, "ema", init);
        let value = moving_average(&mut scope(model, weight), old, new, decay)?;
        model.carries.push(Carry { value, state: average });
    }
    Ok(())
}
