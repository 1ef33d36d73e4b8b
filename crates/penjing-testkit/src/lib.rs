//! What the tests of every crate share: a suite of small models that many runners go through, seeded tensors, tolerances,
//! gradient checks against central differences, and the goldens from PyTorch. No crate depends on it outside its tests.

mod close;
mod generate;
mod golden;
mod golden_models;
mod gradcheck;
mod suite;

pub use close::{Mismatch, Tolerance, Worst, assert_close, compare};
pub use generate::{bools, floats, integers, normal, uniform};
pub use golden::{Golden, GoldenError, golden, golden_parameter};
pub use golden_models::{GOLDEN_NETWORKS, GoldenNetwork, golden_network};
pub use gradcheck::{GradientError, GradientReport, gradient_check};
pub use suite::{Case, suite};
