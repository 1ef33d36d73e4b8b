//! Every mover against element-by-element index arithmetic, at every element size and thread count.

use super::*;
use crate::{Isa, KernelError, testing::contexts};

/// `n` elements of `size` bytes, all different where the size allows.
fn elements(size: ElemSize, n: usize) -> Vec<u8> {
    (0..n)
        .flat_map(|i| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()[8 - size.bytes()..].to_vec())
        .collect()
}

/// Multi-indices of `shape` in row-major order.
fn walk(shape: &[usize]) -> Vec<Vec<usize>> {
    shape.iter().fold(vec![Vec::new()], |all, &n| {
        all.iter().flat_map(|head| (0..n).map(move |i| [head.as_slice(), &[i]].concat())).collect()
    })
}

fn flat(shape: &[usize], index: &[usize]) -> usize {
    shape.iter().zip(index).fold(0, |at, (&n, &i)| at * n + i)
}

fn len(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// The elements of `src` at `from(index)` for every index of `shape`; zeros where `None`.
fn pick(size: ElemSize, src: &[u8], shape: &[usize], from: impl Fn(&[usize]) -> Option<usize>) -> Vec<u8> {
    let b = size.bytes();
    walk(shape).iter().flat_map(|i| from(i).map_or(vec![0; b], |at| src[at * b..(at + 1) * b].to_vec())).collect()
}

const SIZES: [ElemSize; 4] = [ElemSize::One, ElemSize::Two, ElemSize::Four, ElemSize::Eight];

/// Runs `f` at every size and thread count and compares its `n` elements with `want`.
#[track_caller]
fn check(
    n: usize,
    f: impl Fn(crate::Ctx<'_>, ElemSize, &mut [u8]) -> Result<(), KernelError>,
    want: impl Fn(ElemSize) -> Vec<u8>,
) {
    for size in SIZES {
        let want = want(size);
        for cx in contexts(Isa::detect()) {
            let mut out = vec![0xa5; n * size.bytes()];
            f(cx.get(), size, &mut out).unwrap();
            assert!(out == want, "{size:?}");
        }
    }
}

#[test]
fn permute_moves_every_element() {
    let cases: [(&[usize], &[usize]); 16] = [
        (&[2, 3, 5000], &[0, 2, 1]),
        (&[2, 40_000], &[1, 0]),
        (&[3, 4, 7, 11], &[0, 2, 3, 1]),
        (&[2, 3, 4, 16], &[1, 0, 2, 3]),
        (&[], &[]),
        (&[7], &[0]),
        (&[3, 5], &[1, 0]),
        (&[130, 257], &[1, 0]),
        (&[2, 3, 4, 5], &[0, 2, 1, 3]),
        (&[2, 3, 4, 5], &[3, 2, 1, 0]),
        (&[2, 17, 9, 8], &[0, 2, 3, 1]),
        (&[4, 1, 33, 40], &[0, 3, 1, 2]),
        (&[5, 70, 3], &[2, 0, 1]),
        (&[3, 0, 2], &[2, 1, 0]),
        (&[2, 2, 2, 2, 2, 2], &[5, 0, 4, 1, 3, 2]),
        (&[300, 2, 100], &[1, 0, 2]),
    ];
    for (shape, perm) in cases {
        let out: Vec<usize> = perm.iter().map(|&p| shape[p]).collect();
        check(
            len(shape),
            |cx, size, dst| permute(cx, size, &elements(size, len(shape)), shape, perm, dst),
            |size| {
                pick(size, &elements(size, len(shape)), &out, |i| {
                    let mut from = vec![0; i.len()];
                    perm.iter().zip(i).for_each(|(&p, &i)| from[p] = i);
                    Some(flat(shape, &from))
                })
            },
        );
    }
}

#[test]
fn slice_takes_strides_of_both_signs() {
    type Case<'a> = (&'a [usize], &'a [usize], &'a [i64], &'a [usize]);
    let cases: [Case<'_>; 10] = [
        // Pixels of channels that lie last, short and long lines; strides inside of lines.
        (&[3, 9, 10, 16], &[0, 1, 0, 0], &[1, 2, 2, 1], &[3, 4, 5, 16]),
        (&[40, 9, 10, 32], &[0, 0, 9, 0], &[1, 2, -2, 1], &[40, 5, 5, 32]),
        (&[30, 40, 33], &[0, 1, 32], &[1, 2, -2], &[30, 20, 17]),
        (&[10], &[9], &[-1], &[10]),
        (&[10], &[8], &[-3], &[3]),
        (&[6, 8], &[1, 2], &[2, 1], &[3, 5]),
        (&[6, 8], &[5, 7], &[-1, -2], &[6, 4]),
        (&[4, 5, 6], &[0, 3, 1], &[1, i64::MIN, i64::MAX], &[4, 1, 1]),
        (&[200, 300], &[3, 299], &[1, -1], &[190, 299]),
        (&[3, 4], &[0, 0], &[1, 1], &[0, 4]),
    ];
    for (shape, starts, steps, lens) in cases {
        check(
            len(lens),
            |cx, size, dst| slice(cx, size, &elements(size, len(shape)), shape, starts, steps, lens, dst),
            |size| {
                pick(size, &elements(size, len(shape)), lens, |i| {
                    let at: Vec<usize> = (0..i.len())
                        .map(|a| (starts[a] as i128 + i[a] as i128 * i128::from(steps[a])) as usize)
                        .collect();
                    Some(flat(shape, &at))
                })
            },
        );
    }
}

#[test]
fn expand_repeats() {
    let cases: [(&[usize], &[usize]); 6] = [
        (&[], &[3, 4]),
        (&[1, 5], &[40, 5]),
        (&[5, 1], &[5, 7]),
        (&[2, 1, 3, 1], &[9, 2, 4, 3, 2]),
        (&[300], &[200, 300]),
        (&[1], &[0]),
    ];
    for (shape, out) in cases {
        check(
            len(out),
            |cx, size, dst| expand(cx, size, &elements(size, len(shape)), shape, out, dst),
            |size| {
                pick(size, &elements(size, len(shape)), out, |i| {
                    let tail = &i[i.len() - shape.len()..];
                    let at: Vec<usize> = tail.iter().zip(shape).map(|(&i, &n)| if n == 1 { 0 } else { i }).collect();
                    Some(flat(shape, &at))
                })
            },
        );
    }
}

#[test]
fn concat_joins_along_any_axis() {
    for (shape, axis, parts) in [
        (vec![6usize, 5], 0, vec![1usize, 2, 3]),
        (vec![4, 9, 3], 1, vec![4, 0, 5]),
        (vec![40, 60, 30], 2, vec![1, 29]),
        (vec![7], 0, vec![7]),
    ] {
        let part_shape =
            |n: usize| shape.iter().enumerate().map(|(a, &d)| if a == axis { n } else { d }).collect::<Vec<_>>();
        let sources = |size: ElemSize| -> Vec<Vec<u8>> {
            let all = elements(size, len(&shape) * parts.len());
            parts
                .iter()
                .enumerate()
                .map(|(p, &n)| all[p * len(&shape) * size.bytes()..][..len(&part_shape(n)) * size.bytes()].to_vec())
                .collect()
        };
        check(
            len(&shape),
            |cx, size, dst| {
                let sources = sources(size);
                let operands: Vec<(&[u8], usize)> =
                    sources.iter().map(Vec::as_slice).zip(parts.iter().copied()).collect();
                concat(cx, size, &operands, &shape, axis, dst)
            },
            |size| {
                let (sources, b) = (sources(size), size.bytes());
                let element = |i: &Vec<usize>| {
                    let (mut p, mut at) = (0, i.clone());
                    while at[axis] >= parts[p] {
                        at[axis] -= parts[p];
                        p += 1;
                    }
                    sources[p][flat(&part_shape(parts[p]), &at) * b..][..b].to_vec()
                };
                walk(&shape).iter().flat_map(element).collect()
            },
        );
    }
}

#[test]
fn pad_surrounds_with_the_value() {
    for (shape, before, after) in [
        (vec![3usize, 4], vec![1usize, 2], vec![0usize, 3]),
        (vec![2, 3, 50, 60], vec![0, 0, 1, 1], vec![0, 0, 1, 1]),
        (vec![3, 40, 9, 16], vec![0, 0, 0, 8], vec![0, 0, 0, 8]),
        (vec![0, 2], vec![1, 0], vec![1, 1]),
        (vec![5], vec![0], vec![0]),
    ] {
        let out: Vec<usize> = (0..shape.len()).map(|a| before[a] + shape[a] + after[a]).collect();
        check(
            len(&out),
            |cx, size, dst| {
                pad(cx, &elements(size, len(&shape)), &shape, &before, &after, &vec![0; size.bytes()], dst)?;
                // A value that is not zero reaches the same places.
                let mut ones = vec![0; dst.len()];
                pad(
                    cx,
                    &vec![0; len(&shape) * size.bytes()],
                    &shape,
                    &before,
                    &after,
                    &vec![1; size.bytes()],
                    &mut ones,
                )?;
                let padded = ones.iter().filter(|&&v| v == 1).count();
                assert_eq!(padded, (len(&out) - len(&shape)) * size.bytes());
                Ok(())
            },
            |size| {
                pick(size, &elements(size, len(&shape)), &out, |i| {
                    let at: Option<Vec<usize>> =
                        (0..i.len()).map(|a| i[a].checked_sub(before[a]).filter(|&v| v < shape[a])).collect();
                    Some(flat(&shape, &at?))
                })
            },
        );
    }
}

#[test]
fn gather_picks_rows_and_one_hot_marks_them() {
    for ([outer, n, inner], indices) in [
        ([1usize, 5usize, 4usize], vec![4i64, 0, -1, -5, 2, 2]),
        ([3, 4, 1], vec![3, -4, 1]),
        ([2, 100, 70], (0..400).map(|i| i * 37 % 200 - 100).collect()),
        ([2, 3, 0], vec![1]),
        ([2, 3, 4], vec![]),
    ] {
        let row = |i: i64| if i < 0 { i + n as i64 } else { i } as usize;
        check(
            outer * indices.len() * inner,
            |cx, size, dst| gather(cx, size, &elements(size, outer * n * inner), [outer, n, inner], &indices, dst),
            |size| {
                pick(size, &elements(size, outer * n * inner), &[outer, indices.len(), inner], |i| {
                    Some((i[0] * n + row(indices[i[1]])) * inner + i[2])
                })
            },
        );
    }
    let indices = [0i64, 2, -1, 3, -4, 1];
    for inner in [1, 2, 3, 6] {
        check(
            indices.len() * 3,
            |cx, size, dst| one_hot(cx, &vec![1; size.bytes()], &indices, 3, inner, dst),
            |size| {
                pick(size, &vec![1; size.bytes()], &[6 / inner, 3, inner], |i| {
                    let index = indices[i[0] * inner + i[2]];
                    (index == i[1] as i64 || index + 3 == i[1] as i64).then_some(0)
                })
            },
        );
    }
}

#[test]
fn gather_grad_sums_in_order_of_position() {
    for ([outer, n, inner], count) in [([1, 7, 5], 30), ([3, 50, 1], 200), ([2, 300, 130], 90), ([1, 4, 3], 0)] {
        let indices: Vec<i64> = (0..count as i64).map(|i| (i * i * 7 + 3) % (2 * n as i64) - n as i64).collect();
        let dy = crate::testing::values("dy", outer * count * inner);
        let mut want = vec![0f32; outer * n * inner];
        for o in 0..outer {
            for (j, &i) in indices.iter().enumerate() {
                let row = if i < 0 { i + n as i64 } else { i } as usize;
                for k in 0..inner {
                    want[(o * n + row) * inner + k] += dy[(o * count + j) * inner + k];
                }
            }
        }
        let results = crate::testing::every_ctx(|cx| {
            let mut out = vec![f32::NAN; want.len()];
            gather_grad(cx, &dy, &indices, [outer, n, inner], &mut out).unwrap();
            out
        });
        assert!(results.iter().all(|r| *r == want), "{outer} {n} {inner}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let pool = crate::Pool::new(1);
    let cx = crate::Ctx { isa: Isa::Generic, pool: &pool };
    let (src, mut dst) = ([0u8; 12], [0u8; 12]);
    let one = ElemSize::One;
    assert!(permute(cx, one, &src, &[3, 4], &[0, 0], &mut dst).is_err());
    assert!(permute(cx, one, &src, &[3, 4], &[0, 2], &mut dst).is_err());
    assert!(permute(cx, one, &src, &[3, 5], &[1, 0], &mut dst).is_err());
    assert!(permute(cx, one, &src, &[usize::MAX, 2], &[1, 0], &mut dst).is_err());
    assert!(slice(cx, one, &src, &[3, 4], &[0, 2], &[1, 1], &[3, 4], &mut dst).is_err());
    assert!(slice(cx, one, &src, &[12], &[0], &[-1], &[12], &mut dst).is_err());
    assert!(expand(cx, one, &src[..3], &[3], &[3, 4], &mut dst).is_err());
    assert!(concat(cx, one, &[(&src[..4], 4), (&src[..4], 4)], &[12], 0, &mut dst).is_err());
    assert!(pad(cx, &src[..9], &[9], &[usize::MAX], &[1], &[0], &mut dst).is_err());
    let outside = |index, position| Err(KernelError::Index { kernel: "gather", index, position, bound: 3 });
    assert_eq!(gather(cx, one, &src, [1, 3, 4], &[0, 3, 0], &mut dst), outside(3, 1));
    assert_eq!(gather(cx, one, &src, [1, 3, 4], &[-4, 0, 0], &mut dst), outside(-4, 0));
    // Overlapping destinations, a source that ends early, a source before the start.
    assert!(copy_strided(cx, one, &[3, 4], &src, 0, &[4, 1], &mut dst, 0, &[3, 1]).is_err());
    assert!(copy_strided(cx, one, &[3, 4], &src, 1, &[4, 1], &mut dst, 0, &[4, 1]).is_err());
    assert!(copy_strided(cx, one, &[3, 4], &src, 0, &[-4, 1], &mut dst, 0, &[4, 1]).is_err());
    assert!(copy_strided(cx, one, &[3, 4], &src, 0, &[4, 1], &mut dst, 1, &[4, 1]).is_err());
    assert!(copy_strided(cx, one, &[3, 4], &src, 8, &[-4, 1], &mut dst, 0, &[4, 1]).is_ok());
}
