//! Cases of pooling.

use super::{Case, one};
use crate::{Tolerance, floats, integers, normal};
use penjing_ir::{Op, PoolKind, PoolSpec};
use penjing_tensor::DType;

fn spec(kernel: &[usize], strides: &[usize], pads: &[(usize, usize)], dilations: &[usize], ceil: Rounding) -> PoolSpec {
    PoolSpec {
        kernel: kernel.to_vec(),
        strides: strides.to_vec(),
        pads: pads.to_vec(),
        dilations: dilations.to_vec(),
        ceil: matches!(ceil, Rounding::Up),
    }
}

enum Rounding {
    Down,
    Up,
}

/// Name, x and geometry of every pooling.
pub(super) fn table() -> Vec<(&'static str, Vec<usize>, PoolSpec)> {
    use Rounding::{Down, Up};
    vec![
        ("2x2", vec![2, 3, 8, 6], spec(&[2, 2], &[2, 2], &[(0, 0), (0, 0)], &[1, 1], Down)),
        ("3x3 padded", vec![1, 2, 7, 7], spec(&[3, 3], &[2, 2], &[(1, 1), (1, 1)], &[1, 1], Down)),
        ("asymmetric", vec![1, 2, 5, 7], spec(&[3, 2], &[1, 2], &[(0, 1), (1, 0)], &[1, 1], Down)),
        ("ceil", vec![1, 2, 7, 6], spec(&[2, 3], &[2, 2], &[(0, 0), (1, 1)], &[1, 1], Up)),
        ("dilated", vec![1, 1, 9, 8], spec(&[2, 3], &[1, 1], &[(0, 0), (0, 0)], &[3, 2], Down)),
        ("1-D", vec![2, 3, 11], spec(&[4], &[3], &[(1, 2)], &[1], Down)),
        ("3-D", vec![1, 2, 4, 5, 3], spec(&[2, 2, 2], &[1, 2, 1], &[(0, 0), (1, 0), (0, 1)], &[1, 1, 1], Down)),
        ("global", vec![2, 5, 3, 3], spec(&[3, 3], &[1, 1], &[(0, 0), (0, 0)], &[1, 1], Down)),
        ("one", vec![1, 1, 1, 1], spec(&[1, 1], &[1, 1], &[(0, 0), (0, 0)], &[1, 1], Down)),
        ("no batch", vec![0, 2, 4, 4], spec(&[2, 2], &[2, 2], &[(0, 0), (0, 0)], &[1, 1], Down)),
    ]
}

/// What a window computes, by name.
pub(super) const KINDS: [(&str, PoolKind); 3] = [
    ("MaxPool", PoolKind::Max),
    ("AveragePool", PoolKind::Average { count_include_pad: false }),
    ("AveragePool with pad", PoolKind::Average { count_include_pad: true }),
];

pub(super) fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    for (kind_name, kind) in KINDS {
        for (name, shape, spec) in &table() {
            let x = normal(shape, "x");
            let op = Op::Pool { kind, spec: spec.clone() };
            let tolerance = if kind == PoolKind::Max { Tolerance::Exact } else { Tolerance::Accumulating(16) };
            let forward = one(&format!("pool/{kind_name}/{name}"), op, std::slice::from_ref(&x), tolerance);
            let y = forward.model.graph.fact(forward.model.graph.outputs[0].value).concrete().unwrap_or_default();
            out.push(forward);
            let op = Op::PoolGrad { kind, spec: spec.clone() };
            let operands = [x, normal(&y, "dy")];
            out.push(one(&format!("pool/{kind_name} gradient/{name}"), op, &operands, Tolerance::Accumulating(16)));
        }
    }
    let pairs = || spec(&[2], &[2], &[(0, 0)], &[1], Rounding::Down);
    let op = Op::PoolGrad { kind: PoolKind::Max, spec: pairs() };
    let ties = [floats(&[1, 1, 4], &[2.0, 2.0, 1.0, 3.0]), floats(&[1, 1, 2], &[5.0, 7.0])];
    out.push(one("pool/MaxPool gradient/ties", op, &ties, Tolerance::Exact));
    for dtype in [DType::I8, DType::U8] {
        let op = Op::Pool { kind: PoolKind::Max, spec: pairs() };
        let x = integers(dtype, &[1, 3, 6], 0, 100, "x");
        out.push(one(&format!("pool/MaxPool/{dtype}"), op, &[x], Tolerance::Exact));
    }
    out
}
