//! Stores tiles into C with the epilogue.

use super::{
    Accumulate, Bias, Epilogue,
    tile::{MOST_ROWS, NR, Sink, Straight},
};
use crate::{Activation, Isa, activation::Clamp, isa::prefetch};
use std::ptr;

/// Where C is: `[m, n]` with `row_stride` elements from row to row.
#[derive(Clone, Copy)]
pub(crate) struct COut {
    pub(crate) ptr: *mut f32,
    pub(crate) row_stride: usize,
}

// SAFETY: tasks write disjoint parts; whoever makes a `COut` holds C mutably for the time of the call.
unsafe impl Send for COut {}
// SAFETY: as above.
unsafe impl Sync for COut {}

/// Stores tiles into C.
#[derive(Clone, Copy)]
pub(crate) struct CSink<'a> {
    isa: Isa,
    c: COut,
    /// Row of C that row 0 is.
    row: usize,
    /// Column of C that column 0 is.
    col: usize,
    add: bool,
    bias: Bias<'a>,
    residual: Option<&'a [f32]>,
    act: Activation,
}

impl<'a> CSink<'a> {
    /// A sink for the columns from `col` on. Everything but the sum happens in the last k-block, the first overwrites.
    ///
    /// # Safety
    /// The elements of C that tiles are put to are valid and held by this sink alone.
    pub(crate) unsafe fn new(isa: Isa, c: COut, col: usize, e: &Epilogue<'a>, first: bool, last: bool) -> CSink<'a> {
        CSink {
            isa,
            c,
            row: 0,
            col,
            add: !first || e.accumulate == Accumulate::Add,
            bias: if last { e.bias } else { Bias::None },
            residual: if last { e.residual } else { None },
            act: if last { e.act } else { Activation::NONE },
        }
    }

    /// The same for a part that begins `rows` further down.
    pub(crate) fn below(&self, rows: usize) -> CSink<'a> {
        CSink { row: self.row + rows, ..*self }
    }

    #[inline(always)]
    fn at(&self, row: usize, col: usize) -> *mut f32 {
        self.c.ptr.wrapping_add(row * self.c.row_stride + col)
    }

    /// Sixteen columns: straight code, since a tile of little depth takes hardly longer than its epilogue.
    #[inline(always)]
    fn put_whole(&self, row: usize, col: usize, acc: &[[f32; NR]]) {
        let rows = acc.len();
        let cols = match self.bias {
            Bias::Col(b) => *b[col..].first_chunk().expect("a bias has a value for every column"),
            _ => [0.0; NR],
        };
        let one = match self.bias {
            Bias::Row(b) => &b[row..row + rows],
            _ => &[],
        };
        let residual = self.residual.map(|r| {
            let first = row * self.c.row_stride + col;
            r[first..first + (rows - 1) * self.c.row_stride + NR].as_ptr()
        });
        let smooth = !matches!(self.act, Activation::Clamp(_));
        let clamp = if let Activation::Clamp(clamp) = self.act { clamp } else { Clamp::NONE };
        let mut out = [[0.0; NR]; MOST_ROWS];
        for r in 0..rows {
            let mut v = acc[r];
            if self.add {
                // SAFETY: `new`'s contract; a whole tile is inside C.
                let old = unsafe { self.at(row + r, col).cast::<[f32; NR]>().read_unaligned() };
                add_row(&mut v, &old);
            }
            add_row(&mut v, &cols);
            if let Some(&b) = one.get(r) {
                add_row(&mut v, &[b; NR]);
            }
            if let Some(residual) = residual {
                // SAFETY: row `r` lies inside the span that was taken from the slice.
                let more = unsafe { residual.add(r * self.c.row_stride).cast::<[f32; NR]>().read_unaligned() };
                add_row(&mut v, &more);
            }
            for j in 0..NR {
                v[j] = clamp.apply(v[j]);
            }
            if smooth {
                out[r] = v;
            } else {
                // SAFETY: `new`'s contract; a whole tile is inside C.
                unsafe { self.at(row + r, col).cast::<[f32; NR]>().write_unaligned(v) };
            }
        }
        if smooth {
            self.act.apply(self.isa, out[..rows].as_flattened_mut());
            for r in 0..rows {
                // SAFETY: as above.
                unsafe { self.at(row + r, col).cast::<[f32; NR]>().write_unaligned(out[r]) };
            }
        }
    }

    /// Fewer columns.
    #[inline(never)]
    fn put_part(&self, row: usize, col: usize, cols: usize, acc: &[[f32; NR]]) {
        for (r, acc) in acc.iter().enumerate() {
            // SAFETY: `new`'s contract.
            let out = unsafe { std::slice::from_raw_parts_mut(self.at(row + r, col), cols) };
            let mut v = *acc;
            let v = &mut v[..cols];
            if self.add {
                add(v, out);
            }
            match self.bias {
                Bias::None => {}
                Bias::Row(b) => add(v, &[b[row + r]; NR]),
                Bias::Col(b) => add(v, &b[col..]),
            }
            if let Some(residual) = self.residual {
                add(v, &residual[(row + r) * self.c.row_stride + col..]);
            }
            self.act.apply(self.isa, v);
            out.copy_from_slice(v);
        }
    }
}

impl Sink<f32> for CSink<'_> {
    #[inline(always)]
    fn prepare(&self, row: usize, rows: usize, col: usize) {
        for r in row..row + rows {
            prefetch(self.at(self.row + r, self.col + col));
        }
    }

    #[inline(always)]
    fn straight(&self, row: usize, rows: usize, col: usize, cols: usize) -> Option<Straight> {
        let Activation::Clamp(clamp) = self.act else { return None };
        let (row, col) = (self.row + row, self.col + col);
        let bias = match self.bias {
            Bias::None => ptr::null(),
            Bias::Row(_) => return None,
            Bias::Col(b) => b[col..col + cols].as_ptr(),
        };
        let residual = self.residual.map_or(ptr::null(), |r| {
            let first = row * self.c.row_stride + col;
            r[first..first + (rows - 1) * self.c.row_stride + cols].as_ptr()
        });
        Some(Straight { c: self.at(row, col), stride: self.c.row_stride, cols, add: self.add, bias, residual, clamp })
    }

    #[inline(always)]
    fn put(&self, row: usize, col: usize, cols: usize, acc: &[[f32; NR]]) {
        let (row, col) = (self.row + row, self.col + col);
        if cols == NR {
            self.put_whole(row, col, acc);
        } else {
            self.put_part(row, col, cols, acc);
        }
    }
}

#[inline(always)]
fn add_row(row: &mut [f32; NR], more: &[f32; NR]) {
    for j in 0..NR {
        row[j] += more[j];
    }
}

fn add(v: &mut [f32], more: &[f32]) {
    v.iter_mut().zip(more).for_each(|(v, m)| *v += m);
}
