//! int8 kernels, exact at every level: i32 sums, one f32 scale and bias a channel, round half to even, saturate.
//!
//! Bytes are multiplied as bytes: by AMX (`amx`), with `vpdpbusd` (`dots`), or with `vpmaddubsw` (`tile`) and weights packed once so that no sum
//! leaves its 16 bits (`steps`). A result is `act(fma(sum, sx·sw, bias) + residual)`, each operation rounded to f32; with a residual
//! of integers r it is `act(fma(r, sr, fma(sum, sx·sw, bias − zr·sr)))`. For an int8 result everything real that goes in, limits as
//! well, is first multiplied by the inverse of its scale, and the result is `saturate(round(v) + zero)`. An activation beyond limits is
//! the level's function of [`Activation`]; its results are multiplied by that inverse instead.

#[cfg(target_arch = "x86_64")]
mod amx;
mod conv_last;
mod depthwise;
#[cfg(target_arch = "x86_64")]
mod dots;
mod dynamic;
mod epilogue;
mod gemm;
mod mean;
mod product;
mod quantize;
mod quotient;
mod rounding;
mod steps;
#[cfg(target_arch = "x86_64")]
mod store;
mod tile;
#[cfg(target_arch = "x86_64")]
mod wide_store;
mod winograd;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::TileConfig;
pub use conv_last::{PackedQConvLast, qconv_last};
pub(crate) use dynamic::dynamic_quantize_row;
pub use dynamic::{dynamic_grid, dynamic_quantize};
pub(crate) use gemm::check_depth;
pub use gemm::{PackedQGemm, WeightLayout, qgemm};
pub use mean::{MAX_MEAN, qmean};
pub use quantize::{Scales, dequantize, fake_quant, quantize};
pub(crate) use quantize::{round_i8, round_u8};
pub(crate) use rounding::Rounding;

use crate::{Activation, KernelError, error::check_len};
use bytemuck::Pod;
use std::ops::Range;

/// Greatest depth of a product: every sum of `MAX_DEPTH` products of 255 and 128 fits an i32.
pub const MAX_DEPTH: usize = i32::MAX as usize / (255 * 128);

/// The two int8 types.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum ByteType {
    I8,
    U8,
}

impl ByteType {
    /// What is added to i8 whose highest bit is inverted so that they are u8.
    fn flip(self) -> i32 {
        match self {
            ByteType::U8 => 0,
            ByteType::I8 => 128,
        }
    }
}

/// Elements of an int8 tensor.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Bytes<'a> {
    I8(&'a [i8]),
    U8(&'a [u8]),
}

impl<'a> Bytes<'a> {
    /// The elements' type.
    pub fn byte_type(&self) -> ByteType {
        match self {
            Bytes::I8(_) => ByteType::I8,
            Bytes::U8(_) => ByteType::U8,
        }
    }

    /// The elements' bits.
    pub(crate) fn raw(self) -> &'a [u8] {
        match self {
            Bytes::I8(x) => bytemuck::cast_slice(x),
            Bytes::U8(x) => x,
        }
    }

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
    /// The elements `range`.
    pub(crate) fn part(self, range: Range<usize>) -> Self {
        let data = match self.data {
            Bytes::I8(q) => Bytes::I8(&q[range]),
            Bytes::U8(q) => Bytes::U8(&q[range]),
        };
        QTensor { data, ..self }
    }

    /// The zero point is a value of the type, which is `expected`.
    pub(crate) fn check(&self, kernel: &'static str, expected: ByteType) -> Result<(), KernelError> {
        let all = match self.data.byte_type() {
            ByteType::I8 => Limits::I8,
            ByteType::U8 => Limits::U8,
        };
        if self.data.byte_type() != expected {
            return Err(KernelError::Geometry {
                kernel,
                why: "the weights were packed for activations of another type",
            });
        }
        if all.has(self.zero) {
            return Ok(());
        }
        Err(KernelError::Geometry { kernel, why: "the zero point is no value of its tensor's type" })
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
    pub(crate) fn check(&self, kernel: &'static str, all: Limits) -> Result<(), KernelError> {
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

/// A tensor of the result's shape and layout that is added to it.
#[derive(Clone, Copy, Debug)]
pub enum QResidual<'a> {
    /// Real numbers.
    F32(&'a [f32]),
    /// `(q − zero) · scale`
    Int(QTensor<'a>),
}

/// What happens to a sum of output channel o: `act(sum · (x scale · w_scale[o]) + bias[o] + residual)`.
#[derive(Clone, Copy, Debug)]
pub struct QEpilogue<'a> {
    /// One value an output channel.
    pub w_scale: &'a [f32],
    /// One value an output channel.
    pub bias: Option<&'a [f32]>,
    /// Added after the bias.
    pub residual: Option<QResidual<'a>>,
    /// Of the real result, before it is rounded to a grid.
    pub act: Activation,
}

impl QEpilogue<'_> {
    /// The residual fits a result of so many elements.
    fn check(&self, kernel: &'static str, len: usize) -> Result<(), KernelError> {
        match self.residual {
            None => Ok(()),
            Some(QResidual::F32(r)) => check_len(kernel, "residual", Some(len), r.len()),
            Some(QResidual::Int(r)) => {
                check_len(kernel, "residual", Some(len), r.data.len())?;
                r.check(kernel, r.data.byte_type())
            }
        }
    }
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
