//! Masks: states of zeros and ones that multiply a weight.

use crate::{CompressError, parameters::mask_of, product_weights};
use penjing_ir::{Binary, Model, Op, Role, StateId, ValueId};
use penjing_tensor::{DType, Tensor};
use std::{collections::BTreeSet, sync::Arc};

/// The mask of a weight, where it has one: the state and the value `w · mask`.
pub(super) fn existing_mask(model: &Model, weight: StateId) -> Option<(StateId, ValueId)> {
    model.graph.nodes().iter().find_map(|node| {
        let reads_weight = node.op == Op::Binary(Binary::Mul) && model.state_of(node.inputs[0]) == Some(weight);
        let mask = mask_of(model, *node.inputs.get(1)?)?;
        reads_weight.then(|| (mask, node.outputs[0]))
    })
}

/// Gives a weight a mask, or replaces the content of the one it has. Every reader of the weight then reads `w · mask`.
pub(super) fn set_mask(model: &mut Model, weight: StateId, mask: Tensor) -> Result<(), CompressError> {
    if let Some((state, _)) = existing_mask(model, weight) {
        model.states[state.index()].init = Arc::new(mask);
        return Ok(());
    }
    let name = model.state(weight).name.clone();
    let w = model.state_value(weight);
    let m = model.add_state(&format!("{name}.mask"), Role::Mask, false, mask);
    // Redirect the readers to the product first, then point the product back at the weight.
    let masked = model.graph.apply(&format!("{name}/masked"), Op::Binary(Binary::Mul), &[w, m])?;
    model.replace_uses(w, masked);
    let node = model.graph.producer(masked).expect("a node made it");
    model.graph.node_mut(node).inputs[0] = w;
    Ok(())
}

/// The metadata entry that names the weights whose masks were baked, a line each.
const MASKED: &str = "penjing.masked";

/// Multiplies masks into their weights and removes them, for export; [`restore_masks`] brings them back.
pub fn bake_masks(model: &Model) -> Result<Model, CompressError> {
    let mut out = model.clone();
    let mut masked_names: Vec<String> = Vec::new();
    for weight in (0..model.states.len() as u32).map(StateId) {
        let Some((mask, masked)) = existing_mask(model, weight) else { continue };
        let mut w = (*model.state(weight).init).clone();
        let mask = model.state(mask).init.as_slice::<f32>()?;
        w.as_mut_slice::<f32>()?.iter_mut().zip(mask).for_each(|(w, m)| *w *= m);
        out.states[weight.index()].init = Arc::new(w);
        let value = out.state_value(weight);
        out.replace_uses(masked, value);
        masked_names.push(model.state(weight).name.clone());
    }
    if !masked_names.is_empty() {
        out.metadata.insert(MASKED.into(), masked_names.join("\n"));
    }
    out.compact();
    Ok(out)
}

/// Gives the weights that an earlier run pruned their masks again, from their zeros, so that training and quantizing a file keep
/// what pruning took out of it.
pub fn restore_masks(model: &mut Model) -> Result<(), CompressError> {
    let names = model.metadata.get(MASKED).cloned().unwrap_or_default();
    for name in names.lines() {
        let Some(weight) = model.find_state(name).filter(|&w| model.state(w).init.dtype() == DType::F32) else {
            continue;
        };
        let w = Arc::clone(&model.state(weight).init);
        let mask = w.as_slice::<f32>()?.iter().map(|v| f32::from(u8::from(*v != 0.0))).collect();
        set_mask(model, weight, Tensor::from_vec(w.shape(), mask)?)?;
    }
    Ok(())
}

/// Elements of the weights of products, and how many of them are not zero once masks are applied.
pub fn sparsity(model: &Model) -> Result<(usize, usize), CompressError> {
    let mut total = 0;
    let mut nonzero = 0;
    let states: BTreeSet<StateId> = product_weights(model).into_iter().map(|u| u.state).collect();
    for state in states {
        let w = &model.state(state).init;
        if w.dtype() != DType::F32 {
            continue;
        }
        let w = w.as_slice::<f32>()?;
        total += w.len();
        nonzero += match existing_mask(model, state) {
            None => w.iter().filter(|v| **v != 0.0).count(),
            Some((mask, _)) => {
                let mask = model.state(mask).init.as_slice::<f32>()?;
                w.iter().zip(mask).filter(|(v, m)| **v != 0.0 && **m != 0.0).count()
            }
        };
    }
    Ok((total, nonzero))
}
