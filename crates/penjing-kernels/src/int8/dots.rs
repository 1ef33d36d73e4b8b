//! The register tile of integer products with `vpdpbusd` on registers of 512 bits, which adds four products to a sum of i32 and never
//! saturates: up to 12 rows by 2 panels of columns, 12 by 1 or 6 by 4.

use super::{
    ByteType,
    epilogue::QFinish,
    steps::Step,
    wide_store::{Store, WithStore, with_store},
};
use crate::{
    gemm::tile::{NR, RowPanels},
    igemm::Rows,
};
use std::{arch::asm, ops::Range, ptr::null};

/// Most rows of a tile of one or two panels, and of four.
const ROWS: usize = 12;
const LOW_ROWS: usize = 6;
/// Sums of a tile, in registers.
const SUMS: usize = 24;
/// Bytes of weights between those that a single tile multiplies by and those that it asks for.
const NEAR: usize = 2048;

/// Some rows by some panels.
pub(super) struct Task<'a> {
    pub(super) x: ByteType,
    pub(super) rows: &'a Rows<'a, u8>,
    /// Where each step begins, from a row's place.
    pub(super) offsets: &'a [u32],
    /// All of B, `[panel][step]`.
    pub(super) weights: &'a [Step],
    pub(super) panels: Range<usize>,
    /// Columns of B.
    pub(super) n: usize,
}

/// Computes a task.
///
/// # Safety
/// Every step of every row lies inside A, the weights have every panel, and the host has `Isa::Avx512`.
pub(super) unsafe fn run(task: &Task<'_>, finish: &QFinish<'_>) {
    // SAFETY: this function's contract.
    unsafe { with_store(finish, task) }
}

impl WithStore for &Task<'_> {
    #[inline(always)]
    unsafe fn run<S: Store>(self, store: &S) {
        let (m, steps) = (self.rows.bases.len(), self.offsets.len());
        let mut sums = Sums([[0; NR]; SUMS]);
        let offsets = self.offsets.as_ptr_range();
        let mut frame = Frame {
            rows: [null(); ROWS],
            start: null(),
            sums: &mut sums,
            at: offsets.start,
            end: offsets.end,
            weights: null(),
            stride: size_of_val(&self.weights[..steps]),
            ahead: 0,
        };
        let mut panel = self.panels.start;
        while panel < self.panels.end {
            let (count, tiles) = shape(m, self.panels.end - panel);
            let heights = RowPanels::lower(m, if count == 4 { LOW_ROWS } else { ROWS });
            let next = if panel + count < self.panels.end { shape(m, self.panels.end - panel - count).0 } else { 0 };
            let col = panel * NR;
            frame.start = store.start(col);
            frame.weights = self.weights[panel * steps..(panel + count) * steps].as_ptr();
            for tile in 0..heights.count() {
                let rows = heights.range(tile);
                for (to, &base) in frame.rows.iter_mut().zip(&self.rows.bases[rows.clone()]) {
                    *to = self.rows.data.as_ptr().wrapping_add(base);
                }
                frame.ahead = match tile {
                    _ if heights.count() == 1 => NEAR,
                    _ if tile < next => (count + tile) * frame.stride,
                    _ => 0,
                };
                // SAFETY: this method's contract. The tile writes `count` panels of sums for each row.
                unsafe {
                    tiles[usize::from(self.x == ByteType::I8)][rows.len() - 1](&frame);
                    let cols = (count * NR).min(self.n - col);
                    store.put(rows, col, cols, frame.sums.cast(), count * NR);
                }
            }
            panel += count;
        }
    }
}

/// The sums of a tile, `[row][panel][16]`.
#[repr(C, align(64))]
struct Sums([[i32; NR]; SUMS]);

/// What a tile reads: the code below knows its layout.
#[repr(C)]
struct Frame {
    rows: [*const u8; ROWS],
    /// What sums begin with, 16 for each panel.
    start: *const i32,
    sums: *mut Sums,
    /// The offsets of steps.
    at: *const u32,
    end: *const u32,
    weights: *const Step,
    /// Bytes from panel to panel.
    stride: usize,
    /// Bytes from weights to those that are asked for while they are used.
    ahead: usize,
}

/// # Safety
/// The frame's rows have every step, its weights every panel of the tile; the host has the level.
type Tile = unsafe fn(&Frame);

/// The panels of a tile, of `left`, and the tiles of u8 and i8, by height.
fn shape(rows: usize, left: usize) -> (usize, [&'static [Tile]; 2]) {
    match left {
        4.. if rows <= LOW_ROWS => (4, [&four::UNSIGNED, &four::SIGNED]),
        2.. => (2, [&two::UNSIGNED, &two::SIGNED]),
        _ => (1, [&one::UNSIGNED, &one::SIGNED]),
    }
}

/// Four activations of a row, of a tile of so many panels, in every lane of register 28. The first rows' places stand in registers.
macro_rules! broadcast {
    ($panels:tt, 0) => {
        "vpbroadcastd zmm28, dword ptr [r12 + rax]\n"
    };
    ($panels:tt, 1) => {
        "vpbroadcastd zmm28, dword ptr [r13 + rax]\n"
    };
    ($panels:tt, 2) => {
        "vpbroadcastd zmm28, dword ptr [r14 + rax]\n"
    };
    ($panels:tt, 3) => {
        "vpbroadcastd zmm28, dword ptr [r15 + rax]\n"
    };
    ($panels:tt, 4) => {
        "vpbroadcastd zmm28, dword ptr [rbx + rax]\n"
    };
    ($panels:tt, 5) => {
        "vpbroadcastd zmm28, dword ptr [rbp + rax]\n"
    };
    ($panels:tt, 6) => {
        "vpbroadcastd zmm28, dword ptr [r10 + rax]\n"
    };
    (1, 7) => {
        "vpbroadcastd zmm28, dword ptr [r9 + rax]\n"
    };
    (1, 8) => {
        "vpbroadcastd zmm28, dword ptr [r11 + rax]\n"
    };
    ($panels:tt, $row:tt) => {
        concat!("mov rcx, qword ptr [rdi + 8*", $row, "]\nvpbroadcastd zmm28, dword ptr [rcx + rax]\n")
    };
}

/// What registers 9, 10 and 11 hold: the ways to other panels and to weights to come, or places of rows.
macro_rules! ways {
    (1) => {
        "mov r9, qword ptr [rdi + 8*7]\nmov r10, qword ptr [rdi + 8*6]\nmov r11, qword ptr [rdi + 8*8]\n"
    };
    (2) => {
        "mov r9, qword ptr [rdi + 136]\nmov r10, qword ptr [rdi + 8*6]\nmov r11, qword ptr [rdi + 144]\n"
    };
    (4) => {
        "mov r9, qword ptr [rdi + 136]\nlea r10, [r9 + 2*r9]\nmov r11, qword ptr [rdi + 144]\n"
    };
}

/// Asks for weights to come.
macro_rules! ahead {
    (1) => {
        ""
    };
    ($panels:tt) => {
        "prefetcht1 byte ptr [r8 + r11]\n"
    };
}

/// A line for each panel, to registers from 24 on, from a place and the ways to the next.
macro_rules! panels {
    (1, $op:literal, $at:literal, $next:literal, $third:literal) => {
        concat!($op, " zmm24, zmmword ptr [", $at, "]\n")
    };
    (2, $op:literal, $at:literal, $next:literal, $third:literal) => {
        concat!(panels!(1, $op, $at, $next, $third), $op, " zmm25, zmmword ptr [", $at, " + ", $next, "]\n")
    };
    (4, $op:literal, $at:literal, $next:literal, $third:literal) => {
        concat!(
            panels!(2, $op, $at, $next, $third),
            $op,
            " zmm26, zmmword ptr [",
            $at,
            " + 2*",
            $next,
            "]\n",
            $op,
            " zmm27, zmmword ptr [",
            $at,
            " + ",
            $third,
            "]\n",
        )
    };
}

/// A tile of rows, each a number and its sums' registers, with the register of the weights.
macro_rules! tile {
    ($name:ident, $panels:tt, $flip:literal, [$([$row:tt $(($sum:literal $w:literal))*])*]) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
        unsafe fn $name(frame: &Frame) {
            // SAFETY: the contract of `Tile`. The code reads the frame, offsets, rows and weights, writes the sums and registers that
            // it names.
            unsafe {
                asm!(
                    // The compiler does not lend these two.
                    "push rbx",
                    "push rbp",
                    "mov rcx, qword ptr [rdi + 96]",
                    "mov rdx, qword ptr [rdi + 112]",
                    "mov rsi, qword ptr [rdi + 120]",
                    "mov r8, qword ptr [rdi + 128]",
                    ways!($panels),
                    "mov r12, qword ptr [rdi]",
                    "mov r13, qword ptr [rdi + 8]",
                    "mov r14, qword ptr [rdi + 16]",
                    "mov r15, qword ptr [rdi + 24]",
                    "mov rbx, qword ptr [rdi + 32]",
                    "mov rbp, qword ptr [rdi + 40]",
                    panels!($panels, "vmovdqu64", "rcx", "64", "192"),
                    $($(concat!("vmovdqa64 zmm", $sum, ", zmm", $w),)*)*
                    "mov ecx, 0x80808080",
                    "vpbroadcastd zmm31, ecx",
                    "cmp rdx, rsi",
                    "je 3f",
                    "2:",
                    "mov eax, dword ptr [rdx]",
                    "add rdx, 4",
                    panels!($panels, "vmovdqa64", "r8", "r9", "r10"),
                    $(broadcast!($panels, $row), $flip, $(concat!("vpdpbusd zmm", $sum, ", zmm28, zmm", $w),)*)*
                    ahead!($panels),
                    "add r8, 64",
                    "cmp rdx, rsi",
                    "jne 2b",
                    "3:",
                    "mov rcx, qword ptr [rdi + 104]",
                    $($(concat!("vmovdqa64 zmmword ptr [rcx + 64*", $sum, "], zmm", $sum),)*)*
                    "pop rbp",
                    "pop rbx",
                    in("rdi") frame,
                    out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                    out("r12") _, out("r13") _, out("r14") _, out("r15") _,
                    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _, out("zmm6") _,
                    out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _, out("zmm12") _, out("zmm13") _,
                    out("zmm14") _, out("zmm15") _, out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _, out("zmm20") _,
                    out("zmm21") _, out("zmm22") _, out("zmm23") _, out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
                    out("zmm28") _, out("zmm31") _,
                );
            }
        }
    };
}

/// Tiles of one height after the other: each has the rows of the one before and one more.
macro_rules! heights {
    ($panels:tt, $count:literal, $([$unsigned:ident $signed:ident $row:tt $sums:tt])*) => {
        pub(super) static UNSIGNED: [Tile; $count] = [$($unsigned),*];
        pub(super) static SIGNED: [Tile; $count] = [$($signed),*];

        heights!(@ $panels, [] $([$unsigned $signed $row $sums])*);
    };
    (@ $panels:tt, $rows:tt) => {};
    (@ $panels:tt, [$($before:tt)*] [$unsigned:ident $signed:ident $row:tt [$($sums:tt)*]] $($rest:tt)*) => {
        tile!($unsigned, $panels, "", [$($before)* [$row $($sums)*]]);
        tile!($signed, $panels, "vpxord zmm28, zmm28, zmm31", [$($before)* [$row $($sums)*]]);
        heights!(@ $panels, [$($before)* [$row $($sums)*]] $($rest)*);
    };
}

mod one {
    use super::*;

    heights! { 1, 12,
        [u1 s1 0 [(0 24)]]
        [u2 s2 1 [(1 24)]]
        [u3 s3 2 [(2 24)]]
        [u4 s4 3 [(3 24)]]
        [u5 s5 4 [(4 24)]]
        [u6 s6 5 [(5 24)]]
        [u7 s7 6 [(6 24)]]
        [u8 s8 7 [(7 24)]]
        [u9 s9 8 [(8 24)]]
        [u10 s10 9 [(9 24)]]
        [u11 s11 10 [(10 24)]]
        [u12 s12 11 [(11 24)]]
    }
}

mod two {
    use super::*;

    heights! { 2, 12,
        [u1 s1 0 [(0 24) (1 25)]]
        [u2 s2 1 [(2 24) (3 25)]]
        [u3 s3 2 [(4 24) (5 25)]]
        [u4 s4 3 [(6 24) (7 25)]]
        [u5 s5 4 [(8 24) (9 25)]]
        [u6 s6 5 [(10 24) (11 25)]]
        [u7 s7 6 [(12 24) (13 25)]]
        [u8 s8 7 [(14 24) (15 25)]]
        [u9 s9 8 [(16 24) (17 25)]]
        [u10 s10 9 [(18 24) (19 25)]]
        [u11 s11 10 [(20 24) (21 25)]]
        [u12 s12 11 [(22 24) (23 25)]]
    }
}

mod four {
    use super::*;

    heights! { 4, 6,
        [u1 s1 0 [(0 24) (1 25) (2 26) (3 27)]]
        [u2 s2 1 [(4 24) (5 25) (6 26) (7 27)]]
        [u3 s3 2 [(8 24) (9 25) (10 26) (11 27)]]
        [u4 s4 3 [(12 24) (13 25) (14 26) (15 27)]]
        [u5 s5 4 [(16 24) (17 25) (18 26) (19 27)]]
        [u6 s6 5 [(20 24) (21 25) (22 26) (23 27)]]
    }
}
