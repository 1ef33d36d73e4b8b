//! Where the extremes along an axis are: ArgMax and ArgMin of f32.

use crate::{
    Ctx, KernelError,
    error::{check_len, product},
    reduce::{ReduceOp, TASK, reduce},
};

const NAME: &str = "arg_reduce";

/// Which extreme is looked for. A NaN is more extreme than any number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extreme {
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

/// Which of several equal extremes counts; 0 equals −0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tie {
    /// The one of the lowest index.
    First,
    /// The one of the highest index.
    Last,
}

/// `out[o, i]` = the index r of the extreme of `x[o, r, i]`, x `[outer, n, inner]`, out `[outer, inner]`; n ≥ 1 unless out is empty.
pub fn arg_reduce(
    cx: Ctx<'_>,
    extreme: Extreme,
    tie: Tie,
    x: &[f32],
    [outer, n, inner]: [usize; 3],
    out: &mut [i64],
) -> Result<(), KernelError> {
    check_len(NAME, "x", product(&[outer, n, inner]), x.len())?;
    check_len(NAME, "out", product(&[outer, inner]), out.len())?;
    if out.is_empty() {
        return Ok(());
    }
    if n == 0 {
        return Err(KernelError::Geometry { kernel: NAME, why: "an empty axis has no extreme" });
    }
    let op = match extreme {
        Extreme::Max => ReduceOp::Max,
        Extreme::Min => ReduceOp::Min,
    };
    let mut extremes = vec![0.0; out.len()];
    reduce(cx, op, x, outer, n, inner, &mut extremes)?;
    let slices = (TASK / (n * inner)).max(1);
    cx.pool.run_chunks(out, slices * inner, &|t, out| {
        for (k, out) in out.chunks_exact_mut(inner).enumerate() {
            let o = t * slices + k;
            let (x, extremes) = (&x[o * n * inner..][..n * inner], &extremes[o * inner..][..inner]);
            if let ([extreme], Tie::First) = (extremes, tie) {
                out[0] = x.iter().position(|x| is(x, extreme)).map_or(0, |r| r as i64);
            } else {
                find(tie, x, extremes, out);
            }
        }
    });
    Ok(())
}

/// The rows of `x` in the order in which a later hit counts more.
fn find(tie: Tie, x: &[f32], extremes: &[f32], out: &mut [i64]) {
    let rows = x.chunks_exact(extremes.len()).enumerate();
    let mut mark = |(r, row): (usize, &[f32])| {
        for ((out, x), extreme) in out.iter_mut().zip(row).zip(extremes) {
            if is(x, extreme) {
                *out = r as i64;
            }
        }
    };
    match tie {
        Tie::First => rows.rev().for_each(&mut mark),
        Tie::Last => rows.for_each(&mut mark),
    }
}

/// Whether `x` is the extreme; where there is a NaN, the extreme is one.
fn is(x: &f32, extreme: &f32) -> bool {
    x == extreme || x.is_nan()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Isa,
        testing::{contexts, values},
    };
    use std::cmp::Ordering;

    /// One by one, by a total order of the values.
    fn naive(extreme: Extreme, tie: Tie, items: &[f32]) -> i64 {
        let mut best = 0;
        for (i, x) in items.iter().enumerate().skip(1) {
            let order = match (x.is_nan(), items[best].is_nan()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                _ if extreme == Extreme::Max => x.partial_cmp(&items[best]).unwrap(),
                _ => items[best].partial_cmp(x).unwrap(),
            };
            if order == Ordering::Greater || (tie == Tie::Last && order == Ordering::Equal) {
                best = i;
            }
        }
        best as i64
    }

    fn available() -> impl Iterator<Item = crate::testing::OwnedCtx> {
        Isa::ALL.into_iter().filter(|isa| isa.available()).flat_map(contexts)
    }

    #[test]
    fn indices_are_those_of_a_search() {
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, 0.0, -0.0];
        for cx in available() {
            for shape in
                [[1, 1, 1], [3, 7, 1], [2, 1, 5], [3, 17, 2], [5, 100, 1], [1, 5000, 3], [2, 9001, 1], [40, 2, 37]]
            {
                let [outer, n, inner] = shape;
                let drawn = values("x", outer * n * inner);
                // Few values, so that many are equal; and some that are special.
                let coarse: Vec<f32> = drawn.iter().map(|v| (v * 2.0).round()).collect();
                let special = drawn.iter().enumerate().map(|(i, v)| if i % 3 == 1 { odd[i / 3 % 7] } else { *v });
                for x in [&coarse, &special.collect(), &vec![f32::NEG_INFINITY; drawn.len()], &drawn] {
                    for (extreme, tie) in
                        [Extreme::Max, Extreme::Min].map(|e| [(e, Tie::First), (e, Tie::Last)]).concat()
                    {
                        let mut got = vec![-1; outer * inner];
                        arg_reduce(cx.get(), extreme, tie, x, shape, &mut got).unwrap();
                        for (at, &got) in got.iter().enumerate() {
                            let (o, i) = (at / inner, at % inner);
                            let items: Vec<f32> = (0..n).map(|r| x[(o * n + r) * inner + i]).collect();
                            assert_eq!(got, naive(extreme, tie, &items), "{shape:?} {extreme:?} {tie:?} at {at}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_empty_axis_is_an_error_and_an_empty_result_none() {
        for cx in available() {
            let run = |shape, out: &mut [i64]| arg_reduce(cx.get(), Extreme::Max, Tie::First, &[], shape, out);
            assert!(run([2, 0, 1], &mut [0; 2]).is_err());
            run([0, 0, 3], &mut []).unwrap();
            run([2, 3, 0], &mut []).unwrap();
        }
    }
}
