//! How the steps of a panel are grouped, so that `vpmaddubsw` and the additions after it stay inside 16 bits.
//!
//! A step multiplies four activations by four weights of each of 16 columns, and adds the products in pairs to i16. Those sums of
//! activations in 0..=255 fit when the positive weights behind one i16 sum to at most 128 and so do the negative ones:
//! 255·128 = 32 640. A step that breaks this is split in two, w = bounded + rest. Steps whose weights together keep the bound
//! form a group of up to [`DEPTH`]: their i16 are added as such and widened to i32 once. So sums are exact for every input and
//! all weights, and small weights need fewer instructions.

use crate::gemm::tile::NR;
use std::collections::VecDeque;

/// Weights of one step, `[16][4]`.
pub(super) const STEP: usize = 4 * NR;
/// Most steps of a group.
pub(super) const DEPTH: usize = 4;
/// What weights of one sign behind one i16 may sum to.
const LIMIT: u8 = 128;
/// Groups that wait for more steps at the same time.
const OPEN: usize = 32;

/// The weights of a step; a cache line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(64))]
pub(super) struct Step(pub(super) [i8; STEP]);

/// What a step, or the steps of a group, put on each i16: sums of positive weights, then of negative ones.
#[derive(Clone, Copy)]
struct Load([u8; STEP]);

impl Load {
    /// Of a step; sums past 255 count as 255.
    #[inline(always)]
    fn of(step: &Step) -> Load {
        let mut load = [0; STEP];
        for lane in 0..STEP / 2 {
            // Both weights of a pair at once, so that they need not be parted in registers.
            let pair = i16::from_le_bytes([step.0[2 * lane] as u8, step.0[2 * lane + 1] as u8]);
            let (a, b) = ((pair << 8) >> 8, pair >> 8);
            load[lane] = (a.max(0) + b.max(0)).min(255) as u8;
            load[STEP / 2 + lane] = (-(a.min(0) + b.min(0))).min(255) as u8;
        }
        Load(load)
    }

    /// Whether the step keeps the bound.
    #[inline(always)]
    fn is_bounded(&self) -> bool {
        let mut over = 0;
        for i in 0..STEP {
            over |= self.0[i].saturating_sub(LIMIT);
        }
        over == 0
    }

    /// Of both together, if they keep the bound.
    #[inline(always)]
    fn with(&self, other: &Load) -> Option<Load> {
        let mut sum = [0; STEP];
        let parts = self.0.as_chunks::<32>().0.iter().zip(other.0.as_chunks::<32>().0);
        // Most steps that do not fit show it in the first part.
        for ((a, b), sum) in parts.zip(sum.as_chunks_mut::<32>().0) {
            let mut over = 0;
            for i in 0..32 {
                sum[i] = a[i].saturating_add(b[i]);
                over |= sum[i].saturating_sub(LIMIT);
            }
            if over != 0 {
                return None;
            }
        }
        Some(Load(sum))
    }
}

/// Takes from `step` what breaks the bound; gives it back as a step that keeps the bound too.
pub(super) fn split(step: &mut Step) -> Option<Step> {
    let over = |a: i8, b: i8| i16::from(a) + i16::from(b);
    let limit = i16::from(LIMIT);
    let mut broken = false;
    for pair in step.0.as_chunks::<2>().0 {
        // Weights of different signs are each within the limit.
        broken |= over(pair[0], pair[1]).abs() > limit && (pair[0] < 0) == (pair[1] < 0);
    }
    if !broken {
        return None;
    }
    let mut rest = Step([0; STEP]);
    for (pair, rest) in step.0.as_chunks_mut::<2>().0.iter_mut().zip(rest.0.as_chunks_mut::<2>().0) {
        let sum = over(pair[0], pair[1]);
        if sum.abs() > limit && (pair[0] < 0) == (pair[1] < 0) {
            // |first| ≤ 128 and |excess| ≤ 128: two weights of one sign sum to at most 256 in size.
            let excess = sum - sum.signum() * limit;
            let taken = if sum > 0 { excess.min(pair[0].into()) } else { excess.max(pair[0].into()) };
            *rest = [taken as i8, (excess - taken) as i8];
            *pair = [(i16::from(pair[0]) - taken) as i8, (i16::from(pair[1]) - (excess - taken)) as i8];
        }
    }
    Some(rest)
}

/// The steps of a panel in the order in which a tile takes them.
#[derive(Clone)]
pub(super) struct Grouped {
    pub(super) weights: Vec<Step>,
    /// For each length of a group, the longest first, how many there are, then the places of their steps.
    pub(super) program: Vec<u32>,
}

/// A group that may take more steps.
struct Group {
    load: Load,
    /// Indices into the panel's steps.
    steps: [u32; DEPTH],
    len: usize,
}

/// The steps of a panel while they are grouped, and memory for those of the next.
#[derive(Default)]
pub(super) struct Grouping {
    steps: Vec<Step>,
    places: Vec<u32>,
    /// The oldest first.
    open: VecDeque<Group>,
    /// Indices into the steps, group after group, by the groups' length less one.
    closed: [Vec<u32>; DEPTH],
}

impl Grouping {
    /// Appends a step of the depth.
    #[inline(always)]
    pub(super) fn push(&mut self, mut step: Step, place: u32) {
        let load = Load::of(&step);
        let rest = if load.is_bounded() { None } else { split(&mut step) };
        self.add(if rest.is_some() { Load::of(&step) } else { load }, step, place);
        if let Some(rest) = rest {
            self.add(Load::of(&rest), rest, place);
        }
    }

    /// Puts a bounded step into the first group that it fits.
    #[inline(always)]
    fn add(&mut self, load: Load, weights: Step, place: u32) {
        let step = self.steps.len() as u32;
        self.steps.push(weights);
        self.places.push(place);
        for (i, group) in self.open.iter_mut().enumerate() {
            if let Some(sum) = group.load.with(&load) {
                group.load = sum;
                group.steps[group.len] = step;
                group.len += 1;
                if group.len == DEPTH {
                    self.close(i);
                }
                return;
            }
        }
        if self.open.len() == OPEN {
            self.close(0);
        }
        self.open.push_back(Group { load, steps: [step; DEPTH], len: 1 });
    }

    fn close(&mut self, i: usize) {
        if let Some(group) = self.open.remove(i) {
            self.closed[group.len - 1].extend(&group.steps[..group.len]);
        }
    }

    /// Ends the panel and gives its steps.
    pub(super) fn finish(&mut self) -> Grouped {
        while !self.open.is_empty() {
            self.close(0);
        }
        let n = self.steps.len();
        let mut to = Grouped { weights: Vec::with_capacity(n), program: Vec::with_capacity(n + DEPTH) };
        for (len, closed) in self.closed.iter_mut().enumerate().rev() {
            to.program.push((closed.len() / (len + 1)) as u32);
            to.program.extend(closed.iter().map(|&i| self.places[i as usize]));
            to.weights.extend(closed.iter().map(|&i| self.steps[i as usize]));
            closed.clear();
        }
        self.steps.clear();
        self.places.clear();
        to
    }
}

/// The parts of a program: a length, and the places of all groups of that length.
pub(super) fn parts(mut program: &[u32]) -> impl Iterator<Item = (usize, &[u32])> {
    (1..=DEPTH).rev().map_while(move |len| {
        let (&groups, rest) = program.split_first()?;
        let places;
        (places, program) = rest.split_at_checked(groups as usize * len)?;
        Some((len, places))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use penjing_tensor::Rng;

    /// Weights of the named kind.
    fn weights(kind: &str, steps: usize) -> Vec<Step> {
        let rng = Rng::new(1, kind, 0);
        let one = |i: usize| match kind {
            "largest" => 127,
            "smallest" => -128,
            "alternating" => [127, -128][i % 2],
            "small" => (rng.uniform(i as u64) * 32.0 - 16.0) as i8,
            "reduced" => (rng.uniform(i as u64) * 129.0 - 64.0).floor() as i8,
            _ => (rng.uniform(i as u64) * 256.0 - 128.0).floor() as i8,
        };
        (0..steps).map(|s| Step(std::array::from_fn(|i| one(s * STEP + i)))).collect()
    }

    fn grouped(steps: &[Step]) -> Grouped {
        let mut grouping = Grouping::default();
        for (place, &step) in steps.iter().enumerate() {
            grouping.push(step, place as u32);
        }
        grouping.finish()
    }

    #[test]
    fn steps_sum_to_the_weights_and_no_group_leaves_i16() {
        for kind in ["largest", "smallest", "alternating", "small", "reduced", "all"] {
            for n in [0, 1, 2, 7, 300] {
                let given = weights(kind, n);
                let to = grouped(&given);
                let mut total = vec![[0i32; STEP]; n];
                let mut first = 0;
                for (len, places) in parts(&to.program) {
                    for places in places.chunks(len) {
                        let steps = &to.weights[first..first + len];
                        for (step, &place) in steps.iter().zip(places) {
                            (0..STEP).for_each(|i| total[place as usize][i] += i32::from(step.0[i]));
                        }
                        for lane in 0..STEP / 2 {
                            let weights = steps.iter().flat_map(|s| &s.0[2 * lane..2 * lane + 2]);
                            let of = |sign: i32| weights.clone().map(|&w| (sign * i32::from(w)).max(0)).sum::<i32>();
                            assert!(255 * of(1) <= i16::MAX.into() && 255 * of(-1) <= -i32::from(i16::MIN), "{kind}");
                        }
                        first += len;
                    }
                }
                assert!((0..n).all(|s| total[s] == given[s].0.map(i32::from)), "{kind}");
                assert_eq!((first, first + DEPTH), (to.weights.len(), to.program.len()), "{kind}");
            }
        }
    }

    #[test]
    fn small_weights_are_added_four_by_four_and_none_within_64_is_split() {
        let lengths = |to: &Grouped| parts(&to.program).map(|(len, places)| places.len() / len).collect::<Vec<_>>();
        assert_eq!(lengths(&grouped(&weights("small", 40))), [10, 0, 0, 0]);
        assert_eq!(grouped(&weights("reduced", 200)).weights.len(), 200);
        assert_eq!(lengths(&grouped(&weights("largest", 10))), [0, 0, 0, 20]);
    }
}
