//! Symbolic dimensions: integer polynomials over named symbols, with `floor_div`, `max` and `min` as opaque atoms.
//!
//! Two dims that are equal as polynomials compare equal, which is what shape inference needs; anything harder has to be bound
//! to a number first.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// The name of a dimension that is not known when the graph is built, e.g. `N`.
///
/// A *late* symbol (made by ops such as `NonZero`) is known only after its node has run.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Symbol {
    /// Shown in text forms and written to ONNX as `dim_param`.
    pub name: Arc<str>,
    /// True when only the run itself can tell the extent.
    pub late: bool,
}

impl Symbol {
    /// A symbol that is bound before planning.
    pub fn new(name: &str) -> Symbol {
        Symbol { name: name.into(), late: false }
    }

    /// A symbol whose value a node produces.
    pub fn late(name: &str) -> Symbol {
        Symbol { name: name.into(), late: true }
    }
}

/// What symbols stand for in one run.
pub type Bindings = BTreeMap<Symbol, usize>;

/// The extent of one axis.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dim {
    /// A known extent.
    Const(usize),
    /// A polynomial with at least one symbol, or with a negative value.
    Expr(Arc<Poly>),
}

/// A sum of products: coefficient of each monomial, the empty monomial being the constant term. No zero coefficients.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Poly(BTreeMap<Vec<Atom>, i64>);

/// What a polynomial is over.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Atom {
    /// A named symbol.
    Sym(Symbol),
    /// Quotient rounded toward negative infinity.
    FloorDiv(Dim, Dim),
    /// The larger.
    Max(Dim, Dim),
    /// The smaller.
    Min(Dim, Dim),
}

impl Dim {
    /// The dimension named `name`.
    pub fn sym(name: &str) -> Dim {
        Dim::from_symbol(Symbol::new(name))
    }

    /// The dimension of a symbol.
    pub fn from_symbol(symbol: Symbol) -> Dim {
        Dim::atom(Atom::Sym(symbol))
    }

    /// An integer, which may be negative in the middle of an expression.
    pub fn int(v: i64) -> Dim {
        Poly::constant(v).into_dim()
    }

    /// The extent when it is a known number.
    pub fn as_const(&self) -> Option<usize> {
        match self {
            Dim::Const(n) => Some(*n),
            Dim::Expr(_) => None,
        }
    }

    /// The value when it is a known integer, negative ones included.
    pub fn as_int(&self) -> Option<i64> {
        self.poly().as_constant()
    }

    /// True for the number `n`.
    pub fn is(&self, n: usize) -> bool {
        *self == Dim::Const(n)
    }

    /// The symbol when the dim is a single one.
    pub fn as_symbol(&self) -> Option<Symbol> {
        let Dim::Expr(p) = self else { return None };
        match p.0.iter().next() {
            Some((m, 1)) if p.0.len() == 1 => match m.as_slice() {
                [Atom::Sym(s)] => Some(s.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    /// `floor(self / by)`; exact when the polynomial is a multiple of `by`.
    pub fn floor_div(&self, by: &Dim) -> Dim {
        if let Some(exact) = self.exact_div(by) {
            return exact;
        }
        match (self.as_int(), by.as_int()) {
            (Some(a), Some(b)) if b != 0 => {
                let floor = a.checked_div_euclid(b).map(|q| q - i64::from(b < 0 && a.rem_euclid(b) != 0));
                Dim::int(floor.unwrap_or(i64::MAX))
            }
            _ => Dim::atom(Atom::FloorDiv(self.clone(), by.clone())),
        }
    }

    /// `ceil(self / by)` for a positive `by`.
    pub fn ceil_div(&self, by: &Dim) -> Dim {
        (self.clone() + by.clone() - Dim::Const(1)).floor_div(by)
    }

    /// `self / by` when the division leaves no remainder whatever the symbols are; `None` when that is not known.
    pub fn exact_div(&self, by: &Dim) -> Option<Dim> {
        let (den, c) = by.poly().single_term()?;
        let mut out = Poly::default();
        for (m, k) in &self.poly().0 {
            if c == 0 || k.checked_rem(c)? != 0 {
                return None;
            }
            let mut rest = m.clone();
            for atom in &den {
                rest.remove(rest.iter().position(|a| a == atom)?);
            }
            out.add_term(rest, k.checked_div(c)?);
        }
        Some(out.into_dim())
    }

    /// The larger of two dims.
    pub fn at_least(&self, other: &Dim) -> Dim {
        match (self.as_int(), other.as_int()) {
            _ if self == other => self.clone(),
            (Some(a), Some(b)) => Dim::int(a.max(b)),
            _ => Dim::atom(Atom::Max(self.clone(), other.clone())),
        }
    }

    /// The smaller of two dims.
    pub fn at_most(&self, other: &Dim) -> Dim {
        match (self.as_int(), other.as_int()) {
            _ if self == other => self.clone(),
            (Some(a), Some(b)) => Dim::int(a.min(b)),
            _ => Dim::atom(Atom::Min(self.clone(), other.clone())),
        }
    }

    /// The dim with bound symbols replaced by their numbers; others stay.
    pub fn bind(&self, bindings: &Bindings) -> Dim {
        self.substitute(&|s| bindings.get(s).map(|&n| Dim::Const(n)))
    }

    /// The dim with each symbol replaced by what `with` returns for it.
    pub fn substitute(&self, with: &dyn Fn(&Symbol) -> Option<Dim>) -> Dim {
        let Dim::Expr(p) = self else { return self.clone() };
        let mut sum = Dim::int(0);
        for (m, &k) in &p.0 {
            let mut product = Dim::int(k);
            for atom in m {
                product = product
                    * match atom {
                        Atom::Sym(s) => with(s).unwrap_or_else(|| Dim::from_symbol(s.clone())),
                        Atom::FloorDiv(a, b) => a.substitute(with).floor_div(&b.substitute(with)),
                        Atom::Max(a, b) => a.substitute(with).at_least(&b.substitute(with)),
                        Atom::Min(a, b) => a.substitute(with).at_most(&b.substitute(with)),
                    };
            }
            sum = sum + product;
        }
        sum
    }

    /// Adds every symbol that the dim mentions to `into`.
    pub fn symbols(&self, into: &mut std::collections::BTreeSet<Symbol>) {
        let Dim::Expr(p) = self else { return };
        for atom in p.0.keys().flatten() {
            match atom {
                Atom::Sym(s) => {
                    into.insert(s.clone());
                }
                Atom::FloorDiv(a, b) | Atom::Max(a, b) | Atom::Min(a, b) => {
                    a.symbols(into);
                    b.symbols(into);
                }
            }
        }
    }

    /// The polynomial's terms: factors and coefficient. A known integer is one term without factors, 0 has none.
    pub fn terms(&self) -> Vec<(Vec<Atom>, i64)> {
        self.poly().0.into_iter().collect()
    }

    /// Product of `dims`; 1 for none.
    pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
        dims.into_iter().fold(Dim::Const(1), |p, d| p * d.clone())
    }

    fn atom(atom: Atom) -> Dim {
        Dim::Expr(Arc::new(Poly(BTreeMap::from([(vec![atom], 1)]))))
    }

    fn poly(&self) -> Poly {
        match self {
            Dim::Const(n) => Poly::constant(i64::try_from(*n).unwrap_or(i64::MAX)),
            Dim::Expr(p) => (**p).clone(),
        }
    }
}

impl Poly {
    /// The monomials and their coefficients, the constant term (no atoms) first.
    pub(crate) fn terms(&self) -> impl Iterator<Item = (&[Atom], i64)> {
        self.0.iter().map(|(atoms, &k)| (atoms.as_slice(), k))
    }

    fn constant(v: i64) -> Poly {
        let mut p = Poly::default();
        p.add_term(Vec::new(), v);
        p
    }

    fn as_constant(&self) -> Option<i64> {
        match self.0.len() {
            0 => Some(0),
            1 => self.0.get(&Vec::new()).copied(),
            _ => None,
        }
    }

    fn single_term(&self) -> Option<(Vec<Atom>, i64)> {
        let (m, k) = self.0.iter().next()?;
        (self.0.len() == 1).then(|| (m.clone(), *k))
    }

    /// Saturates on overflow: extents of that size are refused wherever memory is asked for.
    fn add_term(&mut self, monomial: Vec<Atom>, k: i64) {
        let sum = self.0.get(&monomial).copied().unwrap_or(0).saturating_add(k);
        if sum == 0 {
            self.0.remove(&monomial);
        } else {
            self.0.insert(monomial, sum);
        }
    }

    fn into_dim(self) -> Dim {
        match self.as_constant().map(usize::try_from) {
            Some(Ok(n)) => Dim::Const(n),
            _ => Dim::Expr(Arc::new(self)),
        }
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::Const(n)
    }
}

impl std::ops::Add for Dim {
    type Output = Dim;

    fn add(self, other: Dim) -> Dim {
        let mut p = self.poly();
        for (m, k) in other.poly().0 {
            p.add_term(m, k);
        }
        p.into_dim()
    }
}

impl std::ops::Sub for Dim {
    type Output = Dim;

    fn sub(self, other: Dim) -> Dim {
        self + other * Dim::int(-1)
    }
}

impl std::ops::Mul for Dim {
    type Output = Dim;

    fn mul(self, other: Dim) -> Dim {
        let mut p = Poly::default();
        let rhs = other.poly();
        for (ma, ka) in &self.poly().0 {
            for (mb, kb) in &rhs.0 {
                let mut m = [ma.as_slice(), mb.as_slice()].concat();
                m.sort();
                p.add_term(m, ka.saturating_mul(*kb));
            }
        }
        p.into_dim()
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = match self {
            Dim::Const(n) => return write!(f, "{n}"),
            Dim::Expr(p) => p,
        };
        for (i, (m, k)) in p.0.iter().enumerate() {
            let sign = match (i, *k < 0) {
                (0, false) => "",
                (0, true) | (_, true) => "-",
                (_, false) => "+",
            };
            f.write_str(sign)?;
            let k = k.unsigned_abs();
            if m.is_empty() || k != 1 {
                write!(f, "{k}")?;
            }
            for (j, atom) in m.iter().enumerate() {
                if j > 0 || k != 1 {
                    f.write_str("*")?;
                }
                match atom {
                    Atom::Sym(s) => write!(f, "{}{}", if s.late { "?" } else { "" }, s.name)?,
                    Atom::FloorDiv(a, b) => write!(f, "floor_div({a},{b})")?,
                    Atom::Max(a, b) => write!(f, "max({a},{b})")?,
                    Atom::Min(a, b) => write!(f, "min({a},{b})")?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn c(n: usize) -> Dim {
        Dim::Const(n)
    }

    #[test]
    fn polynomials_are_normal_forms() {
        let (b, s) = (Dim::sym("B"), Dim::sym("S"));
        assert_eq!((b.clone() + s.clone()) * b.clone(), b.clone() * b.clone() + s.clone() * b.clone());
        assert_eq!(b.clone() - b.clone(), c(0));
        assert_eq!((b.clone() * c(12) * s.clone()).exact_div(&(s.clone() * c(4))), Some(b.clone() * c(3)));
        assert_eq!((b.clone() + c(1)).exact_div(&c(2)), None);
        assert_eq!(format!("{}", c(2) * b.clone() * s.clone() - c(3)), "-3+2*B*S");
        assert_eq!(b.as_symbol(), Some(Symbol::new("B")));
    }

    #[test]
    fn binding_evaluates_atoms() {
        let n = Dim::sym("N");
        let half = (n.clone() + c(1)).floor_div(&c(2)).at_least(&c(3));
        assert_eq!(half.bind(&Bindings::from([(Symbol::new("N"), 9)])), c(5));
        assert_eq!(half.bind(&Bindings::from([(Symbol::new("N"), 2)])), c(3));
        assert_eq!(Dim::int(-7).floor_div(&c(2)).as_int(), Some(-4));
        assert_eq!(c(7).ceil_div(&c(2)), c(4));
    }
}
