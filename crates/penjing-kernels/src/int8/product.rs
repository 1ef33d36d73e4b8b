//! Products of 8-bit activations by constant 8-bit weights: packed weights, and one task of the product.
//!
//! Rows of activations are read where they lie (see [`crate::igemm`]): a row is a place, the depth is cut into runs of consecutive
//! bytes at the same distance from every row's place, and a step takes four bytes of a run.

use super::{
    ByteType,
    epilogue::QFinish,
    steps::{Grouped, Grouping, STEP, Step, parts},
    tile,
};
#[cfg(target_arch = "x86_64")]
use super::{amx, dots};
use crate::{
    Isa,
    conv_last::direct::GroupWeights,
    gemm::tile::{Acc, MR, NR, RowPanels},
    igemm::{Rows, TASK_ROWS},
    isa::{Math, per_isa},
    scratch::with_scratch,
};
use std::ops::Range;

/// Bytes that a step takes of each row.
pub(super) const GROUP: usize = 4;
/// Most steps of a chunk: a register of AMX is 64 bytes deep.
const CHUNK: usize = 16;
/// Tasks that a convolution is cut into for each of several threads at least, down to short ones.
const TASKS_PER_THREAD: usize = 2;
/// Rows of a short task, for which weights are read often.
const SHORT_TASK: usize = 49;
/// Rows of a long task, whose windows stay in the second-level cache.
const LONG_TASK: usize = 192;
/// Bytes of the windows of a longer task, which shallow ones are in.
const WINDOWS: usize = 1 << 18;
/// Rows of the longest task.
const LONGEST_TASK: usize = 1024;
/// Rows that are too few for tiles.
#[cfg(target_arch = "x86_64")]
const FEW_ROWS: usize = 4;
/// Rows of a task that reads its weights as seldom as can be.
const TALL_TASK_ROWS: usize = 256;
/// Most rows of a tile.
pub(super) const ROWS: usize = 5;

/// Weights packed once into panels of 16 columns.
pub(super) struct PackedProduct {
    n: usize,
    runs: usize,
    run_len: usize,
    weights: Weights,
}

/// Every level can multiply by either; each has one that it is fast with.
enum Weights {
    /// For `vpmaddubsw`. A place is an offset into rows whose runs follow each other.
    Grouped(Vec<Grouped>),
    /// For `vpdpbusd`: steps in the order of the depth, `[panel][step]`.
    Straight(Vec<Step>),
    /// For AMX: a run is cut into chunks of equal length, `[panel][chunk][step]`. The last chunk of a run ends with it, and what it
    /// has in common with the one before is zero in it.
    Chunked(Vec<Step>),
}

/// How a run is cut into chunks.
#[derive(Clone, Copy)]
struct Chunks {
    /// Steps of the run.
    steps: usize,
    count: usize,
    /// Steps of each.
    len: usize,
}

impl Chunks {
    fn new(run_len: usize) -> Chunks {
        let steps = run_len.div_ceil(GROUP);
        Chunks { steps, count: steps.div_ceil(CHUNK), len: steps.min(CHUNK) }
    }

    /// A run as it is.
    fn whole(run_len: usize) -> Chunks {
        let steps = run_len.div_ceil(GROUP);
        Chunks { steps, count: 1, len: steps }
    }

    /// Whether AMX is the faster way to multiply by `n` columns: its chunks are deep, and so is the product or there are many columns.
    /// (Measured: below, the time goes to loading, storing and rounding sums, and `vpdpbusd` has less of that.)
    fn pay(n: usize, [runs, run_len]: [usize; 2]) -> bool {
        run_len >= 16 && runs * run_len >= 64 && (runs > 1 || run_len >= 256 || n >= 64)
    }

    /// The run's step that a chunk begins with.
    fn first(self, chunk: usize) -> usize {
        (chunk * CHUNK).min(self.steps - self.len)
    }

    /// Steps of the last chunk that the one before has.
    fn shared(self) -> usize {
        self.count * self.len - self.steps
    }
}

impl PackedProduct {
    /// Packs `runs` runs of `run_len` rows by `n` columns for a level: row k of column j is `w[column(j) + places[k]]`.
    pub(super) fn new(
        isa: Isa,
        n: usize,
        [runs, run_len]: [usize; 2],
        w: &[i8],
        places: &[usize],
        column: impl Fn(usize) -> usize,
    ) -> PackedProduct {
        let mut weights = match isa {
            Isa::Amx if Chunks::pay(n, [runs, run_len]) => {
                let chunks = Chunks::new(run_len);
                Weights::Chunked(Vec::with_capacity(n.div_ceil(NR) * runs * chunks.count * chunks.len))
            }
            Isa::Avx512 | Isa::Amx => {
                Weights::Straight(Vec::with_capacity(n.div_ceil(NR) * runs * run_len.div_ceil(GROUP)))
            }
            Isa::Generic | Isa::Avx2 => Weights::Grouped(Vec::with_capacity(n.div_ceil(NR))),
        };
        let mut grouping = Grouping::default();
        for columns in (0..n).step_by(NR).map(|first| first..n.min(first + NR)) {
            let starts: Vec<usize> = columns.map(&column).collect();
            // Rows of adjacent columns are read as they lie.
            let adjacent = starts.len() == NR && starts.windows(2).all(|pair| pair[0] + 1 == pair[1]);
            let columns: Vec<&[i8]> = starts.into_iter().map(|j| w.get(j..).unwrap_or_default()).collect();
            match &mut weights {
                Weights::Grouped(panels) => {
                    group(Isa::detect(), &columns, adjacent, [runs, run_len], places, &mut grouping);
                    panels.push(grouping.finish());
                }
                Weights::Straight(steps) => {
                    let whole = Chunks::whole(run_len);
                    append(Isa::detect(), &columns, adjacent, [runs, run_len], places, whole, steps);
                }
                Weights::Chunked(steps) => {
                    let chunks = Chunks::new(run_len);
                    append(Isa::detect(), &columns, adjacent, [runs, run_len], places, chunks, steps);
                }
            }
        }
        PackedProduct { n, runs, run_len, weights }
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Grouped(panels) => {
                panels.iter().map(|p| size_of_val(&p.weights[..]) + size_of_val(&p.program[..])).sum()
            }
            Weights::Straight(steps) | Weights::Chunked(steps) => size_of_val(&steps[..]),
        }
    }

    /// Panels of 16 columns.
    pub(super) fn panels(&self) -> usize {
        self.n.div_ceil(NR)
    }

    /// Bytes that a run is read for: its length rounded up to whole steps.
    pub(super) fn run_span(&self) -> usize {
        self.run_len.next_multiple_of(GROUP)
    }

    /// Rows that a task of a matrix product aims at: those of AMX use weights as fast as the third-level cache gives them.
    pub(super) fn task_rows(&self) -> usize {
        match &self.weights {
            Weights::Grouped(_) | Weights::Straight(_) => TASK_ROWS,
            Weights::Chunked(_) => TALL_TASK_ROWS,
        }
    }

    /// What activations are greater by as the tile sees them: where it takes u8 only, i8 have their highest bit inverted.
    pub(super) fn shift(&self, x: ByteType) -> i32 {
        match &self.weights {
            Weights::Grouped(_) | Weights::Straight(_) => x.flip(),
            Weights::Chunked(_) => 0,
        }
    }

    /// Where each chunk of the depth begins in rows whose runs begin at `runs`.
    fn chunk_offsets(&self, runs: &[usize], out: &mut [u32]) {
        let chunks = Chunks::new(self.run_len);
        part_offsets(runs, chunks.count, |chunk| chunks.first(chunk), out);
    }

    /// Where each step of the depth begins in rows whose runs begin at `runs`.
    fn offsets(&self, runs: &[usize], out: &mut [u32]) {
        part_offsets(runs, self.run_span() / GROUP, |step| step, out);
    }

    /// A panel's program for rows whose steps begin at `offsets`.
    fn program(panel: &Grouped, offsets: &[u32], out: &mut [u32]) {
        let mut out = out.iter_mut();
        for (len, places) in parts(&panel.program) {
            out.by_ref().take(1).for_each(|out| *out = (places.len() / len) as u32);
            for (&place, out) in places.iter().zip(&mut out) {
                *out = offsets[place as usize / GROUP];
            }
        }
    }
}

/// Where parts of runs begin, `count` of each run, at its steps `step(0)`, `step(1)`, …
fn part_offsets(runs: &[usize], count: usize, step: impl Fn(usize) -> usize, out: &mut [u32]) {
    for (&run, out) in runs.iter().zip(out.chunks_exact_mut(count.max(1))) {
        for (part, out) in out.iter_mut().enumerate() {
            *out = (run + step(part) * GROUP) as u32;
        }
    }
}

per_isa! {
    /// Groups the steps of a panel whose columns begin at `columns`; `adjacent` ones follow each other in memory.
    fn group(
        columns: &[&[i8]],
        adjacent: bool,
        runs: [usize; 2],
        places: &[usize],
        to: &mut Grouping,
    ) = group_body
}

#[inline(always)]
fn group_body<M: Math>(columns: &[&[i8]], adjacent: bool, runs: [usize; 2], places: &[usize], to: &mut Grouping) {
    each_step(columns, adjacent, runs, places, |i, weights| to.push(weights, (i * GROUP) as u32));
}

per_isa! {
    /// Appends the steps of a panel, as in [`group`], whose runs are cut into chunks.
    fn append(
        columns: &[&[i8]],
        adjacent: bool,
        runs: [usize; 2],
        places: &[usize],
        chunks: Chunks,
        to: &mut Vec<Step>,
    ) = append_body
}

#[inline(always)]
fn append_body<M: Math>(
    columns: &[&[i8]],
    adjacent: bool,
    runs: [usize; 2],
    places: &[usize],
    chunks: Chunks,
    to: &mut Vec<Step>,
) {
    each_step(columns, adjacent, runs, places, |i, weights| {
        if i % chunks.steps == (chunks.count - 1) * chunks.len {
            to.resize(to.len() + chunks.shared(), Step([0; STEP]));
        }
        to.push(weights);
    });
}

#[inline(always)]
fn each_step(
    columns: &[&[i8]],
    adjacent: bool,
    [runs, run_len]: [usize; 2],
    places: &[usize],
    mut push: impl FnMut(usize, Step),
) {
    let run_steps = run_len.div_ceil(GROUP);
    let side_by_side = places.iter().enumerate().all(|(k, &at)| at == k);
    for run in 0..runs {
        for step in 0..run_steps {
            let mut weights = Step([0; STEP]);
            let places = &places[run * run_len..][step * GROUP..run_len.min((step + 1) * GROUP)];
            let lanes = weights.0.as_chunks_mut::<GROUP>().0;
            if adjacent && let &[p, q, r, s] = places {
                let row = |at: usize| columns[0][at..].first_chunk::<NR>().expect("a row holds the panel's columns");
                let (p, q, r, s) = (row(p), row(q), row(r), row(s));
                for (i, lane) in lanes.iter_mut().enumerate() {
                    *lane = [p[i], q[i], r[i], s[i]];
                }
            } else if side_by_side && let &[first, _, _, _] = places {
                for (lane, column) in lanes.iter_mut().zip(columns) {
                    lane.copy_from_slice(&column[first..first + GROUP]);
                }
            } else {
                for (lane, column) in lanes.iter_mut().zip(columns) {
                    for (w, &at) in lane.iter_mut().zip(places) {
                        *w = column[at];
                    }
                }
            }
            push(run * run_steps + step, weights);
        }
    }
}

impl GroupWeights for PackedProduct {
    type X = u8;

    /// Longer tasks share more of their windows; shorter ones busy more threads.
    fn task_rows(&self, pixels: usize, threads: usize) -> usize {
        let longest = LONG_TASK.max(WINDOWS / (self.runs * self.run_len).max(1)).min(LONGEST_TASK);
        let tasks = if threads == 1 { 1 } else { TASKS_PER_THREAD * threads };
        (pixels / tasks).clamp(SHORT_TASK, longest)
    }

    fn panels(&self) -> usize {
        PackedProduct::panels(self)
    }

    fn run_span(&self) -> usize {
        PackedProduct::run_span(self)
    }
}

/// Multiplies the rows by the columns of `panels`, and hands every tile to `finish`: row 0 is the first of `rows`, columns are those
/// of B.
///
/// # Panics
/// A run of a row lies outside `rows.data` or 4 GiB or more from the row's place, or there are other numbers of runs in `rows`
/// and `b`.
pub(super) fn multiply(
    isa: Isa,
    x: ByteType,
    rows: &Rows<'_, u8>,
    b: &PackedProduct,
    panels: Range<usize>,
    finish: &QFinish<'_>,
) {
    assert!(rows.offsets.len() == b.runs && panels.end <= b.panels(), "rows and packed columns belong together");
    if rows.bases.is_empty() {
        return;
    }
    let reach = rows.offsets.iter().max().unwrap_or(&0) + b.run_span();
    assert!(b.runs == 0 || rows.bases.farthest() + reach <= rows.data.len(), "every run lies inside A");
    assert!(u32::try_from(reach).is_ok(), "runs lie near their row's place");
    match &b.weights {
        Weights::Grouped(grouped) => multiply_grouped(isa, x, rows, b, grouped, panels, finish),
        Weights::Straight(steps) => {
            with_scratch::<u32, _>(b.runs * b.run_span() / GROUP, |offsets| {
                b.offsets(rows.offsets, offsets);
                multiply_steps(isa, (x, b.shift(x)), rows, offsets, steps, b.n, panels, finish);
            });
        }
        Weights::Chunked(steps) => multiply_chunked(isa, x, rows, b, steps, panels, finish),
    }
}

fn multiply_chunked(
    isa: Isa,
    x: ByteType,
    rows: &Rows<'_, u8>,
    b: &PackedProduct,
    weights: &[Step],
    panels: Range<usize>,
    finish: &QFinish<'_>,
) {
    let chunks = Chunks::new(b.run_len);
    with_scratch::<u32, _>(b.runs * chunks.count, |offsets| {
        b.chunk_offsets(rows.offsets, offsets);
        match isa.usable() {
            // A tile of few rows takes as long as a full one; `vpdpbusd` takes u8 as they are.
            #[cfg(target_arch = "x86_64")]
            Isa::Amx if x == ByteType::I8 || rows.bases.len() > FEW_ROWS => {
                let task = amx::Task { x, rows, offsets, chunk: chunks.len, weights, panels, n: b.n };
                // SAFETY: the rows' runs lie inside A (`multiply` has checked it); `usable` returns a level only where the host has it.
                unsafe { amx::run(&task, finish) }
            }
            level => {
                let steps = |&chunk: &u32| (0..chunks.len).map(move |step| chunk + (step * GROUP) as u32);
                let offsets: Vec<u32> = offsets.iter().flat_map(steps).collect();
                multiply_steps(level, (x, b.shift(x)), rows, &offsets, weights, b.n, panels, finish);
            }
        }
    });
}

/// By steps in the order of the depth, which begin at `offsets`; with `vpdpbusd` where activations have the shift that it needs.
fn multiply_steps(
    isa: Isa,
    (x, shift): (ByteType, i32),
    rows: &Rows<'_, u8>,
    offsets: &[u32],
    weights: &[Step],
    n: usize,
    panels: Range<usize>,
    finish: &QFinish<'_>,
) {
    match isa.usable() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Amx if shift == x.flip() => {
            let task = dots::Task { x, rows, offsets, weights, panels, n };
            // SAFETY: the rows' runs lie inside A (`multiply` has checked it); `usable` returns a level only where the host has it.
            unsafe { dots::run(&task, finish) }
        }
        _ => {
            for panel in panels {
                let (col, cols) = (panel * NR, NR.min(n - panel * NR));
                plain(
                    (x, shift),
                    rows,
                    &weights[panel * offsets.len()..][..offsets.len()],
                    offsets,
                    [col, cols],
                    finish,
                );
            }
        }
    }
}

fn multiply_grouped(
    isa: Isa,
    x: ByteType,
    rows: &Rows<'_, u8>,
    b: &PackedProduct,
    grouped: &[Grouped],
    panels: Range<usize>,
    finish: &QFinish<'_>,
) {
    let in_place = rows.offsets == [0];
    let longest = grouped[panels.clone()].iter().map(|p| p.program.len()).max().unwrap_or(0);
    let steps = b.runs * b.run_span() / GROUP;
    with_scratch::<u32, _>(if in_place { 0 } else { steps + longest }, |memory| {
        let (offsets, memory) = memory.split_at_mut(if in_place { 0 } else { steps });
        if !in_place {
            b.offsets(rows.offsets, offsets);
        }
        for panel in panels {
            let known = &grouped[panel];
            let program = if in_place {
                &known.program[..]
            } else {
                let program = &mut memory[..known.program.len()];
                PackedProduct::program(known, offsets, program);
                program
            };
            let weights = &known.weights[..];
            let (col, cols) = (panel * NR, NR.min(b.n - panel * NR));
            match isa.usable() {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 | Isa::Avx512 | Isa::Amx => {
                    let task = PanelTask { x, rows, weights, program, col, cols };
                    // SAFETY: the rows' runs lie inside A (`multiply` has checked it); `usable` returns a level only where the host has it.
                    unsafe { tile::x86::panel(&task, finish) }
                }
                _ => {
                    let offsets: Vec<u32> = parts(program).flat_map(|(_, offsets)| offsets).copied().collect();
                    plain((x, b.shift(x)), rows, weights, &offsets, [col, cols], finish);
                }
            }
        }
    });
}

/// By the definition, of activations of a type and their shift: rows by one panel, of `cols` columns from `col` on, whose steps begin
/// at `offsets` from a row's place.
fn plain(
    (x, shift): (ByteType, i32),
    rows: &Rows<'_, u8>,
    weights: &[Step],
    offsets: &[u32],
    [col, cols]: [usize; 2],
    finish: &QFinish<'_>,
) {
    let seen = |q: u8| shift + if x == ByteType::I8 { i32::from(q as i8) } else { i32::from(q) };
    for (first, bases) in rows.bases.chunks(MR).enumerate() {
        let mut acc = Acc([[0i32; NR]; MR]);
        for (acc, &base) in acc.0.iter_mut().zip(bases) {
            for (step, &offset) in weights.iter().zip(offsets) {
                let x = &rows.data[base + offset as usize..][..GROUP];
                for (acc, w) in acc.iter_mut().zip(step.0.as_chunks::<GROUP>().0) {
                    for (&x, &w) in x.iter().zip(w) {
                        *acc = acc.wrapping_add(seen(x) * i32::from(w));
                    }
                }
            }
        }
        finish.put(first * MR, bases.len(), col, cols, &acc);
    }
}

/// A task's rows by one panel.
pub(super) struct PanelTask<'a> {
    pub(super) x: ByteType,
    pub(super) rows: &'a Rows<'a, u8>,
    pub(super) weights: &'a [Step],
    /// Of [`Grouped`], with the offsets of steps from a row's place.
    pub(super) program: &'a [u32],
    /// The first column, and how many there are.
    pub(super) col: usize,
    pub(super) cols: usize,
}

impl PanelTask<'_> {
    /// The rows of each tile.
    pub(super) fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let panels = RowPanels::lower(self.rows.bases.len(), ROWS);
        (0..panels.count()).map(move |t| panels.range(t))
    }
}
