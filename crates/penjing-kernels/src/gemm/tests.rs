//! f32 GEMM against an f64 triple loop.

use super::*;
use crate::testing::{assert_close, contexts, values};

struct Case {
    m: usize,
    n: usize,
    k: usize,
}

const CASES: [Case; 20] = [
    Case { m: 0, n: 3, k: 2 },
    Case { m: 3, n: 0, k: 2 },
    Case { m: 2, n: 3, k: 0 },
    Case { m: 1, n: 1, k: 1 },
    Case { m: 1, n: 300, k: 37 },
    Case { m: 300, n: 1, k: 37 },
    Case { m: 1, n: 700, k: 131 },
    Case { m: 5, n: 17, k: 3 },
    Case { m: 6, n: 16, k: 8 },
    Case { m: 7, n: 15, k: 321 },
    Case { m: 13, n: 33, k: 641 },
    Case { m: 32, n: 48, k: 27 },
    Case { m: 97, n: 131, k: 101 },
    Case { m: 200, n: 140, k: 330 },
    Case { m: 2, n: 500, k: 64 },
    Case { m: 64, n: 10, k: 128 },
    Case { m: 16, n: 64, k: 256 },
    // Two passes over the depth, two over the columns, two over the rows of a transposed A.
    Case { m: 2, n: 33, k: 8209 },
    Case { m: 2, n: 1500, k: 700 },
    Case { m: 200, n: 64, k: 6000 },
];

fn naive(c: &Case, a: &[f32], b: &[f32]) -> Vec<f64> {
    let mut out = vec![0f64; c.m * c.n];
    for i in 0..c.m {
        for j in 0..c.n {
            out[i * c.n + j] = (0..c.k).map(|p| f64::from(a[i * c.k + p]) * f64::from(b[p * c.n + j])).sum();
        }
    }
    out
}

fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
}

/// A sum of k products of values in [-1, 1] errs by at most about k/2 roundings of its largest partial sum.
fn tolerance(k: usize) -> f64 {
    (k.max(1) as f64) * 1.2e-7 + 1e-6
}

#[test]
fn every_layout_packing_and_epilogue_agrees_with_f64() {
    for case in &CASES {
        let &Case { m, n, k } = case;
        let (a, b) = (values("a", m * k), values("b", k * n));
        let (at, bt) = (transpose(&a, m, k), transpose(&b, k, n));
        let (row_bias, col_bias, old) = (values("rb", m), values("cb", n), values("c", m * n));
        let want = naive(case, &a, &b);
        let shape = GemmShape { m, n, k };
        let mut first: Option<Vec<Vec<f32>>> = None;
        for isa in [Isa::Generic, Isa::detect()] {
            first = first.filter(|_| isa == Isa::Generic);
            let packed_b = PackedRhs::new(isa, k, n, Mat::transposed(&bt, k)).unwrap();
            let lhs = [Mat::rows(&a, k), Mat::transposed(&at, m)];
            let rhs = [Rhs::Plain(Mat::rows(&b, n)), Rhs::Plain(Mat::transposed(&bt, k)), Rhs::Packed(&packed_b)];
            for cx in contexts(isa) {
                let mut results = Vec::new();
                for (&a, &b) in lhs.iter().flat_map(|a| rhs.iter().map(move |b| (a, b))) {
                    let mut c = vec![f32::NAN; m * n];
                    gemm(cx.get(), shape, a, b, &Epilogue::default(), &mut c, n).unwrap();
                    assert_close(&c, &want, tolerance(k), "plain");
                    results.push(c);
                    let e = Epilogue {
                        accumulate: Accumulate::Add,
                        bias: Bias::Row(&row_bias),
                        residual: None,
                        act: Activation::Clamp(Clamp { min: -0.5, max: 0.75 }),
                    };
                    let mut c = old.clone();
                    gemm(cx.get(), shape, a, b, &e, &mut c, n).unwrap();
                    let full: Vec<f64> = (0..m * n)
                        .map(|i| (want[i] + f64::from(old[i]) + f64::from(row_bias[i / n])).clamp(-0.5, 0.75))
                        .collect();
                    assert_close(&c, &full, tolerance(k), "add + row bias + clamp");
                    let e = Epilogue { bias: Bias::Col(&col_bias), act: Activation::RELU, ..Epilogue::default() };
                    let mut c = vec![7.0; m * (n + 3)];
                    gemm(cx.get(), shape, a, b, &e, &mut c, n + 3).unwrap();
                    for i in 0..m {
                        let relu: Vec<f64> =
                            (0..n).map(|j| (want[i * n + j] + f64::from(col_bias[j])).max(0.0)).collect();
                        assert_close(&c[i * (n + 3)..][..n], &relu, tolerance(k), "col bias + relu, strided C");
                        assert_eq!(c[i * (n + 3) + n..][..3], [7.0; 3]);
                    }
                    results.push(c);
                    let e = Epilogue {
                        bias: Bias::Col(&col_bias),
                        residual: Some(&old),
                        act: Activation::Silu,
                        ..Epilogue::default()
                    };
                    let mut c = vec![f32::NAN; m * n];
                    gemm(cx.get(), shape, a, b, &e, &mut c, n).unwrap();
                    let silu: Vec<f64> = (0..m * n)
                        .map(|i| want[i] + f64::from(col_bias[i % n]) + f64::from(old[i]))
                        .map(|v| v / (1.0 + (-v).exp()))
                        .collect();
                    assert_close(&c, &silu, tolerance(k), "col bias + residual + SiLU");
                    results.push(c);
                }
                let first = first.get_or_insert_with(|| results.clone());
                assert_eq!(*first, results, "bits differ between thread counts ({m}x{n}x{k})");
            }
        }
    }
}

#[test]
fn batches_stride_and_broadcast() {
    // Attention layout: [B, S, H, D] read as B·H products, K shared by the whole batch axis.
    let (bs, s, h, d) = (3, 7, 2, 5);
    let (q, k) = (values("q", bs * s * h * d), values("k", s * h * d));
    let shape = GemmShape { m: s, n: s, k: d };
    let batch = Batch { dims: [bs, h], a: [s * h * d, d], b: [0, d], c: [h * s * s, s * s] };
    let a = Mat { data: &q, row_stride: h * d, col_stride: 1 };
    let b = Mat { data: &k, row_stride: 1, col_stride: h * d };
    for isa in Isa::ALL {
        for cx in contexts(isa) {
            let mut c = vec![f32::NAN; bs * h * s * s];
            gemm_batched(cx.get(), shape, &batch, a, b, &Epilogue::default(), &mut c, s).unwrap();
            for (i, &got) in c.iter().enumerate() {
                let (bi, hi, r, col) = (i / (h * s * s), i / (s * s) % h, i / s % s, i % s);
                let want: f64 = (0..d)
                    .map(|p| f64::from(q[((bi * s + r) * h + hi) * d + p]) * f64::from(k[(col * h + hi) * d + p]))
                    .sum();
                assert!((f64::from(got) - want).abs() < 1e-6);
            }
            // Output interleaved by head: rows of different products alternate in memory.
            let shape = GemmShape { m: s, n: d, k: s };
            let residual = values("r", bs * s * h * d);
            let e = Epilogue { residual: Some(&residual), ..Epilogue::default() };
            let probs = c.clone();
            let batch = Batch { dims: [bs, h], a: [h * s * s, s * s], b: [0, d], c: [s * h * d, d] };
            let v = Mat { data: &k, row_stride: h * d, col_stride: 1 };
            let mut out = vec![f32::NAN; bs * s * h * d];
            gemm_batched(cx.get(), shape, &batch, Mat::rows(&probs, s), v, &e, &mut out, h * d).unwrap();
            assert!(out.iter().all(|v| v.is_finite()));
            let want: f64 = (0..s).map(|p| f64::from(probs[(s * s) + p]) * f64::from(k[(p * h + 1) * d + 2])).sum();
            assert!((f64::from(out[d + 2]) - want - f64::from(residual[d + 2])).abs() < 1e-5);
            assert!(
                gemm_batched(
                    cx.get(),
                    shape,
                    &batch,
                    Mat::rows(&probs, s),
                    v,
                    &Epilogue { residual: Some(&residual[1..]), ..e },
                    &mut out,
                    h * d
                )
                .is_err()
            );
        }
    }
}

#[test]
fn bad_operands_are_errors() {
    let pool = crate::Pool::new(1);
    let cx = Ctx { isa: Isa::Generic, pool: &pool };
    let shape = GemmShape { m: 2, n: 3, k: 4 };
    let (a, b) = ([0f32; 8], [0f32; 12]);
    let run = |a: &[f32], b: &[f32], c_len: usize, stride: usize, bias: Bias<'_>| {
        let e = Epilogue { bias, ..Epilogue::default() };
        gemm(cx, shape, Mat::rows(a, 4), Rhs::Plain(Mat::rows(b, 3)), &e, &mut vec![0.0; c_len], stride)
    };
    assert!(run(&a, &b, 6, 3, Bias::None).is_ok());
    assert!(run(&a[..7], &b, 6, 3, Bias::None).is_err());
    assert!(run(&a, &b[..11], 6, 3, Bias::None).is_err());
    assert!(run(&a, &b, 5, 3, Bias::None).is_err());
    assert!(run(&a, &b, 6, 2, Bias::None).is_err());
    assert!(run(&a, &b, 6, 3, Bias::Col(&[0.0; 2])).is_err());
    let e = Epilogue { residual: Some(&[0.0; 5]), ..Epilogue::default() };
    let short = gemm(cx, shape, Mat::rows(&a, 4), Rhs::Plain(Mat::rows(&b, 3)), &e, &mut [0.0; 6], 3);
    assert!(matches!(short, Err(KernelError::Length { operand: "residual", .. })));
    let batch = Batch { dims: [2, 1], a: [0, 0], b: [0, 0], c: [5, 0] };
    let overlapping =
        gemm_batched(cx, shape, &batch, Mat::rows(&a, 4), Mat::rows(&b, 3), &Epilogue::default(), &mut [0.0; 11], 3);
    assert!(matches!(overlapping, Err(KernelError::Geometry { .. })));
}

#[test]
fn nan_and_infinity_pass_through() {
    let pool = crate::Pool::new(1);
    for isa in Isa::ALL {
        let cx = Ctx { isa, pool: &pool };
        let a = [f32::NAN, 1.0, f32::INFINITY, 1.0];
        let mut c = [0.0; 4];
        let shape = GemmShape { m: 2, n: 2, k: 2 };
        let e = Epilogue { act: Activation::RELU, ..Epilogue::default() };
        gemm(cx, shape, Mat::rows(&a, 2), Rhs::Plain(Mat::rows(&[1.0; 4], 2)), &e, &mut c, 2).unwrap();
        assert!(c[0].is_nan() && c[1].is_nan() && c[2] == f32::INFINITY);
    }
}
