//! One model, two uses: rewrites for inference and for training.

use crate::{
    FoldConfig, RewriteError, Trace, common_subexpressions, dead_code, driver::checked, fold_batch_norm,
    fold_constants, raise,
};
use penjing_ir::{Carry, Dim, Model, Op, Role, Scope, State, StateId, ValueId};
use penjing_tensor::DType;
use std::collections::BTreeMap;

/// The model as it answers questions: gradients are not stopped because none flow, and only sequence memories are carried.
pub fn for_inference(model: &Model) -> Result<Model, RewriteError> {
    let mut out = model.clone();
    let states = &out.states;
    out.carries.retain(|c| states.get(c.state.index()).is_some_and(|s| s.role == Role::Cache));
    for id in out.graph.node_ids() {
        let node = out.graph.node(id);
        if node.op == Op::StopGradient {
            let (old, new) = (node.outputs[0], node.inputs[0]);
            out.replace_uses(old, new);
        }
    }
    for body in &mut out.bodies {
        for id in body.node_ids() {
            let node = body.node(id);
            if node.op == Op::StopGradient {
                let (old, new) = (node.outputs[0], node.inputs[0]);
                body.replace_uses(old, new);
            }
        }
    }
    dead_code(&mut out)?;
    Ok(out)
}

/// The model with batch statistics: `BatchNorm` becomes `BatchNormTrain`, and the running mean and variance become carries, as in
/// PyTorch: `running · momentum + batch · (1 − momentum)`, the batch variance unbiased (n/(n − 1)).
///
/// A batch normalisation whose statistics are not buffers is left as it is, since there is nothing to update.
pub fn for_training(model: &Model) -> Result<Model, RewriteError> {
    let mut out = model.clone();
    // A state that two nodes share is updated by both, one after the other.
    let mut current: BTreeMap<StateId, ValueId> = BTreeMap::new();
    for id in out.graph.node_ids() {
        let node = out.graph.node(id).clone();
        let Op::BatchNorm { eps, momentum } = node.op else { continue };
        let buffer = |v: ValueId| out.state_of(v).filter(|&s| out.state(s).role == Role::Buffer);
        let (Some(mean), Some(var)) = (buffer(node.inputs[3]), buffer(node.inputs[4])) else { continue };
        let mut s = Scope::new(&mut out.graph, &node.name);
        let results = s.ops(Op::BatchNormTrain { eps }, &node.inputs[..3])?;
        let unbiased = unbiased(&mut s, node.inputs[0], results[2]).map_err(|why| match why {
            Unbiased::Ir(e) => RewriteError::Ir(e),
            Unbiased::OneElement => RewriteError::Node {
                node: node.name.clone(),
                op: "BatchNorm",
                why: "one element for each channel has no variance; train with a larger batch".into(),
            },
        })?;
        for (state, old, batch) in [(mean, node.inputs[3], results[1]), (var, node.inputs[4], unbiased)] {
            let old = current.get(&state).copied().unwrap_or(old);
            let kept = s.scale(old, momentum.0)?;
            let fresh = s.scale(batch, 1.0 - momentum.0)?;
            current.insert(state, s.add(kept, fresh)?);
        }
        out.replace_uses(node.outputs[0], results[0]);
    }
    out.carries.retain(|c| !current.contains_key(&c.state));
    out.carries.extend(current.into_iter().map(|(state, value)| Carry { value, state }));
    dead_code(&mut out)?;
    Ok(out)
}

enum Unbiased {
    Ir(penjing_ir::IrError),
    OneElement,
}

impl From<penjing_ir::IrError> for Unbiased {
    fn from(e: penjing_ir::IrError) -> Unbiased {
        Unbiased::Ir(e)
    }
}

/// var · n/(n − 1), n being the elements of x: [N, C, ..] for each channel.
fn unbiased(s: &mut Scope<'_>, x: ValueId, var: ValueId) -> Result<ValueId, Unbiased> {
    let fact = s.fact(x);
    let n = fact.shape[0].clone() * Dim::product(&fact.shape[2..]);
    match n.as_const() {
        Some(0 | 1) => Err(Unbiased::OneElement),
        Some(n) => Ok(s.scale(var, n as f64 / (n as f64 - 1.0))?),
        None => {
            let n = s.op(Op::DimValues { dims: vec![n] }, &[])?;
            let n = s.cast(n, DType::F32)?;
            let less = s.shift(n, -1.0)?;
            let ratio = s.div(n, less)?;
            let ratio = s.cast(ratio, fact.dtype)?;
            Ok(s.mul(var, ratio)?)
        }
    }
}

/// Turns the states that `which` accepts into constants of the same name. States that a carry updates stay.
pub fn freeze(model: &mut Model, which: impl Fn(&State) -> bool) -> Result<(), RewriteError> {
    for v in model.graph.value_ids().collect::<Vec<_>>() {
        let Some(id) = model.state_of(v) else { continue };
        let state = model.state(id);
        if !which(state) || model.carries.iter().any(|c| c.state == id) {
            continue;
        }
        let (name, tensor) = (state.name.clone(), (*state.init).clone());
        model.graph.set_const(v, tensor);
        model.graph.set_value_name(v, &name);
    }
    dead_code(model)?;
    checked("freeze", model)
}

/// The model for running as fast as it can: states frozen (masks multiplied into their weights), batch normalisation folded,
/// formulas raised, constants folded, duplicates and dead code removed.
///
/// `trace` says what was rewritten, and bounds it.
pub fn optimize_for_inference(model: &Model, trace: &mut Trace) -> Result<Model, RewriteError> {
    let mut out = for_inference(model)?;
    freeze(&mut out, |_| true)?;
    raise(&mut out, trace)?;
    fold_batch_norm(&mut out, trace)?;
    fold_constants(&mut out, &FoldConfig::default(), trace)?;
    common_subexpressions(&mut out, trace)?;
    dead_code(&mut out)?;
    Ok(out)
}
