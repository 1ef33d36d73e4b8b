//! Where kernels that compute a register of channels at a time put their results.

use super::ConvEpilogue;
use crate::{
    Isa,
    activation::{Activation, Clamp},
    conv::ConvShape,
    lanes::Lanes,
    pool::Disjoint,
};
use std::{ops::Range, ptr};

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

    /// What stores registers of sums.
    ///
    /// # Safety
    /// The host has the lanes' instructions.
    #[inline(always)]
    pub(crate) unsafe fn writer<V: Lanes>(&self) -> Writer<V> {
        // SAFETY: this function's contract.
        let [min, max] = [self.clamp.min, self.clamp.max].map(|v| unsafe { V::splat(v) });
        let residual = self.residual.map_or(ptr::null(), <[f32]>::as_ptr);
        Writer { y: self.y.as_ptr(), residual, channels: self.channels, min, max }
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

/// A copy of what storing needs, which no store can change: the compiler keeps it in registers.
#[derive(Clone, Copy)]
pub(crate) struct Writer<V> {
    y: *mut f32,
    /// Null where there is none.
    residual: *const f32,
    channels: usize,
    min: V,
    max: V,
}

impl<V: Lanes> Writer<V> {
    /// Stores sums that hold the bias already: `lanes` channels of a pixel of the batch.
    ///
    /// # Safety
    /// They exist, and no other task stores to that pixel.
    #[inline(always)]
    pub(crate) unsafe fn put(&self, pixel: usize, channel: usize, lanes: usize, v: V) {
        let at = pixel * self.channels + channel;
        // SAFETY: this function's contract; a value of V proves the level.
        unsafe {
            let v = if self.residual.is_null() { v } else { v.add(V::load_part(self.residual.add(at), lanes)) };
            let (v, to) = (v.clamp(self.min, self.max), self.y.add(at));
            if lanes == V::LANES { v.store(to) } else { v.store_part(to, lanes) }
        }
    }
}
