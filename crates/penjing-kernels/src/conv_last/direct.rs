//! A convolution as an indirect product: a row for every output pixel, a run for every kernel row.

use super::window::Parts;
use crate::{
    Ctx,
    conv::ConvShape,
    igemm::{Bases, PackedB, Rows, TASK_ROWS},
    scratch::with_scratch,
};
use bytemuck::Pod;
use std::ops::Range;

/// Tasks below which the columns are split as well.
const FEW_TASKS: usize = 8;
/// Tasks that leave room for larger ones.
const MANY_TASKS: usize = 16;
/// Elements of the windows of a task that is larger for having shallow ones.
const WINDOWS: usize = 1 << 14;
/// Most rows of such a task.
const MOST_ROWS: usize = 512;
/// Fewest column panels of a task: each task of the same pixels copies their window.
const MIN_PANELS: usize = 8;

/// Runs of a window and their length: the taps of a kernel row are one run, unless dilation parts them.
pub(crate) fn runs(s: &ConvShape) -> (usize, usize) {
    let [kh, kw] = s.kernel;
    if merges(s) { (kh, kw * s.group_in()) } else { (kh * kw, s.group_in()) }
}

fn merges(s: &ConvShape) -> bool {
    s.kernel[1] == 1 || s.dilation[1] == 1
}

/// Packs `w`, `[O, C / groups, KH, KW]`, one product a group.
pub(crate) fn pack(s: &ConvShape, w: &[f32]) -> Vec<PackedB> {
    let (runs, run_len) = runs(s);
    let (columns, channels, taps) = (s.group_out(), s.group_in(), s.kernel[0] * s.kernel[1]);
    // Where each k lies: a division for every weight would be most of the work.
    let places: Vec<usize> = (0..taps).flat_map(|tap| (0..channels).map(move |c| c * taps + tap)).collect();
    let column = |o: usize| o * channels * taps;
    (0..s.groups).map(|g| PackedB::new(columns, [runs, run_len], w, &places, |o| column(g * columns + o))).collect()
}

/// The weights of one group, packed for an indirect product.
pub(crate) trait GroupWeights: Sync {
    /// An element of x.
    type X: Pod + Send + Sync;

    /// Rows that a task aims at in a convolution of so many output pixels on so many threads.
    fn task_rows(&self, pixels: usize, threads: usize) -> usize;

    /// Panels of columns.
    fn panels(&self) -> usize;

    /// Elements that a run of a window is read for, at most [`SLACK`] more than its length.
    fn run_span(&self) -> usize;
}

/// Elements that may be read after a run.
const SLACK: usize = 4;

impl GroupWeights for PackedB {
    type X = f32;

    /// Shallow windows are many, since a task costs some work of its own, while there are enough tasks for all threads.
    fn task_rows(&self, pixels: usize, _: usize) -> usize {
        (WINDOWS / self.depth().max(1)).min(pixels / MANY_TASKS).clamp(TASK_ROWS, MOST_ROWS)
    }

    fn panels(&self) -> usize {
        PackedB::panels(self)
    }

    fn run_span(&self) -> usize {
        PackedB::run_len(self)
    }
}

/// One task of a convolution: some windows by some column panels of a group.
pub(crate) struct Task<'a, W: GroupWeights> {
    pub(crate) group: usize,
    /// Output pixel of the batch that row 0 is.
    pub(crate) first_row: usize,
    pub(crate) rows: Rows<'a, W::X>,
    pub(crate) weights: &'a W,
    pub(crate) columns: Range<usize>,
}

/// Cuts the products of every group's windows by its weights into tasks, and runs `multiply` on each. Padding reads as `fill`.
pub(crate) fn run<W: GroupWeights>(
    cx: Ctx<'_>,
    s: &ConvShape,
    x: &[W::X],
    fill: W::X,
    weights: &[W],
    multiply: &(dyn Fn(Task<'_, W>) + Sync),
) {
    let flat;
    let s = if is_pointwise(s) {
        flat = flattened(s);
        &flat
    } else {
        s
    };
    let panels = weights.iter().map(W::panels).max().unwrap_or(0);
    let pixels = s.batch * s.output[0] * s.output[1];
    let task_rows = weights.iter().map(|w| w.task_rows(pixels, cx.pool.threads())).min().unwrap_or(1);
    let mut parts = Parts::new(s.batch, s.output, task_rows);
    if s.groups == 1 && (parts.count() > 1 || panels <= MIN_PANELS) {
        parts.even_out(cx.pool.threads());
    }
    let spatial = parts.count() * s.groups;
    if spatial == 0 || panels == 0 {
        return;
    }
    let splits = FEW_TASKS.div_ceil(spatial).min(panels.div_ceil(MIN_PANELS));
    let in_place = reads_inside(s) && weights.iter().all(|b| b.run_span() == runs(s).1);
    // Windows of smaller parts lie in the first places of the largest one's: fewer rows of an image, fewer images or a piece of a row.
    let largest = parts.largest();
    let ([h, w], [wh, ww]) = (s.input, largest.window(s));
    let pitch = if in_place {
        [h * w, w, 1].map(|pixels| pixels * s.in_channels)
    } else {
        [wh * ww, ww, 1].map(|pixels| pixels * s.group_in())
    };
    let mut bases = vec![0; largest.len()];
    largest.bases(s, pitch, &mut bases);
    let (bases, offsets) = (Bases::new(&bases), offsets(s, pitch));
    cx.pool.run(spatial * splits, &|t| {
        let (split, t) = (t % splits, t / splits);
        let (group, part) = (t % s.groups, parts.get(t / s.groups));
        let columns = panels * split / splits..panels * (split + 1) / splits;
        let channels = group * s.group_in()..(group + 1) * s.group_in();
        let task = |data: &[W::X]| {
            let rows = Rows { data, bases: bases.first(part.len()), offsets: &offsets, line: part.cols.len() };
            let first_row = part.first(s.output);
            multiply(Task { group, first_row, rows, weights: &weights[group], columns: columns.clone() });
        };
        if in_place {
            let first = part.images.start * pitch[0]
                + part.rows.start * s.stride[0] * pitch[1]
                + part.cols.start * s.stride[1] * pitch[2];
            task(&x[first + channels.start..]);
        } else {
            let len = part.images.len() * part.window(s)[0] * pitch[1];
            with_scratch::<W::X, _>(len + SLACK, |window| {
                part.copy(s, x, channels.clone(), fill, ww, window);
                window[len..].fill(fill);
                task(window);
            });
        }
    });
}

/// Where each run begins, from the window's start.
pub(super) fn offsets(s: &ConvShape, pitch: [usize; 3]) -> Vec<usize> {
    let kw = if merges(s) { 1 } else { s.kernel[1] };
    (0..s.kernel[0] * kw).map(|run| run / kw * s.dilation[0] * pitch[1] + run % kw * s.dilation[1] * pitch[2]).collect()
}

/// Whether every run lies in x as it is: no padding, and consecutive channels where a run has several taps.
fn reads_inside(s: &ConvShape) -> bool {
    let inside = |a: usize| {
        s.pad[a] == 0 && s.output[a].saturating_sub(1) * s.stride[a] + (s.kernel[a] - 1) * s.dilation[a] < s.input[a]
    };
    inside(0) && inside(1) && (s.groups == 1 || s.kernel[1] == 1)
}

/// Whether output pixels are input pixels, one to one.
fn is_pointwise(s: &ConvShape) -> bool {
    s.kernel == [1, 1] && s.stride == [1, 1] && s.pad == [0, 0] && s.input == s.output
}

/// A pointwise convolution as one row of pixels.
fn flattened(s: &ConvShape) -> ConvShape {
    let pixels = [1, s.batch * s.input[0] * s.input[1]];
    ConvShape { batch: 1, input: pixels, output: pixels, ..*s }
}
