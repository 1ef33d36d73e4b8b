//! Gradient accumulation: several small batches add up before one update.
//!
//! Two models share states by name. The accumulating one ends in [`append_accumulation`]; the applying one starts with
//! [`take_accumulated`], whose gradients then go to `append_updates`. Losses carry 1/global count, so sums are all that is needed.

use super::{memory, scope, state};
use crate::GradError;
use penjing_ir::{Carry, Model, StateId, ValueId};
use penjing_tensor::Tensor;

const SUM: &str = "grad_sum";

/// For each (weight, gradient): the state `<weight>.grad_sum` grows by the gradient.
pub fn append_accumulation(model: &mut Model, grads: &[(StateId, ValueId)]) -> Result<(), GradError> {
    for &(weight, grad) in grads {
        let (sum, old) = memory(model, weight, SUM);
        let value = scope(model, weight).add(old, grad)?;
        model.carries.push(Carry { value, state: sum });
    }
    Ok(())
}

/// A model with the trained weights of `model` and their gradient sums as its gradients; after the run the sums are zero.
pub fn take_accumulated(model: &Model, weights: &[StateId]) -> Result<(Model, Vec<(StateId, ValueId)>), GradError> {
    let mut apply = Model::new(&format!("{}.apply", model.graph.name));
    let mut grads = Vec::new();
    for &weight in weights {
        let original = model.state(weight);
        let value = apply.add_state(&original.name, original.role, original.trainable, (*original.init).clone());
        let weight = apply.state_of(value).expect("the value of a state that was just added");
        let zeros =
            Tensor::zeros(original.init.dtype(), original.init.shape()).expect("as large as a tensor that exists");
        let (sum, grad) = state(&mut apply, weight, SUM, zeros.clone());
        let value = apply.graph.add_const(zeros);
        apply.carries.push(Carry { value, state: sum });
        grads.push((weight, grad));
    }
    Ok((apply, grads))
}
