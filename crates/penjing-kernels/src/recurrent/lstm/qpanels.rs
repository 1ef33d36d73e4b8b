//! As [`panels`](crate::recurrent::panels), for weights of one byte: exact i32 sums, four of the depth at a time.
//!
//! `vpmaddubsw` adds two products of an activation in 0..=255 and a weight in an i16. That fits when two weights of one sign sum to
//! at most 128 in size; what a pair has beyond is taken off and stands in an extra step behind the panel's others, which says
//! where in the depth it belongs. So sums are exact for all weights and activations. `vpdpbusd`, which adds four products to an
//! i32, takes the same steps.

use crate::{
    Isa,
    arena::Line,
    isa::{Math, per_isa, prefetch_near},
    recurrent::panels::TASK_UNITS,
};
use bytemuck::Zeroable;
use std::ops::Range;

/// Gates of a panel, of eight units each.
const GATES: usize = 4;
/// Units of a panel.
const LANES: usize = 8;
/// Columns of a panel.
const COLS: usize = GATES * LANES;
/// Weights of a step: `[gate][unit][4]`.
const STEP: usize = COLS * 4;
/// What two weights of one sign that meet in an i16 may sum to: 255·128 = 32 640.
const LIMIT: i32 = 128;
/// How many bytes ahead of their use weights are asked for.
const AHEAD: usize = 4096;
/// Multiply-adds of a task, about.
const TASK_WORK: usize = 1 << 18;

/// Recurrent weights `[4H, H]` of one direction.
pub(super) struct QPanels {
    hidden: usize,
    /// `[panel][step]`, extra steps behind the others of a panel.
    weights: Vec<Line>,
    /// First step of each panel, then their number.
    starts: Vec<usize>,
    /// Which four of the depth an extra step belongs to, in the order of panels and steps.
    extras: Vec<Vec<u32>>,
    /// Σ w of each column, `[panel][gate][unit]`.
    sums: Vec<i32>,
}

impl QPanels {
    pub(super) fn new(hidden: usize, r: &[i8]) -> QPanels {
        let groups = hidden.div_ceil(4);
        let panels = hidden.div_ceil(LANES);
        let mut packed = QPanels {
            hidden,
            weights: Vec::with_capacity(panels * groups * STEP / size_of::<Line>()),
            starts: vec![0],
            extras: Vec::with_capacity(panels),
            sums: Vec::with_capacity(panels * COLS),
        };
        let mut steps = vec![0i8; groups * STEP];
        for panel in 0..panels {
            steps.fill(0);
            for col in 0..COLS {
                let unit = panel * LANES + col % LANES;
                let row = (unit < hidden).then(|| &r[(col / LANES * hidden + unit) * hidden..][..hidden]);
                let row = row.unwrap_or_default();
                packed.sums.push(row.iter().map(|&w| i32::from(w)).sum());
                for (group, w) in row.chunks(4).enumerate() {
                    steps[(group * COLS + col) * 4..][..w.len()].copy_from_slice(w);
                }
            }
            let mut rests = Vec::new();
            let mut extras = Vec::new();
            for (group, step) in steps.chunks_exact_mut(STEP).enumerate() {
                if let Some(rest) = split(step) {
                    extras.push(group as u32);
                    rests.extend(rest);
                }
            }
            packed.append(&steps);
            packed.append(&rests);
            packed.extras.push(extras);
            packed.starts.push(packed.weights.len() * size_of::<Line>() / STEP);
        }
        packed
    }

    fn append(&mut self, steps: &[i8]) {
        let begin = self.weights.len();
        self.weights.resize(begin + steps.len() / size_of::<Line>(), Line::zeroed());
        bytemuck::cast_slice_mut::<Line, i8>(&mut self.weights[begin..]).copy_from_slice(steps);
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.weights[..]) + size_of_val(&self.sums[..])
    }

    /// Bytes of a row of activations: the depth, padded.
    pub(super) fn row_len(&self) -> usize {
        self.hidden.div_ceil(4) * 4
    }

    /// Units of one task of a step of `rows` rows, by the problem alone.
    pub(super) fn task_units(&self, rows: usize) -> usize {
        TASK_WORK.div_ceil((GATES * self.hidden * rows).max(1)).next_multiple_of(TASK_UNITS)
    }

    /// `[4H]` in the order of the panels' columns, zeros past the last unit.
    pub(super) fn columns(&self, of_gates: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.sums.len()];
        for (i, out) in out.iter_mut().enumerate() {
            let unit = i / COLS * LANES + i % LANES;
            if unit < self.hidden {
                *out = of_gates[i % COLS / LANES * self.hidden + unit];
            }
        }
        out
    }

    /// `sums[row][gate][unit - units.start] = (Σ (x[row] − zero)·w) · (scale · column scale)`, each operation rounded to f32; the
    /// gates are `stride` apart. `x` holds rows of [`row_len`](Self::row_len) with their scale and zero point in `grids`.
    pub(super) fn product(
        &self,
        isa: Isa,
        x: &[u8],
        grids: &[(f32, u8)],
        columns: &[f32],
        units: Range<usize>,
        sums: &mut [f32],
        stride: usize,
    ) {
        assert!(units.start.is_multiple_of(LANES) && units.end <= self.hidden && columns.len() == self.sums.len());
        assert!(units.len().next_multiple_of(LANES) <= stride && sums.len() >= grids.len() * GATES * stride);
        assert!(x.len() >= grids.len() * self.row_len());
        for (i, panel) in (units.start / LANES..units.end.div_ceil(LANES)).enumerate() {
            let steps = self.starts[panel]..self.starts[panel + 1];
            let weights = bytemuck::cast_slice::<Line, i8>(&self.weights);
            let panel = Panel {
                weights: &weights[steps.start * STEP..steps.end * STEP],
                extras: &self.extras[panel],
                scale: &columns[panel * COLS..][..COLS],
                sums: &self.sums[panel * COLS..][..COLS],
            };
            for (row, &(scale, zero)) in grids.iter().enumerate() {
                let x = &x[row * self.row_len()..][..self.row_len()];
                let mut acc = [0i32; COLS];
                multiply(isa, x, &panel, &mut acc);
                let out = &mut sums[row * GATES * stride + i * LANES..];
                finish(isa, &acc, &panel, scale, zero.into(), out, stride);
            }
        }
    }
}

/// Takes from the weights of a step what breaks the limit; gives it back as a step that keeps it too.
fn split(step: &mut [i8]) -> Option<[i8; STEP]> {
    let mut rest = [0; STEP];
    let mut broken = false;
    for (pair, rest) in step.as_chunks_mut::<2>().0.iter_mut().zip(rest.as_chunks_mut::<2>().0) {
        let [a, b] = pair.map(i32::from);
        let excess = (a + b).abs() - LIMIT;
        if excess > 0 && (a < 0) == (b < 0) {
            // At most 128 in size, since both are; the larger of the two may be smaller than that.
            let sign = (a + b).signum();
            let of_a = excess.min(a.abs());
            (pair[0], pair[1]) = ((a - sign * of_a) as i8, (b - sign * (excess - of_a)) as i8);
            *rest = [(sign * of_a) as i8, (sign * (excess - of_a)) as i8];
            broken = true;
        }
    }
    broken.then_some(rest)
}

per_isa! {
    /// `out[gate][unit] = (acc − zero·Σ w) · (scale · column scale)`, the gates `stride` apart.
    fn finish(
        acc: &[i32; COLS],
        panel: &Panel<'_>,
        scale: f32,
        zero: i32,
        out: &mut [f32],
        stride: usize,
    ) = finish_body
}

#[inline(always)]
fn finish_body<M: Math>(acc: &[i32; COLS], panel: &Panel<'_>, scale: f32, zero: i32, out: &mut [f32], stride: usize) {
    for gate in 0..GATES {
        let out = &mut out[gate * stride..][..LANES];
        let (sums, scales) = (&panel.sums[gate * LANES..][..LANES], &panel.scale[gate * LANES..][..LANES]);
        let acc = &acc[gate * LANES..][..LANES];
        for lane in 0..LANES {
            let sum = acc[lane].wrapping_sub(sums[lane].wrapping_mul(zero));
            out[lane] = sum as f32 * (scale * scales[lane]);
        }
    }
}

/// What a product of one panel reads.
struct Panel<'a> {
    weights: &'a [i8],
    extras: &'a [u32],
    scale: &'a [f32],
    sums: &'a [i32],
}

/// `acc = Σ x·w` of a row of activations.
fn multiply(isa: Isa, x: &[u8], panel: &Panel<'_>, acc: &mut [i32; COLS]) {
    let (groups, rest) = x.as_chunks::<4>();
    assert!(rest.is_empty() && panel.weights.len() == (groups.len() + panel.extras.len()) * STEP);
    assert!(panel.extras.iter().all(|&g| (g as usize) < groups.len()));
    #[cfg(target_arch = "x86_64")]
    match isa.usable() {
        Isa::Generic => {}
        // SAFETY: the host has AVX2; a step of weights for every group and extra, whose group exists (checked above).
        Isa::Avx2 => return unsafe { x86::multiply(groups, panel, acc) },
        // SAFETY: as above, with AVX-512.
        Isa::Avx512 => return unsafe { x86::dot(groups, panel, acc) },
    }
    let _ = isa;
    let extras = panel.extras.iter().map(|&g| &groups[g as usize]);
    for (x, w) in groups.iter().chain(extras).zip(panel.weights.as_chunks::<STEP>().0) {
        for (acc, w) in acc.iter_mut().zip(w.as_chunks::<4>().0) {
            *acc += (0..4).map(|i| i32::from(x[i]) * i32::from(w[i])).sum::<i32>();
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{AHEAD, COLS, GATES, LANES, Panel, STEP, prefetch_near};
    use std::arch::x86_64::*;

    /// # Safety
    /// `panel.weights` has a step for each of `groups` and then for each of `panel.extras`, which are indices of groups.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn multiply(groups: &[[u8; 4]], panel: &Panel<'_>, acc: &mut [i32; COLS]) {
        let ones = _mm256_set1_epi16(1);
        let mut sums = [_mm256_setzero_si256(); GATES];
        let mut at = panel.weights.as_ptr();
        for i in 0..groups.len() + panel.extras.len() {
            // SAFETY: the contract.
            unsafe {
                let group = if i < groups.len() { i } else { *panel.extras.get_unchecked(i - groups.len()) as usize };
                let x = _mm256_set1_epi32(i32::from_ne_bytes(*groups.get_unchecked(group)));
                prefetch_near(at.wrapping_add(AHEAD));
                prefetch_near(at.wrapping_add(AHEAD + 64));
                for v in 0..GATES {
                    let w = _mm256_loadu_si256(at.add(v * LANES * 4).cast());
                    let pairs = _mm256_maddubs_epi16(x, w);
                    sums[v] = _mm256_add_epi32(sums[v], _mm256_madd_epi16(pairs, ones));
                }
                at = at.add(STEP);
            }
        }
        for v in 0..GATES {
            // SAFETY: `acc` has eight elements for each gate.
            unsafe { _mm256_storeu_si256(acc.as_mut_ptr().add(v * LANES).cast(), sums[v]) };
        }
    }

    /// Steps whose sums are kept apart, since one waits for the sum of the step before.
    const APART: usize = 4;

    /// As [`multiply`], with `vpdpbusd`, two gates a register.
    ///
    /// # Safety
    /// That of [`multiply`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn dot(groups: &[[u8; 4]], panel: &Panel<'_>, acc: &mut [i32; COLS]) {
        let mut sums = [[_mm512_setzero_si512(); 2]; APART];
        let mut at = panel.weights.as_ptr();
        let (apart, rest) = groups.as_chunks::<APART>();
        let extras = panel.extras.iter().map(|&g| &groups[g as usize]);
        // SAFETY: the contract; `acc` has two registers of elements.
        unsafe {
            for x in apart {
                for i in 0..APART {
                    step(x[i], at, &mut sums[i]);
                    at = at.add(STEP);
                }
            }
            for &x in rest.iter().chain(extras) {
                step(x, at, &mut sums[0]);
                at = at.add(STEP);
            }
            for v in 0..2 {
                let [a, b] = [(0, 1), (2, 3)].map(|(i, j)| _mm512_add_epi32(sums[i][v], sums[j][v]));
                _mm512_storeu_si512(acc.as_mut_ptr().add(v * 2 * LANES).cast(), _mm512_add_epi32(a, b));
            }
        }
    }

    /// # Safety
    /// A step of weights is readable; the host has AVX-512 with VNNI.
    #[inline(always)]
    unsafe fn step(x: [u8; 4], at: *const i8, sums: &mut [__m512i; 2]) {
        // SAFETY: the contract.
        unsafe {
            let x = _mm512_set1_epi32(i32::from_ne_bytes(x));
            prefetch_near(at.wrapping_add(AHEAD));
            prefetch_near(at.wrapping_add(AHEAD + 64));
            for v in 0..2 {
                let w = _mm512_loadu_si512(at.add(v * 2 * LANES * 4).cast());
                sums[v] = _mm512_dpbusd_epi32(sums[v], x, w);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penjing_tensor::Rng;

    #[test]
    fn sums_are_exact_for_all_weights_and_activations() {
        let rng = Rng::new(5, "bytes", 0);
        let byte = |i: usize| (rng.uniform(i as u64) * 256.0) as u8;
        let weight = |kind: &str, i: usize| match kind {
            "largest" => 127,
            "smallest" => -128,
            "small" => byte(i) as i8 / 2,
            _ => byte(i) as i8,
        };
        for hidden in [1, 3, 8, 13, 40, 67] {
            for kind in ["all", "largest", "smallest", "small"] {
                let r: Vec<i8> = (0..4 * hidden * hidden).map(|i| weight(kind, i)).collect();
                let packed = QPanels::new(hidden, &r);
                let column_scale: Vec<f32> = (0..4 * hidden).map(|i| 0.001 * (1 + i % 7) as f32).collect();
                let columns = packed.columns(&column_scale);
                for (rows, fill) in [(1, None), (3, None), (2, Some(255u8))] {
                    let mut x = vec![9u8; rows * packed.row_len()];
                    let mut grids = Vec::new();
                    for (row, x) in x.chunks_exact_mut(packed.row_len()).enumerate() {
                        x[..hidden].iter_mut().enumerate().for_each(|(k, x)| *x = fill.unwrap_or(byte(7 * k + row)));
                        grids.push((0.01 + row as f32, byte(row)));
                    }
                    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
                        for first in (0..hidden).step_by(32) {
                            let units = first..hidden.min(first + 32);
                            let mut got = vec![f32::NAN; rows * 4 * 32];
                            packed.product(isa, &x, &grids, &columns, units.clone(), &mut got, 32);
                            for row in 0..rows {
                                for (gate, unit) in (0..4).flat_map(|g| units.clone().map(move |u| (g, u))) {
                                    let col = gate * hidden + unit;
                                    let (scale, zero) = grids[row];
                                    let term = |k: usize| {
                                        let x = i64::from(x[row * packed.row_len() + k]) - i64::from(zero);
                                        x * i64::from(r[col * hidden + k])
                                    };
                                    let sum = (0..hidden).map(term).sum::<i64>();
                                    let want = sum as i32 as f32 * (scale * column_scale[col]);
                                    let got = got[(row * 4 + gate) * 32 + unit - first];
                                    assert_eq!(got.to_bits(), want.to_bits(), "{kind} {hidden} {row} {col}");
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn bounded_weights_need_no_extra_step() {
        let r: Vec<i8> = (0..4 * 16 * 16).map(|i| (i % 129 - 64) as i8).collect();
        let packed = QPanels::new(16, &r);
        assert!(packed.extras.iter().all(Vec::is_empty));
        assert_eq!(packed.weights.len() * size_of::<Line>(), r.len());
    }
}
