//! Writing graph fragments as formulas: `let y = s.relu(s.add(x, b)?)?`.

use crate::{Binary, Compare, ConvSpec, Dim, Fact, Graph, IrError, Op, Reduction, SliceRange, Unary, ValueId};
use penjing_tensor::{DType, Tensor};

/// A graph under construction and the prefix that new node names get.
pub struct Scope<'a> {
    /// The graph that nodes are added to.
    pub graph: &'a mut Graph,
    prefix: String,
}

type Built = Result<ValueId, IrError>;

impl<'a> Scope<'a> {
    /// New nodes are called `<prefix>/<Op>`.
    pub fn new(graph: &'a mut Graph, prefix: &str) -> Scope<'a> {
        Scope { graph, prefix: prefix.into() }
    }

    /// Changes the prefix of the nodes that follow.
    pub fn set_prefix(&mut self, prefix: &str) {
        self.prefix = prefix.into();
    }

    /// Adds any op; the first output.
    pub fn op(&mut self, op: Op, inputs: &[ValueId]) -> Built {
        let name =
            if self.prefix.is_empty() { op.name().to_string() } else { format!("{}/{}", self.prefix, op.name()) };
        self.graph.apply(&name, op, inputs)
    }

    /// Adds any op; all outputs.
    pub fn ops(&mut self, op: Op, inputs: &[ValueId]) -> Result<Vec<ValueId>, IrError> {
        let first = self.op(op, inputs)?;
        let node = self.graph.producer(first).expect("a value that `op` returned is a node's output");
        Ok(self.graph.node(node).outputs.clone())
    }

    /// Dtype and shape of a value.
    pub fn fact(&self, v: ValueId) -> Fact {
        self.graph.fact(v).clone()
    }

    /// A scalar constant of the dtype of `like`.
    pub fn scalar_like(&mut self, like: ValueId, value: f64) -> ValueId {
        let dtype = self.graph.fact(like).dtype;
        self.scalar(dtype, value)
    }

    /// A scalar constant.
    pub fn scalar(&mut self, dtype: DType, value: f64) -> ValueId {
        self.graph.add_const(Tensor::scalar(value).cast(dtype))
    }

    /// A constant tensor.
    pub fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.graph.add_const(tensor)
    }

    /// A unary function.
    pub fn unary(&mut self, f: Unary, x: ValueId) -> Built {
        self.op(Op::Unary(f), &[x])
    }

    /// A binary function; operands broadcast.
    pub fn binary(&mut self, f: Binary, a: ValueId, b: ValueId) -> Built {
        self.op(Op::Binary(f), &[a, b])
    }

    /// a + b.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Built {
        self.binary(Binary::Add, a, b)
    }

    /// a − b.
    pub fn sub(&mut self, a: ValueId, b: ValueId) -> Built {
        self.binary(Binary::Sub, a, b)
    }

    /// a · b.
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Built {
        self.binary(Binary::Mul, a, b)
    }

    /// a / b.
    pub fn div(&mut self, a: ValueId, b: ValueId) -> Built {
        self.binary(Binary::Div, a, b)
    }

    /// x · k for a number k.
    pub fn scale(&mut self, x: ValueId, k: f64) -> Built {
        let k = self.scalar_like(x, k);
        self.mul(x, k)
    }

    /// x + k for a number k.
    pub fn shift(&mut self, x: ValueId, k: f64) -> Built {
        let k = self.scalar_like(x, k);
        self.add(x, k)
    }

    /// A comparison; `Bool`.
    pub fn compare(&mut self, f: Compare, a: ValueId, b: ValueId) -> Built {
        self.op(Op::Compare(f), &[a, b])
    }

    /// `a` where the condition holds, else `b`.
    pub fn select(&mut self, condition: ValueId, a: ValueId, b: ValueId) -> Built {
        self.op(Op::Select, &[condition, a, b])
    }

    /// Converts the dtype; no node when it is that already.
    pub fn cast(&mut self, x: ValueId, dtype: DType) -> Built {
        if self.graph.fact(x).dtype == dtype { Ok(x) } else { self.op(Op::Cast(dtype), &[x]) }
    }

    /// A reduction that keeps the reduced axes with extent 1.
    pub fn reduce_keep(&mut self, kind: Reduction, x: ValueId, axes: &[usize]) -> Built {
        self.op(Op::Reduce { kind, axes: axes.to_vec(), keep: true }, &[x])
    }

    /// A reduction that drops the reduced axes.
    pub fn reduce(&mut self, kind: Reduction, x: ValueId, axes: &[usize]) -> Built {
        self.op(Op::Reduce { kind, axes: axes.to_vec(), keep: false }, &[x])
    }

    /// The same elements under another shape; no node when it is that already.
    pub fn reshape(&mut self, x: ValueId, shape: &[Dim]) -> Built {
        if self.graph.fact(x).shape == shape { Ok(x) } else { self.op(Op::Reshape { shape: shape.to_vec() }, &[x]) }
    }

    /// Broadcast to `shape`; no node when it is that already.
    pub fn expand(&mut self, x: ValueId, shape: &[Dim]) -> Built {
        if self.graph.fact(x).shape == shape { Ok(x) } else { self.op(Op::Expand { shape: shape.to_vec() }, &[x]) }
    }

    /// Axes in another order; no node when the order is the old one.
    pub fn permute(&mut self, x: ValueId, perm: &[usize]) -> Built {
        if perm.iter().enumerate().all(|(i, &p)| i == p) {
            return Ok(x);
        }
        self.op(Op::Permute { perm: perm.to_vec() }, &[x])
    }

    /// Indices `start..start+len` of one axis; the others whole.
    pub fn slice(&mut self, x: ValueId, axis: usize, start: impl Into<Dim>, len: impl Into<Dim>) -> Built {
        let mut ranges: Vec<SliceRange> = self.graph.fact(x).shape.iter().map(SliceRange::full).collect();
        if let Some(r) = ranges.get_mut(axis) {
            *r = SliceRange::span(start, len);
        }
        self.op(Op::Slice { ranges }, &[x])
    }

    /// Joined along an axis.
    pub fn concat(&mut self, xs: &[ValueId], axis: usize) -> Built {
        self.op(Op::Concat { axis }, xs)
    }

    /// a · b over the last two axes.
    pub fn matmul(&mut self, a: ValueId, b: ValueId) -> Built {
        self.op(Op::MatMul { trans_a: false, trans_b: false }, &[a, b])
    }

    /// Convolution; `bias` has one element for each output channel.
    pub fn conv(&mut self, x: ValueId, w: ValueId, bias: Option<ValueId>, spec: ConvSpec) -> Built {
        let inputs: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
        self.op(Op::Conv(spec), &inputs)
    }

    /// x · wᵀ + bias as PyTorch's Linear: w is [out, in].
    pub fn linear(&mut self, x: ValueId, w: ValueId, bias: Option<ValueId>) -> Built {
        let y = self.op(Op::MatMul { trans_a: false, trans_b: true }, &[x, w])?;
        match bias {
            Some(b) => self.add(y, b),
            None => Ok(y),
        }
    }

    /// max(x, 0).
    pub fn relu(&mut self, x: ValueId) -> Built {
        self.unary(Unary::Relu, x)
    }
}
