//! The closed set of operations. Values compare, hash and print; every analysis is one exhaustive `match`.
//!
//! Canonical ops have one spelling for each idea: no `Identity`, `Squeeze` or `Flatten` (all `Reshape`), no `Split` (`Slice`s),
//! no `Greater` (swapped `Less`), no `Clip` (`Min` of `Max`), no linear layer (`MatMul` and `Add`). Everything that shapes depend on is
//! an attribute, so types and shapes never depend on data, except through late symbols.

mod conv;
mod elementwise;
mod index;
mod machine;
mod movement;
mod norm;
mod pool;
mod quant;
mod recurrent;
mod reduce;

pub use conv::{ConvSpec, conv_extent, conv_transpose_extent};
pub use elementwise::{Binary, Compare, Real, Unary};
pub use index::{RandomKind, ScatterReduction};
pub use machine::{
    Activation, AttentionSpec, ChainInstr, HeadLayout, Layout, MachineOp, chain_operands, images, residual_operands,
};
pub use movement::{PadMode, SliceRange};
pub use norm::Eps;
pub use pool::{PoolKind, PoolSpec, pool_extent};
pub use quant::QuantScheme;
pub use recurrent::{Direction, Reset};
pub use reduce::{ArgKind, Reduction};

use crate::{BodyId, Dim, Symbol};
use penjing_tensor::DType;

/// One operation with its attributes. Operand order and shapes stand at each variant.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    // ---- elementwise ----
    /// (x) → same shape and dtype (`Bool` for the predicates `IsNan` and `IsInf`).
    Unary(Unary),
    /// (a, b) of one dtype → their NumPy broadcast.
    Binary(Binary),
    /// (a, b) of one dtype → `Bool`, broadcast.
    Compare(Compare),
    /// (condition: Bool, a, b) → `a` where true, else `b`; all three broadcast.
    Select,
    /// (x) → converted as by `Tensor::cast`.
    Cast(DType),
    /// (x) → x; its derivative is zero.
    StopGradient,

    // ---- reduce ----
    /// (x) → reduced over `axes` (sorted, distinct; none: over nothing). `keep` leaves them with extent 1.
    Reduce {
        /// What is computed.
        kind: Reduction,
        /// Axes that are reduced.
        axes: Vec<usize>,
        /// Whether reduced axes stay with extent 1.
        keep: bool,
    },
    /// (x) → I64 index of the extreme along `axis`; `last` picks the last of equal ones.
    ArgReduce {
        /// Largest or smallest.
        kind: ArgKind,
        /// The axis searched.
        axis: usize,
        /// Whether the axis stays with extent 1.
        keep: bool,
        /// Take the last of several equal extremes.
        last: bool,
    },
    /// (x) → running sum along `axis`.
    CumSum {
        /// The axis summed along.
        axis: usize,
        /// Leave the element itself out.
        exclusive: bool,
        /// Sum from the end.
        reverse: bool,
    },
    /// (x) → (values, indices: I64), both with `k` elements along `axis`, sorted; ties keep the lower index first.
    TopK {
        /// The axis searched.
        axis: usize,
        /// How many.
        k: Dim,
        /// Largest, or else smallest.
        largest: bool,
    },

    // ---- movement ----
    /// (x) → output axis i is input axis `perm[i]`.
    Permute {
        /// A permutation of the axes.
        perm: Vec<usize>,
    },
    /// (x) → the same elements in row-major order under `shape`.
    Reshape {
        /// The new shape, fully known up to symbols.
        shape: Vec<Dim>,
    },
    /// (x) → broadcast to `shape` by the NumPy rule; `shape` is the whole result shape.
    Expand {
        /// The result shape.
        shape: Vec<Dim>,
    },
    /// (x) → one strided range per axis.
    Slice {
        /// A range for each axis of x.
        ranges: Vec<SliceRange>,
    },
    /// (x0, x1, …) → joined along `axis`; at least one operand.
    Concat {
        /// The axis joined along.
        axis: usize,
    },
    /// (x) → `before[i]` and `after[i]` elements added to axis i.
    Pad {
        /// Elements added at the start of each axis.
        before: Vec<usize>,
        /// Elements added at the end of each axis.
        after: Vec<usize>,
        /// What the new elements are.
        mode: PadMode,
    },

    // ---- index ----
    /// (data, indices: I64) → `data.shape[..axis] ++ indices.shape ++ data.shape[axis+1..]`. Negative indices count from the end.
    Gather {
        /// The axis of data that is indexed.
        axis: usize,
    },
    /// (indices: I64, d: as Gather's output) → gradient of `Gather` for data whose `axis` has extent `size`: rows summed.
    GatherGrad {
        /// The axis that was indexed.
        axis: usize,
        /// Its extent in data.
        size: Dim,
    },
    /// (data, indices: I64 of data's rank) → shape of indices; `out[i][j] = data[indices[i][j]][j]` for axis 0.
    GatherElements {
        /// The axis indexed.
        axis: usize,
    },
    /// (data, indices: I64, updates: shape of indices) → data with updates written (or combined) at the indices along `axis`.
    ScatterElements {
        /// The axis indexed.
        axis: usize,
        /// How an update meets the old value.
        reduction: ScatterReduction,
    },
    /// (data, indices: I64 [.., k]) → ONNX GatherND with `batch_dims`.
    GatherNd {
        /// Leading axes that data and indices share.
        batch_dims: usize,
    },
    /// (data, indices: I64 [.., k], updates) → ONNX ScatterND.
    ScatterNd {
        /// How an update meets the old value.
        reduction: ScatterReduction,
    },
    /// (indices: I64) → 1 at the index, 0 elsewhere, along a new axis; an index outside −depth..depth gives zeros.
    OneHot {
        /// Where the new axis stands in the output.
        axis: usize,
        /// Extent of the new axis.
        depth: Dim,
        /// Dtype of the result.
        dtype: DType,
    },
    /// () → the index along `axis`, of shape `shape`; for a scalar shape, 0.
    Iota {
        /// The result shape.
        shape: Vec<Dim>,
        /// The axis counted along.
        axis: usize,
        /// Dtype of the result.
        dtype: DType,
    },
    /// () → I64 [dims.len()]: the values of dims as data.
    DimValues {
        /// The dims.
        dims: Vec<Dim>,
    },
    /// (x) → I64 [rank, count]: indices of the non-zero elements; `count` is late.
    NonZero {
        /// The late symbol.
        count: Symbol,
    },
    /// (step: I64 []) → F32 random numbers, a pure function of (seed, stream, step, element index); see `penjing_tensor::Rng`.
    Random {
        /// The distribution.
        kind: RandomKind,
        /// The result shape.
        shape: Vec<Dim>,
        /// The stream's seed.
        seed: u64,
        /// The stream's name.
        stream: String,
    },

    // ---- matmul ----
    /// (a: [.., M, K], b: [.., K, N]) → [.., M, N]; leading axes broadcast; ranks ≥ 2. `trans_a`: a is [.., K, M]; `trans_b`: b is [.., N, K].
    MatMul {
        /// a is stored transposed.
        trans_a: bool,
        /// b is stored transposed.
        trans_b: bool,
    },

    // ---- conv ----
    /// (x: [N, C, spatial..], w: [O, C/groups, kernel..], optional bias: [O]) → [N, O, spatial'..].
    Conv(ConvSpec),
    /// (x: [N, C, spatial..], w: [C, O/groups, kernel..], optional bias: [O]) → [N, O, spatial'..]. Without bias it is the input
    /// gradient of the `Conv` with the same spec and weight.
    ConvTranspose {
        /// Geometry of the convolution it transposes.
        spec: ConvSpec,
        /// Extra extent at the end of each spatial axis.
        output_pad: Vec<usize>,
    },
    /// (x: [N, C, spatial..], dy: [N, O, spatial'..]) → [O, C/groups, kernel..]: the weight gradient of `Conv`.
    ConvWeightGrad {
        /// Geometry of the convolution.
        spec: ConvSpec,
        /// Kernel extents.
        kernel: Vec<usize>,
    },

    // ---- pool ----
    /// (x: [N, C, spatial..]) → [N, C, spatial'..].
    Pool {
        /// Maximum or average.
        kind: PoolKind,
        /// Geometry.
        spec: PoolSpec,
    },
    /// (x, dy: as Pool's output) → gradient with the shape of x. A maximum's gradient goes to its first occurrence.
    PoolGrad {
        /// Maximum or average.
        kind: PoolKind,
        /// Geometry.
        spec: PoolSpec,
    },

    // ---- norm ----
    /// (x) → softmax along `axis`.
    Softmax {
        /// The normalised axis.
        axis: usize,
    },
    /// (x) → logarithm of softmax along `axis`.
    LogSoftmax {
        /// The normalised axis.
        axis: usize,
    },
    /// (x: [N, C, ..], scale: [C], bias: [C], mean: [C], var: [C]) → x normalised by the given statistics.
    BatchNorm {
        /// Added to the variance.
        eps: Eps,
        /// Weight of the old running statistics when trained (ONNX convention; PyTorch's is one minus this).
        momentum: Real,
    },
    /// (x: [N, C, ..], scale: [C], bias: [C]) → (y, mean: [C], biased variance: [C]) by x's own statistics, 0 where x is empty.
    BatchNormTrain {
        /// Added to the variance.
        eps: Eps,
    },
    /// (x, scale, mean, var, dy) → (dx, dscale, dbias) of `BatchNormTrain`'s first output.
    BatchNormGrad {
        /// Added to the variance.
        eps: Eps,
    },
    /// (x, scale, bias) → normalised over axes `axis..`; scale and bias have the shape `x.shape[axis..]`.
    LayerNorm {
        /// First normalised axis.
        axis: usize,
        /// Added to the variance.
        eps: Eps,
    },
    /// (x, scale, dy) → (dx, dscale, dbias) of `LayerNorm`.
    LayerNormGrad {
        /// First normalised axis.
        axis: usize,
        /// Added to the variance.
        eps: Eps,
    },
    /// (x, scale) → x / sqrt(mean(x²) + eps) · scale over axes `axis..`.
    RmsNorm {
        /// First normalised axis.
        axis: usize,
        /// Added to the mean square.
        eps: Eps,
    },
    /// (x: [N, C, ..], scale: [C], bias: [C]) → normalised over each of `groups` groups of channels; instance norm is groups = C.
    GroupNorm {
        /// Number of groups; divides C.
        groups: usize,
        /// Added to the variance.
        eps: Eps,
    },

    // ---- attention ----
    /// (q: [B, H, S, D], k: [B, G, T, D], v: [B, G, T, E], optional additive mask broadcastable to [B, H, S, T]) → [B, H, S, E].
    /// G divides H; head h reads key head h / (H/G). `causal`: position s sees t ≤ s + T − S.
    Attention {
        /// Multiplies q·k.
        scale: Real,
        /// Hide later positions.
        causal: bool,
    },
    /// (q: [B, H, S, D], k: [B, H, T, D], v: [B, H, T, E], dy: [B, H, S, E]) → (dq, dk, dv) of `Attention` without a mask.
    AttentionGrad {
        /// Multiplies q·k.
        scale: Real,
        /// Hide later positions.
        causal: bool,
    },

    // ---- recurrent ----
    /// (x: [T, B, I], w: [D, 4H, I], r: [D, 4H, H], b: [D, 8H], h0: [D, B, H], c0: [D, B, H]) → (y: [T, D, B, H], h: [D, B, H],
    /// c: [D, B, H]), gates in ONNX order i, o, f, c; D is 2 when bidirectional. With `reserve` a fourth output [T, D, B, 5H] holds
    /// the activated gates and the cell state for the backward pass.
    Lstm {
        /// Which way time runs.
        direction: Direction,
        /// Whether the fourth output exists.
        reserve: bool,
    },
    /// (x: [T, B, I], w: [D, 3H, I], r: [D, 3H, H], b: [D, 6H], h0: [D, B, H]) → (y: [T, D, B, H], h: [D, B, H]), gates in ONNX
    /// order z, r, h; h' = (1 − z)·candidate + z·h.
    Gru {
        /// Which way time runs.
        direction: Direction,
        /// What the reset gate multiplies.
        reset: Reset,
    },
    /// (x, w, r, h0, c0, y, reserve, dy, dh, dc) → (dx, dw, dr, db, dh0, dc0).
    LstmGrad {
        /// Which way time runs.
        direction: Direction,
    },

    // ---- quant ----
    /// (x: F32, scale: F32, zero point: scheme.dtype) → saturate(round_half_even(x / scale) + zero point).
    Quantize(QuantScheme),
    /// (q, scale: F32, zero point: as q) → (q − zero point) · scale as F32.
    Dequantize(QuantScheme),
    /// (x: F32, scale: F32, zero point: scheme.dtype) → Dequantize(Quantize(x)); straight-through derivative inside the range.
    FakeQuant(QuantScheme),
    /// (x: F32) → (q: U8, scale: F32 [], zero point: U8 []) on the grid of x's own range widened to hold 0: scale = (max − min) /
    /// 255, or 1 where that is 0; zero point = round_half_even(−min / scale) (ONNX DynamicQuantizeLinear).
    DynamicQuantize,

    // ---- collective ----
    /// (x0, x1, …) → each summed over all ranks; the operands travel as one bucket.
    AllReduce,

    // ---- control ----
    /// (condition: Bool [], captures..) → the outputs of the chosen body, whose inputs are the captures.
    If {
        /// Run when true.
        then_body: BodyId,
        /// Run when false.
        else_body: BodyId,
    },

    /// Only in the Machine stage: fused, packed, laid out for one target.
    Machine(MachineOp),
}

impl Op {
    /// The name used in messages, text forms and reports, e.g. `Conv`.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Unary(u) => u.name(),
            Op::Binary(b) => b.name(),
            Op::Compare(c) => c.name(),
            Op::Select => "Select",
            Op::Cast(_) => "Cast",
            Op::StopGradient => "StopGradient",
            Op::Reduce { kind, .. } => kind.name(),
            Op::ArgReduce { kind: ArgKind::Max, .. } => "ArgMax",
            Op::ArgReduce { kind: ArgKind::Min, .. } => "ArgMin",
            Op::CumSum { .. } => "CumSum",
            Op::TopK { .. } => "TopK",
            Op::Permute { .. } => "Permute",
            Op::Reshape { .. } => "Reshape",
            Op::Expand { .. } => "Expand",
            Op::Slice { .. } => "Slice",
            Op::Concat { .. } => "Concat",
            Op::Pad { .. } => "Pad",
            Op::Gather { .. } => "Gather",
            Op::GatherGrad { .. } => "GatherGrad",
            Op::GatherElements { .. } => "GatherElements",
            Op::ScatterElements { .. } => "ScatterElements",
            Op::GatherNd { .. } => "GatherNd",
            Op::ScatterNd { .. } => "ScatterNd",
            Op::OneHot { .. } => "OneHot",
            Op::Iota { .. } => "Iota",
            Op::DimValues { .. } => "DimValues",
            Op::NonZero { .. } => "NonZero",
            Op::Random { .. } => "Random",
            Op::MatMul { .. } => "MatMul",
            Op::Conv(_) => "Conv",
            Op::ConvTranspose { .. } => "ConvTranspose",
            Op::ConvWeightGrad { .. } => "ConvWeightGrad",
            Op::Pool { kind: PoolKind::Max, .. } => "MaxPool",
            Op::Pool { kind: PoolKind::Average { .. }, .. } => "AveragePool",
            Op::PoolGrad { kind: PoolKind::Max, .. } => "MaxPoolGrad",
            Op::PoolGrad { kind: PoolKind::Average { .. }, .. } => "AveragePoolGrad",
            Op::Softmax { .. } => "Softmax",
            Op::LogSoftmax { .. } => "LogSoftmax",
            Op::BatchNorm { .. } => "BatchNorm",
            Op::BatchNormTrain { .. } => "BatchNormTrain",
            Op::BatchNormGrad { .. } => "BatchNormGrad",
            Op::LayerNorm { .. } => "LayerNorm",
            Op::LayerNormGrad { .. } => "LayerNormGrad",
            Op::RmsNorm { .. } => "RmsNorm",
            Op::GroupNorm { .. } => "GroupNorm",
            Op::Attention { .. } => "Attention",
            Op::AttentionGrad { .. } => "AttentionGrad",
            Op::Lstm { .. } => "Lstm",
            Op::LstmGrad { .. } => "LstmGrad",
            Op::Gru { .. } => "Gru",
            Op::Quantize(_) => "Quantize",
            Op::Dequantize(_) => "Dequantize",
            Op::FakeQuant(_) => "FakeQuant",
            Op::DynamicQuantize => "DynamicQuantize",
            Op::AllReduce => "AllReduce",
            Op::If { .. } => "If",
            Op::Machine(m) => m.name(),
        }
    }

    /// The op with every dim attribute replaced by `map` of it.
    pub fn map_dims(&self, map: &mut dyn FnMut(&Dim) -> Dim) -> Op {
        let mut op = self.clone();
        match &mut op {
            Op::Reshape { shape } | Op::Expand { shape } | Op::Iota { shape, .. } | Op::Random { shape, .. } => {
                shape.iter_mut().for_each(|d| *d = map(d));
            }
            Op::DimValues { dims } => dims.iter_mut().for_each(|d| *d = map(d)),
            Op::Slice { ranges } => ranges.iter_mut().for_each(|r| {
                r.start = map(&r.start);
                r.len = map(&r.len);
            }),
            Op::TopK { k: d, .. } | Op::GatherGrad { size: d, .. } | Op::OneHot { depth: d, .. } => *d = map(d),
            _ => {}
        }
        op
    }

    /// The bodies that the op names.
    pub fn bodies(&self) -> Vec<BodyId> {
        match self {
            Op::If { then_body, else_body } => vec![*then_body, *else_body],
            _ => Vec::new(),
        }
    }
}
