//! A text form of a whole model that people can read and that parses back to an equal one.
//!
//! ```text
//! model
//! state @0 "fc.weight" weight trainable f32[1,2] = [0.5, -1.0]
//! graph "tiny"
//!   inputs %0
//!   %0 "x" f32[N,2] = input
//!   %1 "fc.weight" f32[1,2] = @0
//!   %2 f32[N,1] = "fc" MatMul(%0, %1) trans_a=false trans_b=true
//!   output "y" %2
//! ```
//!
//! One line a state, value or node; ids are those of the model. The attributes of every op stand in one table ([`table`]) that
//! printing and parsing share, so that they cannot drift apart. Parsing trusts nothing: sizes, numbers and nesting are bounded, and
//! the result is verified.

mod attribute;
mod cursor;
mod parse;
mod print;
mod table;
mod tensor;

pub use parse::{parse, parse_op};
pub use print::{print, print_op, print_summary};
