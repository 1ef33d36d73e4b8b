//! Elementwise operations.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

/// A float attribute that compares and hashes by its bits.
#[derive(Clone, Copy)]
pub struct Real(pub f64);

impl PartialEq for Real {
    fn eq(&self, other: &Real) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Real {}

impl Hash for Real {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

impl fmt::Debug for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Functions of one element. Float in, float out, unless the comment says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Unary {
    /// −x (floats and signed integers).
    Neg,
    /// |x| (all numbers).
    Abs,
    /// eˣ.
    Exp,
    /// Natural logarithm.
    Log,
    /// Square root.
    Sqrt,
    /// 1/x.
    Recip,
    /// Sine.
    Sin,
    /// Cosine.
    Cos,
    /// Tangent.
    Tan,
    /// Arc sine.
    Asin,
    /// Arc cosine.
    Acos,
    /// Arc tangent.
    Atan,
    /// Hyperbolic sine.
    Sinh,
    /// Hyperbolic cosine.
    Cosh,
    /// Hyperbolic tangent.
    Tanh,
    /// Inverse hyperbolic sine.
    Asinh,
    /// Inverse hyperbolic cosine.
    Acosh,
    /// Inverse hyperbolic tangent.
    Atanh,
    /// Gauss error function.
    Erf,
    /// 1/(1+e⁻ˣ).
    Sigmoid,
    /// max(x, 0) (all numbers).
    Relu,
    /// Largest integer not above x.
    Floor,
    /// Smallest integer not below x.
    Ceil,
    /// Nearest integer, halves to even.
    Round,
    /// −1, 0 or 1 (all numbers).
    Sign,
    /// Logical negation of `Bool`.
    Not,
    /// Bitwise negation of integers.
    BitNot,
    /// Float → `Bool`.
    IsNan,
    /// Float → `Bool`; which signs count is told by the two flags.
    IsInf {
        /// Detect +∞.
        positive: bool,
        /// Detect −∞.
        negative: bool,
    },
    /// ln(1+eˣ).
    Softplus,
    /// x·Φ(x), exact (Hendrycks & Gimpel 2016).
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// x·sigmoid(x).
    Silu,
    /// x·clamp(x/6+1/2, 0, 1).
    HardSwish,
    /// x for x ≥ 0, αx below.
    LeakyRelu(Real),
    /// x for x ≥ 0, α(eˣ−1) below.
    Elu(Real),
    /// clamp(αx+β, 0, 1).
    HardSigmoid {
        /// Slope.
        alpha: Real,
        /// Offset.
        beta: Real,
    },
}

impl Unary {
    /// Name in messages and text forms.
    pub fn name(self) -> &'static str {
        match self {
            Unary::Neg => "Neg",
            Unary::Abs => "Abs",
            Unary::Exp => "Exp",
            Unary::Log => "Log",
            Unary::Sqrt => "Sqrt",
            Unary::Recip => "Recip",
            Unary::Sin => "Sin",
            Unary::Cos => "Cos",
            Unary::Tan => "Tan",
            Unary::Asin => "Asin",
            Unary::Acos => "Acos",
            Unary::Atan => "Atan",
            Unary::Sinh => "Sinh",
            Unary::Cosh => "Cosh",
            Unary::Tanh => "Tanh",
            Unary::Asinh => "Asinh",
            Unary::Acosh => "Acosh",
            Unary::Atanh => "Atanh",
            Unary::Erf => "Erf",
            Unary::Sigmoid => "Sigmoid",
            Unary::Relu => "Relu",
            Unary::Floor => "Floor",
            Unary::Ceil => "Ceil",
            Unary::Round => "Round",
            Unary::Sign => "Sign",
            Unary::Not => "Not",
            Unary::BitNot => "BitNot",
            Unary::IsNan => "IsNan",
            Unary::IsInf { .. } => "IsInf",
            Unary::Softplus => "Softplus",
            Unary::Gelu => "Gelu",
            Unary::GeluTanh => "GeluTanh",
            Unary::Silu => "Silu",
            Unary::HardSwish => "HardSwish",
            Unary::LeakyRelu(_) => "LeakyRelu",
            Unary::Elu(_) => "Elu",
            Unary::HardSigmoid { .. } => "HardSigmoid",
        }
    }
}

/// Functions of two elements of one dtype.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Binary {
    /// Sum; integers wrap.
    Add,
    /// Difference; integers wrap.
    Sub,
    /// Product; integers wrap.
    Mul,
    /// Quotient; integers truncate toward zero, and division by zero gives 0.
    Div,
    /// a to the power b.
    Pow,
    /// The larger; NaN wins.
    Max,
    /// The smaller; NaN wins.
    Min,
    /// Remainder with the sign of the divisor (Python).
    Mod,
    /// Remainder with the sign of the dividend (C).
    Fmod,
    /// Logical and of `Bool`.
    And,
    /// Logical or of `Bool`.
    Or,
    /// Logical exclusive or of `Bool`.
    Xor,
    /// Bitwise and of integers.
    BitAnd,
    /// Bitwise or of integers.
    BitOr,
    /// Bitwise exclusive or of integers.
    BitXor,
    /// a shifted left by b bits (unsigned integers).
    Shl,
    /// a shifted right by b bits (unsigned integers).
    Shr,
}

impl Binary {
    /// Name in messages and text forms.
    pub fn name(self) -> &'static str {
        match self {
            Binary::Add => "Add",
            Binary::Sub => "Sub",
            Binary::Mul => "Mul",
            Binary::Div => "Div",
            Binary::Pow => "Pow",
            Binary::Max => "Max",
            Binary::Min => "Min",
            Binary::Mod => "Mod",
            Binary::Fmod => "Fmod",
            Binary::And => "And",
            Binary::Or => "Or",
            Binary::Xor => "Xor",
            Binary::BitAnd => "BitAnd",
            Binary::BitOr => "BitOr",
            Binary::BitXor => "BitXor",
            Binary::Shl => "Shl",
            Binary::Shr => "Shr",
        }
    }

    /// True when swapping the operands changes nothing.
    pub fn is_commutative(self) -> bool {
        use Binary::{Add, And, BitAnd, BitOr, BitXor, Max, Min, Mul, Or, Xor};
        matches!(self, Add | Mul | Max | Min | And | Or | Xor | BitAnd | BitOr | BitXor)
    }
}

/// Comparisons; the others are these with operands swapped or negated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Compare {
    /// a = b (also `Bool`).
    Equal,
    /// a < b.
    Less,
    /// a ≤ b.
    LessEqual,
}

impl Compare {
    /// Name in messages and text forms.
    pub fn name(self) -> &'static str {
        match self {
            Compare::Equal => "Equal",
            Compare::Less => "Less",
            Compare::LessEqual => "LessEqual",
        }
    }
}
