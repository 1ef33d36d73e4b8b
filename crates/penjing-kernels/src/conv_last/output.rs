//! Where kernels that compute a register of channels at a time put their results.

use super::ConvEpilogue;
use crate::{
    Isa,
    activation::{Activation, Clamp},
    conv::ConvShape,
    lanes::Lanes,
    pool::Disjoint,
};
use std::ops::Range;

/// y `[pixels, channels]` and what is done to a sum before it is stored.
pub(crate) struct Output<'a> {
    y: &'a Disjoint<'a, f32>,
    channels: usize,
    bias: &'a [f32],
    residual: Option<&'a [f32]>,
    /// The activation where it is limits.
    clamp: Clamp,
    /// The activation where it is not; it needs whole rows.
    smooth: Option<Activation>,
}

impl<'a> Output<'a> {
    /// The output of a checked convolution. `zeros`, at least one an output channel, stand in for a missing bias.
    pub(crate) fn new(s: &ConvShape, e: &ConvEpilogue<'a>, zeros: &'a [f32], y: &'a Disjoint<'a, f32>) -> Output<'a> {
        let (clamp, smooth) = match e.activation {
            Activation::Clamp(clamp) => (clamp, None),
            smooth => (Clamp::NONE, Some(smooth)),
        };
        let (bias, residual) = (e.bias.unwrap_or(zeros), e.residual);
        Output { y, channels: s.out_channels, bias, residual, clamp, smooth }
    }

    /// The bias of the `lanes` channels from `channel` on.
    ///
    /// # Safety
    /// They exist, and the host has the lanes' instructions.
    #[inline(always)]
    pub(crate) unsafe fn bias<V: Lanes>(&self, channel: usize, lanes: usize) -> V {
        // SAFETY: this function's contract.
        unsafe { V::load_part(self.bias.as_ptr().add(channel), lanes) }
    }

    /// Stores sums that hold the bias already: `lanes` channels of a pixel of the batch.
    ///
    /// # Safety
    /// They exist, and no other task stores to that pixel.
    #[inline(always)]
    pub(crate) unsafe fn put<V: Lanes>(&self, pixel: usize, channel: usize, lanes: usize, v: V) {
        let at = pixel * self.channels + channel;
        // SAFETY: this function's contract; a value of V proves the level.
        unsafe {
            let v = match self.residual {
                Some(r) => v.add(V::load_part(r.as_ptr().add(at), lanes)),
                None => v,
            };
            let v = v.clamp(V::splat(self.clamp.min), V::splat(self.clamp.max));
            let to = self.y.as_ptr().add(at);
            if lanes == V::LANES { v.store(to) } else { v.store_part(to, lanes) }
        }
    }

    /// What is left to do when these channels of `pixels` are stored.
    ///
    /// # Safety
    /// No other task touches them.
    pub(crate) unsafe fn finish(&self, isa: Isa, pixels: Range<usize>, channels: Range<usize>) {
        let Some(smooth) = self.smooth else { return };
        let each = if channels.len() == self.channels { pixels.len() } else { 1 };
        for first in pixels.step_by(each.max(1)) {
            // SAFETY: this function's contract; `slice` checks the range.
            let y = unsafe { self.y.slice(first * self.channels + channels.start, each * channels.len()) };
            smooth.apply(isa, y);
        }
    }
}
