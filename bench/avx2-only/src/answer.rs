//! What CPUID says of a processor whose newest vectors are AVX2's. The bits are those of Intel's Software Developer's Manual,
//! volume 2A, and of its Architecture Instruction Set Extensions reference.

use std::arch::x86_64::{__cpuid_count, CpuidResult};

/// Leaf 7, EBX: F, DQ, IFMA, PF, ER, CD, BW, VL.
const AVX512_EBX: u32 = bits(&[16, 17, 21, 26, 27, 28, 30, 31]);
/// Leaf 7, ECX: VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ.
const AVX512_ECX: u32 = bits(&[1, 6, 11, 12, 14]);
/// Leaf 7, EDX: 4VNNIW, 4FMAPS, VP2INTERSECT, AMX-BF16, FP16, AMX-TILE, AMX-INT8.
const AVX512_AMX_EDX: u32 = bits(&[2, 3, 8, 22, 23, 24, 25]);
/// Leaf 7, subleaf 1, EAX: AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA.
const LATER_EAX: u32 = bits(&[4, 5, 21, 23]);
/// Leaf 7, subleaf 1, EDX: AVX-VNNI-INT8, AVX-NE-CONVERT, AMX-COMPLEX, AVX-VNNI-INT16, AVX10.
const LATER_EDX: u32 = bits(&[4, 5, 8, 10, 19]);
/// Leaf 13, EAX, the state that the system keeps: mask registers, upper halves, upper registers, tile configuration, tiles.
const STATE_EAX: u32 = bits(&[5, 6, 7, 17, 18]);

/// The processor's own answer without these bits.
pub(crate) fn without_avx512(leaf: u32, subleaf: u32) -> CpuidResult {
    let mut answer = __cpuid_count(leaf, subleaf);
    match (leaf, subleaf) {
        (7, 0) => {
            answer.ebx &= !AVX512_EBX;
            answer.ecx &= !AVX512_ECX;
            answer.edx &= !AVX512_AMX_EDX;
        }
        (7, 1) => {
            answer.eax &= !LATER_EAX;
            answer.edx &= !LATER_EDX;
        }
        (13, 0) => answer.eax &= !STATE_EAX,
        _ => {}
    }
    answer
}

/// A word with these bits set.
const fn bits(set: &[u32]) -> u32 {
    let mut word = 0;
    let mut at = 0;
    while at < set.len() {
        word |= 1 << set[at];
        at += 1;
    }
    word
}
