//! The naive interpreter of every op: plain loops, `f64` accumulation, one rounding at the end of each node.
//!
//! It is the oracle of kernels and the folder of constants, so it is written to be read and never to be fast. Floats are
//! computed in `f64` and integers in `i128`; results are rounded (or wrapped) once into the declared dtype. Hostile operands are
//! errors, never panics.

mod attention;
mod conv;
mod data;
mod elementwise;
mod error;
mod eval;
mod index;
mod machine;
mod matmul;
mod movement;
mod norm;
mod number;
mod pool;
mod quant;
mod recurrent;
mod reduce;
mod run;

pub use error::RefError;
pub use eval::eval_op;
pub use run::{Precision, RunResult, bind_inputs, run, run_values};
