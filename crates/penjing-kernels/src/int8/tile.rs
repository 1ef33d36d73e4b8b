//! The register tile of integer products: up to 5 rows by 16 columns, a group of steps at a time.

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    //! The loops are written in assembly: compiled from intrinsics, weights that several rows use are loaded once into registers
    //! of which there are not enough, and sums wait in memory.
    //!
    //! Registers: 0–9 sums, two a row; 10 four activations in every lane; 11, 12 the group's i16; 13 a product; 14 the sign
    //! bits that are inverted; 15 ones.

    use crate::int8::{
        ByteType,
        epilogue::QFinish,
        product::PanelTask,
        store::{Store, WithStores, with_stores},
    };
    use std::arch::{asm, x86_64::*};

    /// One row, the first step of a group.
    macro_rules! first {
        ($flip:literal, $r:tt) => {
            concat!(
                "vpbroadcastd ymm10, dword ptr [{",
                $r,
                "} + r8]\n",
                $flip,
                "vpmaddubsw ymm11, ymm10, ymmword ptr [{b}]\n",
                "vpmaddubsw ymm12, ymm10, ymmword ptr [{b} + 32]\n",
            )
        };
    }

    /// One row, another step, whose offset is `$o` and whose weights stand at `$at` and `$at2`.
    macro_rules! next {
        ($flip:literal, $r:tt, $o:literal, $at:literal, $at2:literal) => {
            concat!(
                "vpbroadcastd ymm10, dword ptr [{",
                $r,
                "} + ",
                $o,
                "]\n",
                $flip,
                "vpmaddubsw ymm13, ymm10, ymmword ptr [{b} + ",
                $at,
                "]\n",
                "vpaddw ymm11, ymm11, ymm13\n",
                "vpmaddubsw ymm13, ymm10, ymmword ptr [{b} + ",
                $at2,
                "]\n",
                "vpaddw ymm12, ymm12, ymm13\n",
            )
        };
    }

    /// One row, the group's end.
    macro_rules! widen {
        ($c0:tt, $c1:tt) => {
            concat!(
                "vpmaddwd ymm11, ymm11, ymm15\n",
                "vpmaddwd ymm12, ymm12, ymm15\n",
                "vpaddd ",
                $c0,
                ", ",
                $c0,
                ", ymm11\n",
                "vpaddd ",
                $c1,
                ", ",
                $c1,
                ", ymm12\n",
            )
        };
    }

    /// One row of a group.
    macro_rules! row {
        (1, $flip:literal, $r:tt, $c0:tt, $c1:tt) => {
            concat!(first!($flip, $r), widen!($c0, $c1))
        };
        (2, $flip:literal, $r:tt, $c0:tt, $c1:tt) => {
            concat!(first!($flip, $r), next!($flip, $r, "r9", "64", "96"), widen!($c0, $c1))
        };
        (3, $flip:literal, $r:tt, $c0:tt, $c1:tt) => {
            concat!(
                first!($flip, $r),
                next!($flip, $r, "r9", "64", "96"),
                next!($flip, $r, "r10", "128", "160"),
                widen!($c0, $c1)
            )
        };
        (4, $flip:literal, $r:tt, $c0:tt, $c1:tt) => {
            concat!(
                first!($flip, $r),
                next!($flip, $r, "r9", "64", "96"),
                next!($flip, $r, "r10", "128", "160"),
                next!($flip, $r, "r11", "192", "224"),
                widen!($c0, $c1)
            )
        };
    }

    /// The offsets of a group, and the way to the next.
    macro_rules! offsets {
        (1) => {
            "mov r8d, dword ptr [{at}]\nadd {at}, 4\n"
        };
        (2) => {
            "mov r8d, dword ptr [{at}]\nmov r9d, dword ptr [{at} + 4]\nadd {at}, 8\n"
        };
        (3) => {
            concat!(
                "mov r8d, dword ptr [{at}]\nmov r9d, dword ptr [{at} + 4]\nmov r10d, dword ptr [{at} + 8]\n",
                "add {at}, 12\n"
            )
        };
        (4) => {
            concat!(
                "mov r8d, dword ptr [{at}]\nmov r9d, dword ptr [{at} + 4]\nmov r10d, dword ptr [{at} + 8]\n",
                "mov r11d, dword ptr [{at} + 12]\nadd {at}, 16\n"
            )
        };
    }

    /// All groups of `$depth` steps, between two labels: their number, then their offsets.
    macro_rules! groups {
        ($depth:tt, $begin:literal, $end:literal, $flip:literal, $ahead:literal, [$($i:tt $r:tt $name:ident $c0:tt $c1:tt),*]) => {
            concat!(
                "mov {n:e}, dword ptr [{at}]\nadd {at}, 4\ntest {n:e}, {n:e}\njz ", $end, "f\n",
                $begin, ":\n",
                offsets!($depth),
                $(row!($depth, $flip, $r, $c0, $c1),)*
                $ahead,
                "add {b}, 64*", $depth, "\ndec {n:e}\njnz ", $begin, "b\n",
                $end, ":\n",
            )
        };
    }

    /// What a row's sums begin with.
    macro_rules! begin {
        ($c0:tt, $c1:tt) => {
            concat!("vmovdqa ", $c0, ", ymm10\nvmovdqa ", $c1, ", ymm11\n")
        };
    }

    /// The sums of a tile: a program of groups by its rows.
    macro_rules! sums {
        ($flip:literal, $ahead:literal, $task:ident, $bases:ident, $start:ident, $c:ident,
         $list:tt [$($i:tt $r:tt $name:ident $c0:tt $c1:tt),*]) => {
            asm!(
                $(begin!($c0, $c1),)*
                groups!(4, "2", "3", $flip, $ahead, $list),
                groups!(3, "4", "5", $flip, $ahead, $list),
                groups!(2, "6", "7", $flip, $ahead, $list),
                groups!(1, "8", "9", $flip, $ahead, $list),
                b = inout(reg) $task.weights.as_ptr() => _,
                at = inout(reg) $task.program.as_ptr() => _,
                n = out(reg) _,
                $($name = in(reg) $task.rows.data.as_ptr().wrapping_add($bases[$i]),)*
                $(out($c0) $c[$i][0], out($c1) $c[$i][1],)*
                out("r8") _,
                out("r9") _,
                out("r10") _,
                out("r11") _,
                inout("ymm10") $start[0] => _,
                inout("ymm11") $start[1] => _,
                out("ymm12") _,
                out("ymm13") _,
                in("ymm14") _mm256_set1_epi8(-128),
                in("ymm15") _mm256_set1_epi16(1),
                options(nostack, readonly),
            )
        };
    }

    /// Computes a tile and stores it.
    macro_rules! tile {
        ($name:ident, $height:literal, $flip:literal, $ahead:literal, $rows:tt) => {
            /// # Safety
            /// Every step of every row lies inside A, and the host has the level.
            #[target_feature(enable = "avx2,fma")]
            unsafe fn $name<S: Store>(task: &PanelTask<'_>, first: usize, store: &S) {
                let bases: &[usize; $height] =
                    task.rows.bases[first..].first_chunk().expect("a tile's rows are the task's");
                let start = store.start();
                let mut c = [[_mm256_setzero_si256(); 2]; $height];
                // SAFETY: this function's contract; the program has a number of groups for each length, and they are those of the
                // weights. The code reads them and the rows, and writes registers that it names.
                unsafe {
                    sums!($flip, $ahead, task, bases, start, c, $rows $rows);
                    store.put(first, &c);
                }
            }
        };
    }

    /// The tiles of every height, of u8 and of i8. A low one asks for weights to come: it takes them faster than they are fetched
    /// by themselves.
    macro_rules! heights {
        ($($unsigned:ident $signed:ident $height:literal $ahead:literal $rows:tt)*) => {
            $(
                tile!($unsigned, $height, "", $ahead, $rows);
                tile!($signed, $height, "vpxor ymm10, ymm10, ymm14\n", $ahead, $rows);
            )*
        };
    }

    heights! {
        one_u8 one_i8 1
        "prefetcht0 byte ptr [{b} + 2048]\nprefetcht0 byte ptr [{b} + 2112]\nprefetcht0 byte ptr [{b} + 2176]\n"
        [0 "r0" r0 "ymm0" "ymm1"]
        two_u8 two_i8 2 "" [0 "r0" r0 "ymm0" "ymm1", 1 "r1" r1 "ymm2" "ymm3"]
        three_u8 three_i8 3 "" [0 "r0" r0 "ymm0" "ymm1", 1 "r1" r1 "ymm2" "ymm3", 2 "r2" r2 "ymm4" "ymm5"]
        four_u8 four_i8 4 "" [
            0 "r0" r0 "ymm0" "ymm1", 1 "r1" r1 "ymm2" "ymm3", 2 "r2" r2 "ymm4" "ymm5", 3 "r3" r3 "ymm6" "ymm7"
        ]
        five_u8 five_i8 5 "" [
            0 "r0" r0 "ymm0" "ymm1", 1 "r1" r1 "ymm2" "ymm3", 2 "r2" r2 "ymm4" "ymm5", 3 "r3" r3 "ymm6" "ymm7",
            4 "r4" r4 "ymm8" "ymm9"
        ]
    }

    /// A task's rows by one panel.
    ///
    /// # Safety
    /// Every step of every row lies inside A, and the host has the level.
    #[target_feature(enable = "avx2,fma")]
    pub(in crate::int8) unsafe fn panel(task: &PanelTask<'_>, finish: &QFinish<'_>) {
        // SAFETY: this function's contract.
        unsafe { with_stores(finish, [(task.col, task.cols)], task) };
    }

    impl WithStores<1> for &PanelTask<'_> {
        #[inline(always)]
        unsafe fn run<S: Store>(self, [store]: &[S; 1]) {
            for tile in self.tiles() {
                let first = tile.start;
                // SAFETY: this function's contract and that of `panel`.
                unsafe {
                    match (self.x, tile.len()) {
                        (ByteType::U8, 1) => one_u8(self, first, store),
                        (ByteType::U8, 2) => two_u8(self, first, store),
                        (ByteType::U8, 3) => three_u8(self, first, store),
                        (ByteType::U8, 4) => four_u8(self, first, store),
                        (ByteType::U8, _) => five_u8(self, first, store),
                        (ByteType::I8, 1) => one_i8(self, first, store),
                        (ByteType::I8, 2) => two_i8(self, first, store),
                        (ByteType::I8, 3) => three_i8(self, first, store),
                        (ByteType::I8, 4) => four_i8(self, first, store),
                        (ByteType::I8, _) => five_i8(self, first, store),
                    }
                }
            }
        }
    }
}
