//! int8 kernels, exact at every level: i32 sums, one f32 scale and bias a channel, round half to even, saturate.
//!
//! Activations are widened to i16 with their zero point taken off while they are packed, so that padding is zero and
//! `vpmaddwd` sums pairs without saturating for every value of i8 and u8; weights are packed once. A result is
//! `act(sum · (sx·sw) + bias)`, each operation rounded to f32, and for an int8 result `saturate(round(v / scale) + zero)`.

mod conv;
mod finish;
mod gemm;
mod quantize;
mod tile;

pub use conv::{PackedConvI8, qconv};
pub use gemm::{PackedI8, WeightLayout, qgemm};
pub use quantize::{Scales, dequantize, fake_quant, quantize};

use crate::{KernelError, gemm::Clamp};
use bytemuck::Pod;

/// Greatest depth of a product: every sum of `MAX_DEPTH` products of 255 and 128 fits an i32.
pub const MAX_DEPTH: usize = i32::MAX as usize / (255 * 128);

/// Elements of an int8 tensor.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Bytes<'a> {
    I8(&'a [i8]),
    U8(&'a [u8]),
}

impl Bytes<'_> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Bytes::I8(x) => x.len(),
            Bytes::U8(x) => x.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Elements of an int8 tensor that is written.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum BytesMut<'a> {
    I8(&'a mut [i8]),
    U8(&'a mut [u8]),
}

/// An activation: real = (q − zero) · scale.
#[derive(Clone, Copy, Debug)]
pub struct QTensor<'a> {
    /// The elements q.
    pub data: Bytes<'a>,
    /// Of the whole tensor.
    pub scale: f32,
    /// A value of the elements' type.
    pub zero: i32,
}

impl QTensor<'_> {
    fn check(&self, kernel: &'static str) -> Result<(), KernelError> {
        let all = match self.data {
            Bytes::I8(_) => Limits::I8,
            Bytes::U8(_) => Limits::U8,
        };
        if all.has(self.zero) {
            Ok(())
        } else {
            Err(KernelError::Geometry { kernel, why: "the zero point is no value of x's type" })
        }
    }
}

/// Smallest and largest integer of a grid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Limits {
    pub lo: i32,
    pub hi: i32,
}

impl Limits {
    /// All of i8.
    pub const I8: Limits = Limits { lo: -128, hi: 127 };
    /// Symmetric i8.
    pub const I8_NARROW: Limits = Limits { lo: -127, hi: 127 };
    /// All of u8.
    pub const U8: Limits = Limits { lo: 0, hi: 255 };

    /// In order, and both inside `self`.
    fn check(self, kernel: &'static str, limits: Limits) -> Result<(), KernelError> {
        if limits.lo <= limits.hi && self.has(limits.lo) && self.has(limits.hi) {
            return Ok(());
        }
        Err(KernelError::Geometry { kernel, why: "the limits lie outside the integer type or out of order" })
    }

    fn has(self, v: i32) -> bool {
        (self.lo..=self.hi).contains(&v)
    }
}

/// The integers q that results are rounded to: real = (q − zero) · scale.
#[derive(Clone, Copy, PartialEq, Debug)]
#[allow(missing_docs)]
pub struct Grid {
    pub scale: f32,
    pub zero: i32,
    pub limits: Limits,
}

impl Grid {
    /// The numbers must be values of a type with the range `all`.
    fn check(&self, kernel: &'static str, all: Limits) -> Result<(), KernelError> {
        all.check(kernel, self.limits)?;
        if all.has(self.zero) {
            return Ok(());
        }
        Err(KernelError::Geometry { kernel, why: "the zero point of the result is no value of its type" })
    }
}

/// Where results go.
#[derive(Debug)]
pub enum QOut<'a> {
    /// Not rounded.
    F32(&'a mut [f32]),
    /// On a grid of i8.
    I8(&'a mut [i8], Grid),
    /// On a grid of u8.
    U8(&'a mut [u8], Grid),
}

impl QOut<'_> {
    fn len(&self) -> usize {
        match self {
            QOut::F32(y) => y.len(),
            QOut::I8(y, _) => y.len(),
            QOut::U8(y, _) => y.len(),
        }
    }

    fn check(&self, kernel: &'static str) -> Result<(), KernelError> {
        match self {
            QOut::F32(_) => Ok(()),
            QOut::I8(_, grid) => grid.check(kernel, Limits::I8),
            QOut::U8(_, grid) => grid.check(kernel, Limits::U8),
        }
    }
}

/// What happens to a sum of output channel o: `clamp(sum · (x scale · w_scale[o]) + bias[o])`.
#[derive(Clone, Copy, Debug)]
pub struct QEpilogue<'a> {
    /// One value an output channel.
    pub w_scale: &'a [f32],
    /// One value an output channel.
    pub bias: Option<&'a [f32]>,
    /// Limits of the real result.
    pub clamp: Clamp,
}

/// i8 and u8.
pub(crate) trait Byte: Pod + Ord + Send + Sync {
    fn widen(self) -> i32;
    /// Keeps the low 8 bits.
    fn narrow(v: i32) -> Self;
}

impl Byte for i8 {
    #[inline(always)]
    fn widen(self) -> i32 {
        self.into()
    }

    #[inline(always)]
    fn narrow(v: i32) -> i8 {
        v as i8
    }
}

impl Byte for u8 {
    #[inline(always)]
    fn widen(self) -> i32 {
        self.into()
    }

    #[inline(always)]
    fn narrow(v: i32) -> u8 {
        v as u8
    }
}

#[cfg(test)]
mod tests;
