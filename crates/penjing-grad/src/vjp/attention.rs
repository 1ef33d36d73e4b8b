//! Attention has no rule of its own: the walk finds it written out as products and a softmax, whose probabilities it reads again.

use super::{Grads, Vjp};

pub(super) fn attention(b: &mut Vjp<'_, '_>) -> Grads {
    b.fail("it is written out as products and a softmax before it is differentiated")
}
