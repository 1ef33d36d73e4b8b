//! Finds a [`Pattern`] in a graph by backtracking over a list of goals.

use crate::pattern::{Accepts, Coefficient, Kind, Pattern};
use penjing_ir::{Binary, Fact, Graph, NodeId, Op, Source, Unary, ValueId};
use penjing_tensor::Tensor;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Deepest nest of multiplications that a product is looked for in.
const PRODUCT_DEPTH: usize = 5;

/// What the names of a pattern stand for.
pub struct Match<'g> {
    /// The graph that was searched.
    pub graph: &'g Graph,
    /// The node whose first result the pattern describes.
    pub root: NodeId,
    found: Found,
}

#[derive(Clone, Default)]
struct Found {
    values: BTreeMap<&'static str, ValueId>,
    numbers: BTreeMap<&'static str, f64>,
    nodes: BTreeSet<NodeId>,
    shared: BTreeSet<NodeId>,
}

impl<'g> Match<'g> {
    /// Matches `pattern` against the first result of `root`.
    pub fn find(graph: &'g Graph, root: NodeId, pattern: &Pattern) -> Option<Match<'g>> {
        let value = *graph.node(root).outputs.first()?;
        let found = solve(graph, &mut vec![(pattern.clone(), value)], Found::default())?;
        Some(Match { graph, root, found })
    }

    /// The value of a name that the pattern always binds.
    pub fn value(&self, name: &str) -> ValueId {
        self.get(name).expect("a rule asks only for names that every way of matching its pattern binds")
    }

    /// The value of a name that only some alternatives bind.
    pub fn get(&self, name: &str) -> Option<ValueId> {
        self.found.values.get(name).copied()
    }

    /// The number of a name; 1 for a coefficient that is not written.
    pub fn number(&self, name: &str) -> f64 {
        self.found.numbers.get(name).copied().unwrap_or(1.0)
    }

    /// Dtype and shape of a named value.
    pub fn fact(&self, name: &str) -> &'g Fact {
        self.graph.fact(self.value(name))
    }

    /// The tensor of a named constant.
    pub fn constant(&self, name: &str) -> Option<&'g Arc<Tensor>> {
        self.graph.as_const(self.get(name)?)
    }

    /// The op that makes a named value.
    pub fn op(&self, name: &str) -> Option<&'g Op> {
        Some(&self.graph.node(self.graph.producer(self.get(name)?)?).op)
    }

    /// The op of the root.
    pub fn root_op(&self) -> &'g Op {
        &self.graph.node(self.root).op
    }

    /// The value that the pattern describes.
    pub fn result(&self) -> ValueId {
        self.graph.node(self.root).outputs[0]
    }

    /// Nodes that the pattern consumed, the root among them.
    pub fn nodes(&self) -> &BTreeSet<NodeId> {
        &self.found.nodes
    }

    /// True for nodes that may be read outside the match.
    pub fn may_escape(&self, node: NodeId) -> bool {
        node == self.root || self.found.shared.contains(&node)
    }
}

/// The number that all elements of a constant are; `None` when there are none or they differ in any bit.
pub fn uniform(tensor: &Tensor) -> Option<f64> {
    let mut elements = tensor.bytes().chunks_exact(tensor.dtype().size());
    let first = elements.next()?;
    // Comparing bytes ends at the first difference, without converting a large weight.
    let same = elements.all(|e| e == first);
    let scalar = same.then(|| Tensor::from_bytes(tensor.dtype(), &[], first).ok())??;
    scalar.to_f64s().first().copied()
}

/// Equal to a relative 1e-5, which f32 and the digits that exporters write both keep.
pub fn near(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= 1e-5 * b.abs()
}

fn solve(graph: &Graph, goals: &mut Vec<(Pattern, ValueId)>, mut found: Found) -> Option<Found> {
    let Some((pattern, value)) = goals.pop() else { return Some(found) };
    let next = |more: &[(&Pattern, ValueId)], goals: &[(Pattern, ValueId)], found: Found| {
        let mut goals = goals.to_vec();
        goals.extend(more.iter().rev().map(|(p, v)| ((*p).clone(), *v)));
        solve(graph, &mut goals, found)
    };
    match &*pattern.0 {
        Kind::Any(name) => bind(&mut found, name, value).then(|| next(&[], goals, found)).flatten(),
        Kind::Constant(name) => {
            graph.as_const(value)?;
            bind(&mut found, name, value).then(|| next(&[], goals, found)).flatten()
        }
        Kind::Number(wanted) => {
            let have = uniform(graph.as_const(value)?)?;
            near(have, *wanted).then(|| next(&[], goals, found)).flatten()
        }
        Kind::NamedNumber(name) => {
            let have = uniform(graph.as_const(value)?)?;
            let old = *found.numbers.entry(name).or_insert(have);
            (old == have).then(|| next(&[], goals, found)).flatten()
        }
        Kind::Node { accepts, inputs, commutative } => {
            let Source::Node(id, 0) = graph.value(value).source else { return None };
            let node = graph.node(id);
            let fits = match accepts {
                Accepts::Exactly(op) => node.op == *op,
                Accepts::Where(test) => test(&node.op),
            };
            if !fits || node.inputs.len() != inputs.len() {
                return None;
            }
            found.nodes.insert(id);
            let straight: Vec<_> = inputs.iter().zip(node.inputs.iter().copied()).collect();
            if *commutative && inputs.len() == 2 {
                let swapped = [(&inputs[0], node.inputs[1]), (&inputs[1], node.inputs[0])];
                return next(&straight, goals, found.clone()).or_else(|| next(&swapped, goals, found));
            }
            next(&straight, goals, found)
        }
        Kind::Product { factors, coefficient } => products(graph, value, PRODUCT_DEPTH)
            .into_iter()
            .filter(|p| p.factors.len() == factors.len())
            .find_map(|p| {
                let mut found = found.clone();
                found.nodes.extend(p.nodes);
                match coefficient {
                    Coefficient::Is(k) if !near(p.coefficient, *k) => return None,
                    Coefficient::Is(_) => {}
                    Coefficient::Named(name) => {
                        if *found.numbers.entry(name).or_insert(p.coefficient) != p.coefficient {
                            return None;
                        }
                    }
                }
                permutations(&p.factors).into_iter().find_map(|order| {
                    let more: Vec<_> = factors.iter().zip(order).collect();
                    next(&more, goals, found.clone())
                })
            }),
        Kind::OneOf(patterns) => patterns.iter().find_map(|p| next(&[(p, value)], goals, found.clone())),
        Kind::Named(name, inner) => {
            bind(&mut found, name, value).then(|| next(&[(inner, value)], goals, found)).flatten()
        }
        Kind::Shared(inner) => {
            found.shared.extend(graph.producer(value));
            next(&[(inner, value)], goals, found)
        }
    }
}

fn bind(found: &mut Found, name: &'static str, value: ValueId) -> bool {
    *found.values.entry(name).or_insert(value) == value
}

struct Factored {
    factors: Vec<ValueId>,
    coefficient: f64,
    nodes: Vec<NodeId>,
}

/// Every way to read a value as constant · factors, the most taken apart first.
fn products(graph: &Graph, value: ValueId, depth: usize) -> Vec<Factored> {
    let whole = Factored { factors: vec![value], coefficient: 1.0, nodes: Vec::new() };
    let (Source::Node(id, 0), true) = (&graph.value(value).source, depth > 0) else { return vec![whole] };
    let node = graph.node(*id);
    let scalar =
        |v: ValueId| graph.as_const(v).filter(|t| t.len() == 1 && t.dtype().is_float()).and_then(|t| uniform(t));
    let scaled = |v: ValueId, k: f64| {
        let mut parts = products(graph, v, depth - 1);
        for p in &mut parts {
            p.coefficient *= k;
            p.nodes.push(*id);
        }
        parts
    };
    let mut ways = match (&node.op, node.inputs.as_slice()) {
        (Op::Binary(Binary::Mul), &[a, b]) => match (scalar(a), scalar(b)) {
            (_, Some(k)) => scaled(a, k),
            (Some(k), None) => scaled(b, k),
            (None, None) => {
                let right = products(graph, b, depth - 1);
                let mut both = Vec::new();
                for l in products(graph, a, depth - 1) {
                    for r in &right {
                        both.push(Factored {
                            factors: [l.factors.as_slice(), &r.factors].concat(),
                            coefficient: l.coefficient * r.coefficient,
                            nodes: [l.nodes.as_slice(), &r.nodes, &[*id]].concat(),
                        });
                    }
                }
                both
            }
        },
        (Op::Binary(Binary::Div), &[a, b]) => scalar(b).map_or_else(Vec::new, |k| scaled(a, 1.0 / k)),
        (Op::Unary(Unary::Neg), &[a]) => scaled(a, -1.0),
        _ => Vec::new(),
    };
    ways.push(whole);
    ways
}

fn permutations(items: &[ValueId]) -> Vec<Vec<ValueId>> {
    if items.len() <= 1 {
        return vec![items.to_vec()];
    }
    let mut all = Vec::new();
    for i in 0..items.len() {
        let mut rest = items.to_vec();
        let first = rest.remove(i);
        for mut tail in permutations(&rest) {
            tail.insert(0, first);
            all.push(tail);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::{any, number, product, unary};
    use penjing_ir::Scope;
    use penjing_tensor::DType;

    fn input() -> (Graph, ValueId) {
        let mut g = Graph::new("t");
        let x = g.add_input("x", Fact::new(DType::F32, [4usize]));
        (g, x)
    }

    fn matches(g: &Graph, v: ValueId, p: &Pattern) -> bool {
        Match::find(g, g.producer(v).unwrap(), p).is_some()
    }

    #[test]
    fn commutative_operands_match_in_either_order() {
        let (mut g, x) = input();
        let mut s = Scope::new(&mut g, "");
        let one = s.scalar_like(x, 1.0);
        let (a, b) = (s.add(x, one).unwrap(), s.add(one, x).unwrap());
        let (c, d) = (s.sub(x, one).unwrap(), s.sub(one, x).unwrap());
        assert!(matches(&g, a, &(any("x") + 1.0)) && matches(&g, b, &(any("x") + 1.0)));
        assert!(matches(&g, c, &(any("x") - 1.0)) && !matches(&g, d, &(any("x") - 1.0)));
        assert!(!matches(&g, a, &(any("x") + 2.0)));
    }

    #[test]
    fn a_name_stands_for_one_value() {
        let (mut g, x) = input();
        let mut s = Scope::new(&mut g, "");
        let e = s.unary(Unary::Exp, x).unwrap();
        let (same, other) = (s.mul(x, x).unwrap(), s.mul(x, e).unwrap());
        let square = any("a") * any("a");
        assert!(matches(&g, same, &square) && !matches(&g, other, &square));
    }

    #[test]
    fn products_match_however_they_are_nested() {
        let p = product(Coefficient::Is(0.5), [any("x"), unary(Unary::Exp, any("x"))]);
        let (mut g, x) = input();
        let mut s = Scope::new(&mut g, "");
        let e = s.unary(Unary::Exp, x).unwrap();
        let (half, two) = (s.scalar_like(x, 0.5), s.scalar_like(x, 2.0));
        let ex = s.mul(e, x).unwrap();
        let a = s.mul(half, ex).unwrap();
        let b = s.div(ex, two).unwrap();
        let hx = s.mul(x, half).unwrap();
        let c = s.mul(hx, e).unwrap();
        let wrong = s.mul(ex, two).unwrap();
        assert!(matches(&g, a, &p) && matches(&g, b, &p) && matches(&g, c, &p));
        assert!(!matches(&g, wrong, &p) && !matches(&g, ex, &p));
    }

    #[test]
    fn a_factor_may_itself_be_a_product() {
        let (mut g, x) = input();
        let mut s = Scope::new(&mut g, "");
        let y = s.add(x, x).unwrap();
        let xy = s.mul(x, y).unwrap();
        let e = s.unary(Unary::Exp, xy).unwrap();
        let v = s.mul(xy, e).unwrap();
        let p = product(Coefficient::Is(1.0), [any("a"), unary(Unary::Exp, any("a"))]);
        let m = Match::find(&g, g.producer(v).unwrap(), &p).unwrap();
        assert_eq!(m.value("a"), xy);
    }

    #[test]
    fn numbers_match_constants_of_any_shape() {
        let (mut g, x) = input();
        let ones = g.add_const(Tensor::from_vec(&[4], vec![1f32; 4]).unwrap());
        let ramp = g.add_const(Tensor::from_vec(&[4], vec![1f32, 2.0, 3.0, 4.0]).unwrap());
        let mut s = Scope::new(&mut g, "");
        let (a, b) = (s.mul(x, ones).unwrap(), s.mul(x, ramp).unwrap());
        let p = any("x") * number(1.0);
        assert!(matches(&g, a, &p) && !matches(&g, b, &p));
    }
}
