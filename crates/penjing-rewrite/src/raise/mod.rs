//! From the pieces that exporters write back to the one op that means it.
//!
//! Formulas are matched on cleaned-up graphs (constants folded, subexpressions merged), so each idea is written here once.

mod activation;
mod attention;
mod norm;

use crate::{RewriteError, Rule, Trace, common_subexpressions, fold_constants, rewrite, simplify};
use penjing_ir::Model;

/// Folds, merges, simplifies and raises until the graph is in its canonical spelling; returns how many formulas were raised.
pub fn raise(model: &mut Model, trace: &mut Trace) -> Result<usize, RewriteError> {
    clean(model, trace)?;
    // A formula that contains another one goes first.
    let mut raised = 0;
    for stage in stages() {
        let found = rewrite("raise", model, &stage, trace)?;
        if found > 0 {
            clean(model, trace)?;
        }
        raised += found;
    }
    Ok(raised)
}

/// The raising rules, in the order in which their sets are run.
pub fn stages() -> Vec<Vec<Box<dyn Rule>>> {
    let mut last = norm::bare();
    last.extend(activation::parts());
    vec![
        norm::affine(),
        norm::scaled(),
        [activation::rules(), attention::rules()].into_iter().flatten().collect(),
        last,
    ]
}

fn clean(model: &mut Model, trace: &mut Trace) -> Result<(), RewriteError> {
    fold_constants(model, &crate::FoldConfig::default(), trace)?;
    common_subexpressions(model, trace)?;
    simplify(model, trace)?;
    Ok(())
}
