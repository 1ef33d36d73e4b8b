//! A ledger of what was rewritten and what was not, and why.

use crate::Skip;
use std::{collections::BTreeSet, fmt};

/// One applied patch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The rule or pass.
    pub rule: &'static str,
    /// The node it replaced.
    pub node: String,
    /// Live nodes of the graph before.
    pub before: usize,
    /// Live nodes of the graph after.
    pub after: usize,
}

/// Everything that happened, in order, and the bound that `--stop-after` sets on it.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Patches applied.
    pub steps: Vec<Step>,
    /// Matches that were left alone: (rule, node, reason), each once.
    pub skipped: BTreeSet<(&'static str, String, &'static str)>,
    /// Apply at most this many patches in all, to find the one that breaks a model.
    pub stop_after: Option<usize>,
}

impl Trace {
    /// An empty ledger without a bound.
    pub fn new() -> Trace {
        Trace::default()
    }

    /// An empty ledger that ends after `n` patches.
    pub fn stopping_after(n: usize) -> Trace {
        Trace { stop_after: Some(n), ..Trace::default() }
    }

    /// Whether one more patch may be applied.
    pub fn may_apply(&self) -> bool {
        self.stop_after.is_none_or(|n| self.steps.len() < n)
    }

    /// How often a rule was applied.
    pub fn count(&self, rule: &str) -> usize {
        self.steps.iter().filter(|s| s.rule == rule).count()
    }

    pub(crate) fn applied(&mut self, rule: &'static str, node: &str, before: usize, after: usize) {
        self.steps.push(Step { rule, node: node.into(), before, after });
    }

    pub(crate) fn skip(&mut self, rule: &'static str, node: &str, why: Skip) {
        if let Skip::Check(reason) = why {
            self.skipped.insert((rule, node.into(), reason));
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, s) in self.steps.iter().enumerate() {
            writeln!(f, "{} {} at `{}`: {} -> {} nodes", i + 1, s.rule, s.node, s.before, s.after)?;
        }
        for (rule, node, why) in &self.skipped {
            writeln!(f, "- {rule} at `{node}`: {why}")?;
        }
        Ok(())
    }
}
