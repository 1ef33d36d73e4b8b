//! Any op through the reference interpreter: slow, and right.

use super::{Call, Kernel, Run, RunError};
use crate::ExecError;
use penjing_ir::{Fact, Model, NodeId, Op};
use penjing_reference::{RefError, eval_op};
use penjing_tensor::Tensor;

pub(super) fn select(model: &Model, id: NodeId) -> Result<Kernel, ExecError> {
    let node = model.graph.node(id);
    if matches!(node.op, Op::If { .. } | Op::NonZero { .. }) {
        return Err(ExecError::Unsupported {
            node: node.name.clone(),
            op: node.op.name(),
            why: "control flow and late extents have no static plan; run it with the reference interpreter".into(),
        });
    }
    let facts = |vs: &[penjing_ir::ValueId]| -> Vec<Fact> { vs.iter().map(|&v| model.graph.fact(v).clone()).collect() };
    let (op, operands, results) = (node.op.clone(), facts(&node.inputs), facts(&node.outputs));
    Ok(Kernel {
        name: format!("reference.{}", op.name()),
        reads: (0..node.inputs.len()).collect(),
        in_place: Vec::new(),
        run: Run::Call(Box::new(move |call| run(call, &op, &operands, &results))),
    })
}

fn run(call: &mut Call<'_>, op: &Op, operands: &[Fact], results: &[Fact]) -> Result<(), RunError> {
    let mut tensors = Vec::with_capacity(operands.len());
    for (i, fact) in operands.iter().enumerate() {
        let shape = fact.concrete().unwrap_or_default();
        tensors.push(Tensor::from_bytes(fact.dtype, &shape, call.views.read::<u8>(i)?).map_err(RunError::Tensor)?);
    }
    let refs: Vec<&Tensor> = tensors.iter().collect();
    let outputs = eval_op(op, &refs).map_err(RunError::Reference)?;
    for (j, (output, want)) in outputs.iter().zip(results).enumerate() {
        let have = Fact::of(output);
        if have != *want {
            let (want, have) = (want.to_string(), have.to_string());
            return Err(RunError::Reference(RefError::Fact { node: String::new(), slot: j, want, have }));
        }
        call.views.write::<u8>(j)?.copy_from_slice(output.bytes());
    }
    Ok(())
}
