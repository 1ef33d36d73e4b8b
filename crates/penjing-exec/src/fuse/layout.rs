//! Channels last for the whole graph: convolutions read and write [N, spatial.., C], and what stands between them follows.
//!
//! The walk goes forward once. A value that is made in another order of axes than the canonical one is *moved*: the walk
//! remembers the value that holds its elements and the permutation. A node whose operand is moved is rewritten to work in that
//! order where its op can; every other reader gets the canonical order back through one Permute that all of them share.
//! Convolutions start a move where their weights are constant, and in graphs that train, where all of them and their gradients
//! have kernels for it.

mod follow;
mod reshape;

use super::Readers;
use penjing_ir::{
    Activation, Dim, IrError, Layout, MachineOp, Model, Node, NodeId, Op, PoolKind, ValueId, images, residual_operands,
};
use penjing_reference::eval_op;
use penjing_tensor::{DType, Tensor};
use std::collections::BTreeMap;

/// Rewrites convolutions and poolings of up to two spatial axes, and the nodes around them, to channels last.
pub(super) fn channels_last(model: &mut Model) -> Result<(), IrError> {
    if !model.graph.nodes().iter().any(|n| movable(model, n).is_some()) {
        return Ok(());
    }
    let readers = Readers::of(model);
    let order = model.topological_order()?;
    let (moved, made, flat) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut walk = Walk { model, readers, moved, made, flat };
    for id in order {
        if walk.rewrite(id)? {
            continue;
        }
        for (k, v) in walk.model.graph.node(id).inputs.clone().into_iter().enumerate() {
            let v = walk.canonical(v)?;
            walk.model.graph.node_mut(id).inputs[k] = v;
        }
    }
    for root in walk.model.roots() {
        let canonical = walk.canonical(root)?;
        walk.model.graph.outputs.iter_mut().filter(|o| o.value == root).for_each(|o| o.value = canonical);
        walk.model.carries.iter_mut().filter(|c| c.value == root).for_each(|c| c.value = canonical);
    }
    Ok(())
}

/// Where the elements of a canonical value are: in `value`, which is its Permute by `perm`.
#[derive(Clone)]
struct Moved {
    value: ValueId,
    perm: Vec<usize>,
}

/// [N, C·P] as [N, P·C]: what a flattening makes of channels that lie last.
#[derive(Clone, Copy)]
struct Flat {
    value: ValueId,
    channels: usize,
    positions: usize,
}

struct Walk<'a> {
    model: &'a mut Model,
    /// Of the graph before the walk.
    readers: Readers,
    moved: BTreeMap<ValueId, Moved>,
    /// Values in another order than they were made in, by their permutation.
    made: BTreeMap<(ValueId, Vec<usize>), ValueId>,
    flat: BTreeMap<ValueId, Flat>,
}

impl Walk<'_> {
    /// Rewrites a node to another order of axes; false when it must have the canonical one.
    fn rewrite(&mut self, id: NodeId) -> Result<bool, IrError> {
        let node = self.model.graph.node(id).clone();
        match &node.op {
            Op::Conv(_) | Op::Machine(MachineOp::Conv { .. } | MachineOp::QConv { .. }) => self.convolution(&node),
            Op::MatMul { .. } | Op::Machine(MachineOp::MatMul { .. } | MachineOp::QMatMul { .. }) => {
                self.unflatten(id, &node)
            }
            op if images(op).is_some() => self.gradient(&node),
            Op::Permute { perm } => self.permute(&node, perm),
            Op::Reshape { .. } => self.reshape(&node),
            _ => self.follow(&node),
        }
    }

    fn convolution(&mut self, node: &Node) -> Result<bool, IrError> {
        let Some((op, images)) = movable(self.model, node) else { return Ok(false) };
        let perm = Layout::ChannelsLast.from_first(self.model.graph.fact(node.outputs[0]).rank());
        let mut inputs = node.inputs.clone();
        for &k in images.iter().filter(|&&k| k < node.inputs.len()) {
            inputs[k] = self.in_order(node.inputs[k], &perm)?;
        }
        if inputs.len() == 2 {
            let channels = self.model.graph.fact(inputs[1]).shape[0].as_const().unwrap_or(0);
            inputs.push(super::product::zeros(self.model, channels));
        }
        self.replace(node, Op::Machine(op), &inputs, perm)?;
        Ok(true)
    }

    /// The gradients of convolutions start a move; batch norm in training and the gradient of pooling follow one.
    fn gradient(&mut self, node: &Node) -> Result<bool, IrError> {
        let Some((operands, results)) = images(&node.op) else { return Ok(false) };
        let rank = self.model.graph.fact(node.inputs[0]).rank();
        let perm = Layout::ChannelsLast.from_first(rank);
        let starts = match &node.op {
            Op::ConvTranspose { .. } | Op::ConvWeightGrad { .. } => trains(self.model) && node.inputs.len() == 2,
            Op::PoolGrad { kind: PoolKind::Average { .. }, .. } => false,
            _ => self.moved.get(&node.inputs[0]).is_some_and(|m| m.perm == perm),
        };
        let f32_only = node.inputs.iter().all(|&v| self.model.graph.fact(v).dtype == DType::F32);
        if !starts || !f32_only || rank > 4 {
            return Ok(false);
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for (i, &v) in node.inputs.iter().enumerate() {
            inputs.push(if operands.contains(&i) { self.in_order(v, &perm)? } else { self.canonical(v)? });
        }
        let op = Op::Machine(MachineOp::Last(Box::new(node.op.clone())));
        let last = self.model.graph.add_node(&node.name, op, &inputs)?;
        for (i, value) in self.model.graph.node(last).outputs.clone().into_iter().enumerate() {
            if results.contains(&i) {
                self.moved.insert(node.outputs[i], Moved { value, perm: perm.clone() });
            } else {
                self.model.replace_uses(node.outputs[i], value);
            }
        }
        Ok(true)
    }

    /// A Permute of a moved value is another name for it; one that undoes channels last says that its operand is the moved one.
    fn permute(&mut self, node: &Node, by: &[usize]) -> Result<bool, IrError> {
        let (x, out) = (node.inputs[0], node.outputs[0]);
        if let Some(Moved { value, perm }) = self.moved.get(&x).cloned() {
            let perm = perm.iter().map(|axis| by.iter().position(|b| b == axis).unwrap_or(0)).collect();
            self.moved.insert(out, Moved { value, perm });
            return Ok(true);
        }
        let rank = by.len();
        let feeds_images =
            rank == 4 || self.readers.nodes(out).iter().any(|&n| is_image_op(&self.model.graph.node(n).op));
        if rank < 3 || !feeds_images || Layout::ChannelsLast.to_first(rank) != by {
            return Ok(false);
        }
        self.moved.insert(out, Moved { value: x, perm: Layout::ChannelsLast.from_first(rank) });
        Ok(true)
    }

    /// Adds the node in its new form; its result stands for the canonical one.
    fn replace(&mut self, node: &Node, op: Op, inputs: &[ValueId], perm: Vec<usize>) -> Result<(), IrError> {
        let value = self.model.graph.apply(&node.name, op, inputs)?;
        self.moved.insert(node.outputs[0], Moved { value, perm });
        Ok(())
    }

    /// The value in its canonical order.
    fn canonical(&mut self, v: ValueId) -> Result<ValueId, IrError> {
        if let Some(flat) = self.flat.get(&v).copied() {
            return self.unflattened(v, flat);
        }
        let Some(Moved { value, perm }) = self.moved.get(&v).cloned() else { return Ok(v) };
        let inverse: Vec<usize> =
            (0..perm.len()).map(|axis| perm.iter().position(|&p| p == axis).unwrap_or(0)).collect();
        self.reorder(value, &inverse)
    }

    /// The value permuted by `perm`.
    fn in_order(&mut self, v: ValueId, perm: &[usize]) -> Result<ValueId, IrError> {
        let Some(moved) = self.moved.get(&v).cloned() else {
            let v = self.canonical(v)?;
            return self.reorder(v, perm);
        };
        let by: Vec<usize> = perm.iter().map(|axis| moved.perm.iter().position(|p| p == axis).unwrap_or(0)).collect();
        self.reorder(moved.value, &by)
    }

    /// `v` permuted: a constant at once, a Reshape where only axes of extent 1 move, a Permute otherwise.
    fn reorder(&mut self, v: ValueId, by: &[usize]) -> Result<ValueId, IrError> {
        if by.iter().enumerate().all(|(i, &axis)| i == axis) {
            return Ok(v);
        }
        let key = (v, by.to_vec());
        if let Some(&done) = self.made.get(&key) {
            return Ok(done);
        }
        let op = Op::Permute { perm: by.to_vec() };
        let folded = self.model.graph.as_const(v).and_then(|t| eval_op(&op, &[t.as_ref()]).ok()).and_then(first);
        let done = match folded {
            Some(tensor) => self.model.graph.add_const(tensor),
            None => {
                let shape = &self.model.graph.fact(v).shape;
                let long = by.iter().filter(|&&axis| shape[axis] != Dim::Const(1));
                let op = if long.is_sorted() {
                    Op::Reshape { shape: by.iter().map(|&axis| shape[axis].clone()).collect() }
                } else {
                    op
                };
                let name = self.model.graph.producer(v).map(|p| self.model.graph.node(p).name.clone());
                let name = name.unwrap_or_else(|| self.model.graph.value(v).name.clone());
                self.model.graph.apply(&format!("{name}.reorder"), op, &[v])?
            }
        };
        self.made.insert(key, done);
        Ok(done)
    }
}

/// A convolution that can have its channels last as that op, with the operands that then have them last as well.
pub(super) fn movable(model: &Model, node: &Node) -> Option<(MachineOp, &'static [usize])> {
    let layout = Layout::ChannelsLast;
    let (op, images, weight): (_, &[usize], _) = match &node.op {
        Op::Conv(spec) => (MachineOp::Conv { spec: spec.clone(), act: Activation::None, layout }, &[0], 1),
        Op::Machine(MachineOp::Conv { spec, act, layout: Layout::ChannelsFirst }) => {
            (MachineOp::Conv { spec: spec.clone(), act: *act, layout }, &[0, 3], 1)
        }
        Op::Machine(MachineOp::QConv { spec, act, out, layout: Layout::ChannelsFirst }) => {
            let residual = residual_operands(node.inputs.len(), out.as_ref()).is_some_and(|n| n > 0);
            let images: &[usize] = if residual { &[0, 6] } else { &[0] };
            (MachineOp::QConv { spec: spec.clone(), act: *act, out: out.clone(), layout }, images, 3)
        }
        _ => return None,
    };
    let x = model.graph.fact(node.inputs[0]);
    let constant = model.graph.as_const(node.inputs[weight]).is_some();
    ((constant || trains(model)) && x.rank() <= 4 && matches!(x.dtype, DType::F32 | DType::I8 | DType::U8))
        .then_some((op, images))
}

/// Whether the graph holds gradients of convolutions, and every convolution and gradient is one of F32 images of up to two axes in one
/// group. Kernels of channels that lie last would be slow for others.
fn trains(model: &Model) -> bool {
    let fits = |node: &Node| {
        let (Op::Conv(spec) | Op::ConvTranspose { spec, .. } | Op::ConvWeightGrad { spec, .. }) = &node.op else {
            return true;
        };
        let x = model.graph.fact(node.inputs[0]);
        spec.groups == 1 && x.rank() <= 4 && x.dtype == DType::F32
    };
    let nodes = model.graph.nodes();
    nodes.iter().any(|n| matches!(n.op, Op::ConvWeightGrad { .. })) && nodes.iter().all(fits)
}

fn is_image_op(op: &Op) -> bool {
    matches!(op, Op::Conv(_) | Op::Pool { .. } | Op::Machine(MachineOp::Conv { .. } | MachineOp::QConv { .. }))
}

fn first(tensors: Vec<Tensor>) -> Option<Tensor> {
    tensors.into_iter().next()
}
