//! How far up the graph the grids of activations reach: one grid for a value, at the place where all that read it on integers
//! agree (quantizer propagation: Kozlov et al., "Neural Network Compression Framework for fast model inference", 2020).

use super::calibrate::Range;
use penjing_ir::{Binary, Model, NodeId, Op, PadMode, PoolKind, Real, Reduction, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// An operand: a node and the index there.
pub(super) type Read = (NodeId, usize);

/// The value that a read reads.
pub(super) fn value_of(model: &Model, (node, operand): Read) -> ValueId {
    model.graph.node(node).inputs[operand]
}

/// Moves the reads that come from a grid up, as long as any can go, and returns the ops that then join tensors of one grid:
/// - above an op that only moves or picks elements, or joins tensors, where all that read its result do so from the grid: the
///   integers are what moves. The range above holds the one below, so the grid's steps are at most coarser.
/// - to an image whose mean over all positions is read from a grid, where nobody reads the image as floats. The mean keeps a
///   grid of its own.
pub(super) fn propagate(model: &Model, uses: &Uses, reads: &mut BTreeSet<Read>) -> Vec<NodeId> {
    let (mut joins, mut passed, mut before) = (Vec::new(), BTreeSet::new(), None);
    while before != Some(passed.len()) {
        before = Some(passed.len());
        for id in model.graph.node_ids() {
            let node = model.graph.node(id);
            let above: Vec<Read> = (0..node.inputs.len()).map(|operand| (id, operand)).collect();
            let &[result] = node.outputs.as_slice() else { continue };
            if passed.contains(&id) || !uses.all(result, |read| reads.contains(read)) {
                continue;
            }
            let computed = above.iter().all(|&read| is_computed(model, value_of(model, read)));
            let joins_tensors = matches!(node.op, Op::Concat { .. });
            if computed && (moves_elements(&node.op) || joins_tensors) {
                uses.of(result).iter().for_each(|read| _ = reads.remove(read));
                reads.extend(above);
                joins.extend(joins_tensors.then_some(id));
                passed.insert(id);
            } else if is_image_mean(model, id) && uses.all(node.inputs[0], |read| read.0 == id || reads.contains(read))
            {
                reads.insert((id, 0));
                passed.insert(id);
            }
        }
    }
    joins
}

/// The ranges, where the operands of each of `joins` have one that holds them all.
pub(super) fn joined(
    model: &Model,
    reads: &BTreeSet<Read>,
    joins: &[NodeId],
    ranges: &BTreeMap<ValueId, Range>,
) -> BTreeMap<ValueId, Range> {
    let mut ranges = ranges.clone();
    // Joins share operands: a range grows until all that it must agree with have it.
    let mut changed = true;
    while changed {
        changed = false;
        for &join in joins {
            let grids = grids_behind(model, reads, join);
            let all = grids.iter().filter_map(|v| ranges.get(v)).fold(Range::EMPTY, |all, range| all.union(*range));
            for grid in grids {
                changed |= ranges.get_mut(&grid).is_some_and(|range| std::mem::replace(range, all) != all);
            }
        }
    }
    ranges
}

/// The values that are put on a grid for the operands of an op which reads were moved above: those at the end of all such ops.
fn grids_behind(model: &Model, reads: &BTreeSet<Read>, id: NodeId) -> BTreeSet<ValueId> {
    let (mut grids, mut seen, mut left) = (BTreeSet::new(), BTreeSet::new(), vec![id]);
    while let Some(id) = left.pop() {
        for operand in 0..model.graph.node(id).inputs.len() {
            let value = value_of(model, (id, operand));
            match model.graph.producer(value) {
                Some(mover) if !reads.contains(&(id, operand)) => left.extend(seen.insert(mover).then_some(mover)),
                _ => _ = grids.insert(value),
            }
        }
    }
    grids
}

/// Who reads each value.
pub(super) struct Uses {
    uses: Vec<Vec<Read>>,
    roots: BTreeSet<ValueId>,
}

impl Uses {
    pub(super) fn of_model(model: &Model) -> Uses {
        Uses { uses: model.graph.uses(), roots: model.roots().into_iter().collect() }
    }

    fn of(&self, v: ValueId) -> &[Read] {
        &self.uses[v.index()]
    }

    /// Whether the value is read, every time as `is` says, and leaves the graph nowhere.
    fn all(&self, v: ValueId, is: impl Fn(&Read) -> bool) -> bool {
        !self.of(v).is_empty() && !self.roots.contains(&v) && self.of(v).iter().all(is)
    }

    fn reader(&self, v: ValueId) -> Option<Read> {
        match self.of(v) {
            [one] if !self.roots.contains(&v) => Some(*one),
            _ => None,
        }
    }

    /// The addition that alone reads a convolution's result, perhaps through its batch normalization, and the operand that is
    /// the other addend, of the same shape.
    pub(super) fn addition(&self, model: &Model, result: ValueId) -> Option<Read> {
        let mut v = result;
        let (mut id, mut operand) = self.reader(v)?;
        if let Op::BatchNorm { .. } = model.graph.node(id).op {
            v = model.graph.node(id).outputs[0];
            (id, operand) = self.reader(v)?;
        }
        let node = model.graph.node(id);
        let other = 1 - operand.min(1);
        let adds = node.op == Op::Binary(Binary::Add);
        (adds && model.graph.fact(node.inputs[other]).shape == model.graph.fact(v).shape).then_some((id, other))
    }
}

/// Whether the op gives only numbers of its operand, or 0, which every grid of an activation has.
pub(super) fn moves_elements(op: &Op) -> bool {
    matches!(
        op,
        Op::Reshape { .. }
            | Op::Permute { .. }
            | Op::Slice { .. }
            | Op::Pad { mode: PadMode::Constant(Real(0.0)), .. }
            | Op::Pool { kind: PoolKind::Max, .. }
    )
}

/// Whether the value comes from a node or from the caller: grids of what is stored are those of weights.
fn is_computed(model: &Model, v: ValueId) -> bool {
    model.graph.producer(v).is_some() || model.graph.inputs.contains(&v)
}

/// Whether the node is the mean of [N, C, positions..] over all positions.
fn is_image_mean(model: &Model, id: NodeId) -> bool {
    let node = model.graph.node(id);
    let Op::Reduce { kind: Reduction::Mean, axes, .. } = &node.op else { return false };
    axes.first() == Some(&2) && axes.len() + 2 == model.graph.fact(node.inputs[0]).rank()
}
