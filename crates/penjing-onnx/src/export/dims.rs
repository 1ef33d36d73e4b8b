//! Shapes as operands: constants where they are known, arithmetic over `Shape` where they are symbolic.

use super::{
    emitter::{Emitter, Why},
    node::node,
};
use penjing_ir::{Atom, Dim, Node};

impl Emitter<'_> {
    /// The name of an I64 vector that holds `dims`.
    pub(super) fn dim_vector(&mut self, n: &Node, what: &str, dims: &[Dim]) -> Result<String, Why> {
        if let Some(ints) = dims.iter().map(Dim::as_int).collect::<Option<Vec<i64>>>() {
            return Ok(self.ints(&format!("{}/{what}", n.name), &ints));
        }
        let mut parts = Vec::with_capacity(dims.len());
        let mut known: Vec<i64> = Vec::new();
        for dim in dims {
            match dim.as_int() {
                Some(v) => known.push(v),
                None => {
                    if !known.is_empty() {
                        parts.push(self.ints(&format!("{}/{what}", n.name), &std::mem::take(&mut known)));
                    }
                    parts.push(self.dim(n, dim)?);
                }
            }
        }
        if !known.is_empty() {
            parts.push(self.ints(&format!("{}/{what}", n.name), &known));
        }
        if let [only] = parts.as_slice() {
            return Ok(only.clone());
        }
        Ok(self.step_with(n, "Concat", &parts, |p| p.int("axis", 0)))
    }

    /// The shape operand of a `Reshape` of a value with shape `from`: copies and one free axis where that says it all.
    pub(super) fn reshape_target(&mut self, n: &Node, from: &[Dim], to: &[Dim]) -> Result<(String, bool), Why> {
        let zero = to.iter().any(|d| d.is(0));
        let mut free = 0;
        let target = to.iter().enumerate().map(|(i, d)| match d.as_int() {
            Some(v) => v,
            None if from.get(i) == Some(d) => 0,
            None => {
                free += 1;
                -1
            }
        });
        let target: Vec<i64> = target.collect();
        if free <= 1 && !(zero && to.iter().any(|d| d.as_int().is_none())) {
            return Ok((self.ints(&format!("{}/shape", n.name), &target), zero));
        }
        Ok((self.dim_vector(n, "shape", to)?, true))
    }

    /// The name of an I64 vector of one element that holds `dim`.
    fn dim(&mut self, n: &Node, dim: &Dim) -> Result<String, Why> {
        if let Some(name) = self.dims.get(dim) {
            return Ok(name.clone());
        }
        let name = match dim.as_int() {
            Some(v) => self.ints("dim", &[v]),
            None => self.polynomial(n, dim)?,
        };
        self.dims.insert(dim.clone(), name.clone());
        Ok(name)
    }

    fn polynomial(&mut self, n: &Node, dim: &Dim) -> Result<String, Why> {
        let mut sum: Option<String> = None;
        for (factors, k) in dim.terms() {
            let mut product: Option<String> = None;
            for atom in &factors {
                let factor = self.atom(n, atom)?;
                product = Some(match product {
                    None => factor,
                    Some(so_far) => self.step(n, "Mul", &[so_far, factor]),
                });
            }
            let term = match product {
                None => self.ints("dim", &[k]),
                Some(p) if k == 1 => p,
                Some(p) => {
                    let k = self.ints("dim", &[k]);
                    self.step(n, "Mul", &[p, k])
                }
            };
            sum = Some(match sum {
                None => term,
                Some(so_far) => self.step(n, "Add", &[so_far, term]),
            });
        }
        sum.ok_or_else(|| "an empty dimension".into())
    }

    fn atom(&mut self, n: &Node, atom: &Atom) -> Result<String, Why> {
        let (op, a, b) = match atom {
            Atom::Sym(symbol) => {
                let Some((value, axis)) = self.symbols.get(symbol).cloned() else {
                    return Err(format!("no input shows the dimension {}", symbol.name));
                };
                let dim = Dim::from_symbol(symbol.clone());
                if let Some(name) = self.dims.get(&dim) {
                    return Ok(name.clone());
                }
                let out = self.fresh(&symbol.name);
                let shape = node("Shape", "", &[value], std::slice::from_ref(&out));
                self.push(shape.int("start", axis as i64).int("end", axis as i64 + 1));
                self.dims.insert(dim, out.clone());
                return Ok(out);
            }
            // Extents are not negative, where rounding down and truncation agree.
            Atom::FloorDiv(a, b) => ("Div", a, b),
            Atom::Max(a, b) => ("Max", a, b),
            Atom::Min(a, b) => ("Min", a, b),
        };
        let (a, b) = (self.dim(n, a)?, self.dim(n, b)?);
        Ok(self.step(n, op, &[a, b]))
    }
}
