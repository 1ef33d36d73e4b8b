//! Ops of the Machine stage: what lowering fuses canonical ops into. Passes over Canonical graphs never see them.

use super::{Binary, Compare, ConvSpec, Direction, Op, PoolKind, PoolSpec, QuantScheme, Real, Reset, Unary};
use penjing_tensor::DType;

/// The order of the axes of a value with channels.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Layout {
    /// [N, C, spatial..]: that of every canonical op.
    ChannelsFirst,
    /// [N, spatial.., C].
    ChannelsLast,
}

impl Layout {
    /// The permutation from [N, C, spatial..] to this layout, for a value of `rank` axes: axis i here is axis `perm[i]` there.
    pub fn from_first(self, rank: usize) -> Vec<usize> {
        match self {
            Layout::ChannelsLast if rank > 2 => [0].into_iter().chain(2..rank).chain([1]).collect(),
            _ => (0..rank).collect(),
        }
    }

    /// The inverse of [`Layout::from_first`].
    pub fn to_first(self, rank: usize) -> Vec<usize> {
        match self {
            Layout::ChannelsLast if rank > 2 => [0, rank - 1].into_iter().chain(1..rank - 1).collect(),
            _ => (0..rank).collect(),
        }
    }
}

/// What a fused kernel applies to each result before it is stored: nothing, limits, or a unary function that products have in
/// their epilogue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Activation {
    /// Nothing.
    None,
    /// max(x, 0).
    Relu,
    /// min(max(x, lo), hi).
    Clamp {
        /// Lower bound.
        lo: Real,
        /// Upper bound.
        hi: Real,
    },
    /// x·Φ(x), exact.
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// x·sigmoid(x).
    Silu,
    /// 1/(1+e⁻ˣ).
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
    /// x·clamp(x/6+1/2, 0, 1).
    HardSwish,
    /// clamp(αx+β, 0, 1).
    HardSigmoid {
        /// Slope.
        alpha: Real,
        /// Offset.
        beta: Real,
    },
}

impl Activation {
    /// The activation that is this unary function; `None` for functions that no epilogue has.
    pub fn of(f: Unary) -> Option<Activation> {
        Some(match f {
            Unary::Relu => Activation::Relu,
            Unary::Gelu => Activation::Gelu,
            Unary::GeluTanh => Activation::GeluTanh,
            Unary::Silu => Activation::Silu,
            Unary::Sigmoid => Activation::Sigmoid,
            Unary::Tanh => Activation::Tanh,
            Unary::HardSwish => Activation::HardSwish,
            Unary::HardSigmoid { alpha, beta } => Activation::HardSigmoid { alpha, beta },
            _ => return None,
        })
    }

    /// The unary function that this is; `None` for nothing and limits.
    pub fn unary(self) -> Option<Unary> {
        Some(match self {
            Activation::None | Activation::Clamp { .. } => return None,
            Activation::Relu => Unary::Relu,
            Activation::Gelu => Unary::Gelu,
            Activation::GeluTanh => Unary::GeluTanh,
            Activation::Silu => Unary::Silu,
            Activation::Sigmoid => Unary::Sigmoid,
            Activation::Tanh => Unary::Tanh,
            Activation::HardSwish => Unary::HardSwish,
            Activation::HardSigmoid { alpha, beta } => Unary::HardSigmoid { alpha, beta },
        })
    }
}

/// One instruction of a fused elementwise chain. Registers 0..n_inputs hold the operands; instruction i writes register
/// n_inputs + i; the last one is the result.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ChainInstr {
    /// A constant.
    Const(Real),
    /// A unary function of a register.
    Unary(Unary, u16),
    /// A binary function of two registers.
    Binary(Binary, u16, u16),
    /// A comparison of two registers: 1 or 0.
    Compare(Compare, u16, u16),
    /// `registers[1]` where `registers[0]` is not 0, else `registers[2]`.
    Select(u16, u16, u16),
}

/// Where the heads of an operand of attention stand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HeadLayout {
    /// [B, heads, positions, width], as canonical attention has them.
    Apart,
    /// [B, positions, columns], as a projection leaves them: head h is the columns from `first + h · width` on.
    Columns {
        /// Column of the first head.
        first: usize,
    },
}

/// Attention whose heads may be read and written where projections have them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AttentionSpec {
    /// Multiplies q·k.
    pub scale: Real,
    /// Hide later positions.
    pub causal: bool,
    /// Heads of q and of the result.
    pub heads: usize,
    /// Heads of k and v; divides `heads`.
    pub groups: usize,
    /// Elements of a query and a key.
    pub width: usize,
    /// Elements of a value and a result.
    pub value_width: usize,
    /// Of q.
    pub q: HeadLayout,
    /// Of k.
    pub k: HeadLayout,
    /// Of v.
    pub v: HeadLayout,
    /// Of the result, whose columns are heads · value_width.
    pub out: HeadLayout,
}

impl AttentionSpec {
    /// What canonical attention does with q [B, H, S, D], k [B, G, T, D] and v [B, G, T, E].
    pub fn canonical(scale: Real, causal: bool, [q, k, v]: [&[usize]; 3]) -> AttentionSpec {
        let apart = HeadLayout::Apart;
        AttentionSpec {
            scale,
            causal,
            heads: q[1],
            groups: k[1],
            width: q[3],
            value_width: v[3],
            q: apart,
            k: apart,
            v: apart,
            out: apart,
        }
    }
}

/// A fused operation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum MachineOp {
    /// (x0, x1, …: F32, or `Bool` read as 0 and 1) → their broadcast, computed by the instructions in one pass over memory.
    Chain(Vec<ChainInstr>),
    /// (x0, x1, …: each F32 or `Bool`, or int8 followed by its scale and zero point, then with `out`: out scale, out zero point) → their
    /// broadcast, computed by the instructions on the real values in one pass over memory, as F32 or on the grid of `out`.
    QChain {
        /// As of `Chain`; the registers 0.. are x0, x1, …
        code: Vec<ChainInstr>,
        /// The grid of the result; F32 when absent.
        out: Option<QuantScheme>,
    },
    /// (x, w: [O, C/groups, kernel..], bias: [O], optional residual of the output's shape) → act(Conv + bias + residual).
    Conv {
        /// Geometry.
        spec: ConvSpec,
        /// Applied last.
        act: Activation,
        /// Of x, residual and result; the weight's never changes.
        layout: Layout,
    },
    /// (x: [N, spatial.., C]) → [N, spatial'.., C]: `Pool` of channels that lie last.
    Pool {
        /// Maximum or average.
        kind: PoolKind,
        /// Geometry.
        spec: PoolSpec,
    },
    /// A canonical op whose images have their channels last, [N, spatial.., C]: see [`images`].
    Last(Box<Op>),
    /// (a, b, bias: [N], optional residual of the output's shape) → act(MatMul + bias + residual).
    MatMul {
        /// a is stored transposed.
        trans_a: bool,
        /// b is stored transposed.
        trans_b: bool,
        /// Applied last.
        act: Activation,
    },
    /// (q, k, v, optional additive mask broadcastable to [B, H, S, T]) → `Attention`, each operand in its layout.
    Attention(AttentionSpec),
    /// (x: int8, x scale, x zero point, w: I8, w scale: [O], bias: F32 [O], then perhaps a residual of the result's shape, F32 or
    /// int8 with its scale and zero point, then with `out`: out scale, out zero point) →
    /// act((Σ (x − zx)·w)·sx·sw + bias + residual), as F32, or requantised by `out`.
    QConv {
        /// Geometry.
        spec: ConvSpec,
        /// Applied before requantisation.
        act: Activation,
        /// The grid of the result; F32 when absent.
        out: Option<QuantScheme>,
        /// Of x and result; the weight's never changes.
        layout: Layout,
    },
    /// As `QConv` for x: [.., M, K], w: [K, N] (`trans_b`: [N, K]).
    QMatMul {
        /// w is stored transposed.
        trans_b: bool,
        /// Applied before requantisation.
        act: Activation,
        /// The grid of the result; F32 when absent.
        out: Option<QuantScheme>,
    },
    /// (x: int8, x scale, x zero point, then with `out`: out scale, out zero point) → (Σ (x − zx))·sx / n over the n elements along
    /// the axes, as F32, or on the grid of `out`.
    QMean {
        /// Sorted and distinct.
        axes: Vec<usize>,
        /// Keep the reduced axes with extent 1.
        keep: bool,
        /// The grid of the result; F32 when absent.
        out: Option<QuantScheme>,
    },
    /// (x: int8 [T, B, I], x scale, x zero point, w: I8 [D, 4H, I], w scale: [4H], r: I8 [D, 4H, H], r scale: [4H], b, h0, c0) →
    /// as `Lstm`, both products on integers. The hidden state that a step multiplies is on a grid, each batch row on that of its
    /// own range (`DynamicQuantize`); outputs are not rounded.
    QLstm {
        /// Which way time runs.
        direction: Direction,
    },
    /// (x: int8 [T, B, I], x scale, x zero point, w: I8 [D, 3H, I], w scale: [3H], r: I8 [D, 3H, H], r scale: [3H], b, h0) → as
    /// `Gru`, all products on integers. What a step multiplies, the hidden state or its product with the reset gate, is on a
    /// grid, each batch row on that of its own range (`DynamicQuantize`); outputs are not rounded.
    QGru {
        /// Which way time runs.
        direction: Direction,
        /// What the reset gate multiplies.
        reset: Reset,
    },
}

/// Which of the operands with these dtypes are x0, x1, … of a `QChain`. `None` when scales or zero points are missing.
pub fn chain_operands(dtypes: &[DType], out: Option<&QuantScheme>) -> Option<Vec<usize>> {
    let end = dtypes.len().checked_sub(if out.is_some() { 2 } else { 0 })?;
    let (mut found, mut at) = (Vec::new(), 0);
    while at < end {
        found.push(at);
        at += if matches!(dtypes[at], DType::I8 | DType::U8) { 3 } else { 1 };
    }
    (at == end).then_some(found)
}

/// Which operands and which results of an op are images, [N, C, spatial..], for the ops that [`MachineOp::Last`] takes; `None` for
/// every other op.
pub fn images(op: &Op) -> Option<(&'static [usize], &'static [usize])> {
    Some(match op {
        Op::ConvTranspose { .. } | Op::BatchNormTrain { .. } => (&[0], &[0]),
        Op::ConvWeightGrad { .. } => (&[0, 1], &[]),
        Op::PoolGrad { .. } => (&[0, 1], &[0]),
        Op::BatchNormGrad { .. } => (&[0, 4], &[0]),
        _ => return None,
    })
}

/// How many operands of an integer product are its residual's: 0 (none), 1 (F32) or 3 (int8, scale, zero point). They start at
/// operand 6. `None` when a product with this `out` never has `n` operands.
pub fn residual_operands(n: usize, out: Option<&QuantScheme>) -> Option<usize> {
    let residual = n.checked_sub(if out.is_some() { 8 } else { 6 })?;
    matches!(residual, 0 | 1 | 3).then_some(residual)
}

impl MachineOp {
    /// Name in plans and profiles.
    pub fn name(&self) -> &'static str {
        match self {
            MachineOp::Chain(_) => "machine.Chain",
            MachineOp::QChain { .. } => "machine.QChain",
            MachineOp::QLstm { .. } => "machine.QLstm",
            MachineOp::QGru { .. } => "machine.QGru",
            MachineOp::Conv { .. } => "machine.Conv",
            MachineOp::Pool { kind: PoolKind::Max, .. } => "machine.MaxPool",
            MachineOp::Pool { kind: PoolKind::Average { .. }, .. } => "machine.AveragePool",
            MachineOp::MatMul { .. } => "machine.MatMul",
            MachineOp::Attention(_) => "machine.Attention",
            MachineOp::QConv { .. } => "machine.QConv",
            MachineOp::QMatMul { .. } => "machine.QMatMul",
            MachineOp::QMean { .. } => "machine.QMean",
            MachineOp::Last(op) => match **op {
                Op::ConvTranspose { .. } => "machine.ConvTranspose",
                Op::ConvWeightGrad { .. } => "machine.ConvWeightGrad",
                Op::PoolGrad { kind: PoolKind::Max, .. } => "machine.MaxPoolGrad",
                Op::PoolGrad { kind: PoolKind::Average { .. }, .. } => "machine.AveragePoolGrad",
                Op::BatchNormTrain { .. } => "machine.BatchNormTrain",
                Op::BatchNormGrad { .. } => "machine.BatchNormGrad",
                _ => "machine.Last",
            },
        }
    }
}
