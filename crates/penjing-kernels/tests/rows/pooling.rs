//! The rows of pooling.

use super::{Point, points, values};
use penjing_kernels::{
    Ctx,
    pool_last::{avg_pool_last, max_pool_grad_last, max_pool_last, max_pool_last_i8, max_pool_last_u8},
    pool2d::{PadCount, PoolShape, avg_pool, avg_pool_grad, max_pool, max_pool_grad, max_pool_i8, max_pool_u8},
};

/// 2 × 2 windows on one plane of 4 × 6.
pub(super) fn pooling(cx: Ctx<'_>, from: &str, op: &str) -> Vec<Point> {
    let s = PoolShape {
        planes: 1,
        input: [4, 6],
        kernel: [2, 2],
        stride: [2, 2],
        dilation: [1, 1],
        pad: [0, 0],
        pad_end: [0, 0],
        output: [2, 3],
    };
    let (x, dy) = (values("x", 24), values("dy", 6));
    let window = |o: usize| [0, 1, 6, 7].map(|d| o / 3 * 12 + o % 3 * 2 + d);
    let largest = |o: usize| window(o).into_iter().max_by(|&a, &b| x[a].total_cmp(&x[b])).unwrap();
    let mut y = vec![0f32; 6];
    let mut dx = vec![0f32; 24];
    let mut want_dx = vec![0f64; 24];
    for o in 0..6 {
        if op == "max_pool_grad" {
            want_dx[largest(o)] += f64::from(dy[o]);
        } else {
            window(o).iter().for_each(|&i| want_dx[i] += f64::from(dy[o]) / 4.0);
        }
    }
    let maxima: Vec<f64> = (0..6).map(|o| f64::from(x[largest(o)])).collect();
    match (op, from) {
        ("max_pool", "f32") => {
            max_pool(cx, &s, &x, &mut y).unwrap();
            points(&y, &maxima, 1, 1.0)
        }
        ("max_pool", _) => {
            let signed: Vec<i8> = x.iter().map(|v| (v * 127.0) as i8).collect();
            let unsigned: Vec<u8> = signed.iter().map(|&v| (v as u8) ^ 128).collect();
            let (mut a, mut b) = (vec![0i8; 6], vec![0u8; 6]);
            max_pool_i8(cx, &s, &signed, &mut a).unwrap();
            max_pool_u8(cx, &s, &unsigned, &mut b).unwrap();
            let got: Vec<f32> = if from == "s8" {
                a.iter().map(|&v| v.into()).collect()
            } else {
                b.iter().map(|&v| f32::from(v) - 128.0).collect()
            };
            let want: Vec<f64> =
                (0..6).map(|o| f64::from(window(o).map(|i| signed[i]).into_iter().max().unwrap())).collect();
            points(&got, &want, 1, 1.0)
        }
        ("max_pool_grad", _) => {
            max_pool_grad(cx, &s, &x, &dy, &mut dx).unwrap();
            points(&dx, &want_dx, 1, 1.0)
        }
        ("avg_pool", _) => {
            avg_pool(cx, &s, PadCount::Exclude, &x, &mut y).unwrap();
            let want: Vec<f64> = (0..6).map(|o| window(o).map(|i| f64::from(x[i])).iter().sum::<f64>() / 4.0).collect();
            points(&y, &want, 4, 1.0)
        }
        _ => {
            avg_pool_grad(cx, &s, PadCount::Exclude, &dy, &mut dx).unwrap();
            points(&dx, &want_dx, 1, 1.0)
        }
    }
}

/// The same windows over pixels of two channels.
pub(super) fn pooling_last(cx: Ctx<'_>, from: &str, op: &str) -> Vec<Point> {
    let (input, output) = ([4, 6], [2, 3]);
    let (kernel, dilation, pad) = ([2, 2], [1, 1], [0, 0]);
    let s = PoolShape { planes: 1, input, kernel, stride: [2, 2], dilation, pad, pad_end: [0, 0], output };
    let x = values("x", 48);
    let window = |o: usize| [0, 1, 6, 7].map(|d| (o / 2 / 3 * 12 + o / 2 % 3 * 2 + d) * 2 + o % 2);
    let mut y = vec![0f32; 12];
    if op == "avg_pool_last" {
        avg_pool_last(cx, &s, PadCount::Exclude, 2, &x, &mut y).unwrap();
        let want: Vec<f64> = (0..12).map(|o| window(o).map(|i| f64::from(x[i])).iter().sum::<f64>() / 4.0).collect();
        return points(&y, &want, 4, 1.0);
    }
    if op == "max_pool_grad_last" {
        let (dy, mut dx, mut want) = (values("dy", 12), vec![0f32; 48], vec![0f64; 48]);
        max_pool_grad_last(cx, &s, 2, &x, &dy, &mut dx).unwrap();
        for (o, &dy) in dy.iter().enumerate() {
            want[window(o).into_iter().max_by(|&a, &b| x[a].total_cmp(&x[b])).unwrap()] += f64::from(dy);
        }
        return points(&dx, &want, 1, 1.0);
    }
    let signed: Vec<i8> = x.iter().map(|v| (v * 127.0) as i8).collect();
    let largest = |at: &dyn Fn(usize) -> f64| -> Vec<f64> {
        (0..12).map(|o| window(o).map(at).into_iter().fold(f64::NEG_INFINITY, f64::max)).collect()
    };
    match from {
        "f32" => {
            max_pool_last(cx, &s, 2, &x, &mut y).unwrap();
            points(&y, &largest(&|i| x[i].into()), 1, 1.0)
        }
        "s8" => {
            let mut out = vec![0i8; 12];
            max_pool_last_i8(cx, &s, 2, &signed, &mut out).unwrap();
            let got: Vec<f32> = out.iter().map(|&v| v.into()).collect();
            points(&got, &largest(&|i| signed[i].into()), 1, 1.0)
        }
        _ => {
            let unsigned: Vec<u8> = signed.iter().map(|&v| (v as u8) ^ 128).collect();
            let mut out = vec![0u8; 12];
            max_pool_last_u8(cx, &s, 2, &unsigned, &mut out).unwrap();
            let got: Vec<f32> = out.iter().map(|&v| v.into()).collect();
            points(&got, &largest(&|i| unsigned[i].into()), 1, 1.0)
        }
    }
}
