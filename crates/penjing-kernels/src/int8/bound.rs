//! Weights that `vpmaddubsw` multiplies without saturating, whatever the activations are.
//!
//! A sum of products of activations in 0..=255 with some weights fits an i16 when the positive weights sum to at most 128 and
//! so do the negative ones: 255·128 = 32 640. The pair (or, where two results are added before they are widened, the four)
//! that breaks this is split: w = bounded + rest, and the rest stands in extra steps of the same tile. So sums are exact for
//! every input and all weights.

use crate::gemm::tile::NR;

/// What weights of one sign may sum to.
const LIMIT: i32 = 128;
/// Weights of one step.
pub(super) const STEP: usize = 4 * NR;
/// Time of a step whose results are added two by two, in steps that are widened each.
const COST_TWO: f32 = 0.84;
/// Time of an extra step.
const COST_EXTRA: f32 = 1.2;
/// Time of a step that transfers signs.
const COST_SIGNS: f32 = 1.8;

/// How a tile keeps its sums inside i16.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Method {
    /// u8 by bounded weights.
    Dots,
    /// |x| by w·sign(x), |w| ≤ 127.
    Signs,
}

/// What the tile knows of one panel's k-block.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Known {
    /// Whether two steps of a stretch may be added before they are widened.
    pub(super) two: bool,
    /// Steps beside those of the panel.
    pub(super) extras: Vec<Extra>,
}

/// One more step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Extra {
    /// The stretch whose activations it reads.
    pub(super) stretch: usize,
    /// The step of the stretch.
    pub(super) step: usize,
    /// `[16][4]`
    pub(super) weights: [i8; STEP],
}

impl Known {
    /// Time of a panel's k-block of so many steps.
    pub(super) fn cost(&self, method: Method, steps: usize) -> f32 {
        let step = match method {
            Method::Signs => COST_SIGNS,
            Method::Dots if self.two => COST_TWO,
            Method::Dots => 1.0,
        };
        steps as f32 * step + self.extras.len() as f32 * COST_EXTRA
    }
}

/// Bounds the weights `b`, `[step][16][4]`, of one panel, in stretches of so many steps; what is taken off is in the extras.
pub(super) fn prepare(method: Method, b: &mut [i8], stretches: &[usize]) -> Known {
    if method == Method::Signs {
        return Known { two: false, extras: split(b, stretches, no_minimum) };
    }
    let mut together = b.to_vec();
    let two = Known { two: true, extras: split(&mut together, stretches, |b, rest| bound(b, 2, rest)) };
    let mut alone = b.to_vec();
    let one = Known { two: false, extras: split(&mut alone, stretches, |b, rest| bound(b, 1, rest)) };
    let steps = b.len() / STEP;
    let two_wins = two.cost(method, steps) <= one.cost(method, steps);
    b.copy_from_slice(if two_wins { &together } else { &alone });
    if two_wins { two } else { one }
}

/// Moves weights of each stretch to `rest` by `take(weights, rest)`, and gives the steps of what was moved.
fn split(b: &mut [i8], stretches: &[usize], take: impl Fn(&mut [i8], &mut [i8])) -> Vec<Extra> {
    let mut extras = Vec::new();
    let mut first = 0;
    for (stretch, &steps) in stretches.iter().enumerate() {
        let b = &mut b[first * STEP..(first + steps) * STEP];
        first += steps;
        let mut rest = vec![0; b.len()];
        take(b, &mut rest);
        for (step, rest) in rest.chunks_exact_mut(STEP).enumerate() {
            // What is left after a step may need another one: four weights of 127 are four times the limit.
            while rest.iter().any(|&w| w != 0) {
                let mut weights = [0; STEP];
                weights.copy_from_slice(rest);
                rest.fill(0);
                bound(&mut weights, 1, rest);
                extras.push(Extra { stretch, step, weights });
            }
        }
    }
    extras
}

/// −128 becomes −127.
fn no_minimum(b: &mut [i8], rest: &mut [i8]) {
    for (w, rest) in b.iter_mut().zip(rest) {
        if *w == i8::MIN {
            (*w, *rest) = (i8::MIN + 1, -1);
        }
    }
}

/// Bounds the sums of weights that meet in one i16: a pair of a column's four, in `together` steps from an even one on. An odd
/// last step stands alone.
fn bound(b: &mut [i8], together: usize, rest: &mut [i8]) {
    let mut begun = vec![false; b.len() / STEP];
    for first in (0..begun.len()).step_by(together) {
        let steps = first..begun.len().min(first + together);
        for lane in 0..STEP / 2 {
            for sign in [1, -1] {
                let size = |b: &[i8], i: usize| (sign * i32::from(b[i])).max(0);
                let mut places: Vec<usize> =
                    steps.clone().flat_map(|s| [s * STEP + 2 * lane, s * STEP + 2 * lane + 1]).collect();
                let mut excess = places.iter().map(|&i| size(b, i)).sum::<i32>() - LIMIT;
                if excess <= 0 {
                    continue;
                }
                // Steps that have an extra one already come first, then large weights.
                places.sort_by_key(|&i| (!begun[i / STEP], -size(b, i)));
                for i in places {
                    let taken = excess.min(size(b, i));
                    if taken > 0 {
                        excess -= taken;
                        begun[i / STEP] = true;
                        // |taken| ≤ 128 and the result lies between the weight and zero.
                        b[i] = (i32::from(b[i]) - sign * taken) as i8;
                        rest[i] = (sign * taken) as i8;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penjing_tensor::Rng;

    /// Weights of the named kind for `steps` steps.
    fn weights(kind: &str, steps: usize) -> Vec<i8> {
        let rng = Rng::new(1, kind, 0);
        let one = |i: usize| match kind {
            "largest" => 127,
            "smallest" => -128,
            "alternating" => [127, -128][i % 2],
            "small" => (rng.uniform(i as u64) * 64.0 - 32.0) as i8,
            _ => (rng.uniform(i as u64) * 256.0 - 128.0).floor() as i8,
        };
        (0..steps * STEP).map(one).collect()
    }

    const KINDS: [&str; 5] = ["largest", "smallest", "alternating", "small", "all"];

    #[test]
    fn parts_sum_to_the_weights_and_no_sum_leaves_i16() {
        for kind in KINDS {
            for stretches in [vec![7, 2], vec![1], vec![8, 8, 3]] {
                let given = weights(kind, stretches.iter().sum());
                for method in [Method::Dots, Method::Signs] {
                    let mut b = given.clone();
                    let known = prepare(method, &mut b, &stretches);
                    let mut total: Vec<i32> = b.iter().map(|&w| w.into()).collect();
                    for e in &known.extras {
                        let at = (stretches[..e.stretch].iter().sum::<usize>() + e.step) * STEP;
                        for i in 0..STEP {
                            total[at + i] += i32::from(e.weights[i]);
                        }
                    }
                    assert!(total.iter().zip(&given).all(|(&t, &w)| t == i32::from(w)), "{kind}, {method:?}");
                    let mut first = 0;
                    for &steps in &stretches {
                        check(method, known.two, &b[first * STEP..(first + steps) * STEP]);
                        first += steps;
                    }
                    known.extras.iter().for_each(|e| check(method, false, &e.weights));
                }
            }
        }
    }

    /// Every i16 that the tile forms stays inside its range for the worst activations.
    fn check(method: Method, two: bool, b: &[i8]) {
        let together = if two { 2 } else { 1 };
        for steps in b.chunks(STEP * together) {
            for lane in 0..STEP / 2 {
                let places = steps.chunks(STEP).flat_map(|s| &s[2 * lane..2 * lane + 2]);
                let of = |sign: i32| places.clone().map(|&w| (sign * i32::from(w)).max(0)).sum::<i32>();
                match method {
                    Method::Dots => assert!(255 * of(1) <= i16::MAX.into() && 255 * of(-1) <= -i32::from(i16::MIN)),
                    Method::Signs => assert!(128 * (of(1) + of(-1)) <= i16::MAX.into() && !steps.contains(&i8::MIN)),
                }
            }
        }
    }

    #[test]
    fn small_weights_need_no_extra_step_and_are_added_two_by_two() {
        let mut b = weights("small", 8);
        let known = prepare(Method::Dots, &mut b, &[8]);
        assert_eq!(known, Known { two: true, extras: Vec::new() });
        assert_eq!(b, weights("small", 8));
    }

    #[test]
    fn extreme_weights_are_cheaper_by_signs() {
        let cost = |method| prepare(method, &mut weights("largest", 8), &[8]).cost(method, 8);
        assert!(cost(Method::Signs) < cost(Method::Dots));
        let cost = |method| prepare(method, &mut weights("small", 8), &[8]).cost(method, 8);
        assert!(cost(Method::Signs) > cost(Method::Dots));
    }
}
