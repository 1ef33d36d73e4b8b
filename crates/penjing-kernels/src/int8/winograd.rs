//! Convolutions of bytes by kernels of 3 × 3 with a quarter of the multiplications: Winograd's F(4, 3) (Lavin and Gray, "Fast
//! Algorithms for Convolutional Neural Networks", CVPR 2016, arXiv:1509.09308), exact.
//!
//! A tile of 4 × 4 outputs is `Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`, where d is its 6 × 6 inputs. With the points 0, ±1, ±2 and ∞ all of Bᵀ
//! and Aᵀ are integers, and so is G once its rows are multiplied by 24, −6, −6, 24, 24 and 6; Aᵀ then gives 24, 12, 6 and 6
//! times the outputs. Inputs of any bytes become at most 68·255 and weights at most 49·128, so both are i16, which `vpmaddwd`
//! multiplies and adds in pairs.
//!
//! What follows is computed modulo 2³². The factor of a sum is 9·2ᵏ with k ≤ 6: multiplying by the inverse of 9 and by 2⁶⁻ᵏ leaves
//! 2⁶·Σ x·w whatever wrapped before, and that fits an i32 where Σ|w| < 2¹⁷, so that a shift gives the sum.

use super::{ByteType, epilogue::QFinish};
use crate::{
    Ctx, Isa,
    conv::ConvShape,
    conv_last::tiles::Tiles,
    gemm::tile::{Acc, MR, NR},
    scratch::with_scratch,
};
use std::ops::Range;

/// Inputs and outputs of a tile, in one dimension.
const T: usize = 6;
const M: usize = 4;
/// Channels whose inputs are transformed at once.
const WIDE: usize = 16;
/// What Σ|w| of an output channel stays below.
const LIMIT: u32 = 1 << 17;
/// Bytes of a block's transformed inputs and of its products by one panel.
const BLOCK_BYTES: usize = 192 << 10;
/// Tiles of a block: enough to read each weight rarely.
const BLOCK_TILES: [usize; 2] = [12, 48];
/// Blocks that a convolution is cut into at least, down to short ones.
const MANY_BLOCKS: usize = 8;
/// Tiles of a short block: the rows of a register tile.
const SHORT_BLOCK: usize = MR;
/// Fewest channels that gain.
const CHANNELS: usize = 16;
/// Bytes of transformed weights for each tile up to which reading them costs less than is gained.
const WEIGHTS_A_TILE: usize = 128 << 10;
/// The power of two in the factor of output row or column i.
const POWERS: [u32; M] = [3, 2, 1, 1];
/// 9 · 0x38e38e39 = 1 modulo 2³².
const NINTH: u32 = 0x38e3_8e39;

/// Transformed weights of two input channels and the 16 output channels of a panel, `[16][2]`; a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Pairs([[i16; 2]; NR]);

/// Packed weights.
pub(super) struct PackedWinograd {
    /// Of input channels: an even number, the last with zeros where there are too few.
    pairs: usize,
    /// `[panel][T²][pair]`
    weights: Vec<Pairs>,
}

/// Integers modulo a power of two, one or several side by side.
trait Ring: Copy {
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;

    /// Times two.
    #[inline(always)]
    fn twice(self) -> Self {
        self.add(self)
    }

    /// Times four.
    fn fourfold(self) -> Self;
}

/// `Bᵀ d`.
#[inline(always)]
fn input<R: Ring>([d0, d1, d2, d3, d4, d5]: [R; T]) -> [R; T] {
    let (even, odd) = (d4.sub(d2.fourfold()), d3.sub(d1.fourfold()));
    let (rest, twice) = (d4.sub(d2), d3.sub(d1).twice());
    [
        d0.sub(d2).fourfold().add(rest),
        even.add(odd),
        even.sub(odd),
        rest.add(twice),
        rest.sub(twice),
        d5.sub(d3).sub(twice.twice()),
    ]
}

/// `G g`.
#[inline(always)]
fn weight<R: Ring>([g0, g1, g2]: [R; 3]) -> [R; T] {
    let six = |g: R| g.twice().add(g.fourfold());
    let (near, far) = (g0.add(g2), g0.add(g2.fourfold()));
    [six(g0), near.add(g1), near.sub(g1), far.add(g1.twice()), far.sub(g1.twice()), six(g2)]
}

/// `Aᵀ m`: 24, 12, 6 and 6 times the outputs.
#[inline(always)]
fn output<R: Ring>([m0, m1, m2, m3, m4, m5]: [R; T]) -> [R; M] {
    let (p, q, r, s) = (m1.add(m2), m1.sub(m2), m3.add(m4), m3.sub(m4));
    [r.sub(p.fourfold()).add(m0), s.sub(q.twice()), r.sub(p), s.twice().sub(q).add(m5)]
}

/// What makes 2⁶·Σ of the transformed sum of output row i and column j.
const fn unscale(i: usize, j: usize) -> i32 {
    (NINTH << (6 - POWERS[i] - POWERS[j])) as i32
}

macro_rules! ring {
    ($($int:ty)*) => {
        $(impl Ring for $int {
            #[inline(always)]
            fn add(self, b: $int) -> $int {
                self.wrapping_add(b)
            }

            #[inline(always)]
            fn sub(self, b: $int) -> $int {
                self.wrapping_sub(b)
            }

            #[inline(always)]
            fn fourfold(self) -> $int {
                self << 2
            }
        })*
    };
}

ring!(i16 i32);

impl PackedWinograd {
    /// Whether the method computes convolutions of the shape.
    pub(super) fn fits(s: &ConvShape) -> bool {
        s.kernel == [3, 3] && s.stride == [1, 1] && s.dilation == [1, 1] && s.groups == 1 && s.in_channels > 0
    }

    /// Whether the method is faster than the direct one: there are channels enough to pay for the transforms, little of the
    /// tiles lies outside the images, and weights, eight times as large as in their tensor, are not too many to read.
    pub(super) fn gains(s: &ConvShape) -> bool {
        let (tiles, pixels) = (Tiles::new(s, M).count(), s.batch * s.output[0] * s.output[1]);
        let weights = T * T * size_of::<i16>() * s.in_channels * s.out_channels;
        PackedWinograd::fits(s)
            && s.in_channels.min(s.out_channels) >= CHANNELS
            && 2 * M * M * tiles <= 3 * pixels
            && weights <= tiles * WEIGHTS_A_TILE
    }

    /// Packs `w`, `[O, C, 3, 3]`; none where sums could leave their range.
    pub(super) fn new(s: &ConvShape, w: &[i8]) -> Option<PackedWinograd> {
        let c = s.in_channels;
        let small = |w: &[i8]| w.iter().map(|w| u32::from(w.unsigned_abs())).sum::<u32>() < LIMIT;
        if !PackedWinograd::fits(s) || !w.chunks_exact(9 * c).all(small) {
            return None;
        }
        let (pairs, panels) = (2 * c.div_ceil(4), s.out_channels.div_ceil(NR));
        let mut weights = vec![Pairs([[0; 2]; NR]); panels * T * T * pairs];
        for (o, w) in w.chunks_exact(9 * c).enumerate() {
            let panel = &mut weights[o / NR * T * T * pairs..][..T * T * pairs];
            for (channel, g) in w.as_chunks::<9>().0.iter().enumerate() {
                let half: [[i16; T]; 3] = std::array::from_fn(|j| weight([g[j], g[3 + j], g[6 + j]].map(i16::from)));
                for i in 0..T {
                    let row = weight([half[0][i], half[1][i], half[2][i]]);
                    for j in 0..T {
                        panel[(i * T + j) * pairs + channel / 2].0[o % NR][channel % 2] = row[j];
                    }
                }
            }
        }
        Some(PackedWinograd { pairs, weights })
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.weights[..])
    }

    /// Panels of 16 output channels.
    fn panels(&self) -> impl Iterator<Item = &[Pairs]> {
        self.weights.chunks_exact(T * T * self.pairs)
    }
}

/// Runs a convolution of x `[N, H, W, C]`, of type `kind`; padding reads as `fill`. The sums are Σ x·w with x as it is.
pub(super) fn run(
    cx: Ctx<'_>,
    s: &ConvShape,
    (x, kind): (&[u8], ByteType),
    fill: u8,
    w: &PackedWinograd,
    finish: &QFinish<'_>,
) {
    let tiles = Tiles::new(s, M);
    let count = tiles.count();
    let pitch = s.in_channels.next_multiple_of(WIDE);
    let bytes_a_tile = T * T * (pitch * size_of::<i16>() + NR * size_of::<i32>());
    let long = count.div_ceil((BLOCK_BYTES / bytes_a_tile).clamp(BLOCK_TILES[0], BLOCK_TILES[1]));
    let blocks = long.max(MANY_BLOCKS.min(count.div_ceil(SHORT_BLOCK)));
    let operands = Operands { tiles, x, kind, outside: &vec![fill; s.in_channels], w, pitch, finish };
    cx.pool.run(blocks, &|b| {
        let tiles = count * b / blocks..count * (b + 1) / blocks;
        let block = Block { matrix: [matrix(tiles.len() * pitch, 32), matrix(tiles.len() * NR, 16)], tiles };
        with_scratch::<i16, _>(T * T * block.matrix[0], |v| {
            with_scratch::<i32, _>(T * T * block.matrix[1], |m| match cx.isa.usable() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `usable` returns `Avx2` only where the host has it.
                Isa::Avx2 | Isa::Avx512 | Isa::Amx => unsafe { x86::block(&operands, &block, v, m) },
                _ => operands.plain(&block, v, m),
            });
        });
    });
}

/// Some tiles.
struct Block {
    tiles: Range<usize>,
    /// Elements from matrix to matrix, of the transformed inputs and of the products.
    matrix: [usize; 2],
}

/// At least `len` elements, an odd number of cache lines of so many: what T² matrices have of one tile lies in different sets then.
fn matrix(len: usize, line: usize) -> usize {
    (len.div_ceil(line) | 1) * line
}

/// The operands of a convolution.
struct Operands<'a> {
    tiles: Tiles<'a>,
    x: &'a [u8],
    kind: ByteType,
    /// A pixel of padding.
    outside: &'a [u8],
    w: &'a PackedWinograd,
    /// Elements from tile to tile of the transformed inputs.
    pitch: usize,
    finish: &'a QFinish<'a>,
}

impl Operands<'_> {
    /// First column and number of columns of each panel.
    fn columns(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let o = self.tiles.s.out_channels;
        (0..o).step_by(NR).map(move |first| (first, NR.min(o - first)))
    }

    /// By the definition of the method: `v` holds T² matrices `[tile][pitch]`, `m` as many `[tile][16]`.
    fn plain(&self, block: &Block, v: &mut [i16], m: &mut [i32]) {
        let (c, [v_matrix, m_matrix]) = (self.outside.len(), block.matrix);
        for (t, place) in block.tiles.clone().map(|tile| self.tiles.place(tile)).enumerate() {
            let sources = self.tiles.sources::<_, T>(self.x, self.outside, place);
            for channel in 0..c {
                // SAFETY: each source is a pixel, which has all channels.
                let d = sources.map(|row| row.map(|at| self.wide(unsafe { *at.add(channel) })));
                let rows = d.map(input);
                for j in 0..T {
                    for (i, value) in input(rows.map(|row| row[j])).into_iter().enumerate() {
                        v[(i * T + j) * v_matrix + t * self.pitch + channel] = value;
                    }
                }
            }
        }
        for ((col, cols), w) in self.columns().zip(self.w.panels()) {
            for (k, w) in w.chunks_exact(self.w.pairs).enumerate() {
                let rows = m[k * m_matrix..].as_chunks_mut::<NR>().0.iter_mut().take(block.tiles.len());
                for (m, v) in rows.zip(v[k * v_matrix..].chunks(self.pitch)) {
                    *m = std::array::from_fn(|j| {
                        let product = |c: usize| i32::from(v[c]) * i32::from(w[c / 2].0[j][c % 2]);
                        (0..c).fold(0i32, |sum, c| sum.wrapping_add(product(c)))
                    });
                }
            }
            for (t, tile) in block.tiles.clone().enumerate() {
                let (pixel, [rows, width]) = self.tiles.pixels(self.tiles.place(tile));
                let mut y = [Acc([[0; NR]; MR]); M];
                for lane in 0..cols {
                    let at = |i: usize, j: usize| m[(i * T + j) * m_matrix + t * NR + lane];
                    let half: [[i32; M]; T] = std::array::from_fn(|j| output(std::array::from_fn(|i| at(i, j))));
                    for (i, y) in y.iter_mut().enumerate() {
                        for (j, sum) in output(half.map(|column| column[i])).into_iter().enumerate() {
                            y.0[j][lane] = sum.wrapping_mul(unscale(i, j)) >> 6;
                        }
                    }
                }
                for (i, y) in y[..rows].iter().enumerate() {
                    self.finish.put(pixel + i * self.tiles.s.output[1], width, col, cols, y);
                }
            }
        }
    }

    fn wide(&self, x: u8) -> i16 {
        match self.kind {
            ByteType::U8 => x.into(),
            ByteType::I8 => (x as i8).into(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The AVX2 level: 16 i16 or 8 i32 a register; the tile of a product has up to 6 rows and 16 columns.

    use super::{Block, M, NR, Operands, Pairs, Ring, T, WIDE, input, output, unscale};
    use crate::{
        gemm::tile::RowPanels,
        int8::{
            ByteType,
            store::{Store, WithStores, with_stores},
        },
    };
    use std::arch::{asm, x86_64::*};

    /// 16 i16. A value exists only where the host has AVX2.
    #[derive(Clone, Copy)]
    struct Words(__m256i);

    /// 8 i32. A value exists only where the host has AVX2.
    #[derive(Clone, Copy)]
    struct Longs(__m256i);

    macro_rules! ring {
        ($name:ident $add:ident $sub:ident $shift:ident) => {
            impl Ring for $name {
                #[inline(always)]
                fn add(self, b: Self) -> Self {
                    // SAFETY: a value exists.
                    unsafe { $name($add(self.0, b.0)) }
                }

                #[inline(always)]
                fn sub(self, b: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $name($sub(self.0, b.0)) }
                }

                #[inline(always)]
                fn fourfold(self) -> Self {
                    // SAFETY: as above.
                    unsafe { $name($shift::<2>(self.0)) }
                }
            }
        };
    }

    ring!(Words _mm256_add_epi16 _mm256_sub_epi16 _mm256_slli_epi16);
    ring!(Longs _mm256_add_epi32 _mm256_sub_epi32 _mm256_slli_epi32);

    /// A block by all panels.
    ///
    /// # Safety
    /// `v` and `m` have T² of the block's matrices; the host has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn block(op: &Operands<'_>, block: &Block, v: &mut [i16], m: &mut [i32]) {
        // SAFETY: this function's contract.
        unsafe {
            match op.kind {
                ByteType::U8 => inputs::<false>(op, block, v),
                ByteType::I8 => inputs::<true>(op, block, v),
            }
            for (columns, w) in op.columns().zip(op.w.panels()) {
                products(op, block, v, w, m);
                with_stores(op.finish, [columns], Outputs { op, block, m });
            }
        }
    }

    /// `v[k][tile][channel] = (Bᵀ d B)[k]`.
    ///
    /// # Safety
    /// `v` has T² of the block's matrices; the host has AVX2.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn inputs<const SIGNED: bool>(op: &Operands<'_>, block: &Block, v: &mut [i16]) {
        let (c, matrix) = (op.outside.len(), block.matrix[0]);
        for (t, tile) in block.tiles.clone().enumerate() {
            let sources = op.tiles.sources::<_, T>(op.x, op.outside, op.tiles.place(tile));
            let to = v[t * op.pitch..].as_mut_ptr();
            for channel in (0..c).step_by(WIDE) {
                let lanes = WIDE.min(c - channel);
                // SAFETY: `lanes` channels from `channel` on exist at each source, and 16 in `v`, whose tiles are padded.
                unsafe {
                    let mut half = [[Words(_mm256_setzero_si256()); T]; T];
                    for i in 0..T {
                        let mut d = half[0];
                        for j in 0..T {
                            d[j] = words::<SIGNED>(sources[i][j].add(channel), lanes);
                        }
                        half[i] = input(d);
                    }
                    for j in 0..T {
                        let mut d = half[0];
                        for i in 0..T {
                            d[i] = half[i][j];
                        }
                        let d = input(d);
                        for i in 0..T {
                            _mm256_storeu_si256(to.add((i * T + j) * matrix + channel).cast(), d[i].0);
                        }
                    }
                }
            }
        }
    }

    /// `lanes` bytes as i16, then zeros.
    ///
    /// # Safety
    /// They are readable; the host has AVX2.
    #[inline(always)]
    unsafe fn words<const SIGNED: bool>(at: *const u8, lanes: usize) -> Words {
        // SAFETY: this function's contract.
        unsafe {
            let bytes = if lanes == WIDE {
                _mm_loadu_si128(at.cast())
            } else {
                let mut part = [0u8; WIDE];
                at.copy_to_nonoverlapping(part.as_mut_ptr(), lanes);
                _mm_loadu_si128(part.as_ptr().cast())
            };
            Words(if SIGNED { _mm256_cvtepi8_epi16(bytes) } else { _mm256_cvtepu8_epi16(bytes) })
        }
    }

    /// `m[k][tile] = v[k][tile] · w[k]` for the 16 columns of a panel.
    ///
    /// # Safety
    /// `v` and `m` have T² of the block's matrices; the host has AVX2.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn products(op: &Operands<'_>, block: &Block, v: &[i16], w: &[Pairs], m: &mut [i32]) {
        let (panels, [v_matrix, m_matrix]) = (RowPanels::new(block.tiles.len()), block.matrix);
        for (k, w) in w.chunks_exact(op.w.pairs).enumerate() {
            for i in 0..panels.count() {
                let rows = panels.range(i);
                let v = v[k * v_matrix + rows.start * op.pitch..].as_ptr();
                let m = m[k * m_matrix + rows.start * NR..].as_mut_ptr();
                // SAFETY: this function's contract; the rows are the matrix's.
                unsafe {
                    match rows.len() {
                        1 => one(v, op.pitch, w, m),
                        2 => two(v, op.pitch, w, m),
                        3 => three(v, op.pitch, w, m),
                        4 => four(v, op.pitch, w, m),
                        5 => five(v, op.pitch, w, m),
                        _ => six(v, op.pitch, w, m),
                    }
                }
            }
        }
    }

    /// A pair of channels of one row.
    macro_rules! row {
        ($at:literal, $pair:literal, $c0:tt, $c1:tt) => {
            concat!(
                "vpbroadcastd ymm14, dword ptr [",
                $at,
                " + ",
                $pair,
                "]\n",
                "vpmaddwd ymm15, ymm14, ymm12\n",
                "vpmaddwd ymm14, ymm14, ymm13\n",
                "vpaddd ",
                $c0,
                ", ",
                $c0,
                ", ymm15\n",
                "vpaddd ",
                $c1,
                ", ",
                $c1,
                ", ymm14\n",
            )
        };
    }

    /// A tile of so many rows by 16 columns, written in assembly: the compiler computes the rows' addresses in every step.
    ///
    /// Registers: 0–11 sums, two a row; 12, 13 the weights of a pair of channels; 14 two activations in every lane; 15 a product.
    macro_rules! tile {
        ($name:ident $height:literal $([$r:literal $at:literal $c0:tt $c1:tt])*) => {
            /// # Safety
            /// Every row of `v`, `pitch` elements apart, has two elements for each of `w`, which are not empty and even in
            /// number; `m` has 16 for each row; the host has AVX2.
            #[inline]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn $name(v: *const i16, pitch: usize, w: &[Pairs], m: *mut i32) {
                let m: *mut __m256i = m.cast();
                let mut sums = [[_mm256_setzero_si256(); 2]; $height];
                // SAFETY: this function's contract. The code reads weights and rows, and writes registers that it names.
                unsafe {
                    asm!(
                        $(concat!("vpxor ", $c0, ", ", $c0, ", ", $c0, "\nvpxor ", $c1, ", ", $c1, ", ", $c1),)*
                        // A low tile has no other use for it.
                        "# {s}",
                        "2:",
                        "vmovdqa ymm12, ymmword ptr [{w}]",
                        "vmovdqa ymm13, ymmword ptr [{w} + 32]",
                        $(row!($at, "0", $c0, $c1),)*
                        "vmovdqa ymm12, ymmword ptr [{w} + 64]",
                        "vmovdqa ymm13, ymmword ptr [{w} + 96]",
                        $(row!($at, "4", $c0, $c1),)*
                        "add {v}, 8",
                        "add {half}, 8",
                        "add {w}, 128",
                        "cmp {w}, {end}",
                        "jne 2b",
                        v = inout(reg) v => _,
                        half = inout(reg) v.wrapping_add(3 * pitch) => _,
                        s = in(reg) 2 * pitch,
                        w = inout(reg) w.as_ptr() => _,
                        end = in(reg) w.as_ptr_range().end,
                        $(out($c0) sums[$r][0], out($c1) sums[$r][1],)*
                        out("ymm12") _,
                        out("ymm13") _,
                        out("ymm14") _,
                        out("ymm15") _,
                        options(nostack, readonly),
                    );
                    for r in 0..$height {
                        _mm256_storeu_si256(m.add(2 * r), sums[r][0]);
                        _mm256_storeu_si256(m.add(2 * r + 1), sums[r][1]);
                    }
                }
            }
        };
    }

    tile!(one 1 [0 "{v}" "ymm0" "ymm1"]);
    tile!(two 2 [0 "{v}" "ymm0" "ymm1"] [1 "{v} + {s}" "ymm2" "ymm3"]);
    tile!(three 3 [0 "{v}" "ymm0" "ymm1"] [1 "{v} + {s}" "ymm2" "ymm3"] [2 "{v} + 2*{s}" "ymm4" "ymm5"]);
    tile!(four 4 [0 "{v}" "ymm0" "ymm1"] [1 "{v} + {s}" "ymm2" "ymm3"] [2 "{v} + 2*{s}" "ymm4" "ymm5"]
        [3 "{half}" "ymm6" "ymm7"]);
    tile!(five 5 [0 "{v}" "ymm0" "ymm1"] [1 "{v} + {s}" "ymm2" "ymm3"] [2 "{v} + 2*{s}" "ymm4" "ymm5"]
        [3 "{half}" "ymm6" "ymm7"] [4 "{half} + {s}" "ymm8" "ymm9"]);
    tile!(six 6 [0 "{v}" "ymm0" "ymm1"] [1 "{v} + {s}" "ymm2" "ymm3"] [2 "{v} + 2*{s}" "ymm4" "ymm5"]
        [3 "{half}" "ymm6" "ymm7"] [4 "{half} + {s}" "ymm8" "ymm9"] [5 "{half} + 2*{s}" "ymm10" "ymm11"]);

    /// The outputs of a block by one panel.
    struct Outputs<'a> {
        op: &'a Operands<'a>,
        block: &'a Block,
        /// T² matrices `[tile][16]`.
        m: &'a [i32],
    }

    impl WithStores<1> for Outputs<'_> {
        #[inline(always)]
        unsafe fn run<S: Store>(self, [store]: &[S; 1]) {
            let (matrix, width) = (self.block.matrix[1], self.op.tiles.s.output[1]);
            let start = store.start();
            for (t, tile) in self.block.tiles.clone().enumerate() {
                let (pixel, [rows, cols]) = self.op.tiles.pixels(self.op.tiles.place(tile));
                let from = self.m[t * NR..].as_ptr();
                // SAFETY: `m` has T² matrices of 16 columns; the host has AVX2 (this function's contract).
                unsafe {
                    let mut half = [[[Longs(_mm256_setzero_si256()); T]; 2]; M];
                    for side in 0..2 {
                        for j in 0..T {
                            let mut m = half[0][0];
                            for i in 0..T {
                                m[i] = Longs(_mm256_loadu_si256(from.add((i * T + j) * matrix + 8 * side).cast()));
                            }
                            let y = output(m);
                            for i in 0..M {
                                half[i][side][j] = y[i];
                            }
                        }
                    }
                    for i in 0..M {
                        if i < rows {
                            let mut sums = [[_mm256_setzero_si256(); 2]; M];
                            for side in 0..2 {
                                let y = output(half[i][side]);
                                for j in 0..M {
                                    let scaled = _mm256_mullo_epi32(y[j].0, _mm256_set1_epi32(unscale(i, j)));
                                    sums[j][side] = _mm256_add_epi32(_mm256_srai_epi32::<6>(scaled), start[side]);
                                }
                            }
                            let row = pixel + i * width;
                            match sums {
                                _ if cols == M => store.put(row, &sums),
                                [a, b, c, _] if cols == 3 => store.put(row, &[a, b, c]),
                                [a, b, ..] if cols == 2 => store.put(row, &[a, b]),
                                [a, ..] => store.put(row, &[a]),
                            }
                        }
                    }
                }
            }
        }
    }
}
