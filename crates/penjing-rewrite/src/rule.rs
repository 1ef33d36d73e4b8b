//! Rules look and propose; only the driver changes a graph.

use crate::{Match, Pattern};
use penjing_ir::{Graph, IrError, NodeId, Scope, ValueId};

/// Why a rule left a node alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Skip {
    /// The pattern is not there.
    NoMatch,
    /// The pattern is there, and there is nothing to improve.
    NoEffect,
    /// The pattern is there, but a condition on attributes or facts does not hold.
    Check(&'static str),
}

impl From<IrError> for Skip {
    fn from(_: IrError) -> Skip {
        Skip::Check("the replacement does not fit the operands' dtypes or shapes")
    }
}

/// A local replacement.
pub trait Rule {
    /// What traces call it.
    fn name(&self) -> &'static str;

    /// What it looks for.
    fn pattern(&self) -> &Pattern;

    /// Proposes what stands in the place of a match.
    fn apply(&self, found: &Match<'_>, patch: &mut Patch) -> Result<(), Skip>;
}

/// A rule from its parts.
pub struct Formula {
    name: &'static str,
    pattern: Pattern,
    apply: fn(&Match<'_>, &mut Patch) -> Result<(), Skip>,
}

impl Formula {
    /// A boxed rule: a name, a pattern and what replaces it.
    pub fn rule(
        name: &'static str,
        pattern: Pattern,
        apply: fn(&Match<'_>, &mut Patch) -> Result<(), Skip>,
    ) -> Box<dyn Rule> {
        Box::new(Formula { name, pattern, apply })
    }
}

impl Rule for Formula {
    fn name(&self) -> &'static str {
        self.name
    }

    fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    fn apply(&self, found: &Match<'_>, patch: &mut Patch) -> Result<(), Skip> {
        (self.apply)(found, patch)
    }
}

/// New nodes over values of the graph, and which values they replace.
///
/// The new nodes stand in a graph of their own; [`Patch::tap`] brings in a value of the original.
#[derive(Default)]
pub struct Patch {
    pub(crate) graph: Graph,
    pub(crate) taps: Vec<(ValueId, ValueId)>,
    pub(crate) replacements: Vec<(ValueId, ValueId)>,
    pub(crate) heir_of: Option<NodeId>,
}

impl Patch {
    /// The patch's own id for a value of `graph`.
    pub fn tap(&mut self, graph: &Graph, value: ValueId) -> ValueId {
        if let Some((_, own)) = self.taps.iter().find(|(outer, _)| *outer == value) {
            return *own;
        }
        let own = self.graph.add_input("", graph.fact(value).clone());
        self.taps.push((value, own));
        own
    }

    /// The patch's own id for a named value of a match.
    pub fn tap_named(&mut self, found: &Match<'_>, name: &str) -> ValueId {
        self.tap(found.graph, found.value(name))
    }

    /// Where new nodes are written.
    pub fn scope(&mut self) -> Scope<'_> {
        Scope::new(&mut self.graph, "")
    }

    /// Every reader of `old` (a value of the original) shall read `new` (a value of the patch).
    pub fn replace(&mut self, old: ValueId, new: ValueId) {
        self.replacements.push((old, new));
    }

    /// The node that makes the first replacement takes the name of `node` instead of the root's.
    pub fn keep_name_of(&mut self, node: NodeId) {
        self.heir_of = Some(node);
    }
}
