//! Einsum.
use super::{frame::Operand, node::{NodeCx, Res, unsupported}};
pub(super) fn einsum(_: &mut NodeCx<'_, '_>) -> Res<Vec<Operand>> { unsupported("later") }
