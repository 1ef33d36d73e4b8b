//! As [`panels`](super::panels), for weights of one byte: exact i32 sums, four of the depth at a time.
//!
//! `vpmaddubsw` adds two products of an activation in 0..=255 and a weight in an i16. That fits when two weights of one sign sum to
//! at most 128 in size; what a pair has beyond is taken off and stands in an extra step behind the panel's others, which says
//! where in the depth it belongs. So sums are exact for all weights and activations. `vpdpbusd`, which adds four products to an
//! i32, takes the same steps.

use crate::{
    Isa,
    arena::Line,
    int8::dynamic_quantize_row,
    isa::{Math, per_isa, prefetch_near},
    recurrent::panels::TASK_UNITS,
    scratch::with_scratch,
};
use bytemuck::Zeroable;
use std::ops::Range;

/// Columns of a vector.
const LANES: usize = 8;
/// Vectors of a panel at most.
const MAX_VECTORS: usize = 6;
/// Columns of a panel at most.
const MAX_COLS: usize = MAX_VECTORS * LANES;
/// What two weights of one sign that meet in an i16 may sum to: 255·128 = 32 640.
const LIMIT: i32 = 128;
/// How many bytes ahead of their use weights are asked for.
const AHEAD: usize = 4096;
/// Multiply-adds of a task, about.
const TASK_WORK: usize = 1 << 18;

/// Recurrent weights of some gates of one direction.
pub(super) struct QPanels {
    hidden: usize,
    gates: usize,
    /// Vectors of eight units; `gates * width` is 4 or 6.
    width: usize,
    /// `[panel][step][gate][unit][4]`, extra steps behind the others of a panel.
    weights: Vec<Line>,
    /// First step of each panel, then their number.
    starts: Vec<usize>,
    /// Which four of the depth an extra step belongs to, in the order of panels and steps.
    extras: Vec<Vec<u32>>,
    /// Σ w of each column, `[panel][gate][unit]`.
    sums: Vec<i32>,
}

impl QPanels {
    /// Packs `r`, `[gates * hidden, hidden]`.
    pub(super) fn new(hidden: usize, gates: usize, r: &[i8]) -> QPanels {
        let groups = hidden.div_ceil(4);
        let width = match gates {
            4 => 1,
            2 | 3 => 2,
            1 => 4,
            _ => unreachable!("a recurrent cell has one to four gates in a round"),
        };
        let panels = hidden.div_ceil(LANES * width);
        let mut packed = QPanels {
            hidden,
            gates,
            width,
            weights: Vec::with_capacity(panels * groups * gates * width * LANES * 4 / size_of::<Line>()),
            starts: vec![0],
            extras: Vec::with_capacity(panels),
            sums: Vec::with_capacity(panels * gates * width * LANES),
        };
        let (cols, len) = (packed.cols(), packed.step_len());
        let mut steps = vec![0i8; groups * len];
        for panel in 0..panels {
            steps.fill(0);
            for col in 0..cols {
                let row = packed.row_of(panel * cols + col).map(|row| &r[row * hidden..][..hidden]);
                let row = row.unwrap_or_default();
                packed.sums.push(row.iter().map(|&w| i32::from(w)).sum());
                for (group, w) in row.chunks(4).enumerate() {
                    steps[(group * cols + col) * 4..][..w.len()].copy_from_slice(w);
                }
            }
            let mut rests = Vec::new();
            let mut extras = Vec::new();
            for (group, step) in steps.chunks_exact_mut(len).enumerate() {
                if let Some(rest) = split(step) {
                    extras.push(group as u32);
                    rests.extend(rest);
                }
            }
            packed.append(&steps);
            packed.append(&rests);
            packed.extras.push(extras);
            packed.starts.push(packed.weights.len() * size_of::<Line>() / len);
        }
        packed
    }

    fn append(&mut self, steps: &[i8]) {
        let begin = self.weights.len();
        self.weights.resize(begin + steps.len() / size_of::<Line>(), Line::zeroed());
        bytemuck::cast_slice_mut::<Line, i8>(&mut self.weights[begin..]).copy_from_slice(steps);
    }

    /// Hidden units of a panel.
    fn panel_units(&self) -> usize {
        self.width * LANES
    }

    /// Columns of a panel.
    fn cols(&self) -> usize {
        self.gates * self.panel_units()
    }

    /// Weights of a step.
    fn step_len(&self) -> usize {
        self.cols() * 4
    }

    /// The row of the weights that a column of all panels holds; `None` past the last unit.
    fn row_of(&self, col: usize) -> Option<usize> {
        let (panel, col) = (col / self.cols(), col % self.cols());
        let unit = panel * self.panel_units() + col % self.panel_units();
        (unit < self.hidden).then(|| col / self.panel_units() * self.hidden + unit)
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.weights[..]) + size_of_val(&self.sums[..])
    }

    /// Bytes of a row of activations: the depth, padded.
    fn row_len(&self) -> usize {
        self.hidden.div_ceil(4) * 4
    }

    /// Units of one task of a step of `rows` rows, by the problem alone.
    pub(super) fn task_units(&self, rows: usize) -> usize {
        TASK_WORK.div_ceil((self.gates * self.hidden * rows).max(1)).next_multiple_of(TASK_UNITS)
    }

    /// What belongs to each row of the weights in the order of the panels' columns, zeros past the last unit.
    pub(super) fn columns(&self, of_rows: &[f32]) -> Vec<f32> {
        (0..self.sums.len()).map(|col| self.row_of(col).map_or(0.0, |row| of_rows[row])).collect()
    }

    /// [`product`](Self::product) of the rows of `left`, `[rows, H]`, each on the grid of its own range.
    pub(super) fn product_of_floats(
        &self,
        isa: Isa,
        left: &[f32],
        columns: &[f32],
        units: Range<usize>,
        sums: &mut [f32],
        stride: usize,
    ) {
        let (len, rows) = (self.row_len(), left.len() / self.hidden);
        with_scratch::<u8, _>(rows * len, |codes| {
            let mut grids = Vec::with_capacity(rows);
            for (left, codes) in left.chunks_exact(self.hidden).zip(codes.chunks_exact_mut(len)) {
                grids.push(dynamic_quantize_row(isa, left, &mut codes[..self.hidden]));
            }
            self.product(isa, codes, &grids, columns, units, sums, stride);
        });
    }

    /// `sums[row][gate][unit - units.start] = (Σ (x[row] − zero)·w) · (scale · column scale)`, each operation rounded to f32; the
    /// gates are `stride` apart. `x` holds rows of [`row_len`](Self::row_len) with their scale and zero point in `grids`.
    fn product(
        &self,
        isa: Isa,
        x: &[u8],
        grids: &[(f32, u8)],
        columns: &[f32],
        units: Range<usize>,
        sums: &mut [f32],
        stride: usize,
    ) {
        let (wide, cols, len) = (self.panel_units(), self.cols(), self.step_len());
        assert!(units.start.is_multiple_of(wide) && units.end <= self.hidden && columns.len() == self.sums.len());
        assert!(units.len().next_multiple_of(wide) <= stride && sums.len() >= grids.len() * self.gates * stride);
        assert!(x.len() >= grids.len() * self.row_len());
        for (i, panel) in (units.start / wide..units.end.div_ceil(wide)).enumerate() {
            let steps = self.starts[panel]..self.starts[panel + 1];
            let weights = bytemuck::cast_slice::<Line, i8>(&self.weights);
            let panel = Panel {
                weights: &weights[steps.start * len..steps.end * len],
                extras: &self.extras[panel],
                scale: &columns[panel * cols..][..cols],
                sums: &self.sums[panel * cols..][..cols],
            };
            for (row, &(scale, zero)) in grids.iter().enumerate() {
                let x = &x[row * self.row_len()..][..self.row_len()];
                let mut acc = [0i32; MAX_COLS];
                let acc = &mut acc[..cols];
                multiply(isa, x, &panel, acc);
                let out = &mut sums[row * self.gates * stride + i * wide..];
                finish(isa, acc, &panel, scale, zero.into(), out, [wide, stride]);
            }
        }
    }
}

/// Takes from the weights of a step what breaks the limit; gives it back as a step that keeps it too.
fn split(step: &mut [i8]) -> Option<Vec<i8>> {
    let mut rest = vec![0; step.len()];
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
    /// `out[gate][unit] = (acc − zero·Σ w) · (scale · column scale)` of so many units, the gates so far apart.
    fn finish(
        acc: &[i32],
        panel: &Panel<'_>,
        scale: f32,
        zero: i32,
        out: &mut [f32],
        units_and_stride: [usize; 2],
    ) = finish_body
}

#[inline(always)]
fn finish_body<M: Math>(
    acc: &[i32],
    panel: &Panel<'_>,
    scale: f32,
    zero: i32,
    out: &mut [f32],
    [units, stride]: [usize; 2],
) {
    match (acc.len() / LANES, units) {
        (4, 8) => finish_gates::<4, 8>(acc, panel, scale, zero, out, stride),
        (6, 16) => finish_gates::<3, 16>(acc, panel, scale, zero, out, stride),
        (4, 16) => finish_gates::<2, 16>(acc, panel, scale, zero, out, stride),
        (4, 32) => finish_gates::<1, 32>(acc, panel, scale, zero, out, stride),
        _ => unreachable!("a panel has 4 or 6 vectors"),
    }
}

/// [`finish`] of `G` gates of `U` units.
#[inline(always)]
fn finish_gates<const G: usize, const U: usize>(
    acc: &[i32],
    panel: &Panel<'_>,
    scale: f32,
    zero: i32,
    out: &mut [f32],
    stride: usize,
) {
    for gate in 0..G {
        let out = &mut out[gate * stride..][..U];
        let (sums, scales) = (&panel.sums[gate * U..][..U], &panel.scale[gate * U..][..U]);
        let acc = &acc[gate * U..][..U];
        for lane in 0..U {
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
fn multiply(isa: Isa, x: &[u8], panel: &Panel<'_>, acc: &mut [i32]) {
    let (groups, rest) = x.as_chunks::<4>();
    assert!(rest.is_empty() && panel.weights.len() == (groups.len() + panel.extras.len()) * acc.len() * 4);
    assert!(panel.extras.iter().all(|&g| (g as usize) < groups.len()));
    #[cfg(target_arch = "x86_64")]
    match (isa.usable(), acc.len() / (2 * LANES)) {
        (Isa::Generic, _) => {}
        // SAFETY: the host has AVX2; a step of weights for every group and extra, whose group exists (checked above); so many
        // sums.
        (Isa::Avx2, 2) => return unsafe { x86::multiply::<4>(groups, panel, acc) },
        // SAFETY: as above.
        (Isa::Avx2, 3) => return unsafe { x86::multiply::<6>(groups, panel, acc) },
        // SAFETY: as above, with AVX-512.
        (Isa::Avx512 | Isa::Amx, 2) => return unsafe { x86::dot::<2>(groups, panel, acc) },
        // SAFETY: as above.
        (Isa::Avx512 | Isa::Amx, 3) => return unsafe { x86::dot::<3>(groups, panel, acc) },
        _ => unreachable!("a panel has 4 or 6 vectors"),
    }
    let _ = isa;
    let extras = panel.extras.iter().map(|&g| &groups[g as usize]);
    for (x, w) in groups.iter().chain(extras).zip(panel.weights.chunks_exact(acc.len() * 4)) {
        for (acc, w) in acc.iter_mut().zip(w.as_chunks::<4>().0) {
            *acc += (0..4).map(|i| i32::from(x[i]) * i32::from(w[i])).sum::<i32>();
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{AHEAD, LANES, Panel, prefetch_near};
    use std::arch::x86_64::*;

    /// Panels of `V` vectors of eight columns.
    ///
    /// # Safety
    /// `acc` has `8 * V` sums; `panel.weights` has a step for each of `groups` and then for each of `panel.extras`, which are
    /// indices of groups.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn multiply<const V: usize>(groups: &[[u8; 4]], panel: &Panel<'_>, acc: &mut [i32]) {
        let ones = _mm256_set1_epi16(1);
        let mut sums = [_mm256_setzero_si256(); V];
        let mut at = panel.weights.as_ptr();
        for i in 0..groups.len() + panel.extras.len() {
            // SAFETY: the contract.
            unsafe {
                let group = if i < groups.len() { i } else { *panel.extras.get_unchecked(i - groups.len()) as usize };
                let x = _mm256_set1_epi32(i32::from_ne_bytes(*groups.get_unchecked(group)));
                for line in 0..V / 2 {
                    prefetch_near(at.wrapping_add(AHEAD + line * 64));
                }
                for v in 0..V {
                    let w = _mm256_loadu_si256(at.add(v * LANES * 4).cast());
                    let pairs = _mm256_maddubs_epi16(x, w);
                    sums[v] = _mm256_add_epi32(sums[v], _mm256_madd_epi16(pairs, ones));
                }
                at = at.add(V * LANES * 4);
            }
        }
        for v in 0..V {
            // SAFETY: `acc` has eight elements for each vector.
            unsafe { _mm256_storeu_si256(acc.as_mut_ptr().add(v * LANES).cast(), sums[v]) };
        }
    }

    /// Steps whose sums are kept apart, since one waits for the sum of the step before.
    const APART: usize = 4;

    /// As [`multiply`], with `vpdpbusd`, in `Z` registers of two vectors.
    ///
    /// # Safety
    /// That of [`multiply`], for `16 * Z` sums.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn dot<const Z: usize>(groups: &[[u8; 4]], panel: &Panel<'_>, acc: &mut [i32]) {
        let mut sums = [[_mm512_setzero_si512(); Z]; APART];
        let mut at = panel.weights.as_ptr();
        let (apart, rest) = groups.as_chunks::<APART>();
        let extras = panel.extras.iter().map(|&g| &groups[g as usize]);
        // SAFETY: the contract; `acc` has `Z` registers of elements.
        unsafe {
            for x in apart {
                for i in 0..APART {
                    step(x[i], at, &mut sums[i]);
                    at = at.add(Z * 64);
                }
            }
            for &x in rest.iter().chain(extras) {
                step(x, at, &mut sums[0]);
                at = at.add(Z * 64);
            }
            for v in 0..Z {
                let [a, b] = [(0, 1), (2, 3)].map(|(i, j)| _mm512_add_epi32(sums[i][v], sums[j][v]));
                _mm512_storeu_si512(acc.as_mut_ptr().add(v * 2 * LANES).cast(), _mm512_add_epi32(a, b));
            }
        }
    }

    /// # Safety
    /// A step of weights is readable; the host has AVX-512 with VNNI.
    #[inline(always)]
    unsafe fn step<const Z: usize>(x: [u8; 4], at: *const i8, sums: &mut [__m512i; Z]) {
        // SAFETY: the contract.
        unsafe {
            let x = _mm512_set1_epi32(i32::from_ne_bytes(x));
            for v in 0..Z {
                prefetch_near(at.wrapping_add(AHEAD + v * 64));
            }
            for v in 0..Z {
                let w = _mm512_loadu_si512(at.add(v * 64).cast());
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
        for (hidden, gates) in [1, 3, 8, 13, 40, 67].into_iter().flat_map(|h| (1..5).map(move |g| (h, g))) {
            for kind in ["all", "largest", "smallest", "small"] {
                let r: Vec<i8> = (0..gates * hidden * hidden).map(|i| weight(kind, i)).collect();
                let packed = QPanels::new(hidden, gates, &r);
                let column_scale: Vec<f32> = (0..gates * hidden).map(|i| 0.001 * (1 + i % 7) as f32).collect();
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
                            let mut got = vec![f32::NAN; rows * gates * 32];
                            packed.product(isa, &x, &grids, &columns, units.clone(), &mut got, 32);
                            for row in 0..rows {
                                for (gate, unit) in (0..gates).flat_map(|g| units.clone().map(move |u| (g, u))) {
                                    let col = gate * hidden + unit;
                                    let (scale, zero) = grids[row];
                                    let term = |k: usize| {
                                        let x = i64::from(x[row * packed.row_len() + k]) - i64::from(zero);
                                        x * i64::from(r[col * hidden + k])
                                    };
                                    let sum = (0..hidden).map(term).sum::<i64>();
                                    let want = sum as i32 as f32 * (scale * column_scale[col]);
                                    let got = got[(row * gates + gate) * 32 + unit - first];
                                    assert_eq!(got.to_bits(), want.to_bits(), "{kind} {gates} {hidden} {row} {col}");
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
        let packed = QPanels::new(16, 4, &r);
        assert!(packed.extras.iter().all(Vec::is_empty));
        assert_eq!(packed.weights.len() * size_of::<Line>(), r.len());
    }
}
