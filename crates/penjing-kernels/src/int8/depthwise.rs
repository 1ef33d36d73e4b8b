//! Channels-last convolutions with one input and one output channel a group.
//!
//! Neighbouring channels fill a register. Two taps at a time are widened to i16, interleaved, and multiplied and added by
//! `vpmaddwd`, which cannot saturate: 2·255·128 is far below 2³¹. A tap outside the image reads a line of zero points.

use super::epilogue::QFinish;
use crate::{
    Ctx, Isa,
    conv::ConvShape,
    gemm::tile::{Acc, MR, NR},
};
use std::ops::Range;

/// The channels of a panel as interleaving the bytes of two taps leaves them.
const ORDER: [usize; NR] = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15];
/// Multiply-adds of one task.
const TASK: usize = 1 << 17;

/// Weights `[panel of 16 channels][pair of taps][16][2]`, channels in the order of [`ORDER`]; an odd last tap is paired with
/// zeros.
pub(super) struct PackedDepthwise {
    pairs: usize,
    data: Vec<[i16; 2]>,
}

impl PackedDepthwise {
    /// Whether the shape is one that this kernel takes.
    pub(super) fn fits(s: &ConvShape) -> bool {
        s.group_in() == 1 && s.group_out() == 1 && s.groups > 1
    }

    /// Packs `w`, `[C, 1, KH, KW]`.
    pub(super) fn new(s: &ConvShape, w: &[i8]) -> PackedDepthwise {
        let taps = s.kernel[0] * s.kernel[1];
        let (pairs, panels) = (taps.div_ceil(2), s.out_channels.div_ceil(NR));
        let at = |channel: usize, tap: usize| {
            if channel < s.out_channels && tap < taps { i16::from(w[channel * taps + tap]) } else { 0 }
        };
        let data = (0..panels * pairs * NR).map(|i| {
            let (channel, pair) = (i / (NR * pairs) * NR + ORDER[i % NR], i / NR % pairs);
            [at(channel, 2 * pair), at(channel, 2 * pair + 1)]
        });
        PackedDepthwise { pairs, data: data.collect() }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.data[..])
    }
}

/// Hands the sums Σ x·w of every output pixel to `sink`, x being u8 or, with `SIGNED`, i8; padding is `fill`.
pub(super) fn run<const SIGNED: bool>(
    cx: Ctx<'_>,
    s: &ConvShape,
    x: &[u8],
    fill: u8,
    w: &PackedDepthwise,
    sink: &QFinish<'_>,
) {
    let [oh, ow] = s.output;
    let rows = s.batch * oh;
    let work = (ow * s.out_channels * 2 * w.pairs).max(1);
    let per_task = (TASK / work).clamp(1, rows.max(1));
    let padding = vec![fill; s.out_channels];
    cx.pool.run(rows.div_ceil(per_task), &|task| {
        let mut taps = Vec::with_capacity(ow * 2 * w.pairs);
        for row in task * per_task..rows.min((task + 1) * per_task) {
            taps.clear();
            find_taps(s, x, &padding, row, w.pairs, &mut taps);
            let line = Line { channels: s.out_channels, taps: &taps, w, first: row * ow };
            match cx.isa.usable() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the host has the level.
                Isa::Avx2 => unsafe { x86::line::<SIGNED>(&line, sink) },
                _ => line.plain::<SIGNED>(0..s.out_channels, sink),
            }
        }
    });
}

/// Appends the taps of every pixel of an output row, an even number a pixel: what x, or the padding, holds from channel 0 on.
fn find_taps<'a>(s: &ConvShape, x: &'a [u8], padding: &'a [u8], row: usize, pairs: usize, out: &mut Vec<&'a [u8]>) {
    let ([h, w], [oh, ow], [kh, kw]) = (s.input, s.output, s.kernel);
    let (image, oy) = (row / oh, row % oh);
    for ox in 0..ow {
        for ky in 0..kh {
            let y = (oy * s.stride[0] + ky * s.dilation[0]).wrapping_sub(s.pad[0]);
            let line = image.wrapping_mul(h).wrapping_add(y).wrapping_mul(w);
            let first = (ox * s.stride[1]).wrapping_sub(s.pad[1]);
            for z in (0..kw).map(|kx| first.wrapping_add(kx * s.dilation[1])) {
                out.push(if y < h && z < w { &x[(line + z) * s.in_channels..] } else { padding });
            }
        }
        out.resize((ox + 1) * 2 * pairs, padding);
    }
}

/// One row of output pixels.
struct Line<'a> {
    channels: usize,
    /// `[pixel][tap]`, each at least `channels` long.
    taps: &'a [&'a [u8]],
    w: &'a PackedDepthwise,
    /// Index of the first pixel.
    first: usize,
}

impl Line<'_> {
    /// The channels from a multiple of 16 on, by the definition.
    fn plain<const SIGNED: bool>(&self, channels: Range<usize>, sink: &QFinish<'_>) {
        let value = |x: u8| if SIGNED { i32::from(x as i8) } else { i32::from(x) };
        let mut acc = Acc([[0; NR]; MR]);
        for (pixel, taps) in self.taps.chunks_exact(2 * self.w.pairs).enumerate() {
            for first in channels.clone().step_by(NR) {
                let cols = NR.min(channels.end - first);
                let w = &self.w.data[first * self.w.pairs..(first + NR) * self.w.pairs];
                acc.0[0] = [0; NR];
                for (taps, w) in taps.chunks_exact(2).zip(w.chunks_exact(NR)) {
                    for (&j, w) in ORDER.iter().zip(w).filter(|(j, _)| **j < cols) {
                        let [a, b] = [taps[0][first + j], taps[1][first + j]].map(value);
                        acc.0[0][j] += a * i32::from(w[0]) + b * i32::from(w[1]);
                    }
                }
                sink.put(self.first + pixel, 1, first, cols, &acc);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Acc, Line, MR, NR, QFinish};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn line<const SIGNED: bool>(line: &Line<'_>, sink: &QFinish<'_>) {
        let pairs = line.w.pairs;
        let pixels = line.taps.len() / (2 * pairs).max(1);
        let whole = line.channels / NR * NR;
        let mut acc = Acc([[0; NR]; MR]);
        for begin in (0..pixels).step_by(MR) {
            let end = pixels.min(begin + MR);
            let taps = &line.taps[begin * 2 * pairs..end * 2 * pairs];
            for first in (0..whole).step_by(NR) {
                let w = &line.w.data[first * pairs..(first + NR) * pairs];
                for (taps, acc) in taps.chunks_exact(2 * pairs).zip(&mut acc.0) {
                    // SAFETY: every tap has `channels` bytes, and `first + 16` is at most that; `w` has `pairs` steps.
                    unsafe { pixel::<SIGNED>(taps, first, w.as_ptr().cast(), acc) };
                }
                sink.put(line.first + begin, end - begin, first, NR, &acc);
            }
        }
        line.plain::<SIGNED>(whole..line.channels, sink);
    }

    /// The sums of 16 channels of one pixel.
    ///
    /// # Safety
    /// Every tap has 16 bytes from `first`, and `w` 16 pairs of i16 for every two taps.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn pixel<const SIGNED: bool>(taps: &[&[u8]], first: usize, w: *const i16, acc: &mut [i32; NR]) {
        let mut c = [_mm256_setzero_si256(); 2];
        for (i, pair) in taps.chunks_exact(2).enumerate() {
            // SAFETY: this function's contract.
            unsafe {
                let [a, b] = [pair[0], pair[1]].map(|t| {
                    let bytes = _mm_loadu_si128(t.as_ptr().add(first).cast());
                    if SIGNED { _mm256_cvtepi8_epi16(bytes) } else { _mm256_cvtepu8_epi16(bytes) }
                });
                // Channels 0–3 and 8–11, then 4–7 and 12–15.
                let (low, high) = (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
                let w = w.add(2 * NR * i);
                let (w0, w1) = (_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(w.add(16).cast()));
                c[0] = _mm256_add_epi32(c[0], _mm256_madd_epi16(low, w0));
                c[1] = _mm256_add_epi32(c[1], _mm256_madd_epi16(high, w1));
            }
        }
        let out = acc.as_mut_ptr();
        // SAFETY: `acc` has 16 elements.
        unsafe {
            _mm256_storeu_si256(out.cast(), _mm256_permute2x128_si256::<0x20>(c[0], c[1]));
            _mm256_storeu_si256(out.add(8).cast(), _mm256_permute2x128_si256::<0x31>(c[0], c[1]));
        }
    }
}
