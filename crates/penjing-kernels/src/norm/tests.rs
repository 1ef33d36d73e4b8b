//! Norms against f64, their gradients against central differences of the f64 forward.

use super::*;
use crate::{
    Ctx, Isa, Pool,
    testing::{assert_close, every_ctx, values},
};

const EPS: f32 = 1e-5;
const ROWS: [(usize, usize); 6] = [(0, 4), (3, 1), (5, 7), (40, 64), (2, 5000), (1, 33)];

fn normal(x: &[f64]) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let var = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
    x.iter().map(|v| (v - mean) / (var + f64::from(EPS)).sqrt()).collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// Values far from 0, where a one-pass variance would cancel.
fn shifted(name: &str, n: usize) -> Vec<f32> {
    values(name, n).iter().map(|v| v + 30.0).collect()
}

#[test]
fn layer_and_rms_agree_with_f64() {
    for (rows, n) in ROWS {
        let (x, scale, bias) = (shifted("x", rows * n), values("s", n), values("b", n));
        let mut want = Vec::new();
        let mut want_rms = Vec::new();
        for row in wide(&x).chunks(n) {
            want.extend(normal(row).iter().zip(&scale).zip(&bias).map(|((v, &s), &b)| v * f64::from(s) + f64::from(b)));
            let rms = (row.iter().map(|v| v * v).sum::<f64>() / n as f64 + f64::from(EPS)).sqrt();
            want_rms.extend(row.iter().zip(&scale).map(|(v, &s)| v / rms * f64::from(s)));
        }
        for got in every_ctx(|cx| {
            let mut y = vec![9.0; rows * n];
            layer_norm(cx, &x, rows, n, Some(&scale), Some(&bias), EPS, &mut y).unwrap();
            y
        }) {
            assert_close(&got, &want, 2e-5, "layer_norm");
        }
        for got in every_ctx(|cx| {
            let mut y = vec![9.0; rows * n];
            rms_norm(cx, &x, rows, n, Some(&scale), EPS, &mut y).unwrap();
            y
        }) {
            assert_close(&got, &want_rms, 1e-6, "rms_norm");
        }
    }
}

#[test]
fn group_norm_agrees_with_f64() {
    for (batch, channels, inner, groups) in [(2, 6, 5, 3), (1, 4, 1, 4), (3, 8, 700, 1), (0, 2, 2, 1), (2, 5, 9, 5)] {
        let (x, scale, bias) = (shifted("x", batch * channels * inner), values("s", channels), values("b", channels));
        let n = channels / groups * inner;
        let want: Vec<f64> = wide(&x)
            .chunks(n.max(1))
            .flat_map(normal)
            .enumerate()
            .map(|(i, v)| v * f64::from(scale[i / inner % channels]) + f64::from(bias[i / inner % channels]))
            .collect();
        for got in every_ctx(|cx| {
            let mut y = vec![9.0; x.len()];
            let shape = [batch, channels, inner];
            group_norm(cx, &x, shape, groups, Some(&scale), Some(&bias), EPS, &mut y).unwrap();
            y
        }) {
            assert_close(&got, &want, 2e-5, "group_norm");
        }
    }
    let pool = Pool::new(1);
    let cx = Ctx { isa: Isa::Generic, pool: &pool };
    assert!(group_norm(cx, &[0.0; 6], [1, 6, 1], 4, None, None, EPS, &mut [0.0; 6]).is_err());
}

/// d/dx of Σ f(x)·dy by central differences in f64.
fn numeric(x: &[f64], dy: &[f32], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let h = 1e-5;
    let loss = |x: &[f64]| f(x).iter().zip(dy).map(|(y, &d)| y * f64::from(d)).sum::<f64>();
    (0..x.len())
        .map(|i| {
            let mut moved = x.to_vec();
            moved[i] = x[i] + h;
            let up = loss(&moved);
            moved[i] = x[i] - h;
            (up - loss(&moved)) / (2.0 * h)
        })
        .collect()
}

#[test]
fn layer_norm_gradient_agrees_with_differences() {
    for (rows, n) in [(1, 3), (4, 9), (70, 5)] {
        let (x, dy, scale) = (values("x", rows * n), values("dy", rows * n), values("s", n));
        let rows_of = |x: &[f64]| -> Vec<f64> { x.chunks(n).flat_map(normal).collect() };
        let want = numeric(&wide(&x), &dy, |x| {
            rows_of(x).iter().enumerate().map(|(i, v)| v * f64::from(scale[i % n])).collect()
        });
        let hat = rows_of(&wide(&x));
        let column = |f: &dyn Fn(usize) -> f64, j: usize| (0..rows).map(|r| f(r * n + j)).sum::<f64>();
        let want_scale: Vec<f64> = (0..n).map(|j| column(&|i| hat[i] * f64::from(dy[i]), j)).collect();
        let want_bias: Vec<f64> = (0..n).map(|j| column(&|i| f64::from(dy[i]), j)).collect();
        for got in every_ctx(|cx| {
            let mut out = vec![9.0; rows * n + 2 * n];
            let (dx, rest) = out.split_at_mut(rows * n);
            let (ds, db) = rest.split_at_mut(n);
            layer_norm_grad(cx, &x, &dy, rows, n, Some(&scale), EPS, dx, ds, db).unwrap();
            out
        }) {
            assert_close(&got[..rows * n], &want, 2e-5, "dx");
            assert_close(&got[rows * n..][..n], &want_scale, 2e-5, "dscale");
            assert_close(&got[rows * n + n..], &want_bias, 1e-5, "dbias");
        }
    }
}

/// [N, C, P] as [N, P, C].
fn last(x: &[f32], channels: usize, positions: usize) -> Vec<f32> {
    let image = channels * positions;
    (0..x.len()).map(|i| x[i / image * image + i % channels * positions + i % image / channels]).collect()
}

#[test]
fn batch_norm_of_channels_last_is_that_of_channels_first() {
    for [batch, channels, inner] in
        [[3, 2, 4], [5, 3, 1], [2, 1, 300], [2, 16, 700], [3, 40, 111], [1, 67, 9], [2, 300, 40], [0, 3, 4], [2, 3, 0]]
    {
        let len = batch * channels * inner;
        let (x, dy, scale, bias) = (shifted("x", len), values("dy", len), values("s", channels), values("b", channels));
        let (rows, shape) = ([batch * inner, channels], [batch, channels, inner]);
        let (xl, dyl) = (last(&x, channels, inner.max(1)), last(&dy, channels, inner.max(1)));
        every_ctx(|cx| {
            let new = || (vec![9.0; len], vec![9.0; channels], vec![9.0; channels]);
            let ((mut y, mut mean, mut var), (mut dx, mut ds, mut db)) = (new(), new());
            batch_norm_train(cx, &x, shape, &scale, &bias, EPS, &mut y, &mut mean, &mut var).unwrap();
            let (mut got, mut got_mean, mut got_var) = new();
            batch_norm_train_last(cx, &xl, rows, &scale, &bias, EPS, &mut got, &mut got_mean, &mut got_var).unwrap();
            assert_close(&got, &wide(&last(&y, channels, inner.max(1))), 2e-5, "y");
            assert_close(
                &[got_mean, got_var].concat(),
                &wide(&[mean.clone(), var.clone()].concat()),
                2e-6,
                "statistics",
            );
            if len > 0 {
                batch_norm_grad(cx, &x, &dy, shape, &mean, &var, &scale, EPS, &mut dx, &mut ds, &mut db).unwrap();
                let (mut grad, mut gs, mut gb) = new();
                batch_norm_grad_last(cx, &xl, &dyl, rows, &mean, &var, &scale, EPS, &mut grad, &mut gs, &mut gb)
                    .unwrap();
                assert_close(&grad, &wide(&last(&dx, channels, inner)), 2e-5, "dx");
                assert_close(&[gs, gb].concat(), &wide(&[ds, db].concat()), 2e-5, "dscale, dbias");
                return grad;
            }
            got
        });
    }
}

#[test]
fn batch_norm_and_its_gradient() {
    for [batch, channels, inner] in [[3, 2, 4], [5, 3, 1], [2, 1, 300]] {
        let len = batch * channels * inner;
        let (x, dy, scale, bias) = (shifted("x", len), values("dy", len), values("s", channels), values("b", channels));
        let forward = |x: &[f64]| -> Vec<f64> {
            let mut y = vec![0f64; len];
            for c in 0..channels {
                let ids: Vec<usize> = (0..len).filter(|i| i / inner % channels == c).collect();
                let n = normal(&ids.iter().map(|&i| x[i]).collect::<Vec<_>>());
                for (&i, v) in ids.iter().zip(n) {
                    y[i] = v * f64::from(scale[c]) + f64::from(bias[c]);
                }
            }
            y
        };
        let want = forward(&wide(&x));
        let want_dx = numeric(&wide(&x), &dy, forward);
        let shape = [batch, channels, inner];
        let result = every_ctx(|cx| {
            let mut y = vec![9.0; len];
            let (mut mean, mut var) = (vec![9.0; channels], vec![9.0; channels]);
            batch_norm_train(cx, &x, shape, &scale, &bias, EPS, &mut y, &mut mean, &mut var).unwrap();
            assert_close(&y, &want, 3e-5, "y");
            let (mut dx, mut ds, mut db) = (vec![9.0; len], vec![9.0; channels], vec![9.0; channels]);
            batch_norm_grad(cx, &x, &dy, shape, &mean, &var, &scale, EPS, &mut dx, &mut ds, &mut db).unwrap();
            assert_close(&dx, &want_dx, 1e-4, "dx");
            for c in 0..channels {
                let ids = (0..len).filter(|i| i / inner % channels == c);
                let (mut bias_sum, mut scale_sum) = (0.0, 0.0);
                for i in ids {
                    bias_sum += f64::from(dy[i]);
                    scale_sum += f64::from(dy[i]) * (want[i] - f64::from(bias[c])) / f64::from(scale[c]);
                }
                assert_close(&[db[c], ds[c]], &[bias_sum, scale_sum], 1e-4, "dbias, dscale");
            }
            [y, mean, var, dx, ds, db].concat()
        });
        assert!(!result.is_empty());
    }
    let pool = Pool::new(1);
    let cx = Ctx { isa: Isa::Generic, pool: &pool };
    let short = batch_norm_train(
        cx,
        &[0.0; 6],
        [1, 6, 1],
        &[1.0; 5],
        &[0.0; 6],
        EPS,
        &mut [0.0; 6],
        &mut [0.0; 6],
        &mut [0.0; 6],
    );
    assert!(short.is_err());
}
