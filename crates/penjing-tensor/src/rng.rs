//! Counter-based random numbers: every draw is a pure function of (seed, stream name, step, element index).
//!
//! Nothing is carried from one draw to the next, so a value does not depend on threads, ranks, evaluation order or on
//! whether a run was resumed. The generator is Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3",
//! SC 2011).

const M0: u32 = 0xD251_1F53;
const M1: u32 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;

/// One Philox4x32-10 block: four random words for a 128-bit counter and a 64-bit key.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(W0), key[1].wrapping_add(W1)];
        }
        let p0 = u64::from(M0) * u64::from(counter[0]);
        let p1 = u64::from(M1) * u64::from(counter[2]);
        counter =
            [(p1 >> 32) as u32 ^ counter[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ counter[3] ^ key[1], p0 as u32];
    }
    counter
}

/// 64-bit FNV-1a hash of a name; stable across runs and platforms.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// A stream of random numbers addressed by element index.
#[derive(Clone, Copy, Debug)]
pub struct Rng {
    key: [u32; 2],
    step: u32,
}

impl Rng {
    /// The stream named `name` (usually a node or parameter name) of `seed` at `step`.
    pub fn new(seed: u64, name: &str, step: u64) -> Rng {
        let mut bytes = seed.to_le_bytes().to_vec();
        bytes.extend_from_slice(&(step >> 32).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        let h = fnv1a(&bytes);
        Rng { key: [h as u32, (h >> 32) as u32], step: step as u32 }
    }

    /// 64 random bits for element `index`.
    pub fn bits(&self, index: u64) -> u64 {
        let b = self.block(index);
        u64::from(b[0]) | u64::from(b[1]) << 32
    }

    /// Uniform in [0, 1), a multiple of 2⁻²⁴ so that `f32` holds it exactly.
    pub fn uniform(&self, index: u64) -> f32 {
        (self.block(index)[0] >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Standard normal by the Box–Muller transform of two uniforms of one block.
    pub fn normal(&self, index: u64) -> f32 {
        let b = self.block(index);
        let u1 = (f64::from(b[0]) + 1.0) / 4_294_967_296.0;
        let u2 = f64::from(b[1]) / 4_294_967_296.0;
        ((-2.0 * u1.ln()).sqrt() * (std::f64::consts::TAU * u2).cos()) as f32
    }

    /// Uniform integer in `0..n` for element `index`, unbiased to 2⁻³² (multiply-shift). `n` must not be 0.
    pub fn below(&self, index: u64, n: u64) -> u64 {
        ((u128::from(self.bits(index)) * u128::from(n)) >> 64) as u64
    }

    /// A permutation of `0..n` (Fisher–Yates), a pure function of the stream.
    pub fn permutation(&self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u64, i as u64 + 1) as usize);
        }
        order
    }

    fn block(&self, index: u64) -> [u32; 4] {
        philox4x32([index as u32, (index >> 32) as u32, self.step, 0], self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (`kat_vectors`, philox4x32 10 rounds).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn moments_are_right() {
        let r = Rng::new(7, "w", 3);
        let n = 100_000;
        let (mut u, mut s, mut s2) = (0.0, 0.0, 0.0);
        for i in 0..n {
            u += f64::from(r.uniform(i));
            let z = f64::from(r.normal(i));
            s += z;
            s2 += z * z;
        }
        let n = n as f64;
        // Five standard errors of the mean of each.
        assert!((u / n - 0.5).abs() < 5.0 * (1.0 / 12.0f64).sqrt() / n.sqrt());
        assert!((s / n).abs() < 5.0 / n.sqrt());
        assert!((s2 / n - 1.0).abs() < 5.0 * 2.0f64.sqrt() / n.sqrt());
    }

    #[test]
    fn streams_differ_and_permutation_is_one() {
        assert_ne!(Rng::new(0, "a", 0).bits(0), Rng::new(0, "b", 0).bits(0));
        assert_ne!(Rng::new(0, "a", 0).bits(0), Rng::new(0, "a", 1).bits(0));
        let mut p = Rng::new(1, "order", 0).permutation(1000);
        assert_ne!(p[..10], (0..10).collect::<Vec<_>>());
        p.sort_unstable();
        assert_eq!(p, (0..1000).collect::<Vec<_>>());
    }
}
