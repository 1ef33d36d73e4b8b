//! Ops that work in any order of axes: they take the order of their first moved operand.

use super::{Moved, Walk};
use penjing_ir::{Dim, IrError, Layout, MachineOp, Node, Op, PoolKind, ValueId};
use penjing_tensor::DType;

impl Walk<'_> {
    /// Rewrites a node with a moved operand where its op can work in that order.
    pub(super) fn follow(&mut self, node: &Node) -> Result<bool, IrError> {
        let rank = node.outputs.first().map_or(0, |&v| self.model.graph.fact(v).rank());
        let own = |walk: &Walk<'_>| node.inputs.first().and_then(|v| walk.moved.get(v)).cloned();
        match &node.op {
            Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select | Op::Cast(_) | Op::StopGradient => {
                let moved =
                    node.inputs.iter().filter_map(|v| self.moved.get(v)).find(|m| m.perm.len() == rank).cloned();
                let Some(Moved { perm, .. }) = moved else { return Ok(false) };
                let mut inputs = Vec::with_capacity(node.inputs.len());
                for &v in &node.inputs {
                    inputs.push(self.broadcast_in_order(v, &perm)?);
                }
                self.replace(node, node.op.clone(), &inputs, perm)?;
            }
            Op::Concat { axis } => {
                let moved = node.inputs.iter().find_map(|v| self.moved.get(v)).cloned();
                let Some(Moved { perm, .. }) = moved else { return Ok(false) };
                let op = Op::Concat { axis: place(&perm, *axis) };
                let mut inputs = Vec::with_capacity(node.inputs.len());
                for &v in &node.inputs {
                    inputs.push(self.in_order(v, &perm)?);
                }
                self.replace(node, op, &inputs, perm)?;
            }
            Op::Reduce { kind, axes, keep } => {
                let Some(Moved { value, perm }) = own(self) else { return Ok(false) };
                let mut at: Vec<usize> = axes.iter().map(|&a| place(&perm, a)).collect();
                at.sort_unstable();
                let op = Op::Reduce { kind: *kind, axes: at, keep: *keep };
                self.replace(node, op, &[value], if *keep { perm } else { without(&perm, axes) })?;
            }
            Op::ArgReduce { kind, axis, keep, last } => {
                let Some(Moved { value, perm }) = own(self) else { return Ok(false) };
                let op = Op::ArgReduce { kind: *kind, axis: place(&perm, *axis), keep: *keep, last: *last };
                self.replace(node, op, &[value], if *keep { perm } else { without(&perm, &[*axis]) })?;
            }
            _ => {
                let Some(Moved { value, perm }) = own(self) else { return Ok(false) };
                let Some(op) = self.in_axes(node, &perm) else { return Ok(false) };
                let mut inputs = vec![value];
                for &v in &node.inputs[1..] {
                    inputs.push(self.canonical(v)?);
                }
                self.replace(node, op, &inputs, perm)?;
            }
        }
        Ok(true)
    }

    /// The op of a node of one image operand whose result has the operand's axes, in the order `perm` of them.
    fn in_axes(&self, node: &Node, perm: &[usize]) -> Option<Op> {
        let per_tensor = |axis: Option<usize>| axis.map(|a| place(perm, a));
        Some(match &node.op {
            Op::Pool { kind, spec } => {
                let fact = self.model.graph.fact(node.inputs[0]);
                let has_kernel = match kind {
                    PoolKind::Max => matches!(fact.dtype, DType::F32 | DType::I8 | DType::U8),
                    PoolKind::Average { .. } => fact.dtype == DType::F32,
                };
                let last = perm == Layout::ChannelsLast.from_first(fact.rank());
                (has_kernel && last && fact.rank() <= 4)
                    .then(|| Op::Machine(MachineOp::Pool { kind: *kind, spec: spec.clone() }))?
            }
            Op::Softmax { axis } => Op::Softmax { axis: place(perm, *axis) },
            Op::LogSoftmax { axis } => Op::LogSoftmax { axis: place(perm, *axis) },
            Op::CumSum { axis, exclusive, reverse } => {
                Op::CumSum { axis: place(perm, *axis), exclusive: *exclusive, reverse: *reverse }
            }
            Op::Slice { ranges } => Op::Slice { ranges: perm.iter().map(|&a| ranges[a].clone()).collect() },
            Op::Pad { before, after, mode } => Op::Pad {
                before: perm.iter().map(|&a| before[a]).collect(),
                after: perm.iter().map(|&a| after[a]).collect(),
                mode: *mode,
            },
            Op::Expand { shape } if shape.len() == perm.len() => {
                Op::Expand { shape: perm.iter().map(|&a| shape[a].clone()).collect() }
            }
            Op::Quantize(s) | Op::Dequantize(s) | Op::FakeQuant(s) => {
                let mut scheme = s.clone();
                scheme.axis = per_tensor(scheme.axis);
                match node.op {
                    Op::Quantize(_) => Op::Quantize(scheme),
                    Op::Dequantize(_) => Op::Dequantize(scheme),
                    _ => Op::FakeQuant(scheme),
                }
            }
            _ => return None,
        })
    }

    /// An operand that broadcasts to the canonical result, so that it broadcasts to the result in the order `perm`.
    fn broadcast_in_order(&mut self, v: ValueId, perm: &[usize]) -> Result<ValueId, IrError> {
        let shape = self.model.graph.fact(v).shape.clone();
        if shape.iter().all(|d| *d == Dim::Const(1)) && shape.len() < perm.len() {
            return self.canonical(v);
        }
        if shape.len() == perm.len() {
            return self.in_order(v, perm);
        }
        let v = self.canonical(v)?;
        let missing = std::iter::repeat_n(Dim::Const(1), perm.len() - shape.len());
        let padded = self.reshaped(v, missing.chain(shape).collect())?;
        self.reorder(padded, perm)
    }
}

/// Where a canonical axis stands in the order `perm`.
fn place(perm: &[usize], axis: usize) -> usize {
    perm.iter().position(|&p| p == axis).unwrap_or(axis)
}

/// The order of the axes that are left without `axes`, renumbered.
fn without(perm: &[usize], axes: &[usize]) -> Vec<usize> {
    let left = perm.iter().filter(|p| !axes.contains(p));
    left.map(|p| p - axes.iter().filter(|a| *a < p).count()).collect()
}
