//! Every family against answers computed by hand or taken from NumPy and the ONNX operator documentation.

#![allow(clippy::unwrap_used)]

use penjing_ir::*;
use penjing_reference::{RefError, eval_op};
use penjing_tensor::{DType, Tensor, bf16, f16};

fn f(shape: &[usize], v: &[f64]) -> Tensor {
    Tensor::from_f64s(DType::F32, shape, v.to_vec()).unwrap()
}

fn d(shape: &[usize], v: &[f64]) -> Tensor {
    Tensor::from_f64s(DType::F64, shape, v.to_vec()).unwrap()
}

fn i(shape: &[usize], v: &[i64]) -> Tensor {
    Tensor::from_vec(shape, v.to_vec()).unwrap()
}

fn int(dtype: DType, shape: &[usize], v: &[i64]) -> Tensor {
    i(shape, v).cast(dtype)
}

fn bools(shape: &[usize], v: &[bool]) -> Tensor {
    Tensor::from_bools(shape, v).unwrap()
}

fn eval(op: Op, inputs: &[&Tensor]) -> Tensor {
    eval_op(&op, inputs).unwrap().remove(0)
}

/// Equal bit for bit.
#[track_caller]
fn is(op: Op, inputs: &[&Tensor], want: &Tensor) {
    assert_eq!(eval(op, inputs), *want);
}

#[track_caller]
fn near(got: &Tensor, shape: &[usize], want: &[f64]) {
    assert_eq!(got.shape(), shape);
    for (g, w) in got.to_f64s().iter().zip(want) {
        assert!((g - w).abs() <= 2e-7 * w.abs().max(1.0) || (g.is_nan() && w.is_nan()), "{got:?} is not {want:?}");
    }
    assert_eq!(got.len(), want.len());
}

fn unary(u: Unary, x: f64) -> f64 {
    eval(Op::Unary(u), &[&d(&[], &[x])]).to_f64s()[0]
}

#[test]
fn unary_functions_have_their_textbook_values() {
    let cases = [
        (Unary::Erf, 0.5, 0.520_499_877_813_046_5),
        (Unary::Gelu, 1.0, 0.841_344_746_068_542_9),
        (Unary::GeluTanh, 1.0, 0.841_191_990_608_277_5),
        (Unary::Sigmoid, -1000.0, 0.0),
        (Unary::Softplus, 1000.0, 1000.0),
        (Unary::Softplus, 0.0, std::f64::consts::LN_2),
        (Unary::Silu, 1.0, 0.731_058_578_630_004_9),
        (Unary::HardSwish, 1.0, 2.0 / 3.0),
        (Unary::HardSwish, -4.0, 0.0),
        (Unary::HardSigmoid { alpha: Real(0.2), beta: Real(0.5) }, 1.0, 0.7),
        (Unary::LeakyRelu(Real(0.1)), -2.0, -0.2),
        (Unary::Elu(Real(2.0)), -1.0, 2.0 * ((-1f64).exp() - 1.0)),
        (Unary::Round, 2.5, 2.0),
        (Unary::Round, -1.5, -2.0),
        (Unary::Round, -0.5, 0.0),
        (Unary::Sign, -3.0, -1.0),
        (Unary::Recip, 4.0, 0.25),
        (Unary::Floor, -0.5, -1.0),
        (Unary::Ceil, 0.5, 1.0),
        (Unary::Atanh, 0.5, 0.549_306_144_334_054_8),
        (Unary::Relu, -1.0, 0.0),
    ];
    for (u, x, want) in cases {
        let got = unary(u, x);
        assert!((got - want).abs() < 1e-14, "{u:?}({x}) = {got}, not {want}");
    }
    assert!(unary(Unary::Relu, f64::NAN).is_nan() && unary(Unary::Sign, f64::NAN).is_nan());
}

#[test]
fn unary_keeps_dtypes_and_wraps() {
    let t = int(DType::I8, &[3], &[-128, -5, 7]);
    is(Op::Unary(Unary::Neg), &[&t], &int(DType::I8, &[3], &[-128, 5, -7]));
    is(Op::Unary(Unary::Abs), &[&t], &int(DType::I8, &[3], &[-128, 5, 7]));
    is(Op::Unary(Unary::Sign), &[&t], &int(DType::I8, &[3], &[-1, -1, 1]));
    is(Op::Unary(Unary::BitNot), &[&int(DType::U8, &[2], &[0, 240])], &int(DType::U8, &[2], &[255, 15]));
    is(Op::Unary(Unary::Not), &[&bools(&[2], &[true, false])], &bools(&[2], &[false, true]));
    let x = f(&[4], &[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.0]);
    is(Op::Unary(Unary::IsNan), &[&x], &bools(&[4], &[true, false, false, false]));
    let inf = Unary::IsInf { positive: false, negative: true };
    is(Op::Unary(inf), &[&x], &bools(&[4], &[false, false, true, false]));
    let h = Tensor::from_vec(&[1], vec![f16::from_f32(2.0)]).unwrap();
    assert_eq!(eval(Op::Unary(Unary::Sqrt), &[&h]).as_slice::<f16>().unwrap(), [f16::from_f64(2f64.sqrt())]);
    let b = Tensor::from_vec(&[1], vec![bf16::from_f32(3.0)]).unwrap();
    assert_eq!(eval(Op::Unary(Unary::Recip), &[&b]).as_slice::<bf16>().unwrap(), [bf16::from_f64(1.0 / 3.0)]);
}

#[test]
fn binary_integers_follow_the_documented_rules() {
    let cases = [
        (Binary::Div, -7, 2, -3),
        (Binary::Div, 5, 0, 0),
        (Binary::Mod, -7, 3, 2),
        (Binary::Mod, 7, -3, -2),
        (Binary::Fmod, -7, 3, -1),
        (Binary::Mod, 7, 0, 0),
        (Binary::Pow, 3, 4, 81),
        (Binary::Pow, 2, 31, i64::from(i32::MIN)),
        (Binary::Pow, 2, -1, 0),
        (Binary::Pow, -1, -3, -1),
        (Binary::Add, i64::from(i32::MAX), 1, i64::from(i32::MIN)),
        (Binary::Sub, i64::from(i32::MIN), 1, i64::from(i32::MAX)),
        (Binary::Mul, 65_536, 65_536, 0),
        (Binary::Div, i64::from(i32::MIN), -1, i64::from(i32::MIN)),
        (Binary::BitXor, 12, 10, 6),
    ];
    for (b, x, y, want) in cases {
        let got = eval(Op::Binary(b), &[&int(DType::I32, &[], &[x]), &int(DType::I32, &[], &[y])]);
        assert_eq!(got, int(DType::I32, &[], &[want]), "{b:?}({x}, {y})");
    }
    let (a, b) = (int(DType::U8, &[3], &[129, 16, 1]), int(DType::U8, &[3], &[1, 2, 9]));
    is(Op::Binary(Binary::Shl), &[&a, &b], &int(DType::U8, &[3], &[2, 64, 0]));
    is(Op::Binary(Binary::Shr), &[&a, &b], &int(DType::U8, &[3], &[64, 4, 0]));
    let big = Tensor::scalar(u64::MAX);
    is(Op::Binary(Binary::Div), &[&big, &Tensor::scalar(2u64)], &Tensor::scalar(u64::MAX / 2));
    assert_eq!(eval(Op::Compare(Compare::Less), &[&Tensor::scalar(1u64), &big]), bools(&[], &[true]));
}

#[test]
fn binary_floats_broadcast_and_propagate_nan() {
    let a = f(&[2, 1], &[1.0, f64::NAN]);
    let b = f(&[3], &[0.0, 2.0, f64::NAN]);
    let nan = f64::NAN;
    near(&eval(Op::Binary(Binary::Max), &[&a, &b]), &[2, 3], &[1.0, 2.0, nan, nan, nan, nan]);
    near(&eval(Op::Binary(Binary::Min), &[&a, &b]), &[2, 3], &[0.0, 1.0, nan, nan, nan, nan]);
    near(&eval(Op::Binary(Binary::Mod), &[&f(&[2], &[-7.5, 7.5]), &f(&[], &[2.0])]), &[2], &[0.5, 1.5]);
    near(&eval(Op::Binary(Binary::Fmod), &[&f(&[2], &[-7.5, 7.5]), &f(&[], &[2.0])]), &[2], &[-1.5, 1.5]);
    is(Op::Compare(Compare::LessEqual), &[&b, &f(&[], &[0.0])], &bools(&[3], &[true, false, false]));
    is(Op::Binary(Binary::Add), &[&f(&[0, 3], &[]), &b], &f(&[0, 3], &[]));
}

#[test]
fn select_and_cast() {
    let c = bools(&[2, 1], &[true, false]);
    is(Op::Select, &[&c, &i(&[2], &[1, 2]), &i(&[], &[9])], &i(&[2, 2], &[1, 2, 9, 9]));
    is(Op::Cast(DType::I8), &[&f(&[3], &[-1.9, 300.0, f64::NAN])], &int(DType::I8, &[3], &[-1, 127, 0]));
    is(Op::StopGradient, &[&c], &c);
}

#[test]
fn reductions() {
    let x = f(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let reduce = |kind, axes: &[usize], keep| Op::Reduce { kind, axes: axes.to_vec(), keep };
    is(reduce(Reduction::Sum, &[0], false), &[&x], &f(&[3], &[5.0, 7.0, 9.0]));
    is(reduce(Reduction::Mean, &[1], true), &[&x], &f(&[2, 1], &[2.0, 5.0]));
    is(reduce(Reduction::Prod, &[0, 1], false), &[&x], &f(&[], &[720.0]));
    is(reduce(Reduction::Max, &[], false), &[&x], &x);
    is(reduce(Reduction::Mean, &[0], false), &[&i(&[3], &[-1, -2, -4])], &i(&[], &[-2]));
    let empty = f(&[2, 0], &[]);
    is(reduce(Reduction::Max, &[1], false), &[&empty], &f(&[2], &[f64::NEG_INFINITY; 2]));
    is(reduce(Reduction::Sum, &[1], false), &[&empty], &f(&[2], &[0.0; 2]));
    is(reduce(Reduction::Prod, &[1], true), &[&empty], &f(&[2, 1], &[1.0; 2]));
    is(reduce(Reduction::Min, &[0], false), &[&int(DType::I8, &[0], &[])], &int(DType::I8, &[], &[127]));
    // 2²⁴ ones and a one: a running f32 sum would stop at 2²⁴.
    let long = Tensor::from_vec(&[16_777_218], vec![1f32; 16_777_218]).unwrap();
    is(reduce(Reduction::Sum, &[0], false), &[&long], &f(&[], &[16_777_218.0]));
    let nan = f(&[3], &[1.0, f64::NAN, 2.0]);
    assert!(eval(reduce(Reduction::Min, &[0], false), &[&nan]).to_f64s()[0].is_nan());
}

#[test]
fn searches_and_running_sums() {
    let x = f(&[2, 4], &[1.0, 3.0, 3.0, 2.0, 5.0, 4.0, 4.0, 5.0]);
    let arg = |kind, last| Op::ArgReduce { kind, axis: 1, keep: false, last };
    is(arg(ArgKind::Max, false), &[&x], &i(&[2], &[1, 0]));
    is(arg(ArgKind::Max, true), &[&x], &i(&[2], &[2, 3]));
    is(arg(ArgKind::Min, false), &[&x], &i(&[2], &[0, 1]));
    is(arg(ArgKind::Min, true), &[&x], &i(&[2], &[0, 2]));
    let with_nan = f(&[1, 3], &[1.0, f64::NAN, 9.0]);
    is(arg(ArgKind::Max, false), &[&with_nan], &i(&[1], &[1]));
    is(arg(ArgKind::Min, false), &[&with_nan], &i(&[1], &[1]));
    let none = eval_op(&arg(ArgKind::Max, false), &[&f(&[2, 0], &[])]);
    assert!(matches!(none, Err(RefError::Undefined { .. })));

    let sum = |exclusive, reverse| Op::CumSum { axis: 0, exclusive, reverse };
    let line = i(&[3], &[1, 2, 4]);
    is(sum(false, false), &[&line], &i(&[3], &[1, 3, 7]));
    is(sum(true, false), &[&line], &i(&[3], &[0, 1, 3]));
    is(sum(false, true), &[&line], &i(&[3], &[7, 6, 4]));
    is(sum(true, true), &[&line], &i(&[3], &[6, 4, 0]));

    let top = |largest| eval_op(&Op::TopK { axis: 1, k: Dim::Const(3), largest }, &[&x]).unwrap();
    assert_eq!(top(true), [f(&[2, 3], &[3.0, 3.0, 2.0, 5.0, 5.0, 4.0]), i(&[2, 3], &[1, 2, 3, 0, 3, 1])]);
    assert_eq!(top(false), [f(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 4.0, 5.0]), i(&[2, 3], &[0, 3, 1, 1, 2, 0])]);
}

#[test]
fn movement() {
    let x = i(&[2, 3], &[0, 1, 2, 3, 4, 5]);
    is(Op::Permute { perm: vec![1, 0] }, &[&x], &i(&[3, 2], &[0, 3, 1, 4, 2, 5]));
    is(Op::Reshape { shape: vec![3.into(), 2.into()] }, &[&x], &i(&[3, 2], &[0, 1, 2, 3, 4, 5]));
    is(Op::Expand { shape: vec![2.into(), 2.into()] }, &[&i(&[2, 1], &[7, 8])], &i(&[2, 2], &[7, 7, 8, 8]));
    let range = |start: usize, len: usize, step| SliceRange { start: start.into(), len: len.into(), step };
    is(Op::Slice { ranges: vec![range(1, 1, 1), range(2, 2, -2)] }, &[&x], &i(&[1, 2], &[5, 3]));
    is(Op::Slice { ranges: vec![range(1, 1, i64::MIN), range(0, 2, 2)] }, &[&x], &i(&[1, 2], &[3, 5]));
    is(Op::Slice { ranges: vec![range(0, 0, 1), range(0, 3, 1)] }, &[&x], &i(&[0, 3], &[]));
    is(Op::Concat { axis: 1 }, &[&x, &i(&[2, 0], &[]), &i(&[2, 1], &[8, 9])], &i(&[2, 4], &[0, 1, 2, 8, 3, 4, 5, 9]));
    let pad = |mode| Op::Pad { before: vec![0, 1], after: vec![1, 0], mode };
    is(pad(PadMode::Constant(Real(-1.0))), &[&x], &i(&[3, 4], &[-1, 0, 1, 2, -1, 3, 4, 5, -1, -1, -1, -1]));
    is(pad(PadMode::Reflect), &[&x], &i(&[3, 4], &[1, 0, 1, 2, 4, 3, 4, 5, 1, 0, 1, 2]));
    is(pad(PadMode::Edge), &[&x], &i(&[3, 4], &[0, 0, 1, 2, 3, 3, 4, 5, 3, 3, 4, 5]));
    is(pad(PadMode::Wrap), &[&x], &i(&[3, 4], &[2, 0, 1, 2, 5, 3, 4, 5, 2, 0, 1, 2]));
}

#[test]
fn gathers_and_scatters() {
    let x = i(&[3, 2], &[0, 1, 10, 11, 20, 21]);
    is(Op::Gather { axis: 0 }, &[&x, &i(&[2], &[-1, 0])], &i(&[2, 2], &[20, 21, 0, 1]));
    is(Op::Gather { axis: 1 }, &[&x, &i(&[], &[1])], &i(&[3], &[1, 11, 21]));
    let bad = eval_op(&Op::Gather { axis: 0 }, &[&x, &i(&[2], &[0, 3])]);
    assert_eq!(bad, Err(RefError::IndexOutOfRange { index: 3, position: 1, extent: 3 }));
    let grad = Op::GatherGrad { axis: 0, size: Dim::Const(3) };
    is(
        grad,
        &[&i(&[3], &[2, 0, -1]), &f(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])],
        &f(&[3, 2], &[3.0, 4.0, 0.0, 0.0, 6.0, 8.0]),
    );
    let grad = Op::GatherGrad { axis: 1, size: Dim::Const(2) };
    is(grad, &[&i(&[2], &[1, 1]), &f(&[2, 2], &[1.0, 2.0, 3.0, 4.0])], &f(&[2, 2], &[0.0, 3.0, 0.0, 7.0]));
    is(Op::GatherElements { axis: 0 }, &[&x, &i(&[1, 2], &[2, -2])], &i(&[1, 2], &[20, 11]));
    is(Op::GatherElements { axis: 1 }, &[&x, &i(&[3, 1], &[1, 0, 1])], &i(&[3, 1], &[1, 10, 21]));
    // The ONNX documentation's first example of ScatterElements.
    let (index, updates) = (i(&[2, 3], &[1, 0, 2, 0, 2, 1]), f(&[2, 3], &[1.0, 1.1, 1.2, 2.0, 2.1, 2.2]));
    let scatter = Op::ScatterElements { axis: 0, reduction: ScatterReduction::None };
    is(
        scatter,
        &[&f(&[3, 3], &[0.0; 9]), &index, &updates],
        &f(&[3, 3], &[2.0, 1.1, 0.0, 1.0, 0.0, 2.2, 0.0, 2.1, 1.2]),
    );
    let add = Op::ScatterElements { axis: 0, reduction: ScatterReduction::Add };
    is(add, &[&i(&[2], &[1, 1]), &i(&[3], &[0, 0, 1]), &i(&[3], &[5, 6, 7])], &i(&[2], &[12, 8]));
    // ONNX documentation of GatherND, examples 1, 2 and 5.
    let data = i(&[2, 2], &[0, 1, 2, 3]);
    is(Op::GatherNd { batch_dims: 0 }, &[&data, &i(&[2, 2], &[0, 0, 1, 1])], &i(&[2], &[0, 3]));
    is(Op::GatherNd { batch_dims: 0 }, &[&data, &i(&[2, 1], &[1, 0])], &i(&[2, 2], &[2, 3, 0, 1]));
    let cube = i(&[2, 2, 2], &[0, 1, 2, 3, 4, 5, 6, 7]);
    is(Op::GatherNd { batch_dims: 1 }, &[&cube, &i(&[2, 1], &[1, 0])], &i(&[2, 2], &[2, 3, 4, 5]));
    let nd = |reduction| Op::ScatterNd { reduction };
    let line = i(&[4], &[1, 2, 3, 4]);
    is(nd(ScatterReduction::None), &[&line, &i(&[2, 1], &[3, -4]), &i(&[2], &[9, 8])], &i(&[4], &[8, 2, 3, 9]));
    is(nd(ScatterReduction::Max), &[&line, &i(&[2, 1], &[1, 1]), &i(&[2], &[0, 7])], &i(&[4], &[1, 7, 3, 4]));
    is(nd(ScatterReduction::Mul), &[&data, &i(&[1, 1], &[1]), &i(&[1, 2], &[5, 6])], &i(&[2, 2], &[0, 1, 10, 18]));
}

#[test]
fn generated_values() {
    let hot = |axis, depth: usize| Op::OneHot { axis, depth: depth.into(), dtype: DType::F32 };
    is(hot(1, 3), &[&i(&[3], &[2, -1, 7])], &f(&[3, 3], &[0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]));
    is(hot(0, 2), &[&i(&[2], &[1, 0])], &f(&[2, 2], &[0.0, 1.0, 1.0, 0.0]));
    let iota = Op::Iota { shape: vec![2.into(), 3.into()], axis: 1, dtype: DType::I32 };
    is(iota, &[], &int(DType::I32, &[2, 3], &[0, 1, 2, 0, 1, 2]));
    is(Op::Iota { shape: vec![], axis: 0, dtype: DType::F32 }, &[], &f(&[], &[0.0]));
    is(Op::DimValues { dims: vec![4.into(), 5.into()] }, &[], &i(&[2], &[4, 5]));
    let non_zero = || Op::NonZero { count: Symbol::late("k") };
    is(non_zero(), &[&f(&[2, 2], &[1.0, 0.0, f64::NAN, -2.0])], &i(&[2, 3], &[0, 1, 1, 0, 0, 1]));
    is(non_zero(), &[&bools(&[], &[true])], &i(&[1, 1], &[0]));
    is(non_zero(), &[&f(&[0, 3], &[])], &i(&[2, 0], &[]));
    let random = Op::Random { kind: RandomKind::Uniform, shape: vec![2.into()], seed: 5, stream: "drop".into() };
    let rng = penjing_tensor::Rng::new(5, "drop", 9);
    assert_eq!(eval(random, &[&i(&[], &[9])]).as_slice::<f32>().unwrap(), [rng.uniform(0), rng.uniform(1)]);
}

#[test]
fn matrix_products() {
    let a = f(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let b = f(&[3, 2], &[7.0, 8.0, 9.0, 10.0, 11.0, 12.0]);
    let want = f(&[2, 2], &[58.0, 64.0, 139.0, 154.0]);
    let op = |trans_a, trans_b| Op::MatMul { trans_a, trans_b };
    let flip = |t: &Tensor| eval(Op::Permute { perm: vec![1, 0] }, &[t]);
    is(op(false, false), &[&a, &b], &want);
    is(op(true, false), &[&flip(&a), &b], &want);
    is(op(false, true), &[&a, &flip(&b)], &want);
    is(op(true, true), &[&flip(&a), &flip(&b)], &want);
    let batch = f(&[2, 1, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
    let columns = f(&[3, 2, 1], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    is(op(false, false), &[&batch, &columns], &f(&[2, 3, 1, 1], &[1.0, 2.0, 3.0, 3.0, 4.0, 7.0]));
    is(op(false, false), &[&f(&[2, 0], &[]), &f(&[0, 2], &[])], &f(&[2, 2], &[0.0; 4]));
    let wrap = int(DType::U8, &[1, 2], &[200, 100]);
    is(op(false, true), &[&wrap, &wrap], &int(DType::U8, &[1, 1], &[(200 * 200 + 100 * 100) % 256]));
}

fn spec(strides: &[usize], pads: &[(usize, usize)], dilations: &[usize], groups: usize) -> ConvSpec {
    ConvSpec { strides: strides.to_vec(), pads: pads.to_vec(), dilations: dilations.to_vec(), groups }
}

#[test]
fn convolutions() {
    // ONNX documentation of Conv: 5×5 counting up, 3×3 of ones.
    let x = f(&[1, 1, 5, 5], &(0..25).map(f64::from).collect::<Vec<_>>());
    let ones = f(&[1, 1, 3, 3], &[1.0; 9]);
    let same = spec(&[1, 1], &[(1, 1), (1, 1)], &[1, 1], 1);
    let want = [
        12.0, 21.0, 27.0, 33.0, 24.0, 33.0, 54.0, 63.0, 72.0, 51.0, 63.0, 99.0, 108.0, 117.0, 81.0, 93.0, 144.0, 153.0,
        162.0, 111.0, 72.0, 111.0, 117.0, 123.0, 84.0,
    ];
    is(Op::Conv(same), &[&x, &ones], &f(&[1, 1, 5, 5], &want));
    // Stride 2, asymmetric padding, a bias.
    let odd = spec(&[2, 2], &[(1, 0), (0, 0)], &[1, 1], 1);
    let y = f(&[1, 1, 2, 2], &[21.0 + 1.0, 33.0 + 1.0, 99.0 + 1.0, 117.0 + 1.0]);
    is(Op::Conv(odd), &[&x, &ones, &f(&[1], &[1.0])], &y);
    // 1-D, dilation 2: y[o] = x[o] + 10·x[o+2].
    let line = f(&[1, 1, 4], &[1.0, 2.0, 3.0, 4.0]);
    let dilated = spec(&[1], &[(0, 0)], &[2], 1);
    is(Op::Conv(dilated), &[&line, &f(&[1, 1, 2], &[1.0, 10.0])], &f(&[1, 1, 2], &[31.0, 42.0]));
    // Two groups of one channel: each output sees its own channel only.
    let two = f(&[1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let grouped = spec(&[1], &[(0, 0)], &[1], 2);
    is(Op::Conv(grouped), &[&two, &f(&[2, 1, 1], &[10.0, 100.0])], &f(&[1, 2, 2], &[10.0, 20.0, 300.0, 400.0]));
    // 3-D: a 2×2×2 of ones over a 2×2×2 cube.
    let cube = f(&[1, 1, 2, 2, 2], &(1..9).map(f64::from).collect::<Vec<_>>());
    is(Op::Conv(ConvSpec::unit(3)), &[&cube, &f(&[1, 1, 2, 2, 2], &[1.0; 8])], &f(&[1, 1, 1, 1, 1], &[36.0]));
    is(Op::Conv(ConvSpec::unit(1)), &[&f(&[0, 1, 3], &[]), &f(&[1, 1, 2], &[1.0; 2])], &f(&[0, 1, 2], &[]));
    is(Op::Conv(ConvSpec::unit(1)), &[&f(&[1, 0, 3], &[]), &f(&[1, 0, 2], &[])], &f(&[1, 1, 2], &[0.0; 2]));
}

#[test]
fn transposed_convolutions() {
    // ONNX documentation of ConvTranspose: 3×3 counting up, two output channels of ones.
    let x = f(&[1, 1, 3, 3], &(0..9).map(f64::from).collect::<Vec<_>>());
    let w = f(&[1, 2, 3, 3], &[1.0; 18]);
    let plane = [
        0.0, 1.0, 3.0, 3.0, 2.0, 3.0, 8.0, 15.0, 12.0, 7.0, 9.0, 21.0, 36.0, 27.0, 15.0, 9.0, 20.0, 33.0, 24.0, 13.0,
        6.0, 13.0, 21.0, 15.0, 8.0,
    ];
    let op = Op::ConvTranspose { spec: ConvSpec::unit(2), output_pad: vec![0, 0] };
    is(op, &[&x, &w], &f(&[1, 2, 5, 5], &[plane, plane].concat()));
    // Stride 2, pad 1, output pad 1, bias: each x[i] lands at 2i − 1 + k.
    let op = Op::ConvTranspose { spec: spec(&[2], &[(1, 1)], &[1], 1), output_pad: vec![1] };
    let (line, kernel) = (f(&[1, 1, 2], &[1.0, 2.0]), f(&[1, 1, 3], &[1.0, 10.0, 100.0]));
    is(op, &[&line, &kernel, &f(&[1], &[0.5])], &f(&[1, 1, 4], &[10.5, 102.5, 20.5, 200.5]));
    // Groups: w is [C, O/groups, ..].
    let op = Op::ConvTranspose { spec: spec(&[1], &[(0, 0)], &[1], 2), output_pad: vec![0] };
    is(
        op,
        &[&f(&[1, 2, 1], &[3.0, 5.0]), &f(&[2, 1, 2], &[1.0, 2.0, 10.0, 20.0])],
        &f(&[1, 2, 2], &[3.0, 6.0, 50.0, 100.0]),
    );
}

/// ⟨Conv(x, w), dy⟩ = ⟨x, ConvTranspose(dy, w)⟩ = ⟨w, ConvWeightGrad(x, dy)⟩ for every geometry: they are one trilinear form.
#[test]
fn convolution_gradients_are_adjoint() {
    let cases = [
        (vec![2, 4, 7], vec![6, 2, 3], spec(&[2], &[(1, 0)], &[1], 2)),
        (vec![1, 3, 5, 6], vec![2, 3, 2, 3], spec(&[1, 2], &[(0, 1), (2, 1)], &[2, 1], 1)),
        (vec![2, 2, 3, 4, 5], vec![2, 1, 2, 1, 3], spec(&[1, 1, 2], &[(1, 1), (0, 0), (1, 2)], &[1, 1, 1], 2)),
    ];
    for (x_shape, w_shape, spec) in cases {
        let random = |shape: &[usize], name: &str| {
            let rng = penjing_tensor::Rng::new(1, name, 0);
            let n: usize = shape.iter().product();
            d(shape, &(0..n).map(|k| f64::from(rng.normal(k as u64))).collect::<Vec<_>>())
        };
        let dot = |a: &Tensor, b: &Tensor| a.to_f64s().iter().zip(b.to_f64s()).map(|(x, y)| x * y).sum::<f64>();
        let (x, w) = (random(&x_shape, "x"), random(&w_shape, "w"));
        let y = eval(Op::Conv(spec.clone()), &[&x, &w]);
        let dy = random(y.shape(), "dy");
        let form = dot(&y, &dy);
        // The extent that strides leave over at the end comes back as output padding.
        let output_pad = (0..spec.rank())
            .map(|a| {
                let reach = spec.dilations[a] * (w_shape[a + 2] - 1) + 1;
                (x_shape[a + 2] + spec.pads[a].0 + spec.pads[a].1 - reach) % spec.strides[a]
            })
            .collect();
        let back = eval(Op::ConvTranspose { spec: spec.clone(), output_pad }, &[&dy, &w]);
        assert_eq!(back.shape(), x.shape());
        assert!((dot(&back, &x) - form).abs() < 1e-10 * form.abs().max(1.0));
        let weight = eval(Op::ConvWeightGrad { spec, kernel: w_shape[2..].to_vec() }, &[&x, &dy]);
        assert!((dot(&weight, &w) - form).abs() < 1e-10 * form.abs().max(1.0));
    }
}

fn pool_spec(kernel: &[usize], strides: &[usize], pads: &[(usize, usize)], ceil: bool) -> PoolSpec {
    let dilations = vec![1; kernel.len()];
    PoolSpec { kernel: kernel.to_vec(), strides: strides.to_vec(), pads: pads.to_vec(), dilations, ceil }
}

#[test]
fn pooling() {
    let x = f(&[1, 1, 4], &[-1.0, -2.0, -3.0, -4.0]);
    let max = |spec| Op::Pool { kind: PoolKind::Max, spec };
    let average = |spec, count_include_pad| Op::Pool { kind: PoolKind::Average { count_include_pad }, spec };
    let padded = || pool_spec(&[3], &[2], &[(1, 1)], false);
    is(max(padded()), &[&x], &f(&[1, 1, 2], &[-1.0, -2.0]));
    is(average(padded(), false), &[&x], &f(&[1, 1, 2], &[-1.5, -3.0]));
    is(average(padded(), true), &[&x], &f(&[1, 1, 2], &[-1.0, -3.0]));
    // Rounded up: the last window holds one element and nothing that lies outside the padded input counts.
    let ceil = || pool_spec(&[2], &[3], &[(0, 0)], true);
    is(max(ceil()), &[&x], &f(&[1, 1, 2], &[-1.0, -4.0]));
    is(average(ceil(), true), &[&x], &f(&[1, 1, 2], &[-1.5, -4.0]));
    let grad = |kind, spec| Op::PoolGrad { kind, spec };
    let ties = f(&[1, 1, 4], &[5.0, 5.0, 5.0, 1.0]);
    is(grad(PoolKind::Max, padded()), &[&ties, &f(&[1, 1, 2], &[1.0, 10.0])], &f(&[1, 1, 4], &[1.0, 10.0, 0.0, 0.0]));
    let kind = PoolKind::Average { count_include_pad: false };
    is(grad(kind, padded()), &[&x, &f(&[1, 1, 2], &[2.0, 3.0])], &f(&[1, 1, 4], &[1.0, 2.0, 1.0, 1.0]));
    is(
        max(pool_spec(&[2], &[2], &[(0, 0)], false)),
        &[&int(DType::I8, &[1, 1, 2], &[-7, -9])],
        &int(DType::I8, &[1, 1, 1], &[-7]),
    );
    let plane = f(&[1, 2, 2, 2], &(0..8).map(f64::from).collect::<Vec<_>>());
    is(max(pool_spec(&[2, 1], &[1, 1], &[(0, 0), (0, 0)], false)), &[&plane], &f(&[1, 2, 1, 2], &[2.0, 3.0, 6.0, 7.0]));
}

#[test]
fn softmax() {
    let (e1, e2) = (1f64.exp(), 2f64.exp());
    let sum = 1.0 + e1 + e2;
    let x = f(&[1, 3], &[1000.0, 1001.0, 1002.0]);
    near(&eval(Op::Softmax { axis: 1 }, &[&x]), &[1, 3], &[1.0 / sum, e1 / sum, e2 / sum]);
    near(&eval(Op::LogSoftmax { axis: 1 }, &[&x]), &[1, 3], &[-sum.ln(), 1.0 - sum.ln(), 2.0 - sum.ln()]);
    is(Op::Softmax { axis: 0 }, &[&x], &f(&[1, 3], &[1.0; 3]));
}

#[test]
fn normalisations() {
    let eps = Real(0.5);
    // Mean 2, variance 1 in channel 0; mean 5, variance 4 in channel 1.
    let x = f(&[2, 2, 1], &[1.0, 3.0, 3.0, 7.0]);
    let (scale, bias) = (f(&[2], &[1.0, 2.0]), f(&[2], &[0.0, 1.0]));
    let (a, b) = (1.0 / 1.5f64.sqrt(), 2.0 / 4.5f64.sqrt());
    let want = [-a, 1.0 - 2.0 * b, a, 1.0 + 2.0 * b];
    let train = eval_op(&Op::BatchNormTrain { eps }, &[&x, &scale, &bias]).unwrap();
    near(&train[0], &[2, 2, 1], &want);
    assert_eq!(train[1..], [f(&[2], &[2.0, 5.0]), f(&[2], &[1.0, 4.0])]);
    let infer = Op::BatchNorm { eps, momentum: Real(0.9) };
    near(&eval(infer, &[&x, &scale, &bias, &train[1], &train[2]]), &[2, 2, 1], &want);
    let group = Op::GroupNorm { groups: 2, eps: Real(1e-12) };
    let wide = f(&[1, 2, 2], &[0.0, 2.0, 5.0, 9.0]);
    near(&eval(group, &[&wide, &scale, &bias]), &[1, 2, 2], &[-1.0, 1.0, -1.0, 3.0]);
    let layer = Op::LayerNorm { axis: 1, eps: Real(3.0) };
    near(&eval(layer, &[&f(&[1, 2], &[1.0, 3.0]), &scale, &bias]), &[1, 2], &[-0.5, 2.0]);
    let rms = Op::RmsNorm { axis: 1, eps: Real(-1.0) };
    near(&eval(rms, &[&f(&[1, 2], &[1.0, 3.0]), &scale]), &[1, 2], &[0.5, 3.0]);
}

#[test]
fn attention() {
    let op = |causal| Op::Attention { scale: Real(2.0), causal };
    // Scores 0 and ln 3 after scaling: weights 1/4 and 3/4.
    let q = f(&[1, 1, 1, 1], &[1.0]);
    let k = f(&[1, 1, 2, 1], &[0.0, 3f64.ln() / 2.0]);
    let v = f(&[1, 1, 2, 2], &[4.0, 0.0, 8.0, 4.0]);
    near(&eval(op(false), &[&q, &k, &v]), &[1, 1, 1, 2], &[7.0, 3.0]);
    // One query against two keys is the last position: causal hides nothing.
    near(&eval(op(true), &[&q, &k, &v]), &[1, 1, 1, 2], &[7.0, 3.0]);
    near(&eval(op(false), &[&q, &k, &v, &f(&[1, 2], &[0.0, f64::NEG_INFINITY])]), &[1, 1, 1, 2], &[4.0, 0.0]);
    near(&eval(op(false), &[&q, &k, &v, &f(&[1, 2], &[f64::NEG_INFINITY; 2])]), &[1, 1, 1, 2], &[0.0, 0.0]);
    // Two queries against one key: the first sees nothing.
    let two = f(&[1, 1, 2, 1], &[1.0, 1.0]);
    let one = f(&[1, 1, 1, 1], &[5.0]);
    near(&eval(op(true), &[&two, &one, &one]), &[1, 1, 2, 1], &[0.0, 5.0]);
    // Four heads over two key heads: heads 0 and 1 read the first.
    let q = f(&[1, 4, 1, 1], &[0.0; 4]);
    let kv = f(&[1, 2, 1, 1], &[1.0, 2.0]);
    near(&eval(op(false), &[&q, &kv, &kv]), &[1, 4, 1, 1], &[1.0, 1.0, 2.0, 2.0]);
}

#[test]
fn lstm_of_one_unit() {
    let sig = |x: f64| 1.0 / (1.0 + (-x).exp());
    // Gate order i, o, f, c; every weight different.
    let (w, r) = ([0.1, 0.2, 0.3, 0.4], [-0.1, 0.5, 0.7, -0.3]);
    let b = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08];
    let step = |x: f64, h: f64, c: f64| {
        let gate = |g: usize| w[g] * x + r[g] * h + b[g] + b[4 + g];
        let c = sig(gate(2)) * c + sig(gate(0)) * gate(3).tanh();
        (sig(gate(1)) * c.tanh(), c)
    };
    let one = |direction: Direction, x: [f64; 2]| {
        let n = direction.count();
        let rep = |v: &[f64]| v.repeat(n);
        let inputs = [
            d(&[2, 1, 1], &x),
            d(&[n, 4, 1], &rep(&w)),
            d(&[n, 4, 1], &rep(&r)),
            d(&[n, 8], &rep(&b)),
            d(&[n, 1, 1], &rep(&[0.5])),
            d(&[n, 1, 1], &rep(&[-0.5])),
        ];
        eval_op(&Op::Lstm { direction, reserve: false }, &inputs.iter().collect::<Vec<_>>()).unwrap()
    };
    let walk = |first: f64, second: f64| {
        let (h1, c1) = step(first, 0.5, -0.5);
        let (h2, c2) = step(second, h1, c1);
        (h1, h2, c2)
    };
    let (h1, h2, c2) = walk(1.0, -2.0);
    let (g1, g2, e2) = walk(-2.0, 1.0);
    let forward = one(Direction::Forward, [1.0, -2.0]);
    near(&forward[0], &[2, 1, 1, 1], &[h1, h2]);
    near(&forward[2], &[1, 1, 1], &[c2]);
    let reverse = one(Direction::Reverse, [1.0, -2.0]);
    near(&reverse[0], &[2, 1, 1, 1], &[g2, g1]);
    near(&reverse[1], &[1, 1, 1], &[g2]);
    let both = one(Direction::Bidirectional, [1.0, -2.0]);
    near(&both[0], &[2, 2, 1, 1], &[h1, g2, h2, g1]);
    near(&both[2], &[2, 1, 1], &[c2, e2]);
}

#[test]
fn quantization() {
    let scheme = |dtype, axis, narrow| QuantScheme { dtype, axis, narrow };
    let x = f(&[6], &[0.5, 1.5, -1.5, 1000.0, -1000.0, f64::NAN]);
    let (s, z) = (f(&[], &[1.0]), int(DType::I8, &[], &[0]));
    let full = scheme(DType::I8, None, false);
    is(Op::Quantize(full.clone()), &[&x, &s, &z], &int(DType::I8, &[6], &[0, 2, -2, 127, -128, 0]));
    let narrow = scheme(DType::I8, None, true);
    is(Op::Quantize(narrow.clone()), &[&x, &s, &z], &int(DType::I8, &[6], &[0, 2, -2, 127, -127, 0]));
    is(Op::FakeQuant(narrow), &[&x, &s, &z], &f(&[6], &[0.0, 2.0, -2.0, 127.0, -127.0, 0.0]));
    let u8s = scheme(DType::U8, Some(0), false);
    let (s, z) = (f(&[2], &[0.5, 2.0]), int(DType::U8, &[2], &[128, 0]));
    let q = int(DType::U8, &[2, 2], &[130, 0, 3, 255]);
    is(Op::Quantize(u8s.clone()), &[&f(&[2, 2], &[1.0, -70.0, 5.9, 600.0]), &s, &z], &q);
    is(Op::Dequantize(u8s), &[&q, &s, &z], &f(&[2, 2], &[1.0, -64.0, 6.0, 510.0]));
}

#[test]
fn fused_ops_are_their_parts() {
    let machine = |m| Op::Machine(m);
    let x = f(&[2, 1], &[-1.0, 2.0]);
    // clamp(x·3 + y, 0, ..) by a chain, then 7 where it is 0.
    let code = vec![
        ChainInstr::Const(Real(3.0)),
        ChainInstr::Binary(Binary::Mul, 0, 2),
        ChainInstr::Binary(Binary::Add, 3, 1),
        ChainInstr::Unary(Unary::Relu, 4),
        ChainInstr::Const(Real(7.0)),
        ChainInstr::Select(5, 5, 6),
    ];
    is(machine(MachineOp::Chain(code)), &[&x, &f(&[2], &[1.0, 4.0])], &f(&[2, 2], &[7.0, 1.0, 7.0, 10.0]));
    let a = f(&[1, 2], &[1.0, 2.0]);
    let b = f(&[2, 2], &[1.0, -1.0, 1.0, -1.0]);
    let act = Activation::Clamp { lo: Real(-2.0), hi: Real(3.0) };
    let op = machine(MachineOp::MatMul { trans_a: false, trans_b: false, act });
    is(op, &[&a, &b, &f(&[2], &[1.0, 0.0])], &f(&[1, 2], &[3.0, -2.0]));
    let layout = Layout::ChannelsFirst;
    let op = machine(MachineOp::Conv { spec: ConvSpec::unit(1), act: Activation::Relu, layout });
    let (w, bias) = (f(&[1, 1, 2], &[1.0, -1.0]), f(&[1], &[1.0]));
    is(op, &[&f(&[1, 1, 3], &[1.0, 5.0, 2.0]), &w, &bias, &f(&[1, 1, 2], &[2.0, 0.5])], &f(&[1, 1, 2], &[0.0, 4.5]));
    // Positions (1, 10), (2, 20), (4, 40): each output adds 10·c1 here to c0 there.
    let layout = Layout::ChannelsLast;
    let op = machine(MachineOp::Conv { spec: ConvSpec::unit(1), act: Activation::None, layout });
    let x = f(&[1, 3, 2], &[1.0, 10.0, 2.0, 20.0, 4.0, 40.0]);
    let (w, bias) = (f(&[2, 2, 2], &[0.0, 1.0, 10.0, 0.0, 1.0, 0.0, 0.0, 0.0]), f(&[2], &[0.5, -1.0]));
    let residual = f(&[1, 2, 2], &[0.0, 1.0, 0.0, 2.0]);
    is(op, &[&x, &w, &bias, &residual], &f(&[1, 2, 2], &[102.5, 1.0, 204.5, 3.0]));
    let pool = PoolSpec { kernel: vec![2], strides: vec![1], pads: vec![(0, 0)], dilations: vec![1], ceil: false };
    let op = machine(MachineOp::Pool { kind: PoolKind::Average { count_include_pad: false }, spec: pool });
    is(op, &[&x], &f(&[1, 2, 2], &[1.5, 15.0, 3.0, 30.0]));
    // (130−128, 120−128) · (3, −4) = 6 + 32 = 38; ·0.5·0.25 = 4.75; + 0.25 = 5; / 2 = 2.5 → 2; + 1.
    let quantized = |out| machine(MachineOp::QMatMul { trans_b: true, act: Activation::Relu, out });
    let (x, w) = (int(DType::U8, &[1, 2], &[130, 120]), int(DType::I8, &[1, 2], &[3, -4]));
    let operands = [f(&[], &[0.5]), int(DType::U8, &[], &[128]), f(&[1], &[0.25]), f(&[1], &[0.25])];
    let common = [&x, &operands[0], &operands[1], &w, &operands[2], &operands[3]];
    is(quantized(None), &common, &f(&[1, 1], &[5.0]));
    let out = QuantScheme { dtype: DType::I8, axis: None, narrow: false };
    let (scale, zero) = (f(&[], &[2.0]), int(DType::I8, &[], &[1]));
    is(quantized(Some(out)), &[&common[..], &[&scale, &zero]].concat(), &int(DType::I8, &[1, 1], &[3]));
    // Padding is real zero: the corner sums one product only.
    let op =
        machine(MachineOp::QConv { spec: spec(&[1], &[(1, 0)], &[1], 1), act: Activation::None, out: None, layout });
    let (x, w) = (int(DType::U8, &[1, 1, 1], &[130]), int(DType::I8, &[1, 1, 2], &[9, 5]));
    let one = f(&[], &[1.0]);
    is(op, &[&x, &one, &operands[1], &w, &f(&[1], &[1.0]), &f(&[1], &[0.0])], &f(&[1, 1, 1], &[10.0]));
}

#[test]
fn integer_residuals_chains_and_cells() {
    let machine = |m| Op::Machine(m);
    let byte = |dtype, v: i64| int(dtype, &[], &[v]);
    // 2·3·0.5·0.25 = 0.75, + 1 = 1.75, and with the residual (7 − 5)·0.5 = 2.75.
    let op = machine(MachineOp::QMatMul { trans_b: true, act: Activation::None, out: None });
    let (x, w) = (int(DType::U8, &[1, 1], &[12]), int(DType::I8, &[1, 1], &[3]));
    let (half, ten, quarter, bias) = (f(&[], &[0.5]), byte(DType::U8, 10), f(&[1], &[0.25]), f(&[1], &[1.0]));
    let common = [&x, &half, &ten, &w, &quarter, &bias];
    let (r, zero) = (int(DType::I8, &[1, 1], &[7]), byte(DType::I8, 5));
    is(op.clone(), &[&common[..], &[&r, &half, &zero]].concat(), &f(&[1, 1], &[2.75]));
    is(op, &[&common[..], &[&f(&[1, 1], &[-4.0])]].concat(), &f(&[1, 1], &[-2.25]));
    // relu((q − 5)·0.5 + y), on the grid 0.25 · (q − 2).
    let code = vec![ChainInstr::Binary(Binary::Add, 0, 1), ChainInstr::Unary(Unary::Relu, 2)];
    let out = Some(QuantScheme { dtype: DType::U8, axis: None, narrow: false });
    let op = machine(MachineOp::QChain { code, out });
    let (q, y, scale) = (int(DType::I8, &[3], &[7, 1, 127]), f(&[3], &[0.5, 0.25, 9.0]), f(&[], &[0.25]));
    is(op, &[&q, &half, &zero, &y, &scale, &byte(DType::U8, 2)], &int(DType::U8, &[3], &[8, 2, 255]));
    // Σ (q − 5)·0.5 / 2 of each row; on the grid 0.25 · (q − 2), 0.75 is the 5th and −1.25 lies below it.
    let mean = |out| machine(MachineOp::QMean { axes: vec![1], keep: false, out });
    let q = int(DType::I8, &[2, 2], &[7, 6, -1, 6]);
    is(mean(None), &[&q, &half, &zero], &f(&[2], &[0.75, -1.25]));
    let grid = Some(QuantScheme { dtype: DType::U8, axis: None, narrow: false });
    is(mean(grid), &[&q, &half, &zero, &scale, &byte(DType::U8, 2)], &int(DType::U8, &[2], &[5, 0]));
    // −1 … 4.1 in steps of 0.02; 0 is the 50th.
    let (x, grid) = (f(&[3], &[-1.0, 4.1, 0.02]), [0.02f32, 50.0]);
    let parts = eval_op(&Op::DynamicQuantize, &[&x]).unwrap();
    assert_eq!(parts[0], int(DType::U8, &[3], &[0, 255, 51]));
    assert_eq!([parts[1].to_f64s()[0] as f32, parts[2].to_f64s()[0] as f32], grid);
    // A cell whose forget gate is wide open and whose other gates are shut keeps its state.
    let lstm = machine(MachineOp::QLstm { direction: Direction::Forward });
    let x = int(DType::U8, &[2, 1, 1], &[3, 250]);
    let zeros = int(DType::I8, &[1, 4, 1], &[0; 4]);
    let (ones, b) = (f(&[4], &[1.0; 4]), f(&[1, 8], &[-99.0, 99.0, 99.0, 0.0, 0.0, 0.0, 0.0, 0.0]));
    let (h0, c0) = (f(&[1, 1, 1], &[0.3]), f(&[1, 1, 1], &[0.5]));
    let got = eval_op(&lstm, &[&x, &half, &ten, &zeros, &ones, &zeros, &ones, &b, &h0, &c0]).unwrap();
    assert!(got[0].to_f64s().iter().all(|h| (h - 0.5f64.tanh()).abs() < 1e-6));
    assert!((got[2].to_f64s()[0] - 0.5).abs() < 1e-6);
    // A unit whose update gate is wide open keeps its state; one whose gate is shut takes the candidate: here the
    // first keeps 0.3, the last code of its grid, and the second reads the first.
    let x = int(DType::U8, &[1, 1, 1], &[10]);
    let (w, w_scale) = (int(DType::I8, &[1, 6, 1], &[0; 6]), f(&[6], &[1.0; 6]));
    let r = int(DType::I8, &[1, 6, 2], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 0]);
    let b = f(&[1, 12], &[99.0, -99.0, 99.0, 99.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let (r_scale, h0) = (f(&[6], &[0.02; 6]), f(&[1, 1, 2], &[0.3, 0.0]));
    for reset in [Reset::State, Reset::Product] {
        let gru = machine(MachineOp::QGru { direction: Direction::Forward, reset });
        let got = eval_op(&gru, &[&x, &half, &ten, &w, &w_scale, &r, &r_scale, &b, &h0]).unwrap();
        let want = [f64::from(0.3f32), 0.6f64.tanh()];
        assert!(got[0].to_f64s().iter().zip(want).all(|(h, want)| (h - want).abs() < 1e-6), "{got:?}");
        assert_eq!(got[0].to_f64s(), got[1].to_f64s());
    }
}

#[test]
fn hostile_operands_are_errors() {
    let x = f(&[2], &[1.0, 2.0]);
    assert!(matches!(eval_op(&Op::Binary(Binary::Add), &[&x]), Err(RefError::Operands { .. })));
    let huge = Op::Expand { shape: vec![(1usize << 40).into(), 2.into()] };
    assert!(matches!(eval_op(&huge, &[&x]), Err(RefError::TooLarge { .. })));
    let iota = Op::Iota { shape: vec![Dim::sym("N")], axis: 0, dtype: DType::I64 };
    assert!(matches!(eval_op(&iota, &[]), Err(RefError::Unbound { .. })));
    let empty = Tensor::zeros(DType::F32, &[0, usize::MAX, usize::MAX]).unwrap();
    assert_eq!(eval(Op::Softmax { axis: 1 }, &[&empty]), empty);
    let wide = Op::Reduce { kind: Reduction::Sum, axes: vec![0], keep: false };
    assert!(matches!(eval_op(&wide, &[&empty]), Err(RefError::TooLarge { .. })));
}
