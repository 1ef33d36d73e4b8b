//! y = act((Σ (x − zx)·w)·sx·sw + bias) for matrices, weights packed once.

use super::{
    ByteType, MAX_DEPTH, QEpilogue, QOut, QTensor,
    epilogue::{Columns, Out, QFinish},
    product::{PackedProduct, multiply},
};
use crate::{
    Ctx, Isa, KernelError,
    error::{check_len, product},
    igemm::{Bases, Rows},
    scratch::with_scratch,
};

const NAME: &str = "qgemm";

/// Tasks below which the columns are split as well.
const FEW_TASKS: usize = 16;
/// Fewest column panels of one task.
const TASK_COL_PANELS: usize = 4;
/// Multiply-adds below which a product is not shared: waking a thread costs more.
const SMALL: usize = 1 << 17;

/// How a weight matrix lies in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WeightLayout {
    /// `[k, n]`
    Rows,
    /// `[n, k]`
    Transposed,
}

/// A weight matrix `[k, n]` packed once for activations of one type, about one byte a weight.
pub struct PackedQGemm {
    k: usize,
    n: usize,
    x: ByteType,
    product: PackedProduct,
    /// Σ w of each column.
    sums: Vec<i32>,
}

impl PackedQGemm {
    /// Packs `w`, any values of i8, for activations of type `x`, in the way that is fast at `isa`. The result is the same at every
    /// level.
    pub fn new(
        isa: Isa,
        k: usize,
        n: usize,
        w: &[i8],
        layout: WeightLayout,
        x: ByteType,
    ) -> Result<PackedQGemm, KernelError> {
        check_len(NAME, "w", product(&[k, n]), w.len())?;
        check_depth(NAME, k)?;
        let places: Vec<usize> = (0..k).map(|p| if layout == WeightLayout::Rows { p * n } else { p }).collect();
        let column = |j: usize| if layout == WeightLayout::Rows { j } else { j * k };
        let product = PackedProduct::new(isa, n, [1, k], w, &places, column);
        let mut sums = vec![0i32; n];
        match layout {
            WeightLayout::Rows => w.chunks_exact(n.max(1)).for_each(|row| {
                sums.iter_mut().zip(row).for_each(|(sum, &w)| *sum += i32::from(w));
            }),
            WeightLayout::Transposed => sums.iter_mut().zip(w.chunks_exact(k.max(1))).for_each(|(sum, column)| {
                *sum = column.iter().map(|&w| i32::from(w)).sum();
            }),
        }
        Ok(PackedQGemm { k, n, x, product, sums })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.product.bytes() + size_of_val(&self.sums[..])
    }
}

/// Refuses depths whose sums may not fit an i32.
pub(crate) fn check_depth(kernel: &'static str, depth: usize) -> Result<(), KernelError> {
    if depth <= MAX_DEPTH {
        return Ok(());
    }
    Err(KernelError::Geometry { kernel, why: "sums of this depth may overflow an i32" })
}

/// y `[m, n]` of x `[m, k]` and w `[k, n]`; the output channel is the column.
pub fn qgemm(
    cx: Ctx<'_>,
    m: usize,
    x: QTensor<'_>,
    w: &PackedQGemm,
    epilogue: &QEpilogue<'_>,
    y: QOut<'_>,
) -> Result<(), KernelError> {
    check_len(NAME, "x", product(&[m, w.k]), x.data.len())?;
    check_len(NAME, "y", product(&[m, w.n]), y.len())?;
    if product(&[m, w.n, w.k]).is_none() {
        return Err(KernelError::Geometry { kernel: NAME, why: "m * n * k overflows" });
    }
    x.check(NAME, w.x)?;
    y.check(NAME)?;
    epilogue.check(NAME, y.len())?;
    let columns = Columns::new(cx.isa, NAME, x, &w.sums, x.zero + w.product.shift(w.x), epilogue, &y)?;
    if y.len() > 0 {
        Product { cx, m, x: x.data.raw(), w, columns: &columns, epilogue }.run(&Out::new(y));
    }
    Ok(())
}

struct Product<'a> {
    cx: Ctx<'a>,
    m: usize,
    x: &'a [u8],
    w: &'a PackedQGemm,
    columns: &'a Columns,
    epilogue: &'a QEpilogue<'a>,
}

impl Product<'_> {
    fn run(&self, y: &Out<'_>) {
        let b = &self.w.product;
        let (m, k, n) = (self.m, self.w.k, self.w.n);
        let panels = b.panels();
        let row_tasks = m.div_ceil(b.task_rows());
        let col_tasks = FEW_TASKS.div_ceil(row_tasks).min(panels.div_ceil(TASK_COL_PANELS));
        let span = b.run_span();
        let task = |t: usize| {
            let (i, j) = (t % row_tasks, t / row_tasks);
            let rows = i * m / row_tasks..(i + 1) * m / row_tasks;
            let columns = j * panels / col_tasks..(j + 1) * panels / col_tasks;
            let sink = QFinish {
                y,
                stride: n,
                first_row: rows.start,
                first_col: 0,
                columns: self.columns,
                residual: self.epilogue.residual,
            };
            let x = &self.x[rows.start * k..rows.end * k];
            let bases: Vec<usize> = (0..rows.len()).map(|r| r * span).collect();
            let multiply = |data: &[u8]| {
                let rows = Rows { data, bases: Bases::new(&bases), offsets: &[0], line: bases.len() };
                multiply(self.cx.isa, self.w.x, &rows, b, columns.clone(), &sink);
            };
            if span == k {
                return multiply(x);
            }
            with_scratch::<u8, _>(rows.len() * span, |padded| {
                for (to, from) in padded.chunks_exact_mut(span).zip(x.chunks_exact(k)) {
                    to[..k].copy_from_slice(from);
                    to[k..].fill(0);
                }
                multiply(padded);
            });
        };
        if m * n * k < SMALL {
            (0..row_tasks * col_tasks).for_each(task);
        } else {
            self.cx.pool.run(row_tasks * col_tasks, &task);
        }
    }
}
