//! Stores f32 sums with bias, residual and activation.

use crate::{
    Isa,
    activation::Activation,
    gemm::tile::{Acc, NR, Sink},
    isa::prefetch,
    pool::Disjoint,
};

/// `C[first_row + row, first_col + col] = activation(sum + bias[col] + residual)`.
pub(crate) struct Finish<'a> {
    pub(crate) isa: Isa,
    /// `[rows, stride]`.
    pub(crate) c: &'a Disjoint<'a, f32>,
    /// Elements from row to row, of `c` and `residual`.
    pub(crate) stride: usize,
    /// Row of C that the task's row 0 is.
    pub(crate) first_row: usize,
    /// Column of C that the task's column 0 is.
    pub(crate) first_col: usize,
    /// One value for every column of the task.
    pub(crate) bias: Option<&'a [f32]>,
    /// Of C's layout.
    pub(crate) residual: Option<&'a [f32]>,
    /// The last operation.
    pub(crate) activation: Activation,
}

impl Sink<f32> for Finish<'_> {
    #[inline(always)]
    fn prepare(&self, row: usize, rows: usize, col: usize) {
        for r in row..row + rows {
            prefetch(self.c.as_ptr().wrapping_add((self.first_row + r) * self.stride + self.first_col + col));
        }
    }

    #[inline(always)]
    fn put(&self, row: usize, rows: usize, col: usize, cols: usize, acc: &Acc<f32>) {
        for (r, acc) in acc.0[..rows].iter().enumerate() {
            let at = (self.first_row + row + r) * self.stride + self.first_col + col;
            let mut v = *acc;
            if let Some(bias) = self.bias {
                add(&mut v, &bias[col..col + cols]);
            }
            if let Some(residual) = self.residual {
                add(&mut v, &residual[at..at + cols]);
            }
            self.activation.apply(self.isa, &mut v);
            // SAFETY: a task puts each of its elements once, and the tasks' elements are disjoint; `slice` checks the range.
            let out = unsafe { self.c.slice(at, cols) };
            match <&mut [f32; NR]>::try_from(&mut *out) {
                Ok(full) => *full = v,
                Err(_) => out.copy_from_slice(&v[..cols]),
            }
        }
    }
}

/// `v[j] += x[j]` for what `x` has.
#[inline(always)]
fn add(v: &mut [f32; NR], x: &[f32]) {
    match x.first_chunk::<NR>() {
        Some(x) => (0..NR).for_each(|j| v[j] += x[j]),
        None => v.iter_mut().zip(x).for_each(|(v, x)| *v += x),
    }
}
