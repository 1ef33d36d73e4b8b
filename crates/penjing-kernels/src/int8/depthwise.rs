//! Channels-last convolutions with one input and one output channel a group.
//!
//! Neighbouring channels fill registers. The bytes of two taps are interleaved, and `vpmaddubsw` multiplies them by both weights
//! of each channel and adds the two products; weights are split where that could saturate, as in [`super::steps`]. The i16 of
//! several pairs of taps are added modulo 2¹⁶. That is exact while 255·Σ|w| < 2¹⁶, since a channel's sum then lies in an interval
//! of at most 2¹⁶ integers, which starting from an offset moves onto those of i16. Pairs that keep this bound form a set; the
//! sums of sets are widened and added in 32 bits. A task copies its windows, padding included.

mod quads;

use super::{
    epilogue::QFinish,
    steps::{STEP, Step, split},
};
use crate::{
    Ctx, Isa,
    conv::ConvShape,
    conv_last::window::Part,
    gemm::tile::{Acc, MR, NR},
    scratch::with_scratch,
};
use quads::Quads;
use std::ops::Range;

/// Channels of a panel.
const WIDE: usize = 2 * NR;
/// The channels of a panel as interleaving the bytes of two taps leaves them, eight by eight.
const ORDER: [usize; 4] = [0, 16, 8, 24];
/// What |w| of a set may sum to in each channel: 255·257 = 65 535.
const LIMIT: i32 = 257;
/// Output pixels of one task, in whole rows.
const TASK_PIXELS: usize = 256;
/// Results of one task that several share an image for.
const TASK_RESULTS: usize = 1 << 14;
/// Neighbouring pixels that are computed at once.
const RUN: usize = 4;

/// Packed weights.
pub(super) struct PackedDepthwise {
    taps: usize,
    /// `[C][tap]`
    w: Vec<i8>,
    /// What the offsets of its sets add to each channel's sum.
    shift: Vec<i32>,
    panels: Vec<Panel>,
    quads: Option<Quads>,
}

/// The channels `first..first + 32`; the last panel may take some of the panel before it.
struct Panel {
    first: usize,
    sets: Vec<Set>,
}

struct Set {
    pairs: Vec<Pair>,
    offset: [i16; WIDE],
}

/// Two taps, and the weights of both for every channel; an odd last tap is paired with itself and zeros.
struct Pair {
    taps: [usize; 2],
    weights: Step,
}

impl PackedDepthwise {
    /// Whether the shape is one that this kernel takes.
    pub(super) fn fits(s: &ConvShape) -> bool {
        s.group_in() == 1 && s.group_out() == 1 && s.groups > 1
    }

    /// Packs `w`, `[C, 1, KH, KW]`.
    pub(super) fn new(s: &ConvShape, w: &[i8]) -> PackedDepthwise {
        let (taps, channels) = (s.kernel[0] * s.kernel[1], s.out_channels);
        let mut shift = vec![0; channels];
        let mut panels = Vec::new();
        if channels >= WIDE {
            for first in (0..channels).step_by(WIDE).map(|first| first.min(channels - WIDE)) {
                let sets = sets(taps, |channel, tap| w[(first + channel) * taps + tap]);
                for lane in 0..WIDE {
                    shift[first + channel_of(lane)] = sets.iter().map(|set| i32::from(set.offset[lane])).sum();
                }
                panels.push(Panel { first, sets });
            }
        }
        PackedDepthwise { taps, w: w.to_vec(), shift, panels, quads: Quads::new(s, w) }
    }

    /// How many parts of at least so many channels there are.
    fn parts(&self, channels: usize) -> usize {
        (self.shift.len() / channels.max(1)).clamp(1, (self.shift.len() / WIDE).max(1))
    }

    /// Panels and channels of one of `parts` parts, whose channels are disjoint: panels that share some stay together.
    fn part(&self, i: usize, parts: usize) -> (&[Panel], Range<usize>) {
        let whole = self.shift.len() / WIDE;
        let cut = |i: usize| if i == parts { self.panels.len() } else { whole * i / parts };
        let panels = &self.panels[cut(i)..cut(i + 1)];
        match panels {
            [first, .., last] => (panels, first.first..last.first + WIDE),
            [one] => (panels, one.first..one.first + WIDE),
            [] => (panels, 0..self.shift.len()),
        }
    }

    /// What is added to each channel's sum.
    pub(super) fn shift(&self) -> &[i32] {
        &self.shift
    }

    pub(super) fn bytes(&self) -> usize {
        let pairs = self.panels.iter().flat_map(|p| &p.sets).map(|s| size_of_val(&s.pairs[..]));
        self.w.len() + pairs.sum::<usize>() + self.quads.as_ref().map_or(0, Quads::bytes)
    }
}

/// The channel of a lane.
fn channel_of(lane: usize) -> usize {
    ORDER[lane / 8] + lane % 8
}

/// The pairs of taps of a panel, in as few sets as the first that takes a pair makes.
fn sets(taps: usize, at: impl Fn(usize, usize) -> i8) -> Vec<Set> {
    let mut sets: Vec<(Vec<Pair>, [[i32; 2]; WIDE])> = Vec::new();
    for first in (0..taps).step_by(2) {
        let pair = [first, (first + 1).min(taps - 1)];
        let weight = |i: usize| {
            let (channel, which) = (channel_of(i / 2), i % 2);
            if first + which < taps { at(channel, first + which) } else { 0 }
        };
        let mut weights: Step = Step(std::array::from_fn::<i8, STEP, _>(weight));
        let rest = split(&mut weights);
        for weights in std::iter::once(weights).chain(rest) {
            // Sizes of the negative and of the positive weights.
            let mut load = [[0; 2]; WIDE];
            for (load, w) in load.iter_mut().zip(weights.0.as_chunks::<2>().0) {
                w.iter().for_each(|&w| load[usize::from(w > 0)] += i32::from(w).abs());
            }
            let fits =
                |set: &[[i32; 2]; WIDE]| set.iter().zip(&load).all(|(a, b)| a.iter().chain(b).sum::<i32>() <= LIMIT);
            let set = sets.iter().position(|(_, set)| fits(set)).unwrap_or_else(|| {
                sets.push((Vec::new(), [[0; 2]; WIDE]));
                sets.len() - 1
            });
            let (pairs, sum) = &mut sets[set];
            pairs.push(Pair { taps: pair, weights });
            sum.iter_mut().zip(load).for_each(|(sum, load)| (0..2).for_each(|i| sum[i] += load[i]));
        }
    }
    // The least sum becomes the least i16.
    let offset = |[negative, _]: [i32; 2]| (i32::from(i16::MIN) + 255 * negative) as i16;
    sets.into_iter().map(|(pairs, load)| Set { pairs, offset: load.map(offset) }).collect()
}

/// Hands the sums Σ x·w + shift of every output pixel to `finish`, x being u8 or, with `FLIP`, i8 of which 128 more is taken;
/// padding is `fill`.
pub(super) fn run<const FLIP: bool>(
    cx: Ctx<'_>,
    s: &ConvShape,
    x: &[u8],
    fill: u8,
    w: &PackedDepthwise,
    finish: &QFinish<'_>,
) {
    let ([oh, ow], [_, kw]) = (s.output, s.kernel);
    #[cfg(target_arch = "x86_64")]
    if let (Isa::Avx512 | Isa::Amx, Some(quads)) = (cx.isa.usable(), w.quads.as_ref().filter(|quads| quads.fits(ow)))
        && quads::run::<FLIP>(cx, s, (x, fill), (quads, &w.shift), finish)
    {
        return;
    }
    let per_image = (oh * ow).div_ceil(TASK_PIXELS).min(oh);
    let per_row = w.parts(TASK_RESULTS.div_ceil(oh * ow / per_image.max(1)));
    cx.pool.run(s.batch * per_image * per_row, &|task| {
        let (share, task) = (task % per_row, task / per_row);
        let (image, i) = (task / per_image, task % per_image);
        let (panels, channels) = w.part(share, per_row);
        let c = channels.len();
        let part = Part { images: image..image + 1, rows: oh * i / per_image..oh * (i + 1) / per_image, cols: 0..ow };
        let [height, width] = part.window(s);
        with_scratch::<u8, _>(height * width * c, |window| {
            part.copy(s, x, channels.clone(), fill, width, window);
            let tap = |tap: usize| (tap / kw * s.dilation[0] * width + tap % kw * s.dilation[1]) * c;
            let task = Task {
                window,
                taps: &(0..w.taps).map(tap).collect::<Vec<usize>>(),
                pitch: [s.stride[0] * width * c, s.stride[1] * c],
                w,
                panels,
                channels,
                first: part.first(s.output),
                rows: part.rows.len(),
                ow,
            };
            match cx.isa.usable() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the host has the level, and the window holds every tap of every pixel.
                Isa::Avx2 | Isa::Avx512 | Isa::Amx if !w.panels.is_empty() => unsafe {
                    x86::task::<FLIP>(&task, finish)
                },
                _ => task.plain::<FLIP>(finish),
            }
        });
    });
}

/// Some rows of output pixels of an image.
struct Task<'a> {
    /// What they read, channels last.
    window: &'a [u8],
    /// Where each tap lies, from a pixel's first.
    taps: &'a [usize],
    /// From a row of pixels, and from a pixel, to the next.
    pitch: [usize; 2],
    w: &'a PackedDepthwise,
    /// The panels to compute, and their channels.
    panels: &'a [Panel],
    channels: Range<usize>,
    /// Index of the first pixel in the batch.
    first: usize,
    rows: usize,
    ow: usize,
}

impl Task<'_> {
    /// By the definition.
    fn plain<const FLIP: bool>(&self, finish: &QFinish<'_>) {
        let taps = self.w.taps;
        let mut acc = Acc([[0; NR]; MR]);
        for pixel in 0..self.rows * self.ow {
            let window = &self.window[pixel / self.ow * self.pitch[0] + pixel % self.ow * self.pitch[1]..];
            for first in self.channels.clone().step_by(NR) {
                let cols = NR.min(self.channels.end - first);
                for channel in first..first + cols {
                    let mut sum = self.w.shift[channel];
                    for (tap, &w) in self.taps.iter().zip(&self.w.w[channel * taps..(channel + 1) * taps]) {
                        let x = window[tap + channel - self.channels.start];
                        sum += i32::from(if FLIP { x ^ 128 } else { x }) * i32::from(w);
                    }
                    acc.0[0][channel - first] = sum;
                }
                finish.put(self.first + pixel, 1, first, cols, &acc);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{NR, Panel, QFinish, RUN, Task};
    use crate::int8::store::{Store, WithStores, with_stores};
    use std::arch::x86_64::*;

    /// All panels of a task.
    ///
    /// # Safety
    /// The host has the level, and the window holds every tap of every pixel.
    pub(super) unsafe fn task<const FLIP: bool>(task: &Task<'_>, finish: &QFinish<'_>) {
        for panel in task.panels {
            let columns = [panel.first, panel.first + NR].map(|col| (col, NR));
            // SAFETY: this function's contract.
            unsafe { with_stores(finish, columns, PanelTask::<FLIP> { task, panel }) };
        }
    }

    struct PanelTask<'a, const FLIP: bool> {
        task: &'a Task<'a>,
        panel: &'a Panel,
    }

    impl<const FLIP: bool> WithStores<2> for PanelTask<'_, FLIP> {
        #[inline(always)]
        unsafe fn run<S: Store>(self, stores: &[S; 2]) {
            // SAFETY: this function's contract and that of `task`.
            unsafe { self.rows(stores) };
        }
    }

    impl<const FLIP: bool> PanelTask<'_, FLIP> {
        /// # Safety
        /// That of [`task`].
        #[target_feature(enable = "avx2,fma")]
        unsafe fn rows<S: Store>(&self, stores: &[S; 2]) {
            let ow = self.task.ow;
            for row in 0..self.task.rows {
                let mut col = 0;
                while col < ow {
                    // SAFETY: this function's contract.
                    unsafe {
                        if ow >= RUN {
                            // The last run may take some pixels of the run before it.
                            self.pixels::<RUN, S>(stores, row, col.min(ow - RUN));
                            col += RUN;
                        } else {
                            self.pixels::<1, S>(stores, row, col);
                            col += 1;
                        }
                    }
                }
            }
        }

        /// P neighbouring pixels.
        ///
        /// # Safety
        /// That of [`task`]; the pixels exist.
        #[inline]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn pixels<const P: usize, S: Store>(&self, stores: &[S; 2], row: usize, col: usize) {
            let Task { pitch: [row_pitch, step], taps, .. } = *self.task;
            let base = self
                .task
                .window
                .as_ptr()
                .wrapping_add(row * row_pitch + col * step + self.panel.first - self.task.channels.start);
            let start = [stores[0].start(), stores[1].start()];
            let mut sums = [[start[0]; P], [start[1]; P]];
            for set in &self.panel.sets {
                // SAFETY: this function's contract; arrays have the lengths that are read.
                unsafe {
                    let offset = set.offset.as_ptr().cast::<__m256i>();
                    let mut acc = [[_mm256_loadu_si256(offset), _mm256_loadu_si256(offset.add(1))]; P];
                    for pair in &set.pairs {
                        let a = base.wrapping_add(*taps.get_unchecked(pair.taps[0]));
                        let b = base.wrapping_add(*taps.get_unchecked(pair.taps[1]));
                        let w = pair.weights.0.as_ptr().cast::<__m256i>();
                        let (w0, w1) = (_mm256_load_si256(w), _mm256_load_si256(w.add(1)));
                        for p in 0..P {
                            let mut a = _mm256_loadu_si256(a.wrapping_add(p * step).cast());
                            let mut b = _mm256_loadu_si256(b.wrapping_add(p * step).cast());
                            if FLIP {
                                a = _mm256_xor_si256(a, _mm256_set1_epi8(-128));
                                b = _mm256_xor_si256(b, _mm256_set1_epi8(-128));
                            }
                            let low = _mm256_maddubs_epi16(_mm256_unpacklo_epi8(a, b), w0);
                            let high = _mm256_maddubs_epi16(_mm256_unpackhi_epi8(a, b), w1);
                            acc[p] = [_mm256_add_epi16(acc[p][0], low), _mm256_add_epi16(acc[p][1], high)];
                        }
                    }
                    for p in 0..P {
                        for j in 0..2 {
                            let low = _mm256_castsi256_si128(acc[p][j]);
                            let high = _mm256_extracti128_si256::<1>(acc[p][j]);
                            sums[0][p][j] = _mm256_add_epi32(sums[0][p][j], _mm256_cvtepi16_epi32(low));
                            sums[1][p][j] = _mm256_add_epi32(sums[1][p][j], _mm256_cvtepi16_epi32(high));
                        }
                    }
                }
            }
            let pixel = self.task.first + row * self.task.ow + col;
            // SAFETY: this function's contract.
            unsafe {
                stores[0].put(pixel, &sums[0]);
                stores[1].put(pixel, &sums[1]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pair_saturates_and_no_set_leaves_its_sixteen_bits() {
        let kinds: [fn(usize) -> i8; 4] =
            [|_| 127, |_| -128, |i| (i * 37 % 129) as u8 as i8, |i| [127, -128, 5][i % 3]];
        for (taps, kind) in [1, 2, 9, 25].into_iter().flat_map(|taps| kinds.map(|kind| (taps, kind))) {
            let sets = sets(taps, |channel, tap| kind(channel * taps + tap));
            for lane in 0..WIDE {
                let mut total = vec![0; taps];
                for set in &sets {
                    let mut range = [0i32; 2];
                    for pair in &set.pairs {
                        let w = &pair.weights.0[2 * lane..2 * lane + 2];
                        let of = |sign: i32| w.iter().map(|&w| (sign * i32::from(w)).max(0) * 255).sum::<i32>();
                        assert!(of(1) <= i16::MAX.into() && of(-1) <= -i32::from(i16::MIN));
                        range = [range[0] - of(-1), range[1] + of(1)];
                        (0..2).for_each(|i| total[pair.taps[i]] += i32::from(w[i]));
                    }
                    let [low, high] = range.map(|v| v + i32::from(set.offset[lane]));
                    assert!(low >= i16::MIN.into() && high <= i16::MAX.into());
                }
                let channel = channel_of(lane);
                assert!((0..taps).all(|tap| total[tap] == i32::from(kind(channel * taps + tap))));
            }
        }
    }
}
