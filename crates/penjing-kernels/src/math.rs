//! Transcendental functions of f32 without branches or tables, so that loops over them vectorise.
//!
//! Polynomials of `exp`, `log`, `tanh`, `sin` and `cos` are those of the Cephes library (Moshier); those of `erf` are Chebyshev
//! fits. Errors are stated per function and checked against f64. NaN gives NaN.

use crate::isa::Math;
use std::f32::consts::LOG2_E;

/// 1.5 · 2²³: adding it rounds a small f32 to an integer that stands in the low bits.
const ROUND: f32 = 12_582_912.0;
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;

/// eˣ, within 2 ULP; subnormal results within one of their steps.
#[inline(always)]
pub(crate) fn exp<M: Math>(x: f32) -> f32 {
    let clamped = if x > 89.0 { 89.0 } else { x };
    let clamped = if clamped < -104.0 { -104.0 } else { clamped };
    let shifted = M::fma(clamped, LOG2_E, ROUND);
    let n = shifted - ROUND;
    let n_int = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let r = M::fma(n, -LN2_HI, clamped);
    let r = M::fma(n, -LN2_LO, r);
    let p = M::fma(r, 1.987_569_2e-4, 1.398_2e-3);
    let p = M::fma(r, p, 8.333_452e-3);
    let p = M::fma(r, p, 4.166_579_6e-2);
    let p = M::fma(r, p, 1.666_666_5e-1);
    let p = M::fma(r, p, 0.5);
    let p = M::fma(r * r, p, r) + 1.0;
    // Two factors, so that neither overflows and subnormal results are rounded once.
    let half = n_int >> 1;
    p * pow2(half) * pow2(n_int.wrapping_sub(half))
}

/// eˣ for x ≤ 0, within 2 ULP; 0 below −87.3, where the result would be subnormal.
#[inline(always)]
pub(crate) fn exp_of_negative<M: Math>(x: f32) -> f32 {
    let shifted = M::fma(x, LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = M::fma(n, -LN2_HI, x);
    let r = M::fma(n, -LN2_LO, r);
    let p = M::fma(r, 1.987_569_2e-4, 1.398_2e-3);
    let p = M::fma(r, p, 8.333_452e-3);
    let p = M::fma(r, p, 4.166_579_6e-2);
    let p = M::fma(r, p, 1.666_666_5e-1);
    let p = M::fma(r, p, 0.5);
    let p = M::fma(r * r, p, r) + 1.0;
    // The low bits of `shifted` are n.
    let y = p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.3 { 0.0 } else { y }
}

/// 2ⁿ for -126 <= n <= 127.
#[inline(always)]
fn pow2(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// ln x, within 2 ULP; −∞ at 0, NaN below.
#[inline(always)]
pub(crate) fn log<M: Math>(x: f32) -> f32 {
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = if tiny { x * 8_388_608.0 } else { x };
    let bits = scaled.to_bits() as i32;
    // The mantissa m lies in [√½, √2).
    let e = bits.wrapping_sub(0x3f35_04f3) >> 23;
    let m = f32::from_bits(bits.wrapping_sub(e << 23) as u32) - 1.0;
    let e = e as f32 - if tiny { 23.0 } else { 0.0 };
    let p = M::fma(m, 7.037_683_6e-2, -1.151_461e-1);
    let p = M::fma(m, p, 1.167_699_9e-1);
    let p = M::fma(m, p, -1.242_014_1e-1);
    let p = M::fma(m, p, 1.424_932_3e-1);
    let p = M::fma(m, p, -1.666_805_8e-1);
    let p = M::fma(m, p, 2.000_071_5e-1);
    let p = M::fma(m, p, -2.499_999_4e-1);
    let p = M::fma(m, p, 3.333_333e-1);
    let m2 = m * m;
    let y = M::fma(e, LN2_LO, m * m2 * p);
    let y = M::fma(m2, -0.5, y);
    let y = M::fma(e, LN2_HI, m + y);
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x < 0.0 || x.is_nan() { f32::NAN } else { y }
}

/// ln(1 + x) for x in [0, 1], within 3 ULP.
#[inline(always)]
fn log_1p<M: Math>(x: f32) -> f32 {
    let w = 1.0 + x;
    let d = w - 1.0;
    let y = log::<M>(w) * x / d;
    if d == 0.0 { x } else { y }
}

/// ln(1 + eˣ), within 4 ULP.
#[inline(always)]
pub(crate) fn softplus<M: Math>(x: f32) -> f32 {
    let positive = if x < 0.0 { 0.0 } else { x };
    positive + log_1p::<M>(exp::<M>(-x.abs()))
}

/// 1 / (1 + e⁻ˣ), within 4 ULP.
#[inline(always)]
pub(crate) fn sigmoid<M: Math>(x: f32) -> f32 {
    let e = exp::<M>(-x.abs());
    let s = 1.0 / (1.0 + e);
    if x < 0.0 { e * s } else { s }
}

/// tanh x, within 3 ULP.
#[inline(always)]
pub(crate) fn tanh<M: Math>(x: f32) -> f32 {
    let z = x * x;
    let p = M::fma(z, -5.704_988_7e-3, 2.063_908_8e-2);
    let p = M::fma(z, p, -5.373_971_6e-2);
    let p = M::fma(z, p, 1.333_144_2e-1);
    let p = M::fma(z, p, -3.333_328e-1);
    let small = M::fma(p * z, x, x);
    let large = 1.0 - 2.0 / (exp::<M>(2.0 * x.abs()) + 1.0);
    if x.abs() < 0.625 { small } else { large.copysign(x) }
}

/// The Gauss error function, within 4 ULP.
#[inline(always)]
pub(crate) fn erf<M: Math>(x: f32) -> f32 {
    let s = x * x;
    let p = M::fma(s, 7.875_875e-5, -8.016_864_3e-4);
    let p = M::fma(s, p, 5.189_087_4e-3);
    let p = M::fma(s, p, -2.685_421_2e-2);
    let p = M::fma(s, p, 1.128_359_5e-1);
    let p = M::fma(s, p, -3.761_262_7e-1);
    // 2/√π − 1, so that the leading term keeps x exact.
    let p = M::fma(s, p, 1.283_791_7e-1);
    let small = M::fma(p, x, x);
    // ln erfc on [1, 4.1]; above, erf is 1 in f32.
    let t = x.abs();
    let t = if t > 4.1 { 4.1 } else { t };
    let q = M::fma(t, 1.591_706_2e-6, -4.518_101_7e-5);
    let q = M::fma(t, q, 5.895_989e-4);
    let q = M::fma(t, q, -4.726_725e-3);
    let q = M::fma(t, q, 2.633_027_5e-2);
    let q = M::fma(t, q, -1.099_244_8e-1);
    let q = M::fma(t, q, -6.319_871e-1);
    let q = M::fma(t, q, -1.130_141_5);
    let q = M::fma(t, q, 2.979_374_6e-4);
    let large = (1.0 - exp::<M>(q)).copysign(x);
    // Written so that NaN takes the first arm.
    if x.abs() >= 1.0 { large } else { small }
}

/// x·Φ(x), within 8·2⁻²⁴·|x|: with erf z as a fit of least greatest relative error (2e-8) up to 3.925.
#[inline(always)]
pub(crate) fn gelu<M: Math>(x: f32) -> f32 {
    const ERF: Sigmoidal = Sigmoidal {
        p: [
            2.046_045_2e-6,
            2.848_439_7e-4,
            3.772_524_4e-3,
            5.276_921_8e-2,
            1.905_930_2e-1,
            std::f32::consts::FRAC_2_SQRT_PI,
        ],
        q: [3.804_798_2e-5, 1.163_853_5e-3, 1.498_314_4e-2, 1.141_824_3e-1, 5.022_414e-1, 1.0],
        one: 3.880_002_5,
    };
    ERF.gate::<M>(x, x * std::f32::consts::FRAC_1_SQRT_2)
}

/// x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))) (Hendrycks & Gimpel 2016), within 8·2⁻²⁴·|x|: with the tanh as a fit of least
/// greatest error (1e-8) up to 5.1.
#[inline(always)]
pub(crate) fn gelu_tanh<M: Math>(x: f32) -> f32 {
    const TANH: Sigmoidal = Sigmoidal {
        p: [4.707_120_7e-8, 1.397_084e-5, 2.665_849_5e-4, 7.257_533e-3, 6.086_538_4e-2, 7.978_846_4e-1],
        q: [1.296_424_3e-6, 7.539_878e-5, 1.296_722_7e-3, 2.435_329_7e-2, 2.437_757_6e-1, 1.0],
        one: 5.036_224,
    };
    TANH.gate::<M>(x, x)
}

/// z·P(z²)/Q(z²), which rises from −1 to 1: coefficients of the highest power first.
struct Sigmoidal {
    p: [f32; 6],
    q: [f32; 6],
    /// Here the quotient is exactly 1, with fused and with separate roundings; beyond it, it stays 1.
    one: f32,
}

impl Sigmoidal {
    /// x/2·(1 + its value at z).
    #[inline(always)]
    fn gate<M: Math>(&self, x: f32, z: f32) -> f32 {
        let z = if z > self.one { self.one } else { z };
        let z = if z < -self.one { -self.one } else { z };
        let s = z * z;
        let at = |c: &[f32; 6]| c[1..].iter().fold(c[0], |sum, &c| M::fma(s, sum, c));
        let half = 0.5 * x;
        M::fma(half, z * at(&self.p) / at(&self.q), half)
    }
}

/// clamp(αx + β, 0, 1), within 2·2⁻²⁴·(|αx| + |β|).
#[inline(always)]
pub(crate) fn hard_sigmoid<M: Math>(x: f32, alpha: f32, beta: f32) -> f32 {
    let line = M::fma(alpha, x, beta);
    let line = if line < 0.0 { 0.0 } else { line };
    if line > 1.0 { 1.0 } else { line }
}

/// Greatest |x| that [`sin`] and [`cos`] reduce themselves.
pub(crate) const TRIG_LIMIT: f32 = 1e6;

/// sin x, within 2 ULP for |x| ≤ [`TRIG_LIMIT`]; unspecified beyond.
#[inline(always)]
pub(crate) fn sin<M: Math>(x: f32) -> f32 {
    let (r, quadrant) = reduce::<M>(x);
    circular::<M>(r, quadrant)
}

/// cos x, within 2 ULP for |x| ≤ [`TRIG_LIMIT`]; unspecified beyond.
#[inline(always)]
pub(crate) fn cos<M: Math>(x: f32) -> f32 {
    let (r, quadrant) = reduce::<M>(x);
    circular::<M>(r, quadrant.wrapping_add(1))
}

/// x − n·π/2 in [−π/4, π/4], and n.
#[inline(always)]
fn reduce<M: Math>(x: f32) -> (f64, i32) {
    // 1.5 · 2⁵² rounds an f64 to an integer in its low bits.
    const ROUND64: f64 = 6_755_399_441_055_744.0;
    // The high part has 24 trailing zero bits: its product with n is exact.
    const PIO2_HI: f64 = f64::from_bits(0x3ff9_21fb_5400_0000);
    const PIO2_LO: f64 = std::f64::consts::FRAC_PI_2 - PIO2_HI;
    let x = f64::from(x);
    let shifted = M::fma64(x, std::f64::consts::FRAC_2_PI, ROUND64);
    let n = shifted - ROUND64;
    let r = M::fma64(n, -PIO2_HI, x);
    let r = M::fma64(n, -PIO2_LO, r);
    (r, shifted.to_bits() as i32)
}

/// sin(r + quadrant · π/2).
#[inline(always)]
fn circular<M: Math>(r: f64, quadrant: i32) -> f32 {
    let r = r as f32;
    let z = r * r;
    let s = M::fma(z, -1.951_529_6e-4, 8.332_161e-3);
    let s = M::fma(z, s, -1.666_665_5e-1);
    let s = M::fma(s * z, r, r);
    let c = M::fma(z, 2.443_315_7e-5, -1.388_731_6e-3);
    let c = M::fma(z, c, 4.166_664_6e-2);
    let c = M::fma(z * z, c, M::fma(z, -0.5, 1.0));
    let v = if quadrant & 1 == 0 { s } else { c };
    if quadrant & 2 == 0 { v } else { -v }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::isa::{Fused, Plain};

    /// Distance in units of the last place of the correctly rounded value; 0 when both are NaN.
    fn ulps(got: f32, want: f64) -> f64 {
        let rounded = want as f32;
        if (got.is_nan() && want.is_nan()) || got == rounded {
            return 0.0;
        }
        let step = f64::from(f32::from_bits(rounded.abs().to_bits().max(1) + 1)) - f64::from(rounded.abs());
        (f64::from(got) - want).abs() / step
    }

    /// Dense samples of both signs over the exponents, and special values.
    fn samples(limit: f32) -> impl Iterator<Item = f32> {
        let bits = (0..=limit.to_bits()).step_by(7919).map(f32::from_bits);
        let special = [0.0, f32::MIN_POSITIVE, 1e-45, 1.0, 0.5, 0.625, 0.9999999, 88.722_83, 88.723, 103.97, limit];
        bits.chain(special).filter(move |v| *v <= limit).flat_map(|v| [v, -v])
    }

    #[track_caller]
    fn check(name: &str, f: [fn(f32) -> f32; 2], want: impl Fn(f64) -> f64, limit: f32, bound: f64) {
        for f in f {
            let worst = samples(limit)
                .map(|x| (ulps(f(x), want(f64::from(x))), x))
                .fold((0.0, 0.0), |a, b| if b.0 > a.0 || b.0.is_nan() { b } else { a });
            assert!(worst.0 <= bound, "{name}: {} ULP at {}", worst.0, worst.1);
            assert!(f(f32::NAN).is_nan(), "{name}(NaN)");
        }
    }

    /// erf from its Taylor series, or 1 − the continued fraction of erfc.
    pub(crate) fn erf64(x: f64) -> f64 {
        let t = x.abs();
        if t < 2.5 {
            let (mut term, mut sum) = (t, t);
            for n in 1..200 {
                term *= -t * t / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return sum.copysign(x) * std::f64::consts::FRAC_2_SQRT_PI;
        }
        let tail = (1..200).rev().fold(t, |f, n| t + f64::from(n) / 2.0 / f);
        let erfc = (-t * t).exp() / tail * std::f64::consts::FRAC_2_SQRT_PI / 2.0;
        (1.0 - erfc).copysign(x)
    }

    #[test]
    fn errors_stay_within_what_is_stated() {
        let max = f32::MAX;
        check("exp", [exp::<Plain>, exp::<Fused>], f64::exp, max, 2.0);
        check("log", [log::<Plain>, log::<Fused>], f64::ln, max, 2.0);
        check("softplus", [softplus::<Plain>, softplus::<Fused>], |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), max, 4.0);
        check("sigmoid", [sigmoid::<Plain>, sigmoid::<Fused>], |x| 1.0 / (1.0 + (-x).exp()), max, 4.0);
        check("tanh", [tanh::<Plain>, tanh::<Fused>], f64::tanh, max, 3.0);
        check("erf", [erf::<Plain>, erf::<Fused>], erf64, max, 4.0);
        check("sin", [sin::<Plain>, sin::<Fused>], f64::sin, TRIG_LIMIT, 2.0);
        check("cos", [cos::<Plain>, cos::<Fused>], f64::cos, TRIG_LIMIT, 2.0);
    }

    #[test]
    fn exp_of_negative_numbers() {
        for f in [exp_of_negative::<Plain>, exp_of_negative::<Fused>] {
            for x in samples(87.3).map(|x| -x.abs()) {
                assert!(ulps(f(x), f64::from(x).exp()) <= 2.0, "{x}");
            }
            assert_eq!([f(f32::NEG_INFINITY), f(-88.0), f(0.0)], [0.0, 0.0, 1.0]);
            assert!(f(f32::NAN).is_nan());
        }
    }

    #[test]
    fn infinities() {
        assert_eq!(exp::<Fused>(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp::<Fused>(f32::NEG_INFINITY), 0.0);
        assert_eq!(log::<Fused>(f32::INFINITY), f32::INFINITY);
        assert_eq!(log::<Fused>(0.0), f32::NEG_INFINITY);
        assert!(log::<Fused>(f32::NEG_INFINITY).is_nan());
        assert_eq!(sigmoid::<Fused>(f32::NEG_INFINITY), 0.0);
        assert_eq!(tanh::<Fused>(f32::NEG_INFINITY), -1.0);
        assert_eq!(erf::<Fused>(f32::INFINITY), 1.0);
        assert_eq!(softplus::<Fused>(f32::INFINITY), f32::INFINITY);
        for f in [gelu::<Plain>, gelu::<Fused>, gelu_tanh::<Plain>, gelu_tanh::<Fused>] {
            assert_eq!([f(-1e30), f(-60.0), f(60.0), f(1e30)], [0.0, 0.0, 60.0, 1e30]);
            assert_eq!(f(f32::INFINITY), f32::INFINITY);
            assert!(f(f32::NAN).is_nan());
        }
    }
}
