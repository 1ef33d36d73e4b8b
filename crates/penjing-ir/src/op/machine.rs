//! Ops of the Machine stage: what lowering fuses canonical ops into. Passes over Canonical graphs never see them.

use super::{Binary, Compare, ConvSpec, PoolKind, PoolSpec, QuantScheme, Real, Unary};

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

/// A fused operation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum MachineOp {
    /// (x0, x1, …: F32) → their broadcast, computed by the instructions in one pass over memory.
    Chain(Vec<ChainInstr>),
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
    /// (a, b, bias: [N], optional residual of the output's shape) → act(MatMul + bias + residual).
    MatMul {
        /// a is stored transposed.
        trans_a: bool,
        /// b is stored transposed.
        trans_b: bool,
        /// Applied last.
        act: Activation,
    },
    /// (x: int8, x scale, x zero point, w: I8, w scale: [O], bias: F32 [O], then with `out`: out scale, out zero point) →
    /// act((Σ (x − zx)·w)·sx·sw + bias), as F32, or requantised by `out`.
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
}

impl MachineOp {
    /// Name in plans and profiles.
    pub fn name(&self) -> &'static str {
        match self {
            MachineOp::Chain(_) => "machine.Chain",
            MachineOp::Conv { .. } => "machine.Conv",
            MachineOp::Pool { kind: PoolKind::Max, .. } => "machine.MaxPool",
            MachineOp::Pool { kind: PoolKind::Average { .. }, .. } => "machine.AveragePool",
            MachineOp::MatMul { .. } => "machine.MatMul",
            MachineOp::QConv { .. } => "machine.QConv",
            MachineOp::QMatMul { .. } => "machine.QMatMul",
        }
    }
}
