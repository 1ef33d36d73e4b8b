//! Resize.
use super::{frame::Operand, node::{NodeCx, Res, unsupported}};
pub(super) fn resize(_: &mut NodeCx<'_, '_>) -> Res<Vec<Operand>> { unsupported("later") }
pub(super) fn upsample(_: &mut NodeCx<'_, '_>) -> Res<Vec<Operand>> { unsupported("later") }
