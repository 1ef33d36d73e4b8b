//! What a product applies to each result before it is stored.

use crate::gemm::Clamp;

/// The last operation of a fused kernel.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// Limits; ReLU is [`Clamp::RELU`].
    Clamp(Clamp),
}

impl Activation {
    /// Applies it to a row of results.
    #[inline(always)]
    pub(crate) fn apply<const N: usize>(self, v: &mut [f32; N]) {
        match self {
            Activation::None => {}
            Activation::Clamp(clamp) => v.iter_mut().for_each(|v| *v = clamp.apply(*v)),
        }
    }
}
