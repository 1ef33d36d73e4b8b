//! Elementwise chains: one pass over memory for a whole expression.

use super::Readers;
use penjing_ir::{Binary, ChainInstr, IrError, MachineOp, Model, NodeId, Op, Real, Unary, ValueId};
use penjing_tensor::DType;

/// Operands of one chain that the kernel keeps as registers beside its temporaries.
const MAX_OPERANDS: usize = 12;
/// Instructions of one chain; longer expressions are cut.
const MAX_INSTRUCTIONS: usize = 48;

/// Replaces each maximal tree of float elementwise nodes by one `machine.Chain`. A node joins its reader when the reader is the
/// only one and both have the reader's shape; `Bool` values are 0 and 1 inside a chain, which makes none for others.
pub(super) fn fuse_chains(model: &mut Model) -> Result<(), IrError> {
    let readers = Readers::of(model);
    // Readers first, so that a node is absorbed by the largest tree.
    let mut order: Vec<NodeId> = model.graph.node_ids().collect();
    order.reverse();
    let mut absorbed = vec![false; order.len()];
    for id in order {
        let node = model.graph.node(id);
        let result = node.outputs[0];
        if absorbed[id.index()] || model.graph.fact(result).dtype != DType::F32 || !fusible(model, id) {
            continue;
        }
        let name = node.name.clone();
        let mut tree = Tree { model, readers: &readers, shape_of: result, operands: Vec::new(), inside: Vec::new() };
        tree.inside.push(id);
        tree.grow(id);
        let Some((operands, code)) = tree.code(id) else { continue };
        let inside = tree.inside.clone();
        let fused = model.graph.apply(&name, Op::Machine(MachineOp::Chain(code)), &operands)?;
        if model.graph.fact(fused) != model.graph.fact(result) {
            continue;
        }
        model.replace_uses(result, fused);
        inside.iter().for_each(|n| absorbed[n.index()] = true);
    }
    Ok(())
}

/// Whether the chain kernel can compute the node: elementwise over F32, or over the `Bool` results of such nodes.
fn fusible(model: &Model, id: NodeId) -> bool {
    let node = model.graph.node(id);
    let operands_are = |dtype: DType| node.inputs.iter().all(|&v| model.graph.fact(v).dtype == dtype);
    match &node.op {
        Op::Unary(Unary::Not) => true,
        Op::Unary(f) => {
            let known = !matches!(f, Unary::BitNot | Unary::IsNan | Unary::IsInf { .. });
            known && operands_are(DType::F32)
        }
        Op::Binary(f) => match f {
            Binary::And | Binary::Or => true,
            Binary::Add | Binary::Sub | Binary::Mul | Binary::Div | Binary::Pow | Binary::Max | Binary::Min => {
                operands_are(DType::F32)
            }
            _ => false,
        },
        Op::Compare(_) => operands_are(DType::F32),
        Op::Select => model.graph.fact(node.outputs[0]).dtype == DType::F32,
        Op::Cast(DType::F32) => operands_are(DType::Bool),
        Op::StopGradient => operands_are(DType::F32),
        _ => false,
    }
}

struct Tree<'a> {
    model: &'a Model,
    readers: &'a Readers,
    shape_of: ValueId,
    operands: Vec<ValueId>,
    inside: Vec<NodeId>,
}

impl Tree<'_> {
    /// Takes in producers, nearest first, as far as the limits allow.
    fn grow(&mut self, root: NodeId) {
        let mut frontier = vec![root];
        while let Some(id) = frontier.pop() {
            for &v in &self.model.graph.node(id).inputs {
                let Some(p) = self.model.graph.producer(v) else { continue };
                let same_shape = self.model.graph.fact(v).shape == self.model.graph.fact(self.shape_of).shape;
                // A value read several times may join when all its readers are inside already.
                let private =
                    self.readers.roots[v.index()] == 0 && self.readers.nodes(v).iter().all(|r| self.inside.contains(r));
                let fits = self.inside.len() < MAX_INSTRUCTIONS && self.outside_operands(p) <= MAX_OPERANDS;
                if same_shape && private && fits && fusible(self.model, p) && !self.inside.contains(&p) {
                    self.inside.push(p);
                    frontier.push(p);
                }
            }
        }
    }

    fn outside_operands(&self, extra: NodeId) -> usize {
        let mut seen: Vec<ValueId> = Vec::new();
        for id in self.inside.iter().chain([&extra]) {
            for &v in &self.model.graph.node(*id).inputs {
                let outside = self.model.graph.producer(v).is_none_or(|p| p != extra && !self.inside.contains(&p));
                if outside && scalar_const(self.model, v).is_none() && !seen.contains(&v) {
                    seen.push(v);
                }
            }
        }
        seen.len()
    }

    /// Operands and instructions; `None` when an operand is neither F32 nor `Bool`.
    fn code(&mut self, root: NodeId) -> Option<(Vec<ValueId>, Vec<ChainInstr>)> {
        let mut order = Vec::new();
        self.post_order(root, &mut order);
        for &id in &order {
            for &v in &self.model.graph.node(id).inputs {
                let outside = self.model.graph.producer(v).is_none_or(|p| !self.inside.contains(&p));
                if outside && scalar_const(self.model, v).is_none() && !self.operands.contains(&v) {
                    if !matches!(self.model.graph.fact(v).dtype, DType::F32 | DType::Bool) {
                        return None;
                    }
                    self.operands.push(v);
                }
            }
        }
        let base = self.operands.len();
        let mut code: Vec<ChainInstr> = Vec::new();
        let mut registers: Vec<(ValueId, u16)> =
            self.operands.iter().enumerate().map(|(i, &v)| (v, i as u16)).collect();
        for id in order {
            let node = self.model.graph.node(id);
            let mut r = Vec::new();
            for &v in &node.inputs {
                let known = registers.iter().find(|(value, _)| *value == v).map(|(_, reg)| *reg);
                let reg = match known {
                    Some(reg) => reg,
                    None => {
                        code.push(ChainInstr::Const(Real(scalar_const(self.model, v)?)));
                        let reg = (base + code.len() - 1) as u16;
                        registers.push((v, reg));
                        reg
                    }
                };
                r.push(reg);
            }
            let one_minus = |code: &mut Vec<ChainInstr>, r: u16| {
                code.push(ChainInstr::Const(Real(1.0)));
                let one = (base + code.len() - 1) as u16;
                ChainInstr::Binary(Binary::Sub, one, r)
            };
            let instr = match &node.op {
                Op::Unary(Unary::Not) => one_minus(&mut code, r[0]),
                Op::Unary(f) => ChainInstr::Unary(*f, r[0]),
                // On zeros and ones And is the product and Or the maximum.
                Op::Binary(Binary::And) => ChainInstr::Binary(Binary::Mul, r[0], r[1]),
                Op::Binary(Binary::Or) => ChainInstr::Binary(Binary::Max, r[0], r[1]),
                Op::Binary(f) => ChainInstr::Binary(*f, r[0], r[1]),
                Op::Compare(f) => ChainInstr::Compare(*f, r[0], r[1]),
                Op::Select => ChainInstr::Select(r[0], r[1], r[2]),
                // A `Bool` is a number already; StopGradient says nothing to a kernel.
                _ => {
                    registers.push((node.outputs[0], r[0]));
                    if id == root {
                        let zero = Real(-0.0);
                        code.push(ChainInstr::Const(zero));
                        let z = (base + code.len() - 1) as u16;
                        code.push(ChainInstr::Binary(Binary::Add, r[0], z));
                    }
                    continue;
                }
            };
            code.push(instr);
            registers.push((node.outputs[0], (base + code.len() - 1) as u16));
        }
        let shape = &self.model.graph.fact(self.shape_of).shape;
        // An expression of constants alone has no operand to give it its shape.
        let shaped = self.operands.iter().any(|&v| self.model.graph.fact(v).shape == *shape) || shape.is_empty();
        (shaped || self.operands.len() > 1).then_some((self.operands.clone(), code))
    }

    fn post_order(&self, id: NodeId, out: &mut Vec<NodeId>) {
        for &v in &self.model.graph.node(id).inputs {
            if let Some(p) = self.model.graph.producer(v)
                && self.inside.contains(&p)
                && !out.contains(&p)
            {
                self.post_order(p, out);
            }
        }
        out.push(id);
    }
}

/// The number of a float constant with one element and no axes beyond extent 1.
fn scalar_const(model: &Model, v: ValueId) -> Option<f64> {
    let tensor = model.graph.as_const(v)?;
    (tensor.len() == 1 && tensor.rank() == 0 && tensor.dtype() == DType::F32).then(|| tensor.to_f64s()[0])
}
