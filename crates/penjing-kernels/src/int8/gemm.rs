//! y = act((Σ (x − zx)·w)·sx·sw + bias) for matrices, weights packed once.

use super::{
    Byte, Bytes, MAX_DEPTH, QEpilogue, QOut, QTensor,
    finish::{ChannelAxis, Channels, QSink, Rounding, Target, WithTarget, with_target},
    tile::{QBlock, run_qblock},
};
use crate::{
    Ctx, KernelError,
    error::{check_len, product},
    gemm::tile::{NR, RowPanels},
    isa::{Math, per_isa},
    pool::Disjoint,
    scratch::with_scratch,
};

const NAME: &str = "qgemm";

/// Bytes of packed rows of one task: with a column panel they share the second-level cache (512 KiB on the smallest hosts).
const ROWS_BYTES: usize = 192 << 10;
/// Most row panels of one task.
const TASK_ROW_PANELS: usize = 16;
/// Fewest column panels of one task.
const TASK_COL_PANELS: usize = 4;
/// Tasks below which the columns are split as well.
const FEW_TASKS: usize = 16;
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

/// A weight matrix `[k, n]` packed once, one byte a weight; columns are padded to a multiple of 16 and k to an even number.
pub struct PackedI8 {
    k: usize,
    n: usize,
    data: Vec<[i8; 2]>,
}

impl PackedI8 {
    /// Packs `w`, any values of i8. The layout is the same at every level.
    pub fn new(k: usize, n: usize, w: &[i8], layout: WeightLayout) -> Result<PackedI8, KernelError> {
        check_len(NAME, "w", product(&[k, n]), w.len())?;
        check_depth(NAME, k)?;
        let (pairs, panels) = (k.div_ceil(2), n.div_ceil(NR));
        let len = product(&[pairs, panels, NR]).ok_or(KernelError::OutOfMemory { need: usize::MAX })?;
        let at = |p: usize, j: usize| match layout {
            _ if p >= k || j >= n => 0,
            WeightLayout::Rows => w[p * n + j],
            WeightLayout::Transposed => w[j * k + p],
        };
        let mut data = vec![[0; 2]; len];
        for (i, pair) in data.iter_mut().enumerate() {
            let (panel, p, j) = (i / NR / pairs, i / NR % pairs, i % NR);
            *pair = [at(2 * p, panel * NR + j), at(2 * p + 1, panel * NR + j)];
        }
        Ok(PackedI8 { k, n, data })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.len() * 2
    }
}

/// Refuses depths whose sums may not fit an i32.
pub(super) fn check_depth(kernel: &'static str, depth: usize) -> Result<(), KernelError> {
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
    w: &PackedI8,
    epilogue: &QEpilogue<'_>,
    y: QOut<'_>,
) -> Result<(), KernelError> {
    check_len(NAME, "x", product(&[m, w.k]), x.data.len())?;
    check_len(NAME, "y", product(&[m, w.n]), y.len())?;
    if product(&[m, w.n, w.k]).is_none() {
        return Err(KernelError::Geometry { kernel: NAME, why: "m * n * k overflows" });
    }
    x.check(NAME)?;
    y.check(NAME)?;
    let channels = Channels::new(NAME, x.scale, w.n, epilogue)?;
    if y.len() > 0 {
        with_target(y, Product { cx, m, x, w, channels: &channels });
    }
    Ok(())
}

struct Product<'a> {
    cx: Ctx<'a>,
    m: usize,
    x: QTensor<'a>,
    w: &'a PackedI8,
    channels: &'a Channels,
}

impl WithTarget for Product<'_> {
    fn run<T: Target>(self, y: &mut [T], rounding: Rounding) {
        let Product { cx, m, x, w, channels } = self;
        let (k, n, pairs) = (w.k, w.n, w.k.div_ceil(2));
        let rows = RowPanels::new(m);
        let fit = ROWS_BYTES / (24 * pairs.max(1));
        let row_tasks = rows.count().div_ceil(fit.clamp(1, TASK_ROW_PANELS));
        let col_panels = n.div_ceil(NR);
        let col_tasks = FEW_TASKS.div_ceil(row_tasks).min(col_panels.div_ceil(TASK_COL_PANELS));
        let y = Disjoint::new(y);
        let task = |t: usize| {
            let (i, j) = (t % row_tasks, t / row_tasks);
            let panels = i * rows.count() / row_tasks..(i + 1) * rows.count() / row_tasks;
            let cols = j * col_panels / col_tasks * NR..n.min((j + 1) * col_panels / col_tasks * NR);
            let (first, end) = (rows.range(panels.start).start, rows.range(panels.end - 1).end);
            with_scratch::<[i16; 2], _>((end - first) * pairs, |packed| {
                for panel in panels.clone() {
                    let r = rows.range(panel);
                    let out = &mut packed[(r.start - first) * pairs..(r.end - first) * pairs];
                    match x.data {
                        Bytes::I8(x_data) => pack_i8(cx.isa, &x_data[r.start * k..r.end * k], k, r.len(), x.zero, out),
                        Bytes::U8(x_data) => pack_u8(cx.isa, &x_data[r.start * k..r.end * k], k, r.len(), x.zero, out),
                    }
                }
                let block = QBlock {
                    pairs,
                    rows,
                    panels: panels.clone(),
                    a: packed,
                    b: &w.data[cols.start * pairs..],
                    cols: cols.len(),
                };
                let sink = QSink {
                    y: &y,
                    offset: first * n + cols.start,
                    row_stride: n,
                    channels,
                    axis: ChannelAxis::Col,
                    first_channel: cols.start,
                    rounding,
                };
                run_qblock(cx.isa, &block, &sink);
            });
        };
        if m * n * k < SMALL {
            (0..row_tasks * col_tasks).for_each(task);
        } else {
            cx.pool.run(row_tasks * col_tasks, &task);
        }
    }
}

per_isa! {
    fn pack_i8(x: &[i8], k: usize, rows: usize, zero: i32, out: &mut [[i16; 2]]) = pack_body
}

per_isa! {
    fn pack_u8(x: &[u8], k: usize, rows: usize, zero: i32, out: &mut [[i16; 2]]) = pack_body
}

/// `out[p][r] = [x[r][2p] − zero, x[r][2p + 1] − zero]`; past k a zero, whose weight is zero too.
#[inline(always)]
fn pack_body<M: Math>(x: &[impl Byte], k: usize, rows: usize, zero: i32, out: &mut [[i16; 2]]) {
    let center = |v: &_| (Byte::widen(*v) - zero) as i16;
    for r in 0..rows {
        let line = &x[r * k..(r + 1) * k];
        let pairs = line.chunks_exact(2);
        let odd = pairs.remainder();
        for (p, pair) in pairs.enumerate() {
            out[p * rows + r] = [center(&pair[0]), center(&pair[1])];
        }
        if let [last] = odd {
            out[k / 2 * rows + r] = [center(last), 0];
        }
    }
}
