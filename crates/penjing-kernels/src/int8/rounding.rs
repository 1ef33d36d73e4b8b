//! Rounding to a grid.

use super::Grid;
use crate::gemm::Clamp;

/// 1.5 · 2²³: adding it rounds an f32 below 2²² half to even, to an integer that stands in the low bits.
const ROUND: f32 = 12_582_912.0;

/// A [`Grid`] as the constants of its rounding.
#[derive(Clone, Copy)]
pub(crate) struct Rounding {
    pub(super) scale: f32,
    pub(super) inverse: f32,
    /// Limits before the zero point is added.
    pub(super) lo: f32,
    pub(super) hi: f32,
    pub(super) zero: i32,
    /// What NaN becomes.
    pub(super) nan: i32,
}

impl Rounding {
    /// Limits and zero point lie within ±2²⁰.
    #[inline(always)]
    pub(crate) fn new(Grid { scale, zero, limits }: Grid) -> Rounding {
        let nan = if limits.lo > 0 { limits.lo } else { limits.hi.min(0) };
        Rounding {
            scale,
            inverse: 1.0 / scale,
            lo: (limits.lo - zero) as f32,
            hi: (limits.hi - zero) as f32,
            zero,
            nan,
        }
    }

    /// saturate(round_half_even(v / scale) + zero).
    #[inline(always)]
    pub(crate) fn apply(self, v: f32) -> i32 {
        self.round(v / self.scale)
    }

    /// saturate(round_half_even(v · (1 / scale)) + zero): what products do, since a division costs as much as their sums.
    #[inline(always)]
    pub(super) fn apply_product(self, v: f32) -> i32 {
        self.round(v * self.inverse)
    }

    /// The rounding that makes of v what this one makes of v within `limits`; none for scales that are no positive number. A
    /// product by a positive number keeps order, so limiting before and after it is the same.
    #[inline(always)]
    pub(super) fn within(self, limits: Clamp) -> Option<Rounding> {
        let fits = self.inverse > 0.0 && self.inverse < f32::INFINITY && limits.min <= limits.max;
        let inside = |v: f32| (v * self.inverse).max(self.lo).min(self.hi);
        fits.then(|| {
            let (lo, hi) = (inside(limits.min), inside(limits.max));
            let code = |limit: f32| limit.round_ties_even() as i32 + self.zero;
            Rounding { lo, hi, nan: self.nan.clamp(code(lo), code(hi)), ..self }
        })
    }

    /// saturate(round_half_even(q) + zero): rounding keeps order, so limiting before it is the same.
    #[inline(always)]
    pub(super) fn round(self, q: f32) -> i32 {
        let limited = if q < self.lo { self.lo } else { q };
        let limited = if limited > self.hi { self.hi } else { limited };
        let rounded = ((limited + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        if q.is_nan() { self.nan } else { rounded.wrapping_add(self.zero) }
    }
}
