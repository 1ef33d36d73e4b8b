//! Running statistics that ranks gather on their own rows, made equal on all ranks.

use crate::ParallelError;
use penjing_ir::{Fact, Model, Op, Role, Scope};
use penjing_tensor::DType;

/// Replaces what every buffer carries by its mean over ranks, weighted with the F32 [] input `share`: the part of the rows that
/// this rank has. Shares add up to 1, so a rank without rows does not count. A model without carried buffers gets no input.
pub fn average_buffers(model: &mut Model, share: &str) -> Result<(), ParallelError> {
    let carried: Vec<usize> = (0..model.carries.len())
        .filter(|&i| {
            let state = model.state(model.carries[i].state);
            state.role == Role::Buffer && state.init.dtype() == DType::F32
        })
        .collect();
    if carried.is_empty() {
        return Ok(());
    }
    let share = model.graph.add_input(share, Fact::scalar(DType::F32));
    let mut parts = Vec::with_capacity(carried.len());
    for &i in &carried {
        let value = model.carries[i].value;
        parts.push(Scope::new(&mut model.graph, "buffers").mul(value, share)?);
    }
    let node = model.graph.add_node("bucket.buffers", Op::AllReduce, &parts)?;
    for (slot, &i) in carried.iter().enumerate() {
        model.carries[i].value = model.graph.node(node).outputs[slot];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use penjing_ir::{Carry, Stage, Unary, verify};
    use penjing_tensor::Tensor;

    #[test]
    fn only_carried_buffers_are_averaged() {
        let mut model = Model::new("m");
        let mut carry = |name: &str, role: Role| {
            let old = model.add_state(name, role, false, Tensor::zeros(DType::F32, &[3]).unwrap());
            let value = model.graph.apply("", Op::Unary(Unary::Exp), &[old]).unwrap();
            let state = model.state_of(old).unwrap();
            model.carries.push(Carry { value, state });
            value
        };
        let weight = carry("w", Role::Weight);
        carry("mean", Role::Buffer);
        average_buffers(&mut model, "share").unwrap();
        verify(&model, Stage::Canonical).unwrap();
        assert_eq!(model.carries[0].value, weight);
        let reduce = model.graph.producer(model.carries[1].value).unwrap();
        assert_eq!(model.graph.node(reduce).op, Op::AllReduce);
        let inputs = model.graph.inputs.len();
        model.carries.truncate(1);
        average_buffers(&mut model, "share").unwrap();
        assert_eq!(model.graph.inputs.len(), inputs);
    }
}
