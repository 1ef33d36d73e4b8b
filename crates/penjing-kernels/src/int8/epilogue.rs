//! What becomes of the i32 sums of a product whose output channels are columns.
//!
//! A product is computed with activations as the tile sees them, x + shift; Σ (x − zero)·w = Σ (x + shift)·w − (zero + shift)·Σ w,
//! and the second term is one constant a channel.

use super::{ByteType, Bytes, QEpilogue, QOut, QResidual, QTensor, rounding::Rounding};
use crate::{
    Activation, Isa, KernelError,
    error::check_len,
    gemm::{
        Clamp,
        tile::{Acc, NR},
    },
    pool::Disjoint,
};

/// The epilogue of all output channels, one call's.
pub(super) struct Columns {
    /// x scale · w scale, padded by a tile.
    pub(super) scale: Vec<f32>,
    pub(super) bias: Vec<f32>,
    /// −(zero + shift)·Σ w
    pub(super) constant: Vec<i32>,
    pub(super) clamp: Clamp,
    /// A function of the results that is no limits.
    pub(super) smooth: Option<Activation>,
    /// The level of that function.
    isa: Isa,
    /// Whether scales, biases and what the function has are finite and so small that no result overflows.
    pub(super) tame: bool,
}

impl Columns {
    /// What scales and biases stay below where no result overflows: 2³¹ times it is finite.
    pub(super) const LARGE: f32 = 1e20;

    /// `sums` holds Σ w of every channel; `zero` is x's zero point as the tile sees it.
    pub(super) fn new(
        isa: Isa,
        kernel: &'static str,
        x: QTensor<'_>,
        sums: &[i32],
        zero: i32,
        e: &QEpilogue<'_>,
    ) -> Result<Columns, KernelError> {
        check_len(kernel, "w_scale", Some(sums.len()), e.w_scale.len())?;
        if let Some(bias) = e.bias {
            check_len(kernel, "bias", Some(sums.len()), bias.len())?;
        }
        let padded = sums.len() + NR;
        let mut scale: Vec<f32> = e.w_scale.iter().map(|&s| x.scale * s).collect();
        let mut bias = e.bias.map_or_else(Vec::new, <[f32]>::to_vec);
        // The result of all terms fits an i32, so wrapping in between does no harm.
        let mut constant: Vec<i32> = sums.iter().map(|&s| s.wrapping_mul(zero).wrapping_neg()).collect();
        let (clamp, smooth) = e.act.parts();
        let tame = scale.iter().chain(&bias).all(|v| v.abs() < Columns::LARGE) && e.act.is_finite();
        scale.resize(padded, 0.0);
        bias.resize(padded, 0.0);
        constant.resize(padded, 0);
        Ok(Columns { scale, bias, constant, clamp, smooth, isa, tame })
    }

    /// For sums to which `shift` was added, one value a channel.
    pub(super) fn shifted(mut self, shift: &[i32]) -> Columns {
        self.constant.iter_mut().zip(shift).for_each(|(c, shift)| *c = c.wrapping_sub(*shift));
        self
    }

    /// `NR` values from `first`.
    #[inline(always)]
    pub(super) fn tile<T>(values: &[T], first: usize) -> &[T; NR] {
        values[first..].first_chunk().expect("channels are padded by a tile")
    }
}

impl QResidual<'_> {
    /// `v[j] += residual[at + j]` for j < cols.
    #[inline(always)]
    fn add(self, at: usize, cols: usize, v: &mut [f32; NR]) {
        match self {
            QResidual::F32(r) => add(&r[at..at + cols], v, |r| r),
            QResidual::Int(QTensor { data: Bytes::I8(r), scale, zero }) => {
                add(&r[at..at + cols], v, |r| (i32::from(r) - zero) as f32 * scale);
            }
            QResidual::Int(QTensor { data: Bytes::U8(r), scale, zero }) => {
                add(&r[at..at + cols], v, |r| (i32::from(r) - zero) as f32 * scale);
            }
        }
    }
}

#[inline(always)]
fn add<T: Copy>(r: &[T], v: &mut [f32; NR], real: impl Fn(T) -> f32) {
    match r.first_chunk::<NR>() {
        Some(r) => (0..NR).for_each(|j| v[j] += real(r[j])),
        None => v.iter_mut().zip(r).for_each(|(v, &r)| *v += real(r)),
    }
}

/// Where results go, as tasks share it.
pub(super) enum Out<'a> {
    F32(Disjoint<'a, f32>),
    /// The bits of either type.
    Codes(Disjoint<'a, u8>, ByteType, Rounding),
}

impl<'a> Out<'a> {
    pub(super) fn new(y: QOut<'a>) -> Out<'a> {
        match y {
            QOut::F32(y) => Out::F32(Disjoint::new(y)),
            QOut::I8(y, grid) => {
                Out::Codes(Disjoint::new(bytemuck::cast_slice_mut(y)), ByteType::I8, Rounding::new(grid))
            }
            QOut::U8(y, grid) => Out::Codes(Disjoint::new(y), ByteType::U8, Rounding::new(grid)),
        }
    }
}

/// Stores tiles of sums into y `[rows, stride]`.
#[derive(Clone, Copy)]
pub(super) struct QFinish<'a> {
    pub(super) y: &'a Out<'a>,
    /// Elements from row to row, of y and of the residual.
    pub(super) stride: usize,
    /// Row of y that the task's row 0 is.
    pub(super) first_row: usize,
    /// Channel that the task's column 0 is.
    pub(super) first_col: usize,
    pub(super) columns: &'a Columns,
    pub(super) residual: Option<QResidual<'a>>,
}

impl QFinish<'_> {
    /// Stores `rows` rows from `row` on, `cols` columns from `col` on, both counted from the task's first.
    pub(super) fn put(&self, row: usize, rows: usize, col: usize, cols: usize, acc: &Acc<i32>) {
        let c = self.columns;
        let first = self.first_col + col;
        let (scale, bias) = (Columns::tile(&c.scale, first), Columns::tile(&c.bias, first));
        let constant = Columns::tile(&c.constant, first);
        for (r, acc) in acc.0[..rows].iter().enumerate() {
            let at = (self.first_row + row + r) * self.stride + first;
            let mut v = [0f32; NR];
            for j in 0..NR {
                v[j] = acc[j].wrapping_add(constant[j]) as f32 * scale[j] + bias[j];
            }
            if let Some(residual) = self.residual {
                residual.add(at, cols, &mut v);
            }
            if let Some(smooth) = c.smooth {
                smooth.apply(c.isa, &mut v);
            }
            v.iter_mut().for_each(|v| *v = limit(*v, c.clamp));
            // SAFETY: each output element belongs to one task, which puts it once; `slice` checks the range.
            unsafe {
                match self.y {
                    Out::F32(y) => y.slice(at, cols).copy_from_slice(&v[..cols]),
                    // The low byte of a code is its bits in either type.
                    Out::Codes(y, _, r) => {
                        y.slice(at, cols).iter_mut().zip(v).for_each(|(y, v)| *y = r.apply_product(v) as u8);
                    }
                }
            }
        }
    }
}

/// A result equal to a limit takes the limit's sign of zero.
#[inline(always)]
fn limit(v: f32, clamp: Clamp) -> f32 {
    let v = if v <= clamp.min { clamp.min } else { v };
    if v >= clamp.max { clamp.max } else { v }
}
