//! Clipping by the global norm (Pascanu et al. 2013), as PyTorch's `clip_grad_norm_`.

use super::non_negative;
use crate::{GradError, names, sum_all};
use penjing_ir::{Binary, Model, Scope, StateId, Unary, ValueId};

/// √(Σ over all gradients and elements of g²): [] in the dtype of the first. `None` without gradients.
pub fn global_norm(s: &mut Scope<'_>, grads: &[ValueId]) -> Result<Option<ValueId>, GradError> {
    let mut total: Option<ValueId> = None;
    for &g in grads {
        let square = s.mul(g, g)?;
        let sum = sum_all(s, square)?;
        total = Some(match total {
            Some(total) => {
                let dtype = s.fact(total).dtype;
                let sum = s.cast(sum, dtype)?;
                s.add(total, sum)?
            }
            None => sum,
        });
    }
    total.map(|t| Ok(s.unary(Unary::Sqrt, t)?)).transpose()
}

/// Each gradient times min(1, limit / (norm + 1e-6)), and the norm; the 1e-6 is PyTorch's.
pub fn clip_by_global_norm(
    s: &mut Scope<'_>,
    grads: &[ValueId],
    limit: f64,
) -> Result<(Vec<ValueId>, Option<ValueId>), GradError> {
    non_negative("clip_norm", limit)?;
    let Some(norm) = global_norm(s, grads)? else { return Ok((Vec::new(), None)) };
    let limit = s.scalar_like(norm, limit);
    let safe = s.shift(norm, 1e-6)?;
    let ratio = s.div(limit, safe)?;
    let one = s.scalar_like(norm, 1.0);
    let ratio = s.binary(Binary::Min, ratio, one)?;
    let mut clipped = Vec::with_capacity(grads.len());
    for &g in grads {
        let dtype = s.fact(g).dtype;
        let ratio = s.cast(ratio, dtype)?;
        clipped.push(s.mul(g, ratio)?);
    }
    Ok((clipped, Some(norm)))
}

/// Clips a named list and adds the output `grad_norm`.
pub(super) fn clip(
    model: &mut Model,
    grads: &[(StateId, ValueId)],
    limit: f64,
) -> Result<Vec<(StateId, ValueId)>, GradError> {
    let mut s = Scope::new(&mut model.graph, "clip");
    let values: Vec<ValueId> = grads.iter().map(|g| g.1).collect();
    let (clipped, norm) = clip_by_global_norm(&mut s, &values, limit)?;
    if let Some(norm) = norm {
        names::output(model, names::GRAD_NORM, norm)?;
    }
    Ok(grads.iter().zip(clipped).map(|(&(state, _), g)| (state, g)).collect())
}
