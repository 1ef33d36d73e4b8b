//! Algebra that needs no knowledge of networks: identities, compositions of movements, transposes into products.

mod arithmetic;
mod movement;

use crate::{RewriteError, Rule, Trace, rewrite};
use penjing_ir::Model;

/// Applies every simplification until none fits; returns how many patches were applied.
///
/// Results stay what they were to the last bit, but for the sign of zero in x + 0.
pub fn simplify(model: &mut Model, trace: &mut Trace) -> Result<usize, RewriteError> {
    rewrite("simplify", model, &rules(), trace)
}

/// The simplification rules.
pub fn rules() -> Vec<Box<dyn Rule>> {
    let mut all = arithmetic::rules();
    all.extend(movement::rules());
    all
}
