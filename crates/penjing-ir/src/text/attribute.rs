//! How each type of attribute is written and read, side by side.

use super::{
    cursor::{Cursor, Why},
    table,
};
use crate::{
    Activation, Atom, BodyId, ChainInstr, Dim, Direction, Fact, HeadLayout, Layout, Op, PadMode, QuantScheme,
    RandomKind, Real, Reset, ScatterReduction, SliceRange, Symbol,
};
use penjing_tensor::DType;
use std::fmt::Write;

/// Largest number in an attribute: sums and products of a few of them cannot overflow during inference.
const LARGEST: u64 = 1 << 31;

/// A type of attribute.
pub(super) trait Attribute: Sized {
    fn print(&self, out: &mut String);
    fn parse(c: &mut Cursor<'_>) -> Result<Self, Why>;
}

impl Attribute for usize {
    fn print(&self, out: &mut String) {
        let _ = write!(out, "{self}");
    }

    fn parse(c: &mut Cursor<'_>) -> Result<usize, Why> {
        let n: u64 = c.parse("a natural number")?;
        if n > LARGEST {
            return Err(format!("{n} is too large"));
        }
        Ok(n as usize)
    }
}

impl Attribute for u64 {
    fn print(&self, out: &mut String) {
        let _ = write!(out, "{self}");
    }

    fn parse(c: &mut Cursor<'_>) -> Result<u64, Why> {
        c.parse("a natural number")
    }
}

impl Attribute for i64 {
    fn print(&self, out: &mut String) {
        let _ = write!(out, "{self}");
    }

    fn parse(c: &mut Cursor<'_>) -> Result<i64, Why> {
        let n: i64 = c.parse("an integer")?;
        if n.unsigned_abs() > LARGEST {
            return Err(format!("{n} is too large"));
        }
        Ok(n)
    }
}

impl Attribute for u16 {
    fn print(&self, out: &mut String) {
        let _ = write!(out, "{self}");
    }

    fn parse(c: &mut Cursor<'_>) -> Result<u16, Why> {
        c.parse("a register")
    }
}

impl Attribute for bool {
    fn print(&self, out: &mut String) {
        let _ = write!(out, "{self}");
    }

    fn parse(c: &mut Cursor<'_>) -> Result<bool, Why> {
        c.parse("`true` or `false`")
    }
}

/// The shortest digits that give the same bits; a NaN as its bits.
impl Attribute for Real {
    fn print(&self, out: &mut String) {
        let _ =
            if self.0.is_nan() { write!(out, "nan.{:016x}", self.0.to_bits()) } else { write!(out, "{:?}", self.0) };
    }

    fn parse(c: &mut Cursor<'_>) -> Result<Real, Why> {
        let text = c.number()?;
        let value = match text.strip_prefix("nan.") {
            Some(bits) => u64::from_str_radix(bits, 16).ok().map(f64::from_bits).filter(|v| v.is_nan()),
            None => text.parse().ok(),
        };
        value.map(Real).ok_or_else(|| format!("`{text}` is not a number"))
    }
}

impl Attribute for String {
    fn print(&self, out: &mut String) {
        let _ = write!(out, "{self:?}");
    }

    fn parse(c: &mut Cursor<'_>) -> Result<String, Why> {
        c.string()
    }
}

impl Attribute for DType {
    fn print(&self, out: &mut String) {
        out.push_str(self.name());
    }

    fn parse(c: &mut Cursor<'_>) -> Result<DType, Why> {
        let name = c.word()?;
        DType::from_name(name).ok_or_else(|| format!("unknown dtype `{name}`"))
    }
}

impl Attribute for BodyId {
    fn print(&self, out: &mut String) {
        let _ = write!(out, "{}", self.0);
    }

    fn parse(c: &mut Cursor<'_>) -> Result<BodyId, Why> {
        c.parse("a body's number").map(BodyId)
    }
}

impl Attribute for (usize, usize) {
    fn print(&self, out: &mut String) {
        let _ = write!(out, "({}, {})", self.0, self.1);
    }

    fn parse(c: &mut Cursor<'_>) -> Result<(usize, usize), Why> {
        c.expect("(")?;
        let first = usize::parse(c)?;
        c.expect(",")?;
        let second = usize::parse(c)?;
        c.expect(")")?;
        Ok((first, second))
    }
}

impl<T: Attribute> Attribute for Vec<T> {
    fn print(&self, out: &mut String) {
        out.push('[');
        for (i, item) in self.iter().enumerate() {
            out.push_str(if i > 0 { ", " } else { "" });
            item.print(out);
        }
        out.push(']');
    }

    fn parse(c: &mut Cursor<'_>) -> Result<Vec<T>, Why> {
        c.list("[", "]", T::parse)
    }
}

impl<T: Attribute> Attribute for Option<T> {
    fn print(&self, out: &mut String) {
        match self {
            Some(v) => v.print(out),
            None => out.push_str("none"),
        }
    }

    fn parse(c: &mut Cursor<'_>) -> Result<Option<T>, Why> {
        if c.eat("none") { Ok(None) } else { T::parse(c).map(Some) }
    }
}

/// A name as it is where it reads as one, else quoted; `?` before a late one.
impl Attribute for Symbol {
    fn print(&self, out: &mut String) {
        out.push_str(if self.late { "?" } else { "" });
        let plain = self.name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && self.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !["floor_div", "max", "min"].contains(&&*self.name);
        let _ = if plain { write!(out, "{}", self.name) } else { write!(out, "{:?}", &*self.name) };
    }

    fn parse(c: &mut Cursor<'_>) -> Result<Symbol, Why> {
        let late = c.eat("?");
        let name = if c.starts_with("\"") { c.string()? } else { c.word()?.to_string() };
        Ok(Symbol { name: name.into(), late })
    }
}

/// A sum of products: `-3 + 2*B*S + floor_div(N, 2)`.
impl Attribute for Dim {
    fn print(&self, out: &mut String) {
        let Dim::Expr(poly) = self else {
            let _ = write!(out, "{self}");
            return;
        };
        for (i, (atoms, k)) in poly.terms().enumerate() {
            out.push_str(if i > 0 { " + " } else { "" });
            if k != 1 || atoms.is_empty() {
                let _ = write!(out, "{k}");
            }
            for (j, atom) in atoms.iter().enumerate() {
                out.push_str(if j > 0 || k != 1 { "*" } else { "" });
                atom.print(out);
            }
        }
    }

    fn parse(c: &mut Cursor<'_>) -> Result<Dim, Why> {
        let mut sum = term(c)?;
        while c.eat("+") {
            sum = sum + term(c)?;
        }
        if let Dim::Expr(poly) = &sum {
            c.spend_terms(poly.terms().map(|(atoms, _)| atoms.len().max(1)).sum())?;
        }
        Ok(sum)
    }
}

fn term(c: &mut Cursor<'_>) -> Result<Dim, Why> {
    let mut product = if c.starts_with("-") || ('0'..='9').any(|d| c.starts_with(d.encode_utf8(&mut [0; 4]))) {
        Dim::int(i64::parse(c)?)
    } else {
        atom(c)?
    };
    while c.eat("*") {
        product = product * atom(c)?;
    }
    Ok(product)
}

fn atom(c: &mut Cursor<'_>) -> Result<Dim, Why> {
    type Join = fn(&Dim, &Dim) -> Dim;
    let functions: [(&str, Join); 3] =
        [("floor_div(", Dim::floor_div), ("max(", Dim::at_least), ("min(", Dim::at_most)];
    for (name, join) in functions {
        if c.eat(name) {
            let a = c.nested(Dim::parse)?;
            c.expect(",")?;
            let b = c.nested(Dim::parse)?;
            c.expect(")")?;
            if name == "floor_div(" && b.as_int().is_some_and(|v| v <= 0) {
                return Err(format!("division by {b}"));
            }
            return Ok(join(&a, &b));
        }
    }
    Symbol::parse(c).map(Dim::from_symbol)
}

impl Atom {
    fn print(&self, out: &mut String) {
        let (name, a, b) = match self {
            Atom::Sym(s) => return s.print(out),
            Atom::FloorDiv(a, b) => ("floor_div", a, b),
            Atom::Max(a, b) => ("max", a, b),
            Atom::Min(a, b) => ("min", a, b),
        };
        let _ = write!(out, "{name}(");
        a.print(out);
        out.push_str(", ");
        b.print(out);
        out.push(')');
    }
}

impl Attribute for Fact {
    fn print(&self, out: &mut String) {
        self.dtype.print(out);
        self.shape.print(out);
    }

    fn parse(c: &mut Cursor<'_>) -> Result<Fact, Why> {
        Ok(Fact { dtype: DType::parse(c)?, shape: Vec::parse(c)? })
    }
}

impl Attribute for SliceRange {
    fn print(&self, out: &mut String) {
        self.start.print(out);
        out.push_str(" len ");
        self.len.print(out);
        let _ = write!(out, " step {}", self.step);
    }

    fn parse(c: &mut Cursor<'_>) -> Result<SliceRange, Why> {
        let start = Dim::parse(c)?;
        c.expect("len")?;
        let len = Dim::parse(c)?;
        c.expect("step")?;
        Ok(SliceRange { start, len, step: i64::parse(c)? })
    }
}

impl Attribute for QuantScheme {
    fn print(&self, out: &mut String) {
        self.dtype.print(out);
        out.push_str(if self.narrow { " narrow axis " } else { " axis " });
        self.axis.print(out);
    }

    fn parse(c: &mut Cursor<'_>) -> Result<QuantScheme, Why> {
        let dtype = DType::parse(c)?;
        let narrow = c.eat("narrow");
        c.expect("axis")?;
        Ok(QuantScheme { dtype, axis: Option::parse(c)?, narrow })
    }
}

impl Attribute for PadMode {
    fn print(&self, out: &mut String) {
        match self {
            PadMode::Constant(v) => {
                out.push_str("constant ");
                v.print(out);
            }
            PadMode::Reflect => out.push_str("reflect"),
            PadMode::Edge => out.push_str("edge"),
            PadMode::Wrap => out.push_str("wrap"),
        }
    }

    fn parse(c: &mut Cursor<'_>) -> Result<PadMode, Why> {
        Ok(match c.word()? {
            "constant" => PadMode::Constant(Real::parse(c)?),
            "reflect" => PadMode::Reflect,
            "edge" => PadMode::Edge,
            "wrap" => PadMode::Wrap,
            other => return Err(format!("unknown padding `{other}`")),
        })
    }
}

impl Attribute for HeadLayout {
    fn print(&self, out: &mut String) {
        match self {
            HeadLayout::Apart => out.push_str("apart"),
            HeadLayout::Columns { first } => {
                out.push_str("columns ");
                first.print(out);
            }
        }
    }

    fn parse(c: &mut Cursor<'_>) -> Result<HeadLayout, Why> {
        Ok(match c.word()? {
            "apart" => HeadLayout::Apart,
            "columns" => HeadLayout::Columns { first: usize::parse(c)? },
            other => return Err(format!("unknown layout of heads `{other}`")),
        })
    }
}

impl Attribute for Activation {
    fn print(&self, out: &mut String) {
        match self {
            Activation::None => out.push_str("none"),
            Activation::Relu => out.push_str("relu"),
            Activation::Clamp { lo, hi } => {
                out.push_str("clamp ");
                lo.print(out);
                out.push_str(" to ");
                hi.print(out);
            }
            Activation::Gelu => out.push_str("gelu"),
            Activation::GeluTanh => out.push_str("gelu_tanh"),
            Activation::Silu => out.push_str("silu"),
            Activation::Sigmoid => out.push_str("sigmoid"),
            Activation::Tanh => out.push_str("tanh"),
            Activation::HardSwish => out.push_str("hard_swish"),
            Activation::HardSigmoid { alpha, beta } => {
                out.push_str("hard_sigmoid ");
                alpha.print(out);
                out.push_str(" plus ");
                beta.print(out);
            }
        }
    }

    fn parse(c: &mut Cursor<'_>) -> Result<Activation, Why> {
        Ok(match c.word()? {
            "none" => Activation::None,
            "relu" => Activation::Relu,
            "gelu" => Activation::Gelu,
            "gelu_tanh" => Activation::GeluTanh,
            "silu" => Activation::Silu,
            "sigmoid" => Activation::Sigmoid,
            "tanh" => Activation::Tanh,
            "hard_swish" => Activation::HardSwish,
            "hard_sigmoid" => {
                let alpha = Real::parse(c)?;
                c.expect("plus")?;
                Activation::HardSigmoid { alpha, beta: Real::parse(c)? }
            }
            "clamp" => {
                let lo = Real::parse(c)?;
                c.expect("to")?;
                Activation::Clamp { lo, hi: Real::parse(c)? }
            }
            other => return Err(format!("unknown activation `{other}`")),
        })
    }
}

/// Enums that are one word.
macro_rules! words {
    ($t:ty: $($variant:path => $word:literal),* $(,)?) => {
        impl Attribute for $t {
            fn print(&self, out: &mut String) {
                out.push_str(match self { $($variant => $word),* });
            }

            fn parse(c: &mut Cursor<'_>) -> Result<$t, Why> {
                Ok(match c.word()? {
                    $($word => $variant,)*
                    other => return Err(format!("unknown word `{other}`")),
                })
            }
        }
    };
}
words!(Direction: Direction::Forward => "forward", Direction::Reverse => "reverse",
    Direction::Bidirectional => "bidirectional");
words!(Reset: Reset::State => "state", Reset::Product => "product");
words!(Layout: Layout::ChannelsFirst => "first", Layout::ChannelsLast => "last");
words!(ScatterReduction: ScatterReduction::None => "none", ScatterReduction::Add => "add", ScatterReduction::Mul => "mul",
    ScatterReduction::Max => "max", ScatterReduction::Min => "min");
words!(RandomKind: RandomKind::Uniform => "uniform", RandomKind::Normal => "normal");

/// An instruction is written as its op: `LeakyRelu(0) alpha=0.1`.
impl Attribute for ChainInstr {
    fn print(&self, out: &mut String) {
        let (op, registers) = match *self {
            ChainInstr::Const(v) => {
                out.push_str("Const ");
                return v.print(out);
            }
            ChainInstr::Unary(f, a) => (Op::Unary(f), vec![a]),
            ChainInstr::Binary(f, a, b) => (Op::Binary(f), vec![a, b]),
            ChainInstr::Compare(f, a, b) => (Op::Compare(f), vec![a, b]),
            ChainInstr::Select(c, a, b) => (Op::Select, vec![c, a, b]),
        };
        out.push_str(op.name());
        registers.print(out);
        table::print_fields(&op, out);
    }

    fn parse(c: &mut Cursor<'_>) -> Result<ChainInstr, Why> {
        if c.eat("Const ") {
            return Real::parse(c).map(ChainInstr::Const);
        }
        let name = c.word()?;
        let registers = Vec::<u16>::parse(c)?;
        Ok(match (table::parse_fields(name, c)?, registers.as_slice()) {
            (Op::Unary(f), &[a]) => ChainInstr::Unary(f, a),
            (Op::Binary(f), &[a, b]) => ChainInstr::Binary(f, a, b),
            (Op::Compare(f), &[a, b]) => ChainInstr::Compare(f, a, b),
            (Op::Select, &[condition, a, b]) => ChainInstr::Select(condition, a, b),
            (op, r) => return Err(format!("no instruction `{}` of {} registers", op.name(), r.len())),
        })
    }
}
