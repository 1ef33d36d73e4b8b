//! Losses as compositions.

use super::{
    frame::Operand,
    node::{NodeCx, Res, invalid},
};
use penjing_ir::{Compare, Dim, Op, Reduction, Unary, ValueId};
use penjing_tensor::DType;

type Outputs = Res<Vec<Operand>>;

/// `NegativeLogLikelihoodLoss` of log-probabilities [N, C, d..] and classes [N, d..].
pub(super) fn negative_log_likelihood(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let x = cx.value(0)?;
    Ok(vec![Operand::Value(nll(cx, x)?)])
}

/// `SoftmaxCrossEntropyLoss` of scores [N, C, d..] and classes [N, d..]; the log-probabilities are its second output.
pub(super) fn softmax_cross_entropy(cx: &mut NodeCx<'_, '_>) -> Outputs {
    let scores = cx.value(0)?;
    let log_prob = cx.scope().op(Op::LogSoftmax { axis: 1 }, &[scores])?;
    let loss = nll(cx, log_prob)?;
    Ok(vec![Operand::Value(loss), Operand::Value(log_prob)])
}

fn nll(cx: &mut NodeCx<'_, '_>, x: ValueId) -> Res<ValueId> {
    let (target, weight) = (cx.value(1)?, cx.optional(2)?);
    let ignore = cx.opt_int("ignore_index")?;
    let reduction = cx.string("reduction", "mean")?;
    let fact = cx.fact(x);
    let mut s = cx.scope();
    let target = s.cast(target, DType::I64)?;
    let dims = s.fact(target).shape;
    if fact.rank() < 2 || dims.len() + 1 != fact.rank() {
        return invalid(format!("classes of shape {dims:?} do not fit {fact}"));
    }
    let (kept, class) = match ignore {
        None => (None, target),
        Some(ignore) => {
            let ignore = s.constant(penjing_tensor::Tensor::scalar(ignore));
            let ignored = s.compare(Compare::Equal, target, ignore)?;
            let zero = s.scalar(DType::I64, 0.0);
            let class = s.select(ignored, zero, target)?;
            let kept = s.unary(Unary::Not, ignored)?;
            (Some(s.cast(kept, fact.dtype)?), class)
        }
    };
    let mut column = dims.clone();
    column.insert(1, Dim::Const(1));
    let at = s.reshape(class, &column)?;
    let picked = s.op(Op::GatherElements { axis: 1 }, &[x, at])?;
    let picked = s.reshape(picked, &dims)?;
    let mut loss = s.unary(Unary::Neg, picked)?;
    // The weight of each element: its class's weight, 0 where it is ignored.
    let mut weights = match weight {
        Some(weight) => Some(s.op(Op::Gather { axis: 0 }, &[weight, class])?),
        None => None,
    };
    if let Some(kept) = kept {
        weights = Some(match weights {
            Some(w) => s.mul(w, kept)?,
            None => kept,
        });
    }
    if let Some(w) = weights {
        loss = s.mul(loss, w)?;
    }
    let all: Vec<usize> = (0..dims.len()).collect();
    Ok(match (reduction.as_str(), weights) {
        ("none", _) => loss,
        ("sum", _) => s.reduce(Reduction::Sum, loss, &all)?,
        ("mean", None) => s.reduce(Reduction::Mean, loss, &all)?,
        ("mean", Some(w)) => {
            let (sum, total) = (s.reduce(Reduction::Sum, loss, &all)?, s.reduce(Reduction::Sum, w, &all)?);
            s.div(sum, total)?
        }
        (other, _) => return invalid(format!("reduction is '{other}'")),
    })
}
