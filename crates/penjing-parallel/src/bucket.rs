//! Gradients into buckets, buckets into all-reduces.

use crate::ParallelError;
use penjing_ir::{Model, Op, StateId, ValueId};

/// How gradients are grouped.
#[derive(Clone, Copy, Debug)]
pub struct BucketConfig {
    /// A bucket is closed when it holds at least this many bytes.
    pub bytes: usize,
}

impl Default for BucketConfig {
    /// 1 MiB: large against the cost of one meeting of the ranks, small enough that the first bucket is full while the backward
    /// pass still runs (Li et al., "PyTorch Distributed", VLDB 2020, section 5.2, uses 25 MB across machines).
    fn default() -> BucketConfig {
        BucketConfig { bytes: 1 << 20 }
    }
}

/// Sums every gradient over ranks: returns the list with each gradient replaced by its sum. Buckets are filled in the order in
/// which the backward pass makes the gradients, so that each starts as soon as its last one exists; the order is the plan's, so
/// all ranks agree without talking. `also` are further scalars to sum, e.g. the loss; outputs that read them read the sums.
pub fn all_reduce_gradients(
    model: &mut Model,
    gradients: &[(StateId, ValueId)],
    also: &[ValueId],
    config: &BucketConfig,
) -> Result<Vec<(StateId, ValueId)>, ParallelError> {
    let mut summed = gradients.to_vec();
    let mut order: Vec<usize> = (0..gradients.len()).collect();
    order.sort_by_key(|&i| (model.graph.producer(gradients[i].1), i));
    let mut bucket: Vec<usize> = Vec::new();
    let mut size = 0;
    let mut count = 0;
    for (position, &i) in order.iter().enumerate() {
        let fact = model.graph.fact(gradients[i].1);
        size += fact.concrete().map_or(0, |s| s.iter().product::<usize>() * fact.dtype.size());
        bucket.push(i);
        if size >= config.bytes || position + 1 == order.len() {
            let operands: Vec<ValueId> = bucket.iter().map(|&i| gradients[i].1).collect();
            let node = model.graph.add_node(&format!("bucket.{count}"), Op::AllReduce, &operands)?;
            for (slot, &i) in bucket.iter().enumerate() {
                summed[i].1 = model.graph.node(node).outputs[slot];
            }
            bucket.clear();
            size = 0;
            count += 1;
        }
    }
    if !also.is_empty() {
        let node = model.graph.add_node("bucket.scalars", Op::AllReduce, also)?;
        let sums = model.graph.node(node).outputs.clone();
        for (&old, &new) in also.iter().zip(&sums) {
            model.graph.outputs.iter_mut().filter(|o| o.value == old).for_each(|o| o.value = new);
        }
    }
    Ok(summed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use penjing_ir::{Fact, Stage, Unary, verify};
    use penjing_tensor::{DType, Tensor};

    #[test]
    fn buckets_close_by_size_and_cover_every_gradient() {
        let mut model = Model::new("m");
        let mut gradients = Vec::new();
        for i in 0..5 {
            let w = model.add_weight(&format!("w{i}"), Tensor::zeros(DType::F32, &[100]).unwrap());
            let g = model.graph.apply("", Op::Unary(Unary::Neg), &[w]).unwrap();
            gradients.push((model.state_of(w).unwrap(), g));
        }
        let x = model.graph.add_input("x", Fact::scalar(DType::F32));
        let loss = model.graph.apply("", Op::Unary(Unary::Exp), &[x]).unwrap();
        model.graph.add_output("loss", loss);
        let summed = all_reduce_gradients(&mut model, &gradients, &[loss], &BucketConfig { bytes: 800 }).unwrap();
        for (i, (_, g)) in summed.iter().enumerate() {
            model.graph.add_output(&format!("g{i}"), *g);
        }
        let reduces: Vec<usize> =
            model.graph.nodes().iter().filter(|n| n.op == Op::AllReduce).map(|n| n.inputs.len()).collect();
        assert_eq!(reduces, [2, 2, 1, 1]);
        assert!(summed.iter().zip(&gradients).all(|(s, g)| s.0 == g.0 && s.1 != g.1));
        let loss_node = model.graph.producer(model.graph.output("loss").unwrap()).unwrap();
        assert_eq!(model.graph.node(loss_node).name, "bucket.scalars");
        verify(&model, Stage::Canonical).unwrap();
    }
}
