//! Everything that turns a graph into a better graph of the same meaning.
//!
//! A [`Rule`] is a formula to look for ([`Pattern`]) and what stands in its place ([`Patch`]); only the driver ([`rewrite`]) changes a
//! graph, after checking that the patch fits, and it writes a [`Trace`]. The passes built on it clean ([`simplify`], [`fold_constants`],
//! [`common_subexpressions`], [`dead_code`]), raise what exporters decomposed ([`raise`]), lower again ([`decompose()`]) and fit
//! one model to its use ([`for_training`], [`optimize_for_inference`]). Every pass keeps the graph Canonical and visits bodies.

mod batch_norm;
mod cleanup;
mod decompose;
mod driver;
mod error;
mod fold;
mod matcher;
mod pattern;
mod raise;
mod recurrent;
mod rule;
mod simplify;
mod stage;
mod trace;

pub use batch_norm::fold_batch_norm;
pub use cleanup::{common_subexpressions, dead_code};
pub use decompose::{decompose, primitives};
pub use driver::rewrite;
pub use error::RewriteError;
pub use fold::{FoldConfig, fold_constants};
pub use matcher::{Match, near, uniform};
pub use pattern::{
    Coefficient, Pattern, any, any_number, binary, constant, mean_keep, node, number, one_of, product, unary,
};
pub use raise::{raise, stages};
pub use rule::{Formula, Patch, Rule, Skip};
pub use simplify::{rules as simplify_rules, simplify};
pub use stage::{for_inference, for_training, freeze, optimize_for_inference};
pub use trace::{Step, Trace};
