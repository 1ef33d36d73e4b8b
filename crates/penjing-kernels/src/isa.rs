//! Instruction-set levels and the choice between them at run time.
//!
//! A kernel body is written once over [`Math`] and compiled once a level by [`per_isa!`]; the hot loops of GEMM are written
//! with `core::arch`. A level that the host lacks is never entered: [`Isa::usable`] falls back to a lower one. A level contains
//! those below it: a kernel without code for a level runs the one of the next lower.

use crate::Pool;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use std::sync::LazyLock;

/// An instruction-set level.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Isa {
    /// Whatever the compiler's baseline target has.
    Generic,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 (F, BW, DQ, VL) and its byte products (VNNI) besides.
    Avx512,
    /// x86-64 with tile registers and their byte products (AMX-INT8) besides.
    Amx,
}

impl Isa {
    /// Every level, lowest first.
    pub const ALL: [Isa; 4] = [Isa::Generic, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// The highest level this host has.
    pub fn detect() -> Isa {
        Isa::Amx.usable()
    }

    /// Whether this host can run the level.
    pub fn available(self) -> bool {
        match self {
            Isa::Generic => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512.available() && amx_usable(),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 | Isa::Amx => false,
        }
    }

    /// The name used in kernel names and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Generic => "generic",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        }
    }

    /// The level with this [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// The highest level up to `self` that the host can run: what a dispatch may safely enter.
    pub(crate) fn usable(self) -> Isa {
        Isa::ALL.into_iter().rfind(|&isa| isa <= self && isa.available()).unwrap_or(Isa::Generic)
    }
}

/// Whether the host has AMX-INT8 and lets this process use it, which it asks the system for once.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn amx_usable() -> bool {
    static USABLE: LazyLock<bool> = LazyLock::new(|| {
        // Intel's manual, `CPUID`: leaf 7, EDX bits 24 (tiles) and 25 (byte products).
        const TILES: u32 = 3 << 24;
        // Linux, Documentation/arch/x86/xstate.rst: the state of tiles is granted to a process that asks for it.
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
        // SAFETY: the call takes two numbers and touches no memory of this process.
        features & TILES == TILES
            && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } == 0
    });
    *USABLE
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn amx_usable() -> bool {
    false
}

/// What every kernel is run with: the instruction-set level and the threads.
#[derive(Clone, Copy)]
pub struct Ctx<'a> {
    /// The level to run; one that the host lacks runs as `Generic`.
    pub isa: Isa,
    /// The threads to run on. Results do not depend on their number.
    pub pool: &'a Pool,
}

/// Scalar operations whose cost differs between levels; bodies generic over it are vectorised by the compiler.
pub(crate) trait Math: Copy + Send + Sync + 'static {
    /// `a * b + c`: fused where the level has FMA, two roundings otherwise.
    fn fma(a: f32, b: f32, c: f32) -> f32;
    /// As [`fma`](Self::fma) in `f64`.
    fn fma64(a: f64, b: f64, c: f64) -> f64;
}

/// [`Math`] without FMA.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

/// [`Math`] with FMA.
#[derive(Clone, Copy)]
pub(crate) struct Fused;

impl Math for Plain {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }

    #[inline(always)]
    fn fma64(a: f64, b: f64, c: f64) -> f64 {
        a * b + c
    }
}

impl Math for Fused {
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn fma64(a: f64, b: f64, c: f64) -> f64 {
        a.mul_add(b, c)
    }
}

/// Asks for the line of `at`, which need not be readable, to come to the second-level cache.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect that the program sees, whatever the address; every x86-64 host has SSE.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// [`prefetch`] of every line of a slice.
#[inline(always)]
pub(crate) fn prefetch_all(of: &[f32]) {
    of.iter().step_by(16).for_each(|at| prefetch(at));
}

/// As [`prefetch`], to the first-level cache.
#[inline(always)]
pub(crate) fn prefetch_near<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in `prefetch`.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Defines `fn name(isa, args)` that runs `body::<Plain>` or, compiled with AVX2 and FMA or with AVX-512, `body::<Fused>`.
///
/// `body` must be `#[inline(always)]` so that it is compiled inside each level's function.
macro_rules! per_isa {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name(isa: $crate::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    $body::<$crate::isa::Fused>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
                #[allow(clippy::too_many_arguments)]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    $body::<$crate::isa::Fused>($($arg),*)
                }
                match isa.usable() {
                    $crate::Isa::Generic => {}
                    // SAFETY: `usable` returns a level only where the host has it.
                    $crate::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    // SAFETY: as above.
                    $crate::Isa::Avx512 | $crate::Isa::Amx => return unsafe { avx512($($arg),*) },
                }
            }
            let _ = isa;
            $body::<$crate::isa::Plain>($($arg),*)
        }
    };
}
pub(crate) use per_isa;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for isa in Isa::ALL {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
        }
        assert!(Isa::detect().available());
    }
}
