//! Cases of matrix products and attention.

use super::{Case, one};
use crate::{Tolerance, floats, integers, normal};
use penjing_ir::{Op, Real};
use penjing_tensor::{DType, Tensor};

pub(super) fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    let mut add = |name: &str, trans: (bool, bool), a: Tensor, b: Tensor| {
        let op = Op::MatMul { trans_a: trans.0, trans_b: trans.1 };
        let inner = a.shape()[a.rank() - if trans.0 { 2 } else { 1 }];
        out.push(one(&format!("matmul/MatMul/{name}"), op, &[a, b], Tolerance::Accumulating(inner + 8)));
    };
    for (m, k, n) in [(1, 1, 1), (5, 7, 3), (17, 31, 13), (1, 64, 65), (33, 1, 9), (64, 48, 80)] {
        add(&format!("{m}x{k}x{n}"), (false, false), normal(&[m, k], "a"), normal(&[k, n], "b"));
    }
    add("a transposed", (true, false), normal(&[7, 5], "a"), normal(&[7, 3], "b"));
    add("b transposed", (false, true), normal(&[5, 19], "a"), normal(&[23, 19], "b"));
    add("both transposed", (true, true), normal(&[7, 5], "a"), normal(&[3, 7], "b"));
    add("batched", (false, false), normal(&[2, 3, 5, 7], "a"), normal(&[2, 3, 7, 4], "b"));
    add("batch by matrix", (false, true), normal(&[2, 3, 5], "a"), normal(&[4, 5], "b"));
    add("batches broadcast", (false, false), normal(&[3, 1, 2, 5], "a"), normal(&[1, 4, 5, 3], "b"));
    add("no inner", (false, false), normal(&[3, 0], "a"), normal(&[0, 2], "b"));
    add("no rows", (false, false), normal(&[0, 3], "a"), normal(&[3, 2], "b"));
    let ints = [integers(DType::I32, &[3, 5], -99, 99, "a"), integers(DType::I32, &[5, 2], -99, 99, "b")];
    let op = Op::MatMul { trans_a: false, trans_b: false };
    out.push(one("matmul/MatMul/i32", op, &ints, Tolerance::Exact));
    out.extend(attention());
    out
}

fn attention() -> Vec<Case> {
    let mut out = Vec::new();
    let mut add = |name: &str, causal, shapes: [&[usize]; 3], mask: Option<Tensor>| {
        let names = ["q", "k", "v"];
        let mut operands: Vec<Tensor> = (0..3).map(|i| normal(shapes[i], names[i])).collect();
        operands.extend(mask);
        let op = Op::Attention { scale: Real(0.4), causal };
        out.push(one(&format!("attention/Attention/{name}"), op, &operands, Tolerance::Accumulating(64)));
    };
    let q: &[usize] = &[2, 4, 5, 3];
    let mut grads = Vec::new();
    for causal in [false, true] {
        for (name, shapes) in [
            ("square", [q, q, q, q]),
            ("cross", [&[1, 2, 3, 7], &[1, 2, 11, 7], &[1, 2, 11, 5], &[1, 2, 3, 5]]),
            ("blocks", [&[1, 2, 67, 4], &[1, 2, 67, 4], &[1, 2, 67, 6], &[1, 2, 67, 6]]),
            ("no keys", [&[1, 1, 2, 3], &[1, 1, 0, 3], &[1, 1, 0, 3], &[1, 1, 2, 3]]),
        ] {
            let operands: Vec<Tensor> = (0..4).map(|i| normal(shapes[i], ["q", "k", "v", "dy"][i])).collect();
            let op = Op::AttentionGrad { scale: Real(0.4), causal };
            let name = format!("attention/AttentionGrad/{name}, causal {causal}");
            grads.push(one(&name, op, &operands, Tolerance::Accumulating(128)));
        }
    }
    add("full", false, [q, q, q], None);
    add("causal", true, [q, q, q], None);
    add("cross", false, [&[1, 2, 3, 7], &[1, 2, 11, 7], &[1, 2, 11, 5]], None);
    add("grouped", false, [q, &[2, 2, 7, 3], &[2, 2, 7, 4]], None);
    add("one key head", true, [q, &[2, 1, 5, 3], &[2, 1, 5, 3]], None);
    add("causal with cache", true, [&[1, 2, 2, 3], &[1, 2, 7, 3], &[1, 2, 7, 3]], None);
    add("more queries than keys", true, [&[1, 1, 3, 2], &[1, 1, 2, 2], &[1, 1, 2, 2]], None);
    let hidden = f32::NEG_INFINITY;
    add(
        "masked keys",
        false,
        [&[1, 2, 2, 3], &[1, 2, 3, 3], &[1, 2, 3, 3]],
        Some(floats(&[1, 3], &[0.0, hidden, 0.5])),
    );
    add(
        "all masked",
        false,
        [&[1, 1, 2, 3], &[1, 1, 2, 3], &[1, 1, 2, 3]],
        Some(floats(&[2, 2], &[hidden, hidden, 0.0, 0.0])),
    );
    add("mask per head", true, [q, q, q], Some(normal(&[4, 1, 5], "mask")));
    add("one position", true, [&[1, 1, 1, 1], &[1, 1, 1, 1], &[1, 1, 1, 1]], None);
    add("no batch", false, [&[0, 2, 3, 4], &[0, 2, 3, 4], &[0, 2, 3, 4]], None);
    out.extend(grads);
    out
}
