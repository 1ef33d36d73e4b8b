//! The f32 of one register, for kernels whose registers are allotted by hand.
//!
//! A body is written once over [`Lanes`] and compiled once a level by [`per_lanes!`], as [`per_isa!`](crate::isa::per_isa)
//! does for bodies that the compiler vectorises.

/// Most lanes of any level: what is packed for all levels comes in blocks of so many.
pub(crate) const MOST_LANES: usize = 16;

/// A register of f32. A value exists only where the host has the level's instructions: the functions that make one from nothing are
/// unsafe, those that take one are not.
pub(crate) trait Lanes: Copy {
    /// How many there are.
    const LANES: usize;

    /// Every lane is `v`.
    ///
    /// # Safety
    /// The host has the level's instructions; so for every function that makes a value.
    unsafe fn splat(v: f32) -> Self;

    /// # Safety
    /// As [`splat`](Self::splat); a register's elements from `at` on are readable.
    unsafe fn load(at: *const f32) -> Self;

    /// The `n` ≤ LANES elements at `at`, then zeros.
    ///
    /// # Safety
    /// As [`splat`](Self::splat); `n` elements from `at` on are readable.
    unsafe fn load_part(at: *const f32, n: usize) -> Self;

    /// # Safety
    /// A register's elements from `at` on are writable.
    unsafe fn store(self, at: *mut f32);

    /// Stores the first `n` ≤ LANES lanes.
    ///
    /// # Safety
    /// `n` elements from `at` on are writable.
    unsafe fn store_part(self, at: *mut f32, n: usize);

    /// `self * b + c`, fused where the level has FMA.
    fn fma(self, b: Self, c: Self) -> Self;
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;

    /// `self * k + c`.
    #[inline(always)]
    fn times(self, k: f32, c: Self) -> Self {
        // SAFETY: a value exists.
        self.fma(unsafe { Self::splat(k) }, c)
    }

    /// `self * k`.
    #[inline(always)]
    fn scale(self, k: f32) -> Self {
        // SAFETY: a value exists. Adding −0 changes nothing.
        self.times(k, unsafe { Self::splat(-0.0) })
    }

    /// Limits each lane; a NaN stays one.
    fn clamp(self, min: Self, max: Self) -> Self;
}

/// Lanes of the generic level.
const GENERIC: usize = 8;

impl Lanes for [f32; GENERIC] {
    const LANES: usize = GENERIC;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        [v; GENERIC]
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: the contract.
        unsafe { at.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_part(at: *const f32, n: usize) -> Self {
        // SAFETY: the contract.
        std::array::from_fn(|i| if i < n { unsafe { *at.add(i) } } else { 0.0 })
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: the contract.
        unsafe { at.cast::<Self>().write_unaligned(self) }
    }

    #[inline(always)]
    unsafe fn store_part(self, at: *mut f32, n: usize) {
        for (i, &v) in self.iter().enumerate().take(n) {
            // SAFETY: the contract.
            unsafe { *at.add(i) = v }
        }
    }

    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        std::array::from_fn(|i| self[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        std::array::from_fn(|i| self[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        std::array::from_fn(|i| self[i] - b[i])
    }

    #[inline(always)]
    fn clamp(self, min: Self, max: Self) -> Self {
        std::array::from_fn(|i| {
            let v = if self[i] < min[i] { min[i] } else { self[i] };
            if v > max[i] { max[i] } else { v }
        })
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    /// [`Lanes`] of AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256);

    /// The mask whose first `n` lanes are set.
    ///
    /// # Safety
    /// The host has AVX2.
    #[inline(always)]
    unsafe fn mask(n: usize) -> __m256i {
        static ONES: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: eight elements from 8 - n on lie inside for n ≤ 8, and the host has AVX2 (contract).
        unsafe { _mm256_loadu_si256(ONES.as_ptr().add(8 - n.min(8)).cast()) }
    }

    // SAFETY (of every block below): pointers by the trait's contracts; a value of this type, or the contract of the function
    // that makes the first, proves that the host has AVX2 and FMA.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Lanes for Avx2 {
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn splat(v: f32) -> Self {
            unsafe { Avx2(_mm256_set1_ps(v)) }
        }

        #[inline(always)]
        unsafe fn load(at: *const f32) -> Self {
            unsafe { Avx2(_mm256_loadu_ps(at)) }
        }

        #[inline(always)]
        unsafe fn load_part(at: *const f32, n: usize) -> Self {
            unsafe { Avx2(_mm256_maskload_ps(at, mask(n))) }
        }

        #[inline(always)]
        unsafe fn store(self, at: *mut f32) {
            unsafe { _mm256_storeu_ps(at, self.0) }
        }

        #[inline(always)]
        unsafe fn store_part(self, at: *mut f32, n: usize) {
            unsafe { _mm256_maskstore_ps(at, mask(n), self.0) }
        }

        #[inline(always)]
        fn fma(self, b: Self, c: Self) -> Self {
            unsafe { Avx2(_mm256_fmadd_ps(self.0, b.0, c.0)) }
        }

        #[inline(always)]
        fn add(self, b: Self) -> Self {
            unsafe { Avx2(_mm256_add_ps(self.0, b.0)) }
        }

        #[inline(always)]
        fn sub(self, b: Self) -> Self {
            unsafe { Avx2(_mm256_sub_ps(self.0, b.0)) }
        }

        #[inline(always)]
        fn clamp(self, min: Self, max: Self) -> Self {
            // Where one operand is NaN the instructions give the second.
            unsafe { Avx2(_mm256_min_ps(max.0, _mm256_max_ps(min.0, self.0))) }
        }
    }
    /// [`Lanes`] of AVX-512.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512);

    /// The mask whose first `n` ≤ 16 lanes are set.
    #[inline(always)]
    fn first(n: usize) -> __mmask16 {
        ((1u32 << n) - 1) as __mmask16
    }

    // SAFETY (of every block below): pointers by the trait's contracts; a value of this type, or the contract of the function
    // that makes the first, proves that the host has AVX-512.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Lanes for Avx512 {
        const LANES: usize = 16;

        #[inline(always)]
        unsafe fn splat(v: f32) -> Self {
            unsafe { Avx512(_mm512_set1_ps(v)) }
        }

        #[inline(always)]
        unsafe fn load(at: *const f32) -> Self {
            unsafe { Avx512(_mm512_loadu_ps(at)) }
        }

        #[inline(always)]
        unsafe fn load_part(at: *const f32, n: usize) -> Self {
            unsafe { Avx512(_mm512_maskz_loadu_ps(first(n), at)) }
        }

        #[inline(always)]
        unsafe fn store(self, at: *mut f32) {
            unsafe { _mm512_storeu_ps(at, self.0) }
        }

        #[inline(always)]
        unsafe fn store_part(self, at: *mut f32, n: usize) {
            unsafe { _mm512_mask_storeu_ps(at, first(n), self.0) }
        }

        #[inline(always)]
        fn fma(self, b: Self, c: Self) -> Self {
            unsafe { Avx512(_mm512_fmadd_ps(self.0, b.0, c.0)) }
        }

        #[inline(always)]
        fn add(self, b: Self) -> Self {
            unsafe { Avx512(_mm512_add_ps(self.0, b.0)) }
        }

        #[inline(always)]
        fn sub(self, b: Self) -> Self {
            unsafe { Avx512(_mm512_sub_ps(self.0, b.0)) }
        }

        #[inline(always)]
        fn clamp(self, min: Self, max: Self) -> Self {
            // Where one operand is NaN the instructions give the second.
            unsafe { Avx512(_mm512_min_ps(max.0, _mm512_max_ps(min.0, self.0))) }
        }
    }
}

/// Defines `unsafe fn name(isa, args)` that runs `body` for the lanes of the level and compiled for it.
/// Its contract is the body's, but for the level's instructions, which it sees to.
///
/// `body` must be `#[inline(always)]` so that it is compiled inside each level's function.
macro_rules! per_lanes {
    ($(#[$meta:meta])* $vis:vis unsafe fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$meta])*
        $vis unsafe fn $name(isa: $crate::Isa, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                unsafe fn avx2($($arg: $ty),*) {
                    // SAFETY: the caller's contract; the host has AVX2 and FMA where this function may be called.
                    unsafe { $body::<$crate::lanes::x86::Avx2>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
                unsafe fn avx512($($arg: $ty),*) {
                    // SAFETY: the caller's contract; the host has AVX-512 where this function may be called.
                    unsafe { $body::<$crate::lanes::x86::Avx512>($($arg),*) }
                }
                match isa.usable() {
                    $crate::Isa::Generic => {}
                    // SAFETY: the caller's contract; `usable` returns a level only where the host has it.
                    $crate::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    // SAFETY: as above.
                    $crate::Isa::Avx512 | $crate::Isa::Amx => return unsafe { avx512($($arg),*) },
                }
            }
            let _ = isa;
            // SAFETY: the caller's contract; these lanes need no instructions of their own.
            unsafe { $body::<[f32; 8]>($($arg),*) }
        }
    };
}
pub(crate) use per_lanes;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    per_lanes! {
        /// Clamps and moves a part: `out[..n] = clamp(x[..n] * 1 + 0)`.
        unsafe fn part(x: &[f32], out: &mut [f32]) = part_body
    }

    #[inline(always)]
    unsafe fn part_body<V: Lanes>(x: &[f32], out: &mut [f32]) {
        // SAFETY: both slices have the same length, of which a register takes at most its lanes; `per_lanes!` sees to the instructions.
        unsafe {
            for first in (0..x.len()).step_by(V::LANES) {
                let n = V::LANES.min(x.len() - first);
                let v = V::load_part(x.as_ptr().add(first), n).fma(V::splat(1.0), V::splat(0.0));
                v.clamp(V::splat(-1.0), V::splat(1.0)).store_part(out.as_mut_ptr().add(first), n);
            }
        }
    }

    #[test]
    fn parts_touch_only_their_lanes_and_nan_stays() {
        let x: [f32; MOST_LANES] =
            [[-3.0, 0.5, f32::NAN, 2.0, f32::NEG_INFINITY, f32::INFINITY, 0.25, -0.25]; 2].concat().try_into().unwrap();
        let want = x.map(|v: f32| if v.is_nan() { v } else { v.clamp(-1.0, 1.0) });
        for isa in Isa::ALL {
            for n in 0..=MOST_LANES {
                let mut out = [7.0; MOST_LANES];
                // SAFETY: both parts have n elements.
                unsafe { part(isa, &x[..n], &mut out[..n]) };
                for i in 0..MOST_LANES {
                    let want = if i < n { want[i] } else { 7.0 };
                    assert!(out[i] == want || (out[i].is_nan() && want.is_nan()), "{n} {i}");
                }
            }
        }
    }
}
