//! Convolution by kernels of 3 × 3 with fewer multiplications: Winograd's minimal filtering in two dimensions (Lavin and
//! Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, arXiv:1509.09308).
//!
//! A tile of M × M outputs is `Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`, where d is the tile of T × T inputs, T = M + 2. The products in the
//! middle, summed over channels, are T² matrix products of tiles by weights, which go through [`crate::igemm`]. F(2, 3) needs
//! 16 multiplications for 4 outputs instead of 36, F(4, 3) needs 36 for 16 instead of 144.
//!
//! Inputs that differ much in size within a tile lose accuracy, since an output's error grows with the largest input of its
//! tile, and a tile that holds an infinity or a NaN gives NaN throughout. The row's
//! [`Exactness`](crate::table::Exactness) states the bound.

use super::{ConvEpilogue, output::Output, tiles::Tiles};
use crate::{
    Ctx, Isa,
    conv::ConvShape,
    gemm::tile::NR,
    igemm::{PackedB, multiply_plain},
    isa::{Math, per_isa},
    lanes::{Lanes, MOST_LANES, per_lanes},
    pool::Disjoint,
    scratch::with_scratch,
};
use std::ops::Range;

/// Bytes of a block's transformed inputs and products.
const BLOCK_BYTES: usize = 768 << 10;
/// Tiles of a block: enough to read each weight rarely, and a multiple of the register tile's rows.
const BLOCK_TILES: [usize; 2] = [24, 96];
/// Blocks below which the work inside a block is shared out instead of the blocks.
const FEW_BLOCKS: usize = 8;
/// Bytes of weights up to which few blocks become more, each with tiles and columns of its own from the first transform to the
/// last, so that the transformed inputs and the products never go from core to core.
const SMALL_WEIGHTS: usize = 1 << 20;
/// Bytes of weights that a core's own cache still holds from run to run, with those of other convolutions between.
const KEPT_WEIGHTS: usize = 1 << 19;
/// Fewest tiles of such a block: enough rows to hide the latency of their multiply-adds.
const SMALL_TILES: usize = 8;
/// Most such blocks, which few threads share evenly.
const SMALL_TASKS: usize = 4;
/// Parts of the columns where there is one such block. Each transforms all inputs, so there are no more.
const SMALL_SPLITS: usize = 2;
/// Fewest channels on either side that the transforms may pay for.
const FEWEST: usize = 8;
/// Elements of a cache line.
const LINE: usize = 16;
/// Tiles of a task of the transforms.
const TASK_TILES: usize = 4;

/// A pair of tile sizes and its transforms in one dimension.
pub(super) trait Form<const T: usize, const M: usize>: Sync {
    /// The transform of the weights.
    const G: [[f64; 3]; T];

    /// `Bᵀ d`.
    fn input<V: Lanes>(d: [V; T]) -> [V; T];

    /// `Aᵀ m`.
    fn output<V: Lanes>(m: [V; T]) -> [V; M];
}

/// F(2, 3): points 0, 1, −1, ∞.
pub(super) struct Two;

impl Form<4, 2> for Two {
    const G: [[f64; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];

    #[inline(always)]
    fn input<V: Lanes>([d0, d1, d2, d3]: [V; 4]) -> [V; 4] {
        [d0.sub(d2), d1.add(d2), d2.sub(d1), d1.sub(d3)]
    }

    #[inline(always)]
    fn output<V: Lanes>([m0, m1, m2, m3]: [V; 4]) -> [V; 2] {
        [m0.add(m1).add(m2), m1.sub(m2).sub(m3)]
    }
}

/// F(4, 3): points 0, ±a, ±b, ∞ with a = 11/16 and b = 23/16. They are near the √½ and √2 whose powers grow least, which
/// bounds the growth of rounding errors by 160 instead of the 860 of the usual 1 and 2, and every constant of the transforms
/// of inputs and outputs is an exact f32 (on the choice of points: Barabasz et al., "Error Analysis and Improving the Accuracy
/// of Winograd Convolution for Deep Neural Networks", ACM TOMS 2020).
pub(super) struct Four;

const A: f32 = 11.0 / 16.0;
const B: f32 = 23.0 / 16.0;
const A2: f32 = A * A;
const B2: f32 = B * B;

/// `[1, p, p²] / Π(p − q)` over the other finite points q; `square` and `other` are p² and the other pair's.
const fn weight_row(p: f32, square: f32, other: f32) -> [f64; 3] {
    let scale = 1.0 / (2.0 * square as f64 * (square as f64 - other as f64));
    [scale, p as f64 * scale, square as f64 * scale]
}

impl Form<6, 4> for Four {
    const G: [[f64; 3]; 6] = [
        [1.0 / (A2 as f64 * B2 as f64), 0.0, 0.0],
        weight_row(A, A2, B2),
        weight_row(-A, A2, B2),
        weight_row(B, B2, A2),
        weight_row(-B, B2, A2),
        [0.0, 0.0, 1.0],
    ];

    #[inline(always)]
    fn input<V: Lanes>([d0, d1, d2, d3, d4, d5]: [V; 6]) -> [V; 6] {
        let (even_a, odd_a) = (d2.times(-B2, d4), d1.times(-B2, d3));
        let (even_b, odd_b) = (d2.times(-A2, d4), d1.times(-A2, d3));
        [
            d0.times(A2 * B2, d2.times(-(A2 + B2), d4)),
            odd_a.times(A, even_a),
            odd_a.times(-A, even_a),
            odd_b.times(B, even_b),
            odd_b.times(-B, even_b),
            d1.times(A2 * B2, d3.times(-(A2 + B2), d5)),
        ]
    }

    #[inline(always)]
    fn output<V: Lanes>([m0, m1, m2, m3, m4, m5]: [V; 6]) -> [V; 4] {
        let (even_a, odd_a) = (m1.add(m2), m1.sub(m2));
        let (even_b, odd_b) = (m3.add(m4), m3.sub(m4));
        [
            m0.add(even_a).add(even_b),
            odd_b.times(B, odd_a.scale(A)),
            even_b.times(B2, even_a.scale(A2)),
            odd_b.times(B2 * B, odd_a.times(A2 * A, m5)),
        ]
    }
}

/// What the transforms are worth, which cost work for each channel, where the products gain work for each pair of channels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gain {
    /// Too few channels to pay for the transforms.
    Little,
    /// Few tiles, whose many weights come from far away and cost more than their products: those of F(2, 3) are fewer.
    Small,
    /// Enough of both.
    Large,
}

/// The gain for kernels of 3 × 3 that move by one, with channels enough to fill registers; none for other shapes.
pub(super) fn gain(s: &ConvShape) -> Option<Gain> {
    let unit = s.kernel == [3, 3] && s.stride == [1, 1] && s.dilation == [1, 1];
    if !unit || s.groups != 1 || s.in_channels < FEWEST || s.out_channels < FEWEST {
        return None;
    }
    let tiles = s.batch * s.output[0].div_ceil(4) * s.output[1].div_ceil(4);
    Some(match (s.in_channels.min(s.out_channels), tiles) {
        (..16, _) => Gain::Little,
        (_, ..12) if weight_bytes::<6>(s) > KEPT_WEIGHTS => Gain::Small,
        _ => Gain::Large,
    })
}

/// The transformed weights of `w`, `[O, C, 3, 3]`: one matrix `[C, O]` for each of the T² products. Computed in f64.
pub(crate) fn pack<F: Form<T, M>, const T: usize, const M: usize>(isa: Isa, s: &ConvShape, w: &[f32]) -> Vec<PackedB> {
    PackedB::together(T * T, s.out_channels, s.in_channels, |c, outputs, out| {
        let mut g = [[0.0f64; NR]; 9];
        for (lane, o) in outputs.enumerate() {
            let kernel = &w[(o * s.in_channels + c) * 9..][..9];
            (0..9).for_each(|i| g[i][lane] = f64::from(kernel[i]));
        }
        transform_weights(isa, &F::G, &g, out);
    })
}

per_isa! {
    /// `out = G g Gᵀ` of 16 kernels `g`.
    fn transform_weights(transform: &[[f64; 3]], g: &[[f64; NR]; 9], out: &mut [[f32; NR]]) = transform_weights_body
}

#[inline(always)]
fn transform_weights_body<M: Math>(transform: &[[f64; 3]], g: &[[f64; NR]; 9], out: &mut [[f32; NR]]) {
    for (rows, out) in transform.iter().zip(out.chunks_exact_mut(transform.len())) {
        let mut half = [[0.0; NR]; 3];
        for b in 0..3 {
            weighted::<M>(rows, [&g[b], &g[3 + b], &g[6 + b]], &mut half[b]);
        }
        for (cols, out) in transform.iter().zip(out) {
            let mut sum = [0.0; NR];
            weighted::<M>(cols, [&half[0], &half[1], &half[2]], &mut sum);
            for l in 0..NR {
                out[l] = sum[l] as f32;
            }
        }
    }
}

#[inline(always)]
fn weighted<M: Math>([p, q, r]: &[f64; 3], [x, y, z]: [&[f64; NR]; 3], out: &mut [f64; NR]) {
    for l in 0..NR {
        out[l] = M::fma64(*p, x[l], M::fma64(*q, y[l], *r * z[l]));
    }
}

/// The tiles of a convolution and the operands of its transforms.
pub(super) struct Operands<'a> {
    tiles: Tiles<'a>,
    x: &'a [f32],
    /// As many zeros as x has channels.
    zeros: &'a [f32],
    /// Elements from tile to tile of the transformed inputs and of the products.
    pitch: [usize; 2],
    output: Output<'a>,
}

/// Some tiles of a block: `v` and `m` hold T² matrices `[block][pitch]`.
pub(super) struct Part<'a> {
    /// The block's tiles, and which of them to do.
    block: Range<usize>,
    tiles: Range<usize>,
    /// The output channels to do.
    outputs: Range<usize>,
    v: &'a Disjoint<'a, f32>,
    m: &'a Disjoint<'a, f32>,
}

/// Runs a checked convolution with weights of [`pack`].
pub(crate) fn run<F: Form<T, M> + Transform, const T: usize, const M: usize>(
    cx: Ctx<'_>,
    s: &ConvShape,
    x: &[f32],
    w: &[PackedB],
    e: &ConvEpilogue<'_>,
    y: &Disjoint<'_, f32>,
) {
    let zeros = vec![0.0; s.in_channels.max(s.out_channels)];
    let t = Operands {
        tiles: Tiles::new(s, M),
        x,
        zeros: &zeros,
        pitch: [s.in_channels.next_multiple_of(MOST_LANES), s.out_channels.next_multiple_of(NR)],
        output: Output::new(s, e, &zeros, y),
    };
    let count = t.tiles.count();
    let fit = BLOCK_BYTES / (T * T * (t.pitch[0] + t.pitch[1]) * size_of::<f32>());
    let blocks = count.div_ceil(fit.clamp(BLOCK_TILES[0], BLOCK_TILES[1]));
    let block = |b: usize, blocks: usize| count * b / blocks..count * (b + 1) / blocks;
    let panels = t.pitch[1] / NR;
    if blocks >= FEW_BLOCKS {
        cx.pool.run(blocks, &|b| run_block::<F, T, M>(cx, &t, w, block(b, blocks), 0..panels));
    } else if is_small::<T>(s) {
        let blocks = (count / SMALL_TILES).clamp(1, SMALL_TASKS).max(blocks);
        let splits = SMALL_SPLITS.div_ceil(blocks).min(panels);
        cx.pool.run(blocks * splits, &|i| {
            let split = i / blocks;
            let panels = panels * split / splits..panels * (split + 1) / splits;
            run_block::<F, T, M>(cx, &t, w, block(i % blocks, blocks), panels);
        });
    } else {
        (0..blocks).for_each(|b| run_block::<F, T, M>(cx, &t, w, block(b, blocks), 0..panels));
    }
}

/// Whether every task may read all weights: they stay in a core's own cache.
fn is_small<const T: usize>(s: &ConvShape) -> bool {
    weight_bytes::<T>(s) <= SMALL_WEIGHTS
}

/// Of the T² matrices.
fn weight_bytes<const T: usize>(s: &ConvShape) -> usize {
    T * T * s.in_channels.next_multiple_of(MOST_LANES) * s.out_channels.next_multiple_of(NR) * size_of::<f32>()
}

/// Elements from one of the T² matrices to the next: an odd number of cache lines, since a transform touches all matrices at
/// one place, and lines at distances of a power of two would share few sets of the first-level cache.
fn matrix(len: usize) -> usize {
    len.div_ceil(LINE) / 2 * 2 * LINE + LINE
}

fn run_block<F: Form<T, M> + Transform, const T: usize, const M: usize>(
    cx: Ctx<'_>,
    t: &Operands<'_>,
    w: &[PackedB],
    block: Range<usize>,
    panels: Range<usize>,
) {
    let n = block.len();
    let outputs = panels.start * NR..t.tiles.s.out_channels.min(panels.end * NR);
    let (v_len, m_len) = (matrix(n * t.pitch[0]), matrix(n * panels.len() * NR));
    let sums = n * panels.len() * NR;
    with_scratch::<f32, _>(T * T * v_len, |v| {
        with_scratch::<f32, _>(T * T * m_len, |m| {
            let (v_out, m_out) = (Disjoint::new(v), Disjoint::new(m));
            let each_part = |f: &(dyn Fn(&Part<'_>) + Sync)| {
                cx.pool.run(n.div_ceil(TASK_TILES), &|i| {
                    let tiles = block.start + i * TASK_TILES..block.end.min(block.start + (i + 1) * TASK_TILES);
                    f(&Part { block: block.clone(), tiles, outputs: outputs.clone(), v: &v_out, m: &m_out });
                });
            };
            // SAFETY: the tasks' tiles are disjoint, and the two buffers have T² matrices of the block's tiles.
            each_part(&|part| unsafe { F::transform_inputs(cx.isa, t, part) });
            let bases: Vec<usize> = (0..n).map(|i| i * t.pitch[0]).collect();
            cx.pool.run(T * T, &|k| {
                // SAFETY: the inputs' tasks have ended; each product has its own part of the buffer.
                let (data, sums) = unsafe { (&*v_out.slice(k * v_len, v_len), m_out.slice(k * m_len, sums)) };
                multiply_plain(cx.isa, data, &bases, &w[k].view(), panels.clone(), sums);
            });
            // SAFETY: as above; the products' tasks have ended, and no two tiles share an output.
            each_part(&|part| unsafe {
                F::transform_outputs(cx.isa, t, part);
                for tile in part.tiles.clone() {
                    let (pixel, [rows, cols]) = t.tiles.pixels(t.tiles.place(tile));
                    for first in (0..rows).map(|row| pixel + row * t.tiles.s.output[1]) {
                        t.output.finish(cx.isa, first..first + cols, outputs.clone());
                    }
                }
            });
        });
    });
}

/// The transforms of some tiles, compiled for each level.
pub(super) trait Transform {
    /// # Safety
    /// No other task touches the part's tiles in `v`, which has T² matrices.
    unsafe fn transform_inputs(isa: Isa, t: &Operands<'_>, part: &Part<'_>);

    /// # Safety
    /// No other task writes the outputs of the part's tiles, or `m`, which has T² matrices.
    unsafe fn transform_outputs(isa: Isa, t: &Operands<'_>, part: &Part<'_>);
}

macro_rules! transform {
    ($form:ident, $t:literal, $m:literal, $inputs:ident, $inputs_body:ident, $outputs:ident, $outputs_body:ident) => {
        impl Transform for $form {
            unsafe fn transform_inputs(isa: Isa, t: &Operands<'_>, part: &Part<'_>) {
                // SAFETY: the trait's contract.
                unsafe { $inputs(isa, t, part) }
            }

            unsafe fn transform_outputs(isa: Isa, t: &Operands<'_>, part: &Part<'_>) {
                // SAFETY: the trait's contract.
                unsafe { $outputs(isa, t, part) }
            }
        }

        per_lanes! {
            /// # Safety
            /// That of [`Transform::transform_inputs`].
            unsafe fn $inputs(t: &Operands<'_>, part: &Part<'_>) = $inputs_body
        }

        #[inline(always)]
        unsafe fn $inputs_body<V: Lanes>(t: &Operands<'_>, part: &Part<'_>) {
            // SAFETY: the caller's contract.
            unsafe { inputs::<V, $form, $t, $m>(t, part) }
        }

        per_lanes! {
            /// # Safety
            /// That of [`Transform::transform_outputs`].
            unsafe fn $outputs(t: &Operands<'_>, part: &Part<'_>) = $outputs_body
        }

        #[inline(always)]
        unsafe fn $outputs_body<V: Lanes>(t: &Operands<'_>, part: &Part<'_>) {
            // SAFETY: the caller's contract.
            unsafe { outputs::<V, $form, $t, $m>(t, part) }
        }
    };
}

transform!(Two, 4, 2, inputs_two, inputs_two_body, outputs_two, outputs_two_body);
transform!(Four, 6, 4, inputs_four, inputs_four_body, outputs_four, outputs_four_body);

/// `v[k][tile][channel] = (Bᵀ d B)[k]`.
///
/// # Safety
/// That of [`Transform::transform_inputs`]; the host has the lanes' instructions.
#[inline(always)]
unsafe fn inputs<V: Lanes, F: Form<T, M>, const T: usize, const M: usize>(t: &Operands<'_>, part: &Part<'_>) {
    let (c, pitch) = (t.tiles.s.in_channels, t.pitch[0]);
    let matrix = matrix(part.block.len() * pitch);
    for tile in part.tiles.clone() {
        let sources = t.tiles.sources::<_, T>(t.x, t.zeros, t.tiles.place(tile));
        let to = part.v.as_ptr().wrapping_add((tile - part.block.start) * pitch);
        for channel in (0..c).step_by(V::LANES) {
            let lanes = V::LANES.min(c - channel);
            // SAFETY: `lanes` channels from `channel` on exist at each source and eight in `v`, whose tiles are padded.
            unsafe {
                let mut half = [[V::splat(0.0); T]; T];
                for i in 0..T {
                    let mut d = [V::splat(0.0); T];
                    for j in 0..T {
                        let from = sources[i][j].add(channel);
                        d[j] = if lanes == V::LANES { V::load(from) } else { V::load_part(from, lanes) };
                    }
                    half[i] = F::input(d);
                }
                for j in 0..T {
                    let mut d = [V::splat(0.0); T];
                    for i in 0..T {
                        d[i] = half[i][j];
                    }
                    let d = F::input(d);
                    for i in 0..T {
                        d[i].store(to.add((i * T + j) * matrix + channel));
                    }
                }
            }
        }
    }
}

/// `y = activation(Aᵀ m A + bias + residual)`.
///
/// # Safety
/// That of [`Transform::transform_outputs`]; the host has the lanes' instructions.
#[inline(always)]
unsafe fn outputs<V: Lanes, F: Form<T, M>, const T: usize, const M: usize>(t: &Operands<'_>, part: &Part<'_>) {
    let ow = t.tiles.s.output[1];
    let panel = part.block.len() * NR;
    let matrix = matrix(part.outputs.len().div_ceil(NR) * panel);
    // SAFETY: this function's contract.
    let writer = unsafe { t.output.writer::<V>() };
    for tile in part.tiles.clone() {
        let (pixel, [rows, cols]) = t.tiles.pixels(t.tiles.place(tile));
        let from = part.m.as_ptr().wrapping_add((tile - part.block.start) * NR);
        for channel in part.outputs.clone().step_by(V::LANES) {
            let lanes = V::LANES.min(part.outputs.end - channel);
            let own = channel - part.outputs.start;
            let from = from.wrapping_add(own / NR * panel + own % NR);
            // SAFETY: a register of sums from `channel` on lies in `m`, whose tiles are padded; the pixels are the tile's own.
            unsafe {
                let bias = t.output.bias::<V>(channel, lanes);
                let mut half = [[bias; M]; T];
                for i in 0..T {
                    let mut m = [bias; T];
                    for j in 0..T {
                        m[j] = V::load(from.add((i * T + j) * matrix));
                    }
                    half[i] = F::output(m);
                }
                for j in 0..cols {
                    let mut m = [bias; T];
                    for i in 0..T {
                        m[i] = half[i][j];
                    }
                    let y = F::output(m);
                    for i in 0..M {
                        if i < rows {
                            writer.put(pixel + i * ow + j, channel, lanes, y[i].add(bias));
                        }
                    }
                }
            }
        }
    }
}
