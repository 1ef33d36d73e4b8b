//! What becomes of the i32 sums of a product whose output channels are columns.
//!
//! A product is computed with activations as the tile sees them, x + shift; Σ (x − zero)·w = Σ (x + shift)·w − (zero + shift)·Σ w,
//! and the second term is one constant a channel.

use super::{
    Bytes, QEpilogue, QResidual, QTensor,
    finish::{Rounding, Target},
};
use crate::{
    KernelError,
    error::check_len,
    gemm::{
        Clamp,
        tile::{Acc, NR, Sink},
    },
    pool::Disjoint,
};

/// The epilogue of all output channels, one call's.
pub(super) struct Columns {
    /// x scale · w scale, padded by a tile.
    scale: Vec<f32>,
    bias: Vec<f32>,
    /// −(zero + shift)·Σ w
    constant: Vec<i32>,
    clamp: Clamp,
}

impl Columns {
    /// `sums` holds Σ w of every channel; `zero` is x's zero point as the tile sees it.
    pub(super) fn new(
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
        scale.resize(padded, 0.0);
        bias.resize(padded, 0.0);
        constant.resize(padded, 0);
        Ok(Columns { scale, bias, constant, clamp: e.clamp })
    }

    /// `NR` values from `first`.
    #[inline(always)]
    fn tile<T>(values: &[T], first: usize) -> &[T; NR] {
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

/// Stores tiles of sums into y `[rows, stride]`.
pub(super) struct QFinish<'a, T> {
    pub(super) y: &'a Disjoint<'a, T>,
    /// Elements from row to row, of y and of the residual.
    pub(super) stride: usize,
    /// Row of y that the task's row 0 is.
    pub(super) first_row: usize,
    /// Channel that the task's column 0 is.
    pub(super) first_col: usize,
    pub(super) columns: &'a Columns,
    pub(super) residual: Option<QResidual<'a>>,
    pub(super) rounding: Rounding,
}

impl<T: Target> Sink<i32> for QFinish<'_, T> {
    #[inline(always)]
    fn put(&self, row: usize, rows: usize, col: usize, cols: usize, acc: &Acc<i32>) {
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
            let mut line = [T::zeroed(); NR];
            for j in 0..NR {
                line[j] = T::store(limit(v[j], c.clamp), self.rounding);
            }
            // SAFETY: each output element belongs to one task, which puts it once; `slice` checks the range.
            let out = unsafe { self.y.slice(at, cols) };
            match <&mut [T; NR]>::try_from(&mut *out) {
                Ok(full) => *full = line,
                Err(_) => out.copy_from_slice(&line[..cols]),
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
