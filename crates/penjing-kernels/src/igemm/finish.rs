//! Stores f32 sums with bias, residual and activation.

use crate::{
    Isa,
    activation::{Activation, Clamp},
    gemm::tile::{NR, Sink, Straight},
    isa::prefetch,
    pool::Disjoint,
};
use std::ptr;

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
    fn straight(&self, row: usize, rows: usize, col: usize, cols: usize) -> Option<Straight> {
        let Activation::Clamp(clamp) = self.activation else { return None };
        let first = (self.first_row + row) * self.stride + self.first_col + col;
        let span = (rows - 1) * self.stride + cols;
        Some(Straight {
            c: self.c.at(first, span),
            stride: self.stride,
            cols,
            add: false,
            bias: self.bias.map_or(ptr::null(), |b| b[col..col + cols].as_ptr()),
            residual: self.residual.map_or(ptr::null(), |r| r[first..first + span].as_ptr()),
            clamp,
        })
    }

    #[inline(always)]
    fn put(&self, row: usize, col: usize, cols: usize, acc: &[[f32; NR]]) {
        match self.activation {
            Activation::Clamp(clamp) if cols == NR => self.put_whole(row, col, clamp, acc),
            _ => self.put_part(row, col, cols, acc),
        }
    }
}

impl Finish<'_> {
    /// Sixteen columns and limits: straight code, since a tile of little depth takes hardly longer than its epilogue.
    #[inline(always)]
    fn put_whole(&self, row: usize, col: usize, clamp: Clamp, acc: &[[f32; NR]]) {
        let first = (self.first_row + row) * self.stride + self.first_col + col;
        let span = (acc.len() - 1) * self.stride + NR;
        let c = self.c.at(first, span);
        let residual = self.residual.map(|r| r[first..first + span].as_ptr());
        let bias = self.bias.map_or([0.0; NR], |b| *b[col..].first_chunk().expect("the panel's columns have a bias"));
        for (r, acc) in acc.iter().enumerate() {
            let mut v = *acc;
            for j in 0..NR {
                v[j] += bias[j];
            }
            if let Some(residual) = residual {
                // SAFETY: row `r` lies inside the span, which was taken from the slice.
                let x = unsafe { residual.add(r * self.stride).cast::<[f32; NR]>().read_unaligned() };
                for j in 0..NR {
                    v[j] += x[j];
                }
            }
            for j in 0..NR {
                v[j] = clamp.apply(v[j]);
            }
            // SAFETY: `at` checked the span; a task puts each of its elements once, and the tasks' elements are disjoint.
            unsafe { c.add(r * self.stride).cast::<[f32; NR]>().write_unaligned(v) };
        }
    }

    /// Any columns and activation.
    #[inline(never)]
    fn put_part(&self, row: usize, col: usize, cols: usize, acc: &[[f32; NR]]) {
        for (r, acc) in acc.iter().enumerate() {
            let at = (self.first_row + row + r) * self.stride + self.first_col + col;
            let mut v = *acc;
            let v = &mut v[..cols];
            if let Some(bias) = self.bias {
                add(v, &bias[col..col + cols]);
            }
            if let Some(residual) = self.residual {
                add(v, &residual[at..at + cols]);
            }
            self.activation.apply(self.isa, v);
            // SAFETY: a task puts each of its elements once, and the tasks' elements are disjoint; `slice` checks the range.
            unsafe { self.c.slice(at, cols) }.copy_from_slice(v);
        }
    }
}

fn add(v: &mut [f32], x: &[f32]) {
    v.iter_mut().zip(x).for_each(|(v, x)| *v += x);
}
