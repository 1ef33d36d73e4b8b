//! Programs against scalar f64 code.

use super::*;
use crate::testing::{assert_close, contexts, every_ctx, values};
use crate::{Ctx, Isa, KernelError, Pool};

const LENS: [usize; 8] = [0, 1, 7, 511, 512, 513, 8192, 20_011];

fn run1(cx: Ctx<'_>, program: &Program, len: usize, inputs: &[Input<'_>]) -> Vec<f32> {
    let mut out = vec![f32::NAN; len];
    run_program(cx, program, len, inputs, &mut [Output::F32(&mut out)]).unwrap();
    out
}

fn unary_f64(op: UnaryOp, x: f64) -> Option<f64> {
    Some(match op {
        UnaryOp::Neg => -x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Exp => x.exp(),
        UnaryOp::Log => x.ln(),
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Recip => 1.0 / x,
        UnaryOp::Sin => x.sin(),
        UnaryOp::Cos => x.cos(),
        UnaryOp::Tan => x.tan(),
        UnaryOp::Asin => x.asin(),
        UnaryOp::Acos => x.acos(),
        UnaryOp::Atan => x.atan(),
        UnaryOp::Sinh => x.sinh(),
        UnaryOp::Cosh => x.cosh(),
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Asinh => x.asinh(),
        UnaryOp::Acosh => x.acosh(),
        UnaryOp::Atanh => x.atanh(),
        UnaryOp::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        // Checked against a series in `math`.
        UnaryOp::Erf => return None,
        // Checked in `activation`.
        UnaryOp::Gelu | UnaryOp::GeluTanh => return None,
        UnaryOp::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        UnaryOp::Relu => {
            if x.is_nan() {
                x
            } else {
                x.max(0.0)
            }
        }
        UnaryOp::Floor => x.floor(),
        UnaryOp::Ceil => x.ceil(),
        UnaryOp::Round => x.round_ties_even(),
        UnaryOp::Trunc => x.trunc(),
        UnaryOp::Sign => {
            if x == 0.0 || x.is_nan() {
                x
            } else {
                x.signum()
            }
        }
        UnaryOp::Square => x * x,
        UnaryOp::Not => f64::from(u8::from(x == 0.0)),
        UnaryOp::IsNan => f64::from(u8::from(x.is_nan())),
        UnaryOp::IsInf => f64::from(u8::from(x.is_infinite())),
    })
}

fn binary_f64(op: BinaryOp, a: f64, b: f64) -> f64 {
    let truth = |t: bool| f64::from(u8::from(t));
    match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Pow => a.powf(b),
        BinaryOp::Max => {
            if a.is_nan() || b.is_nan() {
                f64::NAN
            } else {
                a.max(b)
            }
        }
        BinaryOp::Min => {
            if a.is_nan() || b.is_nan() {
                f64::NAN
            } else {
                a.min(b)
            }
        }
        BinaryOp::Mod => {
            if b.is_infinite() {
                f64::NAN
            } else {
                a - b * (a / b).floor()
            }
        }
        BinaryOp::Rem => a % b,
        BinaryOp::Eq => truth(a == b),
        BinaryOp::Ne => truth(a != b),
        BinaryOp::Lt => truth(a < b),
        BinaryOp::Le => truth(a <= b),
        BinaryOp::Gt => truth(a > b),
        BinaryOp::Ge => truth(a >= b),
    }
}

/// Values of many sizes, halves, zeros of both signs, infinities and NaN.
fn mixed(name: &str, n: usize) -> Vec<f32> {
    let mut v: Vec<f32> = values(name, n).into_iter().enumerate().map(|(i, v)| v * [1.0, 8.0, 100.0][i % 3]).collect();
    let special = [0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 3e7, -1.0, 1.0];
    for (v, s) in v.iter_mut().zip(special) {
        *v = s;
    }
    v
}

#[test]
fn every_unary_operation() {
    for op in UnaryOp::ALL {
        let mut b = ProgramBuilder::new();
        let x = b.input();
        let y = b.unary(op, x);
        b.output(y);
        let program = b.build().unwrap();
        for len in LENS {
            let x = mixed("x", len);
            for got in every_ctx(|cx| run1(cx, &program, len, &[Input::full(&x)])) {
                let want: Option<Vec<f64>> =
                    x.iter().map(|&x| unary_f64(op, f64::from(x)).map(|v| f64::from(v as f32))).collect();
                if let Some(want) = want {
                    assert_close(&got, &want, 5e-7, &format!("{op:?}"));
                }
            }
        }
    }
}

#[test]
fn every_binary_operation() {
    for op in BinaryOp::ALL {
        let mut b = ProgramBuilder::new();
        let (x, y) = (b.input(), b.input());
        let z = b.binary(op, x, y);
        b.output(z);
        let program = b.build().unwrap();
        for len in LENS {
            let (x, mut y) = (mixed("x", len), mixed("y", len));
            y.rotate_left(len.min(5));
            if len > 30 {
                y[20..30].copy_from_slice(&x[20..30]);
            }
            for got in every_ctx(|cx| run1(cx, &program, len, &[Input::full(&x), Input::full(&y)])) {
                for i in 0..len {
                    let want = binary_f64(op, f64::from(x[i]), f64::from(y[i]));
                    if matches!(op, BinaryOp::Mod) && (x[i].abs() > 1e6 || !want.is_finite()) {
                        continue;
                    }
                    let want = f64::from(want as f32);
                    assert_close(&got[i..=i], &[want], 2e-6, &format!("{op:?}({}, {})", x[i], y[i]));
                }
            }
        }
    }
}

#[test]
fn layouts_broadcast() {
    let shape = [3usize, 5, 7, 31];
    let len: usize = shape.iter().product();
    let (full, channel, row, scalar) = (values("f", len), values("c", 5), values("r", 31), [0.25f32]);
    let mask: Vec<u8> = (0..7).map(|i| [0, 1, 3][i % 3]).collect();
    let mut b = ProgramBuilder::new();
    let [f, c, r, s, m] = std::array::from_fn(|_| b.input());
    let y = b.binary(BinaryOp::Mul, f, c);
    let y = b.binary(BinaryOp::Add, y, r);
    let t = b.binary(BinaryOp::Sub, y, s);
    let y = b.select(m, t, y);
    b.output(y);
    let program = b.build().unwrap();
    let inputs = [
        Input::full(&full),
        Input::channel(&channel, 7 * 31),
        Input::channel(&row, 1),
        Input::scalar(&scalar),
        Input { data: Data::Bool(&mask), layout: Layout::Strided { shape: &shape, strides: &[0, 0, 1, 0] } },
    ];
    let want: Vec<f64> = (0..len)
        .map(|i| {
            let y = f64::from(full[i]) * f64::from(channel[i / 217 % 5]) + f64::from(row[i % 31]);
            if mask[i / 31 % 7] == 0 { y } else { y - 0.25 }
        })
        .collect();
    for got in every_ctx(|cx| run1(cx, &program, len, &inputs)) {
        assert_close(&got, &want, 3e-7, "broadcast");
    }
}

/// SGD with momentum, Nesterov and weight decay: three inputs, two of them replaced.
#[test]
fn an_optimizer_update_is_one_program_in_place() {
    let n = 1300;
    let (w0, v0, g) = (values("w", n), values("v", n), values("g", n));
    let mut b = ProgramBuilder::new();
    let [w, v, g_in, lr] = std::array::from_fn(|_| b.input());
    let decay = b.constant(5e-4);
    let momentum = b.constant(0.9);
    let wd = b.binary(BinaryOp::Mul, w, decay);
    let g1 = b.binary(BinaryOp::Add, g_in, wd);
    let mv = b.binary(BinaryOp::Mul, v, momentum);
    let v1 = b.binary(BinaryOp::Add, mv, g1);
    let nv = b.binary(BinaryOp::Mul, v1, momentum);
    let d = b.binary(BinaryOp::Add, nv, g1);
    let step = b.binary(BinaryOp::Mul, d, lr);
    let w1 = b.binary(BinaryOp::Sub, w, step);
    b.output(w1);
    b.output(v1);
    let program = b.build().unwrap();
    assert!(program.registers <= 4, "{} registers for a chain", program.registers);
    for isa in Isa::ALL {
        for cx in contexts(isa) {
            let (mut w, mut v) = (w0.clone(), v0.clone());
            let inputs = [Input::in_place(0), Input::in_place(1), Input::full(&g), Input::scalar(&[0.05])];
            run_program(cx.get(), &program, n, &inputs, &mut [Output::F32(&mut w), Output::F32(&mut v)]).unwrap();
            for i in 0..n {
                let g1 = f64::from(g[i]) + 5e-4 * f64::from(w0[i]);
                let v1 = 0.9 * f64::from(v0[i]) + g1;
                let w1 = f64::from(w0[i]) - 0.05 * (g1 + 0.9 * v1);
                assert_close(&[w[i], v[i]], &[w1, v1], 4e-7, "sgd");
            }
        }
    }
}

#[test]
fn outputs_that_are_inputs_swap_in_place() {
    let mut b = ProgramBuilder::new();
    let (x, y) = (b.input(), b.input());
    b.output(y);
    b.output(x);
    let program = b.build().unwrap();
    let pool = Pool::new(2);
    let cx = Ctx { isa: Isa::detect(), pool: &pool };
    let (mut a, mut c) = (vec![1.0; 600], vec![2.0; 600]);
    let inputs = [Input::in_place(0), Input::in_place(1)];
    run_program(cx, &program, 600, &inputs, &mut [Output::F32(&mut a), Output::F32(&mut c)]).unwrap();
    assert!(a.iter().all(|&v| v == 2.0) && c.iter().all(|&v| v == 1.0));
}

#[test]
fn truth_values_are_bytes_on_request() {
    let mut b = ProgramBuilder::new();
    let (x, zero) = (b.input(), b.constant(0.0));
    let y = b.binary(BinaryOp::Lt, x, zero);
    b.output(y);
    let program = b.build().unwrap();
    let pool = Pool::new(1);
    let cx = Ctx { isa: Isa::detect(), pool: &pool };
    let mut out = [9u8; 4];
    let x = [-1.0, 0.0, f32::NAN, -0.0];
    run_program(cx, &program, 4, &[Input::full(&x)], &mut [Output::Bool(&mut out)]).unwrap();
    assert_eq!(out, [1, 0, 0, 0]);
}

#[test]
fn wrong_operands_are_errors() {
    let mut b = ProgramBuilder::new();
    let x = b.input();
    let y = b.unary(UnaryOp::Neg, x);
    b.output(y);
    let program = b.build().unwrap();
    let pool = Pool::new(1);
    let cx = Ctx { isa: Isa::Generic, pool: &pool };
    let run = |len, inputs: &[Input<'_>]| {
        let mut out = vec![0.0; 6];
        run_program(cx, &program, len, inputs, &mut [Output::F32(&mut out)])
    };
    let strided = |x, shape, strides| Input { data: Data::F32(x), layout: Layout::Strided { shape, strides } };
    assert!(run(6, &[Input::full(&[0.0; 6])]).is_ok());
    assert!(run(5, &[Input::full(&[0.0; 6])]).is_err());
    assert!(run(6, &[Input::full(&[0.0; 5])]).is_err());
    assert!(run(6, &[]).is_err());
    assert!(run(6, &[Input::scalar(&[])]).is_err());
    assert!(run(6, &[Input::channel(&[], 2)]).is_err());
    assert!(run(6, &[Input::channel(&[0.0; 3], 0)]).is_err());
    assert!(run(6, &[strided(&[0.0; 5], &[2, 3], &[3, 1])]).is_err());
    assert!(run(6, &[strided(&[0.0; 6], &[2, 2], &[3, 1])]).is_err());
    assert!(run(6, &[strided(&[0.0; 6], &[2, 3], &[1])]).is_err());
    assert!(run(6, &[Input::in_place(1)]).is_err());
    assert!(ProgramBuilder::new().build().is_err());
    let mut other = ProgramBuilder::new();
    other.output(y);
    assert!(matches!(other.build(), Err(KernelError::Geometry { .. })));
}
