//! Chains of elementwise instructions in one pass over memory.
//!
//! A [`Program`] is straight-line code over values in static single assignment, built by [`ProgramBuilder`]. [`run_program`]
//! interprets it on blocks of 512 elements whose registers stay in the first-level cache, so that an optimiser update or a GELU
//! reads and writes memory once. Truth values are 0 and 1 as f32; memory may hold them as bytes.

pub(crate) mod ops;
mod program;
mod run;
mod table;

pub use ops::{BinaryOp, UnaryOp};
pub use program::{Program, ProgramBuilder, Value};
pub use run::{Data, Input, Layout, Output, run_program};

#[cfg(test)]
mod tests;
