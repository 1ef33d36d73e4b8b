//! Integer products by AMX: a tile register holds 16 rows of 64 bytes, and one instruction adds the products of 16 rows of
//! activations by 16 columns of weights, 64 deep, to sums of i32 that never saturate. Both types of activations have an instruction.
//!
//! Tiles of activations are read where they lie, which needs rows at equal distances, as the pixels of an output row have. A tile of
//! few rows takes as long as a full one, so where output rows are short, tiles go on into the next one and compute what lies
//! between as well; nothing of that is stored. Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2,
//! `LDTILECFG`, `TILELOADD`, `TDPBSSD`.

mod tiles;

use super::{
    ByteType,
    epilogue::QFinish,
    product::GROUP,
    steps::Step,
    wide_store::{PANELS, Store, WithStore, with_store},
};
use crate::{gemm::tile::NR, igemm::Rows};
use std::{arch::asm, ops::Range, ptr::null};
use tiles::{Piece, Tile, Tiles};

/// Rows of a register.
const ROWS: usize = 16;
/// Most registers of sums.
const TILES: usize = 4;
/// Lines of memory that are asked for together.
const LINES: usize = 4;
/// Bytes of weights that stay in the first-level cache.
const NEAR: usize = 1 << 15;

/// Some rows by some panels.
pub(super) struct Task<'a> {
    pub(super) x: ByteType,
    pub(super) rows: &'a Rows<'a, u8>,
    /// Where each chunk begins, from a row's place.
    pub(super) offsets: &'a [u32],
    /// Steps of a chunk.
    pub(super) chunk: usize,
    /// All of B, `[panel][chunk][step]`.
    pub(super) weights: &'a [Step],
    pub(super) panels: Range<usize>,
    /// Columns of B.
    pub(super) n: usize,
}

/// Computes a task.
///
/// # Safety
/// Every chunk of every row lies inside A, rows of a line at equal distances, the weights have every panel, and the host has
/// `Isa::Amx`.
pub(super) unsafe fn run(task: &Task<'_>, finish: &QFinish<'_>) {
    // SAFETY: this function's contract.
    unsafe { with_store(finish, task) }
}

impl WithStore for &Task<'_> {
    #[inline(always)]
    unsafe fn run<S: Store>(self, store: &S) {
        let Tiles { tiles, pieces } = Tiles::new(self.rows);
        for tiles in tiles.chunk_by(|a, b| a.rows == b.rows) {
            let config = TileConfig::new(tiles[0].rows, self.chunk);
            // SAFETY: this method's contract; the configuration has at most 16 rows and 64 bytes a register.
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, preserves_flags));
                self.multiply(tiles, &pieces, store);
                asm!("tilerelease", options(nostack, preserves_flags));
            }
        }
    }
}

impl Task<'_> {
    /// Tiles of equal height by all panels.
    ///
    /// # Safety
    /// Those of [`run`]; registers are configured for the tiles.
    #[inline(always)]
    unsafe fn multiply<S: Store>(&self, tiles: &[Tile], pieces: &[Piece], store: &S) {
        let mut sums = Sums([0; TILES * ROWS * NR]);
        let offsets = self.offsets.as_ptr_range();
        let panel_steps = self.offsets.len() * self.chunk;
        let mut frame = Frame {
            rows: [null(); TILES],
            strides: [0; TILES],
            at: offsets.start,
            end: offsets.end,
            weights: null(),
            panel: panel_steps * size_of::<Step>(),
            chunk: self.chunk * size_of::<Step>(),
            start: null(),
            sums: &mut sums,
            ahead: null(),
            lines: 0,
        };
        let mut panel = self.panels.start;
        while panel < self.panels.end {
            let left = self.panels.end - panel;
            let (high, wide) = shape(tiles.len(), left);
            // Panels that stay near while the tiles pass by, so that neighbouring results are stored together.
            let near = (NEAR / frame.panel.max(1)).clamp(wide, left) / wide * wide;
            // The panels to come are asked for in equal parts while these are used.
            let next = near.min(left - near) * self.chunk;
            frame.ahead = self.weights.as_ptr().wrapping_add((panel + near) * panel_steps);
            frame.lines = next.div_ceil(tiles.len().div_ceil(high) * (near / wide)).next_multiple_of(LINES);
            for tiles in tiles.chunks(high) {
                for (i, tile) in tiles.iter().enumerate() {
                    frame.rows[i] = self.rows.data.as_ptr().wrapping_add(tile.base);
                    frame.strides[i] = tile.stride;
                }
                for panel in (panel..panel + near).step_by(wide) {
                    let col = panel * NR;
                    let cols = (wide * NR).min(self.n - col);
                    frame.start = store.start(col);
                    frame.weights = self.weights[panel * panel_steps..(panel + wide) * panel_steps].as_ptr();
                    // SAFETY: this method's contract. The kernel writes the sums of each row of each tile.
                    unsafe {
                        kernel(self.x, tiles.len(), wide)(&frame);
                        for (i, tile) in tiles.iter().enumerate() {
                            for piece in &pieces[tile.pieces.clone()] {
                                let sums = frame.sums.cast::<i32>().add((i * ROWS + piece.at) * wide * NR);
                                store.put(piece.first..piece.first + piece.rows, col, cols, sums, wide * NR);
                            }
                        }
                    }
                    frame.ahead = frame.ahead.wrapping_add(frame.lines * self.offsets.len());
                }
            }
            panel += near;
        }
    }
}

/// Tiles and panels whose sums are computed together.
fn shape(tiles: usize, panels: usize) -> (usize, usize) {
    match (tiles, panels) {
        (1, _) => (1, panels.min(PANELS)),
        (_, 1) => (TILES, 1),
        _ => (2, 2),
    }
}

/// What `ldtilecfg` reads: registers 0 to 3 hold sums, 4 and 5 activations, 6 and 7 weights.
#[repr(C, align(64))]
pub(crate) struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl TileConfig {
    /// Tiles of `rows` rows, and chunks of so many steps, at most 16 of both. A register is never empty.
    pub(crate) fn new(rows: usize, chunk: usize) -> TileConfig {
        let (high, deep) = (rows.max(1) as u8, chunk.max(1) as u8);
        let mut config = TileConfig { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        config.rows[..8].copy_from_slice(&[high, high, high, high, high, high, deep, deep]);
        config.row_bytes[..8].fill(64);
        config.row_bytes[4..6].fill(u16::from(deep) * GROUP as u16);
        config
    }
}

/// The sums of a kernel, `[tile][row][panel][16]`.
#[repr(C, align(64))]
struct Sums([i32; TILES * ROWS * NR]);

/// What a kernel reads: the code below knows its layout.
#[repr(C)]
struct Frame {
    rows: [*const u8; TILES],
    strides: [usize; TILES],
    /// The offsets of chunks.
    at: *const u32,
    end: *const u32,
    weights: *const Step,
    /// Bytes from panel to panel.
    panel: usize,
    /// Bytes of a panel's chunk.
    chunk: usize,
    /// What sums begin with, 16 for each panel.
    start: *const i32,
    sums: *mut Sums,
    /// Weights to come, of which so many lines are asked for in each chunk.
    ahead: *const Step,
    lines: usize,
}

/// # Safety
/// The frame's rows have every chunk, its weights every panel of the kernel; registers are configured.
type Kernel = unsafe fn(&Frame);

/// The kernel of so many tiles and panels.
fn kernel(x: ByteType, tiles: usize, panels: usize) -> Kernel {
    let kernels = match x {
        ByteType::U8 => &unsigned::KERNELS,
        ByteType::I8 => &signed::KERNELS,
    };
    kernels[tiles - 1][panels - 1]
}

/// A line of a chunk: a register of activations or of weights, or a product.
macro_rules! line {
    ($op:literal, a $tile:literal $register:literal) => {
        concat!(
            "mov {t}, qword ptr [{f} + 8*",
            $tile,
            "]\nadd {t}, {o}\nmov {s}, qword ptr [{f} + 32 + 8*",
            $tile,
            "]\ntileloadd tmm",
            $register,
            ", [{t} + {s}*1]",
        )
    };
    ($op:literal, b 0 $register:literal) => {
        concat!("tileloadd tmm", $register, ", [{w} + {line}*1]")
    };
    ($op:literal, b 1 $register:literal) => {
        concat!("mov {t}, qword ptr [{f} + 88]\nadd {t}, {w}\ntileloadd tmm", $register, ", [{t} + {line}*1]")
    };
    ($op:literal, b 2 $register:literal) => {
        concat!("mov {t}, qword ptr [{f} + 88]\nlea {t}, [{w} + 2*{t}]\ntileloadd tmm", $register, ", [{t} + {line}*1]")
    };
    ($op:literal, b 3 $register:literal) => {
        concat!(
            "mov {t}, qword ptr [{f} + 88]\nlea {t}, [{t} + 2*{t}]\nadd {t}, {w}\ntileloadd tmm",
            $register,
            ", [{t} + {line}*1]"
        )
    };
    ($op:literal, dot $sum:literal $a:literal $b:literal) => {
        concat!($op, " tmm", $sum, ", tmm", $a, ", tmm", $b)
    };
}

/// A kernel of some panels: its sums, with the places of their panel's start and of theirs, and the lines of a chunk.
macro_rules! kernel {
    ($name:ident, $op:literal, $panels:literal, [$($sum:literal $start:literal $place:literal),*] [$(($($line:tt)*))*]) => {
        unsafe fn $name(frame: &Frame) {
            // SAFETY: the contract of `Kernel`. The code reads the frame, offsets, rows and weights and writes the sums.
            unsafe {
                asm!(
                    "mov {t}, qword ptr [{f} + 104]",
                    "xor {s:e}, {s:e}",
                    $(concat!("tileloadd tmm", $sum, ", [{t} + {s}*1 + ", $start, "]"),)*
                    "cmp {at}, {end}",
                    "je 3f",
                    "2:",
                    "mov {o:e}, dword ptr [{at}]",
                    "add {at}, 4",
                    $(line!($op, $($line)*),)*
                    "add {w}, {chunk}",
                    "mov {t}, qword ptr [{f} + 128]",
                    "test {t}, {t}",
                    "je 5f",
                    "4:",
                    "prefetcht1 byte ptr [{ahead}]",
                    "prefetcht1 byte ptr [{ahead} + 64]",
                    "prefetcht1 byte ptr [{ahead} + 128]",
                    "prefetcht1 byte ptr [{ahead} + 192]",
                    "add {ahead}, 256",
                    "sub {t}, 4",
                    "jne 4b",
                    "5:",
                    "cmp {at}, {end}",
                    "jne 2b",
                    "3:",
                    "mov {t}, qword ptr [{f} + 112]",
                    concat!("mov {s:e}, 64*", $panels),
                    $(concat!("tilestored [{t} + {s}*1 + ", $place, "], tmm", $sum),)*
                    f = in(reg) frame,
                    at = inout(reg) frame.at => _,
                    end = in(reg) frame.end,
                    w = inout(reg) frame.weights => _,
                    chunk = in(reg) frame.chunk,
                    ahead = inout(reg) frame.ahead => _,
                    line = in(reg) 64usize,
                    o = out(reg) _,
                    t = out(reg) _,
                    s = out(reg) _,
                    options(nostack),
                );
            }
        }
    };
}

/// The kernels of a type of activations, `[tiles][panels]`.
macro_rules! kernels {
    ($type:ident, $op:literal) => {
        mod $type {
            use super::*;

            pub(super) static KERNELS: [&[Kernel]; TILES] = [&[k11, k12, k13, k14], &[k21, k22], &[k31], &[k41]];

            kernel!(k11, $op, 1, [0 0 0] [(a 0 4) (b 0 6) (dot 0 4 6)]);
            kernel!(k12, $op, 2, [0 0 0, 1 64 64] [(a 0 4) (b 0 6) (dot 0 4 6) (b 1 7) (dot 1 4 7)]);
            kernel!(k13, $op, 3, [0 0 0, 1 64 64, 2 128 128]
                [(a 0 4) (b 0 6) (dot 0 4 6) (b 1 7) (dot 1 4 7) (b 2 6) (dot 2 4 6)]);
            kernel!(k14, $op, 4, [0 0 0, 1 64 64, 2 128 128, 3 192 192]
                [(a 0 4) (b 0 6) (dot 0 4 6) (b 1 7) (dot 1 4 7) (b 2 6) (dot 2 4 6) (b 3 7) (dot 3 4 7)]);
            kernel!(k21, $op, 1, [0 0 0, 1 0 1024] [(b 0 6) (a 0 4) (dot 0 4 6) (a 1 5) (dot 1 5 6)]);
            kernel!(k22, $op, 2, [0 0 0, 1 64 64, 2 0 2048, 3 64 2112]
                [(b 0 6) (a 0 4) (dot 0 4 6) (b 1 7) (dot 1 4 7) (a 1 5) (dot 2 5 6) (dot 3 5 7)]);
            kernel!(k31, $op, 1, [0 0 0, 1 0 1024, 2 0 2048]
                [(b 0 6) (a 0 4) (dot 0 4 6) (a 1 5) (dot 1 5 6) (a 2 4) (dot 2 4 6)]);
            kernel!(k41, $op, 1, [0 0 0, 1 0 1024, 2 0 2048, 3 0 3072]
                [(b 0 6) (a 0 4) (dot 0 4 6) (a 1 5) (dot 1 5 6) (a 2 4) (dot 2 4 6) (a 3 5) (dot 3 5 6)]);
        }
    };
}

kernels!(unsigned, "tdpbusd");
kernels!(signed, "tdpbssd");
