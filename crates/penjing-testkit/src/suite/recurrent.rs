//! Cases of recurrent cells.

use super::{Case, one};
use crate::{Tolerance, normal, uniform};
use penjing_ir::{Direction, Op, Reset};
use penjing_reference::eval_op;
use penjing_tensor::Tensor;

pub(super) fn cases() -> Vec<Case> {
    let mut out = Vec::new();
    let directions =
        [("forward", Direction::Forward), ("reverse", Direction::Reverse), ("bidirectional", Direction::Bidirectional)];
    for (name, direction) in directions {
        for [t, b, i, h] in [[5, 3, 7, 4], [1, 1, 1, 1], [3, 2, 16, 16], [0, 2, 3, 2]] {
            let n = direction.count();
            let shapes: [Vec<usize>; 6] =
                [vec![t, b, i], vec![n, 4 * h, i], vec![n, 4 * h, h], vec![n, 8 * h], vec![n, b, h], vec![n, b, h]];
            let x: Vec<Tensor> =
                shapes.iter().enumerate().map(|(k, s)| uniform(s, -0.8, 0.8, &format!("operand {k}"))).collect();
            let tolerance = Tolerance::Within { absolute: 4e-6, relative: 4e-6 };
            let variant = format!("{name} {t}x{b}x{i}x{h}");
            out.push(one(&format!("recurrent/Lstm/{variant}"), Op::Lstm { direction, reserve: false }, &x, tolerance));
            for (name, reset) in [("state", Reset::State), ("product", Reset::Product)] {
                let shapes: [Vec<usize>; 5] =
                    [vec![t, b, i], vec![n, 3 * h, i], vec![n, 3 * h, h], vec![n, 6 * h], vec![n, b, h]];
                let x: Vec<Tensor> =
                    shapes.iter().enumerate().map(|(k, s)| uniform(s, -0.8, 0.8, &format!("operand {k}"))).collect();
                let op = Op::Gru { direction, reset };
                out.push(one(&format!("recurrent/Gru/{variant}, {name}"), op, &x, tolerance));
            }
            let op = Op::Lstm { direction, reserve: true };
            let forward = eval_op(&op, &x.iter().collect::<Vec<_>>()).expect("the operands above fit");
            out.push(one(&format!("recurrent/Lstm/{variant}, reserve"), op, &x, tolerance));
            let [y, hn, cn, reserve] = &forward[..] else { unreachable!("an Lstm with reserve has four results") };
            let d = |like: &Tensor, name: &str| normal(like.shape(), name);
            let operands = [
                x[0].clone(),
                x[1].clone(),
                x[2].clone(),
                x[4].clone(),
                x[5].clone(),
                y.clone(),
                reserve.clone(),
                d(y, "dy"),
                d(hn, "dh"),
                d(cn, "dc"),
            ];
            let tolerance = Tolerance::Accumulating(16 * (t * b + i + h));
            out.push(one(&format!("recurrent/LstmGrad/{variant}"), Op::LstmGrad { direction }, &operands, tolerance));
        }
    }
    out
}
