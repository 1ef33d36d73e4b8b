//! Magnitude pruning (Han et al., "Learning both Weights and Connections", NeurIPS 2015): the smallest weights go.

use super::mask::{existing_mask, set_mask};
use crate::{CompressError, product_weights};
use penjing_ir::{Model, StateId};
use penjing_tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What the weights are compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// All weights of the model together: layers that matter keep more.
    Global,
    /// Each layer by itself: every layer gets the same sparsity.
    Layer,
}

/// How much is pruned.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneConfig {
    /// Share of the weights that become zero, 0 ≤ sparsity < 1.
    pub sparsity: f64,
    /// What the weights are compared with.
    pub scope: Scope,
}

/// Masks the `round(sparsity · n)` weights of smallest magnitude, as `torch.nn.utils.prune` counts them. Counted and pruned are the
/// weights of convolutions, matrix products and recurrent cells; biases stay. Weights that a mask already hides stay hidden
/// and count, so that repeated pruning reaches the sparsity that is asked for. Of equal magnitudes the earlier one goes first.
pub fn prune(model: &mut Model, config: &PruneConfig) -> Result<(), CompressError> {
    if !(0.0..1.0).contains(&config.sparsity) {
        return Err(CompressError::Sparsity(config.sparsity));
    }
    let weights: BTreeSet<StateId> = product_weights(model)
        .into_iter()
        .map(|u| u.state)
        .filter(|&s| model.state(s).init.dtype() == DType::F32 && model.state(s).init.rank() >= 2)
        .collect();
    if weights.is_empty() {
        return Err(CompressError::NothingToDo("pruned"));
    }
    let weights: Vec<StateId> = weights.into_iter().collect();
    let scores = weights.iter().map(|&w| magnitudes(model, w)).collect::<Result<Vec<_>, _>>()?;
    let masks: Vec<Vec<f32>> = match config.scope {
        Scope::Global => {
            let all: Vec<f32> = scores.concat();
            let mut kept = keep_largest(&all, config.sparsity).into_iter();
            scores.iter().map(|s| kept.by_ref().take(s.len()).collect()).collect()
        }
        Scope::Layer => scores.iter().map(|s| keep_largest(s, config.sparsity)).collect(),
    };
    for (weight, mask) in weights.into_iter().zip(masks) {
        let shape = model.state(weight).init.shape().to_vec();
        set_mask(model, weight, Tensor::from_vec(&shape, mask)?)?;
    }
    Ok(())
}

/// |w| of each element; below every magnitude where a mask hides it.
fn magnitudes(model: &Model, weight: StateId) -> Result<Vec<f32>, CompressError> {
    let state = model.state(weight);
    let mut scores: Vec<f32> = state.init.as_slice::<f32>()?.iter().map(|v| v.abs()).collect();
    if !scores.iter().all(|v| v.is_finite()) {
        return Err(CompressError::NotFinite { name: state.name.clone() });
    }
    if let Some((mask, _)) = existing_mask(model, weight) {
        let mask = model.state(mask).init.as_slice::<f32>()?;
        scores.iter_mut().zip(mask).filter(|(_, m)| **m == 0.0).for_each(|(s, _)| *s = -1.0);
    }
    Ok(scores)
}

fn keep_largest(scores: &[f32], sparsity: f64) -> Vec<f32> {
    let n_pruned = (sparsity * scores.len() as f64).round() as usize;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(a.cmp(&b)));
    let mut mask = vec![1.0; scores.len()];
    order[..n_pruned.min(scores.len())].iter().for_each(|&i| mask[i] = 0.0);
    mask
}

#[cfg(test)]
mod tests {
    use super::super::{bake_masks, restore_masks, sparsity};
    use super::*;
    use penjing_ir::{Fact, Scope as Build, Stage, verify};

    /// Two linear layers: 4 weights of magnitude 1..4 and 4 of magnitude 10..13, and a bias that must stay.
    fn two_layers() -> Model {
        let mut m = Model::new("m");
        let x = m.graph.add_input("x", Fact::new(DType::F32, [1, 2]));
        let a = m.add_weight("a", Tensor::from_vec(&[2, 2], vec![1f32, -2.0, 3.0, -4.0]).unwrap());
        let b = m.add_weight("b", Tensor::from_vec(&[2, 2], vec![-10f32, 11.0, -12.0, 13.0]).unwrap());
        let bias = m.add_weight("bias", Tensor::from_vec(&[2], vec![0.5f32, 0.0]).unwrap());
        let mut s = Build::new(&mut m.graph, "");
        let h = s.linear(x, a, Some(bias)).unwrap();
        let y = s.linear(h, b, None).unwrap();
        m.graph.add_output("y", y);
        m
    }

    fn state(model: &Model, name: &str) -> Vec<f64> {
        model.state(model.find_state(name).unwrap()).init.to_f64s()
    }

    #[test]
    fn global_compares_all_layers_and_layer_each_by_itself() {
        let mut global = two_layers();
        prune(&mut global, &PruneConfig { sparsity: 0.5, scope: Scope::Global }).unwrap();
        assert_eq!(state(&global, "a.mask"), [0.0; 4]);
        assert_eq!(state(&global, "b.mask"), [1.0; 4]);
        assert_eq!(sparsity(&global).unwrap(), (8, 4));
        verify(&global, Stage::Canonical).unwrap();

        let mut layer = two_layers();
        prune(&mut layer, &PruneConfig { sparsity: 0.5, scope: Scope::Layer }).unwrap();
        assert_eq!(state(&layer, "a.mask"), [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(state(&layer, "b.mask"), [0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn pruning_again_keeps_what_is_pruned_and_reaches_the_new_share() {
        let mut m = two_layers();
        prune(&mut m, &PruneConfig { sparsity: 0.25, scope: Scope::Global }).unwrap();
        // A pruned weight that has grown behind its mask stays pruned.
        let a = m.find_state("a").unwrap();
        m.states[a.index()].init = Tensor::from_vec(&[2, 2], vec![99f32, 99.0, 3.0, -4.0]).unwrap().into();
        prune(&mut m, &PruneConfig { sparsity: 0.5, scope: Scope::Global }).unwrap();
        assert_eq!(state(&m, "a.mask"), [0.0; 4]);
        assert_eq!(m.states.iter().filter(|s| s.name.contains("mask")).count(), 2);
    }

    #[test]
    fn baking_leaves_plain_weights_with_zeros() {
        let mut m = two_layers();
        prune(&mut m, &PruneConfig { sparsity: 0.25, scope: Scope::Global }).unwrap();
        let baked = bake_masks(&m).unwrap();
        assert_eq!(state(&baked, "a"), [0.0, 0.0, 3.0, -4.0]);
        assert_eq!(state(&baked, "bias"), [0.5, 0.0]);
        assert_eq!((baked.states.len(), baked.graph.nodes().len()), (3, two_layers().graph.nodes().len()));
        verify(&baked, Stage::Canonical).unwrap();
        // What reads the file again gets the masks back: those of the weights, not of a bias that holds a zero.
        let mut again = baked.clone();
        restore_masks(&mut again).unwrap();
        assert_eq!(state(&again, "a.mask"), [0.0, 0.0, 1.0, 1.0]);
        assert!(again.find_state("bias.mask").is_none());
        verify(&again, Stage::Canonical).unwrap();
    }

    #[test]
    fn bad_requests_are_errors() {
        let mut m = two_layers();
        for sparsity in [1.0, -0.1, f64::NAN] {
            let result = prune(&mut m, &PruneConfig { sparsity, scope: Scope::Global });
            assert!(matches!(result, Err(CompressError::Sparsity(_))));
        }
        let mut empty = Model::new("empty");
        let result = prune(&mut empty, &PruneConfig { sparsity: 0.5, scope: Scope::Global });
        assert!(matches!(result, Err(CompressError::NothingToDo("pruned"))));
    }
}
