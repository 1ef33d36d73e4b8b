//! Vector-Jacobian products: for each op, the gradients of its operands from those of its results.
//!
//! One file a family, one exhaustive `match`: an op without a rule does not compile. A rule may return a gradient of any shape
//! that sums or broadcasts to the operand's; the walk makes it fit by [`sum_to`].

mod attention;
mod conv;
mod elementwise;
mod index;
mod matmul;
mod movement;
mod norm;
mod pool;
mod quant;
mod recurrent;
mod reduce;

pub(crate) use attention::has_rule;

use crate::GradError;
use penjing_ir::{Dim, Fact, Node, Op, Reduction, Scope, ValueId, broadcast};

/// What a rule sees: the node, the gradients of its results, and a scope for the backward nodes.
pub(crate) struct Vjp<'r, 'g> {
    /// Where backward nodes are added.
    pub(crate) s: &'r mut Scope<'g>,
    /// The node that is differentiated.
    pub(crate) node: &'r Node,
    /// One for each result; at least one is there.
    pub(crate) dys: Vec<Option<ValueId>>,
    /// For each operand, whether its gradient is wanted.
    pub(crate) wanted: &'r [bool],
}

/// One gradient for each operand; `None` is zero.
pub(crate) type Grads = Result<Vec<Option<ValueId>>, GradError>;

/// Applies the rule of the node's op.
pub(crate) fn rule(b: &mut Vjp<'_, '_>) -> Grads {
    match &b.node.op {
        Op::Unary(f) => elementwise::unary(b, *f),
        Op::Binary(f) => elementwise::binary(b, *f),
        Op::Select => elementwise::select(b),
        Op::Cast(_) => elementwise::cast(b),
        Op::Reduce { kind, axes, .. } => reduce::reduce(b, *kind, axes),
        Op::CumSum { axis, exclusive, reverse } => reduce::cum_sum(b, *axis, *exclusive, *reverse),
        Op::TopK { axis, .. } => reduce::top_k(b, *axis),
        Op::Permute { perm } => movement::permute(b, perm),
        Op::Reshape { .. } => movement::reshape(b),
        Op::Expand { .. } => movement::expand(b),
        Op::Slice { ranges } => movement::slice(b, ranges),
        Op::Concat { axis } => movement::concat(b, *axis),
        Op::Pad { before, after, mode } => movement::pad(b, before, after, *mode),
        Op::Gather { axis } => index::gather(b, *axis),
        Op::GatherGrad { axis, .. } => index::gather_grad(b, *axis),
        Op::GatherElements { axis } => index::gather_elements(b, *axis),
        Op::ScatterElements { axis, reduction } => index::scatter_elements(b, *axis, *reduction),
        Op::GatherNd { batch_dims } => index::gather_nd(b, *batch_dims),
        Op::ScatterNd { reduction } => index::scatter_nd(b, *reduction),
        Op::MatMul { trans_a, trans_b } => matmul::matmul(b, *trans_a, *trans_b),
        Op::Conv(spec) => conv::conv(b, spec),
        Op::ConvTranspose { spec, .. } => conv::conv_transpose(b, spec),
        Op::ConvWeightGrad { spec, .. } => conv::conv_weight_grad(b, spec),
        Op::Pool { kind, spec } => pool::pool(b, *kind, spec),
        Op::PoolGrad { kind, spec } => pool::pool_grad(b, *kind, spec),
        Op::Softmax { axis } => norm::softmax(b, *axis),
        Op::LogSoftmax { axis } => norm::log_softmax(b, *axis),
        Op::BatchNorm { eps, .. } => norm::batch_norm(b, eps.0),
        Op::BatchNormTrain { eps } => norm::batch_norm_train(b, *eps),
        Op::LayerNorm { axis, eps } => norm::layer_norm(b, *axis, *eps),
        Op::RmsNorm { axis, eps } => norm::rms_norm(b, *axis, eps.0),
        Op::GroupNorm { groups, eps } => norm::group_norm(b, *groups, eps.0),
        Op::Attention { scale, causal } => attention::attention(b, *scale, *causal),
        Op::Lstm { direction, .. } => recurrent::lstm(b, *direction),
        Op::Gru { .. } => {
            b.fail("its steps are written out one by one, and their number is not known; bind the sequence length")
        }
        Op::Dequantize(scheme) => quant::dequantize(b, scheme),
        Op::FakeQuant(scheme) => quant::fake_quant(b, scheme),
        Op::AllReduce => all_reduce(b),
        Op::BatchNormGrad { .. } | Op::LayerNormGrad { .. } | Op::AttentionGrad { .. } | Op::LstmGrad { .. } => {
            b.fail("it is itself a derivative, and second derivatives of it are not defined")
        }
        Op::If { .. } => b.fail("control flow is not differentiable; export the model with the branch folded"),
        Op::Machine(_) => b.fail("differentiate before lowering"),
        // Integer or Bool results, results that depend on no float operand, and what stops gradients: the walk never gets here.
        Op::Compare(_)
        | Op::StopGradient
        | Op::ArgReduce { .. }
        | Op::OneHot { .. }
        | Op::Iota { .. }
        | Op::DimValues { .. }
        | Op::NonZero { .. }
        | Op::Random { .. }
        | Op::Quantize(_)
        | Op::DynamicQuantize => Ok(vec![None; b.node.inputs.len()]),
    }
}

/// The gradient `v` summed over the axes along which an operand of `shape` was broadcast, and broadcast where it has extent 1.
pub(crate) fn sum_to(s: &mut Scope<'_>, v: ValueId, shape: &[Dim]) -> Result<ValueId, GradError> {
    let from = s.fact(v).shape;
    if from == shape {
        return Ok(v);
    }
    let lead = from.len().saturating_sub(shape.len());
    let offset = shape.len().saturating_sub(from.len());
    let summed = |i: usize| i < lead || (shape[i + offset - lead].is(1) && !from[i].is(1));
    let axes: Vec<usize> = (0..from.len()).filter(|&i| summed(i)).collect();
    let mut out = v;
    if !axes.is_empty() {
        out = if lead == 0 { s.reduce_keep(Reduction::Sum, v, &axes)? } else { s.reduce(Reduction::Sum, v, &axes)? };
        let kept = (lead..from.len()).map(|i| if summed(i) { Dim::Const(1) } else { from[i].clone() });
        out = s.reshape(out, &kept.collect::<Vec<_>>())?;
    } else if lead > 0 {
        out = s.reshape(out, &from[lead..])?;
    }
    Ok(s.expand(out, shape)?)
}

/// AllReduce sums over ranks; each rank's operand reaches the loss of every rank.
fn all_reduce(b: &mut Vjp<'_, '_>) -> Grads {
    let present: Vec<ValueId> = b.dys.iter().copied().flatten().collect();
    let mut reduced = b.s.ops(Op::AllReduce, &present)?.into_iter();
    Ok(b.dys.iter().map(|dy| dy.and_then(|_| reduced.next())).collect())
}

impl Vjp<'_, '_> {
    /// Operand `i`.
    pub(crate) fn x(&self, i: usize) -> ValueId {
        self.node.inputs[i]
    }

    /// Result `i`.
    pub(crate) fn y(&self, i: usize) -> ValueId {
        self.node.outputs[i]
    }

    /// Fact of operand `i`.
    pub(crate) fn x_fact(&self, i: usize) -> Fact {
        self.s.fact(self.x(i))
    }

    /// The gradient of the only result, or of one that must be there.
    pub(crate) fn dy(&self) -> ValueId {
        self.dys[0].expect("the walk visits a node only with a gradient of a result")
    }

    /// The gradient of result `i`, zeros when nothing reads it.
    pub(crate) fn dy_or_zeros(&mut self, i: usize) -> Result<ValueId, GradError> {
        match self.dys[i] {
            Some(dy) => Ok(dy),
            None => self.zeros_like(self.y(i)),
        }
    }

    /// Zeros with the fact of `v`.
    pub(crate) fn zeros_like(&mut self, v: ValueId) -> Result<ValueId, GradError> {
        let (zero, shape) = (self.s.scalar_like(v, 0.0), self.s.fact(v).shape);
        Ok(self.s.expand(zero, &shape)?)
    }

    /// Whether operand `i` exists and its gradient is wanted.
    pub(crate) fn wants(&self, i: usize) -> bool {
        self.wanted.get(i).copied().unwrap_or(false)
    }

    /// `f` when operand `i`'s gradient is wanted.
    pub(crate) fn when(
        &mut self,
        i: usize,
        f: impl FnOnce(&mut Self) -> Result<ValueId, GradError>,
    ) -> Result<Option<ValueId>, GradError> {
        if self.wants(i) { f(self).map(Some) } else { Ok(None) }
    }

    /// a · b; a factor that is the number 1 disappears, and one that is an `Expand` is read before it is expanded.
    pub(crate) fn mul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, GradError> {
        for (one, other) in [(a, b), (b, a)] {
            if self.is_one(one) {
                return Ok(other);
            }
        }
        let (a, b) = (self.thin(a, b), self.thin(b, a));
        Ok(self.s.mul(a, b)?)
    }

    /// `v`, or what it was expanded from where broadcasting against `other` gives the same shape.
    pub(crate) fn thin(&self, v: ValueId, other: ValueId) -> ValueId {
        let graph = &self.s.graph;
        let Some(node) = graph.producer(v).map(|n| graph.node(n)) else { return v };
        let source = node.inputs.first().copied().unwrap_or(v);
        let same =
            || broadcast(&graph.fact(source).shape, &graph.fact(other).shape).is_ok_and(|s| s == graph.fact(v).shape);
        if matches!(node.op, Op::Expand { .. }) && same() { source } else { v }
    }

    /// `dy` where the condition holds, else 0.
    pub(crate) fn where_else_zero(&mut self, condition: ValueId, dy: ValueId) -> Result<ValueId, GradError> {
        let (dy, zero) = (self.thin(dy, condition), self.s.scalar_like(dy, 0.0));
        Ok(self.s.select(condition, dy, zero)?)
    }

    /// Number of elements of a block of `dims`, as a scalar of the dtype of `like`.
    pub(crate) fn count(&mut self, dims: &[Dim], like: ValueId) -> Result<ValueId, GradError> {
        let product = Dim::product(dims);
        if let Some(n) = product.as_const() {
            return Ok(self.s.scalar_like(like, n as f64));
        }
        let n = self.s.op(Op::DimValues { dims: vec![product] }, &[])?;
        let n = self.s.reshape(n, &[])?;
        let dtype = self.s.fact(like).dtype;
        Ok(self.s.cast(n, dtype)?)
    }

    /// The error that this node has no derivative.
    pub(crate) fn fail<T>(&self, why: &str) -> Result<T, GradError> {
        let (node, op) = (self.node.name.clone(), self.node.op.name());
        Err(GradError::NoDerivative { node, op, why: why.into() })
    }

    fn is_one(&self, v: ValueId) -> bool {
        self.s.graph.as_const(v).is_some_and(|t| t.rank() == 0 && t.to_f64s() == [1.0])
    }
}
