//! Reshapes of moved values: axes that are split and joined inside one run of elements, and flattenings into a product.

use super::{Flat, Moved, Walk, first};
use penjing_ir::{Dim, IrError, Layout, MachineOp, Node, NodeId, Op, ValueId};
use penjing_reference::eval_op;
use penjing_tensor::Tensor;

impl Walk<'_> {
    pub(super) fn reshape(&mut self, node: &Node) -> Result<bool, IrError> {
        let (x, out) = (node.inputs[0], node.outputs[0]);
        let Some(Moved { value, perm }) = self.moved.get(&x).cloned() else { return Ok(false) };
        let facts = (self.model.graph.fact(x).concrete(), self.model.graph.fact(out).concrete());
        let (Some(from), Some(to)) = facts else { return Ok(false) };
        if let Some(order) = carried_order(&from, &to, &perm) {
            let shape = order.iter().map(|&axis| Dim::Const(to[axis])).collect();
            let value = self.reshaped(value, shape)?;
            self.moved.insert(out, Moved { value, perm: order });
            return Ok(true);
        }
        let flattens = to.len() == 2 && from.len() > 2 && to[0] == from[0];
        let readers = self.readers.nodes(out);
        let products = readers.iter().all(|&n| self.constant_rows(self.model.graph.node(n), out).is_some());
        if !flattens
            || !products
            || self.readers.roots[out.index()] > 0
            || perm != Layout::ChannelsLast.from_first(from.len())
        {
            return Ok(false);
        }
        let value = self.reshaped(value, vec![Dim::Const(to[0]), Dim::Const(to[1])])?;
        self.flat.insert(out, Flat { value, channels: from[1], positions: from[2..].iter().product() });
        Ok(true)
    }

    /// A product of a flattened value and a constant takes the elements as they lie, and the constant's rows in their order.
    pub(super) fn unflatten(&mut self, id: NodeId, node: &Node) -> Result<bool, IrError> {
        let Some(Flat { value, channels, positions }) = self.flat.get(&node.inputs[0]).copied() else {
            return Ok(false);
        };
        let Some((at, rows_first)) = self.constant_rows(node, node.inputs[0]) else { return Ok(false) };
        let weight = node.inputs[at];
        let reordered = self.model.graph.as_const(weight).and_then(|w| by_position(w, rows_first, channels, positions));
        let Some(reordered) = reordered else { return Ok(false) };
        let reordered = self.model.graph.add_const(reordered);
        for (k, &v) in node.inputs.iter().enumerate() {
            let v = if k == 0 {
                value
            } else if k == at {
                reordered
            } else {
                self.canonical(v)?
            };
            self.model.graph.node_mut(id).inputs[k] = v;
        }
        Ok(true)
    }

    /// Back to the canonical order of a flattening, for a reader that is not what it seemed.
    pub(super) fn unflattened(&mut self, v: ValueId, flat: Flat) -> Result<ValueId, IrError> {
        let shape = self.model.graph.fact(v).shape.clone();
        let apart = vec![shape[0].clone(), Dim::Const(flat.positions), Dim::Const(flat.channels)];
        let apart = self.reshaped(flat.value, apart)?;
        let ordered = self.reorder(apart, &[0, 2, 1])?;
        self.reshaped(ordered, shape)
    }

    /// The value under another shape.
    pub(super) fn reshaped(&mut self, v: ValueId, shape: Vec<Dim>) -> Result<ValueId, IrError> {
        if self.model.graph.fact(v).shape == shape {
            return Ok(v);
        }
        let op = Op::Reshape { shape };
        match self.model.graph.as_const(v).and_then(|t| eval_op(&op, &[t.as_ref()]).ok()).and_then(first) {
            Some(tensor) => Ok(self.model.graph.add_const(tensor)),
            None => self.model.graph.apply("", op, &[v]),
        }
    }

    /// For a product of `x` and a constant matrix: the constant's operand index, and whether its first axis meets `x`'s columns.
    fn constant_rows(&self, node: &Node, x: ValueId) -> Option<(usize, bool)> {
        let (at, trans_a, trans_b) = match node.op {
            Op::MatMul { trans_a, trans_b } => (1, trans_a, trans_b),
            Op::Machine(MachineOp::MatMul { trans_a, trans_b, .. }) => (1, trans_a, trans_b),
            Op::Machine(MachineOp::QMatMul { trans_b, .. }) => (3, false, trans_b),
            _ => return None,
        };
        let once = node.inputs.iter().filter(|v| **v == x).count() == 1 && node.inputs[0] == x;
        let matrix = self.model.graph.as_const(node.inputs[at]).is_some_and(|w| w.rank() == 2);
        (once && matrix && !trans_a).then_some((at, !trans_b))
    }
}

/// A matrix whose rows (or columns) run over channels, then positions, with them over positions, then channels.
fn by_position(w: &Tensor, rows_first: bool, channels: usize, positions: usize) -> Option<Tensor> {
    let [rows, columns] = *w.shape() else { return None };
    let (shape, perm) = if rows_first {
        ([channels, positions, columns], vec![1, 0, 2])
    } else {
        ([rows, channels, positions], vec![0, 2, 1])
    };
    let apart = w.reshape(&shape).ok()?;
    first(eval_op(&Op::Permute { perm }, &[&apart]).ok()?)?.reshape(&[rows, columns]).ok()
}

/// The order of the axes of `to` that a Reshape from `from` gives when it is applied to elements that lie in the order `perm`;
/// `None` when it would join axes that do not lie together.
fn carried_order(from: &[usize], to: &[usize], perm: &[usize]) -> Option<Vec<usize>> {
    if from.contains(&0) || to.contains(&0) {
        return None;
    }
    let long = |shape: &[usize]| (0..shape.len()).filter(|&a| shape[a] != 1).collect::<Vec<usize>>();
    let (from_axes, to_axes) = (long(from), long(to));
    // Smallest groups of neighbouring axes with as many elements before as after.
    let mut groups: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < from_axes.len() || j < to_axes.len() {
        let (mut before, mut after) = (1, 1);
        let (start_i, start_j) = (i, j);
        while before != after || i == start_i {
            if before <= after {
                before *= from[*from_axes.get(i)?];
                i += 1;
            } else {
                after *= to[*to_axes.get(j)?];
                j += 1;
            }
        }
        groups.push((from_axes[start_i..i].to_vec(), to_axes[start_j..j].to_vec()));
    }
    let mut left: Vec<usize> = perm.iter().copied().filter(|&a| from[a] != 1).collect();
    let mut order = Vec::new();
    while let Some(&next) = left.first() {
        let (own, new) = groups.iter().find(|(own, _)| own.first() == Some(&next))?;
        if !left.starts_with(own) {
            return None;
        }
        left.drain(..own.len());
        order.extend(new);
    }
    // Axes of extent 1 lie anywhere; where they can, so that the result is channels last or canonical.
    let fits = |candidate: &Vec<usize>| candidate.iter().filter(|&&a| to[a] != 1).eq(&order);
    let candidates = [Layout::ChannelsLast.from_first(to.len()), (0..to.len()).collect()];
    let ones = (0..to.len()).filter(|&a| to[a] == 1);
    Some(candidates.into_iter().find(fits).unwrap_or_else(|| ones.chain(order.iter().copied()).collect()))
}

#[cfg(test)]
mod tests {
    use super::carried_order;

    #[test]
    fn reshapes_carry_the_order_where_their_axes_lie_together() {
        let last = [0, 2, 3, 1];
        let case = |from: &[usize], to: &[usize], perm: &[usize]| carried_order(from, to, perm);
        // Positions joined, split, channels split into groups.
        assert_eq!(case(&[2, 3, 4, 5], &[2, 3, 20], &last), Some(vec![0, 2, 1]));
        assert_eq!(case(&[2, 3, 20], &[2, 3, 4, 5], &[0, 2, 1]), Some(vec![0, 2, 3, 1]));
        assert_eq!(case(&[2, 6, 4, 5], &[2, 2, 3, 4, 5], &last), Some(vec![0, 3, 4, 1, 2]));
        // After a global pooling nothing moves.
        assert_eq!(case(&[2, 3, 1, 1], &[2, 3], &last), Some(vec![0, 1]));
        assert_eq!(case(&[1, 3, 1, 1], &[1, 3], &last), Some(vec![0, 1]));
        assert_eq!(case(&[1, 3, 4, 5], &[1, 3, 20], &last), Some(vec![0, 2, 1]));
        assert_eq!(case(&[2, 3], &[2, 3, 1, 1], &[0, 1]), Some(vec![0, 2, 3, 1]));
        // Channels would have to join positions.
        assert_eq!(case(&[2, 3, 4, 5], &[2, 60], &last), None);
        assert_eq!(case(&[2, 3, 4, 5], &[6, 4, 5], &last), None);
        assert_eq!(case(&[2, 3, 4, 5], &[2, 12, 5], &last), None);
        assert_eq!(case(&[0, 3, 4, 5], &[0, 3, 20], &last), None);
    }
}
