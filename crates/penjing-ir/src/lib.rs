//! The one graph that is trained, pruned, quantized, run in parallel and exported.
//!
//! A [`Model`] is a [`Graph`] of closed [`Op`]s over values with [`Fact`]s, plus named states with roles. Import ends here and
//! export begins here. Facts are inferred when a node is built, so a graph that exists is well typed; [`verify`] checks the rest
//! and runs after every pass. This crate computes nothing: semantics live in `penjing-reference` and `penjing-exec`.

pub mod axes;
mod cost;
mod dim;
mod error;
mod fact;
mod graph;
mod infer;
mod model;
mod op;
mod scope;
pub mod text;
mod verify;

pub use cost::{Cost, cost};
pub use dim::{Atom, Bindings, Dim, Poly, Symbol};
pub use error::IrError;
pub use fact::Fact;
pub use graph::{Graph, Node, NodeId, Output, Source, StateId, Value, ValueId};
pub use infer::{broadcast, infer};
pub use model::{BodyId, Carry, Model, Role, State};
pub use op::*;
pub use scope::Scope;
pub use verify::{Stage, verify};
