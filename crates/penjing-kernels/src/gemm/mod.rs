//! f32 matrix multiplication: `C[m,n] (+)= A[m,k] · B[k,n]`, with bias, residual, activation and any strides of A and B.
//!
//! Operands are packed by k-block into panels (`pack`) that the register tile (`tile`) reads linearly (Goto and van de
//! Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 2008). Weights that do not change may be packed once
//! ([`PackedLhs`], [`PackedRhs`]). Each element of C is summed over k in one fixed order.

mod batched;
mod gemv;
pub(crate) mod pack;
pub(crate) mod tile;

pub use crate::activation::Clamp;
pub use batched::{Batch, gemm_batched};

use crate::{
    Activation, Ctx, Isa, KernelError,
    error::{check_len, product},
    pool::Disjoint,
    scratch::with_scratch,
};
use pack::{k_blocks, pack_cols, pack_rows, packed_cols_len};
use std::ops::Range;
use tile::{Acc, Block, Columns, F32, NR, RowPanels, Sink, run_block};

const NAME: &str = "gemm";

/// Row panels of one task: at most 96 rows, whose k-block (120 KiB) stays in the second-level cache.
const TASK_ROW_PANELS: usize = 16;
/// Column panels of one task: at most 128 columns.
const TASK_COL_PANELS: usize = 8;
/// Multiply-adds below which a product is one task: waking a thread costs more.
const SMALL: usize = 1 << 16;

/// C is `[m, n]`, A `[m, k]`, B `[k, n]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct GemmShape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// A matrix in memory: element (i, j) is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Mat<'a> {
    pub data: &'a [f32],
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix with `cols` elements from row to row.
    pub fn rows(data: &'a [f32], cols: usize) -> Mat<'a> {
        Mat { data, row_stride: cols, col_stride: 1 }
    }

    /// The transpose of a row-major matrix with `cols` elements from row to row.
    pub fn transposed(data: &'a [f32], cols: usize) -> Mat<'a> {
        Mat { data, row_stride: 1, col_stride: cols }
    }

    fn t(self) -> Mat<'a> {
        Mat { data: self.data, row_stride: self.col_stride, col_stride: self.row_stride }
    }

    fn check(&self, operand: &'static str, rows: usize, cols: usize) -> Result<(), KernelError> {
        let need = span(rows, self.row_stride, cols, self.col_stride);
        match need {
            Some(need) if need <= self.data.len() => Ok(()),
            need => Err(KernelError::Length {
                kernel: NAME,
                operand,
                need: need.unwrap_or(usize::MAX),
                have: self.data.len(),
            }),
        }
    }
}

/// Elements from the first to one past the last of a strided matrix.
fn span(rows: usize, row_stride: usize, cols: usize, col_stride: usize) -> Option<usize> {
    if rows == 0 || cols == 0 {
        return Some(0);
    }
    (rows - 1).checked_mul(row_stride)?.checked_add((cols - 1).checked_mul(col_stride)?)?.checked_add(1)
}

/// The left operand.
#[derive(Clone, Copy)]
pub enum Lhs<'a> {
    /// Packed during the call.
    Plain(Mat<'a>),
    /// Packed before.
    Packed(&'a PackedLhs),
}

/// The right operand.
#[derive(Clone, Copy)]
pub enum Rhs<'a> {
    /// Packed during the call.
    Plain(Mat<'a>),
    /// Packed before.
    Packed(&'a PackedRhs),
}

/// A left operand `[m, k]` packed once.
pub struct PackedLhs {
    m: usize,
    k: usize,
    data: Vec<f32>,
}

impl PackedLhs {
    /// Packs `a`, an `[m, k]` matrix. The layout is the same at every level.
    pub fn new(isa: Isa, m: usize, k: usize, a: Mat<'_>) -> Result<PackedLhs, KernelError> {
        a.check("a", m, k)?;
        let len = product(&[m, k]).ok_or(KernelError::OutOfMemory { need: usize::MAX })?;
        let mut data = vec![0.0; len];
        let rows = RowPanels::new(m);
        for kb in k_blocks(k) {
            let block = &mut data[m * kb.start..m * kb.end];
            for i in 0..rows.count() {
                let r = rows.range(i);
                pack_rows(isa, &a, rows, i, kb.clone(), &mut block[r.start * kb.len()..r.end * kb.len()]);
            }
        }
        Ok(PackedLhs { m, k, data })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.len() * size_of::<f32>()
    }
}

/// A right operand `[k, n]` packed once; columns are padded with zeros to a multiple of 16.
pub struct PackedRhs {
    k: usize,
    n: usize,
    data: Vec<f32>,
}

impl PackedRhs {
    /// Packs `b`, a `[k, n]` matrix. The layout is the same at every level.
    pub fn new(isa: Isa, k: usize, n: usize, b: Mat<'_>) -> Result<PackedRhs, KernelError> {
        b.check("b", k, n)?;
        let len = packed_cols_len(n, k).ok_or(KernelError::OutOfMemory { need: usize::MAX })?;
        let mut data = vec![0.0; len];
        let width = n.div_ceil(NR) * NR;
        for kb in k_blocks(k) {
            let block = &mut data[width * kb.start..width * kb.end];
            for (j, out) in block.chunks_exact_mut(NR * kb.len()).enumerate() {
                pack_cols(isa, &b, j * NR..n.min((j + 1) * NR), kb.clone(), out);
            }
        }
        Ok(PackedRhs { k, n, data })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.len() * size_of::<f32>()
    }
}

/// Whether the product replaces C or is added to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Accumulate {
    /// C = A·B
    #[default]
    Overwrite,
    /// C += A·B
    Add,
}

/// What is added to every row or column of C.
#[derive(Clone, Copy, Debug, Default)]
pub enum Bias<'a> {
    /// Nothing.
    #[default]
    None,
    /// `m` values, one a row.
    Row(&'a [f32]),
    /// `n` values, one a column.
    Col(&'a [f32]),
}

/// What happens to a sum before it is stored: C = act((C) + A·B + bias + residual).
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Whether the old C is a term.
    pub accumulate: Accumulate,
    /// A vector added to every row or column.
    pub bias: Bias<'a>,
    /// A matrix with C's rows and row stride, in memory of its own; to add what C holds itself, accumulate.
    pub residual: Option<&'a [f32]>,
    /// Applied last.
    pub act: Activation,
}

impl Epilogue<'_> {
    fn check(&self, m: usize, n: usize) -> Result<(), KernelError> {
        match self.bias {
            Bias::None => Ok(()),
            Bias::Row(b) => check_len(NAME, "bias", Some(m), b.len()),
            Bias::Col(b) => check_len(NAME, "bias", Some(n), b.len()),
        }
    }
}

/// C = act((C) + A·B + bias + residual); C is row-major with `c_row_stride ≥ n` elements from row to row.
pub fn gemm(
    cx: Ctx<'_>,
    shape: GemmShape,
    a: Lhs<'_>,
    b: Rhs<'_>,
    epilogue: &Epilogue<'_>,
    c: &mut [f32],
    c_row_stride: usize,
) -> Result<(), KernelError> {
    check(shape, a, b, epilogue)?;
    check_c(shape, "c", c.len(), c_row_stride)?;
    if let Some(residual) = epilogue.residual {
        check_c(shape, "residual", residual.len(), c_row_stride)?;
    }
    let c = Disjoint::new(c);
    // SAFETY: the whole of C is borrowed mutably and long enough (`check_c`).
    unsafe { product_into(cx, shape, a, b, epilogue, COut { ptr: c.as_ptr(), row_stride: c_row_stride }) };
    Ok(())
}

fn check(shape: GemmShape, a: Lhs<'_>, b: Rhs<'_>, epilogue: &Epilogue<'_>) -> Result<(), KernelError> {
    let GemmShape { m, n, k } = shape;
    match a {
        Lhs::Plain(a) => a.check("a", m, k)?,
        Lhs::Packed(p) if (p.m, p.k) == (m, k) => {}
        Lhs::Packed(_) => return Err(geometry("the packed left operand is of another shape")),
    }
    match b {
        Rhs::Plain(b) => b.check("b", k, n)?,
        Rhs::Packed(p) if (p.k, p.n) == (k, n) => {}
        Rhs::Packed(_) => return Err(geometry("the packed right operand is of another shape")),
    }
    if product(&[m, n, k]).is_none() || packed_cols_len(n, k).is_none() {
        return Err(geometry("m * n * k overflows"));
    }
    epilogue.check(m, n)
}

fn check_c(shape: GemmShape, operand: &'static str, len: usize, c_row_stride: usize) -> Result<(), KernelError> {
    if shape.m > 1 && c_row_stride < shape.n {
        return Err(geometry("the rows of C overlap"));
    }
    let need = span(shape.m, c_row_stride, shape.n, 1).unwrap_or(usize::MAX);
    if need > len {
        return Err(KernelError::Length { kernel: NAME, operand, need, have: len });
    }
    Ok(())
}

fn geometry(why: &'static str) -> KernelError {
    KernelError::Geometry { kernel: NAME, why }
}

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

/// The product of checked operands.
///
/// # Safety
/// C is `shape.m` rows of `shape.n` valid, exclusively held elements; a residual covers the same rows.
pub(crate) unsafe fn product_into(
    cx: Ctx<'_>,
    shape: GemmShape,
    a: Lhs<'_>,
    b: Rhs<'_>,
    epilogue: &Epilogue<'_>,
    c: COut,
) {
    let GemmShape { m, n, k } = shape;
    if m == 0 || n == 0 {
        return;
    }
    if let (Lhs::Plain(a), Rhs::Plain(b)) = (a, b) {
        // SAFETY: the caller's contract.
        if unsafe { gemv::try_gemv(cx, shape, a, b, epilogue, c) } {
            return;
        }
    }
    if k == 0 {
        // SAFETY: the caller's contract.
        let sink = unsafe { CSink::new(cx.isa, c, 0, epilogue, true, true) };
        put_zeros(shape, &sink);
        return;
    }
    let rows = RowPanels::new(m);
    let col_panels = n.div_ceil(NR);
    let a_len = if matches!(a, Lhs::Plain(_)) { m * k.min(pack::KC) } else { 0 };
    let b_len = if matches!(b, Rhs::Plain(_)) { col_panels * NR * k.min(pack::KC) } else { 0 };
    with_scratch::<f32, _>(a_len, |a_buf| {
        with_scratch::<f32, _>(b_len, |b_buf| {
            for kb in k_blocks(k) {
                let kc = kb.len();
                let small = m * n * kc < SMALL;
                pack_block(cx, shape, a, b, kb.clone(), small, a_buf, b_buf);
                let a_block = match a {
                    Lhs::Plain(_) => &a_buf[..m * kc],
                    Lhs::Packed(p) => &p.data[m * kb.start..m * kb.end],
                };
                let b_block = match b {
                    Rhs::Plain(_) => &b_buf[..col_panels * NR * kc],
                    Rhs::Packed(p) => &p.data[col_panels * NR * kb.start..col_panels * NR * kb.end],
                };
                let row_tasks = rows.count().div_ceil(TASK_ROW_PANELS);
                let col_tasks = col_panels.div_ceil(TASK_COL_PANELS);
                let task = |t: usize| {
                    let (i, j) = (t % row_tasks, t / row_tasks);
                    let col_start = j * TASK_COL_PANELS * NR;
                    let block = Block {
                        kc,
                        rows,
                        panels: i * rows.count() / row_tasks..(i + 1) * rows.count() / row_tasks,
                        a: a_block,
                        b: Columns::Panels(&b_block[col_start * kc..]),
                        cols: (TASK_COL_PANELS * NR).min(n - col_start),
                    };
                    // SAFETY: the caller's contract; tasks cover disjoint rows and columns.
                    let sink = unsafe { CSink::new(cx.isa, c, col_start, epilogue, kb.start == 0, kb.end == k) };
                    run_block::<F32, _>(cx.isa, &block, &sink);
                };
                if small {
                    (0..row_tasks * col_tasks).for_each(task);
                } else {
                    cx.pool.run(row_tasks * col_tasks, &task);
                }
            }
        });
    });
}

/// Packs what is not packed yet of one k-block, a few panels a task.
fn pack_block(
    cx: Ctx<'_>,
    shape: GemmShape,
    a: Lhs<'_>,
    b: Rhs<'_>,
    kb: Range<usize>,
    small: bool,
    a_buf: &mut [f32],
    b_buf: &mut [f32],
) {
    const ROW_GROUP: usize = 8;
    const COL_GROUP: usize = 4;
    let kc = kb.len();
    let rows = RowPanels::new(shape.m);
    let col_panels = shape.n.div_ceil(NR);
    let row_tasks = if matches!(a, Lhs::Plain(_)) { rows.count().div_ceil(ROW_GROUP) } else { 0 };
    let col_tasks = if matches!(b, Rhs::Plain(_)) { col_panels.div_ceil(COL_GROUP) } else { 0 };
    let (a_buf, b_buf) = (Disjoint::new(a_buf), Disjoint::new(b_buf));
    let task = |t: usize| {
        if let (Lhs::Plain(a), true) = (&a, t < row_tasks) {
            for i in t * ROW_GROUP..rows.count().min((t + 1) * ROW_GROUP) {
                let r = rows.range(i);
                // SAFETY: each panel has its own part and is packed by one task.
                let out = unsafe { a_buf.slice(r.start * kc, r.len() * kc) };
                pack_rows(cx.isa, a, rows, i, kb.clone(), out);
            }
        } else if let Rhs::Plain(b) = &b {
            let t = t - row_tasks;
            for j in t * COL_GROUP..col_panels.min((t + 1) * COL_GROUP) {
                // SAFETY: as above.
                let out = unsafe { b_buf.slice(j * NR * kc, NR * kc) };
                pack_cols(cx.isa, b, j * NR..shape.n.min((j + 1) * NR), kb.clone(), out);
            }
        }
    };
    if small {
        (0..row_tasks + col_tasks).for_each(task);
    } else {
        cx.pool.run(row_tasks + col_tasks, &task);
    }
}

fn put_zeros(shape: GemmShape, sink: &CSink<'_>) {
    let zero = Acc([[0.0; NR]; tile::MR]);
    for row in 0..shape.m {
        for col in (0..shape.n).step_by(NR) {
            sink.put(row, 1, col, NR.min(shape.n - col), &zero);
        }
    }
}

/// Stores tiles into C with the epilogue.
pub(crate) struct CSink<'a> {
    isa: Isa,
    c: COut,
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
            col,
            add: !first || e.accumulate == Accumulate::Add,
            bias: if last { e.bias } else { Bias::None },
            residual: if last { e.residual } else { None },
            act: if last { e.act } else { Activation::NONE },
        }
    }
}

impl Sink<f32> for CSink<'_> {
    #[inline(always)]
    fn put(&self, row: usize, rows: usize, col: usize, cols: usize, acc: &Acc<f32>) {
        let mut acc = *acc;
        let col = self.col + col;
        if cols == NR && self.add {
            for r in 0..rows {
                // SAFETY: `new`'s contract; a whole tile is inside C.
                let old = unsafe { &*self.at(row + r, col).cast::<[f32; NR]>() };
                add_row(&mut acc.0[r], old);
            }
        } else if self.add {
            for r in 0..rows {
                // SAFETY: `new`'s contract.
                let old = unsafe { std::slice::from_raw_parts(self.at(row + r, col), cols) };
                acc.0[r].iter_mut().zip(old).for_each(|(v, o)| *v += o);
            }
        }
        match self.bias {
            Bias::None => {}
            Bias::Row(b) => {
                for r in 0..rows {
                    let b = b[row + r];
                    acc.0[r].iter_mut().for_each(|v| *v += b);
                }
            }
            Bias::Col(b) => match b[col..].first_chunk::<NR>() {
                Some(b) => (0..rows).for_each(|r| add_row(&mut acc.0[r], b)),
                None => {
                    for r in 0..rows {
                        acc.0[r].iter_mut().zip(&b[col..]).for_each(|(v, b)| *v += b);
                    }
                }
            },
        }
        if let Some(residual) = self.residual {
            for r in 0..rows {
                let more = &residual[(row + r) * self.c.row_stride + col..][..cols];
                acc.0[r].iter_mut().zip(more).for_each(|(v, m)| *v += m);
            }
        }
        self.act.apply(self.isa, acc.0[..rows].as_flattened_mut());
        if cols == NR {
            for r in 0..rows {
                // SAFETY: `new`'s contract; a whole tile is inside C.
                unsafe { *self.at(row + r, col).cast::<[f32; NR]>() = acc.0[r] };
            }
        } else {
            for r in 0..rows {
                // SAFETY: `new`'s contract.
                let out = unsafe { std::slice::from_raw_parts_mut(self.at(row + r, col), cols) };
                out.copy_from_slice(&acc.0[r][..cols]);
            }
        }
    }
}

impl CSink<'_> {
    #[inline(always)]
    fn at(&self, row: usize, col: usize) -> *mut f32 {
        self.c.ptr.wrapping_add(row * self.c.row_stride + col)
    }
}

#[inline(always)]
fn add_row(row: &mut [f32; NR], more: &[f32; NR]) {
    for j in 0..NR {
        row[j] += more[j];
    }
}

#[cfg(test)]
mod tests;
