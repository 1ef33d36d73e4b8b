//! Depthwise convolutions with `vpdpbusd`, which adds four products of bytes to each sum of 32 bits, so nothing needs splitting.
//!
//! The four taps of a lane are rows: the bytes of four rows are interleaved, and two rows of outputs share them, each with its
//! own weights, zeros where a row is none of its taps. A row of outputs is a run of bytes whose weights repeat every C. Registers
//! take 64 of them; where C is no multiple of 64, a *group* of pixels takes a whole number of registers, or a little more.
//! Activations are read where they lie, those of columns outside of the image under a mask.
//!
//! Interleaving leaves byte 16·l + 4·j + i of the 64 in lane 4·l + i of register j, and packing results puts them back.

use crate::int8::{epilogue::QFinish, steps::Step};
use crate::{Ctx, conv::ConvShape};
use std::ops::Range;

/// Bytes of a register.
const BYTES: usize = 64;
/// Most pixels of a group.
const MOST_PIXELS: usize = 8;
/// Rows that are interleaved.
const QUAD: usize = 4;
/// Most quads of a kernel's rows.
const MOST_QUADS: usize = 8;
/// Results of a task, unless a block of rows and its panels are more.
const TASK_RESULTS: usize = 1 << 14;

/// Packed weights.
pub(super) struct Quads {
    /// Pixels of a group.
    group: usize,
    /// Rows of outputs that share what they read.
    height: usize,
    /// Quads of rows that they read.
    quads: usize,
    panels: Vec<Panel>,
}

/// 64 bytes of a group, the last of which may take some of those before.
struct Panel {
    at: usize,
    /// `[KW][quads][height][4]`
    weights: Vec<Step>,
}

impl Quads {
    /// Packs `w`, `[C, 1, KH, KW]`; none where no few pixels fill a register.
    pub(super) fn new(s: &ConvShape, w: &[i8]) -> Option<Quads> {
        let group = group(s)?;
        let [kh, kw] = s.kernel;
        let shares = s.stride[0] == 1 && s.dilation[0] == 1 && !kh.is_multiple_of(QUAD);
        let (height, quads) = (if shares { 2 } else { 1 }, kh.div_ceil(QUAD));
        if quads > MOST_QUADS {
            return None;
        }
        let bytes = group * s.out_channels;
        let panel = |first: usize| {
            let at = first.min(bytes - BYTES);
            let step = |i: usize| {
                let (j, h, quad, kx) = (i % 4, i / 4 % height, i / 4 / height % quads, i / 4 / height / quads);
                let weight = |b: usize| {
                    let channel = (at + b / 16 * 16 + j * 4 + b / 4 % 4) % s.out_channels;
                    let ky = (quad * QUAD + b % QUAD).wrapping_sub(h);
                    if ky < kh { w[(channel * kh + ky) * kw + kx] } else { 0 }
                };
                Step(std::array::from_fn(weight))
            };
            Panel { at, weights: (0..kw * quads * height * 4).map(step).collect() }
        };
        Some(Quads { group, height, quads, panels: (0..bytes).step_by(BYTES).map(panel).collect() })
    }

    /// Whether a row of so many pixels has a group.
    pub(super) fn fits(&self, pixels: usize) -> bool {
        pixels >= self.group
    }

    pub(super) fn bytes(&self) -> usize {
        self.panels.iter().map(|panel| size_of_val(&panel.weights[..])).sum()
    }
}

/// The pixels of a group: those that fill their registers best.
fn group(s: &ConvShape) -> Option<usize> {
    let most = if s.stride[1] == 1 { MOST_PIXELS.min(s.output[1]) } else { 1 };
    let registers = |pixels: usize| (pixels * s.out_channels).div_ceil(BYTES);
    (1..=most)
        .filter(|pixels| pixels * s.out_channels >= BYTES)
        .reduce(|best, pixels| if registers(pixels) * best < registers(best) * pixels { pixels } else { best })
}

/// As [`super::run`], where the host has the level and a row of pixels has a group; `shift` is what the finish takes off each
/// channel's sum. Whether it ran: not all results are for this kernel.
#[cfg(target_arch = "x86_64")]
pub(super) fn run<const FLIP: bool>(
    cx: Ctx<'_>,
    s: &ConvShape,
    (x, fill): (&[u8], u8),
    (w, shift): (&Quads, &[i32]),
    finish: &QFinish<'_>,
) -> bool {
    let ([oh, ow], channels) = (s.output, s.out_channels);
    // Blocks of rows are parted before panels: their tasks read other lines.
    let blocks = oh.div_ceil(w.height);
    let tasks = (oh * ow * channels / TASK_RESULTS).max(1);
    let per_image = tasks.min(blocks);
    // Panels that share bytes stay together.
    let parts = if (w.group * channels).is_multiple_of(BYTES) { (tasks / per_image).min(w.panels.len()) } else { 1 };
    let row = vec![fill; s.input[1] * channels];
    let task = |task: usize| {
        let (part, task) = (task % parts, task / parts);
        let (image, i) = (task / per_image, task % per_image);
        let cut = |i: usize| (blocks * i / per_image * w.height).min(oh);
        let panels = &w.panels[w.panels.len() * part / parts..w.panels.len() * (part + 1) / parts];
        Task {
            s,
            w,
            shift,
            x: &x[image * s.input[0] * row.len()..],
            fill: (fill, &row),
            image,
            rows: cut(i)..cut(i + 1),
            panels,
        }
    };
    // SAFETY: the host has the level, x holds every image, and a row has a group.
    unsafe { x86::tasks::<FLIP>(cx.pool, s.batch * per_image * parts, &task, finish) }
}

/// Some rows of output pixels of an image by some panels.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
struct Task<'a> {
    s: &'a ConvShape,
    w: &'a Quads,
    shift: &'a [i32],
    /// From the image on.
    x: &'a [u8],
    /// What is read outside of the image: a byte, and a row of it.
    fill: (u8, &'a [u8]),
    image: usize,
    rows: Range<usize>,
    panels: &'a [Panel],
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{BYTES, MOST_QUADS, Panel, QUAD, Task};
    use crate::int8::wide_store::{self, Codes, activate};
    use crate::{
        Activation, Pool,
        int8::epilogue::{Columns, Out, QFinish},
        pool::Disjoint,
    };
    use bytemuck::Pod;
    use std::arch::x86_64::*;

    /// Runs `n` tasks, if there is a store for their results.
    ///
    /// # Safety
    /// The host has the level; x holds the image; a row of pixels has a group.
    pub(super) unsafe fn tasks<'a, const FLIP: bool>(
        pool: &Pool,
        n: usize,
        task: &(impl Fn(usize) -> Task<'a> + Sync),
        finish: &QFinish<'_>,
    ) -> bool {
        let columns = finish.columns;
        if finish.residual.is_some() {
            return false;
        }
        // SAFETY: this function's contract.
        unsafe {
            match (finish.y, Codes::new(finish)) {
                (Out::Codes(y, ..), Some(codes)) => all::<FLIP, _>(pool, n, task, columns, Rounded { y, codes }),
                (Out::F32(y), _) => {
                    let limits = wide_store::Reals::new(finish);
                    all::<FLIP, _>(pool, n, task, columns, Reals { y, limits });
                }
                _ => return false,
            }
        }
        true
    }

    /// # Safety
    /// That of [`tasks`].
    unsafe fn all<'a, const FLIP: bool, S: Store + Sync>(
        pool: &Pool,
        n: usize,
        task: &(impl Fn(usize) -> Task<'a> + Sync),
        columns: &Columns,
        store: S,
    ) {
        // SAFETY: this function's contract.
        unsafe {
            match columns.smooth {
                None => pool.run(n, &|i| panels::<FLIP, _>(&task(i), columns, &store)),
                Some(act) => {
                    let store = Smooth { act, after: columns.after, store };
                    pool.run(n, &|i| panels::<FLIP, _>(&task(i), columns, &store));
                }
            }
        }
    }

    /// # Safety
    /// That of [`tasks`].
    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn panels<const FLIP: bool, S: Store>(task: &Task<'_>, columns: &Columns, store: &S) {
        let channels = task.shift.len();
        for panel in task.panels {
            // SAFETY: this function's contract.
            unsafe {
                let constant = ordered(&columns.constant[..channels], panel.at);
                let shift = ordered(task.shift, panel.at);
                let lines = Lines {
                    start: std::array::from_fn(|j| _mm512_add_epi32(constant[j], shift[j])),
                    scale: ordered(&columns.scale[..channels], panel.at),
                    bias: ordered(&columns.bias[..channels], panel.at),
                };
                let panel = PanelTask { task, panel, lines };
                match (task.w.height.min(task.rows.len()), task.s.kernel) {
                    (2, [3, 3]) => panel.rows::<FLIP, 3, 2, S>(store),
                    (2, _) => panel.rows::<FLIP, 0, 2, S>(store),
                    (_, [3, 3]) => panel.rows::<FLIP, 3, 1, S>(store),
                    _ => panel.rows::<FLIP, 0, 1, S>(store),
                }
            }
        }
    }

    /// 64 values of 32 bits, one a channel from `at` on and over again, in the order of the sums.
    ///
    /// # Safety
    /// The host has the level.
    #[target_feature(enable = "avx512f")]
    unsafe fn ordered<T: Pod>(values: &[T], at: usize) -> [__m512i; 4] {
        const { assert!(size_of::<T>() == 4) };
        let mut repeated = [T::zeroed(); BYTES];
        let line = match values.get(at..at + BYTES) {
            Some(line) => line,
            None => {
                let (mut done, mut from) = (0, at % values.len());
                while done < BYTES {
                    let n = (BYTES - done).min(values.len() - from);
                    repeated[done..done + n].copy_from_slice(&values[from..from + n]);
                    (done, from) = (done + n, 0);
                }
                &repeated
            }
        };
        let line = line.as_ptr().cast::<i32>();
        let mut ordered = [_mm512_setzero_si512(); 4];
        for (j, ordered) in ordered.iter_mut().enumerate() {
            // SAFETY: there are 64 values of 32 bits.
            unsafe {
                let v = _mm512_castsi128_si512(_mm_loadu_si128(line.add(4 * j).cast()));
                let v = _mm512_inserti32x4::<1>(v, _mm_loadu_si128(line.add(16 + 4 * j).cast()));
                let v = _mm512_inserti32x4::<2>(v, _mm_loadu_si128(line.add(32 + 4 * j).cast()));
                *ordered = _mm512_inserti32x4::<3>(v, _mm_loadu_si128(line.add(48 + 4 * j).cast()));
            }
        }
        ordered
    }

    /// What becomes of the sums of a panel's bytes.
    struct Lines {
        /// What sums begin with.
        start: [__m512i; 4],
        /// f32.
        scale: [__m512i; 4],
        bias: [__m512i; 4],
    }

    impl Lines {
        /// sum · scale + bias.
        ///
        /// # Safety
        /// The host has the level.
        #[inline(always)]
        unsafe fn real(&self, j: usize, sums: __m512i) -> __m512 {
            // SAFETY: this function's contract.
            unsafe {
                let (scale, bias) = (_mm512_castsi512_ps(self.scale[j]), _mm512_castsi512_ps(self.bias[j]));
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), scale, bias)
            }
        }
    }

    struct PanelTask<'a> {
        task: &'a Task<'a>,
        panel: &'a Panel,
        lines: Lines,
    }

    /// The rows that a block reads. Aligned as registers are, which aligns the stack for those that wait there.
    #[repr(align(64))]
    struct Rows([[*const u8; QUAD]; MOST_QUADS]);

    impl PanelTask<'_> {
        /// K is the extent of a square kernel, or zero.
        ///
        /// # Safety
        /// That of [`tasks`]; the task has H rows.
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        unsafe fn rows<const FLIP: bool, const K: usize, const H: usize, S: Store>(&self, store: &S) {
            let Task { s, w: quads, x, fill: (_, outside), .. } = self.task;
            let (ow, group) = (s.output[1], quads.group);
            let mut rows = Rows([[std::ptr::null(); QUAD]; MOST_QUADS]);
            for first in self.task.rows.clone().step_by(H) {
                // The last of rows and of columns may be some of those before.
                let first = first.min(self.task.rows.end - H);
                for (i, row) in rows.0.as_flattened_mut()[..quads.quads * QUAD].iter_mut().enumerate() {
                    // Rows past the last one have no weights.
                    let ky = i.min(s.kernel[0] + H - 2);
                    let y = (first * s.stride[0] + ky * s.dilation[0]).wrapping_sub(s.pad[0]);
                    *row = if y < s.input[0] { x[y * outside.len()..].as_ptr() } else { outside.as_ptr() };
                    *row = row.wrapping_add(self.panel.at);
                }
                let mut col = 0;
                while col < ow {
                    // SAFETY: this function's contract.
                    unsafe {
                        if col + group < ow && 2 * group <= ow {
                            self.columns::<FLIP, K, H, 2, S>(&rows, [first, col.min(ow - 2 * group)], store);
                            col += 2 * group;
                        } else {
                            self.columns::<FLIP, K, H, 1, S>(&rows, [first, col.min(ow - group)], store);
                            col += group;
                        }
                    }
                }
            }
        }

        /// P groups of pixels in each of H rows, which read `rows`.
        ///
        /// # Safety
        /// That of [`tasks`]; the pixels exist.
        #[inline]
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        unsafe fn columns<const FLIP: bool, const K: usize, const H: usize, const P: usize, S: Store>(
            &self,
            rows: &Rows,
            [row, col]: [usize; 2],
            store: &S,
        ) {
            let Task { s, w: quads, .. } = self.task;
            let first = (col * s.stride[1]).wrapping_sub(s.pad[1]);
            let last = first.wrapping_add((P * quads.group - 1) * s.stride[1] + (s.kernel[1] - 1) * s.dilation[1]);
            let pitch = [s.output[1] * s.out_channels, quads.group * s.out_channels];
            let at = ((self.task.image * s.output[0] + row) * s.output[1] + col) * s.out_channels + self.panel.at;
            let y = store.at(at, (H - 1) * pitch[0] + (P - 1) * pitch[1] + BYTES);
            // SAFETY: this function's contract; the span of results was checked, and is this task's.
            unsafe {
                let sums = if first < s.input[1] && last < s.input[1] {
                    self.block::<FLIP, false, K, H, P>(rows, first)
                } else {
                    self.block::<FLIP, true, K, H, P>(rows, first)
                };
                for h in 0..H {
                    for p in 0..P {
                        let mut v = [_mm512_setzero_ps(); 4];
                        for j in 0..4 {
                            v[j] = self.lines.real(j, sums[h][p][j]);
                        }
                        store.put(y.add(h * pitch[0] + p * pitch[1]), v);
                    }
                }
            }
        }

        /// The sums of P groups of pixels in each of H rows, whose inputs begin at column `col`; with `EDGE`, some of those may lie
        /// outside of the image.
        ///
        /// # Safety
        /// That of [`tasks`]; the pixels exist.
        #[inline]
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        unsafe fn block<const FLIP: bool, const EDGE: bool, const K: usize, const H: usize, const P: usize>(
            &self,
            rows: &Rows,
            col: usize,
        ) -> [[[__m512i; 4]; P]; H] {
            let Task { s, w: packed, fill: (fill, _), .. } = self.task;
            let (width, quads) = if K == 0 { (s.kernel[1], packed.quads) } else { (K, K.div_ceil(QUAD)) };
            let step = packed.group * s.stride[1];
            let mut weights = self.panel.weights.as_ptr().cast::<__m512i>();
            let mut sums = [[self.lines.start; P]; H];
            for kx in 0..width {
                let cols: [usize; P] = std::array::from_fn(|p| col.wrapping_add(kx * s.dilation[1] + p * step));
                for rows in &rows.0[..quads] {
                    for p in 0..P {
                        // SAFETY: this function's contract; there are four weights for each row of outputs.
                        unsafe {
                            let at = cols[p].wrapping_mul(s.out_channels);
                            let mask = if EDGE { self.inside(cols[p]) } else { 0 };
                            let row = |i: usize| {
                                let (fill, at) = (_mm512_set1_epi8(*fill as i8), rows[i].wrapping_add(at).cast());
                                let x =
                                    if EDGE { _mm512_mask_loadu_epi8(fill, mask, at) } else { _mm512_loadu_epi8(at) };
                                if FLIP { _mm512_xor_si512(x, _mm512_set1_epi8(-128)) } else { x }
                            };
                            let x = interleave([row(0), row(1), row(2), row(3)]);
                            for h in 0..H {
                                for j in 0..4 {
                                    let w = _mm512_load_si512(weights.add(4 * h + j));
                                    sums[h][p][j] = _mm512_dpbusd_epi32(sums[h][p][j], x[j], w);
                                }
                            }
                        }
                    }
                    weights = weights.wrapping_add(4 * packed.height);
                }
            }
            sums
        }

        /// Which bytes of the panel lie inside a row where its group begins at column `col`, which may be negative.
        #[inline(always)]
        fn inside(&self, col: usize) -> u64 {
            let Task { s, w: quads, .. } = self.task;
            // Groups of more than one have a stride of one.
            let (col, width) = (col as isize, s.input[1] as isize);
            let byte = |pixel: isize| {
                let pixel = pixel.clamp(0, quads.group as isize) as usize;
                (pixel * s.out_channels).saturating_sub(self.panel.at).min(BYTES)
            };
            let below = |byte: usize| if byte == BYTES { u64::MAX } else { (1 << byte) - 1 };
            below(byte(width - col)) & !below(byte(-col))
        }
    }

    /// The bytes of four rows, 16 lanes of four in each register.
    ///
    /// # Safety
    /// The host has the level.
    #[inline(always)]
    unsafe fn interleave([a, b, c, d]: [__m512i; QUAD]) -> [__m512i; 4] {
        // SAFETY: this function's contract.
        unsafe {
            let [low, high] = [_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)];
            let [low2, high2] = [_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d)];
            [
                _mm512_unpacklo_epi16(low, low2),
                _mm512_unpackhi_epi16(low, low2),
                _mm512_unpacklo_epi16(high, high2),
                _mm512_unpackhi_epi16(high, high2),
            ]
        }
    }

    /// Takes results.
    trait Store {
        type Element;

        /// The result at element `at`, the first of a span.
        fn at(&self, at: usize, span: usize) -> *mut Self::Element;

        /// Stores 64 of them, in the order of the sums.
        ///
        /// # Safety
        /// They are this task's; the host has the level.
        unsafe fn put(&self, y: *mut Self::Element, v: [__m512; 4]);
    }

    /// Results on a grid, where no step makes a NaN.
    struct Rounded<'a> {
        y: &'a Disjoint<'a, u8>,
        codes: Codes,
    }

    impl Store for Rounded<'_> {
        type Element = u8;

        #[inline(always)]
        fn at(&self, at: usize, span: usize) -> *mut u8 {
            self.y.at(at, span)
        }

        #[inline(always)]
        unsafe fn put(&self, y: *mut u8, v: [__m512; 4]) {
            // SAFETY: this function's contract.
            unsafe { _mm512_storeu_si512(y.cast(), self.codes.interleaved(v)) };
        }
    }

    /// Results in f32.
    struct Reals<'a> {
        y: &'a Disjoint<'a, f32>,
        limits: wide_store::Reals,
    }

    impl Store for Reals<'_> {
        type Element = f32;

        #[inline(always)]
        fn at(&self, at: usize, span: usize) -> *mut f32 {
            self.y.at(at, span)
        }

        #[inline(always)]
        unsafe fn put(&self, y: *mut f32, v: [__m512; 4]) {
            for j in 0..4 {
                // SAFETY: this function's contract.
                unsafe {
                    let v = self.limits.limit(v[j]);
                    let y = y.add(4 * j);
                    _mm_storeu_ps(y, _mm512_castps512_ps128(v));
                    _mm_storeu_ps(y.add(16), _mm512_extractf32x4_ps::<1>(v));
                    _mm_storeu_ps(y.add(32), _mm512_extractf32x4_ps::<2>(v));
                    _mm_storeu_ps(y.add(48), _mm512_extractf32x4_ps::<3>(v));
                }
            }
        }
    }

    /// Results that a function is applied to before `store` has them.
    struct Smooth<S> {
        act: Activation,
        /// What its results are multiplied by.
        after: f32,
        store: S,
    }

    impl<S: Store> Store for Smooth<S> {
        type Element = S::Element;

        #[inline(always)]
        fn at(&self, at: usize, span: usize) -> *mut S::Element {
            self.store.at(at, span)
        }

        #[inline(always)]
        unsafe fn put(&self, y: *mut S::Element, mut v: [__m512; 4]) {
            // SAFETY: this function's contract.
            unsafe {
                activate(self.act, std::slice::from_mut(&mut v));
                for v in &mut v {
                    *v = _mm512_mul_ps(*v, _mm512_set1_ps(self.after));
                }
                self.store.put(y, v);
            }
        }
    }
}
