//! Patterns that read as the formula they look for: `x() * sigmoid(x())`.
//!
//! A pattern is matched against a value and what produces it. Commutative operands match in either order, and a [`product`]
//! matches whatever way its factors are associated. A name that occurs twice must stand for the same value.

use penjing_ir::{Binary, Op, Reduction, Unary};
use std::sync::Arc;

/// A formula with named holes.
#[derive(Clone)]
pub struct Pattern(pub(crate) Arc<Kind>);

pub(crate) enum Kind {
    Any(&'static str),
    Constant(&'static str),
    Number(f64),
    NamedNumber(&'static str),
    Node { accepts: Accepts, inputs: Vec<Pattern>, commutative: bool },
    Product { factors: Vec<Pattern>, coefficient: Coefficient },
    OneOf(Vec<Pattern>),
    Named(&'static str, Pattern),
    Shared(Pattern),
}

pub(crate) enum Accepts {
    Exactly(Op),
    Where(fn(&Op) -> bool),
}

/// The constant factor of a [`product`].
#[derive(Clone, Copy)]
pub enum Coefficient {
    /// This number, to a relative 1e-5.
    Is(f64),
    /// Any number, found under the name; 1 where there is no constant factor.
    Named(&'static str),
}

/// Any value, found under `name`.
pub fn any(name: &'static str) -> Pattern {
    Pattern::of(Kind::Any(name))
}

/// A constant, found under `name`.
pub fn constant(name: &'static str) -> Pattern {
    Pattern::of(Kind::Constant(name))
}

/// A constant whose every element is this number, to a relative 1e-5 (exporters write √2 with few digits).
pub fn number(value: f64) -> Pattern {
    Pattern::of(Kind::Number(value))
}

/// A constant whose elements are all the same number, found under `name`.
pub fn any_number(name: &'static str) -> Pattern {
    Pattern::of(Kind::NamedNumber(name))
}

/// The first result of a node whose op `accepts` and whose operands match `inputs`, all of them.
pub fn node(accepts: fn(&Op) -> bool, inputs: impl IntoIterator<Item = Pattern>) -> Pattern {
    Pattern::of(Kind::Node {
        accepts: Accepts::Where(accepts),
        inputs: inputs.into_iter().collect(),
        commutative: false,
    })
}

/// A unary function.
pub fn unary(f: Unary, x: Pattern) -> Pattern {
    Pattern::of(Kind::Node { accepts: Accepts::Exactly(Op::Unary(f)), inputs: vec![x], commutative: false })
}

/// A binary function, its operands in either order when it is commutative.
pub fn binary(f: Binary, a: Pattern, b: Pattern) -> Pattern {
    Pattern::of(Kind::Node {
        accepts: Accepts::Exactly(Op::Binary(f)),
        inputs: vec![a, b],
        commutative: f.is_commutative(),
    })
}

/// Arithmetic mean over some axes that stay with extent 1.
pub fn mean_keep(x: Pattern) -> Pattern {
    node(|op| matches!(op, Op::Reduce { kind: Reduction::Mean, keep: true, .. }), [x])
}

/// The product of `factors` and a constant, however the multiplications are nested; divisions by a constant and negations
/// count as constant factors.
pub fn product(coefficient: Coefficient, factors: impl IntoIterator<Item = Pattern>) -> Pattern {
    Pattern::of(Kind::Product { factors: factors.into_iter().collect(), coefficient })
}

/// The first of several patterns that matches.
pub fn one_of(patterns: impl IntoIterator<Item = Pattern>) -> Pattern {
    Pattern::of(Kind::OneOf(patterns.into_iter().collect()))
}

impl Pattern {
    /// Makes the matched value available under `name`.
    pub fn named(self, name: &'static str) -> Pattern {
        Pattern::of(Kind::Named(name, self))
    }

    /// Allows the matched value to be read outside the match as well; it then stays when the rest is replaced.
    pub fn shared(self) -> Pattern {
        Pattern::of(Kind::Shared(self))
    }

    fn of(kind: Kind) -> Pattern {
        Pattern(Arc::new(kind))
    }
}

macro_rules! operator {
    ($($trait:ident $method:ident $op:ident),*) => { $(
        impl std::ops::$trait for Pattern {
            type Output = Pattern;

            fn $method(self, other: Pattern) -> Pattern {
                binary(Binary::$op, self, other)
            }
        }

        impl std::ops::$trait<f64> for Pattern {
            type Output = Pattern;

            fn $method(self, other: f64) -> Pattern {
                binary(Binary::$op, self, number(other))
            }
        }
    )* };
}
operator!(Add add Add, Sub sub Sub, Mul mul Mul, Div div Div);
